# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import math

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from clip_hf import contrastive_loss, gather_with_grad, sigmoid_loss
from clip_hf.model import loss_clip_hf
from several_processes import run_processes


def pairs(batch, dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(2, batch, dim, generator=generator, dtype=torch.float64)
    return F.normalize(embeds, dim=-1).unbind()


def positives(batch, image_ids=None, text_ids=None):
    """Which columns belong to which row, pair by pair."""

    def is_positive(i, j):
        return i == j or any(ids is not None and ids[i] == ids[j] for ids in (image_ids, text_ids))

    return [[j for j in range(batch) if is_positive(i, j)] for i in range(batch)]


def plain_loss(images, texts, scale, image_ids=None, text_ids=None, label_smoothing=0.0):
    """Pair by pair, as the definition reads."""
    batch = len(images)
    of_row = positives(batch, image_ids, text_ids)
    losses = []
    for own, others in ((images, texts), (texts, images)):
        for i in range(batch):
            similarities = torch.stack([scale * (own[i] * others[j]).sum() for j in range(batch)])
            log_probabilities = similarities - similarities.exp().sum().log()
            right = -torch.stack([log_probabilities[j] for j in of_row[i]]).mean()
            losses.append((1 - label_smoothing) * right - label_smoothing * log_probabilities.mean())
    return torch.stack(losses).mean()


def plain_sigmoid_loss(images, texts, scale, bias, image_ids=None, text_ids=None):
    batch = len(images)
    of_row = positives(batch, image_ids, text_ids)
    losses = []
    for i in range(batch):
        for j in range(batch):
            logit = scale * (images[i] * texts[j]).sum() + bias
            losses.append((1 + (-logit if j in of_row[i] else logit).exp()).log())
    return torch.stack(losses).sum() / batch


IMAGE_IDS = torch.tensor([0, 1, 2, 0, 3, 4, 5, 6, 7, 1, 8])
TEXT_IDS = torch.tensor([0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8])
CHUNK_SIZES = [None, 1, 3, 4, 11, 100, "auto"]


def loss_and_gradients(function, scalars, dtype=torch.float64, **kwargs):
    """Of eleven pairs; the gradients of embeddings and scalars."""
    images, texts = (embeds.to(dtype).requires_grad_() for embeds in pairs(11))
    scalars = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in scalars]
    loss = function(images, texts, *scalars, **kwargs)
    # Three times the loss: what comes from above is not lost on the way.
    return [loss.detach(), *torch.autograd.grad(3 * loss, [images, texts, *scalars])]


@pytest.mark.parametrize("batch", [1, 2, 7, 1000])
def test_zero_embeddings_give_log_n(batch):
    zeros = torch.zeros(batch, 4)
    assert contrastive_loss(zeros, zeros, torch.tensor(100.0)).item() == pytest.approx(math.log(batch), abs=1e-5)


def test_worked_example():
    # Two pairs on orthogonal axes, scale ln 3: each row is softmax(ln 3, 0) = (3/4, 1/4).
    eye = torch.eye(2)
    loss = contrastive_loss(eye, eye, torch.tensor(math.log(3.0)))
    assert loss.item() == pytest.approx(-math.log(0.75), abs=1e-6)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("ids", [{}, {"text_ids": TEXT_IDS}, {"image_ids": IMAGE_IDS, "text_ids": TEXT_IDS}])
@pytest.mark.parametrize("smoothing", [{}, {"label_smoothing": 0.1}])
def test_equals_the_definition_forward_and_gradient(chunk_size, ids, smoothing):
    expected = loss_and_gradients(plain_loss, [14.0], **ids, **smoothing)
    actual = loss_and_gradients(contrastive_loss, [14.0], chunk_size=chunk_size, **ids, **smoothing)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("ids", [{}, {"image_ids": IMAGE_IDS, "text_ids": TEXT_IDS}])
