# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Maps of one picture in its own pixels, and where in the picture the model looked at all."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..model.checks_clip_hf import type_of
from ..model.image_reading_clip_hf import ImageLimits
from ..model.image_transform_clip_hf import to_rgb
from ..model.modeling_clip_hf import ClipHFModel
from ..model.zero_shot_clip_hf import build_text_classifier, check_labels, context_length, evaluated, prompts_for
from ..utils.atomic import replaced_file
from .attention_twin import check_explainable
from .heat_drawing import draw_heat
from .image_maps import UNITS, cell_size, check_method, image_maps, is_vit


@dataclass(frozen=True)
class SeenPicture:
    """A picture, what the model is given of it, and where that lies in the picture.

    Args:
        image (`PIL.Image.Image`): The picture, upright, RGB, in its own pixels.
        pixel_values (`torch.Tensor` of shape `(1, 3, height, width)`): What the processor makes of it.
        resized (`tuple[int, int]`): Width and height after the processor's resizing.
        window (`tuple[int, int, int, int]`): Left, top, right and bottom of the processor's crop in the resized
            picture; it may reach beyond, where zeros were padded.
    """

    image: Image.Image
    pixel_values: torch.Tensor
    resized: tuple[int, int]
    window: tuple[int, int, int, int]

    def places(self, axis: int) -> np.ndarray:
        """Where the centre of each pixel along x (0) or y (1) lies in the crop, as a share; outside it is below 0 or
        not below 1.
        """
        length, start, end = self.image.size[axis], self.window[axis], self.window[axis + 2]
        centres = (np.arange(length) + 0.5) * self.resized[axis] / length
        return (centres - start) / (end - start)

    def seen_box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the picture's pixels that lie in the crop."""
        bounds = []
        for places in (self.places(0), self.places(1)):
            seen = np.flatnonzero((places >= 0) & (places < 1))
            # The crop of a strip may lie between the centres of two huge pixels.
            seen = seen if len(seen) else [np.abs(places - 0.5).argmin()]
            bounds.append((int(seen[0]), int(seen[-1]) + 1))
        (left, right), (top, bottom) = bounds
        return left, top, right, bottom

    def cut_to(self, multiple: int) -> "SeenPicture":
        """The same without what a ViT leaves out: the last pixels of the crop that fill no patch of this edge."""
        left, top, right, bottom = self.window
        return replace(self, window=(left, top, right - (right - left) % multiple, bottom - (bottom - top) % multiple))

    def cell_edges(self, axis: int, cells: int, cell: int | None = None) -> np.ndarray:
        """Where the cells of a map of the crop begin and end along x (0) or y (1), `(cells + 1,)`, in pixels of the
        picture; beyond it where the crop is. `cell` is as in `spread`.
        """
        start, end = self.window[axis], self.window[axis + 2]
        steps = (end - start) / cells if cell is None else cell
        return (start + steps * np.arange(cells + 1)) * self.image.size[axis] / self.resized[axis]

    def spread(self, grid_maps: np.ndarray, cell: int | None = None) -> np.ndarray:
        """Interpolate maps `(texts, rows, columns)` of the crop linearly to `(texts, height, width)` of the picture,
        float32; NaN outside the crop.

        Args:
            grid_maps (`np.ndarray`): The maps.
            cell (`int`, *optional*): Edge of a map's cell in pixels of the crop; by default the cells fill the crop.
        """
        columns, rows = (
            _interpolation(self.image.size[axis], self.cell_edges(axis, grid_maps.shape[2 - axis], cell))
            for axis in (0, 1)
        )
        maps = np.stack([rows @ grid @ columns.T for grid in grid_maps.astype(np.float32)])
        left, top, right, bottom = self.seen_box()
        outside = np.ones(maps.shape[1:], bool)
        outside[top:bottom, left:right] = False
        maps[:, outside] = np.nan
        return maps


def _interpolation(length: int, edges: np.ndarray) -> np.ndarray:
    """Weights (pixels, cells) of linear interpolation between the cells' centres; flat beyond the first and last.
    Edges of the cells are in pixels.
    """
    cells = len(edges) - 1
    position = np.clip((np.arange(length) + 0.5 - edges[0]) / (edges[1] - edges[0]) - 0.5, 0, cells - 1)
    lower = np.minimum(position.astype(int), max(cells - 2, 0))
    share = position - lower
    weights = np.zeros((length, cells), np.float32)
    index = np.arange(length)
    weights[index, lower] = 1 - share
    if cells > 1:
        weights[index, lower + 1] = share
    return weights


