# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The curve between a model and its fine-tuning: accuracy on the task against accuracy on what it could do before.

The choice of alpha sees validation rows only; the curve's figures are those of the test rows.
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..checkpoints.dual_models import load_dual_model
from ..embedding import DualEncoder, EncodingOptions, load_dual_encoder
from ..evaluation import (
    CLASSIFICATION_METRICS,
    ClassificationData,
    ClassificationOptions,
    bootstrap_interval,
    class_embeddings,
    load_splits,
    load_templates,
)
from ..evaluation.tasks.labelled_features import encode_labelled
from ..model.checks_clip_hf import check_finite, check_whole
from ..utils.atomic import replaced_file
from ..utils.figures import new_figure, save_figure
from ..utils.fingerprints import tokenizer_digest
from ..utils.terminal_tables import draw_table, wrap_lines
from ..utils.wording import counted
from .batch_norm import batch_norm_layers, reestimate_batch_norm_
from .weight_space import check_same_shape, interpolate_weights


if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_NORM = ("interpolate", "reestimate")
"""What can be done with a ResNet's BatchNorm statistics."""
PICKS = ("both", "task")
"""What alpha can be chosen by: the mean accuracy on task and shift, or that on the task."""
_BATCH = 128  # images that see each other in BatchNorm


@dataclass(frozen=True)
class CurveOptions:
    """How the curve between two models is drawn and alpha is chosen.

    Args:
        alphas (`Sequence[float]`, *optional*): Where between the models to measure: 0 the first, 1 the second.
        pick (`str`, *optional*, defaults to `"both"`): Alpha is the one of the best mean of the accuracies on the
            validation rows of task and shift, `"both"`, or of the best accuracy on the task's, `"task"`; the smallest
            of equal ones.
        batch_norm (`str`, *optional*, defaults to `"interpolate"`): What a ResNet's BatchNorm statistics are: those of
            the models, `"interpolate"`, or measured anew on training images of both data, `"reestimate"`.
        batch_norm_images (`int`, *optional*, defaults to 1024): Images of each data to measure them on, at most.
        validation_share (`float`, *optional*, defaults to 0.1): Share of the training rows to choose alpha on, where
            data have no validation part.
        resamples (`int`, *optional*, defaults to 1000): Bootstrap resamples for the 95% intervals.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap and of the share of the training rows.
        encoding ([`EncodingOptions`], *optional*): How images are encoded.

    Raises:
        ValueError: if there are no alphas, one is there twice, or a value is out of its range.
        TypeError: if a value is no number where it must be one.
    """

    alphas: Sequence[float] = tuple(round(0.1 * step, 1) for step in range(11))
    pick: str = PICKS[0]
    batch_norm: str = BATCH_NORM[0]
    batch_norm_images: int = 1024
    validation_share: float = 0.1
    resamples: int = 1000
    seed: int = 0
    encoding: EncodingOptions = field(default_factory=lambda: EncodingOptions(progress=False))

    def __post_init__(self):
        object.__setattr__(self, "alphas", tuple(check_finite("alphas", alpha) for alpha in self.alphas))
        if not len(self.alphas) or len(set(self.alphas)) < len(self.alphas):
            raise ValueError(f"`alphas` are {list(self.alphas)}; they must be one or more different numbers.")
        for name, allowed in (("pick", PICKS), ("batch_norm", BATCH_NORM)):
            if getattr(self, name) not in allowed:
                choices = " or ".join(map(repr, allowed))
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be {choices}.")
        if not 0 < check_finite("validation_share", self.validation_share) < 1:
            raise ValueError(f"`validation_share` is {self.validation_share}; it must be between 0 and 1.")
        for name, least in (("resamples", 1), ("batch_norm_images", 2), ("seed", 0)):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), least))


@dataclass(frozen=True)
class CurvePoint:
    """The model at one alpha: shares from 0 to 1 on the test rows with their 95% intervals, and on validation rows."""

    alpha: float
    task: float
    task_interval: tuple[float, float]
    shift: float
    shift_interval: tuple[float, float]
    task_validation: float
    shift_validation: float


