# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reading of training images, as in inference; whatever is wrong with an image gets a name."""

import os
import random
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..model.image_reading_clip_hf import (
    DEFAULT_LIMITS,
    REFUSED,
    ImageLimits,
    UnreadableImage,
    refused_name,
    unwrap_source,
)
from ..model.image_transform_clip_hf import as_bytes, has_alpha
from .augmentation import Augmentation, random_area_window, random_window
from .media import IMAGES
from .skips import SkippedRow, stop_if_exhausted
from .texts import escaped


if TYPE_CHECKING:
    from ..model.image_processing_clip_hf import ClipHFImageProcessor

# A whole resized image is kept only if it is at most this many times larger than the crop.
_MAX_CACHED_CROPS = 8


class ImageReader:
    """Reads the images of pairs as `image_processor` does, but in training crops at a random place.

    - The sizes, the conversion to RGB, the treatment of alpha, EXIF orientation and 16 bits are the processor's.
    - Only the crop is resized, so a strip of 1 x 100,000 pixels does not take gigabytes.
    - An image that cannot be used is returned as a [`SkippedRow`]; Pillow's warnings are silenced.
    - With `cache_images` the resized images of rows stay in memory.
    - With the augmentation's `crop_scale` the part is cut out of the image as it was read, before it is resized; of
      kept images out of the resized one, which has less detail.
    """

    noun = IMAGES.noun

    def __init__(
        self,
        image_processor: "ClipHFImageProcessor",
        augmentation: Augmentation | None = None,
        min_image_size: int = 1,
        cache_images: bool = False,
        limits: ImageLimits = DEFAULT_LIMITS,
    ):
        self.transform = image_processor.transform(limits)
        self.augmentation = augmentation if augmentation is not None and augmentation.is_on else None
        self.min_image_size = min_image_size
        self.cache: dict[int, np.ndarray] | None = {} if cache_images else None
        self.lost_alpha = False  # whether the last picture had transparency, and no background to be put on
        self._kept_without_alpha: set[int | None] = set()
        self.crop_scale = None if augmentation is None else augmentation.crop_scale
        if self.crop_scale is not None:
            if not self.transform.do_center_crop:
                raise ValueError("`crop_scale` needs an image processor with do_center_crop=True, which has the size.")
            # A JPEG decoded at a fraction of its size would lack the detail of a small part.
            self.transform = replace(self.transform, draft=False)
        if self.augmentation is not None and not self.transform.do_convert_rgb:
            raise ValueError("Augmentation needs RGB: use an image processor with do_convert_rgb=True.")

    def __getstate__(self) -> dict[str, Any]:
        # Copies start with an empty cache, and `datasets` sees the same reader before and after its use.
        fresh = {"cache": None if self.cache is None else {}, "lost_alpha": False, "_kept_without_alpha": set()}
        return {**vars(self), **fresh}

    def read(
        self,
        source: Any,
        where: str,
        generator: random.Random | None,
        cache_key: int | None = None,
        threads: int = 1,
    ) -> np.ndarray | SkippedRow:
        """Read an image and cut out a part `(channels, height, width)`, uint8.

        Args:
            source: What `open_image` takes.
            where (`str`): What to call the row in messages: `"row 17"`.
            generator (`random.Random`, *optional*): Draws the place; without it the centre is cut out, as in
                inference.
            cache_key (`int`, *optional*): The row's number in the cache, if there is one.
            threads (`int`, *optional*, defaults to 1): Threads that resize the image.
        """
        kept = self.cached(cache_key)
        self.lost_alpha = kept is not None and cache_key in self._kept_without_alpha
        if kept is not None:
            return self._part_of_kept(kept, generator, threads)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._read(source, generator, cache_key, threads)
        except Exception as error:  # one row must never end a training, whatever a library raises
            return skipped_image(error, source, where, self.noun)

    def cached(self, cache_key: int | None) -> np.ndarray | None:
        """The whole resized image of a row `(channels, height, width)`, if it was kept."""
        return None if self.cache is None else self.cache.get(cache_key)

    def augment(self, pixels: np.ndarray, generator: random.Random) -> np.ndarray:
        """Change a crop `(3, height, width)`, uint8, as [`Augmentation`] says."""
        if self.augmentation is None:
            return pixels
        image = self.augmentation(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))), generator)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def check_size(self, image: Image.Image) -> None:
        """Raise an `UnreadableImage` for an image, or a frame of a film, that is smaller than `min_image_size`."""
        if min(image.size) < self.min_image_size:
            raise UnreadableImage(
                f"{self.noun} too small",
                f"it has {image.width}x{image.height} pixels; {self.min_image_size} are the least.",
            )

    def pixels_of(
        self, image: Image.Image, size: tuple[int, int], window: tuple[int, int, int, int], threads: int
    ) -> np.ndarray:
        """The part `window` of an image resized to `size`: `(channels, height, width)`, uint8."""
        part = self.transform.resize_and_crop(image, size, window, threads)
        return np.ascontiguousarray(np.moveaxis(as_bytes(part), 2, 0)).astype(np.uint8, copy=False)

    def area_of(self, image: Image.Image, window: tuple[int, int, int, int], threads: int) -> np.ndarray:
        """The part `window` of an image, resized to the crop: `(channels, height, width)`, uint8."""
        size = (self.transform.crop_size.width, self.transform.crop_size.height)
        return self.pixels_of(image.crop(window), size, (0, 0, *size), threads)

    def _part_of_kept(self, kept: np.ndarray, generator: random.Random | None, threads: int) -> np.ndarray:
        size = (kept.shape[2], kept.shape[1])
        if self.crop_scale is not None and generator is not None:
            channels_last = kept.transpose(1, 2, 0)
            image = Image.fromarray(np.ascontiguousarray(channels_last[..., 0] if len(kept) == 1 else channels_last))
            return self.area_of(image, random_area_window(*size, self.crop_scale, generator), threads)
        left, top, right, bottom = self._window(size, generator)
        return kept[:, top:bottom, left:right]

    def _read(self, source: Any, generator: random.Random | None, cache_key: int | None, threads: int) -> np.ndarray:
        check_not_missing(source)
        image = self.transform.open(source)
        self.lost_alpha = has_alpha(image)
        self.check_size(image)
        size = self.transform.resized_size(image)
        crops_areas = self.crop_scale is not None and generator is not None
        if crops_areas and self.cache is None:
            return self.area_of(image, random_area_window(*image.size, self.crop_scale, generator), threads)
        crop = self.transform.crop_size if self.transform.do_center_crop else None
        area = size[0] * size[1] if crop is None else crop.width * crop.height
        if self.cache is None or size[0] * size[1] > _MAX_CACHED_CROPS * area:
            if crops_areas:
                return self.area_of(image, random_area_window(*image.size, self.crop_scale, generator), threads)
            return self.pixels_of(image, size, self._window(size, generator), threads)
        whole = self.pixels_of(image, size, (0, 0, *size), threads)
        self.cache[cache_key] = whole
        if self.lost_alpha:
            self._kept_without_alpha.add(cache_key)
        return self._part_of_kept(whole, generator, threads)

    def _window(self, size: tuple[int, int], generator: random.Random | None) -> tuple[int, int, int, int]:
        if generator is None or not self.transform.do_center_crop:
            return self.transform.crop_window(size)
        crop = (self.transform.crop_size.width, self.transform.crop_size.height)
        try:
            return random_window(*size, crop, generator)
        except ValueError as error:
            raise UnreadableImage(f"{self.noun} too small", str(error)) from error


