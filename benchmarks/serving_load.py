# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A lean HTTP/1.1 client on the machine's own addresses, and the server as a process beside it.

The client shares the processor with the server that it measures, so it does little: requests are bytes that are made
beforehand, connections are kept open, and of an answer only the status and the length are read. It refuses every
address that is not loopback, and has bounds of clients, requests and seconds.
"""

import asyncio
import base64
import contextlib
import ipaddress
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import numpy as np
import uvloop


MAX_CLIENTS = 1024
MAX_REQUESTS = 2_000_000
MAX_SECONDS = 600.0
ANSWER_SECONDS = 120.0  # the longest wait for one answer

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


def check_loopback(host: str) -> str:
    """The address to which to connect: `host`, or 127.0.0.1 for "localhost".

    Raises:
        ValueError: if it is any other name, or an address that is not loopback.
    """
    host = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(f"{host!r} is not a loopback address; load goes to 127.0.0.1, ::1 or localhost only.")
    return host


# ------------------------------------------------------------------------------------------------------------ requests


def build_request(path: str, body: dict) -> bytes:
    """The bytes of a POST request with a JSON body."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def data_uri(file: bytes) -> str:
    """An image file as a data URI; the type is told by its first bytes."""
    kind = "png" if file.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def read_embeddings(body: bytes) -> np.ndarray:
    """The embeddings (n, dim) of an answer of `/v1/embeddings`, in base64 or as numbers."""
    rows = [entry["embedding"] for entry in json.loads(body)["data"]]
    return np.stack(
        [
            np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else np.asarray(row, "<f4")
            for row in rows
        ]
    )


# ---------------------------------------------------------------------------------------------------------- the client


class ConnectionLost(Exception):
    """The server ended a connection, or took none. `partial` says whether a part of an answer had come."""

    def __init__(self, reason: str, partial: bool = False):
        super().__init__(reason)
        self.partial = partial


class KeptConnection(asyncio.Protocol):
    """A connection on which requests follow each other; `exchange` sends one and waits for its answer."""

    def __init__(self):
        self.transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._end: int | None = None  # bytes of the answer, once its head is there
        self._body = self._status = 0
        self._closes = False
        self._answer: asyncio.Future | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._end is None:
            head_end = self._received.find(b"\r\n\r\n")
            if head_end < 0:
                return
            head = bytes(self._received[:head_end])
            length = _LENGTH.search(head)
            if length is None:
                return self._fail(f"an answer without Content-Length: {head[:200]!r}")
            self._status, self._body = int(head[9:12]), head_end + 4
            self._end = self._body + int(length[1])
            self._closes = bool(_CLOSES.search(head))
        if len(self._received) >= self._end:
            if self._closes:
                self.transport.close()
            if self._answer and not self._answer.done():
                self._answer.set_result((self._status, bytes(self._received[self._body : self._end])))
            self._received, self._end = bytearray(), None

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"the connection ended: {error or 'closed'}")

    def _fail(self, reason: str) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionLost(reason, partial=bool(self._received)))

    @property
    def usable(self) -> bool:
        return not self.transport.is_closing()

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await asyncio.wait_for(self._answer, ANSWER_SECONDS)


async def connect(host: str, port: int) -> KeptConnection:
    """A new connection.

    Raises:
        ConnectionLost: if the server takes none.
    """
    try:
        _, protocol = await asyncio.get_running_loop().create_connection(KeptConnection, check_loopback(host), port)
    except OSError as error:
        raise ConnectionLost(f"no connection: {error}") from error
    return protocol


