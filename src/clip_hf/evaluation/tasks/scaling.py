# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Error against compute, as a straight line between logarithms (Radford et al. 2021, section 3.1.5, figure 9)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...utils.figures import COLOURS, new_figure
from ...utils.wording import counted, markdown_table
from ..numerics.bootstrap import percentile_interval
from ..numerics.metric_inputs import as_array
from .evaluation_result import EvaluationResult


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RESAMPLED = ("points", "tasks", "both")
# Up to so many models the plot's ticks are their computes.
_TICKS = 8


@dataclass(kw_only=True, repr=False)
class ScalingResult(EvaluationResult):
    """A line through the logarithms of error and compute: `log10(error) = intercept + slope * log10(compute)`.

    Args:
        names (`list[str]`): Names of the models.
        compute (`np.ndarray` of shape (n,), float64): Compute of each model, in `unit`.
        errors (`np.ndarray` of shape (n, tasks), float64): Error of each model on each task, 0 to 1.
        slope (`float`): Powers of ten by which the error changes when compute grows tenfold; negative if it falls.
        intercept (`float`): log10 of the error where compute is 1.
        r_squared (`float`): Share of the variance of log10 of the mean error that the line explains; NaN if all errors
            are the same.
        slope_interval (`tuple[float, float]`): Bootstrap interval of the slope.
        unit (`str`): Unit of compute, for the plot.
    """

    task = "scaling"

    names: list[str]
    compute: np.ndarray
    errors: np.ndarray
    slope: float
    intercept: float
    r_squared: float
    slope_interval: tuple[float, float]
    unit: str = "GFLOPs"

    @property
    def mean_errors(self) -> np.ndarray:
        """Mean error over tasks of each model, (n,), which the line is fitted to."""
        return self.errors.mean(axis=1)

    def error_at(self, compute: Any) -> Any:
        """What the line gives for an amount of compute.

        Args:
            compute (`float` or array of any shape): Compute above 0, in the unit of the fit. Beyond the range of the
                models it is an extrapolation, which nothing measured supports.

        Returns:
            `float` or `np.ndarray` of the same shape: the error; above 1 where the line is.

        Raises:
            ValueError: if an amount is not above 0 and finite.
        """
        amounts = np.asarray(as_array(compute, "`compute`"), np.float64)
        _check_compute(amounts)
        errors = 10 ** (self.intercept + self.slope * np.log10(amounts))
        return float(errors) if errors.ndim == 0 else errors

    @property
    def metrics(self) -> dict[str, float]:
        """Slope and R squared."""
        return {"slope": self.slope, "r_squared": self.r_squared}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The interval of the slope."""
        return {"slope": self.slope_interval}

    def details(self) -> str:
        """The points beside the line, in Markdown."""
        spread, tasks = self.compute.max() / self.compute.min(), counted(self.errors.shape[1], "task")
        text = (
            f"{len(self.compute)} models over a {spread:.3g}x range of compute, {tasks}. "
            f"Ten times the compute multiplies the error by {10**self.slope:.3g}."
        )
        rows = [
            (name, f"{compute:.4g}", f"{100 * error:.2f}%", f"{100 * line:.2f}%")
            for name, compute, error, line in zip(
                self.names, self.compute, self.mean_errors, self.error_at(self.compute), strict=True
            )
        ]
        return f"{text}\n\n{markdown_table(('model', self.unit, 'error', 'line'), rows)}"

    def figure(self) -> "Figure":
        """Mean errors with their line, and each task's errors lightly, on logarithmic axes."""
        with new_figure(self.plot_title(), 4.8) as figure:
            axes = figure.subplots()
            order = np.argsort(self.compute, kind="stable")
            if self.errors.shape[1] > 1:
                for place, task in enumerate(self.errors.T):
                    label = None if place else "error on each task"
                    axes.plot(self.compute[order], 100 * task[order], color="0.8", linewidth=1, zorder=1, label=label)
            ends = np.array([self.compute.min(), self.compute.max()])
            label = f"line: slope {self.slope:.3f}, R² {self.r_squared:.3f}"
            axes.plot(ends, 100 * self.error_at(ends), linestyle="--", label=label, zorder=2)
            points = "error" if self.errors.shape[1] == 1 else "mean error"
            axes.scatter(
                self.compute, 100 * self.mean_errors, color=COLOURS[0], zorder=3, label=f"{points} of a model"
            )
            for name, compute, error in zip(self.names, self.compute, self.mean_errors, strict=True):
                axes.annotate(name, (compute, 100 * error), (5, 5), textcoords="offset points")
            axes.set(xscale="log", yscale="log", xlabel=f"compute ({self.unit})", ylabel="error (%)")
            axes.margins(x=0.12, y=0.12)
            if len(self.compute) <= _TICKS:
                axes.set_xticks(self.compute, [f"{compute:.3g}" for compute in self.compute])
                axes.set_xticks([], minor=True)
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.set_title(f"Ten times the compute multiplies the error by {10**self.slope:.3g}")
            axes.legend()
        return figure


