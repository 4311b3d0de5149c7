# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Indexes of folders of pictures that are brought up to date by what has changed alone.

A file whose name, size and time of change are those of its row is not opened. Of any other the bytes are digested; a
digest that is known brings its vector along, so renamed, copied and touched files are not embedded. Every 1,024
pictures, or every 20 seconds, there is a commit; a run that is killed loses at most what came after the last one.

File systems note times in steps of up to 2 seconds. A file that was written so shortly before it was read may be
written again without another time, so the next run digests it again, as git does. The time of change is believed
otherwise: a program that writes a file of the same size and sets its old time goes unnoticed.

Vectors are rounded to float16 as `clip-hf embed` rounds them. A model whose features depend on their batch
(`DualEncoder.depends_on_batch`: a quantised one) gives a picture another vector alone than among others; the index
keeps that of the run which saw it first.
"""

import itertools
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers.utils import logging

from _clip_hf_cli.control_characters import escape_controls

from ..data.decoding import skipped_image
from ..data.media import IMAGES
from ..data.skips import SkippedRow, stop_if_exhausted
from ..embedding.dual_encoder import DualEncoder, NotFiniteError
from ..embedding.encoding_ahead import FeatureBatch, encode_ahead, run_ahead
from ..embedding.encoding_options import EncodingOptions
from ..embedding.part_worker import describe_file
from ..model.image_reading_clip_hf import UnreadableImage, fetch_file
from ..utils.wording import escape_name
from .embedding_index import EmbeddingIndex
from .folder_refresh import FolderKind, FolderRefresh, rebuild_index, refresh_index
from .folder_work import FolderWork, check_there, is_unchanged
from .index_places import naming_index, real_index, real_source
from .unreadable_files import FileState, describe_image_reader


logger = logging.get_logger(__name__)

FOLDER_SCHEMA = pa.schema(
    [
        ("name", pa.string()),  # relative to the folder; bytes that are not UTF-8 are escaped
        ("path", pa.binary()),  # the same as the file system has it
        ("digest", pa.string()),  # BLAKE2b of the file's bytes, 32 hexadecimal digits
        ("bytes", pa.int64()),
        ("modified", pa.int64()),  # nanoseconds
        ("read", pa.int64()),  # nanoseconds
        ("width", pa.int64()),  # as stored, before any EXIF orientation
        ("height", pa.int64()),
    ]
)
_FILES_PER_READ = 16
_NO_NUMBERS = "the model gives no numbers for it (NaN, infinite values or zeros)."


@dataclass
class _Picture:
    """A file on its way into the index; its bytes are let go when they are decoded."""

    id: str
    state: FileState
    data: bytes | None = None
    known: dict[str, Any] = field(default_factory=dict)  # digest, bytes, width and height
    read: int = 0  # when, in nanoseconds
    problem: SkippedRow | None = None  # why its bytes are not there

    @property
    def digest(self) -> str | None:
        """Of its bytes; None where even the header of the file is damaged."""
        return self.known.get("digest")

    def take_data(self) -> dict[str, Any]:
        """The file as the encoder reads it; its bytes are given once."""
        data, self.data = self.data, None
        return {"bytes": data, "path": self.id}

    def left_out(self, skipped: SkippedRow) -> SkippedRow:
        """Why it is left out, in words that name the file and no row."""
        named = escape_controls(f"The image of {skipped.where} ({skipped.name})")
        message = skipped.message.replace(named, escape_name(self.id), 1)
        return SkippedRow(skipped.kind, "picture", message, self.id)


class _FolderWork(FolderWork):
    """Brings an index up to date. All but `_read` runs in the caller's thread.

    Pictures that the model must see are divided into batches by their order alone, and a commit takes whole batches.
    So a run that goes on after a crash gives the model the same batches as one that was not interrupted.
    """

    noun = row_noun = "picture"

    def __init__(
        self,
        encoder: DualEncoder,
        folder: Path,
        files: dict[str, FileState],
        index: EmbeddingIndex,
        encoding: EncodingOptions,
    ):
        table = index.metadata()
        columns = (table[name].to_pylist() for name in ("path", "bytes", "modified", "read", "digest"))
        self.rows = dict(zip(index.ids().tolist(), zip(*columns), strict=True))
        self.digests = {id_: digest for id_, (*_, digest) in self.rows.items()}
        before, reader = dict(self.digests), describe_image_reader(encoder)
        super().__init__(encoder, folder, files, index, encoding, before=before, reader=reader)
        # Where the vector of a digest is: in the index, under this id; held here, because its row is gone or not yet
        # there; or on its way through the model, for these pictures.
        self.ids = {digest: id_ for id_, digest in self.digests.items()}
        self.held: dict[str, np.ndarray] = {}
        self.fresh: dict[str, np.ndarray] = {}
        self.expected: dict[str, list[_Picture]] = {}
        self.underway: deque[list[_Picture]] = deque()

    def _work(self, todo: Sequence[tuple[str, FileState]]) -> None:
        batches = self._batches([_Picture(id_, state) for id_, state in todo])
        threads = self.encoding.num_threads
        encoded = encode_ahead(
            self.encoder, batches, _Picture.take_data, projected=True, num_threads=threads, may_be_nan=True
        )
        with closing(encoded):
            for batch in encoded:
                self._take(batch)
                self._commit_if_due()

    # --------------------------------------------------------------------------------------------------------- reading

    def _is_new(self, id_: str, state: FileState) -> bool:
        row = self.rows.get(id_)
        if row is None:
            return not self.unreadable.is_known(id_, state)
        return not is_unchanged(row[:4], state)

    def _batches(self, todo: list[_Picture]) -> Iterator[tuple[range, list[_Picture]]]:
        """Batches of the pictures that the model must see; the others are settled on the way."""
        size, start, batch = self.encoding.batch_size, 0, []
        chunks = ((todo[first : first + _FILES_PER_READ],) for first in range(0, len(todo), _FILES_PER_READ))
        with closing(run_ahead(self._read, chunks, self.encoding.num_threads)) as read:
            for picture in itertools.chain.from_iterable(read):
                self.read += 1
                if picture.problem is not None:
                    self._leave_out([picture], picture.problem)
                elif self._needs_model(picture):
                    batch.append(picture)
                    if len(batch) == size:
                        self.underway.append(batch)
                        yield range(start, start + size), batch
                        start, batch = start + size, []
                self._commit_if_due()
        if batch:
            self.underway.append(batch)
            yield range(start, start + len(batch)), batch

    def _read(self, pictures: list[_Picture]) -> list[_Picture]:
        """Read files, each in the state that is noted of it."""
        for picture in pictures:
            path, picture.read = Path(self.folder, picture.state.name), time.time_ns()
            try:
                picture.state = FileState.of(path, picture.state.name)
                picture.data = fetch_file(path, self.encoder.image_limits)
                if FileState.of(path, picture.state.name) != picture.state:
                    raise UnreadableImage("file changed", "it changed while it was read; the next run reads it.")
            except (OSError, UnreadableImage) as error:
                picture.data = None
                if isinstance(error, FileNotFoundError):
                    check_there(self.folder, self.files)
                    error = UnreadableImage("file missing", "it is gone.")
                problem = skipped_image(error, picture.id, "it")
                picture.problem = picture.left_out(problem)
                continue
            try:
                picture.known = describe_file(picture.data)
            except Exception as error:  # the encoder says what is wrong
                stop_if_exhausted(error, f"the picture {picture.id}")
        return pictures

    def _needs_model(self, picture: _Picture) -> bool:
        digest = picture.digest
        if digest in self.expected:
            self.expected[digest].append(picture)
            picture.data = None
        elif digest is not None and any(digest in each for each in (self.ids, self.held, self.fresh)):
            self._settle(picture)
        else:
            if digest is not None:
                self.expected[digest] = [picture]
            return True
        return False

    # -------------------------------------------------------------------------------------------------------- settling

    def _take(self, batch: FeatureBatch) -> None:
        """Settle the pictures of a batch that has passed the model, and those of the same content."""
        pictures = self.underway.popleft()
        self.embedded += len(batch.items)
        has_numbers = np.isfinite(batch.features).all(axis=1) & batch.features.any(axis=1)
        if len(batch.items) > 1 and not has_numbers.any() and not (len(self.index) or self.ready):
            raise NotFiniteError(0, f"{batch.items[0].id} and all others so far")
        for picture, vector, is_whole in zip(batch.items, batch.features, has_numbers, strict=True):
            if not is_whole:
                problem = SkippedRow(
                    "no numbers", "picture", f"{picture.id} cannot be used: {_NO_NUMBERS}", picture.id
                )
                self._leave_out(self.expected.pop(picture.digest), problem, is_content=True)
                continue
            self.fresh[picture.digest] = vector
            for each in self.expected.pop(picture.digest):
                self._settle(each)
        read = set(map(id, batch.items))
        failed = (picture for picture in pictures if id(picture) not in read)
        for picture, skipped in zip(failed, batch.skipped, strict=True):
            same = self.expected.pop(picture.digest, [picture])
            self._leave_out(same, picture.left_out(skipped), is_content=True)

    def _settle(self, picture: _Picture) -> None:
        """The vector of a picture is known."""
        picture.data = None
        self.ready.append(picture)
        self.bar.update()
        self._count(picture.id, picture.digest)

    def _leave_out(self, pictures: Sequence[_Picture], problem: SkippedRow, is_content: bool = False) -> None:
        """Pictures that cannot be read. What is wrong with their content is remembered until it changes."""
        for picture in pictures:
            picture.data = None
            self.bar.update()
            own = replace(problem, name=picture.id)
            self.skips.add([own], num_used=0)
            if not is_content:
                self.skipped.append(own)
                continue
            self.unreadable.add(picture.id, picture.state, own)
            if picture.id in self.rows:
                self.broken.append(picture.id)

    def _write(self, ready: list[_Picture], last: bool) -> None:
        removed = [*self.gone, *self.broken] if last else []
        if ready or removed:
            vectors = self._vectors(ready)
            replaced = [picture.id for picture in ready if picture.id in self.digests]
            for id_, vector in zip(replaced, self.index.vectors(replaced), strict=True):
                self.held[self.digests[id_]] = vector
            rows = [{**each.known, **each.state.columns(each.id), "read": each.read} for each in ready]
            table = pa.Table.from_pylist(rows, FOLDER_SCHEMA)
            ids = [picture.id for picture in ready]
            with naming_index(self.index.folder):
                self.index.change(add=(vectors, ids, table) if ready else None, remove=[*replaced, *removed])
            for picture in ready:
                self.digests[picture.id] = picture.digest
                self.ids[picture.digest] = picture.id
            self.fresh.clear()
        self.skips.add([], num_used=len(ready))

    def _vectors(self, ready: list[_Picture]) -> np.ndarray:
        """(n, dim) float16, as `clip-hf embed` rounds them."""
        stored = list({p.digest for p in ready} - self.held.keys() - self.fresh.keys())
        known = {
            **dict(zip(stored, self.index.vectors([self.ids[digest] for digest in stored]), strict=True)),
            **self.held,
            **self.fresh,
        }
        vectors = [known[picture.digest] for picture in ready]
        return np.array(vectors, np.float16).reshape(len(vectors), self.index.dim)


PICTURES = FolderKind("folder", "images", "picture", IMAGES, FOLDER_SCHEMA, _FolderWork)
"""Folders of pictures."""


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
    - Every 1,024 pictures, or every 20 seconds, there is a commit. Run it again after a crash: it goes on from there.
    - A second process waits for the first.
    - An index that is there, but may not be written by this user, is opened as it is; the result says so.
    - Pictures for which the model gives no numbers (NaN or zeros) are left out as unreadable ones are.

    Args:
        encoder (`DualEncoder`): The model.
        folder (`str` or `os.PathLike`): The pictures, in any depth. A link to the folder is the same; links to
            folders in it are not followed.
        index_folder (`str` or `os.PathLike`): The index, one row a picture. Its id is the path relative to `folder`,
            in which bytes that are not UTF-8 are escaped.
        encoding (`EncodingOptions`, *optional*): Batches, threads, progress, and the share of unreadable pictures that
            is an error, if it is more than one.

    Returns:
        [`FolderRefresh`]: the index, and what was done.

    Raises:
        OSError: if the folder cannot be read, is gone, or is empty though the index has rows (a drive that is not
            mounted), or there is no index and none can be written. The index stays as it is.
        ValueError: if there is no picture, none can be read, or too many cannot; or if the index is of another model,
            other image options or another folder.
    """
    return refresh_index(PICTURES, encoder, real_source(folder), real_index(index_folder), encoding)


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
    return rebuild_index(PICTURES, encoder, real_source(folder), real_index(index_folder), encoding)
