# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Stores give what the index gives, hold what it holds, and survive being killed."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from milvus_lite.server_manager import server_manager_instance
from store_servers import PASSWORD_USER, PostgresServer, fork, wait_until

from clip_hf.search import EmbeddingIndex, VectorStore, open_store, parse_filters, pgvector_store, sync_store
from clip_hf.search.store_base import RESERVED, row_key
from clip_hf.search.store_urls import StoreUrl


DIM = 24
MODEL = {"model": {"name": "tiny", "fingerprint": "1111"}}
HOSTILE = [
    "'; DROP TABLE photos; --",
    'a"b',
    "new\nline",
    "tab\t",
    "back\\slash",
    "100%",
    "a_b",
    "😀 é",
    "",
    "{x}",
]
COLUMNS = pa.schema(
    {
        "name": pa.string(),
        "path": pa.binary(),
        "width": pa.int32(),
        "score": pa.float32(),
        "is_drawn": pa.bool_(),
        "captions": pa.list_(pa.string()),
        "label": pa.dictionary(pa.int32(), pa.string()),
    }
)
numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests."""
    server = PostgresServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def milvus_folder(tmp_path_factory) -> str:
    """The folder of Milvus Lite; it starts in this process with the first client."""
    return str(tmp_path_factory.mktemp("milvus") / "vectors.db")


@pytest.fixture(params=["postgresql", "milvus"])
def url(request) -> str:
    """The address of a table that is not there yet."""
    table = f"photos{next(numbers)}"
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").url(table)
    return f"milvus://{request.getfixturevalue('milvus_folder')}?collection={table}"


@pytest.fixture
def store(url) -> Iterator[VectorStore]:
    """A store that is not there yet."""
    with open_store(url) as store:
        yield store


def random_rows(count: int, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, dim)).astype(np.float32)


def metadata(count: int) -> pa.Table:
    """Values of each type, hostile texts and missing values among them."""
    texts = list(itertools.islice(itertools.cycle(HOSTILE), count))
    columns = [
        [f"holiday/{text}{number}.jpg" if number % 5 else None for number, text in enumerate(texts)],
        [b"\xff\0" + text.encode() for text in texts],
        [number % 100 if number % 3 else None for number in range(count)],
        [number / 7 - 5 for number in range(count)],
        [number % 2 == 0 for number in range(count)],
        [[text, "a dog"][: number % 3] for number, text in enumerate(texts)],
        texts,
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, COLUMNS, strict=True)]
    return pa.table(arrays, schema=COLUMNS)


def build(folder, vectors: np.ndarray, **options) -> EmbeddingIndex:
    return EmbeddingIndex.build(folder, vectors, **{"description": MODEL} | options)


def sync(index: EmbeddingIndex, store: VectorStore, **options) -> tuple[int, int, int, int]:
    done = sync_store(index, store, progress=False, **options)
    assert done.seconds > 0
    return done.added, done.changed, done.removed, done.unchanged


def check_same(index: EmbeddingIndex, store: VectorStore, queries: np.ndarray, k: int = 10, filters=()) -> np.ndarray:
    """Assert that a store gives the index's scores and ids to the last bit; returns the ids."""
    scores, ids = index.search(queries, k, where=parse_filters(filters, index.filter_columns))
    found_scores, found_ids = store.search(queries, k, filters=filters)
    assert found_ids.tolist() == ids.tolist()
    assert found_scores.tolist() == scores.tolist()
    assert (found_ids.dtype, found_scores.dtype) == (ids.dtype, scores.dtype)
    return ids


def remember_upserts(store: VectorStore, monkeypatch) -> list:
    """The ids of all rows that will be sent."""
    sent, upsert = [], store.upsert

    def upsert_and_remember(rows):
        upsert(rows)
        sent.extend(rows.ids)

    monkeypatch.setattr(store, "upsert", upsert_and_remember)
    return sent


