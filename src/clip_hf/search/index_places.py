# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Where the index of a source lies, who may change it at a time, and whether it is the index that was meant."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from transformers.utils import logging

from ..data.image_folders import is_hidden
from ..data.texts import escaped
from ..embedding.destination_errors import NO_LOCKS
from ..embedding.dual_encoder import DualEncoder
from ..embedding.job_manifest import describe_encoder, find_differences
from ..embedding.part_files import SECTIONS
from ..utils.atomic import move_into_place, remove_folder, sync_folder
from .embedding_index import EmbeddingIndex
from .index_segments import MANIFEST


logger = logging.get_logger(__name__)
T = TypeVar("T")

MODALITIES = ("images", "texts")
INDEX_ENDINGS = {"images": ".clip-index", "texts": ".texts.clip-index"}
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENOENT)


def check_over(over: str) -> str:
    """`over`; ValueError if it is neither `"images"` nor `"texts"`."""
    if over not in MODALITIES:
        raise ValueError(f"`over` (--over) is {over!r}; it must be one of {', '.join(map(repr, MODALITIES))}.")
    return over


def default_index_folder(source: Any, over: str = "images") -> Path:
    """Where the index of a source lies unless another folder is named: beside the source.

    Args:
        source (`str` or `os.PathLike`): A folder or file; `photos`, `photos/` and, in it, `.` are the same.
        over (`str`, *optional*, defaults to `"images"`): What is indexed, `"images"` or `"texts"`.

    Returns:
        `Path`: `photos.clip-index` beside `photos`; of its texts `photos.texts.clip-index`.

    Raises:
        ValueError: if the source has no place beside it: it is a list, a dataset in memory, a URL, a name on the hub,
            or the root of a file system.
    """
    check_over(over)
    text = os.path.expanduser(os.fspath(source)) if isinstance(source, str | os.PathLike) else ""
    path = Path(os.path.abspath(text))
    if not text.strip() or "://" in text or "::" in text or not path.name or not path.parent.is_dir():
        shown = escaped(repr(source)[:80])
        raise ValueError(f"There is no place beside {shown} for its index; name a folder for it (--index).")
    return path.with_name(path.name + INDEX_ENDINGS[over])


def is_index(folder: Path) -> bool:
    """Whether a folder holds an index."""
    return (folder / MANIFEST).is_file()


def check_index_folder(index_folder: Path, source: Path | None = None) -> None:
    """ValueError if an index must not be written to a folder: it holds something else, or lies among the pictures."""
    if index_folder.exists() and not is_index(index_folder):
        if not index_folder.is_dir() or any(index_folder.iterdir()):
            raise ValueError(
                f"{index_folder} is no index, and not empty; nothing is written there. Name another folder for the "
                "index (--index)."
            )
    if source is None:
        return
    real, folder = Path(os.path.realpath(index_folder)), os.path.realpath(source)
    if real.is_relative_to(folder) and not any(map(is_hidden, real.relative_to(folder).parts)):
        raise ValueError(
            f"The index {index_folder} would lie among the pictures of {source}; name a folder outside (--index), or "
            "one whose name begins with a dot."
        )


class OtherIndexError(ValueError):
    """An index is of another model, source or kind than the one that is meant."""


@contextmanager
def locked_index(index_folder: Path) -> Iterator[None]:
    """Let one process at a time bring an index up to date; the others wait, and say so.

    Raises:
        OSError: if there is no place for the index; it names the option that says another one.
    """
    lock = FileLock(index_folder.with_name(f".{index_folder.name}.lock"))
    try:
        index_folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning(f"Another process brings {index_folder} up to date; waiting for it.")
            lock.acquire()
    except OSError as error:
        if error.errno in _REFUSED:
            hint = " To search it as it is, give the index itself as the source." if is_index(index_folder) else ""
            raise OSError(
                error.errno,
                f"{error.strerror}: the index {index_folder} cannot be written there. Name another folder for it "
                f"(--index).{hint}",
            ) from error
        if error.errno not in NO_LOCKS:  # without locks, the index still takes one change at a time
            raise
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows keeps files that are open
                os.unlink(lock.lock_file)  # before it is released, so that the next process makes its own
        lock.release()


def build_beside(index_folder: Path, build: Callable[[Path], T]) -> T:
    """Build an index anew beside an old one, which it replaces when it is whole; the caller has the index's lock.

    Args:
        index_folder (`Path`): The index.
        build (`Callable`): Builds it in the folder that it is given, or goes on with what a killed run left there; an
            `OtherIndexError` says that this was for something else.

    Returns:
        What `build` returns.
    """
    fresh = index_folder.with_name(f".{index_folder.name}.rebuild")
    try:
        result = build(fresh)
    except OtherIndexError:
        if not fresh.exists():
            raise
        remove_folder(fresh)
        result = build(fresh)
    sync_folder(fresh)
    move_into_place(fresh, index_folder)
    return result


def describe_index(encoder: DualEncoder, source: Mapping[str, Any], over: str) -> dict[str, Any]:
    """The description of an index: the model, its image options, the source, and what it is over."""
    return {**describe_encoder(encoder), "source": dict(source), "over": over}


def differences_of(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """In what two descriptions differ: model, its versions and image options, and what they are over."""
    described = [{**each, "options": {"over": each.get("over")}} for each in (found, expected)]
    return find_differences(*described, [section for section in SECTIONS if section != "source"])


def check_description(index: EmbeddingIndex, expected: Mapping[str, Any]) -> None:
    """OtherIndexError if an index is of another model, other image options, or over something else than `expected`.

    An index that somebody built from vectors alone says nothing of these; then its width must be the model's.
    """
    found, width = index.description, expected["model"]["projection_dim"]
    if "model" in found:
        differing = differences_of(found, expected)
    else:
        differing = [] if index.dim == width else [f"its width is {index.dim} there and {width} now"]
    if differing:
        raise OtherIndexError(
            f"The index {index.folder} is by {model_name(found)}, and this model is {model_name(expected)}: "
            f"{'; '.join(differing)}. Use the model and options of the index, name another folder (--index), or build "
            "it anew (--rebuild)."
        )


def model_name(description: Mapping[str, Any]) -> str:
    """The name of the model in a description."""
    return description.get("model", {}).get("name", "an unknown model")
