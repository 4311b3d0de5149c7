# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Zero-shot classification (Radford et al. 2021, section 3.1): images against the names of their classes.

Shapes: n images, c classes, `dim` the width of the shared embedding space.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...embedding.bulk_encoding import encode_text_list
from ...embedding.dual_encoder import DualEncoder
from ...embedding.encoding_options import EncodingOptions
from ...embedding.load_encoder import load_dual_encoder
from ...model.zero_shot_clip_hf import ensemble_prompts, prompts_for
from ...utils.figures import WIDTH, new_figure
from ...utils.wording import counted, listed, markdown_table
from ..numerics.bootstrap import bootstrap_interval, bootstrap_mean_interval
from ..numerics.metrics import (
    CLASSIFICATION_METRICS,
    per_class_accuracy,
    recall_at_k,
    target_ranks,
)
from ..numerics.statistics import ROW_VALUES
from ..registry.dataset_registry import load_templates
from ..registry.evaluation_data import ClassificationData, ClassificationOptions, load_classification
from .evaluation_result import MeasuredResult, chance_of, format_metric, majority_share
from .evaluation_task import EvaluationOptions, EvaluationTask, TaskSettings
from .labelled_features import encode_labelled


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN_CLASSES = 100
_SHOWN_CONFUSIONS = 20
_CURVE = 20
_SHOWN_NOTES = 5
AGGREGATES = ("embeddings", "probabilities")
"""What can be averaged over prompts."""
# Share of the images from which one predicted class is that of nearly all.
_NEARLY_ALL = 0.9
_PAPER_PROMPT = "a photo of a {}."
_GAINS = {"one_prompt": "ensemble_gain", "class_name": "prompt_gain"}


@dataclass(frozen=True)
class ZeroShotOptions(EvaluationOptions):
    """How to evaluate zero-shot classification.

    Args:
        templates (`str`, `Sequence[str]` or `Mapping`, *optional*): Prompt templates instead of the data's: one,
            several to average over, the name of a prompt set, or each class's own prompts; see
            [`build_text_classifier`].
        compare_prompts (`bool`, *optional*, defaults to `True`): Whether to classify with one prompt and with bare
            class names as well, which shows what prompts and their ensemble gain. It costs two more prompts for each
            class.
        aggregate (`str`, *optional*, defaults to `"embeddings"`): What is averaged over the prompts: the texts'
            `"embeddings"`, as CLIP does it, or the `"probabilities"` of the classes, a softmax at the model's own
            scale for each prompt, as ActionCLIP does it.
        resamples (`int`, *optional*, defaults to 1000): Bootstrap resamples for the intervals; 0 for none.
        confidence (`float`, *optional*, defaults to 0.95): Share of the resamples that an interval covers.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.
        encoding ([`EncodingOptions`], *optional*): How images are encoded and where features are kept.

    Raises:
        ValueError: if `resamples` or `confidence` is out of its range, or `aggregate` is neither of the two.
    """

    templates: str | Sequence[str] | Mapping[str, Any] | None = None
    compare_prompts: bool = True
    aggregate: str = AGGREGATES[0]

    def __post_init__(self):
        super().__post_init__()
        if self.aggregate not in AGGREGATES:
            raise ValueError(f"`aggregate` is {self.aggregate!r}; it must be {' or '.join(map(repr, AGGREGATES))}.")


