# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What callers give to an index: vectors, ids and metadata are checked here, and become what is stored."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ..utils.wording import counted, quoted
from .index_segments import BLOCK_ROWS, DTYPES, ID, MOST_VALUES, IndexManifest, schema_of, schema_text, table_schema
from .row_codes import normalise_rows


_ABOVE_IDS = 2**63


def new_manifest(
    dim: int, dtype: str, id_type: type, columns: pa.Schema | None, description: Mapping[str, Any] | None
) -> IndexManifest:
    """The manifest of a new index without rows."""
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or not 1 <= dim <= MOST_VALUES:
        raise ValueError(f"`dim` is {dim!r}; it must be a whole number from 1 to {MOST_VALUES:,}.")
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; rows are stored as {' or '.join(map(repr, DTYPES))}.")
    if id_type not in (int, str):
        raise ValueError(f"`id_type` is {id_type!r}; it must be int or str.")
    columns = pa.schema([]) if columns is None else _stored_columns(columns)
    if ID in columns.names or len(set(columns.names)) < len(columns.names):
        raise ValueError(f"The columns are {quoted(columns.names, 20)}; each must be there once, and none be {ID!r}.")
    return IndexManifest.new(
        int(dim), dtype, id_type.__name__, schema_text(columns), json_copy({} if description is None else description)
    )


