# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf adapt`: adapt a model to a task, and say what was gained and lost."""

import argparse
from collections.abc import Container

from transformers.utils import logging

from ..utils.extras import require_extra


require_extra("adapt", "`clip-hf adapt`", "datasets")

from ..adaptation import AdaptationReport, AdaptOptions, adapt
from ..adaptation.adapting import default_folder
from ..embedding import EncodingOptions
from ..utils.terminal_tables import wrap_lines
from .evaluate import classification_options
from .image_options import image_options


def adapt_options(options: argparse.Namespace) -> AdaptOptions:
    """Turn the arguments of `clip-hf adapt` into options."""
    return AdaptOptions(
        model=options.model,
        data=options.data,
        method=options.method,
        output_dir=options.output_dir or default_folder(options.model, options.data, options.method),
        overwrite=options.overwrite,
        shots=options.shots,
        seeds=options.seeds,
        seed=options.seed,
        retain=None if options.retain.strip().lower() == "none" else options.retain,
        wise=_share_or_auto(options.wise),
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        crop_scale=options.crop_scale,
        horizontal_flip=options.horizontal_flip or 0.0,
        data_options=classification_options(options),
        caption_column=options.caption_column,
        image_options=image_options(options),
        encoding=EncodingOptions(batch_size=options.encode_batch_size, max_skipped_share=options.max_skipped_share),
        device=options.device,
        resamples=options.resamples,
    )


def _share_or_auto(text: str | None) -> float | str | None:
    if text is None or text.strip().lower() == "none":
        return None if text is None else 1.0
    try:
        return float(text)
    except ValueError:
        return text.strip().lower()


def show(report: AdaptationReport, said: Container[str] = ()) -> None:
    """Print the table, with the notes that were not said before, what it means, and where the model is."""
    print(report.terminal_table(left_out=said))
    for line in (*report.verdict, *report.advice, report.how_measured()):
        print(wrap_lines(line))
    print(wrap_lines(f"The model is in {report.model_folder}, the report in {report.folder}."))


def run(options: argparse.Namespace) -> int:
    """Adapt, and report; returns the exit status."""
    logging.disable_progress_bar()
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        print(wrap_lines(line))

    show(adapt(adapt_options(options), say), said)
    return 0
