# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""ActionCLIP's loss against its definition, written out, and against the losses that it becomes."""

import math

import pytest
import torch
from torch.nn import functional as F

from clip_hf import contrastive_loss, same_label_loss
from several_processes import run_processes


LABELS = torch.tensor([0, 1, 0, 2, 1, 0])


def embeddings(count: int = 6, dim: int = 5, dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(
        F.normalize(torch.randn(count, dim, generator=generator, dtype=dtype), dim=1).requires_grad_()
        for _ in range(2)
    )


def plain_loss(images, texts, scale, labels, target_scale):
    """The definition, number by number."""
    total = torch.zeros((), dtype=images.dtype)
    for rows, columns in ((images, texts), (texts, images)):
        for row, label in zip(rows, labels.tolist(), strict=True):
            logits = [scale * (row @ column) for column in columns]
            normaliser = sum(logit.exp() for logit in logits)
            weights = [math.exp(target_scale * (other == label)) for other in labels.tolist()]
            for logit, weight in zip(logits, weights, strict=True):
                target = weight / sum(weights)
                total = total + target * (math.log(target) - (logit.exp() / normaliser).log())
    return total / (2 * len(images))


@pytest.mark.parametrize("target_scale", [10.0, 1.0, 0.0])
def test_it_is_the_divergence_of_the_definition_with_its_gradient(target_scale):
    images, texts = embeddings()
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    loss = same_label_loss(images, texts, scale, labels=LABELS, target_scale=target_scale)
    expected = plain_loss(images, texts, scale, LABELS, target_scale)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    ours = torch.autograd.grad(loss, (images, texts, scale))
    plain = torch.autograd.grad(expected, (images, texts, scale))
    for value, reference in zip(ours, plain, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda i, t, s: same_label_loss(i, t, s, labels=LABELS, target_scale=target_scale), (images, texts, scale)
    )


def test_two_pairs_by_hand():
    """Two labels, orthogonal embeddings, scale 1: each row has logits (1, 0); at scale ln 3, targets (3/4, 1/4)."""
    embeds = torch.eye(2, dtype=torch.float64)
    loss = same_label_loss(embeds, embeds, torch.tensor(1.0), labels=torch.tensor([4, 9]), target_scale=math.log(3))
    p = math.e / (math.e + 1)
    expected = 0.75 * math.log(0.75 / p) + 0.25 * math.log(0.25 / (1 - p))
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    # It is 0 where the model says exactly what the targets say.
    scale = torch.tensor(math.log(3))
    fits = same_label_loss(embeds, embeds, scale, labels=torch.tensor([4, 9]), target_scale=math.log(3))
    assert abs(fits.item()) < 1e-7


def test_zero_embeddings_leave_what_the_targets_lack_in_entropy():
    zeros = torch.zeros(4, 3, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 2])
    two = torch.tensor([10.0, 10.0, 0.0, 0.0], dtype=torch.float64).softmax(0)
    one = torch.tensor([10.0, 0.0, 0.0, 0.0], dtype=torch.float64).softmax(0)
    entropies = [-(target * target.log()).sum().item() for target in (two, two, one, one)]
    expected = math.log(4) - sum(entropies) / 4
    assert same_label_loss(zeros, zeros, torch.tensor(5.0), labels=labels).item() == pytest.approx(expected, abs=1e-12)


def test_without_a_limit_it_is_the_cross_entropy_over_the_positives():
    images, texts = embeddings()
    scale = torch.tensor(9.0, dtype=torch.float64)
    same = (LABELS[:, None] == LABELS[None]).double()
    targets = same / same.sum(dim=1, keepdim=True)
    logits = scale * images @ texts.T
    entropy = same.sum(dim=1).log().mean()  # of the targets, which the divergence is less
    expected = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2 - entropy
    for target_scale in (math.inf, 60.0):
        loss = same_label_loss(images, texts, scale, labels=LABELS, target_scale=target_scale)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    # The contrastive loss knows the same positives by their ids.
    by_ids = contrastive_loss(images, texts, scale, text_ids=LABELS)
    assert by_ids.item() - entropy.item() == pytest.approx(expected.item(), abs=1e-12)
    ours, theirs = (
        torch.autograd.grad(loss, images)[0]
        for loss in (same_label_loss(images, texts, scale, labels=LABELS, target_scale=math.inf), by_ids)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


def test_with_all_labels_different_it_is_the_contrastive_loss():
    images, texts = embeddings()
    scale = torch.tensor(14.0, dtype=torch.float64)
    for target_scale in (math.inf, 60.0):
        loss = same_label_loss(images, texts, scale, labels=torch.arange(6), target_scale=target_scale)
        assert loss.item() == pytest.approx(contrastive_loss(images, texts, scale).item(), abs=1e-12)


def test_half_precision_is_computed_in_float32():
    images, texts = (x.detach().bfloat16() for x in embeddings())
    loss = same_label_loss(images, texts, torch.tensor(50.0, dtype=torch.bfloat16), labels=LABELS)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        same_label_loss(images.double(), texts.double(), torch.tensor(50.0), labels=LABELS).item(), rel=1e-5
    )


def _gathered(rank: int, images, texts, labels):
    torch.distributed.init_process_group("gloo")
    part = slice(rank * 3, rank * 3 + 3)
    images, texts = images.clone().requires_grad_(), texts.clone().requires_grad_()
    loss = same_label_loss(images[part], texts[part], torch.tensor(7.0), labels=labels[part], gather=True)
    loss.backward()
    return loss.item(), images.grad / 2, texts.grad / 2


@pytest.mark.slow
def test_processes_share_their_batch(tmp_path):
    images, texts = (x.detach() for x in embeddings())
    results = run_processes(_gathered, 2, tmp_path, images, texts, LABELS)
    images.requires_grad_()
    texts.requires_grad_()
    expected = same_label_loss(images, texts, torch.tensor(7.0), labels=LABELS)
    expected.backward()
    assert sum(loss for loss, _, _ in results) / 2 == pytest.approx(expected.item(), abs=1e-12)
    for index, parameter in ((1, images), (2, texts)):
        torch.testing.assert_close(sum(result[index] for result in results), parameter.grad, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(5, dtype=torch.long)}, r"`labels` has the shape \(5,\)"),
        ({"labels": torch.zeros(6)}, "of integers: one class a pair"),
        ({"target_scale": -1.0}, "`target_scale` is -1.0"),
        ({"target_scale": math.nan}, "`target_scale` is nan"),
        ({"target_scale": "10"}, "`target_scale` is '10'; it must be a number of at least 0"),
        ({"labels": torch.ones(6, dtype=torch.complex64)}, "integers: one class a pair"),
        ({"text_embeds": torch.zeros(6, 4)}, "both must be"),
        ({"image_embeds": torch.zeros(0, 5), "text_embeds": torch.zeros(0, 5)}, "The batch is empty"),
    ],
)
def test_wrong_input(change, message):
    images, texts = embeddings()
    arguments = {"image_embeds": images, "text_embeds": texts, "logit_scale": torch.tensor(1.0), "labels": LABELS}
    with pytest.raises(ValueError, match=message):
        same_label_loss(**{**arguments, **change})


def test_labels_are_a_tensor():
    images, texts = embeddings()
    with pytest.raises(TypeError, match="`labels` is a list; it must be a tensor of integers"):
        same_label_loss(images, texts, torch.tensor(1.0), labels=[0, 1, 2, 0, 1, 2])
