# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Read films frame by frame, by presentation time: the one place that the library takes their pictures from.

A film is never asked how many frames it has, and no frame is chosen by its number modulo a rate. Reading jumps to the
key frame before a wanted time where that is cheaper than decoding on, and gives the same pictures either way.
"""

import itertools
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from .video_opening_clip_hf import (
    DEFAULT_VIDEO_LIMITS,
    Film,
    UnreadableVideo,
    VideoDescription,
    VideoLimits,
    frame_interval,
    open_film,
    to_number,
)


# Codecs of which each packet is one shown frame, so that the times need no decoding.
_ONE_FRAME_A_PACKET = frozenset("h264 hevc vp9 av1 mjpeg png ffv1 prores dnxhd rawvideo".split())
# Decoding on for this many frames costs about as much as a jump: the threads' frames are thrown away. From 320 to
# 1,280 pixels of width it was 15 of H.264, on two cores.
_FRAMES_A_JUMP_COSTS = 15
_MAX_REORDERED = 16  # frames that one may be decoded before it is shown
_USUAL_KEY_GAP = Fraction(10)  # seconds between key frames, where the film has not shown it


def describe_video(video: Any, *, limits: VideoLimits = DEFAULT_VIDEO_LIMITS) -> VideoDescription:
    """What the header of a film says, and the size at which its frames are shown.

    Args:
        video: As for [`read_frames`].
        limits ([`VideoLimits`], *optional*): Limits on reading.

    Raises:
        UnreadableVideo: if it cannot be opened, or has no frame that can be decoded.
    """
    with open_film(video, limits) as film:
        first = next(film.frames(), None)
        if first is None:
            raise film.without_frames()
        stream, container = film.stream, film.container
        orientation = _find_orientation(first[1])
        width, height = _shown_size(film, first[1])
        if orientation.swaps:
            width, height = height, width
        duration = container.duration * Fraction(1, 1_000_000) if container.duration else None
        if duration is None and stream.duration:
            duration = stream.duration * stream.time_base
        return VideoDescription(
            duration=None if duration is None else float(duration),
            width=width,
            height=height,
            frame_rate=float(stream.average_rate) if stream.average_rate else None,
            num_frames=stream.frames or None,
            codec=stream.codec_context.codec.canonical_name,
            container=container.format.name,
            rotation=orientation.degrees,
        )


def frame_times(video: Any, *, limits: VideoLimits = DEFAULT_VIDEO_LIMITS) -> np.ndarray:
    """The presentation times of all frames of a film, in order, as [`read_frames`] gives them.

    They are read from the packets where each packet is one frame, and found by decoding where that is not certain.

    Args:
        video: As for [`read_frames`].
        limits ([`VideoLimits`], *optional*): Limits on reading.

    Returns:
        `np.ndarray`: float64 of shape (num_frames,), seconds from the container's start.

    Raises:
        UnreadableVideo: if it cannot be opened, or has no frames.
    """
    with open_film(video, limits) as film:
        times = _list_times(film)
        film.report()
        return np.array([float(time) for time in times])


def _list_times(film: Film) -> list[Fraction]:
    times = _list_packet_times(film)
    if times is None:
        film.rewind()
        times = [time for time, _ in film.ordered_frames()]
    if not times:
        raise film.without_frames()
    return times


def _list_packet_times(film: Film) -> list[Fraction] | None:
    """The frames' times by the packets; None where only decoding tells. The film then stands at its end."""
    if film.stream.codec_context.codec.canonical_name not in _ONE_FRAME_A_PACKET:
        return None
    times, first_key, decoding = [], None, []
    for packet in film.packets():
        if not packet.size:
            continue
        if packet.pts is None or packet.is_corrupt or not film.has_stamps:
            return None
        if first_key is None:
            if not packet.is_keyframe:
                return None
            first_key = packet.pts
        elif packet.pts <= first_key:
            return None  # frames before the first key frame may refer to what is not there
        if not packet.is_discard:
            times.append(film.to_time(packet.pts))
        if packet.dts is not None:
            decoding.append(packet.dts * packet.time_base - film.start)
    if film.counts["damaged"] or not times or not _is_one_stream(times, decoding):
        return None
    times.sort()
    return None if times[0] < 0 or times[-1] > film.limits.max_seconds else times


def _is_one_stream(times: list[Fraction], decoding: list[Fraction]) -> bool:
    """Whether packets lie as a decoder puts them in order: no frame moves far, and decoding times never go back."""
    gaps = [after - before for before, after in itertools.pairwise(decoding)]
    if len(set(times)) < len(times) or min(gaps, default=1) <= 0:
        return False
    order = sorted(range(len(times)), key=times.__getitem__)
    if any(abs(place - rank) > _MAX_REORDERED for rank, place in enumerate(order)):
        return False
    return not gaps or max(times) - decoding[-1] <= (_MAX_REORDERED + 1) * max(gaps)


