# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The transform of one image to pixel values, as the options of an image processor say.

OpenAI's transform (`clip.py`, `_transform`) resizes the shorter edge with Pillow's bicubic filter, crops the centre,
converts to RGB and normalises in float32, in this order. This is the same arithmetic, limited to the pixels in the
crop. Arrays are (height, width, channels) until the last step, which makes them (channels, height, width).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps
from transformers.image_utils import ChannelDimension, SizeDict

from .image_reading_clip_hf import DEFAULT_LIMITS, ImageLimits, UnreadableImage, open_image
from .image_resizing_clip_hf import Window, crop_array, crop_start, resize_and_crop, resized_size


ORIENTATION_TAG = 0x0112  # EXIF
HIGH_BIT_DEPTH = ("error", "clip", "scale")
DRAFT_FACTOR = 2  # docs/howto/pictures.md has the pixel differences of others

# -------------------------------------------------------------------------------------------------------- image modes


def turn_upright(image: Image.Image) -> Image.Image:
    """Turn an image by its EXIF orientation; without one, or with 1, the same image comes back."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG, 1)
        if orientation == 1:
            return image
        upright = ImageOps.exif_transpose(image)
        if hasattr(image, "drafted"):
            size, (_, _, *part) = image.drafted
            if orientation in (5, 6, 7, 8):  # width becomes height
                size, part = size[::-1], part[::-1]
            left = upright.width - part[0] if orientation in (2, 3, 6, 7) else 0
            top = upright.height - part[1] if orientation in (3, 4, 7, 8) else 0
            upright.drafted = (size, (left, top, *part))
        return upright
    except Exception as error:  # damaged EXIF data raises many types
        raise UnreadableImage("EXIF damaged", f"its EXIF orientation cannot be read: {error}.") from error


def has_alpha(image: Image.Image) -> bool:
    """Whether an image has transparency of any kind."""
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def parse_color(color: str | Sequence[int]) -> list[int]:
    """Parse `"white"`, `"#ffffff"`, `"255,255,255"`, or three numbers to red, green and blue, 0 to 255.

    Raises:
        ValueError: if it is none of these.
    """
    values = list(color) if not isinstance(color, str) else [part.strip() for part in color.split(",")]
    try:
        numbers = ImageColor.getrgb(values[0])[:3] if len(values) == 1 else [int(value) for value in values]
    except (ValueError, TypeError, AttributeError):
        numbers = []
    if len(numbers) != 3 or not all(0 <= number <= 255 for number in numbers):
        raise ValueError(
            f"{color!r} is not a colour; it must be a name such as 'white', '#ffffff', or red, green and blue from 0 "
            "to 255 as '255,255,255'."
        )
    return list(numbers)


def composite(image: Image.Image, color: Sequence[int] | None) -> Image.Image:
    """Put an image with transparency on a colour (red, green and blue); other images, and without one, stay."""
    if color is None or not has_alpha(image):
        return image
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    background = Image.new("RGBA", image.size, (*color, 255))
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert as OpenAI's transform does, by `image.convert("RGB")`, and mode La too; alpha is dropped."""
    if image.mode == "RGB":
        return image
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    if "transparency" in image.info:
        # Pillow would convert the transparent colour too, and warn if a palette has several. Pixels do not depend on
        # it.
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def as_bytes(image: Image.Image) -> np.ndarray:
    """Pixels of an image of 8 bits: (height, width, channels), uint8."""
    array = np.asarray(image)
    array = array * np.uint8(255) if array.dtype == bool else array  # mode 1
    return array[..., None] if array.ndim == 2 else array