def check_not_missing(source: Any, noun: str = "image") -> None:
    """Raise an `UnreadableImage` if a row has no image (or film, the `noun`) at all."""
    if unwrap_source(source) is None:
        raise UnreadableImage(f"{noun} missing", f"there is no {noun}.")


def skipped_image(error: Exception, source: Any, where: str, noun: str = "image") -> SkippedRow:
    """What `error`, raised by reading the image (or film, the `noun`) of `source`, says of the row `where`.

    Raises:
        OSError: if it says nothing of the row, see `stop_if_exhausted`.
    """
    stop_if_exhausted(error, f"the {noun} of {where}")
    path = source.get("path") if isinstance(source, dict) else getattr(source, "filename", source)
    path = str(path) if isinstance(path, str | os.PathLike) else ""
    if path.startswith(REFUSED):  # for a reason that names it
        message = f"The {noun} of {where} cannot be used: {error}"
        return SkippedRow(_kind_of(error, noun), where, message, escaped(refused_name(path))[:200])
    name = path[:200]
    reason = str(error).replace(f"{name} is ", "it is ") if name else str(error)
    message = f"The {noun} of {where}{f' ({name})' if name else ''} cannot be used: {reason}"
    return SkippedRow(_kind_of(error, noun), where, message, name)


def _kind_of(error: Exception, noun: str) -> str:
    if isinstance(error, UnreadableImage):
        return error.kind
    return f"not {'an' if noun == 'image' else 'a'} {noun}" if isinstance(error, TypeError) else "file damaged"
