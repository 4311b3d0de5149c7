# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Heads on frozen features side by side: what a few labelled images add to zero-shot."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...embedding.dual_encoder import DualEncoder
from ...embedding.encoding_options import EncodingOptions
from ...embedding.load_encoder import load_dual_encoder
from ...utils.figures import COLOURS, new_figure
from ...utils.wording import counted, listed, markdown_table
from ..numerics.feature_heads import HEAD_METHODS, fit_head
from ..numerics.head_fitting import FeatureHead, checked_rows, checked_support
from ..numerics.metric_inputs import as_array
from ..numerics.metrics import CLASSIFICATION_METRICS
from .display_names import HEAD_LABELS, metric_label
from .evaluation_result import EvaluationResult, chance_of, format_metric, majority_share
from .evaluation_task import TaskSettings
from .few_shot import ScoreCurve, check_few_shot_splits, check_shots, draw_shots, encode_few_shot
from .labelled_features import TrainAndTestTask
from .linear_probe import Features
from .zero_shot import class_notes


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class AdapterOptions:
    """Which heads are fitted to how many images. Their hyper-parameters are chosen on these images alone.

    Args:
        methods (`Sequence[str]`, *optional*): Some of `HEAD_METHODS`; by default all.
        shots, seeds (`Sequence[int]`, *optional*): Examples of each class, and draws, as in [`FewShotOptions`].
        metric (`str`, *optional*, defaults to `"top1"`): One of `CLASSIFICATION_METRICS` for one class an image.
        logit_scale (`float`, *optional*, defaults to 100.0): What cosines are multiplied by.
        class_names (`Sequence[str]`, *optional*): Names of the classes, for messages.
        encoding ([`EncodingOptions`], *optional*): How images are encoded, for [`evaluate_adapters`].

    Raises:
        ValueError: If there are no methods, shots or seeds, or a method or metric is unknown.
    """

    methods: Sequence[str] = HEAD_METHODS
    shots: Sequence[int] = (1, 2, 4, 8, 16)
    seeds: Sequence[int] = (0, 1, 2)
    metric: str = "top1"
    logit_scale: float = 100.0
    class_names: Sequence[str] | None = None
    encoding: EncodingOptions = field(default_factory=EncodingOptions)

    def __post_init__(self):
        unknown = [method for method in self.methods if method not in HEAD_METHODS]
        if unknown or not self.methods:
            raise ValueError(f"`methods` are {list(self.methods)}; give one or more of {', '.join(HEAD_METHODS)}.")
        if not self.shots or min(self.shots) < 1 or not self.seeds:
            raise ValueError(
                f"`shots` are {list(self.shots)} and `seeds` {list(self.seeds)}; give at least one of each, shots "
                "from 1."
            )
        metrics = [name for name in CLASSIFICATION_METRICS if name != "map_11point"]
        if self.metric not in metrics:
            raise ValueError(f"`metric` is {self.metric!r}; it must be one of {listed(metrics, len(metrics))}.")


@dataclass(kw_only=True)
class HeadCurve(ScoreCurve):
    """Scores of one method.

    Args:
        scores (`np.ndarray`): (shots, seeds), 0 to 1.
        chosen (`list[list[dict[str, float]]]`): Hyper-parameters by shots and seeds; see [`FeatureHead`].
        chosen_on (`list[str]`): By shots, which rows they were chosen on.
    """

    chosen: list[list[dict[str, float]]]
    chosen_on: list[str]


@dataclass(kw_only=True, repr=False)
class AdapterResult(EvaluationResult):
    """Figures of heads on frozen features.

    Args:
        metric (`str`): What scores are.
        shots, seeds (`list[int]`): Examples of each class, and draws.
        zero_shot (`float`): Score of the text classifier, 0 to 1.
        curves (`dict[str, HeadCurve]`): Scores by method.
    """

    task = "adapters"
    task_type = "image-classification"
    margin_heading = "1 SD over draws"

    metric: str
    shots: list[int]
    seeds: list[int]
    zero_shot: float
    curves: dict[str, HeadCurve]

    @property
    def metrics(self) -> dict[str, float]:
        """Zero-shot, and means over seeds by shots and method."""
        return {"zero_shot": self.zero_shot} | {
            f"{shots}_shot_{method}": float(curve.mean[place])
            for method, curve in self.curves.items()
            for place, shots in enumerate(self.shots)
        }

    def margins(self) -> dict[str, str]:
        """Standard deviations over draws, in points, by name; none of a single draw."""
        return {
            f"{shots}_shot_{method}": f"± {100 * curve.spread[place]:.2f}"
            for method, curve in self.curves.items()
            for place, shots in enumerate(self.shots)
            if len(self.seeds) > 1
        }

    def details(self) -> str:
        """The curves with their spread over draws, in Markdown, a column a method."""
        rows = [(0, *[format_metric(self.metric, self.zero_shot)] * len(self.curves))]
        for place, shots in enumerate(self.shots):
            points = [(curve.mean[place], curve.spread[place]) for curve in self.curves.values()]
            rows.append((shots, *(f"{format_metric(self.metric, mean)} ± {100 * sd:.2f}" for mean, sd in points)))
        draws = counted(len(self.seeds), "draw")
        return "\n\n".join(
            (
                f"{self.metric}: mean and standard deviation over {draws}; 0 shots are zero-shot. Hyper-parameters "
                "are chosen on the drawn images alone; with one image of a class they are fixed.",
                markdown_table(("shots", *(HEAD_LABELS[method] for method in self.curves)), rows),
            )
        )

    def figure(self) -> "Figure":
        """Scores by shots with zero-shot as a line; bars are standard deviations over draws."""
        with new_figure(self.plot_title(), 4.8) as figure:
            axis = figure.subplots()
            places = np.log2(self.shots)
            for number, (method, curve) in enumerate(self.curves.items()):
                shift = 0.05 * (number - (len(self.curves) - 1) / 2)  # so that bars stand side by side
                style = {"marker": "os^Dv"[number % 5], "markersize": 5, "capsize": 2, "linewidth": 1.2}
                axis.errorbar(places + shift, 100 * curve.mean, 100 * curve.spread, label=HEAD_LABELS[method], **style)
            axis.axhline(100 * self.zero_shot, color=COLOURS[-1], linestyle="--", linewidth=1, label="zero-shot")
            axis.set_xticks(places, [str(shots) for shots in self.shots])
            axis.set(xlabel="labelled images per class", ylabel=f"{metric_label(self.metric)} (%)")
            if len(self.seeds) > 1:
                axis.set_title(f"Bars: ± 1 standard deviation over {counted(len(self.seeds), 'draw')}")
            axis.legend(loc="best")
        return figure


