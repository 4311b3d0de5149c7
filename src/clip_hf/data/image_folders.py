# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Folders of images or films: which files count, and the text beside each; nothing is decoded."""

import errno
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from _clip_hf_cli.control_characters import escape_controls

from ..utils.wording import counted
from .locations import stored_image
from .media import IMAGES, MEDIA_BY_ROLE, Media
from .skips import stop_if_exhausted
from .texts import MOST_TEXT_BYTES, decode_text, escaped, unreadable_caption


logger = logging.get_logger(__name__)

_SIDECARS = ("txt", "json")
LABEL = "label"
"""The column of folders that holds the names of class folders, as in `datasets`."""
INDEX_ENDING = ".clip-index"
"""How the folders end that `clip-hf search` writes beside its sources: films in a folder have theirs in it, too."""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: `.ipynb_checkpoints`, `._cat.jpg`, `__MACOSX`, and indexes."""
    return name.startswith((".", "__")) or name.endswith(INDEX_ENDING)


def folder_rows(parts: Sequence[Sequence[str]], roles: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The images or films of each list of paths, with the text of the `.txt` beside each, if there is one.

    The column `label` is instead the name of the folder that each lies in, with spaces for underscores.
    """
    is_label = roles.get(LABEL) == "caption"
    for path in (path for part in parts for path in part):
        values = {role: stored_image(path) for role in MEDIA_BY_ROLE}
        file = Path(path)
        values["caption"] = file.parent.name.replace("_", " ") if is_label else _read_caption(_text_beside(file))
        yield {column: values.get(role) for column, role in roles.items()}


def has_texts(paths: Sequence[str]) -> bool:
    """Whether any of these images or films has a `.txt` beside it."""
    return any(_text_beside(Path(path)).is_file() for path in paths)


def _text_beside(path: Path) -> Path:
    return path.with_suffix(".txt")


def _read_caption(path: Path) -> str | bytes | None:
    """The text of a file; None if there is none; where it cannot be read, what says so."""
    try:
        if not path.is_file():
            return None
        with open(path, "rb") as file:
            data = file.read(MOST_TEXT_BYTES + 1)
    except OSError as error:
        stop_if_exhausted(error, f"the text {path}")
        return unreadable_caption(f"of {path.name}, which cannot be opened: {error.strerror}")
    if len(data) > MOST_TEXT_BYTES:
        return unreadable_caption(f"of {path.name}, which has more than {MOST_TEXT_BYTES:,} bytes")
    return decode_text(data)


def images_in(*folders: Path, beside: Path | None = None, media: Media = IMAGES) -> list[list[str]]:
    """The image files (or those of `media`) in each folder and its subfolders, sorted; hidden ones do not count.

    The log counts other files by reason and ending, except texts and JSON beside an image of the same name; those of
    the folder `beside` the others, too. Links to folders are not followed, but counted.

    Raises:
        OSError: if what is in a folder cannot be known.
    """
    images_by_folder: list[list[str]] = []
    left_out: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for folder in folders:
        paths = [path.absolute() for path in _files_below(folder)]
        images = sorted(str(path) for path in paths if _ending(path) in media.endings and _is_file(path))
        images_by_folder.append(images)
        known = {*images, *(f"{os.path.splitext(image)[0]}.{ending}" for image in images for ending in _SIDECARS)}
        for path in (path for path in paths if str(path) not in known):
            left_out[_reason(path)][_ending(path)] += 1
    if beside is not None:
        names = [path for path in beside.iterdir() if not path.is_dir() and not is_hidden(path.name)]
        if names:
            left_out["for lying beside the class folders"].update(map(_ending, names))
    for reason, endings in left_out.items():
        where = f"in {beside or ', '.join(map(str, folders))}"
        logger.warning(describe_left_out(endings, "file", where, reason))
    return images_by_folder


def has_images(folder: Path, media: Media = IMAGES) -> bool:
    """Whether there is an image file (or one of `media`) in the folder or its subfolders."""
    return any(_ending(path) in media.endings and _is_file(path) for path in _files_below(folder))


def _is_file(path: Path) -> bool:
    """Whether this is a regular file; OSError if that cannot be known."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return False
        raise _unknown_files(error, str(path.parent)) from error


def _reason(path: Path) -> str:
    """Why a file, or a link to a folder, is left out."""
    if _is_file(path):
        return "by ending"
    return "for being a link to a folder" if os.path.isdir(path) else "for being no regular file"


def describe_left_out(left_out: Counter[str], noun: str, where: str, reason: str = "by ending") -> str:
    """How many files or members of each ending were not read, and why."""
    named = ((f".{ending}" if ending else "without an ending", count) for ending, count in left_out.most_common(20))
    counts = ", ".join(f"{count:,} {ending}" for ending, count in named)
    verb = "was" if left_out.total() == 1 else "were"
    return escape_controls(f"{counted(left_out.total(), noun)} {where} {verb} left out, {reason}: {counts}.")


def contiguous_parts(items: Sequence[Any], count: int) -> list[list[Any]]:
    """Split items, in order, into at most `count` parts of about equal length, none of them empty."""
    count = min(len(items), count)
    return [list(items[part * len(items) // count : (part + 1) * len(items) // count]) for part in range(count)]


def walk(folder: str | os.PathLike) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, but a folder that is there and cannot be read is an `OSError`: it is not empty.

    One whose path is too long for the system is left out, and named.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # a class of other parts
            return
        if error.errno == errno.ENAMETOOLONG:
            logger.warning(f"The folder {escaped(str(error.filename))} is left out: its path is too long.")
            return
        raise _unknown_files(error, error.filename) from error

    return os.walk(folder, onerror=refuse)


def _unknown_files(error: OSError, folder: str) -> OSError:
    return OSError(error.errno, f"{error.strerror}: the folder {folder} cannot be read, so its files are unknown")


def _files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and its subfolders, and links to folders."""
    for parent, folders, names in walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (Path(parent, name) for name in names if not is_hidden(name))
        yield from (path for path in (Path(parent, name) for name in folders) if os.path.islink(path))


def _ending(path: Path) -> str:
    return path.suffix.lower().lstrip(".")
