# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Adapt a model to labelled images or captions, and say what was gained and lost."""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..embedding.dual_encoder import DualEncoder
from ..embedding.load_encoder import load_dual_encoder
from ..evaluation.tasks.evaluation_result import chance_of
from ..evaluation.tasks.measured_change import Change, measure_change, measure_zero_shot
from ..evaluation.tasks.zero_shot import EqualClassesWarning, class_notes
from ..model.modeling_clip_hf import ClipHFModel
from ..model_card.card import ModelCardDetails
from ..model_card.section_texts import public_name
from ..utils.atomic import replaced_folder
from ..utils.devices import parse_device
from ..utils.wording import listed, safe_name
from .adapt_data import Draw, draw_examples, load_adaptation_data, load_retained
from .adapt_folder import MODEL_FOLDER, RESULTS, check_folder, prepared_folder
from .adapt_options import AdaptOptions
from .adapt_report import AdaptationReport, advise, caption_notes, describe_changes
from .adapted_heads import HeadMethod, distinct_labels
from .adapted_model import Adapted, Starting
from .adapted_towers import TowerMethod


logger = logging.get_logger(__name__)
_LISTED = 20  # classes that the card names
_SAY_LITTLE = ("last", "best", "model", "train", "test", "validation", "data", "images")


def adapt(options: AdaptOptions, say: Callable[[str], None] | None = None) -> AdaptationReport:
    """Adapt a model to a task, save it, and measure what was gained on the task and lost elsewhere.

    - The test rows are the data's test part, or a fifth of the rows where there is none. Nothing is chosen on them.
    - Each seed draws its examples and makes a model of its own. The one with the best score on its validation rows is
      saved; without such rows, or among equals, the first.
    - The figures of the model as it was are zero-shot, by the same prompts.
    - The output folder has the model in `model/`, the figures in `results.json`, `results.md` and `results.png`, and,
      if the towers were trained, for each seed its examples and training in `runs/`.

    Args:
        options ([`AdaptOptions`]): Model, data, method and so on.
        say (`Callable[[str], None]`, *optional*): Called with lines on what is going on, such as `print`; without it
            notes are logged as warnings.

    Returns:
        [`AdaptationReport`]

    Raises:
        OSError: if the model does not exist, or a file cannot be written.
        ValueError: before anything is encoded or trained, if the data, the model or the folder cannot be used as
            asked; the message says what to do.

    Example:

    ```python
    >>> report = adapt(AdaptOptions(model="openai/clip-vit-base-patch32", data="my_photos", shots=2,
    ...                             method="clap", output_dir="adapted"))
    >>> print(report.table(), *report.verdict)
    ```
    """
    say = say or logger.warning
    check_folder(options.folder, options.overwrite)
    data = load_adaptation_data(options)
    draws = [draw_examples(data, options, seed) for seed in options.all_seeds]
    _check_draws(options, draws)
    retained = None if options.retain is None else load_retained(options.retain)
    encoder = _load_model(options)
    with prepared_folder(options.folder, _asked(options)) as folder:
        notes = list(data.notes)
        for note in notes:
            say(note)
        if data.has_labels:
            test = data.test
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EqualClassesWarning)  # the report's notes say it
                notes += class_notes(encoder, test.class_names, test.templates, f"{test.name} ({test.split})")
        start = Starting(options, encoder, data, retained)
        start.on_task = measure_zero_shot(encoder, data.test, options.encoding)
        if retained is not None:
            start.on_retained = measure_zero_shot(encoder, retained, options.encoding)
        method = TowerMethod(start, folder) if options.trains_towers else HeadMethod(start)
        adapted = [method(draw) for draw in draws]
        report = _report(start, draws[0], adapted, notes)
        saved = next(one for one in adapted if one.entry.seed == report.saved_seed)
        with replaced_folder(folder / MODEL_FOLDER) as model_folder:
            saved.save(model_folder, _card_details(start, report, saved))
        report.save(folder, RESULTS)
    return report


def _asked(options: AdaptOptions) -> dict[str, Any]:
    """The options as `adaptation.json` has them."""
    return {one.name: getattr(options, one.name) for one in fields(options)}


def _check_draws(options: AdaptOptions, draws: list[Draw]) -> None:
    """Refuse what the examples of a draw are too few for."""
    for draw in draws:
        if options.wise == "auto" and draw.validation is None:
            raise ValueError(
                f"`wise` is auto, which needs rows to choose on, and there are {draw.validation_from}. Give a share, "
                "such as `--wise 0.5`, or data with more rows."
            )
        if options.trains_towers and len(draw.train) < 2:
            raise ValueError(f"There is one example, and {options.method} needs two or more: give more data.")


