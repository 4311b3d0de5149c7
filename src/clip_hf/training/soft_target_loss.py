# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A contrastive loss whose targets are similarities: of label vectors, of another model, or of several.

Shapes: n pairs of this process, N pairs of all processes (n where there is one), dim the width of the embeddings, k
that of what the targets come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..model.checks_clip_hf import type_of
from ..model.loss_clip_hf import check_pairs, gather_with_grad, in_loss_dtype
from ..model.video_loss_clip_hf import mean_divergence


@dataclass(frozen=True)
class SoftTargets:
    """Vectors of a batch's pairs, whose similarities are targets.

    - Label vectors: `images` and `texts` are both the pairs' L2-normalised vectors, as in MedCLIP (Wang et al. 2022,
      which has no multiplier, so that its targets are nearly uniform).
    - A teacher: its embeddings of the images and the texts, and its own `exp(logit_scale)`.
    - Another model's similarities of texts: both are its embeddings of the texts.

    Args:
        images (`torch.Tensor` of shape `(n, k)`): A vector for each image of this process.
        texts (`torch.Tensor` of shape `(n, k)`): A vector for each text.
        scale (`float` or `torch.Tensor` of one value): The multiplier of their products, finite and at least 0.

    Raises:
        TypeError: if `images` or `texts` is no tensor of floating-point numbers, or `scale` no number.
        ValueError: if their shapes differ or are not `(n, k)`, or `scale` is out of its range.
    """

    images: torch.Tensor
    texts: torch.Tensor
    scale: float | torch.Tensor

    def __post_init__(self):
        for name in ("images", "texts"):
            if not isinstance(getattr(self, name), torch.Tensor):
                raise TypeError(f"`{name}` of `SoftTargets` is {type_of(getattr(self, name))}; it must be a tensor.")
            if not getattr(self, name).is_floating_point():
                dtype = getattr(self, name).dtype
                raise TypeError(f"`{name}` of `SoftTargets` is of {dtype}; it must be of floating-point numbers.")
        if self.images.ndim != 2 or self.images.shape != self.texts.shape:
            raise ValueError(
                f"`images` of `SoftTargets` has the shape {tuple(self.images.shape)} and `texts` "
                f"{tuple(self.texts.shape)}; both must be (pairs, width): a vector of one width for each."
            )
        try:
            scale = float(torch.as_tensor(self.scale).detach())
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(
                f"`scale` of `SoftTargets` is {self.scale!r:.60}; it must be a number, or a tensor of one."
            ) from None
        if not 0 <= scale < float("inf"):
            # Rounding would decide which of equal similarities is the largest.
            raise ValueError(
                f"`scale` of `SoftTargets` is {scale}; it must be finite and at least 0. For targets that "
                "are uniform over equal labels, use `same_label_loss`, or a large scale such as 1000."
            )

    def probabilities(self, dtype: torch.dtype, device: torch.device, gather: bool) -> tuple[torch.Tensor, ...]:
        """The targets of this process's images over all texts, and of its texts over all images, both `(n, N)`."""
        images, texts = (vectors.detach().to(device, dtype) for vectors in (self.images, self.texts))
        all_images, all_texts = images, texts
        if gather:
            all_images, all_texts = gather_with_grad(torch.cat([images, texts], dim=1)).split(images.shape[1], dim=1)
        scale = torch.as_tensor(self.scale).detach().to(device, dtype).reshape(())
        return (scale * (images @ all_texts.T)).softmax(dim=1), (scale * (texts @ all_images.T)).softmax(dim=1)


def soft_target_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    targets: Sequence[SoftTargets],
    gather: bool = False,
) -> torch.Tensor:
    """The Kullback-Leibler divergence of the softmax of the logits from soft targets, over the rows and over the
    columns, each the mean over the batch, and the mean of both.

    The target of a row is the mean over `targets` of `softmax(scale * images @ texts.T)` over the batch: of several
    teachers the probabilities are averaged, not the logits (MobileCLIP, Vasu et al. 2024). It is the
    cross-entropy less the targets' entropy, a constant: 0 where the model fits them, with the cross-entropy's
    gradient. With targets of 1 on the diagonal it is [`contrastive_loss`]. Memory grows with n * N.

    Args:
        image_embeds (`torch.Tensor` of shape `(n, dim)`): L2-normalised image embeddings.
        text_embeds (`torch.Tensor` of shape `(n, dim)`): L2-normalised embeddings of their texts, row by row.
        logit_scale (`torch.Tensor`, scalar): The multiplier of the cosines (not its logarithm).
        targets (`Sequence[SoftTargets]`): One or more, each with n vectors. They get no gradient.
        gather (`bool`, *optional*, defaults to `False`): Whether the batch is that of all processes of the process
            group, with gradient, as in [`contrastive_loss`]: each process returns the mean over its own pairs.

    Returns:
        `torch.Tensor`, a scalar of dtype float32, or float64 for float64 embeddings; half precision is promoted first.

    Raises:
        ValueError: if the shapes do not fit together, the batch is empty, there are no targets, or the processes'
            batches differ in size.
        TypeError: if embeddings are no tensors, or `targets` are no sequence of [`SoftTargets`].
    """
    for name, value in (("image_embeds", image_embeds), ("text_embeds", text_embeds)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"`{name}` is {type_of(value)}; it must be a tensor.")
    check_pairs(image_embeds, text_embeds)
    is_sequence = isinstance(targets, Sequence)
    wrong = [each for each in targets if not isinstance(each, SoftTargets)] if is_sequence else [targets]
    if wrong:
        where = "has" if is_sequence else "is"
        raise TypeError(f"`targets` {where} {type_of(wrong[0])}; give a list of `SoftTargets`.")
    if not targets:
        raise ValueError("`targets` is empty; give at least one `SoftTargets`.")
    for number, each in enumerate(targets):
        if len(each.images) != len(image_embeds):
            raise ValueError(
                f"`targets[{number}]` has {len(each.images)} vectors for a batch of {len(image_embeds)} pairs; give "
                "one for each pair."
            )
    with torch.autocast(image_embeds.device.type, enabled=False):
        images, texts, scale = in_loss_dtype(image_embeds, image_embeds, text_embeds, logit_scale)
        all_images, all_texts = images, texts
        if gather:
            all_images, all_texts = gather_with_grad(torch.cat([images, texts], dim=1)).split(images.shape[1], dim=1)
        each = [one.probabilities(images.dtype, images.device, gather) for one in targets]
        of_images, of_texts = (torch.stack(parts).mean(dim=0) for parts in zip(*each, strict=True))
        per_image = mean_divergence(images, all_texts, scale, of_images)
        return (per_image + mean_divergence(texts, all_images, scale, of_texts)) / 2
