# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""An exact index of embeddings: a folder of memory-mapped segments that is changed by atomic commits."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from .index_segments import (
    BLOCK_ROWS,
    DTYPES,
    ID,
    ID_TYPES,
    MANIFEST,
    SEGMENTS,
    IndexManifest,
    Segment,
    SegmentRecord,
    delete_leftovers,
    rows_at,
    schema_of,
    schema_text,
    table_schema,
    write_removed,
    write_segment,
)
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

    Use [`EmbeddingIndex.create`], [`EmbeddingIndex.build`] or [`EmbeddingIndex.open`].

    Attributes:
        folder (`Path`): Where it lies.
        dim (`int`): Values of a row.
        dtype (`str`): Type of stored rows, `"float16"` or `"float32"`.
        id_type (`type`): `int` or `str`.
        columns (`pa.Schema`): The metadata's columns, without the id.
        description (`dict`): The caller's own, of JSON values.
        generation (`int`): Grows with every commit. What is derived from an index stores it to know that it is stale.
        last_search (`SearchStatistics`): How much of the last search's work the codes spared.
    """

    folder: Path
    dim: int
    dtype: str
    id_type: type
    columns: pa.Schema
    description: dict[str, Any]
    generation: int
    last_search: SearchStatistics | None = None

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(os.path.abspath(folder))
        self._read()

    def _read(self) -> None:
        """Map what the manifest names now. A compaction between the two reads makes it read again."""
        while True:
            manifest = IndexManifest.read(self.folder)
            try:
                self._segments = [Segment(self.folder, manifest, record) for record in manifest.segments]
                break
            except FileNotFoundError as error:
                if IndexManifest.read(self.folder).generation == manifest.generation:
                    raise ValueError(
                        f"{error.filename} is missing, but {MANIFEST} names it. Build the index again."
                    ) from error
        self._manifest = manifest
        self.dim, self.dtype, self.generation = manifest.dim, manifest.dtype, manifest.generation
        self.id_type = int if manifest.id_type == "int" else str
        self.columns, self.description = schema_of(manifest), manifest.description
        schema = table_schema(manifest)
        self._table = pa.concat_tables([schema.empty_table(), *(segment.table for segment in self._segments)])
        self._starts = np.cumsum([0, *map(len, self._segments)])
        self._keep = None
        if any(segment.removed.size for segment in self._segments):
            self._keep = np.ones(self._starts[-1], bool)
            for start, segment in zip(self._starts, self._segments, strict=False):
                self._keep[start + segment.removed] = False

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
        manifest = _new_manifest(dim, dtype, id_type, columns, description)
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
        blocks = _blocks(vectors)
        try:
            first = next(blocks)
        except StopIteration:
            raise ValueError("There are no vectors, so their size is not known. Use EmbeddingIndex.create.") from None
        ids = None if ids is None else _id_array(ids, None)
        id_type = str if ids is not None and pa.types.is_string(ids.type) else int
        columns = None if metadata is None else metadata.schema
        manifest = _new_manifest(first.shape[1], dtype, id_type, columns, description)

        def write(temporary: Path) -> IndexManifest:
            parts = _parts(manifest, ([first], blocks), ids, metadata)
            written, count = write_segment(temporary, manifest, parts)
            return replace(written, next_id=_next_id(0, ids, count), generation=int(count > 0))

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
        with self._writing() as manifest:
            next_id, keep = manifest.next_id, self._keep
            if remove is not None:
                places = self._places(remove)
                keep = np.ones(self._starts[-1], bool) if keep is None else keep.copy()
                keep[places] = False
                gone = {
                    record.number: np.flatnonzero(~keep[start:stop])
                    for record, start, stop in zip(manifest.segments, self._starts, self._starts[1:], strict=False)
                    if ((places >= start) & (places < stop)).any()
                }
                manifest = write_removed(self.folder, manifest, gone)
            if add is not None:
                vectors, ids, metadata = add
                ids = self._new_ids(ids, keep)
                first = _first_to_merge(self._manifest.segments)
                merged = {record.number for record in self._manifest.segments[first:]}
                stay = tuple(record for record in manifest.segments if record.number not in merged)
                new = _parts(manifest, (_blocks(vectors),), ids, metadata)
                parts = itertools.chain(self._stored_parts(keep, first), new)
                manifest, count = write_segment(self.folder, replace(manifest, segments=stay), parts)
                next_id = _next_id(next_id, ids, count - self._count(keep, first))
            if description is not None:
                manifest = replace(manifest, description=_json_copy(description))
            self._commit(replace(manifest, next_id=next_id))

    def compact(self) -> None:
        """Write the rows that are not removed as one segment, in one commit. Readers keep what they have open."""
        with self._writing() as manifest:
            compacted, _ = write_segment(self.folder, replace(manifest, segments=()), self._stored_parts(self._keep))
            self._commit(compacted)

    @contextmanager
    def _writing(self) -> Iterator[IndexManifest]:
        """Wait for other writers, read their commits, and delete what a killed one left."""
        with FileLock(self.folder / "write.lock"):
            self._read()
            delete_leftovers(self.folder, self._manifest)
            yield self._manifest

    def _commit(self, manifest: IndexManifest) -> None:
        if manifest == self._manifest:
            return
        replace(manifest, generation=manifest.generation + 1).write(self.folder)
        self._read()
        delete_leftovers(self.folder, self._manifest)

    def _new_ids(self, ids: Any, keep: np.ndarray | None) -> pa.Array | None:
        if ids is None:
            if self.id_type is str:
                raise ValueError("The ids of this index are texts; give `ids`, one for each vector.")
            return None
        ids = _id_array(ids, ID_TYPES[self._manifest.id_type])
        there = pc.is_in(self._table[ID], value_set=ids).to_numpy()
        there = there if keep is None else there & keep
        if there.any():
            known = self._table[ID].filter(pa.array(there)).to_pylist()
            raise ValueError(
                f"{counted(len(known), 'id')} of `ids` are in the index already: {quoted(known)}. Each id is there "
                "once; remove the old rows in the same `change`, or leave these out."
            )
        return ids

    # ----------------------------------------------------------------------------------------------------------- read

    def __len__(self) -> int:
        """Number of rows that are not removed."""
        return self._count(self._keep)

    @property
    def filter_columns(self) -> pa.Schema:
        """The columns that a filter may name: the id and the metadata's."""
        return self._table.schema

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
        queries = _floating(vectors, "`vectors`")
        single = queries.ndim == 1
        queries = np.atleast_2d(queries)
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(
                f"The queries have the shape {np.shape(vectors)}; this index takes (q, {self.dim}) or ({self.dim},)."
            )
        queries = normalise_rows(queries, what="query")
        keep = self._keep
        if where is not None:
            matches = rows_that_match(self._table, where)
            keep = matches if keep is None else keep & matches
        count = self._count(keep)
        scores, places, self.last_search = scan_with_codes(self._segments, queries, min(int(k), count), keep)
        ids = self._ids_at(places.ravel()).reshape(places.shape)
        return (scores[0], ids[0]) if single else (scores, ids)

    def ids(self) -> np.ndarray:
        """All ids (n,), int64 or texts (object), in the order in which they were added."""
        column = self._table[ID] if self._keep is None else self._table[ID].filter(pa.array(self._keep))
        return _to_numpy(column)

    def vectors(self, ids: Sequence[int] | Sequence[str] | np.ndarray | pa.Array) -> np.ndarray:
        """The vectors of rows.

        Args:
            ids (`Sequence`): Ids of rows; one may be given several times.

        Returns:
            `np.ndarray`: (n, dim) float32, L2-normalised, in the order of `ids`.

        Raises:
            ValueError: if an id is not there.
        """
        places = self._places(ids)
        return _unit(rows_at(self._segments, places)) if len(places) else np.empty((0, self.dim), np.float32)

    def metadata(self, ids: Sequence[int] | Sequence[str] | np.ndarray | pa.Array | None = None) -> pa.Table:
        """The metadata of rows, without the ids.

        Args:
            ids (`Sequence`, *optional*): Ids of rows, which give the order; all rows by default.

        Raises:
            ValueError: if an id is not there.
        """
        table = self._table.drop_columns([ID])
        if ids is not None:
            return table.take(pa.array(self._places(ids)))
        return table if self._keep is None else table.filter(pa.array(self._keep))

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
        for rows, table in self._stored_parts(self._keep, batch_rows=batch_rows):
            yield _to_numpy(table[ID]), _unit(rows)

    def stored_parts(self, batch_rows: int = BLOCK_ROWS) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Rows (n, dim) as they are stored, and their tables with `"id"` and metadata, without the removed ones."""
        return self._stored_parts(self._keep, batch_rows=batch_rows)

    def _stored_parts(
        self, keep: np.ndarray | None, first_segment: int = 0, batch_rows: int = BLOCK_ROWS
    ) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Rows as they are stored and their tables, without the removed ones."""
        for start, segment in list(zip(self._starts, self._segments, strict=False))[first_segment:]:
            for first in range(0, len(segment), batch_rows):
                rows, table = segment.rows[first : first + batch_rows], segment.table.slice(first, batch_rows)
                if keep is not None:
                    kept = keep[start + first : start + first + len(rows)]
                    rows, table = rows[kept], table.filter(pa.array(kept))
                if len(rows):
                    yield rows, table

    def _count(self, keep: np.ndarray | None, first_segment: int = 0) -> int:
        start = self._starts[first_segment]
        return int(self._starts[-1] - start if keep is None else np.count_nonzero(keep[start:]))

    def _places(self, ids: Any) -> np.ndarray:
        """The places (n,) int64 of ids, in their order."""
        ids = _id_array(ids, ID_TYPES[self._manifest.id_type], once=False)
        wanted = pc.unique(ids)
        number_of = pc.index_in(self._table[ID], value_set=wanted)
        there = pc.is_valid(number_of).to_numpy()
        there = there if self._keep is None else there & self._keep
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

    def _ids_at(self, places: np.ndarray) -> np.ndarray:
        return _to_numpy(self._table[ID].take(pa.array(places)))