@dataclass(kw_only=True, repr=False)
class ZeroShotResult(MeasuredResult):
    """Figures of a zero-shot classification.

    Args:
        metric (`str`): The headline metric.
        value (`float`): Its value, 0 to 1.
        values (`dict[str, float]`): All figures by name, 0 to 1: the headline metric first; `top1` and `top5` where an
            image has one class; `one_prompt_*` and `class_name_*` of the headline metric with one prompt and with the
            bare name; `ensemble_gain` and `prompt_gain`, the differences to those.
        value_intervals (`dict[str, tuple[float, float]]`): Bootstrap intervals of the figures.
        num_images, num_prompts (`int`): Images, and prompts for each class (the largest number, where classes have
            their own).
        class_names (`list[str]`): Names of the classes.
        per_class (`list[float]`): Share of each class's images that are classified right; NaN for a class without
            images; empty where images have several classes.
        most_confused (`list[tuple[str, str, int]]`): Pairs of a class and the other class that most of its images were
            taken for, with their number.
        curve (`dict[str, list[float]]`): Share of images whose class is among the first k, for k from 1, by kind of
            prompts.
        other_ranks (`dict[str, np.ndarray]`): `ranks` with one prompt and with bare class names, where these were
            evaluated.
        targets, predictions, ranks (`np.ndarray` of shape (n,), int64): Each image's true class, its predicted class,
            and the rank of its true class (0 is best). Empty where images have several classes.
    """

    task = "zero_shot"
    not_saved = ("other_ranks",)

    metric: str
    value: float
    num_images: int
    num_prompts: int
    class_names: list[str]
    per_class: list[float]
    most_confused: list[tuple[str, str, int]]
    curve: dict[str, list[float]]
    targets: np.ndarray
    predictions: np.ndarray
    ranks: np.ndarray
    other_ranks: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """The headline figure, 0 to 1."""
        return self.value

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """True class, prediction and ranks of each image."""
        if not len(self.targets):
            return {}
        others = {f"{name}_ranks": ranks for name, ranks in self.other_ranks.items()}
        return {name: getattr(self, name) for name in ("targets", "predictions", "ranks")} | others

    @property
    def confusion(self) -> np.ndarray:
        """Numbers of images, int64 (c, c): true classes in rows, predictions in columns."""
        counts = np.zeros((len(self.class_names),) * 2, np.int64)
        np.add.at(counts, (self.targets, self.predictions), 1)
        return counts

    def details(self) -> str:
        """Accuracies of the classes, worst first, and their most frequent confusions, in Markdown."""
        sizes = (counted(self.num_images, "image"), counted(len(self.class_names), "class", "classes"))
        parts = [f"{', '.join(sizes)}, {counted(self.num_prompts, 'prompt')} a class."]
        known = [(value, name) for value, name in zip(self.per_class, self.class_names) if not np.isnan(value)]
        if known and len(known) <= _SHOWN_CLASSES:
            rows = [(name, format_metric("", value)) for value, name in sorted(known)]
            parts.append(markdown_table(("class", "accuracy"), rows))
        if self.most_confused:
            parts.append(markdown_table(("class", "taken for", "images"), self.most_confused))
        return "\n\n".join(parts)

    def figure(self) -> "Figure | None":
        """Accuracy among the first k for each kind of prompts, and accuracies of classes or their confusion."""
        if not len(self.targets):
            return None
        with_images = [100 * value for value in self.per_class if not np.isnan(value)]
        # An accuracy of one image is right or wrong.
        show_classes = self.num_images >= 2 * len(with_images)
        with new_figure(self.plot_title(), 4.4, 9.6 if show_classes else WIDTH) as figure:
            curve, *others = figure.subplots(1, 1 + show_classes, squeeze=False)[0]
            names = {"one_prompt": "one prompt", "class_name": "bare class name"}
            names["prompts"] = counted(self.num_prompts, "prompt")
            for (name, values), style in zip(self.curve.items(), ("o-", "s--", "^:")):
                ks = range(1, len(values) + 1)
                curve.plot(ks, [100 * value for value in values], style, label=names[name])
            curve.set(xlabel="k", ylabel="true class among the first k (%)", ylim=(0, 102))
            curve.set_xticks(range(1, max(map(len, self.curve.values())) + 1))
            curve.set_title(f"Top-k accuracy, {counted(self.num_images, 'image')}")
            curve.legend(loc="lower right")
            if show_classes and len(self.class_names) <= _SHOWN_CLASSES:
                self._draw_confusion(figure, others[0])
            elif show_classes:
                others[0].hist(with_images, bins=np.linspace(0, 100, 21), edgecolor="white")
                others[0].set(xlabel="accuracy of a class (%)", ylabel="classes")
                others[0].set_title(f"{counted(len(with_images), 'class', 'classes')} with images")
        return figure

    def _draw_confusion(self, figure: "Figure", axis: Any) -> None:
        counts = self.confusion
        shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        shown = axis.imshow(shares, vmin=0, vmax=100, cmap="Blues")
        figure.colorbar(shown, ax=axis, label="images of the class (%)", shrink=0.8)
        axis.set(xlabel="predicted class", ylabel="true class", title="Confusion")
        axis.grid(visible=False)
        count = len(self.class_names)
        if count <= 40:
            size = 8 if count <= 12 else 5
            axis.set_xticks(range(count), self.class_names, rotation=90, fontsize=size)
            axis.set_yticks(range(count), self.class_names, fontsize=size)
        if count <= 12:
            for row, column in np.ndindex(count, count):
                colour = "white" if shares[row, column] > 50 else "black"
                text = f"{shares[row, column]:.0f}"
                axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)


