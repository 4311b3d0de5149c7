# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The result of an evaluation: figures and what they were measured on, as JSON, table, plot and for model cards."""

import json
import os
import platform
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from huggingface_hub import EvalResult

from _clip_hf_cli import VERSION

from ...embedding.dual_encoder import DualEncoder
from ...model.checks_clip_hf import with_article
from ...utils.atomic import replaced_file
from ...utils.figures import save_figure
from ...utils.json_files import read_json
from ...utils.terminal_tables import draw_table, wrap_lines
from ...utils.wording import HUB_TASKS, INTERVAL, markdown_table, safe_name, table_cell
from ..numerics.moment_metrics import IOU_THRESHOLDS
from .display_names import model_label, task_label


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Endings of metrics that are shown as they are; all others are shares, shown as percentages.
_PLAIN_METRICS = (
    "median_rank",
    "shots_to_match_zero_shot",
    "lambda",
    "slope",
    "r_squared",
    "intercept",
    "rank_correlation",
)
# Decimals of percentages, in tables, cards and plots alike.
_DECIMALS = 2
# Endings of metrics that are differences of shares, shown in points.
_DIFFERENCES = ("_gain", "_change", "_difference", "mean_effective_robustness", "mean_change_under_shift")
# Headline figures that `print` shows.
_PRINTED_METRICS = 4
# Types of what a saved result must hold.
_ENTRIES = dict.fromkeys(("task", "model", "data", "split"), str)
_ENTRIES |= dict.fromkeys(("metrics", "intervals", "words", "chance", "skipped", "details"), dict)
ROUNDING = 1e-6
"""How far a saved figure may be from what its data give."""
# Fields that stand at the top of the JSON.
_AT_THE_TOP = (
    *("model", "runtime", "dtype", "image_options"),
    *("data", "split", "chance", "majority_class", "skipped", "notes"),
)


