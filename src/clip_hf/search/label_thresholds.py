# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Thresholds of labels, fitted on a labelled sample, with their cross-validated precision and recall.

What is promised is about all labels together, those that get no threshold among them: at most about one in ten
(1 - confidence) gets a threshold whose true precision is clearly below the target, for pictures like the sample.
Nothing is promised about those that got one: among labels that the model can hardly tell, few get a threshold, and
most of these got it by chance. A label that stays just under the target at all scores (0.89 for 0.9) gets one more
often. Cross-validated figures are estimates.

Shapes: n pictures of the sample, L labels.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ..utils.atomic import replaced_file
from ..utils.intervals import wilson_interval
from ..utils.json_files import read_json
from ..utils.wording import counted, quoted
from .tagging import TAG_THRESHOLD, LabelScorer


PRECISION = 0.9
"""The precision that thresholds are fitted for, unless told otherwise."""
CONFIDENCE = 0.9
"""The confidence of the margin: the share of labels, about, that get no threshold clearly below the target."""

_FITTED, _FALLBACK, _NEVER = "fitted", "too few examples", "target not reached"
_KINDS = (_FITTED, _FALLBACK, _NEVER)
_FORMAT = {"format": "clip_hf label thresholds", "version": 1}
_FOLDS = 5
# Files of thresholds have some hundred bytes a label.
_MOST_BYTES = 2**26


@dataclass(frozen=True)
class LabelThreshold:
    """The threshold of one label, and what was found by cross-validation.

    Args:
        threshold (`float`): The score from which on a picture gets the label; infinite where none does.
        kind (`str`): `"fitted"`; `"too few examples"`, where the threshold is the one that was given for such labels;
            or `"target not reached"`, where no threshold has the precision, or none that was cross-validated, and no
            picture gets the label.
        examples (`int`): Pictures of the sample that have the label.
        tagged, right (`int`): Pictures of the sample that got the label from a threshold fitted without them, and how
            many of these have it.
    """

    threshold: float
    kind: str
    examples: int
    tagged: int = 0
    right: int = 0

    @property
    def precision(self) -> float | None:
        """Share of the tagged pictures that have the label; None where none was tagged."""
        return self.right / self.tagged if self.tagged else None

    @property
    def recall(self) -> float | None:
        """Share of the pictures with the label that were tagged; None where no threshold was fitted."""
        return self.right / self.examples if self.kind == _FITTED else None


def wilson_lower_bound(right: Any, count: Any, confidence: float = CONFIDENCE) -> Any:
    """The lower end of the one-sided Wilson interval of a share, which the true share exceeds with this confidence.

    15 right of 15 at a confidence of 0.9: 15 / (15 + 1.2816 ** 2) = 0.901.

    Args:
        right, count (`int` or `np.ndarray`): How many are right, of how many; `count` is at least 1.
        confidence (`float`, *optional*, defaults to 0.9): Above 0.5 and below 1.
    """
    return wilson_interval(right / count, count, NormalDist().inv_cdf(confidence))[0]


def fit_threshold(
    scores: np.ndarray, has_label: np.ndarray, precision: float = PRECISION, confidence: float = CONFIDENCE
) -> float | None:
    """The lowest threshold down to which the precision on a sample reaches the target with a margin.

    A score of the sample reaches it if, among the pictures of this score and above, the lower end of the Wilson
    interval of the share of right ones, see [`wilson_lower_bound`], is at least `precision`. From the highest score
    that does, the threshold goes down as long as each score does. It stops before the first that fails: the lowest of
    all that reach it would find more, but one among many reaches it by chance.

    Args:
        scores (`np.ndarray` of shape (n,)): The label's scores.
        has_label (`np.ndarray` of shape (n,), bool): Which pictures have the label.
        precision, confidence (`float`, *optional*, default to 0.9): The target, and the interval's.

    Returns:
        `float`, one of the scores; None if no threshold reaches the target.
    """
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], np.cumsum(has_label[order])
    counts = np.arange(1, len(scores) + 1)
    # Pictures of one score are tagged together.
    is_cut = np.append(scores[:-1] != scores[1:], True)
    cuts = scores[is_cut]
    reaches = wilson_lower_bound(right, counts, confidence)[is_cut] >= precision
    if not reaches.any():
        return None
    fails = np.flatnonzero(~reaches[reaches.argmax() :])
    return float(cuts[reaches.argmax() + fails[0] - 1] if len(fails) else cuts[-1])


