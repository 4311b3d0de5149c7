# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The video processor: films to the pixel values of clips, each frame as the image processor makes it."""

import io
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_base import BatchFeature
from transformers.processing_utils import Unpack

from .checks_clip_hf import type_of
from .image_processing_clip_hf import ClipHFImageProcessor, ClipHFImageProcessorKwargs, to_batch
from .image_reading_clip_hf import (
    DEFAULT_LIMITS,
    IMAGE_ENDINGS,
    IMAGE_FORMATS,
    IMAGE_SIGNATURES,
    ImageLimits,
    UnreadableImage,
    open_regular,
)
from .video_opening_clip_hf import DEFAULT_VIDEO_LIMITS, UnreadableVideo, VideoLimits, is_video
from .video_reading_clip_hf import ClipSampling, read_clip


_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # the pages of other formats are pictures of their own


class ClipHFVideoProcessorKwargs(ClipHFImageProcessorKwargs, total=False):
    """Options that only `ClipHFVideoProcessor` has; it describes them."""

    num_frames: int


class ClipHFVideoProcessor(ClipHFImageProcessor):
    """Turns films into clips of pixel values: `num_frames` frames of each, from the middle of equal parts of the film.

    Each frame's pixels are those of [`ClipHFImageProcessor`], whose options and configurations it takes:
    `from_pretrained` makes a video processor of an image CLIP's files, too. It needs the extra `video` to open files.

    Args:
        num_frames (`int`, *optional*, defaults to 8): Frames of a clip. Films with fewer give some of them twice.

    The other arguments are those of [`ClipHFImageProcessor`].

    Raises:
        ValueError: An option has an impossible value.
        TypeError: An option is unknown.

    Example:

    ```python
    >>> video_processor = ClipHFVideoProcessor(num_frames=8)
    >>> video_processor(["skate.mp4", "dance.mp4"], return_tensors="pt").pixel_values.shape
    torch.Size([2, 8, 3, 224, 224])
    ```
    """

    valid_kwargs = ClipHFVideoProcessorKwargs
    num_frames = 8

    @classmethod
    def get_image_processor_dict(cls, pretrained_model_name_or_path, **kwargs):
        """Read the configuration as transformers does.

        Raises:
            ValueError: if `AutoVideoProcessor` asks for that of an image CLIP, as every `pipeline` does.
        """
        is_auto = kwargs.get("_from_auto", False)
        options, kwargs = super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        if is_auto and "num_frames" not in options:
            raise ValueError(
                f"{pretrained_model_name_or_path} has no video processor, because CLIP takes images. "
                "`ClipHFVideoProcessor.from_pretrained(...)` makes one of its image processor."
            )
        return options, kwargs

    def preprocess(
        self,
        images: Any,
        image_limits: ImageLimits | None = None,
        video_limits: VideoLimits = DEFAULT_VIDEO_LIMITS,
        num_views: int = 1,
        do_sample_frames: bool = True,
        **kwargs: Unpack[ClipHFVideoProcessorKwargs],
    ) -> BatchFeature:
        """Turn one film or many into clips.

        Args:
            images: A film, a list of films, or a batch of clips as an array (batch, frames, height, width, 3). A film
                is a path, the bytes of a file, an open file or an undecoded film of `datasets` (`{"path", "bytes"}`);
                or its frames: a list of PIL images or arrays (height, width, 3), or an array (frames, height, width,
                3), uint8. A picture alone, or the path, the bytes or the open file of one, is a clip of one frame;
                an animated GIF is a film.
            image_limits ([`ImageLimits`], *optional*): As in [`ClipHFImageProcessor`].
            video_limits ([`VideoLimits`], *optional*): Limits on reading a film. Not part of the configuration, so
                that no repo can raise them.
            num_views (`int`, *optional*, defaults to 1): Clips of each film, at different places of its parts.
            do_sample_frames (`bool`, *optional*, defaults to `True`): Whether to choose `num_frames` frames. False
                takes all frames of films that are given as frames.
            **kwargs: Options of the class for this call, as in [`ClipHFImageProcessor`].

        Returns:
            `BatchFeature`: `pixel_values`, float32, (films * views, frames, 3, height, width), the views of a film one
            after another; a list of arrays (frames, 3, height, width) without `return_tensors`.

        Raises:
            UnreadableVideo: A film cannot be used (the message says which one and why).
            ValueError: The clips have different shapes, or an option has an impossible value.
            TypeError: Something is no film, or an option is unknown.
        """
        options = self._drop_unset(kwargs)
        num_frames = options.pop("num_frames", None)
        sampling = ClipSampling(self.num_frames if num_frames is None else num_frames, num_views)
        return_tensors, device = options.pop("return_tensors", None), options.pop("device", None)
        films = split_films(images)
        if not films:
            raise ValueError("There are no films: the list is empty.")
        clips: list[np.ndarray] = []
        for index, film in enumerate(films):  # one at a time, because the frames of a film take much memory
            try:
                is_still = is_picture(film)
                if is_still:
                    frames = [film]
                else:
                    frames = read_clip(film, sampling, limits=video_limits) if do_sample_frames else _all_frames(film)
                pixels = super().preprocess(frames, image_limits, **options, return_tensors="np")["pixel_values"]
                pixels = pixels.repeat(num_views, axis=0) if is_still else pixels
            except (ValueError, TypeError) as error:
                raise _numbered(error, index, film, len(films)) from error
            # (views * frames, 3, height, width) -> one array a view
            clips += [*pixels.reshape(num_views, -1, *pixels.shape[1:])]
        return to_batch(clips, return_tensors, device)

    def _validate_preprocess_kwargs(self, **kwargs) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        num_frames = kwargs.get("num_frames")
        if num_frames is not None:
            ClipSampling(num_frames)  # raises unless it is a positive integer


