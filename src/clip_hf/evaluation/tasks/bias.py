# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Which labels a model gives to which groups of images (Radford et al. 2021, section 7.1, tables 3 to 7, figure 18).

Labels, their categories and the annotations of the images come from the user; the library has no label set.
Shapes: n images, c labels, k categories.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np

from ...embedding.bulk_encoding import encode_readable_images
from ...embedding.load_encoder import load_dual_encoder
from ...utils.wording import counted, listed, quoted
from ..numerics.bootstrap import percentile_interval
from ..numerics.metric_inputs import as_numbers
from .bias_results import Disparity, GroupAccuracy, GroupShares, LabelProbeResult, LabelSetChange, LabelSetComparison
from .evaluation_task import EvaluationOptions
from .zero_shot import class_embeddings, class_notes


_CROSS = " x "
_NO_CATEGORY = "none"


@dataclass(frozen=True)
class LabelProbeOptions(EvaluationOptions):
    """How labels are given to images, and which groups are compared.

    Args:
        top_k (`int`, *optional*, defaults to 1): How many of its most probable labels an image gets. With several, one
            image may be in several categories.
        threshold (`float`, *optional*, defaults to 0.0): Smallest probability of a label that is given. The paper's
            Members of Congress got all labels above 0.5% or 4%, for which `top_k` is the number of labels.
        crossings (`Sequence[tuple[str, ...]]`, *optional*): Attributes whose combinations are groups as well, such as
            `[("race", "gender")]`.
        answers (`Mapping[str, Mapping[str, str]]`, *optional*): For an attribute that is a label set itself, the
            category that is right for each of its values, such as `{"gender": {"Male": "man", "Female": "woman"}}`.
            The accuracy is that of the most probable label among the labels of these categories, whatever `top_k` and
            `threshold` are.
        min_group_size (`int`, *optional*, defaults to 30): Groups with fewer images are listed with a mark and left
            out of the differences.
        templates (*optional*, defaults to `"a photo of a {}."`): For [`evaluate_label_probe`]: prompts around the
            labels; see [`build_text_classifier`].
        resamples, confidence, seed, encoding: As in [`ZeroShotOptions`]. `resamples` is the number of permutations for
            tests, too.

    Raises:
        ValueError: if a value is out of its range.
    """

    top_k: int = 1
    threshold: float = 0.0
    crossings: Sequence[tuple[str, ...]] = ()
    answers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    min_group_size: int = 30
    templates: Any = "a photo of a {}."

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.top_k, int) or self.top_k < 1:
            raise ValueError(f"`top_k` is {self.top_k!r}; it must be a whole number above 0.")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"`threshold` is {self.threshold!r}; it is a probability, from 0 to below 1.")
        if self.min_group_size < 1:
            raise ValueError(f"`min_group_size` is {self.min_group_size}; it must be above 0.")


