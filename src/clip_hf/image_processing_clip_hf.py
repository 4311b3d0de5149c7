# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Image processor: the pixels of OpenAI's CLIP, bit for bit, from whatever holds an image.

OpenAI's transform (`clip.py`, `_transform`) resizes the shorter edge with Pillow's bicubic filter, crops the centre,
converts to RGB and normalises in float32, in this order. Here is the same arithmetic without the work that the crop
throws away. Arrays are (height, width, channels) until the last step, which makes them (channels, height, width).
"""

import difflib
import math
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import logging

from .image_reading_clip_hf import flatten_images, open_image
from .image_resizing_clip_hf import (
    Window,
    crop_array,
    crop_start,
    map_in_threads,
    resize_and_crop,
    resized_size,
)


logger = logging.get_logger(__name__)

ORIENTATION_TAG = 0x0112  # EXIF
RESAMPLING = range(6)  # the values of PIL.Image.Resampling that transformers takes
HIGH_BIT_DEPTH = ("error", "clip", "scale")
SIZE_KEYS = ({"shortest_edge"}, {"height", "width"}, {"shortest_edge", "longest_edge"}, {"max_height", "max_width"})
# Entries of configuration files that say what wrote them, or that transformers' processors no longer use.
BOOKKEEPING_KEYS = {"auto_map", "feature_extractor_type", "image_processor_type", "processor_class", "use_fast"}
BOOKKEEPING_KEYS |= {"_valid_processor_keys"}

# -------------------------------------------------------------------------------------------------------- image modes


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _composite(image: Image.Image, color: Sequence[int]) -> Image.Image:
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    background = Image.new("RGBA", image.size, (*color, 255))
    return Image.alpha_composite(background, image.convert("RGBA")).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    """As `image.convert("RGB")`, which OpenAI's transform uses, where Pillow can; alpha is dropped."""
    if image.mode == "RGB":
        return image
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    if "transparency" in image.info:
        # Pillow would look for the transparent colour's counterpart, and warn where a palette has several. The
        # pixels do not depend on it.
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray, policy: str) -> np.ndarray | None:
    """Values that need more than 8 bits as uint8; None where they are 0 to 255 already, or are to be clipped."""
    low, high = values.min(), values.max()
    fraction = values.dtype.kind == "f" and high <= 1 and bool((values != np.rint(values)).any())
    if low >= 0 and high <= 255 and not fraction:
        return None
    if policy == "clip":
        return None
    limit = 1 if fraction else 65535
    if policy == "scale" and low >= 0 and high <= limit:
        return np.rint(values * (255 / limit)).astype(np.uint8)
    if policy == "scale":
        raise ValueError(
            f"the values go from {low} to {high}; high_bit_depth='scale' takes 0 to 65535, or floats from 0 to 1. "
            "Scale the image to 8 bits yourself."
        )
    effect = "black" if fraction else "white"
    raise ValueError(
        f"the values go from {low:.6g} to {high:.6g}, which do not fit 8 bits: OpenAI's transform would clip them to "
        f"0 to 255, turning most of the image {effect}. Pass high_bit_depth='scale' to scale 16 bits (or floats from "
        "0 to 1) to 8, or 'clip' for OpenAI's pixels."
    )


# ---------------------------------------------------------------------------------------------------------- processor


class ClipHFImageProcessorKwargs(ImagesKwargs, total=False):
    """Options of `ClipHFImageProcessor` that transformers' image processors do not have; see there."""

    apply_exif_orientation: bool
    background_color: list[int] | tuple[int, ...] | None
    high_bit_depth: str


