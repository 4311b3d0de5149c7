# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Open films: which files, bytes and formats are read, within which limits, and what their frames' times are.

A time is in seconds from the container's start, as players show it and as `ffmpeg -ss` counts. It is computed from the
frame's presentation time stamp as a fraction.
"""

import importlib
import io
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

from PIL import Image

from .image_reading_clip_hf import REFUSED, UnreadableImage, check_scheme, open_regular


_logger = logging.getLogger(__name__)

VIDEO_ENDINGS = frozenset(
    "3g2 3gp asf avi flv gifv m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf ogm ogv ts vob webm wmv".split()
)
"""Endings of films, lower case and without the dot."""

# FFmpeg's demuxers of files that stand by themselves. Playlists (hls, dash, concat, sdp, image2, ...) open other files
# and addresses, so they are not here.
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2 matroska,webm avi asf flv mpeg mpegts mpegtsraw mpegvideo mxf ogg nut ivf h264 hevc m4v "
    "obu av1 mjpeg dv gif rm wtv yuv4mpegpipe vc1 nsv gxf"
)
_UNSTAMPED = ("mpeg", "mpegvideo", "h264", "hevc", "m4v", "obu", "vc1", "mjpeg")
_REORDERED = ("h264", "hevc", "vvc")  # AVI has no time stamps of frames, and FFmpeg cannot tell the order of these
_JOINABLE = ("mpeg", "mpegts")  # formats of which several files, joined byte by byte, are one
_BUFFER = 2**17  # bytes that FFmpeg asks for at a time
_MAX_STRAY_FRAMES = 10  # frames with a broken time stamp that a film may have
_LARGEST = sys.float_info.max
_MICROSECOND = Fraction(1, 1_000_000)


class UnreadableVideo(UnreadableImage):
    """A film that cannot be used; counted and skipped where an [`UnreadableImage`] is.

    Args:
        kind (`str`): The kind of problem in a few words, to count by, such as `"no video stream"`.
        message (`str`): A sentence for the user.
    """


@dataclass(frozen=True)
class VideoLimits:
    """Limits on reading one film; exceeding them is an [`UnreadableVideo`].

    Args:
        max_pixels (`int`, *optional*, defaults to 67,108,864): Pixels of a frame; 8192x8192.
        max_bytes (`int`, *optional*, defaults to 68,719,476,736): Bytes of the file; 64 GiB.
        max_seconds (`float`, *optional*, defaults to 86,400): Time of the last frame; a day. Up to ten later frames
            have a broken time stamp and are left out with a warning; more are an error.

    Raises:
        ValueError: if a limit is not greater than 0.
    """

    max_pixels: int = 2**26
    max_bytes: int = 2**36
    max_seconds: float = 86400.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"`{name}` is {value!r}; it must be a number greater than 0.")

    def check_pixels(self, width: int, height: int) -> None:
        """Raise [`UnreadableVideo`] for frames of more pixels than `max_pixels`."""
        if width * height > self.max_pixels:
            raise UnreadableVideo(
                "video too large",
                f"its frames have {width}x{height} pixels; `max_pixels` allows {self.max_pixels:,}.",
            )

    def check_bytes(self, count: int) -> None:
        """Raise [`UnreadableVideo`] for a file of more bytes than `max_bytes`."""
        if count > self.max_bytes:
            raise UnreadableVideo(
                "file too large", f"it has {count:,} bytes, more than the {self.max_bytes:,} that `max_bytes` allows."
            )


DEFAULT_VIDEO_LIMITS = VideoLimits()


@dataclass(frozen=True)
class VideoDescription:
    """What the header of a film says. Headers may lie: count frames with `frame_times`.

    Args:
        duration (`float` or None): Seconds; None where the header does not say.
        width, height (`int`): Pixels of a frame as it is shown: turned upright, with square pixels.
        frame_rate (`float` or None): Mean number of frames a second.
        num_frames (`int` or None): Number of frames that the header claims.
        codec (`str`): FFmpeg's name, such as `"h264"`.
        container (`str`): FFmpeg's name, such as `"mov,mp4,m4a,3gp,3g2,mj2"`.
        rotation (`int`): Degrees clockwise by which the stored frames are turned: 0, 90, 180 or 270.
    """

    duration: float | None
    width: int
    height: int
    frame_rate: float | None
    num_frames: int | None
    codec: str
    container: str
    rotation: int


# ---------------------------------------------------------------------------------------------------------- what it is


def is_video(source: Any) -> bool:
    """Whether a value stands for a film: by a path's ending, or by the first bytes of a file. Nothing is opened.

    Args:
        source (`Any`): A path, bytes, an open binary file, a mapping with `"path"` or `"bytes"`, or anything else.
    """
    if isinstance(source, dict):
        data, path = source.get("bytes"), source.get("path")
        return is_video(data) if data is not None else is_video(path)
    if isinstance(source, bytes | bytearray | memoryview):
        return _has_signature(bytes(source[:2048]))
    if hasattr(source, "read") and hasattr(source, "seek"):
        place = source.tell()
        start = source.read(2048)
        source.seek(place)
        return isinstance(start, bytes) and _has_signature(start)
    if isinstance(source, str | os.PathLike):
        return os.path.splitext(os.fsdecode(source))[1][1:].lower() in VIDEO_ENDINGS
    return False


def _has_signature(start: bytes) -> bool:
    if start[4:8] == b"ftyp":
        return start[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1", b"M4A ")
    if start[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip") or (
        start[:4] == b"RIFF" and start[8:12] == b"AVI "
    ):
        return True
    packet = next((size for size in (188, 192) if start[size % 188 :: size][:4] == b"G" * 4), None)
    signatures = (
        b"\x1a\x45\xdf\xa3",  # Matroska and WebM
        b"\x30\x26\xb2\x75",  # ASF
        b"FLV",
        b"OggS",
        b"DKIF",
        b"\x00\x00\x01\xba",  # MPEG program stream
        b"\x00\x00\x01\xb3",  # MPEG-1 and MPEG-2 video
        b"\x06\x0e\x2b\x34",  # MXF
    )
    return packet is not None or start.startswith(signatures)


# ------------------------------------------------------------------------------------------------------------- opening


def _import_av() -> Any:
    # Through importlib, because transformers asks users of remote code to install whatever it finds imported.
    try:
        return importlib.import_module("av")
    except ModuleNotFoundError as error:
        raise ImportError(
            "films are read by PyAV, which is not installed: `pip install av`, or the extra `video` of clip_hf."
        ) from error


@contextmanager
def open_film(video: Any, limits: VideoLimits = DEFAULT_VIDEO_LIMITS) -> Iterator["Film"]:
    """Open a film and find its video stream.

    Args:
        video (`str`, `os.PathLike`, `bytes`, `dict` or binary file): Path of a regular file, bytes, open seekable
            binary file, or mapping with `"bytes"` or `"path"` as from `datasets.Video(decode=False)`.
        limits ([`VideoLimits`], *optional*): Limits on reading.

    Raises:
        UnreadableVideo: if it is missing, empty, no regular file, no film, has no video stream, or exceeds `limits`.
        TypeError: `video` is none of the above.
        ImportError: without PyAV.
    """
    file, name = _open_source(video, limits)
    film = None
    try:
        film = Film(file, name, limits)
        yield film
    finally:
        if film is not None:
            film.close()
        if file is not video:
            file.close()


def _open_source(video: Any, limits: VideoLimits) -> tuple[BinaryIO, str]:
    """The open file and what to call it in messages."""
    if isinstance(video, dict) and video.keys() & {"bytes", "path"}:
        data = video.get("bytes")
        if data is not None and not isinstance(data, bytes | bytearray | memoryview):
            raise UnreadableVideo("not a video", f"its bytes are of type {type(data).__name__}.")
        video = video.get("path") if data is None else data
        if video is None:
            raise UnreadableVideo("video missing", "its path and its bytes are both None.")
    if isinstance(video, bytes | bytearray | memoryview):
        limits.check_bytes(len(video))
        return io.BytesIO(video), "the film"
    if hasattr(video, "read"):
        if isinstance(video, io.TextIOBase):
            raise TypeError('the file of a film is open as text; open it in binary mode, "rb".')
        if not getattr(video, "seekable", lambda: False)():
            raise UnreadableVideo(
                "file cannot be read", "an open file must be seekable: read it and hand over its bytes."
            )
        return video, str(getattr(video, "name", "the film"))[:200]
    if not isinstance(video, str | os.PathLike):
        kind = type(video).__name__
        hint = " Cast the column to `datasets.Video(decode=False)`." if kind == "VideoDecoder" else ""
        if hasattr(video, "ndim"):
            hint = " Only `read_clip` takes frames: a list, or a NumPy array of uint8 (frames, height, width, 3)."
        raise TypeError(
            "expected the path, the bytes or the open file of a film, or a mapping with `path` or `bytes`, got "
            f"{kind}.{hint}"
        )
    path = os.fsdecode(video)
    if not path.strip():
        raise UnreadableVideo("video missing", "the path is blank.")
    try:
        if isinstance(video, str) and check_scheme(path) is not None:
            raise UnreadableImage("location refused", "")
        return open_regular(path, limits), path[:200]
    except UnreadableVideo:
        raise
    except UnreadableImage as error:
        if error.kind == "location refused" and not path.startswith(REFUSED):
            raise UnreadableVideo(
                "location refused",
                f"{path[:200]!r} is not opened: films are read from no URL; download it and give its path or bytes.",
            ) from None
        raise UnreadableVideo(error.kind, str(error)) from error


def _refuse_other_files(url: str, *_) -> None:
    raise PermissionError(f"a film may not open other files: {url[:200]}")


class _WatchedFile:
    """A file that remembers its own error, which is not one of the film in it."""

    def __init__(self, file: BinaryIO):
        self._file, self.error = file, None
        self.seek, self.tell = self._watch(file.seek), self._watch(file.tell)
        self.read = self._watch(file.read)

    def _watch(self, call: Any) -> Any:
        def watched(*arguments):
            try:
                return call(*arguments)
            except Exception as error:
                self.error = error
                raise

        return watched


class Film:
    """An open film: its container, its video stream, and its frames with their times.

    Args:
        file (binary file): Where it is read from.
        name (`str`): What messages call it.
        limits ([`VideoLimits`]): Limits on reading.
    """

    def __init__(self, file: BinaryIO, name: str, limits: VideoLimits):
        self._av = _import_av()
        self._scaler = self._av.video.reformatter.VideoReformatter()
        self._file, self.name, self.limits = _WatchedFile(file), name, limits
        self.counts: Counter[str] = Counter()  # of this pass: "damaged", "stray", "disordered", "unstamped"
        self._earlier: Counter[str] = Counter()  # the most of any pass before it
        self.container = self._last_stamp = self._goes_back = None
        self._is_over = False
        self.rewind()

    def close(self) -> None:
        """Close the container, but not the file."""
        if self.container is not None:
            self.container.close()

    def rewind(self) -> None:
        """Open the container anew, so that reading starts at its first packet exactly as it did at first."""
        self.close()
        self._earlier |= self.counts
        self.counts.clear()
        with self._reading():
            size = self._file.seek(0, os.SEEK_END)
            self._file.seek(0)
        if size == 0:
            raise UnreadableVideo("file empty", f"{self.name}: the file is empty.")
        self.limits.check_bytes(size)
        with self._reading("not a video"):
            self.container = self._av.open(
                self._file,
                metadata_errors="replace",
                buffer_size=_BUFFER,
                io_open=_refuse_other_files,
                container_options={"format_whitelist": _DEMUXERS.replace(" ", ","), "protocol_whitelist": "none"},
            )
        try:
            self._choose_stream()
        except BaseException:
            self.container.close()
            raise

    @contextmanager
    def _reading(self, kind: str = "damaged") -> Iterator[None]:
        """Make whatever PyAV raises an [`UnreadableVideo`]; errors of the caller's file other than OSError stay."""
        try:
            yield
        except (UnreadableVideo, MemoryError):
            raise
        except Exception as error:
            if error is self._file.error:
                if not isinstance(error, OSError):
                    raise
                kind = "file cannot be read"
            what = {"not a video": "this is not a film that FFmpeg can read"}.get(kind, "it cannot be read on")
            raise UnreadableVideo(kind, f"{self.name}: {what}: {_reason(error)}.") from error

    def _choose_stream(self) -> None:
        attached = self._av.stream.Disposition.attached_pic
        streams = [s for s in self.container.streams.video if not s.disposition & attached]
        if not streams:
            kinds = {"a cover picture" if s.type == "video" else s.type for s in self.container.streams}
            raise UnreadableVideo(
                "no video stream",
                f"{self.name}: it has no video stream (only {', '.join(sorted(kinds)) or 'nothing'}).",
            )
        default = [s for s in streams if s.disposition & self._av.stream.Disposition.default]
        self.stream = (default or streams)[0]
        context = self.stream.codec_context
        if context is None:
            raise UnreadableVideo(
                "codec not supported", f"{self.name}: this build of FFmpeg has no decoder for its video stream."
            )
        self.limits.check_pixels(context.width, context.height)
        context.options = {"max_pixels": str(int(self.limits.max_pixels))}
        self.stream.thread_type = "AUTO"
        is_reordered = context.codec.canonical_name in _REORDERED and context.has_b_frames
        self.has_stamps = not (is_reordered and self.container.format.name == "avi")
        self.start = self._find_start()

    def _find_start(self) -> Fraction:
        """Where second 0 is. The container's own start is rounded to microseconds, so look which stream's it is."""
        start = self.container.start_time
        if start is None:
            return Fraction(0)
        start *= _MICROSECOND
        exact = [s.start_time * s.time_base for s in self.container.streams if s.start_time is not None]
        return min((time for time in exact if abs(time - start) <= _MICROSECOND), default=start)

    # ---------------------------------------------------------------------------------------------- packets and frames

    def to_time(self, stamp: int) -> Fraction:
        """Seconds of a time stamp of the video stream."""
        return stamp * self.stream.time_base - self.start

    def to_stamp(self, time: Fraction) -> int:
        """The last time stamp of the video stream that is not after `time`."""
        return min((time + self.start) // self.stream.time_base, 2**62)

    @property
    def can_jump(self) -> bool:
        """Whether a frame's time is the same wherever reading began."""
        # In MPEG program streams few frames have a stamp of their own; the others' follow from those before them.
        # Where times go back, as in streams that were joined, a jump may land at the same time in another part.
        found = self._earlier | self.counts
        is_even = self.has_stamps and not found["unstamped"] and not found["disordered"] and not self._goes_back
        return is_even and self.container.format.name not in _UNSTAMPED

    def goes_back(self) -> bool:
        """Whether decoding times go back or repeat, as where films were joined byte by byte. The place is given up."""
        if self._goes_back is None:
            self._goes_back, last = False, None
            if self.container.format.name in _JOINABLE:
                self.rewind()
                for packet in self.packets():
                    if packet.dts is not None:
                        self._goes_back = last is not None and packet.dts <= last
                        last = packet.dts
                    if self._goes_back:
                        break
                self.rewind()
        return self._goes_back

    def seek(self, time: Fraction) -> bool:
        """Go to a key frame before `time`, or near it: the frames that come show where.

        False if it fails; the film then stands anywhere.
        """
        if not self.can_jump or self.goes_back():
            return False
        try:
            self.container.seek(self.to_stamp(time), stream=self.stream, backward=True)
        except (self._av.error.FFmpegError, OverflowError):
            return False
        return True

    def find_key_before(self, time: Fraction) -> tuple[Fraction | None, bool]:
        """The time of the last key frame before `time` in the container's index, and whether the index goes so far."""
        entries, stamp = self.stream.index_entries, self.to_stamp(time)
        place = entries.search_timestamp(stamp, backward=True) if len(entries) else -1
        if place < 0:
            return None, False
        return self.to_time(entries[place].timestamp), entries[len(entries) - 1].timestamp > stamp

    def report(self) -> None:
        """Warn of what was left out."""
        found = self._earlier | self.counts
        if found["damaged"]:
            _logger.warning("%s: %d packets could not be read or decoded.", self.name, found["damaged"])
        if found["disordered"]:
            _logger.warning(
                "%s: %d frames are left out, their times are negative or out of order.", self.name, found["disordered"]
            )
        duration, unit = self.stream.duration, self.stream.time_base
        if self._is_over and self._last_stamp is not None and duration:
            end = (self.stream.start_time or 0) + duration
            if (end - self._last_stamp) * unit > max(0.25, duration * unit / 50):
                _logger.warning(
                    "%s: it ends at second %.3f, but its header says %.3f: it may be truncated.",
                    self.name,
                    float(self.to_time(self._last_stamp)),
                    float(self.to_time(end)),
                )

    def packets(self, *streams: Any) -> Iterator[Any]:
        """The packets of the video stream, or of these, from here to the end; a stream's last, empty one flushes."""
        packets = self.container.demux(*(streams or [self.stream]))
        while True:
            with self._reading():
                try:
                    packet = next(packets, None)
                except self._av.error.FFmpegError:
                    self.counts["damaged"] += 1
                    packet = None
            if packet is None:
                self._is_over = True
                return
            if packet.pts is not None and packet.stream_index == self.stream.index:
                self._last_stamp = max(self._last_stamp or packet.pts, packet.pts + (packet.duration or 0))
            yield packet

    def frames(self) -> Iterator[tuple[Fraction, Any]]:
        """Decode from here on: pairs of time and `av.VideoFrame`. Packets that cannot be decoded are counted."""
        clock = _Clock(self)
        for packet in self.packets():
            yield from self._decode(packet, clock)

    def ordered_frames(self, from_key_frame: bool = False) -> Iterator[tuple[Fraction, Any]]:
        """`frames` in ascending order of time. A frame whose time is not between those of its neighbours is left out.

        With `from_key_frame`, as after a jump, what comes before the first key frame is left out: it may refer to
        frames that were not decoded.
        """
        before = held = None
        for item in self.frames():
            if from_key_frame and not item[1].key_frame:
                continue
            from_key_frame = False
            if held is not None and item[0] > held[0]:
                yield held
                before = held[0]
            elif held is not None:
                self.counts["disordered"] += 1
                if item[0] == held[0] or (before is not None and item[0] <= before):
                    continue
            held = item
        if held is not None:
            yield held

    def key_frames(self) -> Iterator[tuple[Fraction, Any]]:
        """Decode only the key frames, from the film's start."""
        context, last = self.stream.codec_context, None
        for packet in self.packets():
            if not packet.is_keyframe or not packet.size:
                continue
            if packet.pts is None or not self.has_stamps:  # only decoding all frames tells its time
                self.rewind()
                keys = ((time, frame) for time, frame in self.ordered_frames() if frame.key_frame)
                yield from (item for item in keys if last is None or item[0] > last)
                return
            # Each by itself: a decoder would sort and hold back frames that are not neighbours.
            for time, frame in [*self._decode(packet, _Clock(self)), *self._decode(None, _Clock(self))]:
                if last is None or time > last:
                    yield time, frame
                    last = time
                else:
                    self.counts["disordered"] += 1
            context.flush_buffers()

    def _decode(self, packet: Any, clock: "_Clock") -> Iterator[tuple[Fraction, Any]]:
        with self._reading():
            try:
                frames = self.stream.codec_context.decode(packet)
            except self._av.error.FFmpegError as error:
                self._note_damage(error)
                return
        for frame in frames:
            self.limits.check_pixels(frame.width, frame.height)
            time = clock.time(frame)
            if time is None or time < 0:
                self.counts["disordered"] += 1
            elif time > self.limits.max_seconds:
                self._note_stray(time)
            else:
                yield time, frame

    def to_rgb(self, frame: Any, width: int, height: int, interpolation: str) -> Image.Image:
        """A copy of a frame in RGB of this size, as FFmpeg's own conversion gives it."""
        # One thread: starting more costs longer than they save, and data loaders have a process for each core.
        options = {"interpolation": interpolation, "dst_color_range": "JPEG", "threads": 1}
        with self._reading():
            plane = self._scaler.reformat(frame, width, height, "rgb24", **options).planes[0]
        return Image.frombuffer("RGB", (width, height), plane, "raw", "RGB", plane.line_size, 1)

    def without_frames(self) -> UnreadableVideo:
        """The error of a film that gives no frame at all."""
        count = (self._earlier | self.counts)["damaged"]
        damaged = f" ({count} packets cannot be decoded)" if count else ""
        return UnreadableVideo(
            "no frames", f"{self.name}: its video stream has no frame that can be decoded{damaged}."
        )

    def _note_damage(self, error: Exception) -> None:
        if isinstance(error, (self._av.error.DecoderNotFoundError, self._av.error.MemoryError)):
            raise UnreadableVideo("codec not supported", f"{self.name}: {_reason(error)}.") from error
        self.counts["damaged"] += 1

    def _note_stray(self, time: Fraction) -> None:
        self.counts["stray"] += 1
        if self.counts["stray"] > _MAX_STRAY_FRAMES:
            raise UnreadableVideo(
                "video too long",
                f"{self.name}: it has frames at second {float(time):,.0f}, later than the "
                f"{self.limits.max_seconds:,.0f} that `max_seconds` allows.",
            )
        _logger.warning("%s: a frame at second %.0f is left out, its time is wrong.", self.name, float(time))


def to_number(name: str, value: Any) -> int | float | Fraction:
    """A finite number, also of NumPy or of a tensor; raise ValueError for anything else given as `name`."""
    number = value.item() if getattr(value, "ndim", None) == 0 else value
    is_number = isinstance(number, int | float | Fraction) and not isinstance(number, bool)
    if not is_number or not abs(number) <= _LARGEST:
        raise ValueError(f"`{name}` has {value!r}; it must be a finite number.")
    return number


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")


class _Clock:
    """Gives each decoded frame its time, where its own stamp is missing or wrong too: FFmpeg's "best effort"."""

    def __init__(self, film: Film):
        self._film = film
        self._last_pts = self._last_dts = self._last = None
        self._faulty_pts = self._faulty_dts = 0

    def time(self, frame: Any) -> Fraction | None:
        """None for the first frames of Matroska without a stamp: there that is a time below 0."""
        pts, dts = frame.pts if self._film.has_stamps else None, frame.dts
        if dts is not None:
            self._faulty_dts += self._last_dts is not None and dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += self._last_pts is not None and pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        self._film.counts["unstamped"] += pts is None
        stamp = pts if pts is not None and (self._faulty_pts <= self._faulty_dts or dts is None) else dts
        if stamp is not None:
            self._last = self._film.to_time(stamp)
        elif self._last is None and self._film.container.format.name.startswith("matroska"):
            return None
        elif self._last is None:
            self._last = Fraction(0)
        else:
            self._last += frame_interval(self._film)
        return self._last


def frame_interval(film: Film) -> Fraction:
    """Seconds from one frame to the next as the header has it; 1/25 where it does not say."""
    rate = film.stream.average_rate or film.stream.guessed_rate
    return 1 / rate if rate else Fraction(1, 25)
