# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Every method of `clip-hf adapt` against zero-shot, at 1, 2, 4, 8, 16 examples of each class and on all of them.

The model is the demo's ViT (`make demo` trains it). The data come with packages: scikit-learn's digits, which the
model does not know (it knows the emoji of digits), OpenMoji's skin tones, which it knows, and, learned as pairs,
OpenMoji's black line drawings, a shifted domain. What is retained is OpenMoji's names, measured at 16 shots and on all
examples.

Each result is a folder that `adapt` writes below `--output-dir`; a run that is interrupted goes on where it stopped,
and `--data`, `--methods` and `--shots` run parts. At the end stand the tables, a plot, parameters and times, what
LoRA's training takes of memory beside one of all weights (a ViT-B/32 of random weights), and whether LoRA, CLAP or
Tip-Adapter fell below zero-shot beyond noise at 16 shots.

All of it takes about an hour and a half on two cores; trainings of the towers are most of it.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from bench_image_processor import print_machine
from clip_hf import ClipHFConfig, ClipHFModel, ClipHFProcessor
from clip_hf.adaptation import AdaptOptions, adapt, size_training
from clip_hf.adaptation.adapt_data import draw_examples, load_adaptation_data
from clip_hf.adaptation.tower_training import EXAMPLES_FOLDER, training_options, write_examples
from clip_hf.embedding import EncodingOptions
from clip_hf.model.architectures_clip_hf import ARCHITECTURES
from clip_hf.training import train
from clip_hf.utils.figures import new_figure, save_figure
from clip_hf.utils.terminal_tables import draw_table
from measuring import measured, peak_gib


MODEL = "outputs/demo/vit/last"
DATA = ("digits", "openmoji_skin_tones", "openmoji_lines")
LINES = "openmoji_lines"  # captioned pictures: only towers, only all pairs
HEADS = ("tip", "tip_f", "clap", "text_linear", "probe")
TOWERS = ("lora", "flyp", "full")
SHOTS = (1, 2, 4, 8, 16)
ALL = 0  # stands for all examples
WITH_RETAINED = (16, ALL)
NOT_BELOW = ("lora", "clap", "tip")
_MEMORY_STEPS, _MEMORY_BATCH = 3, 16


def runs_of(options: argparse.Namespace) -> list[tuple[str, str, int]]:
    """Data, method and shots of each run, quick ones first."""
    methods = [method for method in (*HEADS, *TOWERS) if method in options.methods]
    shots = sorted(options.shots, key=lambda count: (count == ALL, count))
    return [
        (data, method, count)
        for method in methods
        for data in options.data
        for count in shots
        if data != LINES or (method in TOWERS and count == ALL)
    ]


def run_one(options: argparse.Namespace, data: str, method: str, shots: int) -> None:
    """Adapt, unless the result is there."""
    folder = result_folder(options, data, method, shots)
    if (folder / "results.json").is_file():
        return
    report = adapt(
        AdaptOptions(
            model=options.model,
            data=data,
            method=method,
            output_dir=folder,
            overwrite=True,
            shots=shots or None,
            seeds=options.seeds if shots else 1,
            retain="openmoji" if shots in WITH_RETAINED else None,
            caption_column="caption" if data == LINES else None,
            encoding=EncodingOptions(cache_dir=Path(options.output_dir) / "features", progress=False),
            device="cpu",
        ),
        say=print,
    )
    print(report.terminal_table(), flush=True)


def result_folder(options: argparse.Namespace, data: str, method: str, shots: int) -> Path:
    return Path(options.output_dir) / f"{data}-{method}-{shots or 'all'}"


def read(options: argparse.Namespace, data: str, method: str, shots: int) -> dict | None:
    path = result_folder(options, data, method, shots) / "results.json"
    return json.loads(path.read_text())["details"] if path.is_file() else None


def figure_of(details: dict, role: str) -> dict | None:
    return next((change for change in details["changes"] if change["role"] == role), None)


def task_table(options: argparse.Namespace, data: str) -> str:
    """Accuracy on the task by method and shots: mean over draws and their standard deviation."""
    columns = [count for count in (*SHOTS, ALL) if data != LINES or count == ALL]
    rows, before = [], ""
    for method in (*HEADS, *TOWERS):
        cells = []
        for count in columns:
            details = read(options, data, method, count)
            change = None if details is None else figure_of(details, "task")
            cells.append("" if change is None else cell(change["after"]))
            before = before if change is None else f"{100 * change['before']:.1f}"
        if any(cells):
            rows.append((method, *cells))
    names = [str(count) if count else "all" for count in columns]
    return draw_table(
        f"{data}: % right, by examples of each class",
        ("method", *names),
        [("zero-shot", *[before] * len(columns)), *rows],
    )


def cell(values: list[float]) -> str:
    spread = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{spread}"


