# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What heads on frozen features have in common: checked examples, held-out rows, and the choice among candidates.

Shapes: n rows, d features, c classes, k cached keys. All computations are in float64 on the CPU.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ...utils.wording import counted
from .logistic_regression import check_labels
from .metric_inputs import check_matrix


_NORM_TOLERANCE = 0.02  # float16 embeddings of a few hundred columns are within it
# Losses that differ by less are equal: candidates that give the same logits, summed up in another order.
_EQUAL = 1e-9
# Standard errors that a more cautious candidate may be worse. A whole one, as in the usual rule, keeps zero-shot where
# 2 examples a class already gain tens of points; none takes candidates that a draw of 2 examples happens to like.
_ALLOWED_ERRORS = 0.5


@dataclass(frozen=True, kw_only=True)
class FeatureHead:
    """A classifier on L2-normalised image embeddings: a linear part, and for Tip-Adapter a cache.

    Logits are `features @ weight.T + bias`, and with a cache `+ alpha * exp(-beta * (1 - features @ keys.T)) @
    values.T` (Zhang et al. 2022, equation 6). `ClipHFForImageClassification.from_feature_head` makes a model of it.

    Args:
        method (`str`): How it was fitted.
        weight (`np.ndarray`): (c, d) float64.
        bias (`np.ndarray`): (c,) float64.
        keys (`np.ndarray`, *optional*): (k, d) float64, the cached embeddings.
        values (`np.ndarray`, *optional*): (c, k) float64, one-hot columns: the keys' classes.
        alpha, beta (`float`): Weight of the cache, and its sharpness.
        chosen (`dict[str, float]`): The hyper-parameters by name; an infinite `strength` is zero-shot.
        chosen_on (`str`): Which rows they were chosen on, in words.
    """

    method: str
    weight: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    keys: np.ndarray | None = field(default=None, repr=False)
    values: np.ndarray | None = field(default=None, repr=False)
    alpha: float = 0.0
    beta: float = 1.0
    chosen: dict[str, float] = field(default_factory=dict)
    chosen_on: str = ""

    def scores(self, features: np.ndarray | torch.Tensor) -> np.ndarray:
        """Logits (n, c) float64 of L2-normalised embeddings (n, d).

        Raises:
            ValueError: If the width differs from the head's, or rows are not finite or not normalised.
        """
        rows = checked_embeddings(features, "features", self.weight.shape[1]).numpy()
        logits = rows @ self.weight.T + self.bias
        if self.keys is not None:
            logits += self.alpha * np.exp(-self.beta * (1 - rows @ self.keys.T)) @ self.values.T
        return logits


