# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The paper's optimiser."""

import math

import pytest
import torch

from clip_hf.training import adamw_from_paper, adamw_parameter_groups, clamp_logit_scale_


def test_weight_decay_is_for_weights_that_are_not_gains_or_biases(tiny_model):
    names = {id(parameter): name for name, parameter in tiny_model.named_parameters()}
    decayed, plain = adamw_parameter_groups(tiny_model, 0.2)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.2, 0.0)
    decayed, plain = ([names[id(parameter)] for parameter in group["params"]] for group in (decayed, plain))
    assert sorted(decayed + plain) == sorted(names.values())
    assert "logit_scale" in plain
    assert "text_projection.weight" in decayed and "visual_projection.weight" in decayed
    assert "text_model.embeddings.token_embedding.weight" in decayed
    assert all(name.endswith(".weight") for name in decayed)
    assert all(
        name.endswith((".bias", ".class_embedding")) or "norm" in name or ".bn" in name or name == "logit_scale"
        for name in plain
    )


def test_settings_of_the_paper(tiny_model, tower):
    optimizer = adamw_from_paper(tiny_model, learning_rate=5e-4)
    expected = {"vit": ((0.9, 0.98), 1e-6), "resnet": ((0.9, 0.999), 1e-8)}[tower]
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"]) == expected
        assert group["lr"] == 5e-4
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]


def test_frozen_parameters_are_left_out(tiny_model):
    tiny_model.vision_model.requires_grad_(False)
    grouped = [parameter for group in adamw_parameter_groups(tiny_model, 0.2) for parameter in group["params"]]
    assert len(grouped) == sum(parameter.requires_grad for parameter in tiny_model.parameters())
    with pytest.raises(ValueError, match="nothing to train"):
        adamw_parameter_groups(tiny_model.requires_grad_(False), 0.2)


def test_logit_scale_is_clipped_from_above_only(tiny_model):
    parameter = tiny_model.logit_scale
    for value, expected in ((5.0, math.log(100)), (2.0, 2.0), (-1.0, -1.0)):
        torch.nn.init.constant_(parameter, value)
        clamp_logit_scale_(tiny_model)
        assert tiny_model.logit_scale is parameter
        assert parameter.item() == pytest.approx(expected, rel=1e-6)
    assert parameter.requires_grad