@dataclass(kw_only=True, repr=False)
class EvaluationResult:
    """Base class of results. A subclass adds its fields, and says what its headline figures are.

    A subclass is a `dataclass` with `repr=False`, so that it prints as its first headline figures.

    Args:
        model (`str`): Name of the model that was evaluated, with runtime and precision unless PyTorch ran it in
            float32.
        data (`str`): Name of the data.
        split (`str`): The split of the data, such as `"test"`.
        chance (`dict[str, float]`): What guessing gives, by the name of the headline figure, where it is known.
        majority_class (`float`, *optional*): Share of the most frequent class among the images, 0 to 1: what always
            naming it gives.
        skipped (`dict[str, dict]`): By split, the images that could not be read: how many, of how many,
            their kinds, and the first of each kind.
        notes (`list[str]`): What a reader of the figures should know, such as classes that the model cannot tell
            apart.
        runtime (`str`): What ran the model: `"torch"`, `"onnx"` or `"openvino"`.
        dtype (`str`): What it computed in, such as `"float32"` or `"int8"`.
        image_options (`dict`): How image files were read, where that is not as the model's image processor says, see
            [`DualEncoder.set_image_options`].
    """

    task: ClassVar[str] = ""
    """Name of the evaluation, as `clip-hf evaluate --tasks` has it."""
    task_type: ClassVar[str] = HUB_TASKS["zero_shot"]
    """The hub's identifier of the task, for model cards."""
    margin_heading: ClassVar[str] = "95% interval"
    """What heads the column of [`margins`] in tables."""
    not_saved: ClassVar[tuple[str, ...]] = ()
    """Fields that stand neither in the JSON nor in the arrays."""

    model: str
    data: str
    split: str = "test"
    chance: dict[str, float] = field(default_factory=dict)
    majority_class: float | None = None
    skipped: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    runtime: str = "torch"
    dtype: str = "float32"
    image_options: dict[str, Any] = field(default_factory=dict)

    def record_encoder(self, encoder: DualEncoder) -> None:
        """Take over how a model was run: name, runtime, dtype and changed options of images."""
        self.model, self.runtime, self.image_options = encoder.name, encoder.runtime, encoder.image_options
        self.dtype = str(encoder.dtype).removeprefix("torch.")

    def __repr__(self) -> str:
        lines = [self._title()]
        for name, value, margin, _ in self.table_rows()[: min(_PRINTED_METRICS, len(self.metrics))]:
            lines.append(f"  {name}: {value}" + (f" ({self.margin_heading}: {margin})" if margin else ""))
        if len(self.metrics) > _PRINTED_METRICS:
            lines.append(f"  and {len(self.metrics) - _PRINTED_METRICS} more in `metrics`")
        return "\n".join(lines)

    def _title(self) -> str:
        return f"{self.task}: {self.model} on {self.data} ({self.split})"

    @property
    def stem(self) -> str:
        """Name for files of this result, without ending: task, data and split."""
        return "-".join(safe_name(part) for part in (self.task, self.data, self.split) if part)

    @property
    def metrics(self) -> dict[str, float]:
        """Headline figures by name: shares from 0 to 1, unless their name says otherwise."""
        raise NotImplementedError

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Confidence intervals of headline figures by name; those without one are left out."""
        return {}

    @property
    def words(self) -> dict[str, str]:
        """Words shown in place of headline figures that are no number, by name."""
        return {}

    def margins(self) -> dict[str, str]:
        """How uncertain headline figures are, as tables show it, by name; here their intervals."""
        return {name: format_interval(name, interval) for name, interval in self.intervals.items() if interval}

    def figure(self) -> "Figure | None":
        """A plot, if there is something to plot."""
        return None

    def details(self) -> str:
        """Further Markdown for below the table of headline figures; may be empty."""
        return ""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Fields with a value for each image or text, which go into a file of arrays instead of the JSON."""
        return {}

    def to_dict(self) -> dict[str, Any]:
        """All but the arrays in types that JSON has; `metrics` and `intervals` stand at the top."""
        left_out = {*self.arrays, *self.not_saved}
        content = {one.name: _plain(getattr(self, one.name)) for one in fields(self) if one.name not in left_out}
        return {
            "task": self.task,
            **{name: content.pop(name) for name in _AT_THE_TOP},
            "metrics": _plain(self.metrics),
            "intervals": _plain(self.intervals),
            "words": self.words,
            "details": content,
            "environment": environment(),
        }

    def table(self) -> str:
        """The headline figures as a Markdown table, with what guessing gives if that is known; below it, how image
        files were read, if that was changed, and the notes.
        """
        return "\n\n".join([markdown_table(*self._shown_columns()), *self._image_notes(), *self.notes])

    def terminal_table(self, left_out: Container[str] = ()) -> str:
        """The same table for a terminal, under a line that names task, model and data; notes may be left out."""
        notes = [note for note in (*self._image_notes(), *self.notes) if note not in left_out]
        return "\n\n".join([draw_table(self._title(), *self._shown_columns()), *map(wrap_lines, notes)])

    def _image_notes(self) -> list[str]:
        if not self.image_options:
            return []
        what = "Films" if "num_frames" in self.image_options else "Image files"
        return [f"{what} were read with {setting_text(image_options=self.image_options)}."]

    def _shown_columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        columns = ("metric", "value", self.margin_heading, "chance")[: 4 if self.chance else 3]
        return columns, [row[: len(columns)] for row in self.table_rows()]

    def plot_title(self) -> str:
        """What was evaluated, in words."""
        model = model_label(self.model)
        subject = " on ".join(name for name in (model, f"{self.data} ({self.split})" if self.data else "") if name)
        return ": ".join(part for part in (task_label(self.task), subject) if part)

    def table_rows(self) -> list[tuple[str, str, str, str]]:
        """The headline figures as tables show them: name, value, margin and what guessing gives, or empty texts.

        Below them stand the share of the most frequent class, and the images that were skipped.
        """
        margins, words = self.margins(), self.words
        rows = [
            (
                name,
                words.get(name, format_metric(name, value)),
                margins.get(name, ""),
                format_metric(name, self.chance[name]) if name in self.chance else "",
            )
            for name, value in self.metrics.items()
        ]
        if self.majority_class is not None:
            rows.append(("majority_class", format_metric("", self.majority_class), "", ""))
        for part, left_out in self.skipped.items():
            name = "skipped_images" if len(self.skipped) == 1 else f"skipped_images ({part})"
            rows.append((name, f"{left_out['images']} of {left_out['of']}", "", ""))
        return rows

    def _skipped_lines(self) -> list[str]:
        return [
            f"Images of {part} that could not be read: {left_out['images']} of {left_out['of']}.\n\n"
            + "\n".join(f"- {table_cell(example)}" for example in left_out["examples"])
            for part, left_out in self.skipped.items()
        ]

    def eval_results(self) -> list[EvalResult]:
        """The headline figures for the `model-index` of a model card; shares as percentages.

        A 95% interval, where there is one, is in `metric_args["interval_95"]`: its two ends.
        Runtime and precision, unless PyTorch ran the model in float32, and changed options of images are in the
        metric's name: they make other figures.
        """
        intervals = self.intervals
        precision = {} if _is_plain(self.runtime, self.dtype) else {"runtime": self.runtime, "dtype": self.dtype}
        setting = setting_text(**precision, image_options=self.image_options)
        ending = f" ({setting})" if setting else ""
        return [
            EvalResult(
                task_type=self.task_type,
                dataset_type=self.data,
                dataset_name=self.data,
                dataset_split=self.split,
                metric_type=name,
                metric_name=f"{self.task} {name}{ending}",
                metric_value=round(float(value) * _scale(name), _DECIMALS),
                metric_args=_interval_of(name, intervals.get(name)),
            )
            for name, value in self.metrics.items()
            if np.isfinite(value)
        ]

    def save(self, folder: str | os.PathLike, stem: str | None = None) -> list[Path]:
        """Write `stem.json` and `stem.md`, and, if there are arrays or a plot, `stem.npz` and `stem.png`.

        Each file appears when it is complete.

        Args:
            folder (`str` or `os.PathLike`): Folder to write to; made if it is missing.
            stem (`str`, *optional*): Name of the files without ending; by default task, data and split.

        Returns:
            `list[Path]`: the files.
        """
        stem = stem or self.stem
        paths = [Path(folder) / f"{stem}.json", Path(folder) / f"{stem}.md"]
        with replaced_file(paths[0]) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        with replaced_file(paths[1]) as temporary:
            parts = [f"# {self._title()}", self.table(), self.details(), *self._skipped_lines()]
            temporary.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
        arrays = self.arrays
        if arrays:
            paths.append(Path(folder) / f"{stem}.npz")
            with replaced_file(paths[-1]) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(file, **arrays)
        figure = self.figure()
        if figure is not None:
            paths.append(Path(folder) / f"{stem}.png")
            save_figure(figure, paths[-1])
        return paths


