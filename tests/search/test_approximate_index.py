# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The approximate index finds what it says it finds, with exact scores, and refuses to be worse in silence."""

import json

import numpy as np
import pytest

from clip_hf.search import ApproximateIndex, EmbeddingIndex
from clip_hf.search import approximate_index as module


DIM, ROWS = 16, 1500


def images(count: int = ROWS, seed: int = 0) -> np.ndarray:
    """Around one direction, as CLIP's images."""
    return np.random.default_rng(seed).standard_normal((count, DIM)) + 2 * np.eye(DIM)[0]


def texts(count: int = 60) -> np.ndarray:
    """Around another one."""
    return np.random.default_rng(9).standard_normal((count, DIM)) + 2 * np.eye(DIM)[1]


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> EmbeddingIndex:
    ids = [f"row {n}" for n in range(ROWS)]
    index = EmbeddingIndex.build(tmp_path_factory.mktemp("index") / "index", images(), ids)
    index.remove([f"row {n}" for n in range(0, 100, 7)])
    return index


@pytest.fixture(scope="module", params=["hnsw", pytest.param("ivfpq", marks=pytest.mark.slow)])
def approximate(request, index) -> ApproximateIndex:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_QUERIES", 100)
        return ApproximateIndex.build(index, texts(), kind=request.param, min_recall=0.9)


def test_scores_are_exact_and_the_recall_is_as_measured(index, approximate):
    """In the half of the queries with which the effort was not found."""
    scores, ids = approximate.search(texts()[1::2], 10)
    exact_scores, exact_ids = index.search(texts()[1::2], 10)
    found = [len(set(row) & set(exact)) / 10 for row, exact in zip(ids.tolist(), exact_ids.tolist())]
    assert np.mean(found) == pytest.approx(approximate.text_recall.recall) and 0.85 <= np.mean(found)
    assert approximate.text_recall.queries == 30 and approximate.image_recall.queries == 50
    by_query = [dict(zip(*row)) for row in zip(exact_ids.tolist(), exact_scores.tolist())]
    for query, row, row_scores in zip(by_query, ids.tolist(), scores.tolist()):
        assert all(score == query.get(id_, score) for id_, score in zip(row, row_scores))
        assert row_scores == sorted(row_scores, reverse=True)


def test_image_queries_do_not_find_themselves(index, approximate):
    """A search that finds only the query itself has no recall."""
    scores, ids = np.array([[1.0, 0.5, 0.4]]), np.array([["a", "b", "c"]], dtype=object)
    assert module._without(scores, ids, np.array(["a"], dtype=object))[0].tolist() == [[0.5, 0.4]]
    assert module._without(scores, ids, np.array(["b"], dtype=object))[0].tolist() == [[1.0, 0.4]]
    assert module._without(scores, ids, np.array(["z"], dtype=object))[0].tolist() == [[1.0, 0.5]]
    assert 0.85 <= approximate.image_recall.recall <= 1


def test_it_opens_as_it_was_built(index, approximate):
    opened = ApproximateIndex.open(index, approximate.kind)
    assert str(opened) == str(approximate) and opened.effort == approximate.effort
    for found, expected in zip(opened.search(texts()), approximate.search(texts())):
        np.testing.assert_array_equal(found, expected)


def test_results_are_never_padded(index, approximate):
    scores, ids = approximate.search(texts(3), 5000)
    assert scores.shape == ids.shape == (3, len(index))
    np.testing.assert_array_equal(ids, index.search(texts(3), 5000)[1])  # IVF-PQ with few lists finds less
    assert approximate.search(texts()[0], 3)[1].shape == (3,)


def test_a_query_with_too_few_candidates_is_searched_exactly(index, approximate, monkeypatch):
    class Short:
        def search(self, queries, k, params):
            found = np.full((len(queries), k), -1)
            found[:, :2] = [7, 8]
            return None, found

    monkeypatch.setattr(approximate, "_index", Short())
    for found, expected in zip(approximate.search(texts(4), 3), index.search(texts(4), 3)):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["hnsw", pytest.param("ivfpq", marks=pytest.mark.slow)])
def test_a_low_recall_of_one_modality_is_refused(index, kind, tmp_path, monkeypatch, caplog):
    search = ApproximateIndex._search

    def lose_texts(self, queries, k, effort):
        scores, ids = search(self, queries, k, effort)
        return (scores - 0.1 if k == module.MEASURED_K else scores), ids

    monkeypatch.setattr(ApproximateIndex, "_search", lose_texts)
    monkeypatch.setattr(module, "_MOST_QUERIES", 20)
    with pytest.raises(ValueError, match=r"text queries 0\..*less than min_recall=0.95.*lower `min_recall`"):
        ApproximateIndex.build(index, texts(), kind=kind, folder=tmp_path / "place")
    assert not (tmp_path / "place").exists()
    built = ApproximateIndex.build(index, texts(), kind=kind, folder=tmp_path / "place", min_recall=0.0)
    assert built.text_recall.recall < 0.95 and (tmp_path / "place").exists()


