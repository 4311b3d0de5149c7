# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Percentile bootstrap: how far a metric would move with other rows of the same kind."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .metric_inputs import as_array, as_numbers, as_positive_integer
from .metrics import CLASSIFICATION_METRICS, classification_statistic
from .statistics import BLOCK, Statistic, mean_of_rows


def bootstrap_interval(
    metric: str | Callable[[np.ndarray, np.ndarray], float],
    scores: Any,
    targets: Any,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap over rows: how far the metric would move with other images of the same kind.

    n rows are drawn with replacement, `resamples` times; the interval goes from the (1 - confidence) / 2 quantile of
    the metric to its mirror. A class without a (positive) row in a resample is left out of that resample's mean; a
    resample without both kinds of rows is left out of a ROC AUC's quantiles.

    Args:
        metric (`str` or callable): A name in `CLASSIFICATION_METRICS`, for which many resamples are computed at once,
            or a function of scores and targets, called for each resample with the rows drawn, sorted.
        scores (array of shape `(n, c)`; of any shape `(n, ...)` for a callable): A score for each class.
        targets (array of shape `(n,)` or `(n, c)`): As the metric takes them.
        resamples (`int`, *optional*, defaults to 1000): How many to draw.
        confidence (`float`, *optional*, defaults to 0.95): The interval's share of the resamples, between 0 and 1.
        seed (`int`, *optional*, defaults to 0): Seed of the draws.

    Returns:
        `tuple[float, float]`: low and high.

    Raises:
        ValueError, TypeError: as the metric; also if `metric` is not a known name, `resamples` or `confidence` is out
            of range, or no resample has a value.
    """
    scores, targets = as_array(scores, "scores"), as_array(targets, "targets")
    if not callable(metric):
        if metric not in CLASSIFICATION_METRICS:
            names = ", ".join(CLASSIFICATION_METRICS)
            raise ValueError(f"There is no metric {metric!r}; give a function or one of {names}.")
        CLASSIFICATION_METRICS[metric](scores, targets)  # says what is wrong with the data, if anything is
        statistic = classification_statistic(metric, scores, targets)
        return resampled_interval(statistic, len(scores), resamples, confidence, seed)
    if len(scores) == 0 or len(scores) != len(targets):
        raise ValueError(f"scores has {len(scores)} rows, targets {len(targets)}; give as many, and at least one.")

    def called(weights: np.ndarray) -> np.ndarray:
        rows = [np.repeat(np.arange(len(scores)), counts.astype(np.int64)) for counts in weights]
        return np.array([metric(scores[index], targets[index]) for index in rows])

    return resampled_interval(called, len(scores), resamples, confidence, seed)


def bootstrap_mean_interval(
    values: Any, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap of a mean over rows, such as R@k over queries (`ranks < k`).

    Args:
        values (array of shape `(n,)`): What is averaged.
        resamples, confidence, seed (*optional*): As in `bootstrap_interval`.

    Returns:
        `tuple[float, float]`: low and high.

    Raises:
        ValueError: if values are empty or NaN, or `resamples` or `confidence` is out of range.
        TypeError: if values are no numbers.
    """
    values = as_numbers(values, "values", 1)
    return resampled_interval(mean_of_rows(values), len(values), resamples, confidence, seed)


def resampled_interval(
    statistic: Statistic, n: int, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap of a statistic over resamples of n rows; resamples without a value do not count."""
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


def percentile_interval(values: np.ndarray | Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Low and high end of the interval that holds this share of resampled values, with as many below it as above."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
