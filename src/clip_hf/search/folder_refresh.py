# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Bring the index of a folder up to date: what indexes of pictures and of films have in common."""

import errno
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers.utils import logging

from ..data.image_folders import images_in
from ..data.media import Media
from ..data.skips import SkippedRow
from ..data.texts import escaped, is_utf8
from ..embedding.dual_encoder import DualEncoder
from ..embedding.encoding_options import EncodingOptions
from ..utils.wording import counted
from .embedding_index import EmbeddingIndex
from .folder_work import FolderWork, check_there
from .index_places import (
    INDEX_ENDINGS,
    WHOLE_FILMS,
    OtherIndexError,
    UnwritableIndex,
    build_beside,
    check_description,
    check_index_folder,
    describe_index,
    drop_rebuild,
    is_index,
    locked_index,
    naming_index,
    section_of,
)
from .index_segments import IndexManifest
from .unreadable_files import FileState


logger = logging.get_logger(__name__)

_MOST_REMOVED = 0.25
"""Above this share of removed rows an index is compacted; small commits are merged by the index itself."""
_LOOKS_ESCAPED = re.compile(r"\\udc[89a-f][0-9a-f]")


@dataclass(frozen=True)
class FolderRefresh:
    """What bringing the index of a folder up to date did.

    Args:
        index (`EmbeddingIndex`): The index.
        folder (`Path`): The folder of the pictures.
        added (`int`): New pictures.
        renamed (`int`): Files of a new name whose content the index had: renamed, moved or copied.
        edited (`int`): Files with new content under their old name.
        removed (`int`): Pictures that are gone; a file that was renamed is not.
        unchanged (`int`): All others, those with only another time of change included.
        skipped (`list[SkippedRow]`): Files without a row, because they cannot be read, or changed while they were.
        read (`int`): Files that were opened.
        embedded (`int`): Pictures that passed the model.
        seconds (`float`): Time that it took.
        stale (`str`, *optional*): Why the index could not be written, so that it is as it was. The other counts are 0
            then.
    """

    index: EmbeddingIndex
    folder: Path
    added: int
    renamed: int
    edited: int
    removed: int
    unchanged: int
    skipped: list[SkippedRow]
    read: int
    embedded: int
    seconds: float
    stale: str | None = None

    def describe(self) -> str:
        """One sentence: how many pictures there are, and what has changed."""
        rows = f"{self._describe_rows()} of {escaped(str(self.folder))}"
        if self.stale is not None:
            return f"{rows}. The index cannot be brought up to date ({self.stale}): searching it as it was."
        counts = {
            "added": self.added,
            "renamed or copied": self.renamed,
            "edited": self.edited,
            "removed": self.removed,
            "left out": len(self.skipped),
        }
        changes = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing has changed"
        return f"{rows} ({changes}; {self.seconds:.1f} s)."

    def _describe_rows(self) -> str:
        return counted(len(self.index), "picture")


@dataclass(frozen=True)
class FolderKind:
    """In what the indexes of folders of pictures and of films differ.

    Args:
        name (`str`): Kind of the source in the index's description.
        over (`str`): What its rows are: `"images"` or `"moments"`.
        noun (`str`): What a file is called in messages.
        media (`Media`): Which files count.
        columns (`pa.Schema`): Columns of the index.
        work (`Callable`): Makes the [`FolderWork`] of an encoder, folder, files by id, index and `EncodingOptions`.
        result (`type[FolderRefresh]`): What a refresh returns.
        sampling (`Mapping`, *optional*): What else decides the rows, in the index's description.
    """

    name: str
    over: str
    noun: str
    media: Media
    columns: pa.Schema
    work: Callable[..., FolderWork]
    result: type[FolderRefresh] = FolderRefresh
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def describe(self, encoder: DualEncoder, source: Path) -> dict[str, Any]:
        """The description of the index of a folder, or of one file."""
        place = {"location": escaped(str(source)), "kind": self.name, "folder": escaped(str(folder_of_files(source)))}
        described = describe_index(encoder, place, self.over)
        return {**described, "sampling": dict(self.sampling)} if self.sampling else described


def refresh_index(
    kind: FolderKind, encoder: DualEncoder, source: Path, index_folder: Path, encoding: EncodingOptions | None
) -> FolderRefresh:
    """Build the index of a folder or file, or bring it up to date; see [`refresh_folder_index`]."""
    encoder = encoder.of_pictures
    try:
        with locked_index(index_folder):
            check_index_folder(index_folder, None if source.is_file() else source)
            refresh = _refresh(kind, encoder, source, index_folder, index_folder, encoding or EncodingOptions())
            drop_rebuild(refresh.index)
            return refresh
    except UnwritableIndex as error:
        if not is_index(index_folder):
            raise
        return _open_stale(kind, encoder, source, index_folder, os.strerror(error.errno))


