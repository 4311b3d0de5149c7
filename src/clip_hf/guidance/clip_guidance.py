# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A loss that pulls pictures towards texts and images: the spherical distance of many cut-outs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..model.modeling_clip_hf import ClipHFModel
from ..model.processing_clip_hf import ClipHFProcessor
from .frozen_embedding import (
    at_least_float32,
    check_processor,
    embed_images,
    embed_texts,
    encode_pixels,
    frozen_twin,
)
from .preprocessing import DifferentiablePreprocessing, check_pictures, resize_pictures


def spherical_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Half the squared angle between vectors: 0 for the same direction, pi^2 / 2 for opposite ones.

    The image-generator notebooks of 2021 (Crowson's CLIP guidance) write it `2 * asin(|u - v| / 2)^2` of the unit
    vectors. The angle here is `2 * atan2(|u - v|, |u + v|)`, which is the same, but keeps its gradient finite where
    vectors point the same or opposite ways.

    Args:
        a, b (`torch.Tensor` of shape `(..., dim)`): Vectors of any length but 0; they are normalised here, in at
            least float32. Leading axes broadcast.

    Returns:
        `torch.Tensor` of the broadcast leading shape.

    Raises:
        ValueError: if the last axes differ.

    Worked example: `a = (1, 0)` and `b = (0, 3)` are a quarter turn apart: (pi / 2)^2 / 2 = 1.2337.
    """
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-1]:
        raise ValueError(f"The vectors have the shapes {tuple(a.shape)} and {tuple(b.shape)}; the last axis differs.")
    a, b = (nn.functional.normalize(at_least_float32(each), dim=-1) for each in (a, b))
    angle = 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))
    return angle.square() / 2


class CutOuts:
    """Random square parts of pictures, each resized to the model's size, with gradient.

    A model sees one picture at one size, and pixels optimised for that look of it alone become noise. Sides are drawn
    as in the notebooks of 2021: `u ** power` of the way from the smallest to the shorter edge, `u` uniform; so a
    `power` above 1 prefers small parts (details), below 1 large ones (composition).

    Args:
        size (`int`): Side of the cut-outs in pixels; a model's `config.vision_config.image_size`.
        num (`int`, *optional*, defaults to 32): Cut-outs of each picture; all pictures are cut in the same places.
        power (`float`, *optional*, defaults to 1.0): See above.
        min_size (`int`, *optional*): Side of the smallest part in the picture's pixels; by default `size`, or the
            shorter edge if that is less.
        augment (`bool`, *optional*, defaults to `False`): Whether each cut-out is also mirrored (every second),
            turned by up to 15 degrees with a shift of up to 10%, and given noise of up to 0.1.
        seed (`int`, *optional*, defaults to 0): Two of the same seed draw the same cut-outs, call by call.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        size: int,
        num: int = 32,
        *,
        power: float = 1.0,
        min_size: int | None = None,
        augment: bool = False,
        seed: int = 0,
    ):
        for name, value in (("size", size), ("num", num), ("min_size", 1 if min_size is None else min_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` is {value!r}; it must be a whole number of at least 1.")
        if not (isinstance(power, int | float) and 0 < power < math.inf):
            raise ValueError(f"`power` is {power!r}; it must be a number above 0.")
        self.size, self.num, self.power, self.min_size, self.augment = size, num, power, min_size, augment
        # On the CPU, so that a seed means the same on every device.
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Cut pictures (batch, 3, height, width) from 0 to 1 into (num, batch, 3, size, size), from 0 to 1."""
        pictures = check_pictures(pictures)
        height, width = pictures.shape[2:]
        longest = min(height, width)
        smallest = min(longest, self.size if self.min_size is None else self.min_size)
        parts = []
        for _ in range(self.num):
            u, x, y = torch.rand(3, generator=self.generator).tolist()
            side = smallest + int(u**self.power * (longest - smallest + 1))
            side = min(side, longest)
            left, top = int(x * (width - side + 1)), int(y * (height - side + 1))
            part = resize_pictures(pictures[:, :, top : top + side, left : left + side], self.size, self.size)
            parts.append(self._augmented(part) if self.augment else part)
        return torch.stack(parts)

    def _augmented(self, part: torch.Tensor) -> torch.Tensor:
        flip, turn, x, y, strength = torch.rand(5, generator=self.generator).tolist()
        angle = math.radians(15 * (2 * turn - 1))
        mirror = -1 if flip < 0.5 else 1
        rows = [
            [mirror * math.cos(angle), -math.sin(angle), 0.2 * (2 * x - 1)],
            [mirror * math.sin(angle), math.cos(angle), 0.2 * (2 * y - 1)],
        ]
        matrix = torch.tensor(rows, dtype=part.dtype, device=part.device).expand(len(part), 2, 3)
        grid = nn.functional.affine_grid(matrix, list(part.shape), align_corners=False)
        part = nn.functional.grid_sample(part, grid, padding_mode="reflection", align_corners=False)
        noise = torch.randn(part.shape, generator=self.generator).to(part)
        return (part + 0.1 * strength * noise).clamp(0, 1)


class ClipGuidance:
    """A differentiable loss of pictures: how far they are from what they should show.

    The loss of a picture is the mean over its cut-outs of the weighted sum of [`spherical_distance`] to each target,
    divided by the sum of the weights' sizes. A target of negative weight pushes away. Gradients reach the pictures
    only: the model's weights are shared, frozen, and in evaluation mode, whatever the caller's model does.

    Args:
        model ([`ClipHFModel`]): Any of its towers; also compiled or with adapters of peft.
        processor ([`ClipHFProcessor`]): The model's.
        texts (*optional*): Prompts: strings, pairs (string, weight), or a mapping of strings to weights.
        images (*optional*): Pictures to come close to, in any form the processor takes, or pairs (image, weight).
        cut_outs ([`CutOuts`], *optional*): By default 32 of the model's size.
        whole (`bool`, *optional*, defaults to `False`): Whether the picture is compared as a whole instead, resized
            and cropped as the processor does it.

    Raises:
        TypeError: if the model or the processor is of another class.
        ValueError: if there is no target, a text is empty, a weight is not finite or 0, cut-outs have another size
            than the model's, or the model is offloaded or was loaded inside `torch.inference_mode()`.
        FloatingPointError: if the model gives NaN or infinite values.

    Example:

    ```python
    >>> model, processor = ClipHFModel.from_pretrained(path), ClipHFProcessor.from_pretrained(path)
    >>> guidance = ClipGuidance(model, processor, {"a red bird": 1.0, "text, watermark": -0.5})
    >>> pictures = torch.rand(2, 3, 80, 80, requires_grad=True)
    >>> loss = guidance(pictures)  # (batch,)
    >>> (gradient,) = torch.autograd.grad(loss.sum(), pictures)
    ```
    """

    def __init__(
        self,
        model: ClipHFModel,
        processor: ClipHFProcessor,
        texts: Sequence | Mapping[str, float] = (),
        images: Sequence = (),
        *,
        cut_outs: CutOuts | None = None,
        whole: bool = False,
    ):
        with torch.inference_mode(False):  # what is made inside that mode can never take part in a gradient
            self._embed_targets(model, processor, texts, images)
        size = self.model.config.vision_config.image_size
        if cut_outs is not None and (whole or cut_outs.size != size):
            cure = "leave `cut_outs` out with `whole=True`" if whole else f"give CutOuts({size})"
            raise ValueError(f"The cut-outs are {cut_outs.size} pixels wide, the model is made for {size}: {cure}.")
        self.cut_outs = None if whole else cut_outs or CutOuts(size)

    def _embed_targets(self, model: nn.Module, processor: ClipHFProcessor, texts: Any, images: Any) -> None:
        self.model = frozen_twin(model)
        if any(weight.is_inference() for weight in self.model.parameters()):
            raise ValueError(
                "The model was loaded inside `torch.inference_mode()`, so it has no gradient; load it outside."
            )
        self.preprocess = DifferentiablePreprocessing(check_processor(processor).image_processor)
        texts, text_weights = _split(texts, "text")
        images, image_weights = _split(images, "image")
        if not texts and not images:
            raise ValueError("There is no target: give `texts`, `images`, or both.")
        targets = [embed_texts(self.model, processor, texts)] if texts else []
        targets += [embed_images(self.model, processor, images)] if images else []
        self.targets = torch.cat(targets)  # (targets, dim)
        self.weights = torch.tensor(text_weights + image_weights).to(self.targets)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """The loss of each picture, (batch,), at least float32; `loss.sum()` gives each its own gradient.

        Args:
            pictures (`torch.Tensor` of shape `(batch, 3, height, width)`): Values from 0 to 1, any size.

        Raises:
            TypeError: if the pictures are not a tensor of floats.
            ValueError: if their shape or range is wrong.
            FloatingPointError: if the model gives NaN or infinite values.
        """
        if self.cut_outs is None:
            embeds = encode_pixels(self.model, self.preprocess(pictures))[None]
        else:
            parts = self.cut_outs(pictures)
            pixel_values = self.preprocess.normalize(parts.flatten(0, 1))
            embeds = encode_pixels(self.model, pixel_values).unflatten(0, parts.shape[:2])
        # (cut-outs, batch, 1, dim) and (targets, dim) -> (cut-outs, batch, targets)
        distances = spherical_distance(embeds[:, :, None], self.targets)
        return (distances * self.weights).sum(dim=-1).mean(dim=0) / self.weights.abs().sum()

    def cosines(self, pictures: torch.Tensor) -> torch.Tensor:
        """The cosine of each whole picture, as the processor resizes and crops it, with each target.

        Returns:
            `torch.Tensor` of shape `(batch, targets)`, texts first; it has a gradient too.
        """
        return encode_pixels(self.model, self.preprocess(pictures)) @ self.targets.T


def _split(targets: Any, kind: str) -> tuple[list, list[float]]:
    """Targets and their weights, of a mapping, or of a sequence of targets and pairs (target, weight)."""
    if isinstance(targets, str | bytes) or not isinstance(targets, Sequence | Mapping):
        raise TypeError(f"`{kind}s` must be a list or a mapping to weights, not {targets!r:.60}.")
    pairs = targets.items() if isinstance(targets, Mapping) else targets
    pairs = [pair if isinstance(pair, tuple) and len(pair) == 2 else (pair, 1.0) for pair in pairs]
    for target, weight in pairs:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or not weight:
            raise ValueError(f"The weight of the {kind} {target!r:.60} is {weight!r}; it must be finite and not 0.")
    return [target for target, _ in pairs], [float(weight) for _, weight in pairs]
