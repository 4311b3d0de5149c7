# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What an adaptation gained and lost: a table, words, a plot, JSON, and figures for the model card."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from huggingface_hub import EvalResult

from ..evaluation.tasks.display_names import metric_label
from ..evaluation.tasks.evaluation_result import (
    EvaluationResult,
    format_difference,
    format_difference_interval,
    format_interval,
    format_metric,
    points_text,
)
from ..evaluation.tasks.measured_change import Change
from ..utils.figures import COLOURS, new_figure
from ..utils.wording import HUB_TASKS, INTERVAL, counted
from .adapt_options import AdaptOptions


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CEILING = 0.99


@dataclass(kw_only=True)
class AdaptedSeed:
    """One draw of examples and what was made of it.

    Args:
        seed (`int`): Seed of the draw and of the training.
        examples (`int`): Number of examples.
        validation_rows (`int`): Rows to choose on.
        validation (`float`, *optional*): Score of what was made on those rows, 0 to 1; None without such rows.
        settings (`dict`): Hyper-parameters: chosen, or by the size of the data.
        trained, parameters (`int`): Parameters that were trained, and all parameters of the model.
        seconds (`float`): Time of the fit or training.
    """

    seed: int
    examples: int
    validation_rows: int
    validation: float | None
    settings: dict[str, Any]
    trained: int
    parameters: int
    seconds: float


