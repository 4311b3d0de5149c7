# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""An index that is built, searched and changed."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from clip_hf.search import EmbeddingIndex, embedding_index
from clip_hf.search.exact_scan import scan_exactly
from clip_hf.search.row_codes import normalise_rows


ROWS, DIM = 40, 8


@pytest.fixture
def vectors(rng) -> np.ndarray:
    return rng.normal(size=(ROWS, DIM)).astype(np.float32)


@pytest.fixture
def names() -> list[str]:
    return [f"{number:02d}.png" for number in range(ROWS)]


@pytest.fixture
def table() -> pa.Table:
    captions = [["a dog", f"number {number}"] for number in range(ROWS)]
    return pa.table({"width": range(ROWS), "caption": captions})


@pytest.fixture
def index(tmp_path, vectors, names, table) -> EmbeddingIndex:
    return EmbeddingIndex.build(tmp_path / "index", vectors, names, table, description={"model": "made up"})


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)


# ------------------------------------------------------------------------------------------------------- what is kept


def test_an_index_keeps_what_it_is_built_of(index, vectors, names, table):
    for opened in (index, EmbeddingIndex.open(index.folder), EmbeddingIndex.open(str(index.folder))):
        assert (opened.dim, opened.dtype, opened.id_type, len(opened)) == (DIM, "float16", str, ROWS)
        assert opened.columns == table.schema
        assert opened.filter_columns.names == ["id", "width", "caption"]
        assert opened.description == {"model": "made up"}
        assert opened.generation == 1
        assert opened.ids().tolist() == names
        assert opened.ids().dtype == object
        assert opened.metadata() == table
    found = index.vectors(["07.png", "03.png", "07.png"])
    assert found.dtype == np.float32
    assert found == pytest.approx(unit(vectors)[[7, 3, 7]], abs=1e-3)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert index.metadata(["07.png", "03.png"])["width"].to_pylist() == [7, 3]
    assert index.vectors([]).shape == (0, DIM)
    assert index.metadata([]).num_rows == 0


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_are_stored_as_their_type_rounds_them(tmp_path, vectors, dtype):
    index = EmbeddingIndex.build(tmp_path / "index", vectors * np.float32(2.0**102), dtype=dtype)
    stored = normalise_rows(vectors).astype(dtype).astype(np.float64)
    assert index.ids().tolist() == list(range(ROWS))
    assert index.ids().dtype == np.int64
    assert index.vectors(range(ROWS)) == pytest.approx(unit(stored), abs=1e-7)
    scores, ids = index.search(vectors[5], ROWS)
    expected = stored @ normalise_rows(vectors[5:6])[0] / np.linalg.norm(stored, axis=1)
    assert scores == pytest.approx(np.sort(expected)[::-1], abs=1e-15)
    assert ids.tolist() == np.argsort(-expected).tolist()


def test_an_index_may_be_built_of_blocks(tmp_path, vectors, names, table, index):
    blocks = (block for block in (vectors[:7], vectors[7:7], vectors[7:].astype(np.float64)))
    built = EmbeddingIndex.build(tmp_path / "blocks", blocks, names, table)
    assert np.array_equal(built.vectors(names), index.vectors(names))
    assert built.metadata() == table
    assert (tmp_path / "blocks" / "segments" / "0" / "codes.bin").read_bytes() == (
        index.folder / "segments" / "0" / "codes.bin"
    ).read_bytes()


def test_a_scan_gives_all_rows_in_order(index, names):
    index.remove(["02.png", "39.png"])
    kept = [name for name in names if name not in ("02.png", "39.png")]
    batches = list(index.scan(batch_rows=7))
    assert np.concatenate([ids for ids, _ in batches]).tolist() == kept
    assert np.array_equal(np.concatenate([rows for _, rows in batches]), index.vectors(kept))
    assert max(len(ids) for ids, _ in batches) == 7
    with pytest.raises(ValueError, match="`batch_rows` is 0"):
        next(index.scan(0))


# ------------------------------------------------------------------------------------------------------------- search


def test_a_search_equals_a_float64_scan(index, rng):
    queries = rng.normal(size=(5, DIM))
    scores, ids = index.search(queries, 6)
    expected_scores, places = scan_exactly(index.segments, normalise_rows(queries), 6)
    assert scores.dtype == np.float64
    assert np.array_equal(scores, expected_scores)
    assert np.array_equal(ids, index.ids()[places])
    one_scores, one_ids = index.search(queries[2], 6)
    assert np.array_equal(one_scores, scores[2])
    assert np.array_equal(one_ids, ids[2])
    assert index.last_search.queries == 1


def test_results_are_never_padded(tmp_path, index, vectors):
    scores, ids = index.search(vectors[:3], 1000)
    assert scores.shape == ids.shape == (3, ROWS)
    assert index.search(vectors[0], 1000, where=pc.field("width") < 3)[1].shape == (3,)
    assert index.search(vectors[:2], 5, where=pc.field("width") < 0)[0].shape == (2, 0)
    empty = EmbeddingIndex.create(tmp_path / "empty", DIM)
    for queries, shape in ((vectors[:3], (3, 0)), (vectors[0], (0,)), (vectors[:0], (0, 0))):
        scores, ids = empty.search(queries)
        assert (scores.shape, ids.shape, scores.dtype, ids.dtype) == (shape, shape, np.float64, np.int64)
    assert index.search(vectors[:0], 3)[1].shape == (0, 3)
    assert empty.ids().shape == (0,)
    assert list(empty.scan()) == []


