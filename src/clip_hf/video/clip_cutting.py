# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Cut a part out of a film without encoding it anew: its packets are copied into another file."""

import errno
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ..model.video_opening_clip_hf import (
    DEFAULT_VIDEO_LIMITS,
    Film,
    UnreadableVideo,
    VideoDescription,
    VideoLimits,
    frame_interval,
    open_film,
    to_number,
)
from ..model.video_reading_clip_hf import describe_video
from ..utils.atomic import replaced_file


_SOUND_LAG = 2  # seconds that sound may lie behind its pictures in a file
_TIMELESS = ("asf", "avi", "mxf")  # containers that keep no times of frames that are stored out of order
# FFmpeg's muxer for each ending.
_MUXERS = {
    "3gp": "3gp",
    "asf": "asf",
    "avi": "avi",
    "flv": "flv",
    "m4v": "mp4",
    "mkv": "matroska",
    "mov": "mov",
    "mp4": "mp4",
    "mpeg": "mpeg",
    "mpg": "mpeg",
    "mxf": "mxf",
    "ogv": "ogg",
    "ts": "mpegts",
    "vob": "vob",
    "webm": "webm",
    "wmv": "asf",
}


def cut_clip(
    video: Any, start: float, end: float, path: str | os.PathLike, *, limits: VideoLimits = DEFAULT_VIDEO_LIMITS
) -> tuple[float, float]:
    """Write the part of a film from `start` to `end` as a film of its own, with its sound, without encoding.

    A copy can only begin at a key frame, so it begins at the last one before `start`. The file appears under its name
    when it is complete and can be read back with the same codec, size and rotation. It ends at `end` or, where frames
    are stored out of order, a few frames later.

    Args:
        video: As for [`read_frames`].
        start, end (`float`): Seconds from the container's start.
        path (`str` or `os.PathLike`): File to write; its ending names the container (mp4, mkv, mov, webm, avi, ...).
        limits ([`VideoLimits`], *optional*): Limits on reading.

    Returns:
        `tuple[float, float]`: Where the copy really begins and ends in the film, in seconds.

    Raises:
        ValueError: `start` and `end` are no interval, or outside of the film, the ending is unknown, or `path` is the
            film itself.
        UnreadableVideo: the film cannot be opened or copied, or the container cannot hold its codecs.
    """
    muxer = _MUXERS.get(Path(path).suffix[1:].lower())
    if muxer is None:
        raise ValueError(
            f"`path` ends in {Path(path).suffix!r}; the endings of containers are {', '.join(sorted(_MUXERS))}."
        )
    start, end = to_number("start", start), to_number("end", end)
    if not 0 <= start < end:
        raise ValueError(f"`start` {start!r} and `end` {end!r} are no interval: 0 <= start < end is needed.")
    description = describe_video(video, limits=limits)
    source = video.get("path") if isinstance(video, dict) else video
    if isinstance(source, str | os.PathLike) and os.path.exists(path) and os.path.samefile(source, path):
        raise ValueError(f"`path` {os.fspath(path)} is the film itself, which the part would replace: name another.")
    with open_film(video, limits) as film:
        if not film.has_stamps:
            raise UnreadableVideo(
                "cut failed",
                f"{film.name}: AVI does not say in which order frames of {description.codec} are shown, so they "
                "cannot be copied: encode the part anew.",
            )
        if film.goes_back():
            raise UnreadableVideo(
                "cut failed",
                f"{film.name}: its times go back, so films were joined byte by byte, and a second names several "
                "places: join them with `ffmpeg -f concat`, or encode the film anew, and cut that.",
            )
        first = _find_key_frame(film, Fraction(float(start)))
        if first >= end:
            raise ValueError(f"`end` is {end:g}, but the first key frame of {film.name} is at {float(first):.3f}.")
        with replaced_file(path) as temporary:
            last = _copy(film, first, Fraction(float(end)), temporary, muxer)
            if last <= start:
                raise ValueError(f"`start` is {start:g}, but {film.name} ends at second {float(last):.3f}.")
            _check_copy(film, description, temporary, muxer)
    return float(first), float(last)


def _find_key_frame(film: Film, start: Fraction) -> Fraction:
    """The time of the last key frame that is not after `start`; the first one's if there is none."""
    back = Fraction(0)
    while film.seek(start - back):
        found = None
        for packet in film.packets():
            if packet.pts is None:
                continue
            time = film.to_time(packet.pts)
            if packet.is_keyframe and time <= start:
                found = time
            elif packet.dts is not None and film.to_time(packet.dts) > start:
                break
        if found is not None:
            return found
        if back > start + 1:
            break
        back = max(2 * back, Fraction(1))
    film.rewind()
    for packet in film.packets():
        if packet.is_keyframe and packet.pts is not None:
            return film.to_time(packet.pts)
    raise UnreadableVideo(
        "no frames", f"{film.name}: no key frame with a time stamp, so no part of it can be copied without encoding."
    )