def read_frames(
    video: Any,
    *,
    fps: float | None = None,
    times: Iterable[float] | None = None,
    key_frames: bool = False,
    limits: VideoLimits = DEFAULT_VIDEO_LIMITS,
) -> Iterator[tuple[float, Image.Image]]:
    """Read the frames of a film, upright and with square pixels: all of them, or those of one of three choices.

    Args:
        video (`str`, `os.PathLike`, `bytes`, `dict` or binary file): Path of a film, its bytes, an open seekable
            binary file, or a mapping with `"path"` or `"bytes"` as from `datasets.Video(decode=False)`. URLs are
            refused.
        fps (`float`, *optional*): At each of the times 0, 1/fps, 2/fps, ... before the film's end, the frame that is
            on the screen then. A frame that stays for several of these times is given once. The first frame counts as
            shown from time 0.
        times (`Iterable[float]`, *optional*): For each of these seconds, in this order, the frame that is on the
            screen then. Before the first frame that is the first one; up to the end that the header claims, the last
            one. Ascending times are the cheapest.
        key_frames (`bool`, *optional*, defaults to `False`): Only the key frames: those that a decoder can begin with.
        limits ([`VideoLimits`], *optional*): Limits on reading.

    Times ascend. A frame whose time is not after the one before it, or is negative, is left out, with a warning.

    Yields:
        `tuple[float, PIL.Image.Image]`: Seconds from the container's start at which the frame appears, and its picture
        in RGB, a copy.

    Raises:
        UnreadableVideo: a `ValueError` with a `kind`: the film cannot be opened, has no frames, or exceeds `limits`.
            Packets that cannot be decoded are left out, with a warning.
        ValueError: more than one choice, or a rate or time that is not a number, negative, or after the film's end.
    """
    if sum((fps is not None, times is not None, bool(key_frames))) > 1:
        raise ValueError(
            "`fps`, `times` and `key_frames` are three choices; give one of them, or none for all frames."
        )
    if fps is not None:
        fps = to_number("fps", fps)
        if fps <= 0:
            raise ValueError(f"`fps` is {fps!r}; it must be greater than 0.")
    if times is not None:
        if not isinstance(times, Iterable) or getattr(times, "ndim", 1) == 0:
            raise ValueError(f"`times` is {times!r}; it must be several numbers, such as [{times}].")
        times = [to_number("times", time) for time in times]
        for time in times:
            if time < 0:
                raise ValueError(f"`times` has {time!r}; a film begins at second 0.")
    return _read_frames(video, fps, times, key_frames, limits)


def _read_frames(video, fps, times, key_frames, limits) -> Iterator[tuple[float, Image.Image]]:
    with open_film(video, limits) as film:
        reader = _Reader(film)
        if fps is not None:
            chosen = reader.frames_at_rate(Fraction(fps).limit_denominator(1_000_000) or Fraction(fps))
        elif times is not None:
            chosen = (reader.frame_at(float(time)) for time in times)
        else:
            chosen = film.key_frames() if key_frames else film.ordered_frames()
        count = 0
        for time, frame in chosen:
            count += 1
            yield float(time), _to_image(film, frame)
        if count == 0 and not (times is not None and not times):
            raise film.without_frames()
        film.report()


# ------------------------------------------------------------------------------------------------------------ choosing