def test_filters_and_removed_rows_do_not_count(index, vectors):
    index.remove(["10.png", "12.png"])
    where = (pc.field("width") >= 8) & (pc.field("id") != "11.png")
    scores, ids = index.search(vectors[:4], 100, where=where)
    kept = [f"{number:02d}.png" for number in (8, 9, *range(13, ROWS))]
    assert all(sorted(row) == kept for row in ids.tolist())
    cosines = index.vectors(kept).astype(np.float64) @ unit(vectors[:4]).T
    assert scores == pytest.approx(np.sort(cosines.T)[:, ::-1], abs=1e-6)


def test_equal_rows_come_in_the_order_of_places(tmp_path, vectors):
    index = EmbeddingIndex.build(tmp_path / "index", vectors[[3, 1, 3]], [9, 5, 2])
    index.add(vectors[[3, 0]], [1, 7])
    scores, ids = index.search(vectors[3], 3)
    assert ids.tolist() == [9, 2, 1]
    assert len(set(scores.tolist())) == 1


@pytest.mark.parametrize(
    ("queries", "k", "error", "message"),
    [
        (np.full(DIM, np.nan), 3, ValueError, "query 0 holds NaN"),
        (np.zeros((2, DIM)), 3, ValueError, "query 0 is all zeros"),
        (np.ones(DIM + 1), 3, ValueError, rf"\(9,\); this index takes \(q, {DIM}\)"),
        (np.ones((1, 1, DIM)), 3, ValueError, "this index takes"),
        (np.ones(DIM, int), 3, TypeError, "int64; it must be"),
        (np.ones(DIM), 0, ValueError, "`k` is 0"),
        (np.ones(DIM), 2.0, TypeError, "`k` is 2.0"),
    ],
)
def test_bad_queries_are_refused(index, queries, k, error, message):
    with pytest.raises(error, match=message):
        index.search(queries, k)


# ------------------------------------------------------------------------------------------------------------- change


def test_rows_are_added_removed_and_replaced(index, vectors, names, table):
    index.add(vectors[:2] * -1, ["a", "b"], table.slice(0, 2))
    assert index.ids().tolist() == [*names, "a", "b"]
    index.change(add=(vectors[5:7], ["05.png", "c"], table.slice(5, 2)), remove=["05.png", "a"])
    expected = [name for name in names if name != "05.png"] + ["b", "05.png", "c"]
    assert index.ids().tolist() == expected
    assert index.generation == 3
    assert len(index) == len(expected)
    assert index.metadata(["05.png", "b"])["width"].to_pylist() == [5, 1]
    assert index.search(vectors[5], 1)[1].tolist() == ["05.png"]
    before = index.vectors(expected)
    index.compact()
    for opened in (index, EmbeddingIndex.open(index.folder)):
        assert opened.ids().tolist() == expected
        assert np.array_equal(opened.vectors(expected), before)
        assert opened.generation == 4
    index.remove(expected)
    assert len(index) == 0
    assert index.search(vectors, 3)[0].shape == (ROWS, 0)
    index.add(vectors, names, table)
    assert index.metadata() == table


def test_a_change_of_nothing_is_no_commit(index, vectors, table):
    index.add(vectors[:0], [], table.slice(0, 0))
    index.remove([])
    index.change()
    assert index.generation == 1
    index.change(description={"source": "new"})
    assert index.generation == 2
    assert EmbeddingIndex.open(index.folder).description == {"source": "new"}


def test_numbers_are_not_used_again(tmp_path, vectors):
    index = EmbeddingIndex.build(tmp_path / "index", vectors[:3])
    index.remove([2])
    index.add(vectors[3:5])
    index.add(vectors[5:6])
    assert index.ids().tolist() == [0, 1, 3, 4, 5]
    index.add(vectors[5:6], [10])
    index.add(vectors[6:7])
    assert index.ids().tolist() == [0, 1, 3, 4, 5, 10, 11]