def class_embeddings(
    encoder: DualEncoder, class_names: Sequence[str], templates: Any, options: EncodingOptions | None = None
) -> np.ndarray:
    """Weights of a zero-shot classifier, ensembled over prompts: [`build_text_classifier`] for any model.

    Args:
        encoder ([`DualEncoder`]): The model.
        class_names (`Sequence[str]`): Names of the classes. A name may occur twice, as two of ImageNet's do; it is
            encoded once.
        templates (`str`, `Sequence[str]` or `Mapping`): See [`build_text_classifier`].
        options ([`EncodingOptions`], *optional*): Where features of texts are kept.

    Returns:
        `np.ndarray` of shape (c, dim), float32: L2-normalised, in the order of `class_names`.
    """
    unique = list(dict.fromkeys(class_names))
    return _classifiers(encoder, unique, {"prompts": templates}, options)["prompts"][_places(class_names)]


def _classifiers(
    encoder: DualEncoder, class_names: list[str], kinds: Mapping[str, Any], options: EncodingOptions | None
) -> dict[str, np.ndarray]:
    """Classifiers (c, dim) of several kinds of prompts; a sentence that two of them share is encoded once."""
    prompts = {name: prompts_for(class_names, templates) for name, templates in kinds.items()}
    texts = list(
        dict.fromkeys(text for by_class in prompts.values() for own_prompts in by_class for text in own_prompts)
    )
    embeds = torch.from_numpy(encode_text_list(encoder, texts, options=options))
    place = {text: index for index, text in enumerate(texts)}

    def encoded(asked: list[str]) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
        yield range(len(asked)), embeds[[place[text] for text in asked]]

    return {name: ensemble_prompts(by_class, encoded).numpy() for name, by_class in prompts.items()}


def evaluate_zero_shot(
    model: Any, data: Any, options: ZeroShotOptions | None = None, *, processor: Any = None
) -> ZeroShotResult:
    """Evaluate zero-shot classification (Radford et al. 2021, section 3.1).

    The prompts of the classes are encoded once, and an image gets the class with the largest cosine; among equal ones
    the first.

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path): The model; see [`load_dual_encoder`].
        data ([`ClassificationData`], or what [`load_classification`] takes): What to classify. To choose columns,
            class names and the like, load it first.
        options ([`ZeroShotOptions`], *optional*): Prompts, bootstrap and encoding.
        processor (*optional*): The model's processor, where the model is a `nn.Module`.

    Returns:
        [`ZeroShotResult`]

    Raises:
        ValueError: if model, data or templates cannot be used as asked, more images cannot be read than
            `options.encoding.max_skipped_share` allows (the others are skipped and counted), or the headline metric is
            not defined for this data (a class without images, two classes for ROC AUC).

    Example:

    ```python
    >>> from clip_hf.evaluation import evaluate_zero_shot

    >>> result = evaluate_zero_shot("openai/clip-vit-base-patch32", "cifar10=path/to/cifar10")
    >>> print(result.accuracy, result.intervals["top1"])
    ```
    """
    options = options or ZeroShotOptions()
    encoder = load_dual_encoder(model, processor=processor)
    if not isinstance(data, ClassificationData):
        data = load_classification(data, ClassificationOptions(media=encoder.media))
    templates = load_templates(data.templates if options.templates is None else options.templates)
    metric, unique = data.metric, list(dict.fromkeys(data.class_names))
    kinds = _kinds_of_prompts(templates, unique, options.compare_prompts)
    by_prompt = _single_prompts(templates, unique) if options.aggregate == "probabilities" else {}
    classifiers = _classifiers(encoder, unique, kinds | by_prompt, options.encoding)
    places = _places(data.class_names)
    notes = class_notes(encoder, data.class_names, templates, f"{data.name} ({data.split})")
    data, images, skipped = encode_labelled(encoder, data, options=options.encoding)
    by_kind = {}
    for name in kinds:
        # Two classes of one name share a column of the product, so their scores are equal to the last bit.
        if name == "prompts" and by_prompt:
            scores = _mean_probabilities(encoder, images, [classifiers[each] for each in by_prompt])[:, places]
        else:
            scores = (images @ classifiers[name].T)[:, places]  # (n, c)
        by_kind[name] = _classify(scores, data, metric, options, is_main=name == "prompts")
    main = by_kind["prompts"]
    notes += _collapse_notes(main, data.class_names, f"{data.name} ({data.split})")
    result = ZeroShotResult(
        model=encoder.name,
        data=data.name,
        split=data.split,
        chance=_chance(by_kind, len(data.class_names), data.targets),
        majority_class=majority_share(data.targets),
        skipped={} if skipped is None else {data.split: skipped},
        notes=notes,
        metric=metric,
        value=main.values[metric],
        values=main.values | _gains(by_kind, metric),
        value_intervals=_all_intervals(by_kind, metric, options),
        num_images=len(images),
        num_prompts=max(map(len, prompts_for(unique, templates))),
        class_names=list(data.class_names),
        per_class=main.per_class,
        most_confused=_most_confused(main.targets, main.predictions, data.class_names),
        curve={name: figures.curve for name, figures in by_kind.items() if figures.curve},
        targets=main.targets,
        predictions=main.predictions,
        ranks=main.ranks,
        other_ranks={name: figures.ranks for name, figures in by_kind.items() if name != "prompts"},
    )
    result.record_encoder(encoder)
    return result


