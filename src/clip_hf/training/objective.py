# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Forward, loss and backward of a training step: a batch at once, or in chunks."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..model.loss_clip_hf import contrastive_loss, sigmoid_loss
from ..model.modeling_clip_hf import ClipHFModel
from ..model.video_loss_clip_hf import same_label_loss
from .distributed import logit_bias_of, logit_scale_of
from .grad_cache import GradCache


_ID_NAMES = ("image_ids", "text_ids")


class ContrastiveObjective:
    """Computes the loss of a batch over all processes, and its gradient.

    A model with a `logit_bias` is trained with the sigmoid loss, others with the softmax loss, or with
    [`same_label_loss`] if `same_label_scale` is given: pairs of one `text_ids`, whose captions are equal, have one
    label.

    Args:
        accelerator (`Accelerator`): Does the backward passes.
        model (`nn.Module`): A [`ClipHFModel`] as `accelerator.prepare` returned it.
        label_smoothing (`float`, *optional*, defaults to 0.0): For the softmax loss, see [`contrastive_loss`].
        loss_chunk_size (`int`, *optional*): Rows of the similarity matrix in memory at a time; by default the loss
            chooses by the size of the batch.
        grad_cache_chunk_size (`int`, *optional*): Pairs of this process in the towers at a time, see [`GradCache`]; by
            default all.
        same_label_scale (`float`, *optional*): Train with [`same_label_loss`], whose `target_scale` this is.

    Raises:
        ValueError: if `label_smoothing` or `same_label_scale` is given for a model with a `logit_bias`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        *,
        label_smoothing: float = 0.0,
        loss_chunk_size: int | None = None,
        grad_cache_chunk_size: int | None = None,
        same_label_scale: float | None = None,
    ):
        self.accelerator = accelerator
        self.model = model
        self.clip: ClipHFModel = accelerator.unwrap_model(model, keep_torch_compile=False)
        if label_smoothing and self.clip.logit_bias is not None:
            raise ValueError(
                f"`label_smoothing` is {label_smoothing}, and the model has a `logit_bias`: it is trained with the "
                "sigmoid loss, which has no label smoothing; leave it out."
            )
        if same_label_scale is not None and self.clip.logit_bias is not None:
            raise ValueError(
                "The loss is `same_label`, and the model has a `logit_bias`: it is one of the sigmoid loss, and can "
                "only be trained with that."
            )
        self.same_label_scale = same_label_scale
        self.loss_chunk_size = loss_chunk_size or "auto"
        self.label_smoothing = label_smoothing
        self.grad_cache: GradCache | None = None
        if grad_cache_chunk_size is not None:
            self.grad_cache = GradCache(accelerator, model, self._loss, self._scalars, grad_cache_chunk_size)

    def _scalars(self) -> tuple[torch.Tensor, ...]:
        scale, bias = logit_scale_of(self.clip).exp(), logit_bias_of(self.clip)
        return (scale,) if bias is None else (scale, bias)

    def _loss(self, images: torch.Tensor, texts: torch.Tensor, *scalars: torch.Tensor, **ids) -> torch.Tensor:
        if self.same_label_scale is not None:
            labels, scale = ids["text_ids"], self.same_label_scale
            return same_label_loss(images, texts, *scalars, labels=labels, target_scale=scale, gather=True)
        options = {"chunk_size": self.loss_chunk_size, "gather": True, **ids}
        if self.clip.logit_bias is not None:
            return sigmoid_loss(images, texts, *scalars, **options)
        return contrastive_loss(images, texts, *scalars, label_smoothing=self.label_smoothing, **options)

    def backward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Add the gradients of a batch's loss to those of the parameters, and return this process's loss, a scalar.

        `batch` is this process's part, as [`PairLoader`] gives it, on the device of the model. The mean of the losses
        over the processes is the loss of the whole batch.
        """
        inputs = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        ids = {name: inputs.pop(name) for name in _ID_NAMES if name in inputs}
        if self.grad_cache is not None:
            return self.grad_cache.backward(inputs, **ids)
        # Through the wrapper, whose forward and backward keep the processes in step.
        output = self.model(**inputs, return_logits=False)
        loss = self._loss(output.image_embeds, output.text_embeds, *self._scalars(), **ids)
        self.accelerator.backward(loss)
        return loss.detach()