@dataclass(kw_only=True, repr=False)
class MeasuredResult(EvaluationResult):
    """A result that has its headline figures and their bootstrap intervals as fields."""

    values: dict[str, float]
    value_intervals: dict[str, tuple[float, float]]

    @property
    def metrics(self) -> dict[str, float]:
        """The `values`."""
        return self.values

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """The `value_intervals`."""
        return self.value_intervals


def format_metric(name: str, value: float) -> str:
    """A figure as tables show it: shares as percentages, differences of shares in points."""
    if is_difference(name):
        return format_difference(name, value)
    if not np.isfinite(value):
        return "-"
    return f"{value:.4g}" if _scale(name) == 1 else f"{100 * value:.{_DECIMALS}f}%"


def format_interval(name: str, interval: tuple[float, float]) -> str:
    """An interval as tables show it."""
    if is_difference(name):
        return format_difference_interval(name, interval)
    return " to ".join(format_metric(name, end) for end in interval)


def is_difference(name: str) -> bool:
    """Whether a metric is a difference of shares."""
    return name.endswith(_DIFFERENCES) or name.startswith("effective_robustness_")


def format_difference(name: str, value: float) -> str:
    """The difference of two values of a metric as tables show it: that of shares in points."""
    if not np.isfinite(value):
        return "-"
    return f"{value:+.4g}" if _scale(name) == 1 else f"{points_text(value)} points"


