# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows of tables with image paths, and of folders of images with texts; images are not decoded."""

import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..model.image_reading_clip_hf import IMAGE_ENDINGS, ImagePlaces
from .pair_options import PairOptions
from .tables import raw_table_rows
from .texts import TextReader, decode_text


logger = logging.get_logger(__name__)

# What the image column is called in the metadata files of `datasets`' image folders.
_FILE_NAME = "file_name"
_PEEKED_ROWS = 100
_SIDECARS = ("txt", "json")


def row_columns(options: PairOptions) -> dict[str, str]:
    """The columns that a pair needs and their roles: `"image"`, `"caption"`, `"text"` or `"id"`."""
    roles = {options.image_column: "image"}
    for name in TextReader(options.templates, options.caption_column).columns:
        roles[name] = "caption" if name == options.caption_column else "text"
    if options.image_id_column is not None:
        roles.setdefault(options.image_id_column, "id")
    return roles


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: `.ipynb_checkpoints`, `._cat.jpg`, `__MACOSX`."""
    return name.startswith((".", "__"))


# -------------------------------------------------------------------------------------------------------------- tables


def table_rows(
    tables: Sequence[str], roles: dict[str, str], stamp: str = "", root: str | None = None
) -> Iterator[dict[str, Any]]:
    """
    The rows of CSV, TSV, JSON Lines and JSON files, with images where [`image_location`] says they are.

    Args:
        tables (`Sequence[str]`):
            Paths; the ending says which kind of file it is.
        roles (`dict[str, str]`):
            The columns to make, see `row_columns`. The image's path may also be in a column `file_name`.
        stamp (`str`, *optional*):
            Not used; it makes a cache differ where a file changed.
        root (`str`, *optional*):
            Another folder than the table's below which images may be.
    """
    for table in tables:
        location_of = ImagePlaces(os.path.dirname(os.path.abspath(table)), root)
        for fields in raw_table_rows(table):
            row: dict[str, Any] = {}
            for column, role in roles.items():
                value = fields.get(column)
                if role == "image":
                    value = value if column in fields else fields.get(_FILE_NAME)
                    location = location_of(value)
                    value = None if location is None else {"bytes": None, "path": location}
                row[column] = value
            yield row


def table_columns(table: str, options: PairOptions) -> list[str]:
    """The columns of a table by its first rows, with the image column under the name that `options` gives it."""
    first = itertools.islice(raw_table_rows(table), _PEEKED_ROWS)
    names = list(dict.fromkeys(name for row in first for name in row))
    if options.image_column not in names and _FILE_NAME in names:
        names[names.index(_FILE_NAME)] = options.image_column
    return names


# ------------------------------------------------------------------------------------------------------- image folders


def folder_rows(parts: Sequence[Sequence[str]], roles: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The images of each list of paths, with the text of the `.txt` beside each, if there is one."""
    for path in (path for part in parts for path in part):
        text = Path(path).with_suffix(".txt")
        caption = decode_text(text.read_bytes()) if text.is_file() else None
        values = {"image": {"bytes": None, "path": path}, "caption": caption}
        yield {column: values.get(role) for column, role in roles.items()}


def images_in(*folders: Path, beside: Path | None = None) -> list[list[str]]:
    """
    The image files in each folder and its subfolders, sorted; hidden ones do not count.

    What else is there is logged by its ending, but for texts and JSON beside an image of the same name.

    Args:
        folders (`Path`):
            The folders.
        beside (`Path`, *optional*):
            A folder that holds them, whose own files are logged, too.
    """
    found: list[list[str]] = []
    left_out: Counter[str] = Counter()
    for folder in folders:
        paths = [path.absolute() for path in _files_below(folder)]
        images = sorted(str(path) for path in paths if _ending(path) in IMAGE_ENDINGS and path.is_file())
        found.append(images)
        known = {*images, *(f"{os.path.splitext(image)[0]}.{ending}" for image in images for ending in _SIDECARS)}
        left_out.update(_ending(path) for path in paths if str(path) not in known)
    if beside is not None:
        left_out.update(_ending(path) for path in beside.iterdir() if path.is_file() and not is_hidden(path.name))
    if left_out:
        counts = ", ".join(f"{n:,} {f'.{ending}' if ending else 'without'}" for ending, n in left_out.most_common())
        where = beside or ", ".join(map(str, folders))
        logger.warning(f"{left_out.total():,} files in {where} were left out, by ending: {counts}.")
    return found


def contiguous_parts(items: Sequence[Any], count: int) -> list[list[Any]]:
    """At most so many parts of about equal length, none of them empty; together they are the items in their order."""
    count = min(len(items), count)
    return [list(items[part * len(items) // count : (part + 1) * len(items) // count]) for part in range(count)]


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (Path(parent, name) for name in names if not is_hidden(name))


def _ending(path: Path) -> str:
    return path.suffix.lower().lstrip(".")


__all__ = [
    "contiguous_parts",
    "folder_rows",
    "images_in",
    "is_hidden",
    "row_columns",
    "table_columns",
    "table_rows",
]
