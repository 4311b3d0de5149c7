# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Several evaluations of one model on several data: what `clip-hf evaluate` runs."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from torch import distributed

from ..embedding.bulk_encoding import encode_readable_images
from ..embedding.dual_encoder import DualEncoder
from ..embedding.feature_stream import EncodingOptions
from ..embedding.load_encoder import load_dual_encoder
from ..model.configuration_clip_hf import ClipHFConfig
from ..model_card.card import ModelCardDetails, write_model_card
from ..utils.atomic import replaced_file
from ..utils.processes import join_processes
from ..utils.wording import counted
from .comparison import models_in
from .numerics.metrics import top_k_accuracy
from .registry.dataset_registry import registry_name
from .registry.evaluation_data import (
    ClassificationData,
    ClassificationOptions,
    RetrievalData,
    RetrievalOptions,
    load_classification,
    load_retrieval,
    load_splits,
)
from .tasks.evaluation_result import EvaluationResult
from .tasks.few_shot import FewShotOptions, few_shot
from .tasks.linear_probe import LinearProbeOptions, linear_probe
from .tasks.retrieval import RetrievalEvaluationOptions, evaluate_retrieval
from .tasks.robustness import evaluate_robustness, shift_names, subset_classes, subset_rows, subset_scores
from .tasks.zero_shot import ZeroShotOptions, class_embeddings, class_notes, encode_labelled, evaluate_zero_shot


TASKS = ("zero_shot", "retrieval", "linear_probe", "few_shot", "robustness")
"""The evaluations that a suite runs."""


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """
    Which evaluations to run on which data, and how.

    Args:
        tasks (`Sequence[str]`):
            Of [`TASKS`].
        data (`Sequence[str]`):
            Sources, see [`load_classification`] and [`load_retrieval`].
        output_dir (`Path`):
            Where results go. A folder holds those of one model.
        replace_results (`bool`, *optional*, defaults to `False`):
            Whether the results in `output_dir`, whichever model's they are, are removed before the first new one.
            Features stay.
        cache_dir (`Path`, *optional*):
            Where features are kept; by default `features` in `output_dir`.
        data_options ([`ClassificationOptions`], *optional*):
            Columns, class names, prompts and the like, for all of the data.
        caption_column (`str`, *optional*):
            Column of the captions, for retrieval.
        image_options (`dict`, *optional*):
            How image files are read, see [`DualEncoder.set_image_options`]: `background_color`,
            `apply_exif_orientation`, `high_bit_depth`, `image_limits`.
        encoding ([`EncodingOptions`], *optional*):
            How images are encoded; its cache folder is `cache_dir`.
        resamples (`int`, *optional*, defaults to 1000):
            Bootstrap resamples for intervals.
        seed (`int`, *optional*, defaults to 0):
            Of the bootstrap, of the draws of few-shot examples, and of what is split off for validation.
        shots (`Sequence[int]`, *optional*, defaults to `(1, 2, 4, 8, 16)`):
            Examples of each class for few-shot.
        few_shot_seeds (`int`, *optional*, defaults to 3):
            How many draws of each.

    Raises:
        ValueError: if there is no such task, no data, or the seed is below 0.
    """

    tasks: Sequence[str]
    data: Sequence[str]
    output_dir: Path
    replace_results: bool = False
    cache_dir: Path | None = None
    data_options: ClassificationOptions = field(default_factory=ClassificationOptions)
    caption_column: str | None = None
    image_options: dict[str, Any] = field(default_factory=dict)
    encoding: EncodingOptions = field(default_factory=EncodingOptions)
    resamples: int = 1000
    seed: int = 0
    shots: Sequence[int] = (1, 2, 4, 8, 16)
    few_shot_seeds: int = 3

    def __post_init__(self):
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown or not self.tasks:
            raise ValueError(f"`tasks` is {list(self.tasks)}; it must name one or more of {', '.join(TASKS)}.")
        if not self.data:
            raise ValueError("`data` is empty; name one or more data to evaluate on.")
        if self.seed < 0:
            raise ValueError(f"`seed` is {self.seed}; it must be 0 or more.")
        if len(set(self.data)) < len(self.data):
            raise ValueError(f"`data` names something twice: {', '.join(self.data)}.")


@dataclass
class _Job:
    """One task, the sources that it takes, and their data by split (of robustness, by the name of the variant)."""

    task: str
    sources: tuple[str, ...]
    data: dict[str, Any]

    @property
    def images(self) -> list[tuple[datasets.Dataset, str, bool, str]]:
        """What has to be encoded: data, column of the images, whether features are projected, and a name."""
        projected = self.task != "linear_probe"
        parts = self.data.values()
        return [(part.data, part.image_column, projected, f"{part.name} ({part.split})") for part in parts]