def _middle(edges: np.ndarray, cell: int, length: int) -> int:
    """The pixel in the middle of a cell; of two, the one nearer to the picture's, so that mirroring keeps it."""
    middle = (edges[cell] + edges[cell + 1]) / 2
    return int(middle) if middle < length / 2 else math.ceil(middle) - 1


def read_picture(
    processor: Any, image: Any, image_limits: ImageLimits | None = None, **image_options: Any
) -> SeenPicture:
    """Read a picture as the pipeline does, once, and note what the processor crops.

    Raises:
        TypeError: if the processor is of another class, or `image` is nothing that `open_image` takes.
        UnreadableImage: a `ValueError`: the picture cannot be read.
    """
    image_processor = getattr(processor, "image_processor", processor)
    if not hasattr(image_processor, "transform") or hasattr(image_processor, "num_frames"):
        raise TypeError(
            f"`processor` is {type_of(processor)}; explanations need a ClipHFProcessor of pictures, which knows what "
            "it crops. `ClipHFProcessor.from_pretrained(path)` reads that of every CLIP."
        )
    if isinstance(image, np.ndarray | torch.Tensor):
        raise TypeError("`image` is an array; pass PIL.Image.fromarray(array), a path, a URL or the bytes of a file.")
    transform = image_processor.transform(image_limits, **image_options)
    opened = transform.open(image)
    inputs = image_processor(images=opened, image_limits=image_limits, return_tensors="pt", **image_options)
    size = transform.resized_size(opened)
    return SeenPicture(to_rgb(opened), inputs["pixel_values"], size, transform.crop_window(size))


def embed_texts(model: ClipHFModel, processor: Any, texts: Sequence[str], templates: Any = None) -> torch.Tensor:
    """L2-normalised embeddings `(texts, dim)` of texts as they are, or averaged over templates.

    Raises:
        TypeError: if `texts` is one string, or one of them is none.
        ValueError: if there are no texts, two are alike, one is blank, or one is too long for the model.
    """
    templates = "{}" if templates is None else templates
    tokenizer, limit = getattr(processor, "tokenizer", processor), context_length(model, processor)
    for prompts in prompts_for(check_labels(texts), templates):
        for prompt, ids in zip(prompts, tokenizer(prompts, truncation=False, verbose=False)["input_ids"], strict=True):
            if len(ids) > limit:
                raise ValueError(
                    f"The text {prompt[:40]!r}... has {len(ids)} tokens and the model takes {limit}. Shorten it; the "
                    "end would be left out of the explanation."
                )
    return build_text_classifier(model, processor, texts, templates)


@dataclass(frozen=True)
class ImageExplanation:
    """Where a model looks in a picture, for each of some texts.

    Args:
        image (`PIL.Image.Image`): The picture, upright and RGB, in its own pixels.
        texts (`list[str]`): The texts.
        method (`str`): How the maps were made, one of `METHODS`.
        maps (`np.ndarray` of shape `(texts, height, width)`, float32): A value for each of the picture's pixels; NaN
            outside `seen_box`.
        grid_maps (`np.ndarray` of shape `(texts, rows, columns)`, float32): The values that were interpolated: one a
            patch of a ViT, or a place of a ResNet's last feature map, of the crop.
        seen_box (`tuple[int, int, int, int]`): Left, top, right and bottom of what the model saw, in the picture's
            pixels: the processor's crop, without a rest that fills no patch of a ViT.
        cell_edges (`tuple[np.ndarray, np.ndarray]`): Where the columns `(columns + 1,)` and rows `(rows + 1,)` of
            `grid_maps` begin and end, in the picture's pixels.
        cosines (`np.ndarray` of shape `(texts,)`, float32): The cosine of the picture with each text.
    """

    image: Image.Image
    texts: list[str]
    method: str
    maps: np.ndarray
    grid_maps: np.ndarray
    seen_box: tuple[int, int, int, int]
    cell_edges: tuple[np.ndarray, np.ndarray]
    cosines: np.ndarray

    def top_points(self) -> list[tuple[int, int] | None]:
        """x and y of the middle of the strongest cell, as far as it was seen, for each text; of equal cells, the first
        from the top left. None where no value is positive: nothing speaks for the text.
        """
        left, top, right, bottom = self.seen_box
        columns, rows = self.cell_edges[0].clip(left, right), self.cell_edges[1].clip(top, bottom)
        is_seen = (np.diff(rows) > 0)[:, None] & (np.diff(columns) > 0)  # not so in padding
        points = []
        for grid in self.grid_maps:
            values = np.where(is_seen, grid, -np.inf)
            row, column = np.unravel_index(values.argmax(), values.shape)
            middle = _middle(columns, column, self.image.width), _middle(rows, row, self.image.height)
            points.append(middle if values[row, column] > 0 else None)
        return points

    def draw(self) -> Image.Image:
        """Draw the picture and, beside it, the map over it for each text, all in one colour scale with a legend.

        Where the model saw only a small part of the picture, that part is drawn, with a margin.

        Raises:
            MissingExtra: if matplotlib, of the extra `explain`, is not installed.
        """
        titles = [
            f"{text}\ncosine {cosine:.3f}" + ("\nnothing speaks for it" if point is None else "")
            for text, cosine, point in zip(self.texts, self.cosines, self.top_points(), strict=True)
        ]
        title, unit = f"Relevance by {self.method}", UNITS[self.method]
        return draw_heat(self.image, self.maps, titles, self.seen_box, title, unit)

    def save_arrays(self, path: str | os.PathLike) -> None:
        """Write `maps`, `grid_maps`, `seen_box`, `cosines`, `texts` and `method` as a compressed .npz, whole or not at
        all; `numpy.load` reads it without pickle.
        """
        save_fields(self, path, ("maps", "grid_maps", "seen_box", "cosines", "texts", "method"))