# ------------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("dtype", [pytest.param("float16", marks=pytest.mark.slow), "float32"])
def test_results_are_the_indexs_with_ties_and_near_ties(store, tmp_path, dtype):
    vectors = random_rows(1500)
    rng = np.random.default_rng(1)
    vectors[100:160] = vectors[0]  # ties, more than a search asks for at first
    noise = 1 + 1e-7 * rng.standard_normal((200, DIM))
    vectors[300:500] = vectors[1] * noise  # nearer to each other than float32 tells apart
    vectors *= 2.0 ** rng.integers(-9, 9, (1500, 1))
    index = build(tmp_path / "index", vectors, dtype=dtype)
    index.remove([0, 120, 310])
    assert sync(index, store, batch_rows=400) == (1497, 0, 0, 0)
    assert len(store) == 1497
    queries = np.concatenate([vectors[:2], random_rows(3)])
    for k in (1, 10, 230):
        ids = check_same(index, store, queries, k)
    assert ids[0, :3].tolist() == [100, 101, 102]
    check_same(index, store, queries[0])
    assert store.search(queries[:0])[1].shape == (0, 0)
    assert check_same(index, store, queries[:1], 2000).shape == (1, 1497)


FILTERS = [
    ["width>=50"],
    ["width!=7", "width<60"],
    ["score<=1.5"],
    ["is_drawn=true"],
    ["is_drawn!=true", "score>0"],
    ["name~holiday/*1.jpg"],
    ["name~holiday/?%*"],
    ["name~*[!a-z]line*"],
    ["name~*back\\slash*"],
    ['name~*a"b*'],
    ["name~*new\nline*"],
    ["captions=a dog"],
    ["captions!=a dog"],
    ["captions~*[%é]*"],
    ["id>=100", "id<140"],
    ["width>1000"],
    ["score>nan"],
    *([f"label={text}"] for text in HOSTILE),
    *([f"label>{text}"] for text in HOSTILE[:3]),
]


def test_filters_are_those_of_the_index(store, tmp_path):
    index = build(tmp_path / "index", random_rows(600), metadata=metadata(600))
    sync(index, store)
    queries = random_rows(2)
    for filters in FILTERS:
        check_same(index, store, queries, 5, filters)
    assert check_same(index, store, queries, 50, ["id>=100", "id<140"]).shape == (2, 40)
    assert check_same(index, store, queries, 50, ["width>1000"]).shape == (2, 0)
    with pytest.raises(ValueError, match="Did you mean 'width'"):
        store.search(queries, filters=["widht>5"])


@pytest.mark.parametrize("path_filter", ["path=a", "path>a"])
def test_filters_on_bytes(store, tmp_path, path_filter):
    table = pa.table({"path": pa.array([b"a", b"b", b"\xff", None, b""] * 10, pa.binary())})
    index = build(tmp_path / "index", random_rows(50), metadata=table)
    sync(index, store)
    assert check_same(index, store, random_rows(2), 50, [path_filter]).size


def test_filters_on_nan_and_infinity(store, tmp_path):
    table = pa.table({"score": pa.array([np.nan, 1.0, None, np.inf, -np.inf, -0.0] * 5, pa.float64())})
    index = build(tmp_path / "index", random_rows(30), metadata=table)
    sync(index, store)
    for sign, value in itertools.product(("=", "!=", "<", "<=", ">", ">="), ("nan", "inf", "-inf", "0")):
        check_same(index, store, random_rows(1), 30, [f"score{sign}{value}"])
    assert check_same(index, store, random_rows(1), 30, ["score!=nan"]).size == 25


def test_columns_may_have_names_that_databases_use(store, tmp_path):
    words = (
        "like LIKE null in is and or not true false exists select count _distance _item metadata_like array_contains"
    )
    names = [*words.split(), *(["a%b", "%s", 'a"b', "a b", "é"] if "postgresql" in store.name else [])]
    table = pa.table({name: np.arange(40) for name in names} | {f"{name}s": [["a"], ["b"]] * 20 for name in names})
    index = build(tmp_path / "index", random_rows(40), metadata=table)
    sync(index, store)
    for name in names:
        assert check_same(index, store, random_rows(1), 40, [f"{name}>=30"]).shape == (1, 10)
        for filters in ([f"{name}s=a"], [f"{name}s~a*", f"{name}!=7"]):
            assert check_same(index, store, random_rows(1), 40, filters).shape == (1, 20)


def test_hostile_ids_and_texts_come_back_as_they_are(store, tmp_path):
    ids = [*HOSTILE, "x" * 3000]
    index = build(tmp_path / "index", random_rows(len(ids)), ids=ids, metadata=metadata(len(ids)))
    assert sync(index, store) == (len(ids), 0, 0, 0)
    assert sorted(check_same(index, store, random_rows(1), 50)[0].tolist()) == sorted(ids)
    assert set(store.keys()) == set(map(row_key, ids))
    index.remove([HOSTILE[0], HOSTILE[1]])
    assert sync(index, store) == (0, 0, 2, len(ids) - 2)
    check_same(index, store, random_rows(1), 50)


