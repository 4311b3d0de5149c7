# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The client that loads servers in the benchmarks: where it may send, what it counts, and how answers may end."""

import asyncio
import json
import subprocess
import sys
import threading

import pytest

from snippets import ROOT


BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def serving_load():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import serving_load

        yield serving_load
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def answering():
    """A function of the parts of an answer: the port of a server that sends them, one by one, to each request. None
    ends the connection."""
    loop, servers = asyncio.new_event_loop(), []
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def start(*parts: bytes | None) -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while (head := await reader.readuntil(b"\r\n\r\n")) and not reader.at_eof():
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
                for part in parts:
                    if part is None:
                        return writer.close()
                    writer.write(part)
                    await asyncio.sleep(0.01)

        async def listen() -> int:
            servers.append(await asyncio.start_server(answer, "127.0.0.1", 0))
            return servers[-1].sockets[0].getsockname()[1]

        return asyncio.run_coroutine_threadsafe(listen(), loop).result()

    yield start

    async def end() -> None:
        for server in servers:
            server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(end(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize("host", ["8.8.8.8", "example.com", "0.0.0.0", "127.0.0.1.example.com", "::", "10.0.0.1", ""])
def test_only_loopback_is_loaded(serving_load, host):
    with pytest.raises(ValueError, match="loopback"):
        serving_load.run_load(80, [b"x"], clients=1, seconds=1, host=host)


def test_loopback_names(serving_load):
    assert [serving_load.check_loopback(host) for host in ("localhost", "127.0.0.2", "::1")] == [
        "127.0.0.1",
        "127.0.0.2",
        "::1",
    ]


@pytest.mark.parametrize("bounds", [{"clients": 0}, {"clients": 1025}, {"seconds": 0}, {"seconds": 601}])
def test_bounds(serving_load, bounds):
    with pytest.raises(ValueError, match="at most"):
        serving_load.run_load(80, [b"x"], **{"clients": 1, "seconds": 1, **bounds})


@pytest.mark.parametrize("closes", [b"", b"Connection: close\r\n"])
def test_answers_are_counted_and_checked(serving_load, answering, closes):
    port = answering(
        b"HTTP/1.1 200 OK\r\n" + closes, b"content-LENGTH: 6\r\n\r\nab", b"cdef", *([None] if closes else [])
    )
    seen = []
    requests = [serving_load.build_request("/x", {"number": number}) for number in range(6)]
    result = serving_load.run_load(port, requests, clients=2, seconds=10, check=lambda *each: seen.append(each))
    assert sorted(seen) == [(number, 200, b"abcdef") for number in range(6)]
    assert result.statuses == {200: 6} and len(result.latencies) == 6 and not result.errors
    assert all(0.01 < each < 5 for each in result.latencies) and result.requests_per_second > 1


def test_other_statuses_have_no_latency(serving_load, answering):
    port = answering(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")
    request = serving_load.build_request("/x", {})
    result = serving_load.run_load(port, [request], clients=1, seconds=5)
    assert result.statuses == {429: 1} and not result.latencies


@pytest.mark.parametrize("parts, partial", [((b"HTTP/1.1 200 OK\r\nCont", None), True), ((None,), False)])
def test_a_lost_connection_says_whether_an_answer_had_begun(serving_load, answering, parts, partial):
    port = answering(*parts)

    async def ask() -> None:
        connection = await serving_load.connect("127.0.0.1", port)
        await connection.exchange(serving_load.build_request("/x", {}))

    with pytest.raises(serving_load.ConnectionLost) as lost:
        asyncio.run(ask())
    assert lost.value.partial is partial


def test_a_server_that_cannot_start_is_an_error(serving_load):
    command = [sys.executable, "-c", "import sys; sys.exit('no such model')"]
    with pytest.raises(RuntimeError, match="no such model"), serving_load.ServerProcess(command):
        pass


@pytest.mark.slow
def test_the_promises_under_load(served_folder):
    command = [sys.executable, str(BENCHMARKS / "check_serving.py"), "--model", str(served_folder / "model")]
    command += ["--requests", "600", "--parts", "order", "sigterm", "sigkill", "cancel"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ok ") == 4


def test_embeddings_are_read_in_both_formats(serving_load):
    data = [{"embedding": [1.0, -2.5]}, {"embedding": "AACAPwAAIMA="}]
    assert serving_load.read_embeddings(json.dumps({"data": data}).encode()).tolist() == [[1.0, -2.5]] * 2
