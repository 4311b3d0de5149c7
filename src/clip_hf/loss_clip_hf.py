# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The contrastive loss of CLIP, over one process's batch or over all processes'."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class _GatherWithGrad(torch.autograd.Function):
    """Concatenate a tensor over all processes; the gradient of a process's part is summed over all processes."""

    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        ctx.batch_size = tensor.shape[0]
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        # gloo has no reduce-scatter for every type; an all-reduce and a slice is the same sum everywhere.
        grad = grad.contiguous()
        dist.all_reduce(grad)
        start = dist.get_rank() * ctx.batch_size
        return grad[start : start + ctx.batch_size]


def _in_process_group() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather_with_grad(tensor: torch.Tensor) -> torch.Tensor:
    """
    Concatenate a tensor over all processes, with gradient.

    The gradient that reaches a process's own part is the sum over the losses of all processes. With gradients averaged
    over processes afterwards, as `DistributedDataParallel` does, the mean of the processes' losses is differentiated
    exactly.

    Args:
        tensor (`torch.Tensor` of shape `(batch, ...)`):
            This process's part; of one shape on all processes.

    Returns:
        `torch.Tensor` of shape `(processes * batch, ...)`: the parts in the order of the ranks; `tensor` itself
        where there is one process only.

    Raises:
        ValueError: if the processes' parts differ in shape. Every process raises it.
    """
    if not _in_process_group():
        return tensor
    shape = torch.tensor(tensor.shape, device=tensor.device)
    shapes = [torch.empty_like(shape) for _ in range(dist.get_world_size())]
    dist.all_gather(shapes, shape)
    shapes = torch.stack(shapes).tolist()
    if any(other != shapes[0] for other in shapes):
        raise ValueError(
            f"The processes' batches have the shapes {shapes}; they must all have one shape. Give every process "
            "batches of one size (drop_last=True in the data loader)."
        )
    return _GatherWithGrad.apply(tensor)


@dataclass
class _Rows:
    """What the similarities of a batch's own rows with all columns need."""

    logit_scale: torch.Tensor
    first_label: int  # the column that row 0 is paired with
    row_ids: list[torch.Tensor]  # each (rows,)
    column_ids: list[torch.Tensor]  # each (columns,)

    def cross_entropy(self, rows: torch.Tensor, columns: torch.Tensor, start: int) -> torch.Tensor:
        """Sum of the cross-entropies of `rows` (n, dim), the first of which is row `start`, over `columns`."""
        logits = self.logit_scale * (rows @ columns.T)  # (n, columns)
        index = torch.arange(start, start + len(rows), device=rows.device)
        labels = self.first_label + index
        if not self.row_ids:
            return F.cross_entropy(logits, labels, reduction="sum")
        positive = F.one_hot(labels, len(columns)).bool()
        for row_ids, column_ids in zip(self.row_ids, self.column_ids, strict=True):
            positive |= row_ids[index, None] == column_ids[None]
        positive = positive.to(logits.dtype)
        targets = positive / positive.sum(dim=1, keepdim=True)  # (n, columns), each row sums to 1
        return F.cross_entropy(logits, targets, reduction="sum")

    def mean_cross_entropy(self, rows: torch.Tensor, columns: torch.Tensor, chunk_size: int | None) -> torch.Tensor:
        """Mean of the cross-entropies of all `rows`, with at most `chunk_size` rows of logits in memory at a time."""
        if chunk_size is None or chunk_size >= len(rows):
            return self.cross_entropy(rows, columns, 0) / len(rows)
        total = rows.new_zeros(())
        for start in range(0, len(rows), chunk_size):
            chunk = rows[start : start + chunk_size]
            total = total + checkpoint(self.cross_entropy, chunk, columns, start, use_reentrant=False)
        return total / len(rows)


def _check_arguments(image_embeds, text_embeds, chunk_size, ids: dict[str, torch.Tensor | None]) -> None:
    if image_embeds.ndim != 2 or image_embeds.shape != text_embeds.shape:
        raise ValueError(
            f"`image_embeds` has the shape {tuple(image_embeds.shape)} and `text_embeds` {tuple(text_embeds.shape)}; "
            "both must be (batch, dim), row i of the one paired with row i of the other."
        )
    if len(image_embeds) == 0:
        raise ValueError("The batch is empty; the loss needs at least one pair.")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"`chunk_size` is {chunk_size}; it must be at least 1, or None for no chunks.")
    for name, value in ids.items():
        if value is not None and value.shape != image_embeds.shape[:1]:
            raise ValueError(
                f"`{name}` has the shape {tuple(value.shape)}; it must be {(len(image_embeds),)}: one id a pair."
            )


def contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    chunk_size: int | None = None,
    gather: bool = False,
    image_ids: torch.Tensor | None = None,
    text_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    The symmetric contrastive loss (Radford et al. 2021, section 2.3 and figure 3): the mean of the cross-entropies
    over the rows and over the columns of the similarities, whose targets are on the diagonal.

    Over several processes (`gather=True`), each computes the rows of its own batch against the embeddings of all
    (section 2.5), and returns the mean over its own rows. The mean of the processes' losses is the loss of the
    concatenated batch; averaging the processes' gradients, as `DistributedDataParallel` does, gives its gradient.

    Args:
        image_embeds (`torch.Tensor` of shape `(batch, dim)`):
            L2-normalised image embeddings.
        text_embeds (`torch.Tensor` of shape `(batch, dim)`):
            L2-normalised text embeddings, row i paired with row i of `image_embeds`.
        logit_scale (`torch.Tensor`, scalar):
            The multiplier of the cosines (not its logarithm).
        chunk_size (`int`, *optional*):
            Rows of the similarities in memory at a time; they are computed again in the backward pass. By default all.
        gather (`bool`, *optional*, defaults to `False`):
            Whether the negatives come from all processes of the process group, with gradient.
        image_ids, text_ids (`torch.Tensor` of shape `(batch,)`, integer, *optional*):
            Pairs that share an image id or a text id are positives of each other: the target is uniform over them.

    Returns:
        `torch.Tensor`, a scalar of dtype float32, or float64 for float64 embeddings.

    Raises:
        ValueError: if the shapes do not fit together, the batch is empty, or the processes' batches differ in size.
    """
    _check_arguments(image_embeds, text_embeds, chunk_size, {"image_ids": image_ids, "text_ids": text_ids})
    # Half-precision logits would lose what distinguishes hard negatives, under autocast too.
    dtype = torch.promote_types(image_embeds.dtype, torch.float32)
    with torch.autocast(image_embeds.device.type, enabled=False):
        images, texts = image_embeds.to(dtype), text_embeds.to(dtype)
        logit_scale = torch.as_tensor(logit_scale, device=images.device).to(dtype).reshape(())
        ids = [value.to(images.device) for value in (image_ids, text_ids) if value is not None]
        gather = gather and _in_process_group()
        rows = _Rows(
            logit_scale=logit_scale,
            first_label=dist.get_rank() * len(images) if gather else 0,
            row_ids=ids,
            column_ids=[gather_with_grad(value) for value in ids] if gather else ids,
        )
        if gather:
            columns = gather_with_grad(torch.cat([images, texts], dim=1))  # one exchange for both
            all_images, all_texts = columns.split(images.shape[1], dim=1)
        else:
            all_images, all_texts = images, texts
        loss_per_image = rows.mean_cross_entropy(images, all_texts, chunk_size)
        loss_per_text = rows.mean_cross_entropy(texts, all_images, chunk_size)
        return (loss_per_image + loss_per_text) / 2


__all__ = ["contrastive_loss", "gather_with_grad"]
