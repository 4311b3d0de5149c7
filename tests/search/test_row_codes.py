# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Codes, and bounds that hold where rows and queries are chosen against them."""

import functools

import numpy as np
import pytest
import scipy.linalg
import torch
from index_inputs import KINDS

from clip_hf.search.row_codes import encode_queries, encode_rows, normalise_rows


DIMS = [1, 2, 3, 16, 33, 100, 256]


@functools.cache
def rotation(dim: int) -> np.ndarray:
    """The rotation (dim, dim) of rows by `rows @ rotation`, in 80 bits, as row_codes.py describes it."""
    numbers = np.arange(dim)
    signs = 1 - 2 * ((numbers * numbers * 40503 + numbers * 30011 >> 9) & 1)
    size = 2 ** (dim.bit_length() - 1)
    matrix = np.diag(signs).astype(np.longdouble)
    hadamard = scipy.linalg.hadamard(size).astype(np.longdouble) / np.sqrt(np.longdouble(size))
    matrix[:, :size] = matrix[:, :size] @ hadamard
    if size < dim:
        matrix[:, dim - size :] = matrix[:, dim - size :] @ hadamard
    return matrix


def wide_unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.longdouble)
    return wide / np.sqrt((wide * wide).sum(axis=1, keepdims=True))


def products(codes, bounds, queries) -> tuple[np.ndarray, np.ndarray]:
    """What a search calculates: products (n, q) and how far cosines may lie from them."""
    whole = torch.from_numpy(codes.astype(np.int64) @ queries.codes.astype(np.int64).T).float()
    scaled = whole * torch.from_numpy(bounds[:, :1]) * torch.from_numpy(queries.scales)
    count = len(queries.errors)
    middles = scaled.reshape(len(codes), -1, count).sum(1).numpy()
    return middles, queries.widths(bounds[:, 1:].astype(np.float64), np.arange(count))


@pytest.mark.parametrize("dim", DIMS)
def test_the_error_of_a_code_is_at_least_its_length_and_not_much_more(dim, rng):
    for kind, make in KINDS.items():
        rows = normalise_rows(make(rng, 50, dim)).astype(np.float16)
        codes, bounds = encode_rows(rows)
        assert codes.dtype == np.int8
        assert np.abs(codes.astype(int)).max() <= 127
        rest = wide_unit(rows) @ rotation(dim) - codes.astype(np.longdouble) * bounds[:, :1].astype(np.longdouble)
        lengths = np.sqrt((rest * rest).sum(axis=1))
        assert (bounds[:, 1] >= lengths).all(), kind
        assert (bounds[:, 1] <= 1.001 * lengths + 1e-4).all(), kind


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("dim", DIMS)
def test_cosines_lie_within_the_bounds_of_their_codes(dim, levels, rng):
    turn = rotation(dim)
    for kind, make in KINDS.items():
        rows = normalise_rows(make(rng, 40, dim)).astype(np.float32)
        codes, bounds = encode_rows(rows)
        rest = wide_unit(rows) @ turn - codes.astype(np.longdouble) * bounds[:, :1].astype(np.longdouble)
        along_errors = (rest @ turn.T).astype(np.float64)  # the queries that each row's error hurts most
        along_errors[np.abs(along_errors).max(axis=1) < 1e-12] = 1.0
        vectors = normalise_rows(np.concatenate([rng.normal(size=(9, dim)), rows[:5], along_errors]))
        queries = encode_queries(vectors, levels)
        middles, widths = products(codes, bounds, queries)
        cosines = wide_unit(rows) @ wide_unit(vectors).T
        assert (np.abs(cosines - middles) <= widths).all(), kind


def test_the_bounds_are_reached(rng):
    """Rows and queries along each other's errors: half of each term of the bound would be too little."""
    dim = 256
    turn = rotation(dim)
    row = normalise_rows(rng.normal(size=(1, dim)))
    codes, bounds = encode_rows(row)
    rest = wide_unit(row) @ turn - codes * bounds[:, :1].astype(np.longdouble)
    queries = encode_queries(normalise_rows((rest @ turn.T).astype(np.float64)), 2)
    middles, widths = products(codes, bounds, queries)
    cosine = wide_unit(row) @ wide_unit((rest @ turn.T).astype(np.float64)).T
    assert abs(cosine - middles)[0, 0] > 0.99 * widths[0, 0]

    query = normalise_rows(rng.normal(size=(1, dim)))
    queries = encode_queries(query, 1)
    rest = wide_unit(query) @ turn - queries.codes * queries.scales[:, None].astype(np.longdouble)
    row = normalise_rows((rest @ turn.T).astype(np.float64))
    codes, bounds = encode_rows(row)
    middles, widths = products(codes, bounds, queries)
    error = abs(wide_unit(row) @ wide_unit(query).T - middles)[0, 0]
    assert widths[0, 0] >= error > 0.95 * queries.errors[0]
    assert queries.errors[0] > 0.5 * bounds[0, 1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_of_any_length_are_normalised(dtype, rng):
    kind = np.finfo(dtype)
    directions = rng.normal(size=(4, 5)).astype(dtype)
    vectors = directions * np.array([[1], [kind.max / 8], [kind.tiny], [1e-3]], dtype)
    rows = normalise_rows(vectors)
    wide = vectors.astype(np.longdouble)
    wide /= np.abs(wide).max(axis=1, keepdims=True)
    assert rows == pytest.approx(wide_unit(wide).astype(np.float64), abs=1e-15)
    assert normalise_rows(np.array([[0.0, 5e-324, 0.0]])).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("bad", "fault"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite"), (0.0, "zeros")]
)
def test_the_first_row_without_a_direction_is_named(bad, fault, rng):
    rows = rng.normal(size=(6, 3))
    rows[[2, 4]] = np.nan
    rows[2] = 0.0
    rows[2, 1] = bad
    with pytest.raises(ValueError, match=f"row 12 .*{fault}"):
        normalise_rows(rows, first=10)