def json_copy(description: Mapping[str, Any]) -> dict[str, Any]:
    """A description as it is when it was written and read; ValueError if JSON cannot hold it."""
    try:
        return json.loads(json.dumps(dict(description)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`description` must hold values that JSON can: {error}.") from error


# ------------------------------------------------------------------------------------------------------------ vectors


def floating_array(vectors: Any, name: str) -> np.ndarray:
    """Vectors as an array; TypeError if they are not of a floating type."""
    if isinstance(vectors, torch.Tensor):
        vectors = vectors.detach().cpu()
        vectors = vectors.float() if vectors.dtype == torch.bfloat16 else vectors  # numpy has no such type
    array = np.asarray(vectors)
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{name} is of type {array.dtype}; it must be an array of floating-point numbers.")
    return array


def blocks_of(vectors: Any) -> Iterator[np.ndarray]:
    """Rows in blocks of at most `BLOCK_ROWS`."""
    for number, block in enumerate([vectors] if hasattr(vectors, "__array__") else vectors):
        array = floating_array(block, "`vectors`")
        if array.ndim != 2 or not array.shape[1]:
            raise ValueError(f"Block {number} of `vectors` has the shape {array.shape}; it must be (n, dim).")
        for first in range(0, max(1, len(array)), BLOCK_ROWS):
            yield array[first : first + BLOCK_ROWS]


def parts_of(
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
        part_ids = _free_ids(manifest.next_id + start, len(block)) if ids is None else ids.slice(start, len(block))
        columns = [] if metadata is None else metadata.slice(start, len(block)).columns
        if len(part_ids) == len(block) and all(len(column) == len(block) for column in columns):
            yield rows, pa.table([part_ids, *columns], schema=schema)
        start = stop
    for name, values in (("ids", ids), ("rows of metadata", metadata)):
        if values is not None and len(values) != start:
            raise ValueError(f"There are {counted(start, 'vector')} and {len(values):,} {name}; give one for each.")


# ---------------------------------------------------------------------------------------------------------------- ids


def id_array(ids: Any, kind: pa.DataType | None, once: bool = True) -> pa.Array:
    """Ids as an Arrow array of `kind`, int64 or string, by default what they are."""
    array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if not isinstance(array, pa.Array):
        array = _id_values(array)
    if not len(array):
        return pa.array([], kind or pa.int64())
    if any(map(array.type.equals, (pa.string(), pa.large_string(), pa.string_view()))):
        found = "texts"
    elif pa.types.is_integer(array.type):
        found = "whole numbers"
    else:
        found = None
    if found is None or array.null_count:
        raise TypeError(f"`ids` are of type {array.type}; they must be all whole numbers or all texts.")
    try:
        array = array.cast(pa.string() if found == "texts" else pa.int64())
    except pa.ArrowInvalid as error:
        raise ValueError(f"`ids` must be whole numbers below 2**63, or texts: {error}.") from error
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


def next_free_id(next_id: int, ids: pa.Array | None, count: int) -> int:
    """What is above all ids so far, with `ids` or, without them, `count` new ones."""
    if ids is None:
        return next_id + count
    return max(next_id, pc.max(ids).as_py() + 1) if len(ids) and pa.types.is_integer(ids.type) else next_id


def to_numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A column of ids as int64, or as texts in an array of objects."""
    if pa.types.is_string(column.type):
        return np.array([*column.to_pylist(), None], dtype=object)[:-1]
    return column.to_numpy()


def _id_values(ids: Any) -> pa.Array:
    if isinstance(ids, str | bytes | set | frozenset | Mapping) or not hasattr(ids, "__iter__"):
        raise TypeError(f"`ids` is of type {type(ids).__name__}; give a list or array of ids.")
    values = np.asarray(ids) if hasattr(ids, "__array__") else list(ids)
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TypeError(f"`ids` must be all whole numbers or all texts: {error}") from error
    except UnicodeEncodeError as error:
        raise ValueError(f"`ids` must be texts that UTF-8 can hold: {error}.") from error


def _free_ids(first: int, count: int) -> pa.Array:
    if first + count > _ABOVE_IDS:
        raise ValueError("The highest id is there, so no free ones are above it; give `ids`, one for each vector.")
    return pa.array(range(first, first + count), pa.int64())


# ----------------------------------------------------------------------------------------------------------- metadata


def check_table(metadata: Any) -> None:
    """TypeError if metadata is given and no Arrow table."""
    if metadata is not None and not isinstance(metadata, pa.Table):
        raise TypeError(
            f"`metadata` is of type {type(metadata).__name__}; give a pyarrow table, such as pa.table({{'width': "
            "widths}) or pa.Table.from_pandas(frame)."
        )


def _fitting(metadata: pa.Table | None, columns: pa.Schema) -> pa.Table | None:
    """Metadata with the columns of an index, in their order and of their types; None if it has none."""
    check_table(metadata)
    names = [] if metadata is None else metadata.column_names
    if sorted(names) != sorted(columns.names):
        raise ValueError(
            f"The columns of `metadata` are {quoted(names, 20)}; they must be {quoted(columns.names, 20)}."
        )
    if not names:
        return None
    try:
        return metadata.select(columns.names).cast(columns)
    except (pa.ArrowException, ValueError) as error:
        raise ValueError(f"`metadata` does not have the index's types of columns: {error}") from error


def _stored_columns(columns: pa.Schema) -> pa.Schema:
    """The columns as they are stored: with plain values instead of dictionaries, which differ from file to file."""
    stored = []
    for column in columns:
        kind = _plain(column.type)
        try:
            pa.schema([column.with_type(kind)]).empty_table().take(pa.array([], pa.int64()))
        except pa.ArrowException as error:
            raise ValueError(
                f"The column {column.name!r} is of type {column.type}, of which Arrow cannot take single rows "
                f"({error}). Cast it to another type."
            ) from error
        stored.append(pa.field(column.name, kind, column.nullable))
    return pa.schema(stored)


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without dictionaries and views of texts, inside lists and structures as well."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if kind == pa.string_view():
        return pa.string()
    if kind == pa.binary_view():
        return pa.binary()
    if pa.types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([part.with_type(_plain(part.type)) for part in kind])
    for is_kind, make in (
        (pa.types.is_list, pa.list_),
        (pa.types.is_large_list, pa.large_list),
        (pa.types.is_fixed_size_list, lambda part: pa.list_(part, kind.list_size)),
    ):
        if is_kind(kind):
            return make(kind.value_field.with_type(_plain(kind.value_type)))
    return kind
