# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Robustness to natural distribution shift (Radford et al. 2021, section 3.3; Taori et al. 2020).

A model's accuracy on ImageNet's variants is compared with that of standard models of the same ImageNet accuracy.

Shapes: n images, c classes of a shifted dataset. Accuracies are shares from 0 to 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...embedding.dual_encoder import DualEncoder
from ...embedding.encoding_options import EncodingOptions
from ...embedding.load_encoder import load_dual_encoder
from ...model.checks_clip_hf import did_you_mean
from ...utils.figures import COLOURS, WIDTH, new_figure
from ...utils.wording import markdown_table
from ..numerics.bootstrap import percentile_interval
from ..numerics.metrics import LogitLine, fit_logit_line, top_k_accuracy
from ..registry.dataset_registry import registry_name
from ..registry.evaluation_data import ClassificationData, load_classification
from .display_names import model_label
from .evaluation_result import EvaluationResult, format_difference, format_metric, points_text
from .evaluation_task import EvaluationTask, TaskSettings
from .imagenet_shifts import (
    CLASS_SUBSETS,
    SHIFT_TITLES,
    baseline_accuracies,
    shift_names,
    subset_classes,
    subset_rows,
    subset_scores,
)
from .labelled_features import encode_labelled
from .zero_shot import ZeroShotOptions, class_embeddings, evaluate_zero_shot


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RESAMPLES = 1000
_COLUMNS = ("shift", "ImageNet", "expected", "accuracy", "effective robustness", "majority class", "baselines' R²")


@dataclass
class ShiftResult:
    """Accuracy under one shift, and what standard models lead to expect.

    Args:
        accuracy (`float`): Accuracy under shift.
        reference (`float`): Accuracy on ImageNet; with `on_subset`, among the classes of the shifted dataset.
        on_subset (`bool`): Whether the reference is among the classes of the shifted dataset only.
        expected (`float`): Accuracy under shift of standard models with this reference accuracy, by the line.
        effective_robustness (`float`): `accuracy - expected`.
        interval (`tuple[float, float]`): 95% interval of `effective_robustness` over bootstrap samples of the baseline
            models. It leaves out the uncertainty of the model's own accuracies.
        slope, intercept, r_squared (`float`): The line through the baseline models, between logits, and the share of
            variance that it explains.
        extrapolated (`bool`): Whether the reference accuracy lies outside of the baseline models'.
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


@dataclass(kw_only=True, repr=False)
class RobustnessResult(EvaluationResult):
    """Accuracy under natural distribution shift.

    Args:
        accuracy (`float`): On ImageNet.
        shifts (`dict[str, ShiftResult]`): By the name of the shifted dataset.
        majority_under_shift (`dict[str, float]`): Share of the most frequent class of the shifted datasets, by name.
    """

    task = "robustness"

    data: str = "imagenet"
    accuracy: float
    shifts: dict[str, ShiftResult]
    majority_under_shift: dict[str, float]

    @property
    def metrics(self) -> dict[str, float]:
        """Accuracy on ImageNet and under each shift, effective robustness to each, and the means."""
        accuracies = {name: shift.accuracy for name, shift in self.shifts.items()}
        robustness = {f"effective_robustness_{name}": each.effective_robustness for name, each in self.shifts.items()}
        return {
            "imagenet": self.accuracy,
            **accuracies,
            "mean_under_shift": float(np.mean(list(accuracies.values()))),
            **robustness,
            "mean_effective_robustness": float(np.mean(list(robustness.values()))),
        }

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Intervals of effective robustness, from the choice of the baseline models."""
        return {f"effective_robustness_{name}": shift.interval for name, shift in self.shifts.items()}

    def details(self) -> str:
        """A row for each shift, with the line that it is compared with."""
        rows = []
        for name, shift in self.shifts.items():
            marks = ("*" if shift.on_subset else "") + ("†" if shift.extrapolated else "")
            shares = (shift.reference, shift.expected, shift.accuracy)
            reference, expected, accuracy = (format_metric("", share) for share in shares)
            robustness = format_difference("", shift.effective_robustness)
            majority = format_metric("", self.majority_under_shift.get(name, float("nan")))
            cells = (reference + marks, expected, accuracy, robustness, majority, f"{shift.r_squared:.3f}")
            rows.append((SHIFT_TITLES[name], *cells))
        notes = []
        if any(shift.on_subset for shift in self.shifts.values()):
            notes.append("\\* among the classes of the shifted dataset.")
        if any(shift.extrapolated for shift in self.shifts.values()):
            notes.append("† outside of the baseline models' range: the line is extrapolated.")
        return "\n\n".join([markdown_table(_COLUMNS, rows), *([" ".join(notes)] if notes else [])])

    def figure(self) -> "Figure":
        """As the paper's figure 13, a panel for each shift: baseline models, their line, y = x, and the model."""
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