def run_suite(
    model: Any,
    options: SuiteOptions,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    accelerator: Accelerator | None = None,
    report: Callable[[str], None] = print,
) -> list[EvaluationResult]:
    """
    Run evaluations of one model, and write each result as soon as it is there.

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path):
            The model; see [`load_dual_encoder`].
        options ([`SuiteOptions`]):
            What to run.
        device (`str` or `torch.device`, *optional*):
            Where to run it; several processes run on those of `accelerator`.
        dtype (`torch.dtype`, *optional*):
            Of the model's weights.
        accelerator (`Accelerator`, *optional*):
            Of several processes, which share the encoding; all of them call this.
        report (callable, *optional*, defaults to `print`):
            Is given what there is to say.

    Returns:
        `list[EvaluationResult]`: the results; on other processes than the first an empty list.

    Raises:
        ValueError: before anything is encoded, if a task or a source has nothing that fits it, or the output folder
            holds results of another model.
    """
    is_main = accelerator is None or accelerator.is_main_process
    jobs = _plan(options, report if is_main else lambda text: None)
    # Of several processes each has a device of its own.
    encoder = load_dual_encoder(model, device=device if accelerator is None else accelerator.device, dtype=dtype)
    if not options.replace_results:
        _check_same_model(Path(options.output_dir), encoder.name)
    if options.image_options:
        encoder.set_image_options(**options.image_options)
    encoding = replace(options.encoding, cache_dir=options.cache_dir or Path(options.output_dir) / "features")
    if accelerator is not None:
        shared = replace(encoding, accelerator=accelerator)
        for data, column, projected, name in (images for job in jobs for images in job.images):
            encode_readable_images(encoder, data, column, projected=projected, options=shared, name=name)
        if not is_main:
            return []
    if options.replace_results:
        _remove_results(Path(options.output_dir))
    results = []
    for job in jobs:
        result = _RUNS[job.task](encoder, job.data, options, replace(encoding, stage=job.task))
        result.save(options.output_dir)
        report(f"\n{result.terminal_table()}")
        results.append(result)
    _write_summary(results, Path(options.output_dir))
    return results


@contextmanager
def start_processes(device: str | None = None) -> Iterator[Accelerator | None]:
    """
    Join the other processes of a launch by `accelerate launch` or `torchrun`, and leave them in the end.

    Args:
        device (`str`, *optional*):
            `"cpu"` to stay off accelerators.

    Returns:
        `Accelerator` (on entering), or `None` for a process that was started alone.

    Raises:
        RuntimeError: if the processes that were launched do not know each other.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    accelerator = join_processes(cpu=device == "cpu")
    try:
        yield accelerator
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def update_card(folder: str | os.PathLike, results: Sequence[EvaluationResult]) -> Path:
    """
    Put the figures of evaluations into the `model-index` and the table of a model's card; the rest stays as it is.

    Args:
        folder (`str` or `os.PathLike`):
            The model's folder, one of ours.
        results (`Sequence[EvaluationResult]`):
            What was measured.

    Returns:
        `Path`: the card.

    Raises:
        ValueError: if there is no such folder, or it holds another kind of model.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} is no folder with a model of ours, so there is no card to renew there; the results are in "
            "their own files."
        )
    config = ClipHFConfig.from_pretrained(folder)
    details = ModelCardDetails(eval_results=[one for result in results for one in result.eval_results()])
    return write_model_card(folder, config, details=details)


# ---------------------------------------------------------------------------------------------------------------- plan


def _plan(options: SuiteOptions, report: Callable[[str], None]) -> list[_Job]:
    """What fits what. Everything is loaded and checked here, before the first image is encoded."""
    jobs, reasons = [], []
    for source in options.data:
        loaded: dict[Callable, dict[str, Any]] = {}  # tasks that need the same parts share them
        for task in options.tasks:
            if task == "robustness":
                continue
            load = _LOADS[task]
            try:
                if load not in loaded:
                    loaded[load] = load(source, options)
                if task == "few_shot":
                    _check_shots(source, loaded[load], options)
                jobs.append(_Job(task, (source,), loaded[load]))
            except ValueError as error:
                reasons.append((task, source, str(error)))
    if "robustness" in options.tasks:
        jobs.append(_robustness_job(options))
    used = {source for job in jobs for source in job.sources}
    for what, asked, done in (
        ("task", options.tasks, {job.task for job in jobs}),
        ("data", options.data, used),
    ):
        for name in asked:
            if name not in done:
                why = "\n".join(
                    f"- {task} on {source}: {reason}" for task, source, reason in reasons if name in (task, source)
                )
                raise ValueError(f"The {what} {name!r} fits nothing that was asked for.\n{why}")
    _check_names(jobs)
    for task, source, reason in reasons:
        report(f"Left out, {task} on {source}: {reason}")
    return jobs


