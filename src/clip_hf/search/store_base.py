# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What all databases of vectors have in common: the layout of their rows, checks, and an exact search.

A database computes in float32, so rows whose cosines lie within its rounding may come in any order. A search asks it
for more rows than it needs and scores them again as the index does. The result is that of the index if no row that the
database left out can reach the k-th score; otherwise the search asks for more.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from .exact_scan import score_rows
from .index_segments import ID, ID_TYPES
from .row_codes import normalise_rows
from .row_filters import parse_filters, rows_that_match
from .store_filters import Condition, parse_conditions


KEY, PLACE, DIGEST, EMBEDDING = "_key", "_place", "_digest", "embedding"
RESERVED = (KEY, PLACE, DIGEST, EMBEDDING)
"""Columns of every store; metadata cannot have these names."""
_COLUMN_TYPES = {
    str(kind): kind for kind in (pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.binary(), pa.list_(pa.string()))
}
_FORMAT = 1
_MARGIN = 16


def row_key(row_id: int | str) -> str:
    """The primary key of a row: 32 hexadecimal digits of its id's BLAKE2b digest, however long or odd the id is."""
    return hashlib.blake2b(repr(row_id).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class StoreLayout:
    """What a store keeps of an index, beside its rows.

    Args:
        dim (`int`): Values of a vector.
        id_type (`str`): `"int"` or `"str"`.
        columns (`pa.Schema`): The metadata, in the types that stores have; see [`stored_columns`].
        description (`dict`): The index's description: JSON, with the model.
        source (`str`): Where the rows come from; a store has those of one source.
    """

    dim: int
    id_type: str
    columns: pa.Schema
    description: dict[str, Any]
    source: str

    @property
    def schema(self) -> pa.Schema:
        """The id, then the metadata."""
        return pa.schema([pa.field(ID, ID_TYPES[self.id_type]), *self.columns])

    @property
    def model(self) -> dict[str, Any]:
        """What the description says of the model."""
        model = self.description.get("model") or {}
        return model if isinstance(model, dict) else {"name": model}

    def to_json(self) -> str:
        """The layout as text for the database."""
        columns = {column.name: str(column.type).replace("item: ", "") for column in self.columns}
        content = {"clip_hf": "vectors", "format": _FORMAT, "dim": self.dim, "id_type": self.id_type}
        return json.dumps(content | {"columns": columns, "description": self.description, "source": self.source})

    @classmethod
    def from_json(cls, text: str | None, where: str) -> "StoreLayout":
        """The layout that a database has.

        Raises:
            ValueError: if the text is not of [`StoreLayout.to_json`].
        """
        names = {name.replace("item: ", ""): kind for name, kind in _COLUMN_TYPES.items()}
        try:
            content = json.loads(text or "")
            if content["clip_hf"] != "vectors" or content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']}")
            for name, kind in (("dim", int), ("columns", dict), ("description", dict), ("source", str)):
                if type(content[name]) is not kind:
                    raise TypeError(f"{name} is no {kind.__name__}")
            columns = pa.schema([pa.field(name, names[kind]) for name, kind in content["columns"].items()])
            layout = cls(content["dim"], content["id_type"], columns, content["description"], content["source"])
            if layout.dim < 1 or layout.id_type not in ID_TYPES:
                raise ValueError(f"dim {layout.dim}, ids {layout.id_type}")
            return layout
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{where} exists, but clip_hf did not make it, or its description (format {_FORMAT}) was changed. "
                "Choose another name, or remove it and copy the index again."
            ) from error


def stored_columns(columns: pa.Schema) -> pa.Schema:
    """The schema of an index's metadata in the types that stores have.

    Strings, whole numbers, floating-point numbers, booleans, bytes and lists of strings; narrower types become wider.

    Raises:
        ValueError: if a column has another type, or a name that stores use for themselves.
    """
    fields = []
    for column in columns:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        for is_kind, stored in (
            (_is_string, pa.string()),
            (pa.types.is_integer, pa.int64()),
            (pa.types.is_floating, pa.float64()),
            (pa.types.is_boolean, pa.bool_()),
            (lambda kind: pa.types.is_binary(kind) or pa.types.is_large_binary(kind), pa.binary()),
            (lambda kind: pa.types.is_list(kind) and _is_string(kind.value_type), pa.list_(pa.string())),
        ):
            if is_kind(kind):
                fields.append(pa.field(column.name, stored))
                break
        else:
            raise ValueError(
                f"The column {column.name!r} has the type {column.type}, which stores do not take. Allowed: "
                f"{', '.join(map(str, _COLUMN_TYPES.values()))}, and narrower ones. Convert it, or leave it out."
            )
        if column.name in RESERVED:
            raise ValueError(f"A store uses {column.name!r} for itself. Rename this column of the index.")
    return pa.schema(fields)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


