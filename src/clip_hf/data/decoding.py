# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Images of training pairs, read as in inference, and a name for whatever is wrong with one."""

import math
import os
import random
import warnings
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..image_processing_clip_hf import _composite, _has_alpha, _Options, _to_rgb
from ..image_resizing_clip_hf import resize_and_crop, resized_size
from .augmentation import Augmentation, random_window
from .skips import SkippedRow


if TYPE_CHECKING:
    from ..image_processing_clip_hf import ClipHFImageProcessor

# A whole resized image is kept only if it is at most so many times larger than the crop.
_MAX_CACHED_CROPS = 8
# Beginnings of files that Pillow knows, with the name of the format: a file that starts so and fails is damaged.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")


class _BadImage(ValueError):
    """An image that training cannot use; `kind` is its [`SkippedRow`]'s."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def _source_bytes_or_path(source: Any) -> Any:
    """What `open_image` takes, after the checks that need no decoding."""
    if isinstance(source, dict):
        source = source.get("path") if source.get("bytes") is None else source["bytes"]
    if source is None:
        raise _BadImage("image missing", "there is no image.")
    if isinstance(source, bytes | bytearray | memoryview) and len(source) == 0:
        raise _BadImage("file empty", "the file is empty.")
    if isinstance(source, str | os.PathLike):
        path = str(source)
        if not path.strip():
            raise _BadImage("image missing", "the path is blank.")
        if path.startswith(("http://", "https://", "data:")):
            return path
        if "://" in path or "::" in path:  # within an archive, or on a hub
            return _remote_bytes(path)
        if not os.path.exists(path):
            raise _BadImage("file missing", f"there is no file {path}.")
        if os.path.getsize(path) == 0:
            raise _BadImage("file empty", f"the file {path} is empty.")
    return source


def _remote_bytes(path: str) -> bytes:
    try:
        with fsspec.open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise _BadImage("file missing", f"there is no file {path}.") from error
    except Exception as error:  # each file system has types of its own
        raise _BadImage("file cannot be read", f"{path} cannot be read: {error}.") from error


def _kind_of(error: Exception, source: Any) -> str:
    """A name for what `open_image` or the processor raised."""
    cause = error.__cause__
    if isinstance(error, TypeError):
        return "not an image"
    if isinstance(cause, Image.DecompressionBombError):
        return "image too large"
    if isinstance(cause, UnidentifiedImageError):
        return "file damaged" if _first_bytes(source).startswith(_SIGNATURES) else "not an image"
    text = f"{error} {cause or ''}".lower()
    if "truncated" in text or "unexpected end" in text or "broken data stream" in text:
        return "file truncated"
    if "exif" in text:
        return "EXIF damaged"
    if "high_bit_depth" in text:
        return "more than 8 bits"
    if "no pixels" in text or "pixels, more than" in text:
        return "image too small" if "no pixels" in text else "image too large"
    if "download failed" in text:
        return "download failed"
    if "cannot be opened" in text:
        return "file cannot be read"
    if isinstance(cause, NotImplementedError) or any(
        words in text for words in ("unsupported", "not supported", "wrong mode")
    ):
        return "format not supported"
    return "file damaged" if cause is not None else "not an image"


def _first_bytes(source: Any) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source[:8])
    if isinstance(source, str | os.PathLike) and os.path.isfile(source):
        with open(source, "rb") as file:
            return file.read(8)
    return b""


class ImageReader:
    """
    Reads the images of training pairs: as `image_processor` does, but for the crop, which is at a random place.

    - The sizes, the conversion to RGB, the treatment of alpha, EXIF orientation and 16 bits are the processor's.
    - Only the crop is resized: a strip of 1 x 100,000 pixels needs no gigabytes.
    - What is wrong with an image is returned as a [`SkippedRow`]; Pillow's warnings stay unheard.

    Args:
        image_processor ([`ClipHFImageProcessor`]):
            Decides the sizes.
        augmentation ([`Augmentation`], *optional*):
            What is done to the crop.
        min_image_size (`int`, *optional*, defaults to 1):
            The least number of pixels of an image's shorter edge.
        cache_images (`bool`, *optional*, defaults to `False`):
            Whether to keep the resized images of rows in memory.

    Raises:
        ValueError: if the processor's images have no fixed size, or are not RGB where augmentation needs it.
    """

    def __init__(
        self,
        image_processor: "ClipHFImageProcessor",
        augmentation: Augmentation | None = None,
        min_image_size: int = 1,
        cache_images: bool = False,
    ):
        values = {name: getattr(image_processor, name, None) for name in image_processor._valid_kwargs_names}
        values = image_processor._standardize_kwargs(**values)
        self.options = _Options(**{name: values[name] for name in _Options.__dataclass_fields__})
        self.augmentation = augmentation if augmentation is not None and augmentation.is_on else None
        self.min_image_size = min_image_size
        self.cache: dict[int, np.ndarray] | None = {} if cache_images else None
        if self.augmentation is not None and not self.options.do_convert_rgb:
            raise ValueError("Augmentation needs RGB: use an image processor with do_convert_rgb=True.")

    def read(
        self, source: Any, where: str, generator: random.Random, cache_key: int | None = None
    ) -> np.ndarray | SkippedRow:
        """
        Read an image and cut out a part at a random place.

        Args:
            source (`bytes`, `str`, `os.PathLike`, `dict` or `PIL.Image.Image`):
                The bytes of a file, a path, a mapping with `"bytes"` or `"path"`, or an image.
            where (`str`):
                What to call the row in messages: `"row 17"`.
            generator (`random.Random`):
                Draws the place.
            cache_key (`int`, *optional*):
                The row's number in the cache, if there is one.

        Returns:
            `np.ndarray` of shape `(channels, height, width)`, uint8; or what is wrong, as a [`SkippedRow`].
        """
        kept = self.cached(cache_key)
        if kept is not None:
            left, top, right, bottom = self._window((kept.shape[2], kept.shape[1]), generator)
            return kept[:, top:bottom, left:right]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._crop(self._open(source), generator, cache_key)
        except (ValueError, TypeError, OSError) as error:
            kind = error.kind if isinstance(error, _BadImage) else _kind_of(error, _unwrapped(source))
            name = _name(source)
            message = f"The image of {where}{f' ({name})' if name else ''} cannot be used: {error}"
            return SkippedRow(kind, where, message)

    def cached(self, cache_key: int | None) -> np.ndarray | None:
        """The whole resized image of a row `(channels, height, width)`, if it was kept."""
        return None if self.cache is None else self.cache.get(cache_key)

    def augment(self, pixels: np.ndarray, generator: random.Random) -> np.ndarray:
        """Change a crop `(3, height, width)`, uint8, as [`Augmentation`] says."""
        if self.augmentation is None:
            return pixels
        image = self.augmentation(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))), generator)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def _crop(self, image: Image.Image, generator: random.Random, cache_key: int | None) -> np.ndarray:
        options = self.options
        size = resized_size(*image.size, options.size) if options.do_resize else image.size
        window = left, top, right, bottom = self._window(size, generator)
        limit = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
        if _area(window) > limit:
            raise _BadImage(
                "image too large", f"resized it has {size[0]}x{size[1]} pixels, more than Pillow's {limit}."
            )
        if self.cache is None or size[0] * size[1] > _MAX_CACHED_CROPS * _area(window):
            return _pixels(self._rgb(resize_and_crop(image, size, window, options.resample)))
        whole = _pixels(self._rgb(resize_and_crop(image, size, (0, 0, *size), options.resample)))
        self.cache[cache_key] = whole
        return whole[:, top:bottom, left:right]

    def _open(self, source: Any) -> Image.Image:
        image = self.options._read_image(_source_bytes_or_path(source))
        if min(image.size) < self.min_image_size:
            raise _BadImage(
                "image too small", f"it has {image.width}x{image.height} pixels; {self.min_image_size} are the least."
            )
        if self.options.background_color is not None and _has_alpha(image):
            image = _composite(image, self.options.background_color)
        return image

    def _rgb(self, image: Image.Image) -> Image.Image:
        return _to_rgb(image) if self.options.do_convert_rgb else image

    def _window(self, size: tuple[int, int], generator: random.Random) -> tuple[int, int, int, int]:
        if not self.options.do_center_crop:
            return (0, 0, *size)
        crop = (self.options.crop_size.width, self.options.crop_size.height)
        try:
            return random_window(*size, crop, generator)
        except ValueError as error:
            raise _BadImage("image too small", str(error)) from error


def _area(window: tuple[int, int, int, int]) -> int:
    return (window[2] - window[0]) * (window[3] - window[1])


def _unwrapped(source: Any) -> Any:
    if isinstance(source, dict):
        return source.get("path") if source.get("bytes") is None else source["bytes"]
    return source


def _name(source: Any) -> str:
    name = source.get("path") if isinstance(source, dict) else getattr(source, "filename", source)
    return str(name)[:200] if isinstance(name, str | os.PathLike) else ""


def _pixels(image: Image.Image) -> np.ndarray:
    """(channels, height, width), uint8."""
    array = np.asarray(image)
    array = array * np.uint8(255) if array.dtype == bool else array  # mode 1
    array = array[..., None] if array.ndim == 2 else array
    return np.ascontiguousarray(np.moveaxis(array, 2, 0)).astype(np.uint8, copy=False)


__all__ = ["ImageReader"]