def test_both_recalls_are_said(index, approximate):
    assert f"text queries {approximate.text_recall.recall:.4f}" in str(approximate)
    assert f"image queries {approximate.image_recall.recall:.4f}" in str(approximate)
    assert "times as fast" in str(approximate) and approximate.speedup > 0


def test_efforts_rise_to_the_most():
    efforts = list(module._efforts("ivfpq", 10**6, 100))
    assert [effort.breadth for effort in efforts[:8]] == [1, 2, 4, 8, 16, 32, 64, 100]
    assert [effort.candidates for effort in efforts[8:]] == [20, 40, 80, 160]
    assert list(module._efforts("hnsw", 1000, 0))[-1].breadth == 1000


def test_a_stale_index_is_refused(tmp_path):
    index = EmbeddingIndex.build(tmp_path / "index", images())
    ApproximateIndex.build(index, texts(), min_recall=0.5)
    assert (tmp_path / "index.hnsw").is_dir()
    index.add(images(1, seed=3))
    with pytest.raises(ValueError, match=r"generation 1 of an index.*generation 2.*Build it again"):
        ApproximateIndex.open(index)
    other = EmbeddingIndex.build(tmp_path / "other", images(seed=4))
    with pytest.raises(ValueError, match="with other rows"):
        ApproximateIndex.open(other, folder=tmp_path / "index.hnsw")
    with pytest.raises(FileNotFoundError):
        ApproximateIndex.open(index, "ivfpq")


def test_a_damaged_file_is_never_given_to_faiss(tmp_path, monkeypatch):
    import faiss

    index = EmbeddingIndex.build(tmp_path / "index", images())
    ApproximateIndex.build(index, texts(), min_recall=0.5)
    path = tmp_path / "index.hnsw" / "index.faiss"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="damaged"):
        ApproximateIndex.open(index)
    manifest = path.with_name("approximate.json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"kind": "ivfpq"}))
    with pytest.raises(ValueError, match="holds no approximate index of the kind 'hnsw'"):
        ApproximateIndex.open(index)


def test_equal_scores_count_whichever_is_found():
    exact = np.array([[0.9, 0.8, 0.8]])
    assert module._recall(np.array([[0.9, 0.8, 0.7]]), exact).recall == pytest.approx(2 / 3)
    assert module._recall(np.array([[0.9, 0.8, 0.8]]), exact).recall == 1


def test_bad_input(index, approximate, tmp_path):
    with pytest.raises(ValueError, match="needs 1,000"):
        ApproximateIndex.build(EmbeddingIndex.build(tmp_path / "few", images(999)), texts())
    with pytest.raises(ValueError, match=r"`kind` is 'lsh'"):
        ApproximateIndex.build(index, texts(), kind="lsh")
    with pytest.raises(ValueError, match=r"`min_recall` is 2"):
        ApproximateIndex.build(index, texts(), min_recall=2)
    with pytest.raises(ValueError, match=r"\(queries, 16\), with 2 or more"):
        ApproximateIndex.build(index, texts()[:1])
    with pytest.raises(ValueError, match=r"\(queries, 16\)"):
        ApproximateIndex.build(index, texts()[:, :8])
    with pytest.raises(ValueError, match=r"text query 1 .*NaN"):
        ApproximateIndex.build(index, np.stack([texts()[0], np.full(DIM, np.nan)]))
    for k in (0, True, 2.5):
        with pytest.raises(ValueError, match=r"`k` is"):
            approximate.search(texts(), k)
    with pytest.raises(ValueError, match="query 0 is all zeros"):
        approximate.search(np.zeros((1, DIM)))
    with pytest.raises(ValueError, match=r"\(q, 16\) or \(16,\)"):
        approximate.search(np.zeros((1, 3)))


def test_a_folder_of_something_else_stays(tmp_path, index):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="no approximate index; nothing is written there"):
        ApproximateIndex.build(index, texts(), folder=tmp_path / "mine")
    (tmp_path / "mine" / "approximate.json").write_text(json.dumps({"format": "clip_hf approximate index 1"}))
    with pytest.raises(FileExistsError, match="no approximate index"):
        ApproximateIndex.build(index, texts(), folder=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_an_index_that_changes_or_is_built_anew_is_noticed(tmp_path):
    index = EmbeddingIndex.build(tmp_path / "index", images())
    built = ApproximateIndex.build(index, texts(), min_recall=0.5)
    ApproximateIndex.build(index, texts(), min_recall=0.5)  # replaces its own
    (tmp_path / "index").rename(tmp_path / "old")
    same_rows = EmbeddingIndex.build(tmp_path / "index", images())
    with pytest.raises(ValueError, match="with other rows"):
        ApproximateIndex.open(same_rows)
    (tmp_path / "old").rename(tmp_path / "moved")
    index = EmbeddingIndex.open(tmp_path / "moved")
    built.index = index
    assert built.search(texts()[0])[0].shape == (10,)
    index.remove([0])
    with pytest.raises(ValueError, match="has changed since"):
        built.search(texts()[0])
