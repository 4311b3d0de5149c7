# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What `clip-hf serve` promises, under load: right answers in the right order, and none lost.

    python benchmarks/check_serving.py                       all parts, with the model of `make demo`
    python benchmarks/check_serving.py --parts order sigterm --requests 2000

- order: 256 clients; each answer must be that of its own texts and image, to 1e-5 of what the encoder gives here.
- classify: the pipeline's labels and scores, to 1e-6.
- sigterm: under load, every request that was sent before the signal is answered; later ones are answered, refused with
  503, or end before any byte of an answer. The server ends with status 0.
- sigkill: the server is killed and started again, twice, while `clip_hf.serving.Client` embeds; it must lose nothing.
- ready: seconds from the command to `/health/ready`, the median of five.
- cancel: clients that go away are counted, their work is dropped, and nothing stays pending.
- memory: the server's memory must not grow from the second quarter of the requests to the last.

The load goes to 127.0.0.1 only. Exits with 1 if a part fails.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import uvloop

from bench_serving import captions, data_uri, embed_request, endless_texts
from check_embed import describe_machine
from clip_hf import pipeline
from clip_hf.embedding import DualEncoder, load_dual_encoder
from clip_hf.serving import Client
from serving_load import (
    ConnectionLost,
    ServerProcess,
    build_request,
    connect,
    read_embeddings,
    run_load,
    serve_command,
)


PICTURES = Path(__file__).resolve().parent.parent / "examples" / "pictures"
GROWTH_MIB = 24.0  # of memory, from the second quarter of the requests to the last


class Served:
    """The model that is checked: as a server, and here.

    Args:
        options (`argparse.Namespace`): The arguments of this program.
    """

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.encoder: DualEncoder = load_dual_encoder(options.model)
        self.pictures = sorted(PICTURES.glob("*.[jp][pn]g"))

    def start(self, **options) -> ServerProcess:
        return ServerProcess(serve_command(self.options.model), **options)


def say(part: str, good: bool, text: str) -> bool:
    """Print a part's line; returns `good`."""
    print(f"{part:<9} {'ok  ' if good else 'FAIL'} {text}", flush=True)
    return good


# ------------------------------------------------------------------------------------------------------ right answers


def check_order(served: Served) -> bool:
    """Each answer is that of its own request: one to three texts and, for every second request, a picture."""
    texts, files = captions()[:2000], [path.read_bytes() for path in served.pictures]
    text_rows = served.encoder.encode_texts(texts).numpy()
    image_rows = served.encoder.encode_images(list(map(str, served.pictures))).numpy()
    count, worst, bad = served.options.requests, 0.0, Counter()

    def parts(number: int) -> tuple[list[int], int | None]:
        picture = number // 2 % len(files) if number % 2 else None
        return [(number * 7 + step) % len(texts) for step in range(1 + number % 3)], picture

    def requests() -> Iterator[bytes]:
        for number in range(count):
            rows, picture = parts(number)
            images = [] if picture is None else [{"image": data_uri(files[picture])}]
            yield embed_request(input=[*images, *({"text": texts[row]} for row in rows)], truncate=True)

    def check(number: int, status: int, body: bytes) -> None:
        nonlocal worst
        if status != 200:
            bad[status] += 1
            return
        rows, picture = parts(number)
        expected = [*([] if picture is None else [image_rows[picture]]), *(text_rows[row] for row in rows)]
        given = read_embeddings(body)
        difference = abs(given - np.stack(expected)).max() if given.shape == np.shape(expected) else np.inf
        worst = max(worst, difference)
        bad["wrong"] += difference > 1e-5

    with served.start() as server:
        result = run_load(server.port, requests(), clients=256, seconds=600, check=check)
    answered = result.statuses[200]
    good = answered == count and not +bad and not result.errors
    text = f"{answered:,} of {count:,} answers by 256 clients, largest difference {worst:.1e}"
    return say("order", good, f"{text}, {dict(+bad)} {dict(result.errors)}")


