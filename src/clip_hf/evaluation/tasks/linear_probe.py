# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Linear probes by the paper's protocol (section 3.2, appendix A.3): how good are features for a linear classifier?"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...embedding.dual_encoder import DualEncoder
from ...embedding.encoding_options import EncodingOptions
from ...embedding.load_encoder import load_dual_encoder
from ...utils.figures import COLOURS, new_figure
from ...utils.wording import counted, markdown_table
from ..numerics.bootstrap import bootstrap_interval
from ..numerics.logistic_regression import (
    LinearClassifier,
    LogisticRegressionOptions,
    RegularizationPath,
    check_all_classes,
    check_labels,
    num_classes_of,
)
from ..numerics.metric_inputs import check_matrix
from ..numerics.metrics import CLASSIFICATION_METRICS
from .display_names import metric_label
from .evaluation_result import EvaluationResult, chance_of, format_metric, majority_share
from .evaluation_task import TaskSettings
from .labelled_features import TrainAndTestTask, encode_splits, train_and_test


if TYPE_CHECKING:
    from matplotlib.figure import Figure

Features = np.ndarray | torch.Tensor

STEPS_PER_DECADE = 8
LAMBDAS = tuple(10.0 ** (step / STEPS_PER_DECADE - 6) for step in range(12 * STEPS_PER_DECADE + 1))
"""The paper's grid: from 1e-6 to 1e6 in 96 steps, 8 a decade."""
_FIRST_STRIDE = 2 * STEPS_PER_DECADE
# Scores that differ by less are equal: means of the same hits, summed up in another order.
_EQUAL = 1e-12


@dataclass(frozen=True, kw_only=True)
class LinearProbeOptions(LogisticRegressionOptions):
    """How a linear probe is made.

    Args:
        max_iterations, tolerance, intercept, device, dtype: See [`LogisticRegressionOptions`].
        validation_share (`float`, *optional*, defaults to 0.2): Share of the training rows that become the validation
            split, if there is none.
        resamples, seed, encoding: As in [`ZeroShotOptions`]. `seed` is that of the split for validation, too.
        model, data, split (`str`, *optional*): Names for the result of [`linear_probe`].
    """

    validation_share: float = 0.2
    resamples: int = 1000
    seed: int = 0
    encoding: EncodingOptions = field(default_factory=EncodingOptions)
    model: str = ""
    data: str = ""
    split: str = "test"


@dataclass
class LinearProbeFit:
    """One logistic regression of a linear probe.

    Args:
        penalty (`float`): Its lambda.
        rows (`int`): Rows it was fitted to.
        iterations (`int`): Iterations; see [`LinearClassifier`].
        gradient_norm (`float`): Norm of the objective's gradient per row at the end.
        converged (`bool`): Whether that is within the tolerance.
    """

    penalty: float
    rows: int
    iterations: int
    gradient_norm: float
    converged: bool