@dataclass(kw_only=True, repr=False)
class AdaptationResult(EvaluationResult):
    """What an adaptation to ImageNet gains there and changes elsewhere (the paper's figure 14).

    Args:
        zero_shot (`dict[str, float]`): Accuracies before.
        adapted (`dict[str, float]`): Accuracies after.
    """

    task = "adaptation"

    data: str = "imagenet"
    zero_shot: dict[str, float]
    adapted: dict[str, float]

    @property
    def changes(self) -> dict[str, float]:
        """Accuracy after less accuracy before, `"imagenet"` first."""
        names = ["imagenet", *(name for name in self.zero_shot if name != "imagenet")]
        return {name: self.adapted[name] - self.zero_shot[name] for name in names}

    @property
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
        """A bar for each dataset: the change of accuracy in percentage points."""
        with new_figure(self.plot_title(), 1.4 + 0.35 * len(self.changes)) as figure:
            axis = figure.subplots()
            names = list(self.changes)[::-1]
            values = [100 * self.changes[name] for name in names]
            labels = [SHIFT_TITLES.get(name, "ImageNet") for name in names]
            bars = axis.barh(labels, values, color=[COLOURS[0] if value >= 0 else COLOURS[1] for value in values])
            axis.bar_label(bars, [points_text(change) for change in self.changes.values()][::-1], padding=3)
            axis.axvline(0, color="black", linewidth=0.8)
            axis.grid(axis="y", visible=False)
            axis.margins(x=0.15)
            axis.set(xlabel="change of accuracy from zero-shot (percentage points)")
        return figure


