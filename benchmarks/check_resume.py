# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Trainings that are killed and resumed: are they, to the last bit, those that were never killed?

Each mode is trained three times by `clip-hf train`, on the CPU in float32: to the end; until all its processes
are killed with SIGKILL after a random step; and from there with `--resume latest`. The losses of all steps, learning
rates, norms and temperatures, and the evaluations must then be the same, and so must all weights of the last model
and of the last checkpoint. Everything random is on: dropout, captions, templates, crops, augmentation, token dropout;
so are averaged weights, clipping and a schedule, and the data have a corrupt row.

The last mode is resumed on another number of processes. The rows of each step are the same, but sums are made in
another order, so the losses agree but for rounding; it has no dropout, whose draws belong to a process. The exit code
is 1 if anything differs.
"""

import argparse
import datetime
import math
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from clip_hf.training import LOG_NAME, TrainingLog


ROWS, BATCH_SIZE = 60, 8
# Relative, of losses of another number of processes.
LARGEST_DIFFERENCE = 1e-5
_VARYING = ("pairs_per_second",)


@dataclass(frozen=True)
class Mode:
    """How to train: the kind of data, the processes, and what differs from the recipe for all."""

    data: str  # "map-style" or "stream"
    workers: int
    processes: int
    name: str = ""
    resumed_processes: int | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        processes = f"{self.processes}"
        if self.resumed_processes is not None:
            processes += f" -> {self.resumed_processes}"
        text = f"{self.data}, workers {self.workers}, processes {processes}"
        return f"{text}, {self.name}" if self.name else text


RESNET = {"model_type": "clip_hf_resnet", "width": 4, "stage_depths": [1, 1, 1, 1], "image_size": 32}
MODES = [
    *(
        Mode(data, workers, processes)
        for data in ("map-style", "stream")
        for processes in (1, 2)
        for workers in (0, 2)
    ),
    Mode("stream", 2, 2, "GradCache", more={"grad_cache_chunk_size": 3}),
    Mode("map-style", 0, 2, "ResNet", more={"vision_config": RESNET}),
    Mode("map-style", 0, 1, "no dropout", resumed_processes=2, more={"attention_dropout": 0.0}),
]


@dataclass
class Result:
    """What a mode showed."""

    mode: Mode
    killed_after: int
    resumed_from: int | None
    compared: int
    losses: str
    weights: str
    passed: bool


def write_data(folder: Path) -> None:
    """Pictures with three captions each, one corrupt: to train on in any order, as a stream, and held out."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC)
        rows.append({"image": picture, "caption": [f"drawing {number}", f"number {number} of all", f"it is {number}"]})
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.List(datasets.Value("string"))})
    held_out = datasets.Dataset.from_list(rows[: ROWS // 4], features=features)
    rows[17] = {**rows[17], "image": {"bytes": b"<html>404</html>", "path": None}}
    whole = datasets.Dataset.from_list(rows, features=features)
    whole.save_to_disk(folder / "map-style")
    held_out.save_to_disk(folder / "held_out")
    (folder / "stream").mkdir()
    for shard in range(4):
        whole.shard(4, shard).to_parquet(folder / "stream" / f"train-{shard:05d}.parquet")


def write_recipe(path: Path, mode: Mode, data: Path, steps: int, save_every: int) -> None:
    """A recipe of the smallest model with everything random switched on."""
    more = dict(mode.more)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    tower["attention_dropout"] = more.pop("attention_dropout", 0.2)
    vision = {**tower, "model_type": "clip_hf_vit", "patch_size": 8, "image_size": 32}
    recipe = {
        "dataset": str(data / mode.data),
        "eval_dataset": str(data / "held_out"),
        "config": {
            "projection_dim": 16,
            "text_config": {**tower, "max_position_embeddings": 24},
            "vision_config": more.pop("vision_config", vision),
        },
        "vocab_size": 530,
        "resize_to": 36,
        "templates": ["{}", "a picture: {}", "{}."],
        "color_jitter": [0.4, 0.4, 0.4, 0.1],
        "blur": 0.5,
        "horizontal_flip": 0.5,
        "token_dropout": 0.1,
        "batch_size": BATCH_SIZE,
        "max_steps": steps,
        "learning_rate": 1e-3,
        "max_grad_norm": 5.0,
        "ema_decay": 0.9,
        "num_workers": mode.workers,
        "save_every": save_every,
        "eval_every": 2.0,
        "cpu": True,
    }
    if mode.data == "stream":
        recipe |= {"streaming": True, "shuffle_buffer": 7, "pairs_per_epoch": ROWS}
    path.write_text(yaml.safe_dump({**recipe, **more}))


def start(recipe: Path, output_dir: Path, processes: int, *more: str) -> subprocess.Popen:
    """Start a training; what it prints goes to a file next to its folder."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    command = [*launcher, "clip_hf", "train", str(recipe), "--output_dir", str(output_dir), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with open(printed(output_dir), "a") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def printed(output_dir: Path) -> Path:
    return output_dir.with_suffix(".txt")


def finish(process: subprocess.Popen, output_dir: Path) -> None:
    """Wait for a training to end, and say what went wrong if something did."""
    if process.wait(timeout=600) != 0:
        raise RuntimeError(f"A training ended with {process.returncode}:\n{printed(output_dir).read_text()[-4000:]}")


def entries_of(output_dir: Path) -> list[dict]:
    entries = TrainingLog(output_dir / LOG_NAME).entries()
    return [{name: value for name, value in entry.items() if name not in _VARYING} for entry in entries]


def steps_of(entries: Sequence[dict]) -> list[dict]:
    return [entry for entry in entries if "loss" in entry]


def kill_after(process: subprocess.Popen, output_dir: Path, steps: int) -> int:
    """Kill a training and all of its processes as soon as so many steps are in its log; returns how many were."""
    while len(steps_of(entries_of(output_dir))) < steps:
        if process.poll() is not None:
            raise RuntimeError(f"A training ended before its time:\n{printed(output_dir).read_text()[-4000:]}")
        time.sleep(0.002)
    parent = psutil.Process(process.pid)
    for one in [parent, *parent.children(recursive=True)]:
        try:
            one.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            pass
    process.wait(timeout=60)
    return len(steps_of(entries_of(output_dir)))


def weight_files(output_dir: Path) -> list[Path]:
    checkpoint = max((output_dir / "checkpoints").glob("step_*"))
    return [output_dir / "last" / "model.safetensors", checkpoint / "accelerate" / "model.safetensors"]


def same_weights(one: Path, two: Path) -> bool:
    """Whether the averaged and the trained weights of two trainings are the same to the last bit."""
    for path, other in zip(weight_files(one), weight_files(two), strict=True):
        mine, theirs = load_file(path), load_file(other)
        if path.parent.parent.name != other.parent.parent.name and path.parent.name != "last":
            return False
        if mine.keys() != theirs.keys() or not all(torch.equal(mine[name], theirs[name]) for name in mine):
            return False
    return True


def largest_difference(whole: list[dict], resumed: list[dict]) -> float:
    """Largest relative difference of the losses; infinite if there are not as many."""
    if len(whole) != len(resumed):
        return math.inf
    return max(abs(one["loss"] - two["loss"]) / abs(one["loss"]) for one, two in zip(whole, resumed))


def check(mode: Mode, folder: Path, data: Path, steps: int, kill_step: int) -> Result:
    """Train, kill, resume and compare."""
    folder.mkdir()
    recipe, whole, killed = folder / "recipe.yaml", folder / "whole", folder / "killed"
    write_recipe(recipe, mode, data, steps, save_every=4)
    finish(start(recipe, whole, mode.processes), whole)
    killed_after = kill_after(start(recipe, killed, mode.processes), killed, kill_step)
    finish(start(recipe, killed, mode.resumed_processes or mode.processes, "--resume", "latest"), killed)
    found = re.search(r"Going on after step (\d+)", printed(killed).read_text())
    resumed_from = int(found[1]) if found else None
    one, two = entries_of(whole), entries_of(killed)
    compared = len(steps_of(two)) - (resumed_from or 0)
    if mode.resumed_processes is None:
        losses, weights = one == two and len(steps_of(two)) == steps, same_weights(whole, killed)
        texts = ["equal" if same else "DIFFER" for same in (losses, weights)]
    else:
        difference = largest_difference(steps_of(one), steps_of(two))
        losses, weights = difference <= LARGEST_DIFFERENCE, True
        texts = [f"{difference:.1e}", "-"]
    passed = bool(losses and weights and resumed_from is not None)
    return Result(mode, killed_after, resumed_from, compared, *texts, passed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=32, help="steps of a training (at least 12)")
    parser.add_argument(
        "--seed", type=int, default=None, help="decides when trainings are killed; by default the time"
    )
    parser.add_argument("--only", type=int, nargs="*", help=f"numbers of modes, 0 to {len(MODES) - 1}; by default all")
    parser.add_argument("--jobs", type=int, default=2, help="modes at a time")
    parser.add_argument("--folder", type=Path, help="keep everything here; by default a temporary folder")
    options = parser.parse_args(arguments)
    seed = time.time_ns() % 1_000_000 if options.seed is None else options.seed
    modes = MODES if options.only is None else [MODES[number] for number in options.only]
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {datetime.date.today()}, seed {seed}")
    print(f"{options.steps} steps of {BATCH_SIZE} pairs, a checkpoint every 4 steps, float32 on a CPU\n", flush=True)
    row = "| {:<50} | {:>12} | {:>12} | {:>8} | {:>7} | {:>7} |"
    print(row.format("mode", "killed after", "resumed from", "compared", "losses", "weights"))
    print(row.format("-" * 50, *("-" * (width - 1) + ":" for width in (12, 12, 8, 7, 7))), flush=True)
    generator = random.Random(seed)
    kill_steps = [generator.randint(6, options.steps - 4) for _ in modes]
    passed = True
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "cache")
        datasets.disable_progress_bars()
        write_data(folder / "data")
        waiting = [
            pool.submit(check, mode, folder / f"mode_{number}", folder / "data", options.steps, kill_step)
            for number, (mode, kill_step) in enumerate(zip(modes, kill_steps))
        ]
        for future in waiting:
            result = future.result()
            passed &= result.passed
            resumed_from = "start" if result.resumed_from is None else result.resumed_from
            cells = (result.killed_after, resumed_from, result.compared, result.losses, result.weights)
            print(row.format(str(result.mode), *cells), flush=True)
    print("\nAll are as if they had not been killed." if passed else "\nSOME DIFFER.")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