@dataclass(kw_only=True, repr=False)
class LinearProbeResult(EvaluationResult):
    """Figures of a linear probe.

    Args:
        metric (`str`): The headline metric.
        value (`float`): Its value on the test split, 0 to 1.
        interval (`tuple[float, float]`, *optional*): 95% bootstrap interval of it over test rows.
        best_lambda (`float`): The penalty that was chosen on the validation split.
        sweep (`dict[float, float]`): Validation score of each lambda, in the order in which they were tried.
        validation (`str`): Where the validation split came from.
        rows (`dict[str, int]`): Rows of each split.
        num_features, num_classes (`int`): Width of the features and number of classes.
        fits (`list[LinearProbeFit]`): How each regression went, in the order of `sweep`; the last is the final one on
            train and validation.
        classifier ([`LinearClassifier`]): The final one.
        targets, predictions (`np.ndarray` of shape (n,), int64): Each test image's true class and its prediction.
            Empty where images have several classes.
    """

    task = "linear_probe"
    task_type = "image-classification"

    metric: str
    value: float
    interval: tuple[float, float] | None
    best_lambda: float
    sweep: dict[float, float]
    validation: str
    rows: dict[str, int]
    num_features: int
    num_classes: int
    fits: list[LinearProbeFit]
    classifier: LinearClassifier = field(repr=False)
    targets: np.ndarray = field(repr=False)
    predictions: np.ndarray = field(repr=False)

    @property
    def accuracy(self) -> float:
        """The headline figure, 0 to 1."""
        return self.value

    @property
    def converged(self) -> bool:
        """Whether every regression came to its minimum within the iterations allowed."""
        return all(fit.converged for fit in self.fits)

    @property
    def metrics(self) -> dict[str, float]:
        """The test score by its metric's name, and `lambda`."""
        return {self.metric: self.value, "lambda": self.best_lambda}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Bootstrap interval of the test score."""
        return {} if self.interval is None else {self.metric: self.interval}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """True class and prediction of each test image, and the classifier's weights."""
        arrays = {"coefficients": self.classifier.coefficients, "intercept": self.classifier.intercept}
        if len(self.targets):
            arrays |= {"targets": self.targets, "predictions": self.predictions}
        return arrays

    def to_dict(self) -> dict:
        """The result in types that JSON has, without the arrays."""
        content = super().to_dict()
        for name in ("coefficients", "intercept"):
            content["details"]["classifier"].pop(name)
        return content

    def details(self) -> str:
        """Sizes, where lambda came from and what did not converge, in Markdown."""
        rows = ", ".join(f"{count} {name}" for name, count in self.rows.items())
        sizes = (counted(self.num_classes, "class", "classes"), counted(self.num_features, "feature"))
        parts = [
            f"{rows} images, {', '.join(sizes)}; validation: {self.validation}.",
            f"lambda = {self.best_lambda:.4g} of {len(self.sweep)} tried.",
        ]
        if self.best_lambda in (LAMBDAS[0], LAMBDAS[-1]):
            parts.append("**lambda is at the end of the grid**: a better one may lie beyond it.")
        missed = [fit for fit in self.fits if not fit.converged]
        if missed:
            shown = ", ".join(f"{fit.penalty:.3g} ({counted(fit.iterations, 'iteration')})" for fit in missed)
            parts.append(f"**Not converged** at lambda = {shown}.")
        best, rows = max(self.sweep.values()), []
        for penalty, score in sorted(self.sweep.items()):
            mark = " (best)" if penalty == self.best_lambda else " (equal)" if best - score <= _EQUAL else ""
            rows.append((f"{penalty:.4g}", f"{format_metric(self.metric, score)}{mark}"))
        return "\n\n".join([*parts, markdown_table(("lambda", "validation"), rows)])

    def figure(self) -> "Figure":
        """Validation score by lambda, the one that was chosen, and the test score."""
        with new_figure(self.plot_title(), 4.4) as figure:
            axis = figure.subplots()
            penalties = sorted(self.sweep)
            scores = [100 * self.sweep[penalty] for penalty in penalties]
            axis.plot(penalties, scores, marker="o", label="validation, by λ")
            chosen = f"chosen: λ = {self.best_lambda:.3g}"
            axis.plot(self.best_lambda, 100 * self.sweep[self.best_lambda], "*", markersize=15, label=chosen)
            label = f"test, refitted: {format_metric(self.metric, self.value)}"
            axis.axhline(100 * self.value, color=COLOURS[2], linestyle="--", label=label)
            if self.interval is not None:
                low, high = (100 * bound for bound in self.interval)
                axis.axhspan(low, high, color=COLOURS[2], alpha=0.15, linewidth=0, label="its 95% interval")
            axis.set(xscale="log", xlabel="L2 penalty λ", ylabel=f"{metric_label(self.metric)} (%)")
            axis.set_title(f"Logistic regression on {counted(self.num_features, 'image feature')}")
            axis.legend(loc="best")
        return figure