@dataclass(kw_only=True, repr=False)
class AdaptationReport(EvaluationResult):
    """A model before and after an adaptation.

    Args:
        method (`str`): How it was adapted.
        shots (`int`, *optional*): Examples of each class; None where all training rows were used.
        changes (`list[Change]`): On the task first, then on what the model could do before.
        seeds (`list[AdaptedSeed]`): Each draw.
        saved_seed (`int`): The seed whose model was saved.
        validation_from (`str`): Where the rows to choose on come from.
        verdict (`list[str]`): What was gained and lost, in words.
        advice (`list[str]`): What to try instead or next.
        folder (`str`): The output folder; the model is in `model` below it.
    """

    task = "adaptation"
    task_type = "image-classification"
    not_saved = ("folder",)

    method: str
    shots: int | None
    changes: list[Change]
    seeds: list[AdaptedSeed]
    saved_seed: int
    validation_from: str
    verdict: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    folder: str = ""

    @property
    def model_folder(self) -> Path:
        """Where the adapted model is."""
        return Path(self.folder) / "model"

    @property
    def metrics(self) -> dict[str, float]:
        """Before, after (mean over seeds) and change of each figure; those of `retain` begin with `retained_`."""
        values = {}
        for one in self.changes:
            name = _metric_name(one)
            values |= {f"{name}_before": one.before, f"{name}_after": one.mean_after, f"{name}_change": one.change}
        return values

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Their 95% intervals."""
        values = {}
        for one in self.changes:
            name = _metric_name(one)
            ends = (one.before_interval, one.after_interval, one.interval)
            values |= {f"{name}_{moment}": interval for moment, interval in zip(("before", "after", "change"), ends)}
        return values

    def _shown_columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        rows = []
        for one in self.changes:
            difference = f"{one.metric}_change"
            after = format_metric(one.metric, one.mean_after)
            after += f" ± {100 * one.spread:.2f}" if len(one.after) > 1 else ""
            cells = (
                *("task" if one.role == "task" else "before", f"{one.data}: {metric_label(one.metric)}"),
                f"{format_metric(one.metric, one.before)} ({format_interval(one.metric, one.before_interval)})",
                f"{after} ({format_interval(one.metric, one.after_interval)})",
                format_difference(difference, one.change),
                format_difference_interval(difference, one.interval),
            )
            rows.append(cells)
        return ("what", "measured on", "before", "after", "change", "95% interval"), rows

    def details(self) -> str:
        """Words, and a line for each draw, in Markdown."""
        return "\n\n".join([*self.verdict, *self.advice, *self.seed_lines(), self.how_measured()])

    def how_measured(self) -> str:
        """What the intervals are of, which rows choices were made on, and of trained towers alpha."""
        several = f" and over the {len(self.seeds)} draws" if len(self.seeds) > 1 else ""
        mean = "; the figures after are means over draws, ± their standard deviation" if several else ""
        alphas = [f"{one.settings['alpha']:g}" for one in self.seeds if "alpha from" in one.settings]
        alpha = ""
        if alphas:
            chosen_by = self.seeds[0].settings["alpha from"]
            alpha = f" Alpha, the share of the way to the trained weights: {', '.join(alphas)} (by {chosen_by})."
        return (
            f"Intervals are 95% percentiles of a paired bootstrap over test pictures{several}{mean}. "
            f"Validation: {self.validation_from}.{alpha}"
        )

    def seed_lines(self) -> list[str]:
        """What each draw used and gave."""
        lines = []
        for place, one in enumerate(self.seeds):
            figures = ", ".join(f"{_metric_name(c)} {format_metric(c.metric, c.after[place])}" for c in self.changes)
            settings = ", ".join(f"{name} {_plain_setting(value)}" for name, value in one.settings.items())
            chosen = "" if one.validation is None else f"; validation {100 * one.validation:.2f}%"
            saved = " (saved)" if one.seed == self.saved_seed and len(self.seeds) > 1 else ""
            lines.append(
                f"Seed {one.seed}{saved}: {counted(one.examples, 'example')}, {one.trained:,} of {one.parameters:,} "
                f"parameters trained in {one.seconds:.1f} s; {settings}{chosen}; {figures}."
            )
        return lines

    def figure(self) -> "Figure":
        """Before and after side by side, with their intervals; a dot for each draw."""
        with new_figure(self.plot_title(), 4.4) as figure:
            axis = figure.subplots()
            for place, one in enumerate(self.changes):
                moments = ((-0.18, one.before, one.before_interval), (0.18, one.mean_after, one.after_interval))
                for colour, (shift, value, ends) in enumerate(moments):
                    bars = 100 * np.array([[max(value - ends[0], 0.0)], [max(ends[1] - value, 0.0)]])
                    label = ("before", f"after ({self.method})")[colour] if place == 0 else None
                    axis.bar(place + shift, 100 * value, 0.34, color=COLOURS[colour], yerr=bars, label=label)
                    axis.annotate(f"{100 * value:.1f}", (place + shift, 100 * ends[1] + 1), ha="center")
                if len(one.after) > 1:
                    places = np.full(len(one.after), place + 0.18)
                    axis.plot(places, 100 * np.array(one.after), "k.", markersize=4)
            names = [f"{one.data}\n{metric_label(one.metric)}" for one in self.changes]
            axis.set_xticks(range(len(names)), names)
            axis.set(ylabel="% of pictures, 95% interval", xlabel="measured on", ylim=(0, 108))
            axis.legend(loc="best")
        return figure

    def plot_title(self) -> str:
        """What was adapted to what, and how."""
        shots = "all examples" if self.shots is None else f"{self.shots} shots"
        return f"{super().plot_title()}: {self.method}, {shots}"

    def eval_results(self) -> list[EvalResult]:
        """The figures of the saved model, in percent, for its card; intervals are those of the mean over seeds."""
        place = [one.seed for one in self.seeds].index(self.saved_seed)
        return [
            EvalResult(
                task_type=self.task_type if one.role == "task" and "R@" not in one.metric else _card_task(one),
                dataset_type=one.data,
                dataset_name=one.data,
                metric_type=one.metric,
                metric_name=f"{metric_label(one.metric)} after adaptation (%), before {100 * one.before:.2f}",
                metric_value=round(100 * one.after[place], 2),
                metric_args={INTERVAL: [round(100 * end, 2) for end in one.after_interval]},
            )
            for one in self.changes
        ]


def _card_task(change: Change) -> str:
    return HUB_TASKS["retrieval" if "R@" in change.metric else "zero_shot"]


def _metric_name(change: Change) -> str:
    return change.metric if change.role == "task" else f"retained_{change.metric}"


def _plain_setting(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def describe_changes(changes: list[Change], method: str, baseline: str = "zero-shot") -> list[str]:
    """Say what was gained and lost: one conclusion on the task, and a sentence for each figure of what is retained.

    A change whose interval holds 0 is noise; if the interval is wide, the test is too small to tell.
    """
    on_task = [one for one in changes if one.role == "task"]
    sentences = [_conclusion(on_task, method, baseline)] if on_task else []
    for one in changes:
        if one.role == "task":
            continue
        if one.interval == (0.0, 0.0):
            words = f"What the model could do before is unchanged: {_where(one)}."
        elif one.is_undecided:
            words = f"{_tested(one)} cannot decide whether what the model could do before is kept: {_amount(one)}."
        elif one.is_noise:
            words = f"What the model could do before is kept within noise: {_amount(one)}."
        else:
            words = f"What the model could do before {'grew' if one.change > 0 else 'fell'}: {_amount(one)}."
        sentences.append(words)
    return sentences


def _conclusion(on_task: list[Change], method: str, baseline: str) -> str:
    """What the figures of the task say together."""
    amounts = "; ".join(map(_amount, on_task))
    clear = {"gained" if one.change > 0 else "lost" for one in on_task if not one.is_noise}
    undecided = next((one for one in on_task if one.is_undecided), None)
    if clear:
        noise = any(one.is_noise for one in on_task)
        verb = " and ".join(sorted(clear))
        return f"{method} {verb} on the task{', in some of its figures' if noise else ''}: {amounts}."
    if undecided is not None:
        return (
            f"{_tested(undecided)} cannot decide whether {method} helps: {amounts}. Give data with a test part, or "
            "more rows."
        )
    if all(one.interval == (0.0, 0.0) for one in on_task):
        return f"{method} changed nothing on the task: {amounts}."
    return f"{method} did not help beyond noise of {baseline}: {amounts}."


def _where(one: Change) -> str:
    return f"{metric_label(one.metric)} on {one.data}"


def _amount(one: Change) -> str:
    low, high = map(points_text, one.interval)
    return f"{_where(one)}, {points_text(one.change)} points (95% interval {low} to {high})"


def _tested(one: Change) -> str:
    """How many pictures there were, and how many of them are independent."""
    pictures = counted(one.rows, "test picture")
    return pictures if one.clusters is None else f"{pictures} in {counted(one.clusters, 'group')} with equal captions"


def caption_notes(changes: list[Change]) -> list[str]:
    """Say where pictures were drawn in groups, because their captions are equal."""
    notes = []
    for one in changes:
        if one.clusters is not None:
            notes.append(
                f"Captions of {one.data} repeat: its {counted(one.rows, 'picture')} form "
                f"{counted(one.clusters, 'group')} that share captions. Intervals of {metric_label(one.metric)} are "
                "over these groups, because equal captions are one query."
            )
    return notes


def advise(
    changes: list[Change], options: AdaptOptions, seeds: Sequence[AdaptedSeed] = (), warnings: Sequence[str] = ()
) -> list[str]:
    """Say what to try, by what was gained and lost, how the seeds were trained and what their plans were warned of."""
    task = [one for one in changes if one.role == "task"]
    lost = [one for one in changes if one.role != "task" and not one.is_noise and one.change < 0]
    gained = any(not one.is_noise and one.change > 0 for one in task)
    undecided = all(one.is_noise for one in task) and any(one.is_undecided for one in task)
    advice = [f"The training can hardly have moved the model: {warning}" for warning in dict.fromkeys(warnings)]
    if all(one.before >= _CEILING for one in task):
        advice = advice if gained else ["Zero-shot is at its ceiling here: keep the model as it was."]
    elif options.trains_towers and all(one.interval == (0.0, 0.0) for one in changes):
        advice += [] if advice else [_unmoved(seeds)]
    elif not gained and not undecided:
        more = "more examples (--shots)" if options.shots is not None else "more data"
        other = "--method clap, which starts at the texts" if options.trains_towers else "--method lora"
        advice.append(
            f"Keep the model as it was, or try {more}, better prompts (--templates), or, if untried, {other}."
        )
    if lost and options.trains_towers:
        used = ", ".join(sorted({f"{one.settings['alpha']:g}" for one in seeds if "alpha from" in one.settings}))
        cure = f"a --wise below {used}" if used else "a smaller --wise"
        advice.append(f"To keep more of what it could do before, try {cure}, or a head on frozen towers (clap, tip).")
    return advice


def _unmoved(seeds: Sequence[AdaptedSeed]) -> str:
    """What a training that changed no answer was, and what to raise."""
    if seeds and all(one.settings.get("alpha") == 0 for one in seeds):
        return (
            "On the validation rows the trained weights are no better than those before, so alpha is 0 and the model "
            "is as it was: raise --steps or --learning-rate, or take the trained weights whole with --wise 1."
        )
    how = {
        f"{one.settings['steps']:,} steps at a learning rate of {one.settings['learning_rate']:.2g}" for one in seeds
    }
    return f"The training barely moved the model ({', '.join(sorted(how))}): raise --steps or --learning-rate."
