# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The files that a source names: by a path, a shell pattern, several of these, or URLs."""

import glob
import itertools
import math
import os
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from transformers.utils import logging

from ..model.image_reading_clip_hf import check_scheme
from ..utils.json_files import check_regular
from ..utils.wording import counted, listed
from .image_folders import is_hidden, walk
from .parts import table_part


logger = logging.get_logger(__name__)

_NUMBERS = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?\d+))?")
_MOST_NAMES = 1_000_000
TABLES = (".csv", ".tsv", ".jsonl", ".json")
"""Endings of tables."""
SHARDS = (".parquet", ".tar")
"""Endings of files that hold images themselves, and that may be remote."""
# Raised when the same files give other rows than before.
_RECIPE_VERSION = "3"


def files_of(source: str) -> list[str]:
    """The files that a source stands for; none if it is not a pattern and there is no such file.

    - `*`, `?`, `[ab]` and `**` match as in Python's `glob`, and are sorted.
    - `{a,b}`, `{000..127}`, `{0..8..2}` and `{a..c}` are written out as in bash, in that order.
    - `a.tar::b.tar` are several, as in open_clip.
    - URLs stand for themselves; they are of the schemes that image paths may have.

    Raises:
        ValueError: if some files of several are missing, one is a pipe or device, or a URL may not be opened.
    """
    pieces = [source] if os.path.isfile(source) else source.split("::")
    names = [name for piece in pieces for name in ([piece] if os.path.isfile(piece) else _written_out(piece))]
    files_by_name = {name: _files_of_one(name) for name in names}
    missing = [name for name, files in files_by_name.items() if not files]
    if missing and names != [source]:
        raise ValueError(
            f"Of the {len(names):,} files or patterns that {source} stands for, there is no {listed(missing, 5)}."
        )
    return [file for name in names for file in files_by_name[name]]


def ending_of(file: str) -> str:
    """The ending of a file or URL, lower case and with the dot."""
    return Path(urllib.parse.urlsplit(file).path if "://" in file else file).suffix.lower()


def stamp_of(files: Sequence[str]) -> str:
    """A key for `datasets`' cache that changes with the files and with how their rows are read."""
    stats = [os.stat(file) for file in files if os.path.exists(file)]
    return " ".join([_RECIPE_VERSION, *(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)])


def _files_of_one(name: str) -> list[str]:
    if os.path.isfile(name):
        return [name]
    if "://" in name:
        check_scheme(name)
        if ending_of(name) not in SHARDS:
            raise ValueError(f"{name} is a URL of no kind that can be read; there are {', '.join(SHARDS)}.")
        return [name]
    check_regular(name)
    return sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path))


def _written_out(text: str) -> list[str]:
    """Expand braces as bash does; braces that are not a pattern stay."""
    pools, start, place = [], 0, 0
    while (place := text.find("{", place)) >= 0:
        end, alternatives = _alternatives(text, place)
        if not alternatives:
            place += 1
            continue
        pools += [[text[start:place]], alternatives]
        start = place = end
    pools.append([text[start:]])
    if math.prod(map(len, pools)) > _MOST_NAMES:
        raise ValueError(f"{text} stands for more than {_MOST_NAMES:,} names; is a range mistyped?")
    return ["".join(parts) for parts in itertools.product(*pools)]


