# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Evaluated models side by side: the difference in each metric, with an interval where both saw the same images."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.atomic import replaced_file
from ..utils.figures import COLOURS, WIDTH, new_figure, save_figure
from ..utils.json_files import read_json
from ..utils.terminal_tables import draw_table, wrap_lines
from ..utils.wording import counted, listed, markdown_table
from .numerics.bootstrap import percentile_interval, resampled_interval
from .numerics.moment_metrics import moment_row_values
from .numerics.statistics import (
    ROW_VALUES,
    Statistic,
    mean_by_class,
    mean_of_classes,
    mean_of_rows,
    median_of_rows,
)
from .tasks.display_names import metric_label, model_label, task_label
from .tasks.evaluation_result import (
    ROUNDING,
    environment,
    format_difference,
    format_difference_interval,
    format_metric,
    is_result,
    read_result,
    setting_text,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Prefixes of metrics with fewer prompts than the ensemble, and the names of the ensemble's gain over each.
_FEWER_PROMPTS = {"one_prompt": "ensemble_gain", "class_name": "prompt_gain"}
_RECALL = re.compile(r"(image_to_text|text_to_image)_R@(\d+)")
# Metrics that say nothing about how good a model is.
_SETTINGS = ("lambda",)
_MAJORITY = "majority_class"
_NOUNS = {
    "images": ("image",),
    "texts": ("text",),
    "classes": ("class", "classes"),
    "films": ("film",),
    "queries": ("query", "queries"),
}
_MARKERS = "osD^vP"
ENDINGS = ("json", "md", "png")
"""File name endings of a saved comparison or fit of scaling."""


@dataclass
class ComparedMetric:
    """One metric of several models.

    Args:
        task, data, split, metric (`str`): What was measured, and on what.
        values (`list[float | None]`): Value of each model; `None` for a model that was not evaluated on this.
        intervals (`list[tuple[float, float] | None]`): Confidence interval of each value.
        differences (`list[float | None]`): Each model's value less the first model's.
        difference_intervals (`list[tuple[float, float] | None]`): 95% intervals of the differences by the paired
            bootstrap, which draws the same images for both models: an image that is hard for both does not blur the
            difference. `None` where the images differ, or the results hold no values for single images.
        chance (`float`, *optional*): Value of a random guess.
        words (`list[str | None]`): Text to show instead of a value that is no number, such as `"fewer than 1"`.
    """

    task: str
    data: str
    split: str
    metric: str
    values: list[float | None]
    intervals: list[tuple[float, float] | None]
    differences: list[float | None]
    difference_intervals: list[tuple[float, float] | None]
    chance: float | None = None
    words: list[str | None] = field(default_factory=list)

    def shown(self, place: int) -> str:
        """The value of the model at this place, as tables show it."""
        if self.words and self.words[place]:
            return self.words[place]
        return "-" if self.values[place] is None else format_metric(self.metric, self.values[place])


@dataclass
class Comparison:
    """Evaluated models side by side.

    Args:
        models (`list[str]`): Names of the models; differences are to the first.
        metrics (`list[ComparedMetric]`): Metrics that at least two of the models have.
        left_out (`list[str]`): Names of results that only one model has.
        notes (`list[str]`): What a reader of the differences should know: that image files were read with other
            options, or models run in another precision that their names do not say.
    """

    models: list[str]
    metrics: list[ComparedMetric]
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """All metrics as a Markdown table, and the notes; a difference is bold if its interval does not hold 0."""
        rows = [
            (row.task, f"{row.data} ({row.split})", row.metric, *self._cells(row, "**{}**")) for row in self.metrics
        ]
        return "\n\n".join([markdown_table(("task", "data", "metric", *self._columns()), rows), *self.notes])

    def terminal_tables(self) -> str:
        """All metrics for a terminal, one table for each task and data, and the notes."""
        tables = [
            draw_table(
                f"{task}: {data}", ["metric", *self._columns()], [[row.metric, *self._cells(row)] for row in rows]
            )
            for (task, data), rows in _grouped(self.metrics).items()
        ]
        explained = "* The 95% interval of the difference does not hold 0."
        below = [*([explained] if any(" *" in table for table in tables) else []), *self.notes]
        return "\n\n".join([*tables, *map(wrap_lines, below)])

    def figure(self) -> "Figure | None":
        """Each task's metrics as points with their intervals; each model has a colour and a marker.

        None if no metric is a share.
        """
        groups = _grouped(row for row in self.metrics if _is_drawn(row.metric))
        if not groups:
            return None
        columns = _balanced_columns(groups)
        heights = {key: 0.6 + (0.14 + 0.13 * len(self.models)) * len(rows) for key, rows in groups.items()}
        height = 1.3 + max(sum(heights[key] for key in column) for column in columns)
        title = f"Comparison of {' and '.join(map(model_label, self.models))}"
        with new_figure(title, height, WIDTH) as figure:
            halves = figure.subfigures(1, len(columns), squeeze=False)[0]
            for half, keys in zip(halves, columns):
                ratios = [heights[key] for key in keys]
                axes = half.subplots(len(keys), 1, squeeze=False, height_ratios=ratios)[:, 0]
                for axis, (task, data) in zip(axes, keys):
                    _draw_points(axis, groups[task, data], self.models)
                    axis.set_title(("\n" if len(columns) > 1 else ": ").join((task_label(task), data)))
                has_bars = any(any(row.intervals) for key in keys for row in groups[key])
                axes[-1].set_xlabel("score (%), 95% interval" if has_bars else "score (%)")
            handles = halves[0].axes[0].get_legend_handles_labels()
            figure.legend(*handles, loc="outside lower left", ncols=min(4, len(self.models)))
        return figure

    def _columns(self) -> list[str]:
        first, *others = self.models
        return [first, *(column for name in others for column in (name, f"less {first}")), "chance"]

    def _cells(self, row: ComparedMetric, significant: str = "{} *") -> list[str]:
        cells = [row.shown(0)]
        for place in range(1, len(self.models)):
            cells += [row.shown(place), _difference(row, place, significant)]
        return [*cells, "" if row.chance is None else format_metric(row.metric, row.chance)]

    def save(self, folder: str | os.PathLike, stem: str = "comparison") -> list[Path]:
        """Write `stem.json`, `stem.md` and, if there is a plot, `stem.png`; each file appears when it is complete."""
        paths = [Path(folder) / f"{stem}.{ending}" for ending in ENDINGS]
        content = {**asdict(self), "environment": environment()}
        with replaced_file(paths[0]) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        with replaced_file(paths[1]) as temporary:
            temporary.write_text(f"# {' and '.join(self.models)}\n\n{self.table()}\n", encoding="utf-8")
        figure = self.figure()
        if figure is None:
            return paths[:2]
        save_figure(figure, paths[2])
        return paths


def load_results(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Read the results that `clip-hf evaluate` or [`EvaluationResult.save`] wrote into a folder.

    Args:
        folder (`str` or `os.PathLike`): The folder.

    Returns:
        `list[dict]`: each as [`EvaluationResult.to_dict`] gives it, with the arrays of single images under `"arrays"`.

    Raises:
        ValueError: if there are no results, they are of several models, a file cannot be read, or a figure is
            impossible or not what the arrays give.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} of results; `clip-hf evaluate` writes one.")
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_result(path)
            if content is not None:
                _check_figures(content)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"The results in {path} cannot be read: {str(error).rstrip('.')}. Evaluate again."
            ) from error
        if content is not None:
            results.append(content)
    models = models_in(folder)
    if len(models) > 1:
        raise ValueError(
            f"The folder {folder} holds results of {counted(len(models), 'model')}: {', '.join(models)}. Give a "
            "folder for each."
        )
    if not results:
        raise ValueError(f"The folder {folder} holds no results of `clip-hf evaluate`.")
    return results


