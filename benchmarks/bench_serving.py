# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Requests a second of `clip-hf serve`, beside the model's own speed, a plain endpoint, and another server.

    python benchmarks/bench_serving.py --seconds 60 --runtime openvino

Texts are OpenMoji's captions, no two alike; images are JPEG files of 256 to 640 pixels, in base64. A request holds one
of them and asks for its embedding. For each number of clients:

- ours: `clip-hf serve` in a process of its own, with the batches that `/metrics` counts;
- raw: the same encoder without a server, in a process of its own, given lists as long as the server's mean batch
  (`encode_texts`; `prepare` of files in memory, then `encode_images`), before and after the load: the median;
- plain: the same encoder behind a small Starlette app, which encodes one request at a time;
- infinity (`--infinity FOLDER/bin/infinity_emb`): that server with the same weights, in transformers' format.

All run on 127.0.0.1 with the same number of threads. The client is one process that shares the processor with the
server; the column "client" is the share of one core that it took. Without `--model`, a ViT-B/32 of random weights is
made, because speed does not depend on them.
"""

import argparse
import asyncio
import base64
import itertools
import multiprocessing
import os
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from check_embed import describe_machine, write_images, write_model
from clip_hf import checkpoints
from clip_hf.data import load_openmoji
from clip_hf.embedding import DualEncoder, load_dual_encoder
from serving_load import LoadResult, ServerProcess, build_request, data_uri, run_load, serve_command


RAW_SECONDS = 5.0  # of each measurement of the model alone
WARM_UP_SECONDS = 3.0


# ------------------------------------------------------------------------------------------------------- what is sent


@dataclass(frozen=True)
class Kind:
    """Requests of one text or one image each, and the same inputs for the model alone."""

    name: str  # as /metrics says it
    inputs: Callable[[], Iterator[Any]]
    requests: Callable[[], Iterator[bytes]]


@cache
def captions() -> list[str]:
    """OpenMoji's captions, each once, shuffled: neighbours are alike, and any stretch must be as long as another."""
    texts = list(dict.fromkeys(caption for part in load_openmoji().values() for caption in part["caption"]))
    random.Random(0).shuffle(texts)
    return texts


def endless_texts() -> Iterator[str]:
    """The captions, then the captions with a number behind them: no two alike."""
    for number in itertools.count():
        yield from (f"{caption} {number}" if number else caption for caption in captions())


def embed_request(**fields: Any) -> bytes:
    return build_request("/v1/embeddings", {**fields, "encoding_format": "base64"})


def make_kinds(folder: Path, images: int) -> dict[str, Kind]:
    """Texts, and images, which come again when all have been sent."""
    write_images(folder, images)
    files = [path.read_bytes() for path in sorted(folder.iterdir())]
    requests = [embed_request(input=[data_uri(file)], modality="image") for file in files]
    return {
        "texts": Kind("text", endless_texts, lambda: (embed_request(input=[text]) for text in endless_texts())),
        "images": Kind("image", partial(itertools.cycle, files), partial(itertools.cycle, requests)),
    }


# ----------------------------------------------------------------------------------------------- the model's own speed

load_once = cache(load_dual_encoder)


def encode(encoder: DualEncoder, kind: str, batch: list[Any]) -> torch.Tensor:
    """Embeddings of texts, or of the bytes of image files."""
    return encoder.encode_texts(batch) if kind == "text" else encoder.encode_images(encoder.prepare(batch))


def measure_raw(model: str, runtime: str | None, kind: str, batches: list[list[Any]]) -> list[float]:
    """Texts or images a second of one batch after the other, in the worker's process, until the time is up."""
    encoder = load_once(model, runtime)
    encode(encoder, kind, batches[0])
    rates, end = [], time.perf_counter() + RAW_SECONDS
    for batch in itertools.cycle(batches):
        start = time.perf_counter()
        encode(encoder, kind, batch)
        rates.append(len(batch) / (time.perf_counter() - start))
        if time.perf_counter() > end:
            break
    return rates


