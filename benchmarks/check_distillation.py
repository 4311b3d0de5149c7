# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a teacher and a larger model's weights give a student: the demo's ViT and a student of a fifth of its size.

`examples/recipes/distill.yaml` on OpenMoji's drawings, the same steps for every row, once for each seed: with and
without the teacher, from random weights and from a part of the teacher's. Top-1 is that of the 300 held-out drawings
among the names of all drawings. The difference to the student alone has a 95% interval over the drawings, and its
range over the seeds. Then the time of a step with the running teacher and with its stored features.

About ten minutes on two quiet cores; `make demo` trains the teacher. `--seeds 1 --epochs 1` shows that it runs.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench_image_processor import print_machine
from clip_hf import ClipHFModel, ClipHFProcessor, build_text_classifier
from clip_hf.data import load_pairs
from clip_hf.evaluation import bootstrap_mean_interval
from clip_hf.training import parse_options, train
from clip_hf.training.distillation import store_for_training
from clip_hf.utils.terminal_tables import draw_table


ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "examples" / "recipes" / "distill.yaml"
ALONE = "student alone"
ROWS = {
    ALONE: (False, False),
    "with the teacher": (True, False),
    "from its weights": (False, True),
    "from its weights, with the teacher": (True, True),
}
"""Name -> whether it has the teacher, and whether it inherits."""
_WARM_UP = 3  # steps that are not timed


def run(teacher: Path, folder: Path, *more: object, taught: bool = True, inherits: bool = False) -> list[dict]:
    """Train a student into `folder`; the log."""
    words = ["--output_dir", folder, "--save_every", 0, "--cpu", *more]
    words += ["--teachers", teacher if taught else "none", *(["--inherit_from", teacher] if inherits else [])]
    return train(parse_options([str(RECIPE), *map(str, words)]))


@torch.no_grad()
def right_answers(folder: Path) -> np.ndarray:
    """Which of the held-out drawings (300,) a model names right among the names of all drawings."""
    model = ClipHFModel.from_pretrained(folder).eval()
    processor = ClipHFProcessor.from_pretrained(folder)
    held_out, trained = load_pairs("openmoji", split="test"), load_pairs("openmoji", split="train")
    labels = sorted({*held_out["caption"], *trained["caption"]})
    classifier = build_text_classifier(model, processor, labels, ["{}"])
    pixels = processor(images=held_out["image"], return_tensors="pt")["pixel_values"]
    found = (model.encode_image(pixels) @ classifier.T).argmax(dim=1)
    return np.array([labels[index] for index in found.tolist()]) == np.array(held_out["caption"])


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Train all rows and print the table of held-out top-1."""
    answers, seconds, sizes = {}, {}, {}
    for name, (taught, inherits) in ROWS.items():
        started, parts = time.perf_counter(), []
        for seed in range(options.seeds):
            place = folder / f"{list(ROWS).index(name)}-{seed}"
            more = ("--seed", seed, "--epochs", options.epochs)
            run(options.teacher, place, *more, taught=taught, inherits=inherits)
            parts.append(right_answers(place / "last"))
        answers[name], seconds[name] = np.stack(parts), (time.perf_counter() - started) / options.seeds
        sizes[name] = ClipHFModel.from_pretrained(place / "last").num_parameters()
    rows = []
    for name, right in answers.items():
        differences = 100.0 * (right.astype(float) - answers[ALONE])  # (seeds, drawings)
        low, high = bootstrap_mean_interval(differences.mean(axis=0))
        per_seed = differences.mean(axis=1)
        shown = (
            f"{differences.mean():+.1f} ({low:+.1f} to {high:+.1f})",
            f"{per_seed.min():+.1f} to {per_seed.max():+.1f}",
        )
        shown = ("", "") if name == ALONE else shown
        rows.append([name, f"{sizes[name]:,}", f"{100 * right.mean():.1f}", *shown, f"{seconds[name]:.0f}"])
    teacher = ClipHFModel.from_pretrained(options.teacher).num_parameters()
    top1 = f"{100 * right_answers(options.teacher).mean():.1f}"
    rows.append(["the teacher", f"{teacher:,}", top1, "", "", ""])
    columns = ["row", "parameters", "top-1 (%)", "points to alone (95%)", "over the seeds", "s a training"]
    print(draw_table(f"{options.seeds} seeds, {options.epochs} epochs, 300 held-out drawings", columns, rows))


def time_steps(options: argparse.Namespace, folder: Path) -> None:
    """Print the median time of a step without a teacher, with a running one, and with its stored features."""
    features, more = folder / "features", ("--max_steps", options.timed_steps + _WARM_UP)
    started = time.perf_counter()
    words = [str(RECIPE), "--teachers", str(options.teacher), "--teacher_features", str(features), "--cpu"]
    print(store_for_training(parse_options(words)), f"It took {time.perf_counter() - started:.0f} s.")
    logs = {
        "no teacher": run(options.teacher, folder / "none", *more, taught=False),
        "running": run(options.teacher, folder / "live", *more),
        "stored": run(options.teacher, folder / "stored", *more, "--teacher_features", features),
    }
    rows = []
    for name, log in logs.items():
        entries = [entry for entry in log if "loss" in entry][_WARM_UP:]
        times = [128 / entry["pairs_per_second"] for entry in entries]
        rows.append([name, f"{1000 * np.median(times):.0f}", f"{np.mean([entry['loss'] for entry in entries]):.4f}"])
    print(draw_table("Time of a step of 128 pairs", ["teacher", "ms, median", "mean loss"], rows))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=ROOT / "outputs" / "demo" / "vit" / "last")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--timed_steps", type=int, default=40)
    options = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder))
        time_steps(options, Path(folder))


if __name__ == "__main__":
    main()