def fewest_examples(precision: float = PRECISION, confidence: float = CONFIDENCE) -> int:
    """How many pictures must have a label for a threshold: 19 for 0.9 and 0.9.

    With fewer, not even a label that is always right reaches the target in each part of the cross-validation.
    """
    z = NormalDist().inv_cdf(confidence)
    # The bound of n right of n is n / (n + z ** 2); the hair takes off what rounding adds.
    for_one_fit = math.ceil(z**2 * precision / (1 - precision) - 1e-9)
    return math.ceil(for_one_fit * _FOLDS / (_FOLDS - 1))


@dataclass(frozen=True)
class LabelThresholds:
    """Fitted thresholds of a set of labels, which belong to a model, prompts and a background.

    Args:
        labels (`dict[str, LabelThreshold]`): The threshold of each label.
        prompts (`dict[str, tuple[str, ...]]`): The prompts of each label.
        background (`tuple[str, ...]`): The texts that labels are measured against.
        model (`dict[str, str]`): The model's `"name"` and `"fingerprint"`.
        pictures (`int`): Pictures of the sample.
        precision, confidence (`float`): The target, and the margin's confidence.
    """

    labels: dict[str, LabelThreshold]
    prompts: dict[str, tuple[str, ...]]
    background: tuple[str, ...]
    model: dict[str, str]
    pictures: int
    precision: float
    confidence: float

    @classmethod
    def fit(
        cls,
        scorer: LabelScorer,
        image_embeds: np.ndarray,
        has_label: np.ndarray,
        *,
        precision: float = PRECISION,
        confidence: float = CONFIDENCE,
        fallback: float = TAG_THRESHOLD,
    ) -> "LabelThresholds":
        """Fit a threshold for each label, and estimate by cross-validation what it finds.

        At most about one label in ten (1 - `confidence`), of all that are given, gets a threshold whose true precision
        is clearly below the target; those that barely got one are the likeliest.

        - The threshold is that of [`fit_threshold`] on the whole sample.
        - `tagged` and `right` are counted over 5 folds, each tagged by a threshold that was fitted on the others. The
          folds are drawn with a fixed seed.
        - A label with fewer pictures than [`fewest_examples`] has the threshold `fallback`.
        - A label whose cross-validated precision is below the target has none: no picture gets it.

        Args:
            scorer ([`LabelScorer`]): The labels.
            image_embeds (`np.ndarray` of shape (n, dim)): L2-normalised embeddings of the sample's pictures.
            has_label (`np.ndarray` of shape (n, L), bool): Which picture has which label.
            precision (`float`, *optional*, defaults to 0.9): The target, above 0 and below 1.
            confidence (`float`, *optional*, defaults to 0.9): Above 0.5 and below 1.
            fallback (`float`, *optional*, defaults to 0.5): The threshold of labels with too few examples.

        Returns:
            [`LabelThresholds`]

        Raises:
            ValueError: if a number is out of its range, or the shapes do not fit.
        """
        for name, value, low in (("precision", precision, 0), ("confidence", confidence, 0.5)):
            if not low < value < 1:
                raise ValueError(f"`{name}` is {value!r}; it must be a share above {low} and below 1.")
        has_label = np.asarray(has_label, bool)
        if has_label.shape != (len(image_embeds), len(scorer.labels)):
            raise ValueError(
                f"`has_label` has the shape {has_label.shape}; for {counted(len(image_embeds), 'picture')} and "
                f"{counted(len(scorer.labels), 'label')} it must be {(len(image_embeds), len(scorer.labels))}."
            )
        target = _Target(precision, confidence, fallback)
        columns = zip(scorer.labels, scorer.score(image_embeds).T, has_label.T, strict=True)
        return cls(
            labels={label: _fit_label(scores, column, target) for label, scores, column in columns},
            prompts=dict(zip(scorer.labels, scorer.prompts)),
            background=scorer.background,
            model=scorer.model,
            pictures=len(image_embeds),
            precision=precision,
            confidence=confidence,
        )

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise a `ValueError` if one of the labels has no threshold."""
        missing = [label for label in labels if label not in self.labels]
        if missing:
            raise ValueError(
                f"There are no thresholds for the labels {quoted(missing)}, but for {quoted(self.labels)}. Fit them "
                "on a sample that has these labels, too (--calibrate)."
            )

    def of(self, scorer: LabelScorer) -> list[float]:
        """The thresholds of a scorer's labels, in their order.

        Raises:
            ValueError: if the scorer has another model, background or prompts, or a label without a threshold.
        """
        self.check_labels(scorer.labels)
        if scorer.model["fingerprint"] != self.model["fingerprint"]:
            raise ValueError(
                f"The thresholds were fitted for {_shown(self.model)}; this is {_shown(scorer.model)}: other weights, "
                "another dtype, other options of images or other versions of libraries. Thresholds fit the scores of "
                "one model only: fit them again (--calibrate)."
            )
        if scorer.background != self.background:
            raise ValueError(
                "The thresholds were fitted against other background texts: fit them again (--calibrate)."
            )
        changed = [
            label for label, prompts in zip(scorer.labels, scorer.prompts) if tuple(self.prompts[label]) != prompts
        ]
        if changed:
            raise ValueError(
                f"The thresholds of {quoted(changed)} were fitted for other prompts, such as "
                f"{self.prompts[changed[0]][0]!r}: leave --template out, or fit them again (--calibrate)."
            )
        return [self.labels[label].threshold for label in scorer.labels]

    def save(self, path: str | os.PathLike) -> None:
        """Write the thresholds as JSON, completely or not at all."""
        content = {**_FORMAT, **asdict(self)}
        for entry in content["labels"].values():
            entry["threshold"] = entry["threshold"] if math.isfinite(entry["threshold"]) else None
        with replaced_file(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LabelThresholds":
        """Read what [`LabelThresholds.save`] wrote.

        Raises:
            OSError: if there is no such file.
            ValueError: if it holds something else.
        """
        content = read_json(path, dict, max_bytes=_MOST_BYTES)
        try:
            if {name: content.pop(name, None) for name in _FORMAT} != _FORMAT:
                raise ValueError("it is no file of this format and version")
            labels = {label: _read_threshold(entry) for label, entry in content.pop("labels").items()}
            prompts = {label: tuple(map(str, content["prompts"].pop(label))) for label in labels}
            if content.pop("prompts") or not labels:
                raise ValueError("labels and prompts do not fit each other")
            background = tuple(map(str, content.pop("background")))
            content["model"] = {name: str(content["model"][name]) for name in ("name", "fingerprint")}
            _check_numbers(content, shares=("precision", "confidence"), counts=("pictures",))
            return cls(labels=labels, prompts=prompts, background=background, **content)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{os.fspath(path)} holds no thresholds that `clip-hf tag --calibrate` wrote: {error}."
            ) from error


def _shown(model: Mapping[str, str]) -> str:
    return f"{model['name']!r} (fingerprint {model['fingerprint'][:12]!r})"


@dataclass(frozen=True)
class _Target:
    precision: float
    confidence: float
    fallback: float


def _fit_label(scores: np.ndarray, has_label: np.ndarray, target: _Target) -> LabelThreshold:
    examples = int(has_label.sum())
    if examples < fewest_examples(target.precision, target.confidence):
        return LabelThreshold(target.fallback, _FALLBACK, examples)
    threshold = fit_threshold(scores, has_label, target.precision, target.confidence)
    if threshold is None:
        return LabelThreshold(math.inf, _NEVER, examples)
    tagged = np.zeros(len(scores), bool)
    # Shuffled, then dealt out so that each fold has its share of the examples.
    shuffled = np.random.default_rng(0).permutation(len(scores))
    folds = np.empty(len(scores), int)
    folds[shuffled[np.argsort(has_label[shuffled], kind="stable")]] = np.arange(len(scores)) % _FOLDS
    for fold in range(_FOLDS):
        others, own = folds != fold, folds == fold
        without = fit_threshold(scores[others], has_label[others], target.precision, target.confidence)
        tagged[own] = scores[own] >= (math.inf if without is None else without)
    count, right = int(tagged.sum()), int((tagged & has_label).sum())
    if right < target.precision * count or not count:
        return LabelThreshold(math.inf, _NEVER, examples, count, right)
    return LabelThreshold(threshold, _FITTED, examples, count, right)


def _read_threshold(entry: dict[str, Any]) -> LabelThreshold:
    never = entry["kind"] == _NEVER
    _check_numbers(entry, shares=() if never else ("threshold",), counts=("examples", "tagged", "right"))
    if entry["kind"] not in _KINDS or never != (entry["threshold"] is None) or entry["right"] > entry["tagged"]:
        raise ValueError(f"{entry!r:.100} is no threshold")
    return LabelThreshold(**{**entry, "threshold": math.inf if never else float(entry["threshold"])})


def _check_numbers(content: Mapping[str, Any], shares: Sequence[str], counts: Sequence[str]) -> None:
    for name in (*shares, *counts):
        value, is_share = content[name], name in shares
        kinds = (int, float) if is_share else (int,)
        if type(value) not in kinds or not 0 <= value <= (1 if is_share else 2**53):
            raise ValueError(f"{name} is {value!r:.80}; it must be {'a share' if is_share else 'a count'}")