def _open_stale(
    kind: FolderKind, encoder: DualEncoder, source: Path, index_folder: Path, reason: str
) -> FolderRefresh:
    """The index as it was."""
    index = EmbeddingIndex.open(index_folder)
    _check_same(kind, index, kind.describe(encoder, source), index_folder)
    return kind.result(index, source, 0, 0, 0, 0, len(index), [], 0, 0, 0.0, reason)


def rebuild_index(
    kind: FolderKind, encoder: DualEncoder, source: Path, index_folder: Path, encoding: EncodingOptions | None
) -> FolderRefresh:
    """Build the index of a folder or file anew beside the old one; see [`rebuild_folder_index`]."""
    encoder = encoder.of_pictures
    encoding = encoding or EncodingOptions()
    with locked_index(index_folder):
        check_index_folder(index_folder, None if source.is_file() else source)
        refresh = build_beside(
            index_folder, lambda fresh: _refresh(kind, encoder, source, fresh, index_folder, encoding)
        )
        return replace(refresh, index=EmbeddingIndex.open(index_folder))


def folder_of_files(source: Path) -> Path:
    """The folder to which the names of a source's files are relative: itself, or that of a single file."""
    return source.parent if source.is_file() else source


def row_id(name: str) -> str:
    """The id of a file: its relative path, and no two files have the same.

    Bytes that are not UTF-8 are escaped. Backslashes are doubled only there, and in a name that reads like an escape.
    """
    if is_utf8(name) and not _LOOKS_ESCAPED.search(name):
        return name
    return escaped(name.replace("\\", "\\\\"))


def _check_same(kind: FolderKind, index: EmbeddingIndex, expected: dict[str, Any], index_folder: Path) -> bool:
    """Whether an index is the one that is described, and not one that was moved together with its folder.

    Raises:
        OtherIndexError: if it is neither.
    """
    check_description(index, expected)
    there, given = section_of(index.description, "source"), expected["source"]
    if there == given:
        return True
    is_beside = str(index_folder) == given["location"] + INDEX_ENDINGS[kind.over]
    if there.get("kind") != given["kind"] or not is_beside:
        raise OtherIndexError(
            f"{index_folder} is the index of {there.get('location', 'something else')}, not of {given['location']}. "
            "Name another folder for the index (--index), or build it anew (--rebuild)."
        )
    return False


def _refresh(
    kind: FolderKind,
    encoder: DualEncoder,
    source: Path,
    index_folder: Path,
    final_folder: Path,
    encoding: EncodingOptions,
) -> FolderRefresh:
    """Bring the index in `index_folder` up to date, which messages call `final_folder`."""
    start = time.monotonic()
    files, described = list_files(source, kind), kind.describe(encoder, source)
    index = None
    if is_index(index_folder):
        index = EmbeddingIndex.open(index_folder)
        if not _check_same(kind, index, described, final_folder):
            with naming_index(final_folder):
                index.change(description=described)
    if not files:
        if index is not None and len(index):
            raise OSError(
                f"{source} holds no {kind.noun}s, and its index {final_folder} has {len(index):,}, which stay. Is a "
                f"drive not mounted? If the {kind.noun}s are really gone, remove the index."
            )
        endings = ", ".join(sorted(kind.media.endings))
        advice = f" {WHOLE_FILMS}" if kind.over == "moments" else ""
        raise ValueError(f"{source} holds no {kind.noun}s; their endings are {endings}.{advice}")
    if index is None:
        with naming_index(final_folder):
            index = EmbeddingIndex.create(
                index_folder, encoder.projection_dim, id_type=str, columns=kind.columns, description=described
            )
    work = kind.work(encoder, folder_of_files(source), files, index, encoding)
    work.run()
    _compact_if_worth_it(index)
    return kind.result(index, source, seconds=time.monotonic() - start, **work.counts())


def _compact_if_worth_it(index: EmbeddingIndex) -> None:
    segments = IndexManifest.read(index.folder).segments
    stored, removed = (sum(getattr(segment, name) for segment in segments) for name in ("rows", "removed"))
    if removed > _MOST_REMOVED * stored:
        try:
            index.compact()
        except OSError as error:  # all rows are there
            logger.warning(f"The index {index.folder} is not compacted: {error}.")


def list_files(source: Path, kind: FolderKind) -> dict[str, FileState]:
    """The files of a folder by their ids, sorted by path; of a single file that one.

    Raises:
        OSError: if the folder is not there, or vanishes meanwhile.
    """
    if source.is_file():
        return {row_id(source.name): FileState.of(source, source.name)}
    if not source.is_dir():
        raise FileNotFoundError(
            f"There is no folder {source}. Check its path, and whether its drive is mounted; its index, if there is "
            "one, stays."
        )
    files = {}
    (paths,) = images_in(source, media=kind.media)
    start = len(os.path.join(source, ""))
    for path in paths:
        try:
            files[row_id(path[start:])] = FileState.of(path, path[start:])
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
    check_there(source, files)
    return files
