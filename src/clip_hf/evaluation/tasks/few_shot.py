# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Few-shot classifiers on features, and how many examples zero-shot is worth (paper, section 3.1.5, figures 6, 7)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...embedding.dual_encoder import DualEncoder
from ...embedding.encoding_options import EncodingOptions
from ...embedding.load_encoder import load_dual_encoder
from ...utils.figures import COLOURS, new_figure
from ...utils.wording import counted, listed, markdown_table
from ..numerics.logistic_regression import (
    LinearClassifier,
    LogisticRegressionOptions,
    RegularizationPath,
    check_all_classes,
    num_classes_of,
)
from ..numerics.metric_inputs import as_array, check_matrix
from ..numerics.metrics import CLASSIFICATION_METRICS
from ..registry.evaluation_data import ClassificationData
from .display_names import metric_label
from .evaluation_result import EvaluationResult, chance_of, format_metric, majority_share
from .evaluation_task import TaskSettings
from .labelled_features import TrainAndTestTask, encode_splits, train_and_test
from .linear_probe import Features, Split, check_splits, search_lambda
from .zero_shot import class_embeddings, class_notes


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class FewShotOptions(LogisticRegressionOptions):
    """How few-shot classifiers are made.

    lambda is never chosen on test rows. It is fixed, or searched on validation rows where those are given; usually
    there are more of them than shots.

    Args:
        max_iterations, tolerance, intercept, device, dtype: See [`LogisticRegressionOptions`].
        shots (`Sequence[int]`, *optional*, defaults to `(1, 2, 4, 8, 16)`): Examples of each class.
        seeds (`Sequence[int]`, *optional*, defaults to `(0, 1, 2)`): Seeds of the draws, one draw of each number of
            examples for each.
        metric (`str`, *optional*, defaults to `"top1"`): One of `CLASSIFICATION_METRICS` for one class an image.
        zero_shot_accuracy (`float`, *optional*): Accuracy of the zero-shot classifier on the test rows, 0 to 1; by
            default that of the text classifier.
        validation (`tuple`, *optional*): Features and labels of validation rows, to choose lambda on for each draw.
        penalty (`float`, *optional*, defaults to 0.03): lambda without validation rows, for features of variance 1
            (summed over features). It is multiplied by the training features' variance, so neither their scale nor
            their mean matters. Labels are not used.
        text_penalty (`float`, *optional*, defaults to 0.1): The same for classifiers that start at the text
            classifier.
        logit_scale (`float`, *optional*, defaults to 100.0): What cosines are multiplied by; a model's own is
            `DualEncoder.logit_scale`.
        fully_supervised (`bool`, *optional*, defaults to `False`): Also fit to all training rows, as the last point of
            the interpolation, as in the paper's figure 7.
        class_names (`Sequence[str]`, *optional*): Names of the classes, for messages.
        encoding: As in [`ZeroShotOptions`], for [`evaluate_few_shot`].
        model, data, split (`str`, *optional*): Names for the result of [`few_shot`].

    Raises:
        ValueError: If a value is not allowed.
    """

    shots: Sequence[int] = (1, 2, 4, 8, 16)
    seeds: Sequence[int] = (0, 1, 2)
    metric: str = "top1"
    zero_shot_accuracy: float | None = None
    validation: tuple[Features, np.ndarray] | None = None
    # On digits and clusters with 1 to 16 shots, a tenth of the penalty changes accuracies by up to 2 points, three
    # times the penalty by up to 4.
    penalty: float = 0.03
    # One example can move a row of the text classifier, and its own logit, by up to 1 / penalty.
    text_penalty: float = 0.1
    logit_scale: float = 100.0
    fully_supervised: bool = False
    class_names: Sequence[str] | None = None
    encoding: EncodingOptions = field(default_factory=EncodingOptions)
    model: str = ""
    data: str = ""
    split: str = "test"

    def __post_init__(self):
        super().__post_init__()
        if self.metric not in CLASSIFICATION_METRICS or self.metric == "map_11point":
            known = ", ".join(name for name in CLASSIFICATION_METRICS if name != "map_11point")
            raise ValueError(f"`metric` is {self.metric!r}; for few-shot it must be one of {known}.")
        for name in ("penalty", "text_penalty", "logit_scale"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be a positive number.")
        if self.zero_shot_accuracy is not None and not 0 <= self.zero_shot_accuracy <= 1:
            raise ValueError(f"`zero_shot_accuracy` is {self.zero_shot_accuracy}; it must be a share from 0 to 1.")


@dataclass(kw_only=True)
class ScoreCurve:
    """Scores of one kind of few-shot classifier: `scores` are (shots, seeds), 0 to 1."""

    scores: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(shots,), mean over seeds."""
        return self.scores.mean(axis=1)

    @property
    def spread(self) -> np.ndarray:
        """(shots,), standard deviation over seeds, that of a sample; 0 for one seed."""
        return self.scores.std(axis=1, ddof=1) if self.scores.shape[1] > 1 else np.zeros(len(self.scores))


@dataclass(kw_only=True)
class FewShotCurve(ScoreCurve):
    """Scores of regressions.

    Args:
        scores (`np.ndarray`): (shots, seeds), 0 to 1.
        penalties (`np.ndarray`): (shots, seeds), each classifier's lambda.
        converged (`bool`): Whether all regressions came to their minimum.
    """

    penalties: np.ndarray
    converged: bool


@dataclass(kw_only=True, repr=False)
class FewShotResult(EvaluationResult):
    """Figures of few-shot classifiers.

    Args:
        metric (`str`): What scores are.
        shots, seeds (`list[int]`): Examples of each class, and draws.
        probe ([`FewShotCurve`]): Logistic regression from nothing, as in the paper.
        from_text ([`FewShotCurve`], *optional*): Logistic regression that is held near the text classifier; with no
            example it is that.
        zero_shot_accuracy (`float`): Score of the zero-shot classifier; NaN where it is not known.
        fully_supervised (`tuple[float, float]`, *optional*): Training rows per class, and the score of the regression
            on all of them.
        shots_to_match_zero_shot (`float`): Shots at which the probe scores as zero-shot does; NaN where that is
            outside of what was measured.
        match (`str`): The same in words, also where it is outside.
        lambda_from (`str`): How lambda was chosen.
    """

    task = "few_shot"
    task_type = "image-classification"
    margin_heading = "1 SD over draws"

    metric: str
    shots: list[int]
    seeds: list[int]
    probe: FewShotCurve
    from_text: FewShotCurve | None
    zero_shot_accuracy: float
    fully_supervised: tuple[float, float] | None
    shots_to_match_zero_shot: float
    match: str
    lambda_from: str

    @property
    def accuracies(self) -> dict[int, float]:
        """Mean score of the probe by shots, 0 to 1."""
        return dict(zip(self.shots, self.probe.mean.tolist()))

    @property
    def from_text_accuracies(self) -> dict[int, float]:
        """Mean score by shots where the start is the text classifier, which is that of 0 shots; may be empty."""
        if self.from_text is None:
            return {}
        return {0: self.zero_shot_accuracy} | dict(zip(self.shots, self.from_text.mean.tolist()))

    @property
    def metrics(self) -> dict[str, float]:
        """Means over seeds by shots, zero-shot, and the shots that match it; NaN where not known."""
        figures = {f"{shots}_shot": value for shots, value in self.accuracies.items()}
        figures |= {f"{shots}_shot_from_text": value for shots, value in self.from_text_accuracies.items() if shots}
        if self.fully_supervised is not None:
            figures["fully_supervised"] = self.fully_supervised[1]
        return figures | {
            "zero_shot": self.zero_shot_accuracy,
            "shots_to_match_zero_shot": self.shots_to_match_zero_shot,
        }

    def margins(self) -> dict[str, str]:
        """Standard deviations over draws, in points, by name; none of a single draw."""
        curves = {"shot": self.probe, "shot_from_text": self.from_text}
        return {
            f"{shots}_{ending}": f"± {100 * spread:.2f}"
            for ending, curve in curves.items()
            if curve is not None and len(self.seeds) > 1
            for shots, spread in zip(self.shots, curve.spread)
        }

    @property
    def words(self) -> dict[str, str]:
        """The shots that match zero-shot in words, such as `"fewer than 1"`."""
        return {"shots_to_match_zero_shot": self.match} if self.match else {}

    def details(self) -> str:
        """The curves with their spread over draws, in Markdown."""
        curves = [curve for curve in (self.probe, self.from_text) if curve is not None]
        rows = [] if self.from_text is None else [(0, "", format_metric(self.metric, self.zero_shot_accuracy))]
        for place, shots in enumerate(self.shots):
            points = [(curve.mean[place], curve.spread[place]) for curve in curves]
            cells = [f"{format_metric(self.metric, mean)} ± {100 * spread:.2f}" for mean, spread in points]
            rows.append((shots, *cells) if self.from_text is not None else (shots, *cells, ""))
        parts = [
            f"{self.metric}: mean and standard deviation over {counted(len(self.seeds), 'draw')}; {self.lambda_from}.",
            f"Shots at which the probe matches zero-shot: {self.match}.",
            markdown_table(("shots", "probe", "from the text classifier"), rows),
        ]
        if not all(curve.converged for curve in curves):
            parts.append("**Not all regressions converged.**")
        return "\n\n".join(parts)

    def figure(self) -> "Figure":
        """Scores by shots, with zero-shot as a star, as in the paper's figure 6."""
        with new_figure(self.plot_title(), 4.8) as figure:
            axis = figure.subplots()
            # 0 has no place on a logarithmic axis; it stands one doubling before the fewest shots.
            places = np.log2(self.shots)
            first = places[0] - 1
            axis.errorbar(places, 100 * self.probe.mean, 100 * self.probe.spread, marker="o", label="linear probe")
            if self.from_text is not None:
                means = 100 * np.array([self.zero_shot_accuracy, *self.from_text.mean])
                spreads = 100 * np.array([0.0, *self.from_text.spread])
                label = "starting at the text classifier"
                axis.errorbar([first, *places], means, spreads, marker="s", label=label)
            if math.isfinite(self.zero_shot_accuracy):
                score = 100 * self.zero_shot_accuracy
                axis.axhline(score, color=COLOURS[3], linestyle="--", linewidth=1)
                axis.plot(first, score, "*", color=COLOURS[3], markersize=15, zorder=3, label="zero-shot")
            ticks = dict(zip([first, *places], ["0", *map(str, self.shots)]))
            if self.fully_supervised is not None and self.fully_supervised[0] > self.shots[-1]:
                rows, score = self.fully_supervised
                ends = [places[-1], math.log2(rows)], [100 * self.probe.mean[-1], 100 * score]
                axis.plot(*ends, "o:", color=COLOURS[0], markerfacecolor="white", label="all training images")
                if rows > 1.4 * self.shots[-1]:  # else its label would stand on that of the most shots
                    ticks[ends[0][1]] = f"{rows:.4g}"
            if math.isfinite(self.shots_to_match_zero_shot):
                axis.axvline(math.log2(self.shots_to_match_zero_shot), color=COLOURS[3], linestyle=":", linewidth=1)
            axis.set_xticks(list(ticks), list(ticks.values()))
            axis.set(xlabel="labelled images per class", ylabel=f"{metric_label(self.metric)} (%)")
            axis.set_title("; ".join(self._captions()))
            axis.legend(loc="best")
        return figure

    def _captions(self) -> list[str]:
        """What the title of the plot says besides what was measured."""
        bars = f"Bars: ± 1 standard deviation over {counted(len(self.seeds), 'draw')}"
        shots = "shot" if self.match.endswith(" 1") else "shots"
        return [
            *([bars] if len(self.seeds) > 1 else []),
            *([f"zero-shot is worth {self.match} {shots}"] if self.match else []),
        ]


def few_shot(
    train_features: Features,
    train_labels: np.ndarray,
    test_features: Features,
    test_labels: np.ndarray,
    *,
    text_classifier: Features | None = None,
    options: FewShotOptions | None = None,
) -> FewShotResult:
    """Logistic regressions on a few examples of each class (Radford et al. 2021, section 3.1.5).

    - A seed decides an order of each class's training rows; k shots are the first k, so fewer shots are a part of
      more.
    - With a text classifier, there is a second curve: regressions without intercept whose weights are penalised for
      their distance to `logit_scale` times the text classifier instead of to zero. With no example they are it.
    - The shots that zero-shot is worth are where the mean over seeds first reaches it, interpolated linearly in the
      logarithm of shots.

    Args:
        train_features (`np.ndarray` or `torch.Tensor`): (n, d). With a text classifier: image embeddings in the space
            shared with texts, L2-normalised.
        train_labels (`np.ndarray`): (n,) integers from 0.
        test_features, test_labels: What is scored.
        text_classifier (`np.ndarray` or `torch.Tensor`, *optional*): (c, d), as [`build_text_classifier`] or
            [`class_embeddings`] give it.
        options ([`FewShotOptions`], *optional*): Shots, seeds, metric, lambda, validation rows, names.

    Returns:
        [`FewShotResult`]

    Raises:
        TypeError: If labels are strings.
        ValueError: If a class has fewer training rows than the most shots (it is named, with the most that are
            possible), if shapes disagree, or features are not finite.

    Example:

    ```python
    >>> result = few_shot(train_x, train_y, test_x, test_y, text_classifier=classifier)
    >>> print(result.accuracies, result.match)
    ```
    """
    options = options or FewShotOptions()
    run = _Run((train_features, train_labels), (test_features, test_labels), text_classifier, options)
    shots, seeds = sorted({int(count) for count in options.shots}), [int(seed) for seed in options.seeds]
    if not shots or shots[0] < 1 or not seeds:
        raise ValueError(f"`shots` are {shots} and `seeds` {seeds}; give at least one of each, shots from 1.")
    counts = np.bincount(run.train.labels, minlength=run.num_classes)
    check_shots(shots, counts, options.class_names, options.data)
    zero_shot = run.zero_shot()
    probe = run.curve(shots, seeds, None)
    from_text = None if run.text is None else run.curve(shots, seeds, run.text)
    full = run.fully_supervised() if options.fully_supervised else None
    points = list(zip(map(float, shots), probe.mean.tolist()))
    matched, words = shots_to_match(points + [full] if full and full[0] > shots[-1] else points, zero_shot)
    result = FewShotResult(
        model=options.model,
        data=options.data,
        split=options.split,
        majority_class=majority_share(run.test.labels),
        metric=options.metric,
        shots=shots,
        seeds=seeds,
        probe=probe,
        from_text=from_text,
        zero_shot_accuracy=zero_shot,
        fully_supervised=full,
        shots_to_match_zero_shot=matched,
        match=words,
        lambda_from=run.lambda_from,
    )
    chance = chance_of(options.metric, run.num_classes, run.test.labels)
    result.chance = {name: chance for name in result.metrics if name != "shots_to_match_zero_shot"}
    return result


def evaluate_few_shot(
    model: Any, data: Any, options: FewShotOptions | None = None, *, processor: Any = None
) -> FewShotResult:
    """Fit classifiers to a few images of each class, and compare with zero-shot (Radford et al. 2021, section 3.1.5).

    Features are image embeddings in the space shared with texts. Prompts and metric are the data's, the temperature is
    the model's; [`few_shot`] describes the fit.

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path): The model; see [`load_dual_encoder`].
        data (`Mapping[str, ClassificationData]`, or what [`load_splits`] takes): Labelled images by split; train and
            test are used.
        options ([`FewShotOptions`], *optional*): Shots, seeds, penalties, encoding. `metric`, `class_names` and
            `logit_scale` come from data and model.
        processor (*optional*): The model's processor, where the model is a `nn.Module`.

    Returns:
        [`FewShotResult`]

    Raises:
        ValueError: if train or test is missing, their classes differ, images have several classes, a class has fewer
            images than the most shots, or more images cannot be read than `options.encoding.max_skipped_share` allows
            (the others are skipped and counted).

    Example:

    ```python
    >>> from clip_hf.evaluation import evaluate_few_shot

    >>> result = evaluate_few_shot("openai/clip-vit-base-patch32", "eurosat=path/to/eurosat")
    >>> print(result.accuracies, result.match)
    ```
    """
    options, encoder = options or FewShotOptions(), load_dual_encoder(model, processor=processor)
    test, arrays, classifier, skipped = encode_few_shot(encoder, data, options.shots, options.encoding)
    options = replace(
        options,
        metric=test.metric,
        logit_scale=encoder.logit_scale,
        class_names=test.class_names,
        model=encoder.name,
        data=test.name,
        split=test.split,
    )
    result = few_shot(*arrays, text_classifier=classifier, options=options)
    result.record_encoder(encoder)
    result.skipped = skipped
    result.notes = class_notes(encoder, test.class_names, test.templates, f"{test.name} ({test.split})")
    return result


def encode_few_shot(
    encoder: DualEncoder, data: Any, shots: Sequence[int], encoding: EncodingOptions
) -> tuple[ClassificationData, list[np.ndarray], np.ndarray, dict[str, Any]]:
    """The test part, features and targets of train and test, the text classifier, and what was skipped by split.

    `data` is what [`train_and_test`] takes; more `shots` than a class has images are refused before any is encoded.
    """
    parts = train_and_test(data, encoder.media)
    check_few_shot_splits(parts, shots)
    test = parts["test"]
    arrays, skipped = encode_splits(encoder, parts, ("train", "test"), projected=True, options=encoding)
    return test, arrays, class_embeddings(encoder, test.class_names, test.templates, encoding), skipped


def check_few_shot_splits(splits: dict[str, Any], shots: Sequence[int]) -> None:
    """Refuse images with several classes, and more shots than a class has images."""
    if splits["test"].is_multi_label:
        raise ValueError(f"An image of {splits['test'].name} may have several classes; few-shot is for one.")
    train = splits["train"]
    check_shots(shots, train.class_counts, train.class_names, train.name)


def check_shots(shots: Sequence[int], counts: np.ndarray, class_names: Sequence[str] | None, data: str) -> None:
    """Refuse more shots than every class has training rows."""
    short = np.flatnonzero(counts < max(shots))
    if len(short):
        shown = [f"{label if class_names is None else repr(class_names[label])} ({counts[label]})" for label in short]
        where = f" of {data}" if data else ""
        raise ValueError(
            f"`shots` (--shots) go up to {max(shots)}, but {len(short)} of {len(counts)} classes{where} have fewer "
            f"training rows: {listed(shown, 5)}. The most that every class has is {counts.min()}."
        )


class FewShotTask(TrainAndTestTask):
    """Few-shot classifiers, and how many examples zero-shot is worth."""

    result = FewShotResult

    def check(self, parts: dict[str, Any], settings: TaskSettings) -> None:
        """Refuse images with several classes, and more shots than a class has images."""
        check_few_shot_splits(parts, settings.shots)

    def run(self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings) -> FewShotResult:
        """Fit and score them."""
        options = FewShotOptions(
            shots=tuple(settings.shots),
            seeds=tuple(range(settings.seed, settings.seed + settings.few_shot_seeds)),
            fully_supervised=True,
            encoding=settings.encoding,
        )
        return evaluate_few_shot(encoder, parts, options)


def shots_to_match(points: Sequence[tuple[float, float]], zero_shot: float) -> tuple[float, str]:
    """Shots at which a curve first reaches a score, interpolated linearly in the logarithm of shots (paper, figure 7).

    It is NaN where that is outside of the points, which are shots, ascending, and scores. The same in words is such as
    `"5.4"`, `"fewer than 1"` and `"more than 16"`, or empty where `zero_shot` is NaN.

    Example:

    ```python
    >>> shots_to_match([(1, 0.2), (2, 0.4), (4, 0.6)], 0.5)  # half-way from 2 to 4 on a logarithmic axis
    (2.828427124746..., '2.8')
    ```
    """
    if math.isnan(zero_shot):
        return math.nan, ""
    before, score = points[0]
    if score > zero_shot:
        return math.nan, f"fewer than {before:g}"
    if score == zero_shot:
        return float(before), f"{before:.1f}"
    for count, reached in points[1:]:
        if reached >= zero_shot:
            share = (zero_shot - score) / (reached - score)
            shots = math.exp(math.log(before) + share * (math.log(count) - math.log(before)))
            return shots, f"{shots:.1f}"
        before, score = count, reached
    return math.nan, f"more than {before:g}"


def draw_shots(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Rows of so many examples of each class, without replacement; those of fewer shots are among those of more."""
    chosen = [
        # A generator for each class, so that the draw of one class does not depend on the others.
        np.random.default_rng((seed, label)).permutation(np.flatnonzero(labels == label))[:shots]
        for label in range(labels.max() + 1)
    ]
    return np.sort(np.concatenate(chosen))


class _Run:
    """The data, checked, and the regressions on them."""

    def __init__(self, train: tuple, test: tuple, text_classifier: Features | None, options: FewShotOptions):
        self.options = options
        given = {"train": train, "test": test}
        splits = check_splits(given if options.validation is None else given | {"validation": options.validation})
        for name, split in splits.items():
            if split.labels.ndim == 2:
                shape = split.labels.shape
                raise ValueError(
                    f"{name}_labels have shape {shape}; few-shot needs one class an image, shape (rows,)."
                )
        self.train, self.test, self.validation = (splits.get(name) for name in ("train", "test", "validation"))
        self.num_classes = num_classes_of(*(split.labels for split in splits.values()))
        check_all_classes(self.train.labels, self.num_classes, "train_labels")
        self._metric = CLASSIFICATION_METRICS[options.metric]
        self._metric(np.zeros((len(self.test.labels), self.num_classes)), self.test.labels)
        # Labels are not used. Rows that are all the same have none; any penalty will do for them.
        rows = torch.as_tensor(self.train.features).double()
        self._variance = float(rows.var(dim=0, correction=0).sum()) or 1.0
        self.text = self._text(text_classifier, float(rows.square().sum(dim=1).mean()), rows.shape[1])

    def _text(self, text_classifier: Features | None, norm: float, width: int) -> np.ndarray | None:
        if text_classifier is None:
            return None
        check_matrix(text_classifier, "text_classifier", width=width)
        if len(text_classifier) != self.num_classes:
            raise ValueError(
                f"text_classifier has {len(text_classifier)} rows, but there are {self.num_classes} classes."
            )
        if not 0.9 < norm < 1.1:
            raise ValueError(
                f"train_features have a mean squared norm of {norm:.3g}; with a text classifier give "
                "L2-normalised image embeddings (`encode_images` with `projected=True`)."
            )
        weights = torch.as_tensor(text_classifier).detach().cpu().double().numpy()
        return self.options.logit_scale * weights

    @property
    def lambda_from(self) -> str:
        """How lambda is chosen, in words."""
        if self.validation is not None:
            return f"lambda chosen for each draw on {counted(len(self.validation.labels), 'validation image')}"
        start = f", {self.options.text_penalty:g} from the text classifier" if self.text is not None else ""
        return f"lambda fixed: {self.options.penalty:g}{start}, times the features' variance {self._variance:.3g}"

    def zero_shot(self) -> float:
        """Score of the zero-shot classifier; NaN where there is none."""
        if self.options.zero_shot_accuracy is not None:
            return float(self.options.zero_shot_accuracy)
        if self.text is None:
            return math.nan
        features = as_array(self.test.features, "test_features").astype(np.float64)
        return float(self._metric(features @ self.text.T, self.test.labels))

    def curve(self, shots: list[int], seeds: list[int], center: np.ndarray | None) -> FewShotCurve:
        """Scores of all shots and seeds."""
        scores, penalties = (np.zeros((len(shots), len(seeds))) for _ in range(2))
        converged = True
        for place, count in enumerate(shots):
            for column, seed in enumerate(seeds):
                classifier = self._fit(draw_shots(self.train.labels, count, seed), center)
                scores[place, column] = self._score(classifier, self.test)
                penalties[place, column] = classifier.penalty
                converged &= classifier.converged
        return FewShotCurve(scores=scores, penalties=penalties, converged=converged)

    def fully_supervised(self) -> tuple[float, float]:
        """Rows per class of all the training data, and the probe's score with them."""
        everything = np.arange(len(self.train.labels))
        return len(everything) / self.num_classes, self._score(self._fit(everything, None), self.test)

    def _fit(self, rows: np.ndarray, center: np.ndarray | None) -> LinearClassifier:
        options = self.options
        # The text classifier has no intercept; one that is free would not come from it.
        regression = replace(options, intercept=options.intercept and center is None)
        part, classes = self.train.select(rows), self.num_classes
        path = RegularizationPath(part.features, part.labels, num_classes=classes, center=center, options=regression)
        if self.validation is None:
            return path.solve((options.penalty if center is None else options.text_penalty) * self._variance)
        classifiers: dict[float, LinearClassifier] = {}

        def score(penalty: float) -> float:
            classifiers[penalty] = path.solve(penalty)
            return self._score(classifiers[penalty], self.validation)

        return classifiers[search_lambda(score)[0]]

    def _score(self, classifier: LinearClassifier, split: Split) -> float:
        return float(self._metric(classifier.scores(split.features), split.labels))
