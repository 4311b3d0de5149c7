# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import itertools
import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from clip_hf.training import ContrastiveObjective, SigmoidLoss, SoftmaxLoss
from clip_hf.training.distillation_loss import DistillationLoss, DistillationWeights, feature_loss, interactive_loss
from clip_hf.training.soft_target_loss import SoftTargets
from clip_hf.training.teachers import TeacherRecord
from several_processes import run_processes
from tiny_models import IMAGE_SIZE, VOCAB_SIZE, make_tiny_model


BATCH, DIM = 6, 16
TEACHERS = (TeacherRecord(DIM, 20.0), TeacherRecord(10, 50.0))  # the second is projected to
TEXT_IDS = torch.tensor([1, 2, 1, 3, 4, 5])


def unit(*shape, seed):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1)


def teacher_features():
    """Features (batch, 52) of both teachers."""
    return torch.cat(
        [unit(BATCH, record.dim, seed=n) for n, record in enumerate((*TEACHERS[:1] * 2, *TEACHERS[1:] * 2))], 1
    )


def softmax(row):
    exponentials = np.exp(row - row.max())
    return exponentials / exponentials.sum()


def plain(images, texts, scale, loss, features, ids) -> float:
    """The distillation part of the loss in NumPy, pair by pair."""
    weights, teachers, place = loss.weights, [], 0
    for record in TEACHERS:
        teachers.append(
            [features[:, place : place + record.dim], features[:, place + record.dim : place + 2 * record.dim]]
        )
        place += 2 * record.dim
    total, n = 0.0, len(images)
    for row in range(n):  # soft: KL(mean of the teachers' softmax || student's), both directions
        for own, other, tower in ((images, texts, 0), (texts, images, 1)):
            rows = [
                softmax(t.logit_scale * (each[1 - tower] @ each[tower][row])) for t, each in zip(TEACHERS, teachers)
            ]
            target, student = np.mean(rows, axis=0), softmax(scale * (other @ own[row]))
            total += weights.soft * np.sum(target * np.log(target / student)) / (2 * n)
    for number, (their_images, their_texts) in enumerate(teachers if len(list(loss.parameters())) else []):
        mine = []
        for tower, embeds in (("image", images), ("text", texts)):
            if f"{tower}_{number}" in loss.projections:
                layer = loss.projections[f"{tower}_{number}"]
                embeds = embeds @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
                embeds = embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
            mine.append(embeds)
        squares = [((a - b) ** 2).mean() for a, b in zip(mine, (their_images, their_texts))]
        total += weights.features * sum(squares) / 2
        for own, other in ((mine[0], their_texts), (mine[1], their_images)):
            for row in range(n):
                same = ids == ids[row]
                total -= weights.interactive * np.log(softmax(scale * (other @ own[row])))[same].mean() / (2 * n) / 2
    return total


def loss_of(base=None, dtype=torch.float64, **weights):
    torch.manual_seed(0)
    settings = {"contrastive": 0.5, "soft": 0.7, "features": 30.0, "interactive": 0.3, **weights}
    return DistillationLoss(base or SoftmaxLoss(), TEACHERS, DistillationWeights(**settings), DIM).to(dtype)


@pytest.mark.parametrize("part", ["soft", "features", "interactive", "all"])
def test_the_loss_is_the_plain_one(part):
    parts = ("soft", "features", "interactive")
    weights = {"contrastive": 0.0, **({name: float(name == part) for name in parts} if part != "all" else {})}
    loss, images, texts, features = loss_of(**weights), unit(6, DIM, seed=8), unit(6, DIM, seed=9), teacher_features()
    found = loss(images, texts, torch.tensor(13.0).double(), teacher_features=features, text_ids=TEXT_IDS)
    expected = plain(images.numpy(), texts.numpy(), 13.0, loss, features.numpy(), TEXT_IDS.numpy())
    assert found.item() == pytest.approx(expected, rel=1e-12) and expected > 0.01


def test_gradients_are_those_of_finite_differences():
    loss, features = loss_of(), teacher_features()
    inputs = [unit(6, DIM, seed=8), unit(6, DIM, seed=9), torch.tensor(13.0).double()]
    inputs = [each.requires_grad_() for each in inputs]

    def value(images, texts, scale):
        return loss(images, texts, scale, teacher_features=features, text_ids=TEXT_IDS)

    assert torch.autograd.gradcheck(value, inputs, fast_mode=True)
    value(*inputs).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in loss.parameters())
    assert len(list(loss.parameters())) == 4 and not features.requires_grad


def test_a_weight_of_zero_is_not_computed_and_needs_no_projection():
    loss = loss_of(features=0.0, interactive=0.0)
    assert not list(loss.parameters())
    images, texts, scale = unit(6, DIM, seed=8), unit(6, DIM, seed=9), torch.tensor(13.0).double()
    plain_loss = SoftmaxLoss()(images, texts, scale, text_ids=TEXT_IDS)
    soft = loss_of(contrastive=0.0, soft=1.0, features=0.0, interactive=0.0)
    arguments = {"teacher_features": teacher_features(), "text_ids": TEXT_IDS}
    expected = 0.5 * plain_loss + 0.7 * soft(images, texts, scale, **arguments)
    assert torch.allclose(loss(images, texts, scale, **arguments), expected, rtol=1e-14)