def _copy(film: Film, first: Fraction, end: Fraction, path: Path, muxer: str) -> Fraction:
    """Copy the packets of the frames from `first` on, of whatever the frames before `end` need, and of the sound.

    Gives the time at which the last frame ends.
    """
    last, duration = first, Fraction(0)
    try:
        with av.open(str(path), "w", format=muxer) as output:
            streams = {
                stream.index: output.add_stream_from_template(stream, opaque=True)
                for stream in (film.stream, *film.container.streams.audio)
            }
            for packet in _fill_decoding_times(film, _packets_between(film, first, end, list(streams))):
                if packet.stream_index == film.stream.index:
                    time = film.to_time(packet.pts)
                    # The frames of MPEG-4 Part 2 say their order themselves.
                    if time < last and muxer in _TIMELESS and film.stream.codec_context.name != "mpeg4":
                        raise _cannot_hold(film, muxer, "it keeps no times of frames that are stored out of order")
                    if time >= last:
                        last, duration = time, (packet.duration or 0) * packet.time_base
                shift = round((first + film.start) / packet.time_base)
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = streams[packet.stream_index]
                output.mux(packet)
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, UnreadableVideo):
            raise
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise _cannot_hold(film, muxer, str(error)) from error
    return last + (duration or frame_interval(film))


def _check_copy(film: Film, description: VideoDescription, path: Path, muxer: str) -> None:
    """Read the copy back, because some containers take any codec as private data, or drop the rotation."""
    try:
        copy = describe_video(path)
    except UnreadableVideo as error:
        raise _cannot_hold(film, muxer, f"the copy has no frame that can be read ({error.kind})") from error
    for name in ("codec", "width", "height", "rotation"):
        before, after = getattr(description, name), getattr(copy, name)
        if before != after:
            raise _cannot_hold(film, muxer, f"the copy has the {name} {after} instead of {before}")


def _cannot_hold(film: Film, muxer: str, reason: str) -> UnreadableVideo:
    codecs = ", ".join(s.codec_context.name for s in (film.stream, *film.container.streams.audio))
    return UnreadableVideo(
        "cut failed",
        f"{film.name}: its streams ({codecs}) cannot be copied into a file of the format {muxer}: {reason}. "
        "Choose another ending; .mkv holds almost everything, and .mp4, .mkv and .mov keep a rotation.",
    )


def _fill_decoding_times(film: Film, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Give the first packets after a jump the decoding times that Matroska leaves to be guessed."""
    waiting: list[av.Packet] = []
    for packet in packets:
        if packet.stream_index != film.stream.index:
            packet.dts = packet.pts if packet.dts is None else packet.dts
            yield packet
        elif packet.dts is None:
            waiting.append(packet)
        else:
            yield from _number_backwards(film, waiting, packet.dts)
            waiting.clear()
            yield packet
    # A film without any decoding time has no frames out of order, or is so short that this is its whole.
    yield from _number_backwards(film, waiting, max((packet.pts for packet in waiting), default=0))


def _number_backwards(film: Film, packets: list[av.Packet], following: int) -> list[av.Packet]:
    step = max(1, int(frame_interval(film) / film.stream.time_base))
    last = min([following, *(packet.pts for packet in packets)])  # none is decoded after it is shown
    for place, packet in enumerate(packets):
        packet.dts = last - (len(packets) - place) * step
    return packets


def _packets_between(film: Film, first: Fraction, end: Fraction, indices: list[int]) -> Iterator[av.Packet]:
    _go_to_key_frame(film, first)
    streams = [film.container.streams[index] for index in indices]
    begun, over, latest = False, set(), first
    for packet in film.packets(*streams):
        if not packet.size or packet.stream_index in over:
            continue
        is_picture = packet.stream_index == film.stream.index
        if packet.pts is None:
            raise UnreadableVideo(
                "cut failed", f"{film.name}: its packets have no time stamps, so they cannot be copied."
            )
        time = packet.pts * packet.time_base - film.start
        decoded = time if packet.dts is None else packet.dts * packet.time_base - film.start
        # Frames that are shown before one that was copied come too, so that none is missing in between.
        if (decoded >= end and time > latest) if is_picture else time >= end:
            over.add(packet.stream_index)
            if len(over) == len(streams):
                return
            continue
        if film.stream.index in over and decoded > end + _SOUND_LAG:
            return
        begun = begun or (is_picture and packet.is_keyframe and time == first)
        # Pictures shown before the key frame need the one before that, which is left out.
        if time >= first and (begun or not is_picture):
            latest = max(latest, time) if is_picture else latest
            yield packet


def _go_to_key_frame(film: Film, first: Fraction) -> None:
    """Stand where the packets from the key frame at `first` on are still to come."""
    if film.seek(first):
        for packet in film.packets():
            if packet.pts is not None and packet.is_keyframe:
                if film.to_time(packet.pts) <= first and film.seek(first):
                    return
                break
    film.rewind()