@dataclass
class LoadResult:
    """What a load gave. Latencies are in seconds, of answers with status 200 within the time."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of this process, which is the client
    latencies: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)
    errors: Counter = field(default_factory=Counter)

    @property
    def requests_per_second(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def cpu_share(self) -> float:
        """The share of one core that this process used."""
        return self.cpu_seconds / self.seconds

    def percentile(self, percent: float) -> float:
        """Milliseconds."""
        return 1e3 * float(np.percentile(self.latencies, percent)) if self.latencies else float("nan")


def check_bounds(clients: int, requests: int | None, seconds: float) -> None:
    """ValueError if a load would exceed the bounds of this file."""
    for name, value, most in (
        ("clients", clients, MAX_CLIENTS),
        ("requests", requests or 1, MAX_REQUESTS),
        ("seconds", seconds, MAX_SECONDS),
    ):
        if not 0 < value <= most:
            raise ValueError(f"`{name}` is {value}; it must be greater than 0 and at most {most:,}.")


def run_load(
    port: int,
    requests: Iterable[bytes],
    *,
    clients: int,
    seconds: float,
    check: Callable[[int, int, bytes], None] | None = None,
    host: str = "127.0.0.1",
) -> LoadResult:
    """Send requests over `clients` connections, each one after the other, until the time is up or there are no more.

    Args:
        requests (`Iterable[bytes]`): What to send; a client takes the next one when it is free.
        check (`Callable`, *optional*): Called with the number of the request, the status and the body of each answer.

    Raises:
        ValueError: if the host is not loopback, or a bound is exceeded.
    """
    check_loopback(host)
    check_bounds(clients, None, seconds)
    numbered = enumerate(itertools.islice(requests, MAX_REQUESTS))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_send_all(host, port, numbered, clients, seconds, check))


async def _send_all(host, port, numbered: Iterator[tuple[int, bytes]], clients, seconds, check) -> LoadResult:
    result = LoadResult()
    start, cpu_start = time.perf_counter(), time.process_time()
    end = start + seconds

    async def send() -> None:
        connection = None
        while time.perf_counter() < end and (item := next(numbered, None)) is not None:
            number, request = item
            try:
                if connection is None or not connection.usable:
                    connection = await connect(host, port)
                sent = time.perf_counter()
                status, body = await connection.exchange(request)
            except (ConnectionLost, TimeoutError) as error:
                result.errors[str(error) or "no answer in time"] += 1
                connection = None
                await asyncio.sleep(0.05)
                continue
            now = time.perf_counter()
            result.statuses[status] += 1
            if status == 200 and now <= end:
                result.latencies.append(now - sent)
            if check is not None:
                check(number, status, body)
        if connection is not None:
            connection.transport.close()

    await asyncio.gather(*(send() for _ in range(clients)))
    result.seconds = min(time.perf_counter() - start, seconds)
    result.cpu_seconds = (time.process_time() - cpu_start) * result.seconds / (time.perf_counter() - start)
    return result


# ---------------------------------------------------------------------------------------------------------- the server


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def fetch(port: int, path: str) -> tuple[int, str]:
    """Status and text of one GET."""
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


class ServerProcess:
    """A server as a process of its own on 127.0.0.1; the `with` block begins when it is ready.

    Args:
        command (`Sequence[str]`): The command without the port.
        ready (`str`): The path that answers 200 once the server is ready.
        port (`int`, *optional*): By default a free one.
        threads (`int`, *optional*): `OMP_NUM_THREADS`.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        ready: str = "/health/ready",
        port: int | None = None,
        threads: int | None = None,
        seconds: float = 180,
    ):
        self.port = port or free_port()
        self.command = [*command, "--port", str(self.port)]
        self.ready, self.seconds = ready, seconds
        self.environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        if threads:
            self.environment["OMP_NUM_THREADS"] = str(threads)
        self.process: subprocess.Popen | None = None
        self.printed = tempfile.TemporaryFile()  # a pipe would fill up
        self.seconds_to_ready = 0.0

    def __enter__(self) -> "ServerProcess":
        start = time.perf_counter()
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdout=subprocess.DEVNULL, stderr=self.printed
        )
        while not self._is_ready():
            if self.process.poll() is not None or time.perf_counter() > start + self.seconds:
                self.stop(signal.SIGKILL)
                printed = self.log()
                self.printed.close()
                raise RuntimeError(f"{' '.join(self.command)} did not get ready:\n{printed[-3000:]}")
            time.sleep(0.02)
        self.seconds_to_ready = time.perf_counter() - start
        return self

    def log(self) -> str:
        """What the server has written to standard error."""
        size = os.fstat(self.printed.fileno()).st_size
        return os.pread(self.printed.fileno(), size, 0).decode(errors="replace")

    def _is_ready(self) -> bool:
        with contextlib.suppress(URLError, OSError):
            return fetch(self.port, self.ready)[0] == 200
        return False

    def __exit__(self, *error: object) -> None:
        self.stop(signal.SIGTERM)
        self.printed.close()

    def stop(self, number: signal.Signals | None) -> int:
        """Send a signal, or none if one has been sent, and wait; the exit status."""
        if number is not None and self.process.poll() is None:
            self.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        self.process.kill()
        return self.process.wait()

    def memory_mib(self) -> float:
        """MiB that the process has in memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 2**10

    def metrics(self) -> dict[str, float]:
        """The values at `/metrics`, by name and labels as they stand there."""
        lines = [line for line in fetch(self.port, "/metrics")[1].splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def serve_command(model: str, *options: str) -> list[str]:
    """The command of our server, without the port."""
    return [sys.executable, "-m", "clip_hf", "serve", model, *options]
