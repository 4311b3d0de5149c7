# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The moving average of the weights."""

import pytest
import torch

from clip_hf.training.freezing import freeze
from clip_hf.training.weight_averaging import AveragedWeights
from tiny_models import make_tiny_model


@torch.no_grad()
def change(model, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
        tensor += torch.randn(tensor.shape, generator=generator).abs()


def tensors(model) -> dict:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_it_is_the_average_of_the_definition(tiny_model):
    averaged = AveragedWeights(tiny_model, decay=0.2)
    expected = None
    for number in range(4):
        change(tiny_model, number)
        averaged.update(tiny_model)
        own = tensors(tiny_model)
        decay = min(0.2, (1 + number) / (10 + number))
        if expected is None:
            expected = own
        for name, _ in tiny_model.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * own[name]
        expected |= {name: own[name] for name, _ in tiny_model.named_buffers() if name in own}
    assert not torch.allclose(expected["logit_scale"], own["logit_scale"], atol=1e-3)
    pointers = {name: parameter.data_ptr() for name, parameter in tiny_model.named_parameters()}
    with averaged.applied_to(tiny_model):
        torch.testing.assert_close(tensors(tiny_model), expected)
        assert pointers == {name: parameter.data_ptr() for name, parameter in tiny_model.named_parameters()}
    after = tensors(tiny_model)
    assert all(torch.equal(after[name], value) for name, value in own.items())
    with averaged.applied_to(tiny_model):
        torch.testing.assert_close(tensors(tiny_model), expected)


def test_what_changes_a_buffer_meanwhile_is_undone():
    model = make_tiny_model("resnet")
    averaged = AveragedWeights(model, decay=0.5)
    before = tensors(model)
    with averaged.applied_to(model), torch.no_grad():
        for buffer in model.buffers():
            buffer += 1
    assert all(torch.equal(value, before[name]) for name, value in tensors(model).items())


def test_the_own_weights_are_back_after_an_error(tiny_model):
    averaged = AveragedWeights(tiny_model, decay=0.5)
    averaged.update(tiny_model)
    change(tiny_model, 0)
    before = tensors(tiny_model)
    with pytest.raises(KeyError), averaged.applied_to(tiny_model):
        assert not torch.equal(tiny_model.logit_scale, before["logit_scale"])
        for use in (
            averaged.state_dict,
            lambda: averaged.update(tiny_model),
            averaged.applied_to(tiny_model).__enter__,
        ):
            with pytest.raises(RuntimeError, match="in the model at the moment"):
                use()
        raise KeyError
    assert all(torch.equal(value, before[name]) for name, value in tensors(tiny_model).items())


def test_it_goes_on_where_it_was(tiny_model):
    averaged = AveragedWeights(tiny_model, decay=0.5)
    for number in range(3):
        change(tiny_model, number)
        averaged.update(tiny_model)
    state = {name: tensor.clone() for name, tensor in averaged.state_dict().items()}
    other = AveragedWeights(make_tiny_model(tiny_model.config.vision_config.model_type.split("_")[-1]), decay=0.5)
    other.load_state_dict(state)
    change(tiny_model, 9)
    for one in (averaged, other):
        one.update(tiny_model)
    others = other.state_dict()
    assert all(torch.equal(tensor, others[name]) for name, tensor in averaged.state_dict().items())


def test_frozen_parts_stay_to_the_last_bit(tiny_model):
    freeze(tiny_model, ["vision"])
    before = tensors(tiny_model)
    averaged = AveragedWeights(tiny_model, decay=0.9)
    for _ in range(5):
        averaged.update(tiny_model)
    with averaged.applied_to(tiny_model):
        after = tensors(tiny_model)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_does_not_fit_is_refused(tiny_model):
    with pytest.raises(ValueError, match="`decay` is 1.0"):
        AveragedWeights(tiny_model, decay=1.0)
    averaged = AveragedWeights(tiny_model)
    with pytest.raises(ValueError, match="other parameters"), averaged.applied_to(tiny_model.text_model):
        pass
    assert averaged.state_dict()
