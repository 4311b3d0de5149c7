# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Several evaluations of one model on several datasets: what `clip-hf evaluate` runs."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from ..embedding.dual_encoder import DualEncoder
from ..embedding.load_encoder import load_dual_encoder, sampling_of
from ..embedding.video_encoder import ClipSampling, VideoEncoder
from ..utils.atomic import replaced_file
from ..utils.output_folders import check_writable
from ..utils.wording import markdown_table
from .comparison import models_in
from .tasks.adapter_heads import AdapterTask
from .tasks.evaluation_result import EvaluationResult
from .tasks.evaluation_task import EvaluationTask, TaskSettings
from .tasks.explanation import ExplanationTask
from .tasks.few_shot import FewShotTask
from .tasks.linear_probe import LinearProbeTask
from .tasks.moment_retrieval import MomentTask
from .tasks.retrieval import RetrievalTask
from .tasks.robustness import RobustnessTask
from .tasks.segmentation import SegmentationTask
from .tasks.zero_shot import EqualClassesWarning, ZeroShotTask


TASKS: dict[str, EvaluationTask] = {
    task.name: task
    for task in (
        ZeroShotTask(),
        RetrievalTask(),
        LinearProbeTask(),
        FewShotTask(),
        AdapterTask(),
        RobustnessTask(),
        MomentTask(),
        ExplanationTask(),
        SegmentationTask(),
    )
}
"""The evaluations that a suite can run, by name. A new one is a line here and a file in `tasks`."""


@dataclass(frozen=True, kw_only=True)
class SuiteOptions(TaskSettings):
    """Which evaluations to run on which data, and how.

    Args:
        tasks (`Sequence[str]`): Names of evaluations: keys of `TASKS`.
        data (`Sequence[str]`): Sources, see [`load_classification`] and [`load_retrieval`].
        output_dir (`Path`): Folder for the results, which holds those of one model.
        replace_results (`bool`, *optional*, defaults to `False`): Whether to remove all results in `output_dir`, of
            whichever model, before the first new one is written. Features stay.
        cache_dir (`Path`, *optional*): Folder for features, in place of the encoding's own; by default `features` in
            `output_dir`.
        image_options (`dict`, *optional*): How image files are read, see [`DualEncoder.set_image_options`]:
            `background_color`, `apply_exif_orientation`, `high_bit_depth`, `draft`, `image_limits`.
        clip ([`ClipSampling`], *optional*): To evaluate on films instead of images: how many frames and views are
            taken of each. A [`ClipHFVideoModel`] and a [`VideoEncoder`] have their own.
        data_options, caption_column, encoding, resamples, seed, shots, few_shot_seeds, fps: See [`TaskSettings`].
        segmentation_size, aggregate: See [`TaskSettings`].

    Raises:
        ValueError: if a task is unknown or named twice, there are no data, or as [`TaskSettings`] does.
        OSError: if `output_dir` cannot be written, such as NotADirectoryError if it is a file.
    """

    tasks: Sequence[str]
    data: Sequence[str]
    output_dir: Path
    replace_results: bool = False
    cache_dir: Path | None = None
    image_options: dict[str, Any] = field(default_factory=dict)
    clip: ClipSampling | None = None

    def __post_init__(self):
        super().__post_init__()
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise ValueError(f"`tasks` is {list(self.tasks)}; it must name one or more of {', '.join(TASKS)}.")
        if not self.data:
            raise ValueError("`data` is empty; name one or more data to evaluate on.")
        if len(set(self.data)) < len(self.data):
            raise ValueError(f"`data` names something twice: {', '.join(self.data)}.")
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"`tasks` names something twice: {', '.join(self.tasks)}.")
        if Path(self.output_dir).exists() and not Path(self.output_dir).is_dir():
            raise NotADirectoryError(f"{self.output_dir} is a file; give a folder for the results (--output-dir).")
        check_writable(self.output_dir, self.output_dir)


@dataclass
class _Job:
    """A task, the sources of its data, and the data by part."""

    task: EvaluationTask
    sources: tuple[str, ...]
    parts: dict[str, Any]