def fit_scaling(
    compute: Any,
    error: Any,
    names: Sequence[str] | None = None,
    *,
    data: str = "",
    resample: str | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ScalingResult:
    """Fit error against compute by least squares between their logarithms (Radford et al. 2021, section 3.1.5).

    In the paper the mean zero-shot error of five ResNets over 39 evaluations on 36 datasets falls along a line over a
    44x range of compute, while single evaluations go up and down.

    Args:
        compute (array of shape (n,)): Compute of each of three models or more, above 0, in any one unit; for the paper
            GFLOPs of a forward pass.
        error (array of shape (n,) or (n, tasks)): Error of each model, above 0 and at most 1; if on several tasks, the
            line is fitted to the mean over them.
        names (`Sequence[str]`, *optional*): Names of the models.
        data (`str`, *optional*): What the errors were measured on.
        resample (`str`, *optional*): What the bootstrap draws for the interval of the slope: `"points"`, the models;
            `"tasks"`; or `"both"`. By default both if there are several tasks. With few models an interval over points
            is too narrow: with five, 95% became 90% where that was simulated. One over tasks alone says nothing about
            other models.
        resamples (`int`, *optional*, defaults to 1000): Bootstrap resamples.
        confidence (`float`, *optional*, defaults to 0.95): Share of the resamples that the interval covers.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.

    Returns:
        [`ScalingResult`]

    Raises:
        ValueError: if there are fewer than three models, all with the same compute, or values are out of their range.

    Example:

    ```python
    >>> from clip_hf.evaluation import fit_scaling

    >>> # Ten times the compute halves the error: the slope is log10(1/2) = -0.301.
    >>> result = fit_scaling([1, 10, 100], [0.8, 0.4, 0.2])
    >>> round(result.slope, 3), round(result.r_squared, 3), round(result.error_at(1000), 3)
    (-0.301, 1.0, 0.1)
    ```
    """
    compute, errors, names = _checked(compute, error, names)
    resample = resample or ("points" if errors.shape[1] == 1 else "both")
    if resample not in _RESAMPLED:
        raise ValueError(f"`resample` is {resample!r}; it must be one of {', '.join(_RESAMPLED)}.")
    if resample == "tasks" and errors.shape[1] == 1:
        raise ValueError("`resample` is 'tasks', but there is one task only; give errors of shape (models, tasks).")
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"`resamples` is {resamples} and `confidence` {confidence}; they must be above 0, and between 0 and 1."
        )
    x, y = np.log10(compute), np.log10(errors.mean(axis=1))
    slope, intercept = _line(x, y)
    spread = ((y - y.mean()) ** 2).sum()
    left = ((y - intercept - slope * x) ** 2).sum()
    slopes = _resampled_slopes(x, errors, resample, np.random.default_rng(seed), resamples)
    return ScalingResult(
        model=f"{len(names)} models",
        data=data,
        names=names,
        compute=compute,
        errors=errors,
        slope=slope,
        intercept=intercept,
        r_squared=float(1 - left / spread) if np.ptp(y) else float("nan"),
        slope_interval=percentile_interval(slopes, confidence),
    )


def _checked(compute: Any, error: Any, names: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    amounts = np.asarray(as_array(compute, "`compute`"), np.float64)
    errors = np.asarray(as_array(error, "`error`"), np.float64)
    if amounts.ndim != 1 or errors.ndim not in (1, 2) or len(errors) != len(amounts) or errors.size == 0:
        raise ValueError(
            f"`compute` has the shape {amounts.shape} and `error` {errors.shape}; they must be (models,), and "
            "(models,) or (models, tasks)."
        )
    if len(amounts) < 3:
        raise ValueError(f"Given {counted(len(amounts), 'model')}; a line needs three or more.")
    _check_compute(amounts)
    wrong = np.argwhere(~((errors > 0) & (errors <= 1)))
    if len(wrong):
        place = tuple(wrong[0])
        raise ValueError(
            f"`error` is {errors[place]} for model {place[0]}; it must be above 0 and at most 1, a share, not percent."
        )
    if np.ptp(amounts) == 0:
        raise ValueError(f"All models have the compute {amounts[0]:g}; a line needs different ones.")
    names = [f"model {row}" for row in range(len(amounts))] if names is None else list(names)
    if len(names) != len(amounts) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`names` is {names}; it must hold a string for each of the {len(amounts)} models.")
    return amounts, errors.reshape(len(errors), -1), names


def _check_compute(amounts: np.ndarray) -> None:
    wrong = amounts[~((amounts > 0) & np.isfinite(amounts))]
    if wrong.size:
        raise ValueError(f"`compute` holds {wrong[0]}; it must be above 0 and finite.")


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept by least squares."""
    distances = x - x.mean()
    slope = float(distances @ (y - y.mean()) / (distances @ distances))
    return slope, float(y.mean() - slope * x.mean())


def _resampled_slopes(
    x: np.ndarray, errors: np.ndarray, resample: str, generator: np.random.Generator, resamples: int
) -> list[float]:
    slopes = []
    while len(slopes) < resamples:
        drawn_x, drawn_errors = x, errors
        if resample in ("points", "both"):
            rows = generator.integers(len(x), size=len(x))
            drawn_x, drawn_errors = x[rows], errors[rows]
            if np.ptp(drawn_x) == 0:
                continue  # a single amount of compute has no line
        if resample in ("tasks", "both"):
            columns = generator.integers(errors.shape[1], size=errors.shape[1])
            drawn_errors = drawn_errors[:, columns]
        slopes.append(_line(drawn_x, np.log10(drawn_errors.mean(axis=1)))[0])
    return slopes
