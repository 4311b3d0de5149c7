# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The image processor: the pixels of OpenAI's CLIP, bit for bit, from images, arrays, files and URLs."""

import math
import multiprocessing
import os
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from PIL import Image
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

from .checks_clip_hf import near_names, unknown_option
from .configuration_clip_hf import ClearFileErrors
from .image_reading_clip_hf import DEFAULT_LIMITS, ImageLimits, UnreadableImage, flatten_images, open_image
from .image_resizing_clip_hf import crop_array, crop_start, map_in_threads
from .image_transform_clip_hf import HIGH_BIT_DEPTH, ImageTransform, parse_color, per_channel


logger = logging.get_logger(__name__)

RESAMPLING = range(6)  # values of PIL.Image.Resampling that transformers accepts
SIZE_KEYS = ({"shortest_edge"}, {"height", "width"}, {"shortest_edge", "longest_edge"}, {"max_height", "max_width"})
# Entries of configuration files that say what wrote them, or that transformers' processors no longer use.
BOOKKEEPING_KEYS = {"auto_map", "feature_extractor_type", "image_processor_type", "processor_class", "use_fast"}
BOOKKEEPING_KEYS |= {"_valid_processor_keys"}

# ---------------------------------------------------------------------------------------------------------- processor


class ClipHFImageProcessorKwargs(ImagesKwargs, total=False):
    """Options that only `ClipHFImageProcessor` has; it describes them."""

    apply_exif_orientation: bool
    background_color: list[int] | tuple[int, ...] | str | None
    high_bit_depth: str
    draft: bool