# ------------------------------------------------------------------------------------------------- the plain endpoint


def plain_app(encoder: DualEncoder) -> Starlette:
    """The endpoint that is written in five minutes: one request at a time."""
    lock = asyncio.Lock()

    async def embed(request: Request) -> JSONResponse:
        body = await request.json()
        inputs, kind = body["input"], body.get("modality", "text")
        if kind == "image":
            inputs = [base64.b64decode(each.partition(",")[2]) for each in inputs]
        async with lock:
            features = await run_in_threadpool(encode, encoder, kind, inputs)
        data = [{"index": index, "embedding": encode_row(row)} for index, row in enumerate(features.numpy())]
        return JSONResponse({"object": "list", "data": data})

    async def ready(request: Request) -> Response:
        return Response()

    return Starlette(routes=[Route("/v1/embeddings", embed, methods=["POST"]), Route("/health/ready", ready)])


def encode_row(row: np.ndarray) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


# -------------------------------------------------------------------------------------------------------- measurement


def batch_counts(server: ServerProcess, kind: str) -> np.ndarray:
    """Items and batches that passed the model until now."""
    values = server.metrics()
    return np.array([values.get(f'clip_hf_batch_items_{part}{{kind="{kind}"}}', 0.0) for part in ("sum", "count")])


def mean_batch(server: ServerProcess, kind: str, load: Callable[[], LoadResult]) -> tuple[LoadResult, float]:
    """A load, and the mean size of the batches that the server made of it."""
    before = batch_counts(server, kind)
    result = load()
    items, batches = batch_counts(server, kind) - before
    return result, items / max(batches, 1)