def test_a_student_that_equals_its_teacher_has_nothing_to_learn():
    images, texts = unit(6, DIM, seed=1), unit(6, DIM, seed=2)
    weights = DistillationWeights(0.0, 1.0, 2000.0, 0.0)
    loss = DistillationLoss(SoftmaxLoss(), [TeacherRecord(DIM, 20.0)], weights, DIM)
    found = loss(images, texts, torch.tensor(20.0), teacher_features=torch.cat([images, texts], dim=1))
    assert abs(found.item()) < 1e-12
    target = SoftTargets(images, texts, 20.0)
    assert feature_loss(-images, -texts, target).item() == pytest.approx(2 * 4 / DIM)  # (2 - 2 cos) / d, twice
    orthogonal = torch.eye(6, DIM, dtype=torch.float64)
    alike = SoftTargets(orthogonal, orthogonal, 20.0)
    closed = np.log(1 + 5 * np.exp(-20.0))  # one logit of 20, five of 0
    found = interactive_loss(orthogonal, orthogonal, torch.tensor(20.0), alike)
    assert found.item() == pytest.approx(closed, rel=1e-6)


@pytest.mark.parametrize("part", ["features", "interactive"])
def test_teachers_of_another_shape_are_refused_and_get_no_gradient(part):
    def loss(images, texts, targets):
        if part == "features":
            return feature_loss(images, texts, targets)
        return interactive_loss(images, texts, torch.tensor(20.0), targets)

    images, texts = unit(6, DIM, seed=1).requires_grad_(), unit(6, DIM, seed=2).requires_grad_()
    teacher = [unit(6, DIM, seed=seed).requires_grad_() for seed in (3, 4)]
    loss(images, texts, SoftTargets(*teacher, 20.0)).backward()
    assert images.grad.abs().max() > 0 and teacher[0].grad is None and teacher[1].grad is None
    for other in (unit(1, DIM, seed=5), unit(6, 10, seed=5), unit(6, 1, seed=5)):
        with pytest.raises(ValueError, match=r"The teacher's embeddings have the shape .* they must be the same"):
            loss(images, texts, SoftTargets(other, other, 20.0))
    with pytest.raises(ValueError, match="The batch is empty"):
        loss(images[:0], texts[:0], SoftTargets(images[:0], texts[:0], 20.0))


def test_half_precision_embeddings_are_compared_in_float32():
    loss, features = loss_of(dtype=torch.float32), teacher_features().float()
    images, texts = (unit(6, DIM, seed=seed).bfloat16() for seed in (8, 9))
    scale = torch.tensor(13.0)
    found = loss(images, texts, scale, teacher_features=features, text_ids=TEXT_IDS)
    expected = loss(images.float(), texts.float(), scale, teacher_features=features, text_ids=TEXT_IDS)
    assert found.dtype == torch.float32 and torch.allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "values", [{"soft": -1.0}, dict.fromkeys(("contrastive", "soft", "features", "interactive"), 0.0)]
)
def test_weights_are_checked(values):
    with pytest.raises(ValueError, match=r"The weight `soft` is -1.0; it must|All weights of the loss are 0"):
        DistillationWeights(**values)


@pytest.mark.parametrize(("value", "error"), [("1", TypeError), (True, TypeError), (math.inf, ValueError)])
def test_weights_are_finite_numbers(value, error):
    with pytest.raises(error, match="`soft` is .*; it must be"):
        DistillationWeights(soft=value)
    assert DistillationWeights(soft=np.float32(2)).soft == 2


# ------------------------------------------------------------------------------------------ processes and chunks


def build_batch():
    generator = torch.Generator().manual_seed(3)
    input_ids = torch.randint(1, VOCAB_SIZE - 2, (BATCH, 7), generator=generator)
    input_ids[:, 5:] = VOCAB_SIZE - 1
    return {
        "pixel_values": torch.randn(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64),
        "input_ids": input_ids,
        "text_ids": TEXT_IDS,
        "teacher_features": teacher_features(),
    }


def run(rank, processes, chunk_size, sigmoid=False):
    """Loss and gradients, of the model and of the loss's projections, of this process's share of the batch."""
    accelerator = Accelerator(cpu=True)
    model = make_tiny_model("vit", **({"logit_bias_init_value": -3.0} if sigmoid else {})).double().train()
    loss = loss_of(SigmoidLoss() if sigmoid else None)
    objective = ContrastiveObjective(
        accelerator, accelerator.prepare_model(model), loss, grad_cache_chunk_size=chunk_size
    )
    value = objective.backward({name: each.chunk(processes)[rank] for name, each in build_batch().items()})
    parameters = itertools.chain(model.named_parameters(), loss.named_parameters())
    gradients = {name: parameter.grad.numpy() for name, parameter in parameters if parameter.grad is not None}
    return accelerator.reduce(value, "mean").item(), gradients


def _both_ways(rank):
    return [run(rank, 2, chunk_size) for chunk_size in (None, 2)]


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert np.allclose(found[1][name], gradient, rtol=1e-9, atol=1e-12), name
    assert any("projections" in name or "image_1" in name for name in expected[1])


@pytest.mark.parametrize("sigmoid", [False, True])
def test_chunks_give_the_gradients_of_the_whole_batch(sigmoid):
    assert_same(run(0, 1, 4, sigmoid), run(0, 1, None, sigmoid))


def test_two_processes_give_the_gradients_of_one(tmp_path):
    expected = run(0, 1, None)
    for results in run_processes(_both_ways, 2, tmp_path):
        for result in results:
            assert_same(result, expected)
