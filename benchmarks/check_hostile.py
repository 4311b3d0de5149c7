# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Requests that mean harm, to `clip-hf serve` on 127.0.0.1.

    python benchmarks/check_hostile.py --requests 10000

Half of them schemathesis makes from the server's own OpenAPI description, valid and invalid; the rest are those of
tests/serving/hostile_requests.py: bombs, truncated and deep JSON, lies about lengths, slow and half-closed
connections, 100,000 labels, paths and URLs. Good requests go between, and must be answered. The server waits one
second for headers and bodies, so that slow clients do not make the check slow.

Prints the server's memory after each tenth, and a table of kinds and statuses. Exits with 1 if an answer has a status
of 5xx other than 503, a connection hangs, the log has a traceback, a good request is not answered, or memory after
the last tenth is more than 64 MiB above that after the second.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode

from clip_hf.serving import ServingLimits
from clip_hf.utils.terminal_tables import draw_table
from serving_load import ServerProcess, fetch, serve_command


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "serving"))
from hostile_requests import CLOSED, HUNG, KINDS, LARGE, SLOW, Answer, Exchange, embed, send


ROOT = Path(__file__).resolve().parents[1]
LIMITS = ServingLimits(max_header_seconds=1.0, max_body_seconds=1.0, max_seconds=20.0)
GROWTH_MIB = 64
GOOD = "good requests"
RARE = 0.1
PARTS = 10
ANY_STATUS = tuple(range(100, 600))


