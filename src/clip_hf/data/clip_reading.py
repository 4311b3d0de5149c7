# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reading of training clips: some frames of each film, all cut out and changed alike."""

import random
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..model.image_reading_clip_hf import ImageLimits, UnreadableImage, check_scheme, fetch_file, unwrap_source
from ..model.video_opening_clip_hf import VideoLimits
from ..model.video_reading_clip_hf import ClipSampling, read_clip
from ..utils.extras import require_extra
from .augmentation import Augmentation, random_area_window
from .decoding import ImageReader, check_not_missing
from .media import IMAGES, VIDEOS
from .pair_options import PairOptions


if TYPE_CHECKING:
    from ..model.image_processing_clip_hf import ClipHFImageProcessor


def build_reader(image_processor: "ClipHFImageProcessor", options: PairOptions, training: bool = True) -> ImageReader:
    """The reader of the images or films of pairs; without `training` nothing is changed or kept.

    Raises:
        ValueError: if films are to be read and `num_frames` is missing.
        ImportError: if films are to be read and PyAV is not installed.
    """
    augmentation = options.augmentation if training else None
    common = (image_processor, augmentation, options.min_image_size)
    if options.media == IMAGES.name:
        return ImageReader(*common, options.cache_images and training, options.image_limits)
    if options.num_frames is None:
        raise ValueError("The data are films, and `num_frames` (--num_frames) is missing: how many frames a clip has.")
    return ClipReader(*common, options.num_frames, options.image_limits)


class ClipReader(ImageReader):
    """Reads clips of films as [`ImageReader`] does images: pixels are `(frames, channels, height, width)`.

    - A film is divided into `num_frames` segments of equal length; in training a frame of each is drawn, else its
      middle frame is taken. Films of fewer frames give some of them several times.
    - The place of the crop and every change are drawn once for a clip: its frames differ only as those of the film do.
    - URLs are downloaded whole, as those of images.
    """

    noun = VIDEOS.noun

    def __init__(
        self,
        image_processor: "ClipHFImageProcessor",
        augmentation: Augmentation | None,
        min_image_size: int,
        num_frames: int,
        limits: ImageLimits,
    ):
        # Else each film would be skipped, because it cannot be read.
        require_extra("video", "Reading films", "av")
        super().__init__(image_processor, augmentation, min_image_size, limits=limits)
        self.sampling = ClipSampling(num_frames)
        largest = {} if limits.max_pixels is None else {"max_pixels": limits.max_pixels}
        self.limits, self.video_limits = limits, VideoLimits(max_bytes=limits.max_bytes, **largest)

    def augment(self, pixels: np.ndarray, generator: random.Random) -> np.ndarray:
        """Change the frames `(frames, 3, height, width)`, uint8, all alike."""
        if self.augmentation is None:
            return pixels
        state, changed = generator.getstate(), []
        for frame in pixels:
            generator.setstate(state)  # the same draws for each frame
            changed.append(super().augment(frame, generator))
        return np.stack(changed)

    def _read(self, source: Any, generator: random.Random | None, cache_key: int | None, threads: int) -> np.ndarray:
        check_not_missing(source, self.noun)
        location = unwrap_source(source)
        if isinstance(location, str) and check_scheme(location) is not None:
            source = fetch_file(location, self.limits)
        offsets = None if generator is None else np.random.default_rng(generator.getrandbits(64))
        frames = read_clip(source, self.sampling, generator=offsets, limits=self.video_limits)
        return self._cut_out(frames, generator, threads)

    def _cut_out(self, frames: list[Image.Image], generator: random.Random | None, threads: int) -> np.ndarray:
        """The same part of each frame, `(frames, channels, height, width)`, uint8."""
        self.check_size(frames[0])
        size = self.transform.resized_size(frames[0])
        crops_areas = self.crop_scale is not None and generator is not None
        if crops_areas:
            window = random_area_window(*frames[0].size, self.crop_scale, generator)
        else:
            window = self._window(size, generator)
        cut: dict[int, np.ndarray] = {}  # a frame that a short film gives several times is resized once
        for frame in frames:
            if frame.size != frames[0].size:
                raise UnreadableImage(
                    "size changes", f"its frames change from {frames[0].size} to {frame.size} pixels."
                )
            if id(frame) not in cut:
                part = self.area_of(frame, window, threads) if crops_areas else None
                cut[id(frame)] = self.pixels_of(frame, size, window, threads) if part is None else part
        return np.stack([cut[id(frame)] for frame in frames])