def reduce_bit_depth(values: np.ndarray, policy: str) -> np.ndarray | None:
    """Scale values of a dtype of more than 8 bits to uint8, by one of the policies `HIGH_BIT_DEPTH`.

    "scale" maps floats of 0 to 1, or integers of 0 to 65535, to 0 to 255. None comes back if the values are 0 to 255
    already, or must be clipped; values that the policy forbids raise [`UnreadableImage`].
    """
    if policy == "clip":
        return None
    low, high = values.min(), values.max()
    is_float = values.dtype.kind == "f"
    if policy == "scale":
        limit = 1 if is_float else 65535
        if low >= 0 and high <= limit:
            return np.rint(values * (255 / limit)).astype(np.uint8)
        raise UnreadableImage(
            "more than 8 bits",
            f"the values go from {low} to {high}; high_bit_depth='scale' takes integers of 0 to 65535, or floats of 0 "
            "to 1. Scale the image to 8 bits yourself.",
        )
    is_unit = is_float and 0 < high <= 1
    if low >= 0 and high <= 255 and not is_unit:
        return None
    effect = "black" if is_unit or high <= 255 else "white" if low >= 0 else "black or white"
    raise UnreadableImage(
        "more than 8 bits",
        f"the values go from {low:.6g} to {high:.6g}, which do not fit 8 bits: OpenAI's transform would clip them to "
        f"0 to 255, turning most of the image {effect}. Pass `high_bit_depth='scale'` (--high-bit-depth scale) to "
        "scale 16 bits (or floats from 0 to 1) to 8, or 'clip' for OpenAI's pixels.",
    )


def open_upright(
    source: Any,
    limits: ImageLimits,
    apply_exif_orientation: bool = True,
    high_bit_depth: str = "clip",
    background_color: Sequence[int] | None = None,
    draft_edge: int | None = None,
) -> Image.Image:
    """Open an image, upright, with 8 bits and on its background, as the options say; not yet resized or RGB."""
    image = open_image(source, limits, draft_edge)
    image = turn_upright(image) if apply_exif_orientation else image
    if image.mode[0] in "IF":  # 16 or 32 bits
        reduced = reduce_bit_depth(np.asarray(image), high_bit_depth)
        image = image if reduced is None else Image.fromarray(reduced)
    return composite(image, background_color)


# ---------------------------------------------------------------------------------------------------------- transform


def draft_edge(size: Mapping[str, int | None]) -> int:
    """Pixels of a draft's shorter edge, for an image that is then resized by this rule: twice those after resizing."""
    return DRAFT_FACTOR * (size.get("shortest_edge") or max(filter(None, size.values())))


