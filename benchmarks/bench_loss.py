# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What do the contrastive losses take, in memory and time: dense, chunked, and open_clip's `ClipLoss`?

Forward and backward of one batch of embeddings, on one device. Each figure comes from a process of its own: the peak
of its memory less what the embeddings and imports took before. The ways take turns in every round. A way that would
not fit into the memory of the machine is left out and says so.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time

import torch
from torch.nn import functional as F

import references
from clip_hf import contrastive_loss
from measuring import measured, peak_gib


DIM = 512
SCALE = 1 / 0.07
WAYS = ("dense", "chunked", "open_clip")
# How many matrices of N x N float32 a way holds at its peak, as measured here, with some room.
_MATRICES = {"dense": 6.5, "open_clip": 4.5}


def loss_of(way: str):
    if way == "open_clip":
        return references.load_open_clip().ClipLoss()
    chunk_size = "auto" if way == "chunked" else None
    return lambda images, texts, scale: contrastive_loss(images, texts, scale, chunk_size=chunk_size)


def measure(way: str, size: int, device: str, repeats: int) -> dict[str, float]:
    """Seconds of a forward and backward pass, and GiB of memory at its peak beyond what was there before."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    generator = torch.Generator().manual_seed(0)
    embeds = F.normalize(torch.randn(2, size, DIM, generator=generator), dim=-1).to(device, dtype)
    images, texts = (x.contiguous().requires_grad_() for x in embeds.unbind())
    scale = torch.tensor(SCALE, device=device, requires_grad=True)
    function = loss_of(way)
    small = [x.detach()[:64].requires_grad_() for x in (images, texts)]
    function(*small, scale).backward()  # what is set up once
    before = peak_gib(device)
    seconds = []
    for _ in range(repeats):
        images.grad = texts.grad = scale.grad = None
        synchronise(device)
        started = time.perf_counter()
        loss = function(images, texts, scale)
        loss.backward()
        synchronise(device)
        seconds.append(time.perf_counter() - started)
    result = {"seconds": statistics.median(seconds), "gib": peak_gib(device) - before, "loss": loss.item()}
    return {**result, "grad": images.grad.double().norm().item()}


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def fits(way: str, size: int, device: str) -> bool:
    """Whether the matrices of N x N that a way holds at its peak fit into the memory that is free."""
    if way not in _MATRICES:
        return True
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return _MATRICES[way] * 4 * size**2 < memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = [2**n for n in range(10, 19 if device == "cuda" else 17)]
    parser.add_argument("--sizes", type=int, nargs="+", default=sizes, help="pairs in a batch")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each figure")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        way, size, device, repeats = arguments.measure
        print(json.dumps(measure(way, int(size), device, int(repeats))))
        return
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"{datetime.date.today()}, {name}, torch {torch.__version__}; D = {DIM}, forward and backward")
    print("| pairs | dense | chunked | open_clip | chunked / dense: memory | time | chunked / open_clip: time |")
    print("|---|---|---|---|---|---|---|")
    for size in arguments.sizes:
        found: dict[str, list[dict]] = {way: [] for way in WAYS if fits(way, size, device)}
        repeats = 5 if size <= 4096 else 1
        for _ in range(arguments.rounds if size <= 32768 else 1):
            for way, results in found.items():
                results.append(measured(__file__, way, size, device, repeats))
        print(row(size, found), flush=True)


def row(size: int, found: dict[str, list[dict]]) -> str:
    """A line of the table; the losses and gradients must agree."""
    best = {
        way: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for way, results in found.items()
    }
    chunked = best["chunked"]
    for way, result in best.items():
        for key in ("loss", "grad"):
            assert abs(result[key] - chunked[key]) <= 1e-2 * abs(chunked[key]), (way, key, result, chunked)
    cells = [f"{best[w]['gib']:.2f} GiB, {best[w]['seconds']:.2f} s" if w in best else "does not fit" for w in WAYS]
    ratios = []
    for way, key in (("dense", "gib"), ("dense", "seconds"), ("open_clip", "seconds")):
        ratios.append(f"{chunked[key] / best[way][key]:.3f}" if way in best and best[way][key] > 0 else "-")
    return f"| {size:,} | {' | '.join(cells)} | {' | '.join(ratios)} |"


if __name__ == "__main__":
    main()