class EqualClassesWarning(UserWarning):
    """Classes of a dataset are one to the model, by their names or by the tokens of their prompts."""


def class_notes(encoder: DualEncoder, class_names: Sequence[str], templates: Any, where: str) -> list[str]:
    """Say, and warn, which classes the model cannot tell apart: those of one name, and of prompts of the same tokens.

    Features are not compared: rounding parts equal ones, and brings different ones together in half precision.
    """
    names: dict[str, int] = Counter(class_names)
    twice = [f"{name!r} ({count} times)" for name, count in names.items() if count > 1]
    prompts = prompts_for(list(names), templates)
    texts = list(dict.fromkeys(text for own_prompts in prompts for text in own_prompts))
    tokens = dict(zip(texts, encoder.token_ids(texts)))
    by_tokens: dict[tuple, list[str]] = {}
    for name, own_prompts in zip(names, prompts):
        by_tokens.setdefault(tuple(sorted(tokens[text] for text in own_prompts)), []).append(name)
    groups = [group for group in by_tokens.values() if len(group) > 1]
    notes = []
    if twice:
        notes.append(
            f"Classes of {where} have the same name, so the model cannot tell them apart: "
            f"{listed(twice, _SHOWN_NOTES)}."
        )
    if groups:
        shown = listed([" = ".join(map(repr, group)) for group in groups], _SHOWN_NOTES)
        notes.append(
            f"Prompts of classes of {where} have the same tokens, so the model cannot tell them apart: {shown}. They "
            "differ only in what the tokenizer ignores (such as case), does not know, or cuts off (past the context "
            "length); give other class names."
        )
    for note in notes:
        warnings.warn(note, EqualClassesWarning, stacklevel=3)
    return notes


def _collapse_notes(figures: "_Classified", class_names: Sequence[str], where: str) -> list[str]:
    """Say that the model gives few of the classes that occur, or one class to nearly all images of several."""
    if not len(figures.targets):
        return []
    predicted, counts = np.unique(figures.predictions, return_counts=True)
    num_true, share = len(np.unique(figures.targets)), counts.max() / counts.sum()
    is_one_class = share >= _NEARLY_ALL > majority_share(figures.targets)
    if not is_one_class and 2 * len(predicted) >= num_true:
        return []
    return [
        f"The model gives only {len(predicted):,} of the {counted(len(class_names), 'class', 'classes')} of {where}, "
        f"whose images have {num_true:,}: {class_names[predicted[counts.argmax()]]!r} to {format_metric('', share)} "
        "of the images. A narrow interval then says that its answers hardly differ, not that they are good."
    ]


class ZeroShotTask(EvaluationTask):
    """Zero-shot classification of the test split."""

    result = ZeroShotResult

    def load(self, sources: Sequence[str], settings: TaskSettings) -> dict[str, ClassificationData]:
        """Load labelled images."""
        return {"test": load_classification(sources[0], settings.data_options)}

    def run(self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings) -> ZeroShotResult:
        """Classify them."""
        options = ZeroShotOptions(
            aggregate=settings.aggregate,
            resamples=settings.resamples,
            seed=settings.seed,
            encoding=settings.encoding,
        )
        return evaluate_zero_shot(encoder, parts["test"], options)


@dataclass
class _Classified:
    """Figures of one kind of prompts. The arrays are empty where an image has several classes."""

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    per_class: list[float]
    curve: list[float]
    targets: np.ndarray
    predictions: np.ndarray
    ranks: np.ndarray


