# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Where the index of a source lies, who may change it at a time, and whether it is the index that was meant."""

import errno
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from transformers.utils import logging

from ..data.image_folders import INDEX_ENDING, is_hidden
from ..data.texts import escaped
from ..embedding.destination_errors import NO_LOCKS
from ..embedding.dual_encoder import DualEncoder
from ..embedding.job_manifest import describe_encoder, find_differences
from ..embedding.part_files import SECTIONS
from ..utils.atomic import clear_leftovers, move_into_place, remove_folder, sync_folder, take_over
from ..utils.json_files import read_json
from .embedding_index import EmbeddingIndex
from .index_segments import FORMAT_NAME, MANIFEST, SEGMENTS, WRITE_LOCK, IndexManifest


logger = logging.get_logger(__name__)
T = TypeVar("T")

MODALITIES = ("images", "texts", "moments")
WHOLE_FILMS = (
    "Moments are found in films and in folders of films. Films of a table, Parquet files, tars or a dataset are "
    "searched as whole films, once they are embedded: `clip-hf embed MODEL SOURCE OUT --num-frames 8`, then "
    "`clip-hf search OUT`."
)
"""What to do with films where no moments can be found."""
INDEX_ENDINGS = {"images": INDEX_ENDING, "texts": f".texts{INDEX_ENDING}", "moments": f".moments{INDEX_ENDING}"}
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_REFUSED = (*_READ_ONLY, errno.EEXIST, errno.ENOTDIR, errno.ENOENT)
_MOST_NAME_BYTES = 190
"""So that names of locks and temporary files, which are longer, have less than 255."""
EMBEDDED = "embedded"
"""The folder in an index that holds the embeddings of its source."""
UNREADABLE = "unreadable.json"
"""The file in the index of a folder that names the pictures without a row."""
NO_MATCH = "no_match.npz"
"""The file in an index with what `NoMatch` measured."""
_NAMES = (
    MANIFEST,
    SEGMENTS,
    WRITE_LOCK,
    EMBEDDED,
    UNREADABLE,
    NO_MATCH,
)  # whoever writes one takes its name from here
_CONTENT = re.compile(rf"\.?({'|'.join(map(re.escape, _NAMES))})(\..*)?|\.DS_Store")


def check_over(over: str) -> str:
    """`over`; ValueError if it is none of `MODALITIES`."""
    if over not in MODALITIES:
        raise ValueError(f"`over` (--over) is {over!r}; it must be one of {', '.join(map(repr, MODALITIES))}.")
    return over


def default_index_folder(source: Any, over: str = "images") -> Path:
    """Where the index of a source lies unless another folder is named: beside the source.

    Args:
        source (`str` or `os.PathLike`): A folder or file; `photos`, `photos/`, a link to it and, in it, `.` are the
            same.
        over (`str`, *optional*, defaults to `"images"`): What is indexed: `"images"`, `"texts"`, or the
            `"moments"` of films.

    Returns:
        `Path`: `photos.clip-index` beside `photos`; of its texts `photos.texts.clip-index`, of the moments of its
        films `photos.moments.clip-index`.

    Raises:
        ValueError: if the source has no place beside it: it is a list, a dataset in memory, a URL, a name on the hub,
            or the root of a file system.
    """
    check_over(over)
    text = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
    path = real_source(text)
    if not text.strip() or "://" in text or "::" in text or not path.name or not path.parent.is_dir():
        shown = escaped(repr(source)[:80])
        raise ValueError(f"There is no place beside {shown} for its index; name a folder for it (--index).")
    return path.with_name(path.name + INDEX_ENDINGS[over])


def real_source(source: str | os.PathLike) -> Path:
    """The whole path of a source: of a folder without links, of a file as it is called."""
    path = os.path.expanduser(source)
    return Path(os.path.realpath(path) if os.path.isdir(path) else os.path.abspath(path))


def real_index(folder: str | os.PathLike) -> Path:
    """The whole path of an index, without links: it is replaced where it lies."""
    return Path(os.path.realpath(os.path.expanduser(folder)))


def is_index(folder: Path) -> bool:
    """Whether a folder holds an index: its manifest says so. Other programs call their files `index.json`, too."""
    if not os.path.isfile(folder / MANIFEST):
        return False
    try:
        return read_json(folder / MANIFEST, dict).get("format") == FORMAT_NAME
    except ValueError:
        return os.path.isdir(folder / SEGMENTS)  # a damaged one, which says so when it is opened


def _remove_index(folder: Path) -> None:
    _check_only_index(folder)
    remove_folder(folder)


def _check_only_index(folder: Path) -> None:
    """ValueError if a folder holds anything but an index, which goes when it is replaced."""
    names = sorted(os.listdir(folder)) if os.path.lexists(folder) else []
    foreign = [name for name in names if not _CONTENT.fullmatch(name)]
    if foreign or (names and not is_index(folder)):
        raise ValueError(
            f"{folder} holds other things than an index ({escaped(', '.join(foreign or names)):.200}), so it is not "
            "replaced. Move them, or name another folder for the index (--index)."
        )


def check_index_folder(index_folder: Path, source: Path | None = None) -> None:
    """ValueError if an index must not be written to a folder: it holds something else, or lies among the pictures."""
    if os.path.lexists(index_folder) and not is_index(index_folder):
        names = sorted(os.listdir(index_folder)) if index_folder.is_dir() else []
        if names or not index_folder.is_dir():
            holds = f" ({escaped(', '.join(names)):.200})" if names else ""
            raise ValueError(
                f"{index_folder} is no index, and not empty{holds}; nothing is written there. Name another folder for "
                "the index (--index)."
            )
    if source is None:
        return
    real, folder = Path(os.path.realpath(index_folder)), os.path.realpath(source)
    if real.is_relative_to(folder) and not any(map(is_hidden, real.relative_to(folder).parts)):
        raise ValueError(
            f"The index {index_folder} would lie among the pictures of {source}; name a folder outside (--index), or "
            f"one whose name begins with a dot or ends in {INDEX_ENDING}."
        )


