# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""GradCache: the gradients of the whole batch, with dropout, frozen parts, two processes; and what it refuses."""

import pytest
import torch
from accelerate import Accelerator

from clip_hf import contrastive_loss, sigmoid_loss
from clip_hf.training import GradCache
from several_processes import run_processes
from tiny_models import IMAGE_SIZE, VOCAB_SIZE, make_tiny_model


BATCH = 8


def build_model(tower="vit", dropout=0.0, **kwargs):
    model = make_tiny_model(tower, **kwargs).double().train()
    for module in model.modules():
        if hasattr(module, "dropout"):
            module.dropout = dropout
    return model


def build_batch():
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(1, VOCAB_SIZE - 2, (BATCH, 12), generator=generator)
    for row in range(BATCH):
        input_ids[row, 5 + row % 7 :] = VOCAB_SIZE - 1
    pixel_values = torch.randn(BATCH, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64)
    return {"pixel_values": pixel_values, "input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def scalars_of(model):
    scalars = (model.logit_scale.exp(),)
    return scalars if model.logit_bias is None else (*scalars, model.logit_bias)


def loss_of(model):
    return contrastive_loss if model.logit_bias is None else sigmoid_loss


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def chunk_by_chunk(model, batch, chunk_size):
    """The reference: all chunks go through the towers with gradient, in order; then the loss over all of them."""
    outputs = []
    for start in range(0, len(batch["input_ids"]), chunk_size):
        chunk = {name: value[start : start + chunk_size] for name, value in batch.items()}
        outputs.append(model(**chunk, return_logits=False))
    images, texts = (torch.cat([o[name] for o in outputs]) for name in ("image_embeds", "text_embeds"))
    loss = loss_of(model)(images, texts, *scalars_of(model))
    loss.backward()
    return loss.detach()


def cached(model, batch, chunk_size, **kwargs):
    accelerator = Accelerator(cpu=True, **kwargs)
    prepared = accelerator.prepare_model(model)
    return GradCache(accelerator, prepared, loss_of(model), lambda: scalars_of(model), chunk_size).backward(batch)


def assert_same_gradients(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    # Relative to the largest: a gradient that is zero but for rounding (of a key's bias) has nothing of its own.
    largest = max(value.abs().max() for value in expected.values())
    for name, value in expected.items():
        assert (actual[name] - value).abs().max() <= tolerance * largest, name


@pytest.mark.slow_but_for("1", "3", "100")
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 8, 100])
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_gradients_are_those_of_the_whole_batch(tower, chunk_size):
    results = []
    for run in (chunk_by_chunk, cached):
        model = build_model(tower)
        model.freeze_batch_norm(freeze_affine=False)
        loss = run(model, build_batch(), BATCH if run is chunk_by_chunk else chunk_size)
        results.append((loss, gradients(model)))
    assert results[0][0].item() == pytest.approx(results[1][0].item(), rel=1e-12)
    assert_same_gradients(results[1][1], results[0][1], 1e-12)


@pytest.mark.parametrize("kwargs", [{}, {"logit_bias_init_value": -3.0}])
def test_dropout_drops_the_same_in_both_passes(kwargs):
    results = []
    for run in (chunk_by_chunk, cached):
        model = build_model(dropout=0.5, **kwargs)
        torch.manual_seed(7)
        results.append((run(model, build_batch(), 3), gradients(model), torch.rand(1)))
    assert_same_gradients(results[1][1], results[0][1], 1e-12)
    assert results[0][0] == pytest.approx(results[1][0].item(), rel=1e-12)
    assert torch.equal(results[0][2], results[1][2])  # the generator stands where it would have
    model = build_model(dropout=0.5, **kwargs)
    torch.manual_seed(8)
    cached(model, build_batch(), 3)
    with pytest.raises(AssertionError):  # the dropout is there at all
        assert_same_gradients(gradients(model), results[0][1], 1e-3)


