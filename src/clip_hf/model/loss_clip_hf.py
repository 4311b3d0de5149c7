# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The losses of CLIP and of SigLIP, over one process's batch or over all processes'.

Shapes: n pairs of this process, N pairs of all processes (n where there is one), dim the width of the embeddings. A
block is some of this process's images with all texts, (rows, N).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


# Similarities per block: few enough for a processor's cache, enough to keep a GPU busy.
_AUTO_BLOCK = {"cpu": 2**22, "cuda": 2**26}


class _GatherWithGrad(torch.autograd.Function):
    """Concatenate a tensor over all processes; the gradient of a process's part is summed over all processes."""

    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        ctx.batch_size = tensor.shape[0]
        return _gather(tensor)

    @staticmethod
    def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
        return _own_part_of_sum(grad, ctx.batch_size)


def _gather(tensor: torch.Tensor) -> torch.Tensor:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _own_part_of_sum(tensor: torch.Tensor, batch_size: int) -> torch.Tensor:
    # gloo has no reduce-scatter for every type; an all-reduce and a slice is the same sum everywhere.
    tensor = tensor.contiguous()
    dist.all_reduce(tensor)
    start = dist.get_rank() * batch_size
    return tensor[start : start + batch_size]


def _in_process_group() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _check_equal_shapes(tensor: torch.Tensor) -> None:
    shape = torch.tensor(tensor.shape, device=tensor.device)
    shapes = [torch.empty_like(shape) for _ in range(dist.get_world_size())]
    dist.all_gather(shapes, shape)
    shapes = torch.stack(shapes).tolist()
    if any(other != shapes[0] for other in shapes):
        raise ValueError(
            f"The processes' batches have the shapes {shapes}; they must all have one shape. Give every process "
            "batches of one size (drop_last=True in the data loader)."
        )


