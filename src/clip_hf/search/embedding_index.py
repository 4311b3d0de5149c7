# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""An exact index of embeddings: a folder of memory-mapped segments that is changed by atomic commits."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from ..utils.atomic import replaced_folder
from ..utils.wording import counted, quoted
from .exact_scan import SearchStatistics, scan_with_codes
from .given_rows import (
    blocks_of,
    check_table,
    floating_array,
    id_array,
    json_copy,
    new_manifest,
    next_free_id,
    parts_of,
    to_numpy,
)
from .index_segments import (
    BLOCK_ROWS,
    ID,
    ID_TYPES,
    SEGMENTS,
    WRITE_LOCK,
    IndexManifest,
    Segment,
    SegmentRecord,
    check_digests,
    delete_leftovers,
    rows_at,
    schema_of,
    write_removed,
    write_segment,
)
from .index_snapshot import IndexSnapshot, read_committed
from .row_codes import normalise_rows, row_lengths
from .row_filters import rows_that_match


Rows = tuple[Any, Any, pa.Table | None]
_MOST_SEGMENTS = 16


class EmbeddingIndex:
    """Embeddings with ids and metadata in a folder, searched exactly.

    - Rows are L2-normalised and stored as float16 or float32, and memory-mapped: an index may be larger than memory.
    - A search returns what a float64 scan of all stored rows returns, to the last bit. It reads the rows' int8 codes
      and then only the rows that these cannot rule out.
    - Each change is one commit: after a crash the index is as before it or as after it. Writers wait for each other;
      readers never wait, and keep what they have opened.
    - Threads may share an object, also while one of them changes the index. A process that was forked searches with
      one thread, because the libraries' threads do not survive a fork; processes that are spawned use all.
    - Opening looks at the sizes and types of files; [`EmbeddingIndex.check`] reads them whole.

    Use [`EmbeddingIndex.create`], [`EmbeddingIndex.build`] or [`EmbeddingIndex.open`].

    Attributes:
        folder (`Path`): Where it lies.
        dim (`int`): Values of a row.
        dtype (`str`): Type of stored rows, `"float16"` or `"float32"`.
        id_type (`type`): `int` or `str`.
        columns (`pa.Schema`): The metadata's columns, without the id.
        description (`dict`): The caller's own, of JSON values.
        identity (`str`): Tells the index from all others: drawn at random when it was made, and kept by its commits.
        generation (`int`): Grows with every commit. What is derived from an index stores identity and generation, to
            know that it is stale.
        last_search (`SearchStatistics`): How much of the last search's work the codes spared.
    """

    folder: Path
    last_search: SearchStatistics | None = None

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(os.path.abspath(folder))
        self._now = IndexSnapshot.read(self.folder)  # replaced as a whole; methods take it once

    # ------------------------------------------------------------------------------------------------ make and open

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike,
        dim: int,
        *,
        dtype: str = "float16",
        id_type: type = int,
        columns: pa.Schema | None = None,
        description: Mapping[str, Any] | None = None,
    ) -> "EmbeddingIndex":
        """Make an index without rows.

        Args:
            folder (`str` or `os.PathLike`): A folder that is empty or not there.
            dim (`int`): Values of a row.
            dtype (`str`): Type of stored rows, `"float16"` or `"float32"`.
            id_type (`type`): `int` or `str`.
            columns (`pa.Schema`, *optional*): Columns of metadata; none of them is `"id"`.
            description (`Mapping`, *optional*): Anything of JSON values, for the caller.

        Raises:
            FileExistsError: if the folder is not empty.
            ValueError: if an argument is wrong.
        """
        manifest = new_manifest(dim, dtype, id_type, columns, description)
        return cls._make(folder, lambda temporary: manifest)

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike,
        vectors: np.ndarray | Iterable[np.ndarray],
        ids: Sequence[int] | Sequence[str] | np.ndarray | pa.Array | None = None,
        metadata: pa.Table | None = None,
        *,
        dtype: str = "float16",
        description: Mapping[str, Any] | None = None,
    ) -> "EmbeddingIndex":
        """Make an index of rows. The folder appears when all of it is written.

        Args:
            folder (`str` or `os.PathLike`): A folder that is empty or not there.
            vectors (`np.ndarray` or `Iterable[np.ndarray]`): Rows (n, dim) of any floating type and length, or blocks
                of them, which may be more than memory holds.
            ids (`Sequence`, *optional*): Whole numbers or texts, each once; 0 to n - 1 by default.
            metadata (`pa.Table`, *optional*): A row for each vector.
            dtype (`str`): Type of stored rows, `"float16"` or `"float32"`.
            description (`Mapping`, *optional*): Anything of JSON values, for the caller.

        Raises:
            FileExistsError: if the folder is not empty.
            TypeError: if ids are neither all whole numbers nor all texts, or vectors are not of a floating type.
            ValueError: if a vector is zero, NaN or infinite, an id is there twice, or counts differ.
        """
        check_table(metadata)
        blocks = blocks_of(vectors)
        try:
            first = next(blocks)
        except StopIteration:
            raise ValueError("There are no vectors, so their size is not known. Use EmbeddingIndex.create.") from None
        ids = None if ids is None else id_array(ids, None)
        id_type = str if ids is not None and pa.types.is_string(ids.type) else int
        columns = None if metadata is None else metadata.schema
        manifest = new_manifest(first.shape[1], dtype, id_type, columns, description)

        def write(temporary: Path) -> IndexManifest:
            parts = parts_of(manifest, ([first], blocks), ids, metadata)
            written, count = write_segment(temporary, manifest, parts)
            return replace(written, next_id=next_free_id(0, ids, count), generation=int(count > 0))

        return cls._make(folder, write)

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "EmbeddingIndex":
        """Open an index, as it is now: later commits do not change what is open.

        Args:
            folder (`str` or `os.PathLike`): Its folder.

        Raises:
            FileNotFoundError: if the folder holds no index.
            ValueError: if it is damaged.
        """
        return cls(folder)

    @classmethod
    def _make(cls, folder: str | os.PathLike, write: Callable[[Path], IndexManifest]) -> "EmbeddingIndex":
        _refuse_content(Path(folder))
        with replaced_folder(folder, check=_refuse_content) as temporary:
            (temporary / SEGMENTS).mkdir()
            write(temporary).write(temporary)
        return cls(folder)

    # --------------------------------------------------------------------------------------------------------- change

    def add(
        self,
        vectors: np.ndarray | Iterable[np.ndarray],
        ids: Sequence[int] | Sequence[str] | np.ndarray | pa.Array | None = None,
        metadata: pa.Table | None = None,
    ) -> None:
        """Add rows in one commit. Small segments are merged on the way.

        Args:
            vectors (`np.ndarray` or `Iterable[np.ndarray]`): Rows (n, dim), as for [`EmbeddingIndex.build`].
            ids (`Sequence`, *optional*): Ids that are not there yet. By default whole numbers that were never used.
            metadata (`pa.Table`, *optional*): A row for each vector, with the columns of the index.

        Raises:
            TypeError: if ids are not of the index's type, or vectors not of a floating type.
            ValueError: if a vector is zero, NaN, infinite or of another size, an id is there, or counts differ.
        """
        self.change(add=(vectors, ids, metadata))

    def remove(self, ids: Sequence[int] | Sequence[str] | np.ndarray | pa.Array) -> None:
        """Remove rows in one commit. Their bytes go with [`EmbeddingIndex.compact`].

        Args:
            ids (`Sequence`): Ids of rows.

        Raises:
            ValueError: if an id is not there.
        """
        self.change(remove=ids)

    def change(
        self,
        *,
        add: Rows | None = None,
        remove: Sequence[int] | Sequence[str] | np.ndarray | pa.Array | None = None,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        """Remove and add rows in one commit. Removal comes first, so a row is replaced by removing and adding its id.

        Args:
            add (`tuple`, *optional*): Vectors, ids and metadata, as for [`EmbeddingIndex.add`].
            remove (`Sequence`, *optional*): Ids of rows, as for [`EmbeddingIndex.remove`].
            description (`Mapping`, *optional*): Replaces the index's description.

        Raises:
            TypeError: if types are wrong.
            ValueError: if values are wrong; nothing is changed then.
        """
        with self._writing() as now:
            manifest, next_id, keep = now.manifest, now.manifest.next_id, now.keep
            if remove is not None:
                places = now.places(remove)
                keep = np.ones(now.starts[-1], bool) if keep is None else keep.copy()
                keep[places] = False
                gone = {
                    record.number: np.flatnonzero(~keep[start:stop])
                    for record, start, stop in zip(manifest.segments, now.starts, now.starts[1:], strict=False)
                    if ((places >= start) & (places < stop)).any()
                }
                manifest = write_removed(self.folder, manifest, gone)
            if add is not None:
                vectors, ids, metadata = add
                ids = _new_ids(now, ids, keep)
                first = _first_to_merge(now.manifest.segments)
                merged = {record.number for record in now.manifest.segments[first:]}
                stay = tuple(record for record in manifest.segments if record.number not in merged)
                new = parts_of(manifest, (blocks_of(vectors),), ids, metadata)
                parts = itertools.chain(now.parts(keep, first), new)
                manifest, count = write_segment(self.folder, replace(manifest, segments=stay), parts)
                next_id = next_free_id(next_id, ids, count - now.count(keep, first))
            if description is not None:
                manifest = replace(manifest, description=json_copy(description))
            self._commit(now, replace(manifest, next_id=next_id))

    def compact(self) -> None:
        """Write the rows that are not removed as one segment, in one commit. Readers keep what they have open."""
        with self._writing() as now:
            compacted, _ = write_segment(self.folder, replace(now.manifest, segments=()), now.parts(now.keep))
            self._commit(now, compacted)

    @contextmanager
    def _writing(self) -> Iterator[IndexSnapshot]:
        """Wait for other writers, read their commits, and delete what a killed one left."""
        with FileLock(self.folder / WRITE_LOCK):
            now = IndexSnapshot.read(self.folder)
            if now.manifest.identity != self.identity:
                raise ValueError(f"{self.folder} was built anew since it was opened. Open it again to change it.")
            delete_leftovers(self.folder, now.manifest)
            self._now = now
            yield now

    def _commit(self, now: IndexSnapshot, manifest: IndexManifest) -> None:
        if manifest == now.manifest:
            return
        manifest = replace(manifest, generation=manifest.generation + 1)
        after = IndexSnapshot(self.folder, manifest, now.segments)  # before the commit: it may fail, as memory may
        manifest.write(self.folder)
        self._now = after
        with suppress(OSError):  # the next writer deletes them
            delete_leftovers(self.folder, manifest)

    # ----------------------------------------------------------------------------------------------------------- read

    def __len__(self) -> int:
        """Number of rows that are not removed."""
        return self._now.count(self._now.keep)

    dim = property(lambda self: self._now.manifest.dim, doc="Values of a row.")
    dtype = property(lambda self: self._now.manifest.dtype, doc="Type of stored rows.")
    id_type = property(lambda self: int if self._now.manifest.id_type == "int" else str, doc="`int` or `str`.")
    columns = property(lambda self: schema_of(self._now.manifest), doc="The metadata's columns, without the id.")
    description = property(lambda self: self._now.manifest.description, doc="The caller's own.")
    identity = property(lambda self: self._now.manifest.identity, doc="Tells the index from all others.")
    generation = property(lambda self: self._now.manifest.generation, doc="Number of commits.")

    @property
    def filter_columns(self) -> pa.Schema:
        """The columns that a filter may name: the id and the metadata's."""
        return self._now.table.schema

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments with the rows as they are stored, in order, as this object has them mapped."""
        return self._now.segments

    def search(
        self, vectors: np.ndarray, k: int = 10, *, where: pc.Expression | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows with the highest cosines, exactly those of a float64 scan of all stored rows.

        Args:
            vectors (`np.ndarray`): Queries (q, dim), or one (dim,), of any floating type and length.
            k (`int`): How many rows to find.
            where (`pyarrow.compute.Expression`, *optional*): Which rows count, by the columns of metadata and `"id"`;
                see [`parse_filter`].

        Returns:
            `tuple[np.ndarray, np.ndarray]`: float64 cosines (q, m), highest first, and ids (q, m), int64 or texts
            (object); (m,) for one query. m is `k`, or the number of rows that count if that is less: nothing is
            padded. Of equal cosines the row that was added first is first.

        Raises:
            TypeError: if the queries are not of a floating type, or `k` is no whole number.
            ValueError: if queries are zero, NaN, infinite or of another size, `k` is below 1, or `where` does not fit.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer):
            raise TypeError(f"`k` is {k!r}; it must be a whole number.")
        if k < 1:
            raise ValueError(f"`k` is {k}; it must be at least 1.")
        queries = floating_array(vectors, "`vectors`")
        single = queries.ndim == 1
        queries = np.atleast_2d(queries)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(
                f"The queries have the shape {np.shape(vectors)}; this index takes (q, {self.dim}) or ({self.dim},)."
            )
        queries = normalise_rows(queries, what="query")
        now = self._now
        keep = now.keep
        if where is not None:
            matches = rows_that_match(now.table, where)
            keep = matches if keep is None else keep & matches
        count = min(int(k), now.count(keep))
        scores, places, self.last_search = scan_with_codes(now.segments, queries, count, keep)
        ids = now.ids_at(places.ravel()).reshape(places.shape)
        return (scores[0], ids[0]) if single else (scores, ids)

    def ids(self) -> np.ndarray:
        """All ids (n,), int64 or texts (object), in the order in which they were added."""
        now = self._now
        return to_numpy(now.table[ID] if now.keep is None else now.table[ID].filter(pa.array(now.keep)))

    def vectors(self, ids: Sequence[int] | Sequence[str] | np.ndarray | pa.Array) -> np.ndarray:
        """The vectors of rows.

        Args:
            ids (`Sequence`): Ids of rows; one may be given several times.

        Returns:
            `np.ndarray`: (n, dim) float32, L2-normalised, in the order of `ids`.

        Raises:
            ValueError: if an id is not there.
        """
        now = self._now
        places = now.places(ids)
        return _unit(rows_at(now.segments, places)) if len(places) else np.empty((0, self.dim), np.float32)

    def metadata(self, ids: Sequence[int] | Sequence[str] | np.ndarray | pa.Array | None = None) -> pa.Table:
        """The metadata of rows, without the ids.

        Args:
            ids (`Sequence`, *optional*): Ids of rows, which give the order; all rows by default.

        Raises:
            ValueError: if an id is not there.
        """
        now = self._now
        table = now.table.drop_columns([ID])
        if ids is not None:
            return table.take(pa.array(now.places(ids)))
        return table if now.keep is None else table.filter(pa.array(now.keep))

    def scan(self, batch_rows: int = 65536) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Iterate over all rows, in the order in which they were added.

        Args:
            batch_rows (`int`): How many rows to read at a time.

        Returns:
            `Iterator`: ids (n,) and vectors (n, dim) float32, L2-normalised.

        Raises:
            ValueError: if `batch_rows` is below 1.
        """
        if batch_rows < 1:
            raise ValueError(f"`batch_rows` is {batch_rows}; it must be at least 1.")
        for rows, table in self.stored_parts(batch_rows):
            yield to_numpy(table[ID]), _unit(rows)

    def stored_parts(self, batch_rows: int = BLOCK_ROWS) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Rows (n, dim) as they are stored, and their tables with `"id"` and metadata, without the removed ones."""
        now = self._now
        return now.parts(now.keep, batch_rows=batch_rows)

    def check(self) -> None:
        """Read all files of the index as it is committed now, and compare them with the digests noted for them.

        Raises:
            ValueError: if one is damaged; it is named.
        """
        read_committed(self.folder, lambda manifest: check_digests(self.folder, manifest))


def _new_ids(now: IndexSnapshot, ids: Any, keep: np.ndarray | None) -> pa.Array | None:
    """Ids of rows to add, of which none may be there; None if they are numbered."""
    if ids is None:
        if now.manifest.id_type == "str":
            raise ValueError("The ids of this index are texts; give `ids`, one for each vector.")
        return None
    ids = id_array(ids, ID_TYPES[now.manifest.id_type])
    there = pc.is_in(now.table[ID], value_set=ids).to_numpy()
    there = there if keep is None else there & keep
    if there.any():
        known = now.table[ID].filter(pa.array(there)).to_pylist()
        raise ValueError(
            f"{counted(len(known), 'id')} of `ids` are in the index already: {quoted(known)}. Each id is there "
            "once; remove the old rows in the same `change`, or leave these out."
        )
    return ids


def _refuse_content(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"{folder} is not empty. Give another folder, remove this one, or open the index that is there."
        )


def _first_to_merge(records: Sequence[SegmentRecord]) -> int:
    """The first of the last segments that the next one takes in, so that many small commits make few segments.

    A segment is merged with those after it if they have half as many rows: each row is written a few times only.
    """
    first, rows = len(records), BLOCK_ROWS
    while len(records) >= _MOST_SEGMENTS and first and records[first - 1].rows <= 2 * rows:
        first -= 1
        rows += records[first].rows
    return first


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return (rows / row_lengths(rows)[:, None]).astype(np.float32)