@dataclass(frozen=True)
class _Options:
    """What one call does with each image; the fields are the processor's options, validated."""

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

    def empty_batch(self, count: int) -> np.ndarray | None:
        """Room for the pixels of so many images, where their shape does not depend on them."""
        if self.do_center_crop and self.do_convert_rgb and (self.do_rescale or self.do_normalize):
            return np.empty((count, 3, self.crop_size.height, self.crop_size.width), np.float32)
        return None

    def pixels(self, source: Any, threads: int, out: np.ndarray | None) -> np.ndarray:
        """The image of `source` as (channels, height, width), resized, cropped, rescaled and normalised, in `out`."""
        if isinstance(source, np.ndarray | torch.Tensor):
            array, in_unit_range = self._read_array(source)
            if array.dtype != np.uint8:
                return self._finish(self._crop_array(array), in_unit_range, out)
            image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
        else:
            image, in_unit_range = self._read_image(source), False
        if self.background_color is not None and _has_alpha(image):
            image = _composite(image, self.background_color)
        image = self._resize_and_crop(image, threads)
        if self.do_convert_rgb:
            image = _to_rgb(image)
        array = np.asarray(image)
        array = array * np.uint8(255) if array.dtype == bool else array  # mode 1
        return self._finish(array[..., None] if array.ndim == 2 else array, in_unit_range, out)

    def _read_image(self, source: Any) -> Image.Image:
        image = open_image(source)
        if self.apply_exif_orientation:
            try:
                image = ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION_TAG, 1) != 1 else image
            except Exception as error:  # damaged EXIF data raises many types
                raise ValueError(f"its EXIF orientation cannot be read: {error}.") from error
        if image.mode[0] in "IF":  # 16 or 32 bits
            reduced = _to_8_bits(np.asarray(image), self.high_bit_depth)
            image = image if reduced is None else Image.fromarray(reduced)
        return image

    def _read_array(self, source: np.ndarray | torch.Tensor) -> tuple[np.ndarray, bool]:
        """The array as (height, width, channels), and whether its values stand for 0 to 1.

        It is uint8, or float32 where nothing asks for whole numbers: floats that are not resized.
        """
        if isinstance(source, torch.Tensor):
            source = source.detach().cpu()
            source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
        array = self._channels_last(source)
        if array.dtype.kind not in "buif":
            raise TypeError(f"an array of dtype {array.dtype} holds no pixels; give uint8, or floats.")
        if array.dtype == bool:
            return array * np.uint8(255), False
        if array.dtype.kind != "f":
            array = array if array.dtype == np.uint8 else self._integers_to_uint8(array)
            return np.ascontiguousarray(array), False

        array = array.astype(np.float32) if array.dtype.itemsize < 4 else array
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("the array holds NaN or infinite values.")
        whole = bool((array == np.rint(array)).all())
        in_unit_range = low >= 0 and high <= 1 and not whole
        if in_unit_range and self.do_rescale and math.isclose(self.rescale_factor, 1 / 255):
            raise ValueError(
                "the values are floats from 0 to 1 already, and do_rescale=True would divide them by 255 again. Pass "
                "do_rescale=False, or the image as uint8."
            )
        if not self.do_resize:
            return array.astype(np.float32, copy=False), in_unit_range
        if in_unit_range:
            return np.rint(array * 255).astype(np.uint8), True
        if whole and low >= 0 and high <= 255:
            return array.astype(np.uint8), False
        raise ValueError(
            f"the values are floats from {low:.6g} to {high:.6g}; resizing takes floats from 0 to 1, or whole numbers "
            "from 0 to 255. Pass do_resize=False for an image that is prepared already."
        )

    def _integers_to_uint8(self, array: np.ndarray) -> np.ndarray:
        reduced = _to_8_bits(array, self.high_bit_depth)
        return np.clip(array, 0, 255).astype(np.uint8) if reduced is None else reduced

    def _channels_last(self, array: np.ndarray) -> np.ndarray:
        channels = (1, 3, 4)
        if array.ndim == 2:
            array = array[..., None]
        elif array.ndim != 3:
            raise ValueError(
                f"an array of shape {array.shape} is no image: give (height, width), (height, width, channels) or "
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

    def _window(self, size: tuple[int, int]) -> Window:
        if not self.do_center_crop:
            return (0, 0, *size)
        width, height = self.crop_size.width, self.crop_size.height
        left, top = crop_start(size[0], width), crop_start(size[1], height)
        return left, top, left + width, top + height

    def _resize_and_crop(self, image: Image.Image, threads: int) -> Image.Image:
        size = resized_size(*image.size, self.size) if self.do_resize else image.size
        window = self._window(size)
        limit = Image.MAX_IMAGE_PIXELS and 2 * Image.MAX_IMAGE_PIXELS
        if limit and (window[2] - window[0]) * (window[3] - window[1]) > limit:
            raise ValueError(
                f"resized from {image.width}x{image.height} the image has {size[0]}x{size[1]} pixels, more than the "
                f"{limit} that Pillow allows. Use do_center_crop=True, or another size than {dict(self.size or {})}."
            )
        return resize_and_crop(image, size, window, self.resample, threads)

    def _crop_array(self, array: np.ndarray) -> np.ndarray:
        """Floats that are not resized, as they are: (height, width, channels)."""
        if self.background_color is not None and array.shape[2] == 4:
            raise ValueError("background_color needs an image of 8 bits, not floats that are not resized.")
        if self.do_convert_rgb and array.shape[2] != 3:
            array = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]
        return crop_array(array, self._window((array.shape[1], array.shape[0])))

    def _finish(self, array: np.ndarray, in_unit_range: bool, out: np.ndarray | None) -> np.ndarray:
        """Rescale and normalise (height, width, channels) to (channels, height, width), as OpenAI does in float32."""
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
            array = _arithmetic(array, self.rescale_factor if self.do_rescale else None, mean, std)
            return array if out is None else np.copyto(out, array) or out
        factor = 1 / 255 if in_unit_range else self.rescale_factor if self.do_rescale else None
        if factor is None and mean is None:
            return np.ascontiguousarray(np.moveaxis(array, 2, 0))
        # There are 256 values, so each is computed once: the same bits for a third of the time.
        table = _value_table(channels, factor, mean, std)
        out = np.empty((channels, *array.shape[:2]), np.float32) if out is None else out
        for channel in range(channels):
            np.take(table[channel], array[..., channel], out=out[channel], mode="clip")
        return out