def test_sigmoid_loss_equals_its_definition(chunk_size, ids):
    expected = loss_and_gradients(plain_sigmoid_loss, [10.0, -3.0], **ids)
    actual = loss_and_gradients(sigmoid_loss, [10.0, -3.0], chunk_size=chunk_size, **ids)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("function", "scalars"), [(contrastive_loss, [100.0]), (sigmoid_loss, [10.0, -10.0])])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_float32_is_as_good_as_it_can_be(function, scalars, chunk_size):
    expected = loss_and_gradients(function, scalars)
    actual = loss_and_gradients(function, scalars, dtype=torch.float32, chunk_size=chunk_size)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype is torch.float32
        assert (one.double() - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("spread", [1.0, 0.01])
@pytest.mark.parametrize("chunk_size", [None, 2, "auto"])
def test_highest_temperature_and_far_apart_pairs_stay_finite(chunk_size, spread):
    # The right columns are as far away as can be, and with little spread all others, too: a shared reference for all
    # exponentials would underflow.
    images = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    images = F.normalize(images[:1] * (1 - spread) + images * spread, dim=-1)
    results = []
    for dtype, size in ((torch.float64, None), (torch.float32, chunk_size)):
        own = images.to(dtype, copy=True).requires_grad_()
        loss = contrastive_loss(own, -images.to(dtype), torch.tensor(100.0), chunk_size=size)
        results.append((loss.double(), torch.autograd.grad(loss, own)[0].double()))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=2e-4 if spread < 1 else 1e-5)


class _LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor holds that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


@pytest.mark.parametrize("function", [contrastive_loss, lambda *a, **k: sigmoid_loss(*a, torch.tensor(-10.0), **k)])
def test_with_chunks_the_matrix_is_never_in_memory(function):
    images, texts = (embeds.requires_grad_() for embeds in pairs(256))
    largest = {}
    for chunk_size in (None, 16):
        with _LargestTensor() as seen:
            ids = torch.arange(256) // 2
            function(images, texts, torch.tensor(10.0), chunk_size=chunk_size, text_ids=ids).backward()
        largest[chunk_size] = seen.largest
    assert largest[None] >= 256 * 256
    assert largest[16] == 16 * 256


@pytest.mark.parametrize(("numbers", "rows"), [(1, 1), (40, 3), (11 * 11, 11)])
def test_automatic_chunks_are_blocks_of_so_many_numbers(numbers, rows, monkeypatch):
    monkeypatch.setattr(loss_clip_hf, "_AUTO_BLOCK", {"cpu": numbers})
    images, texts = pairs(11)
    with _LargestTensor() as seen:
        loss = contrastive_loss(images, texts, torch.tensor(10.0), chunk_size="auto")
    assert seen.largest == max(rows * 11, 11 * 8)
    torch.testing.assert_close(loss, contrastive_loss(images, texts, torch.tensor(10.0)))


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
    for chunk_size in (0, 1.5, "all"):
        with pytest.raises(ValueError, match=f"`chunk_size` is {chunk_size!r}"):
            contrastive_loss(images, texts, torch.tensor(1.0), chunk_size=chunk_size)
    for smoothing in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=f"`label_smoothing` is {smoothing}; it must be from 0 to 1"):
            contrastive_loss(images, texts, torch.tensor(1.0), label_smoothing=smoothing)
    options = {"label_smoothing": 1.0}
    torch.testing.assert_close(
        contrastive_loss(images, texts, 5.0, **options), plain_loss(images, texts, 5, **options)
    )
    with pytest.raises(ValueError, match=r"`image_ids` has the shape \(2,\); it must be \(3,\)"):
        contrastive_loss(images, texts, torch.tensor(1.0), image_ids=torch.tensor([0, 1]))


def test_gather_without_a_process_group_is_the_tensor_itself():
    images, texts = pairs(3)
    assert gather_with_grad(images) is images
    scale = torch.tensor(5.0)
    assert contrastive_loss(images, texts, scale, gather=True) == contrastive_loss(images, texts, scale)