def models_in(folder: str | os.PathLike) -> list[str]:
    """Names of the models that a folder holds results of; unreadable files are skipped."""
    names = []
    for path in sorted(Path(folder).glob("*.json")):
        with suppress(ValueError, OSError):
            content = read_json(path)
            # Results of the library's functions need not name their model.
            if is_result(content) and isinstance(content["model"], str) and content["model"]:
                names.append(os.path.normpath(content["model"]))
    return list(dict.fromkeys(names))


def compare_results(
    folders: Sequence[str | os.PathLike], names: Sequence[str] | None = None, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare the results of several models.

    Args:
        folders (`Sequence[str]`): Each model's folder of results, two or more.
        names (`Sequence[str]`, *optional*): Names of the models. By default those in the results, or the folders' if
            two models have one name.
        resamples (`int`, *optional*, defaults to 1000): Bootstrap resamples for the differences.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap.

    Returns:
        [`Comparison`]

    Raises:
        ValueError: if there are fewer than two folders, a folder holds no results or results of several models, no
            metric is in two of them, or the seed is below 0.
    """
    if len(folders) < 2:
        raise ValueError(
            f"There is nothing to compare in {counted(len(folders), 'folder')} of results; give two or more."
        )
    if seed < 0:
        raise ValueError(f"`seed` is {seed}; it must be 0 or more.")
    loaded = [load_results(folder) for folder in folders]
    names = list(names or [results[0]["model"] for results in loaded])
    if len(names) != len(folders):
        raise ValueError(f"There are {counted(len(names), 'name')} for {counted(len(folders), 'folder')}.")
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    names_say_precision = names == [results[0]["model"] for results in loaded]
    by_key = [{(result["task"], result["data"], result["split"]): result for result in results} for results in loaded]
    metrics, left_out, settings = [], [], {}
    for key in dict.fromkeys(key for results in by_key for key in results):
        compared = [results.get(key) for results in by_key]
        if sum(result is not None for result in compared) < 2:
            left_out.append(" ".join(key))
            continue
        _check_same_data(key, names, compared)
        settings[key] = tuple(result and _setting_of(result, names_say_precision) for result in compared)
        for metric in dict.fromkeys(name for result in compared if result for name in result["metrics"]):
            if metric not in _SETTINGS:
                metrics.append(_compare(key, metric, compared, resamples, seed))
        shares = [result.get(_MAJORITY) if result else None for result in compared]
        if any(share is not None for share in shares):
            none = [None] * len(compared)
            metrics.append(ComparedMetric(*key, _MAJORITY, shares, none, none, none))
    if not metrics:
        raise ValueError(
            "No evaluation was made of two of the models on the same data and split: "
            + "; ".join(f"{name} has {', '.join(map(' '.join, results))}" for name, results in zip(names, by_key))
            + "."
        )
    return Comparison(names, metrics, left_out, _setting_notes(names, settings))


def _setting_of(result: dict[str, Any], names_say_precision: bool) -> str:
    """How a model was run, as far as its name does not say it, and how image files were read."""
    precision = setting_text(result.get("runtime", ""), result.get("dtype", "")) or "precision unknown"
    options = setting_text(image_options=result.get("image_options"))
    reading = f"images read with {options}" if options else "images read as its image processor says"
    return reading if names_say_precision else f"{precision}, {reading}"


def _setting_notes(names: Sequence[str], settings: dict[tuple, tuple[str | None, ...]]) -> list[str]:
    """Say once, of all results to which it applies, that models were run or images read in different ways."""
    where: dict[tuple[str | None, ...], list[str]] = {}
    for (task, data, split), of_models in settings.items():
        if len({setting for setting in of_models if setting}) > 1:
            where.setdefault(of_models, []).append(f"{task} on {data} ({split})")
    return [
        f"Settings differ in {listed(results)}: "
        + "; ".join(f"{name}: {setting}" for name, setting in zip(names, of_models) if setting)
        + ". Differences may come from that."
        for of_models, results in where.items()
    ]


def _check_same_data(key: tuple, names: Sequence[str], compared: list[dict | None]) -> None:
    """Raise a `ValueError` if results on data of one name have other sizes or classes."""
    described = {name: _data_of(result) for name, result in zip(names, compared) if result is not None}
    first, *others = described
    for other in others:
        if described[other] != described[first]:
            sizes = "; ".join(
                ", ".join([name, *(counted(size, *_NOUNS[what]) for what, size in described[name][0].items())])
                for name in (first, other)
            )
            raise ValueError(
                f"{key[0]} on {key[1]} ({key[2]}) is of other data in each of two results ({sizes}), though these "
                "have one name. Evaluate both models on the same images and classes, with the same --limit."
            )


def _data_of(result: dict[str, Any]) -> tuple[dict[str, int], Any]:
    """Sizes of the data by noun, images that were skipped included, and names of the classes; None where unknown."""
    details = result["details"]
    sizes = {name: details.get(f"num_{name}") for name in _NOUNS}
    if sizes["images"] is not None:
        sizes["images"] += sum(part["images"] for part in result["skipped"].values())
    if details.get("class_names"):
        sizes["classes"] = len(details["class_names"])
    return {name: size for name, size in sizes.items() if size is not None}, details.get("class_names")


def _compare(key: tuple, metric: str, compared: list[dict | None], resamples: int, seed: int) -> ComparedMetric:
    values, ends, chances, words = (
        [result[part].get(metric) if result else None for result in compared]
        for part in ("metrics", "intervals", "chance", "words")
    )
    intervals = [tuple(pair) if pair and None not in pair else None for pair in ends]
    first = values[0]
    differences = [None if value is None or first is None else value - first for value in values]
    paired = [None, *(_paired_interval(metric, compared[0], other, resamples, seed) for other in compared[1:])]
    chance = next((value for value in chances if value is not None), None)
    return ComparedMetric(*key, metric, values, intervals, differences, paired, chance, words)


def _paired_interval(
    metric: str, first: dict | None, second: dict | None, resamples: int, seed: int
) -> tuple[float, float] | None:
    if not first or not second or not resamples:
        return None
    first_values, second_values = (_row_values(metric, result) for result in (first, second))
    # Paired only if both saw the same images in the same order, as far as the results can tell.
    if first_values is None or second_values is None or len(first_values) != len(second_values):
        return None
    if first["skipped"] != second["skipped"]:
        return None
    for name in ("targets", "image_of_text", "film_of_query"):
        if not np.array_equal(first["arrays"].get(name), second["arrays"].get(name)):
            return None
    groups = np.arange(len(first_values))
    if metric.startswith("text_to_image"):  # an image's texts are drawn with it
        groups = first["arrays"].get("image_of_text", groups)
    if metric.endswith("median_rank"):
        medians = median_of_rows(first_values), median_of_rows(second_values)
        return _resampled(lambda weights: medians[1](weights) - medians[0](weights), groups, resamples, seed)
    if _is_mean_of_classes(metric, first):
        return _resampled(_statistic(metric, first, second_values - first_values), groups, resamples, seed)
    return _mean_interval(second_values - first_values, groups, resamples, seed)


def _check_figures(result: dict[str, Any]) -> None:
    """Raise a `ValueError` if a metric is not what the values of single images or texts give."""
    for metric, value in result["metrics"].items():
        rows = _row_values(metric, result)
        if value is None or rows is None or not len(rows):
            continue
        (measured,) = _statistic(metric, result, rows)(np.ones((1, len(rows))))
        measured += metric.endswith("median_rank")  # the first rank is saved as 0
        if abs(measured - value) > ROUNDING:
            raise ValueError(f"the metric {metric} is {value}, but the arrays beside it give {measured:.6g}")


def _statistic(metric: str, result: dict[str, Any], rows: np.ndarray) -> Statistic:
    """How the rows of [`_row_values`], or differences of them, make a metric."""
    if metric.endswith("median_rank"):
        return median_of_rows(rows)
    if _is_mean_of_classes(metric, result):
        classes, targets = np.unique(result["arrays"]["targets"], return_inverse=True)
        return mean_of_classes(mean_by_class(rows, targets, len(classes)))
    return mean_of_rows(rows)


def _is_mean_of_classes(metric: str, result: dict[str, Any]) -> bool:
    headline = _headline(result) if metric in _FEWER_PROMPTS.values() else metric
    return headline.endswith("mean_per_class")


def _resampled(statistic: Statistic, groups: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """95% interval of a statistic of the rows over resamples of their groups."""
    count = int(groups.max()) + 1
    return resampled_interval(lambda weights: statistic(weights[:, groups]), count, resamples, 0.95, seed)


def _mean_interval(gained: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """95% interval of the mean over resamples of groups of rows; much faster than `_resampled`."""
    kinds = np.stack([np.bincount(groups, gained), np.bincount(groups)], axis=1)  # (groups, 2): gain and size
    # Only a few kinds of groups occur, so a resample is a draw of how often each does.
    kinds, counts = np.unique(kinds, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    return percentile_interval((drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1]))


def _row_values(metric: str, result: dict[str, Any]) -> np.ndarray | None:
    """Contribution of each image or text to a metric, (n,): 0 to 1, or the rank if it is a median."""
    arrays, headline = result["arrays"], _headline(result)
    if result["task"] == "moments":
        return moment_row_values(metric, arrays) if {"first_ious", "average_precisions"} <= arrays.keys() else None
    if result["task"] in ("explanation", "segmentation"):
        return arrays.get(metric)
    recall = _RECALL.fullmatch(metric)
    if recall is not None and f"{recall[1]}_ranks" in arrays:
        return (arrays[f"{recall[1]}_ranks"] < int(recall[2])).astype(np.float64)
    if metric.endswith("_median_rank"):
        return arrays.get(f"{metric.removesuffix('_median_rank')}_ranks")
    for kind, gain in _FEWER_PROMPTS.items():
        fewer = {**arrays, "ranks": arrays.get(f"{kind}_ranks")}
        if metric == gain:
            more, less = _hits(headline, arrays), _hits(headline, fewer)
            return None if more is None or less is None else more - less
        if metric.startswith(f"{kind}_"):
            return _hits(metric.removeprefix(f"{kind}_"), fewer)
    return _hits(metric, arrays)


def _headline(result: dict[str, Any]) -> str:
    """The headline metric, whose gains are reported."""
    return str(result["details"].get("metric", ""))


def _hits(metric: str, arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    """Contribution of each image to an accuracy."""
    if metric == "mean_per_class":
        metric, arrays = "top1", arrays if "targets" in arrays else {}
    ranks = arrays.get("ranks")
    if metric in ROW_VALUES and ranks is not None:
        return ROW_VALUES[metric](ranks)
    if metric == "top1" and "ranks" not in arrays and {"targets", "predictions"} <= arrays.keys():
        return (arrays["targets"] == arrays["predictions"]).astype(np.float64)
    return None


def _difference(row: ComparedMetric, place: int, significant: str) -> str:
    difference, interval = row.differences[place], row.difference_intervals[place]
    if difference is None:
        return "-"
    text = format_difference(row.metric, difference)
    if interval is None:
        return text
    text += f" ({format_difference_interval(row.metric, interval)})"
    return significant.format(text) if interval[0] > 0 or interval[1] < 0 else text


def _grouped(rows: Iterable[ComparedMetric]) -> dict[tuple[str, str], list[ComparedMetric]]:
    """The rows of each task and data."""
    groups: dict[tuple[str, str], list[ComparedMetric]] = {}
    for row in rows:
        groups.setdefault((row.task, f"{row.data} ({row.split})"), []).append(row)
    return groups


def _is_drawn(metric: str) -> bool:
    """Whether a plot shows a metric: percentages, and not those with fewer prompts, which the table has."""
    is_share = format_metric(metric, 0.5).endswith("%") and metric != _MAJORITY
    return is_share and not metric.startswith(tuple(f"{kind}_" for kind in _FEWER_PROMPTS))


def _balanced_columns(groups: dict[tuple[str, str], list]) -> list[list[tuple[str, str]]]:
    """The panels of one column, or of two of about the same height."""
    keys = list(groups)
    if len(keys) < 2:
        return [keys]
    heights = np.cumsum([2 + len(groups[key]) for key in keys])  # in rows; a panel's title and axis take two
    half = 1 + int(np.abs(heights[:-1] - heights[-1] / 2).argmin())
    return [keys[:half], keys[half:]]


def _draw_points(axis: Any, rows: list[ComparedMetric], models: list[str]) -> None:
    for place, name in enumerate(models):
        shown = [(line, row) for line, row in enumerate(rows) if row.values[place] is not None]
        values = np.array([100 * row.values[place] for _, row in shown])
        ends = [row.intervals[place] or (row.values[place],) * 2 for _, row in shown]
        spread = np.array([[v - 100 * low, 100 * high - v] for v, (low, high) in zip(values, ends)]).reshape(-1, 2).T
        lines = [line + 0.6 * ((place + 0.5) / len(models) - 0.5) for line, _ in shown]
        axis.errorbar(
            values,
            lines,
            xerr=spread.clip(min=0),
            linestyle="",
            marker=_MARKERS[place % len(_MARKERS)],
            color=COLOURS[place % len(COLOURS)],
            label=model_label(name),
            elinewidth=1,
            capsize=2,
        )
    axis.set_yticks(range(len(rows)), [metric_label(row.metric) for row in rows])
    axis.set_xlim(-2, 102)
    axis.set_ylim(len(rows) - 0.5, -0.5)
