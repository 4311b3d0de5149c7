# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf interpolate`: the best model between a CLIP and its fine-tuning."""

import argparse
from pathlib import Path

from huggingface_hub import EvalResult
from transformers.utils import logging

from _clip_hf_cli.interpolate import parse_alphas

from ..adaptation.interpolation import (
    CurveOptions,
    InterpolationCurve,
    MeasuredParts,
    draw_curve,
    interpolated_model,
    load_measured_parts,
)
from ..adaptation.saved_models import check_free, save_with_card
from ..embedding import EncodingOptions
from ..evaluation import ClassificationOptions, load_templates
from ..model_card import ModelCardDetails
from ..utils.terminal_tables import wrap_lines
from ..utils.wording import HUB_TASKS, INTERVAL, TASK_TITLES, safe_name


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; return the exit status."""
    logging.disable_progress_bar()
    alphas = parse_alphas(options.alpha)
    if (options.data is None) != (options.shift is None):
        raise ValueError(
            "Give both --data, the task, and --shift, what the model should still be able to do; or, with a single "
            "--alpha, neither."
        )
    if options.data is None and len(alphas) > 1:
        raise ValueError("To choose among several values of --alpha, give --data and --shift to measure them on.")
    name = f"{Path(options.zero_shot).name}-{Path(options.fine_tuned).name}"
    folder = Path(options.output_dir or Path("interpolation") / safe_name(name))
    check_free(folder, options.overwrite)
    if options.data is None:
        _save_one(options, alphas[0], folder)
    else:
        _save_best(options, alphas, folder)
    print(f"\nThe model is in {folder.resolve()}.")
    return 0


def _save_one(options: argparse.Namespace, alpha: float, folder: Path) -> None:
    """Save the model of one alpha without measuring anything."""
    if options.batch_norm == "reestimate":
        raise ValueError("--batch-norm reestimate needs images: give --data and --shift.")
    model, processor = interpolated_model(options.zero_shot, options.fine_tuned, alpha)
    save_with_card(folder, model, processor, _describe(options, alpha))


def _save_best(options: argparse.Namespace, alphas: list[float], folder: Path) -> None:
    """Measure all alphas, print and save the curve, and save the model of the best one."""
    curve_options = CurveOptions(
        alphas=alphas,
        pick=options.pick,
        batch_norm=options.batch_norm,
        validation_share=options.validation_share,
        resamples=options.resamples,
        seed=options.seed,
        encoding=EncodingOptions(batch_size=options.batch_size, progress=False),
    )
    parts = tuple(measured_parts(source, options) for source in (options.data, options.shift))
    curve = draw_curve(options.zero_shot, options.fine_tuned, *parts, curve_options)
    print(curve.terminal_table())
    print(wrap_lines(f"\nalpha = {curve.alpha:g}"))
    model, processor = interpolated_model(options.zero_shot, options.fine_tuned, curve.alpha, parts, curve_options)
    save_with_card(folder, model, processor, _describe(options, curve.alpha, curve, parts), curve.save)
    print(wrap_lines(f"The curve: {', '.join(f'interpolation.{ending}' for ending in ('png', 'json', 'csv'))}"))


def measured_parts(source: str, options: argparse.Namespace) -> MeasuredParts:
    """Test and validation rows of data of the command line."""
    templates = load_templates(options.templates) if options.templates else None
    data_options = ClassificationOptions(templates=templates, limit=options.limit)
    return load_measured_parts(source, options.validation_share, options.seed, data_options)


def _describe(
    options: argparse.Namespace,
    alpha: float,
    curve: InterpolationCurve | None = None,
    parts: tuple[MeasuredParts, ...] = (),
) -> ModelCardDetails:
    """What the card says: both models, alpha, how it was chosen, and the figures."""
    settings: dict[str, object] = {"zero_shot_model": options.zero_shot, "fine_tuned_model": options.fine_tuned}
    settings["alpha"] = alpha
    results: list[EvalResult] = []
    if curve is not None:
        settings |= {"alpha_chosen": curve.chosen_on} | ({"batch_norm": curve.batch_norm} if curve.batch_norm else {})
        for part, name in zip(parts, ("task", "shift")):
            results.append(share_result(part, getattr(curve.chosen, name), getattr(curve.chosen, f"{name}_interval")))
    return ModelCardDetails(
        base_model=options.zero_shot,
        training=settings,
        eval_results=results,
        source=f"weights in between: {1 - alpha:g} of the first model and {alpha:g} of its fine-tuning (WiSE-FT)",
    )


def share_result(parts: MeasuredParts, value: float, interval: tuple[float, float]) -> EvalResult:
    """A share of the test rows, 0 to 1, for a model card."""
    data = parts.test
    return EvalResult(
        task_type=HUB_TASKS["zero_shot"],
        task_name=TASK_TITLES["zero_shot"],
        dataset_type=data.name,
        dataset_name=data.name,
        dataset_split=data.split,
        metric_type=data.metric,
        metric_name=f"zero_shot {data.metric}",
        metric_value=round(100 * value, 2),
        metric_args={INTERVAL: [round(100 * end, 2) for end in interval]},
    )
