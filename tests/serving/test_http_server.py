# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Sockets: slow, silent and broken clients, too many of them, and the end of a server under load."""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from clip_hf.serving import ServerOptions, ServingLimits, create_app, serve
from clip_hf.serving.http_server import bind, make_server, refuse_new_connections


BODY = b'{"input": "a"}'
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
REQUEST = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


class Running:
    """A server in a thread, on a free port."""

    def __init__(self, load, drain_seconds: float = 10.0, **limits):
        self.app = create_app(load, ServerOptions("tiny", limits=ServingLimits(**limits)))
        self.serving = self.app.state.serving
        self.connections: list[socket.socket] = []
        self.socket = bind("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.server = make_server(self.app, drain_seconds)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})

    def start(self) -> None:
        self.thread.start()
        while self.serving.engine is None:
            time.sleep(0.005)

    def end(self) -> None:
        """As a signal does it."""
        self.server.handle_exit(signal.SIGTERM, None)

    def join(self) -> float:
        """Wait for the end, and return how long that took."""
        started = time.monotonic()
        self.thread.join(20)
        assert not self.thread.is_alive()
        return time.monotonic() - started

    def connect(self, data: bytes = b"") -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self.connections.append(connection)
        connection.sendall(data)
        return connection

    def slow_down(self, seconds: float) -> list[str]:
        """Let embedding take so long; returns a list of how each ended."""
        ended: list[str] = []

        async def embed(items, truncate=False):
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            ended.append("answered")
            return np.zeros((len(items), 16), np.float32)

        self.serving.engine.embed = embed
        return ended


@pytest.fixture
def run(loaded) -> Iterator[Callable[..., Running]]:
    """A function of limits: a server that runs until the end of the test."""
    servers = []

    def start(**options) -> Running:
        server = Running(lambda: loaded, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.end()
        server.end()  # without waiting
        server.join()
        for connection in server.connections:
            connection.close()


def read_all(connection: socket.socket) -> bytes:
    """What the server sends until it closes the connection; it may do so rudely."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def receive(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the server closed the connection"
    return data


def read_answer(connection: socket.socket) -> bytes:
    """One answer, of a connection that may stay open."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += receive(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += receive(connection)
    return head + b"\r\n\r\n" + body


# --------------------------------------------------------------------------------------------- slow and broken clients


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"foo", b"HTTP/2.0, foo"])
def test_another_protocol_is_ignored_and_the_body_read(run, protocol):
    upgrade = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: AAMAAABk\r\n" % protocol
    inner = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    port = run().port
    for body, status in ((BODY, 200), (inner, 400)):
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        for data in (upgrade + length + body, upgrade + chunked):
            for cut in (len(data), len(upgrade) + 3, data.index(b"\r\n\r\n") + 4, len(data) - 2):
                with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                    connection.sendall(data[:cut])
                    time.sleep(0.01)
                    connection.sendall(
                        data[cut:] + REQUEST.replace(b"localhost\r\n", b"localhost\r\nConnection: close\r\n")
                    )
                    answers = read_all(connection)
                assert [int(each) for each in re.findall(rb"HTTP/1\.1 (\d+)", answers)] == [status, 200]


def test_many_wishes_for_another_protocol_are_answered_in_their_order(run):
    data = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    connection = run().connect(data * 500 + data.replace(b"Upgrade\r\nUp", b"close\r\nUp"))
    assert re.findall(rb"HTTP/1\.1 (\d+)", read_all(connection)) == [b"200"] * 501


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_may_wish_for_http_2(run):
    url = f"http://127.0.0.1:{run().port}/v1/embeddings"
    command = ["curl", "-s", "--http2", url, "-H", "Content-Type: application/json", "-d", BODY.decode()]
    answer = subprocess.run(command, capture_output=True, timeout=20, check=True)
    assert len(json.loads(answer.stdout)["data"]) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health/live HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"GET /health/live HTTP/0.9\r\nHost: localhost\r\n\r\n",
        b"GET /health/live\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ],
)
def test_other_versions_of_http_are_refused(run, data):
    answer = read_all(run().connect(data + REQUEST))
    assert answer.count(b"HTTP/1.1 ") == 1 and status_of(answer) == 400 and b'"invalid_http"' in answer


def test_answers_have_a_date(run):
    server = run()
    for data in (b"GET /health/live HTTP/1.0\r\nHost: localhost\r\n\r\n", b"nonsense\r\n\r\n"):
        assert re.search(rb"\r\ndate: \w{3}, \d\d \w{3} \d{4} ", read_all(server.connect(data)), re.IGNORECASE)


def test_a_connection_answers_several_requests(run):
    connection = run().connect()
    for _ in range(3):
        connection.sendall(REQUEST)
        answer = read_answer(connection)
        assert status_of(answer) == 200 and b"connection: close" not in answer
        assert b"\r\nserver:" not in answer


