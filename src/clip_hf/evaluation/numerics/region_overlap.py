# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Mean intersection over union of class maps, over all pixels of all images."""

from typing import Any

import numpy as np

from .bootstrap import resampled_interval


def overlap_counts(predicted: Any, truth: Any, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of an image in the intersection and the union of each class, float64 (classes,) each.

    Pixels whose truth is -1 do not count. A predicted -1 is in no class: it counts as missed.

    Args:
        predicted, truth (integer arrays of one shape): Class of each pixel, -1 for none.
        num_classes (`int`): How many classes there are.

    Raises:
        TypeError: if a map holds no integers.
        ValueError: if the shapes differ or a class number is below -1 or not below `num_classes`.
    """
    maps = {"predicted": np.asarray(predicted), "truth": np.asarray(truth)}
    for name, values in maps.items():
        if values.dtype.kind not in "iu":
            raise TypeError(f"`{name}` holds {values.dtype}; it must hold whole numbers, a class for each pixel.")
        if values.size and not -1 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(
                f"`{name}` has classes from {values.min()} to {values.max()}; they must be from 0 to "
                f"{num_classes - 1}, or -1 for none."
            )
    predicted, truth = maps["predicted"], maps["truth"]
    if predicted.shape != truth.shape:
        raise ValueError(
            f"`predicted` has the shape {predicted.shape} and `truth` {truth.shape}; they must be of the same pixels."
        )
    counted = truth >= 0
    predicted, truth = predicted[counted], truth[counted]
    common = np.bincount(truth[predicted == truth], minlength=num_classes)
    both = np.bincount(truth, minlength=num_classes) + np.bincount(predicted[predicted >= 0], minlength=num_classes)
    return common.astype(np.float64), (both - common).astype(np.float64)


def _mean_ious(weights: np.ndarray, intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    common, either = weights @ intersections, weights @ unions  # (r, classes)
    with np.errstate(invalid="ignore"):
        return np.nanmean(np.where(either > 0, common / either, np.nan), axis=1)


def mean_iou(intersections: np.ndarray, unions: np.ndarray) -> float:
    """Mean over classes of the intersections of all images by their unions; classes that are nowhere do not count.

    Two pixels of class 0 and 1, both predicted 0: class 0 has 1 / 2, class 1 has 0 / 1, the mean is 0.25.

    Args:
        intersections, unions (arrays of shape `(n, classes)`): Of [`overlap_counts`], for each image.

    Raises:
        ValueError: if no pixel counts.
    """
    if not np.any(unions):
        raise ValueError("No pixel has a class; give images with at least one.")
    return float(_mean_ious(np.ones((1, len(unions))), np.asarray(intersections), np.asarray(unions))[0])


def mean_iou_interval(
    intersections: np.ndarray,
    unions: np.ndarray,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap of [`mean_iou`] over images; arguments as there and in `bootstrap_interval`."""
    return resampled_interval(
        lambda weights: _mean_ious(weights, intersections, unions), len(unions), resamples, confidence, seed
    )
