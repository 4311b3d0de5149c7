# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pixels as the processor makes them, with gradient: pictures in 0 to 1 become what a model takes."""

from typing import Any

import torch
from torch import nn
from transformers.image_utils import PILImageResampling

from ..model.checks_clip_hf import type_of
from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..model.image_resizing_clip_hf import resized_size
from .frozen_embedding import at_least_float32


# Pillow's filters that torch has with a gradient; its antialiased bicubic filter has Pillow's coefficient of -0.5.
_MODES = {PILImageResampling.BICUBIC: "bicubic", PILImageResampling.BILINEAR: "bilinear"}


def check_pictures(pictures: torch.Tensor) -> torch.Tensor:
    """Return pictures in at least float32, or say what is wrong with them.

    Raises:
        TypeError: if they are not a tensor of floats.
        ValueError: if they are not (batch, 3, height, width), or not all from 0 to 1.
    """
    if not isinstance(pictures, torch.Tensor) or not pictures.is_floating_point():
        what = f"a tensor of {pictures.dtype}" if isinstance(pictures, torch.Tensor) else type_of(pictures)
        raise TypeError(f"The pictures must be a tensor of floats from 0 to 1, not {what}.")
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.numel():
        raise ValueError(f"The pictures have the shape {tuple(pictures.shape)}; it must be (batch, 3, height, width).")
    low, high = (float(value) for value in pictures.detach().aminmax())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise ValueError(
            f"The pictures have values from {low:.6g} to {high:.6g}; they must be from 0 to 1. Of an image "
            "generator's output from -1 to 1 give `(pictures / 2 + 0.5).clamp(0, 1)`."
        )
    return at_least_float32(pictures)


def resize_pictures(pictures: torch.Tensor, height: int, width: int, mode: str = "bicubic") -> torch.Tensor:
    """Resize (batch, 3, ...) to `height` x `width` as Pillow does, but without rounding to 8 bits.

    Pillow resizes the rows, then the columns, and clips what overshoots 0 to 1 after each.
    """
    for size in ((pictures.shape[2], width), (height, width)):
        if tuple(pictures.shape[2:]) != size:
            pictures = nn.functional.interpolate(pictures, size=size, mode=mode, antialias=True).clamp(0, 1)
    return pictures


class DifferentiablePreprocessing:
    """An image processor's steps (resize, crop, rescale, normalise) as differentiable operations on tensors.

    On a picture of 8 bits the pixel values differ from the processor's only by Pillow's rounding: it rounds to 8 bits
    after resizing the rows and again after the columns. Pictures that need no resizing come out equal.

    Args:
        image_processor ([`ClipHFImageProcessor`]): It says the sizes, the filter, mean and deviation.

    Raises:
        TypeError: if it is no `ClipHFImageProcessor`.
        ValueError: if its filter is neither bicubic nor bilinear, or it pads.
    """

    def __init__(self, image_processor: ClipHFImageProcessor):
        if not isinstance(image_processor, ClipHFImageProcessor):
            raise TypeError(f"It must be a ClipHFImageProcessor, not {type_of(image_processor)}.")
        self.transform = image_processor.transform()
        if self.transform.do_resize and self.transform.resample not in _MODES:
            name = PILImageResampling(self.transform.resample).name
            raise ValueError(f"The image processor resizes with {name}; BICUBIC and BILINEAR have a gradient here.")
        if getattr(image_processor, "do_pad", None):
            raise ValueError("The image processor pads (do_pad=True), which is not done here. Pad the pictures.")

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pixel values (batch, 3, rows, columns) of pictures (batch, 3, height, width) from 0 to 1, at least float32.

        Raises:
            TypeError: if the pictures are not a tensor of floats.
            ValueError: if their shape or range is wrong.
        """
        pictures, transform = check_pictures(pictures), self.transform
        width, height = pictures.shape[3], pictures.shape[2]
        if transform.do_resize:
            width, height = resized_size(width, height, transform.size)
            pictures = resize_pictures(pictures, height, width, _MODES[transform.resample])
        left, top, right, bottom = transform.crop_window((width, height))
        # Negative padding crops; where the crop is larger than the picture, there are zeros.
        return self.normalize(nn.functional.pad(pictures, (-left, right - width, -top, bottom - height)))

    def normalize(self, pictures: torch.Tensor) -> torch.Tensor:
        """The last steps alone: rescale and normalise pictures that have the model's size already."""
        transform = self.transform
        scale = 255 * transform.rescale_factor if transform.do_rescale else 255
        values = pictures * scale
        if transform.do_normalize:
            mean, std = (_channels(each, values) for each in (transform.image_mean, transform.image_std))
            values = (values - mean) / std
        return values


def _channels(values: Any, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)
