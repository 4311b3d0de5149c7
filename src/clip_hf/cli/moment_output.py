# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What `clip-hf search` does with moments of films: their times in words, links that start there, and clips."""

import argparse
import importlib
import itertools
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.texts import escaped
from ..search import FilmFrame, Moment
from ..utils.extras import require_extra
from .terminal_text import printable


_NOT_IN_NAMES = re.compile(r"[^\w.-]+")
_NAME_BYTES = {"query": 60, "film": 100}  # in the names of clips, which have less than 255
_OF_ROWS = ("start", "end", "time", "is_last")  # of the best frame's row alone


def check_moment_options(options: argparse.Namespace) -> None:
    """Raise a `ValueError` for options that do not go with moments of films, or only with them."""
    if options.over == "moments":
        require_extra("video", "searching films", "av")
        others = [f"--{name}" for name in ("duplicates", "store", "approximate") if getattr(options, name) is not None]
        if others:
            raise ValueError(
                f"{', '.join(others)} is for pictures, and SOURCE is searched for moments of films: leave it out. "
                "Pictures among the films are searched with --over images."
            )
        if options.cut is not None and not options.query:
            raise ValueError("--cut writes what a query finds: name one.")
        if options.cut is not None:
            _check_clip_folder(options.cut)
        return
    given = [f"--{name.replace('_', '-')}" for name in ("cut", "frames_per_second") if getattr(options, name)]
    if given:
        raise ValueError(
            f"{', '.join(given)} is for moments of films: leave it out, or give films and --over moments."
        )


def _check_clip_folder(folder: str) -> None:
    """Raise an `OSError` for a folder that cannot be made."""
    path = Path(folder).absolute()
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if not there.is_dir():
        raise NotADirectoryError(
            f"--cut is the folder for clips, and {escaped(str(there))} is no folder: name another."
        )


def clock(seconds: float) -> str:
    """A time as players show it, with tenths: `0:12.5`, `1:02:03.0`."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{start}:{tenths // 10:02d}.{tenths % 10}"


def span(moment: Moment) -> str:
    """From when to when a moment lasts: `0:12.0-0:15.0`."""
    return f"{clock(moment.start)}-{clock(moment.end)}"


def link(moment: Moment) -> str | None:
    """An address that opens the film at the moment's first frame; None if the film is not there."""
    if not isinstance(moment.picture, FilmFrame):
        return None
    milliseconds = math.ceil(round(moment.first * 1000, 3))  # rounded down, it would be the frame before
    return f"{moment.picture.film.absolute().as_uri()}#t={milliseconds / 1000:.10g}"


def as_record(moment: Moment) -> dict:
    """A moment as a line of JSON: times in seconds."""
    record = {name: getattr(moment, name) for name in ("rank", "file", "start", "end", "peak", "score", "id")}
    if isinstance(moment.picture, FilmFrame):
        record["path"] = escaped(os.path.abspath(os.fsdecode(moment.picture.film)))
    metadata = {name: value for name, value in moment.metadata.items() if name not in _OF_ROWS}
    return {**record, "metadata": metadata}


def cut_moments(moments: Sequence[Moment], query: str, folder: str) -> int:
    """Write each moment as a film of its own, without encoding it again; returns how many could not be written."""
    # By name, because the package needs PyAV when it is imported.
    cut_clip = importlib.import_module("clip_hf.video").cut_clip
    Path(folder).mkdir(parents=True, exist_ok=True)
    failed = 0
    for moment in moments:
        if not isinstance(moment.picture, FilmFrame):
            continue  # it is told that the film is missing
        film = moment.picture.film
        path = _clip_path(Path(folder), query, moment, film)
        try:
            first, last = cut_clip(film, moment.start, moment.end, path)
            earlier = round(moment.start - first, 1)
            why = f", begins {earlier:.1f} s before the moment, at a key frame" if earlier > 0 else ""
            print(f"clip-hf search: wrote {printable(str(path))} ({clock(first)}-{clock(last)}{why})", file=sys.stderr)
        except ValueError as error:  # an `UnreadableVideo`, too
            failed += 1
            reason = str(error).removeprefix(f"{film}: ")
            print(f"clip-hf search: {printable(str(film))}: {reason}", file=sys.stderr)
    return failed


def _clip_path(folder: Path, query: str, moment: Moment, film: Path) -> Path:
    """Where a clip goes: named by query, rank, film and times; numbered where there is one of this name."""
    name = f"{_short(query, 'query')}_{moment.rank:02d}_{_short(film.stem, 'film')}_{span(moment).replace(':', 'm')}"
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    paths = (folder / (each + film.suffix.lower()) for each in names)
    return next(path for path in paths if not os.path.lexists(path))


def _short(text: str, kind: str) -> str:
    safe = _NOT_IN_NAMES.sub("_", text).strip("._-")
    return safe.encode()[: _NAME_BYTES[kind]].decode(errors="ignore") or kind
