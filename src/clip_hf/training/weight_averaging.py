# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""An exponential moving average of the weights."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..utils.saved_states import check_kinds, kinds_of


class AveragedWeights:
    """An exponential moving average of a model's weights, over torch's `AveragedModel`.

    - Parameters are averaged after each step: `average = decay * average + (1 - decay) * weight`. At first the decay
      is smaller, (1 + n) / (10 + n) at update n, so that the initial weights are soon forgotten.
    - Buffers are copied: a BatchNorm's statistics are a moving average already.

    Args:
        model (`nn.Module`): The model, not wrapped for distributed training; the average starts with its weights and
            lies on the same device.
        decay (`float`, *optional*, defaults to 0.9999): At least 0 and less than 1.

    Raises:
        ValueError: if `decay` is out of its range, or the model is sharded.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9999):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"`decay` is {decay}; it must be at least 0 and less than 1.")
        if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
            raise ValueError("The model is sharded (FSDP2), so its average cannot be kept; train it unsharded.")
        self.decay = decay
        self._averaged = AveragedModel(model, multi_avg_fn=self._average, use_buffers=False)
        self._averaged.requires_grad_(False)
        self._applied = False

    def _average(self, averaged: list, current: list, num_averaged: torch.Tensor | int) -> None:
        get_ema_multi_avg_fn(decay_at(int(num_averaged), self.decay))(averaged, current, num_averaged)

    def update(self, model: nn.Module) -> None:
        """Add the model's present weights to the average; call it after each step of the optimiser."""
        self._check_not_applied()
        self._averaged.update_parameters(model)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model, not wrapped, has the averaged weights; afterwards exactly its own.

        The weights are swapped in place, so that one tensor at a time is all the memory it takes.
        """
        self._check_not_applied()
        self._swap(model)
        self._applied = True
        try:
            yield
        finally:
            self._swap(model)
            self._applied = False

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        current, averaged = _tensors(model), _tensors(self._averaged.module)
        if current.keys() != averaged.keys():
            raise ValueError("The model has other parameters than the one that is averaged; give that one, unwrapped.")
        for name, tensor in current.items():
            # In place, because compiled graphs and wrappers hold references to these tensors.
            weights = tensor.clone()
            tensor.copy_(averaged[name])
            averaged[name].copy_(weights)

    def _check_not_applied(self) -> None:
        if self._applied:
            raise RuntimeError("The averaged weights are in the model at the moment; leave `applied_to` first.")

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights and buffers and the number of updates."""
        self._check_not_applied()
        return self._averaged.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from an [`AveragedWeights.state_dict`]; ValueError if it belongs to another model."""
        self._check_not_applied()
        check_kinds(state, kinds_of(self._averaged.state_dict()), "The state of the averaged weights")
        self._averaged.load_state_dict(state)


def decay_at(update: int, decay: float) -> float:
    """The decay at an update, from 1: the one that was asked for, or less where the average is young."""
    return min(decay, (1 + update) / (10 + update))


def share_in_average(decay: float, rates: Sequence[float]) -> float:
    """Share of a training's whole movement that its average holds at the end, if all steps went the same way.

    Args:
        decay (`float`): The average's decay.
        rates (`Sequence[float]`): Learning rate of each step, at least one of them not 0.

    Example:

    ```python
    >>> round(share_in_average(0.999, [1.0] * 10), 3)  # the average is about a step behind
    0.9
    ```
    """
    position = average = 0.0
    for update, rate in enumerate(rates):
        position += rate
        kept = decay_at(update, decay) if update else 0.0  # the first update copies the weights
        average = kept * average + (1 - kept) * position
    return average / position


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