@dataclass
class InterpolationCurve:
    """Models between two, measured.

    Args:
        points (`list[CurvePoint]`): In the order of alpha.
        alpha (`float`): The chosen one.
        task, shift (`str`): Names of the data and what they are scored by, such as `"openmoji_lines (top1)"`.
        chosen_on (`str`): Which rows alpha was chosen on, and how.
        batch_norm (`str`): What was done with BatchNorm's statistics; empty for a model without.
    """

    points: list[CurvePoint]
    alpha: float
    task: str
    shift: str
    chosen_on: str
    batch_norm: str = ""

    @property
    def chosen(self) -> CurvePoint:
        """The point of the chosen alpha."""
        return next(point for point in self.points if point.alpha == self.alpha)

    def terminal_table(self) -> str:
        """All points with their intervals, for a terminal."""
        rows = [
            (
                f"{point.alpha:g}" + (" *" if point.alpha == self.alpha else ""),
                *_cells(point.task, point.task_interval),
                *_cells(point.shift, point.shift_interval),
                f"{100 * point.task_validation:.2f}%",
                f"{100 * point.shift_validation:.2f}%",
            )
            for point in self.points
        ]
        columns = ("alpha", self.task, "95% interval", self.shift, "95% interval", "validation: task", "and shift")
        note = f"* {self.chosen_on} The other figures are of the test rows."
        return f"{draw_table('Between the models', columns, rows)}\n\n{wrap_lines(note)}"

    def figure(self) -> "Figure":
        """Accuracy on the shift (x) against accuracy on the task (y), each point with its alpha."""
        with new_figure("Weights in between: accuracy on the task and on what was there before", 5.2) as figure:
            axis = figure.subplots()
            xs, ys = ([100 * getattr(point, name) for point in self.points] for name in ("shift", "task"))
            errors = [
                np.abs(100 * np.array([getattr(p, f"{name}_interval") for p in self.points]).T - np.array(values))
                for name, values in (("shift", xs), ("task", ys))
            ]
            axis.errorbar(xs, ys, errors[1], errors[0], fmt="o-", elinewidth=0.6, capsize=0, alpha=0.9)
            place = self.points.index(self.chosen)
            label = f"chosen on validation rows: {self.alpha:g}"
            axis.plot(xs[place], ys[place], "s", markersize=10, fillstyle="none", color="black", label=label)
            for point, x, y in zip(self.points, xs, ys):
                axis.annotate(f"{point.alpha:g}", (x, y), (5, 5), textcoords="offset points", fontsize=9)
            axis.set(xlabel=f"{self.shift}, %", ylabel=f"{self.task}, %")
            axis.set_title("Each point: its alpha, with 95% intervals; 0 is the first model, 1 the fine-tuned one")
            axis.legend(loc="best")
        return figure

    def save(self, folder: str | os.PathLike, stem: str = "interpolation") -> list[Path]:
        """Write `stem.json`, `stem.csv` and `stem.png` into a folder; each appears when it is complete."""
        paths = [Path(folder) / f"{stem}.{ending}" for ending in ("json", "csv", "png")]
        with replaced_file(paths[0]) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        rows = [
            {
                name if end is None else f"{name}_{end}": value if end is None else value[end == "high"]
                for name, value in asdict(point).items()
                for end in (("low", "high") if name.endswith("interval") else (None,))
            }
            for point in self.points
        ]
        with replaced_file(paths[1]) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        save_figure(self.figure(), paths[2])
        return paths


@dataclass(frozen=True)
class MeasuredParts:
    """Labelled data in the parts that a choice needs.

    Args:
        test ([`ClassificationData`]): For figures.
        validation ([`ClassificationData`]): To choose on.
        train ([`ClassificationData`]): For BatchNorm's statistics.
        chosen_on (`str`): Which rows `validation` are, in words.
    """

    test: ClassificationData
    validation: ClassificationData
    train: ClassificationData
    chosen_on: str


