# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The loss with soft targets against its definition written out, and against the losses that it becomes."""

import math

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from clip_hf import contrastive_loss, same_label_loss
from clip_hf.training import SoftTargets, soft_target_loss
from several_processes import run_processes


COUNT = 6


def vectors(seed: int, width: int, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(COUNT, width, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def inputs() -> list[torch.Tensor]:
    scale = torch.tensor(7.0, dtype=torch.float64)
    return [value.requires_grad_() for value in (vectors(0, 5), vectors(1, 5), scale)]


def two_targets() -> list[SoftTargets]:
    """A teacher, and label vectors of another width and scale."""
    return [SoftTargets(vectors(2, 4), vectors(3, 4), 5.0), SoftTargets(vectors(4, 3), vectors(4, 3), 2.0)]


def plain_loss(images, texts, scale, targets) -> torch.Tensor:
    """The definition, number by number."""
    total = torch.zeros((), dtype=images.dtype)
    sides = ((images, texts, "images", "texts"), (texts, images, "texts", "images"))
    for rows, columns, of_rows, of_columns in sides:
        for number, row in enumerate(rows):
            logits = [scale * (row @ column) for column in columns]
            normaliser = sum(logit.exp() for logit in logits)
            for place, logit in enumerate(logits):
                target = 0.0
                for each in targets:
                    similarities = getattr(each, of_columns) @ getattr(each, of_rows)[number]
                    weights = [math.exp(each.scale * value) for value in similarities.tolist()]
                    target += weights[place] / sum(weights) / len(targets)
                total = total + target * (math.log(target) - (logit.exp() / normaliser).log())
    return total / (2 * len(images))


def test_it_is_the_divergence_of_the_definition_with_its_gradient():
    given, targets = inputs(), two_targets()
    loss, expected = soft_target_loss(*given, targets=targets), plain_loss(*given, targets)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    for value, reference in zip(torch.autograd.grad(loss, given), torch.autograd.grad(expected, given), strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *given: soft_target_loss(*given, targets=targets), given)


def test_targets_on_the_diagonal_make_it_the_contrastive_loss():
    given = inputs()
    # exp(-1000) is 0 in float64, so that the targets are exactly 0 and 1.
    loss = soft_target_loss(*given, targets=[SoftTargets(*[torch.eye(COUNT)] * 2, 1000.0)])
    expected = contrastive_loss(*given)
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(torch.autograd.grad(loss, given), torch.autograd.grad(expected, given))


def test_labels_in_common_are_positives_of_each_other():
    given, labels = inputs(), torch.tensor([0, 1, 0, 2, 1, 0])
    one_hot = F.one_hot(labels).double()
    for scale in (10.0, 1000.0):
        loss = soft_target_loss(*given, targets=[SoftTargets(one_hot, one_hot, scale)])
        torch.testing.assert_close(loss, same_label_loss(*given, labels=labels, target_scale=scale))
    torch.testing.assert_close(loss, same_label_loss(*given, labels=labels, target_scale=math.inf))


def test_two_pairs_by_hand():
    """Orthogonal embeddings, scale 1: logits (1, 0); targets (3/4, 1/4) of one teacher, (1/2, 1/2) of another."""
    embeds = torch.eye(2, dtype=torch.float64)
    targets = [SoftTargets(embeds, embeds, math.log(3)), SoftTargets(embeds, embeds, 0.0)]
    p = math.e / (math.e + 1)
    expected = 0.625 * math.log(0.625 / p) + 0.375 * math.log(0.375 / (1 - p))
    assert soft_target_loss(embeds, embeds, torch.tensor(1.0), targets=targets).item() == pytest.approx(expected)


def test_a_model_that_fits_its_targets_has_the_loss_0_and_they_get_no_gradient():
    given = inputs()
    own = SoftTargets(given[0], given[1], given[2])
    loss = soft_target_loss(*given, targets=[own])
    assert abs(loss.item()) < 1e-14
    assert all(value.abs().max() < 1e-12 for value in torch.autograd.grad(loss, given))


def test_half_precision_is_computed_in_float32_within_autocast():
    given = [value.detach().bfloat16() for value in inputs()]
    targets = [SoftTargets(each.images.bfloat16(), each.texts.bfloat16(), each.scale) for each in two_targets()]
    with torch.autocast("cpu", torch.bfloat16):
        loss = soft_target_loss(*given, targets=targets)
    in_float64 = [SoftTargets(each.images.double(), each.texts.double(), each.scale) for each in targets]
    expected = soft_target_loss(*[value.double() for value in given], targets=in_float64)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def _worker(rank: int) -> list:
    dist.init_process_group("gloo")
    images, texts, scale = inputs()
    own = [value.detach().chunk(2)[rank].requires_grad_() for value in (images, texts)]
    targets = [SoftTargets(e.images.chunk(2)[rank], e.texts.chunk(2)[rank], e.scale) for e in two_targets()]
    loss = soft_target_loss(*own, scale, targets=targets, gather=True)
    values = [loss.detach(), *torch.autograd.grad(loss, [*own, scale])]
    dist.all_reduce(values[0])
    dist.all_reduce(values[3])
    return [(value / 2).numpy() for value in values]


def test_two_processes_give_the_loss_and_gradients_of_one(tmp_path):
    given = inputs()
    loss = soft_target_loss(*given, targets=two_targets())
    of_images, of_texts, of_scale = torch.autograd.grad(loss, given)
    for rank, found in enumerate(run_processes(_worker, 2, tmp_path)):
        expected = [loss.detach(), of_images.chunk(2)[rank], of_texts.chunk(2)[rank], of_scale]
        for value, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.as_tensor(value), reference, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda v: SoftTargets(v.numpy(), v, 1.0), TypeError, "`images` of `SoftTargets` is .*must be a tensor"),
        (lambda v: SoftTargets(v, v.long(), 1.0), TypeError, "`texts` of `SoftTargets` is of torch.int64; it must be"),
        (lambda v: SoftTargets(v, v[:, :2], 1.0), ValueError, r"\(6, 4\) and `texts` \(6, 2\); both must be"),
        (lambda v: SoftTargets(v, v, math.inf), ValueError, "`scale` .* is inf; it must be finite and at least 0"),
        (lambda v: SoftTargets(v, v, math.nan), ValueError, "`scale` .* is nan"),
        (lambda v: SoftTargets(v, v, -1.0), ValueError, "`scale` .* is -1.0"),
        (lambda v: SoftTargets(v, v, None), TypeError, "`scale` .* is None; it must be a number"),
        (lambda v: SoftTargets(v, v, "a"), TypeError, "`scale` .* is 'a'; it must be a number"),
        (lambda v: SoftTargets(v, v, torch.ones(2)), TypeError, r"`scale` .* is tensor\(.*; it must be a number"),
        (lambda v: soft_target_loss(v, v, torch.tensor(1.0), targets=[]), ValueError, "`targets` is empty"),
        (lambda v: soft_target_loss(v, v, torch.tensor(1.0), targets=v), TypeError, "`targets` is a Tensor; give a"),
        (lambda v: soft_target_loss(v, v, 1.0, targets=SoftTargets(v, v, 1.0)), TypeError, "is a SoftTargets; give a"),
        (lambda v: soft_target_loss(v, v, 1.0, targets=[(v, v, 1.0)]), TypeError, "`targets` has a tuple; give a"),
        (lambda v: soft_target_loss(v.numpy(), v, 1.0, targets=[]), TypeError, "`image_embeds` is an? ndarray; it"),
        (
            lambda v: soft_target_loss(v[:5], v[:5], torch.tensor(1.0), targets=[SoftTargets(v, v, 1.0)]),
            ValueError,
            r"`targets\[0\]` has 6 vectors for a batch of 5 pairs",
        ),
        (
            lambda v: soft_target_loss(v, v[:, :2], torch.tensor(1.0), targets=[SoftTargets(v, v, 1.0)]),
            ValueError,
            r"both must be \(batch, dim\)",
        ),
    ],
)
def test_what_is_wrong_is_said(make, error, message):
    with pytest.raises(error, match=message):
        make(vectors(0, 4))