def linear_probe(
    train_features: Features,
    train_labels: np.ndarray,
    val_features: Features | None,
    val_labels: np.ndarray | None,
    test_features: Features,
    test_labels: np.ndarray,
    *,
    metric: str = "top1",
    options: LinearProbeOptions | None = None,
) -> LinearProbeResult:
    """Fit a linear classifier to features and score it (Radford et al. 2021, section 3.2 and appendix A.3).

    - Features are an image tower's, *before* the projection into the space shared with texts.
    - Logistic regression, solved to its minimum, with the L2 penalty lambda (scikit-learn's `1 / C`).
    - lambda is chosen by [`search_lambda`] on the validation split.
    - The final classifier is fitted to train and validation together, and scored on the test split once.

    Args:
        train_features (`np.ndarray` or `torch.Tensor`): (n, d). On which device a tensor lies decides where the
            regressions are solved.
        train_labels (`np.ndarray`): (n,) integers from 0; or (n, c) bool where an image may have several classes
            (VOC2007): each class then has a regression of its own.
        val_features, val_labels (*optional*): The validation split. With None for both, a stratified share of the
            training rows becomes one.
        test_features, test_labels: The test split.
        metric (`str`, *optional*, defaults to `"top1"`): One of `CLASSIFICATION_METRICS`; it also chooses lambda.
        options ([`LinearProbeOptions`], *optional*): Tolerance, device, bootstrap, names.

    Returns:
        [`LinearProbeResult`]

    Raises:
        TypeError: If labels are strings.
        ValueError: If splits do not fit each other, features are not finite, a class has no training row, or the
            metric does not fit the labels.

    Example:

    ```python
    >>> result = linear_probe(train_x, train_y, val_x, val_y, test_x, test_y)
    >>> print(result.accuracy, result.best_lambda)
    ```
    """
    options = options or LinearProbeOptions()
    train, validation, test, origin = _splits(
        (train_features, train_labels), (val_features, val_labels), (test_features, test_labels), options
    )
    num_classes = _check_labels(metric, train.labels, validation.labels, test.labels)
    fits: list[LinearProbeFit] = []
    path = RegularizationPath(train.features, train.labels, num_classes=num_classes, options=options)

    def solve(path: RegularizationPath, penalty: float, rows: int) -> LinearClassifier:
        classifier = path.solve(penalty)
        reached = (classifier.iterations, classifier.gradient_norm, classifier.converged)
        fits.append(LinearProbeFit(penalty, rows, *reached))
        return classifier

    def score(penalty: float) -> float:
        classifier = solve(path, penalty, len(train.labels))
        return float(CLASSIFICATION_METRICS[metric](classifier.scores(validation.features), validation.labels))

    best, sweep = search_lambda(score)
    path = None  # its features are no longer needed
    both = _join(train, validation)
    path = RegularizationPath(both.features, both.labels, num_classes=num_classes, options=options)
    final = solve(path, best, len(both.labels))
    scores = final.scores(test.features)
    interval = None
    if options.resamples:
        interval = bootstrap_interval(metric, scores, test.labels, resamples=options.resamples, seed=options.seed)
    single, none = test.labels.ndim == 1, np.zeros(0, np.int64)
    return LinearProbeResult(
        model=options.model,
        data=options.data,
        split=options.split,
        chance={metric: chance_of(metric, num_classes, test.labels)},
        majority_class=majority_share(test.labels),
        metric=metric,
        value=float(CLASSIFICATION_METRICS[metric](scores, test.labels)),
        interval=interval,
        best_lambda=best,
        sweep=sweep,
        validation=origin,
        rows={"train": len(train.labels), "validation": len(validation.labels), "test": len(test.labels)},
        num_features=train.features.shape[1],
        num_classes=num_classes,
        fits=fits,
        classifier=final,
        targets=test.labels if single else none,
        predictions=scores.argmax(axis=1) if single else none,
    )


