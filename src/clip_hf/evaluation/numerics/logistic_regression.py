# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Logistic regression by L-BFGS on features, for linear probes and few-shot classifiers (paper, 3.2 and appendix A.3).

The objective is that of scikit-learn's `LogisticRegression` with `C = 1 / penalty`: the sum of cross-entropies plus
`penalty / 2` times the squared norm of the coefficients; the intercept is free.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from .newton import Minimum, Problem, minimise


# Solved penalties between which the start for another one is interpolated.
_POINTS = 4


@dataclass(frozen=True, kw_only=True)
class LogisticRegressionOptions:
    """
    How a logistic regression is solved.

    Args:
        max_iterations (`int`, *optional*, defaults to 1000):
            L-BFGS iterations at most, as in the paper.
        tolerance (`float`, *optional*, defaults to 1e-4):
            Converged is where the norm of the gradient is at most so many times the norm of the penalty's part of it
            (or mere rounding, in double precision). It bounds the relative error of the coefficients, however small
            the penalty. scikit-learn's default, 1e-4 on the mean loss, stops long before the minimum where that is
            small.
        intercept (`bool`, *optional*, defaults to `True`):
            Whether there is one.
        device (`str` or `torch.device`, *optional*):
            Where to compute; by default where the features are: numpy arrays on the CPU.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float64`):
            Precision. `torch.float32` takes half the memory and less time; where the penalty is small, rounding stops
            it before the minimum, which is then reported as not converged.

    Raises:
        ValueError: If a value is not allowed.
    """

    max_iterations: int = 1000
    tolerance: float = 1e-4
    intercept: bool = True
    device: str | torch.device | None = None
    dtype: torch.dtype = torch.float64

    def __post_init__(self):
        if self.max_iterations < 1:
            raise ValueError(f"`max_iterations` is {self.max_iterations}; it must be at least 1.")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"`tolerance` is {self.tolerance}; it must be more than 0 and less than 1.")
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"`dtype` is {self.dtype}; it must be torch.float64 or torch.float32.")


@dataclass(kw_only=True)
class LinearClassifier:
    """
    A linear classifier, and how the search for it ended.

    Args:
        coefficients (`np.ndarray`):
            (c, d) float64. Of two classes, the rows are minus and plus half of what scikit-learn has as its only row.
        intercept (`np.ndarray`):
            (c,) float64.
        penalty (`float`):
            Weight of the squared norm, lambda; scikit-learn's `1 / C`.
        objective (`float`):
            What was minimised, at its end.
        iterations (`int`):
            L-BFGS iterations made.
        gradient_norm (`float`):
            Euclidean norm of the gradient of the objective per row, for centred features.
        converged (`bool`):
            Whether the gradient came down to the tolerance.
    """

    coefficients: np.ndarray
    intercept: np.ndarray
    penalty: float
    objective: float
    iterations: int
    gradient_norm: float
    converged: bool

    def scores(self, features: np.ndarray | torch.Tensor) -> np.ndarray:
        """
        Logits of the classes.

        Args:
            features (`np.ndarray` or `torch.Tensor`):
                (n, d).

        Returns:
            `np.ndarray`: (n, c) float64.
        """
        if isinstance(features, torch.Tensor):
            # Double precision where the features are, but for devices that have none.
            features = features.detach().to("cpu" if features.device.type == "mps" else features.device).double()
            weight, bias = (torch.from_numpy(x).to(features.device) for x in (self.coefficients, self.intercept))
            return torch.addmm(bias, features, weight.T).cpu().numpy()
        return np.asarray(features, dtype=np.float64) @ self.coefficients.T + self.intercept