def load_measured_parts(
    source: Any, share: float, seed: int = 0, options: ClassificationOptions | None = None
) -> MeasuredParts:
    """Load test rows for figures and other rows to choose on: the validation part, or else a share of the training
    part. Data without parts give that share, and the rest for the figures.

    Args:
        source: What [`load_splits`] takes, or the mapping that it gave.
        share (`float`): Share of the rows where there is no validation part.
        seed (`int`, *optional*, defaults to 0): Which rows.
        options ([`ClassificationOptions`], *optional*): As [`load_splits`] takes them.

    Raises:
        ValueError: as [`load_splits`], and if there are test rows only.
    """
    is_loaded = isinstance(source, Mapping) and all(isinstance(part, ClassificationData) for part in source.values())
    parts = dict(source) if is_loaded else load_splits(source, options)
    if len(parts) == 1 and "test" not in parts:
        (whole,) = parts.values()
        chosen, others = _share_of(whole, share, seed)
        words = f"{share:.0%} of the rows of {whole.name}, which are in no figure"
        return MeasuredParts(whole.select(others), whole.select(chosen), whole.select(chosen), words)
    test = parts.get("test")
    if test is None or len(parts) == 1:
        name = next(iter(parts.values())).name
        raise ValueError(
            f"{name} has the part {', '.join(parts)} only. Alpha is chosen on validation rows, never on those of the "
            "figures: the data need a part test and one of validation and train."
        )
    if "validation" in parts:
        validation = parts["validation"]
        return MeasuredParts(test, validation, parts.get("train", validation), f"the validation part of {test.name}")
    train = parts["train"]
    chosen, _ = _share_of(train, share, seed)
    words = f"{share:.0%} of the training part of {test.name}, which has no validation part"
    return MeasuredParts(test, train.select(chosen), train, words)