def evaluate_linear_probe(
    model: Any, data: Any, options: LinearProbeOptions | None = None, *, processor: Any = None
) -> LinearProbeResult:
    """Fit a linear classifier to a model's features and score it (Radford et al. 2021, section 3.2).

    Features are those before the projection into the space shared with texts; [`linear_probe`] describes the fit.
    The metric is the data's.

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path): The model; see [`load_dual_encoder`].
        data (`Mapping[str, ClassificationData]`, or what [`load_splits`] takes): Labelled images by split: train, test
            and, where there is one, validation.
        options ([`LinearProbeOptions`], *optional*): Solver, bootstrap and encoding.
        processor (*optional*): The model's processor, where the model is a `nn.Module`.

    Returns:
        [`LinearProbeResult`]

    Raises:
        ValueError: if train or test is missing, their classes differ, a class has no image to train on, or more images
            cannot be read than `options.encoding.max_skipped_share` allows (the others are skipped and counted).

    Example:

    ```python
    >>> from clip_hf.evaluation import evaluate_linear_probe

    >>> result = evaluate_linear_probe("openai/clip-vit-base-patch32", "food101=path/to/food101")
    >>> print(result.accuracy, result.best_lambda)
    ```
    """
    options, encoder = options or LinearProbeOptions(), load_dual_encoder(model, processor=processor)
    parts = train_and_test(data, encoder.media)
    test = parts["test"]
    names = ("train", "validation", "test")
    arrays, skipped = encode_splits(encoder, parts, names, projected=False, options=options.encoding)
    options = replace(options, model=encoder.name, data=test.name, split=test.split)
    result = linear_probe(*arrays, metric=test.metric, options=options)
    result.record_encoder(encoder)
    result.skipped = skipped
    return result


class LinearProbeTask(TrainAndTestTask):
    """A linear probe on the features before the projection."""

    result = LinearProbeResult
    projected = False

    def run(self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings) -> LinearProbeResult:
        """Fit and score it."""
        options = LinearProbeOptions(resamples=settings.resamples, seed=settings.seed, encoding=settings.encoding)
        return evaluate_linear_probe(encoder, parts, options)