def split_films(films: Any) -> list[Any]:
    """The single films in what [`ClipHFVideoProcessor`] takes; those given as frames are lists or arrays.

    Raises:
        TypeError: if a list holds both films and frames.
    """
    films = _to_numpy(films)
    if _is_frame(films):
        return [films]
    if isinstance(films, np.ndarray):
        return [films] if films.ndim == 4 else list(films)
    if not isinstance(films, list | tuple):
        return [films]
    films = [_to_numpy(film) for film in films]
    are_frames = {_is_frame(film) for film in films}
    if len(are_frames) > 1:
        raise TypeError("The list holds films and single frames. Give each film's frames as a list of their own.")
    return [films] if are_frames == {True} else films


def is_picture(film: Any) -> bool:
    """Whether a value stands for a single picture, as an image, a file or its bytes: a clip of one frame.

    An animated picture is a film.

    Raises:
        UnreadableVideo: if FFmpeg decodes no animated pictures of its format.
    """
    if isinstance(film, Mapping):
        film = film.get("path") if film.get("bytes") is None else film["bytes"]
    is_path, is_data = isinstance(film, str | os.PathLike), isinstance(film, bytes | bytearray | memoryview)
    if is_video(film):
        return False
    if not (is_path or is_data or hasattr(film, "read")):
        return isinstance(film, Image.Image) or getattr(film, "ndim", 4) <= 3
    try:
        moving = _find_animation(io.BytesIO(film) if is_data else film)
    except Exception:  # not a picture, or one that its reader can tell more about
        if is_path:  # other text is an address, or a picture in base64
            ending = os.path.splitext(os.fspath(film))[1][1:].lower()
            return ending in IMAGE_ENDINGS or (isinstance(film, str) and not os.path.exists(film))
        return is_data and bytes(film[:8]).startswith(IMAGE_SIGNATURES)
    if moving not in (None, "GIF"):
        raise UnreadableVideo(
            "animated picture",
            f"it is an animated {moving} picture, of which FFmpeg decodes no frames: convert it to a film or an "
            "animated GIF, or give its frames as a list of images.",
        )
    return moving is None


def _find_animation(source: str | os.PathLike | BinaryIO) -> str | None:
    """The format of an animated picture; None if it is a still. What is no picture raises any exception."""
    if isinstance(source, str | os.PathLike):
        with open_regular(os.fspath(source), DEFAULT_LIMITS) as file:
            return _find_animation(file)
    place = source.tell()
    try:
        with Image.open(source, formats=[name for name in IMAGE_FORMATS if name in Image.OPEN]) as image:
            return image.format if image.format in _ANIMATED and image.is_animated else None
    finally:
        source.seek(place)


def _to_numpy(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def _is_frame(value: Any) -> bool:
    return isinstance(value, Image.Image) or (isinstance(value, np.ndarray) and value.ndim <= 3)


def _all_frames(film: Any) -> list[Any]:
    if not isinstance(film, list | tuple | np.ndarray):
        raise TypeError(f"do_sample_frames=False takes films that are given as frames, not {type_of(film)}.")
    if len(film) == 0:
        raise UnreadableVideo("no frames", "the list of frames is empty.")
    return list(film)


def _numbered(error: Exception, index: int, film: Any, count: int) -> Exception:
    """The same error, with the number and the name of its film."""
    name = film.get("path") if isinstance(film, Mapping) else film
    name = f" ({str(name)[:100]})" if isinstance(name, str | os.PathLike) else ""
    message = f"Film {index}{name}: " if count > 1 else f"The film{name}: "
    cause = str(error).removeprefix(f"{film}: ") if name else str(error)
    if isinstance(error, UnreadableImage):
        return UnreadableVideo(error.kind, message + cause)
    return (TypeError if isinstance(error, TypeError) else ValueError)(message + cause)


# Makes saving copy our files and name the class in `auto_map`.
ClipHFVideoProcessor.register_for_auto_class("AutoImageProcessor")