@dataclass(frozen=True)
class Bench:
    """The sides, and what each measurement needs."""

    servers: dict[str, ServerProcess]
    raw: Callable[[str, list[list[Any]]], list[float]]
    seconds: float
    other_seconds: float

    def load(self, side: str, kind: Kind, clients: int, seconds: float) -> LoadResult:
        return run_load(self.servers[side].port, kind.requests(), clients=clients, seconds=seconds)

    def measure(self, kind: Kind, clients: int) -> None:
        """Print a line for each server."""
        ours = self.servers["ours"]
        _, guess = mean_batch(ours, kind.name, lambda: self.load("ours", kind, clients, WARM_UP_SECONDS))
        rates = self.measure_alone(kind, guess)
        result, batch = mean_batch(ours, kind.name, lambda: self.load("ours", kind, clients, self.seconds))
        raw = statistics.median(rates + self.measure_alone(kind, batch))
        rate = result.requests_per_second
        print_row("ours", clients, result, ours.memory_mib(), f"{batch:7.1f} {raw:8.1f} {rate / raw:6.2f}")
        for side in list(self.servers)[1:]:
            self.load(side, kind, clients, WARM_UP_SECONDS)
            theirs = self.load(side, kind, clients, self.other_seconds)
            ratio = rate / max(theirs.requests_per_second, 1e-9)
            print_row(side, clients, theirs, self.servers[side].memory_mib(), f"{'':23} ours is {ratio:.2f}x")

    def measure_alone(self, kind: Kind, batch: float) -> list[float]:
        size, inputs = max(round(batch), 1), kind.inputs()
        return self.raw(kind.name, [list(itertools.islice(inputs, size)) for _ in range(max(2, 512 // size))])


def print_row(side: str, clients: int, result: LoadResult, memory: float, rest: str) -> None:
    p50, p99 = result.percentile(50), result.percentile(99)
    numbers = f"{clients:>7} {result.requests_per_second:10.1f} {p50:8.1f} {p99:8.1f} {memory:8.0f}"
    print(f"{side:<9} {numbers} {result.cpu_share:7.2f} {rest}", flush=True)
    bad = {**{status: count for status, count in result.statuses.items() if status != 200}, **result.errors}
    if bad:
        print(f"{'':9} not answered with 200: {bad}", flush=True)


def side_commands(arguments: argparse.Namespace, model: str, folder: Path) -> dict[str, tuple[list[str], str]]:
    """Name -> command and path of readiness of each server; ours is the first."""
    runtime = ["--runtime", arguments.runtime] if arguments.runtime else []
    sides = {
        "ours": (serve_command(model, *runtime, *shlex.split(arguments.options)), "/health/ready"),
        "plain": ([sys.executable, __file__, "--plain", "--model", model, *runtime], "/health/ready"),
    }
    if arguments.infinity:
        checkpoints.convert(model, folder / "transformers", to="transformers")
        options = "--engine torch --device cpu --host 127.0.0.1 --url-prefix /v1 --no-model-warmup"
        infinity = str(Path(arguments.infinity).absolute())
        # It writes a folder where it is started.
        command = [
            "env",
            "-C",
            str(folder),
            infinity,
            "v2",
            "--model-id",
            str(folder / "transformers"),
            *options.split(),
        ]
        sides["infinity"] = (command, "/health")
    return sides


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Start the servers, and print a table for texts and one for images."""
    os.environ |= {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    model = arguments.model or write_model(folder / "model")
    kinds = make_kinds(folder / "images", arguments.images)
    print(describe_machine())
    print(
        f"{Path(model).name}, runtime {arguments.runtime or 'torch'}, {arguments.threads} threads, "
        f"{arguments.seconds:g} s a load"
        + (f", {arguments.other_seconds:g} s of other servers" if arguments.other_seconds else "")
    )
    print(", ".join(f"{name} {version(name)}" for name in ("starlette", "uvicorn", "pillow")))
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned) as pool, ExitStack() as stack:

        def raw(kind: str, batches: list[list[Any]]) -> list[float]:
            return pool.submit(measure_raw, model, arguments.runtime, kind, batches).result()

        raw("text", [["a text"]])  # exports the model, if the runtime needs that, before servers start
        commands = side_commands(arguments, model, folder)
        servers = {
            side: stack.enter_context(ServerProcess(command, ready=ready))
            for side, (command, ready) in commands.items()
        }
        bench = Bench(servers, raw, arguments.seconds, arguments.other_seconds or arguments.seconds)
        for name in arguments.kinds:
            print(f"\n{name}")
            print(
                f"{'':9} {'clients':>7} {'requests/s':>10} {'p50, ms':>8} {'p99, ms':>8} {'RSS, MiB':>8} "
                f"{'client':>7} {'batch':>7} {'raw':>8} {'share':>6}"
            )
            for clients in arguments.clients:
                bench.measure(kinds[name], clients)


def serve_plain(arguments: argparse.Namespace) -> None:
    encoder = load_dual_encoder(arguments.model, runtime=arguments.runtime)
    uvicorn.run(plain_app(encoder), host="127.0.0.1", port=arguments.port, log_level="warning", access_log=False)


def main() -> None:
    """Measure, or with `--plain` be the plain endpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a CLIP (default: a ViT-B/32 of random weights)")
    parser.add_argument("--runtime", help="such as onnx and openvino (default: torch)")
    parser.add_argument("--kinds", nargs="+", choices=("texts", "images"), default=["texts", "images"])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64, 256], help="connections at once")
    parser.add_argument("--seconds", type=float, default=60, help="of each load (default: 60)")
    parser.add_argument("--other-seconds", type=float, help="of each load of other servers (default: as --seconds)")
    parser.add_argument("--images", type=int, default=1000, help="different image files (default: 1000)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each model (default: all cores)")
    parser.add_argument("--options", default="", help="further options of `clip-hf serve`, in one string")
    parser.add_argument(
        "--infinity", metavar="COMMAND", help="infinity's command, in a virtual environment of its own"
    )
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        return serve_plain(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run(arguments, Path(folder))


if __name__ == "__main__":
    main()
