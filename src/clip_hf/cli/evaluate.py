# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf evaluate`: the paper's evaluations of one model on any data."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..utils.extras import require_extra


require_extra("eval", "`clip-hf evaluate`", "datasets")

from ..embedding import EncodingOptions
from ..embedding.load_encoder import check_encoder_options
from ..evaluation import (
    ClassificationOptions,
    EvaluationResult,
    SuiteOptions,
    load_class_names,
    load_templates,
    run_suite,
)
from ..export.opening import is_exported
from ..model.configuration_clip_hf import ClipHFConfig
from ..model_card import ModelCardDetails, write_model_card
from ..utils.processes import start_processes
from ..utils.terminal_tables import wrap_lines
from ..utils.wording import safe_name
from .film_options import clip_sampling
from .image_options import image_options


def classification_options(options: argparse.Namespace, **more: Any) -> ClassificationOptions:
    """How labelled images are read, by the arguments that say so, and `more` options."""
    return ClassificationOptions(
        image_column=options.image_column,
        label_column=options.label_column,
        class_names=load_class_names(options.class_names) if options.class_names else None,
        templates=load_templates(options.templates) if options.templates else None,
        image_root=options.image_root,
        **more,
    )


def suite_options(options: argparse.Namespace, output_dir: str | Path, replace_results: bool = False) -> SuiteOptions:
    """Turn the arguments of `add_evaluation_arguments` into options of a suite."""
    if not options.data:
        raise ValueError("There is nothing to evaluate on: name it with --data, as in `--data openmoji`.")
    return SuiteOptions(
        tasks=tuple(options.tasks),
        data=tuple(options.data),
        output_dir=Path(output_dir),
        replace_results=replace_results,
        cache_dir=Path(options.cache_dir) if options.cache_dir else None,
        data_options=classification_options(
            options,
            metric=options.metric,
            split=options.split,
            limit=options.limit,
            min_image_size=options.min_image_size,
        ),
        caption_column=options.caption_column,
        image_options=image_options(options),
        encoding=EncodingOptions(batch_size=options.batch_size, max_skipped_share=options.max_skipped_share),
        resamples=options.resamples,
        seed=options.seed,
        shots=tuple(options.shots),
        few_shot_seeds=options.few_shot_seeds,
        fps=options.fps,
        segmentation_size=options.segmentation_size,
        aggregate=options.aggregate,
    )


def evaluate(
    model: str, options: argparse.Namespace, output_dir: str | Path, replace_results: bool = False
) -> list[EvaluationResult]:
    """Evaluate one model and print its figures; all processes of a launch call this, the first gets the results."""
    logging.disable_progress_bar()
    device = check_encoder_options(options.runtime, options.dtype, options.device)
    asked = suite_options(options, output_dir, replace_results)
    asked = replace(asked, clip=clip_sampling(model, options))
    with start_processes(options.device) as accelerator:
        return run_suite(
            model, asked, runtime=options.runtime, device=device, dtype=options.dtype, accelerator=accelerator
        )


def update_card(folder: str | os.PathLike, results: Sequence[EvaluationResult]) -> Path:
    """Put the figures of evaluations into the `model-index` and the table of a model's card; the rest stays as it is.

    `folder` is one of our models'; any other is a `ValueError`. Returns the card's path.
    """
    config = _config_beside_card(folder)
    details = ModelCardDetails(eval_results=[figure for result in results for figure in result.eval_results()])
    return write_model_card(folder, config, details=details)


def _config_beside_card(folder: str | os.PathLike) -> ClipHFConfig:
    """The configuration of one of our models' folders; any other has no card that can be updated."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} is no folder with a model of ours, so it has no card to update. Leave out --update-card; the "
            "results get files of their own."
        )
    if is_exported(folder):
        raise ValueError(
            f"{folder} is an export, whose card is that of the exported model and stays. Leave out --update-card, or "
            "evaluate the model itself with --runtime, which puts the figures into its card."
        )
    return ClipHFConfig.from_pretrained(folder)


def run(options: argparse.Namespace) -> int:
    """Evaluate, and say where the results are; returns the exit status."""
    if options.update_card:
        _config_beside_card(options.model)  # now, not after the evaluation
    # The whole path names the folder, because several trainings may end in folders of the same name.
    counts = {"frames": options.num_frames, "views": options.num_views}
    films = [f"{count}_{noun}" for noun, count in counts.items() if count is not None]
    name = "-".join(filter(None, (options.model, options.runtime, options.dtype, *films)))
    output_dir = options.output_dir or Path("evaluation") / safe_name(name)
    results = evaluate(options.model, options, output_dir)
    if results:
        where = f"\nThe results are in {Path(output_dir).resolve()}; `clip-hf compare` puts such folders side by side."
        print(wrap_lines(where))
        if options.update_card:
            print(f"Updated {update_card(options.model, results)}.")
    return 0