class RegularizationPath:
    """
    Logistic regressions on the same rows for any number of penalties. Each starts from what those before it suggest.

    - Labels (n,) are of `num_classes` classes that exclude each other: softmax. Two classes are scikit-learn's binary
      problem, which has one row of coefficients and thus half of the softmax' squared norm.
    - Labels (n, c) of `bool` are a regression of its own for each class: one against the rest.

    Args:
        features (`np.ndarray` or `torch.Tensor`):
            (n, d).
        labels (`np.ndarray`):
            (n,) of integers from 0, each class at least once; or (n, c) of `bool`, each class with both values.
        num_classes (`int`, *optional*):
            Number of classes; by default one more than the largest label.
        weights (`np.ndarray`, *optional*):
            (n,), by which the rows' losses are multiplied; more than 0.
        center (`np.ndarray`, *optional*):
            (c, d), from which the penalty measures: `penalty / 2 * ||coefficients - center||^2`.
        options (`LogisticRegressionOptions`, *optional*):
            How it is solved.

    Raises:
        TypeError: If labels are no integers.
        ValueError: If shapes disagree, features are not finite, or a class has no row.
    """

    def __init__(
        self,
        features: np.ndarray | torch.Tensor,
        labels: np.ndarray,
        *,
        num_classes: int | None = None,
        weights: np.ndarray | None = None,
        center: np.ndarray | None = None,
        options: LogisticRegressionOptions | None = None,
    ):
        self.options = options or LogisticRegressionOptions()
        check_features(features, "features")
        self._labels = check_labels(labels, len(features), "labels", num_classes)
        self._num_classes = num_classes_of(self._labels) if num_classes is None else num_classes
        check_all_classes(self._labels, self._num_classes, "labels")
        self._weights = _checked_weights(weights, len(features))
        self._center = _checked_center(center, (self._num_classes, features.shape[1]))
        device = self.options.device or (features.device if isinstance(features, torch.Tensor) else "cpu")
        if torch.device(device).type == "mps" and self.options.dtype == torch.float64:
            raise ValueError("MPS has no double precision; use device='cpu', or dtype=torch.float32.")
        self._features = torch.as_tensor(features).detach().to(device, self.options.dtype)
        self._problem = Problem(
            self._features,
            self._labels,
            self._num_classes,
            weights=self._weights,
            center=center,
            intercept=self.options.intercept,
        )
        self._solved: dict[float, torch.Tensor] = {}  # logarithm of the penalty: position

    def solve(self, penalty: float) -> LinearClassifier:
        """
        The minimum for one penalty. Whether it was reached is in the result, and nowhere else.

        Args:
            penalty (`float`):
                More than 0.

        Returns:
            [`LinearClassifier`]

        Raises:
            ValueError: If `penalty` is not a positive number.
        """
        if not (math.isfinite(penalty) and penalty > 0):
            raise ValueError(f"`penalty` is {penalty}; it must be a positive number.")
        self._problem.rotate()
        found = minimise(
            self._problem,
            self._per_column(penalty),
            tolerance=self.options.tolerance,
            max_iterations=self.options.max_iterations,
            start=self._start(math.log(penalty)),
        )
        self._solved[math.log(penalty)] = found.position
        return self._result(*self._problem.in_features(found.position), penalty, found)

    def _start(self, place: float) -> torch.Tensor | None:
        """Interpolated along the logarithm of the penalty, in which coefficients change smoothly."""
        solved = sorted(self._solved, key=lambda other: (abs(other - place), other))
        if len(solved) < 2 or solved[0] == place:
            return self._solved[solved[0]] if solved else None
        if min(solved) < place < max(solved):
            # A cubic, if there are points for it, with at least one point on either side.
            points = solved[:_POINTS]
            if (min(points) < place) == (max(points) < place):
                points[-1] = next(other for other in solved if (other < place) != (points[0] < place))
        else:
            points = solved[:2]  # a line: more bends away outside of the points
        weights = [math.prod((place - b) / (a - b) for b in points if b != a) for a in points]
        return sum(weight * self._solved[point] for weight, point in zip(weights, points))

    def _per_column(self, penalty: float) -> float:
        # Softmax' two rows are plus and minus w / 2, whose squared norms add up to half of ||w||^2.
        return 2 * penalty if self._labels.ndim == 1 and self._num_classes == 2 else penalty

    def _result(
        self, coefficients: torch.Tensor, intercept: torch.Tensor, penalty: float, found: Minimum
    ) -> LinearClassifier:
        # A gradient of nothing but rounding is as good as none in double precision. In single precision it is not.
        precision = torch.finfo(torch.float64).eps / torch.finfo(self.options.dtype).eps
        allowed = max(self.options.tolerance * found.penalty_norm, precision * self._problem.rounding)
        return LinearClassifier(
            coefficients=coefficients.double().cpu().numpy(),
            intercept=intercept.double().cpu().numpy(),
            penalty=float(penalty),
            objective=found.value,
            iterations=found.iterations,
            gradient_norm=found.gradient_norm / self._problem.total_weight,
            converged=found.gradient_norm <= allowed,
        )


def fit_logistic_regression(
    features: np.ndarray | torch.Tensor,
    labels: np.ndarray,
    penalty: float,
    *,
    num_classes: int | None = None,
    weights: np.ndarray | None = None,
    center: np.ndarray | None = None,
    options: LogisticRegressionOptions | None = None,
) -> LinearClassifier:
    """
    One logistic regression; [`RegularizationPath`] is for several penalties, and explains the arguments.

    Args:
        features (`np.ndarray` or `torch.Tensor`):
            (n, d).
        labels (`np.ndarray`):
            (n,) of integers, or (n, c) of `bool`.
        penalty (`float`):
            Weight of the squared norm, scikit-learn's `1 / C`.
        num_classes (`int`, *optional*):
            Number of classes.
        weights (`np.ndarray`, *optional*):
            (n,), of the rows.
        center (`np.ndarray`, *optional*):
            (c, d), from which the penalty measures.
        options (`LogisticRegressionOptions`, *optional*):
            How it is solved.

    Returns:
        [`LinearClassifier`]

    Raises:
        TypeError: If labels are no integers.
        ValueError: If shapes disagree, features are not finite, or a class has no row.
    """
    path = RegularizationPath(
        features, labels, num_classes=num_classes, weights=weights, center=center, options=options
    )
    return path.solve(penalty)


# ----------------------------------------------------------------------------------------------------------- checks


