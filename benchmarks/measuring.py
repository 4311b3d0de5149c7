# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Peaks of memory, which only a process of its own shows: what the benchmarks of memory share."""

import json
import resource
import subprocess
import sys

import torch


def peak_gib(device: str) -> float:
    """GiB of memory of this process at its highest so far, on a device ("cpu", "cuda")."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measured(script: str, *arguments: object) -> dict[str, float]:
    """What `script --measure arguments`, in a process of its own, prints last: a JSON object.

    Raises:
        RuntimeError: If the process fails.
    """
    command = [sys.executable, script, "--measure", *map(str, arguments)]
    output = subprocess.run(command, capture_output=True, text=True)
    if output.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}: exit {output.returncode}\n{output.stderr[-2000:]}")
    return json.loads(output.stdout.splitlines()[-1])