# ------------------------------------------------------------------------------------------------------------ the copy


def test_only_changes_are_sent(store, tmp_path, monkeypatch):
    vectors, table = random_rows(300), metadata(300)
    index = build(tmp_path / "index", vectors, metadata=table)
    assert sync(index, store, batch_rows=64) == (300, 0, 0, 0)
    sent = remember_upserts(store, monkeypatch)
    assert sync(index, store, batch_rows=64) == (0, 0, 0, 300)
    # The last row keeps its place in the order, so only what it holds tells that it changed.
    for sign, name in ((-1, "same"), (-1, "newer name"), (1, "newer name")):
        last = table.slice(299, 1).set_column(0, "name", pa.array([name]))
        index.change(remove=[299], add=(sign * vectors[299:], [299], last))
        assert sync(index, store, batch_rows=64) == (0, 1, 0, 299)
    check_same(index, store, vectors[299:], 20, ["name=newer name"])
    edited = table.slice(10, 2).set_column(0, "name", pa.array(["new name", None]))
    index.change(remove=[5, 10, 11], add=(-vectors[[5]], [5], table.slice(5, 1)))  # another picture
    index.add(vectors[[10, 11]], [10, 11], edited)  # other metadata
    index.change(remove=[20, 299], add=(vectors[:1], [1000], table.slice(20, 1)))
    assert sync(index, store, batch_rows=64) == (1, 3, 2, 295)
    assert sent == [299, 299, 299, 5, 10, 11, 1000]
    assert len(store) == len(index) == 299
    check_same(index, store, vectors[[0, 5, 10]], 20)
    check_same(index, store, vectors[[0, 5, 10]], 20, ["name=new name"])
    index.compact()
    assert sync(index, store) == (0, 0, 0, 299)


def test_order_of_ties_follows_the_index(store, tmp_path):
    vectors = np.repeat(random_rows(1), 30, axis=0)
    index = build(tmp_path / "index", vectors)
    sync(index, store)
    index.change(remove=[3], add=(vectors[:1], [3], None))
    assert sync(index, store) == (0, 1, 0, 29)
    assert check_same(index, store, vectors[0], 30)[-1] == 3