@dataclass(frozen=True)
class Support:
    """The examples that a head is fitted to, checked, and the text classifier.

    Args:
        features (`torch.Tensor`): (n, d) float64.
        labels (`torch.Tensor`): (n,) int64.
        text (`torch.Tensor`): (c, d) float64, L2-normalised.
        scale (`float`): What cosines are multiplied by.
        seed (`int`): Seed of whatever is random.
    """

    features: torch.Tensor
    labels: torch.Tensor
    text: torch.Tensor
    scale: float
    seed: int = 0

    @property
    def counts(self) -> torch.Tensor:
        """Examples of each class, (c,)."""
        return torch.bincount(self.labels, minlength=len(self.text))

    def zero_shot(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of the text classifier, (rows, c)."""
        return self.scale * features @ self.text.T

    def select(self, rows: torch.Tensor) -> "Support":
        """The same with only these examples, a bool for each."""
        return Support(self.features[rows], self.labels[rows], self.text, self.scale, self.seed)

    def folds(self, most: int) -> torch.Tensor:
        """The fold of each example, (n,) int64: example i of its class is in fold i modulo the number of folds.

        So a fold of balanced examples has as many of each class, and what is left is balanced too. Leaving out single
        rows would leave a row's own class one example short, which speaks against examples where there are few.
        """
        one_hot = torch.nn.functional.one_hot(self.labels, len(self.text))
        ranks = one_hot.cumsum(dim=0).gather(1, self.labels[:, None])[:, 0] - 1
        return ranks % min(most, int(self.counts.max()))


@dataclass(frozen=True)
class Choice:
    """The candidate that was chosen, and on which rows; `place` is None where there were none."""

    place: int | None
    chosen_on: str


def choose(
    support: Support,
    validation: tuple[torch.Tensor, torch.Tensor] | None,
    predict: Callable[[Support, torch.Tensor], Iterable[torch.Tensor]],
    *,
    most_folds: int,
) -> Choice:
    """Choose the most cautious candidate whose cross-entropy, on rows that its fit did not see, is near the lowest.

    They are the validation rows, where they are given; else each fold of the examples in turn, predicted by what is
    fitted to the others. With one example of each class there is nothing to hold out.

    Args:
        support ([`Support`]): The examples.
        validation (`tuple`, *optional*): Features and labels of the validation rows.
        predict (callable): Takes examples and features (rows, d), and yields the logits (rows, c) of each candidate,
            the most cautious first.
        most_folds (`int`): The most folds to fit.
    """
    if validation is not None:
        pieces = [(support, *validation)]
        where = f"{counted(len(validation[1]), 'validation row')}"
    elif int(support.counts.max()) < 2:
        return Choice(None, "fixed, because one example of each class leaves none to hold out")
    else:
        folds = support.folds(most_folds)
        number = int(folds.max()) + 1
        pieces = [
            (support.select(folds != fold), support.features[folds == fold], support.labels[folds == fold])
            for fold in range(number)
        ]
        where = f"the examples themselves, in {number} folds"
    losses = torch.cat([_losses(predict(part, rows), labels) for part, rows, labels in pieces], dim=1)
    return Choice(_most_cautious(losses), where)


def _losses(candidates: Iterable[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each row under each candidate, (candidates, rows)."""
    return torch.stack([torch.nn.functional.cross_entropy(each, labels, reduction="none") for each in candidates])


def _most_cautious(losses: torch.Tensor) -> int:
    """The first candidate that is no worse than the best one beyond noise, see [`first_within_noise`]."""
    differences = losses - losses[losses.mean(dim=1).argmin()]
    error = differences.std(dim=1) / losses.shape[1] ** 0.5 if losses.shape[1] > 1 else torch.zeros(len(losses))
    return first_within_noise(differences.mean(dim=1).numpy(), error.numpy())


def first_within_noise(differences: np.ndarray, errors: np.ndarray) -> int:
    """The first candidate, the most cautious ones first, that is no worse than the best one beyond noise.

    Noise is half a standard error of the difference, see the constant (Breiman et al. 1984, section 3.4.3, has one).

    Args:
        differences (`np.ndarray` of shape (candidates,)): How much worse each is than the best one.
        errors (`np.ndarray` of shape (candidates,)): The standard errors of these.
    """
    return int(np.flatnonzero(differences <= _ALLOWED_ERRORS * errors + _EQUAL)[0])


def checked_support(
    features: np.ndarray | torch.Tensor,
    labels: Sequence[int] | np.ndarray | torch.Tensor,
    text_classifier: np.ndarray | torch.Tensor,
    logit_scale: float,
    seed: int,
) -> Support:
    """The examples of a head, checked; errors as of [`fit_head`]."""
    text = checked_embeddings(text_classifier, "text_classifier")
    if len(text) < 2:
        raise ValueError("text_classifier has one row; a classifier needs two classes or more.")
    for name, value, kinds in (("logit_scale", logit_scale, "iuf"), ("seed", seed, "iu")):
        if np.ndim(value) or np.asarray(value).dtype.kind not in kinds:
            raise TypeError(f"`{name}` is {value!r:.60}; it must be {'a number' if 'f' in kinds else 'an integer'}.")
    if not (np.isfinite(logit_scale) and logit_scale > 0):
        raise ValueError(f"`logit_scale` is {logit_scale}; it must be a positive number, such as 100 (not its log).")
    rows, classes = checked_rows(features, labels, "train", text)
    return Support(rows, classes, text, float(logit_scale), int(seed))


def checked_rows(
    features: np.ndarray | torch.Tensor,
    labels: Sequence[int] | np.ndarray | torch.Tensor,
    name: str,
    text: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, d) float64 and labels (n,) int64 of a split, checked against the text classifier."""
    rows = checked_embeddings(features, f"{name}_features", text.shape[1])
    labels = check_labels(labels, len(rows), f"{name}_labels", None if np.ndim(labels) == 2 else len(text))
    if labels.ndim == 2:
        raise ValueError(f"{name}_labels have shape {labels.shape}; these heads need one class an image, (rows,).")
    return rows, torch.from_numpy(labels)


def checked_embeddings(values: np.ndarray | torch.Tensor, name: str, width: int | None = None) -> torch.Tensor:
    """A copy (n, d) as float64 on the CPU; refuses other widths and rows that are not L2-normalised."""
    check_matrix(values, name, width=width, directions=True)
    # A head keeps rows as its keys: they must not change with the caller's array.
    rows = torch.as_tensor(values).detach().to("cpu", torch.float64, copy=True)
    norms = rows.norm(dim=1)
    wrong = ((norms - 1).abs() > _NORM_TOLERANCE).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{name} are not L2-normalised: row {row} has the norm {norms[row]:.4g}. Give embeddings in the space "
            "shared with texts as `encode_images` and `encode_texts` return them, or divide each row by its norm."
        )
    return rows
