# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What `clip-hf search` does with moments of films: their times in words, links that start there, and clips."""

import argparse
import importlib
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
        return
    given = [f"--{name.replace('_', '-')}" for name in ("cut", "frames_per_second") if getattr(options, name)]
    if given:
        raise ValueError(
            f"{', '.join(given)} is for moments of films: leave it out, or give films and --over moments."
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
    """An address that opens the film where the moment starts; None if the film is not there."""
    if not isinstance(moment.picture, FilmFrame):
        return None
    return f"{moment.picture.film.absolute().as_uri()}#t={round(moment.start, 3):g}"


def as_record(moment: Moment) -> dict:
    """A moment as a line of JSON: times in seconds."""
    record = {name: getattr(moment, name) for name in ("rank", "file", "start", "end", "peak", "score", "id")}
    if isinstance(moment.picture, FilmFrame):
        record["path"] = escaped(os.path.abspath(os.fsdecode(moment.picture.film)))
    return {**record, "metadata": moment.metadata}


def cut_moments(moments: Sequence[Moment], folder: str) -> int:
    """Write each moment as a film of its own, without encoding it again; returns how many could not be written."""
    # By name, because the package needs PyAV when it is imported.
    cut_clip = importlib.import_module("clip_hf.video").cut_clip
    Path(folder).mkdir(parents=True, exist_ok=True)
    failed = 0
    for moment in moments:
        if not isinstance(moment.picture, FilmFrame):
            continue  # it is told that the film is missing
        film = moment.picture.film
        name = _NOT_IN_NAMES.sub("_", f"{moment.rank:02d}_{film.stem[:80]}_{span(moment).replace(':', 'm')}")
        path = Path(folder, name + film.suffix.lower())
        try:
            first, last = cut_clip(film, moment.start, moment.end, path)
            cut = f"{clock(first)}-{clock(last)}, from the key frame before"
            print(f"clip-hf search: wrote {printable(str(path))} ({cut})", file=sys.stderr)
        except ValueError as error:  # an `UnreadableVideo`, too
            failed += 1
            print(f"clip-hf search: {printable(str(film))}: {error}", file=sys.stderr)
    return failed