def check_features(features: np.ndarray | torch.Tensor, name: str, width: int | None = None) -> None:
    """
    Refuse features that are no matrix of finite numbers.

    Args:
        features (`np.ndarray` or `torch.Tensor`):
            What should be (n, d).
        name (`str`):
            What to call them in a message.
        width (`int`, *optional*):
            The d that they must have.

    Raises:
        TypeError: If they are neither an array nor a tensor of numbers.
        ValueError: If the shape is wrong, or a value not finite.
    """
    if not isinstance(features, np.ndarray | torch.Tensor):
        raise TypeError(
            f"{name} are {type(features).__name__}; give a numpy array or a tensor of shape (rows, features)."
        )
    if isinstance(features, np.ndarray) and features.dtype.kind not in "fiu":
        raise TypeError(f"{name} are of dtype {features.dtype}; give real numbers.")
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} have shape {tuple(features.shape)}; give (rows, features), at least one of each.")
    if width is not None and features.shape[1] != width:
        raise ValueError(
            f"{name} have {features.shape[1]} features a row where others have {width}; encode all splits "
            "with one model."
        )
    finite = torch.isfinite(torch.as_tensor(features)).all(dim=1)
    if not finite.all():
        rows = (~finite).nonzero().flatten()
        raise ValueError(
            f"{name} have NaN or infinite values in {len(rows)} of {len(features)} rows, the first of them row "
            f"{rows[0].item()}; look at the image of that row, or encode in a wider dtype than float16."
        )


def check_labels(labels: np.ndarray, rows: int, name: str, num_classes: int | None = None) -> np.ndarray:
    """
    Labels as they are needed.

    Args:
        labels (`np.ndarray`, `torch.Tensor` or list):
            (n,) of integers from 0, or (n, c) of `bool` where an image may have several.
        rows (`int`):
            The n they must have.
        name (`str`):
            What to call them in a message.
        num_classes (`int`, *optional*):
            Number of classes, where it is known.

    Returns:
        `np.ndarray`: (n,) int64, or (n, c) bool.

    Raises:
        TypeError: If they are strings or fractions.
        ValueError: If their number, or one of them, is wrong.
    """
    labels = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if labels.ndim not in (1, 2) or len(labels) != rows:
        raise ValueError(f"{name} have shape {labels.shape}; give one for each of the {rows} rows of features.")
    if labels.dtype.kind in "USOT":
        raise TypeError(
            f"{name} are strings or objects such as {str(labels.flat[0])!r}; encode them as integers from 0, or make "
            "the column a ClassLabel with the class names (`dataset.class_encode_column`)."
        )
    if labels.ndim == 2:
        if labels.dtype != bool:
            raise TypeError(
                f"{name} of shape {labels.shape} are {labels.dtype}; several labels an image must be bool."
            )
        if num_classes not in (None, labels.shape[1]):
            raise ValueError(f"{name} have {labels.shape[1]} columns, but there are {num_classes} classes.")
        return labels
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name} are of dtype {labels.dtype}; give integers from 0.")
    labels = labels.astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= (num_classes or np.iinfo(np.int64).max)))
    if len(wrong):
        allowed = "0 and more" if num_classes is None else f"0 to {num_classes - 1}"
        raise ValueError(f"{name} have {labels[wrong[0]]} in row {wrong[0]}; allowed are {allowed}.")
    return labels


def num_classes_of(*labels: np.ndarray) -> int:
    """How many classes checked labels have: columns, or one more than the largest."""
    return labels[0].shape[1] if labels[0].ndim == 2 else int(max(part.max() for part in labels)) + 1


def check_all_classes(labels: np.ndarray, num_classes: int, name: str) -> None:
    """
    Refuse labels to train on that lack a class: its intercept would have no minimum.

    Args:
        labels (`np.ndarray`):
            Checked labels.
        num_classes (`int`):
            Number of classes.
        name (`str`):
            What to call them in a message.

    Raises:
        ValueError: If there is one class only, or a class has no row.
    """
    if labels.ndim == 2:
        counts = labels.sum(axis=0)
        missing = np.flatnonzero((counts == 0) | (counts == len(labels)))
        lack = "have the same value in every row for"
    else:
        if num_classes < 2:
            raise ValueError(f"{name} are all of one class; there is nothing to learn.")
        missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
        lack = "have no row of"
    if len(missing):
        shown = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise ValueError(
            f"{name} {lack} {len(missing)} of {num_classes} classes: {shown}. Leave these out of every split and "
            "number the others from 0, or add rows."
        )


def _checked_weights(weights: np.ndarray | None, rows: int) -> np.ndarray | None:
    if weights is None:
        return None
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (rows,) or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(f"`weights` have shape {weights.shape}; give {rows} positive numbers.")
    return weights


def _checked_center(center: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray | None:
    if center is None:
        return None
    check_features(center, "center")
    if tuple(center.shape) != shape:
        raise ValueError(f"`center` has shape {tuple(center.shape)}; it must be (classes, features), here {shape}.")
    return center


__all__ = [
    "LinearClassifier",
    "LogisticRegressionOptions",
    "RegularizationPath",
    "check_all_classes",
    "check_features",
    "check_labels",
    "fit_logistic_regression",
    "num_classes_of",
]
