# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Metrics on arrays.

Shapes: n rows (images), c classes. Larger scores are better; targets are class indices `(n,)`, or bool `(n, c)` where
a row may have several classes. Arrays, lists and tensors are accepted; sums are float64. Shares are from 0 to 1. Of
classes with equal scores, the lower index comes first, as in a stable sort in descending order.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...utils.wording import listed
from .metric_inputs import (
    as_array,
    as_flags,
    as_integers,
    as_numbers,
    as_positive_integer,
    as_scores_and_targets,
    as_shares,
    as_weights,
    check_length,
    scaled,
)
from .statistics import (
    BLOCK,
    ROW_VALUES,
    Statistic,
    area_under_roc,
    eleven_points,
    mean_by_class,
    mean_of_classes,
    mean_of_rows,
)


# ------------------------------------------------------------------------------------------------------------ accuracy


def target_ranks(scores: Any, targets: Any) -> np.ndarray:
    """Rank of each row's class among all classes, sorted by score; 0 is the best.

    With scores `[0.2, 0.5, 0.2]`, class 1 has rank 0, class 0 rank 1 and class 2, equal but later, rank 2.

    Args:
        scores (array of shape `(n, c)`): A score for each class; larger is better.
        targets (int array of shape `(n,)`): The true classes, from 0 to c - 1.

    Returns:
        `np.ndarray` of shape `(n,)`, int64.

    Raises:
        ValueError: if shapes do not fit, `scores` holds NaN or is empty, or a target is no column of `scores`.
        TypeError: if targets are not integers, such as names of classes.
    """
    scores, targets = as_scores_and_targets(scores, targets)
    ranks = np.empty(len(scores), dtype=np.int64)
    rows = max(1, BLOCK // scores.shape[1])
    columns = np.arange(scores.shape[1])
    for start in range(0, len(scores), rows):
        block, target = scores[start : start + rows], targets[start : start + rows, None]
        target_scores = np.take_along_axis(block, target, axis=1)
        better = (block > target_scores) | ((block == target_scores) & (columns < target))
        ranks[start : start + rows] = better.sum(axis=1)
    return ranks


def best_target_ranks(scores: Any, targets: Sequence[int | Sequence[int]]) -> np.ndarray:
    """Like `target_ranks` where a row may have several right columns: the rank of the best of them.

    With scores `[0.2, 0.8, 0.6]` and the right columns 0 and 2, it is 1.

    Args:
        scores (array of shape `(n, c)`): A score for each candidate.
        targets (sequence of n `int` or sequences of `int`): Each row's right columns, at least one.

    Returns:
        `np.ndarray` of shape `(n,)`, int64: ranks; 0 is the best.

    Raises:
        ValueError, TypeError: as `target_ranks`; also if a row has no right column.
    """
    scores = as_numbers(scores, "scores", 2)
    rows = [as_integers(np.atleast_1d(as_array(row, "targets")), f"targets[{i}]") for i, row in enumerate(targets)]
    check_length(rows, len(scores), "targets")
    lengths, flat, columns = [len(row) for row in rows], np.concatenate(rows), scores.shape[1]
    wrong = flat[(flat < 0) | (flat >= columns)]
    if len(wrong):
        raise ValueError(f"targets has column {wrong[0]}, but scores has {columns} columns: 0 to {columns - 1}.")
    values = scores[np.repeat(np.arange(len(scores)), lengths), flat]
    # Of a row's right columns: by row, then best first, then the lower column.
    order = np.lexsort((flat, -values, np.repeat(np.arange(len(scores)), lengths)))
    return target_ranks(scores, flat[order][np.cumsum([0, *lengths[:-1]])])


def top_k_accuracy(scores: Any, targets: Any, k: int = 1, weights: Any = None) -> float:
    """Share of the rows whose class is among the k with the largest scores.

    With scores `[[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.5, 0.4]]` and targets `[0, 1, 0]`, the ranks are 0, 1 and
    2: top-1 accuracy is 1/3, top-2 accuracy 2/3.

    Args:
        scores (array of shape `(n, c)`): A score for each class; larger is better.
        targets (int array of shape `(n,)`): The true classes, from 0 to c - 1.
        k (`int`, *optional*, defaults to 1): How many guesses there are, at most c.
        weights (array of shape `(n,)`, *optional*): How much each row counts; all the same by default.

    Returns:
        `float`: a share from 0 to 1.

    Raises:
        ValueError, TypeError: as `target_ranks`; also if k is not an integer from 1 to c, or weights are negative,
            infinite or all zero.
    """
    k, ranks = as_positive_integer(k, "k"), target_ranks(scores, targets)
    classes = np.shape(scores)[1]
    if k > classes:
        raise ValueError(f"k is {k}, but there are {classes} classes only: every class would count as right.")
    return _mean(ranks < k, weights)


def _mean(values: np.ndarray, weights: Any) -> float:
    return float(_value(mean_of_rows(values), len(values), weights))


def _value(statistic: Statistic, rows: int, weights: Any) -> Any:
    """A statistic's value for one set of weights, or for none."""
    return statistic(as_weights(weights, rows)[None])[0]


def top1_top5_mean(scores: Any, targets: Any, weights: Any = None) -> float:
    """Mean of top-1 and top-5 accuracy, the paper's metric for Kinetics700 (appendix A.1).

    If the class of one row of two comes first and that of the other fourth, top-1 is 1/2 and top-5 is 1: the mean is
    3/4.

    Args:
        scores, targets, weights: As in `top_k_accuracy`; at least 5 classes.

    Returns:
        `float`: a share from 0 to 1.

    Raises:
        ValueError, TypeError: as `top_k_accuracy`.
    """
    ranks = target_ranks(scores, targets)
    if np.shape(scores)[1] < 5:
        raise ValueError(f"Top-5 accuracy needs at least 5 classes, scores has {np.shape(scores)[1]}.")
    return _mean(ROW_VALUES["top1_top5_mean"](ranks), weights)


def per_class_accuracy(scores: Any, targets: Any, weights: Any = None) -> np.ndarray:
    """Top-1 accuracy of each class's rows.

    If class 0 has 4 rows of which 3 are right, and class 1 has 1 that is wrong, it is `[0.75, 0.0]`.

    Args:
        scores, targets, weights: As in `top_k_accuracy`.

    Returns:
        `np.ndarray` of shape `(c,)`, float64: shares from 0 to 1; NaN for classes without a row of positive weight.

    Raises:
        ValueError, TypeError: as `top_k_accuracy`.
    """
    return _value(_per_class(scores, targets), len(scores), weights)


def _per_class(scores: Any, targets: Any) -> Statistic:
    scores, targets = as_scores_and_targets(scores, targets)
    right = scores.argmax(axis=1) == targets  # the first of equal ones, as everywhere here
    return mean_by_class(right, targets, scores.shape[1])


def mean_per_class_accuracy(scores: Any, targets: Any, weights: Any = None) -> float:
    """Mean of the classes' accuracies (balanced accuracy), the paper's metric for datasets such as Oxford Pets.

    If class 0 has 4 rows of which 3 are right, and class 1 has 1 that is wrong, it is (0.75 + 0) / 2 = 0.375; accuracy
    is 3/5.

    Args:
        scores, targets: As in `top_k_accuracy`; each class has at least one row.
        weights (array of shape `(n,)`, *optional*): How much each row counts within its class.

    Returns:
        `float`: a share from 0 to 1.

    Raises:
        ValueError, TypeError: as `top_k_accuracy`; also if a class has no row (of positive weight), naming it.
    """
    return _mean_of_all_classes(per_class_accuracy(scores, targets, weights), "row")


def _mean_of_all_classes(values: np.ndarray, what: str) -> float:
    empty = [str(place) for place in np.flatnonzero(np.isnan(values))]
    if empty:
        raise ValueError(
            f"Class {listed(empty, 5)} has no {what} of positive weight, so that the mean over "
            f"all {len(values)} classes has no value. Leave such classes out of scores and targets, or take more rows."
        )
    return float(values.mean())


def confusion_matrix(scores: Any, targets: Any) -> np.ndarray:
    """Number of rows by true class and guessed class.

    With scores `[[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]]` and targets `[0, 0, 1]` it is `[[1, 1], [1, 0]]`.

    Args:
        scores, targets: As in `target_ranks`.

    Returns:
        `np.ndarray` of shape `(c, c)`, int64: a row for each true class, a column for each guess.

    Raises:
        ValueError, TypeError: as `target_ranks`.
    """
    scores, targets = as_scores_and_targets(scores, targets)
    classes = scores.shape[1]
    cells = targets * classes + scores.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


# ------------------------------------------------------------------------------------------- precision, ROC, retrieval


def average_precision_11point(scores: Any, targets: Any, weights: Any = None) -> float:
    """Average precision of PASCAL VOC 2007: mean of the interpolated precision at recall 0, 0.1, ..., 1.

    The interpolated precision at recall r is the largest precision at any recall of r or more. Rows of equal score
    enter together. With the positives first and third of three rows, the precision is 1 up to recall 1/2 (6 points)
    and 2/3 up to recall 1 (5 points): (6 + 5 * 2/3) / 11 = 28/33.

    Args:
        scores (array of shape `(n,)`): A score for each row; larger is surer.
        targets (bool array of shape `(n,)`): Whether the row has the class; at least one has.
        weights (array of shape `(n,)`, *optional*): How much each row counts.

    Returns:
        `float`: a share from 0 to 1.

    Raises:
        ValueError: if shapes do not fit, `scores` holds NaN, targets are not 0 or 1, or none is positive.
        TypeError: if targets are no numbers.
    """
    scores = as_numbers(scores, "scores", 1)
    targets = as_flags(targets, scores.shape)
    value = float(_value(eleven_points(scores, targets), len(scores), weights))
    if np.isnan(value):
        raise ValueError("No row of positive weight is positive, so that recall has no value.")
    return value


def map_11point(scores: Any, targets: Any, weights: Any = None) -> float:
    """Mean of the classes' 11-point average precisions, the paper's metric for VOC 2007 (appendix A.1).

    With the positives of class 0 first and third of three rows (28/33) and that of class 1 first (1), it is 61/66.

    Args:
        scores (array of shape `(n, c)`): A score for each class.
        targets (bool array of shape `(n, c)`): Which classes each row has; every class has at least one row.
        weights (array of shape `(n,)`, *optional*): How much each row counts.

    Returns:
        `float`: a share from 0 to 1.

    Raises:
        ValueError, TypeError: as `average_precision_11point`; also if a class has no positive row, naming it.
    """
    values = _value(_eleven_points_by_class(scores, targets), len(scores), weights)
    return _mean_of_all_classes(values, "positive row")


def _eleven_points_by_class(scores: Any, targets: Any) -> Statistic:
    scores = as_numbers(scores, "scores", 2)
    flags = as_flags(targets, scores.shape)
    classes = [eleven_points(scores[:, i], flags[:, i]) for i in range(scores.shape[1])]
    return lambda weights: np.stack([statistic(weights) for statistic in classes], axis=1)


def roc_auc(scores: Any, targets: Any, weights: Any = None) -> float:
    """Area under the ROC curve: how often a positive row scores above a negative one, a tie counting half.

    The paper's metric for Hateful Memes (appendix A.1). With positives at 0.9 and 0.4 and negatives at 0.4 and 0.1,
    the four pairs give 1, 1, 1/2 and 1: 0.875.

    Args:
        scores (array of shape `(n,)`): A score for each row; larger is surer that it is positive.
        targets (array of shape `(n,)`): 1 or True for positive rows, 0 or False for negative ones; both occur.
        weights (array of shape `(n,)`, *optional*): How much each row counts.

    Returns:
        `float`: a share from 0 to 1; 0.5 by chance.

    Raises:
        ValueError, TypeError: as `average_precision_11point`; also if all targets are the same.
    """
    scores = as_numbers(scores, "scores", 1)
    targets = as_flags(targets, scores.shape)
    row_weights = as_weights(weights, len(scores))
    for side, name in ((targets, "positive"), (~targets, "negative")):
        if not row_weights[side].any():
            raise ValueError(f"No row of positive weight is {name}; the area under the ROC curve needs both kinds.")
        row_weights[side] = scaled(row_weights[side])
    return float(area_under_roc(scores, targets)(row_weights[None])[0])


def recall_at_k(ranks: Any, k: int, weights: Any = None) -> float:
    """Share of the queries that have a right candidate among the first k (R@k).

    With ranks `[0, 3, 12]`, R@1 is 1/3 and R@5 is 2/3.

    Args:
        ranks (int array of shape `(n,)`): Rank of each query's first right candidate; 0 is the best.
        k (`int`): Number of first candidates.
        weights (array of shape `(n,)`, *optional*): How much each query counts.

    Returns:
        `float`: a share from 0 to 1.

    Raises:
        ValueError: if ranks are empty or negative, or k is below 1.
        TypeError: if ranks or k are not integers.
    """
    ranks, k = _ranks(ranks), as_positive_integer(k, "k")
    return _mean(ranks < k, weights)


def median_rank(ranks: Any) -> float:
    """Median of the ranks, counted from 1 as the literature does.

    With ranks `[0, 3, 12]` it is 4; with `[0, 3]`, half way between 1 and 4, it is 2.5.

    Args:
        ranks (int array of shape `(n,)`): Rank of each query's first right candidate; 0 is the best.

    Returns:
        `float`: 1 is the best.

    Raises:
        ValueError: if ranks are empty or negative.
        TypeError: if ranks are not integers.
    """
    return float(np.median(_ranks(ranks)) + 1)


def _ranks(ranks: Any) -> np.ndarray:
    ranks = as_integers(ranks, "ranks")
    if ranks.min() < 0:
        raise ValueError(f"ranks are counted from 0, got {ranks.min()}.")
    return ranks


# ------------------------------------------------------------------------------------------------------------- by name


CLASSIFICATION_METRICS: dict[str, Callable[..., float]] = {
    "top1": lambda scores, targets, weights=None: top_k_accuracy(scores, targets, 1, weights),
    "top5": lambda scores, targets, weights=None: top_k_accuracy(scores, targets, 5, weights),
    "mean_per_class": mean_per_class_accuracy,
    "map_11point": map_11point,
    "roc_auc": lambda scores, targets, weights=None: roc_auc(_margins(scores), targets, weights),
    "top1_top5_mean": top1_top5_mean,
}
"""Metrics of a score matrix `(n, c)` by name, called with scores, targets and, optionally, weights."""


def classification_statistic(metric: str, scores: np.ndarray, targets: np.ndarray) -> Statistic:
    """The named metric as a function of many sets of weights at once; a class without rows is left out of a mean."""
    if metric == "map_11point":
        return mean_of_classes(_eleven_points_by_class(scores, targets))
    if metric == "roc_auc":
        return area_under_roc(_margins(scores), targets)
    if metric == "mean_per_class":
        return mean_of_classes(_per_class(scores, targets))
    return mean_of_rows(ROW_VALUES[metric](target_ranks(scores, targets)))


def _margins(scores: Any) -> np.ndarray:
    """How much higher class 1 scores than class 0."""
    scores = as_numbers(scores, "scores", 2)
    if scores.shape[1] != 2:
        raise ValueError(f"roc_auc is for 2 classes, the second of which is the positive one; got {scores.shape[1]}.")
    return np.subtract(scores[:, 1], scores[:, 0], dtype=np.float64)


# ------------------------------------------------------------------------------------------------ effective robustness


class LogitLine(NamedTuple):
    """The line logit(y) = slope * logit(x) + intercept, where logit(p) = log(p / (1 - p)).

    Args:
        slope (`float`): Change of logit(y) by logit(x).
        intercept (`float`): logit(y) where logit(x) is 0.
        r_squared (`float`): Share of the logits' variance that the line explains; NaN where all y are the same.
    """

    slope: float
    intercept: float
    r_squared: float

    def predict(self, accuracy: Any) -> np.ndarray:
        """Accuracy under shift that the line gives for a reference accuracy; an array of the same shape."""
        return (1 + np.tanh((self.slope * _logit(accuracy, "accuracy") + self.intercept) / 2)) / 2


def _logit(values: Any, name: str) -> np.ndarray:
    array = as_shares(values, name)
    if (array == 0).any() or (array == 1).any():
        raise ValueError(f"{name} holds an accuracy of exactly 0 or 1, which has no logit; leave that model out.")
    return np.log(array) - np.log1p(-array)


def fit_logit_line(accuracy: Any, shifted_accuracy: Any) -> LogitLine:
    """Least-squares line between the logits of models' accuracies on two test sets (Taori et al. 2020).

    Through (0.5, 0.5) and (0.8, 0.5), whose logits are (0, 0) and (log 4, 0), it has slope 0 and intercept 0.

    Args:
        accuracy (array of shape `(m,)`): Each model's accuracy on the reference set; a share between 0 and 1.
        shifted_accuracy (array of shape `(m,)`): Each model's accuracy under shift.

    Returns:
        `LogitLine`: slope, intercept and share of variance explained.

    Raises:
        ValueError: if there are fewer than two different reference accuracies, or one is not between 0 and 1.
        TypeError: if something is no number.
    """
    x, y = _logit(accuracy, "accuracy"), _logit(shifted_accuracy, "shifted_accuracy")
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"Both accuracies must have one shape (models,), got {x.shape} and {y.shape}.")
    if (x == x[0]).all():
        raise ValueError(f"A line needs two models of different accuracy; got {len(x)} of one and the same.")
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    r_squared = float((dx @ dy) ** 2 / ((dx @ dx) * (dy @ dy))) if dy.any() else float("nan")
    return LogitLine(slope, float(y.mean() - slope * x.mean()), r_squared)