def _check_names(jobs: list[_Job]) -> None:
    """Refuse data that are called alike: the results of one would replace those of the other."""
    sources: dict[tuple, str] = {}
    for job in jobs:
        for part in job.data.values():
            if (
                job.task != "robustness"
                and sources.setdefault((part.name, part.split), job.sources[0]) != job.sources[0]
            ):
                raise ValueError(
                    f"{sources[part.name, part.split]} and {job.sources[0]} are both called {part.name!r} "
                    f"({part.split}): the results of one would replace those of the other. Rename one, or evaluate "
                    "each into an --output-dir of its own."
                )


def _labelled(source: str, options: SuiteOptions) -> dict[str, ClassificationData]:
    return {"test": load_classification(source, options.data_options)}


def _captioned(source: str, options: SuiteOptions) -> dict[str, RetrievalData]:
    own = options.data_options
    columns = {"image_column": own.image_column, "caption_column": options.caption_column}
    same = {name: getattr(own, name) for name in ("split", "limit", "min_image_size", "image_root")}
    return {"test": load_retrieval(source, RetrievalOptions(**columns, **same))}


def _train_and_test(source: str, options: SuiteOptions) -> dict[str, ClassificationData]:
    if options.data_options.split not in (None, "test"):
        raise ValueError(f"it is measured on the test split; --split {options.data_options.split} is for other tasks.")
    parts = load_splits(source, replace(options.data_options, split=None))
    missing = [name for name in ("train", "test") if name not in parts]
    if missing:
        raise ValueError(f"it needs the splits train and test; {source} has {', '.join(parts)}.")
    train, test = parts["train"], parts["test"]
    if train.class_names != test.class_names:
        raise ValueError(f"the classes of {source} are not the same in train and test.")
    unseen = [name for name, count in zip(test.class_names, train.class_counts) if not count]
    if unseen:
        shown = ", ".join(map(repr, unseen[:5]))
        raise ValueError(
            f"{len(unseen)} of {counted(len(test.class_names), 'class', 'classes')} "
            f"{'has' if len(unseen) == 1 else 'have'} no image to train on, such as {shown}."
        )
    return parts


def _check_same_model(folder: Path, name: str) -> None:
    others = [model for model in models_in(folder) if model != os.path.normpath(name)]
    if others:
        raise ValueError(
            f"The folder {folder} holds results of {others[0]}; those of {name} would mix with them. Give another "
            "output folder, or remove the results that are there."
        )


def _remove_results(folder: Path) -> None:
    """Remove the files that [`EvaluationResult.save`] and `_write_summary` wrote, and nothing else."""
    for task in TASKS:
        for path in folder.glob(f"{task}-*"):
            if path.suffix in (".json", ".md", ".npz", ".png"):
                path.unlink()
    (folder / "summary.md").unlink(missing_ok=True)


def _check_shots(source: str, parts: dict[str, ClassificationData], options: SuiteOptions) -> None:
    """Raise a `ValueError` if few-shot classifiers cannot be made of these parts."""
    if parts["test"].is_multi_label:
        raise ValueError(f"an image of {source} may have several classes; few-shot is for one.")
    train = parts["train"]
    fewest = int(train.class_counts.min())
    if max(options.shots) > fewest:
        name = train.class_names[int(train.class_counts.argmin())]
        raise ValueError(
            f"the class {name!r} of {source} has {counted(fewest, 'image')} to train on, and the most shots are "
            f"{max(options.shots)}; --shots may go up to {fewest}."
        )


def _robustness_job(options: SuiteOptions) -> _Job:
    """Zero-shot classification of ImageNet and of the variants that are there."""
    known = ("imagenet", *shift_names())
    sources = {registry_name(source.partition("=")[0]): source for source in options.data}
    sources = {name: source for name, source in sources.items() if name in known}
    parts = {name: load_classification(source, options.data_options) for name, source in sources.items()}
    if "imagenet" not in parts or len(parts) < 2:
        raise ValueError(
            "robustness needs ImageNet and at least one of its variants: --data imagenet=PATH imagenet_a=PATH ..., of "
            f"{', '.join(known[1:])}; given {', '.join(options.data)}."
        )
    return _Job("robustness", tuple(sources.values()), parts)


_LOADS: dict[str, Callable[[str, SuiteOptions], dict[str, Any]]] = {
    "zero_shot": _labelled,
    "retrieval": _captioned,
    "linear_probe": _train_and_test,
    "few_shot": _train_and_test,
}