def gather_with_grad(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate a tensor over all processes, with gradient.

    The gradient that reaches a process's own part is the sum over the losses of all processes. With gradients averaged
    over processes afterwards, as `DistributedDataParallel` does, the mean of the processes' losses is differentiated
    exactly.

    Args:
        tensor (`torch.Tensor` of shape `(batch, ...)`): This process's part; of one shape on all processes.

    Returns:
        `torch.Tensor` of shape `(processes * batch, ...)`: the parts in the order of the ranks; `tensor` itself
        where there is one process only.

    Raises:
        ValueError: if the processes' parts differ in shape. Every process raises it.
    """
    if not _in_process_group():
        return tensor
    _check_equal_shapes(tensor)
    return _GatherWithGrad.apply(tensor)


@dataclass
class _Batch:
    """A batch's ids and processes, for a loss."""

    gather: bool
    row_ids: list[torch.Tensor]  # each (n,)
    column_ids: list[torch.Tensor]  # each (N,)
    label_smoothing: float = 0.0
    chunk_size: int | None = None
    first_column: int = 0  # the one that row 0 is paired with

    def positives(self, start: int, stop: int, num_columns: int, device: torch.device) -> torch.Tensor:
        """Which columns belong to the rows from `start` to `stop`: bool `(rows, N)`."""
        index = torch.arange(start, stop, device=device)
        positive = torch.zeros(len(index), num_columns, dtype=torch.bool, device=device)
        positive[index - start, self.first_column + index] = True
        for row_ids, column_ids in zip(self.row_ids, self.column_ids, strict=True):
            positive |= row_ids[start:stop, None] == column_ids[None]
        return positive

    def gathered(self, tensor: torch.Tensor) -> torch.Tensor:
        """The processes' tensors one after another, without gradient."""
        return _gather(tensor) if self.gather else tensor

    def sum_over_processes(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.gather:
            dist.all_reduce(tensor)
        return tensor

    def own_columns(self, num_rows: int) -> slice:
        return slice(self.first_column, self.first_column + num_rows)


# ------------------------------------------------------------------------------------------ the plain, dense reference


def _mean_cross_entropy(
    rows: torch.Tensor, columns: torch.Tensor, logit_scale: torch.Tensor, batch: _Batch
) -> torch.Tensor:
    """Mean of the cross-entropies of `rows` (n, dim) over `columns` (N, dim)."""
    logits = logit_scale * (rows @ columns.T)  # (n, N)
    if not batch.row_ids:
        labels = batch.first_column + torch.arange(len(rows), device=rows.device)
        return F.cross_entropy(logits, labels, label_smoothing=batch.label_smoothing)
    positive = batch.positives(0, len(rows), len(columns), rows.device).to(logits.dtype)
    targets = positive / positive.sum(dim=1, keepdim=True)  # (n, N), each row sums to 1
    return F.cross_entropy(logits, targets, label_smoothing=batch.label_smoothing)


def _dense_softmax(
    images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor, batch: _Batch
) -> torch.Tensor:
    all_images, all_texts = images, texts
    if batch.gather:
        both = _GatherWithGrad.apply(torch.cat([images, texts], dim=1))  # one exchange for both
        all_images, all_texts = both.split(images.shape[1], dim=1)
    loss_per_image = _mean_cross_entropy(images, all_texts, logit_scale, batch)
    loss_per_text = _mean_cross_entropy(texts, all_images, logit_scale, batch)
    return (loss_per_image + loss_per_text) / 2


def _dense_sigmoid(
    images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor, logit_bias: torch.Tensor, batch: _Batch
) -> torch.Tensor:
    all_texts = _GatherWithGrad.apply(texts) if batch.gather else texts
    logits = logit_scale * (images @ all_texts.T) + logit_bias  # (n, N)
    positive = batch.positives(0, len(images), len(all_texts), images.device)
    return -F.logsigmoid(torch.where(positive, logits, -logits)).sum() / len(images)


# -------------------------------------------------------------------------------------------- the same, block by block


class _Blocks:
    """The similarities of this process's images with all texts, a block at a time in memory that is used again."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor, chunk_size: int):
        self.images, self.texts, self.logit_scale = images, texts, logit_scale
        self.chunk_size = min(chunk_size, len(images))
        self.logits = images.new_empty(self.chunk_size, len(texts))
        self.scratch = torch.empty_like(self.logits)

    def __iter__(self) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Rows, their scaled cosines (rows, N), and as much memory to write into."""
        for start in range(0, len(self.images), self.chunk_size):
            rows = slice(start, min(start + self.chunk_size, len(self.images)))
            count = rows.stop - rows.start
            logits = torch.mm(self.images[rows] * self.logit_scale, self.texts.T, out=self.logits[:count])
            yield rows, logits, self.scratch[:count]


class _Gradients:
    """Gradients of the embeddings and of the scale, summed over blocks."""

    def __init__(self, blocks: _Blocks):
        self.blocks = blocks
        self.images = torch.empty_like(blocks.images)
        self.texts = torch.zeros_like(blocks.texts)
        self.logit_scale = torch.zeros_like(blocks.logit_scale)

    def add(self, rows: slice, grad_logits: torch.Tensor) -> None:
        """Take in a block: the gradient of its scaled cosines, (rows, N)."""
        blocks = self.blocks
        images = blocks.images[rows]
        grad_images = torch.mm(grad_logits, blocks.texts, out=self.images[rows])
        self.logit_scale += (grad_images * images).sum()
        grad_images *= blocks.logit_scale
        self.texts.addmm_(grad_logits.T, images * blocks.logit_scale)

    def of_inputs(self, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        texts = _own_part_of_sum(self.texts, len(self.images)) if batch.gather else self.texts
        return self.images, texts, self.logit_scale


class _ChunkedSoftmax(torch.autograd.Function):
    """The symmetric cross-entropy from one pass over the blocks, which serves the rows and the columns.

    A process needs no other's images: what the columns lack are the sums over them, (N,) numbers, which the processes
    exchange. The backward pass computes each block once more.
    """

    @staticmethod
    def forward(ctx, images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor, batch: _Batch):
        all_texts = batch.gathered(texts)
        count, total = len(images), len(all_texts)
        row_lse, row_targets, row_counts = images.new_empty(3, count).unbind()
        column_max = images.new_full((total,), -torch.inf)
        column_sum, column_targets = images.new_zeros(2, total).unbind()
        smoothing = batch.label_smoothing
        for rows, logits, scratch in _Blocks(images, all_texts, logit_scale, batch.chunk_size):
            highest = logits.amax(dim=1, keepdim=True)
            torch.sub(logits, highest, out=scratch).exp_()
            row_lse[rows] = scratch.sum(dim=1).log_().add_(highest[:, 0])
            highest = torch.maximum(column_max, logits.amax(dim=0))
            torch.sub(logits, highest, out=scratch).exp_()
            column_sum = column_sum.mul_((column_max - highest).exp_()).add_(scratch.sum(dim=0))
            column_max = highest
            if batch.row_ids:
                positive = batch.positives(rows.start, rows.stop, total, images.device)
                row_counts[rows] = positive.sum(dim=1).to(images.dtype)
                positive_logits = torch.mul(logits, positive, out=scratch)
                row_targets[rows] = positive_logits.sum(dim=1) / row_counts[rows]
                column_targets += positive_logits.sum(dim=0)
        highest = column_max.clone()
        if batch.gather:
            dist.all_reduce(highest, op=dist.ReduceOp.MAX)
        column_sum = batch.sum_over_processes(column_sum * (column_max - highest).exp())
        column_lse = column_sum.log_().add_(highest)
        local_columns = batch.own_columns(count)
        if batch.row_ids:
            # Who belongs to whom is mutual, so a row's count is its column's, too.
            column_counts = batch.gathered(row_counts)
            column_targets = batch.sum_over_processes(column_targets)[local_columns] / column_counts[local_columns]
        else:
            column_counts = None
            row_targets = column_targets = logit_scale * (images * texts).sum(dim=1)
        targets = (row_targets.mean() + column_targets.mean()) * (1 - smoothing)
        if smoothing:
            all_images_sum = batch.sum_over_processes(images.sum(dim=0))
            uniform_rows = logit_scale * (images @ all_texts.sum(dim=0)).mean() / total
            uniform_columns = logit_scale * (texts @ all_images_sum).mean() / total
            targets = targets + smoothing * (uniform_rows + uniform_columns)
        ctx.batch = batch
        ctx.save_for_backward(images, all_texts, logit_scale, row_lse, column_lse, column_counts)
        return (row_lse.mean() + column_lse[local_columns].mean() - targets) / 2

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor):
        batch: _Batch = ctx.batch
        images, all_texts, logit_scale, row_lse, column_lse, counts = ctx.saved_tensors
        count, total = len(images), len(all_texts)
        row_weight = grad / (2 * count)  # of each of this process's rows in its loss
        # A column counts in the loss of the process that has its text.
        column_weights = batch.gathered(grad.reshape(1)).repeat_interleave(count) / (2 * count)
        smoothing = batch.label_smoothing
        gradients = _Gradients(_Blocks(images, all_texts, logit_scale, batch.chunk_size))
        for rows, logits, scratch in gradients.blocks:
            torch.sub(logits, row_lse[rows, None], out=scratch).exp_().mul_(row_weight)
            logits.sub_(column_lse).exp_().mul_(column_weights).add_(scratch)
            if batch.row_ids:
                positive = batch.positives(rows.start, rows.stop, total, images.device)
                own_counts = counts[batch.own_columns(count)][rows, None]
                torch.add(row_weight / own_counts, column_weights / counts, out=scratch)
                logits.addcmul_(scratch, positive.to(logits.dtype), value=smoothing - 1)
            else:
                columns = batch.first_column + torch.arange(rows.start, rows.stop, device=images.device)
                weights = row_weight + column_weights[columns]
                logits[columns - columns[0], columns] -= (1 - smoothing) * weights
            if smoothing:
                logits -= (row_weight + column_weights) * (smoothing / total)
            gradients.add(rows, logits)
        return *gradients.of_inputs(batch), None


class _ChunkedSigmoid(torch.autograd.Function):
    """The sum over all pairs of the logistic loss; each process has the rows of its images."""

    @staticmethod
    def forward(ctx, images, texts, logit_scale, logit_bias, batch: _Batch):
        all_texts = batch.gathered(texts)
        total = images.new_zeros(())
        for rows, logits, scratch in _Blocks(images, all_texts, logit_scale, batch.chunk_size):
            positive = batch.positives(rows.start, rows.stop, len(all_texts), images.device)
            torch.neg(logits.add_(logit_bias), out=scratch)
            total -= F.logsigmoid(torch.where(positive, logits, scratch)).sum()
        ctx.batch = batch
        ctx.save_for_backward(images, all_texts, logit_scale, logit_bias)
        return total / len(images)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: torch.Tensor):
        batch: _Batch = ctx.batch
        images, all_texts, logit_scale, logit_bias = ctx.saved_tensors
        gradients = _Gradients(_Blocks(images, all_texts, logit_scale, batch.chunk_size))
        grad_bias = torch.zeros_like(logit_bias)
        for rows, logits, _ in gradients.blocks:
            positive = batch.positives(rows.start, rows.stop, len(all_texts), images.device)
            logits.add_(logit_bias).sigmoid_().sub_(positive.to(logits.dtype)).mul_(grad / len(images))
            grad_bias += logits.sum()
            gradients.add(rows, logits)
        of_images, of_texts, of_scale = gradients.of_inputs(batch)
        return of_images, of_texts, of_scale, grad_bias, None


# ------------------------------------------------------------------------------------------------- what users call


def _describe_batch(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    chunk_size: int | Literal["auto"] | None,
    gather: bool,
    ids: dict[str, torch.Tensor | None],
    label_smoothing: float = 0.0,
) -> _Batch:
    """Check the arguments of a loss, and put them into one object."""
    check_pairs(image_embeds, text_embeds)
    if chunk_size is not None and chunk_size != "auto" and (not isinstance(chunk_size, int) or chunk_size < 1):
        raise ValueError(
            f"`chunk_size` is {chunk_size!r}; it must be a number of rows, at least 1, 'auto', or None for no chunks."
        )
    for name, value in ids.items():
        if value is not None and value.shape != image_embeds.shape[:1]:
            raise ValueError(
                f"`{name}` has the shape {tuple(value.shape)}; it must be {(len(image_embeds),)}: one id a pair."
            )
    gather = gather and _in_process_group()
    if gather:
        _check_equal_shapes(image_embeds)
    row_ids = [value.to(image_embeds.device) for value in ids.values() if value is not None]
    count = len(image_embeds)
    if chunk_size == "auto":
        total = count * (dist.get_world_size() if gather else 1)
        chunk_size = max(1, _AUTO_BLOCK.get(image_embeds.device.type, _AUTO_BLOCK["cpu"]) // total)
    return _Batch(
        gather=gather,
        row_ids=row_ids,
        column_ids=[_gather(value) for value in row_ids] if gather else row_ids,
        label_smoothing=label_smoothing,
        chunk_size=chunk_size,
        first_column=dist.get_rank() * count if gather else 0,
    )


def check_pairs(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> None:
    """Raise a `ValueError` if embeddings are not those of pairs, `(batch, dim)` both, or the batch is empty."""
    if image_embeds.ndim != 2 or image_embeds.shape != text_embeds.shape:
        raise ValueError(
            f"`image_embeds` has the shape {tuple(image_embeds.shape)} and `text_embeds` {tuple(text_embeds.shape)}; "
            "both must be (batch, dim), row i of the one paired with row i of the other."
        )
    if len(image_embeds) == 0:
        raise ValueError("The batch is empty; the loss needs at least one pair.")


def in_loss_dtype(like: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """The tensors on the device of `like`, in its dtype, which half precision leaves for float32."""
    # Half-precision logits would lose what distinguishes hard negatives.
    dtype = torch.promote_types(like.dtype, torch.float32)
    return [torch.as_tensor(tensor, device=like.device).to(dtype) for tensor in tensors]


def contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    chunk_size: int | Literal["auto"] | None = None,
    gather: bool = False,
    image_ids: torch.Tensor | None = None,
    text_ids: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The symmetric contrastive loss (Radford et al. 2021, section 2.3 and figure 3): the mean of the cross-entropies
    over the rows and over the columns of the similarities, whose targets are on the diagonal.

    Over several processes (`gather=True`), each computes the similarities of its own batch with the embeddings of all
    (section 2.5), and returns the mean over its own pairs. The mean of the processes' losses is the loss of the
    concatenated batch; averaging the processes' gradients, as `DistributedDataParallel` does, gives its gradient.

    With `chunk_size` the similarities are never in memory at once, and only the texts are exchanged between processes.
    It is the faster way for large batches, too; it can be differentiated once.

    Args:
        image_embeds (`torch.Tensor` of shape `(batch, dim)`): L2-normalised image embeddings.
        text_embeds (`torch.Tensor` of shape `(batch, dim)`): L2-normalised text embeddings, row i paired with row i of
            `image_embeds`.
        logit_scale (`torch.Tensor`, scalar): The multiplier of the cosines (not its logarithm).
        chunk_size (`int` or `"auto"`, *optional*): Rows of the similarities in memory at a time; they are computed
            again in the backward pass. `"auto"` chooses by the size of the batch. By default all, by plain
            differentiable operations.
        gather (`bool`, *optional*, defaults to `False`): Whether the negatives come from all processes of the process
            group, with gradient.
        image_ids, text_ids (`torch.Tensor` of shape `(batch,)`, integer, *optional*): Pairs that share an image id or
            a text id are positives of each other: the target is uniform over them.
        label_smoothing (`float`, *optional*, defaults to 0.0): Share of the target that is spread evenly over all
            pairs, as in `torch.nn.functional.cross_entropy`.

    Returns:
        `torch.Tensor`, a scalar of dtype float32, or float64 for float64 embeddings.

    Raises:
        ValueError: if the shapes do not fit together, the batch is empty, `label_smoothing` is not from 0 to 1, or the
            processes' batches differ in size.
    """
    ids = {"image_ids": image_ids, "text_ids": text_ids}
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"`label_smoothing` is {label_smoothing}; it must be from 0 to 1.")
    batch = _describe_batch(image_embeds, text_embeds, chunk_size, gather, ids, label_smoothing)
    with torch.autocast(image_embeds.device.type, enabled=False):
        images, texts, scale = in_loss_dtype(image_embeds, image_embeds, text_embeds, logit_scale)
        if chunk_size is None:
            return _dense_softmax(images, texts, scale.reshape(()), batch)
        return _ChunkedSoftmax.apply(images, texts, scale.reshape(()), batch)


def sigmoid_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    *,
    chunk_size: int | Literal["auto"] | None = None,
    gather: bool = False,
    image_ids: torch.Tensor | None = None,
    text_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """The sigmoid loss (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training"): each image with each text
    is a two-class problem of its own, pair or no pair; the sum of their logistic losses, divided by the number of
    images.

    Processes, chunks and ids are those of [`contrastive_loss`]. A pair that shares an id with another is a pair with
    it, too.

    Args:
        image_embeds, text_embeds (`torch.Tensor` of shape `(batch, dim)`): L2-normalised embeddings, row i of the one
            paired with row i of the other.
        logit_scale, logit_bias (`torch.Tensor`, scalar): The multiplier of the cosines and what is added then; 10 and
            -10 at first in the paper.
        chunk_size, gather, image_ids, text_ids: As in [`contrastive_loss`].

    Returns:
        `torch.Tensor`, a scalar of dtype float32, or float64 for float64 embeddings.

    Raises:
        ValueError: if the shapes do not fit together, the batch is empty, or the processes' batches differ in size.
    """
    ids = {"image_ids": image_ids, "text_ids": text_ids}
    batch = _describe_batch(image_embeds, text_embeds, chunk_size, gather, ids)
    with torch.autocast(image_embeds.device.type, enabled=False):
        images, texts, *scalars = in_loss_dtype(image_embeds, image_embeds, text_embeds, logit_scale, logit_bias)
        scale, bias = (scalar.reshape(()) for scalar in scalars)
        if chunk_size is None:
            return _dense_sigmoid(images, texts, scale, bias, batch)
        return _ChunkedSigmoid.apply(images, texts, scale, bias, batch)
