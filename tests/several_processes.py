# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Run a function on several processes of one machine."""

import gc
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


# Imported once, by the server that all processes are forked from: that takes longer than what most of them do.
PRELOADED = ["clip_hf.cli", "clip_hf.embedding", "clip_hf.evaluation", "clip_hf.export", "clip_hf.training", "pytest"]


def process_server() -> multiprocessing.context.BaseContext:
    """Makes processes as a fresh interpreter has them, but with the library imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _process(
    rank: int, processes: int, port: int, environment: dict, folder: Path, function: Callable, arguments: tuple
) -> None:
    os.environ |= environment
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    result = function(rank, *arguments)
    (folder / f"result_{rank}").write_bytes(pickle.dumps(result))
    if dist.is_initialized():
        # Left to the interpreter's end, the group's threads may abort the process. What uses the group goes first.
        gc.collect()
        dist.destroy_process_group()


def run_processes(function: Callable, processes: int, folder: Path, *arguments, timeout: float = 600.0) -> list:
    """Results of `function(rank, *arguments)`, which a test file defines at its top, by rank."""
    folder.mkdir(parents=True, exist_ok=True)
    process_server()
    passed = (processes, _free_port(), dict(os.environ), folder, function, arguments)
    context = mp.start_processes(_process, passed, nprocs=processes, join=False, start_method="forkserver")
    end = time.monotonic() + timeout
    try:
        while not context.join(timeout=1.0):
            if time.monotonic() > end:
                raise TimeoutError(f"{function.__name__} took more than {timeout} s on {processes} processes.")
    finally:
        for process in context.processes:
            process.kill()
    return [pickle.loads((folder / f"result_{rank}").read_bytes()) for rank in range(processes)]


def torchrun(*command: str | Path, processes: int = 2) -> subprocess.CompletedProcess:
    """Start a script, or `-m` and a module, with its arguments on several processes, as a reader does."""
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), *map(str, command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", *launch], env=environment, capture_output=True, text=True, timeout=600
    )