def check_classify(served: Served) -> bool:
    """The labels and scores of the pipeline, for several options."""
    classify = pipeline(served.options.model)
    labels = ["red heart", "thumbs up", "cat", "dog", "flower", "temple"]
    cases = [
        {},
        {"templates": "openai_imagenet", "top_k": 3},
        {"templates": ["a {}.", "the drawing of a {}."], "threshold": 0.2},
        {"templates": {label: [f"{label}!", label] for label in labels}},
        {"multi_label": True},
        {"background": "a photo.", "function_to_apply": "softmax"},
        {"function_to_apply": "cosine", "top_k": 1},
    ]
    images = [data_uri(path.read_bytes()) for path in served.pictures]
    bodies = [{"images": images, "labels": labels, **case} for case in cases]
    expected = []
    for case in cases:
        options = {"hypothesis_template" if name == "templates" else name: value for name, value in case.items()}
        expected.append([classify(str(path), candidate_labels=labels, **options) for path in served.pictures])
    worst, compared = 0.0, 0

    def check(number: int, status: int, body: bytes) -> None:
        nonlocal worst, compared
        assert status == 200, body
        for entry, wanted in zip(json.loads(body)["data"], expected[number], strict=True):
            same = [each["label"] for each in entry["predictions"]] == [each["label"] for each in wanted]
            pairs = zip(entry["predictions"], wanted, strict=False)
            difference = max((abs(one["score"] - other["score"]) for one, other in pairs), default=0.0)
            worst, compared = max(worst, difference if same else np.inf), compared + len(wanted)

    with served.start() as server:
        run_load(
            server.port, [build_request("/v1/classify", body) for body in bodies], clients=4, seconds=60, check=check
        )
    good = compared == sum(len(wanted) for case in expected for wanted in case) and worst <= 1e-6
    return say("classify", good, f"{compared} scores of {len(cases)} kinds, largest difference {worst:.1e}")


# ---------------------------------------------------------------------------------------------------------- signals


async def _send_until_gone(server: ServerProcess, clients: int, seconds: float) -> tuple[Counter, list[tuple]]:
    """Load a server and stop it with SIGTERM meanwhile; (outcomes, lost requests)."""
    texts, outcomes, lost = endless_texts(), Counter(), []
    stopped = asyncio.Event()
    times = {"signal": float("inf")}

    async def send() -> None:
        while True:
            try:
                connection = await connect("127.0.0.1", server.port)
            except ConnectionLost:
                outcomes["connections refused"] += 1
                if stopped.is_set():
                    return
                raise
            while connection.usable:
                request = embed_request(input=list(itertools.islice(texts, 4)), truncate=True)
                sent = time.perf_counter()
                when = "before" if sent < times["signal"] else "after"
                try:
                    status, _ = await connection.exchange(request)
                    outcomes[f"{status}, sent {when} the signal"] += 1
                except ConnectionLost as error:
                    kind = "cut off" if error.partial else "lost"
                    outcomes[f"{kind}, sent {when} the signal"] += 1
                    lost.append((kind, when))

    async def stop() -> None:
        await asyncio.sleep(seconds)
        times["signal"] = time.perf_counter()
        server.process.send_signal(signal.SIGTERM)
        stopped.set()

    await asyncio.gather(stop(), *(send() for _ in range(clients)))
    return outcomes, lost


def check_sigterm(served: Served) -> bool:
    """Requests that were sent before SIGTERM are answered, and no answer is cut off."""
    with served.start() as server:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcomes, lost = runner.run(_send_until_gone(server, clients=64, seconds=3))
        status = server.stop(None)
    refused = [text for text in outcomes if text[0] in "45" and not text.startswith("503, sent after")]
    good = status == 0 and not refused and all(each == ("lost", "after") for each in lost)
    counts = ", ".join(f"{text}: {count}" for text, count in sorted(outcomes.items()))
    return say("sigterm", good and outcomes["200, sent before the signal"] > 0, f"{counts}; exit status {status}")


