# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The loss of ActionCLIP, for pairs of which several in a batch have one label.

Shapes: n pairs of this process, N pairs of all processes (n where there is one), dim the width of the embeddings.
"""

from numbers import Real

import torch
from torch.nn import functional as F

from .checks_clip_hf import type_of
from .loss_clip_hf import check_pairs, gather_with_grad, in_loss_dtype


def same_label_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    labels: torch.Tensor,
    target_scale: float = 10.0,
    gather: bool = False,
) -> torch.Tensor:
    """ActionCLIP's loss (Wang et al. 2021, section 3.2): the Kullback-Leibler divergence of the softmax of the logits
    from the softmax of the same-label matrix, over the rows and over the columns, each the mean over the batch, and
    the mean of both.

    The target of a row is `softmax(target_scale * same)`, where `same` is 1 for pairs of its label and 0 for others.
    With 10, as in the released code, m positives among N share `m e^10 / (m e^10 + N - m)` of it: with N in the
    hundreds about 1% is left to the others. It is the mean of the cross-entropies to these targets less the targets'
    entropy, a constant of the labels. So it is 0 where the model fits the targets, and has the cross-entropy's
    gradient. `target_scale=float("inf")` spreads the target over the positives only; with all labels different that
    is [`contrastive_loss`].

    Args:
        image_embeds (`torch.Tensor` of shape `(n, dim)`): L2-normalised embeddings of clips or images.
        text_embeds (`torch.Tensor` of shape `(n, dim)`): L2-normalised embeddings of their texts, row by row.
        logit_scale (`torch.Tensor`, scalar): The multiplier of the cosines (not its logarithm).
        labels (`torch.Tensor` of shape `(n,)`, integer): The class of each pair.
        target_scale (`float`, *optional*, defaults to 10.0): The multiplier of the same-label matrix; at least 0.
        gather (`bool`, *optional*, defaults to `False`): Whether the batch is that of all processes of the process
            group, with gradient, as in [`contrastive_loss`]: each process returns the mean over its own pairs.

    Returns:
        `torch.Tensor`, a scalar of dtype float32, or float64 for float64 embeddings.

    Raises:
        TypeError: if `labels` is no tensor.
        ValueError: if the shapes do not fit together, the batch is empty, `target_scale` is negative or no number, or
            the processes' batches differ in size.
    """
    check_pairs(image_embeds, text_embeds)
    _check(image_embeds, labels, target_scale)
    with torch.autocast(image_embeds.device.type, enabled=False):
        images, texts, scale = in_loss_dtype(image_embeds, image_embeds, text_embeds, logit_scale)
        labels = labels.to(images.device)
        all_images, all_texts, all_labels = images, texts, labels
        if gather:
            all_images, all_texts = gather_with_grad(torch.cat([images, texts], dim=1)).split(images.shape[1], dim=1)
            all_labels = gather_with_grad(labels)
        targets = _targets(labels[:, None] == all_labels[None], target_scale, images.dtype)
        per_image = mean_divergence(images, all_texts, scale, targets)
        return (per_image + mean_divergence(texts, all_images, scale, targets)) / 2


def _targets(same: torch.Tensor, target_scale: float, dtype: torch.dtype) -> torch.Tensor:
    """The targets of `same` (n, N): each row sums to 1."""
    # Positives at 0 and negatives at -scale: the same softmax as scale and 0, and finite where the scale is not.
    logits = torch.zeros(same.shape, dtype=dtype, device=same.device).masked_fill(~same, -target_scale)
    return logits.softmax(dim=1)


def mean_divergence(
    rows: torch.Tensor, columns: torch.Tensor, logit_scale: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Mean over rows of the Kullback-Leibler divergence of the softmax of their logits from their targets.

    Args:
        rows (`torch.Tensor` of shape `(n, dim)`): L2-normalised embeddings.
        columns (`torch.Tensor` of shape `(N, dim)`): Those that they are compared with.
        logit_scale (`torch.Tensor` of one value): The multiplier of the cosines.
        targets (`torch.Tensor` of shape `(n, N)`): Each row sums to 1; a target of 0 is a term of 0.

    Returns:
        `torch.Tensor`, a scalar: the mean cross-entropy less the mean entropy of the targets.
    """
    log_probabilities = F.log_softmax(logit_scale.reshape(()) * (rows @ columns.T), dim=1)  # (n, N)
    return (torch.xlogy(targets, targets) - targets * log_probabilities).sum(dim=1).mean()


def _check(images: torch.Tensor, labels: torch.Tensor, target_scale: float) -> None:
    if not isinstance(labels, torch.Tensor):
        raise TypeError(
            f"`labels` is {type_of(labels)}; it must be a tensor of integers, such as `torch.tensor([0, 1])`."
        )
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"`labels` has the shape {tuple(labels.shape)} and dtype {labels.dtype}; it must be {(len(images),)} of "
            "integers: one class a pair."
        )
    if not isinstance(target_scale, Real) or not target_scale >= 0:
        raise ValueError(
            f"`target_scale` is {target_scale!r}; it must be a number of at least 0 (the paper's code: 10)."
        )