def _load_model(options: AdaptOptions) -> DualEncoder:
    """Load the model; one that is not ours, or not a folder or hub name of ours, is refused."""
    encoder = load_dual_encoder(options.model, device=parse_device(options.device))
    if not isinstance(encoder.model, ClipHFModel):
        raise ValueError(
            f"{options.model} is {type(encoder.model).__name__}, and `adapt` is for CLIPs of ours, OpenAI's and "
            "transformers'. `clip-hf convert` makes one of ours of open_clip's."
        )
    if options.trains_towers and Path(options.model).is_file():
        raise ValueError(
            f"{options.model} is a file, and {options.method} trains a model of a folder or the hub: "
            f"`clip-hf convert {options.model} FOLDER` first."
        )
    encoder.set_image_options(**options.image_options)
    return encoder


def _report(start: Starting, draw: Draw, adapted: list[Adapted], notes: list[str]) -> AdaptationReport:
    options, test = start.options, start.data.test
    changes, seeds = _changes(start, adapted), [one.entry for one in adapted]
    best = max(adapted, key=lambda one: -1.0 if one.entry.validation is None else one.entry.validation)
    report = AdaptationReport(
        model=str(options.model),
        data=test.name,
        split=test.split,
        method=options.method,
        shots=options.shots,
        changes=changes,
        seeds=seeds,
        saved_seed=best.entry.seed,
        validation_from=draw.validation_from,
        verdict=describe_changes(changes, options.method),
        advice=advise(changes, options, seeds, [warning for one in adapted for warning in one.warnings]),
        folder=str(options.folder),
        notes=notes + caption_notes(changes),
    )
    report.record_encoder(start.encoder)
    if start.data.has_labels:
        chance = chance_of(test.metric, len(test.class_names), test.targets)
        report.chance = {f"{test.metric}_{moment}": chance for moment in ("before", "after")}
    return report


def _changes(start: Starting, adapted: list[Adapted]) -> list[Change]:
    options, changes = start.options, []
    parts = [("task", start.data.test, start.on_task.figures, [one.on_task for one in adapted])]
    if start.retained is not None:
        parts.append(("retained", start.retained, start.on_retained.figures, [one.on_retained for one in adapted]))
    for role, data, before, after in parts:
        for place, figure in enumerate(before):
            figures = [figures[place] for figures in after]
            changes.append(
                measure_change(role, data.name, figure, figures, options.resamples, options.seed, data.split)
            )
    return changes


def _card_details(start: Starting, report: AdaptationReport, saved: Adapted) -> ModelCardDetails:
    """What the card of the saved model says."""
    options, entry, test = start.options, saved.entry, start.data.test
    of_classes: dict[str, Any] = {}
    more: dict[str, Any] = {}
    if start.data.has_labels:
        more["example_labels"] = distinct_labels(test.class_names)[:_LISTED]
        of_classes["classes"] = listed(test.class_names, _LISTED)
        if not isinstance(test.templates, Mapping):
            of_classes["templates"] = list(test.templates)
    settings = {
        "method": options.method,
        "shots": "all training rows" if options.shots is None else options.shots,
        "draws": options.seeds,
        "seed": entry.seed,
        "examples": entry.examples,
        "parameters_trained": entry.trained,
        "validation": report.validation_from,
        **entry.settings,
        **of_classes,
    }
    return ModelCardDetails(
        title=f"{public_name(str(options.model))} adapted to {test.name} by {options.method}",
        base_model=str(options.model),
        datasets=[test.name],
        eval_results=report.eval_results(),
        training=settings,
        limitations="\n".join(
            f"- {sentence}" for sentence in (*report.verdict, *report.advice, report.how_measured())
        ),
        **more,
    )


def last_parts(name: str) -> str:
    """Of a path its last part, with the one before where that says little, such as `vit-last`; other names as is."""
    if os.path.exists(name):
        name = os.path.abspath(name)
    parts = [part for part in public_name(name).split("/") if part] if "://" in name else name.split("/")
    if len(parts) <= 2 and not os.path.exists(name):
        return name  # of the hub or the registry
    return "-".join(parts[-2 if parts[-1] in _SAY_LITTLE else -1 :])


def default_folder(model: str, data: str, method: str) -> Path:
    """`adapted/MODEL-DATA-METHOD`, of paths their last parts."""
    return Path("adapted") / safe_name("-".join((last_parts(str(model)), last_parts(str(data)), method)))