def test_an_interrupted_copy_goes_on(store, tmp_path, monkeypatch):
    index = build(tmp_path / "index", random_rows(300))
    with monkeypatch.context() as patch:
        upsert = store.upsert
        patch.setattr(store, "upsert", lambda rows: upsert(rows) if rows.ids[0] < 128 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sync(index, store, batch_rows=64)
    assert len(store) == 128
    assert sync(index, store, batch_rows=64) == (172, 0, 0, 128)
    check_same(index, store, random_rows(3))


def test_an_index_without_rows(store, tmp_path):
    with pytest.raises(ValueError, match="is not there yet.*sync_store"):
        store.search(random_rows(1))
    assert (len(store), store.description) == (0, None)
    index = EmbeddingIndex.create(tmp_path / "index", DIM, id_type=str, columns=COLUMNS, description=MODEL)
    assert sync(index, store) == (0, 0, 0, 0)
    assert store.description == MODEL
    check_same(index, store, random_rows(2), 5, ["width>3"])
    index.add(random_rows(3), list("abc"), metadata(3))
    assert sync(index, store) == (3, 0, 0, 0)
    index.remove(list("abc"))
    assert sync(index, store) == (0, 0, 3, 0)
    check_same(index, store, random_rows(2))


def test_a_store_opens_again(url, tmp_path):
    index = build(tmp_path / "index", random_rows(50), metadata=metadata(50))
    with open_store(url) as store:
        sync(index, store)
    with open_store(url) as store:
        assert store.description == MODEL
        assert sync(index, store) == (0, 0, 0, 50)
        check_same(index, store, random_rows(3), 5, ["width>3"])


@pytest.mark.parametrize(
    ("dim", "options", "message"),
    [
        (DIM, {"description": {"model": {"name": "large", "fingerprint": "2222"}}}, r"tiny \(1111\).*large \(2222\)"),
        (DIM, {"description": {}}, r"tiny \(1111\), and the index those of without a name"),
        (DIM + 1, {}, "has vectors of 24 values, and the index vectors of 25"),
        (DIM, {"ids": list("abc")}, "ids of type int, and the index ids of type str"),
        (
            DIM,
            {"metadata": pa.table({"width": [1, 2, 3]})},
            r"columns none, and the index the columns width",
        ),
    ],
)
def test_another_index_is_refused(store, tmp_path, dim, options, message):
    sync(build(tmp_path / "index", random_rows(3)), store)
    with pytest.raises(ValueError, match=message):
        sync(build(tmp_path / "other", random_rows(3, dim), **options), store)
    assert len(store) == 3


@pytest.mark.parametrize(
    ("first", "second", "are_same"),
    [
        ({"location": "/photos", "kind": "folder"}, {"location": "/photos", "kind": "folder", "stamp": "2"}, True),
        ({"location": "/photos"}, {"location": "/films"}, False),
        ("/photos", "/films\x1b[31m", False),
        ({"location": None}, {}, False),  # then the folders of the indexes tell
    ],
)
def test_a_store_has_the_rows_of_one_source(store, tmp_path, first, second, are_same):
    indexes = [
        build(tmp_path / f"index{number}", random_rows(3 + number), description=MODEL | {"source": source})
        for number, source in enumerate((first, second))
    ]
    sync(indexes[0], store)
    assert sync(indexes[0], store) == (0, 0, 0, 3)
    if are_same:
        sync(indexes[1], store)
        return
    with pytest.raises(ValueError, match="holds the rows of .*, and the index is of .*remove that one") as caught:
        sync(indexes[1], store)
    places = ("/photos", "/films") if first and "photos" in str(first) else [index.folder for index in indexes]
    assert all(str(place) in str(caught.value) for place in places) and "\x1b" not in str(caught.value)
    assert len(store) == 3


def test_models_without_a_fingerprint_differ_by_name(store, tmp_path):
    sync(build(tmp_path / "index", random_rows(3), description={"model": "one"}), store)
    with pytest.raises(ValueError, match=r"the model one.*those of two"):
        sync(build(tmp_path / "other", random_rows(3), description={"model": {"name": "two"}}), store)


def test_what_clip_hf_did_not_make_is_refused(url, postgres):
    table = StoreUrl.parse(url).table
    if url.startswith("milvus"):
        from pymilvus import MilvusClient

        MilvusClient(StoreUrl.parse(url).path).create_collection(table, dimension=4)
    else:
        postgres.run(f"CREATE TABLE {table} (id int)")
    with pytest.raises(ValueError, match="exists, but clip_hf.*did not make it"):
        open_store(url)


@pytest.mark.parametrize(
    ("queries", "k", "error", "message"),
    [
        (np.ones(DIM + 1), 10, ValueError, r"shape \(25,\)"),
        (np.zeros((1, DIM)), 10, ValueError, "query 0 is all zeros"),
        (np.full((1, DIM), np.nan), 10, ValueError, "query 0 holds NaN"),
        (np.ones(DIM, int), 10, TypeError, "floating-point"),
        (np.ones(DIM), 0, ValueError, "`k` is 0"),
        (np.ones(DIM), True, TypeError, "`k` is True"),
    ],
)
def test_bad_queries_are_refused(store, tmp_path, queries, k, error, message):
    sync(build(tmp_path / "index", random_rows(3)), store)
    with pytest.raises(error, match=message):
        store.search(queries, k)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"taken": pa.timestamp("ms")}, r"'taken' has the type timestamp\[ms\].*Allowed: string, int64"),
        *(({name: pa.int64()}, f"A store uses '{name}' for itself") for name in RESERVED),
    ],
)
def test_columns_that_do_not_fit_are_refused(store, tmp_path, columns, message):
    index = EmbeddingIndex.create(tmp_path / "index", DIM, columns=pa.schema(columns))
    with pytest.raises(ValueError, match=message):
        sync(index, store)
    assert store.layout is None


