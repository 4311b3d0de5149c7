# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Forward, loss and backward of a training step: a batch at once, or in chunks."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from ..model.modeling_clip_hf import ClipHFModel
from .distributed import logit_bias_of, logit_scale_of
from .grad_cache import GradCache
from .pair_losses import PairLoss, SigmoidLoss, SoftmaxLoss
from .text_sets import embed_pairs


_MODEL_INPUTS = ("pixel_values", "input_ids", "attention_mask", "position_ids")
_SHARDED = (DistributedType.DEEPSPEED, DistributedType.FSDP)


class ContrastiveObjective:
    """Computes the loss of a batch over all processes, and its gradient.

    Args:
        accelerator (`Accelerator`): Does the backward passes.
        model (`nn.Module`): A [`ClipHFModel`] as `accelerator.prepare` returned it.
        pair_loss ([`PairLoss`], *optional*): The loss, on the model's device, as [`build_pair_loss`] gives it; by
            default the sigmoid loss for a model with a `logit_bias`, the softmax loss for others. Its own parameters
            get gradients that are averaged over the processes; the caller gives them to the optimiser.
        grad_cache_chunk_size (`int`, *optional*): Pairs of this process in the towers at a time, see [`GradCache`]; by
            default all.

    Raises:
        ValueError: if the loss does not work with `grad_cache_chunk_size`, or has parameters of its own, and DeepSpeed
            or FSDP is in use.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        pair_loss: PairLoss | None = None,
        *,
        grad_cache_chunk_size: int | None = None,
    ):
        self.accelerator = accelerator
        self.model = model
        self.clip: ClipHFModel = accelerator.unwrap_model(model, keep_torch_compile=False)
        if pair_loss is None:
            pair_loss = SoftmaxLoss() if self.clip.logit_bias is None else SigmoidLoss()
        self.pair_loss = pair_loss
        self._learned = [parameter for parameter in pair_loss.parameters() if parameter.requires_grad]
        if self._learned and accelerator.distributed_type in _SHARDED:
            raise ValueError(
                f"{type(pair_loss).__name__} has parameters of its own, which are trained on one process or with "
                "DistributedDataParallel, not with DeepSpeed or FSDP."
            )
        self.grad_cache: GradCache | None = None
        if grad_cache_chunk_size is not None:
            if not pair_loss.allows_grad_cache:
                raise ValueError(
                    f"`grad_cache_chunk_size` is {grad_cache_chunk_size}, and {type(pair_loss).__name__} does not "
                    "work in chunks; leave it out."
                )
            self.grad_cache = GradCache(
                accelerator, model, pair_loss, self._scalars, grad_cache_chunk_size, self._learned
            )

    def _scalars(self) -> tuple[torch.Tensor, ...]:
        scale, bias = logit_scale_of(self.clip).exp(), logit_bias_of(self.clip)
        return (scale,) if bias is None else (scale, bias)

    def backward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Add the gradients of a batch's loss to those of the parameters, and return this process's loss, a scalar.

        `batch` is this process's part, as [`PairLoader`] gives it, on the device of the model. The mean of the losses
        over the processes is the loss of the whole batch. `input_ids` and `attention_mask` may be those of several
        texts for each image, `(batch, texts, length)`, for a loss that takes them.
        """
        inputs = self.pair_loss.model_inputs({name: batch[name] for name in _MODEL_INPUTS if name in batch})
        extras = {name: batch[name] for name in self.pair_loss.batch_names if name in batch}
        before = [parameter.grad for parameter in self._learned]
        for parameter in self._learned:
            parameter.grad = None
        if self.grad_cache is not None:
            loss = self.grad_cache.backward(inputs, **extras)
        else:
            # Through the wrapper, whose forward and backward keep the processes in step.
            images, texts = embed_pairs(self.model, inputs)
            loss = self.pair_loss(images, texts, *self._scalars(), **extras)
            self.accelerator.backward(loss)
        self._average_own_gradients(before)
        return loss.detach()

    def _average_own_gradients(self, before: list[torch.Tensor | None]) -> None:
        """Average this batch's gradients of the loss's parameters, and add those from `before`; no wrapper does."""
        for parameter, earlier in zip(self._learned, before, strict=True):
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.accelerator.reduce(found, "mean") + (0.0 if earlier is None else earlier)