@dataclass(frozen=True)
class ImageTransform:
    """The transform of each image in one call of a [`ClipHFImageProcessor`]; its fields are the validated options."""

    do_resize: bool
    size: SizeDict | None
    resample: int
    do_center_crop: bool
    crop_size: SizeDict | None
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: tuple[float, ...] | None
    image_std: tuple[float, ...] | None
    do_convert_rgb: bool
    input_data_format: str | None
    apply_exif_orientation: bool
    background_color: Sequence[int] | None
    high_bit_depth: str
    draft: bool
    limits: ImageLimits = DEFAULT_LIMITS

    def empty_batch(self, count: int) -> np.ndarray | None:
        """An uninitialised array for the pixels of `count` images; None if shapes depend on the image."""
        if self.do_center_crop and self.do_convert_rgb and (self.do_rescale or self.do_normalize):
            return np.empty((count, 3, self.crop_size.height, self.crop_size.width), np.float32)
        return None

    def pixels(self, source: Any, threads: int, out: np.ndarray | None) -> np.ndarray:
        """Resize, crop, rescale and normalise an image to (channels, height, width), in `out` if it is an array."""
        in_unit_range = False
        if isinstance(source, np.ndarray | torch.Tensor):
            array, in_unit_range = self._read_array(source)
            if array.dtype != np.uint8:
                return self._finish(self._crop_array(array), in_unit_range, out)
            image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
            image = composite(image, self.background_color)
        else:
            image = self.open(source)
        size = self.resized_size(image)
        image = self.resize_and_crop(image, size, self.crop_window(size), threads)
        return self._finish(as_bytes(image), in_unit_range, out)

    def open(self, source: Any) -> Image.Image:
        """[`open_upright`] with these options."""
        options = (self.apply_exif_orientation, self.high_bit_depth, self.background_color)
        edge = draft_edge(dict(self.size)) if self.draft and self.do_resize else None
        return open_upright(source, self.limits, *options, edge)

    def resized_size(self, image: Image.Image) -> tuple[int, int]:
        """Width and height of an image after resizing; a size that exceeds `limits` raises [`UnreadableImage`]."""
        original, _ = getattr(image, "drafted", (image.size, None))
        size = resized_size(*original, self.size) if self.do_resize else original
        self.limits.check_resized(size, original)
        return size

    def resize_and_crop(
        self, image: Image.Image, size: tuple[int, int], window: Window, threads: int = 1
    ) -> Image.Image:
        """Resize an image to `size`, cut out `window` (left, top, right, bottom) and convert it to RGB.

        Raises:
            UnreadableImage: if the window has more pixels than Pillow allows for an image.
        """
        limit = Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS
        if limit and (window[2] - window[0]) * (window[3] - window[1]) > limit:
            raise UnreadableImage(
                "image too large",
                f"resized from {image.width}x{image.height} the image has {size[0]}x{size[1]} pixels, more than the "
                f"{limit} that Pillow allows. Use do_center_crop=True, or another size than {dict(self.size or {})}.",
            )
        _, part = getattr(image, "drafted", (None, None))
        image = resize_and_crop(image, size, window, self.resample, threads, part)
        return to_rgb(image) if self.do_convert_rgb else image

    def _read_array(self, source: np.ndarray | torch.Tensor) -> tuple[np.ndarray, bool]:
        """Convert an array to (height, width, channels), and tell whether its values stand for 0 to 1.

        The result is uint8, or float32 for floats that are not resized.
        """
        if isinstance(source, torch.Tensor):
            source = source.detach().cpu()
            source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
        array = self._move_channels_last(source)
        if array.dtype.kind not in "buif":
            raise TypeError(f"an array of dtype {array.dtype} holds no pixels; pass uint8 or floats.")
        if array.dtype == bool:
            return array * np.uint8(255), False
        if array.dtype.kind == "f":
            return self._read_floats(array.astype(np.float32) if array.dtype.itemsize < 4 else array)
        if array.dtype != np.uint8:
            reduced = reduce_bit_depth(array, self.high_bit_depth)
            array = np.clip(array, 0, 255).astype(np.uint8) if reduced is None else reduced
        return np.ascontiguousarray(array), False

    def _read_floats(self, array: np.ndarray) -> tuple[np.ndarray, bool]:
        """[`_read_array`] of floats, which are 0 to 255 with `do_rescale` and 0 to 1 without."""
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("the array holds NaN or infinite values.")
        if self.do_rescale and math.isclose(self.rescale_factor, 1 / 255) and low >= 0 and 0 < high <= 1:
            raise ValueError(
                "the values are floats from 0 to 1 already, and do_rescale=True would divide them by 255 again. Pass "
                "do_rescale=False, or the image as uint8."
            )
        if not self.do_resize:
            return array.astype(np.float32, copy=False), False
        if self.do_rescale:
            if low >= 0 and high <= 255 and bool((array == np.rint(array)).all()):
                return array.astype(np.uint8), False
            allowed = "with do_rescale=True resizing takes whole numbers from 0 to 255"
        else:
            if low >= 0 and high <= 1:
                return np.rint(array * 255).astype(np.uint8), True
            allowed = "with do_rescale=False resizing takes floats from 0 to 1"
        raise ValueError(
            f"the values are floats from {low:.6g} to {high:.6g}; {allowed}. Pass the image as uint8, or "
            "do_resize=False for an image that is already resized."
        )

    def _move_channels_last(self, array: np.ndarray) -> np.ndarray:
        channels = (1, 3, 4)
        if array.ndim == 2:
            array = array[..., None]
        elif array.ndim != 3:
            raise ValueError(
                f"an array of shape {array.shape} is not an image: pass (height, width), (height, width, channels) or "
                "(channels, height, width), or a batch of the latter two."
            )
        elif self.input_data_format is not None:
            first = ChannelDimension(self.input_data_format) == ChannelDimension.FIRST
            array = np.moveaxis(array, 0, -1) if first else array
        elif array.shape[0] in channels and array.shape[2] in channels:
            raise ValueError(
                f"in an array of shape {array.shape} the first or the last axis may be the channels. Pass "
                'input_data_format="channels_first" or "channels_last".'
            )
        elif array.shape[0] in channels:
            array = np.moveaxis(array, 0, -1)
        if array.shape[2] not in channels:
            raise ValueError(f"an array of shape {array.shape} has no axis of 1, 3 or 4 channels.")
        if array.size == 0:
            raise ValueError(f"an array of shape {array.shape} has no pixels.")
        return array

    def crop_window(self, size: tuple[int, int]) -> Window:
        """The part (left, top, right, bottom) of a resized image of this width and height that is kept."""
        if not self.do_center_crop:
            return (0, 0, *size)
        width, height = self.crop_size.width, self.crop_size.height
        left, top = crop_start(size[0], width), crop_start(size[1], height)
        return left, top, left + width, top + height

    def _crop_array(self, array: np.ndarray) -> np.ndarray:
        """Crop floats (height, width, channels) that are not resized."""
        if self.background_color is not None and array.shape[2] == 4:
            raise ValueError("background_color needs an image of 8 bits, not floats with do_resize=False.")
        if self.do_convert_rgb and array.shape[2] != 3:
            array = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]
        return crop_array(array, self.crop_window((array.shape[1], array.shape[0])))

    def _finish(self, array: np.ndarray, in_unit_range: bool, out: np.ndarray | None) -> np.ndarray:
        """Rescale and normalise (height, width, channels) to (channels, height, width) in float32, as OpenAI does."""
        channels = array.shape[2]
        if self.do_normalize and not {len(self.image_mean), len(self.image_std)} <= {1, channels}:
            raise ValueError(
                f"the image has {channels} channels, image_mean {len(self.image_mean)} and image_std "
                f"{len(self.image_std)} values. Pass do_convert_rgb=True, or as many values as there are channels."
            )
        mean = (self.image_mean * channels)[:channels] if self.do_normalize else None
        std = (self.image_std * channels)[:channels] if self.do_normalize else None
        if array.dtype != np.uint8:
            array = np.moveaxis(array, 2, 0).astype(np.float32)
            array = _rescale_and_normalize(array, self.rescale_factor if self.do_rescale else None, mean, std)
            return array if out is None else np.copyto(out, array) or out
        factor = 1 / 255 if in_unit_range else self.rescale_factor if self.do_rescale else None
        if factor is None and mean is None:
            return np.ascontiguousarray(np.moveaxis(array, 2, 0))
        # Each of the 256 values is computed once: the same bits in a third of the time.
        table = value_table(channels, factor, mean, std)
        out = np.empty((channels, *array.shape[:2]), np.float32) if out is None else out
        for channel in range(channels):
            np.take(table[channel], array[..., channel], out=out[channel], mode="clip")
        return out


def _rescale_and_normalize(
    values: np.ndarray, factor: float | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> np.ndarray:
    """Compute (values * factor - mean) / std for (channels, ...) in float32."""
    shape = (-1, *[1] * (values.ndim - 1))
    if factor == 1 / 255:
        values = values / np.float32(255)  # as torchvision's ToTensor; a product would round differently
    elif factor is not None:
        values = (values.astype(np.float64) * factor).astype(np.float32)
    if mean is not None:
        values = (values - np.float32(mean).reshape(shape)) / np.float32(std).reshape(shape)
    return values


@lru_cache(maxsize=32)
def value_table(
    channels: int, factor: float | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> np.ndarray:
    """The values 0 to 255 of each channel, rescaled and normalised: (channels, 256), float32."""
    values = np.tile(np.arange(256, dtype=np.float32), (channels, 1))
    return np.ascontiguousarray(_rescale_and_normalize(values, factor, mean, std))


def per_channel(values: Any) -> tuple[float, ...] | None:
    """Make a tuple of a mean or standard deviation, one number or several; None stays None."""
    if values is None:
        return None
    return (float(values),) if isinstance(values, int | float | np.number) else tuple(map(float, values))
