# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""An index as one commit left it. A snapshot never changes, so threads and open readers may share it."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..utils.wording import counted, quoted
from .given_rows import id_array, to_numpy
from .index_segments import BLOCK_ROWS, ID, ID_TYPES, MANIFEST, IndexManifest, Segment, table_schema


T = TypeVar("T")
# Between two renames of a rebuild, the folder is not there for a moment.
_TRIES, _PAUSE = 50, 0.01


class IndexSnapshot:
    """What a manifest names, memory-mapped.

    Args:
        folder (`Path`): The index.
        manifest (`IndexManifest`): Its manifest, as it is or as it will be when it is committed.
        known (`Sequence[Segment]`): Segments of the same index that are open already.

    Attributes: `manifest`, `segments`, `table` of ids and metadata of all rows, `starts` of the segments, and `keep`,
    (n,) bool of rows that are not removed, or None if all are.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, known: Sequence[Segment] = ()):
        self.manifest = manifest
        there = {segment.record.number: segment for segment in known}
        self.segments = tuple(
            there[record.number]
            if record.number in there and there[record.number].record == record
            else Segment(folder, manifest, record)
            for record in manifest.segments
        )
        empty = table_schema(manifest).empty_table()
        self.table = pa.concat_tables([empty, *(segment.table for segment in self.segments)])
        self.starts = np.cumsum([0, *map(len, self.segments)])
        self.keep = None
        if any(segment.removed.size for segment in self.segments):
            self.keep = np.ones(self.starts[-1], bool)
            for start, segment in zip(self.starts, self.segments, strict=False):
                self.keep[start + segment.removed] = False

    @classmethod
    def read(cls, folder: Path) -> "IndexSnapshot":
        """Map what is committed now."""
        return read_committed(folder, lambda manifest: cls(folder, manifest))

    def count(self, keep: np.ndarray | None, first_segment: int = 0) -> int:
        """How many rows `keep` keeps, from a segment on."""
        start = self.starts[first_segment]
        return int(self.starts[-1] - start if keep is None else np.count_nonzero(keep[start:]))

    def parts(
        self, keep: np.ndarray | None, first_segment: int = 0, batch_rows: int = BLOCK_ROWS
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Rows as they are stored and their tables, those that `keep` keeps."""
        for start, segment in list(zip(self.starts, self.segments, strict=False))[first_segment:]:
            for first in range(0, len(segment), batch_rows):
                rows, table = segment.rows[first : first + batch_rows], segment.table.slice(first, batch_rows)
                if keep is not None:
                    kept = keep[start + first : start + first + len(rows)]
                    rows, table = rows[kept], table.filter(pa.array(kept))
                if len(rows):
                    yield rows, table

    def places(self, ids: Any) -> np.ndarray:
        """The places (n,) int64 of ids, in their order; ValueError if one is not there."""
        ids = id_array(ids, ID_TYPES[self.manifest.id_type], once=False)
        wanted = pc.unique(ids)
        number_of = pc.index_in(self.table[ID], value_set=wanted)
        there = pc.is_valid(number_of).to_numpy()
        there = there if self.keep is None else there & self.keep
        places = np.full(len(wanted), -1, np.int64)
        found = np.flatnonzero(there)
        places[number_of.take(pa.array(found)).to_numpy()] = found
        if (places < 0).any():
            unknown = wanted.filter(pa.array(places < 0)).to_pylist()
            raise ValueError(
                f"{counted(len(unknown), 'id')} of `ids` are not in the index: {quoted(unknown)}. "
                "EmbeddingIndex.ids() lists those that are."
            )
        return places[pc.index_in(ids, value_set=wanted).to_numpy()]

    def ids_at(self, places: np.ndarray) -> np.ndarray:
        """The ids (n,) of places."""
        return to_numpy(self.table[ID].take(pa.array(places)))


def read_committed(folder: Path, read: Callable[[IndexManifest], T]) -> T:
    """What `read` makes of the files that the manifest names.

    It is read again if a commit, or a rebuild that takes the folder's place, came between: files of two states may
    have the same names.
    """
    while True:
        manifest, result, fault = _read_manifest(folder), None, None
        try:
            result = read(manifest)
        except (OSError, ValueError) as error:
            fault = error
        if _read_manifest(folder).version == manifest.version:
            if isinstance(fault, FileNotFoundError):
                raise ValueError(
                    f"{fault.filename} is missing, but {MANIFEST} names it. Build the index again."
                ) from fault
            if fault is not None:
                raise fault
            return result


def _read_manifest(folder: Path) -> IndexManifest:
    tries = _TRIES
    while True:
        try:
            return IndexManifest.read(folder)
        except FileNotFoundError:
            # What was set aside is looked for first: it is there until something else has taken its place.
            is_moving = any(folder.parent.glob(f".{folder.name}.*.aside"))
            tries -= 1
            if not tries or not (is_moving or (folder / MANIFEST).exists()):
                raise
        time.sleep(_PAUSE)
