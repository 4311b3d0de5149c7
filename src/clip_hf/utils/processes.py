# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Several processes of one launch: whether they know each other, and errors that all of them raise together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import gather_object
from torch import distributed


class SharedOutcome:
    """A context manager that keeps an error of its block until [`SharedOutcome.gather`], which every process calls.

    A process that raised at once would leave the others waiting for it.

    Args:
        num_processes (`int`): How many processes work together; with one, nothing is sent.
    """

    def __init__(self, num_processes: int):
        self.num_processes = num_processes
        self.error: Exception | None = None

    def __enter__(self) -> "SharedOutcome":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None

    def gather(self, value: Any = None) -> list[Any]:
        """Every process's `value`, in the order of the processes.

        Raises:
            Exception: this process's own error.
            RuntimeError: if this process succeeded, but another one did not.
        """
        problem = None if self.error is None else f"{type(self.error).__name__}: {self.error}"
        outcomes = gather_object([(problem, value)]) if self.num_processes > 1 else [(problem, value)]
        if self.error is not None:
            raise self.error
        for rank, (problem, _) in enumerate(outcomes):
            if problem is not None:
                raise RuntimeError(f"Process {rank} failed, and the others stop with it. {problem}")
        return [value for _, value in outcomes]


def join_processes(cpu: bool = False, **options: Any) -> Accelerator:
    """Join the other processes of a launch; a process that was started alone stays alone.

    Args:
        cpu (`bool`, *optional*, defaults to `False`): Whether to stay on the CPU even if there is a GPU.
        **options: Further arguments of `Accelerator`.

    Raises:
        RuntimeError: if the processes that were launched do not know each other.
    """
    # Checked first, because processes that look for each other give up only after half an hour.
    launched = _num_launched()
    missing = [name for name in ("RANK", "MASTER_ADDR") if name not in os.environ]
    if launched not in (None, 1) and missing:
        raise RuntimeError(
            f"WORLD_SIZE is {launched}, but {' and '.join(missing)} are not set. Start several processes with "
            "`torchrun` or `accelerate launch`, or unset WORLD_SIZE to run one."
        )
    # Without a GPU, and unless told to use the CPU, Accelerate lets each process run by itself.
    accelerator = Accelerator(cpu=cpu or not torch.accelerator.is_available(), **options)
    check_launch(accelerator)
    return accelerator


@contextmanager
def start_processes(device: str | None = None) -> Iterator[Accelerator | None]:
    """Join the other processes of a launch by `accelerate launch` or `torchrun`, and leave them in the end.

    Yields `None` to a process that was started alone. With the device `"cpu"` the processes stay off accelerators.
    """
    if _num_launched() in (None, 1):
        _check_launched_by_accelerate()
        yield None
        return
    accelerator = join_processes(cpu=device == "cpu")
    try:
        yield accelerator
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


@contextmanager
def accelerator_settings() -> Iterator[None]:
    """Let go of Accelerate's settings, such as the mixed precision, in the end.

    They belong to the whole program: without this, a second training in a notebook could not have others. The settings
    of an `Accelerator` that the program made before stay, and so do the processes' connections.
    """
    is_free = not is_initialized()
    try:
        yield
    finally:
        if is_free:
            AcceleratorState._reset_state()


def check_launch(accelerator: Accelerator) -> None:
    """Refuse to go on when the processes that were launched do not know each other: each would do all the work alone.

    Args:
        accelerator (`Accelerator`): The accelerator of this process.

    Raises:
        RuntimeError: if the environment speaks of more processes than `accelerator` has, with the command to use.
    """
    launched, processes = _num_launched(), accelerator.num_processes
    if launched not in (None, processes):
        raise RuntimeError(
            f"WORLD_SIZE is {launched}, but Accelerate runs {processes} process(es): each would work by itself. On a "
            "machine without a GPU create the Accelerator with cpu=True (--cpu); otherwise unset WORLD_SIZE and RANK."
        )
    rank = os.environ.get("RANK")
    if launched is not None and rank is not None and rank.isdigit() and int(rank) != accelerator.process_index:
        raise RuntimeError(f"RANK is {rank}, but this is process {accelerator.process_index} to Accelerate.")
    if processes == 1:
        _check_launched_by_accelerate()


def _num_launched() -> int | None:
    """How many processes the environment speaks of; None if it does not. RuntimeError if that is no number."""
    text = os.environ.get("WORLD_SIZE", "").strip()
    if text and (not text.isdecimal() or int(text) < 1):
        raise RuntimeError(f"WORLD_SIZE is {text!r}; it must be the number of processes of a launch, or unset.")
    return int(text) if text else None


def _check_launched_by_accelerate() -> None:
    """RuntimeError for the single process of `accelerate launch --cpu --num_processes 2`.

    It names a master, starts one process and says nothing of the other.
    """
    if "WORLD_SIZE" not in os.environ and {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= os.environ.keys():
        raise RuntimeError(
            "`accelerate launch --cpu` starts one process, whatever --num_processes is. Start several on a CPU with "
            "`torchrun --nproc_per_node 2 ...`, one with `python` or --num_processes 1."
        )