def test_many_small_commits_make_few_segments(tmp_path, vectors, monkeypatch):
    monkeypatch.setattr(embedding_index, "BLOCK_ROWS", 4)
    monkeypatch.setattr(embedding_index, "_MOST_SEGMENTS", 4)
    index = EmbeddingIndex.create(tmp_path / "index", DIM)
    expected = []
    for number in range(30):
        if number % 5 == 4:
            index.change(add=(vectors[number : number + 1], [number], None), remove=[number - 3])
            expected.remove(number - 3)
        else:
            index.add(vectors[number : number + 1])
        expected.append(number)
        assert len(index.segments) <= 6
        assert index.ids().tolist() == expected
    assert np.array_equal(index.vectors(expected), EmbeddingIndex.build(tmp_path / "b", vectors).vectors(expected))
    assert sorted(path.name for path in (index.folder / "segments").iterdir()) == sorted(
        str(record.number) for record in index._now.manifest.segments
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda index, v, t: index.add(v[:1], ["03.png"], t[:1]), ValueError, "in the index already: '03.png'"),
        (lambda index, v, t: index.add(v[:2], ["x", "x"], t[:2]), ValueError, "more than once: 'x'"),
        (lambda index, v, t: index.add(v[:2], ["x"], t[:2]), ValueError, "2 vectors and 1 ids"),
        (lambda index, v, t: index.add(v[:1], ["x"], t[:2]), ValueError, "1 vector and 2 rows of metadata"),
        (
            lambda index, v, t: index.add(v[:2], [1, 2], t[:2]),
            TypeError,
            "whole numbers; those of this index are texts",
        ),
        (lambda index, v, t: index.add(v[:2], [1, "x"], t[:2]), TypeError, "`ids` must be all"),
        (lambda index, v, t: index.add(v[:1], [1.5], t[:1]), TypeError, "`ids` are of type double"),
        (lambda index, v, t: index.add(v[:1], None, t[:1]), ValueError, "are texts; give `ids`"),
        (lambda index, v, t: index.add(v[:1], ["x"]), ValueError, "must be 'width', 'caption'"),
        (lambda index, v, t: index.add(v[:1], ["x"], t[:1].append_column("more", [[1]])), ValueError, "'more'"),
        (
            lambda index, v, t: index.add(v[:1], ["x"], t[:1].set_column(0, "width", [["wide"]])),
            ValueError,
            "`metadata` does not have the index's types",
        ),
        (lambda index, v, t: index.add(v[:1, :3], ["x"], t[:1]), ValueError, "3 values; this index has 8"),
        (lambda index, v, t: index.add(v[0], ["x"], t[:1]), ValueError, r"\(8,\); it must be \(n, dim\)"),
        (lambda index, v, t: index.add(v[:1].astype(int), ["x"], t[:1]), TypeError, "floating-point"),
        (lambda index, v, t: index.add(v[:2] * [[1], [0]], ["x", "y"], t[:2]), ValueError, "row 1 is all zeros"),
        (lambda index, v, t: index.remove(["x", "03.png"]), ValueError, "1 id of `ids` are not in the index: 'x'"),
        (lambda index, v, t: index.vectors(["x"]), ValueError, "not in the index: 'x'"),
        (lambda index, v, t: index.metadata([3]), TypeError, "are texts"),
        (
            lambda index, v, t: index.change(add=(v[:1] * np.nan, ["x"], t[:1]), remove=["03.png"]),
            ValueError,
            "row 0 holds NaN",
        ),
        (lambda index, v, t: index.change(description={"a": {1}}), ValueError, "`description`"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(index, vectors, table, names, change, error, message):
    with pytest.raises(error, match=message):
        change(index, vectors, table)
    for opened in (index, EmbeddingIndex.open(index.folder)):
        assert opened.ids().tolist() == names
        assert opened.generation == 1
    index.add(vectors[:1], ["new"], table[:1])
    assert index.ids().tolist() == [*names, "new"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"vectors": []}, ValueError, "There are no vectors"),
        ({"vectors": [np.ones(3)]}, ValueError, "Block 0"),
        ({"vectors": np.ones((2, 3)), "ids": [4, 4]}, ValueError, "more than once: 4"),
        ({"vectors": [np.ones((2, 3)), np.ones((1, 4))]}, ValueError, "Row 2 of `vectors` has 4 values"),
        ({"vectors": np.ones((2, 3)), "dtype": "int8"}, ValueError, "'int8'; rows are stored as 'float16' or"),
        ({"vectors": np.ones((1, 3)), "metadata": pa.table({"id": [1]})}, ValueError, "none be 'id'"),
        ({"vectors": np.ones((1, 3)), "description": {"a": object()}}, ValueError, "JSON"),
    ],
)
def test_a_build_that_fails_leaves_nothing(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        EmbeddingIndex.build(tmp_path / "index", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("dim", "id_type"), [(0, int), (True, int), (2.0, int), (3, float)])
def test_an_index_of_no_size_or_kind_is_refused(tmp_path, dim, id_type):
    with pytest.raises(ValueError, match="`dim`|`id_type`"):
        EmbeddingIndex.create(tmp_path / "index", dim, id_type=id_type)


def test_a_folder_that_is_not_empty_stays(tmp_path, vectors, index):
    with pytest.raises(FileExistsError, match="is not empty"):
        EmbeddingIndex.build(index.folder, vectors)
    with pytest.raises(FileExistsError, match="is not empty"):
        EmbeddingIndex.create(index.folder, DIM)
    assert len(EmbeddingIndex.open(index.folder)) == ROWS
    with pytest.raises(FileNotFoundError, match="is no index"):
        EmbeddingIndex.open(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert len(EmbeddingIndex.build(tmp_path / "empty", vectors)) == ROWS