class ClipHFImageProcessor(ClearFileErrors, PilBackend):
    """Turns images into the pixel values that CLIP was trained on.

    It takes the options of transformers' `CLIPImageProcessor` and loads its configurations. It differs in this:

    - The pixels are those of OpenAI's transform, bit for bit, in every mode of Pillow: the image is resized before it
      is converted to RGB, alpha is dropped instead of blended with white, and the centre crop is rounded as
      torchvision rounds it.
    - It is faster: rows and columns outside the crop are not resized (a strip of 1x10,000 pixels takes milliseconds,
      not gigabytes), rescaling and normalising are one table look-up, and threads share the images of a batch, or the
      rows of a large image (`torch.get_num_threads()` of them; one in worker processes).
    - Images may also be paths, bytes of image files, or mappings of `datasets.Image(decode=False)`, in any mixture.
      Images with an EXIF orientation are turned upright, which OpenAI's transform does not do.
    - Unusable images raise a `ValueError` that names the image: truncated, empty and other unreadable files,
      decompression bombs, 16-bit images that would turn white, floats from 0 to 1 that would be divided by 255 again.

    Pillow's modes are treated as in OpenAI's transform. (It resizes palette indices: mode P by the nearest pixel, mode
    PA by interpolation.) Mode La, which it refuses, is read as LA. In the modes I, F and I;16, which hold more than 8
    bits, it clips values above 255 to white: see `high_bit_depth`.

    Args:
        do_resize (`bool`, *optional*, defaults to `True`): Whether to resize to `size`.
        size (`int` or `dict[str, int]`, *optional*, defaults to `{"shortest_edge": 224}`): Size after resizing:
            `{"shortest_edge": n}` (or `n`) keeps the aspect ratio, `{"height": h, "width": w}` does not.
            `{"shortest_edge": n, "longest_edge": m}` and `{"max_height": h, "max_width": w}` bound the size.
        resample (`int`, *optional*, defaults to `PIL.Image.Resampling.BICUBIC`): Pillow's filter.
        do_center_crop (`bool`, *optional*, defaults to `True`): Whether to crop the centre; smaller images are padded
            with zeros.
        crop_size (`int` or `dict[str, int]`, *optional*, defaults to `{"height": 224, "width": 224}`): The size of the
            crop.
        do_rescale (`bool`, *optional*, defaults to `True`): Whether to multiply by `rescale_factor`.
        rescale_factor (`float`, *optional*, defaults to `1 / 255`): Factor of `do_rescale`.
        do_normalize (`bool`, *optional*, defaults to `True`): Whether to subtract `image_mean` and divide by
            `image_std`. Without either step the result is uint8.
        image_mean (`list[float]`, *optional*, defaults to OpenAI's `[0.48145466, 0.4578275, 0.40821073]`): Mean to
            subtract: one value for each channel, or one for all.
        image_std (`list[float]`, *optional*, defaults to OpenAI's `[0.26862954, 0.26130258, 0.27577711]`): Standard
            deviation to divide by: one value for each channel, or one for all.
        do_convert_rgb (`bool`, *optional*, defaults to `True`): Whether to convert to three channels.
        apply_exif_orientation (`bool`, *optional*, defaults to `True`): Whether to turn images upright by their EXIF
            orientation, which phones store. OpenAI's transform ignores it: `False` gives OpenAI's pixels for these
            images too.
        background_color (`list[int]` or `str`, *optional*): Background of transparent images, applied first: red,
            green and blue, 0 to 255, or a name such as `"white"` or `"#ffffff"`. By default the alpha channel is
            dropped as in OpenAI's transform, so that the colours stored in transparent places appear; transformers'
            `CLIPImageProcessor` uses white.
        high_bit_depth (`str`, *optional*, defaults to `"error"`): How to read images of more than 8 bits, whole
            numbers or floats: `"scale"` maps 0 to 65535, or floats of 0 to 1, onto 0 to 255; `"clip"` gives OpenAI's
            pixels, most of them white or black; `"error"` raises unless the values are 0 to 255.
        draft (`bool`, *optional*, defaults to `False`): Whether to decode JPEG files at 1/2, 1/4 or 1/8 of their size,
            the smallest whose shorter edge has twice the pixels of the resized one. That is several times as fast for
            large files; the pixels differ slightly. Never saved, so that a repo cannot choose it.

    Raises:
        ValueError: An option has an impossible value.
        TypeError: An option is unknown.

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
    apply_exif_orientation = True
    background_color = None
    high_bit_depth = "error"
    draft = False

    def __init__(self, **kwargs: Unpack[ClipHFImageProcessorKwargs]):
        kwargs = self._drop_unset({key: value for key, value in kwargs.items() if key not in BOOKKEEPING_KEYS})
        super().__init__(**_parse_background(kwargs))
        self._validate_preprocess_kwargs(**{key: getattr(self, key) for key in self._valid_kwargs_names})

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs):
        """Build an image processor from the entries of a configuration file; see `from_pretrained`.

        Unknown entries are kept as attributes, with a warning.
        """
        valid = cls.valid_kwargs.__annotations__.keys()
        for name in kwargs.keys() - valid:  # unknown keywords may be a tokenizer's, so only misspelled ones raise
            if near_names(name, valid, cutoff=0.85):
                raise TypeError(unknown_option(name, cls.__name__, valid))
        image_processor_dict = {key: value for key, value in image_processor_dict.items() if key != "draft"}
        known = valid | BOOKKEEPING_KEYS
        unknown = {key: value for key, value in image_processor_dict.items() if key not in known}
        result = super().from_dict({k: v for k, v in image_processor_dict.items() if k in known}, **kwargs)
        processor = result[0] if isinstance(result, tuple) else result
        for key, value in unknown.items():
            logger.warning(f"The image processor's configuration has {key!r}, which {cls.__name__} does not use.")
            setattr(processor, key, value)
        return result

    def to_dict(self) -> dict[str, Any]:
        """The entries of a configuration file: all options but `draft`."""
        return {name: value for name, value in super().to_dict().items() if name != "draft"}

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> list[str]:
        """Save as transformers does, but without changing the image processor: `auto_map` goes into the file only."""
        files = super().save_pretrained(save_directory, push_to_hub, **kwargs)
        vars(self).pop("auto_map", None)
        return files

    def preprocess(
        self, images: Any, image_limits: ImageLimits | None = None, **kwargs: Unpack[ClipHFImageProcessorKwargs]
    ) -> BatchFeature:
        """Turn one image or many into pixel values.

        Args:
            images: An image, a (nested) list of images, or a batch as an array or tensor of four axes. An image is a
                `PIL.Image.Image`; an array or tensor (height, width), (height, width, channels) or (channels, height,
                width) of uint8, or of floats from 0 to 255 (from 0 to 1 with `do_rescale=False`); or what `open_image`
                takes: a path, a URL, the bytes of a file.
            image_limits ([`ImageLimits`], *optional*): Limits on reading an image. Not part of the configuration, so
                that no repo can raise them.
            **kwargs: Options of the class for this call; `return_tensors` (`"pt"`, `"np"` or `None`);
                `input_data_format` and `data_format` (`"channels_first"` or `"channels_last"`: layout of arrays and of
                the result); `device` (of the result, with `return_tensors="pt"`).

        Returns:
            `BatchFeature`: `pixel_values`, float32, (batch, 3, height, width); a list of arrays without
            `return_tensors`.

        Raises:
            ValueError: An image cannot be used (the message says which one and why), or the results have different
                sizes.
            TypeError: Something is not an image, or an option is unknown.
        """
        kwargs = self._complete_options(kwargs)
        transform = self._build_transform(kwargs, image_limits)
        pixel_values = _process_all(list(flatten_images(images)), transform)
        if kwargs["do_pad"]:
            pixel_values = self.pad(list(pixel_values), pad_size=kwargs["pad_size"])
        if kwargs["data_format"] is not None and ChannelDimension(kwargs["data_format"]) == ChannelDimension.LAST:
            pixel_values = [np.moveaxis(array, 0, -1) for array in pixel_values]
        return to_batch(pixel_values, kwargs["return_tensors"], kwargs["device"])

    def transform(self, image_limits: ImageLimits | None = None, **kwargs) -> ImageTransform:
        """The transform of each image in a call with these options; training uses parts of it."""
        return self._build_transform(self._complete_options(kwargs), image_limits)

    def _complete_options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Validate the options of a call and add those of the class."""
        kwargs = _parse_background(self._drop_unset(kwargs))
        kwargs = {name: kwargs.get(name, getattr(self, name, None)) for name in self._valid_kwargs_names}
        kwargs = self._standardize_kwargs(**kwargs)
        self._validate_preprocess_kwargs(**kwargs)
        return kwargs

    def _build_transform(self, kwargs: dict[str, Any], image_limits: ImageLimits | None) -> ImageTransform:
        options = {field.name: kwargs[field.name] for field in fields(ImageTransform) if field.name != "limits"}
        options.update({name: per_channel(options[name]) for name in ("image_mean", "image_std")})
        return ImageTransform(**options, limits=image_limits or DEFAULT_LIMITS)

    def _standardize_kwargs(self, **kwargs) -> dict[str, Any]:
        for name in ("size", "crop_size", "pad_size"):
            if not isinstance(kwargs.get(name), int | list | tuple | dict | SizeDict | None):
                raise ValueError(f"{name}={kwargs[name]!r} must be an integer or a mapping of integers.")
        return super()._standardize_kwargs(**kwargs)

    def _drop_unset(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Raise for unknown options, but drop those that are None or False."""
        valid = self.valid_kwargs.__annotations__.keys()
        for name in kwargs.keys() - valid:
            if not is_unset(name, kwargs[name], valid):
                available = ", ".join(sorted(valid))
                raise TypeError(f"{unknown_option(name, type(self).__name__, valid)} Available: {available}.")
        return {name: value for name, value in kwargs.items() if name in valid}

    def _validate_preprocess_kwargs(self, **kwargs) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "draft"):
            if not isinstance(kwargs.get(name), bool | None):
                raise ValueError(f"{name}={kwargs[name]!r} must be True or False.")
        if kwargs.get("do_resize"):
            _check_size("size", kwargs["size"], SIZE_KEYS)
            if kwargs["resample"] not in RESAMPLING:
                raise ValueError(f"resample={kwargs['resample']!r} must be one of PIL.Image.Resampling, 0 to 5.")
        if kwargs.get("do_center_crop"):
            _check_size("crop_size", kwargs["crop_size"], ({"height", "width"},))
        if kwargs.get("do_rescale") and not (_is_number(kwargs["rescale_factor"]) and kwargs["rescale_factor"]):
            raise ValueError(f"rescale_factor={kwargs['rescale_factor']!r} must be a finite number other than 0.")
        if kwargs.get("do_normalize"):
            for name in ("image_mean", "image_std"):
                _check_channel_values(name, kwargs[name], bool(kwargs.get("do_convert_rgb")))
        if kwargs.get("high_bit_depth") not in HIGH_BIT_DEPTH:
            raise ValueError(
                f"high_bit_depth={kwargs['high_bit_depth']!r} must be one of {', '.join(HIGH_BIT_DEPTH)}."
            )
        color = kwargs.get("background_color")
        values = list(color) if isinstance(color, list | tuple) else [color]
        if color is not None and not (len(values) == 3 and all(isinstance(v, int) and 0 <= v <= 255 for v in values)):
            raise ValueError(f"background_color={color!r} must be three integers from 0 to 255: red, green and blue.")

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open the paths, URLs and bytes of files in nested lists with `open_image`; arrays stay as they are."""
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


def _parse_background(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Replace the name of a background colour by its numbers, which configuration files hold."""
    color = kwargs.get("background_color")
    return {**kwargs, "background_color": parse_color(color)} if isinstance(color, str) else kwargs


def is_unset(name: str, value: Any, valid: Iterable[str]) -> bool:
    """Whether to ignore an unknown option: it is None, or False and not misspelled (`do_resise=False` is an error).

    None and False switch off options of other processors.
    """
    return value is None or (value is False and not near_names(name, valid, cutoff=0.85))


def opens_files(image_processor: Any) -> bool:
    """Whether an image processor opens files itself: a `ClipHFImageProcessor`, perhaps of a repo's own code."""
    return hasattr(image_processor, "apply_exif_orientation")


def _check_size(name: str, size: SizeDict, allowed: tuple[set[str], ...]) -> None:
    values = dict(size)
    if set(values) not in allowed:
        rules = " or ".join(str(sorted(keys)) for keys in allowed)
        raise ValueError(f"{name}={values} must have the keys {rules}.")
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={values}: {key!r} must be an integer of at least 1.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _check_channel_values(name: str, values: Any, is_rgb: bool) -> None:
    sequence = [values] if _is_number(values) else list(values)
    if not sequence or not all(map(_is_number, sequence)):
        raise ValueError(f"{name}={values!r} must hold finite numbers.")
    if is_rgb and len(sequence) not in (1, 3):
        raise ValueError(f"{name}={values!r} must have three values, one for each channel of RGB, or one for all.")
    if name == "image_std" and 0 in sequence:
        raise ValueError(f"{name}={values!r} must not hold 0, because it divides the values.")


def _process_all(sources: list[Any], options: ImageTransform) -> np.ndarray | list[np.ndarray]:
    """Pixels of all images, in one array if they have one shape; an error names the number of its image."""
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
            message = f"Image {index}{name}: {str(error).removeprefix(f'{str(source)[:200]}: ')}"  # not the URL twice
            if isinstance(error, UnreadableImage):
                raise UnreadableImage(error.kind, message) from error
            raise (TypeError if isinstance(error, TypeError) else ValueError)(message) from error

    # Worker processes already share the cores.
    threads = 1 if multiprocessing.parent_process() is not None else torch.get_num_threads()
    if len(sources) == 1:
        pixels = [process(0, threads)]
    else:
        # Two threads must not decode the same image object at once.
        image_ids = [id(source) for source in sources if isinstance(source, Image.Image)]
        threads = min(threads, len(sources)) if len(set(image_ids)) == len(image_ids) else 1
        pixels = list(map_in_threads(process, range(len(sources)), threads))
    return pixels if batch is None else batch


def to_batch(pixel_values: np.ndarray | list[np.ndarray], return_tensors: str | None, device: Any) -> BatchFeature:
    """The result of an image processor: pixels of one shape in a batch, or a list of them without `return_tensors`."""
    if return_tensors not in ("pt", "np", None):
        raise ValueError(f"return_tensors={return_tensors!r} must be 'pt', 'np' or None.")
    if device is not None and return_tensors != "pt":
        raise ValueError(f"device={device!r} needs return_tensors='pt', not {return_tensors!r}.")
    if return_tensors is None:
        return BatchFeature({"pixel_values": list(pixel_values)})
    shapes = sorted({array.shape for array in pixel_values})
    if len(shapes) > 1:
        raise ValueError(
            f"The processed images have different shapes, {shapes}, and cannot form a batch. Use do_center_crop=True "
            "and do_convert_rgb=True, or return_tensors=None."
        )
    batch = pixel_values if isinstance(pixel_values, np.ndarray) else np.stack(pixel_values)
    if return_tensors == "np":
        return BatchFeature({"pixel_values": batch})
    features = BatchFeature({"pixel_values": torch.from_numpy(batch)})
    return features if device is None else features.to(device)


# Makes saving copy our files and name the class in `auto_map`.
ClipHFImageProcessor.register_for_auto_class("AutoImageProcessor")