# ------------------------------------------------------------------------------------------------------ what is given


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


def _new_manifest(
    dim: int, dtype: str, id_type: type, columns: pa.Schema | None, description: Mapping[str, Any] | None
) -> IndexManifest:
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
        raise ValueError(f"`dim` is {dim!r}; it must be a whole number of at least 1.")
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; rows are stored as {' or '.join(map(repr, DTYPES))}.")
    if id_type not in (int, str):
        raise ValueError(f"`id_type` is {id_type!r}; it must be int or str.")
    columns = pa.schema([]) if columns is None else columns.remove_metadata()
    if ID in columns.names or len(set(columns.names)) < len(columns.names):
        raise ValueError(f"The columns are {quoted(columns.names, 20)}; each must be there once, and none be {ID!r}.")
    return IndexManifest(
        int(dim), dtype, id_type.__name__, schema_text(columns), _json_copy({} if description is None else description)
    )


def _json_copy(description: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(description)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`description` must hold values that JSON can: {error}.") from error


def _floating(vectors: Any, name: str) -> np.ndarray:
    array = np.asarray(vectors)
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{name} is of type {array.dtype}; it must be an array of floating-point numbers.")
    return array


def _blocks(vectors: Any) -> Iterator[np.ndarray]:
    """Rows in blocks of at most `BLOCK_ROWS`."""
    for number, block in enumerate([vectors] if hasattr(vectors, "__array__") else vectors):
        array = _floating(block, "`vectors`")
        if array.ndim != 2 or not array.shape[1]:
            raise ValueError(f"Block {number} of `vectors` has the shape {array.shape}; it must be (n, dim).")
        for first in range(0, max(1, len(array)), BLOCK_ROWS):
            yield array[first : first + BLOCK_ROWS]


def _parts(
    manifest: IndexManifest,
    blocks: Iterable[Iterable[np.ndarray]],
    ids: pa.Array | None,
    metadata: pa.Table | None,
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Rows as they will be stored, with their tables; checks that counts are the same in the end."""
    metadata = _fitting(metadata, schema_of(manifest))
    schema, start = table_schema(manifest), 0
    for block in (block for iterable in blocks for block in iterable):
        if block.shape[1] != manifest.dim:
            raise ValueError(f"Row {start} of `vectors` has {block.shape[1]} values; this index has {manifest.dim}.")
        stop = start + len(block)
        rows = normalise_rows(block, start, "row").astype(manifest.dtype)
        first_id = manifest.next_id + start
        part_ids = pa.array(range(first_id, first_id + len(block))) if ids is None else ids.slice(start, len(block))
        columns = [] if metadata is None else metadata.slice(start, len(block)).columns
        if len(part_ids) == len(block) and all(len(column) == len(block) for column in columns):
            yield rows, pa.table([part_ids, *columns], schema=schema)
        start = stop
    for name, values in (("ids", ids), ("rows of metadata", metadata)):
        if values is not None and len(values) != start:
            raise ValueError(f"There are {counted(start, 'vector')} and {len(values):,} {name}; give one for each.")


def _fitting(metadata: pa.Table | None, columns: pa.Schema) -> pa.Table | None:
    """Metadata with the columns of an index, in their order and of their types; None if it has none."""
    names = [] if metadata is None else metadata.column_names
    if sorted(names) != sorted(columns.names):
        raise ValueError(
            f"The columns of `metadata` are {quoted(names, 20)}; they must be {quoted(columns.names, 20)}."
        )
    if not names:
        return None
    try:
        return metadata.select(columns.names).cast(columns).unify_dictionaries()
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"`metadata` does not have the index's types of columns: {error}") from error


def _next_id(next_id: int, ids: pa.Array | None, count: int) -> int:
    if ids is None:
        return next_id + count
    return max(next_id, pc.max(ids).as_py() + 1) if len(ids) and pa.types.is_integer(ids.type) else next_id


def _id_array(ids: Any, kind: pa.DataType | None, once: bool = True) -> pa.Array:
    """Ids as an Arrow array of `kind`, int64 or string, by default what they are."""
    array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if not isinstance(array, pa.Array):
        values = np.asarray(ids) if not isinstance(ids, np.ndarray) and hasattr(ids, "__array__") else ids
        try:
            array = pa.array(values if isinstance(values, np.ndarray) else list(values))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise TypeError(f"`ids` must be all whole numbers or all texts: {error}") from error
    if not len(array):
        return pa.array([], kind or pa.int64())
    found = "texts" if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) else "whole numbers"
    if (found == "whole numbers" and not pa.types.is_integer(array.type)) or array.null_count:
        raise TypeError(f"`ids` are of type {array.type}; they must be all whole numbers or all texts.")
    array = array.cast(pa.string() if found == "texts" else pa.int64())
    if kind is not None and array.type != kind:
        expected = "texts" if kind == pa.string() else "whole numbers"
        raise TypeError(f"`ids` are {found}; those of this index are {expected}.")
    if once and len(pc.unique(array)) != len(array):
        counts = pc.value_counts(array)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
        raise ValueError(
            f"`ids` has {counted(len(twice), 'id')} more than once: {quoted(twice)}. Each must be unique."
        )
    return array


def _to_numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of ids as int64, or as texts in an array of objects."""
    if pa.types.is_string(column.type):
        return np.array([*column.to_pylist(), None], dtype=object)[:-1]
    return column.to_numpy()


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return (rows / row_lengths(rows)[:, None]).astype(np.float32)
