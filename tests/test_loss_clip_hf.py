# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import math
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional as F

from clip_hf import contrastive_loss, gather_with_grad


def pairs(batch, dim=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(2, batch, dim, generator=generator, dtype=dtype)
    return F.normalize(embeds, dim=-1).unbind()


def plain_loss(images, texts, scale, image_ids=None, text_ids=None):
    """Pair by pair, as the definition reads."""
    batch = len(images)

    def is_positive(i, j):
        same = [ids is not None and ids[i] == ids[j] for ids in (image_ids, text_ids)]
        return i == j or any(same)

    losses = []
    for own, others in ((images, texts), (texts, images)):
        for i in range(batch):
            similarities = torch.stack([scale * (own[i] * others[j]).sum() for j in range(batch)])
            log_probabilities = similarities - similarities.exp().sum().log()
            positives = [j for j in range(batch) if is_positive(i, j)]
            losses.append(-torch.stack([log_probabilities[j] for j in positives]).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("batch", [1, 2, 7, 1000])
def test_zero_embeddings_give_log_n(batch):
    zeros = torch.zeros(batch, 4)
    assert contrastive_loss(zeros, zeros, torch.tensor(100.0)).item() == pytest.approx(math.log(batch), abs=1e-5)


def test_worked_example():
    # Two pairs on orthogonal axes, scale ln 3: each row is softmax(ln 3, 0) = (3/4, 1/4).
    eye = torch.eye(2)
    loss = contrastive_loss(eye, eye, torch.tensor(math.log(3.0)))
    assert loss.item() == pytest.approx(-math.log(0.75), abs=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 4, 11, 100])
@pytest.mark.parametrize("with_ids", [False, True])
def test_equals_the_definition_forward_and_gradient(chunk_size, with_ids):
    ids = {"image_ids": torch.tensor([0, 1, 2, 0, 3, 4, 5, 6, 7, 1, 8])} if with_ids else {}
    if with_ids:
        ids["text_ids"] = torch.tensor([0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8])
    results = []
    for function in (plain_loss, lambda *args, **kwargs: contrastive_loss(*args, chunk_size=chunk_size, **kwargs)):
        images, texts = (embeds.requires_grad_() for embeds in pairs(11))
        scale = torch.tensor(14.0, dtype=torch.float64, requires_grad=True)
        loss = function(images, texts, scale, **ids)
        results.append([loss.detach(), *torch.autograd.grad(loss, [images, texts, scale])])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_give_a_float32_loss(dtype):
    images, texts = (embeds.to(dtype) for embeds in pairs(6))
    scale = torch.tensor(100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_loss(images, texts, scale)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, contrastive_loss(images.float(), texts.float(), scale))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 4), torch.zeros(2, 4)), r"\(3, 4\) and `text_embeds` \(2, 4\)"),
        ((torch.zeros(4), torch.zeros(4)), r"both must be \(batch, dim\)"),
        ((torch.zeros(0, 4), torch.zeros(0, 4)), "batch is empty"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        contrastive_loss(*arguments, torch.tensor(1.0))


def test_options_that_do_not_fit_are_refused():
    images, texts = pairs(3)
    with pytest.raises(ValueError, match="`chunk_size` is 0"):
        contrastive_loss(images, texts, torch.tensor(1.0), chunk_size=0)
    with pytest.raises(ValueError, match=r"`image_ids` has the shape \(2,\); it must be \(3,\)"):
        contrastive_loss(images, texts, torch.tensor(1.0), image_ids=torch.tensor([0, 1]))


def test_gather_without_a_process_group_is_the_tensor_itself():
    images, texts = pairs(3)
    assert gather_with_grad(images) is images
    scale = torch.tensor(5.0)
    assert contrastive_loss(images, texts, scale, gather=True) == contrastive_loss(images, texts, scale)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _gradients(features, weight, log_scale, **kwargs):
    """Loss and gradients of a small two-tower model, one linear layer for both."""
    weight, log_scale = weight.clone().requires_grad_(), log_scale.clone().requires_grad_()
    images, texts = (F.normalize(x @ weight, dim=-1) for x in features)
    loss = contrastive_loss(images, texts, log_scale.exp(), **kwargs)
    return [loss.detach(), *torch.autograd.grad(loss, [weight, log_scale])]


def _worker(rank, processes, port, features, weight, log_scale, kwargs, queue):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    try:
        own = [x.chunk(processes)[rank] for x in features]
        ids = {name: value.chunk(processes)[rank] for name, value in kwargs.pop("ids").items()}
        results = _gradients(own, weight, log_scale, gather=True, **ids, **kwargs)
        for result in results:  # the average that DistributedDataParallel makes
            dist.all_reduce(result)
            result /= processes
        try:
            gather_with_grad(torch.zeros(rank + 1, 2))
            message = "no error"
        except ValueError as error:
            message = str(error)
        queue.put((rank, [result.numpy() for result in results], message))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("kwargs", [{}, {"chunk_size": 3, "ids": {"text_ids": torch.arange(8) % 5}}])
def test_two_processes_give_the_loss_and_gradients_of_one(kwargs):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 8, 6, generator=generator, dtype=torch.float64).unbind()
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    log_scale = torch.tensor(1.5, dtype=torch.float64)
    kwargs = {"ids": {}, **kwargs}
    expected = _gradients(features, weight, log_scale, **kwargs["ids"])
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    arguments = (2, _free_port(), features, weight, log_scale, kwargs, queue)
    mp.start_processes(_worker, arguments, nprocs=2, start_method="spawn")
    for _ in range(2):
        _, results, message = queue.get()
        for result, value in zip(results, expected, strict=True):
            torch.testing.assert_close(torch.as_tensor(result), value, rtol=1e-12, atol=1e-14)
        assert "shapes [[1, 2], [2, 2]]; they must all have one shape" in message