@pytest.mark.parametrize("data", [b"", b"GET / HTT", HEAD])
def test_slow_headers_end_the_connection(run, data):
    connection = run(max_header_seconds=0.2).connect(data)
    started = time.monotonic()
    answer = read_all(connection)
    assert 0.1 < time.monotonic() - started < 5
    assert (status_of(answer) == 408) if data else (answer == b"")


def test_slow_headers_after_an_answer_end_the_connection(run):
    connection = run(max_header_seconds=0.2).connect(REQUEST)
    read_answer(connection)
    connection.sendall(b"\r\n")  # which begins no request, and ends uvicorn's wait for one
    assert status_of(read_all(connection)) == 408


def test_headers_in_time_do_not_end_the_connection(run):
    server = run(max_header_seconds=0.3)
    server.slow_down(0.5)
    connection = server.connect(HEAD)
    time.sleep(0.1)
    connection.sendall(REQUEST.removeprefix(HEAD))
    assert status_of(read_answer(connection)) == 200


def test_headers_that_are_too_large_are_431(run):
    connection = run().connect(HEAD + b"x-header: " + b"x" * 65536)
    assert status_of(read_all(connection)) == 431


@pytest.mark.parametrize(
    "start",
    [REQUEST + HEAD, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"],
    ids=["next request", "trailer"],
)
def test_headers_without_end_behind_a_request_end_the_connection(run, start):
    server = run()
    server.slow_down(20)
    connection = server.connect(start)
    time.sleep(0.1)
    with pytest.raises(OSError):
        for _ in range(100):
            connection.sendall(b"x-header: " + b"x" * 10_000 + b"\r\n")
            time.sleep(0.001)


def test_many_requests_at_once_are_answered_in_turn(run):
    connection = run().connect(REQUEST * 200)
    received = b""
    while received.count(b"HTTP/1.1 200 OK") < 200:
        received += receive(connection)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http_is_400(run, data):
    answer = read_all(run().connect(data))
    assert status_of(answer) == 400 and re.search(rb"\r\nx-request-id: [0-9a-f]{16}\r\n", answer)
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert body["error"]["code"] == "invalid_http"


def test_a_large_body_is_refused_before_it_is_sent(run):
    server = run(max_body_bytes=1000)
    connection = server.connect(HEAD + b"Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n")
    assert status_of(read_answer(connection)) == 413


def test_an_upgrade_is_ignored(run):
    upgrade = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert status_of(read_answer(run().connect(upgrade))) == 200


def test_connections_are_bounded(run, caplog):
    server = run(max_connections=2)
    server.slow_down(1.5)
    busy = [server.connect(REQUEST) for _ in range(2)]
    time.sleep(0.1)
    assert [read_all(server.connect()) for _ in range(3)] == [b"", b"", b""]
    assert [status_of(read_answer(each)) for each in busy] == [200, 200]
    assert b"clip_hf_refused_connections_total 3.0" in server.serving.traffic.metrics.render()
    assert caplog.messages.count("3 connections refused: all 2 that there may be are busy.") == 1


def test_the_longest_idle_connection_gives_way(run):
    server = run(max_connections=3)
    first, second, third = (server.connect(REQUEST) for _ in range(3))
    for each in (first, second, third):
        read_answer(each)
    first.sendall(REQUEST)
    read_answer(first)
    assert status_of(read_answer(server.connect(REQUEST))) == 200
    assert read_all(second) == b""  # idle for the longest time
    for each in (first, third):
        each.sendall(REQUEST)
        assert status_of(read_answer(each)) == 200
    assert b"clip_hf_refused_connections_total 0.0" in server.serving.traffic.metrics.render()


def test_a_client_that_goes_away_cancels_its_work(run):
    server = run()
    ended = server.slow_down(20)
    for how in ("close", "half"):
        connection = server.connect(REQUEST)
        time.sleep(0.1)
        connection.close() if how == "close" else connection.shutdown(socket.SHUT_WR)
        for _ in range(200):
            if ended:
                break
            time.sleep(0.01)
        assert ended == ["cancelled"]
        ended.clear()
    assert b"clip_hf_cancelled_total 2.0" in server.serving.traffic.metrics.render()
    assert server.serving.traffic.requests == 0


def test_a_client_that_does_not_read_is_cut_off(run):
    server = run(max_seconds=1.0)
    server.serving.facts = {"filling": "x" * 20_000_000}
    connection = server.connect(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(0.2)
    assert len(server.server.server_state.connections) == 1
    for _ in range(300):
        if not server.server.server_state.connections:
            break
        time.sleep(0.01)
    assert not server.server.server_state.connections
    connection.close()


# ---------------------------------------------------------------------------------------------------- start and end


def test_the_end_answers_what_was_accepted(run):
    """Clients that wait, on new connections and on used ones, those that the kernel has queued, and new ones."""
    server = run()
    used = server.connect(REQUEST)
    idle = server.connect(REQUEST)
    read_answer(used)
    read_answer(idle)
    ended = server.slow_down(0.7)
    waiting = server.connect(REQUEST)
    time.sleep(0.1)
    server.end()
    queued = server.connect(REQUEST)
    used.sendall(REQUEST)
    for connection in (waiting, queued, used):
        answer = read_all(connection)
        assert status_of(answer) == 200
        assert b"connection: close" in answer
    assert read_all(idle) == b""
    assert ended == ["answered"] * 3
    with pytest.raises(ConnectionRefusedError):
        server.connect()
    server.join()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do this")
def test_a_socket_takes_no_more_connections_but_those_it_has():
    with bind("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()) as queued:
        refuse_new_connections(listening)
        with pytest.raises(TimeoutError):
            socket.create_connection(listening.getsockname(), timeout=0.2)
        queued.sendall(b"a")
        accepted, _ = listening.accept()
        with accepted:
            accepted.settimeout(5)
            assert accepted.recv(1) == b"a"


def test_the_end_under_load_loses_no_request(run):
    """Clients that open a connection for each request, until they are refused: nothing is lost in between."""
    server = run()
    server.slow_down(0.01)
    lost, answered = [], []

    def work() -> None:
        while True:
            try:
                connection = server.connect(REQUEST)
            except (ConnectionRefusedError, TimeoutError):
                return
            answer = read_all_of_one(connection)
            (answered if answer.startswith(b"HTTP/1.1 200") else lost).append(answer)
            connection.close()

    def read_all_of_one(connection: socket.socket) -> bytes:
        try:
            return read_answer(connection) if connection.recv(1, socket.MSG_PEEK) else b""
        except ConnectionResetError:
            return b"reset"

    with ThreadPoolExecutor(8) as pool:
        works = [pool.submit(work) for _ in range(8)]
        time.sleep(0.3)
        server.end()
        for each in works:
            each.result(timeout=30)
    assert lost == [] and len(answered) > 20
    server.join()


def test_not_ready_while_it_ends(run):
    server = run()
    server.slow_down(0.5)
    waiting = server.connect(REQUEST)
    probe = server.connect(b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status_of(read_answer(probe)) == 200
    time.sleep(0.1)
    server.end()
    time.sleep(0.3)
    probe.sendall(b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status_of(read_answer(probe)) == 503
    assert status_of(read_all(waiting)) == 200


def test_what_takes_too_long_is_ended_with_503(run, caplog):
    server = run(drain_seconds=0.2)
    ended = server.slow_down(20)
    waiting = server.connect(REQUEST)
    time.sleep(0.1)
    server.end()
    answer = read_all(waiting)
    assert status_of(answer) == 503 and b'"draining"' in answer
    assert server.join() < 5 and ended == ["cancelled"]
    (record,) = [record for record in caplog.records if record.name == "uvicorn.error" and record.levelname != "INFO"]
    assert record.levelname == "WARNING"
    assert record.getMessage() == "1 request(s) got 503, because the time to drain is over."


def test_a_second_signal_ends_at_once(run):
    server = run(drain_seconds=60.0)
    server.slow_down(60)
    server.connect(REQUEST)
    time.sleep(0.1)
    server.end()
    time.sleep(0.2)
    server.end()
    assert server.join() < 5


def test_a_port_in_use_is_named():
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1 port {port}: it is in use"):
            serve(lambda: pytest.fail("the model was loaded"), ServerOptions("tiny"), port=port)


@pytest.mark.parametrize(("host", "what"), [("192.0.2.1", "no such address"), ("no.such.invalid", "resolved")])
def test_a_host_that_is_not_here_is_named(host, what):
    with pytest.raises(OSError, match=f"{host}.*{what}"):
        bind(host, 0)


def test_a_model_that_cannot_be_loaded_ends_the_server():
    lines = []

    def load():
        time.sleep(0.2)
        port = int(lines[0].split("127.0.0.1:")[1].split(",")[0])
        assert httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
        assert httpx.get(f"http://127.0.0.1:{port}/health/ready").status_code == 503
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        serve(load, ServerOptions("tiny"), port=0, report=lines.append)
    assert len(lines) == 1 and lines[0].startswith("listening on http://127.0.0.1:")


def test_the_lines_of_a_server(loaded):
    lines = []

    def end_when_ready() -> None:
        while len(lines) < 2:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=end_when_ready).start()
    assert serve(lambda: loaded, ServerOptions("tiny"), port=0, report=lines.append) == 0
    port = lines[0].removesuffix(", loading tiny").rpartition(":")[2]
    assert lines[1].startswith("ready in ")
    assert lines[1].endswith(f" s: http://127.0.0.1:{port}  model tiny (torch, float32), index of 6 rows")
