# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The rows with the highest cosines, exactly: a pass over int8 codes, and float64 for what it cannot rule out.

The first pass reads every row's code; `row_codes.py` proves between which bounds a cosine then lies. A row is out
if its upper bound is below the k-th best lower bound so far. The rows that are left are scored in float64 from what is
stored, so codes decide how long a search takes and never what it finds.
"""

import ctypes
import functools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers.utils import logging

from .index_segments import Segment, rows_at
from .row_codes import LARGEST_CODE, QueryCodes, encode_queries, row_lengths


logger = logging.get_logger(__name__)
_QUERIES_AT_A_TIME = 64
# Threads wait for each other once a chunk, which takes long where other processes want the cores.
_CHUNK_BYTES, _CHUNK_PRODUCTS = 2**26, 2**18
_MOST_ERROR = 8.0  # of a row; those of unit vectors are smaller
_DAMAGED = "Files of the index are damaged: %s. EmbeddingIndex.check names them; build the index again."
_SCORED_VALUES = 2**20  # in float64 at a time
_FEW_PAIRS, _MOST_PAIRS = 2**12, 2**20
# Up to 16 columns, a product takes as long as it takes to read the rows: two levels cost nothing.
_TWO_LEVELS_UP_TO = 8
_PAIR = np.dtype([("query", "i8"), ("place", "i8"), ("lower", "f8"), ("upper", "f8"), ("scored", "?")])


@dataclass(frozen=True)
class SearchStatistics:
    """What the last search did.

    Args:
        queries (`int`): How many there were.
        rows (`int`): How many rows counted.
        rescored (`int`): How many scores were calculated in float64, of `queries * rows`.
    """

    queries: int
    rows: int
    rescored: int

    @property
    def share_rescored(self) -> float:
        """Share of all scores that were calculated in float64."""
        return self.rescored / max(1, self.queries * self.rows)


def scan_exactly(
    segments: Sequence[Segment], queries: np.ndarray, k: int, keep: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The plain way, against which the tests hold [`scan_with_codes`]: score every row in float64.

    Args:
        segments (`Sequence[Segment]`): Where the rows lie.
        queries (`np.ndarray`): Unit vectors (q, dim) float64.
        k (`int`): How many rows to find, not more than count.
        keep (`np.ndarray`, *optional*): Which rows count, (n,) bool.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: float64 scores (q, k), highest first, and int64 places (q, k); of equal scores
        the lower place is first.
    """
    rows = np.concatenate([np.empty((0, queries.shape[1])), *(segment.rows for segment in segments)])
    places = np.arange(len(rows)) if keep is None else np.flatnonzero(keep)
    scores = np.array([score_rows(rows[places], query) for query in queries]).reshape(len(queries), -1)
    order = np.lexsort((np.broadcast_to(places, scores.shape), -scores))[:, :k]
    return np.take_along_axis(scores, order, 1), places[order]


