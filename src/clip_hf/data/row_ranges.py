# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Ranges of the rows of one table or Parquet file; ascending ranges take one pass, in little memory."""

import bisect
import collections
import itertools
import os
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from .locations import ImagePlaces
from .parquet_files import BUFFER_BYTES, ROWS_PER_READ, naming_damage
from .tables import table_rows
from .texts import class_label, class_texts


_MOST_OPEN = 16  # files


def open_file(path: str) -> Any:
    """A file or URL, opened to read bytes."""
    return fsspec.open(path, "rb").open() if "://" in path else open(path, "rb")


def absolute(path: str) -> str:
    """A path from the root; a URL as it is."""
    return path if "://" in path else os.path.abspath(path)


def state_of_file(path: str) -> list[int] | None:
    """Size in bytes and time of change in ns of a file; None for a URL."""
    if not os.path.isfile(path):
        return None
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def check_unchanged(path: str, state: list[int] | None) -> None:
    """Raise a `ValueError` if a file is no longer as [`state_of_file`] found it."""
    if state_of_file(path) != state:
        raise ValueError(f"{path} has changed since its rows were counted. Run this again, with files that stay.")


class _RowRanges:
    """Reads ranges of a file's rows: `ranges(start, stop)`, to the end if `stop` is None.

    Few files stay open at a time, because there may be many thousands.
    """

    _with_files: ClassVar[collections.deque] = collections.deque()  # weak references to those that may have one open

    def __init__(self, path: str, columns: Any, num_rows: int):
        self.path, self.columns, self.num_rows = path, columns, num_rows
        self.state = state_of_file(path)
        self._rows: Iterator[Any] | None = None
        self._next = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_rows": None}

    def _begin(self, start: int) -> int:
        """The first row of what must be read for the row `start`."""
        return 0

    def _read_from(self, begin: int) -> Iterator[Any]:
        """All items from the row `begin` on."""
        raise NotImplementedError

    def _row_of(self, item: Any) -> dict[str, Any]:
        """The row of an item, made only for those that are wanted."""
        return item

    def __call__(self, start: int, stop: int | None) -> Iterator[dict[str, Any]]:
        begin = self._begin(start)
        if self._rows is None or start < self._next or begin > self._next:
            self._reopen(begin)
        rows = self._rows
        while stop is None or self._next < stop:
            try:
                item = next(rows, None)
            except Exception:
                self._rows = None
                raise
            if item is None:
                self._rows = None
                return
            self._next += 1
            if self._next == self.num_rows:
                self._rows = None
            if self._next > start:
                yield self._row_of(item)

    def _reopen(self, begin: int) -> None:
        check_unchanged(self.path, self.state)
        self._rows, self._next = self._read_from(begin), begin
        self._with_files.append(weakref.ref(self))
        if len(self._with_files) > _MOST_OPEN and (oldest := self._with_files.popleft()()) not in (None, self):
            oldest._rows = None


class TableRanges(_RowRanges):
    """Reads ranges of a table's rows."""

    def _read_from(self, begin: int) -> Iterator[dict[str, Any]]:
        return table_rows([self.path], self.columns.roles, root=self.columns.image_root)


class ParquetRanges(_RowRanges):
    """Reads ranges of a Parquet file's rows: only the row groups that hold them, and these a few rows at a time."""

    def __init__(self, path: str, columns: Any, metadata: pq.FileMetaData):
        super().__init__(path, columns, metadata.num_rows)
        lengths = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        self.starts = list(itertools.accumulate(lengths, initial=0))[:-1]  # of the row groups
        self.label: datasets.ClassLabel | None = None  # of the captions, where they are numbers of classes
        self.locate = ImagePlaces(os.path.dirname(absolute(path)), columns.image_root)

    def _group_of(self, row: int) -> int:
        return max(bisect.bisect_right(self.starts, row) - 1, 0)

    def _begin(self, start: int) -> int:
        return self.starts[self._group_of(start)] if self.starts else 0

    def _read_from(self, begin: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        with open_file(self.path) as opened, naming_damage(self.path):
            file = pq.ParquetFile(opened, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
            if file.metadata.num_rows != self.num_rows:
                raise ValueError(f"{self.path} has changed: it had {self.num_rows:,} rows. Run this again.")
            self.label = _label_of(file.schema_arrow, self.columns.caption_column)
            wanted = [name for name in self.columns.roles if name in file.schema_arrow.names]
            groups = list(range(self._group_of(begin), len(self.starts)))
            for batch in file.iter_batches(ROWS_PER_READ, row_groups=groups, columns=wanted) if groups else ():
                yield from ((batch, index) for index in range(batch.num_rows))

    def _row_of(self, item: tuple[pa.RecordBatch, int]) -> dict[str, Any]:
        batch, index = item
        row = {name: batch.column(name)[index].as_py() for name in batch.schema.names}
        if self.label is not None:
            row[self.columns.caption_column] = class_texts(row[self.columns.caption_column], self.label)
        image = row.get(self.columns.image_column)
        if isinstance(image, str):
            row[self.columns.image_column] = self.locate(image)
        elif isinstance(image, dict) and image.get("bytes") is None:
            row[self.columns.image_column] = {**image, "path": self.locate(image.get("path"))}
        return row


def _label_of(schema: pa.Schema, column: str) -> datasets.ClassLabel | None:
    """The `ClassLabel` that the metadata of `datasets` declare for a column of numbers, or of lists of them."""
    kind = schema.field(column).type if column in schema.names else pa.null()
    kind = getattr(kind, "value_type", kind)
    is_number = pa.types.is_integer(kind)
    return class_label(datasets.Features.from_arrow_schema(schema)[column]) if is_number else None
