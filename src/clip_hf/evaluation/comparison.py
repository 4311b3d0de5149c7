# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Evaluated models side by side: each figure's difference, with an interval where both saw the same images."""

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.atomic import replaced_file
from ..utils.figures import COLOURS, WIDTH, new_figure, save_figure
from ..utils.json_files import read_json
from ..utils.tables import draw_table
from ..utils.wording import counted
from .numerics.statistics import (
    ROW_VALUES,
    Statistic,
    mean_by_class,
    mean_of_classes,
    median_of_rows,
    percentile_interval,
    resampled_interval,
)
from .tasks.evaluation_result import (
    environment,
    format_difference,
    format_difference_interval,
    format_metric,
)
from .tasks.metric_labels import metric_label, model_label, task_label


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Figures with less than the ensemble of prompts, the gain over each, and the places of the classes.
_FEWER_PROMPTS = {"one_prompt": "ensemble_gain", "class_name": "prompt_gain"}
_RECALL = re.compile(r"(image_to_text|text_to_image)_R@(\d+)")
_RANK_ARRAYS = ("ranks", "one_prompt_ranks", "class_name_ranks", "image_to_text_ranks", "text_to_image_ranks")
# What a result has among its figures, but says nothing about how good the model is.
_SETTINGS = ("lambda",)
_MAJORITY = "majority_class"
_NOUNS = {"images": ("image",), "texts": ("text",), "classes": ("class", "classes")}
_MARKERS = "osD^vP"
ENDINGS = ("json", "md", "png")
"""Of the files that a comparison, and a fit of scaling, are written to."""


@dataclass
class ComparedMetric:
    """
    One figure of several models.

    Args:
        task, data, split, metric (`str`):
            What was measured, and on what.
        values (`list[float | None]`):
            The figure of each model; `None` for one that was not evaluated so.
        intervals (`list[tuple[float, float] | None]`):
            Their own confidence intervals.
        differences (`list[float | None]`):
            Each model's figure less the first model's.
        difference_intervals (`list[tuple[float, float] | None]`):
            95% intervals of the differences by the paired bootstrap: the same images are drawn for both models, so
            that what is hard for both does not blur the difference. `None` where the images are not the same, or the
            results hold nothing for each image.
        chance (`float`, *optional*):
            What guessing gives.
        words (`list[str | None]`):
            What is shown of a figure that is no number, such as `"fewer than 1"`.
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
        """A model's figure as tables show it."""
        if self.words and self.words[place]:
            return self.words[place]
        return "-" if self.values[place] is None else format_metric(self.metric, self.values[place])