def _arithmetic(
    values: np.ndarray, factor: float | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> np.ndarray:
    """(values * factor - mean) / std in float32, for (channels, ...)."""
    shape = (-1, *[1] * (values.ndim - 1))
    if factor == 1 / 255:
        values = values / np.float32(255)  # as torchvision's ToTensor; multiplying would round otherwise
    elif factor is not None:
        values = (values.astype(np.float64) * factor).astype(np.float32)
    if mean is not None:
        values = (values - np.float32(mean).reshape(shape)) / np.float32(std).reshape(shape)
    return values


@lru_cache(maxsize=32)
def _value_table(
    channels: int, factor: float | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> np.ndarray:
    """What becomes of the values 0 to 255 in each channel: (channels, 256)."""
    values = np.tile(np.arange(256, dtype=np.float32), (channels, 1))
    return np.ascontiguousarray(_arithmetic(values, factor, mean, std))


class ClipHFImageProcessor(PilBackend):
    """Turns images into the pixel values that CLIP was trained on.

    It takes the options of transformers' `CLIPImageProcessor` and loads its configurations, and differs from it:

    - The pixels are those of OpenAI's transform, bit for bit, in every mode of Pillow: the image is resized before it
      is converted to RGB, alpha is dropped instead of blended with white, and the centre crop is rounded as
      torchvision rounds it.
    - It is faster: rows and columns that the crop throws away are not resized (a strip of 1x10,000 pixels takes
      milliseconds, not gigabytes), rescaling and normalising is one table look-up, and threads share the images of a
      batch, or the rows of a large image (`torch.get_num_threads()` of them; one in worker processes).
    - Images may also be paths, bytes of image files, or the mappings of `datasets.Image(decode=False)`, in any
      mixture. Files are read as they are stored, not turned upright; `apply_exif_orientation` turns all images.
    - What cannot be right raises a `ValueError` that names the image: truncated, empty and other unreadable files,
      decompression bombs, 16-bit images that would turn white, floats from 0 to 1 that would be divided by 255 again.

    How the modes of Pillow are read: as OpenAI's transform does. (It resizes palette indices: mode P by the nearest
    pixel, mode PA interpolated.) Mode La, which it refuses, is read as LA. The modes I, F and I;16 hold more than 8
    bits, of which it clips all that is above 255 to white: see `high_bit_depth`.

    Args:
        do_resize (`bool`, *optional*, defaults to `True`):
            Whether to resize to `size`.
        size (`int` or `dict[str, int]`, *optional*, defaults to `{"shortest_edge": 224}`):
            What to resize to: `{"shortest_edge": n}` (or `n`) keeps the aspect ratio, `{"height": h, "width": w}` does
            not. `{"shortest_edge": n, "longest_edge": m}` and `{"max_height": h, "max_width": w}` bound the size.
        resample (`int`, *optional*, defaults to `PIL.Image.Resampling.BICUBIC`):
            Pillow's filter.
        do_center_crop (`bool`, *optional*, defaults to `True`):
            Whether to crop the centre; smaller images are padded with zeros.
        crop_size (`int` or `dict[str, int]`, *optional*, defaults to `{"height": 224, "width": 224}`):
            The size of the crop.
        do_rescale (`bool`, *optional*, defaults to `True`):
            Whether to multiply with `rescale_factor`.
        rescale_factor (`float`, *optional*, defaults to `1 / 255`):
            The factor.
        do_normalize (`bool`, *optional*, defaults to `True`):
            Whether to subtract `image_mean` and divide by `image_std`. Without either step the result is uint8.
        image_mean (`list[float]`, *optional*, defaults to OpenAI's `[0.48145466, 0.4578275, 0.40821073]`):
            One value for each channel, or one for all.
        image_std (`list[float]`, *optional*, defaults to OpenAI's `[0.26862954, 0.26130258, 0.27577711]`):
            One value for each channel, or one for all.
        do_convert_rgb (`bool`, *optional*, defaults to `True`):
            Whether to convert to three channels.
        apply_exif_orientation (`bool`, *optional*, defaults to `False`):
            Whether to turn images as their EXIF orientation says. OpenAI's transform does not.
        background_color (`list[int]`, *optional*):
            Red, green and blue, 0 to 255: what transparent images are put on before all else. OpenAI's transform drops
            the alpha channel, so that the colours stored in transparent places appear; `(255, 255, 255)` is what
            transformers' `CLIPImageProcessor` does.
        high_bit_depth (`str`, *optional*, defaults to `"error"`):
            What to do with images that hold values which 8 bits cannot: `"error"` raises, since OpenAI's transform
            makes most of them white; `"clip"` gives OpenAI's pixels; `"scale"` maps 0 to 65535, or floats from 0 to 1,
            onto 0 to 255. Images of these modes with values of 0 to 255 are read as OpenAI's transform does.

    Raises:
        ValueError: An option has an impossible value.
        TypeError: There is no option of this name.

    Example:

    ```python
    >>> image_processor = ClipHFImageProcessor(size=336, crop_size=336)
    >>> image_processor(["cat.jpg", "dog.png"], return_tensors="pt").pixel_values.shape
    torch.Size([2, 3, 336, 336])
    ```
    """

    valid_kwargs = ClipHFImageProcessorKwargs

    do_resize = True
    size = {"shortest_edge": 224}
    default_to_square = False
    resample = PILImageResampling.BICUBIC
    do_center_crop = True
    crop_size = {"height": 224, "width": 224}
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    do_convert_rgb = True
    apply_exif_orientation = False
    background_color = None
    high_bit_depth = "error"

    def __init__(self, **kwargs: Unpack[ClipHFImageProcessorKwargs]):
        kwargs = {key: value for key, value in kwargs.items() if key not in BOOKKEEPING_KEYS}
        self._check_names(kwargs)
        super().__init__(**kwargs)
        self._validate_preprocess_kwargs(**{key: getattr(self, key) for key in self._valid_kwargs_names})

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs):
        """Build an image processor from the entries of a configuration file; see `from_pretrained`.

        Entries that are no options of this class are kept as attributes, with a warning.
        """
        valid = cls.valid_kwargs.__annotations__.keys()
        for name in kwargs.keys() - valid:  # other keywords may be meant for a tokenizer, so only slips are certain
            if close := difflib.get_close_matches(name, valid, 1, cutoff=0.85):
                raise TypeError(f"{cls.__name__} has no option {name!r}. Did you mean {close[0]!r}?")
        known = valid | BOOKKEEPING_KEYS
        unknown = {key: value for key, value in image_processor_dict.items() if key not in known}
        result = super().from_dict({k: v for k, v in image_processor_dict.items() if k in known}, **kwargs)
        processor = result[0] if isinstance(result, tuple) else result
        for key, value in unknown.items():
            logger.warning(f"The image processor's configuration has {key!r}, which {cls.__name__} does not use.")
            setattr(processor, key, value)
        return result

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """As in transformers, but the image processor itself is not changed: `auto_map` goes into the file only."""
        files = super().save_pretrained(save_directory, push_to_hub, **kwargs)
        vars(self).pop("auto_map", None)
        return files

    def preprocess(self, images: Any, **kwargs: Unpack[ClipHFImageProcessorKwargs]) -> BatchFeature:
        """Turn one image or many into pixel values.

        Args:
            images:
                An image, or a list of them, nested as you like, or a batch as an array or tensor of four axes. An
                image is a `PIL.Image.Image`; an array or tensor (height, width), (height, width, channels) or
                (channels, height, width), uint8, or floats of 0 to 1 with `do_rescale=False`; or what `open_image`
                takes: a path, a URL, the bytes of a file.
            **kwargs:
                The options of the class for this call, and `return_tensors` (`"pt"`, `"np"` or `None`),
                `input_data_format` and `data_format` (`"channels_first"` or `"channels_last"`: the layout of arrays,
                and of the result), `device` (where to put the result, with `return_tensors="pt"`).

        Returns:
            `BatchFeature`: `pixel_values`, float32, (batch, 3, height, width); a list of arrays without
            `return_tensors`.

        Raises:
            ValueError: An image cannot be used, or the images have different sizes in the end; the message tells which
                image and why.
            TypeError: Something is no image, or there is no option of this name.
        """
        self._check_names(kwargs)
        kwargs = {name: kwargs.get(name, getattr(self, name, None)) for name in self._valid_kwargs_names}
        kwargs = self._standardize_kwargs(**kwargs)
        self._validate_preprocess_kwargs(**kwargs)
        return self._preprocess_image_like_inputs(images, **kwargs)

    def _standardize_kwargs(self, **kwargs) -> dict[str, Any]:
        for name in ("size", "crop_size", "pad_size"):
            if not isinstance(kwargs.get(name), int | list | tuple | dict | SizeDict | None):
                raise ValueError(f"{name}={kwargs[name]!r} has to be an integer, or a mapping of integers.")
        return super()._standardize_kwargs(**kwargs)

    def _check_names(self, names: Iterable[str]) -> None:
        valid = self.valid_kwargs.__annotations__.keys()
        for name in names:
            if name not in valid:
                close = difflib.get_close_matches(name, valid, 1)
                hint = f" Did you mean {close[0]!r}?" if close else f" There are: {', '.join(sorted(valid))}."
                raise TypeError(f"{type(self).__name__} has no option {name!r}.{hint}")

    def _validate_preprocess_kwargs(self, **kwargs) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"):
            if not isinstance(kwargs.get(name), bool | None):
                raise ValueError(f"{name}={kwargs[name]!r} has to be True or False.")
        if kwargs.get("do_resize"):
            _check_size("size", kwargs["size"], SIZE_KEYS)
            if kwargs["resample"] not in RESAMPLING:
                raise ValueError(f"resample={kwargs['resample']!r} has to be one of PIL.Image.Resampling, 0 to 5.")
        if kwargs.get("do_center_crop"):
            _check_size("crop_size", kwargs["crop_size"], ({"height", "width"},))
        if kwargs.get("do_rescale") and not (_is_number(kwargs["rescale_factor"]) and kwargs["rescale_factor"]):
            raise ValueError(f"rescale_factor={kwargs['rescale_factor']!r} has to be a finite number other than 0.")
        if kwargs.get("do_normalize"):
            for name in ("image_mean", "image_std"):
                _check_channel_values(name, kwargs[name], bool(kwargs.get("do_convert_rgb")))
        if kwargs.get("high_bit_depth") not in HIGH_BIT_DEPTH:
            raise ValueError(
                f"high_bit_depth={kwargs['high_bit_depth']!r} has to be one of {', '.join(HIGH_BIT_DEPTH)}."
            )
        color = kwargs.get("background_color")
        values = list(color) if isinstance(color, list | tuple) else [color]
        if color is not None and not (len(values) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in values)):
            raise ValueError(
                f"background_color={color!r} has to be three integers from 0 to 255: red, green and blue."
            )

    def _preprocess_image_like_inputs(self, images: Any, **kwargs) -> BatchFeature:
        options = {name: kwargs[name] for name in _Options.__dataclass_fields__}
        options.update({name: _per_channel(options[name]) for name in ("image_mean", "image_std")})
        pixel_values = _process_all(list(flatten_images(images)), _Options(**options))
        if kwargs["do_pad"]:
            pixel_values = self.pad(list(pixel_values), pad_size=kwargs["pad_size"])
        if kwargs["data_format"] is not None and ChannelDimension(kwargs["data_format"]) == ChannelDimension.LAST:
            pixel_values = [np.moveaxis(array, 0, -1) for array in pixel_values]
        return _to_batch(pixel_values, kwargs["return_tensors"], kwargs["device"])

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open the paths, URLs and files' bytes in nested lists with `open_image`; leave other images as they are."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(item) for item in image_url_or_urls]
        if isinstance(image_url_or_urls, np.ndarray | torch.Tensor):
            return image_url_or_urls
        return open_image(image_url_or_urls)

    def center_crop(self, image: np.ndarray, size: SizeDict, **kwargs) -> np.ndarray:
        """Crop the centre of an array (channels, height, width) as torchvision does, padding with zeros."""
        left, top = crop_start(image.shape[2], size["width"]), crop_start(image.shape[1], size["height"])
        window = (left, top, left + size["width"], top + size["height"])
        return np.moveaxis(crop_array(np.moveaxis(image, 0, -1), window), -1, 0)


