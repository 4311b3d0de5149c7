# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Indexes of folders of pictures that are brought up to date by what has changed alone.

A file whose name, size and time of change are those of its row is not opened. Of any other the bytes are digested; a
digest that is known brings its vector along, so that renamed, copied and touched files are not embedded. Every 1,024
pictures the index takes what there is in one commit; a run that is killed loses at most that.

Vectors are rounded to float16 as `clip-hf embed` rounds them. Models whose features depend on their batch
(`DualEncoder.depends_on_batch`: quantised ones) give a picture slightly different vectors as the only new one and among
others; its vector then stays the one of the run that saw it first.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers.utils import logging

from ..data.decoding import skipped_image
from ..data.image_folders import images_in
from ..data.skips import SkipCounter, SkippedRow, stop_if_exhausted
from ..data.texts import escaped, is_utf8
from ..embedding.dual_encoder import DualEncoder
from ..embedding.encoding_ahead import encode_ahead, run_ahead, skip_examples
from ..embedding.encoding_options import EncodingOptions
from ..embedding.part_worker import describe_file
from ..model.image_reading_clip_hf import IMAGE_ENDINGS, fetch_file
from ..utils.atomic import move_into_place, remove_folder, sync_folder
from ..utils.wording import counted
from .embedding_index import EmbeddingIndex
from .index_places import check_description, check_index_folder, default_index_folder, describe_index, is_index
from .index_places import locked_index
from .index_segments import IndexManifest
from .unreadable_files import FileState, UnreadableFiles


logger = logging.get_logger(__name__)

FOLDER_SCHEMA = pa.schema(
    [
        ("name", pa.string()),  # relative to the folder; bytes that are not UTF-8 are escaped
        ("path", pa.binary()),  # the same as the file system has it
        ("digest", pa.string()),  # BLAKE2b of the file's bytes, 32 hexadecimal digits
        ("bytes", pa.int64()),
        ("modified", pa.int64()),  # nanoseconds
        ("width", pa.int64()),  # as stored, before any EXIF orientation
        ("height", pa.int64()),
    ]
)
_COMMIT_PICTURES = 1024
_FILES_PER_READ = 16
# Compact when more than this share of the stored rows is removed, or there are more segments than this.
_MOST_REMOVED, _MOST_SEGMENTS = 0.25, 32
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

    def describe(self) -> str:
        """One sentence: how many pictures there are, and what has changed."""
        counts = {
            "added": self.added,
            "renamed or copied": self.renamed,
            "edited": self.edited,
            "removed": self.removed,
            "left out": len(self.skipped),
        }
        changes = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing has changed"
        return f"{counted(len(self.index), 'picture')} of {escaped(str(self.folder))} ({changes}; {self.seconds:.1f} s)."


def refresh_folder_index(
    encoder: DualEncoder,
    folder: str | os.PathLike,
    index_folder: str | os.PathLike,
    *,
    encoding: EncodingOptions | None = None,
) -> FolderRefresh:
    """Build the index of a folder of pictures, or bring it up to date.

    - Only new content is embedded; files of known name, size and time of change are not even opened.
    - Which files count is as in training and `clip-hf embed`: image endings, nothing hidden; the log counts others.
    - Every 1,024 pictures are one commit. Run it again after a crash: it goes on from there.
    - A second process waits for the first.

    Args:
        encoder (`DualEncoder`): The model.
        folder (`str` or `os.PathLike`): The pictures, in any depth.
        index_folder (`str` or `os.PathLike`): The index, one row a picture. Its id is the path relative to `folder`,
            in which bytes that are not UTF-8 are escaped.
        encoding (`EncodingOptions`, *optional*): Batches, threads, progress, and the share of unreadable pictures that
            is an error once 1,000 were read.

    Returns:
        [`FolderRefresh`]: the index, and what was done.

    Raises:
        OSError: if the folder cannot be read, is gone, or is empty though the index has rows (a drive that is not
            mounted), or the index cannot be written. The index stays as it is.
        ValueError: if there is no picture, none can be read, or too many cannot; or if the index is of another model,
            other image options or another folder.
    """
    folder, index_folder = _absolute(folder), _absolute(index_folder)
    with locked_index(index_folder):
        check_index_folder(index_folder, folder)
        return _refresh(encoder, folder, index_folder, index_folder, encoding or EncodingOptions())


