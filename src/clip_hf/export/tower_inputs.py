# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Images and texts as inputs of towers: those that are compared, and images that calibrate int8."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..model.image_processing_clip_hf import opens_files
from ..model.image_reading_clip_hf import open_image
from ..model.image_transform_clip_hf import turn_upright
from ..model.prompts_clip_hf import get_prompt_set
from .exported_model import ClipHFExportedConfig


MAX_CALIBRATION = 128
"""Images that calibrate int8 at most; more hardly change the ranges."""
_RANDOM_IMAGES = 8
_BATCH = 16


class NamedItems(list):
    """Images or texts that reports call by a name in the plural, such as `"drawings"`."""

    def __init__(self, items: Iterable[Any], name: str):
        super().__init__(items)
        self.name = name


@dataclass(frozen=True)
class Samples:
    """Prepared images (n, 3, height, width) and texts (m, length).

    Args:
        pixel_values (`torch.Tensor`): The images, float32.
        input_ids (`torch.Tensor`): The texts, int64, padded on the right.
        given (`bool`): Whether the images were given, not random.
        images_are (`str`, *optional*, defaults to `"given images"`): What the images are, in the plural.
        texts_are (`str`, *optional*, defaults to `"given texts"`): The same of the texts.
    """

    pixel_values: torch.Tensor
    input_ids: torch.Tensor
    given: bool
    images_are: str = "given images"
    texts_are: str = "given texts"

    def split(self) -> tuple["Samples", "Samples"]:
        """Those to compare, and those to calibrate with: every other image. A single image does both."""
        calibration = replace(self, pixel_values=self.pixel_values[::2][:MAX_CALIBRATION])
        rest = self.pixel_values[1::2] if len(self.pixel_values) > 1 else self.pixel_values
        return replace(self, pixel_values=rest), calibration

    def in_words(self) -> str:
        """How many images and texts these are, and what."""
        return f"{len(self.pixel_values):,} {self.images_are} and {len(self.input_ids):,} {self.texts_are}"

    def describe(self) -> dict[str, Any]:
        """The number of images, what they are, and their digest, which does not tell what they show."""
        return {
            "images": len(self.pixel_values),
            "data": self.images_are,
            "images_sha256": hashlib.sha256(self.pixel_values.numpy().tobytes()).hexdigest(),
        }


def prepare_samples(
    config: ClipHFExportedConfig, processor: Any, images: Sequence[Any] | None, texts: Sequence[str] | None
) -> Samples:
    """Prepare images and texts, which may be [`NamedItems`]; without any, random pixels and clip_hf's prompts.

    Raises:
        UnreadableImage: if an image cannot be read.
        TypeError: if `images` or `texts` are a single one, not several.
        ValueError: if the processor makes images of another size than the model's.
    """
    for name, items in (("images", images), ("texts", texts)):
        if isinstance(items, (str, bytes, os.PathLike)):
            raise TypeError(f"`{name}` is {items!r:.80}; it must be a list, such as [{items!r:.80}].")
    return Samples(
        _prepare_images(config, processor, images) if images else _random_images(config.image_size),
        _prepare_texts(config, processor, texts or default_texts()),
        given=bool(images),
        images_are=_name_of(images, "given images") if images else "random images",
        texts_are=_name_of(texts, "given texts") if texts else "default prompts, as no texts were given",
    )


def _name_of(items: Sequence[Any], other: str) -> str:
    return items.name if isinstance(items, NamedItems) else other


def default_texts() -> list[str]:
    """A few prompts of different lengths."""
    return [template.format("cat") for template in get_prompt_set("openai_imagenet")[:16]]


def _prepare_images(config: ClipHFExportedConfig, processor: Any, images: Sequence[Any]) -> torch.Tensor:
    batches = []
    for first in range(0, len(images), _BATCH):
        batch = list(images[first : first + _BATCH])
        if not opens_files(processor.image_processor):
            batch = [turn_upright(open_image(image)).convert("RGB") for image in batch]
        batches.append(processor.image_processor(images=batch, return_tensors="pt")["pixel_values"].float())
    size = config.image_size
    if batches[0].shape[1:] != (3, size, size):
        raise ValueError(
            f"The processor makes images of shape {tuple(batches[0].shape[1:])}; the model takes (3, {size}, {size})."
        )
    return torch.cat(batches)


def _random_images(size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    # A colour cast of its own for each: noise alone looks the same to a model.
    casts = torch.randn(_RANDOM_IMAGES, 3, 1, 1, generator=generator)
    return torch.randn(_RANDOM_IMAGES, 3, size, size, generator=generator) / 2 + casts


def _prepare_texts(config: ClipHFExportedConfig, processor: Any, texts: Sequence[str]) -> torch.Tensor:
    tokens = processor.tokenizer(
        list(texts),
        padding="max_length" if config.fixed_length else True,
        max_length=config.context_length,
        truncation=True,
        return_tensors="pt",
    )
    return tokens["input_ids"]
