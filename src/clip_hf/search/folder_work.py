# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Bring the rows of an index up to date with the files of a folder: what pictures and films have in common.

A run commits as it goes, counts what it did, and keeps what is ready when it is stopped.
"""

import errno
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..data.skips import SkipCounter, SkippedRow
from ..data.texts import escaped
from ..embedding.dual_encoder import DualEncoder
from ..embedding.encoding_ahead import skip_examples
from ..embedding.encoding_options import EncodingOptions
from ..utils.wording import counted
from .embedding_index import EmbeddingIndex
from .index_places import UnwritableIndex, naming_index
from .index_segments import SEGMENTS
from .unreadable_files import FileState, UnreadableFiles


logger = logging.get_logger(__name__)

COMMIT_ROWS = 1024
"""Rows in a commit, unless it takes longer than this many seconds to embed them: what a crash may cost."""
COMMIT_SECONDS = 20.0
TIME_STEP = 2_000_000_000
"""Nanoseconds: the largest step in which file systems note times."""


class FolderWork(ABC):
    """Brings the rows of an index up to date with the files of a folder.

    Args:
        encoder (`DualEncoder`): The model.
        folder (`Path`): The folder.
        files (`dict[str, FileState]`): Its files by their ids.
        index (`EmbeddingIndex`): The index.
        encoding (`EncodingOptions`): Batches, threads, progress, and the share of unreadable files that is an error.
        before (`Mapping[str, str]`): The digest of each file that has rows, by its id.
        reader (`Mapping`): What else decides whether a file can be read; see [`UnreadableFiles`].
    """

    noun: str
    """What a file is called in messages."""
    row_noun: str
    """What a row is called in messages."""

    def __init__(
        self,
        encoder: DualEncoder,
        folder: Path,
        files: dict[str, FileState],
        index: EmbeddingIndex,
        encoding: EncodingOptions,
        *,
        before: Mapping[str, str],
        reader: Mapping[str, Any],
    ):
        self.encoder, self.folder, self.files, self.index, self.encoding = encoder, folder, files, index, encoding
        self.before = before
        self.known_digests = frozenset(before.values())
        self.ready: list[Any] = []  # what the next commit writes
        self.unreadable = UnreadableFiles(index.folder, reader, self.noun)
        self.skips = SkipCounter(noun=self.noun)
        self.skipped: list[SkippedRow] = []
        self.gone = [id_ for id_ in before if id_ not in files]
        self.broken: list[str] = []  # files with rows that cannot be read any more
        self.copied: Counter[str] = Counter()  # digests of files with new names
        self.added = self.edited = self.read = self.embedded = 0
        self.num_before, self.last_commit, self.is_stopped = len(index), time.monotonic(), False

    @abstractmethod
    def _is_new(self, id_: str, state: FileState) -> bool:
        """Whether a file must be opened."""

    @abstractmethod
    def _work(self, todo: Sequence[tuple[str, FileState]]) -> None:
        """Read files, and put their rows into `ready`."""

    @abstractmethod
    def _write(self, ready: list[Any], last: bool) -> None:
        """Change the rows of the index; with the last change, those of files that are gone or broken go."""

    def _count_files(self) -> int:
        """The number of files with rows."""
        return len(self.index)

    def run(self) -> None:
        """Do all that there is to do."""
        todo = [(id_, state) for id_, state in self.files.items() if self._is_new(id_, state)]
        if todo:
            check_writable(self.index)
        # How many rows a file has is known beforehand only where a row is a file.
        total = len(todo) if self.row_noun == self.noun or not todo else None
        with self.encoding.progress_bar(escaped(self.folder.name), f"{self.row_noun}s", total) as self.bar:
            try:
                self._work(todo)
                self._commit(last=True)
            except BaseException:
                self.is_stopped = True
                self._keep_what_is_ready()
                raise
        self.skipped += self.unreadable.remembered(self.files)
        self._report_left_out()

    def counts(self) -> dict[str, Any]:
        """The numbers of a [`FolderRefresh`]."""
        # Each file that is gone may be the one that has a new name now.
        moved = self.copied & Counter(self.before[id_] for id_ in self.gone)
        renamed = self.copied.total()
        return {
            "added": self.added,
            "renamed": renamed,
            "edited": self.edited,
            "removed": len(self.gone) + len(self.broken) - moved.total(),
            "unchanged": self._count_files() - self.added - renamed - self.edited,
            "skipped": self.skipped,
            "read": self.read,
            "embedded": self.embedded,
        }

    def _count(self, id_: str, digest: str | None) -> None:
        """Count a file whose rows are known."""
        self.unreadable.forget(id_)
        if id_ in self.before:
            self.edited += digest != self.before[id_]
        elif digest in self.known_digests:
            self.copied[digest] += 1
        else:
            self.added += 1

    def _commit_if_due(self) -> None:
        is_time = self.ready and time.monotonic() - self.last_commit >= COMMIT_SECONDS
        if is_time or len(self.ready) >= COMMIT_ROWS:
            self._commit()

    def _commit(self, last: bool = False) -> None:
        """Write what is ready; with the last of it, remove what is gone."""
        if last and (self.gone or self.broken):
            check_there(self.folder, self.files)  # no row goes with a folder that went
        ready, self.ready = self.ready, []
        self._write(ready, last)
        with naming_index(self.index.folder):
            self.unreadable.write(self.files)
        self.last_commit = time.monotonic()
        if len(self.index):  # else it is said that none can be read
            self.unreadable.check_share(self.files, self.skipped, self.encoding.max_skipped_share)

    def _keep_what_is_ready(self) -> None:
        """After an error or Ctrl-C: commit what is ready, and say how many rows are kept."""
        with suppress(Exception):  # the error that came first tells more
            self._commit()
        kept = len(self.index) - self.num_before
        if kept > 0:
            logger.warning(
                f"Stopped. {counted(kept, f'new {self.row_noun}')} of {escaped(str(self.folder))} stay in the index, "
                "and the next run goes on from there."
            )

    def _report_left_out(self) -> None:
        """Warn of the files that have no rows; ValueError if none has."""
        if not len(self.index):
            again = " Run this again." if self.skipped[0].kind == "file changed" else ""
            raise ValueError(f"No {self.noun} of {self.folder} can be read: {self.skipped[0].message}{again}")
        if self.skips.num_skipped:
            shown = " ".join(skip_examples(self.skips))
            left_out = f"{self.noun.capitalize()}s of {escaped(str(self.folder))} are left out."
            logger.warning(f"{left_out} {self.skips.summary()} {shown}")


def check_there(folder: Path, files: Mapping[str, FileState]) -> None:
    """OSError if a folder that was listed is gone: then files that are missing are not removed ones."""
    ends = [file.name for file in files.values()]
    ends = [os.path.join(folder, name) for name in (*ends[:1], *ends[-1:])]
    if not folder.is_dir() or (ends and not any(map(os.path.lexists, ends))):
        raise FileNotFoundError(
            f"{folder} vanished while it was read. Its index keeps all rows: run this again when the folder is back."
        )


def check_writable(index: EmbeddingIndex) -> None:
    """`UnwritableIndex` if an index must not be written; it is known before the work."""
    place = index.folder
    if not (os.access(place, os.W_OK) and os.access(place / SEGMENTS, os.W_OK)):
        raise UnwritableIndex(errno.EACCES, f"{os.strerror(errno.EACCES)}: the index {place} cannot be written")


def is_unchanged(row: tuple[bytes, int, int, int], state: FileState) -> bool:
    """Whether a file is as its row says, whose path, bytes, time of change and of reading are given."""
    path, size, modified, read = row
    if (path, size, modified) != (os.fsencode(state.name), state.bytes, state.modified):
        return False
    return abs(read - modified) > TIME_STEP