class _Reader:
    """The frame on the screen at any time. Holds one frame and the one after it, and jumps where that is cheaper."""

    def __init__(self, film: Film):
        self._film = film
        self._interval = frame_interval(film)
        self._frames = film.ordered_frames()
        self._current: tuple[Fraction, Any] | None = None
        self._next: tuple[Fraction, Any] | None = None
        self._first: Fraction | None = None
        self._last_key: Fraction | None = None
        self._key_gap: Fraction | None = None
        self._min_jump = _FRAMES_A_JUMP_COSTS * self._interval

    def frame_at(self, time: float | Fraction) -> tuple[Fraction, Any]:
        """The frame on the screen at `time`, with its own time; a frame's time as a float finds that frame.

        Raises:
            ValueError: if the film is over by then.
        """
        # As a float, a frame's time may lie just before it.
        reached = self._go_to(Fraction(math.nextafter(float(time), math.inf)))
        if not reached and time > max(self._end, self._claimed_duration):
            raise ValueError(
                f"`times` has {float(time):g}, but {self._film.name} ends at second {float(self._end):.3f}."
            )
        return self._current

    def frames_at_rate(self, fps: Fraction) -> Iterator[tuple[Fraction, Any]]:
        """The frames on the screen at 0, 1/fps, ..., each once."""
        index = 0
        while self._go_to(index / fps) or index == 0 or index / fps < self._end:
            yield self._current
            if self._next is None:
                return
            # Computed, not counted up: a time stamp that is hours off must not make a round for each second.
            index = max(index + 1, math.ceil(self._next[0] * fps))

    @property
    def _end(self) -> Fraction:
        time, frame = self._current
        duration = frame.duration * frame.time_base if frame.duration else self._interval
        return time + duration

    @property
    def _claimed_duration(self) -> Fraction:
        return Fraction(self._film.container.duration or 0, 1_000_000)

    def _go_to(self, time: Fraction) -> bool:
        """Hold the frame that is on the screen at `time`; False at the film's last frame."""
        if self._current is None:
            self._load()
            self._first = self._current[0]
        start = self._current[0]
        if time < start and start > self._first:
            self._jump(time)
        elif self._is_jump_cheaper(time):
            self._jump(time)
            if self._current[0] <= start:
                self._min_jump = 2 * (time - start)
        while self._next is not None and self._next[0] <= time:
            self._advance()
        return self._next is not None

    def _load(self) -> None:
        self._next = next(self._frames, None)
        if self._next is None:
            raise self._film.without_frames()
        self._last_key = None
        self._advance()

    def _advance(self) -> None:
        self._current, self._next = self._next, next(self._frames, None)
        time, frame = self._current
        if frame.key_frame:
            if self._last_key is not None:
                self._key_gap = max(self._key_gap or 0, time - self._last_key)
            self._last_key = time

    def _is_jump_cheaper(self, time: Fraction) -> bool:
        start = self._current[0]
        if time - start <= self._min_jump or not self._film.can_jump:
            return False
        margin = _FRAMES_A_JUMP_COSTS * self._interval
        key, is_certain = self._film.find_key_before(time)
        if key is not None and key > start + margin:
            return True
        if is_certain:
            return False
        gap = _USUAL_KEY_GAP if self._key_gap is None else self._key_gap
        return time - start > 2 * gap + margin

    def _jump(self, time: Fraction) -> None:
        """Go to a key frame that is not after `time`, further back each time the container lands behind it."""
        back = Fraction(0)
        while time - back > self._first and self._film.seek(time - back):
            self._frames = self._film.ordered_frames(from_key_frame=True)
            self._next = next(self._frames, None)
            # Without its own time stamps a frame's time follows from those before it, which the jump left out.
            if self._next is not None and self._next[0] <= time and self._film.can_jump:
                self._last_key = None
                self._advance()
                return
            back = max(2 * back, Fraction(1))
        self._film.rewind()
        self._frames = self._film.ordered_frames()
        self._load()


