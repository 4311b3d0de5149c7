# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Metrics as functions of many sets of sample weights at once, which is what a bootstrap needs.

Shapes: n rows, c classes, r sets of weights. A resample is a set of weights that counts how often each row was drawn.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .metric_inputs import as_positive_integer


# So many elements of a temporary array: 16 MiB of float64.
BLOCK = 2**21

# Weights (r, n) to values (r,) or (r, c); NaN where a set of weights leaves nothing to measure.
Statistic = Callable[[np.ndarray], np.ndarray]


# Metrics that are means over rows: each row's value by the place of its class, 0 for the first.
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


def eleven_points_by_class(scores: np.ndarray, targets: np.ndarray) -> Statistic:
    """11-point average precision of each class: (r, c)."""
    columns = [eleven_points(scores[:, i], targets[:, i]) for i in range(scores.shape[1])]
    return lambda weights: np.stack([column(weights) for column in columns], axis=1)


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


def percentile_interval(values: np.ndarray | Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The interval between two quantiles of resampled values that leaves out equally many at both ends.

    Args:
        values (`np.ndarray` or sequence of shape `(r,)`): A figure's value in each resample.
        confidence (`float`, *optional*, defaults to 0.95): Share of the values inside; between 0 and 1.

    Returns:
        `tuple[float, float]`: low and high.
    """
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def resampled_interval(
    statistic: Statistic, n: int, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap of a statistic over resamples of n rows; resamples without a value do not count.

    Args:
        statistic (callable): Takes weights (r, n), which count how often each row was drawn, and returns values (r,).
        n (`int`): Number of rows.
        resamples (`int`): How many resamples to draw.
        confidence (`float`): The interval's share of the resamples, between 0 and 1.
        seed (`int`): Seed of the draws.

    Returns:
        `tuple[float, float]`: low and high.

    Raises:
        ValueError: If `resamples` or `confidence` is out of range, or no resample has a value.
        TypeError: If `resamples` is not an integer.
    """
    resamples = as_positive_integer(resamples, "resamples")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    generator = np.random.default_rng(seed)
    values, block = [], max(1, BLOCK // n)
    for start in range(0, resamples, block):
        counts = np.empty((min(block, resamples - start), n))
        for row in counts:  # one draw at a time: the draws do not depend on the size of blocks
            row[:] = np.bincount(generator.integers(n, size=n), minlength=n)
        values.append(statistic(counts))
    values = np.concatenate(values)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        raise ValueError(f"None of {resamples} resamples of {n} rows has a value of this metric; give more rows.")
    return percentile_interval(values, confidence)
