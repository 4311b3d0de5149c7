# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Weights in between on the demo's models: adapted to black line drawings, what is left on the coloured ones?

The demo's ViT and ResNet (`make demo` trains them into outputs/demo) have seen coloured drawings only. Each is
fine-tuned on the line drawings of `openmoji_lines`, whose captions say "a line drawing of ...", and with
`--train_on both`, the default, on the coloured drawings as well. Then models between it and the demo's are measured on
the test rows of both: names that training has not seen as line drawings, and compositions of skin tones that no
training has seen. The ResNet's BatchNorm statistics are interpolated, and measured anew on training images of both.

The verdict is whether some alpha is at least as good on lines as the fine-tuned model, and within two points of the
demo's on colours. It takes about eight minutes on two idle cores; `--quick` tries the parts in one.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import datasets
from transformers.utils import logging

from bench_image_processor import print_machine
from clip_hf.adaptation import CurveOptions, InterpolationCurve, MeasuredParts, draw_curve, load_measured_parts
from clip_hf.data import load_line_drawings
from clip_hf.evaluation import ClassificationOptions
from clip_hf.training import parse_options, train


LINE_PROMPT = "a line drawing of {}."
RUNS = (("vit", "interpolate"), ("resnet", "interpolate"), ("resnet", "reestimate"))
LEARNING_RATES = {"vit": 2.5e-4, "resnet": 5e-4}  # a quarter of those that the demo was trained with
POINTS = 0.02


def write_lines(folder: Path, limit: int | None) -> None:
    """Write the training part of the line drawings with captions that say what they are."""
    part = load_line_drawings()["train"]
    part = part.select(range(min(limit or len(part), len(part))))
    captions = [LINE_PROMPT.format(caption) for caption in part["caption"]]
    part = part.remove_columns("caption").add_column("caption", captions)
    datasets.DatasetDict({"train": part}).save_to_disk(str(folder))


def adapt(model: Path, lines: Path, folder: Path, tower: str, options: argparse.Namespace) -> float:
    """Fine-tune a model on the line drawings with the library's own training; returns the seconds it took."""
    started = time.perf_counter()
    sources = [str(lines), *(["openmoji"] if options.train_on == "both" else [])]
    settings = {
        "model": model,
        "max_steps": options.steps,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate or LEARNING_RATES[tower],
        "background_color": "white",
        "cache_images": "true",
        "eval_every": 1_000_000,
        "save_every": 0,
        "seed": options.seed,
        "output_dir": folder,
    }
    words = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    train(parse_options([*words, "--dataset", *sources, "--templates", "{}", "--cpu"]))
    return time.perf_counter() - started


def measured_parts(options: argparse.Namespace) -> tuple[MeasuredParts, MeasuredParts]:
    """Line drawings under the prompt that says so, and coloured ones under their bare names."""
    prompts = {"openmoji_lines": [LINE_PROMPT], "openmoji": ["{}"]}
    return tuple(
        load_measured_parts(name, 0.1, options.seed, ClassificationOptions(templates=templates, limit=options.limit))
        for name, templates in prompts.items()
    )


def judge(curve: InterpolationCurve) -> dict:
    """The alphas that are as good as the fine-tuned model on lines, and within two points of the demo's on colours."""
    first, last = curve.points[0], curve.points[-1]
    good = [p.alpha for p in curve.points if p.task >= last.task and p.shift >= first.shift - POINTS]
    chosen = curve.chosen
    print(
        f"\nAt least the fine-tuned model's {100 * last.task:.2f}% on lines, and at least {100 * first.shift:.2f}% "
        f"less two points on colours: alpha = {', '.join(f'{alpha:g}' for alpha in good) or 'none'}.\n"
        f"Chosen on validation rows: {curve.alpha:g}, {100 * (chosen.task - first.task):+.2f} points on lines and "
        f"{100 * (chosen.shift - first.shift):+.2f} on colours against the demo's.\n",
        flush=True,
    )
    return {"good_alphas": good, "alpha": curve.alpha, "points": [vars(point) for point in curve.points]}


def main() -> None:
    """Adapt, draw the curves, print them, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("outputs/demo"), help="where the demo's models are")
    parser.add_argument("--train-on", choices=("both", "lines"), default="both", help="what the fine-tuning sees")
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, help=f"instead of {LEARNING_RATES}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="rows of each part to measure on")
    parser.add_argument("--towers", nargs="+", default=["vit", "resnet"], choices=("vit", "resnet"))
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/interpolation"))
    parser.add_argument("--quick", action="store_true", help="a few steps and rows, to see that all parts run")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.batch_size, options.limit = 2, 16, 20
    logging.disable_progress_bar()
    print_machine()
    task, shift = measured_parts(options)
    found, started = {}, time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        write_lines(Path(temporary) / "lines", options.limit)
        for tower in options.towers:
            model = options.demo / tower / "last"
            tuned = Path(temporary) / tower
            seconds = adapt(model, Path(temporary) / "lines", tuned, tower, options)
            print(f"{tower}: {options.steps} steps on {options.train_on} in {seconds:.0f} s", flush=True)
            for batch_norm in [way for name, way in RUNS if name == tower]:
                alphas = (0, 0.5, 1) if options.quick else CurveOptions.alphas
                curve_options = CurveOptions(alphas=alphas, batch_norm=batch_norm, seed=options.seed)
                curve = draw_curve(model, tuned / "last", task, shift, curve_options)
                name = f"{tower}-{batch_norm}"
                print(f"\n{name}\n{curve.terminal_table()}", flush=True)
                curve.save(options.output_dir, name)
                found[name] = judge(curve)
    print(f"{time.perf_counter() - started:.0f} s in all")
    (options.output_dir / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
