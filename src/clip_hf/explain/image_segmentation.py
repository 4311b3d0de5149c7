# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Which of some labels each pixel of a picture shows, from dense features and texts."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..model.checks_clip_hf import check_whole
from ..model.image_reading_clip_hf import ImageLimits
from ..model.modeling_clip_hf import ClipHFModel
from ..model.zero_shot_clip_hf import check_labels
from .attention_twin import check_explainable
from .dense_features import check_dense_method, dense_features
from .heat_drawing import draw_classes
from .image_explanation import SeenPicture, embed_texts, read_picture, save_fields
from .image_maps import cell_size, is_vit


UNSEEN = -1
"""The class of a pixel that the model was not shown."""


@dataclass(frozen=True)
class Segmentation:
    """Which label each pixel of a picture shows.

    Args:
        image (`PIL.Image.Image`): The picture, upright and RGB, in its own pixels.
        labels (`list[str]`): The labels.
        method (`str`): How the features were made, one of `DENSE_METHODS`.
        class_map (`np.ndarray` of shape `(height, width)`, int16): Index of each pixel's best label; `UNSEEN`, -1,
            outside `seen_box`.
        scores (`np.ndarray` of shape `(labels, height, width)`, float32): Cosines; NaN outside `seen_box`.
        grid_scores (`np.ndarray` of shape `(labels, rows, columns)`, float32): The cosines that were interpolated: one
            a patch of a ViT, or a place of a ResNet's last feature map.
        seen_box (`tuple[int, int, int, int]`): Left, top, right and bottom of what the model was shown.
    """

    image: Image.Image
    labels: list[str]
    method: str
    class_map: np.ndarray
    scores: np.ndarray
    grid_scores: np.ndarray
    seen_box: tuple[int, int, int, int]

    def shares(self) -> dict[str, float]:
        """Share of the pixels that were seen, by label; labels without any are there too."""
        seen = self.class_map[self.class_map != UNSEEN]
        counts = np.bincount(seen, minlength=len(self.labels))
        return {label: float(count) / len(seen) for label, count in zip(self.labels, counts, strict=True)}

    def draw(self) -> Image.Image:
        """Draw the picture and, beside it, the classes in colours over it, with a legend of those that occur.

        Raises:
            MissingExtra: if matplotlib, of the extra `explain`, is not installed.
        """
        return draw_classes(self.image, self.class_map, self.labels, self.seen_box, f"Segmentation by {self.method}")

    def save_arrays(self, path: str | os.PathLike) -> None:
        """Write `class_map`, `scores`, `grid_scores`, `seen_box`, `labels` and `method` as a compressed .npz, whole or
        not at all; `numpy.load` reads it without pickle.
        """
        save_fields(self, path, ("class_map", "scores", "grid_scores", "seen_box", "labels", "method"))


def segment_image(
    model: nn.Module,
    processor: Any,
    image: Any,
    labels: Sequence[str],
    templates: Any = None,
    method: str = "maskclip",
    **options: Any,
) -> Segmentation:
    """Find the label that each pixel of a picture shows, without training.

    The cosines of [`dense_features`] with the labels' embeddings are interpolated to the picture's pixels. Every pixel
    gets one of the labels, so name what is around the things too, such as "a white background".

    Args:
        model ([`ClipHFModel`]): A CLIP with either vision tower; it is not changed.
        processor ([`ClipHFProcessor`]): Its processor.
        image: A picture in any form that the pipeline takes: path, URL, bytes, PIL image.
        labels (`Sequence[str]`): The labels, all different.
        templates (*optional*): Prompts to average each label over, as in [`build_text_classifier`]; by default the
            labels are taken as they are.
        method (`str`, *optional*, defaults to `"maskclip"`): One of `DENSE_METHODS`.
        options (*optional*): `size` and `whole` of [`read_sized`], `window` of [`dense_features`], `image_limits`, and
            options of the image processor, such as `high_bit_depth`.

    Returns:
        [`Segmentation`]: in the picture's own pixels.

    Raises:
        TypeError: if the model, the processor or the image is of a class that cannot be used.
        ValueError: if there are no labels, two are alike, one is too long, the method is unknown, a size does not fit
            the tower, or the picture cannot be read.
    """
    plain, method = check_explainable(model), check_dense_method(method)
    labels = [str(label) for label in check_labels(labels)]
    window = options.pop("window", None)
    picture = read_sized(plain, processor, image, **options)
    text_embeds = embed_texts(plain, processor, labels, templates)
    grid_scores = place_scores(plain, picture, text_embeds, method, window)
    cell = cell_size(plain)
    picture = picture.cut_to(cell) if is_vit(plain) else picture
    scores = picture.spread(grid_scores, cell)
    return Segmentation(
        image=picture.image,
        labels=labels,
        method=method,
        class_map=best_classes(scores),
        scores=scores,
        grid_scores=grid_scores,
        seen_box=picture.seen_box(),
    )


