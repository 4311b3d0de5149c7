# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The learning rate over a training: linear warm-up, then half a cosine (Radford et al. 2021, section 2.5)."""

import math
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR

from ..utils.wording import counted


def cosine_schedule(optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Build the paper's schedule (section 2.5): a linear rise from 0, then half a cosine down to 0.

    Args:
        optimizer (`torch.optim.Optimizer`): The optimiser; each group's learning rate is the highest one of that
            group.
        warmup_steps (`int`): Steps in which the learning rates rise.
        total_steps (`int`): Steps of the whole training, including the warm-up.

    Returns:
        `LambdaLR`; call its `step` once after each step of the optimiser, whatever the number of processes.

    Raises:
        ValueError: if `total_steps` is less than 1, or the warm-up is as long as the training, which would then end
            before it reached the highest learning rate (with a single step, at a learning rate of 0).
    """
    if total_steps < 1:
        raise ValueError(f"`total_steps` is {total_steps}; it must be at least 1.")
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"`warmup_steps` is {warmup_steps} and the training has {counted(total_steps, 'step')}: the learning rate "
            "would rise from 0 to the end. Give fewer steps of warm-up, at least 0, or train longer."
        )

    return LambdaLR(optimizer, cosine_factor(warmup_steps, total_steps))


def cosine_factor(warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """The learning rate at a step, from 0, as a share of the highest one."""

    # The same as transformers' get_cosine_schedule_with_warmup, whose module imports half a dozen libraries.
    def factor(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return factor
