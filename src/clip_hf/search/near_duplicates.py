# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Near-duplicates of an index: all pairs of rows with a high cosine, without the matrix of all cosines.

A cosine is bounded from above by fewer values than the rows have. Let `h` be a row's coordinates along a few
directions (its head) and `t` the length of what is left (its tail). By Cauchy and Schwarz, `a . b <= h_a . h_b + t_a *
t_b`, which is one product of rows with `t` as one more value. The directions are those in which a sample of the rows
varies most, as many as make the work least. Pairs whose bound reaches the threshold are scored in float64, which
decides.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from .embedding_index import EmbeddingIndex
from .exact_scan import score_rows
from .index_segments import rows_at
from .row_codes import row_lengths


_BLOCK = (256, 1024)  # rows and columns of a product, which then lies in the cache
_READ_ROWS = 16384
_SAMPLE_ROWS = 4096
_WIDTHS = (16, 32, 64, 128, 256)
# Scoring a pair in float64 takes as long as this many columns of a product for one pair.
_COLUMNS_PER_SCORE = 200_000
# Of each row, at most so many pairs are scored before it is seen which rows are connected by now.
_MOST_AT_ONCE = 8


@dataclass(frozen=True)
class DuplicateGroup:
    """Rows of an index that are connected by near-duplicates.

    Args:
        kept (`int` or `str`): Id of the best row: most pixels, then most bytes (as far as the index has the columns
            `width`, `height` and `bytes`), then the first id.
        others (`list[int]` or `list[str]`): Ids of the other rows, nearest to `kept` first.
        cosines (`np.ndarray` of shape `(len(others),)`, float64): Their cosines with `kept`. In a chain of
            near-duplicates some are below the threshold.
    """

    kept: int | str
    others: list[int] | list[str]
    cosines: np.ndarray


def find_near_duplicates(index: EmbeddingIndex, threshold: float, *, progress: bool = False) -> list[DuplicateGroup]:
    """Find groups of near-duplicates: the connected components of all pairs with a cosine of at least `threshold`.

    The result is that of scoring all pairs in float64. It differs from `clip_hf.data.deduplicate`, which drops rows of
    training data: that one is greedy, keeps the first row of its neighbourhood, and has no chains. Here the rows a and
    c belong together if both are near to b.

    Rows that are equal count as one, and pairs that are connected already are not scored; so groups may be of any
    size. Time grows with the square of the number of different rows. Memory: some 100 to 1,000 bytes a row, and blocks
    of 200 MB.

    Args:
        index ([`EmbeddingIndex`]): The rows.
        threshold (`float`): Smallest cosine of two near-duplicates, greater than 0 and at most 1. How near they are
            depends on the model: look at some groups.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar, which counts pairs.

    Returns:
        `list[DuplicateGroup]`: in order of their first rows.

    Raises:
        ValueError: if `threshold` is out of range.
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"`threshold` is {threshold}; it must be a cosine greater than 0 and at most 1.")
    rows = StoredRows(index)
    firsts, copies = _find_equal_rows(rows)
    heads = _build_heads(rows, firsts, threshold)
    components = _Components(len(firsts))
    with tqdm(
        total=len(firsts) * (len(firsts) + 1) // 2,
        desc="near-duplicates",
        unit=" pairs",
        unit_scale=True,
        leave=False,
        disable=not progress,
    ) as bar:
        _connect(rows, firsts, heads, threshold, components, bar)
    labels = components.roots(np.arange(len(firsts)))[copies]
    order = np.argsort(labels, kind="stable")
    edges = np.append(np.flatnonzero(np.diff(labels[order], prepend=-1)), len(order))
    members = [order[edges[group] : edges[group + 1]] for group in np.flatnonzero(np.diff(edges) > 1)]
    return _describe_groups(index, rows, members)


def pair_cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosines (n,) of rows (n, dim) float64 with rows (n, dim) or (1, dim); each depends on its own pair alone."""
    return np.minimum(score_rows(left, right / row_lengths(right)[:, None]), 1.0)


# --------------------------------------------------------------------------------------------------------------- rows