def rebuild_folder_index(
    encoder: DualEncoder,
    folder: str | os.PathLike,
    index_folder: str | os.PathLike,
    *,
    encoding: EncodingOptions | None = None,
) -> FolderRefresh:
    """Build the index of a folder anew, beside the old one, which it replaces when it is whole.

    Arguments, result and errors are those of [`refresh_folder_index`], but no index is refused because of its model. A
    run that was killed goes on.
    """
    folder, index_folder = _absolute(folder), _absolute(index_folder)
    fresh = index_folder.with_name(f".{index_folder.name}.rebuild")
    with locked_index(index_folder):
        check_index_folder(index_folder, folder)
        if fresh.exists():
            try:
                _check_same(EmbeddingIndex.open(fresh), encoder, folder, index_folder)
            except (OSError, ValueError):
                remove_folder(fresh)
        refresh = _refresh(encoder, folder, fresh, index_folder, encoding or EncodingOptions())
        sync_folder(fresh)
        move_into_place(fresh, index_folder)
        return replace(refresh, index=EmbeddingIndex.open(index_folder))


def _absolute(folder: str | os.PathLike) -> Path:
    return Path(os.path.abspath(os.path.expanduser(folder)))


def row_id(name: str) -> str:
    """The id of a file: its relative path, and no two files have the same.

    Bytes that are not UTF-8 are escaped. Backslashes are doubled only there, and in a name that reads like an escape.
    """
    if is_utf8(name) and not _LOOKS_ESCAPED.search(name):
        return name
    return escaped(name.replace("\\", "\\\\"))


def _description(encoder: DualEncoder, folder: Path) -> dict[str, Any]:
    return describe_index(encoder, {"location": escaped(str(folder)), "kind": "folder"}, "images")


def _check_same(index: EmbeddingIndex, encoder: DualEncoder, folder: Path, index_folder: Path) -> None:
    """ValueError if an index is not that of this folder by this encoder. Folder and index may be moved together."""
    expected = _description(encoder, folder)
    check_description(index, expected)
    there, given = index.description.get("source", {}), expected["source"]
    is_beside = index_folder.parent == folder.parent and index_folder == default_index_folder(folder)
    if there.get("kind") != "folder" or (there != given and not is_beside):
        raise ValueError(
            f"{index_folder} is the index of {there.get('location', 'something else')}, not of {given['location']}. "
            "Name another folder for the index (--index), or build it anew (--rebuild)."
        )


def _refresh(
    encoder: DualEncoder, folder: Path, index_folder: Path, final_folder: Path, encoding: EncodingOptions
) -> FolderRefresh:
    """Bring the index in `index_folder` up to date, which messages call `final_folder`."""
    start = time.monotonic()
    files = _list_files(folder)
    index = None
    if is_index(index_folder):
        index = EmbeddingIndex.open(index_folder)
        _check_same(index, encoder, folder, final_folder)
    if not files:
        if index is not None and len(index):
            raise OSError(
                f"{folder} holds no pictures, and its index {final_folder} has {len(index):,}, which stay. Is a drive "
                "not mounted? If the pictures are really gone, remove the index."
            )
        raise ValueError(f"{folder} holds no pictures; their endings are {', '.join(sorted(IMAGE_ENDINGS))}.")
    if index is None:
        described = _description(encoder, folder)
        index = EmbeddingIndex.create(
            index_folder, encoder.projection_dim, id_type=str, columns=FOLDER_SCHEMA, description=described
        )
    work = _FolderWork(encoder, folder, files, index, encoding)
    work.run()
    _compact(index)
    return FolderRefresh(index, folder, seconds=time.monotonic() - start, **work.counts())