def generate(port: int, count: int, seed_number: int) -> list[tuple[str, Exchange]]:
    """Requests that schemathesis makes from the server's description, as many of each operation; half are invalid."""
    schema = schemathesis.openapi.from_dict(json.loads(fetch(port, "/openapi.json")[1]))
    operations = [result.ok() for result in schema.get_all_operations()]
    operations = [each for each in operations if each.method.upper() == "POST" or "{" in each.path or each.query]
    made: list[tuple[str, Exchange]] = []
    for operation in operations:
        for mode in (GenerationMode.NEGATIVE, GenerationMode.POSITIVE):
            cases: list[Any] = []

            @seed(seed_number)
            @settings(
                max_examples=-(-count // (2 * len(operations))),
                phases=[Phase.generate],
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy(generation_mode=mode))
            def collect(case) -> None:
                cases.append(case)  # noqa: B023

            with contextlib.suppress(Unsatisfiable):  # any text is a valid part of a path
                collect()
            for case in cases:
                data = as_bytes(case.as_transport_kwargs(base_url="http://localhost"))
                made.append((f"schemathesis: {operation.label}, {mode.value}", Exchange(data, ANY_STATUS)))
    return made


def as_bytes(options: dict) -> bytes:
    """A request of the package `requests` as bytes."""
    request = requests.Request(**options).prepare()
    body = request.body or b""
    body = body.encode(errors="surrogatepass") if isinstance(body, str) else body
    skipped = ("content-length", "connection", "host")
    lines = [f"{name}: {value}" for name, value in request.headers.items() if name.lower() not in skipped]
    head = [f"{request.method} {request.path_url} HTTP/1.1", "Host: localhost", "Connection: close", *lines]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode("latin-1", "replace") + body


def draw_listed(draw: random.Random, count: int) -> Iterator[tuple[str, Exchange]]:
    """Requests of the list; slow and large ones are rare."""
    names = list(KINDS)
    weights = [RARE if name in SLOW | LARGE else 1.0 for name in names]
    for name in draw.choices(names, weights, k=count):
        yield name, KINDS[name](draw, LIMITS)


async def send_all(
    port: int, exchanges: list[tuple[str, Exchange]], clients: int
) -> list[tuple[str, Exchange, Answer]]:
    """Send requests, a bounded number at a time; after each hundredth a good one."""
    left, done = iter(enumerate(exchanges)), []

    async def work() -> None:
        for number, (name, exchange) in left:
            done.append((name, exchange, await send(port, exchange)))
            if number % 100 == 0:
                good = Exchange(embed(["a cat", f"text {number}"]), (200,))
                done.append((GOOD, good, await send(port, good)))

    await asyncio.gather(*(work() for _ in range(clients)))
    return done


def describe(status: int) -> str:
    return {CLOSED: "closed", HUNG: "HUNG"}.get(status, str(status))


def run(server: ServerProcess, arguments: argparse.Namespace) -> int:
    """Send everything, print the tables, and return the exit status."""
    draw = random.Random(arguments.seed)
    exchanges = generate(server.port, arguments.requests // 2, arguments.seed)
    made = len(exchanges)
    exchanges += draw_listed(draw, arguments.requests - made)
    draw.shuffle(exchanges)
    print(f"{made:,} made by schemathesis, {len(exchanges) - made:,} from the list", flush=True)
    memory, done, start = [server.memory_mib()], [], time.perf_counter()
    for part in range(PARTS):
        these = exchanges[part * len(exchanges) // PARTS : (part + 1) * len(exchanges) // PARTS]
        done += asyncio.run(send_all(server.port, these, arguments.clients))
        memory.append(server.memory_mib())
        passed = time.perf_counter() - start
        print(f"{len(done):>7,} requests, {passed:5.0f} s, {memory[-1]:7,.0f} MiB", flush=True)
    health = [fetch(server.port, path)[0] for path in ("/health/live", "/health/ready")]
    health.append(asyncio.run(send(server.port, Exchange(embed("a cat"), (200,)))).status)
    print_kinds(done)
    statuses = collections.Counter(answer.status for _, _, answer in done)
    problems = {
        "answers with 5xx but 503": sum(statuses[status] for status in statuses if status >= 500 and status != 503),
        "connections that hung": statuses[HUNG],
        "good requests without an answer": sum(name == GOOD and answer.status != 200 for name, _, answer in done),
        "tracebacks in the log": server.log().count("Traceback"),
        "MiB of growth beyond the limit": max(0, round(memory[-1] - memory[2] - GROWTH_MIB)),
        "health checks that failed": sum(status != 200 for status in health),
    }
    unexpected = sum(answer.status not in exchange.statuses for _, exchange, answer in done)
    print(f"\nstatuses: {', '.join(f'{describe(status)}: {count:,}' for status, count in sorted(statuses.items()))}")
    print(f"memory before, after each tenth (MiB): {', '.join(f'{each:.0f}' for each in memory)}")
    print(f"statuses other than the list expects: {unexpected}")
    for name, count in problems.items():
        print(f"{name}: {count}")
    if problems["tracebacks in the log"]:
        log = server.log()
        print(log[log.index("Traceback") - 300 :][:4000])
    return int(any(problems.values()))


def print_kinds(done: list[tuple[str, Exchange, Answer]]) -> None:
    """A table of kinds and the statuses of their answers."""
    kinds = collections.defaultdict(collections.Counter)
    odd = collections.Counter()
    for name, exchange, answer in done:
        kinds[name][describe(answer.status)] += 1
        odd[name] += answer.status not in exchange.statuses
    rows = [
        [
            name,
            f"{kinds[name].total():,}",
            ", ".join(f"{status}: {n:,}" for status, n in sorted(kinds[name].items())),
            str(odd[name] or ""),
        ]
        for name in sorted(kinds)
    ]
    print(draw_table("kinds of requests", ["kind", "requests", "statuses", "not expected"], rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=str(ROOT / "outputs" / "demo" / "vit" / "last"), help="default: the demo's ViT"
    )
    parser.add_argument("--index", help="an index of that model, to search")
    parser.add_argument("--requests", type=int, default=10_000, help="default: %(default)s")
    parser.add_argument("--clients", type=int, default=32, help="requests at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not (1 <= arguments.clients <= 256 and 100 <= arguments.requests <= 1_000_000):
        parser.error("--clients is 1 to 256, and --requests 100 to 1,000,000")
    options = [] if arguments.index is None else ["--index", arguments.index]
    for name in ("max_header_seconds", "max_body_seconds", "max_seconds"):
        options += [f"--{name.replace('_', '-')}", str(getattr(LIMITS, name))]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {date.today()}, seed {arguments.seed}"
    )
    with tempfile.TemporaryDirectory() as folder, ServerProcess(serve_command(arguments.model, *options)) as server:
        set_hypothesis_home_dir(folder)  # by default it is a folder in the current one
        return run(server, arguments)


if __name__ == "__main__":
    sys.exit(main())
