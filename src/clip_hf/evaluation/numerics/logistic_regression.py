# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Logistic regression on features, for linear probes and few-shot classifiers (paper, 3.2 and appendix A.3).

The objective is that of scikit-learn's `LogisticRegression` with `C = 1 / penalty`: the sum of cross-entropies plus
`penalty / 2` times the squared norm of the coefficients; the intercept is free.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from ...utils.wording import listed
from .metric_inputs import as_array, check_matrix
from .newton import Minimum, Problem, minimise


# How many solved penalties the start for another one is interpolated between.
_POINTS = 4


@dataclass(frozen=True, kw_only=True)
class LogisticRegressionOptions:
    """How a logistic regression is solved.

    Args:
        max_iterations (`int`, *optional*, defaults to 1000): Largest number of iterations, the paper's. Each
            multiplies by the features twice, as an iteration of L-BFGS does.
        tolerance (`float`, *optional*, defaults to 1e-4): The search has converged where the gradient's norm is at
            most this multiple of the norm of the penalty's part of it (or mere rounding, in double precision). This
            bounds the relative error of the coefficients, however small the penalty is. scikit-learn's default, 1e-4
            on the mean loss, stops long before the minimum if the penalty is small.
        intercept (`bool`, *optional*, defaults to `True`): Whether the model has an intercept.
        device (`str` or `torch.device`, *optional*): Where to compute; by default where the features are: numpy arrays
            on the CPU.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float64`): Precision. `torch.float32` takes half the
            memory and less time. If the penalty is small, rounding stops it before the minimum; the result then says
            that it has not converged.

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
    """A linear classifier and how the search for it ended.

    Args:
        coefficients (`np.ndarray`): (c, d) float64. With two classes, the rows are minus and plus half of
            scikit-learn's only row.
        intercept (`np.ndarray`): (c,) float64.
        penalty (`float`): Weight of the squared norm, lambda; scikit-learn's `1 / C`.
        objective (`float`): Value of the objective at the end.
        iterations (`int`): Conjugate gradient iterations made, over all Newton steps.
        gradient_norm (`float`): Euclidean norm of the objective's gradient, divided by the number of rows, for centred
            features.
        converged (`bool`): Whether the gradient came down to the tolerance.
    """

    coefficients: np.ndarray
    intercept: np.ndarray
    penalty: float
    objective: float
    iterations: int
    gradient_norm: float
    converged: bool

    def scores(self, features: np.ndarray | torch.Tensor) -> np.ndarray:
        """Logits of the classes, float64 (n, c), for features (n, d)."""
        if isinstance(features, torch.Tensor):
            # In double precision on the features' device, or on the CPU if that device has none.
            features = features.detach().to("cpu" if features.device.type == "mps" else features.device).double()
            weight, bias = (torch.from_numpy(x).to(features.device) for x in (self.coefficients, self.intercept))
            return torch.addmm(bias, features, weight.T).cpu().numpy()
        return np.asarray(features, dtype=np.float64) @ self.coefficients.T + self.intercept


class RegularizationPath:
    """Logistic regressions on the same rows for any number of penalties; each starts from what those before suggest.

    The arguments are those of [`fit_logistic_regression`].
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
        check_matrix(features, "features")
        labels = check_labels(labels, len(features), "labels", num_classes)
        num_classes = num_classes_of(labels) if num_classes is None else num_classes
        if self.options.intercept:  # without one, the penalty keeps the minimum of a class without rows finite
            check_all_classes(labels, num_classes, "labels")
        weights = _checked_weights(weights, len(features))
        _check_center(center, (num_classes, features.shape[1]))
        # Softmax' two rows are plus and minus w / 2, whose squared norms add up to half of ||w||^2.
        self._penalty_factor = 2 if labels.ndim == 1 and num_classes == 2 else 1
        device = self.options.device or (features.device if isinstance(features, torch.Tensor) else "cpu")
        if torch.device(device).type == "mps" and self.options.dtype == torch.float64:
            raise ValueError("MPS has no double precision; use device='cpu', or dtype=torch.float32.")
        features = torch.as_tensor(features).detach().to(device, self.options.dtype)
        self._problem = Problem(
            features, labels, num_classes, weights=weights, center=center, intercept=self.options.intercept
        )
        self._solved: dict[float, torch.Tensor] = {}  # logarithm of the penalty: position

    def solve(self, penalty: float) -> LinearClassifier:
        """Find the minimum for one penalty, more than 0. The result says whether it was reached; no warning does."""
        if not (math.isfinite(penalty) and penalty > 0):
            raise ValueError(f"`penalty` is {penalty}; it must be a positive number.")
        minimum = minimise(
            self._problem,
            self._penalty_factor * penalty,
            tolerance=self.options.tolerance,
            max_iterations=self.options.max_iterations,
            start=self._start(math.log(penalty)),
        )
        self._solved[math.log(penalty)] = minimum.position
        return self._result(minimum, penalty)

    def _start(self, place: float) -> torch.Tensor | None:
        """A start, interpolated along the logarithm of the penalty, in which coefficients change smoothly."""
        solved = sorted(self._solved, key=lambda other: (abs(other - place), other))
        if len(solved) < 2 or solved[0] == place:
            return self._solved[solved[0]] if solved else None
        if min(solved) < place < max(solved):
            # A cubic if there are enough points, with at least one point on either side.
            points = solved[:_POINTS]
            if (min(points) < place) == (max(points) < place):
                points[-1] = next(other for other in solved if (other < place) != (points[0] < place))
        else:
            points = solved[:2]  # a line, because a cubic bends away outside of its points
        weights = [math.prod((place - b) / (a - b) for b in points if b != a) for a in points]
        return sum(weight * self._solved[point] for weight, point in zip(weights, points))

    def _result(self, minimum: Minimum, penalty: float) -> LinearClassifier:
        coefficients, intercept = self._problem.in_features(minimum.position)
        # In double precision a gradient of mere rounding counts as converged, in single precision it does not.
        precision = torch.finfo(torch.float64).eps / torch.finfo(self.options.dtype).eps
        allowed = max(self.options.tolerance * minimum.penalty_norm, precision * self._problem.rounding)
        return LinearClassifier(
            coefficients=coefficients.double().cpu().numpy(),
            intercept=intercept.double().cpu().numpy(),
            penalty=float(penalty),
            objective=minimum.value,
            iterations=minimum.iterations,
            gradient_norm=minimum.gradient_norm / self._problem.total_weight,
            converged=minimum.gradient_norm <= allowed,
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
    """Fit a logistic regression.

    - Labels (n,): the classes exclude each other (softmax). Two classes are scikit-learn's binary problem, which has
      one row of coefficients and so half of the softmax' squared norm.
    - Labels (n, c) of `bool`: one regression for each class against the rest.

    Args:
        features (`np.ndarray` or `torch.Tensor`): (n, d).
        labels (`np.ndarray`): (n,) of integers from 0, each class at least once; or (n, c) of `bool`, each class with
            both values.
        penalty (`float`): Weight of the squared norm, scikit-learn's `1 / C`; more than 0.
        num_classes (`int`, *optional*): Number of classes; by default one more than the largest label.
        weights (`np.ndarray`, *optional*): (n,), factors of the rows' losses; more than 0.
        center (`np.ndarray`, *optional*): (c, d), the coefficients without penalty: `penalty / 2 * ||coefficients -
            center||^2` is added.
        options (`LogisticRegressionOptions`, *optional*): How it is solved.

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


def check_labels(labels: np.ndarray, rows: int, name: str, num_classes: int | None = None) -> np.ndarray:
    """Labels as an array (n,) int64 from 0, or (n, c) bool where an image may have several."""
    labels = as_array(labels, name)
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
    """Number of classes of checked labels: columns, or one more than the largest label."""
    return labels[0].shape[1] if labels[0].ndim == 2 else int(max(part.max() for part in labels)) + 1


def check_all_classes(labels: np.ndarray, num_classes: int, name: str) -> None:
    """Refuse checked training labels that lack a class, because its intercept would have no minimum."""
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
        shown = listed([str(label) for label in missing], 10)
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


def _check_center(center: np.ndarray | None, shape: tuple[int, int]) -> None:
    if center is None:
        return
    check_matrix(center, "center")
    if tuple(center.shape) != shape:
        raise ValueError(f"`center` has shape {tuple(center.shape)}; it must be (classes, features), here {shape}.")