def change_table(options: argparse.Namespace, data: str) -> str:
    """At 16 shots and on all examples: what was gained and lost, with intervals, parameters trained and time."""
    rows = []
    for method in (*HEADS, *TOWERS):
        for count in WITH_RETAINED:
            details = read(options, data, method, count)
            if details is None:
                continue
            changes = [figure_of(details, role) for role in ("task", "retained")]
            shown = [
                ""
                if one is None
                else f"{100 * (np.mean(one['after']) - one['before']):+.1f} "
                f"({100 * one['interval'][0]:+.1f} to {100 * one['interval'][1]:+.1f})"
                for one in changes
            ]
            seeds = details["seeds"]
            seconds = np.mean([seed["seconds"] for seed in seeds])
            rows.append((method, str(count or "all"), *shown, f"{seeds[0]['trained']:,}", f"{seconds:.1f}"))
    columns = ("method", "examples", "task, points (95%)", "OpenMoji names, points (95%)", "trained", "seconds")
    return draw_table(f"{data}: gained and lost", columns, rows)


def below_zero_shot(options: argparse.Namespace) -> list[str]:
    """Methods that fell below zero-shot beyond noise at 16 shots, of those that must not."""
    found = []
    for data in options.data:
        for method in NOT_BELOW:
            details = read(options, data, method, 16)
            change = None if details is None else figure_of(details, "task")
            if change is not None and change["interval"][1] < 0:
                found.append(f"{method} on {data}: {100 * change['interval'][1]:+.2f} points at best")
    return found


def plot(options: argparse.Namespace) -> Path:
    """Accuracy by shots, a panel for each dataset with classes."""
    path = Path(options.output_dir) / "adaptation.png"
    panels = [data for data in options.data if data != LINES]
    with new_figure("Adapting the demo's ViT to a few examples", 4.6, 5.0 * len(panels)) as figure:
        for axis, data in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            for method in (*HEADS, *TOWERS):
                points = [(count, read(options, data, method, count)) for count in SHOTS]
                points = [(count, figure_of(details, "task")) for count, details in points if details is not None]
                if not points:
                    continue
                values = [100 * np.array(change["after"]) for _, change in points]
                spread = [each.std(ddof=1) if len(each) > 1 else 0.0 for each in values]
                means = [each.mean() for each in values]
                axis.errorbar([count for count, _ in points], means, spread, marker="o", label=method)
                axis.axhline(100 * points[0][1]["before"], color="#444444", linestyle="--", linewidth=1)
            axis.set(
                xscale="log", xlabel="examples of each class", ylabel="% right", title=f"{data}; dashed: zero-shot"
            )
            axis.set_xticks(SHOTS, map(str, SHOTS))
            axis.legend(loc="best", ncols=2)
    save_figure(figure, path)
    return path


def measure(method: str, model: str) -> dict[str, float]:
    """Peak of memory of a few steps on digits, ViT-B/32 of random weights, GiB; run it in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        processor = ClipHFProcessor.from_pretrained(model)
        large = ARCHITECTURES["ViT-B/32"]
        text = {**large["text_config"], "vocab_size": len(processor.tokenizer), "max_position_embeddings": 40}
        text |= {name: getattr(processor.tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        ClipHFModel(ClipHFConfig(**{**large, "text_config": text})).save_pretrained(folder / "model")
        processor.image_processor.size = {"shortest_edge": 224}
        processor.image_processor.crop_size = {"height": 224, "width": 224}
        processor.save_pretrained(folder / "model")
        asked = AdaptOptions(
            model=str(folder / "model"), data="digits", method=method, output_dir=folder, device="cpu"
        )
        draw = draw_examples(load_adaptation_data(asked), asked, 0)
        write_examples(draw.train, folder / EXAMPLES_FOLDER)
        given = {"steps": _MEMORY_STEPS, "batch_size": _MEMORY_BATCH}
        before = peak_gib("cpu")
        train(training_options(asked, draw, size_training(method, len(draw.train), 768, given), folder))
        return {"before": before, "peak": peak_gib("cpu")}


def memory_table(options: argparse.Namespace) -> str:
    peaks = {method: measured(__file__, method, "--model", options.model)["peak"] for method in ("lora", "full")}
    rows = [(method, f"{peak:.2f}", f"{peak / peaks['full']:.0%}") for method, peak in peaks.items()]
    title = f"Peak of memory: {_MEMORY_STEPS} steps of {_MEMORY_BATCH}, ViT-B/32"
    return draw_table(title, ("method", "GiB", "of full"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--output-dir", default="outputs/adaptation")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=(*HEADS, *TOWERS), default=[*HEADS, *TOWERS])
    parser.add_argument("--shots", nargs="+", type=int, default=[*SHOTS, ALL], help=f"{ALL}: all examples")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help="leave out the measurement of memory")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.model)))
        return
    print_machine()
    for run in runs_of(options):
        run_one(options, *run)
    for data in options.data:
        print(task_table(options, data), change_table(options, data), sep="\n\n", end="\n\n")
    print(f"The plot is {plot(options)}.")
    if not options.no_memory:
        print(memory_table(options))
    below = below_zero_shot(options)
    print("Below zero-shot beyond noise at 16 shots: " + ("; ".join(below) or f"none of {', '.join(NOT_BELOW)}") + ".")


if __name__ == "__main__":
    main()