def check_sigkill(served: Served) -> bool:
    """A client with retries loses nothing when the server is killed and started again."""
    texts = list(itertools.islice(endless_texts(), served.options.requests))
    servers = [served.start()]
    servers[0].__enter__()
    rows, failures = [], []

    def embed() -> None:
        try:
            with Client(f"http://127.0.0.1:{servers[0].port}") as client:
                rows.extend(client.embed_text_stream(texts, batch_size=16, truncate=True))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    kills = 0
    for _ in range(2):
        done, end = len(rows), time.perf_counter() + 60
        while len(rows) < done + len(texts) // 5 and thread.is_alive() and time.perf_counter() < end:
            time.sleep(0.005)
        kills += thread.is_alive()
        servers[-1].stop(signal.SIGKILL)
        servers.append(served.start(port=servers[0].port))
        servers[-1].__enter__()
    thread.join(300)
    servers[-1].stop(signal.SIGTERM)
    right = len(rows) == len(texts) and abs(np.stack(rows) - served.encoder.encode_texts(texts).numpy()).max() < 1e-5
    good = right and kills == 2 and not failures
    return say("sigkill", good, f"{len(rows):,} of {len(texts):,} texts, the server killed {kills} times {failures}")


# ------------------------------------------------------------------------------------------------ start, waste, memory


def check_ready(served: Served) -> bool:
    """Print the seconds to readiness."""
    seconds = []
    for _ in range(5):
        with served.start() as server:
            seconds.append(server.seconds_to_ready)
    shown = ", ".join(f"{each:.2f}" for each in sorted(seconds))
    return say("ready", True, f"median {statistics.median(seconds):.2f} s of {shown}")


async def _send_and_leave(port: int, requests: list[bytes]) -> None:
    for request in requests:
        connection = await connect("127.0.0.1", port)
        connection.transport.write(request)
        await asyncio.sleep(0.02)
        connection.transport.abort() if random.random() < 0.5 else connection.transport.close()


def check_cancel(served: Served) -> bool:
    """Requests whose clients left are counted and their items dropped."""
    texts = endless_texts()
    requests = [embed_request(input=list(itertools.islice(texts, 2000)), truncate=True) for _ in range(40)]
    with served.start() as server:
        asyncio.run(_send_and_leave(server.port, requests))
        end = time.perf_counter() + 30
        while (metrics := server.metrics())["clip_hf_pending_items"] and time.perf_counter() < end:
            time.sleep(0.1)
        cancelled, pending = metrics["clip_hf_cancelled_total"], metrics["clip_hf_pending_items"]
        worked = metrics.get('clip_hf_batch_items_sum{kind="text"}', 0.0)
        answers: Counter = Counter()
        check = lambda number, status, body: answers.update([status])  # noqa: E731
        run_load(server.port, [embed_request(input=["a cat"])], clients=1, seconds=60, check=check)
    left, sent = len(requests), 2000 * len(requests)
    good = cancelled >= 0.8 * left and not pending and worked < 0.5 * sent and answers == {200: 1}
    text = f"{cancelled:.0f} of {left} requests counted as cancelled, {worked:,.0f} of {sent:,} texts encoded"
    return say("cancel", good, f"{text}, {pending:.0f} items pending, then {dict(answers)}")


def check_memory(served: Served) -> bool:
    """The server's memory after each quarter of the requests."""
    files = [path.read_bytes() for path in served.pictures]
    images = itertools.cycle([embed_request(input=[data_uri(file)], modality="image") for file in files])
    texts = (embed_request(input=[text], truncate=True) for text in endless_texts())
    labels = (
        build_request("/v1/classify", {"image": data_uri(files[0]), "labels": [f"thing {number}", "other"]})
        for number in itertools.count()
    )
    mixed = (request for each in zip(texts, images, labels) for request in each)
    memory = []
    with served.start() as server:
        for _ in range(4):
            quarter = itertools.islice(mixed, served.options.requests // 4)
            run_load(server.port, quarter, clients=64, seconds=300)
            memory.append(server.memory_mib())
    shown = ", ".join(f"{each:.0f}" for each in memory)
    return say(
        "memory", memory[3] - memory[1] < GROWTH_MIB, f"{shown} MiB after quarters of {served.options.requests:,}"
    )


PARTS = {
    "order": check_order,
    "classify": check_classify,
    "sigterm": check_sigterm,
    "sigkill": check_sigkill,
    "ready": check_ready,
    "cancel": check_cancel,
    "memory": check_memory,
}


def main() -> int:
    """Run the parts; the exit status is 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="outputs/demo/vit/last", help="any CLIP (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--requests", type=int, default=10_000, help="of order, sigkill and memory (default: 10,000)")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(describe_machine())
    served = Served(options)
    failed = [part for part in options.parts if not PARTS[part](served)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
