# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Are the gradients exact, over 1, 2 and 4 processes, with GradCache and with the chunked loss?

Each way to compute a step's gradients is compared with the plain one: one process, the whole batch through the towers,
the dense loss. The figure is the largest difference of any parameter's gradient, logit scale included, relative to
that gradient's largest value; gradients that are zero but for rounding count relative to the largest of all. Exit code
1 if a figure is above its limit.
"""

import argparse
import datetime
import os
import platform
import sys
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator

from clip_hf import contrastive_loss
from clip_hf.training import GradCache


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from several_processes import run_processes
from tiny_models import IMAGE_SIZE, VOCAB_SIZE, make_tiny_model


BATCH = 64
GRAD_CACHE_SIZES = (1, 2, 4, 8, 16, 32, 64, 24)  # all that divide 64, and one that does not
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5}


def build_model(tower: str, dtype: torch.dtype, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    model = make_tiny_model(tower)
    # The statistics of BatchNorm differ in the last bits with the number of threads, so each process takes the same.
    model.load_state_dict(weights)
    model.to(dtype).train().freeze_batch_norm(freeze_affine=False)
    return model


def build_batch(dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs of 64 pairs, and text ids of which some are shared."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(1, VOCAB_SIZE - 2, (BATCH, 12), generator=generator)
    for row in range(BATCH):
        input_ids[row, 4 + row % 8 :] = VOCAB_SIZE - 1
    pixels = torch.randn(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64)
    return {"pixel_values": pixels.to(dtype), "input_ids": input_ids}, torch.arange(BATCH) % 50


def gradients(
    accelerator: Accelerator,
    tower: str,
    dtype: torch.dtype,
    weights: dict[str, torch.Tensor],
    loss_chunk: int | None = None,
    cache: int | None = None,
):
    """The gradients of the whole batch's loss, of which this process has its part."""
    model = build_model(tower, dtype, weights)
    prepared = accelerator.prepare_model(model)
    batch, text_ids = build_batch(dtype)
    rank, processes = accelerator.process_index, accelerator.num_processes
    batch = {name: value.chunk(processes)[rank] for name, value in batch.items()}
    text_ids = text_ids.chunk(processes)[rank]

    def loss_function(images, texts, scale):
        return contrastive_loss(images, texts, scale, chunk_size=loss_chunk, gather=True, text_ids=text_ids)

    if cache is None:
        output = prepared(**batch, return_logits=False)
        accelerator.backward(loss_function(output.image_embeds, output.text_embeds, model.logit_scale.exp()))
    else:
        scalars = lambda: (model.logit_scale.exp(),)  # noqa: E731
        GradCache(accelerator, prepared, loss_function, scalars, cache).backward(batch)
    return {name: parameter.grad.double() for name, parameter in model.named_parameters()}


def cases(processes: int) -> list[tuple[int | None, int | None]]:
    """Pairs of the loss's chunk size and GradCache's."""
    plain = [(None, None)] if processes > 1 else []
    chunks = [(size, None) for size in (1, 7, 16, 64)]
    return plain + chunks + [(7, size) for size in GRAD_CACHE_SIZES if size <= BATCH // processes or size == 24]


def difference(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    largest = max(value.abs().max() for value in expected.values())
    return max(
        ((actual[name] - value).abs().max() / max(value.abs().max(), 1e-3 * largest)).item()
        for name, value in expected.items()
    )


def worker(rank: int, processes: int, expected: Path) -> list[list]:
    """Every way's difference, on one process of several."""
    accelerator = Accelerator(cpu=True)
    found = []
    for (tower, dtype), (weights, right) in torch.load(expected).items():
        for loss_chunk, cache in cases(processes):
            figure = difference(gradients(accelerator, tower, dtype, weights, loss_chunk, cache), right)
            found.append([tower, str(dtype).removeprefix("torch."), loss_chunk, cache, figure])
    accelerator.end_training()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    weights = {tower: make_tiny_model(tower).state_dict() for tower in ("vit", "resnet")}
    expected = {
        (tower, dtype): (weights[tower], gradients(Accelerator(cpu=True), tower, dtype, weights[tower]))
        for tower in weights
        for dtype in LIMITS
    }
    worst: dict[tuple[int, str], dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(expected, folder / "expected.pt")
        for processes in arguments.processes:
            found = run_processes(worker, processes, folder, processes, folder / "expected.pt", timeout=7200.0)
            for tower, dtype, loss_chunk, cache, figure in found[0]:
                way = f"loss in chunks of {loss_chunk}" if cache is None else f"GradCache {cache}, loss in chunks of 7"
                way = "dense loss" if loss_chunk is None else way
                worst.setdefault((processes, way), {})[f"{tower} {dtype}"] = figure
    columns = sorted({key for row in worst.values() for key in row})
    print(f"| processes | way | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for (processes, way), row in worst.items():
        print(f"| {processes} | {way} | {' | '.join(f'{row[key]:.1e}' for key in columns)} |")
    limit = {f"{tower} {str(d).removeprefix('torch.')}": LIMITS[d] for tower in ("vit", "resnet") for d in LIMITS}
    failed = [row for row in worst.values() if any(value > limit[key] for key, value in row.items())]
    print(
        f"limits: float64 {LIMITS[torch.float64]:.0e}, float32 {LIMITS[torch.float32]:.0e}; above: {len(failed)} rows"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