def _alternatives(text: str, start: int) -> tuple[int, list[str] | range]:
    """What the brace at `start` stands for, nothing if it is no pattern, and the place after it."""
    depth, places = 0, [start]
    for place in range(start, len(text)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "," and depth == 1:
            places.append(place)
        elif text[place] == "}":
            depth -= 1
        if depth == 0:
            break
    else:
        return start, []
    places.append(place)
    if len(places) > 2:
        pieces = [text[first + 1 : last] for first, last in itertools.pairwise(places)]
        return place + 1, [name for piece in pieces for name in _written_out(piece)]
    return place + 1, _range(text[start + 1 : place])


def _range(text: str) -> list[str]:
    numbers, letters = _NUMBERS.fullmatch(text), _LETTERS.fullmatch(text)
    if not numbers and not letters:
        return []
    first, last, step = (numbers or letters).groups()
    ends = (int(first), int(last)) if numbers else (ord(first), ord(last))
    size = abs(int(step or 1)) or 1
    if abs(ends[1] - ends[0]) // size >= _MOST_NAMES:
        raise ValueError(f"{{{text}}} stands for more than {_MOST_NAMES:,} names; is a range mistyped?")
    values = range(ends[0], ends[1] + 1, size) if ends[0] <= ends[1] else range(ends[0], ends[1] - 1, -size)
    if letters:
        return list(map(chr, values))
    is_padded = any(re.match(r"-?0\d", end) for end in (first, last))
    width = max(len(first), len(last)) if is_padded else 0
    return [f"{value:0{width}d}" for value in values]


# ------------------------------------------------------------------------------------------------------------- folders


def data_files(folder: Path) -> list[str]:
    """The Parquet files of a folder and its subfolders, or if there are none its tars, sorted.

    Hidden files are left out, and metadata that img2dataset writes beside its tars or folders of pictures.
    """
    by_ending: dict[str, list[str]] = {ending: [] for ending in SHARDS}
    for parent, folders, names in walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        for path in (Path(parent, name) for name in names if not is_hidden(name)):
            ending = path.suffix.lower()
            if ending in by_ending and path.is_file():
                by_ending[ending].append(str(path))
    all_files = sorted(file for files in by_ending.values() for file in files)
    kept = without_metadata(all_files)
    # And what img2dataset writes beside a folder of pictures `00000`: `00000.parquet`.
    described = {file for file in kept if _describes_folder(Path(file))}
    kept = _without(
        kept, described, "of the pictures in the folder beside it", "the pictures and their texts are read"
    )
    return next((files for ending in by_ending if (files := [file for file in kept if ending_of(file) == ending])), [])


def without_metadata(files: list[str]) -> list[str]:
    """Without what img2dataset writes beside a tar `00000.tar`: `00000.parquet`, `00000_stats.json`."""
    stems = {os.path.splitext(file)[0] for file in files if ending_of(file) == ".tar"}
    beside = {f"{stem}{ending}" for stem in stems for ending in (".parquet", ".csv", ".json", "_stats.json")}
    is_read = "tars are" if len(stems) > 1 else "tar is"
    return _without(files, beside, "of the tar beside it", f"the {is_read} read")


def _without(files: list[str], left_out: set[str], what: str, instead: str) -> list[str]:
    shown = [file for file in files if file in left_out]
    if shown:
        logger.warning(
            f"{shown[0]} has metadata {what}, as img2dataset writes them; {instead}, "
            f"{counted(len(shown), 'such file')} left out."
        )
    return [file for file in files if file not in left_out]


def _describes_folder(file: Path) -> bool:
    if file.suffix.lower() != ".parquet" or not file.stem.isdecimal() or not file.with_suffix("").is_dir():
        return False
    try:
        columns = pq.read_schema(file)
    except (OSError, pa.ArrowException):
        return False  # reported when it is read
    may_be_images = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_struct)
    has_images = "image" in columns.names or any(is_one(kind) for kind in columns.types for is_one in may_be_images)
    return "url" in columns.names and not has_images


def table_parts(folder: Path) -> dict[str | None, list[str]]:
    """The tables in a folder by the part that names them: `train.csv`, `test-00000-of-00002.csv`.

    All are of the first ending that occurs. `metadata.csv` has the rows of the whole folder (None).
    """
    tables = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in TABLES and path.is_file() and not is_hidden(path.name)
    )
    for ending in TABLES:
        if metadata := [str(path) for path in tables if path.name == f"metadata{ending}"]:
            return {None: metadata}
    for ending in TABLES:
        parts: dict[str | None, list[str]] = {}
        for path in tables:
            if path.suffix.lower() == ending and (part := table_part(path.stem)):
                parts.setdefault(part, []).append(str(path))
        if parts:
            return parts
    return {}
