# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Figures of a model before and after an adaptation, on the same pictures, with paired intervals.

Shapes: n pictures, c classes, r resamples.
"""

from dataclasses import dataclass

import numpy as np

from ...embedding.dual_encoder import DualEncoder
from ...embedding.encoding_options import EncodingOptions
from ..numerics.bootstrap import resampled_interval
from ..numerics.head_fitting import first_within_noise
from ..numerics.metrics import classification_statistic
from ..numerics.statistics import Statistic, mean_of_rows
from ..registry.evaluation_data import ClassificationData, RetrievalData
from .labelled_features import encode_labelled
from .retrieval import RetrievalOptions, evaluate_retrieval, images_sharing_texts
from .zero_shot import class_embeddings


Data = ClassificationData | RetrievalData
CONFIDENCE = 0.95
LEAST_UNITS = 6
"""With fewer, even if all of them changed alike, a sign test would not reach 5%: 2 * 0.5 ** 5 = 6%."""
WIDEST = 0.1
"""An interval that holds 0 and reaches further than this either way does not say that nothing changed."""
_RESAMPLES = 500  # for the standard error of a difference
_ROUNDING = 1e-12  # means of equal figures, summed up in another order


@dataclass
class Figure:
    """One figure of one model, in a form that can be resampled.

    Args:
        metric (`str`): Its name, such as `"top1"` or `"image_to_text_R@1"`.
        statistic: Its value for many sets of weights (r, n) of the pictures at once.
        rows (`int`): n.
        clusters (`np.ndarray` of shape (n,), int64, *optional*): Number of the cluster that each picture is in, from 0
            on: pictures that say nothing independent of each other are drawn together. By default each is alone.
    """

    metric: str
    statistic: Statistic
    rows: int
    clusters: np.ndarray | None = None

    @property
    def value(self) -> float:
        """The figure, 0 to 1."""
        return float(self.statistic(np.ones((1, self.rows)))[0])

    @property
    def units(self) -> int:
        """Number of clusters."""
        return self.rows if self.clusters is None else int(self.clusters.max()) + 1

    def interval(self, statistic: Statistic, resamples: int, seed: int) -> tuple[float, float]:
        """95% percentiles of a statistic of these pictures, over resamples of their clusters."""
        clusters, over_pictures = self.clusters, statistic
        if clusters is not None:
            statistic = lambda weights: over_pictures(weights[:, clusters])  # noqa: E731
        return resampled_interval(statistic, self.units, resamples, CONFIDENCE, seed)


@dataclass
class Change:
    """A figure before and after, over one or several adaptations.

    Args:
        role (`str`): `"task"`, or `"retained"` for what the model could do before.
        data (`str`): The data.
        metric (`str`): The figure's name.
        rows (`int`): Number of pictures.
        before (`float`): The figure of the model as it was, 0 to 1.
        after (`list[float]`): That of each adaptation.
        before_interval, after_interval, interval (`tuple[float, float]`): 95% intervals of `before`, of the mean of
            `after`, and of their difference: percentiles of a bootstrap over pictures (the same ones before and after)
            and, where there are several, over adaptations.
        clusters (`int`, *optional*): Number of clusters that the bootstrap draws, where pictures are not independent.
        split (`str`, *optional*): The part of the data.
    """

    role: str
    data: str
    metric: str
    rows: int
    before: float
    after: list[float]
    before_interval: tuple[float, float]
    after_interval: tuple[float, float]
    interval: tuple[float, float]
    clusters: int | None = None
    split: str = ""

    @property
    def place(self) -> str:
        """The data and their part, such as `"digits (test)"`."""
        return f"{self.data} ({self.split})" if self.split else self.data

    @property
    def units(self) -> int:
        """How much is independent: clusters, or else pictures."""
        return self.rows if self.clusters is None else self.clusters

    @property
    def mean_after(self) -> float:
        """Mean over adaptations."""
        return float(np.mean(self.after))

    @property
    def change(self) -> float:
        """What was gained, 0.1 for ten points; negative if it was lost."""
        change = self.mean_after - self.before
        return 0.0 if abs(change) < _ROUNDING else change

    @property
    def spread(self) -> float:
        """Standard deviation over adaptations, that of a sample; 0 for one."""
        return float(np.std(self.after, ddof=1)) if len(self.after) > 1 else 0.0

    @property
    def is_noise(self) -> bool:
        """Whether the interval of the difference holds 0, or is of too few to mean anything."""
        return self.interval[0] <= 0 <= self.interval[1] or self.units < LEAST_UNITS

    @property
    def is_undecided(self) -> bool:
        """Whether it is noise because the test is too small: few units, or an interval of many points on one side."""
        too_wide = max(-self.interval[0], self.interval[1]) > WIDEST
        return self.is_noise and (too_wide or self.units < LEAST_UNITS)


def measure_change(
    role: str, data: str, before: Figure, after: list[Figure], resamples: int = 1000, seed: int = 0, split: str = ""
) -> Change:
    """Compare one model with one or several others on the same pictures, see [`Change`].

    Raises:
        ValueError: if the figures are of other metrics or numbers of pictures.
    """
    if any((one.metric, one.rows) != (before.metric, before.rows) for one in after):
        shown = ", ".join(f"{one.metric} of {one.rows}" for one in (before, *after))
        raise ValueError(f"Figures of other data cannot be compared: {shown} pictures.")
    over_adaptations = _mean_over(after, seed)

    def difference(weights: np.ndarray) -> np.ndarray:
        values = over_adaptations(weights) - before.statistic(weights)
        return np.where(np.abs(values) < _ROUNDING, 0.0, values)

    # Each interval has the same draws of adaptations, because each starts the generator anew.
    return Change(
        role=role,
        data=data,
        metric=before.metric,
        rows=before.rows,
        before=before.value,
        after=[one.value for one in after],
        before_interval=before.interval(before.statistic, resamples, seed),
        after_interval=before.interval(_mean_over(after, seed), resamples, seed),
        interval=before.interval(difference, resamples, seed),
        clusters=None if before.clusters is None else before.units,
        split=split,
    )


def _mean_over(figures: list[Figure], seed: int) -> Statistic:
    """The mean over adaptations that are drawn with replacement, as the pictures are: (r,)."""
    generator, count = np.random.default_rng((seed, 1)), len(figures)

    def statistic(weights: np.ndarray) -> np.ndarray:
        values = np.stack([figure.statistic(weights) for figure in figures])  # (count, r)
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=len(weights)) / count  # (r, count)
        return np.einsum("rc,cr->r", drawn, values)

    return statistic


def first_near_best(figures: list[Figure]) -> int:
    """The first of some figures of the same pictures that is within half a standard error of the best one.

    The error is that of the paired difference, over resamples of the pictures, see [`first_within_noise`].
    """
    best = max(figures, key=lambda one: one.value)
    generator = np.random.default_rng(0)
    weights = generator.multinomial(best.rows, np.full(best.rows, 1 / best.rows), size=_RESAMPLES).astype(np.float64)
    differences = [best.value - one.value for one in figures]
    errors = [np.nanstd(best.statistic(weights) - one.statistic(weights)) for one in figures]
    return first_within_noise(np.array(differences), np.array(errors))


def figure_of_scores(metric: str, scores: np.ndarray, targets: np.ndarray) -> Figure:
    """The metric of scores (n, c) and targets (n,)."""
    return Figure(metric, classification_statistic(metric, scores, targets), len(targets))


@dataclass
class LabelledFeatures:
    """Features of labelled images.

    Args:
        data ([`ClassificationData`]): Those that could be read.
        features (`np.ndarray` of shape (n, dim)): In the space shared with texts, L2-normalised.
    """

    data: ClassificationData
    features: np.ndarray


@dataclass
class ZeroShot:
    """What a model does with data by its texts alone.

    Args:
        figures (`list[Figure]`): Of labelled images their metric, of captioned ones R@1 both ways.
        images ([`LabelledFeatures`], *optional*): Of labelled images their features.
        text (`np.ndarray` of shape (c, dim), *optional*): Of labelled images the text classifier.
    """

    figures: list[Figure]
    images: LabelledFeatures | None = None
    text: np.ndarray | None = None


def encode_data(encoder: DualEncoder, data: ClassificationData, encoding: EncodingOptions) -> LabelledFeatures:
    """Embed labelled images."""
    readable, features, _ = encode_labelled(encoder, data, options=encoding)
    return LabelledFeatures(readable, features)


def measure_zero_shot(encoder: DualEncoder, data: Data, encoding: EncodingOptions) -> ZeroShot:
    """Measure a model by its texts."""
    if isinstance(data, ClassificationData):
        images = encode_data(encoder, data, encoding)
        text = class_embeddings(encoder, data.class_names, data.templates, encoding)
        return ZeroShot([figure_of_scores(data.metric, images.features @ text.T, images.data.targets)], images, text)
    result = evaluate_retrieval(encoder, data, RetrievalOptions(resamples=0, encoding=encoding))
    owners, count = result.image_of_text, result.num_images
    by_text = mean_of_rows(result.text_to_image_ranks < 1)
    return ZeroShot(
        [
            Figure("image_to_text_R@1", mean_of_rows(result.image_to_text_ranks < 1), count),
            # A picture is drawn with all its texts, and with all pictures that share one of them.
            Figure(
                "text_to_image_R@1",
                lambda weights: by_text(weights[:, owners]),
                count,
                images_sharing_texts(owners, result.text_ids),
            ),
        ]
    )