def effective_robustness(
    accuracy: Any, shifted_accuracy: Any, baseline_accuracy: Any, baseline_shifted_accuracy: Any
) -> np.ndarray:
    """Accuracy under shift above what standard models of the same reference accuracy reach (Taori et al. 2020).

    The paper's section 3.3. If the baseline's line is logit(y) = logit(x) - log 4, a model with 0.8 on the reference
    set is expected at 0.5 under shift; one that reaches 0.6 has an effective robustness of 0.1.

    Args:
        accuracy (array of shape `(m,)`, or `float`): The models' accuracy on the reference set; a share between 0 and
            1.
        shifted_accuracy (array of the same shape): Their accuracy under shift; a share from 0 to 1.
        baseline_accuracy (array of shape `(b,)`): Standard models' accuracy on the reference set, at least two
            different ones.
        baseline_shifted_accuracy (array of shape `(b,)`): Standard models' accuracy under shift.

    Returns:
        `np.ndarray` of the shape of `accuracy`, float64: a difference of shares, from -1 to 1.

    Raises:
        ValueError: if shapes differ, an accuracy is no share, or the baseline makes no line.
        TypeError: if something is no number.
    """
    accuracy, shifted = as_array(accuracy, "accuracy"), as_shares(shifted_accuracy, "shifted_accuracy")
    if accuracy.shape != shifted.shape:
        raise ValueError(
            f"accuracy has the shape {accuracy.shape}, shifted_accuracy {shifted.shape}; give one of each."
        )
    return shifted - fit_logit_line(baseline_accuracy, baseline_shifted_accuracy).predict(accuracy)