@dataclass(frozen=True)
class StoreRows:
    """Rows for a store.

    Args:
        vectors (`np.ndarray`): (n, dim) float32, as the index stores them.
        table (`pa.Table`): Ids and metadata, n rows of the layout's schema.
        digests (`Sequence[str]`): 32 hexadecimal digits each; rows that differ in any value have different ones.
        places (`Sequence[int]`): Their order among equal scores.
    """

    vectors: np.ndarray
    table: pa.Table
    digests: Sequence[str]
    places: Sequence[int]

    @cached_property
    def ids(self) -> list[int] | list[str]:
        """Their ids."""
        return self.table[ID].to_pylist()

    @cached_property
    def keys(self) -> list[str]:
        """Their primary keys."""
        return list(map(row_key, self.ids))


@dataclass(frozen=True)
class Candidates:
    """Rows that a database found for a query, best first.

    Args:
        scores (`np.ndarray`): Their cosines (m,) as the database computes them.
        ids (`Sequence`): Their ids.
        places (`np.ndarray`): (m,) int64.
        vectors (`np.ndarray`): (m, dim) float32, as they are stored.
        columns (`pa.Table`): The columns that the filters name.
    """

    scores: np.ndarray
    ids: Sequence[int] | Sequence[str]
    places: np.ndarray
    vectors: np.ndarray
    columns: pa.Table


