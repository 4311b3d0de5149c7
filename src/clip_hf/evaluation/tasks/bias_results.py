# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The result of a label-set experiment: shares, differences and accuracies by group, as tables, plot and text."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...utils.figures import WIDTH, new_figure
from ...utils.wording import counted, markdown_table, safe_name, table_cell
from .evaluation_result import (
    EvaluationResult,
    format_difference,
    format_difference_interval,
    format_interval,
    format_metric,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Rows of the tables in a model card.
_SHOWN = 10


@dataclass(frozen=True)
class GroupShares:
    """Images of one group, and the share of them that got a label of each category.

    Args:
        attribute, value (`str`): The group: an attribute and one of its values, of a crossing all joined by `" x "`.
        size (`int`): Images of the group.
        shares (`dict[str, float]`): Share of them in each category, 0 to 1; with a threshold `"none"` is for those
            without any label.
        intervals (`dict[str, tuple[float, float]]`): Bootstrap intervals of the shares.
    """

    attribute: str
    value: str
    size: int
    shares: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Disparity:
    """The largest difference between groups of an attribute in the share of a category.

    Args:
        attribute, category (`str`): What was compared.
        highest, lowest (`str`): The groups with the largest and the smallest share.
        difference (`float`): Their difference, 0 to 1.
        interval (`tuple[float, float]`, *optional*): Bootstrap interval of the difference of these two groups. It lies
            too high, because they were chosen as the two that are farthest apart.
        p_value (`float`, *optional*): How often the groups of the attribute differ as much, by chi-squared, if their
            images are shuffled. Of many such tests some have a small one by chance.
    """

    attribute: str
    category: str
    highest: str
    lowest: str
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None

    @property
    def metric_name(self) -> str:
        """Its name among the metrics."""
        return f"{safe_name(self.attribute)}_{safe_name(self.category)}_difference"


@dataclass(frozen=True)
class GroupAccuracy:
    """How often an attribute is recognised in one group.

    Args:
        target (`str`): The attribute that is recognised.
        attribute, value (`str`): The group, as in [`GroupShares`]; both `"all"` for all images.
        size (`int`): Images of the group that have an answer.
        accuracy (`float`): Share of them that are classified right, 0 to 1.
        interval (`tuple[float, float]`, *optional*): Bootstrap interval.
    """

    target: str
    attribute: str
    value: str
    size: int
    accuracy: float
    interval: tuple[float, float] | None

    @property
    def metric_name(self) -> str:
        """Its name among the metrics, if it is that of all images."""
        return f"{safe_name(self.target)}_accuracy"


@dataclass(kw_only=True, repr=False)
class LabelProbeResult(EvaluationResult):
    """Which labels groups of images got.

    Args:
        num_images, num_labels (`int`): Images and labels.
        label_counts (`dict[str, int]`): Labels of each category.
        overall (`dict[str, float]`): Share of all images in each category.
        groups (`list[GroupShares]`): Shares by group.
        disparities (`list[Disparity]`): Largest differences between groups, for each attribute and category, from the
            largest.
        accuracies (`list[GroupAccuracy]`): Accuracies by group, of attributes that are label sets.
        top_k, threshold, min_group_size, resamples: As in [`LabelProbeOptions`].
        members (`np.ndarray` of shape (n, k), bool): Which categories each image is in, in the order of `overall`.
        group_of (`dict[str, np.ndarray]`): For each attribute, each image's value, (n,).
    """

    task = "label_probe"
    not_saved = ("group_of",)

    num_images: int
    num_labels: int
    label_counts: dict[str, int]
    overall: dict[str, float]
    groups: list[GroupShares]
    disparities: list[Disparity]
    accuracies: list[GroupAccuracy]
    top_k: int
    threshold: float
    min_group_size: int
    members: np.ndarray
    group_of: dict[str, np.ndarray]
    resamples: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """Largest differences and accuracies over all images by name, 0 to 1."""
        figures = {each.metric_name: each.accuracy for each in self.accuracies if each.attribute == "all"}
        return figures | {each.metric_name: each.difference for each in self.disparities}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals by name."""
        figures = [each for each in self.accuracies if each.attribute == "all"] + self.disparities
        return {each.metric_name: each.interval for each in figures if each.interval is not None}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The categories of each image."""
        return {"members": self.members}

    def details(self) -> str:
        """Shares, differences and accuracies by group, in Markdown."""
        parts = [self._method(), self._shares_table()]
        if self.disparities:
            parts.append(f"Largest differences between groups:\n\n{self._disparities_table(len(self.disparities))}")
        if self.accuracies:
            parts.append(f"Accuracies:\n\n{self._accuracies_table()}")
        return "\n\n".join(parts)

    def limitations_section(self) -> str:
        """Text for a model card, for `ModelCardDetails.limitations`: what was counted, and what it does not show.

        Labels are not quoted, only the names of their categories.
        """
        parts = [
            f"### Labels given to groups of images ({self.data}, {self.split})",
            self._method(),
            self._shares_table(),
        ]
        if self.disparities:
            shown = min(_SHOWN, len(self.disparities))
            more = "" if shown == len(self.disparities) else f" ({shown} of {len(self.disparities)})"
            parts.append(f"Largest differences between groups{more}:\n\n{self._disparities_table(shown)}")
        if self.accuracies:
            parts.append(f"How often annotated attributes were recognised:\n\n{self._accuracies_table()}")
        parts.append(
            "What these counts do not show:\n\n"
            "- They hold for these images, labels and prompts. Which labels there are, and how they are put into "
            "categories, was decided by whoever ran the probe; other ones give other shares.\n"
            "- Groups are those of the data's annotations, which need not be how the people shown see themselves.\n"
            "- They are no measure of harm in an application, which depends on where and how the model is used.\n"
            "- Where no difference was found, there may still be one: for other groups or labels, or one too small "
            "for this number of images."
        )
        return "\n\n".join(parts)

    def figure(self) -> "Figure":
        """Shares of the categories by group, one panel for each attribute."""
        attributes = list(self.group_of)
        most = max(sum(group.attribute == name for group in self.groups) for name in attributes)
        height = 1.5 + (0.35 + 0.18 * len(self.overall)) * most
        width = max(WIDTH, 4.5 * len(attributes))
        with new_figure(self.plot_title(), min(height, 20), width) as figure:
            for axes, attribute in zip(figure.subplots(1, len(attributes), squeeze=False)[0], attributes, strict=True):
                groups = [group for group in self.groups if group.attribute == attribute]
                thickness = 0.8 / len(self.overall)
                for index, category in enumerate(self.overall):
                    shares = 100 * np.array([group.shares[category] for group in groups])
                    ends = 100 * np.array([group.intervals.get(category, (np.nan, np.nan)) for group in groups])
                    places = np.arange(len(groups)) + (index - (len(self.overall) - 1) / 2) * thickness
                    errors = np.clip([shares - ends[:, 0], ends[:, 1] - shares], 0, None)
                    bars = {"linewidth": 0.8, "capsize": 2}
                    axes.barh(places, shares, thickness, xerr=errors, label=category, error_kw=bars)
                axes.set_yticks(range(len(groups)), [self._marked(group.value, group.size) for group in groups])
                axes.grid(axis="y", visible=False)
                axes.invert_yaxis()
                axes.set(xlabel="images with a label of the category (%)", title=f"by {attribute}")
            handles, names = axes.get_legend_handles_labels()
            figure.legend(
                handles, names, loc="outside lower left", ncols=len(names), title="category; bars: 95% intervals"
            )
        return figure

    def _method(self) -> str:
        counts = ", ".join(f"{table_cell(name)} ({count})" for name, count in self.label_counts.items())
        assigned = "its most probable label" if self.top_k == 1 else f"its {self.top_k} most probable labels"
        if self.top_k >= self.num_labels:
            assigned = "every label"
        if self.threshold:
            assigned += f" if the probability is at least {100 * self.threshold:g}%"
        sizes = (counted(self.num_images, "image"), counted(self.num_labels, "label"))
        kinds = counted(len(self.label_counts), "category", "categories")
        text = (
            f"{', '.join(sizes)} in {kinds} (labels of each): {counts}. An image was given {assigned}; "
            "the shares are those of images with a label of the category."
        )
        if any(group.size < self.min_group_size for group in self.groups):
            least = counted(self.min_group_size, "image")
            text += f" Groups of fewer than {least} are marked with * and not compared."
        return text

    def _marked(self, value: str, size: int) -> str:
        return f"{value} (n={size}{'*' if size < self.min_group_size else ''})"

    def _shares_table(self) -> str:
        rows = [(f"all (n={self.num_images})", *(format_metric("", share) for share in self.overall.values()))]
        for group in self.groups:
            cells = [_with_interval(share, group.intervals.get(name)) for name, share in group.shares.items()]
            rows.append((f"{group.attribute}: {self._marked(group.value, group.size)}", *cells))
        return markdown_table(("group", *self.overall), rows)

    def _disparities_table(self, count: int) -> str:
        rows = []
        for each in self.disparities[:count]:
            p_value = "" if each.p_value is None else _p_value_text(each.p_value, self.resamples)
            difference = _difference_text(each.difference, each.interval)
            rows.append((each.attribute, each.category, each.highest, each.lowest, difference, p_value))
        return markdown_table(("attribute", "category", "most", "least", "difference", "p"), rows)

    def _accuracies_table(self) -> str:
        rows = []
        for each in self.accuracies:
            value = each.value if each.attribute == "all" else f"{each.attribute}: {each.value}"
            accuracy = _with_interval(each.accuracy, each.interval)
            rows.append((each.target, self._marked(value, each.size), accuracy))
        return markdown_table(("recognised", "group", "accuracy"), rows)


@dataclass(frozen=True)
class LabelSetChange:
    """What another label set changes for one group and category.

    Args:
        attribute, value (`str`): The group.
        category (`str`): The category.
        size (`int`): Images of the group.
        before, after (`float`): Share of the group in the category with each label set, 0 to 1.
        interval (`tuple[float, float]`, *optional*): Bootstrap interval of the difference, over images that both label
            sets classified.
    """

    attribute: str
    value: str
    category: str
    size: int
    before: float
    after: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class LabelSetComparison:
    """What another label set changes.

    Args:
        changes (`list[LabelSetChange]`): By attribute, group and category.
    """

    changes: list[LabelSetChange]

    def table(self) -> str:
        """All changes as a Markdown table."""
        rows = [
            (
                f"{each.attribute}: {each.value} (n={each.size})",
                each.category,
                format_metric("", each.before),
                format_metric("", each.after),
                _difference_text(each.after - each.before, each.interval),
            )
            for each in self.changes
        ]
        return markdown_table(("group", "category", "before", "after", "difference"), rows)


def _with_interval(value: float, interval: tuple[float, float] | None) -> str:
    shown = format_metric("", value)
    return shown if interval is None else f"{shown} ({format_interval('', interval)})"


def _difference_text(value: float, interval: tuple[float, float] | None) -> str:
    shown = format_difference("", value)
    return shown if interval is None else f"{shown} ({format_difference_interval('', interval)})"


def _p_value_text(p_value: float, permutations: int) -> str:
    """A permutation test's p; none of so many permutations can show a smaller one than 1 / (permutations + 1)."""
    floor = 1 / (permutations + 1)
    if p_value <= floor:
        return f"<= {floor:.1g}"
    return f"{p_value:.3f}" if p_value >= 0.001 else f"{p_value:.1g}"