def best_classes(scores: Iterable[np.ndarray]) -> np.ndarray:
    """Index of the highest of scores `(height, width)` for each pixel, int16; of equal ones the first; `UNSEEN` where
    they are NaN. They are read one after the other, so that they need not be in memory together.
    """
    best = classes = None
    for number, values in enumerate(scores):
        if best is None:
            best, classes = values.copy(), np.where(np.isnan(values), UNSEEN, 0).astype(np.int16)
        better = values > best
        best[better], classes[better] = values[better], number
    return classes


@torch.no_grad()
def place_scores(
    model: ClipHFModel, picture: SeenPicture, text_embeds: torch.Tensor, method: str, window: int | None = None
) -> np.ndarray:
    """Cosines of the places of a picture with texts, float32 `(texts, rows, columns)`."""
    dense = dense_features(model, picture.pixel_values, method, window=window)[0]
    return (dense.float() @ text_embeds.to(dense.device).float().T).permute(2, 0, 1).cpu().numpy()


def check_size(model: ClipHFModel, size: int | None) -> int:
    """Return the edge of a place; ValueError unless `size` is None or a multiple of it."""
    edge = cell_size(model)
    if size is not None and check_whole("size", size, edge) % edge:
        below = size // edge * edge
        raise ValueError(f"`size` is {size}; it must be a multiple of {edge} pixels: {below} or {below + edge}.")
    return edge


def read_sized(
    model: ClipHFModel,
    processor: Any,
    image: Any,
    *,
    size: int | None = None,
    whole: bool = False,
    image_limits: ImageLimits | None = None,
    **image_options: Any,
) -> SeenPicture:
    """Read a picture as [`read_picture`] does, in another size or without cropping it.

    Args:
        model ([`ClipHFModel`]): The model, whose places decide which sizes fit.
        processor ([`ClipHFProcessor`]): Its processor.
        image: A picture.
        size (`int`, *optional*): Shorter edge, in pixels, to which the picture is resized, and which is cropped: a
            multiple of a place's edge (a patch, or 32 pixels of a ResNet). Larger gives more places, to which the
            tower's positions are interpolated. By default as the processor says.
        whole (`bool`, *optional*, defaults to `False`): Show the model the whole picture, at its aspect to the nearest
            multiple of a place, in place of the middle.
        image_limits, image_options (*optional*): As in [`read_picture`].

    Raises:
        TypeError: if the processor is of another class, or `image` is nothing that `open_image` takes.
        ValueError: if the size does not fit, or the picture cannot be read.
    """
    edge = check_size(model, size)
    if whole:
        fixed = {"size", "crop_size", "do_resize", "do_center_crop"} & image_options.keys()
        if fixed:
            raise ValueError(f"`whole` decides {', '.join(sorted(fixed))} itself; leave them out, or `whole`.")
        # Its place of reading, size and errors are those of the processor.
        image = read_picture(processor, image, image_limits, **image_options).image
        shorter = model.config.vision_config.image_size if size is None else size
        width, height = (max(1, round(length * shorter / min(image.size) / edge)) * edge for length in image.size)
        image_options |= {"size": {"height": height, "width": width}, "do_resize": True, "do_center_crop": False}
    elif size is not None:
        square = {"height": size, "width": size}
        image_processor = getattr(processor, "image_processor", processor)
        resized = {"shortest_edge": size} if "shortest_edge" in dict(image_processor.size or {}) else square
        image_options |= {"size": resized, "crop_size": square, "do_resize": True}
    return read_picture(processor, image, image_limits, **image_options)
