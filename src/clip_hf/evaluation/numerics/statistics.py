# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Metrics as functions of many sets of sample weights at once, which is what a bootstrap needs.

Shapes: n rows, c classes, r sets of weights. A resample is a set of weights that counts how often each row was drawn.
"""

from collections.abc import Callable

import numpy as np


# Elements of a temporary array, at most: 16 MiB of float64.
BLOCK = 2**21

# Weights (r, n) to values (r,) or (r, c); NaN where a set of weights leaves nothing to measure.
Statistic = Callable[[np.ndarray], np.ndarray]


# Metrics that are means over rows: each row's value by the rank of its class, 0 for the first.
ROW_VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "top1": lambda ranks: (ranks < 1).astype(np.float64),
    "top5": lambda ranks: (ranks < 5).astype(np.float64),
    "top1_top5_mean": lambda ranks: ((ranks < 1).astype(np.float64) + (ranks < 5)) / 2,
}


def mean_of_rows(values: np.ndarray) -> Statistic:
    """Mean of all rows' values: (r,)."""
    values = values.astype(np.float64)
    return lambda weights: (weights @ values) / weights.sum(axis=1)


def mean_by_class(values: np.ndarray, targets: np.ndarray, classes: int) -> Statistic:
    """Of each class, the mean of its rows' values: (r, classes)."""
    values = values.astype(np.float64)
    order = np.argsort(targets, kind="stable")
    present, starts = np.unique(targets[order], return_index=True)

    def statistic(weights: np.ndarray) -> np.ndarray:
        sorted_weights = weights[:, order]
        totals = np.add.reduceat(sorted_weights, starts, axis=1)
        sums = np.add.reduceat(sorted_weights * values[order], starts, axis=1)
        means = np.full((len(weights), classes), np.nan)
        means[:, present] = np.divide(sums, totals, out=np.full_like(sums, np.nan), where=totals > 0)
        return means

    return statistic


def median_of_rows(values: np.ndarray) -> Statistic:
    """Median of all rows' values, half way between the middle two of an even number; weights are whole: (r,)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order].astype(np.float64)

    def statistic(weights: np.ndarray) -> np.ndarray:
        upto = weights[:, order].cumsum(axis=1)
        middle = [np.searchsorted(row, [(row[-1] - 1) // 2, row[-1] // 2], side="right") for row in upto]
        return np.array([ordered[places].mean() for places in middle])

    return statistic


def eleven_points(scores: np.ndarray, targets: np.ndarray) -> Statistic:
    """11-point average precision of one class: (r,)."""
    order = np.argsort(-scores, kind="stable")
    ordered, positive = scores[order], targets[order].astype(np.float64)
    # Rows of one score enter together. Between two groups that have a positive, precision only falls, so that the
    # largest precision from some recall on is that after such a group.
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(order) - 1)  # last row of each group
    ends = ends[np.diff(np.cumsum(positive)[ends], prepend=0) > 0]
    starts, stop = np.append(0, ends[:-1] + 1), (ends[-1] + 1 if len(ends) else 0)
    order, positive = order[:stop], positive[:stop]

    def statistic(weights: np.ndarray) -> np.ndarray:
        if stop == 0:
            return np.full(len(weights), np.nan)
        sorted_weights = weights[:, order]
        retrieved = np.add.reduceat(sorted_weights, starts, axis=1).cumsum(axis=1)  # (r, groups)
        right = np.add.reduceat(sorted_weights * positive, starts, axis=1).cumsum(axis=1)
        precision = np.divide(right, retrieved, out=np.zeros_like(right), where=right > 0)
        best_from = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total = right[:, -1:]
        # Recall r reaches k/10 if 10 r >= k: exact in whole numbers, and the slack is for other weights' rounding.
        firsts = [(10 * right < k * total * (1 - 1e-12)).sum(axis=1, keepdims=True) for k in range(11)]
        points = np.take_along_axis(best_from, np.concatenate(firsts, axis=1), axis=1)  # (r, 11)
        return np.where(total[:, 0] > 0, points.sum(axis=1) / 11, np.nan)

    return statistic


def area_under_roc(scores: np.ndarray, targets: np.ndarray) -> Statistic:
    """Area under the ROC curve: (r,)."""
    order = np.argsort(scores, kind="stable")
    ordered, positive = scores[order], targets[order].astype(np.float64)
    starts = np.append(0, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1)  # of groups of one score

    def statistic(weights: np.ndarray) -> np.ndarray:
        sorted_weights = weights[:, order]
        positives = np.add.reduceat(sorted_weights * positive, starts, axis=1)  # (r, groups)
        negatives = np.add.reduceat(sorted_weights * (1 - positive), starts, axis=1)
        below = negatives.cumsum(axis=1) - negatives / 2
        totals = positives.sum(axis=1), negatives.sum(axis=1)
        wins = np.einsum("rg,rg->r", positives, below)
        pairs = np.where((totals[0] > 0) & (totals[1] > 0), totals[0] * totals[1], np.nan)
        return wins / pairs

    return statistic


def mean_of_classes(by_class: Statistic) -> Statistic:
    """Mean over the classes that are not NaN: (r,)."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        values = by_class(weights)
        there = ~np.isnan(values)
        sums, counts = np.where(there, values, 0).sum(axis=1), there.sum(axis=1)
        return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)

    return statistic