@dataclass
class Comparison:
    """
    Evaluated models side by side.

    Args:
        models (`list[str]`):
            Their names; differences are to the first.
        metrics (`list[ComparedMetric]`):
            Figures that at least two of them have.
        left_out (`list[str]`):
            Names of results that only one model has.
    """

    models: list[str]
    metrics: list[ComparedMetric]
    left_out: list[str] = field(default_factory=list)

    def table(self) -> str:
        """All figures as a Markdown table; a difference whose interval does not hold 0 is bold."""
        lines = [f"| task | data | metric | {' | '.join(self._columns())} |"]
        lines.append("|---" * (lines[0].count("|") - 1) + "|")
        for row in self.metrics:
            cells = self._cells(row, "**{}**")
            lines.append(f"| {row.task} | {row.data} ({row.split}) | {row.metric} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def terminal_tables(self) -> str:
        """All figures for a terminal, one table for each task and data."""
        tables = [
            draw_table(
                f"{task}: {data}", ["metric", *self._columns()], [[row.metric, *self._cells(row)] for row in rows]
            )
            for (task, data), rows in self._groups().items()
        ]
        explained = "* The 95% interval of the difference does not hold 0."
        return "\n\n".join([*tables, *([explained] if any(" *" in table for table in tables) else [])])

    def figure(self) -> "Figure":
        """Each task's figures as points with their intervals, one colour and marker for each model."""
        groups = {
            (task_label(task), data): [row for row in rows if _is_drawn(row.metric)]
            for (task, data), rows in self._groups().items()
        }
        columns = _balanced_columns([key for key, rows in groups.items() if rows], groups)
        row_height = 0.14 + 0.13 * len(self.models)
        height = 1.3 + max(sum(0.6 + row_height * len(groups[key]) for key in column) for column in columns)
        title = f"Comparison of {' and '.join(map(model_label, self.models))}"
        with new_figure(title, height, WIDTH) as figure:
            halves = figure.subfigures(1, len(columns), squeeze=False)[0]
            for half, keys in zip(halves, columns):
                heights = [0.6 + row_height * len(groups[key]) for key in keys]
                axes = half.subplots(len(keys), 1, squeeze=False, height_ratios=heights)[:, 0]
                for axis, key in zip(axes, keys):
                    _draw_points(axis, groups[key], self.models)
                    axis.set_title("\n".join(key) if len(columns) > 1 else ": ".join(key))
                axes[-1].set_xlabel("score (%), 95% interval")
            if columns[0]:
                handles = halves[0].axes[0].get_legend_handles_labels()
                figure.legend(*handles, loc="outside lower left", ncols=min(4, len(self.models)))
        return figure

    def _groups(self) -> dict[tuple[str, str], list[ComparedMetric]]:
        """The rows of each task and data."""
        groups: dict[tuple[str, str], list[ComparedMetric]] = {}
        for row in self.metrics:
            groups.setdefault((row.task, f"{row.data} ({row.split})"), []).append(row)
        return groups

    def _columns(self) -> list[str]:
        first, *others = self.models
        return [first, *(column for name in others for column in (name, f"less {first}")), "chance"]

    def _cells(self, row: ComparedMetric, significant: str = "{} *") -> list[str]:
        cells = [row.shown(0)]
        for place in range(1, len(self.models)):
            cells += [row.shown(place), _difference(row, place, significant)]
        return [*cells, "" if row.chance is None else format_metric(row.metric, row.chance)]

    def save(self, folder: str | os.PathLike, stem: str = "comparison") -> list[Path]:
        """Write `stem.json`, `stem.md` and `stem.png` into `folder`; each file appears when it is complete."""
        paths = [Path(folder) / f"{stem}.{ending}" for ending in ENDINGS]
        content = {**asdict(self), "environment": environment()}
        with replaced_file(paths[0]) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        with replaced_file(paths[1]) as temporary:
            temporary.write_text(f"# {' and '.join(self.models)}\n\n{self.table()}\n", encoding="utf-8")
        save_figure(self.figure(), paths[2])
        return paths


def load_results(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """
    Read the results that `clip-hf evaluate` or [`EvaluationResult.save`] wrote into a folder.

    Args:
        folder (`str` or `os.PathLike`):
            The folder.

    Returns:
        `list[dict]`: each as [`EvaluationResult.to_dict`] gives it, and under `"arrays"` what there is for each image.

    Raises:
        ValueError: if there are no results, they are of several models, or a file cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder} of results; `clip-hf evaluate` writes one.")
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_json(path)
            if not _is_result(content):
                continue
            _check_result(content)
            content["arrays"] = _read_arrays(path.with_suffix(".npz"))
        except (ValueError, OSError) as error:
            raise ValueError(
                f"The results in {path} cannot be read: {str(error).rstrip('.')}. Evaluate again."
            ) from error
        results.append(content)
    models = _names_of_models(results)
    if len(models) > 1:
        raise ValueError(
            f"The folder {folder} holds results of {counted(len(models), 'model')}: {', '.join(models)}. Give a "
            "folder for each."
        )
    if not results:
        raise ValueError(f"The folder {folder} holds no results of `clip-hf evaluate`.")
    return results


def models_in(folder: str | os.PathLike) -> list[str]:
    """Names of the models that a folder holds results of; what cannot be read, or is no result, is passed over."""
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        with suppress(ValueError, OSError):
            found.append(read_json(path))
    return _names_of_models([content for content in found if _is_result(content)])


def _is_result(content: Any) -> bool:
    """Whether it is of one model, as all but fits of scaling are."""
    is_result = isinstance(content, dict) and {"task", "model", "data", "metrics"} <= content.keys()
    return is_result and content["task"] != "scaling"


def _names_of_models(results: Sequence[dict[str, Any]]) -> list[str]:
    # Results that the library's functions made need not name their model.
    names = (os.path.normpath(one["model"]) for one in results if isinstance(one["model"], str) and one["model"])
    return list(dict.fromkeys(names))


def _check_result(content: dict[str, Any]) -> None:
    for name in ("task", "model", "data", "split"):
        if not isinstance(content.get(name), str):
            raise ValueError(f"`{name}` is {content.get(name)!r:.80}; it must be a text")
    for name in ("metrics", "intervals"):
        if not isinstance(content.get(name), dict):
            raise ValueError(f"`{name}` is a {type(content.get(name)).__name__}; it must be a mapping")
    for name in ("chance", "words", "details"):  # those of earlier versions lack some
        if not isinstance(content.get(name, {}), dict):
            raise ValueError(f"`{name}` is a {type(content[name]).__name__}; it must be a mapping")
    numbers = [*content["metrics"].items(), *content.get("chance", {}).items(), (_MAJORITY, content.get(_MAJORITY))]
    for name, value in numbers:
        if value is not None and not _is_number(value):
            raise ValueError(f"the metric {name} is {value!r:.80}; it must be a number")
    for name, value in content["intervals"].items():
        ends = value if value is not None else (None, None)
        if not isinstance(ends, (list, tuple)) or len(ends) != 2 or not all(e is None or _is_number(e) for e in ends):
            raise ValueError(f"the interval of {name} is {value!r:.80}; it must be two numbers")


def _is_number(value: Any) -> bool:
    # Not a whole number of a thousand digits, which is beyond any float.
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """What there is for each image or text: whole numbers, one for each."""
    if not path.is_file():
        return {}
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = dict(file)
    except OSError:
        raise
    except Exception as error:  # MemoryError for a false size; zipfile, zlib, struct, numpy have own types
        raise ValueError(f"{path.name} is damaged ({type(error).__name__}: {error})") from error
    for name in {*_RANK_ARRAYS, "targets", "predictions", "image_of_text"} & arrays.keys():
        array = np.asarray(arrays[name])  # numpy gives bytes for a member that is no array
        if array.ndim not in (1, 2) or array.dtype.kind not in "biu":
            raise ValueError(f"{path.name} holds {name} of shape {array.shape} and type {array.dtype}")
    groups = arrays.get("image_of_text")
    if groups is not None and (groups.ndim != 1 or groups.min(initial=0) < 0 or groups.max(initial=0) >= len(groups)):
        raise ValueError(f"{path.name} holds an image_of_text that numbers no images")
    return arrays


def compare_results(
    folders: Sequence[str | os.PathLike], names: Sequence[str] | None = None, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """
    Compare the results of several models.

    Args:
        folders (`Sequence[str]`):
            Each model's folder of results, two or more.
        names (`Sequence[str]`, *optional*):
            What to call the models; by default as the results do, or as the folders are called if those names are not
            all different.
        resamples (`int`, *optional*, defaults to 1000):
            Bootstrap resamples for the differences.
        seed (`int`, *optional*, defaults to 0):
            Of the bootstrap.

    Returns:
        [`Comparison`]

    Raises:
        ValueError: if there are fewer than two folders, one holds no results or those of several models, no figure is
            in two of them, or the seed is below 0.
    """
    if len(folders) < 2:
        found = counted(len(folders), "folder")
        raise ValueError(f"There is nothing to compare in {found} of results; give two or more.")
    if seed < 0:
        raise ValueError(f"`seed` is {seed}; it must be 0 or more.")
    loaded = [load_results(folder) for folder in folders]
    names = list(names or [results[0]["model"] for results in loaded])
    if len(names) != len(folders):
        raise ValueError(f"There are {counted(len(names), 'name')} for {counted(len(folders), 'folder')}.")
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    by_key = [{(one["task"], one["data"], one["split"]): one for one in results} for results in loaded]
    keys = list(dict.fromkeys(key for own in by_key for key in own))
    metrics, left_out = [], []
    for key in keys:
        found = [own.get(key) for own in by_key]
        if sum(one is not None for one in found) < 2:
            left_out.append(" ".join(key))
            continue
        _check_same_data(key, names, found)
        for metric in dict.fromkeys(name for one in found if one for name in one["metrics"]):
            if metric not in _SETTINGS:
                metrics.append(_compare(key, metric, found, resamples, seed))
        shares = [one.get(_MAJORITY) if one else None for one in found]
        if any(share is not None for share in shares):
            none = [None] * len(found)
            metrics.append(ComparedMetric(*key, _MAJORITY, shares, none, none, none))
    if not metrics:
        raise ValueError(
            "No evaluation was made of two of the models on the same data and split: "
            + "; ".join(f"{name} has {', '.join(' '.join(key) for key in own)}" for name, own in zip(names, by_key))
            + "."
        )
    return Comparison(names, metrics, left_out)


def _check_same_data(key: tuple, names: Sequence[str], found: list[dict | None]) -> None:
    """Raise ValueError if results of one name are of different data, as far as they can tell."""
    described = {name: _data_of(one) for name, one in zip(names, found) if one is not None}
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
    details = result.get("details", {})
    sizes = {name: details.get(f"num_{name}") for name in _NOUNS}
    if sizes["images"] is not None:
        sizes["images"] += sum(part["images"] for part in _skipped(result).values())
    if details.get("class_names"):
        sizes["classes"] = len(details["class_names"])
    return {name: size for name, size in sizes.items() if size is not None}, details.get("class_names")


def _compare(key: tuple, metric: str, found: list[dict | None], resamples: int, seed: int) -> ComparedMetric:
    values = [one["metrics"].get(metric) if one else None for one in found]
    ends = [one["intervals"].get(metric) if one else None for one in found]
    intervals = [tuple(own) if own and None not in own else None for own in ends]
    first = values[0]
    differences = [None if value is None or first is None else value - first for value in values]
    paired = [None, *(_paired_interval(metric, found[0], other, resamples, seed) for other in found[1:])]
    chance = next((one["chance"][metric] for one in found if one and metric in one.get("chance", {})), None)
    words = [one.get("words", {}).get(metric) if one else None for one in found]
    return ComparedMetric(*key, metric, values, intervals, differences, paired, chance, words)


def _paired_interval(
    metric: str, first: dict | None, second: dict | None, resamples: int, seed: int
) -> tuple[float, float] | None:
    if not first or not second or not resamples:
        return None
    one, two = (_row_values(metric, found) for found in (first, second))
    # The same images in the same order, as far as the results can tell.
    if one is None or two is None or len(one) != len(two) or _skipped(first) != _skipped(second):
        return None
    for name in ("targets", "image_of_text"):
        if not np.array_equal(first["arrays"].get(name), second["arrays"].get(name)):
            return None
    groups = np.arange(len(one))
    if metric.startswith("text_to_image"):  # an image's texts are drawn with it
        groups = first["arrays"].get("image_of_text", groups)
    if metric.endswith("median_rank"):
        medians = median_of_rows(one), median_of_rows(two)
        return _resampled(lambda weights: medians[1](weights) - medians[0](weights), groups, resamples, seed)
    if (_headline(first) if metric in _FEWER_PROMPTS.values() else metric).endswith("mean_per_class"):
        targets = first["arrays"]["targets"]
        by_class = mean_by_class(two - one, targets, int(targets.max()) + 1)
        return _resampled(mean_of_classes(by_class), groups, resamples, seed)
    return _mean_interval(two - one, groups, resamples, seed)


def _skipped(result: dict[str, Any]) -> dict[str, Any]:
    return result.get("skipped") or {}  # results of earlier versions have no such key


def _resampled(statistic: Statistic, groups: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """95% interval of a statistic of the rows over resamples of their groups."""
    count = int(groups.max()) + 1
    return resampled_interval(lambda weights: statistic(weights[:, groups]), count, resamples, 0.95, seed)


def _mean_interval(gained: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> tuple[float, float]:
    """The same for the mean, far quicker."""
    kinds = np.stack([np.bincount(groups, gained), np.bincount(groups)], axis=1)  # (groups, 2): gain and size
    # Only a few kinds of groups occur, so a resample is a draw of how often each does.
    kinds, counts = np.unique(kinds, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    return percentile_interval((drawn @ kinds[:, 0]) / (drawn @ kinds[:, 1]))


def _row_values(metric: str, result: dict[str, Any]) -> np.ndarray | None:
    """What each image or text adds to a metric, float64 `(n,)`: a share of 1, or its place where it is a median."""
    arrays, headline = result["arrays"], _headline(result)
    recall = _RECALL.fullmatch(metric)
    if recall is not None and f"{recall[1]}_ranks" in arrays:
        return (arrays[f"{recall[1]}_ranks"] < int(recall[2])).astype(np.float64)
    if metric.endswith("_median_rank"):
        ranks = arrays.get(f"{metric.removesuffix('_median_rank')}_ranks")
        return None if ranks is None else ranks.astype(np.float64)
    for kind, gain in _FEWER_PROMPTS.items():
        fewer = {**arrays, "ranks": arrays.get(f"{kind}_ranks")}
        if metric == gain:
            more, less = _hits(headline, arrays), _hits(headline, fewer)
            return None if more is None or less is None else more - less
        if metric.startswith(f"{kind}_"):
            return _hits(metric.removeprefix(f"{kind}_"), fewer)
    return _hits(metric, arrays)


def _headline(result: dict[str, Any]) -> str:
    """The headline metric, which gains are of."""
    return str((result.get("details") or {}).get("metric", ""))


def _hits(metric: str, arrays: dict[str, np.ndarray]) -> np.ndarray | None:
    """What each image adds to an accuracy."""
    own = "top1" if metric == "mean_per_class" else metric
    ranks = arrays.get("ranks")
    if own in ROW_VALUES and ranks is not None:
        return ROW_VALUES[own](ranks)
    if own == "top1" and "ranks" not in arrays and {"targets", "predictions"} <= arrays.keys():
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


def _is_drawn(metric: str) -> bool:
    """Whether a plot shows a metric: percentages, and not those with fewer prompts, which the table has."""
    is_share = format_metric(metric, 0.5).endswith("%") and metric != _MAJORITY
    return is_share and not metric.startswith(tuple(f"{kind}_" for kind in _FEWER_PROMPTS))


def _balanced_columns(keys: list[tuple[str, str]], groups: dict[tuple[str, str], list]) -> list[list[tuple[str, str]]]:
    """The panels of one column, or of two of about the same height."""
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
        style = {"marker": _MARKERS[place % len(_MARKERS)], "color": COLOURS[place % len(COLOURS)]}
        axis.errorbar(
            values,
            lines,
            xerr=spread.clip(min=0),
            linestyle="",
            label=model_label(name),
            elinewidth=1,
            capsize=2,
            **style,
        )
    axis.set_yticks(range(len(rows)), [metric_label(row.metric) for row in rows])
    axis.set_xlim(-2, 102)
    axis.set_ylim(len(rows) - 0.5, -0.5)


__all__ = ["ENDINGS", "ComparedMetric", "Comparison", "compare_results", "load_results", "models_in"]