def format_difference_interval(name: str, interval: tuple[float, float]) -> str:
    """The interval of a difference as tables show it; the unit is that of the difference."""
    return " to ".join(f"{end:+.4g}" if _scale(name) == 1 else points_text(end) for end in interval)


def points_text(share: float) -> str:
    """A difference of shares in points, with its sign and without the unit."""
    text = f"{100 * share:+.{_DECIMALS}f}"
    return text.lstrip("+-") if float(text) == 0 else text  # no "-0.00"


def setting_text(runtime: str = "", dtype: str = "", image_options: Mapping[str, Any] | None = None) -> str:
    """How a model was run and image files were read, for a line: `"onnx, int8, background_color 255,255,255"`."""
    parts = [part for part in (runtime, dtype) if part]
    for name, value in (image_options or {}).items():
        shown = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        parts.append(name if value is True else f"no {name}" if value is False else f"{name} {shown}")
    return ", ".join(parts)


def _is_plain(runtime: str, dtype: str) -> bool:
    return (runtime, dtype) == ("torch", "float32")


def majority_share(targets: np.ndarray) -> float:
    """Share of the images that have the most frequent class; targets are int64 (n,) or bool (n, c)."""
    counts = targets.sum(axis=0) if targets.ndim == 2 else np.bincount(targets)
    return float(counts.max() / len(targets))


def chance_of(metric: str, num_classes: int, targets: np.ndarray) -> float:
    """What guessing scores on average: k/c for top-k; for `map_11point`, with one score for all images."""
    if metric == "map_11point":
        return float(targets.mean(axis=0).mean())
    top5 = min(5, num_classes) / num_classes
    known = {"roc_auc": 0.5, "top5": top5, "top1_top5_mean": (1 / num_classes + top5) / 2}
    return known.get(metric, 1 / num_classes)


def _interval_of(name: str, interval: tuple[float, float] | None) -> dict[str, list[float]] | None:
    if interval is None or not np.isfinite(interval).all():
        return None
    return {INTERVAL: [round(float(end) * _scale(name), _DECIMALS) for end in interval]}


def _scale(name: str) -> float:
    return 1.0 if name.endswith(_PLAIN_METRICS) else 100.0


