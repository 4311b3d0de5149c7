# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The loss of ActionCLIP, for pairs of which several in a batch have one label.

Shapes: n pairs of this process, N pairs of all processes (n where there is one), dim the width of the embeddings.
"""

from numbers import Real

import torch
from torch.nn import functional as F

from .checks_clip_hf import type_of
from .loss_clip_hf import gather_with_grad


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
    _check(image_embeds, text_embeds, labels, target_scale)
    with torch.autocast(image_embeds.device.type, enabled=False):
        # Half-precision logits would lose what distinguishes hard negatives.
        dtype = torch.promote_types(image_embeds.dtype, torch.float32)
        device = image_embeds.device
        images, texts, scale = (
            torch.as_tensor(x, device=device).to(dtype) for x in (image_embeds, text_embeds, logit_scale)
        )
        labels = labels.to(device)
        all_images, all_texts, all_labels = images, texts, labels
        if gather:
            all_images, all_texts = gather_with_grad(torch.cat([images, texts], dim=1)).split(images.shape[1], dim=1)
            all_labels = gather_with_grad(labels)
        targets = _log_targets(labels[:, None] == all_labels[None], target_scale, dtype)
        scale = scale.reshape(())
        return (_divergence(images, all_texts, scale, targets) + _divergence(texts, all_images, scale, targets)) / 2


def _log_targets(same: torch.Tensor, target_scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Logarithms of the targets of `same` (n, N): each row's exponentials sum to 1."""
    # Positives at 0 and negatives at -scale: the same softmax as scale and 0, and finite where the scale is not.
    logits = torch.zeros(same.shape, dtype=dtype, device=same.device).masked_fill(~same, -target_scale)
    return logits.log_softmax(dim=1)


def _divergence(
    rows: torch.Tensor, columns: torch.Tensor, scale: torch.Tensor, log_targets: torch.Tensor
) -> torch.Tensor:
    """Mean over `rows` (n, dim) of KL(target || softmax of the logits over `columns` (N, dim))."""
    log_probabilities = F.log_softmax(scale * (rows @ columns.T), dim=1)  # (n, N)
    targets = log_targets.exp()
    # Where a target is 0, its term is 0, whatever its logarithm.
    terms = targets * (log_targets.masked_fill(targets == 0, 0.0) - log_probabilities)
    return terms.sum(dim=1).mean()


def _check(images: torch.Tensor, texts: torch.Tensor, labels: torch.Tensor, target_scale: float) -> None:
    if images.ndim != 2 or images.shape != texts.shape:
        raise ValueError(
            f"`image_embeds` has the shape {tuple(images.shape)} and `text_embeds` {tuple(texts.shape)}; both must be "
            "(batch, dim), row i of the one paired with row i of the other."
        )
    if len(images) == 0:
        raise ValueError("The batch is empty; the loss needs at least one pair.")
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
