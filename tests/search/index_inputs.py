# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows that are hard to search, and segments of them without files."""

import numpy as np

from clip_hf.search.row_codes import encode_rows, normalise_rows


KINDS = {
    "random": lambda rng, n, dim: rng.normal(size=(n, dim)),
    "copies": lambda rng, n, dim: rng.normal(size=(n, dim))[rng.integers(0, max(1, n // 3), n)],
    "all equal": lambda rng, n, dim: np.tile(rng.normal(size=dim), (n, 1)),
    "one ulp apart": lambda rng, n, dim: _one_ulp_apart(rng, n, dim),
    "opposite": lambda rng, n, dim: rng.normal(size=dim) * rng.choice([-1.0, 1.0], size=(n, 1)),
    "one-hot": lambda rng, n, dim: np.eye(dim)[rng.integers(0, dim, n)] * rng.choice([-1.0, 1.0], size=(n, 1)),
    "one value dominates": lambda rng, n, dim: rng.normal(size=(n, dim)) + 100 * np.eye(dim)[rng.integers(dim)],
    "huge and tiny": lambda rng, n, dim: (
        rng.normal(size=(n, dim)) * 10.0 ** rng.choice([-300, -40, 0, 40, 300], (n, 1))
    ),
    "float16 limits": lambda rng, n, dim: rng.choice([65504.0, -65504.0, 6e-8, -6e-8, 1.0], (n, dim)).astype(
        "float16"
    ),
    "few values": lambda rng, n, dim: rng.integers(0, 2, (n, dim)) + 1.0 * np.eye(dim)[0],
}
"""Rows (n, dim) by name."""


def _one_ulp_apart(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    rows = np.tile(rng.normal(size=dim).astype(np.float32), (n, 1))
    places = rng.integers(0, dim, n)
    rows[np.arange(n), places] = np.nextafter(rows[np.arange(n), places], np.float32(9))
    return rows


class SegmentInMemory:
    """What a search needs of a segment."""

    def __init__(self, vectors: np.ndarray, dtype: str):
        self.rows = normalise_rows(vectors).astype(dtype)
        self.codes, self.bounds = encode_rows(self.rows)

    def __len__(self) -> int:
        return len(self.rows)
