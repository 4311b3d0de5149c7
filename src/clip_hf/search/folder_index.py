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

import errno
import itertools
import os
import re
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from transformers.utils import logging

from _clip_hf_cli.control_characters import escape_controls

from ..data.decoding import skipped_image
from ..data.image_folders import images_in
from ..data.skips import SkipCounter, SkippedRow, stop_if_exhausted
from ..data.texts import escaped, is_utf8
from ..embedding.dual_encoder import DualEncoder, NotFiniteError
from ..embedding.encoding_ahead import FeatureBatch, encode_ahead, run_ahead, skip_examples
from ..embedding.encoding_options import EncodingOptions
from ..embedding.part_worker import describe_file
from ..model.image_reading_clip_hf import IMAGE_ENDINGS, UnreadableImage, fetch_file
from ..utils.wording import counted, escape_name
from .embedding_index import EmbeddingIndex
from .index_places import (
    INDEX_ENDINGS,
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
    real_index,
    real_source,
    section_of,
)
from .index_segments import SEGMENTS, IndexManifest
from .unreadable_files import FileState, UnreadableFiles


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
COMMIT_PICTURES = 1024
"""Pictures in a commit, unless it takes longer than this many seconds to embed them: what a crash may cost."""
COMMIT_SECONDS = 20.0
TIME_STEP = 2_000_000_000
"""Nanoseconds: the largest step in which file systems note times."""
_FILES_PER_READ = 16
_NO_NUMBERS = "the model gives no numbers for it (NaN, infinite values or zeros)."
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
        pictures = f"{counted(len(self.index), 'picture')} of {escaped(str(self.folder))}"
        if self.stale is not None:
            return f"{pictures}. The index cannot be brought up to date ({self.stale}): searching it as it was."
        counts = {
            "added": self.added,
            "renamed or copied": self.renamed,
            "edited": self.edited,
            "removed": self.removed,
            "left out": len(self.skipped),
        }
        changes = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "nothing has changed"
        return f"{pictures} ({changes}; {self.seconds:.1f} s)."


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
            is an error once 1,000 were read.

    Returns:
        [`FolderRefresh`]: the index, and what was done.

    Raises:
        OSError: if the folder cannot be read, is gone, or is empty though the index has rows (a drive that is not
            mounted), or there is no index and none can be written. The index stays as it is.
        ValueError: if there is no picture, none can be read, or too many cannot; or if the index is of another model,
            other image options or another folder.
    """
    folder, index_folder = real_source(folder), real_index(index_folder)
    try:
        with locked_index(index_folder):
            check_index_folder(index_folder, folder)
            refresh = _refresh(encoder, folder, index_folder, index_folder, encoding or EncodingOptions())
            drop_rebuild(refresh.index)
            return refresh
    except UnwritableIndex as error:
        if not is_index(index_folder):
            raise
        return _open_stale(encoder, folder, index_folder, os.strerror(error.errno))


def _open_stale(encoder: DualEncoder, folder: Path, index_folder: Path, reason: str) -> FolderRefresh:
    """The index as it was."""
    index = EmbeddingIndex.open(index_folder)
    _check_same(index, _description(encoder, folder), index_folder)
    return FolderRefresh(index, folder, 0, 0, 0, 0, len(index), [], 0, 0, 0.0, reason)


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
    folder, index_folder = real_source(folder), real_index(index_folder)
    encoding = encoding or EncodingOptions()
    with locked_index(index_folder):
        check_index_folder(index_folder, folder)
        refresh = build_beside(index_folder, lambda fresh: _refresh(encoder, folder, fresh, index_folder, encoding))
        return replace(refresh, index=EmbeddingIndex.open(index_folder))


def row_id(name: str) -> str:
    """The id of a file: its relative path, and no two files have the same.

    Bytes that are not UTF-8 are escaped. Backslashes are doubled only there, and in a name that reads like an escape.
    """
    if is_utf8(name) and not _LOOKS_ESCAPED.search(name):
        return name
    return escaped(name.replace("\\", "\\\\"))


def _description(encoder: DualEncoder, folder: Path) -> dict[str, Any]:
    return describe_index(
        encoder, {"location": escaped(str(folder)), "kind": "folder", "folder": escaped(str(folder))}, "images"
    )


def _check_same(index: EmbeddingIndex, expected: dict[str, Any], index_folder: Path) -> bool:
    """Whether an index is the one that is described, and not one that was moved together with its folder.

    Raises:
        OtherIndexError: if it is neither.
    """
    check_description(index, expected)
    there, given = section_of(index.description, "source"), expected["source"]
    if there == given:
        return True
    is_beside = str(index_folder) == given["location"] + INDEX_ENDINGS["images"]
    if there.get("kind") != given["kind"] or not is_beside:
        raise OtherIndexError(
            f"{index_folder} is the index of {there.get('location', 'something else')}, not of {given['location']}. "
            "Name another folder for the index (--index), or build it anew (--rebuild)."
        )
    return False


def _refresh(
    encoder: DualEncoder, folder: Path, index_folder: Path, final_folder: Path, encoding: EncodingOptions
) -> FolderRefresh:
    """Bring the index in `index_folder` up to date, which messages call `final_folder`."""
    start = time.monotonic()
    files, described = _list_files(folder), _description(encoder, folder)
    index = None
    if is_index(index_folder):
        index = EmbeddingIndex.open(index_folder)
        if not _check_same(index, described, final_folder):
            with naming_index(final_folder):
                index.change(description=described)
    if not files:
        if index is not None and len(index):
            raise OSError(
                f"{folder} holds no pictures, and its index {final_folder} has {len(index):,}, which stay. Is a drive "
                "not mounted? If the pictures are really gone, remove the index."
            )
        raise ValueError(f"{folder} holds no pictures; their endings are {', '.join(sorted(IMAGE_ENDINGS))}.")
    if index is None:
        with naming_index(final_folder):
            index = EmbeddingIndex.create(
                index_folder, encoder.projection_dim, id_type=str, columns=FOLDER_SCHEMA, description=described
            )
    work = _FolderWork(encoder, folder, files, index, encoding)
    work.run()
    _compact_if_worth_it(index)
    return FolderRefresh(index, folder, seconds=time.monotonic() - start, **work.counts())


def _compact_if_worth_it(index: EmbeddingIndex) -> None:
    segments = IndexManifest.read(index.folder).segments
    stored, removed = (sum(getattr(segment, name) for segment in segments) for name in ("rows", "removed"))
    if removed > _MOST_REMOVED * stored:
        try:
            index.compact()
        except OSError as error:  # all rows are there
            logger.warning(f"The index {index.folder} is not compacted: {error}.")


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
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
    _check_there(folder, files)
    return files


def _check_there(folder: Path, files: dict[str, FileState]) -> None:
    """OSError if a folder that was listed is gone: then files that are missing are not removed ones."""
    ends = [file.name for file in files.values()]
    ends = [os.path.join(folder, name) for name in (*ends[:1], *ends[-1:])]
    if not folder.is_dir() or (ends and not any(map(os.path.lexists, ends))):
        raise FileNotFoundError(
            f"{folder} vanished while it was read. Its index keeps all rows: run this again when the folder is back."
        )


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


class _FolderWork:
    """Brings an index up to date. All but `_read` runs in the caller's thread.

    Pictures that the model must see are divided into batches by their order alone, and a commit takes whole batches.
    So a run that goes on after a crash gives the model the same batches as one that was not interrupted.
    """

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
        columns = (table[name].to_pylist() for name in ("path", "bytes", "modified", "read", "digest"))
        self.rows = dict(zip(index.ids().tolist(), zip(*columns), strict=True))
        self.digests = {id_: digest for id_, (*_, digest) in self.rows.items()}
        self.num_before, self.last_commit = len(index), time.monotonic()
        self.known_digests = frozenset(self.digests.values())
        # Where the vector of a digest is: in the index, under this id; held here, because its row is gone or not yet
        # there; or on its way through the model, for these pictures.
        self.ids = {digest: id_ for id_, digest in self.digests.items()}
        self.held: dict[str, np.ndarray] = {}
        self.fresh: dict[str, np.ndarray] = {}
        self.expected: dict[str, list[_Picture]] = {}
        self.underway: deque[list[_Picture]] = deque()
        self.ready: list[_Picture] = []
        self.unreadable = UnreadableFiles(index.folder, encoder)
        self.skips = SkipCounter(encoding.max_skipped_share)
        self.skipped: list[SkippedRow] = []
        self.gone = [id_ for id_ in self.rows if id_ not in files]
        self.broken: list[str] = []  # rows whose file cannot be read any more
        self.copied: Counter[str] = Counter()  # digests of files with new names
        self.read = self.embedded = self.added = self.edited = 0

    def run(self) -> None:
        """Do all that there is to do."""
        todo = [_Picture(id_, state) for id_, state in self.files.items() if self._is_new(id_, state)]
        threads, place = self.encoding.num_threads, self.index.folder
        if todo and not (os.access(place, os.W_OK) and os.access(place / SEGMENTS, os.W_OK)):  # known before the work
            raise UnwritableIndex(errno.EACCES, f"{os.strerror(errno.EACCES)}: the index {place} cannot be written")
        with self.encoding.progress_bar(escaped(self.folder.name), "pictures", len(todo)) as self.bar:
            batches = self._batches(todo)
            encoded = encode_ahead(
                self.encoder, batches, _Picture.take_data, projected=True, num_threads=threads, may_be_nan=True
            )
            try:
                with closing(encoded):
                    for batch in encoded:
                        self._take(batch)
                        self._commit_if_due()
                self._commit(last=True)
            except BaseException:
                self._keep_what_is_ready()
                raise
        self.skipped += self.unreadable.remembered(self.files)
        if not len(self.index):
            raise ValueError(f"No picture of {self.folder} can be read: {self.skipped[0].message}")
        if self.skips.num_skipped:
            shown = " ".join(skip_examples(self.skips))
            logger.warning(f"Pictures of {escaped(str(self.folder))} are left out. {self.skips.summary()} {shown}")

    def counts(self) -> dict[str, Any]:
        """The numbers of a [`FolderRefresh`]."""
        # Each file that is gone may be the one that has a new name now.
        moved = self.copied & Counter(self.digests[id_] for id_ in self.gone)
        renamed = self.copied.total()
        return {
            "added": self.added,
            "renamed": renamed,
            "edited": self.edited,
            "removed": len(self.gone) + len(self.broken) - moved.total(),
            "unchanged": len(self.index) - self.added - renamed - self.edited,
            "skipped": self.skipped,
            "read": self.read,
            "embedded": self.embedded,
        }

    # --------------------------------------------------------------------------------------------------------- reading

    def _is_new(self, id_: str, state: FileState) -> bool:
        row = self.rows.get(id_)
        if row is None:
            return not self.unreadable.is_known(id_, state)
        path, size, modified, read, _ = row
        if (path, size, modified) != (os.fsencode(state.name), state.bytes, state.modified):
            return True
        return abs(read - modified) <= TIME_STEP

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
                    _check_there(self.folder, self.files)
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
        self.unreadable.forget(picture.id)
        self.bar.update()
        if picture.id in self.rows:
            self.edited += picture.digest != self.digests[picture.id]
        elif picture.digest in self.known_digests:
            self.copied[picture.digest] += 1
        else:
            self.added += 1

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

    def _commit_if_due(self) -> None:
        is_time = self.ready and time.monotonic() - self.last_commit >= COMMIT_SECONDS
        if is_time or len(self.ready) >= COMMIT_PICTURES:
            self._commit()

    def _keep_what_is_ready(self) -> None:
        """After an error or Ctrl-C: commit the batches that are whole, and say how many pictures are kept."""
        with suppress(Exception):  # the error that came first tells more
            self._commit()
        kept = len(self.index) - self.num_before
        if kept > 0:
            logger.warning(
                f"Stopped. {counted(kept, 'new picture')} of {escaped(str(self.folder))} stay in the index, and the "
                "next run goes on from there."
            )

    def _commit(self, last: bool = False) -> None:
        """Write what is ready; with the last of it, remove what is gone."""
        ready, self.ready = self.ready, []
        removed = [*self.gone, *self.broken] if last else []
        if removed:
            _check_there(self.folder, self.files)  # no row goes with a folder that went
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
        with naming_index(self.index.folder):
            self.unreadable.write(self.files)
        self.last_commit = time.monotonic()
        self.skips.add([], num_used=len(ready))
        self.skips.check()

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