def _list_files(folder: Path) -> dict[str, FileState]:
    """The pictures in a folder by their ids, sorted by path.

    Raises:
        OSError: if the folder is not there, or vanishes meanwhile.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}. Check its path, and whether its drive is mounted; its index, if there is "
            "one, stays."
        )
    files = {}
    (paths,) = images_in(folder)
    start = len(os.path.join(folder, ""))
    for path in paths:
        try:
            files[row_id(path[start:])] = FileState.of(path, path[start:])
        except FileNotFoundError:
            continue
    _check_there(folder, files)
    return files


def _check_there(folder: Path, files: dict[str, FileState]) -> None:
    """OSError if a folder that was listed is gone: then files that are missing are not removed ones."""
    ends = [file.name for file in files.values()]
    ends = [os.path.join(folder, name) for name in (*ends[:1], *ends[-1:])]
    if not folder.is_dir() or (ends and not any(map(os.path.lexists, ends))):
        raise FileNotFoundError(
            f"{folder} vanished while it was read. What was read before is in the index, and no row was removed: run "
            "this again when the folder is back."
        )


@dataclass
class _Picture:
    """A file on its way into the index; its bytes are let go when they are decoded."""

    id: str
    state: FileState
    data: bytes | None = None
    known: dict[str, Any] = field(default_factory=dict)  # digest, bytes, width and height
    problem: SkippedRow | None = None  # why its bytes are not there


class _FolderWork:
    """Brings an index up to date. All but `_read` runs in the caller's thread."""

    def __init__(
        self,
        encoder: DualEncoder,
        folder: Path,
        files: dict[str, FileState],
        index: EmbeddingIndex,
        encoding: EncodingOptions,
    ):
        self.encoder, self.folder, self.files, self.index, self.encoding = encoder, folder, files, index, encoding
        table = index.metadata()
        columns = (table[name].to_pylist() for name in ("bytes", "modified", "digest"))
        self.rows = dict(zip(index.ids().tolist(), zip(*columns), strict=True)) if len(index) else {}
        self.old_digests = {id_: digest for id_, (*_, digest) in self.rows.items()}
        self.unreadable = UnreadableFiles(index.folder, encoder)
        # Where the vector of a digest is: in the index, under this id; here, removed from it or not yet in it; or on
        # its way through the model, for these pictures.
        self.ids = {digest: id_ for id_, digest in self.old_digests.items()}
        self.held: dict[str, np.ndarray] = {}
        self.fresh: dict[str, np.ndarray] = {}
        self.expected: dict[str, list[_Picture]] = {}
        self.ready: list[_Picture] = []
        self.broken: list[str] = []  # rows whose file has become unreadable
        self.skipped: list[SkippedRow] = []
        self.skips = SkipCounter(encoding.max_skipped_share)
        self.read = self.embedded = self.added = self.edited = 0
        self.copied: list[str] = []  # digests of files of new names
        self.gone = [id_ for id_ in self.rows if id_ not in files]

    def run(self) -> None:
        """Do all that there is to do."""
        todo = [_Picture(id_, state) for id_, state in self.files.items() if self._is_new(id_, state)]
        with self.encoding.progress_bar(escaped(self.folder.name), "pictures", len(todo)) as self.bar:
            encoded = encode_ahead(
                self.encoder,
                self._batches(todo),
                _take_data,
                projected=True,
                num_threads=self.encoding.num_threads,
            )
            with closing(encoded):
                for batch in encoded:
                    self.embedded += len(batch.items)
                    for picture, vector in zip(batch.items, batch.features, strict=True):
                        self._arrive(picture.known["digest"], vector)
                    for skipped in batch.skipped:
                        self._fail(skipped)
                    self._commit_if_due()
        # No row of this folder is removed unless it is there now.
        if self.gone or self.broken:
            _check_there(self.folder, self.files)
        self._commit(self.gone)
        self.skipped += self.unreadable.remembered(self.files)
        self._say_skipped(bool(todo))

    def counts(self) -> dict[str, Any]:
        """The numbers of a [`FolderRefresh`]."""
        moved = list(self.copied)
        for id_ in self.gone:  # each file that is gone may be one that has a new name
            if self.old_digests[id_] in moved:
                moved.remove(self.old_digests[id_])
        removed = len(self.gone) - (len(self.copied) - len(moved)) + len(self.removed_unreadable)
        return {
            "added": self.added,
            "renamed": len(self.copied),
            "edited": self.edited,
            "removed": removed,
            "unchanged": len(self.index) - self.added - len(self.copied) - self.edited,
            "skipped": self.skipped,
            "read": self.read,
            "embedded": self.embedded,
        }
