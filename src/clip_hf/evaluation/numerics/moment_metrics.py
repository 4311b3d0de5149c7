# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Metrics of moments found in films, as QVHighlights defines them (Lei et al. 2021).

Moments and windows are (start, end) in seconds. Shapes: p found moments, best first, and g true windows of a query.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .metric_inputs import as_array


IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Those over which mAP is averaged."""


def interval_iou(first: Any, second: Any) -> np.ndarray:
    """Intersection over union of intervals.

    Of 0 to 10 and 5 to 15 seconds the intersection is 5 and the union 15 seconds: 1/3. Two intervals of one point and
    no length have 0.

    Args:
        first (array of shape `(p, 2)`): Start and end of each.
        second (array of shape `(g, 2)`): The same of others.

    Returns:
        `np.ndarray` of shape `(p, g)`, float64, 0 to 1.

    Raises:
        ValueError: if an interval is not finite, ends before it starts, or the shapes are others.
        TypeError: if something is no number.
    """
    first, second = _as_intervals(first, "first"), _as_intervals(second, "second")
    starts = np.maximum(first[:, None, 0], second[None, :, 0])
    ends = np.minimum(first[:, None, 1], second[None, :, 1])
    shared = np.clip(ends - starts, 0, None)
    both = (first[:, 1] - first[:, 0])[:, None] + (second[:, 1] - second[:, 0])[None] - shared
    return np.divide(shared, both, out=np.zeros_like(shared), where=both > 0)


def first_moment_iou(moments: Any, windows: Any) -> float:
    """Intersection over union of the first moment with the window that it fits best; 0 where no moment was found.

    R1@0.5 is the share of queries where it is 0.5 or more.

    Args:
        moments (array of shape `(p, 2)`): Those found, the best first.
        windows (array of shape `(g, 2)`): The true ones, at least one.

    Raises:
        ValueError, TypeError: as [`interval_iou`]; also if there is no window.
    """
    return float(_overlaps(moments, windows)[:1].max(initial=0.0))


def moment_average_precisions(moments: Any, windows: Any, thresholds: Any = IOU_THRESHOLDS) -> np.ndarray:
    """Average precision of one query at each threshold of intersection over union.

    - Moments are taken in order. One is right if it reaches the threshold with a window that none before it has
      taken; it takes the one that it fits best, of several the last one, as QVHighlights' own program does.
    - Precision after each moment is replaced by the largest after it or a later one, and averaged over recall
      (Everingham et al. 2010, as ActivityNet does it).

    With windows 0 to 10 and 20 to 30 and the moments 0 to 9, 40 to 50 and 21 to 30, precision is 1, 1/2 and 2/3 and
    recall 1/2, 1/2 and 1 at the threshold 0.5: 1/2 * 1 + 1/2 * 2/3 = 5/6. At 0.95 no moment is right: 0.

    Args:
        moments (array of shape `(p, 2)`): Those found, the best first.
        windows (array of shape `(g, 2)`): The true ones, at least one.
        thresholds (array of shape `(t,)`, *optional*, defaults to 0.5, 0.55 ... 0.95): Those to reach, above 0.

    Returns:
        `np.ndarray` of shape `(t,)`, float64, 0 to 1; 0 where no moment was found.

    Raises:
        ValueError, TypeError: as [`first_moment_iou`]; also if a threshold is not above 0 and at most 1.
    """
    thresholds = as_array(thresholds, "thresholds").astype(np.float64)
    if thresholds.ndim != 1 or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise ValueError(f"thresholds must be numbers above 0 and at most 1, got {thresholds.tolist()}.")
    ious = _overlaps(moments, windows)
    return np.array([_average_precision(_right_moments(ious, each), ious.shape[1]) for each in thresholds])


def moment_row_values(metric: str, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a metric is the mean of: a value for each query.

    Args:
        metric (`str`): `"R1@0.5"`, `"mAP@0.75"`, `"mAP"`, `"mean_iou"` or the like.
        rows (`Mapping[str, np.ndarray]`): `first_ious` (q,), see [`first_moment_iou`]; and `average_precisions`
            (q, 10), see [`moment_average_precisions`].

    Returns:
        `np.ndarray` of shape (q,), float64.

    Raises:
        ValueError: if there is no such metric.
    """
    name, _, threshold = metric.partition("@")
    if metric == "mean_iou":
        return rows["first_ious"]
    if metric == "mAP":
        return rows["average_precisions"].mean(axis=1)
    if name == "mAP" and threshold in map(str, IOU_THRESHOLDS):
        return rows["average_precisions"][:, IOU_THRESHOLDS.index(float(threshold))]
    if name == "R1" and threshold in map(str, IOU_THRESHOLDS):
        return (rows["first_ious"] >= float(threshold)).astype(np.float64)
    raise ValueError(
        f"There is no metric {metric!r} of moments; there are R1@0.5, mAP@0.5, mAP, mean_iou and the like."
    )


def _right_moments(ious: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each moment is right, bool (p,)."""
    free = np.ones(ious.shape[1], bool)
    right = np.zeros(len(ious), bool)
    for row, overlaps in enumerate(ious):
        fitting = np.flatnonzero(free & (overlaps >= threshold))
        if len(fitting):
            right[row] = True
            fitting = fitting[::-1]
            free[fitting[overlaps[fitting].argmax()]] = False
    return right


def _average_precision(right: np.ndarray, num_windows: int) -> float:
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best_from = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall grows by 1 / g with each right moment, and by nothing with the others.
    return float(best_from[right].sum() / num_windows)


def _overlaps(moments: Any, windows: Any) -> np.ndarray:
    ious = interval_iou(moments, windows)
    if ious.shape[1] == 0:
        raise ValueError("There is no true window; a query needs at least one.")
    return ious


def _as_intervals(values: Any, name: str) -> np.ndarray:
    array = as_array(values, name)
    if array.size == 0:
        return np.empty((0, 2))
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold numbers, seconds, got {array.dtype}.")
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"{name} must have the shape (rows, 2), start and end, got {array.shape}.")
    array = array.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1) | (array[:, 1] < array[:, 0]))
    if len(wrong):
        start, end = array[wrong[0]]
        raise ValueError(
            f"{name} holds {start:g} to {end:g} in row {wrong[0]}; start and end must be numbers in order."
        )
    return array