def _gradients(function, features, weight, scalars, **kwargs):
    """Loss and gradients of a small two-tower model, one linear layer for both."""
    weight = weight.clone().requires_grad_()
    scalars = [scalar.clone().requires_grad_() for scalar in scalars]
    images, texts = (F.normalize(x @ weight, dim=-1) for x in features)
    loss = function(images, texts, scalars[0].exp(), *scalars[1:], **kwargs)
    return [loss.detach(), *torch.autograd.grad(loss, [weight, *scalars])]


def _case(number):
    """Features, weight and scalars in float64, the loss, its options and ids."""
    generator = torch.Generator().manual_seed(number)
    features = torch.randn(2, 16, 6, generator=generator, dtype=torch.float64).unbind()
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    scalars = [torch.tensor(1.5, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)]
    ids = {"text_ids": torch.arange(16) % 11, "image_ids": torch.arange(16) // 2 + 3}
    function, options, ids = [
        (contrastive_loss, {}, {}),
        (contrastive_loss, {}, ids),
        (contrastive_loss, {"chunk_size": 3}, {}),
        (contrastive_loss, {"chunk_size": "auto", "label_smoothing": 0.2}, ids),
        (contrastive_loss, {"chunk_size": 1}, {"text_ids": ids["text_ids"]}),
        (sigmoid_loss, {}, {}),
        (sigmoid_loss, {"chunk_size": 3}, ids),
    ][number]
    return function, features, weight, scalars[: 1 if function is contrastive_loss else 2], options, ids


NUM_CASES = 7


def _worker(rank, processes):
    dist.init_process_group("gloo")
    results = []
    for number in range(NUM_CASES):
        function, features, weight, scalars, options, ids = _case(number)
        own = [x.chunk(processes)[rank] for x in features]
        ids = {name: value.chunk(processes)[rank] for name, value in ids.items()}
        result = _gradients(function, own, weight, scalars, gather=True, **options, **ids)
        for value in result:  # the average that DistributedDataParallel makes
            dist.all_reduce(value)
            value /= processes
        results.append([value.numpy() for value in result])
    messages = []
    for attempt in (
        lambda: gather_with_grad(torch.zeros(rank + 1, 2)),
        lambda: contrastive_loss(*torch.zeros(2, rank + 1, 2), torch.tensor(1.0), gather=True, chunk_size=1),
    ):
        try:
            attempt()
            messages.append("no error")
        except ValueError as error:
            messages.append(str(error))
    return results, messages


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_give_the_loss_and_gradients_of_one(processes, tmp_path):
    for results, messages in run_processes(_worker, processes, tmp_path, processes):
        for number, actual in enumerate(results):
            function, features, weight, scalars, options, ids = _case(number)
            options = {name: value for name, value in options.items() if name != "chunk_size"}
            expected = _gradients(function, features, weight, scalars, **options, **ids)
            for value, right in zip(actual, expected, strict=True):
                torch.testing.assert_close(torch.as_tensor(value), right, rtol=1e-12, atol=1e-14)
        for message in messages:
            assert "[1, 2], [2, 2]" in message and "they must all have one shape" in message


def test_unequal_weights_of_the_processes_losses_are_respected(tmp_path):
    """Each process may scale its loss, as gradient accumulation over unequal batches does."""
    for dense, chunked in run_processes(_unequal_worker, 2, tmp_path):
        torch.testing.assert_close(torch.as_tensor(chunked), torch.as_tensor(dense), rtol=1e-12, atol=1e-14)


def _unequal_worker(rank):
    dist.init_process_group("gloo")
    gradients = []
    for chunk_size in (None, 2):
        images, texts = (x.chunk(2)[rank].clone().requires_grad_() for x in pairs(8))
        loss = contrastive_loss(images, texts, torch.tensor(5.0), gather=True, chunk_size=chunk_size)
        ((rank + 1) * loss).backward()
        gradients.append(torch.stack([images.grad, texts.grad]).numpy())
    return gradients