class VectorStore(ABC):
    """A table of vectors in a database; [`open_store`] opens one. It is a context manager that closes the connection.

    Attributes: `name`, the address without a password, and `layout`, a [`StoreLayout`], None before [`create`].
    """

    name: str
    layout: StoreLayout | None
    most_candidates: int | None = None
    """The most rows that the database returns for a query."""
    can_scan: bool = True
    """Whether the database can score all rows now."""
    ef_search: int = 100
    """How many candidates a search in the HNSW index keeps: more find more, and take longer. May be set."""

    def __enter__(self) -> "VectorStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def description(self) -> dict[str, Any] | None:
        """The description of the index whose rows are here, with its model; None before [`create`]."""
        return self.layout.description if self.layout else None

    def writing(self) -> AbstractContextManager[None]:
        """Keep other copies out of this store meanwhile, where the database can: PostgreSQL; they wait."""
        return nullcontext()

    @abstractmethod
    def create(self, layout: StoreLayout) -> None:
        """Make the table or collection, whole or not at all, and describe it."""

    @abstractmethod
    def upsert(self, rows: StoreRows) -> None:
        """Insert rows, and replace those whose ids are there."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """Delete rows by key; keys that are not there do not matter."""

    @abstractmethod
    def flush(self) -> None:
        """Do what the database needs after many changes to search quickly."""

    @abstractmethod
    def rows(self) -> Iterator[list[tuple[str, str, int]]]:
        """Keys, digests and places of all rows, in batches, in any order."""

    @abstractmethod
    def create_hnsw(self, m: int = 16, ef_construction: int = 64) -> None:
        """Build an HNSW index, which a search with `exact=False` uses; an older one is replaced."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _nearest(
        self, queries: np.ndarray, limit: int, conditions: Sequence[Condition], exact: bool
    ) -> list[Candidates]:
        """The `limit` rows of highest cosine for each of `queries` (q, dim) float32, and the columns of conditions."""

    def keys(self) -> Iterator[str]:
        """The primary keys of all rows, in any order; [`row_key`] gives an id's."""
        for batch in self.rows():
            for key, _, _ in batch:
                yield key

    def search(
        self, vectors: np.ndarray, k: int = 10, *, filters: Sequence[str] = (), exact: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows of highest cosine, as [`EmbeddingIndex.search`] finds them.

        Args:
            vectors (`np.ndarray`): Queries (q, dim) of any lengths, or one (dim,).
            k (`int`): How many rows to find.
            filters (`Sequence[str]`): Conditions that rows must meet, as [`parse_filter`] reads them.
            exact (`bool`): Whether the result must be that of a scan of all rows. Otherwise the HNSW index of
                [`create_hnsw`] answers; it may miss rows. Where it finds fewer than `k`, a scan answers in PostgreSQL;
                Milvus is asked for more, as far as it can.

        Returns:
            `tuple`: float64 scores (q, m), best first, and ids (q, m), int64 or object; m is `k`, or the number of
            rows that meet the conditions if that is less. For one query (m,) and (m,).

        Raises:
            ValueError: if a query has another dimension, is zero or not finite, or if a filter cannot be read.
        """
        layout = self._made_layout()
        queries = np.asarray(vectors)
        _check_queries(queries, layout.dim, k, self.most_candidates or k)
        unit = normalise_rows(np.atleast_2d(queries), what="query")
        conditions = parse_conditions(filters, layout.schema)
        where = parse_filters(filters, layout.schema)
        found = self._search_rows(unit, k, (conditions, where), exact)
        m = min((len(scores) for scores, _ in found), default=0)
        ids = np.empty((len(found), m), np.int64 if layout.id_type == "int" else object)
        for row, (_, row_ids) in zip(ids, found, strict=True):
            row[:] = row_ids[:m]
        scores = np.array([scores[:m] for scores, _ in found]).reshape(len(found), m)
        return (scores[0], ids[0]) if queries.ndim == 1 else (scores, ids)

    def _search_rows(
        self, queries: np.ndarray, k: int, filters: tuple[Sequence[Condition], Any], exact: bool
    ) -> list[tuple[np.ndarray, list]]:
        found: dict[int, tuple[np.ndarray, list]] = {}
        limit = self._capped(k + _MARGIN)
        while pending := [number for number in range(len(queries)) if number not in found]:
            answers = self._nearest(queries[pending].astype(np.float32), limit, filters[0], exact)
            is_last = limit == self.most_candidates
            for number, answer in zip(pending, answers, strict=True):
                scores, ids, is_certain = self._rank(queries[number], answer, k, filters[1])
                if (is_certain or len(answer.ids) < limit) if exact else (len(ids) == k or is_last):
                    found[number] = scores, ids
            if exact and is_last and len(found) < len(queries):
                raise ValueError(
                    f"{self.name} returns at most {limit:,} rows, and the {k} best that meet the filters cannot be "
                    "told from them with certainty. Ask for fewer, use other filters, or search the index itself."
                )
            if self.can_scan and not exact:
                exact = True
            else:
                limit = self._capped(4 * limit)
        return [found[number] for number in range(len(queries))]

    @staticmethod
    def _rank(query: np.ndarray, answer: Candidates, k: int, where: Any) -> tuple[np.ndarray, list, bool]:
        """The scores and ids of the best `k` candidates, and whether no row that is not among them can be better."""
        scores = score_rows(answer.vectors, query)
        order = np.lexsort((answer.places, -scores))
        if where is not None:
            order = order[rows_that_match(answer.columns, where)[order]]
        order = order[:k]
        best, ids = scores[order], [answer.ids[number] for number in order]
        is_certain = len(order) == k and best[-1] > answer.scores.min() + rounding_bound(len(query))
        return best, ids, bool(is_certain)

    def _capped(self, limit: int) -> int:
        return min(limit, self.most_candidates or limit)

    def _made_layout(self) -> StoreLayout:
        if self.layout is None:
            raise ValueError(f"{self.name} is not there yet. Copy an index into it with sync_store.")
        return self.layout


def rounding_bound(dim: int) -> float:
    """How far a cosine of `dim` products may lie from the exact one if a database computes it in float32.

    With u = 2**-24, a sum of `dim` products in any order is off by at most dim * u / (1 - dim * u) of the product of
    the lengths (Higham, Accuracy and Stability of Numerical Algorithms, 3.1). The cosine has such a sum, and half of
    two such errors in the squared lengths; rounding the query, the lengths, the quotient and the distance adds less
    than 10 u.
    """
    unit = 2.0**-24
    return 2 * (dim + 5) * unit / (1 - (dim + 5) * unit)


def _check_queries(queries: np.ndarray, dim: int, k: int, most: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"`k` is {k!r}; it must be a whole number.")
    if not 1 <= k <= most:
        raise ValueError(f"`k` is {k}; it must be at least 1{f', and at most {most:,} here' if k > most else ''}.")
    if not np.issubdtype(queries.dtype, np.floating):
        raise TypeError(f"The queries are of type {queries.dtype}; they must be floating-point numbers.")
    if queries.ndim not in (1, 2) or queries.shape[-1] != dim:
        raise ValueError(f"The queries have the shape {queries.shape}; this store takes (q, {dim}) or ({dim},).")
