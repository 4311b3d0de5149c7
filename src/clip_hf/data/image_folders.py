# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Folders of images: which files count, and the text beside each; images are not decoded."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..model.image_reading_clip_hf import IMAGE_ENDINGS, refused_location
from ..utils.wording import counted
from .texts import decode_text, is_utf8


logger = logging.get_logger(__name__)

_SIDECARS = ("txt", "json")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: `.ipynb_checkpoints`, `._cat.jpg`, `__MACOSX`."""
    return name.startswith((".", "__"))


def folder_rows(parts: Sequence[Sequence[str]], roles: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The images of each list of paths, with the text of the `.txt` beside each, if there is one."""
    for path in (path for part in parts for path in part):
        text = Path(path).with_suffix(".txt")
        caption = decode_text(text.read_bytes()) if text.is_file() else None
        values = {"image": stored_image(path), "caption": caption}
        yield {column: values.get(role) for column, role in roles.items()}


def stored_image(path: str) -> dict[str, Any]:
    """The image of a row. Rows hold no name that is not UTF-8: a file of such a name is refused when it is read."""
    if not is_utf8(path):
        path = refused_location("file name not UTF-8", f"the name {path!r} is not UTF-8; rename the file.")
    return {"bytes": None, "path": path}


def images_in(*folders: Path, beside: Path | None = None) -> list[list[str]]:
    """The image files in each folder and its subfolders, sorted; hidden ones do not count.

    The log counts other files by ending, except texts and JSON beside an image of the same name; those of the folder
    `beside` the others, too.
    """
    images_by_folder: list[list[str]] = []
    left_out: Counter[str] = Counter()
    for folder in folders:
        paths = [path.absolute() for path in _files_below(folder)]
        images = sorted(str(path) for path in paths if _ending(path) in IMAGE_ENDINGS and path.is_file())
        images_by_folder.append(images)
        known = {*images, *(f"{os.path.splitext(image)[0]}.{ending}" for image in images for ending in _SIDECARS)}
        left_out.update(_ending(path) for path in paths if str(path) not in known)
    if beside is not None:
        left_out.update(_ending(path) for path in beside.iterdir() if path.is_file() and not is_hidden(path.name))
    if left_out:
        logger.warning(describe_left_out(left_out, "file", f"in {beside or ', '.join(map(str, folders))}"))
    return images_by_folder


def describe_left_out(left_out: Counter[str], noun: str, where: str) -> str:
    """How many files or members were not read, by ending."""
    counts = ", ".join(f"{n:,} {f'.{ending}' if ending else 'without'}" for ending, n in left_out.most_common(20))
    verb = "was" if left_out.total() == 1 else "were"
    return f"{counted(left_out.total(), noun)} {where} {verb} left out, by ending: {counts}."


def contiguous_parts(items: Sequence[Any], count: int) -> list[list[Any]]:
    """Split items, in order, into at most `count` parts of about equal length, none of them empty."""
    count = min(len(items), count)
    return [list(items[part * len(items) // count : (part + 1) * len(items) // count]) for part in range(count)]


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (Path(parent, name) for name in names if not is_hidden(name))


def _ending(path: Path) -> str:
    return path.suffix.lower().lstrip(".")
