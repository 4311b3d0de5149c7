# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf serve` as operations run it: signals at any time, logs that nobody reads, few open files."""

import http.client
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from encoding_inputs import write_model_and_photos


# The command, without what `python -m clip_hf` imports before it.
COMMAND = [sys.executable, "-c", "import sys, _clip_hf_cli; sys.exit(_clip_hf_cli.main())", "serve"]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(scope="module")
def model(tiny_processor, tmp_path_factory) -> Path:
    return write_model_and_photos(tmp_path_factory.mktemp("operations"), tiny_processor, 1) / "model"


@pytest.fixture
def start(model) -> Iterator[Callable[..., tuple[subprocess.Popen, int]]]:
    """A function that starts a server whose log is a pipe; it returns the process and the port when it is ready."""
    processes = []

    def start(**options) -> tuple[subprocess.Popen, int]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([*COMMAND, str(model), "--port", "0"], text=True, **pipes, **options)
        processes.append(process)
        port = int(process.stdout.readline().split("127.0.0.1:")[1].split(",")[0])
        assert process.stdout.readline().startswith("ready in ")
        return process, port

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def ask(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/health/live", headers={"Connection": "close"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@pytest.mark.parametrize("prefix", [[], ["unshare", "--pid", "--fork", "--kill-child"]], ids=["process", "first"])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_it_imports_ends_it_with_0(prefix, number, model):
    if prefix and (shutil.which("unshare") is None or subprocess.run([*prefix, "true"], check=False).returncode):
        pytest.skip("this machine lets nobody make a space of processes")
    # `clip_hf.cli.serve` waits for torch, among others; the line says that the handlers are there.
    program = (
        "import sys, importlib, _clip_hf_cli\n"
        "load = importlib.import_module\n"
        "importlib.import_module = lambda name: (print('importing', flush=True), load(name))[1]\n"
        "sys.exit(_clip_hf_cli.main())"
    )
    command = [*prefix, sys.executable, "-c", program, "serve", str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "importing\n"
            target = process.pid
            if prefix:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                target = int(children[0])
            os.kill(target, number)
            out, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_server_with_0(start, number):
    process, port = start()
    assert ask(port) == 200
    process.send_signal(number)
    assert process.wait(20) == 0


@pytest.mark.slow
def test_a_log_that_nobody_reads_holds_nobody(start):
    process, port = start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(2000):
        connection.request("GET", "/health/live")
        assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.mark.slow
def test_output_may_be_closed_after_the_first_line(model):
    command = [*COMMAND, str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline().split("127.0.0.1:")[1].split(",")[0])
        process.stdout.close()
        while (status := ask_ready(port)) == 503:
            time.sleep(0.05)
        assert status == 200
        process.send_signal(signal.SIGTERM)
        assert "Error" not in process.stderr.read()
        assert process.wait(20) == 0


def ask_ready(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/health/ready", headers={"Connection": "close"})
    return connection.getresponse().status


@pytest.mark.slow
def test_few_open_files_are_enough_for_health(start):
    process, port = start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    idle = []
    for _ in range(100):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/health/live")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        idle.append(connection)
    assert ask(port) == 200
    process.send_signal(signal.SIGTERM)
    _, logged = process.communicate(timeout=20)
    warnings = [line for line in logged.splitlines() if " WARNING " in line]
    assert len(warnings) == 1
    assert "may have 64 open files (`ulimit -n`), so it takes 32 connections at a time, not 4,096." in warnings[0]
    for connection in idle:
        connection.close()


@pytest.mark.slow
def test_the_bound_of_open_files_is_raised(start):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < 4352:
        pytest.skip(f"this machine allows {hard} open files")
    process, _ = start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)))
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == 4352