def search_lambda(score: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """Find the best lambda by the paper's parametric binary search (appendix A.3), and the score of each it tried.

    It tries 1e6, 1e4, ..., 1e-6, then the middles of the two intervals next to the peak, and so on until neighbours
    are an eighth of a decade apart: 11 to 15 of the 97 values of `LAMBDAS`.

    Among lambdas with equal scores it takes the largest, which gives the smallest weights. At the other end of a
    plateau the penalty hardly matters, and the weights depend on when the solver stopped. (The paper does not say
    which it takes.)

    Example:

    ```python
    >>> best, tried = search_lambda(lambda penalty: -abs(math.log10(penalty) - 0.3))
    >>> best  # the value next to 10 ** 0.3, which is 10 ** 0.25
    1.7782794100389228
    ```
    """
    tried: dict[int, float] = {}

    def peak() -> int:
        best = max(tried.values())
        return max(place for place, value in tried.items() if value >= best - _EQUAL)

    # From the largest down, because each regression is a good start for the next smaller one.
    places, stride = list(range(len(LAMBDAS) - 1, -1, -_FIRST_STRIDE)), _FIRST_STRIDE
    while True:
        for place in places:
            if 0 <= place < len(LAMBDAS) and place not in tried:
                tried[place] = score(LAMBDAS[place])
        if stride == 1:
            return LAMBDAS[peak()], {LAMBDAS[place]: value for place, value in tried.items()}
        stride //= 2
        places = [peak() + stride, peak() - stride]


def split_validation(labels: np.ndarray, share: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split off validation rows, of each class the same share, for data that come without a validation split.

    - A class of two or more rows has at least one on either side; one of a single row stays in the training rows.
    - Where images have several classes, they are dealt out class by class, the rarest first.

    Args:
        labels (`np.ndarray`): (n,) integers from 0, or (n, c) bool.
        share (`float`, *optional*, defaults to 0.2): Share of the rows, more than 0 and less than 1.
        seed (`int`, *optional*, defaults to 0): Seed of the draw.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: indices of training and of validation rows, ascending, int64.

    Raises:
        ValueError: If `share` is not possible, or nothing could be split off.
    """
    if not 0 < share < 1:
        raise ValueError(f"`share` is {share}; it must be more than 0 and less than 1.")
    labels = check_labels(labels, len(labels), "labels")
    generator = np.random.default_rng(seed)
    taken, seen = np.zeros(len(labels), bool), np.zeros(len(labels), bool)
    if labels.ndim == 1:
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    else:
        order = np.argsort(labels.sum(axis=0), kind="stable")
        # Images without any class are the last group.
        groups = [np.flatnonzero(labels[:, place]) for place in order] + [np.flatnonzero(~labels.any(axis=1))]
    for rows in groups:
        free = generator.permutation(rows[~seen[rows]])
        wanted = round(share * len(rows))
        if len(rows) > 1:
            wanted = min(max(wanted, 1), len(rows) - 1)
        taken[free[: max(wanted - taken[rows].sum(), 0)]] = True
        seen[rows] = True
    if not taken.any():
        raise ValueError("No class has two rows or more, so nothing can be split off for validation; add rows.")
    return np.flatnonzero(~taken), np.flatnonzero(taken)


@dataclass
class Split:
    """Features (n, d) and labels, (n,) or (n, c), of one split."""

    features: Features
    labels: np.ndarray

    def select(self, rows: np.ndarray) -> "Split":
        """The same of these rows, int64."""
        index = torch.from_numpy(rows).to(self.features.device) if isinstance(self.features, torch.Tensor) else rows
        return Split(self.features[index], self.labels[rows])


def check_splits(splits: dict[str, tuple]) -> dict[str, Split]:
    """Features and labels by split, checked; all features must be as wide as those of the first split."""
    checked: dict[str, Split] = {}
    for name, (features, labels) in splits.items():
        width = next(iter(checked.values())).features.shape[1] if checked else None
        check_matrix(features, f"{name}_features", width=width)
        checked[name] = Split(features, check_labels(labels, len(features), f"{name}_labels"))
    return checked


def _splits(
    train: tuple, validation: tuple, test: tuple, options: LinearProbeOptions
) -> tuple[Split, Split, Split, str]:
    """The three splits, checked, and where validation comes from."""
    if (validation[0] is None) != (validation[1] is None):
        raise ValueError("The validation split has only one of features and labels; give both, or None for both.")
    for name, (features, labels) in {"train": train, "test": test}.items():
        if features is None or labels is None:
            raise ValueError(f"The {name} split is missing; a linear probe needs its features and labels.")
    given = {"train": train, "validation": validation, "test": test}
    splits = check_splits({name: split for name, split in given.items() if split[0] is not None})
    whole = splits["train"]
    if "validation" in splits:
        return whole, splits["validation"], splits["test"], "the split that was given"
    rows, held_out = split_validation(whole.labels, options.validation_share, options.seed)
    share = f"{100 * options.validation_share:g}% of the training rows, split off by class with seed {options.seed}"
    return whole.select(rows), whole.select(held_out), splits["test"], share


def _check_labels(metric: str, train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> int:
    """The number of classes; before anything is fitted, refuse labels that do not fit each other or the metric."""
    if metric not in CLASSIFICATION_METRICS:
        raise ValueError(f"`metric` is {metric!r}; it must be one of {', '.join(CLASSIFICATION_METRICS)}.")
    if len({labels.shape[1:] for labels in (train, validation, test)}) > 1:
        shapes = ", ".join(str(labels.shape) for labels in (train, validation, test))
        raise ValueError(f"Labels of train, validation and test have shapes {shapes}; they must be of one kind.")
    num_classes = num_classes_of(train, validation, test)
    check_all_classes(train, num_classes, "train_labels")
    for name, labels in (("validation", validation), ("test", test)):
        if (metric == "map_11point") != (labels.ndim == 2):
            kind = "(rows, classes) bool" if metric == "map_11point" else "(rows,) integers"
            raise ValueError(f"metric={metric!r} takes labels of shape {kind}; those of {name} are {labels.shape}.")
        try:  # a metric may need two classes, or rows of every class
            CLASSIFICATION_METRICS[metric](np.zeros((len(labels), num_classes)), labels)
        except ValueError as error:
            raise ValueError(f"metric={metric!r} cannot be computed on the {name} split: {error}") from error
    return num_classes


def _join(first: Split, second: Split) -> Split:
    labels = np.concatenate([first.labels, second.labels])
    if isinstance(first.features, torch.Tensor):
        return Split(torch.cat([first.features, torch.as_tensor(second.features).to(first.features)]), labels)
    return Split(np.concatenate([first.features, np.asarray(second.features)]), labels)