def _share_of(data: ClassificationData, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the share and the other ones. Each class of several images has at least one in the share, because some
    metrics are means over the classes.
    """
    order = np.random.default_rng(seed).permutation(len(data))
    groups = [order]
    if not data.is_multi_label:
        labels, counts = data.targets[order], data.class_counts
        groups = [order[labels == label] for label in np.nonzero(counts > 1)[0]]
        groups.append(order[counts[labels] == 1])
    chosen = np.concatenate([group[: max(1, round(share * len(group)))] for group in groups])
    others = np.setdiff1d(order, chosen)
    if not len(others):
        raise ValueError(f"{data.name} has {counted(len(data), 'row')}: too few to choose on some and measure others.")
    return np.sort(chosen), others


def draw_curve(
    zero_shot: str | os.PathLike,
    fine_tuned: str | os.PathLike,
    task: MeasuredParts,
    shift: MeasuredParts,
    options: CurveOptions | None = None,
) -> InterpolationCurve:
    """Measure models between two on the task and on the shift, and choose alpha on validation rows.

    Args:
        zero_shot, fine_tuned (`str` or path): The models, with their processors.
        task ([`MeasuredParts`]): What the second model was fine-tuned for; [`load_measured_parts`] gives them.
        shift ([`MeasuredParts`]): What the model should still be able to do.
        options ([`CurveOptions`], *optional*): Which alphas, and how they are compared.

    Returns:
        [`InterpolationCurve`]; [`interpolated_model`] gives the chosen model.

    Raises:
        ValueError: if the models are not alike (see [`interpolate_weights`]), have other tokens, or are a ViT whose
            BatchNorm is to be measured.
    """
    options = options or CurveOptions()
    pair = _Pair.load(zero_shot, fine_tuned)
    if options.batch_norm == "reestimate" and not batch_norm_layers(pair.first):
        raise ValueError(f"{zero_shot} has no BatchNorm to measure anew: it is no ResNet; leave `batch_norm` out.")
    points = []
    classifiers: dict[str, np.ndarray] = {}
    for alpha in sorted(options.alphas):
        model = pair.between(alpha, (task, shift), options)
        encoder = load_dual_encoder(model, processor=pair.processor)
        if not pair.has_one_text_tower:
            classifiers = {}
        figures: dict[str, Any] = {}
        for name, parts in (("task", task), ("shift", shift)):
            if name not in classifiers:
                templates = load_templates(parts.test.templates)
                classifiers[name] = class_embeddings(encoder, parts.test.class_names, templates, options.encoding)
            figures[name], figures[f"{name}_interval"] = _score(encoder, parts.test, classifiers[name], options)
            figures[f"{name}_validation"] = _score(encoder, parts.validation, classifiers[name], options)[0]
        points.append(CurvePoint(float(alpha), **figures))
    return InterpolationCurve(
        points,
        _choose(points, options.pick),
        task=f"{task.test.name} ({task.test.metric})",
        shift=f"{shift.test.name} ({shift.test.metric})",
        chosen_on=_say_choice(task, shift, options.pick),
        batch_norm=options.batch_norm if batch_norm_layers(pair.first) else "",
    )


def interpolated_model(
    zero_shot: str | os.PathLike,
    fine_tuned: str | os.PathLike,
    alpha: float,
    parts: Sequence[MeasuredParts] = (),
    options: CurveOptions | None = None,
) -> tuple[nn.Module, Any]:
    """The model at one alpha, as [`draw_curve`] measured it, and the first model's processor.

    `parts` are those of task and shift, whose training images BatchNorm may be measured on; else none are needed.
    """
    pair = _Pair.load(zero_shot, fine_tuned)
    return pair.between(alpha, parts, options or CurveOptions()), pair.processor


@dataclass
class _Pair:
    """Two models in memory, with the first one's processor."""

    first: nn.Module
    second: nn.Module
    processor: Any
    has_one_text_tower: bool

    @classmethod
    def load(cls, zero_shot: str | os.PathLike, fine_tuned: str | os.PathLike) -> "_Pair":
        (first, processor), (second, other) = load_dual_model(zero_shot), load_dual_model(fine_tuned)
        check_same_shape(first, second, (str(zero_shot), str(fine_tuned)))
        if tokenizer_digest(processor.tokenizer) != tokenizer_digest(other.tokenizer):
            raise ValueError(
                f"{zero_shot} and {fine_tuned} have tokenizers with other vocabularies or settings, so their text "
                "towers read other tokens and have no models between them."
            )
        tensors = second.state_dict()
        of_texts = {name: value for name, value in first.state_dict().items() if name.startswith("text_")}
        return cls(
            first, second, processor, all(torch.equal(value, tensors[name]) for name, value in of_texts.items())
        )

    def between(self, alpha: float, parts: Sequence[MeasuredParts], options: CurveOptions) -> nn.Module:
        model = interpolate_weights(self.first, self.second, alpha)
        if options.batch_norm == "reestimate":
            encoder = load_dual_encoder(model, processor=self.processor)
            reestimate_batch_norm_(model, _batches(encoder, [part.train for part in parts], options))
        return model


def _batches(
    encoder: DualEncoder, data: Sequence[ClassificationData], options: CurveOptions
) -> Iterator[torch.Tensor]:
    """Pixel values of training images of several data, mixed, because the model is to serve all of them."""
    rows = []
    for part in data:
        order = np.random.default_rng(options.seed).permutation(len(part))[: options.batch_norm_images]
        rows += [(part, int(row)) for row in order]
    mixed = np.random.default_rng(options.seed).permutation(len(rows))
    # A last batch of few images would say little; it goes with the one before it.
    for places in np.array_split(mixed, max(1, len(rows) // _BATCH)):
        images = [part.data[row][part.image_column] for part, row in (rows[place] for place in places)]
        yield encoder.prepare(images)["pixel_values"]


def measure(
    encoder: DualEncoder, data: ClassificationData, options: CurveOptions
) -> tuple[float, tuple[float, float]]:
    """The headline figure of a zero-shot classification, 0 to 1, and its 95% interval."""
    templates = load_templates(data.templates)
    return _score(encoder, data, class_embeddings(encoder, data.class_names, templates, options.encoding), options)


def _score(
    encoder: DualEncoder, data: ClassificationData, classifier: np.ndarray, options: CurveOptions
) -> tuple[float, tuple[float, float]]:
    data, images, _ = encode_labelled(encoder, data, options=options.encoding)
    scores = images @ classifier.T  # (n, c)
    interval = bootstrap_interval(data.metric, scores, data.targets, resamples=options.resamples, seed=options.seed)
    return float(CLASSIFICATION_METRICS[data.metric](scores, data.targets)), interval


def _choose(points: Sequence[CurvePoint], pick: str) -> float:
    def value(point: CurvePoint) -> float:
        return point.task_validation + (point.shift_validation if pick == "both" else 0.0)

    best = max(map(value, points))
    return next(point.alpha for point in points if value(point) >= best)


def _say_choice(task: MeasuredParts, shift: MeasuredParts, pick: str) -> str:
    if pick == "task":
        return f"Chosen by the accuracy on {task.chosen_on}."
    return f"Chosen by the mean of the accuracies on {task.chosen_on}, and on {shift.chosen_on}."


def _cells(value: float, interval: tuple[float, float]) -> tuple[str, str]:
    return f"{100 * value:.2f}%", f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}"
