# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Copy an index into a database, and keep the copy up to date."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ..utils.wording import escape_name
from .embedding_index import EmbeddingIndex
from .index_segments import ID
from .milvus_store import MilvusStore
from .pgvector_store import PgVectorStore
from .store_base import StoreLayout, StoreRows, VectorStore, row_key, stored_columns
from .store_urls import StoreUrl


_STORES = {"postgresql": PgVectorStore, "milvus": MilvusStore}


def open_store(url: str) -> VectorStore:
    """Connect to a table of vectors in a database.

    Args:
        url (`str`): One of

            - `postgresql://user@host:port/database?table=photos`: PostgreSQL with pgvector. The password comes from
              `PGPASSWORD` or `~/.pgpass`; further parameters are libpq's (`sslmode=require`).
            - `milvus://host:19530?collection=photos`: a Milvus server; `&tls=true` for https, `&database=name`. The
              token or `user:password` comes from `MILVUS_TOKEN`.
            - `milvus:///folder/vectors.db?collection=photos`: Milvus Lite in a folder; a process that opens it has it
              until it ends.

    Returns:
        [`VectorStore`]: The store. The table may not be there yet; [`sync_store`] makes it.

    Raises:
        ValueError: if the address has another form, or what is there was not made by clip_hf.
        ConnectionError: if the server cannot be reached.
        PermissionError: if it refuses the user.
        MissingExtra: if the extra `postgres` or `milvus` is not installed.
    """
    parsed = StoreUrl.parse(url)
    return _STORES[parsed.scheme](parsed)


@dataclass(frozen=True)
class StoreSync:
    """What [`sync_store`] did.

    Args:
        added (`int`): Rows that the store did not have.
        changed (`int`): Rows whose vector, metadata or order was another.
        removed (`int`): Rows that the index no longer has.
        unchanged (`int`): Rows that were there as they are.
        seconds (`float`): How long it took.
    """

    added: int
    changed: int
    removed: int
    unchanged: int
    seconds: float


def sync_store(
    index: EmbeddingIndex, store: VectorStore, *, batch_rows: int = 1024, progress: bool = True
) -> StoreSync:
    """Make a store hold the rows of an index, and no others.

    Rows are compared by their ids and by a digest of vector and metadata, so only what is new or changed is sent. Rows
    are written in batches, and removed at the end. If it is interrupted, the store holds whole batches, and the next
    run goes on from there. In PostgreSQL a second copy into the same table waits for the first; in Milvus only one
    program at a time may write to a collection.

    A store has the rows of one index. Which one, says the location in `index.description["source"]`, or without it the
    folder of the index.

    Args:
        index ([`EmbeddingIndex`]): The index.
        store ([`VectorStore`]): From [`open_store`].
        batch_rows (`int`): Rows of a batch: one transaction in PostgreSQL.
        progress (`bool`): Whether to show a progress bar.

    Returns:
        [`StoreSync`]: The numbers of rows.

    Raises:
        ValueError: if the store has rows of another source, model, dimension, or with other columns.
    """
    if batch_rows < 1:
        raise ValueError(f"`batch_rows` is {batch_rows}; it must be at least 1.")
    started = time.perf_counter()
    source = index.description.get("source")
    location = source.get("location") if isinstance(source, dict) else source
    layout = StoreLayout(
        index.dim,
        index.id_type.__name__,
        stored_columns(index.columns),
        index.description,
        str(location or index.folder),
    )
    with store.writing():
        if store.layout is None:
            store.create(layout)
        _check_same(layout, store.layout, store.name)
        counts = _copy_rows(index, store, batch_rows, progress)
    return StoreSync(**counts, seconds=time.perf_counter() - started)


def _copy_rows(index: EmbeddingIndex, store: VectorStore, batch_rows: int, progress: bool) -> dict[str, int]:
    """Send what is new or changed, delete what is gone; returns the numbers of rows for [`StoreSync`]."""
    # By key: 16 bytes of digest and the place. A million rows take about 200 MB.
    stored = {key: (bytes.fromhex(digest), place) for batch in store.rows() for key, digest, place in batch}
    counts = {"added": 0, "changed": 0, "unchanged": 0}
    last, next_place = -1, max((place for _, place in stored.values()), default=-1) + 1
    with tqdm(
        total=len(index), unit=" rows", desc=f"copying to {store.name}", leave=False, disable=not progress
    ) as bar:
        for vectors, table, digests in _stored_rows(index, store.layout, batch_rows):
            numbers, places = [], []
            for number, (row_id, digest) in enumerate(zip(table[ID].to_pylist(), digests, strict=True)):
                old_digest, old_place = stored.pop(row_key(row_id), (None, -1))
                if old_digest == digest and old_place > last:
                    last = old_place
                    counts["unchanged"] += 1
                    continue
                counts["added" if old_digest is None else "changed"] += 1
                last, next_place = next_place, next_place + 1
                numbers.append(number)
                places.append(last)
            if numbers:
                new_digests = [digests[number].hex() for number in numbers]
                store.upsert(StoreRows(vectors[numbers], table.take(numbers), new_digests, places))
            bar.update(len(table))
    gone = list(stored)
    for first in range(0, len(gone), batch_rows):
        store.delete(gone[first : first + batch_rows])
    if gone or counts["added"] or counts["changed"]:
        store.flush()
    return counts | {"removed": len(gone)}


def _stored_rows(
    index: EmbeddingIndex, layout: StoreLayout, batch_rows: int
) -> Iterator[tuple[np.ndarray, pa.Table, list[bytes]]]:
    """Vectors (n, dim) float32 as the index stores them, ids and metadata in the layout's types, and rows' digests."""
    for rows, table in index.stored_parts(batch_rows):
        vectors = np.ascontiguousarray(rows, np.float32)
        table = table.cast(layout.schema)
        columns = zip(*(column.to_pylist() for column in table.columns), strict=True)
        digests = [
            hashlib.blake2b(vector.tobytes() + repr(values).encode(), digest_size=16).digest()
            for vector, values in zip(vectors, columns, strict=True)
        ]
        yield vectors, table, digests


def _check_same(wanted: StoreLayout, found: StoreLayout, name: str) -> None:
    cure = "Choose another table or collection for this index, or remove that one."
    if _identity(wanted) != _identity(found):
        raise ValueError(
            f"{name} holds vectors of the model {_model_name(found)}, and the index those of {_model_name(wanted)}. "
            f"Their cosines mean nothing together. {cure}"
        )
    for what, ours, theirs in (
        ("vectors of {} values", wanted.dim, found.dim),
        ("ids of type {}", wanted.id_type, found.id_type),
        ("the columns {}", _column_names(wanted), _column_names(found)),
    ):
        if ours != theirs:
            raise ValueError(f"{name} has {what.format(theirs)}, and the index {what.format(ours)}. {cure}")
    if wanted.source != found.source:
        raise ValueError(
            f"{name} holds the rows of {escape_name(found.source)}, and the index is of {escape_name(wanted.source)}; "
            "a copy would replace them all. Choose another table or collection; if the source moved, remove that one."
        )


def _identity(layout: StoreLayout) -> Any:
    return layout.model.get("fingerprint") or layout.model


def _model_name(layout: StoreLayout) -> str:
    model = layout.model
    if "name" not in model:
        return "without a name"
    return escape_name(f"{model['name']} ({str(model.get('fingerprint'))[:12]})")


def _column_names(layout: StoreLayout) -> str:
    return ", ".join(f"{column.name} ({column.type})" for column in layout.columns) or "none"