class OtherIndexError(ValueError):
    """An index is of another model, source or kind than the one that is meant."""


class UnwritableIndex(OSError):
    """An index cannot be written where it lies; it may still be read."""


@contextmanager
def naming_index(index_folder: Path) -> Iterator[None]:
    """Name the index in an error of writing it: `UnwritableIndex` if this user must not, or cannot, write there."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        kind = UnwritableIndex if error.errno in _READ_ONLY else OSError
        raise kind(error.errno, f"{error.strerror}: the index {index_folder} cannot be written") from error


@contextmanager
def locked_index(index_folder: Path) -> Iterator[None]:
    """Let one process at a time bring an index up to date; the others wait, and say so.

    What killed processes left is settled before: a rebuild that had set the old index aside, but not yet put the new
    one there, is undone. An index that the user has removed does not come back.

    Raises:
        OSError: if there is no place for the index; it names the option that says another one.
    """
    if len(os.fsencode(index_folder.name)) > _MOST_NAME_BYTES:
        raise OSError(
            errno.ENAMETOOLONG,
            f"The name of the index {index_folder} is too long: it may have {_MOST_NAME_BYTES} bytes. Name another "
            "folder for it (--index)",
        )
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
            kind = UnwritableIndex if error.errno in _READ_ONLY else OSError
            raise kind(
                error.errno,
                f"{error.strerror}: the index {index_folder} cannot be written there. Name another folder for it "
                f"(--index).{hint}",
            ) from error
        if error.errno not in NO_LOCKS:  # without locks, the index still takes one change at a time
            raise
    try:
        with naming_index(index_folder):
            _settle_leftovers(index_folder)
        yield
    finally:
        try:
            if lock.is_locked:
                with suppress(OSError):  # Windows keeps files that are open
                    os.unlink(lock.lock_file)  # before it is released, so that the next process makes its own
        finally:
            lock.release()


def _rebuild_folder(index_folder: Path) -> Path:
    return index_folder.with_name(f".{index_folder.name}.rebuild")


def _settle_leftovers(index_folder: Path) -> None:
    """Remove what killed processes left, or put back an index that was set aside for a new one that did not come."""
    fresh = _rebuild_folder(index_folder)
    if not os.path.lexists(index_folder) and not fresh.exists():
        # The new index did come, and the user has removed it.
        while (aside := take_over(index_folder)) is not None:
            remove_folder(aside, index_folder)
    clear_leftovers(fresh)
    clear_leftovers(index_folder)


def drop_rebuild(index: EmbeddingIndex) -> None:
    """Remove what a killed rebuild left beside an index that is up to date, unless it was for another model."""
    fresh = _rebuild_folder(index.folder)
    with suppress(OSError, ValueError):
        if is_index(fresh) and IndexManifest.read(fresh).description == index.description:
            _remove_index(fresh)


def build_beside(index_folder: Path, build: Callable[[Path], T]) -> T:
    """Build an index anew beside an old one, which it replaces when it is whole; the caller has the index's lock.

    Args:
        index_folder (`Path`): The index.
        build (`Callable`): Builds it in the folder that it is given, or goes on with what a killed run left there; an
            `OtherIndexError` says that this was for something else.

    Returns:
        What `build` returns.
    """
    fresh = _rebuild_folder(index_folder)
    _check_only_index(index_folder)
    if is_index(fresh):
        try:
            EmbeddingIndex.open(fresh)
        except ValueError:  # damaged
            _remove_index(fresh)
    try:
        result = build(fresh)
    except OtherIndexError:
        if not fresh.exists():
            raise
        _remove_index(fresh)
        result = build(fresh)
    sync_folder(fresh)
    _check_only_index(index_folder)
    move_into_place(fresh, index_folder)
    return result


def describe_index(encoder: DualEncoder, source: Mapping[str, Any], over: str) -> dict[str, Any]:
    """The description of an index: the model, its image options, the source, and what it is over."""
    return {**describe_encoder(encoder), "source": dict(source), "over": over}


def differences_of(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """In what two descriptions differ: model, its versions and image options, and what they are over."""
    sections = [section for section in SECTIONS if section not in ("source", "options")]
    described = [
        {
            **{section: section_of(each, section) for section in sections},
            "options": {"over": each.get("over"), **section_of(each, "sampling")},
        }
        for each in (found, expected)
    ]
    return find_differences(*described, [*sections, "options"])


def section_of(description: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a description, such as `"source"`; empty where there is none."""
    section = description.get(name)
    return section if isinstance(section, Mapping) else {}


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
            f"The index {index.folder} is {describe_origin(found, expected, differing)}. Use the model and options of "
            "the index, name another folder (--index), or build it anew (--rebuild)."
        )


def describe_origin(found: Mapping[str, Any], expected: Mapping[str, Any], differing: Sequence[str]) -> str:
    """By which model an index is, and in what it differs from what is meant: [`differences_of`] them."""
    name, other, what = model_name(found), model_name(expected), "; ".join(differing)
    if name != other:
        return f"by {name}, and this model is {other}: {what}"
    if all(difference.startswith("options ") for difference in differing):
        return f"by this model, but with other options: {what}"
    return f"by another state of {name}: {what}"


def model_name(description: Mapping[str, Any]) -> str:
    """The name of the model in a description."""
    return section_of(description, "model").get("name", "an unknown model")
