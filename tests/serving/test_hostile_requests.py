# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Requests that mean harm, to a real server on the loopback device: each is refused, and the next one is answered."""

import asyncio
import json
import random
import re
import threading
from collections.abc import Iterator
from queue import Queue

import pytest
from hostile_requests import HUNG, KINDS, Exchange, build, embed, send

from clip_hf.serving import ServerOptions, ServingLimits, http_server


LIMITS = ServingLimits(
    max_body_bytes=5 * 2**20, max_header_seconds=0.5, max_body_seconds=0.5, max_seconds=20.0, max_image_pixels=10**7
)
SECRETS = re.compile(rb"0x[0-9a-f]{6}|Traceback|root:|/site-packages|/src/clip_hf|object at|\.py\b")


@pytest.fixture(scope="module")
def port(loaded) -> Iterator[int]:
    """The port of a server of the session's model, in a thread."""
    servers, lines = [], Queue()

    class KeptServer(http_server._Server):
        def __init__(self, *args):
            super().__init__(*args)
            servers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_server, "_Server", KeptServer)
        options = ServerOptions("tiny", limits=LIMITS)
        arguments = {"port": 0, "report": lines.put}
        thread = threading.Thread(target=http_server.serve, args=(lambda: loaded, options), kwargs=arguments)
        thread.start()
        port = int(re.search(r":(\d+)", lines.get(timeout=30))[1])
        assert lines.get(timeout=30).startswith("ready")
    yield port
    servers[0].should_exit = True
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