@dataclass(frozen=True)
class ClipSampling:
    """Which frames of a film make its clip: as in Temporal Segment Networks, one of each of equal segments.

    Args:
        num_frames (`int`, *optional*, defaults to 8): Segments, and so frames of a clip.
        num_views (`int`, *optional*, defaults to 1): Clips of a film in evaluation. View v of V takes the frame at
            (v + 1) / (V + 1) of each segment: a single view takes the middle.

    Raises:
        ValueError: if one of them is not a positive integer.
    """

    num_frames: int = 8
    num_views: int = 1

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` is {value!r}; it must be an integer of at least 1.")

    def choose(
        self, total: int, *, generator: np.random.Generator | None = None, view: int | None = None
    ) -> list[int]:
        """The numbers of the frames to take out of `total`.

        With S segments of length L = total / S, the frame of segment i is `i * L + (L - 1) / 2`, rounded down. Films
        of fewer frames than segments give frames several times.

        Args:
            total (`int`): Frames of the film, at least 1.
            generator (`np.random.Generator`, *optional*): Take a random frame of each segment, as in training.
            view (`int`, *optional*): One view, 0 to num_views - 1. By default all of them, one after the other.

        Returns:
            `list[int]`: `num_frames` numbers from 0 to total - 1, of all views `num_views * num_frames`.
        """
        if generator is not None and view is not None:
            raise ValueError("`generator` draws a random clip and `view` names a fixed one; give one of them.")
        if generator is not None and not isinstance(generator, np.random.Generator):
            raise TypeError(f"`generator` is {generator!r}; it must be a `numpy.random.Generator`.")
        if view is not None and not isinstance(view, int | np.integer):
            raise TypeError(f"`view` is {view!r}; it must be an integer.")
        if view is not None and not 0 <= view < self.num_views:
            raise ValueError(f"`view` is {view!r}; there are {self.num_views} views, counted from 0.")
        length = Fraction(total, self.num_frames)
        if generator is not None:
            offsets = [Fraction(float(draw)) * length for draw in generator.random(self.num_frames)]
            return [min(math.floor(i * length + offset), total - 1) for i, offset in enumerate(offsets)]
        views = range(self.num_views) if view is None else [view]
        shifts = [max(length - 1, Fraction(0)) * (v + 1) / (self.num_views + 1) for v in views]
        return [math.floor(i * length + shift) for shift in shifts for i in range(self.num_frames)]


def read_clip(
    video: Any,
    sampling: ClipSampling = ClipSampling(),
    *,
    generator: np.random.Generator | None = None,
    view: int | None = None,
    limits: VideoLimits = DEFAULT_VIDEO_LIMITS,
) -> list[Image.Image]:
    """Read the frames of a film that stand for it: one of each of its segments.

    Args:
        video: As for [`read_frames`]; or a list of images or arrays (height, width, 3), or an array (frames, height,
            width, 3), uint8, which are the frames themselves.
        sampling ([`ClipSampling`], *optional*): How many segments and views.
        generator (`np.random.Generator`, *optional*): Take a random frame of each segment, as in training.
        view (`int`, *optional*): One view, 0 to num_views - 1. By default all of them, one after the other.
        limits ([`VideoLimits`], *optional*): Limits on reading.

    Returns:
        `list[PIL.Image.Image]`: `num_frames` pictures in RGB in the order of time, of all views
        `num_views * num_frames`. A frame that is taken several times is the same object.

    Raises:
        UnreadableVideo: if the film cannot be opened, has no frames, or exceeds `limits`.
        TypeError: `video` is none of the above.
    """
    if isinstance(video, list | tuple) or (isinstance(video, np.ndarray) and video.ndim == 4):
        if len(video) == 0:
            raise UnreadableVideo("no frames", "the list of frames is empty.")
        chosen = sampling.choose(len(video), generator=generator, view=view)
        images = {index: _to_rgb(video[index]) for index in set(chosen)}
        return [images[index] for index in chosen]
    with open_film(video, limits) as film:
        times = _list_times(film)
        chosen = sampling.choose(len(times), generator=generator, view=view)
        film.rewind()
        reader = _Reader(film)
        images = {index: _to_image(film, reader.frame_at(times[index])[1]) for index in sorted(set(chosen))}
        film.report()
        return [images[index] for index in chosen]


def _to_rgb(frame: Any) -> Image.Image:
    is_picture = isinstance(frame, np.ndarray) and (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] in (3, 4)))
    if is_picture and frame.dtype == np.uint8:
        frame = Image.fromarray(frame)
    if not isinstance(frame, Image.Image):
        kind = f"an array of {frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise TypeError(
            f"a frame of a film must be a PIL image or a uint8 array of shape (height, width, 3), got {kind}."
        )
    return frame if frame.mode == "RGB" else frame.convert("RGB")


# ------------------------------------------------------------------------------------------------------------ pictures


@dataclass(frozen=True)
class _Orientation:
    """How a stored frame is turned to be shown: mirrored left to right first, then turned clockwise."""

    mirrors: bool
    degrees: int

    @property
    def swaps(self) -> bool:
        return self.degrees in (90, 270)


_UPRIGHT = _Orientation(False, 0)
_TURNS = {90: Image.Transpose.ROTATE_270, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_90}


def _find_orientation(frame: Any) -> _Orientation:
    """From the display matrix: row vectors (x, y, 1) times nine numbers, x to the right and y downwards."""
    data = next((item for item in frame.side_data if item.type.name == "DISPLAYMATRIX"), None)
    if data is None:
        return _UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
    mirrors = a * d - b * c < 0
    if mirrors:  # take the mirror out, so that a turn is left
        a, b = -a, -b
    degrees = round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360  # a point on the right goes to (a, b)
    return _Orientation(mirrors, degrees)


def _shown_size(film: Film, frame: Any) -> tuple[int, int]:
    """Width and height with square pixels, before any turn. Players stretch the width."""
    ratio = film.stream.sample_aspect_ratio or 1
    width = max(1, round(frame.width * ratio))
    film.limits.check_pixels(width, frame.height)
    return width, frame.height


def _to_image(film: Film, frame: Any) -> Image.Image:
    width, height = _shown_size(film, frame)
    image = film.to_rgb(frame, width, height, "BICUBIC")
    orientation = _find_orientation(frame)
    if orientation.mirrors:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if orientation.degrees:
        image = image.transpose(_TURNS[orientation.degrees])
    return image
