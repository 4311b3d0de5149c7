# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The pass over codes finds what a float64 scan finds, to the last bit."""

import numpy as np
import pytest
import torch
from index_inputs import KINDS, SegmentInMemory

from clip_hf.search import exact_scan
from clip_hf.search.exact_scan import multiply_codes, scan_exactly, scan_with_codes, score_rows
from clip_hf.search.row_codes import normalise_rows


@pytest.fixture
def small_limits(monkeypatch):
    """Several chunks, groups of queries and early scores even for few rows."""
    monkeypatch.setattr(exact_scan, "_CHUNK_PRODUCTS", 128)
    monkeypatch.setattr(exact_scan, "_QUERIES_AT_A_TIME", 12)
    monkeypatch.setattr(exact_scan, "_FEW_PAIRS", 50)
    monkeypatch.setattr(exact_scan, "_MOST_PAIRS", 150)
    monkeypatch.setattr(exact_scan, "_SCORED_VALUES", 5000)


def hard_case(kind: str, seed: int) -> tuple[list[SegmentInMemory], np.ndarray, int, np.ndarray | None]:
    """Segments, unit queries, k, and the rows that count."""
    rng = np.random.default_rng(seed)
    n, dim = int(rng.integers(1, 301)), int(rng.integers(1, 131))
    if seed % 10 == 0:
        n, dim = (1, dim) if seed % 20 else (n, 1)
    vectors = KINDS[kind](rng, n, dim)
    cuts = np.sort(rng.integers(0, n, rng.integers(0, 4)))
    dtype = ("float16", "float32")[seed % 2]
    segments = [SegmentInMemory(part, dtype) for part in np.split(vectors, cuts) if len(part)]
    queries = rng.normal(size=(rng.integers(1, 20), dim))
    queries[: seed % 3] = vectors[rng.integers(0, n)]  # one of the rows
    keep = None if seed % 4 else rng.random(n) < rng.choice([0.05, 0.5, 0.95])
    count = n if keep is None else int(keep.sum())
    return segments, normalise_rows(queries), min(int(rng.integers(1, 401)), count), keep


@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(20, 100), marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_hard_indexes_of_each_kind_are_searched_exactly(kind, seeds, small_limits):
    for seed in seeds:
        segments, queries, k, keep = hard_case(kind, seed)
        scores, places = scan_exactly(segments, queries, k, keep)
        found_scores, found_places, _ = scan_with_codes(segments, queries, k, keep)
        assert np.array_equal(found_places, places), (kind, seed)
        assert np.array_equal(found_scores, scores), (kind, seed)


def test_the_plain_scan_is_right():
    rows = np.array([[3.0, 4.0], [1.0, 0.0], [4.0, 3.0], [0.0, -1.0], [1.0, 0.0]])
    segments = [SegmentInMemory(rows[:2], "float32"), SegmentInMemory(rows[2:], "float32")]
    scores, places = scan_exactly(segments, np.array([[1.0, 0.0]]), 4)
    assert places.tolist() == [[1, 4, 2, 0]]
    assert scores == pytest.approx(np.array([[1, 1, 0.8, 0.6]]), abs=1e-7)
    keep = np.array([True, False, True, True, True])
    assert scan_exactly(segments, np.array([[1.0, 0.0]]), 4, keep)[1].tolist() == [[4, 2, 0, 3]]


def test_a_score_depends_on_its_own_row_alone(rng):
    rows, query = rng.normal(size=(300, 77)).astype(np.float16), rng.normal(size=77)
    scores = score_rows(rows, query)
    for first, last in ((0, 1), (17, 20), (100, 300)):
        assert np.array_equal(score_rows(rows[first:last], query), scores[first:last])
        assert np.array_equal(score_rows(rows[first:last], np.tile(query, (last - first, 1))), scores[first:last])
    wide = rows.astype(np.longdouble)
    expected = (wide * query).sum(axis=1) / np.sqrt((wide * wide).sum(axis=1))
    assert scores == pytest.approx(expected.astype(np.float64), rel=1e-13, abs=1e-14)


@pytest.mark.parametrize("queries", [1, 40])
def test_codes_spare_nearly_all_scores(rng, queries):
    segments = [SegmentInMemory(rng.normal(size=(20000, 64)), "float16")]
    vectors = normalise_rows(rng.normal(size=(queries, 64)))
    _, places, statistics = scan_with_codes(segments, vectors, 10)
    assert (statistics.queries, statistics.rows) == (queries, 20000)
    assert 10 * queries <= statistics.rescored
    assert statistics.share_rescored < 0.003
    assert np.array_equal(places, scan_exactly(segments, vectors, 10)[1])


