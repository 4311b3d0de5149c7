# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Vectors in Milvus: a cluster, a server, or Milvus Lite in a folder."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..utils.extras import require_extra
from .index_segments import ID
from .store_base import DIGEST, EMBEDDING, KEY, PLACE, Candidates, StoreLayout, StoreRows, VectorStore
from .store_filters import Condition
from .store_urls import FORMS, StoreUrl


# Limits of Milvus: https://milvus.io/docs/limitations.md
_MOST_TEXT_BYTES = 65_535
_MOST_ITEMS = 4_096
_MOST_RESULTS = 16_384
_MOST_DIM = 32_768
_PROPERTY = "clip_hf"
_SECONDS = 60


class MilvusStore(VectorStore):
    """A collection of Milvus with the fields id, `embedding` and the metadata.

    - The field of a column `width` is `metadata_width`, because Milvus cannot filter by `like`, `in`, `null` and more.
    - A batch is one request, which Milvus keeps or loses as a whole. There are no transactions of several requests.
    - An exact search needs the index FLAT, which a new collection has. Milvus has one index for a field: after
      [`create_hnsw`] only searches with `exact=False` are possible.
    - Columns of bytes become hexadecimal digits.

    Args:
        url ([`StoreUrl`]): `milvus://host:19530?collection=photos`, or `milvus:///folder/vectors.db?collection=photos`
            for Milvus Lite; a process that opens it has it until it ends.

    Raises:
        MissingExtra: if the extra `milvus` is not installed.
        ConnectionError: if the server cannot be reached, or another process has the folder open.
        PermissionError: if it refuses the token.
        ValueError: if the collection is there but not made by clip_hf.
    """

    most_candidates = _MOST_RESULTS

    def __init__(self, url: StoreUrl):
        require_extra("milvus", "A store in Milvus", "pymilvus")
        self.name, self._collection = url.name, url.table
        self._options = _client_options(url)
        self.layout, self._is_flat = None, True
        if "host" not in url.connection and not os.path.lexists(url.path):
            return  # Milvus Lite makes a folder that is not there; `create` may
        with self._explained():
            if self._client.has_collection(self._collection):
                properties = self._client.describe_collection(self._collection)["properties"]
                self.layout = StoreLayout.from_json(properties.get(_PROPERTY), f"The collection of {self.name}")
                index = self._client.describe_index(self._collection, EMBEDDING) or {}
                self._is_flat = index.get("index_type") == "FLAT"
                self._client.load_collection(self._collection)

    @cached_property
    def _client(self) -> Any:
        from pymilvus import MilvusClient

        return MilvusClient(**self._options, timeout=_SECONDS)

    @property
    def can_scan(self) -> bool:
        return self._is_flat

    def create(self, layout: StoreLayout) -> None:
        from pymilvus import DataType, MilvusClient

        if layout.dim > _MOST_DIM:
            raise ValueError(f"The vectors have {layout.dim:,} values; Milvus takes {_MOST_DIM:,}.")
        text = {"datatype": DataType.VARCHAR, "max_length": _MOST_TEXT_BYTES}
        types = {
            pa.string(): text,
            pa.binary(): text,
            pa.int64(): {"datatype": DataType.INT64},
            pa.float64(): {"datatype": DataType.DOUBLE},
            pa.bool_(): {"datatype": DataType.BOOL},
            pa.list_(pa.string()): {
                "datatype": DataType.ARRAY,
                "element_type": DataType.VARCHAR,
                "max_capacity": _MOST_ITEMS,
                "max_length": _MOST_TEXT_BYTES,
            },
        }
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(KEY, DataType.VARCHAR, is_primary=True, max_length=32)
        schema.add_field(PLACE, DataType.INT64)
        schema.add_field(DIGEST, DataType.VARCHAR, max_length=32)
        schema.add_field(EMBEDDING, DataType.FLOAT_VECTOR, dim=layout.dim)
        for field in layout.schema:
            name = _field_name(field.name)
            if not (name.isascii() and name.isidentifier() and len(name) <= 255):
                raise ValueError(
                    f"Milvus takes names of letters, digits and _, at most 240; rename the column {field.name!r}."
                )
            schema.add_field(name, nullable=field.name != ID, **types[field.type])
        with self._explained():
            self._client.create_collection(
                self._collection,
                schema=schema,
                index_params=self._index_parameters("FLAT"),
                properties={_PROPERTY: layout.to_json()},
                consistency_level="Strong",
            )
        self.layout = layout

    @staticmethod
    def _index_parameters(kind: str, **parameters: int) -> Any:
        from pymilvus import MilvusClient

        index = MilvusClient.prepare_index_params()
        index.add_index(EMBEDDING, index_name=EMBEDDING, index_type=kind, metric_type="COSINE", params=parameters)
        return index

    def upsert(self, rows: StoreRows) -> None:
        layout = self._made_layout()
        columns = {KEY: rows.keys, PLACE: rows.places, DIGEST: rows.digests, EMBEDDING: list(rows.vectors)}
        for field in layout.schema:
            values = rows.table[field.name].to_pylist()
            if field.type == pa.binary():
                values = [value and value.hex() for value in values]
            _check_texts(field.name, values, rows.ids)
            columns[_field_name(field.name)] = values
        data = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        with self._explained():
            self._client.upsert(self._collection, data, timeout=_SECONDS)

    def delete(self, keys: Sequence[str]) -> None:
        self._made_layout()
        with self._explained():
            self._client.delete(self._collection, ids=list(keys), timeout=_SECONDS)

    def flush(self) -> None:
        with self._explained():
            self._client.flush(self._collection)

    def rows(self) -> Iterator[list[tuple[str, str, int]]]:
        self._made_layout()
        fields = [KEY, DIGEST, PLACE]
        with self._explained():
            iterator = self._client.query_iterator(
                self._collection, batch_size=_MOST_RESULTS // 2, output_fields=fields
            )
        while True:
            with self._explained():
                batch = iterator.next()
            if not batch:
                break
            yield [tuple(row[name] for name in fields) for row in batch]
        iterator.close()

    def __len__(self) -> int:
        if self.layout is None:
            return 0
        with self._explained():
            return self._client.query(self._collection, filter="", output_fields=["count(*)"])[0]["count(*)"]

    def _nearest(
        self, queries: np.ndarray, limit: int, conditions: Sequence[Condition], exact: bool
    ) -> list[Candidates]:
        if exact and not self._is_flat:
            raise ValueError(
                f"{self.name} has an HNSW index, which may miss rows. Search with exact=False, or search the index."
            )
        fields = list(dict.fromkeys([ID, *(condition.column for condition in conditions)]))
        parameters = {} if self._is_flat else {"ef": max(self.ef_search, limit)}
        with self._explained():
            answers = self._client.search(
                self._collection,
                data=list(queries),
                filter=" and ".join(filter(None, map(_milvus_condition, conditions))),
                limit=limit,
                output_fields=[PLACE, EMBEDDING, *map(_field_name, fields)],
                search_params={
                    "metric_type": "COSINE",
                    "params": parameters,
                },
                timeout=_SECONDS,
            )
        return [self._candidates(answer, fields) for answer in answers]

    def _candidates(self, answer: Any, fields: Sequence[str]) -> Candidates:
        rows = [hit["entity"] for hit in answer]
        columns = {}
        for name in fields:
            kind, values = self.layout.schema.field(name).type, [row.get(_field_name(name)) for row in rows]
            if kind == pa.binary():
                values = [value if value is None else bytes.fromhex(value) for value in values]
            columns[name] = pa.array([value if value is None else _plain(value) for value in values], kind)
        vectors = np.array([row[EMBEDDING] for row in rows], np.float32).reshape(len(rows), self.layout.dim)
        return Candidates(
            np.array([hit["distance"] for hit in answer], np.float64),
            [row[ID] for row in rows],
            np.array([row[PLACE] for row in rows], np.int64),
            vectors,
            pa.table(columns),
        )

    def create_hnsw(self, m: int = 16, ef_construction: int = 64) -> None:
        self._made_layout()
        self.flush()
        with self._explained():
            self._client.release_collection(self._collection)
            self._client.drop_index(self._collection, EMBEDDING)
            parameters = self._index_parameters("HNSW", M=m, efConstruction=ef_construction)
            self._client.create_index(self._collection, parameters)
            self._client.load_collection(self._collection)
        self._is_flat = False

    def close(self) -> None:
        if "_client" in self.__dict__:
            with self._explained():
                self._client.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the client as ours, in one line that says what to do; what it logs says the same at length."""
        from pymilvus import MilvusException

        loggers = [logging.getLogger(name) for name in ("pymilvus", "milvus_lite", "grpc._server")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        except MilvusException as error:
            message = " ".join(str(error.message).split())
            kind, cure = OSError, "Look into the server's log."
            if "Open local milvus failed" in message:
                kind, cure = ConnectionError, "Another process has it open, or it is no folder, or cannot be written."
            elif any(word in message.lower() for word in ("auth check", "unauthenticated", "permission")):
                kind, cure = PermissionError, "Check MILVUS_TOKEN, and the rights of its user."
            elif "connect" in message.lower() or "unavailable" in message.lower():
                kind = ConnectionError
                cure = "Check that the server runs and the address. What it confirmed stays; run again to go on."
            raise kind(f"{self.name}: {message}. {cure}") from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _client_options(url: StoreUrl) -> dict[str, str]:
    connection = dict(url.connection)
    host, port = connection.pop("host", None), connection.pop("port", "19530")
    tls, database = connection.pop("tls", "false"), connection.pop("database", "")
    user, password = connection.pop("user", ""), connection.pop("password", "")
    if connection or tls not in ("true", "false"):
        unknown = ", ".join(connection) or f"tls={tls}"
        raise ValueError(f"The address {url.name} has {unknown}; allowed are collection, database and tls=true.")
    if host is None:
        if Path(url.path).suffix != ".db":
            raise ValueError(
                f"The address {url.name} has no host and no folder that ends in .db. Write {FORMS['milvus']}."
            )
        if not Path(url.path).parent.is_dir():
            raise ValueError(f"There is no folder {Path(url.path).parent}, where {url.name} would lie. Make it first.")
        return {"uri": url.path}
    if url.path.strip("/"):
        raise ValueError(f"The address {url.name} has a path behind its host. Write {FORMS['milvus']}.")
    token = f"{user}:{password}" if user else os.environ.get("MILVUS_TOKEN", "")
    return {"uri": f"http{'s' if tls == 'true' else ''}://{host}:{port}", "token": token, "db_name": database}


def _field_name(column: str) -> str:
    """The field of a column of the index; whatever the column is called, it is no word of Milvus' expressions."""
    return column if column == ID else f"metadata_{column}"


