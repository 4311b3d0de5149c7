# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Several texts for each image: their forward pass, and the losses of short captions and hard negatives.

Shapes: n pairs of this process, N pairs of all processes, T texts of a pair, M negatives of all processes' pairs, dim
the width of the embeddings.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from ..model.loss_clip_hf import gather_with_grad, in_loss_dtype


# The logit of a text that is no candidate: its probability is 0, and unlike with -inf no gradient is nan.
_NO_CANDIDATE = -1e30


def embed_pairs(
    model: nn.Module, inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Embeddings of images and texts in one forward pass of a model; None for what `inputs` lack.

    Args:
        model (`nn.Module`): A [`ClipHFModel`] as `accelerator.prepare` returned it.
        inputs (`Mapping[str, torch.Tensor]`): What its `forward` takes; `input_ids` and `attention_mask` may have a
            dimension for several texts of a pair, `(n, T, length)`. Texts that are masked throughout are not embedded.

    Returns:
        `tuple`: image embeddings `(n, dim)`, text embeddings `(n, dim)`, or `(n, T, dim)` with zeros for texts that
        are masked throughout.
    """
    input_ids = inputs.get("input_ids")
    if input_ids is None or input_ids.ndim == 2:
        output = model(**inputs, return_logits=False)
        return output.image_embeds, output.text_embeds
    present = inputs["attention_mask"].any(dim=-1)  # (n, T)
    texts = {name: inputs[name][present] for name in ("input_ids", "attention_mask")}
    output = model(**{**inputs, **texts}, return_logits=False)
    embeds = output.text_embeds
    whole = embeds.new_zeros(*present.shape, embeds.shape[-1])
    return output.image_embeds, whole.masked_scatter(present[..., None], embeds)


def negatives_term(
    images: torch.Tensor,
    texts: torch.Tensor,
    negatives: torch.Tensor,
    scalars: tuple[torch.Tensor, ...],
    ids: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """What hard negatives add to [`contrastive_loss`] or [`sigmoid_loss`]: they are further candidates of every image.

    As in NegCLIP (Yuksekgonul et al. 2023) all images of the batch see all negatives, and a text still sees the images
    only. The softmax of an image is over N + M texts, so that its cross-entropy grows by
    `softplus(logsumexp(negatives) - logsumexp(texts))`; its half is added. With a bias, each image with each negative
    is one more pair that is none.

    Args:
        images (`torch.Tensor` of shape `(n, dim)`): L2-normalised image embeddings.
        texts (`torch.Tensor` of shape `(n, dim)`): Those of the captions.
        negatives (`torch.Tensor` of shape `(n, most, dim)`): Those of the negatives.
        scalars (`tuple`): The multiplier of the cosines and, for the sigmoid loss, the bias.
        ids (`Mapping[str, torch.Tensor]`): `negative_ids` `(n, most)`, -1 where there is none, and `text_ids` `(n,)`.
            A negative that is a caption of the batch is left out: it is among the texts.

    Returns:
        `torch.Tensor`, a scalar of the dtype of the losses.
    """
    with torch.autocast(images.device.type, enabled=False):
        images, texts, negatives, *scalars = in_loss_dtype(images, images, texts, negatives, *scalars)
        negative_ids = ids["negative_ids"]
        most = torch.tensor(negative_ids.shape[1], device=images.device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
        missing = int(most) - negative_ids.shape[1]
        if int(most) == 0:
            return images.new_zeros(())
        # Processes gather equal shapes.
        negatives = gather_with_grad(F.pad(negatives, (0, 0, 0, missing))).flatten(0, 1)  # (M, dim)
        negative_ids = gather_with_grad(F.pad(negative_ids, (0, missing), value=-1)).flatten()
        is_none = (negative_ids == -1) | torch.isin(negative_ids, gather_with_grad(ids["text_ids"]))
        logits = scalars[0].reshape(()) * (images @ negatives.T)  # (n, M)
        if len(scalars) == 2:
            each = F.softplus(logits + scalars[1].reshape(()))
            return each.masked_fill(is_none, 0.0).sum() / len(images)
        logits = logits.masked_fill(is_none, _NO_CANDIDATE)
        of_texts = scalars[0].reshape(()) * (images @ gather_with_grad(texts).T)  # (n, N)
        return F.softplus(logits.logsumexp(dim=1) - of_texts.logsumexp(dim=1)).mean() / 2
