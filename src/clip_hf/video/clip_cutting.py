# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Cut a part out of a film without encoding it anew: its packets are copied into another file."""

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
    VideoLimits,
    frame_interval,
    open_film,
)
from ..utils.atomic import replaced_file


_SOUND_LAG = 2  # seconds that sound may lie behind its pictures in a file
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
    when it is complete.

    Args:
        video: As for [`read_frames`].
        start, end (`float`): Seconds from the container's start.
        path (`str` or `os.PathLike`): File to write; its ending names the container (mp4, mkv, mov, webm, avi, ...).
        limits ([`VideoLimits`], *optional*): Limits on reading.

    Returns:
        `tuple[float, float]`: Where the copy really begins and ends in the film, in seconds.

    Raises:
        ValueError: `start` and `end` are no interval, `start` is after the film's end, or the ending is unknown.
        UnreadableVideo: the film cannot be opened or copied, or the container cannot hold its codecs.
    """
    muxer = _MUXERS.get(Path(path).suffix[1:].lower())
    if muxer is None:
        raise ValueError(
            f"`path` ends in {Path(path).suffix!r}; the endings of containers are {', '.join(sorted(_MUXERS))}."
        )
    if not 0 <= start < end < float("inf"):
        raise ValueError(f"`start` {start!r} and `end` {end!r} are no interval: 0 <= start < end is needed.")
    with open_film(video, limits) as film:
        first = _find_key_frame(film, Fraction(float(start)))
        with replaced_file(path) as temporary:
            last = _copy(film, first, Fraction(float(end)), temporary, muxer)
            if last <= start:
                raise ValueError(f"`start` is {start:g}, but {film.name} ends at second {float(last):.3f}.")
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
    ending = last = first
    with av.open(str(path), "w", format=muxer) as output:
        try:
            streams = {
                stream.index: output.add_stream_from_template(stream, opaque=True)
                for stream in (film.stream, *film.container.streams.audio)
            }
            for packet in _fill_decoding_times(film, _packets_between(film, first, end, list(streams))):
                if packet.stream_index == film.stream.index:
                    time = film.to_time(packet.pts)
                    last = max(last, time)
                    ending = max(ending, time + (packet.duration or 0) * packet.time_base)
                shift = round((first + film.start) / packet.time_base)
                packet.pts -= shift
                packet.dts -= shift
                packet.stream = streams[packet.stream_index]
                output.mux(packet)
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, UnreadableVideo):
                raise
            codecs = ", ".join(s.codec_context.name for s in (film.stream, *film.container.streams.audio))
            raise UnreadableVideo(
                "cut failed",
                f"{film.name}: its streams ({codecs}) cannot be copied into a file of the format {muxer}: {error}. "
                "Choose another ending; .mkv holds almost everything.",
            ) from error
    return max(ending, last + frame_interval(film)) if ending == last else ending


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
    begun, over = False, set()
    for packet in film.container.demux(*streams):
        if not packet.size or packet.stream_index in over:
            continue
        is_picture = packet.stream_index == film.stream.index
        if packet.pts is None:
            raise UnreadableVideo(
                "cut failed", f"{film.name}: its packets have no time stamps, so they cannot be copied."
            )
        time = packet.pts * packet.time_base - film.start
        decoded = time if packet.dts is None else packet.dts * packet.time_base - film.start
        if (decoded if is_picture else time) >= end:
            over.add(packet.stream_index)
            if len(over) == len(streams):
                return
            continue
        if film.stream.index in over and decoded > end + _SOUND_LAG:
            return
        begun = begun or (is_picture and packet.is_keyframe and time == first)
        # Pictures shown before the key frame need the one before that, which is left out.
        if time >= first and (begun or not is_picture):
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
