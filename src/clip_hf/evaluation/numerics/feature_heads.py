# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Heads on frozen features: Tip-Adapter, CLAP, a linear head that starts at the text classifier, and a plain probe."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from ...utils.wording import listed
from .cache_adapter import fit_tip, fit_tip_f
from .head_fitting import FeatureHead, Support, checked_rows, checked_support, choose
from .logistic_regression import LinearClassifier, LogisticRegressionOptions, RegularizationPath, check_all_classes
from .text_prototypes import fit_clap


# Penalties of logistic regressions, times the features' variance; an infinite one from the text is zero-shot.
PENALTIES = tuple(10.0 ** (power / 2) for power in range(6, -9, -1))
# Where no row can be held out: those of `few_shot`.
_FIXED_TEXT_PENALTY, _FIXED_PENALTY = 0.1, 0.03
_MOST_FOLDS = 5


def fit_text_linear(support: Support, validation: tuple[torch.Tensor, torch.Tensor] | None) -> FeatureHead:
    """Logistic regression without intercept, held near `logit_scale` times the text classifier."""
    center = (support.scale * support.text).numpy()
    penalties = (math.inf, *PENALTIES)

    def weights(part: Support, candidates: Sequence[float]) -> Iterator[np.ndarray]:
        path = _path(part, center=center)
        for penalty in candidates:
            if math.isinf(penalty):
                yield center
            else:
                coefficients = path.solve(penalty * _variance(part)).coefficients
                # A class without examples keeps its text: regression would only push it away from all images.
                yield np.where((part.counts > 0)[:, None], coefficients, center)

    def predict(part: Support, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        for weight in weights(part, penalties):
            yield rows @ torch.from_numpy(weight).T

    choice = choose(support, validation, predict, most_folds=_MOST_FOLDS)
    penalty = _FIXED_TEXT_PENALTY if choice.place is None else penalties[choice.place]
    weight = next(weights(support, (penalty,)))
    return FeatureHead(
        method="text_linear",
        weight=weight,
        bias=np.zeros(len(weight)),
        chosen={"strength": penalty},
        chosen_on=choice.chosen_on,
    )


def fit_probe(support: Support, validation: tuple[torch.Tensor, torch.Tensor] | None) -> FeatureHead:
    """Logistic regression from nothing, as in the paper's linear probe; it does not know the texts."""
    check_all_classes(support.labels.numpy(), len(support.text), "train_labels")

    def classifiers(part: Support, candidates: Sequence[float]) -> Iterator[LinearClassifier]:
        path = _path(part)
        return (path.solve(penalty * _variance(part)) for penalty in candidates)

    def predict(part: Support, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        for classifier in classifiers(part, PENALTIES):
            yield torch.from_numpy(classifier.scores(rows))

    choice = choose(support, validation, predict, most_folds=_MOST_FOLDS)
    penalty = _FIXED_PENALTY if choice.place is None else PENALTIES[choice.place]
    classifier = next(classifiers(support, (penalty,)))
    return FeatureHead(
        method="probe",
        weight=classifier.coefficients,
        bias=classifier.intercept,
        chosen={"strength": penalty},
        chosen_on=choice.chosen_on,
    )


def _path(support: Support, center: np.ndarray | None = None) -> RegularizationPath:
    options = LogisticRegressionOptions(intercept=False if center is not None else bool((support.counts > 0).all()))
    return RegularizationPath(
        support.features, support.labels.numpy(), num_classes=len(support.text), center=center, options=options
    )


def _variance(support: Support) -> float:
    return float(support.features.var(dim=0, correction=0).sum()) or 1.0


_METHODS: dict[str, Callable[[Support, tuple[torch.Tensor, torch.Tensor] | None], FeatureHead]] = {
    "tip": fit_tip,
    "tip_f": fit_tip_f,
    "clap": fit_clap,
    "text_linear": fit_text_linear,
    "probe": fit_probe,
}
HEAD_METHODS = tuple(_METHODS)
"""Methods of [`fit_head`]: Tip-Adapter, the same with trained keys, CLAP, logistic regression from the text
classifier, and from nothing."""


def fit_head(
    method: str,
    train_features: np.ndarray | torch.Tensor,
    train_labels: np.ndarray,
    text_classifier: np.ndarray | torch.Tensor,
    validation: tuple[np.ndarray | torch.Tensor, np.ndarray] | None = None,
    *,
    logit_scale: float = 100.0,
    seed: int = 0,
) -> FeatureHead:
    """Fit a classifier to embeddings of a few labelled images, with what the class names say of them.

    - `"tip"`: Tip-Adapter, a cache of the examples beside the text classifier; nothing is trained. `"tip_f"`: its
      keys are trained (Zhang et al. 2022).
    - `"clap"`: prototypes that start at the texts and are pulled back to them (Silva-Rodriguez et al. 2024).
    - `"text_linear"`: logistic regression that is held near the text classifier.
    - `"probe"`: logistic regression from nothing (Radford et al. 2021), for comparison.

    Hyper-parameters are chosen by the cross-entropy on the validation rows; without them, the examples themselves are
    held out in folds. The most cautious candidate within half a standard error of the best is taken; zero-shot is the
    most cautious of all but the probe. With one example of each class nothing can be held out, so they are fixed. A
    class without examples keeps its text; the probe refuses it.

    Args:
        method (`str`): One of `HEAD_METHODS`.
        train_features (`np.ndarray` or `torch.Tensor`): (n, d) L2-normalised image embeddings in the space shared with
            texts.
        train_labels (`np.ndarray`): (n,) integers, 0 to c - 1.
        text_classifier (`np.ndarray` or `torch.Tensor`): (c, d) L2-normalised, as [`build_text_classifier`] or
            [`class_embeddings`] give it.
        validation (`tuple`, *optional*): Features and labels of rows to choose hyper-parameters on. Never test rows.
        logit_scale (`float`, *optional*, defaults to 100.0): What cosines are multiplied by; a model's own is
            `DualEncoder.logit_scale`.
        seed (`int`, *optional*, defaults to 0): Seed of the order of batches; it matters from 257 examples on.

    Returns:
        [`FeatureHead`]: `scores(features)` are its logits.

    Raises:
        TypeError: If labels or the seed are no integers, the scale is no number, or the validation no pair.
        ValueError: If the method is unknown, widths differ, a label has no row in the text classifier, or embeddings
            are not finite or not normalised.

    Example:

    ```python
    >>> head = fit_head("clap", train_x, train_y, classifier, logit_scale=100.0)
    >>> head.scores(test_x).argmax(axis=1), head.chosen, head.chosen_on
    ```
    """
    if method not in _METHODS:
        raise ValueError(f"`method` is {method!r}; it must be one of {listed(HEAD_METHODS, len(HEAD_METHODS))}.")
    support = checked_support(train_features, train_labels, text_classifier, logit_scale, seed)
    if validation is not None and (not isinstance(validation, tuple | list) or len(validation) != 2):
        raise TypeError("`validation` must be a pair: features and labels of the rows.")
    held_out = None if validation is None else checked_rows(*validation, "validation", support.text)
    return _METHODS[method](support, held_out)