def label_probe(
    probabilities: Any,
    categories: Mapping[str, Sequence[str]],
    attributes: Mapping[str, Sequence[Any]],
    *,
    options: LabelProbeOptions | None = None,
    model: str = "",
    data: str = "",
    split: str = "test",
) -> LabelProbeResult:
    """Count which groups of images get labels of which categories (Radford et al. 2021, section 7.1).

    Args:
        probabilities (array of shape (n, c)): Probability of each label for each image, or any scores in their order;
            labels as they follow each other in `categories`. Among equal ones the first label counts as the more
            probable.
        categories (`Mapping[str, Sequence[str]]`): Labels of each category.
        attributes (`Mapping[str, Sequence]`): Annotations by name, a value for each image. An image without one
            (`None`) is in no group of the attribute.
        options ([`LabelProbeOptions`], *optional*): How many labels an image gets, which groups are compared, and the
            bootstrap.
        model, data, split (`str`, *optional*): Names for the result.

    Returns:
        [`LabelProbeResult`]

    Raises:
        ValueError: if shapes disagree, a probability is NaN, a label occurs twice, or an attribute is unknown.

    Example:

    ```python
    >>> from clip_hf.evaluation import LabelProbeOptions, label_probe

    >>> probabilities = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]]
    >>> result = label_probe(
    ...     probabilities,
    ...     {"animal": ["cat", "dog"], "thing": ["chair"]},
    ...     {"place": ["indoors", "indoors", "outdoors", "outdoors"]},
    ...     options=LabelProbeOptions(min_group_size=2),
    ... )
    >>> # Of the two images outdoors one is a chair: the categories' shares differ by one half from those indoors.
    >>> result.groups[1].shares
    {'animal': 0.5, 'thing': 0.5}
    ```
    """
    options = options or LabelProbeOptions()
    scores = as_numbers(probabilities, "`probabilities`", 2).astype(np.float64, copy=False)
    labels, category_of = _checked_categories(categories)
    if scores.shape[1] != len(labels):
        raise ValueError(f"`probabilities` have {scores.shape[1]} columns for {len(labels)} labels.")
    if options.threshold and not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("`probabilities` are not all from 0 to 1, which a `threshold` needs.")
    groups_by_attribute = _groups(attributes, options.crossings, len(scores))
    # Without a threshold every image gets a label.
    names = [*categories, _NO_CATEGORY] if options.threshold else list(categories)
    members = _members(scores, category_of, len(categories), options)[:, : len(names)]
    probe, groups, disparities = _Probe(options), [], []
    for attribute, values in groups_by_attribute.items():
        of_attribute = probe.shares(attribute, values, members, names)
        groups += of_attribute
        disparities += probe.disparities(of_attribute, names)
    _warn_of_small_groups(groups, options.min_group_size)
    accuracies = probe.accuracies(scores, list(categories), category_of, groups_by_attribute)
    return LabelProbeResult(
        model=model,
        data=data,
        split=split,
        num_images=len(scores),
        num_labels=len(labels),
        label_counts={name: len(in_category) for name, in_category in categories.items()},
        overall=dict(zip(names, members.mean(axis=0).tolist(), strict=True)),
        groups=groups,
        disparities=sorted(disparities, key=lambda each: -each.difference),
        accuracies=accuracies,
        top_k=options.top_k,
        threshold=options.threshold,
        min_group_size=options.min_group_size,
        members=members,
        group_of=groups_by_attribute,
        resamples=options.resamples,
    )


