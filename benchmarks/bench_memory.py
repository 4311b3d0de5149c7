# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How much memory does a step take, by batch size: plain, with gradient checkpointing, with GradCache?

Forward, loss and backward of a ViT-B/32 in its true size, one process, float32. Each figure comes from a process of
its own: the peak of its memory less what model and batch took before, gradients of the weights included. The ways take
turns.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time

import torch
from accelerate import Accelerator

from clip_hf import ClipHFConfig, ClipHFModel
from clip_hf.training import ContrastiveObjective
from measuring import measured, peak_gib


WAYS = {
    "plain": {},
    "gradient checkpointing": {"checkpointing": True},
    "GradCache 16": {"cache": 16},
    "GradCache 64": {"cache": 64},
}
TEXT_LENGTH = 32


def measure(batch_size: int, checkpointing: bool = False, cache: int | None = None) -> dict[str, float]:
    """Seconds of a step, and GiB of memory at its peak beyond model and batch."""
    accelerator = Accelerator()
    torch.manual_seed(0)
    model = ClipHFModel(ClipHFConfig.from_architecture("ViT-B/32")).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = accelerator.prepare_model(model)
    input_ids = torch.randint(1, 49000, (batch_size, TEXT_LENGTH))
    input_ids[:, -1] = 49407
    batch = {"pixel_values": torch.randn(batch_size, 3, 224, 224), "input_ids": input_ids}
    batch = {name: value.to(accelerator.device) for name, value in batch.items()}
    objective = ContrastiveObjective(accelerator, model, grad_cache_chunk_size=cache)
    before = peak_gib(accelerator.device.type)
    started = time.perf_counter()
    loss = objective.backward(batch).item()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "gib": peak_gib(accelerator.device.type) - before, "loss": loss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128], help="pairs in a batch")
    parser.add_argument("--rounds", type=int, default=1, help="processes for each figure")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(int(arguments.measure[0]), **WAYS[arguments.measure[1]])))
        return
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    print(f"| pairs | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}")
    for size in arguments.sizes:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way, results in found.items():
                results.append(measured(__file__, size, way))
        cells = []
        for results in found.values():
            gib, seconds = (statistics.median(result[key] for result in results) for key in ("gib", "seconds"))
            cells.append(f"{gib:.2f} GiB, {seconds:.1f} s")
        losses = [results[0]["loss"] for results in found.values()]
        assert max(losses) - min(losses) < 1e-3, losses
        print(f"| {size} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
