# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The loss of a batch as an object: what it takes of the batch, and what it computes from the embeddings."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from ..model.loss_clip_hf import contrastive_loss, sigmoid_loss
from ..model.modeling_clip_hf import ClipHFModel
from ..model.video_loss_clip_hf import same_label_loss


class PairLoss(nn.Module):
    """The loss of a batch of pairs over all processes; a new loss is a subclass and a line in `build_pair_loss`.

    A subclass has

    - `batch_names`: names of a batch's tensors that `forward` takes as keywords, where the batch has them. They may
      be inputs of the model, too, such as `pixel_values` for a teacher;
    - `allows_grad_cache`: whether it is a function of the embeddings of the batch's pairs, so that [`GradCache`] gives
      its gradient;
    - perhaps parameters of its own, such as a projection. The training gives them to the optimiser, averages their
      gradients over the processes and keeps them in checkpoints; they are not saved with the model. Modules that are
      not trained, such as a teacher, must not be registered: hold them in a tuple.

    `forward(image_embeds, text_embeds, *scalars, **extras)` takes this process's L2-normalised embeddings, the model's
    multiplier `exp(logit_scale)` and, where it has one, its `logit_bias`, and what `batch_names` says. It returns a
    scalar, whose mean over the processes is the loss of the whole batch.
    """

    batch_names: tuple[str, ...] = ("image_ids", "text_ids")
    allows_grad_cache: bool = True

    def model_inputs(self, inputs: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The inputs of the model for those of a batch; a loss may put other texts in their place."""
        return inputs


class SoftmaxLoss(PairLoss):
    """[`contrastive_loss`] with the negatives of all processes.

    Args:
        label_smoothing (`float`, *optional*, defaults to 0.0): Share of the targets that is spread over all pairs.
        chunk_size (`int`, *optional*): Rows of the similarity matrix in memory at a time; by default the loss chooses
            by the size of the batch.
    """

    def __init__(self, label_smoothing: float = 0.0, chunk_size: int | None = None):
        super().__init__()
        self.options = {"label_smoothing": label_smoothing, "chunk_size": chunk_size or "auto", "gather": True}

    def forward(
        self, images: torch.Tensor, texts: torch.Tensor, *scalars: torch.Tensor, **ids: torch.Tensor
    ) -> torch.Tensor:
        """The loss of these pairs of this process, a scalar."""
        return contrastive_loss(images, texts, *scalars, **self.options, **ids)


class SigmoidLoss(PairLoss):
    """[`sigmoid_loss`] with the negatives of all processes, for models with a `logit_bias`; `chunk_size` is that of
    [`SoftmaxLoss`].
    """

    def __init__(self, chunk_size: int | None = None):
        super().__init__()
        self.options = {"chunk_size": chunk_size or "auto", "gather": True}

    def forward(
        self, images: torch.Tensor, texts: torch.Tensor, *scalars: torch.Tensor, **ids: torch.Tensor
    ) -> torch.Tensor:
        """The loss of these pairs of this process, a scalar."""
        return sigmoid_loss(images, texts, *scalars, **self.options, **ids)


class SameLabelLoss(PairLoss):
    """[`same_label_loss`]: pairs of one `text_ids`, whose captions are equal, have one label.

    Args:
        target_scale (`float`): Multiplier of the same-label matrix whose softmax is the targets.
    """

    batch_names = ("text_ids",)

    def __init__(self, target_scale: float):
        super().__init__()
        self.target_scale = target_scale

    def forward(
        self, images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor, *, text_ids: torch.Tensor
    ) -> torch.Tensor:
        """The loss of these pairs of this process, a scalar."""
        return same_label_loss(
            images, texts, logit_scale, labels=text_ids, target_scale=self.target_scale, gather=True
        )


class LossChoices(Protocol):
    """The options that [`build_pair_loss`] reads, such as a [`TrainingOptions`]."""

    loss: str
    label_smoothing: float
    loss_chunk_size: int | None
    target_scale: float


# The loss by its option's value, for models without a logit bias.
_BUILDERS: dict[str, Callable[[Any, ClipHFModel], PairLoss]] = {
    "softmax": lambda options, clip: SoftmaxLoss(options.label_smoothing, options.loss_chunk_size),
    "same_label": lambda options, clip: SameLabelLoss(options.target_scale),
}
_OF_A_BIAS = ("softmax", "sigmoid")


def build_pair_loss(options: LossChoices, clip: ClipHFModel) -> PairLoss:
    """Build the loss that the options of a training name.

    A model with a `logit_bias` is trained with the sigmoid loss, whether `loss` is `"sigmoid"` or `"softmax"`.

    Args:
        options ([`TrainingOptions`]): The options of the training.
        clip ([`ClipHFModel`]): The model to train, not wrapped.

    Raises:
        ValueError: if the loss does not fit the model.
    """
    if clip.logit_bias is None:
        # The sigmoid loss of a model without a bias: it was pretrained with the softmax loss, and goes on with it.
        return _BUILDERS["softmax" if options.loss == "sigmoid" else options.loss](options, clip)
    if options.loss not in _OF_A_BIAS:
        raise ValueError(
            f"The loss is `{options.loss}`, and the model has a `logit_bias`: it is one of the sigmoid loss, and can "
            "only be trained with that."
        )
    if options.label_smoothing:
        raise ValueError(
            f"`label_smoothing` is {options.label_smoothing}, and the model has a `logit_bias`: it is trained "
            "with the sigmoid loss, which has no label smoothing; leave it out."
        )
    return SigmoidLoss(options.loss_chunk_size)