# ---------------------------------------------------------------------------------------------------------------- runs


def _run_zero_shot(
    encoder: DualEncoder, data: dict[str, ClassificationData], options: SuiteOptions, encoding: EncodingOptions
) -> EvaluationResult:
    own = ZeroShotOptions(resamples=options.resamples, seed=options.seed, encoding=encoding)
    return evaluate_zero_shot(encoder, data["test"], options=own)


def _run_retrieval(
    encoder: DualEncoder, data: dict[str, RetrievalData], options: SuiteOptions, encoding: EncodingOptions
) -> EvaluationResult:
    own = RetrievalEvaluationOptions(resamples=options.resamples, seed=options.seed, encoding=encoding)
    return evaluate_retrieval(encoder, data["test"], options=own)


def _run_linear_probe(
    encoder: DualEncoder, data: dict[str, ClassificationData], options: SuiteOptions, encoding: EncodingOptions
) -> EvaluationResult:
    given, skipped = [], {}
    for name in ("train", "validation", "test"):
        if name not in data:
            given += [None, None]
            continue
        part, features, left_out = encode_labelled(encoder, data[name], projected=False, options=encoding)
        given += [features, part.targets]
        skipped |= {} if left_out is None else {name: left_out}
    test = data["test"]
    own = LinearProbeOptions(
        resamples=options.resamples,
        seed=options.seed,
        model=encoder.name,
        data=test.name,
        split=test.split,
    )
    result = linear_probe(*given, metric=test.metric, options=own)
    result.skipped = skipped
    return result


def _run_few_shot(
    encoder: DualEncoder, data: dict[str, ClassificationData], options: SuiteOptions, encoding: EncodingOptions
) -> EvaluationResult:
    given, skipped = [], {}
    for name in ("train", "test"):
        part, features, left_out = encode_labelled(encoder, data[name], options=encoding)
        given += [features, part.targets]
        skipped |= {} if left_out is None else {name: left_out}
    test = data["test"]
    classifier = class_embeddings(encoder, test.class_names, test.templates, encoding)
    own = FewShotOptions(
        metric=test.metric,
        logit_scale=encoder.logit_scale,
        fully_supervised=True,
        class_names=test.class_names,
        model=encoder.name,
        data=test.name,
        split=test.split,
    )
    result = few_shot(
        *given,
        shots=tuple(options.shots),
        seeds=tuple(range(options.seed, options.seed + options.few_shot_seeds)),
        text_classifier=classifier,
        options=own,
    )
    result.skipped = skipped
    result.notes = class_notes(encoder, classifier, test.class_names, f"{test.name} ({test.split})")
    return result


def _run_robustness(
    encoder: DualEncoder, data: dict[str, ClassificationData], options: SuiteOptions, encoding: EncodingOptions
) -> EvaluationResult:
    plain = ZeroShotOptions(resamples=0, compare_prompts=False, encoding=encoding)
    results = {name: evaluate_zero_shot(encoder, part, options=plain) for name, part in data.items()}
    imagenet, images, _ = encode_labelled(encoder, data["imagenet"], options=encoding)
    scores = images @ class_embeddings(encoder, imagenet.class_names, imagenet.templates, encoding).T
    among = {}
    for name in data:
        if name == "imagenet" or len(subset_classes(name)) == len(imagenet.class_names):
            continue
        rows, targets = subset_rows(imagenet.targets, name)
        if len(rows):
            among[name] = top_k_accuracy(subset_scores(scores[rows], name), targets)
    result = evaluate_robustness(
        {name: own.values["top1"] for name, own in results.items()},
        subset_accuracies=among,
        majority_classes={name: own.majority_class for name, own in results.items()},
        model=encoder.name,
        seed=options.seed,
    )
    result.skipped = {name: found for name, own in results.items() for found in own.skipped.values()}
    result.notes = [note for own in results.values() for note in own.notes]
    return result


_RUNS: dict[str, Callable[..., EvaluationResult]] = {
    "zero_shot": _run_zero_shot,
    "retrieval": _run_retrieval,
    "linear_probe": _run_linear_probe,
    "few_shot": _run_few_shot,
    "robustness": _run_robustness,
}


def _write_summary(results: Sequence[EvaluationResult], folder: Path) -> None:
    lines = ["| task | data | metric | value | 95% interval | chance |", "|---|---|---|---|---|---|"]
    for result in results:
        for row in result.table_rows():
            lines.append(f"| {' | '.join((result.task, f'{result.data} ({result.split})', *row))} |")
    with replaced_file(folder / "summary.md") as temporary:
        temporary.write_text(f"# {results[0].model}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


__all__ = ["TASKS", "SuiteOptions", "run_suite", "start_processes", "update_card"]
