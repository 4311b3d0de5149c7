# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Robustness to natural distribution shift (Radford et al. 2021, section 3.3): ImageNet's variants, and how much better
than standard models of the same ImageNet accuracy a model does on them (Taori et al. 2020).

Shapes: n images, c classes of a shifted data set. Accuracies are shares from 0 to 1.
"""

import difflib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...utils.figures import COLOURS, WIDTH, new_figure
from ..numerics.metrics import LogitLine, fit_logit_line
from ..registry.dataset_registry import imagenet_subsets
from .evaluation_result import EvaluationResult, format_difference, format_metric, points_text
from .metric_labels import model_label


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_IMAGENET_CLASSES = 1000
_SUBSETS = {"imagenet_a": "imagenet-a", "imagenet_r": "imagenet-r", "objectnet": "objectnet"}
_ALL_CLASSES = ("imagenet", "imagenet_v2", "imagenet_sketch")
_RESAMPLES = 1000
_TITLES = {
    "imagenet_v2": "ImageNetV2",
    "imagenet_sketch": "ImageNet-Sketch",
    "imagenet_r": "ImageNet-R",
    "imagenet_a": "ImageNet-A",
    "objectnet": "ObjectNet",
    "imagenet_vid": "ImageNet-Vid",
    "youtube_bb": "YouTube-BB",
}


# -------------------------------------------------------------------------------------------------- classes of a shift


def subset_classes(subset: str) -> list[list[int]]:
    """
    The ImageNet labels that count as right for each class of a shifted data set.

    - ImageNetV2 and ImageNet-Sketch have all 1,000 classes.
    - ImageNet-A and ImageNet-R have 200 each.
    - ObjectNet has 113 classes in common with ImageNet, some of which are several in ImageNet: its "chair" is "barber
      chair", "folding chair" or "rocking chair".

    Args:
        subset (`str`):
            `"imagenet"`, `"imagenet_v2"`, `"imagenet_sketch"`, `"imagenet_a"`, `"imagenet_r"` or `"objectnet"`.

    Returns:
        `list[list[int]]`: c lists of labels from 0 to 999, no label in two of them.

    Raises:
        ValueError: if there is no such data set.
    """
    if subset in _ALL_CLASSES:
        return [[label] for label in range(_IMAGENET_CLASSES)]
    if subset not in _SUBSETS:
        known = ", ".join(map(repr, (*_ALL_CLASSES, *_SUBSETS)))
        raise ValueError(f"There are no classes for {subset!r}; there are those of {known}.")
    classes = imagenet_subsets()[_SUBSETS[subset]]
    if subset == "objectnet":
        return [list(entry["classes"]) for entry in classes.values()]
    return [[label] for label in classes]


def subset_scores(scores: Any, subset: str) -> np.ndarray:
    """
    Scores of a shifted data set's classes from those of all of ImageNet's: the prediction is among these classes only.

    The score of a class is that of its ImageNet class; where there are several, the highest. So the best class is the
    one that the best of all allowed ImageNet labels belongs to. If ImageNet's labels 3 and 7 are one class of a data
    set and 5 is another, an image with the scores 0.1, 0.4 and 0.3 for 3, 5 and 7 has the scores 0.3 and 0.4.

    Args:
        scores (array of shape `(n, 1000)`):
            Scores of ImageNet's classes in their usual order.
        subset (`str`):
            See [`subset_classes`].

    Returns:
        `np.ndarray` of shape `(n, c)`, float64, in the order of the data set's labels.

    Raises:
        ValueError: if `scores` has another shape, or there is no such data set.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.shape[1] != _IMAGENET_CLASSES:
        raise ValueError(f"The scores have the shape {scores.shape}; they must be (images, 1000), ImageNet's classes.")
    classes = subset_classes(subset)
    starts = np.cumsum([0, *(len(labels) for labels in classes)])[:-1]
    return np.maximum.reduceat(scores[:, np.concatenate(classes)], starts, axis=1)


