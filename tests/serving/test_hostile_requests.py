# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Requests that mean harm, to a real server on the loopback device: each is refused, and the next one is answered."""

import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_requests import HUNG, KINDS, Exchange, build, embed, send

from clip_hf.serving import ServerOptions, ServingLimits, create_app
from clip_hf.serving.http_server import bind, make_server


LIMITS = ServingLimits(
    max_body_bytes=5 * 2**20, max_header_seconds=0.5, max_body_seconds=0.5, max_seconds=20.0, max_image_pixels=10**7
)
SECRETS = re.compile(rb"0x[0-9a-f]{6}|Traceback|root:|/site-packages|/src/clip_hf|object at|\.py\b")


@pytest.fixture(scope="module")
def port(loaded) -> Iterator[int]:
    """The port of a server of the session's model, in a thread."""
    app = create_app(lambda: loaded, ServerOptions("tiny", limits=LIMITS))
    listening = bind("127.0.0.1", 0)
    server = make_server(app, 5.0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while app.state.serving.engine is None:
        time.sleep(0.005)
    yield listening.getsockname()[1]
    server.handle_exit(signal.SIGTERM, None)
    thread.join(30)
    assert not thread.is_alive()


def is_healthy(port: int) -> bool:
    answers = [
        asyncio.run(send(port, Exchange(data, (200,))))
        for data in (build("", "/health/ready", method="GET"), embed("a cat"))
    ]
    return [answer.status for answer in answers] == [200, 200]


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_request(kind, port):
    draw = random.Random(0)
    for _ in range(20 if "changed" in kind or "random" in kind else 1):
        exchange = KINDS[kind](draw, LIMITS)
        answer = asyncio.run(send(port, exchange))
        assert answer.status in exchange.statuses, answer
        assert answer.status != HUNG
        assert SECRETS.search(answer.body) is None, answer
        if answer.status >= 400 and answer.body:
            assert json.loads(answer.body)["error"]["message"]
    assert is_healthy(port)


@pytest.mark.slow
def test_the_check_with_thousands_of_them(served_folder):
    """`benchmarks/check_hostile.py`, which takes minutes, with few."""
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "check_hostile.py"
    command = [sys.executable, str(script), "--requests", "300", "--model", str(served_folder / "model")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "answers with 5xx but 503: 0" in done.stdout