def run_suite(
    model: Any,
    options: SuiteOptions,
    *,
    runtime: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    accelerator: Accelerator | None = None,
    report: Callable[[str], None] = print,
) -> list[EvaluationResult]:
    """Run evaluations of one model, and write each result as soon as it is ready.

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path): The model; see [`load_dual_encoder`].
        options ([`SuiteOptions`]): What to run.
        runtime (`str`, *optional*): What runs it: `"torch"`, the default, `"onnx"` or `"openvino"`.
        device (`str` or `torch.device`, *optional*): Where to run it; with an `accelerator`, each process runs on its
            own device.
        dtype (`torch.dtype` or `str`, *optional*): What to compute in; `"auto"` is what suits the device.
        accelerator (`Accelerator`, *optional*): Accelerator of several processes that share the encoding; all of them
            call this.
        report (callable, *optional*, defaults to `print`): Called with each message.

    Returns:
        `list[EvaluationResult]`: the results; an empty list on other processes than the first.

    Raises:
        ValueError: before anything is encoded, if a task fits no source or a source no task, or the output folder
            holds results of another model.
    """
    is_main = accelerator is None or accelerator.is_main_process
    if sampling_of(model, options.clip) is not None:
        options = replace(options, data_options=replace(options.data_options, media=VideoEncoder.media))
    jobs = _plan(options, report if is_main else lambda text: None)
    device = device if accelerator is None else accelerator.device
    encoder = load_dual_encoder(model, runtime=runtime, device=device, dtype=dtype, clip=options.clip)
    if not options.replace_results:
        _check_same_model(Path(options.output_dir), encoder.name)
    if options.image_options:
        encoder.set_image_options(**options.image_options)
    _check_features(jobs, encoder)
    encoding = replace(options.encoding, cache_dir=options.cache_dir or Path(options.output_dir) / "features")
    options = replace(options, encoding=encoding)
    if accelerator is not None:
        # All processes encode; the tasks then find the features in the cache.
        shared = replace(encoding, accelerator=accelerator)
        for job in jobs:
            job.task.encode(encoder, job.parts, options, shared)
        if not is_main:
            return []
    if options.replace_results:
        _remove_results(Path(options.output_dir))
    results, said = [], set()
    for job in jobs:
        staged = replace(options, encoding=replace(encoding, stage=job.task.name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EqualClassesWarning)  # the result's notes say it
            result = job.task.run(encoder, job.parts, staged)
        try:
            report(f"\n{result.terminal_table(left_out=said)}")
        finally:  # also for a reader that has enough of the output
            result.save(options.output_dir)
        said.update(result.notes)
        results.append(result)
    _write_summary(results, Path(options.output_dir))
    return results


# ---------------------------------------------------------------------------------------------------------------- plan


def _plan(options: SuiteOptions, report: Callable[[str], None]) -> list[_Job]:
    """Find out which task fits which source. Everything is loaded and checked before the first image is encoded."""
    jobs, reasons = [], []
    loaded: dict[tuple, dict[str, Any]] = {}  # tasks that load the same parts share them
    for name in options.tasks:
        task = TASKS[name]
        for sources in task.group_sources(options.data):
            try:
                key = (type(task).load, sources)
                if key not in loaded:
                    loaded[key] = task.load(sources, options)
                task.check(loaded[key], options)
                jobs.append(_Job(task, sources, loaded[key]))
            except ValueError as error:
                reasons.append((name, sources, str(error)))
    _check_all_used(options, jobs, reasons)
    _check_names(jobs)
    for name, sources, reason in reasons:
        report(f"Left out, {name} on {', '.join(sources)}: {reason}")
    return jobs


def _check_all_used(options: SuiteOptions, jobs: list[_Job], reasons: list[tuple[str, tuple[str, ...], str]]) -> None:
    """Refuse a task that no source fits, and a source that fits no task."""
    for message, cure, asked, used in (
        (
            "None of the data fit the task",
            "Leave it out of `tasks` (--tasks), or add data that fit it to `data` (--data).",
            options.tasks,
            {job.task.name for job in jobs},
        ),
        (
            "No task fits the data",
            "Leave them out of `data` (--data), or add a task that fits them to `tasks` (--tasks).",
            options.data,
            {source for job in jobs for source in job.sources},
        ),
    ):
        for name in asked:
            if name not in used:
                why = "\n".join(
                    f"- {task} on {', '.join(sources)}: {reason}"
                    for task, sources, reason in reasons
                    if name == task or name in sources
                )
                raise ValueError(f"{message} {name!r}.\n{why}\n{cure}")


def _check_names(jobs: list[_Job]) -> None:
    """Refuse data of the same name: the results of one would replace those of the other."""
    sources: dict[tuple, str] = {}
    for job in jobs:
        if len(job.sources) > 1:
            continue  # its result has a name of its own
        for part in job.parts.values():
            first = sources.setdefault((part.name, part.split), job.sources[0])
            if first != job.sources[0]:
                raise ValueError(
                    f"{first} and {job.sources[0]} are both called {part.name!r} ({part.split}): the results of one "
                    "would replace those of the other. Rename one, or evaluate each into an --output-dir of its own."
                )


def _check_features(jobs: Sequence[_Job], encoder: DualEncoder) -> None:
    """Refuse a task, before anything is encoded, whose features the model does not give."""
    for task in {job.task.name: job.task for job in jobs}.values():
        if not task.projected:
            try:
                encoder.encode_images([Image.new("RGB", (64, 64))], projected=False)
            except ValueError as error:
                raise ValueError(f"The task {task.name} cannot be run. {error}") from error


def _check_same_model(folder: Path, name: str) -> None:
    others = [model for model in models_in(folder) if model != os.path.normpath(name)]
    if others:
        raise ValueError(
            f"The folder {folder} holds results of {others[0]}; those of {name} would mix with them. Give another "
            "output folder, or remove the results that are there."
        )


def _remove_results(folder: Path) -> None:
    """Remove the files that `EvaluationResult.save` and `_write_summary` wrote, and nothing else."""
    for task in TASKS:
        for path in folder.glob(f"{task}-*"):
            if path.suffix in (".json", ".md", ".npz", ".png"):
                path.unlink()
    (folder / "summary.md").unlink(missing_ok=True)


def _write_summary(results: Sequence[EvaluationResult], folder: Path) -> None:
    columns = ("task", "data", "metric", "value", "95% interval (±: 1 SD over draws)", "chance")
    rows = [
        (result.task, f"{result.data} ({result.split})", *row) for result in results for row in result.table_rows()
    ]
    with replaced_file(folder / "summary.md") as temporary:
        temporary.write_text(f"# {results[0].model}\n\n{markdown_table(columns, rows)}\n", encoding="utf-8")
