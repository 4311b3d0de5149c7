# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Vectors in PostgreSQL, with the extension pgvector."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pyarrow as pa
from transformers.utils import logging

from ..utils.extras import require_extra
from .index_segments import ID
from .store_base import DIGEST, EMBEDDING, KEY, PLACE, Candidates, StoreLayout, StoreRows, VectorStore, row_key
from .store_filters import Condition
from .store_urls import StoreUrl


logger = logging.get_logger(__name__)

EXTENSION = "vector"
_TYPES = {
    pa.string(): ("text", ' COLLATE "C"'),  # compares bytes, as filters on the index do
    pa.int64(): ("int8", ""),
    pa.float64(): ("float8", ""),
    pa.bool_(): ("bool", ""),
    pa.binary(): ("bytea", ""),
    pa.list_(pa.string()): ("text[]", ' COLLATE "C"'),
}
_MOST_DIM = 16_000  # of pgvector's type vector
_MOST_HNSW_DIM = 2_000
_MOST_EF_SEARCH = 1_000
_CONNECT_SECONDS = 10


class PgVectorStore(VectorStore):
    """A table of PostgreSQL with the columns id, `embedding` (pgvector's `vector`) and the metadata.

    - Each call of [`upsert`] and [`delete`] is one transaction, and so is [`create`].
    - A copy holds an advisory lock of the table's name; another one waits for it.
    - An exact search is a scan of the table, which PostgreSQL may share among its processes.

    Args:
        url ([`StoreUrl`]): `postgresql://user@host:port/database?table=photos`; the password from `PGPASSWORD` or
            `~/.pgpass`, further parameters as libpq has them (`sslmode=require`).

    Raises:
        MissingExtra: if the extra `postgres` is not installed.
        ConnectionError: if the server cannot be reached.
        PermissionError: if it refuses the user.
        ValueError: if the table is there but not made by clip_hf.
    """

    def __init__(self, url: StoreUrl):
        require_extra("postgres", "A store in PostgreSQL", "psycopg", "pgvector")
        import psycopg
        from psycopg import conninfo, sql

        self.name, self._table_name = url.name, url.table
        self._table = sql.Identifier(url.table)
        options = {"connect_timeout": _CONNECT_SECONDS, "application_name": "clip_hf", "dbname": url.path.strip("/")}
        options |= url.connection
        with self._explained():
            # `make_conninfo` takes libpq's parameters alone; those of psycopg are for programs.
            self._connection = psycopg.connect(conninfo.make_conninfo(**options), autocommit=True)
        try:
            self.layout = self._read_layout()
        except BaseException:
            self.close()
            raise

    def _read_layout(self) -> StoreLayout | None:
        with self._explained():
            found = self._connection.execute(
                "SELECT obj_description(to_regclass(%s), 'pg_class') FROM to_regclass(%s) AS t WHERE t IS NOT NULL",
                [f'"{self._table_name}"'] * 2,
            ).fetchone()
        if found is None:
            return None
        layout = StoreLayout.from_json(found[0], f"The table of {self.name}")
        self._register()
        return layout

    def _register(self) -> None:
        from pgvector.psycopg import register_vector

        with self._explained():
            register_vector(self._connection)

    def create(self, layout: StoreLayout) -> None:
        from psycopg import sql

        if layout.dim > _MOST_DIM:
            raise ValueError(f"The vectors have {layout.dim:,} values; pgvector takes {_MOST_DIM:,}.")
        columns = []
        for field in layout.schema:
            if not 1 <= len(field.name.encode()) <= 63 or "\0" in field.name:
                raise ValueError(f"PostgreSQL takes names of 1 to 63 bytes; rename the column {field.name!r}.")
            kind, collation = _TYPES[field.type]
            columns.append(sql.SQL("{} {}{}").format(sql.Identifier(field.name), sql.SQL(kind), sql.SQL(collation)))
        own = f'{KEY} text COLLATE "C" PRIMARY KEY, {PLACE} int8 NOT NULL, {DIGEST} text NOT NULL'
        own += f", {EMBEDDING} vector({layout.dim}) NOT NULL"
        with self._explained("GRANT this user CREATE on the schema."), self._connection.transaction():
            with self._explained(f"An administrator must run CREATE EXTENSION {EXTENSION} once in this database."):
                extension = sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(EXTENSION))
                self._connection.execute(extension)
            statements = [
                # Vectors lie in the rows, not in a second table that a scan would look into for each of them.
                "CREATE TABLE {table} ({own}, {columns}) WITH (toast_tuple_target = 8160)",
                "COMMENT ON TABLE {table} IS {comment}",
            ]
            for statement in statements:
                self._connection.execute(
                    sql.SQL(statement).format(
                        table=self._table,
                        own=sql.SQL(own),
                        columns=sql.SQL(", ").join(columns),
                        comment=sql.Literal(layout.to_json()),
                    )
                )
        self._register()
        self.layout = layout

    @contextmanager
    def writing(self) -> Iterator[None]:
        import psycopg

        lock = [int(row_key(self._table_name)[:16], 16) - 2**63]
        with self._explained():
            if not self._connection.execute("SELECT pg_try_advisory_lock(%s)", lock).fetchone()[0]:
                logger.warning(f"Another program copies an index into {self.name}; waiting for it.")
                self._connection.execute("SELECT pg_advisory_lock(%s)", lock)
        try:
            self.layout = self._read_layout()  # the other one may have made the table
            yield
        finally:
            with suppress(psycopg.Error):  # a connection that is lost has no locks
                self._connection.execute("SELECT pg_advisory_unlock(%s)", lock)

    def upsert(self, rows: StoreRows) -> None:
        from psycopg import sql

        layout = self._made_layout()
        names = [KEY, PLACE, DIGEST, EMBEDDING, *layout.schema.names]
        types = ["text", "int8", "text", "vector", *(_TYPES[field.type][0] for field in layout.schema)]
        metadata = {name: rows.table[name].to_pylist() for name in layout.schema.names}
        _refuse_nul(metadata)
        copy = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
            self._table, sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with self._explained(), self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(self._delete(), [rows.keys])
            with cursor.copy(copy) as writer:
                writer.set_types(types)
                own = rows.keys, rows.places, rows.digests, rows.vectors
                for row in zip(*own, *metadata.values(), strict=True):
                    writer.write_row(row)

    def _delete(self) -> Any:
        from psycopg import sql

        return sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(self._table, sql.Identifier(KEY))

    def delete(self, keys: Sequence[str]) -> None:
        self._made_layout()
        with self._explained(), self._connection.transaction():
            self._connection.execute(self._delete(), [list(keys)])

    def flush(self) -> None:
        from psycopg import sql

        with self._explained():
            self._connection.execute(sql.SQL("ANALYZE {}").format(self._table))

    def rows(self) -> Iterator[list[tuple[str, str, int]]]:
        from psycopg import sql

        self._made_layout()
        query = sql.SQL(f"SELECT {KEY}, {DIGEST}, {PLACE} FROM {{}}").format(self._table)
        # A cursor of the server, so that memory holds one batch.
        with self._explained(), self._connection.transaction(), self._connection.cursor("rows") as cursor:
            cursor.execute(query)
            while batch := cursor.fetchmany(10_000):
                yield batch

    def __len__(self) -> int:
        from psycopg import sql

        if self.layout is None:
            return 0
        with self._explained():
            return self._connection.execute(sql.SQL("SELECT count(*) FROM {}").format(self._table)).fetchone()[0]

    def _nearest(
        self, queries: np.ndarray, limit: int, conditions: Sequence[Condition], exact: bool
    ) -> list[Candidates]:
        from psycopg import sql

        fields = list(dict.fromkeys(condition.column for condition in conditions))
        parts, values = zip(*map(_sql_condition, conditions), strict=True) if conditions else ((), ())
        statement = sql.SQL(
            "SELECT {embedding} <=> %b, {own}{columns} FROM {table}{where} ORDER BY 1 LIMIT %s"
        ).format(
            embedding=sql.Identifier(EMBEDDING),
            own=sql.SQL(", ").join(map(sql.Identifier, (ID, PLACE, EMBEDDING))),
            columns=sql.SQL("").join(sql.SQL(", {}").format(_identifier(name)) for name in fields),
            table=self._table,
            where=sql.SQL(" WHERE " if parts else "") + sql.SQL(" AND ").join(parts),
        )
        answers = []
        with self._explained(), self._connection.transaction(), self._connection.cursor(binary=True) as cursor:
            if exact:
                cursor.execute("SET LOCAL enable_indexscan = off")
            else:
                ef_search = min(_MOST_EF_SEARCH, max(self.ef_search, limit))
                cursor.execute(sql.SQL("SET LOCAL hnsw.ef_search = {}").format(sql.Literal(ef_search)))
            for query in queries:
                # A prepared plan would keep the index scan that another search was allowed.
                found = cursor.execute(statement, [query, *values, limit], prepare=False).fetchall()
                distances, ids, places, vectors, *columns = zip(*found, strict=True) if found else ((), (), (), ())
                schema = self.layout.schema
                table = {
                    name: pa.array(columns[number] if found else (), schema.field(name).type)
                    for number, name in enumerate(fields)
                }
                answers.append(
                    Candidates(
                        1 - np.array(distances, np.float64),
                        ids,
                        np.array(places, np.int64),
                        np.array([vector.to_numpy() for vector in vectors]).reshape(-1, self.layout.dim),
                        pa.table(table),
                    )
                )
        return answers

    def create_hnsw(self, m: int = 16, ef_construction: int = 64) -> None:
        from psycopg import sql

        layout = self._made_layout()
        if layout.dim > _MOST_HNSW_DIM:
            raise ValueError(f"The vectors have {layout.dim:,} values; pgvector indexes at most {_MOST_HNSW_DIM:,}.")
        name = f"{self._table_name[:40]}_{row_key(self._table_name)[:8]}_hnsw"  # at most 63 bytes
        with self._explained(), self._connection.transaction():
            self._connection.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(name)))
            self._connection.execute(
                sql.SQL(
                    "CREATE INDEX {} ON {} USING hnsw ({} vector_cosine_ops) WITH (m = {}, ef_construction = {})"
                ).format(
                    sql.Identifier(name),
                    self._table,
                    sql.Identifier(EMBEDDING),
                    sql.Literal(m),
                    sql.Literal(ef_construction),
                )
            )

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _explained(self, cure_if_denied: str = "GRANT this user the rights on the table.") -> Iterator[None]:
        """Errors of the driver as ours, in one line that says what to do."""
        import psycopg
        from psycopg import errors

        try:
            yield
        except psycopg.Error as error:
            message = " ".join(str(error).split())
            kind, cure = OSError, "Look into the server's log."
            if isinstance(error, errors.InsufficientPrivilege):
                kind, cure = PermissionError, cure_if_denied
            elif isinstance(error, errors.DuplicateColumn | errors.TooManyColumns):
                kind, cure = ValueError, "Rename such columns of the index, or leave them out."
            elif isinstance(error, errors.UndefinedColumn | errors.UndefinedTable):
                kind, cure = ValueError, "Another program changed the table. Remove it, and copy the index again."
            elif EXTENSION in message and isinstance(error, errors.UndefinedFile | errors.FeatureNotSupported):
                cure = "Install pgvector on the server: https://github.com/pgvector/pgvector."
            elif isinstance(error, errors.UniqueViolation):
                cure = "Another program writes to this table. Run again when it is done."
            elif isinstance(error, errors.InvalidPassword | errors.InvalidAuthorizationSpecification) or (
                "authentication failed" in message or "no password supplied" in message
            ):
                kind, cure = PermissionError, "Check the user, and the password in PGPASSWORD or ~/.pgpass."
            elif isinstance(error, psycopg.OperationalError) and "does not exist" in message:
                kind, cure = ConnectionError, "The server runs; check the database and the user in the address."
            elif isinstance(error, psycopg.OperationalError):
                kind = ConnectionError
                cure = "Check that the server runs and the address. What was committed stays; run again to go on."
            elif isinstance(error, psycopg.ProgrammingError) and not error.sqlstate:
                kind, cure = ValueError, "Check the address."
            stop = "" if message.endswith((".", "?")) else "."
            raise kind(f"{self.name}: {message}{stop} {cure}") from error