def environment() -> dict[str, str]:
    """Versions, machine and time, for every file of results."""
    packages = ("torch", "transformers", "numpy")
    return {
        "clip_hf": VERSION,
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _plain(value: Any) -> Any:
    """`value` in types that JSON has; NaN and infinities become null."""
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        value = value.tolist()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def is_result(content: Any) -> bool:
    """Whether the content of a file is the result of one model; a fit of scaling covers several."""
    known = isinstance(content, dict) and {"task", "model", "data", "metrics"} <= content.keys()
    return known and content["task"] != "scaling"


def read_result(path: Path) -> dict[str, Any] | None:
    """What [`EvaluationResult.save`] wrote into `stem.json` and, under `"arrays"`, into `stem.npz`.

    None for a file of something else; a `ValueError` or `OSError` if it cannot be read.
    """
    content = read_json(path)
    if not is_result(content):
        return None
    missing = [name for name in _ENTRIES if name not in content]
    if missing:
        raise ValueError(f"it has no `{missing[0]}`: it was edited, or written by a version of clip_hf without it")
    for name, kind in _ENTRIES.items():
        if not isinstance(content[name], kind):
            raise ValueError(f"`{name}` is {content[name]!r:.80}; it must be {with_article(kind.__name__)}")
    _check_parts(content)
    majority = ("majority_class", content.get("majority_class"))
    for name, value in [*content["metrics"].items(), *content["chance"].items(), majority]:
        if value is not None and not _is_possible(name, value):
            raise ValueError(f"the metric {name} is {value!r:.80}; it must be a number{_range_text(name)}")
    for name, ends in content["intervals"].items():
        are_numbers = isinstance(ends, list) and all(end is None or _is_possible(name, end) for end in ends)
        fits = are_numbers and len(ends) == 2 and (None in ends or ends[0] <= ends[1])
        if ends is not None and not fits:
            must = f"two numbers{_range_text(name)}, the lower one first"
            raise ValueError(f"the interval of {name} is {ends!r:.80}; it must be {must}")
    content["arrays"] = _read_arrays(path.with_suffix(".npz"))
    return content


def _check_parts(content: dict[str, Any]) -> None:
    """Raise a `ValueError` if what a list or dictionary of a result holds is of a wrong type."""
    details, notes = content["details"], content.get("notes", [])
    names = details.get("class_names") or []
    fits = {
        "notes": isinstance(notes, list) and _are(str, notes),
        "image_options": isinstance(content.get("image_options", {}), dict),
        **{name: isinstance(content.get(name, ""), str) for name in ("runtime", "dtype")},
        "words": _are(str, content["words"].values()),
        "skipped": all(
            isinstance(part, dict) and type(part.get("images")) is int for part in content["skipped"].values()
        ),
        "class_names": isinstance(names, list) and _are(str, names),
        **{name: _are((int, NoneType), [size]) for name, size in details.items() if name.startswith("num_")},
    }
    for name, does in fits.items():
        if not does:
            raise ValueError(f"`{name}` is {content.get(name, details.get(name))!r:.80}, which no evaluation writes")


def _are(kind: type | tuple[type, ...], values: Iterable[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _range_of(name: str) -> tuple[float, float] | None:
    """The least and greatest value that a metric can have: those of a share or a difference of shares."""
    if _scale(name) == 1:
        return None
    return (-1, 1) if is_difference(name) else (0, 1)


def _range_text(name: str) -> str:
    limits = _range_of(name)
    return "" if limits is None else f" from {limits[0]} to {limits[1]}"


def _is_possible(name: str, value: Any) -> bool:
    low, high = _range_of(name) or (-(2**63), 2**63)  # an integer of a thousand digits is beyond any float
    is_number = type(value) is int or (isinstance(value, float) and np.isfinite(value))
    return is_number and low - ROUNDING <= value <= high + ROUNDING


def _check_moment_arrays(arrays: dict[str, np.ndarray], name: str) -> None:
    """Raise a `ValueError` if what is saved for each query of moment retrieval has other shapes or types."""
    shapes = {"first_ious": (), "average_precisions": (len(IOU_THRESHOLDS),), "first_moments": (2,)}
    rows = len(np.atleast_1d(arrays.get("first_ious", ())))
    for field_name, shape in shapes.items():
        array = np.asarray(arrays.get(field_name, np.empty((rows, *shape))))
        if array.shape != (rows, *shape) or array.dtype.kind != "f":
            raise ValueError(f"{name} holds {field_name} of shape {array.shape} and type {array.dtype}")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays with a value for each image or text; none where there is no such file."""
    if not path.is_file():
        return {}
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = dict(file)
    except OSError:
        raise
    # MemoryError for a false size; zipfile, zlib, struct and numpy raise types of their own.
    except Exception as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"{path.name} holds Python objects, which no evaluation writes") from error
        raise ValueError(f"{path.name} is damaged ({type(error).__name__}: {error})") from error
    for name in arrays:
        if name in ("targets", "predictions", "image_of_text") or name.endswith("ranks"):
            array = np.asarray(arrays[name])  # numpy gives bytes for a member that is no array
            if array.ndim not in (1, 2 if name == "targets" else 1) or array.dtype.kind not in "biu":
                raise ValueError(f"{path.name} holds {name} of shape {array.shape} and type {array.dtype}")
    _check_moment_arrays(arrays, path.name)
    by_text = ("image_of_text", "text_to_image_ranks")
    by_image = [name for name in arrays if name.endswith("ranks") and "_to_" not in name]
    for same in (by_text, ("targets", "predictions", *by_image)):
        lengths = {name: len(arrays[name]) for name in same if name in arrays}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{path.name} holds arrays of other lengths for the same rows: {lengths}")
    groups = arrays.get("image_of_text")
    if groups is not None and (groups.ndim != 1 or groups.min(initial=0) < 0 or groups.max(initial=0) >= len(groups)):
        raise ValueError(f"{path.name} holds an image_of_text that numbers no images")
    return arrays