def subset_rows(targets: Any, subset: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Which ImageNet images show a class that a shifted data set has too.

    With them, accuracy on ImageNet is measured among the same classes as accuracy under shift, as the paper does.

    Args:
        targets (array of shape `(n,)`):
            ImageNet labels from 0 to 999.
        subset (`str`):
            See [`subset_classes`].

    Returns:
        `tuple[np.ndarray, np.ndarray]`: rows, int64 `(m,)`, and their labels in the data set, int64 `(m,)`.

    Raises:
        ValueError: if a label is not one of ImageNet's, or there is no such data set.
    """
    targets = np.asarray(targets)
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            f"The targets have the shape {targets.shape} and type {targets.dtype}; they must be labels (n,)."
        )
    if targets.size and not (0 <= targets.min() and targets.max() < _IMAGENET_CLASSES):
        raise ValueError(f"The targets are {targets.min()} to {targets.max()}; ImageNet's labels are 0 to 999.")
    new_labels = np.full(_IMAGENET_CLASSES, -1)
    for new_label, labels in enumerate(subset_classes(subset)):
        new_labels[labels] = new_label
    rows = np.nonzero(new_labels[targets] >= 0)[0]
    return rows, new_labels[targets[rows]]


# ----------------------------------------------------------------------------------------------------- baseline models


@functools.cache
def _baselines() -> dict[str, Any]:
    text = (Path(__file__).parent / "robustness_baselines.json").read_text(encoding="utf-8")
    return json.loads(text)


def shift_names() -> list[str]:
    """The shifted data sets for which there are baseline models, as the paper orders them."""
    return list(_TITLES)


def baseline_accuracies(shift: str, *, on_subset: bool = False) -> dict[str, tuple[float, float]]:
    """
    Accuracies of standard models, trained on ImageNet only (Taori et al. 2020).

    Args:
        shift (`str`):
            One of [`shift_names`].
        on_subset (`bool`, *optional*, defaults to `False`):
            Whether accuracy on ImageNet is that among the classes of the shifted data set.

    Returns:
        `dict[str, tuple[float, float]]`: by the model's name, accuracy on ImageNet and under shift. For ImageNet-A
        those of models at least as accurate as the ResNet-50 against which it was made.

    Raises:
        ValueError: if there is no such data set, or it has all of ImageNet's classes and `on_subset` is set.
    """
    if shift not in _TITLES:
        raise ValueError(f"There are no baseline models for {shift!r}; there are for {', '.join(_TITLES)}.")
    data = _baselines()
    least = data["fit_from"].get(shift, {}).get("subset" if on_subset else "imagenet", 0.0)
    found = {}
    for name, model in data["models"].items():
        if on_subset and shift not in model["subset_accuracy"]:
            raise ValueError(
                f"{_TITLES[shift]} has all of ImageNet's classes; there is no accuracy on a part of them."
            )
        reference = model["subset_accuracy"][shift] if on_subset else model["accuracy"]["imagenet"]
        shifted = model["accuracy"][shift]
        if shifted is not None and reference >= least:
            found[name] = (reference, shifted)
    return found


# ------------------------------------------------------------------------------------------------------------- results


@dataclass
class ShiftResult:
    """
    Accuracy under one shift, and what standard models lead to expect.

    Args:
        accuracy (`float`):
            Accuracy under shift.
        reference (`float`):
            Accuracy on ImageNet; where `on_subset`, among the classes of the shifted data set.
        on_subset (`bool`):
            Whether it is.
        expected (`float`):
            Accuracy under shift of standard models with this reference accuracy, by the line.
        effective_robustness (`float`):
            `accuracy - expected`.
        interval (`tuple[float, float]`):
            95% interval of `effective_robustness`, from the choice of the baseline models (bootstrap). It does not
            hold the uncertainty of the model's own accuracies.
        slope, intercept, r_squared (`float`):
            The line through the baseline models, between logits, and the share of variance that it explains.
        extrapolated (`bool`):
            Whether the reference accuracy lies outside of the baseline models'.
    """

    accuracy: float
    reference: float
    on_subset: bool
    expected: float
    effective_robustness: float
    interval: tuple[float, float]
    slope: float
    intercept: float
    r_squared: float
    extrapolated: bool

    @property
    def line(self) -> LogitLine:
        """The line through the baseline models."""
        return LogitLine(self.slope, self.intercept, self.r_squared)


@dataclass(kw_only=True)
class RobustnessResult(EvaluationResult):
    """
    Accuracy under natural distribution shift.

    Args:
        accuracy (`float`):
            On ImageNet.
        shifts (`dict[str, ShiftResult]`):
            By the name of the shifted data set.
        majority_under_shift (`dict[str, float]`):
            Share of the most frequent class of the shifted data sets, by name.
    """

    task: ClassVar[str] = "robustness"

    model: str = ""
    data: str = "imagenet"
    accuracy: float = 0.0
    shifts: dict[str, ShiftResult] = field(default_factory=dict)
    majority_under_shift: dict[str, float] = field(default_factory=dict)

    @property
    def average_accuracy(self) -> float:
        """Mean accuracy under the shifts that were measured."""
        return float(np.mean([shift.accuracy for shift in self.shifts.values()]))

    @property
    def average_effective_robustness(self) -> float:
        """Mean effective robustness over the shifts that were measured."""
        return float(np.mean([shift.effective_robustness for shift in self.shifts.values()]))

    def metrics(self) -> dict[str, float]:
        """Accuracy on ImageNet and under each shift, effective robustness to each, and the means."""
        return {
            "imagenet": self.accuracy,
            **{name: shift.accuracy for name, shift in self.shifts.items()},
            "mean_under_shift": self.average_accuracy,
            **{f"effective_robustness_{name}": shift.effective_robustness for name, shift in self.shifts.items()},
            "mean_effective_robustness": self.average_effective_robustness,
        }

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Intervals of effective robustness, from the choice of the baseline models."""
        return {f"effective_robustness_{name}": shift.interval for name, shift in self.shifts.items()}

    def details(self) -> str:
        """A row for each shift, with the line that it is compared with."""
        lines = [
            "| shift | ImageNet | expected | accuracy | effective robustness | majority class | baselines' R² |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, shift in self.shifts.items():
            marks = ("*" if shift.on_subset else "") + ("†" if shift.extrapolated else "")
            cells = [format_metric("", number) for number in (shift.reference, shift.expected, shift.accuracy)]
            cells[0] += marks
            cells.append(format_difference("", shift.effective_robustness))
            cells.append(format_metric("", self.majority_under_shift.get(name, float("nan"))))
            lines.append(f"| {_TITLES[name]} | {' | '.join(cells)} | {shift.r_squared:.3f} |")
        notes = []
        if any(shift.on_subset for shift in self.shifts.values()):
            notes.append("\\* among the classes of the shifted data set.")
        if any(shift.extrapolated for shift in self.shifts.values()):
            notes.append("† outside of the baseline models' range: the line is extrapolated.")
        return "\n".join(lines) + ("\n\n" + " ".join(notes) if notes else "")

    def figure(self) -> "Figure":
        """
        As the paper's figure 13, a panel for each shift: baseline models, their line, y = x, and the model.

        Raises:
            ImportError: if matplotlib is missing.
        """
        columns = len(self.shifts) if len(self.shifts) < 3 else 4 if len(self.shifts) in (4, 7) else 3
        rows = -(-len(self.shifts) // columns)
        title = f"Effective robustness to natural distribution shift: {model_label(self.model)}".rstrip(": ")
        with new_figure(title, 1.1 + 2.7 * rows, max(WIDTH, 2.7 * columns)) as figure:
            axes = figure.subplots(rows, columns, squeeze=False).ravel()
            for axis, (name, shift) in zip(axes, self.shifts.items()):
                _draw_shift(axis, name, shift, model_label(self.model) or "model")
            for axis in axes[len(self.shifts) :]:
                axis.axis("off")
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=4)
        return figure


@dataclass(kw_only=True)
class AdaptationResult(EvaluationResult):
    """
    What an adaptation to ImageNet gains there and changes elsewhere (the paper's figure 14).

    Args:
        zero_shot (`dict[str, float]`):
            Accuracies before.
        adapted (`dict[str, float]`):
            Accuracies after.
    """

    task: ClassVar[str] = "adaptation"

    model: str = ""
    data: str = "imagenet"
    zero_shot: dict[str, float] = field(default_factory=dict)
    adapted: dict[str, float] = field(default_factory=dict)

    @property
    def changes(self) -> dict[str, float]:
        """Accuracy after less accuracy before, `"imagenet"` first."""
        names = ["imagenet", *(name for name in self.zero_shot if name != "imagenet")]
        return {name: self.adapted[name] - self.zero_shot[name] for name in names}

    def metrics(self) -> dict[str, float]:
        """The gain on ImageNet, the change under each shift, and the mean of these."""
        changes = self.changes
        gain = changes.pop("imagenet")
        return {
            "imagenet_gain": gain,
            **{f"{name}_change": change for name, change in changes.items()},
            "mean_change_under_shift": float(np.mean(list(changes.values()))),
        }

    def figure(self) -> "Figure":
        """
        A bar for each data set: the change of accuracy in percentage points.

        Raises:
            ImportError: if matplotlib is missing.
        """
        with new_figure(self.plot_title(), 1.4 + 0.35 * len(self.changes)) as figure:
            axis = figure.subplots()
            names = list(self.changes)[::-1]
            values = [100 * self.changes[name] for name in names]
            labels = [_TITLES.get(name, "ImageNet") for name in names]
            bars = axis.barh(labels, values, color=[COLOURS[0] if value >= 0 else COLOURS[1] for value in values])
            axis.bar_label(bars, [points_text(change) for change in self.changes.values()][::-1], padding=3)
            axis.axvline(0, color="black", linewidth=0.8)
            axis.grid(axis="y", visible=False)
            axis.margins(x=0.15)
            axis.set(xlabel="change of accuracy from zero-shot (percentage points)")
        return figure


# ---------------------------------------------------------------------------------------------------------- evaluation


def evaluate_robustness(
    accuracies: Mapping[str, float],
    *,
    subset_accuracies: Mapping[str, float] | None = None,
    majority_classes: Mapping[str, float] | None = None,
    model: str = "",
    seed: int = 0,
) -> RobustnessResult:
    """
    Compare accuracy under natural distribution shift with that of standard models of the same ImageNet accuracy.

    Effective robustness is the accuracy under shift above the line through standard models, which is straight between
    logits (section 3.3). Zero-shot CLIP's is large; it says that a model loses less than its ImageNet accuracy would
    lead to expect, not that it is accurate under shift.

    Args:
        accuracies (`Mapping[str, float]`):
            Shares from 0 to 1 of `"imagenet"` and at least one of [`shift_names`]; those of ImageNet-A, ImageNet-R and
            ObjectNet among their own classes, see [`subset_scores`].
        subset_accuracies (`Mapping[str, float]`, *optional*):
            For shifted data sets with fewer classes, accuracy on the ImageNet images of these classes, among these
            classes, see [`subset_rows`]; where it is given it is what the model is compared by, as in the paper.
        majority_classes (`Mapping[str, float]`, *optional*):
            Share of the most frequent class of each data set, for the table.
        model (`str`, *optional*):
            Its name.
        seed (`int`, *optional*, defaults to 0):
            Of the bootstrap over baseline models.

    Returns:
        [`RobustnessResult`].

    Raises:
        ValueError: if ImageNet's accuracy or all shifts are missing, a name is unknown, or an accuracy is no share;
            percentages are refused. An accuracy of 0 or 1 on ImageNet has no logit.
    """
    subset_accuracies = dict(subset_accuracies or {})
    _check_accuracies(accuracies, "accuracies")
    for name, value in subset_accuracies.items():
        if name not in accuracies:
            raise ValueError(f"`subset_accuracies` has {name!r}, but `accuracies` has no accuracy under that shift.")
        _check_share(name, value)
    names = [name for name in _TITLES if name in accuracies]
    shifts = {
        name: _compare(name, float(accuracies[name]), float(accuracies["imagenet"]), subset_accuracies.get(name), seed)
        for name in names
    }
    majority = {name: float(share) for name, share in (majority_classes or {}).items()}
    return RobustnessResult(
        model=model,
        chance={name: 1 / len(subset_classes(name)) for name in accuracies if name in (*_ALL_CLASSES, *_SUBSETS)},
        majority_class=majority.pop("imagenet", None),
        accuracy=float(accuracies["imagenet"]),
        shifts=shifts,
        majority_under_shift=majority,
    )


def compare_adaptation(
    zero_shot: Mapping[str, float], adapted: Mapping[str, float], *, model: str = ""
) -> AdaptationResult:
    """
    Compare a model before and after an adaptation to ImageNet, such as a linear probe or fine-tuning.

    The paper's figure 14: fitting ImageNet raises its accuracy there by 9.2 points and lowers the mean under shift.
    With 0.70 and 0.60 on ImageNet and ImageNetV2 before, and 0.80 and 0.59 after, the gain is 0.10, the change -0.01.

    Args:
        zero_shot (`Mapping[str, float]`):
            Accuracies before, as in [`evaluate_robustness`].
        adapted (`Mapping[str, float]`):
            Accuracies after, of the same data sets.
        model (`str`, *optional*):
            Its name.

    Returns:
        [`AdaptationResult`].

    Raises:
        ValueError: if the data sets differ, `"imagenet"` or all shifts are missing, or an accuracy is no share.
    """
    _check_accuracies(zero_shot, "zero_shot")
    _check_accuracies(adapted, "adapted")
    if set(zero_shot) != set(adapted):
        different = ", ".join(sorted(set(zero_shot) ^ set(adapted)))
        raise ValueError(f"Accuracies before and after are of different data sets; in one only: {different}.")
    before, after = ({name: float(value) for name, value in part.items()} for part in (zero_shot, adapted))
    return AdaptationResult(model=model, zero_shot=before, adapted=after)


def _check_accuracies(accuracies: Mapping[str, float], what: str) -> None:
    if not isinstance(accuracies, Mapping):
        raise TypeError(
            f"`{what}` is of type {type(accuracies).__name__}; it must be a mapping of accuracies by name, such as "
            "{'imagenet': 0.7, 'imagenet_v2': 0.6}. `clip-hf evaluate --tasks robustness` measures them."
        )
    unknown = [name for name in accuracies if name != "imagenet" and name not in _TITLES]
    if unknown:
        near = difflib.get_close_matches(unknown[0], ("imagenet", *_TITLES), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(map(repr, ("imagenet", *_TITLES)))
        raise ValueError(f"`{what}` has {unknown[0]!r}, which is no known data set.{hint} There are {known}.")
    if "imagenet" not in accuracies or len(accuracies) < 2:
        raise ValueError(f"`{what}` must have 'imagenet' and at least one shift; it has {', '.join(accuracies)}.")
    for name, value in accuracies.items():
        _check_share(name, value)


def _check_share(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value <= 1:
        raise ValueError(f"The accuracy of {name!r} is {value!r}; it must be a share from 0 to 1, not a percentage.")


def _compare(name: str, accuracy: float, imagenet: float, on_subset: float | None, seed: int) -> ShiftResult:
    points = baseline_accuracies(name, on_subset=on_subset is not None)
    reference = imagenet if on_subset is None else float(on_subset)
    if reference in (0, 1):
        raise ValueError(
            f"The accuracy on ImageNet to compare {name!r} by is exactly {reference:g}, which has no logit; measure "
            "it on more images."
        )
    x, y = np.array(list(points.values())).T
    line = fit_logit_line(x, y)
    expected = float(line.predict(reference))
    low, high = _expected_interval(x, y, reference, seed)
    return ShiftResult(
        accuracy=accuracy,
        reference=reference,
        on_subset=on_subset is not None,
        expected=expected,
        effective_robustness=accuracy - expected,
        interval=(accuracy - high, accuracy - low),
        **line._asdict(),
        extrapolated=not x.min() <= reference <= x.max(),
    )


def _expected_interval(x: np.ndarray, y: np.ndarray, reference: float, seed: int) -> tuple[float, float]:
    """95% percentile interval of the line at `reference`, over resamples of the baseline models."""
    generator = np.random.default_rng(seed)
    predictions = []
    for _ in range(_RESAMPLES):
        rows = generator.integers(0, len(x), len(x))
        if len(set(x[rows])) > 1:
            predictions.append(float(fit_logit_line(x[rows], y[rows]).predict(reference)))
    low, high = np.percentile(predictions, [2.5, 97.5])
    return float(low), float(high)


# --------------------------------------------------------------------------------------------------------------- plots


def _draw_shift(axis: "Axes", name: str, shift: ShiftResult, model: str) -> None:
    points = np.array(list(baseline_accuracies(name, on_subset=shift.on_subset).values()))
    x = np.append(points[:, 0], shift.reference)
    y = np.append(points[:, 1], shift.accuracy).clip(0.005, 0.995)
    x_range, y_range = ((max(v.min() * 0.8, 0.005), 1 - 0.7 * (1 - v.max())) for v in (x, y))
    grid = 1 / (1 + np.exp(-np.linspace(*np.log(np.array(x_range) / (1 - np.array(x_range))), 50)))
    axis.set_xscale("logit")
    axis.set_yscale("logit")
    axis.plot(grid, grid, color=COLOURS[-1], linestyle=":", linewidth=1, label="y = x")
    axis.plot(grid, shift.line.predict(grid), color=COLOURS[0], linewidth=1.2, label="line of standard models")
    axis.scatter(points[:, 0], points[:, 1], color=COLOURS[0], s=14, label="standard models")
    axis.plot([shift.reference] * 2, [shift.expected, y[-1]], color=COLOURS[1], linewidth=0.8)
    axis.scatter([shift.reference], [y[-1]], color=COLOURS[1], marker="*", s=110, zorder=3, label=model)
    axis.set_xlim(*x_range)
    axis.set_ylim(*y_range)
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter(lambda value, _: f"{100 * value:g}")
        scale.set_minor_formatter(lambda value, _: "")
    for set_ticks, (low, high) in ((axis.set_xticks, x_range), (axis.set_yticks, y_range)):
        ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
        set_ticks([tick for tick in ticks if low <= tick <= high])
    axis.tick_params(labelsize=8)
    axis.minorticks_off()
    where = "ImageNet, its classes" if shift.on_subset else "ImageNet"
    axis.set_xlabel(f"{where} (%)")
    axis.set_ylabel("accuracy under shift (%)")
    axis.set_title(f"{_TITLES[name]}: {format_difference('', shift.effective_robustness)}")


__all__ = [
    "AdaptationResult",
    "RobustnessResult",
    "ShiftResult",
    "baseline_accuracies",
    "compare_adaptation",
    "evaluate_robustness",
    "shift_names",
    "subset_classes",
    "subset_rows",
    "subset_scores",
]