def score_rows(rows: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The score of stored rows (n, dim): float64 cosines with unit queries, (dim,) or one for each row (n, dim).

    Each is a sum over its own row's products, in an order that depends on nothing else: equal rows have equal scores.
    """
    rows = rows.astype(np.float64)
    return (rows * queries).sum(axis=1) / row_lengths(rows)


def scan_with_codes(
    segments: Sequence[Segment], queries: np.ndarray, k: int, keep: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, SearchStatistics]:
    """The same as [`scan_exactly`], to the last bit, by way of the codes; and what it took."""
    _use_one_thread_after_fork()
    rows = sum(map(len, segments)) if keep is None else int(np.count_nonzero(keep))
    scores, places, rescored = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64), 0
    for first in range(0, len(queries) if k else 0, _QUERIES_AT_A_TIME):
        group = slice(first, first + _QUERIES_AT_A_TIME)
        codes = encode_queries(queries[group], 2 if len(queries[group]) <= _TWO_LEVELS_UP_TO else 1)
        candidates = _Candidates(segments, queries[group], codes, k)
        for chunk in _chunks(segments, _chunk_rows(codes), keep):
            candidates.take(chunk)
        scores[group], places[group] = candidates.finish()
        rescored += candidates.rescored
    return scores, places, SearchStatistics(len(queries), rows, rescored)


@dataclass(frozen=True)
class _Chunk:
    places: np.ndarray  # (m,) int64, in the index
    codes: np.ndarray  # (m, dim) int8
    bounds: np.ndarray  # (m, 2) float32, scales and errors
    dropped: np.ndarray | None  # of the m rows, those that do not count


def _chunk_rows(codes: QueryCodes) -> int:
    columns, dim = codes.codes.shape
    return max(1, min(_CHUNK_BYTES // dim, _CHUNK_PRODUCTS // columns))


def _chunks(segments: Sequence[Segment], step: int, keep: np.ndarray | None) -> Iterator[_Chunk]:
    """The codes of all rows that count, and of a few others beside them, `step` rows at a time."""
    start = 0
    for segment in segments:
        for first in range(0, len(segment), step):
            codes, bounds = segment.codes[first : first + step], segment.bounds[first : first + step]
            places, dropped = np.arange(start + first, start + first + len(codes)), None
            if keep is not None:
                counts = keep[places]
                if 2 * np.count_nonzero(counts) < len(counts):
                    codes, bounds, places = codes[counts], bounds[counts], places[counts]
                else:
                    dropped = np.flatnonzero(~counts)
            if len(places):
                yield _Chunk(places, codes, bounds, dropped)
        start += len(segment)


class _Candidates:
    """Pairs of a query and a row that may be among the query's k best, with bounds of their scores.

    A pair that is scored has its score as both bounds. There are never many more than `_MOST_PAIRS` pairs: if codes
    cannot tell them apart, as with many equal rows, they are scored early, and k for each query are kept.
    """

    def __init__(self, segments: Sequence[Segment], queries: np.ndarray, codes: QueryCodes, k: int):
        self.segments, self.queries, self.codes, self.k = segments, queries, codes, k
        self.thresholds = np.full(len(queries), -np.inf)  # k-th best lower bounds
        self.rescored = 0
        self._pairs = np.empty(0, _PAIR)
        self._new: list[np.ndarray] = []
        shape = (_chunk_rows(codes), len(codes.codes))
        self._sums = torch.empty(shape, dtype=torch.int32)
        self._middles = np.empty((len(self._sums), len(queries)), np.float32)
        self._mask = np.empty(self._middles.shape, bool)

    def take(self, chunk: _Chunk) -> None:
        """Add the pairs of a chunk that the thresholds do not rule out."""
        if not (0 <= chunk.bounds.min() and chunk.bounds.max() < _MOST_ERROR):  # NaN as well
            raise ValueError(_DAMAGED % "a bound is out of range")
        count, rows = len(self.queries), len(chunk.codes)
        sums = multiply_codes(_as_tensor(chunk.codes), torch.from_numpy(self.codes.codes), self._sums[:rows])
        middles, scales = self._middles[:rows], self.codes.scales
        if len(scales) > count:  # for few queries: numpy is slow along rows of few values
            for query in range(count):
                levels = range(query, len(scales), count)
                parts = [np.multiply(sums[:, level], scales[level], dtype=np.float32) for level in levels]
                np.multiply(sum(parts), chunk.bounds[:, 0], out=middles[:, query])
        else:
            np.multiply(sums, scales, out=middles, dtype=np.float32)
            middles *= chunk.bounds[:, :1]
        if chunk.dropped is not None:
            middles[chunk.dropped] = -np.inf
        errors = chunk.bounds[:, 1].astype(np.float64)
        every = np.arange(count)
        if len(errors) >= self.k and not np.isfinite(self.thresholds).all():
            lower = middles - self.codes.widths(errors[:, None], every)
            kth_best = np.partition(lower, len(lower) - self.k, axis=0)[len(lower) - self.k]
            self.thresholds = np.maximum(self.thresholds, kth_best)
        least = (self.thresholds - self.codes.widths(errors.max(), every)).astype(np.float32)
        least = np.maximum(np.nextafter(least, -np.inf), np.finfo(np.float32).min)  # above what does not count
        hits = np.flatnonzero(np.greater_equal(middles, least, out=self._mask[:rows]))
        if not hits.size:
            return
        rows, columns = np.divmod(hits, count)
        middle = middles[rows, columns].astype(np.float64)
        width = self.codes.widths(errors[rows], columns)
        pairs = np.empty(len(rows), _PAIR)
        pairs["query"], pairs["place"], pairs["scored"] = columns, chunk.places[rows], False
        pairs["lower"], pairs["upper"] = middle - width, middle + width
        self._new.append(pairs[pairs["upper"] >= self.thresholds[columns]])
        if sum(map(len, self._new)) > max(len(self._pairs), _FEW_PAIRS):
            self._settle()
            if len(self._pairs) > _MOST_PAIRS:
                self._score()

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores and places (q, k) of the best pairs."""
        self._settle()
        self._score()
        shape = (len(self.queries), self.k)
        if len(self._pairs) < math.prod(shape):  # true bounds never rule out so many
            raise ValueError(_DAMAGED % "fewer rows are found than there are")
        return self._pairs["lower"].reshape(shape), self._pairs["place"].reshape(shape)

    def _settle(self) -> None:
        """Raise the thresholds to the k-th best lower bounds, and drop the pairs that these rule out."""
        pairs = np.concatenate([self._pairs, *self._new])
        self._new = []
        pairs = pairs[np.lexsort((pairs["place"], -pairs["lower"], pairs["query"]))]
        last = np.searchsorted(pairs["query"], np.arange(len(self.queries))) + self.k - 1
        there = np.flatnonzero(last < np.searchsorted(pairs["query"], np.arange(len(self.queries)), side="right"))
        self.thresholds[there] = np.maximum(self.thresholds[there], pairs["lower"][last[there]])
        self._pairs = pairs[pairs["upper"] >= self.thresholds[pairs["query"]]]

    def _score(self) -> None:
        """Score all pairs, and keep the k best of each query."""
        pairs = self._pairs
        unscored = np.flatnonzero(~pairs["scored"])
        unscored = unscored[np.argsort(pairs["place"][unscored], kind="stable")]  # reads the files in order
        step = max(1, _SCORED_VALUES // self.queries.shape[1])
        for first in range(0, len(unscored), step):
            some = unscored[first : first + step]
            rows = rows_at(self.segments, pairs["place"][some])
            pairs["lower"][some] = pairs["upper"][some] = score_rows(rows, self.queries[pairs["query"][some]])
        self.rescored += len(unscored)
        pairs["scored"] = True
        self._settle()
        firsts = np.searchsorted(self._pairs["query"], np.arange(len(self.queries)))
        ranks = np.arange(len(self._pairs)) - firsts[self._pairs["query"]]
        self._pairs = self._pairs[ranks < self.k]


# --------------------------------------------------------------------------------------------------------- the kernel


def multiply_codes(rows: torch.Tensor, queries: torch.Tensor, sums: torch.Tensor) -> np.ndarray:
    """Products (n, q) of int8 codes (n, dim) and (q, dim): exact whole numbers, of a type that holds them.

    `torch._int_mm` reads int8 at the speed of memory, and writes to `sums` (n, q) int32. It is checked first, because
    it may be missing or wrong: without VNNI sums of two products may not fit, and torch 2.13 is wrong if `dim` is 1.
    """
    dim = rows.shape[1]
    if _int_mm_is_right(dim):
        return torch._int_mm(rows, queries.T, out=sums).numpy()
    # Whole numbers are exact in float32 below 2**24 and in float64 below 2**53.
    dtype = torch.float32 if LARGEST_CODE**2 * dim < 2**24 else torch.float64
    return (rows.to(dtype) @ queries.to(dtype).T).numpy()


_process = os.getpid()


def _use_one_thread_after_fork() -> None:
    """Keep a forked process from waiting for ever for the threads of OpenMP that it did not inherit."""
    global _process
    if _process != os.getpid():
        torch.set_num_threads(1)
        _process = os.getpid()


@functools.cache
def _int_mm_is_right(dim: int) -> bool:
    """Whether `torch._int_mm` equals plain whole-number sums for rows of this size, at extreme values as well."""
    if LARGEST_CODE**2 * dim >= 2**31:
        return False
    numbers = np.arange(33 * dim).reshape(33, dim) * 7919 % 255 - LARGEST_CODE
    numbers[:3] = np.array([[1], [-1], [1]]) * LARGEST_CODE
    numbers[2, ::2] = -LARGEST_CODE
    rows = torch.from_numpy(numbers.astype(np.int8))
    try:
        for count in (1, 2, 9, 33):
            for some, others in ((rows, rows[:count]), (rows[:count], rows)):
                expected = numbers[: len(some)] @ numbers[: len(others)].T
                sums = torch.empty(expected.shape, dtype=torch.int32)
                if not np.array_equal(torch._int_mm(some, others.T, out=sums).numpy(), expected):
                    raise RuntimeError("its sums are wrong")
    except (AttributeError, RuntimeError) as error:
        logger.warning_once(
            f"torch._int_mm cannot be used for rows of {dim} values here, so searches are slow: {error}."
        )
        return False
    return True


def _as_tensor(codes: np.ndarray) -> torch.Tensor:
    if codes.flags.writeable:
        return torch.from_numpy(codes)
    # torch warns about read-only memory, because it could write to it. A view by address hides that from it.
    bytes_there = (ctypes.c_int8 * codes.size).from_address(codes.ctypes.data)
    return torch.from_numpy(np.frombuffer(bytes_there, np.int8).reshape(codes.shape))