def test_a_value_that_dominates_all_rows_does_not_make_codes_useless(rng):
    segments = [SegmentInMemory(rng.normal(size=(20000, 256)) + 20 * np.eye(256)[5], "float16")]
    *_, statistics = scan_with_codes(segments, normalise_rows(rng.normal(size=(1, 256))), 10)
    assert statistics.share_rescored < 0.005


def test_equal_rows_are_scored_in_bounded_memory(rng, small_limits, monkeypatch):
    segments, longest = [SegmentInMemory(np.ones((5000, 3)), "float16")], []
    settle = exact_scan._Candidates._settle
    monkeypatch.setattr(
        exact_scan._Candidates, "_settle", lambda self: (settle(self), longest.append(len(self._pairs)))
    )
    _, places, statistics = scan_with_codes(segments, normalise_rows(np.ones((2, 3))), 7)
    assert places.tolist() == [list(range(7))] * 2
    assert statistics.rescored == 10000
    assert max(longest) < 150 + 2 * 128


def test_rows_that_do_not_count_raise_no_threshold(rng):
    vectors = rng.normal(size=(1000, 16))
    query = normalise_rows(vectors[:1])
    keep = score_rows(normalise_rows(vectors), query[0]) < 0.1
    for some in (keep, keep & (np.arange(1000) % 7 == 0)):  # most rows count, or few
        _, places, _ = scan_with_codes([SegmentInMemory(vectors, "float32")], query, 20, some)
        assert np.array_equal(places, scan_exactly([SegmentInMemory(vectors, "float32")], query, 20, some)[1])
        assert some[places].all()


# --------------------------------------------------------------------------------------------------------- the kernel


def products_of(rows: torch.Tensor, queries: torch.Tensor) -> np.ndarray:
    sums = torch.empty((len(rows), len(queries)), dtype=torch.int32)
    return multiply_codes(rows, queries, sums).astype(np.float32)


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 15, 17, 64, 130, 513])
def test_products_of_codes_are_exact_at_extreme_values(dim):
    rng = np.random.default_rng(dim)
    extreme = rng.choice(np.array([-127, 127], np.int8), (40, dim))
    extreme[:2] = np.array([[127], [-127]])
    for rows, queries in ((extreme, extreme[:1]), (extreme[:1], extreme[:9]), (extreme, extreme[:33])):
        expected = rows.astype(np.int64) @ queries.astype(np.int64).T
        assert np.array_equal(products_of(torch.from_numpy(rows), torch.from_numpy(queries)), expected)


@pytest.mark.parametrize("dim", [64, 1100])  # sums that fit into float32, and that do not
@pytest.mark.parametrize("fault", ["wrong", "refused", "missing"])
def test_a_kernel_that_is_wrong_is_not_used(monkeypatch, fault, dim, caplog):
    def product(rows, queries, out):
        if fault == "refused":
            raise RuntimeError("not on this machine")
        product = rows.to(torch.int32) @ queries.to(torch.int32)
        return out.copy_(product.clamp(-(2**15), 2**15 - 1))  # as where sums of 16 bits saturate

    warnings = []
    monkeypatch.setattr(exact_scan.logger, "warning_once", warnings.append)
    exact_scan._int_mm_is_right.cache_clear()
    if fault == "missing":
        monkeypatch.delattr(torch, "_int_mm")  # an older torch
    else:
        monkeypatch.setattr(torch, "_int_mm", product)
    rows = torch.full((5, dim), 127, dtype=torch.int8)
    rows[1, 0] = 126
    products = [products_of(rows, rows[:2]) for _ in range(2)]
    exact_scan._int_mm_is_right.cache_clear()
    most = 127 * 127 * dim
    assert products[0][:, 0].tolist() == np.float32([most, most - 127, most, most, most]).tolist()
    assert np.array_equal(*products)
    assert len(warnings) == 1
    assert "torch._int_mm" in warnings[0]


def test_sums_that_32_bits_do_not_hold_are_exact():
    rows = torch.full((1, 140_000), 127, dtype=torch.int8)
    assert products_of(rows, rows).item() == np.float32(127 * 127 * 140_000)


def test_read_only_codes_are_not_copied():
    codes = np.arange(12, dtype=np.int8).reshape(3, 4)
    codes.setflags(write=False)
    tensor = exact_scan._as_tensor(codes)
    assert tensor.data_ptr() == codes.ctypes.data
    assert tensor.tolist() == codes.tolist()