def test_approximate_search(store, tmp_path):
    index = build(tmp_path / "index", random_rows(1000), metadata=metadata(1000))
    sync(index, store)
    store.create_hnsw(m=8, ef_construction=32)
    queries = random_rows(20)
    scores, ids = index.search(queries, 10)
    store.ef_search = 200
    found_scores, found = store.search(queries, 10, exact=False)
    overlap = [len(set(ours) & set(theirs)) for ours, theirs in zip(ids, found, strict=True)]
    assert found.shape == (20, 10) and np.mean(overlap) > 9
    assert np.array_equal(found_scores[found == ids], scores[found == ids])
    # Five rows fit: fewer than an HNSW search looks at.
    few = store.search(queries, 10, filters=["id<5"], exact=False)[1]
    assert sorted(few[0].tolist()) == [0, 1, 2, 3, 4]
    store.create_hnsw()  # replaces the other


# ---------------------------------------------------------------------------------------------------------- PostgreSQL


def synced_postgres(postgres, tmp_path, count: int = 100, **options) -> tuple[EmbeddingIndex, str]:
    url = postgres.url(f"photos{next(numbers)}")
    index = build(tmp_path / "index", random_rows(count), **options)
    with open_store(url) as store:
        sync(index, store)
    return index, url


def test_an_exact_search_does_not_use_hnsw(postgres, tmp_path):
    vectors = random_rows(3000)
    index = build(tmp_path / "index", vectors)
    with open_store(postgres.url("exact")) as store:
        sync(index, store)
        store.create_hnsw(m=2, ef_construction=4)
        store.ef_search = 1
        queries = random_rows(30)
        assert not np.array_equal(store.search(queries, exact=False)[1], index.search(queries)[1])
        check_same(index, store, queries)


def test_tables_of_similar_names_have_their_own_hnsw(postgres, tmp_path):
    index = build(tmp_path / "index", random_rows(5))
    for table in ("t" * 62 + "1", "t" * 62 + "2"):
        with open_store(postgres.url(table)) as store:
            sync(index, store)
            store.create_hnsw()
    assert postgres.run("SELECT count(*) FROM pg_indexes WHERE indexname LIKE 'ttt%hnsw'") == [(2,)]


def test_nul_is_named_and_nothing_is_written(postgres, tmp_path):
    table = pa.table({"caption": ["a", "b\0c", "d"]})
    index = build(tmp_path / "index", random_rows(3), metadata=table)
    with open_store(postgres.url("nul")) as store:
        with pytest.raises(ValueError, match="'caption' of row 1 has a NUL character"):
            sync(index, store)
        assert len(store) == 0


def test_wrong_users_are_told_what_to_do(postgres, monkeypatch, tmp_path):
    monkeypatch.setenv("PGPASSWORD", "wr0ng")
    url = postgres.url("photos", PASSWORD_USER)
    with pytest.raises(PermissionError, match="Check the user, and the password in PGPASSWORD") as caught:
        open_store(url)
    with pytest.raises(PermissionError) as caught_too:
        open_store(url.replace("@", ":wr0ng@"))
    for message in (str(caught.value), str(caught_too.value)):
        assert "wr0ng" not in message and "\n" not in message


def test_missing_rights_are_named(postgres, tmp_path):
    index, url = synced_postgres(postgres, tmp_path)
    postgres.run("CREATE DATABASE bare")
    for address, cure in (
        (postgres.url("photos", "guest"), "GRANT this user CREATE on the schema"),
        (postgres.url("photos", "guest", "bare"), "An administrator must run CREATE EXTENSION vector once"),
        (url.replace("postgres@", "guest@"), "GRANT this user the rights on the table"),
    ):
        with open_store(address) as store, pytest.raises(PermissionError, match=f"permission denied.*{cure}[^.]*[.]$"):
            sync(index, store)


@pytest.mark.parametrize("options", [{"database": "no_such_database"}, {"user": "nobody"}])
def test_a_database_or_user_that_is_not_there_is_named(postgres, options):
    with pytest.raises(ConnectionError, match="does not exist. The server runs; check the database and the") as caught:
        open_store(postgres.url("photos", **options))
    assert isinstance(caught.value.__cause__, psycopg.Error)


@pytest.mark.parametrize(("column", "message"), [("xmin", "system column.*Rename such"), ("", "1 to 63 bytes")])
def test_columns_that_postgresql_refuses_are_named(postgres, tmp_path, column, message):
    index = EmbeddingIndex.create(tmp_path / "index", DIM, columns=pa.schema({column: pa.int64()}))
    with open_store(postgres.url("refused")) as store, pytest.raises(ValueError, match=message):
        sync(index, store)