def _check_size(name: str, size: SizeDict, allowed: tuple[set[str], ...]) -> None:
    values = dict(size)
    if set(values) not in allowed:
        rules = " or ".join(str(sorted(keys)) for keys in allowed)
        raise ValueError(f"{name}={values} has to have the keys {rules}.")
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={values}: {key!r} has to be an integer of at least 1.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _per_channel(values: Any) -> tuple[float, ...] | None:
    return (float(values),) if _is_number(values) else values if values is None else tuple(map(float, values))


def _check_channel_values(name: str, values: Any, is_rgb: bool) -> None:
    sequence = [values] if _is_number(values) else list(values)
    if not sequence or not all(map(_is_number, sequence)):
        raise ValueError(f"{name}={values!r} has to hold finite numbers.")
    if is_rgb and len(sequence) not in (1, 3):
        raise ValueError(f"{name}={values!r} has to have three values, one for each channel of RGB, or one for all.")
    if name == "image_std" and 0 in sequence:
        raise ValueError(f"{name}={values!r} has a 0, by which nothing can be divided.")


def _process_all(sources: list[Any], options: _Options) -> np.ndarray | list[np.ndarray]:
    """Every image's pixels, in one array where they have one shape; the first that fails raises, with its number."""
    if not sources:
        raise ValueError("There are no images: the list is empty.")
    batch = options.empty_batch(len(sources))

    def process(index: int, threads: int = 1) -> np.ndarray:
        source = sources[index]
        try:
            return options.pixels(source, threads, None if batch is None else batch[index])
        except (ValueError, TypeError) as error:
            name = source.get("path") if isinstance(source, dict) else getattr(source, "filename", source)
            name = f" ({str(name)[:100]})" if isinstance(name, str | os.PathLike) and str(name) else ""
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"Image {index}{name}: {error}") from error

    # Worker processes share the cores among themselves already.
    threads = 1 if multiprocessing.parent_process() is not None else torch.get_num_threads()
    if len(sources) == 1:
        pixels = [process(0, threads)]
    else:
        # An image that is given twice may not be decoded by two threads at once.
        shared = [id(source) for source in sources if isinstance(source, Image.Image)]
        threads = min(threads, len(sources)) if len(set(shared)) == len(shared) else 1
        pixels = list(map_in_threads(process, range(len(sources)), threads))
    return pixels if batch is None else batch


def _to_batch(pixel_values: np.ndarray | list[np.ndarray], return_tensors: str | None, device: Any) -> BatchFeature:
    if return_tensors not in ("pt", "np", None):
        raise ValueError(f"return_tensors={return_tensors!r} has to be 'pt', 'np' or None.")
    if device is not None and return_tensors != "pt":
        raise ValueError(f"device={device!r} needs return_tensors='pt', not {return_tensors!r}.")
    if return_tensors is None:
        return BatchFeature({"pixel_values": list(pixel_values)})
    shapes = sorted({array.shape for array in pixel_values})
    if len(shapes) > 1:
        raise ValueError(
            f"The images have different shapes in the end, {shapes}, and form no batch. Use do_center_crop=True and "
            "do_convert_rgb=True, or return_tensors=None."
        )
    batch = pixel_values if isinstance(pixel_values, np.ndarray) else np.stack(pixel_values)
    if return_tensors == "np":
        return BatchFeature({"pixel_values": batch})
    features = BatchFeature({"pixel_values": torch.from_numpy(batch)})
    return features if device is None else features.to(device)


# Saving one then copies our files next to it, and names the class in `auto_map`.
ClipHFImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["ClipHFImageProcessor"]