def _check_texts(name: str, values: Sequence[Any], ids: Sequence[int | str]) -> None:
    for row_id, value in zip(ids, values, strict=True):
        items = value if isinstance(value, list) else [value]
        if isinstance(value, list) and (len(items) > _MOST_ITEMS or None in items):
            raise ValueError(
                f"The {name} of row {row_id!r} has more than {_MOST_ITEMS:,} texts, or one that is missing."
            )
        if any(isinstance(item, str) and len(item.encode()) > _MOST_TEXT_BYTES for item in items):
            raise ValueError(
                f"The {name} of row {str(row_id)[:80]!r} has over {_MOST_TEXT_BYTES:,} bytes, too many for Milvus. "
                "Shorten it, or leave the column out."
            )


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | bytes | int | float) else list(value)


def _milvus_condition(condition: Condition) -> str:
    """A condition in Milvus' language; empty where it has none, because the search applies filters itself."""
    name, sign, value = _field_name(condition.column), condition.sign, condition.value
    if condition.is_list:
        test = f"array_contains({name}, {_literal(value)})"
        return {"=": test, "!=": f"not {test}"}.get(sign, "")
    if sign == "~":
        return f"{name} like {_literal(value)}"
    if isinstance(value, bool) and sign not in ("=", "!="):
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    if isinstance(value, bytes):
        value = value.hex()
    return f"{name} {'==' if sign == '=' else sign} {_literal(value)}"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return repr(value)
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        value = value.replace(character, escape)
    return f'"{value}"'