def test_a_table_that_was_changed_is_refused(postgres, tmp_path):
    index, url = synced_postgres(postgres, tmp_path)
    postgres.run(f"ALTER TABLE {StoreUrl.parse(url).table} DROP COLUMN _digest")
    with (
        open_store(url) as store,
        pytest.raises(ValueError, match="Another program changed the table. Remove it"),
    ):
        sync(index, store)


def test_a_second_copy_waits_for_the_first(postgres, tmp_path):
    index, url = build(tmp_path / "index", random_rows(50)), postgres.url("together")
    results = []
    with open_store(url) as first, open_store(url) as second:
        with first.writing():
            thread = threading.Thread(target=lambda: results.append(sync(index, second)), daemon=True)
            thread.start()
            postgres.wait_for("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            assert sync(index, first) == (50, 0, 0, 0)
        thread.join(30)
        assert results == [(0, 0, 0, 50)]
        check_same(index, second, random_rows(2))


def test_a_server_without_pgvector_is_told_what_to_install(postgres, monkeypatch, tmp_path):
    monkeypatch.setattr(pgvector_store, "EXTENSION", "no_such_extension")
    index = EmbeddingIndex.create(tmp_path / "index", DIM)
    with open_store(postgres.url("without")) as store:
        with pytest.raises(OSError, match="no_such_extension.*Install pgvector on the server"):
            sync(index, store)
        assert store.layout is None
    assert postgres.run("SELECT to_regclass('without')") == [(None,)]


STALL = """
CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW._place = {place} THEN PERFORM pg_sleep({seconds}); END IF; RETURN NEW; END $$;
"""


@pytest.fixture
def stalled_copy(postgres, tmp_path) -> Iterator:
    """Start a process that copies 1,000 rows and stands still in the middle of a batch, at a row that it replaces."""
    index, url = synced_postgres(postgres, tmp_path, 1)
    table = StoreUrl.parse(url).table
    index.change(remove=[0], add=(random_rows(1000), [*range(1, 700), 0, *range(700, 1000)], None))
    children = []

    def start(seconds: int) -> tuple[int, EmbeddingIndex, str, str]:
        postgres.run(
            STALL.format(place=700, seconds=seconds),
            f"CREATE TRIGGER stall BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION stall()",
        )
        children.append(fork(lambda: sync(index, open_store(url), batch_rows=256)))
        postgres.wait_for("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        return children[0], index, url, table

    yield start
    postgres.run("DROP FUNCTION stall() CASCADE")


def check_whole_batches(postgres, index, url, table) -> None:
    """Assert that what an interrupted copy left are whole batches, and that the next copy completes it."""
    postgres.run(f"DROP TRIGGER stall ON {table}")
    with open_store(url) as store:
        assert len(store) == 1 + 2 * 256
        assert row_key(0) in set(store.keys())
        assert sync(index, store, batch_rows=256) == (1000 - 1 - 512, 1, 0, 512)
        check_same(index, store, random_rows(5), 20)


def test_a_server_killed_in_a_batch_keeps_whole_batches(postgres, stalled_copy):
    child, *rest = stalled_copy(60)
    postgres.kill()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    check_whole_batches(postgres, *rest)


def test_a_client_killed_in_a_batch_keeps_whole_batches(postgres, stalled_copy):
    child, *rest = stalled_copy(1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    wait_until(lambda: not postgres.run("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY%'"))
    check_whole_batches(postgres, *rest)


def test_a_lost_connection_says_that_the_next_run_goes_on(postgres, tmp_path):
    index, url = synced_postgres(postgres, tmp_path)
    index.add(random_rows(5))
    with open_store(url) as store:
        postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'clip_hf'")
        with pytest.raises(ConnectionError, match="run again to go on") as caught:
            sync(index, store)
        assert "\n" not in str(caught.value)


def test_metadata_are_columns_for_sql(postgres, tmp_path):
    _, url = synced_postgres(postgres, tmp_path, 20, metadata=metadata(20))
    table = StoreUrl.parse(url).table
    rows = postgres.run(f"SELECT id, name, path, width, score, is_drawn, captions, label FROM {table} ORDER BY id")
    expected = metadata(20).to_pylist()
    assert [dict(zip(COLUMNS.names, row[1:], strict=True)) for row in rows] == expected
    assert [row[0] for row in rows] == list(range(20))
    types = dict(
        postgres.run(f"SELECT column_name, data_type FROM information_schema.columns WHERE table_name='{table}'")
    )
    assert (types["width"], types["path"], types["score"]) == ("bigint", "bytea", "double precision")


# -------------------------------------------------------------------------------------------------------------- Milvus


@pytest.fixture
def milvus(milvus_folder) -> Iterator[VectorStore]:
    """A collection that is not there yet."""
    with open_store(f"milvus://{milvus_folder}?collection=photos{next(numbers)}") as store:
        yield store


def test_limits_of_milvus_are_named(milvus, tmp_path, monkeypatch):
    vectors = np.repeat(random_rows(1), 60, axis=0)
    index = build(tmp_path / "index", vectors)
    sync(index, milvus)
    with pytest.raises(ValueError, match="at most 16,384 here"):
        milvus.search(vectors[0], 16_385)
    monkeypatch.setattr(milvus, "most_candidates", 40)
    with pytest.raises(ValueError, match="returns at most 40 rows, and the 10 best"):
        milvus.search(vectors[0], 10)
    milvus.create_hnsw()
    with pytest.raises(ValueError, match="has an HNSW index, which may miss rows"):
        milvus.search(vectors[0], 10)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("text", ["a", "é" * 40_000], "The text of row '1' has over 65,535 bytes"),
        ("texts", [["a"], ["b", None]], "The texts of row 1 has more than 4,096 texts, or one that is missing"),
        ("with space", ["a", "b"], "rename the column 'with space'"),
    ],
)
def test_values_that_milvus_cannot_keep_are_named(milvus, tmp_path, column, values, message):
    index = build(tmp_path / "index", random_rows(2), metadata=pa.table({column: values}))
    with pytest.raises(ValueError, match=message):
        sync(index, milvus)
    assert len(milvus) == 0


def test_a_milvus_that_goes_away_is_named(tmp_path):
    index = build(tmp_path / "index", random_rows(5))
    with open_store(f"milvus://{tmp_path}/vectors.db?collection=photos") as store:
        sync(index, store)
        server_manager_instance.release_server(f"{tmp_path}/vectors.db")
        for work in (lambda: store.search(random_rows(1)), lambda: sync(index, store), lambda: len(store)):
            with pytest.raises(ConnectionError, match="Check that the server runs.*run again to go on") as caught:
                work()
            assert "\n" not in str(caught.value)


COPY = """
import sys, time
from clip_hf.search import EmbeddingIndex, open_store, sync_store
store = open_store(sys.argv[2])
upsert = store.upsert
def upsert_and_say(rows):
    upsert(rows)
    print("batch", flush=True)
    time.sleep(0.2)  # so that it is not done before it is killed
store.upsert = upsert_and_say
sync_store(EmbeddingIndex.open(sys.argv[1]), store, batch_rows=64, progress=False)
"""


@pytest.mark.slow
def test_a_killed_milvus_keeps_what_it_confirmed(tmp_path):
    index = build(tmp_path / "index", random_rows(2000))
    url = f"milvus://{tmp_path}/vectors.db?collection=photos"
    command = [sys.executable, "-c", COPY, str(index.folder), url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert [process.stdout.readline() for _ in range(3)] == ["batch\n"] * 3
        with pytest.raises(ConnectionError, match="Another process has it open"):
            open_store(url)
        process.kill()
    with open_store(url) as store:
        kept = len(store)
        assert 3 * 64 <= kept < 2000
        assert sync(index, store) == (2000 - kept, 0, 0, kept)
        check_same(index, store, random_rows(5))


def test_a_copy_of_a_folder_of_milvus_lite_in_use_opens(milvus, milvus_folder, tmp_path):
    """What a killed process leaves: the files as they are between two batches."""
    index = build(tmp_path / "index", random_rows(200))
    sync(index, milvus)
    shutil.copytree(milvus_folder, tmp_path / "copy.db", ignore=shutil.ignore_patterns("LOCK"))
    collection = milvus.name.rpartition("=")[2]
    with open_store(f"milvus://{tmp_path}/copy.db?collection={collection}") as copy:
        assert sync(index, copy) == (0, 0, 0, 200)
        check_same(index, copy, random_rows(5))