def _identifier(name: str) -> Any:
    """A column in a statement with parameters, which begin with %."""
    from psycopg import sql

    return sql.Identifier(name.replace("%", "%%"))


def _sql_condition(condition: Condition) -> tuple[Any, Any]:
    from psycopg import sql

    column = _identifier(condition.column)
    if condition.is_list:
        test = {
            "=": "%s = ANY({})",
            "!=": "NOT (%s = ANY({}))",
            "~": "EXISTS (SELECT 1 FROM unnest({}) AS _item WHERE _item LIKE %s)",
        }[condition.sign]
        return sql.SQL(test).format(column), condition.value
    sign, value = {"~": "LIKE", "!=": "<>"}.get(condition.sign, condition.sign), condition.value
    if sign == "<>" and value != value:
        sign, value = ">=", -math.inf  # all numbers differ from NaN; in PostgreSQL it equals itself, and is above all
    return sql.SQL(f"{{}} {sign} %s").format(column), value


def _refuse_nul(columns: dict[str, list]) -> None:
    for name, values in columns.items():
        for row_id, value in zip(columns[ID], values, strict=True):
            texts = value if isinstance(value, list) else [value]
            if any(isinstance(text, str) and "\0" in text for text in texts):
                raise ValueError(
                    f"The column {name!r} of row {row_id!r} has a NUL character, which PostgreSQL does not take. "
                    "Remove it."
                )
