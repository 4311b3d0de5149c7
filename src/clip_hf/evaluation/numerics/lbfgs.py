# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
L-BFGS for penalised linear models: what `logistic_regression.py` minimises with.

Three things make it fast and leave the minimum where it is:

- Features are centred, which moves the intercept only, and rotated to the axes of their own covariance, which the
  penalty does not notice. Where there are fewer rows than features, they are rotated into the few axes that rows span.
- In these axes the diagonal of the Hessian is a good approximation of it. It is the initial matrix of L-BFGS.
- Logits are linear in the coefficients, so a line search needs no product with the features but that of its direction.

Shapes: n rows, d features, c classes; r axes, and one more for the intercept. Logits are (c, n), for reductions over
classes are several times faster so than in (n, c).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch


# Pairs of steps that L-BFGS remembers, iterations after which its initial matrix is made anew, evaluations of a line.
_HISTORY = 10
_REFRESH = 5
_LINE_SEARCH = 40
# A step is taken where the slope has come down to this part. An evaluation along a line is cheap here.
_SLOPE = 0.5


class Softmax:
    """
    Sum of weighted cross-entropies, and its derivative by the logits.

    Args:
        labels (`np.ndarray`):
            (n,) int64.
        weights (`torch.Tensor`, *optional*):
            (n,), of the rows.
        like (`torch.Tensor`):
            A tensor of the device and dtype to compute in.
    """

    def __init__(self, labels: np.ndarray, weights: torch.Tensor | None, like: torch.Tensor):
        self._labels = torch.from_numpy(labels)[None].to(like.device)
        self._weights = weights
        ones = torch.ones(1, len(labels), dtype=like.dtype, device=like.device)
        self._minus = -ones if weights is None else -weights[None]

    def __call__(self, logits: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Sum over rows, and (c, n)."""
        residual = torch.log_softmax(logits, dim=0)
        value = torch.dot(residual.gather(0, self._labels).flatten(), self._minus.flatten()).item()
        residual.exp_()
        if self._weights is not None:
            residual *= self._weights
        return value, residual.scatter_add_(0, self._labels, self._minus)


class Sigmoid:
    """
    Sum of weighted binary cross-entropies of all classes, and its derivative by the logits.

    Args:
        labels (`np.ndarray`):
            (n, c) bool.
        weights (`torch.Tensor`, *optional*):
            (n,), of the rows.
        like (`torch.Tensor`):
            A tensor of the device and dtype to compute in.
    """

    def __init__(self, labels: np.ndarray, weights: torch.Tensor | None, like: torch.Tensor):
        self._labels = torch.from_numpy(np.ascontiguousarray(labels.T)).to(like)
        self._weights = weights

    def __call__(self, logits: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Sum over rows and classes, and (c, n)."""
        # torch's softplus turns linear at its threshold; at 40 the difference is below float64's resolution.
        terms = torch.nn.functional.softplus(logits, threshold=40.0).addcmul_(logits, self._labels, value=-1)
        residual = torch.sigmoid(logits).sub_(self._labels)
        if self._weights is not None:
            terms *= self._weights
            residual *= self._weights
        return terms.sum().item(), residual


class Problem:
    """
    The rows in the axes in which they are solved, and the loss on them.

    Args:
        features (`torch.Tensor`):
            (n, d), of the device and dtype to compute in.
        labels (`np.ndarray`):
            (n,) int64 for softmax, or (n, c) bool for a regression of each class.
        num_classes (`int`):
            c.
        weights (`np.ndarray`, *optional*):
            (n,), of the rows.
        center (`np.ndarray`, *optional*):
            (c, d), from which coefficients are measured.
        intercept (`bool`, *optional*, defaults to `True`):
            Whether there is one.
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
        self._features = features
        self._center = None if center is None else torch.as_tensor(center).to(features)
        shares = features.new_ones(len(labels)) if self._weights is None else self._weights
        self._mean = shares @ features / self.total_weight if intercept else torch.zeros_like(features[0])
        squared = (shares @ (features - self._mean).square()).sum().item() + intercept * self.total_weight
        # The norm of a gradient that may be nothing but rounding.
        self.rounding = 32 * torch.finfo(features.dtype).eps * math.sqrt(squared)
        self._rotated = False

    def rotate(self) -> None:
        """Turn the rows into their own axes; once."""
        if self._rotated:
            return
        centred = self._features - self._mean
        weighted = centred if self._weights is None else centred * self._weights.sqrt()[:, None]
        if len(centred) >= centred.shape[1]:
            self.axes = torch.linalg.eigh(weighted.T @ weighted).eigenvectors  # (d, d)
        else:
            # The rows span at most n dimensions, and the minimum lies in their span.
            span, rest = torch.linalg.qr(weighted.T)  # (d, n), (n, n)
            self.axes = span @ torch.linalg.eigh(rest @ rest.T).eigenvectors  # (d, n)
        ones = torch.full_like(centred[:, :1], float(self.intercept))
        self.rows = torch.cat([centred @ self.axes, ones], dim=1)  # (n, r + 1)
        squares = self.rows.square()
        if self._weights is not None:
            squares *= self._weights[:, None]
        self.squares = squares.sum(dim=0, keepdim=True)  # (1, r + 1)
        self.offset = None if self._center is None else self._center @ self._features.T  # (c, n)
        self._rotated = True

    def logits(self, position: torch.Tensor) -> torch.Tensor:
        """(c, n) at a position (c, r + 1)."""
        product = position @ self.rows.T
        return product if self.offset is None else product + self.offset

    def in_features(self, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Coefficients (c, d) and intercept (c,) for features as they were given."""
        coefficients = position[:, :-1] @ self.axes.T
        intercept = position[:, -1] - coefficients @ self._mean
        if self.balanced:
            intercept = intercept - intercept.mean()  # softmax does not see a constant
        if not self.intercept:
            intercept = torch.zeros_like(intercept)
        if self._center is not None:
            coefficients = coefficients + self._center
        return coefficients, intercept

    def curvature(self, residual: torch.Tensor) -> torch.Tensor:
        """p (1 - p) of each class, the mean over rows; (c, 1)."""
        # From the residual p - y alone: its size is p or 1 - p.
        squares = residual.square() if self._weights is None else residual.square() / self._weights
        return (residual.abs() - squares).sum(dim=1, keepdim=True).clamp_min_(0) / self.total_weight


@dataclass
class Minimum:
    """
    Where a search ended.

    Args:
        position (`torch.Tensor`):
            (c, r + 1).
        value (`float`):
            The objective.
        gradient_norm (`float`):
            Norm of its gradient.
        penalty_norm (`float`):
            Norm of the penalty's part of the gradient.
        iterations (`int`):
            Iterations made.
    """

    position: torch.Tensor
    value: float
    gradient_norm: float
    penalty_norm: float
    iterations: int


class _History:
    """The last steps of L-BFGS and the changes of the gradient they made, as rows of matrices."""

    def __init__(self, like: torch.Tensor):
        self._steps, self._changes = (like.new_zeros(_HISTORY, like.numel()) for _ in range(2))
        self._products = like.new_zeros(_HISTORY, _HISTORY)  # [i, j]: step i times change j
        self._order: list[int] = []

    def add(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """Remember a step, in the place of the oldest one if all are taken."""
        step, change = step.flatten(), change.flatten()
        # The objective is strictly convex, so this is positive but for rounding.
        if not torch.dot(step, change).item() > torch.finfo(step.dtype).eps * (step.norm() * change.norm()).item():
            return
        place = len(self._order) if len(self._order) < _HISTORY else self._order.pop(0)
        self._order.append(place)
        self._steps[place], self._changes[place] = step, change
        self._products[:, place] = self._steps @ change
        self._products[place] = self._changes @ step

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to go by but the gradient."""
        return not self._order

    def direction(self, gradient: torch.Tensor, initial: torch.Tensor, balanced: bool) -> torch.Tensor:
        """
        Minus the inverse Hessian's approximation times the gradient. `initial` (c, r + 1) is where that begins: a
        diagonal, and if `balanced`, then without what is the same for all classes, which softmax does not see.
        """
        flat = gradient.flatten()
        if self.is_empty:
            return -_scaled(flat, initial, balanced).view_as(gradient)
        # The last step tells the size of the inverse Hessian better than the diagonal does, so that a step of 1 fits.
        change, last = self._changes[self._order[-1]], self._order[-1]
        initial = initial * (self._products[last, last] / torch.dot(change, _scaled(change, initial, balanced)))
        # The two loops over the pairs as triangular systems (Byrd, Nocedal and Schnabel 1994, theorem 2.2).
        order = torch.tensor(self._order, device=flat.device)
        products = self._products[order][:, order]
        upper = products.triu()
        first = torch.linalg.solve_triangular(upper, (self._steps @ flat)[order, None], upper=True)
        spread = torch.zeros_like(self._products[0]).index_copy_(0, order, first[:, 0])
        inner = _scaled(flat - spread @ self._changes, initial, balanced)
        right = products.diagonal()[:, None] * first - (self._changes @ inner)[order, None]
        second = torch.linalg.solve_triangular(upper.T, right, upper=False)
        spread = torch.zeros_like(spread).index_copy_(0, order, second[:, 0])
        return -(inner + spread @ self._steps).view_as(gradient)


def _scaled(flat: torch.Tensor, initial: torch.Tensor, balanced: bool) -> torch.Tensor:
    scaled = flat.view_as(initial) * initial
    return (scaled - scaled.mean(dim=0, keepdim=True) if balanced else scaled).flatten()


class _Line:
    """The objective along a direction. Logits are linear in the step, so an evaluation needs no features."""

    def __init__(self, state: "_State", direction: torch.Tensor):
        self._state, self.direction = state, direction
        self._logits = direction @ state.problem.rows.T  # (c, n): how they change with the step
        penalised = state.penalties * direction
        self._first = torch.sum(penalised * state.position).item()
        self._second = torch.sum(penalised * direction).item()
        self.slope = torch.sum(state.gradient * direction).item()

    def at(self, step: float) -> tuple[float, float]:
        """Objective and slope, of which `logits`, `loss` and `residual` are kept."""
        self.logits = torch.add(self._state.logits, self._logits, alpha=step)
        self.loss, self.residual = self._state.problem.loss(self.logits)
        slope = torch.sum(self.residual * self._logits).item() + self._first + step * self._second
        return self.loss + self._state.norm_term + step * (self._first + step / 2 * self._second), slope

    def search(self) -> float | None:
        """A step that lowers the slope to a part and does not raise the objective (the strong Wolfe conditions)."""
        state = self._state
        # Near the minimum differences of the objective drown in rounding, while slopes do not (Hager and Zhang 2005).
        rounding = 8 * torch.finfo(state.position.dtype).eps * (abs(state.value) + state.problem.total_weight)
        allowed = state.value + rounding
        low, low_slope, high, high_slope = 0.0, self.slope, math.inf, math.nan
        step = 1.0
        for _ in range(_LINE_SEARCH):
            value, slope = self.at(step)
            if value <= allowed and abs(slope) <= _SLOPE * abs(self.slope):
                return step
            if math.isfinite(value) and value <= allowed and slope < 0:
                low, low_slope = step, slope
            else:
                high, high_slope = step, slope
            if math.isinf(high):
                step *= 4
            elif math.isfinite(high_slope) and high_slope > 0:
                # The slope grows along the line, the objective being convex: a secant, kept off the ends.
                secant = low - low_slope * (high - low) / (high_slope - low_slope)
                step = min(max(secant, low + (high - low) / 10), high - (high - low) / 10)
            else:
                step = (low + high) / 2
        return None


class _State:
    """Where a search is: position and gradient (c, r + 1), logits and residual (c, n)."""

    def __init__(self, problem: Problem, penalty: float, start: torch.Tensor | None):
        self.problem, self._penalty = problem, penalty
        shape = (problem.num_classes, problem.rows.shape[1])
        self.position = problem.rows.new_zeros(shape) if start is None else start
        self.penalties = torch.full_like(self.position[:1], penalty)  # (1, r + 1)
        self.penalties[:, -1] = 0
        logits = problem.logits(self.position)
        self._set(logits, *problem.loss(logits))

    def _set(self, logits: torch.Tensor, loss: float, residual: torch.Tensor) -> None:
        self.logits, self.residual = logits, residual
        self.gradient = torch.addcmul(residual @ self.problem.rows, self.penalties, self.position)
        self.norm = torch.linalg.norm(self.position[:, :-1]).item()
        self.norm_term = self._penalty / 2 * self.norm**2
        self.value = loss + self.norm_term

    def move(self, line: _Line, change: torch.Tensor) -> None:
        self.position = self.position + change
        self._set(line.logits, line.loss, line.residual)

    def inverse_diagonal(self) -> torch.Tensor:
        """The inverse of the Hessian's diagonal, if curvature and features were independent; (c, r + 1)."""
        diagonal = torch.addcmul(self.penalties, self.problem.squares, self.problem.curvature(self.residual))
        return diagonal.clamp_min_(diagonal.max() * torch.finfo(diagonal.dtype).eps).reciprocal_()


@torch.no_grad()
def minimise(
    problem: Problem, penalty: float, *, tolerance: float, max_iterations: int, start: torch.Tensor | None = None
) -> Minimum:
    """
    Minimise the loss plus `penalty / 2` times the squared norm of all coefficients but the intercept, by L-BFGS.

    Args:
        problem (`Problem`):
            The rows, rotated.
        penalty (`float`):
            More than 0.
        tolerance (`float`):
            It ends where the norm of the gradient is at most so many times that of the penalty's part, or is rounding.
        max_iterations (`int`):
            It ends after so many.
        start (`torch.Tensor`, *optional*):
            (c, r + 1), where to begin; by default at zero.

    Returns:
        `Minimum`
    """
    state = _State(problem, penalty, start)
    history, rounding, iterations = _History(state.position), problem.rounding, 0
    while True:
        size = torch.linalg.norm(state.gradient).item()
        if size <= max(tolerance * penalty * state.norm, rounding) or iterations >= max_iterations:
            break
        if iterations % _REFRESH == 0:
            initial = state.inverse_diagonal()
        line = _Line(state, history.direction(state.gradient, initial, problem.balanced))
        step = line.search() if line.slope < 0 else None
        iterations += 1
        if step is not None:
            before, change = state.gradient, line.direction * step
            state.move(line, change)
            history.add(change, state.gradient - before)
        elif history.is_empty:
            break  # not even the preconditioned gradient leads down: rounding
        else:
            history = _History(state.position)
    return Minimum(state.position, state.value, size, penalty * state.norm, iterations)


__all__ = ["Minimum", "Problem", "Sigmoid", "Softmax", "minimise"]