def _classify(
    scores: np.ndarray, data: ClassificationData, metric: str, options: ZeroShotOptions, is_main: bool
) -> _Classified:
    targets, values = data.targets, {}
    names = [metric]
    if targets.ndim == 1 and is_main:
        names += ["top1", *(["top5"] if scores.shape[1] > 5 else [])]
        if len(np.unique(targets)) == scores.shape[1]:
            names.append("mean_per_class")
    for name in dict.fromkeys(names):
        values[name] = CLASSIFICATION_METRICS[name](scores, targets)
    intervals = {}
    if options.resamples:
        intervals = {name: bootstrap_interval(name, scores, targets, **options.bootstrap) for name in values}
    if targets.ndim > 1:
        none = np.empty(0, np.int64)
        return _Classified(values, intervals, [], [], none, none, none)
    ranks = target_ranks(scores, targets)
    curve = [recall_at_k(ranks, k) for k in range(1, min(_CURVE, scores.shape[1]) + 1)]
    per_class = per_class_accuracy(scores, targets).tolist() if is_main else []
    return _Classified(values, intervals, per_class, curve, targets, scores.argmax(axis=1), ranks)


def _chance(by_kind: dict[str, _Classified], num_classes: int, targets: np.ndarray) -> dict[str, float]:
    """What guessing gives, for the figures that are no differences."""
    return {
        name if kind == "prompts" else f"{kind}_{name}": chance_of(name, num_classes, targets)
        for kind, figures in by_kind.items()
        for name in figures.values
    }


def _kinds_of_prompts(templates: Any, class_names: list[str], compare: bool) -> dict[str, Any]:
    kinds = {"prompts": templates}
    if not compare:
        return kinds
    if isinstance(templates, Mapping):
        if any(len(prompts) > 1 for prompts in templates.values()):
            kinds["one_prompt"] = {name: templates[name][0] for name in class_names if name in templates}
    elif len(templates) > 1:
        kinds["one_prompt"] = _PAPER_PROMPT if _PAPER_PROMPT in templates else templates[0]
    # Where the one prompt, or the only one, is the bare name, there is nothing more to compare with.
    if kinds.get("one_prompt") != "{}" and templates != ("{}",):
        kinds["class_name"] = "{}"
    return kinds


def _single_prompts(templates: Any, class_names: list[str]) -> dict[str, Any]:
    """The prompts one by one, as kinds of their own; those of the classes' own prompts go together by their place."""
    if not isinstance(templates, Mapping):
        return {f"prompt {place}": [template] for place, template in enumerate(templates)}
    prompts = prompts_for(class_names, templates)
    if len({len(own_prompts) for own_prompts in prompts}) > 1:
        raise ValueError(
            "To average probabilities over prompts, every class must have as many prompts as the others; average "
            "embeddings (--aggregate embeddings), or give templates for all classes."
        )
    return {
        f"prompt {place}": {name: [own_prompts[place]] for name, own_prompts in zip(class_names, prompts)}
        for place in range(len(prompts[0]))
    }


def _mean_probabilities(encoder: DualEncoder, images: np.ndarray, classifiers: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over classifiers (c, dim) of the classes' probabilities, float64 (n, c)."""
    total, scale = 0.0, encoder.logit_scale
    for classifier in classifiers:
        logits = scale * (images @ classifier.T).astype(np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        total = total + weights / weights.sum(axis=1, keepdims=True)
    return total / len(classifiers)


def _gains(by_kind: dict[str, _Classified], metric: str) -> dict[str, float]:
    """The headline metric with fewer prompts, and what the prompts add to it."""
    main = by_kind["prompts"].values[metric]
    others = {name: figures.values[metric] for name, figures in by_kind.items() if name != "prompts"}
    values = {f"{name}_{metric}": value for name, value in others.items()}
    return values | {_GAINS[name]: main - value for name, value in others.items()}


def _all_intervals(
    by_kind: dict[str, _Classified], metric: str, options: ZeroShotOptions
) -> dict[str, tuple[float, float]]:
    intervals = dict(by_kind["prompts"].intervals)
    for name, figures in by_kind.items():
        if name == "prompts" or not options.resamples:
            continue
        intervals[f"{name}_{metric}"] = figures.intervals[metric]
        if metric in ROW_VALUES:
            # The difference is resampled image by image, so images that are hard for both do not widen it.
            gained = ROW_VALUES[metric](by_kind["prompts"].ranks) - ROW_VALUES[metric](figures.ranks)
            intervals[_GAINS[name]] = bootstrap_mean_interval(gained, **options.bootstrap)
    return intervals


def _most_confused(targets: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> list[tuple[str, str, int]]:
    wrong = targets != predictions
    pairs = Counter(zip(targets[wrong].tolist(), predictions[wrong].tolist()))
    return [(names[true], names[wrong], count) for (true, wrong), count in pairs.most_common(_SHOWN_CONFUSIONS)]


def _places(names: Sequence[str]) -> list[int]:
    """Index of each name among the different ones."""
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return [place[name] for name in names]