def explain_image(
    model: nn.Module,
    processor: Any,
    image: Any,
    texts: Sequence[str],
    *,
    method: str | None = None,
    layers: str | int = "all",
    templates: Any = None,
    **options: Any,
) -> ImageExplanation:
    """Explain where a CLIP looks in a picture, for each of some texts.

    Args:
        model ([`ClipHFModel`]): The model; it is not changed.
        processor ([`ClipHFProcessor`]): Its processor.
        image: A picture in any form that the pipeline takes: path, URL, bytes, PIL image.
        texts (`Sequence[str]`): The texts, all different.
        method (`str`, *optional*): As in [`image_maps`].
        layers (`"all"`, `"last"` or `int`, *optional*, defaults to `"all"`): As in [`image_maps`].
        templates (*optional*): Prompts to average each text over, as in [`build_text_classifier`]; by default the
            texts are taken as they are.
        options (*optional*): `window` and `stride` of [`image_maps`]; `image_limits` and options of the image
            processor, such as `high_bit_depth`.

    Returns:
        [`ImageExplanation`]

    Raises:
        TypeError: if the model, the processor or the image is of a class that cannot be used.
        ValueError: if there are no texts, one is too long, the method is unknown, or the picture cannot be read.
    """
    plain, method = check_explainable(model), check_method(method, model)
    texts = [str(text) for text in check_labels(texts)]
    squares = {name: options.pop(name) for name in ("window", "stride") if name in options}
    picture = read_picture(processor, image, **options)
    text_embeds = embed_texts(plain, processor, texts, templates)
    maps = image_maps(plain, picture.pixel_values, text_embeds, method, layers=layers, **squares)
    grid_maps = maps[0].cpu().numpy()
    picture = picture.cut_to(cell_size(plain)) if is_vit(plain) else picture
    cell = squares.get("stride") or cell_size(plain)
    return ImageExplanation(
        image=picture.image,
        texts=texts,
        method=method,
        maps=picture.spread(grid_maps, cell),
        grid_maps=grid_maps,
        seen_box=picture.seen_box(),
        cell_edges=tuple(picture.cell_edges(axis, grid_maps.shape[2 - axis], cell) for axis in (0, 1)),
        cosines=picture_cosines(embed_picture(plain, picture), text_embeds),
    )


@torch.no_grad()
def embed_picture(model: ClipHFModel, picture: SeenPicture) -> torch.Tensor:
    """L2-normalised embedding of a picture, `(1, dim)`, in the model's dtype."""
    pixel_values = picture.pixel_values.to(model.device, model.dtype)
    return evaluated(model).encode_image(pixel_values, interpolate_pos_encoding=True)


def picture_cosines(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> np.ndarray:
    """Cosines `(texts,)` of one picture `(1, dim)` with texts `(texts, dim)`, float32."""
    return (image_embeds.to(text_embeds.dtype) @ text_embeds.T)[0].float().cpu().numpy()


def save_fields(item: Any, path: str | os.PathLike, names: Sequence[str]) -> None:
    """Write fields of an object as a compressed .npz, whole or not at all."""
    with replaced_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **{name: getattr(item, name) for name in names})


def relevance(
    model: nn.Module, processor: Any, image: Any, texts: Sequence[str], method: str | None = None, **options: Any
) -> np.ndarray:
    """Return how much each pixel of a picture speaks for each text: the `maps` of [`explain_image`].

    Args:
        model, processor, image, texts, method, options: As in [`explain_image`].

    Returns:
        `np.ndarray` of shape `(texts, height, width)`, float32, in the picture's own pixels; NaN outside of what the
        processor's crop showed the model.
    """
    return explain_image(model, processor, image, texts, method=method, **options).maps
