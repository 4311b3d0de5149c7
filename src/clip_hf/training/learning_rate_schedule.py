# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The learning rate over a training: linear warm-up, then half a cosine (Radford et al. 2021, section 2.5)."""

import math

import torch
from torch.optim.lr_scheduler import LambdaLR


def cosine_schedule(optimizer: torch.optim.Optimizer, warmup_steps: int, total_steps: int) -> LambdaLR:
    """
    The paper's schedule: the learning rates rise linearly from 0, then fall along half a cosine to 0 (section 2.5).

    Args:
        optimizer (`torch.optim.Optimizer`):
            Each group keeps its own highest learning rate.
        warmup_steps (`int`):
            Steps of the rise.
        total_steps (`int`):
            All steps, those of the rise among them.

    Returns:
        `LambdaLR`, to be stepped once after each step of the optimiser, of all processes together.

    Raises:
        ValueError: if there is no step, or the rise is as long as the training, which would end before it reached the
            highest learning rate (with a single step, at a learning rate of 0).
    """
    if total_steps < 1:
        raise ValueError(f"`total_steps` is {total_steps}; it must be at least 1.")
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"`warmup_steps` is {warmup_steps} and the training has {total_steps} steps: the learning rate would rise "
            "from 0 to the end. Give fewer steps of warm-up, at least 0, or train longer."
        )

    # As transformers' get_cosine_schedule_with_warmup, whose module imports half a dozen libraries.
    def share(step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return LambdaLR(optimizer, share)


__all__ = ["cosine_schedule"]