def test_a_frozen_tower_with_dropout_draws_its_numbers_too():
    results = []
    for run in (chunk_by_chunk, cached):
        model = build_model(dropout=0.5)
        model.vision_model.requires_grad_(False)
        model.visual_projection.requires_grad_(False)
        torch.manual_seed(7)
        run(model, build_batch(), 3)
        results.append(gradients(model))
    assert_same_gradients(results[1], results[0], 1e-12)


def test_the_generator_stands_where_the_loss_left_it():
    """The second pass starts from the states before the loss, which may draw numbers of its own."""
    model = build_model(dropout=0.5)
    torch.manual_seed(7)
    chunk_by_chunk(model, build_batch(), 3)
    torch.rand(5)
    expected = torch.rand(1)

    def drawing(*arguments):
        return contrastive_loss(*arguments) + 0 * torch.rand(5).sum()

    model, accelerator = build_model(dropout=0.5), Accelerator(cpu=True)
    cache = GradCache(accelerator, accelerator.prepare_model(model), drawing, lambda: scalars_of(model), 3)
    torch.manual_seed(7)
    cache.backward(build_batch())
    assert torch.equal(torch.rand(1), expected)


def keep_as_it_is(mode=True):
    """In place of a module's `train`."""


@pytest.mark.parametrize("frozen", ["vision", "text", "logit_scale"])
def test_frozen_parts_get_no_gradient(frozen):
    results = []
    for run in (chunk_by_chunk, cached):
        model = build_model()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith({"vision": "vis"}.get(frozen, frozen)))
        if frozen == "vision":
            model.vision_model.train = keep_as_it_is
            model.vision_model.training = False
        run(model, build_batch(), 4)
        results.append(gradients(model))
    assert_same_gradients(results[1], results[0], 1e-12)
    assert not any(name.startswith({"vision": "vis"}.get(frozen, frozen)) for name in results[1])


def test_gradients_add_up_over_calls():
    model = build_model()
    cached(model, build_batch(), 4)
    once = gradients(model)
    cached(model, build_batch(), 4)
    assert_same_gradients(gradients(model), {name: 2 * value for name, value in once.items()}, 1e-12)


def test_batch_norm_is_refused_unless_frozen():
    model = build_model("resnet")
    with pytest.raises(ValueError, match=r"stem\.bn1 would normalise each chunk by its own .*--freeze batch"):
        cached(model, build_batch(), 4)
    assert not gradients(model)
    model.freeze_batch_norm()
    before = {name: value.clone() for name, value in model.named_buffers()}
    cached(model, build_batch(), 4)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_batch_norm_is_looked_at_before_each_batch():
    model, accelerator = build_model("resnet"), Accelerator(cpu=True)
    model.freeze_batch_norm()
    cache = GradCache(accelerator, accelerator.prepare_model(model), loss_of(model), lambda: scalars_of(model), 4)
    model.vision_model.stem.bn1.training = True
    with pytest.raises(ValueError, match="stem.bn1 would normalise each chunk by its own"):
        cache.backward(build_batch())


def test_chunk_size_must_be_positive():
    with pytest.raises(ValueError, match="`chunk_size` is 0; it must be at least 1"):
        cached(build_model(), build_batch(), 0)


def _two_processes(rank):
    accelerator = Accelerator(cpu=True)
    model = build_model()
    prepared = accelerator.prepare_model(model)
    batch = {name: value.chunk(2)[rank] for name, value in build_batch().items()}

    def loss_function(*arguments):
        return contrastive_loss(*arguments, gather=True, chunk_size=3)

    cache = GradCache(accelerator, prepared, loss_function, lambda: scalars_of(model), chunk_size=3)
    for _ in range(2):  # the reducer is ready for the next step
        model.zero_grad()
        cache.backward(batch)
    return {name: value.numpy() for name, value in gradients(model).items()}


def test_two_processes_give_the_gradients_of_one(tmp_path):
    model = build_model()
    chunk_by_chunk(model, build_batch(), BATCH)
    for result in run_processes(_two_processes, 2, tmp_path):
        actual = {name: torch.as_tensor(value) for name, value in result.items()}
        assert_same_gradients(actual, gradients(model), 1e-12)
