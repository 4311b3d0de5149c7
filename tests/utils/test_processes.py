# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Several processes: errors that all raise together, and launches whose processes do not know each other."""

from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator

from clip_hf.utils.processes import SharedOutcome, check_launch, join_processes, start_processes
from several_processes import run_processes


def fail() -> None:
    raise LookupError("no row 7")


def outcomes_of_two(rank: int) -> list:
    """What a process sees of a block in which both succeed, and of one in which only process 1 fails."""
    accelerator = join_processes(cpu=True)
    with SharedOutcome(accelerator.num_processes) as outcome:
        value = rank + 5
    seen = [outcome.gather(value)]
    with SharedOutcome(accelerator.num_processes) as outcome:
        if rank == 1:
            fail()
    try:
        outcome.gather()
    except Exception as error:
        seen.append(f"{type(error).__name__}: {error}")
    # Neither left the other waiting.
    total = accelerator.reduce(torch.tensor(rank + 1))
    return [*seen, int(total)]


def test_all_processes_raise_together(tmp_path):
    first, second = run_processes(outcomes_of_two, 2, tmp_path)
    message = "Process 1 failed, and the others stop with it. LookupError: no row 7"
    assert first == [[5, 6], f"RuntimeError: {message}", 3]
    assert second == [[5, 6], "LookupError: no row 7", 3]


def test_one_process_raises_its_own_error():
    with SharedOutcome(1) as outcome:
        pass
    assert outcome.gather("value") == ["value"]
    with SharedOutcome(1) as outcome:
        fail()
    with pytest.raises(LookupError, match="no row 7"):
        outcome.gather()
    # What is no failure of the work ends the block at once.
    with pytest.raises(KeyboardInterrupt), SharedOutcome(1):
        raise KeyboardInterrupt


def test_a_launch_without_its_addresses_is_refused_before_the_processes_look_for_each_other(monkeypatch):
    for name in ("RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="WORLD_SIZE is 2, but RANK and MASTER_ADDR are not set"):
        join_processes(cpu=True)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}, "starts one process"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'; it must be the number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": ""}, None),
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}, None),
    ],
)
def test_a_command_alone_looks_at_how_it_was_launched(monkeypatch, environment, message):
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with nullcontext() if message is None else pytest.raises(RuntimeError, match=message):
        with start_processes() as accelerator:
            assert accelerator is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "1"}, r"WORLD_SIZE is 2, but Accelerate runs 1 process.*cpu=True"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK is 1, but this is process 0"),
        # What `accelerate launch --cpu --num_processes 2` sets.
        ({"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}, "torchrun"),
        ({"ACCELERATE_USE_CPU": "True"}, None),
        ({"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}, None),
        ({}, None),
    ],
)
def test_processes_that_do_not_know_each_other_are_refused(monkeypatch, environment, message):
    accelerator = Accelerator(cpu=True)
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if message is None:
        check_launch(accelerator)
    else:
        with pytest.raises(RuntimeError, match=message):
            check_launch(accelerator)
