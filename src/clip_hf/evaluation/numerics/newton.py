# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Truncated Newton method for penalised linear models, which `logistic_regression.py` minimises with.

Three choices make it fast and leave the minimum where it is:

- Features are centred, which changes the intercept only, and rotated to the axes of their covariance, which the L2
  penalty does not notice. With fewer rows than features, they are rotated into the few axes that the rows span.
- In these axes the Hessian is nearly diagonal, so its diagonal preconditions the conjugate gradients of a Newton step.
- Logits are linear in the coefficients, so a line search needs one product with the features, whatever it evaluates.

Library optimisers (L-BFGS of torch and scipy) search along a line by values of the objective. Near the minimum these
drown in rounding, and with a small penalty the search stops too early. Slopes do not drown, so they decide here.

Shapes: n rows, d features, c classes; r axes and one more for the intercept. Logits are (c, n), because reductions
over classes are several times faster so than in (n, c).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


# A Newton step is solved until its residual is at most this part of the gradient.
_FORCING = 0.3
# A line search ends where the slope is at most this part of the first slope, or after so many evaluations.
_SLOPE = 0.5
_LINE_SEARCH = 40


class Softmax:
    """Sum of weighted cross-entropies and its derivatives by the logits; labels are (n,) int64."""

    def __init__(self, labels: np.ndarray, weights: torch.Tensor | None, like: torch.Tensor):
        self._labels = torch.from_numpy(labels)[None].to(like.device)
        self._weights = weights
        ones = torch.ones(1, len(labels), dtype=like.dtype, device=like.device)
        self._minus = -ones if weights is None else -weights[None]

    def __call__(self, logits: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The loss, summed over rows, and its derivative by the logits (c, n), called the residual."""
        residual = torch.log_softmax(logits, dim=0)
        value = torch.dot(residual.gather(0, self._labels).flatten(), self._minus.flatten()).item()
        residual.exp_()
        if self._weights is not None:
            residual *= self._weights
        return value, residual.scatter_add_(0, self._labels, self._minus)

    def residual_change(self, logits: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """The residual's derivative at some logits: a function of their change (c, n)."""
        shares = torch.softmax(logits, dim=0)
        weighted = shares if self._weights is None else shares * self._weights
        return lambda change: weighted * (change - torch.linalg.vecdot(shares, change, dim=0))


class Sigmoid:
    """Sum of weighted binary cross-entropies of all classes and its derivatives; labels are (n, c) bool."""

    def __init__(self, labels: np.ndarray, weights: torch.Tensor | None, like: torch.Tensor):
        self._labels = torch.from_numpy(np.ascontiguousarray(labels.T)).to(like)
        self._weights = weights

    def __call__(self, logits: torch.Tensor) -> tuple[float, torch.Tensor]:
        """The loss, summed over rows and classes, and its derivative by the logits (c, n), called the residual."""
        # torch's softplus turns linear at its threshold; at 40 the difference is below float64's resolution.
        terms = torch.nn.functional.softplus(logits, threshold=40.0).addcmul_(logits, self._labels, value=-1)
        residual = torch.sigmoid(logits).sub_(self._labels)
        if self._weights is not None:
            terms *= self._weights
            residual *= self._weights
        return terms.sum().item(), residual

    def residual_change(self, logits: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """The residual's derivative at some logits: a function of their change (c, n)."""
        shares = torch.sigmoid(logits)
        slopes = shares * (1 - shares)
        if self._weights is not None:
            slopes *= self._weights
        return lambda change: slopes * change


class Problem:
    """The rows in the axes in which the regression is solved, and the loss on them.

    The device and dtype of the features (n, d) are those of the computation. Labels (n,) are for softmax, labels
    (n, c) for a regression of each class. The penalty is 0 where the coefficients are `center` (c, d), by default 0.
    """

    def __init__(
        self,
        features: torch.Tensor,
        labels: np.ndarray,
        num_classes: int,
        *,
        weights: np.ndarray | None = None,
        center: np.ndarray | None = None,
        intercept: bool = True,
    ):
        self.num_classes, self.intercept = num_classes, intercept
        self.total_weight = float(len(labels) if weights is None else weights.sum())
        self._weights = None if weights is None else torch.from_numpy(weights).to(features)
        self.balanced = labels.ndim == 1
        self.loss = (Softmax if self.balanced else Sigmoid)(labels, self._weights, features)
        self._center = None if center is None else torch.as_tensor(center).to(features)
        self.offset = None if self._center is None else self._center @ features.T  # (c, n)
        shares = features.new_ones(len(labels)) if self._weights is None else self._weights
        self._mean = shares @ features / self.total_weight if intercept else torch.zeros_like(features[0])
        centred = features - self._mean
        squared = (shares @ centred.square()).sum().item() + intercept * self.total_weight
        # A gradient of at most this norm may be nothing but rounding.
        self.rounding = 32 * torch.finfo(features.dtype).eps * math.sqrt(squared)
        self.axes = _own_axes(centred if self._weights is None else centred * self._weights.sqrt()[:, None])
        ones = torch.full_like(centred[:, :1], float(intercept))
        self.rows = torch.cat([centred @ self.axes, ones], dim=1)  # (n, r + 1)
        squares = self.rows.square()
        if self._weights is not None:
            squares *= self._weights[:, None]
        self.squares = squares.sum(dim=0, keepdim=True)  # (1, r + 1)

    def logits(self, position: torch.Tensor) -> torch.Tensor:
        """(c, n) at a position (c, r + 1)."""
        product = position @ self.rows.T
        return product if self.offset is None else product + self.offset

    def in_features(self, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Coefficients (c, d) and intercept (c,) for the features before the rotation."""
        coefficients = position[:, :-1] @ self.axes.T
        intercept = position[:, -1] - coefficients @ self._mean
        if self.balanced:
            intercept = intercept - intercept.mean()  # softmax ignores a constant
        if not self.intercept:
            intercept = torch.zeros_like(intercept)
        if self._center is not None:
            coefficients = coefficients + self._center
        return coefficients, intercept

    def curvature(self, residual: torch.Tensor) -> torch.Tensor:
        """Mean over rows of p (1 - p) for each class; (c, 1)."""
        # The residual is p - y, so its size is p or 1 - p.
        squares = residual.square() if self._weights is None else residual.square() / self._weights
        return (residual.abs() - squares).sum(dim=1, keepdim=True).clamp_min_(0) / self.total_weight


def _own_axes(rows: torch.Tensor) -> torch.Tensor:
    """Axes (d, r) in which centred rows (n, d) are uncorrelated."""
    if len(rows) >= rows.shape[1]:
        return torch.linalg.eigh(rows.T @ rows).eigenvectors
    # The rows span at most n dimensions, and the minimum lies in their span.
    span, triangle = torch.linalg.qr(rows.T)  # (d, n), (n, n)
    return span @ torch.linalg.eigh(triangle @ triangle.T).eigenvectors


@dataclass
class Minimum:
    """Where a search ended, after so many iterations of conjugate gradients."""

    position: torch.Tensor  # (c, r + 1)
    value: float  # of the objective
    gradient_norm: float
    penalty_norm: float  # of the penalty's part of the gradient
    iterations: int


class Point:
    """A position (c, r + 1), coefficients of the axes and intercept, with the objective and its derivatives there.

    `penalties` (1, r + 1) are those of the axes.
    """

    def __init__(self, problem: Problem, penalties: torch.Tensor, position: torch.Tensor, logits: torch.Tensor):
        self.problem, self.penalties, self.position, self.logits = problem, penalties, position, logits
        self.loss, self.residual = problem.loss(logits)
        self.penalty = torch.sum(penalties * position.square()).item() / 2
        self.gradient = torch.addcmul(self.residual @ problem.rows, penalties, position)

    def newton_step(self, allowed: float, max_iterations: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """An approximate Newton step (c, r + 1), how it changes the logits (c, n), and how many iterations it took.

        `allowed` is the norm of the gradient that ends the search; the step need not be more exact than that.
        """
        diagonal = torch.addcmul(self.penalties, self.problem.squares, self.problem.curvature(self.residual))
        diagonal.clamp_min_(diagonal.max() * torch.finfo(diagonal.dtype).eps)

        def precondition(vector: torch.Tensor) -> torch.Tensor:
            vector = vector / diagonal
            return vector - vector.mean(dim=0, keepdim=True) if self.problem.balanced else vector

        residual_change = self.problem.loss.residual_change(self.logits)
        enough = max(_FORCING * torch.linalg.norm(self.gradient).item(), allowed / 2)
        step, change = torch.zeros_like(self.position), torch.zeros_like(self.logits)
        rest = -self.gradient
        direction = preconditioned = precondition(rest)
        size = torch.sum(rest * preconditioned).item()
        iterations = 0
        while iterations < max_iterations:
            iterations += 1
            along = direction @ self.problem.rows.T
            product = torch.addcmul(residual_change(along) @ self.problem.rows, self.penalties, direction)
            curvature = torch.sum(direction * product).item()
            if curvature <= 0:  # rounding: the Hessian is positive
                break
            length = size / curvature
            step.add_(direction, alpha=length)
            change.add_(along, alpha=length)
            rest.sub_(product, alpha=length)
            if torch.linalg.norm(rest).item() <= enough:
                break
            preconditioned = precondition(rest)
            previous, size = size, torch.sum(rest * preconditioned).item()
            direction = torch.add(preconditioned, direction, alpha=size / previous)
        return step, change, iterations

    def step_length(self, step: torch.Tensor, change: torch.Tensor) -> float | None:
        """How far to go along a step: to where its slope is a part of the first, no higher up. None if nowhere."""
        penalised = self.penalties * step
        first, second = torch.sum(penalised * self.position).item(), torch.sum(penalised * step).item()
        start = torch.sum(self.gradient * step).item()
        if start >= 0:
            return None
        # Near the minimum, differences of the objective drown in rounding, but slopes do not.
        rounding = 8 * torch.finfo(step.dtype).eps * (self.loss + self.penalty + self.problem.total_weight)
        low, low_slope, high, length = 0.0, start, math.inf, 1.0
        for _ in range(_LINE_SEARCH):
            loss, residual = self.problem.loss(torch.add(self.logits, change, alpha=length))
            falls = loss - self.loss + length * (first + length / 2 * second) <= rounding
            slope = torch.sum(residual * change).item() + first + length * second
            if falls and abs(slope) <= _SLOPE * abs(start):
                return length
            if falls and slope < 0:
                low, low_slope = length, slope
            else:
                high, high_slope = length, slope
            if math.isinf(high):
                length *= 4
            elif math.isfinite(high_slope) and high_slope > 0:
                # The objective is convex, so the slope grows along the step: a secant, kept off the ends.
                secant = low - low_slope * (high - low) / (high_slope - low_slope)
                length = min(max(secant, low + (high - low) / 10), high - (high - low) / 10)
            else:
                length = (low + high) / 2
        return None


@torch.no_grad()
def minimise(
    problem: Problem, penalty: float, *, tolerance: float, max_iterations: int, start: torch.Tensor | None = None
) -> Minimum:
    """Minimise the loss plus `penalty / 2` times the squared norm of all coefficients but the intercept.

    The search begins at `start` (c, r + 1), by default at zero. It ends where the gradient's norm is at most
    `tolerance` times the norm of the penalty's part of it, or is mere rounding, or after `max_iterations`.
    """
    position = problem.rows.new_zeros(problem.num_classes, problem.rows.shape[1]) if start is None else start
    penalties = torch.full_like(position[:1], penalty)  # (1, r + 1)
    penalties[:, -1] = 0
    point, iterations = Point(problem, penalties, position, problem.logits(position)), 0
    while True:
        gradient_norm = torch.linalg.norm(point.gradient).item()
        penalty_norm = penalty * torch.linalg.norm(point.position[:, :-1]).item()
        allowed = max(tolerance * penalty_norm, problem.rounding)
        if gradient_norm <= allowed or iterations >= max_iterations:
            break
        step, change, count = point.newton_step(allowed, max_iterations - iterations)
        iterations += count
        length = point.step_length(step, change)
        if length is None:
            break  # rounding: no length leads down
        point = Point(problem, penalties, point.position + length * step, point.logits + length * change)
    return Minimum(point.position, point.loss + point.penalty, gradient_norm, penalty_norm, iterations)