def compare_under_shift(
    accuracies: Mapping[str, float],
    *,
    subset_accuracies: Mapping[str, float] | None = None,
    majority_classes: Mapping[str, float] | None = None,
    model: str = "",
    seed: int = 0,
) -> RobustnessResult:
    """Compare accuracy under natural distribution shift with that of standard models of the same ImageNet accuracy.

    Effective robustness is the accuracy under shift above the line through standard models, which is straight between
    logits (section 3.3). Zero-shot CLIP's is large: a model loses less than its ImageNet accuracy would lead one to
    expect, which does not mean that it is accurate under shift.

    Args:
        accuracies (`Mapping[str, float]`): Shares from 0 to 1 of `"imagenet"` and at least one of [`shift_names`];
            those of ImageNet-A, ImageNet-R and ObjectNet among their own classes, see [`subset_scores`].
        subset_accuracies (`Mapping[str, float]`, *optional*): For shifted datasets with fewer classes, accuracy on
            the ImageNet images of these classes, among these classes, see [`subset_rows`]; where given, it is the
            reference of the comparison, as in the paper.
        majority_classes (`Mapping[str, float]`, *optional*): Share of the most frequent class of each dataset, for
            the table.
        model (`str`, *optional*): Its name.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap over baseline models.

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
    names = [name for name in SHIFT_TITLES if name in accuracies]
    shifts = {
        name: _compare(name, float(accuracies[name]), float(accuracies["imagenet"]), subset_accuracies.get(name), seed)
        for name in names
    }
    majority = {name: float(share) for name, share in (majority_classes or {}).items()}
    return RobustnessResult(
        model=model,
        chance={name: 1 / len(subset_classes(name)) for name in accuracies if name in CLASS_SUBSETS},
        majority_class=majority.pop("imagenet", None),
        accuracy=float(accuracies["imagenet"]),
        shifts=shifts,
        majority_under_shift=majority,
    )


def compare_adaptation(
    zero_shot: Mapping[str, float], adapted: Mapping[str, float], *, model: str = ""
) -> AdaptationResult:
    """Compare a model before and after an adaptation to ImageNet, such as a linear probe or fine-tuning.

    The paper's figure 14: fitting ImageNet raises its accuracy there by 9.2 points and lowers the mean under shift.
    With 0.70 and 0.60 on ImageNet and ImageNetV2 before, and 0.80 and 0.59 after, the gain is 0.10, the change -0.01.

    Args:
        zero_shot (`Mapping[str, float]`): Accuracies before, as in [`compare_under_shift`].
        adapted (`Mapping[str, float]`): Accuracies after, of the same datasets.
        model (`str`, *optional*): Its name.

    Returns:
        [`AdaptationResult`].

    Raises:
        ValueError: if the datasets differ, `"imagenet"` or all shifts are missing, or an accuracy is no share.
    """
    _check_accuracies(zero_shot, "zero_shot")
    _check_accuracies(adapted, "adapted")
    if set(zero_shot) != set(adapted):
        different = ", ".join(sorted(set(zero_shot) ^ set(adapted)))
        raise ValueError(f"Accuracies before and after are of different datasets; in one only: {different}.")
    before, after = ({name: float(value) for name, value in part.items()} for part in (zero_shot, adapted))
    return AdaptationResult(model=model, zero_shot=before, adapted=after)


def _check_accuracies(accuracies: Mapping[str, float], what: str) -> None:
    _check_names(accuracies, what)
    for name, value in accuracies.items():
        _check_share(name, value)


def _check_names(by_name: Mapping[str, Any], what: str) -> None:
    if not isinstance(by_name, Mapping):
        raise TypeError(
            f"`{what}` is of type {type(by_name).__name__}; it must be a mapping by name of dataset, such as "
            "{'imagenet': ..., 'imagenet_v2': ...}."
        )
    unknown = [name for name in by_name if name != "imagenet" and name not in SHIFT_TITLES]
    if unknown:
        hint = did_you_mean(unknown[0], ("imagenet", *SHIFT_TITLES))
        known = ", ".join(map(repr, ("imagenet", *SHIFT_TITLES)))
        raise ValueError(f"`{what}` has {unknown[0]!r}, which is no known dataset.{hint} There are {known}.")
    if "imagenet" not in by_name or len(by_name) < 2:
        raise ValueError(f"`{what}` must have 'imagenet' and at least one shift; it has {', '.join(by_name)}.")


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
    return percentile_interval(predictions)


@dataclass(frozen=True)
class RobustnessOptions:
    """How to evaluate robustness.

    Args:
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap over baseline models.
        encoding ([`EncodingOptions`], *optional*): How images are encoded and where features are kept.
    """

    seed: int = 0
    encoding: EncodingOptions = field(default_factory=EncodingOptions)


def evaluate_robustness(
    model: Any, data: Mapping[str, Any], options: RobustnessOptions | None = None, *, processor: Any = None
) -> RobustnessResult:
    """Measure zero-shot accuracy on ImageNet and under shift, and compare with standard models (section 3.3).

    Each dataset is classified among its own classes. Where it has fewer than ImageNet, the reference is accuracy on
    the ImageNet images of these classes, among these classes; see [`compare_under_shift`].

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path): The model; see [`load_dual_encoder`].
        data (`Mapping[str, ClassificationData]`, or of what [`load_classification`] takes): `"imagenet"` and one or
            more of [`shift_names`].
        options ([`RobustnessOptions`], *optional*): Bootstrap and encoding.
        processor (*optional*): The model's processor, where the model is a `nn.Module`.

    Returns:
        [`RobustnessResult`]

    Raises:
        ValueError: if ImageNet or all shifts are missing, a name is unknown, or more images cannot be read than
            `options.encoding.max_skipped_share` allows (the others are skipped and counted).
    """
    options = options or RobustnessOptions()
    _check_names(data, "data")
    parts = {
        name: part if isinstance(part, ClassificationData) else load_classification(part)
        for name, part in data.items()
    }
    encoder = load_dual_encoder(model, processor=processor)
    plain = ZeroShotOptions(resamples=0, compare_prompts=False, encoding=options.encoding)
    results = {name: evaluate_zero_shot(encoder, part, plain) for name, part in parts.items()}
    imagenet, images, _ = encode_labelled(encoder, parts["imagenet"], options=options.encoding)
    scores = images @ class_embeddings(encoder, imagenet.class_names, imagenet.templates, options.encoding).T
    on_subsets = {}
    for name in parts:
        if name == "imagenet" or len(subset_classes(name)) == len(imagenet.class_names):
            continue
        rows, targets = subset_rows(imagenet.targets, name)
        if len(rows):
            on_subsets[name] = top_k_accuracy(subset_scores(scores[rows], name), targets)
    result = compare_under_shift(
        {name: zero_shot.values["top1"] for name, zero_shot in results.items()},
        subset_accuracies=on_subsets,
        majority_classes={name: zero_shot.majority_class for name, zero_shot in results.items()},
        model=encoder.name,
        seed=options.seed,
    )
    result.skipped = {name: left for name, zero_shot in results.items() for left in zero_shot.skipped.values()}
    result.record_encoder(encoder)
    result.notes = [note for zero_shot in results.values() for note in zero_shot.notes]
    return result


def _name_of(source: str) -> str | None:
    """The registry's name of a source such as `"imagenet=path"`."""
    return registry_name(source.partition("=")[0])


class RobustnessTask(EvaluationTask):
    """Zero-shot classification of ImageNet and of its variants, one result of all of them."""

    result = RobustnessResult

    def group_sources(self, sources: Sequence[str]) -> list[tuple[str, ...]]:
        """All that are ImageNet or one of its variants, together."""
        return [tuple(source for source in sources if _name_of(source) in ("imagenet", *shift_names()))]

    def load(self, sources: Sequence[str], settings: TaskSettings) -> dict[str, ClassificationData]:
        """Load ImageNet and its variants, by name."""
        by_name = {_name_of(source): source for source in sources}
        if "imagenet" not in by_name or len(by_name) < 2:
            raise ValueError(
                "Robustness needs ImageNet and at least one of its variants: --data imagenet=PATH imagenet_a=PATH "
                f"..., of {', '.join(shift_names())}; given {', '.join(by_name) or 'none of them'}."
            )
        return {name: load_classification(source, settings.data_options) for name, source in by_name.items()}

    def run(self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings) -> RobustnessResult:
        """Classify each, and compare."""
        return evaluate_robustness(encoder, parts, RobustnessOptions(settings.seed, settings.encoding))


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
    axis.set_title(f"{SHIFT_TITLES[name]}: {format_difference('', shift.effective_robustness)}")