def compare_heads(
    train_features: Features,
    train_labels: np.ndarray,
    test_features: Features,
    test_labels: np.ndarray,
    *,
    text_classifier: Features,
    options: AdapterOptions | None = None,
) -> AdapterResult:
    """Fit heads to a few examples of each class, drawn as [`few_shot`] draws them, and score them beside zero-shot.

    Args:
        train_features, test_features (`np.ndarray` or `torch.Tensor`): (n, d) L2-normalised image embeddings.
        train_labels, test_labels (`np.ndarray`): (n,) integers from 0.
        text_classifier (`np.ndarray` or `torch.Tensor`): (c, d), as [`class_embeddings`] gives it.
        options ([`AdapterOptions`], *optional*): Methods, shots, seeds, metric.

    Returns:
        [`AdapterResult`]

    Raises:
        TypeError, ValueError: As of [`fit_head`]; and if a class has fewer training rows than the most shots.
    """
    options = options or AdapterOptions()
    shots, seeds = sorted({int(count) for count in options.shots}), [int(seed) for seed in options.seeds]
    text = checked_support(train_features, train_labels, text_classifier, options.logit_scale, 0).text
    test_rows, test_labels = (part.numpy() for part in checked_rows(test_features, test_labels, "test", text))
    train_labels, classes = as_array(train_labels, "train_labels"), len(text)
    check_shots(shots, np.bincount(train_labels, minlength=classes), options.class_names, "")
    metric = CLASSIFICATION_METRICS[options.metric]

    def fit(method: str, count: int, seed: int) -> FeatureHead:
        rows = draw_shots(train_labels, count, seed)
        part = train_features[rows], train_labels[rows], text_classifier
        return fit_head(method, *part, logit_scale=options.logit_scale, seed=seed)

    curves = {}
    for method in options.methods:
        heads = [[fit(method, count, seed) for seed in seeds] for count in shots]
        scores = [[float(metric(head.scores(test_rows), test_labels)) for head in row] for row in heads]
        curves[method] = HeadCurve(
            scores=np.array(scores),
            chosen=[[head.chosen for head in row] for row in heads],
            chosen_on=[row[0].chosen_on for row in heads],
        )
    result = AdapterResult(
        model="",
        data="",
        majority_class=majority_share(test_labels),
        metric=options.metric,
        shots=shots,
        seeds=seeds,
        zero_shot=float(metric(test_rows @ text.numpy().T, test_labels)),
        curves=curves,
    )
    result.chance = dict.fromkeys(result.metrics, chance_of(options.metric, classes, test_labels))
    return result


def evaluate_adapters(
    model: Any, data: Any, options: AdapterOptions | None = None, *, processor: Any = None
) -> AdapterResult:
    """Fit heads to the embeddings of a few images of each class; each image is encoded once.

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path): The model; see [`load_dual_encoder`].
        data (`Mapping[str, ClassificationData]`, or what [`load_splits`] takes): Labelled images by split; train and
            test are used.
        options ([`AdapterOptions`], *optional*): Methods, shots, seeds, encoding. `metric`, `class_names` and
            `logit_scale` come from data and model.
        processor (*optional*): The model's processor, where the model is a `nn.Module`.

    Returns:
        [`AdapterResult`]

    Raises:
        ValueError: As of [`evaluate_few_shot`].

    Example:

    ```python
    >>> from clip_hf.evaluation import evaluate_adapters

    >>> result = evaluate_adapters("openai/clip-vit-base-patch32", "eurosat=path/to/eurosat")
    >>> print(result.details())
    ```
    """
    options, encoder = options or AdapterOptions(), load_dual_encoder(model, processor=processor)
    test, arrays, classifier, skipped = encode_few_shot(encoder, data, options.shots, options.encoding)
    options = replace(options, metric=test.metric, logit_scale=encoder.logit_scale, class_names=test.class_names)
    result = compare_heads(*arrays, text_classifier=classifier, options=options)
    result.data, result.split, result.skipped = test.name, test.split, skipped
    result.record_encoder(encoder)
    result.notes = class_notes(encoder, test.class_names, test.templates, f"{test.name} ({test.split})")
    return result


class AdapterTask(TrainAndTestTask):
    """Heads on frozen features beside zero-shot."""

    result = AdapterResult

    def check(self, parts: dict[str, Any], settings: TaskSettings) -> None:
        """Refuse images with several classes, and more shots than a class has images."""
        check_few_shot_splits(parts, settings.shots)

    def run(self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings) -> AdapterResult:
        """Fit and score them."""
        seeds = tuple(range(settings.seed, settings.seed + settings.few_shot_seeds))
        options = AdapterOptions(shots=tuple(settings.shots), seeds=seeds, encoding=settings.encoding)
        return evaluate_adapters(encoder, parts, options)