class StoredRows:
    """The rows of an index as they are stored, by number: 0 to n - 1 without the removed ones."""

    def __init__(self, index: EmbeddingIndex):
        self.dim = index.dim
        self._segments = index.segments
        starts = np.cumsum([0, *map(len, self._segments)])
        removed = [start + segment.removed for start, segment in zip(starts, self._segments)]
        self._places = np.delete(np.arange(starts[-1]), np.concatenate([np.empty(0, np.int64), *removed]))

    def __len__(self) -> int:
        return len(self._places)

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """Rows (n, dim) float64 of the lengths they are stored with."""
        if not len(numbers):
            return np.empty((0, self.dim))
        return rows_at(self._segments, self._places[numbers]).astype(np.float64)

    def read_units(self, numbers: np.ndarray) -> Iterator[np.ndarray]:
        """Unit rows float64, in blocks."""
        for start in range(0, len(numbers), _READ_ROWS):
            rows = self.read(numbers[start : start + _READ_ROWS])
            yield rows / row_lengths(rows)[:, None]


def _find_equal_rows(rows: StoredRows) -> tuple[np.ndarray, np.ndarray]:
    """The first of each set of equal rows, in order, and which of them each row equals: int64 (d,) and (n,)."""
    digests = np.empty(len(rows), "S16")
    for start in range(0, len(rows), _READ_ROWS):
        block = rows.read(np.arange(start, min(start + _READ_ROWS, len(rows))))
        # Padded with 0 at the end, all digests have 16 bytes, so those that end with it stay different.
        digests[start : start + len(block)] = [hashlib.blake2b(row, digest_size=16).digest() for row in block]
    _, firsts, copies = np.unique(digests, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return firsts[order], ranks[copies]


def _build_heads(rows: StoredRows, firsts: np.ndarray, threshold: float) -> np.ndarray:
    """Heads and tails of rows, (d, width + 1) float32: their products are upper bounds of cosines."""
    sample = np.unique(np.linspace(0, len(firsts) - 1, min(len(firsts), _SAMPLE_ROWS)).astype(np.int64))
    units = np.concatenate([np.empty((0, rows.dim)), *rows.read_units(firsts[sample])])
    # The work is estimated with other rows than the directions, which suit their own rows better than the rest.
    is_fitted = np.arange(len(units)) % 4 > 0
    _, directions = np.linalg.eigh(units[is_fitted].T @ units[is_fitted])
    directions = directions[:, ::-1]
    others = units[~is_fitted]
    pairs = np.triu_indices(len(others), 1)
    is_far = (others @ others.T)[pairs] < threshold

    def cost(width: int) -> float:
        heads = _split(others, directions[:, :width])
        scored = ((heads @ heads.T)[pairs] >= threshold) & is_far
        return width + _COLUMNS_PER_SCORE * scored.sum() / max(1, len(scored))

    width = min([*(width for width in _WIDTHS if width < rows.dim), rows.dim], key=cost)
    parts = [_split(part, directions[:, :width]) for part in rows.read_units(firsts)]
    return np.concatenate([np.empty((0, width + 1), np.float32), *parts])


def _split(units: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Heads of unit rows along orthonormal directions (dim, width), and the lengths of their tails, float32."""
    heads = units @ directions
    # Roundings in float64 make a tail longer, never shorter.
    tails = np.sqrt(np.maximum(1.0 - (heads * heads).sum(axis=1), 0.0) + (units.shape[1] + 8) * 2.0**-48)
    return np.concatenate([heads, tails[:, None]], axis=1).astype(np.float32)


# -------------------------------------------------------------------------------------------------------------- pairs


class _Components:
    """Connected components of the numbers 0 to n - 1."""

    def __init__(self, count: int):
        self._parents = np.arange(count)

    def roots(self, numbers: np.ndarray) -> np.ndarray:
        """One number of each component, the same for all that are connected: its least."""
        found = self._parents[numbers]
        while True:
            above = self._parents[found]
            if (above == found).all():
                break
            found = above
        self._parents[numbers] = found
        return found

    def join(self, left: int, right: int) -> None:
        """Connect two numbers."""
        left, right = self._root(left), self._root(right)
        self._parents[max(left, right)] = min(left, right)

    def are_joined(self, *edges: int) -> bool:
        """Whether all numbers of two ranges are connected."""
        roots = self.roots(np.r_[edges[0] : edges[1], edges[2] : edges[3]])
        return bool((roots == roots[0]).all())

    def _root(self, number: int) -> int:
        while (parent := int(self._parents[number])) != number:
            self._parents[number] = self._parents[parent]
            number = parent
        return number


def _connect(
    rows: StoredRows,
    firsts: np.ndarray,
    heads: np.ndarray,
    threshold: float,
    components: _Components,
    bar: tqdm,
) -> None:
    """Connect rows whose cosines reach the threshold; block by block above the diagonal."""
    slack = (heads.shape[1] + 16) * np.finfo(np.float32).eps
    for top in range(0, len(heads), _BLOCK[0]):
        left = heads[top : top + _BLOCK[0]]
        for start in range(top, len(heads), _BLOCK[1]):
            right = heads[start : start + _BLOCK[1]]
            if components.are_joined(top, top + len(left), start, start + len(right)):
                continue
            places = np.flatnonzero(left @ right.T >= threshold - slack)
            pairs = np.stack([top + places // len(right), start + places % len(right)])
            _connect_pairs(rows, firsts, pairs[:, pairs[0] < pairs[1]], threshold, components)
        bar.update(sum(len(heads) - row for row in range(top, top + len(left))))


def _connect_pairs(
    rows: StoredRows, firsts: np.ndarray, pairs: np.ndarray, threshold: float, components: _Components
) -> None:
    """Score pairs (2, n), and connect those that reach the threshold.

    One pair of each row comes first, then two, four, eight: most rows of a large group are connected by their first.
    """
    # A row and its copy may have a cosine of 1 - 1e-16.
    limit, at_once = threshold - (rows.dim + 8) * np.finfo(np.float64).eps, 1
    while pairs.size:
        pairs = pairs[:, components.roots(pairs[0]) != components.roots(pairs[1])]
        is_next = (_ranks(pairs[0]) < at_once) | (_ranks(pairs[1]) < at_once)
        scored, pairs = pairs[:, is_next], pairs[:, ~is_next]
        cosines = pair_cosines(rows.read(firsts[scored[0]]), rows.read(firsts[scored[1]]))
        for left, right in scored[:, cosines >= limit].T.tolist():
            components.join(left, right)
        at_once = min(2 * at_once, _MOST_AT_ONCE)


def _ranks(values: np.ndarray) -> np.ndarray:
    """For each value, how many equal ones are before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return ranks


# ------------------------------------------------------------------------------------------------------------- groups


def _describe_groups(index: EmbeddingIndex, rows: StoredRows, members: list[np.ndarray]) -> list[DuplicateGroup]:
    """Groups of row numbers with their best first."""
    if not members:
        return []
    numbers = np.concatenate(members)
    ids = index.ids()[numbers]
    pixels, sizes = _image_sizes(index, ids)
    groups, start = [], 0
    for part in members:
        own = slice(start, start + len(part))
        start += len(part)
        order = np.lexsort((ids[own], -sizes[own], -pixels[own]))
        kept, others = order[0], order[1:]
        to_kept = [
            pair_cosines(rows.read(part[others[first : first + _READ_ROWS]]), rows.read(part[[kept]]))
            for first in range(0, len(others), _READ_ROWS)
        ]
        cosines = np.concatenate(to_kept)
        nearest = np.argsort(-cosines, kind="stable")
        kept_id, *other_ids = ids[own][[kept, *others[nearest]]].tolist()
        groups.append(DuplicateGroup(kept_id, other_ids, cosines[nearest]))
    return groups


def _image_sizes(index: EmbeddingIndex, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and bytes of pictures, int64 (n,) each; 0 where they are not known."""
    known = [name for name in ("width", "height", "bytes") if name in index.columns.names]
    table = index.metadata(ids).select(known)
    values = {name: table[name].fill_null(0).to_numpy().astype(np.int64) for name in known}
    zeros = np.zeros(len(ids), np.int64)
    return values.get("width", zeros) * values.get("height", zeros), values.get("bytes", zeros)
