# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Running tests on a copy of the library that has a mutation."""

import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from .mutation import TESTS, Mutation, copy_library


SECONDS = 240  # for the tests of one mutation, on a busy machine; a test that hangs has noticed it


def run_tests(tests: str, mutation: Mutation | None = None) -> tuple[int, str]:
    """
    Run tests on a copy of the library, in front of the installed one.

    Returns:
        `tuple[int, str]`: pytest's exit status, and what it printed; 1 if it took too long.
    """
    context = multiprocessing.get_context("forkserver")
    # Imported once for all runs: that takes as long as most of the tests. Not the library itself.
    context.set_forkserver_preload(["accelerate", "datasets", "pytest", "torch", "transformers"])
    with tempfile.TemporaryDirectory(prefix="clip_hf-mutation-") as folder:
        copy_library(Path(folder), mutation)
        output = Path(folder, "output.txt")
        process = context.Process(target=_run_pytest, args=(folder, str(output), tests))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            return 1, f"FAILED took more than {SECONDS} s"
        return process.exitcode, output.read_text(encoding="utf-8", errors="replace")


def _run_pytest(folder: str, output: str, tests: str) -> None:
    os.setpgrp()  # so that what the tests start can be ended with them
    multiprocessing.set_start_method(None, force=True)  # that of a program, which the tests and DataLoader expect
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(TESTS)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": folder}
    sys.path.insert(0, folder)
    sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--tb=line", *shlex.split(tests)]))


__all__ = ["run_tests"]