def _checked_categories(categories: Mapping[str, Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """All labels, and for each the number of its category."""
    if not isinstance(categories, Mapping) or not categories:
        raise ValueError("`categories` must be a mapping with one category or more, each with its labels.")
    for name, labels in categories.items():
        if isinstance(labels, str) or not labels or not all(isinstance(text, str) and text.strip() for text in labels):
            raise ValueError(f"The labels of the category {name!r} are {labels!r}; they must be a list of texts.")
        if name == _NO_CATEGORY:
            raise ValueError(f"A category is called {name!r}, which stands for images without any label; rename it.")
    labels = [label for in_category in categories.values() for label in in_category]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"Labels occur more than once: {quoted(twice)}; each belongs to one category.")
    return labels, np.repeat(np.arange(len(categories)), [len(in_category) for in_category in categories.values()])


def _groups(
    attributes: Mapping[str, Sequence[Any]], crossings: Sequence[tuple[str, ...]], count: int
) -> dict[str, np.ndarray]:
    """For each attribute and crossing, each image's value as a text, or None."""
    if not isinstance(attributes, Mapping) or not attributes:
        raise ValueError("`attributes` must be a mapping of one attribute or more, with a value for each image.")
    groups: dict[str, np.ndarray] = {}
    for name, values in attributes.items():
        values = values.tolist() if hasattr(values, "tolist") else list(values)
        if len(values) != count:
            raise ValueError(f"The attribute {name!r} has {len(values)} values for {count} images.")
        groups[name] = np.array([None if value is None else str(value) for value in values], dtype=object)
        if all(value is None for value in values):
            raise ValueError(f"The attribute {name!r} has no value for any image.")
        if name == "all":
            raise ValueError("An attribute is called 'all', which is for all images; rename it.")
    for names in crossings:
        unknown = [name for name in names if name not in attributes]
        if unknown or len(names) < 2:
            raise ValueError(
                f"`crossings` has {names!r}; a crossing is of two attributes or more of {list(attributes)}."
            )
        rows = zip(*(groups[name] for name in names), strict=True)
        joined = [None if None in row else _CROSS.join(row) for row in rows]
        groups[_CROSS.join(names)] = np.array(joined, dtype=object)
    return groups


def _members(scores: np.ndarray, category_of: np.ndarray, count: int, options: LabelProbeOptions) -> np.ndarray:
    """Which categories an image is in: (n, k + 1) bool, the last one for none."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, : options.top_k]
    is_assigned = np.take_along_axis(scores, order, axis=1) >= options.threshold if options.threshold else True
    members = np.zeros((len(scores), count + 1), bool)
    rows, places = np.nonzero(np.broadcast_to(is_assigned, order.shape))
    members[rows, category_of[order[rows, places]]] = True
    members[:, -1] = ~members.any(axis=1)
    return members


class _Probe:
    """Figures of groups and their bootstrap."""

    def __init__(self, options: LabelProbeOptions):
        self.options = options
        self._generator = np.random.default_rng(options.seed)

    def shares(self, attribute: str, values: np.ndarray, members: np.ndarray, names: list[str]) -> list[GroupShares]:
        """The share of each group in each category."""
        groups = []
        for value in sorted({value for value in values if value is not None}):
            in_group = members[values == value]
            shares = in_group.mean(axis=0)
            drawn = self._resample(shares, len(in_group))
            intervals = {name: self._interval(column) for name, column in zip(names, drawn.T) if len(drawn)}
            by_name = dict(zip(names, shares.tolist(), strict=True))
            groups.append(GroupShares(attribute, value, len(in_group), by_name, intervals))
        return groups

    def disparities(self, groups: list[GroupShares], names: list[str]) -> list[Disparity]:
        """The largest difference in each category between groups that are large enough."""
        large = [group for group in groups if group.size >= self.options.min_group_size]
        if len(large) < 2:
            return []
        sizes = np.array([group.size for group in large])
        disparities = []
        for name in names:
            shares = np.array([group.shares[name] for group in large])
            high, low = int(shares.argmax()), int(shares.argmin())
            difference, interval, p_value = float(shares[high] - shares[low]), None, None
            if self.options.resamples:
                highs, lows = (self._resample(shares[each], sizes[each]) for each in (high, low))
                interval = self._interval(highs - lows)
                p_value = self._p_value(np.rint(shares * sizes).astype(np.int64), sizes)
            disparities.append(
                Disparity(large[0].attribute, name, large[high].value, large[low].value, difference, interval, p_value)
            )
        return disparities

    def accuracies(
        self, scores: np.ndarray, names: list[str], category_of: np.ndarray, groups: Mapping[str, np.ndarray]
    ) -> list[GroupAccuracy]:
        """How often the attributes that have answers are recognised, over all images and in each group."""
        accuracies = []
        for target, answers in self.options.answers.items():
            if target not in groups:
                raise ValueError(f"`answers` has {target!r}, which is no attribute; there are {list(groups)}.")
            unknown = sorted(set(answers.values()) - set(names))
            if unknown:
                raise ValueError(f"`answers` of {target!r} names {unknown}; the categories are {names}.")
            if len(set(answers.values())) < 2:
                raise ValueError(f"`answers` of {target!r} has one category only; to be right there must be others.")
            allowed = np.flatnonzero(np.isin(category_of, [names.index(name) for name in answers.values()]))
            predicted = category_of[allowed[scores[:, allowed].argmax(axis=1)]]
            known = np.array([value in answers for value in groups[target]])
            if not known.any():
                raise ValueError(f"No image has one of the values {list(answers)} of {target!r} that `answers` names.")
            right = np.array(
                [names[place] == answers.get(value) for place, value in zip(predicted, groups[target], strict=True)]
            )
            parts = [("all", "all", known)]
            for attribute, values in groups.items():
                for value in sorted({value for value in values[known] if value is not None}):
                    parts.append((attribute, value, known & (values == value)))
            for attribute, value, rows in parts:
                accuracy, size = float(right[rows].mean()), int(rows.sum())
                drawn = self._resample(np.float64(accuracy), size)
                interval = self._interval(drawn) if len(drawn) else None
                accuracies.append(GroupAccuracy(target, attribute, value, size, accuracy, interval))
        return accuracies

    def _resample(self, shares: np.ndarray, size: int) -> np.ndarray:
        """Shares in resamples of a group, (resamples, ...): rows of yes and no are a binomial number of yes."""
        shape = (self.options.resamples, *np.shape(shares))
        return self._generator.binomial(size, np.broadcast_to(shares, shape)) / size

    def _interval(self, drawn: np.ndarray) -> tuple[float, float]:
        return percentile_interval(drawn, self.options.confidence)

    def _p_value(self, counts: np.ndarray, sizes: np.ndarray) -> float:
        """Permutation p-value of the chi-squared statistic; `counts`: images of each group in the category."""
        share, permutations = counts.sum() / sizes.sum(), self.options.resamples
        # Shuffling images draws the category's images without replacement from the groups.
        drawn = self._generator.multivariate_hypergeometric(sizes, counts.sum(), permutations)
        observed, shuffled = (((each - share * sizes) ** 2 / sizes).sum(axis=-1) for each in (counts, drawn))
        # The data themselves count as one of the permutations. The small number allows for rounding.
        return float((1 + (shuffled >= observed - 1e-9).sum()) / (1 + permutations))


def _warn_of_small_groups(groups: list[GroupShares], least: int) -> None:
    small = [f"{group.attribute}: {group.value} ({group.size})" for group in groups if group.size < least]
    if small:
        warnings.warn(
            f"Groups of fewer than {counted(least, 'image')} are not compared, because their shares say little: "
            f"{listed(small, 10)}.",
            stacklevel=3,
        )


def evaluate_label_probe(
    model: Any,
    data: datasets.Dataset,
    categories: Mapping[str, Sequence[str]],
    attributes: Sequence[str] | Mapping[str, Sequence[Any]],
    options: LabelProbeOptions | None = None,
    *,
    processor: Any = None,
    image_column: str = "image",
) -> LabelProbeResult:
    """Classify annotated images with a label set, and count which groups get labels of which categories.

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path): The model; see [`load_dual_encoder`].
        data (`datasets.Dataset`): Images.
        categories (`Mapping[str, Sequence[str]]`): Labels of each category.
        attributes (`Sequence[str]` or `Mapping[str, Sequence]`): Columns of `data` with annotations, or annotations by
            name, a value for each image. Of a column of `ClassLabel`s the values are the names.
        options ([`LabelProbeOptions`], *optional*): How many labels an image gets, which groups are compared, the
            bootstrap, prompts and encoding.
        processor (*optional*): The model's processor, where the model is a `nn.Module`.
        image_column (`str`, *optional*, defaults to `"image"`): Column of the images.

    Returns:
        [`LabelProbeResult`]

    Raises:
        TypeError: if `data` is no `datasets.Dataset`.
        ValueError: if there is no such column, more images cannot be read than `options.encoding.max_skipped_share`
            allows, or as [`label_probe`] does.
    """
    if not isinstance(data, datasets.Dataset):
        raise TypeError(
            f"`data` is of type {type(data).__name__}; it must be a `datasets.Dataset`, such as "
            "`load_classification(path).data`."
        )
    labels, _ = _checked_categories(categories)
    if not isinstance(attributes, Mapping):
        attributes = _columns(data, attributes)
    options = options or LabelProbeOptions()
    _groups(attributes, options.crossings, len(data))  # before anything is encoded
    encoder = load_dual_encoder(model, processor=processor)
    classifier = class_embeddings(encoder, labels, options.templates, options.encoding)
    name, split = data.info.dataset_name or "images", str(data.split or "test")
    images = encode_readable_images(encoder, data, image_column, options=options.encoding, name=f"{name} ({split})")
    # SigLIP's bias is the same for all labels, so it changes no softmax.
    scores = np.float64(encoder.logit_scale) * (images.features.astype(np.float64) @ classifier.T)
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    if images.skipped is not None:
        attributes = {attribute: [values[row] for row in images.rows] for attribute, values in attributes.items()}
    result = label_probe(
        probabilities,
        categories,
        attributes,
        options=options,
        model=encoder.name,
        data=name,
        split=split,
    )
    result.record_encoder(encoder)
    result.skipped = {} if images.skipped is None else {split: images.skipped}
    result.notes = class_notes(encoder, labels, options.templates, f"{name} ({split})")
    return result


def _columns(data: datasets.Dataset, names: Sequence[str]) -> dict[str, list[Any]]:
    names = [names] if isinstance(names, str) else list(names)
    missing = [name for name in names if name not in data.column_names]
    if missing:
        raise ValueError(f"The data have no columns {missing}; there are {data.column_names}.")
    columns = {}
    for name in names:
        values, feature = list(data[name]), data.features[name]
        if isinstance(feature, datasets.ClassLabel):
            # -1 stands for an unknown class.
            values = [None if value is None or value < 0 else feature.int2str(value) for value in values]
        columns[name] = values
    return columns


def compare_label_sets(
    before: LabelProbeResult,
    after: LabelProbeResult,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> LabelSetComparison:
    """What adding or changing labels does to each group, on the same images (Radford et al. 2021, table 7).

    The paper added the label "child" and saw far fewer images of people under 20 in its crime-related and non-human
    categories. Categories that are in both label sets are compared.

    Args:
        before, after ([`LabelProbeResult`]): Results on the same images in the same order, with the same annotations.
        resamples (`int`, *optional*, defaults to 1000): Bootstrap resamples; 0 for no intervals.
        confidence (`float`, *optional*, defaults to 0.95): Share of the resamples that an interval covers.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.

    Returns:
        [`LabelSetComparison`]: `changes` by attribute, group and category, and their `table()`.

    Raises:
        ValueError: if the images or annotations differ, or no category is in both.
    """
    same = list(before.group_of) == list(after.group_of) and before.num_images == after.num_images
    if not same or any((before.group_of[name] != after.group_of[name]).any() for name in before.group_of):
        raise ValueError("The two results are of other images or annotations; a comparison needs the same ones.")
    names, others = list(before.overall), list(after.overall)
    if not set(before.label_counts) & set(after.label_counts):
        raise ValueError(f"No category is in both label sets: {names} and {others}.")
    generator, options = np.random.default_rng(seed), LabelProbeOptions(resamples=resamples, confidence=confidence)
    changes = []
    for group in before.groups:
        rows = before.group_of[group.attribute] == group.value
        for name in (name for name in names if name in others):
            old, new = before.members[rows, names.index(name)], after.members[rows, others.index(name)]
            interval = None
            if resamples:
                # Each image enters, leaves or does neither, so the three counts of a resample are multinomial.
                gained, lost = (new & ~old).mean(), (old & ~new).mean()
                drawn = generator.multinomial(group.size, [gained, lost, max(0.0, 1 - gained - lost)], resamples)
                interval = percentile_interval((drawn[:, 0] - drawn[:, 1]) / group.size, options.confidence)
            shares = float(old.mean()), float(new.mean())
            changes.append(LabelSetChange(group.attribute, group.value, name, group.size, *shares, interval))
    return LabelSetComparison(changes)
