# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The rows with the highest cosines, exactly."""

from collections.abc import Sequence

import numpy as np

from .index_segments import Segment
from .row_codes import row_norms


_BLOCK_BYTES = 16 * 2**20


def cosines(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The score of stored rows (n, dim): the float64 cosine with a unit `query` (dim,) float64.

    Each is a sum over its own row's products, in an order that depends on nothing else: equal rows have equal scores.
    """
    rows = rows.astype(np.float64)
    return (rows * query).sum(axis=1) / row_norms(rows)


def scan_exactly(
    segments: Sequence[Segment], queries: np.ndarray, k: int, keep: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The plain way: score every row in float64.

    Args:
        segments (`Sequence[Segment]`): Where the rows lie.
        queries (`np.ndarray`): Unit vectors (q, dim) float64.
        k (`int`): How many rows to find; not more than there are.
        keep (`np.ndarray`, *optional*): Which rows count, (n,) bool.

    Returns:
        `tuple`: float64 scores (q, k), highest first, and int64 places (q, k); of equal scores the lower place is first.
    """
    scores = np.empty((len(queries), 0))
    places = np.empty((len(queries), 0), np.int64)
    start = 0
    for segment in segments:
        step = max(1, _BLOCK_BYTES // (8 * segment.rows.shape[1]))
        for first in range(0, len(segment.rows), step):
            rows = segment.rows[first : first + step]
            numbers = np.arange(start + first, start + first + len(rows))
            if keep is not None:
                rows, numbers = rows[keep[numbers]], numbers[keep[numbers]]
            found = [cosines(rows, query) for query in queries]
            scores = np.concatenate([scores, np.reshape(found, (len(queries), -1))], axis=1)
            places = np.concatenate([places, np.broadcast_to(numbers, (len(queries), len(numbers)))], axis=1)
            order = np.lexsort((places, -scores))[:, :k]
            scores, places = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
        start += len(segment.rows)
    return scores, places
