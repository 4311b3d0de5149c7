# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The paper's optimiser, the learning rates of layers, and the limit on the temperature."""

import math
import sys

import pytest
import torch
from torch import nn

from clip_hf.training.optimizer import (
    OptimizerOptions,
    adamw_from_paper,
    adamw_parameter_groups,
    build_optimizer,
    clamp_logit_scale_,
)
from tiny_models import make_tiny_model


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
    for layer_decay in (1.0, 0.5):
        groups = adamw_parameter_groups(tiny_model, 0.2, 1e-3, layer_decay)
        grouped = [parameter for group in groups for parameter in group["params"]]
        assert len(grouped) == sum(parameter.requires_grad for parameter in tiny_model.parameters())
    with pytest.raises(ValueError, match="nothing to train"):
        adamw_parameter_groups(tiny_model.requires_grad_(False), 0.2)


# Distance from the top of the tower, for three layers of a transformer and four stages of a ResNet.
DISTANCES = {
    "logit_scale": 0,
    "text_projection.weight": 0,
    "visual_projection.weight": 0,
    "text_model.final_layer_norm.weight": 0,
    "text_model.encoder.layers.2.mlp.fc1.weight": 1,
    "text_model.encoder.layers.0.layer_norm1.bias": 3,
    "text_model.embeddings.token_embedding.weight": 4,
    "text_model.embeddings.position_embedding.weight": 4,
}
VISION_DISTANCES = {
    "vit": {
        "vision_model.post_layernorm.bias": 0,
        "vision_model.encoder.layers.2.self_attn.q_proj.bias": 1,
        "vision_model.encoder.layers.1.self_attn.q_proj.weight": 2,
        "vision_model.encoder.layers.0.mlp.fc2.weight": 3,
        "vision_model.embeddings.class_embedding": 4,
        "vision_model.embeddings.patch_embedding.weight": 4,
        "vision_model.pre_layrnorm.weight": 4,
    },
    "resnet": {
        "vision_model.attention_pool.q_proj.weight": 1,
        "vision_model.attention_pool.position_embedding.weight": 1,
        "vision_model.encoder.stages.3.blocks.0.conv1.weight": 2,
        "vision_model.encoder.stages.1.blocks.1.bn2.bias": 4,
        "vision_model.encoder.stages.0.blocks.0.shortcut.conv.weight": 5,
        "vision_model.stem.conv1.weight": 6,
        "vision_model.stem.bn3.weight": 6,
    },
}


def test_learning_rate_falls_from_layer_to_layer(tiny_model, tower):
    groups = adamw_parameter_groups(tiny_model, 0.2, learning_rate=1e-3, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in tiny_model.named_parameters()}
    rates, decays = {}, {}
    for group in groups:
        assert group["params"]
        for parameter in group["params"]:
            name = names.pop(id(parameter))  # fails on one that is there twice
            rates[name], decays[name] = group["lr"], group["weight_decay"]
            assert group["weight_decay"] == (0.2 if parameter.ndim >= 2 else 0.0)
    assert not names
    for name, distance in {**DISTANCES, **VISION_DISTANCES[tower]}.items():
        assert rates[name] == pytest.approx(1e-3 * 0.5**distance), name
    assert len({(group["lr"], group["weight_decay"]) for group in groups}) == len(groups)
    with pytest.raises(ValueError, match="`layer_decay` is 0.5 and `learning_rate` is missing"):
        adamw_parameter_groups(tiny_model, 0.2, layer_decay=0.5)


def test_parameters_of_adapters_belong_to_their_layer():
    model = make_tiny_model("vit")
    layer = model.vision_model.encoder.layers[0].mlp
    layer.lora_a = nn.Linear(2, 2, bias=False)
    model.head = nn.Linear(2, 2, bias=False)
    groups = adamw_parameter_groups(model, 0.2, 1.0, 0.5)
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert rates[id(layer.lora_a.weight)] == 0.5**3
    assert rates[id(model.head.weight)] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "sgd"}, "'sgd'; it must be one of adamw, adamw_8bit"),
        ({"learning_rate": 0.0}, "`learning_rate` is 0.0"),
        ({"learning_rate": math.nan}, "`learning_rate` is nan"),
        ({"weight_decay": -0.1}, "`weight_decay` is -0.1"),
        ({"betas": (0.9, 1.0)}, r"`betas` is \(0.9, 1.0\)"),
        ({"betas": (0.9,)}, r"`betas` is \(0.9,\)"),
        ({"eps": 0.0}, "`eps` is 0.0"),
        ({"layer_decay": 0.0}, "`layer_decay` is 0.0"),
        ({"layer_decay": 1.1}, "`layer_decay` is 1.1"),
    ],
)
def test_options_that_are_not_possible_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OptimizerOptions(**options)


def _plain_adamw(parameters: dict, grads: list[dict], options: OptimizerOptions, betas, eps) -> dict:
    """AdamW as its definition reads (Loshchilov & Hutter 2019, algorithm 2), tensor by tensor."""
    parameters = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    first = {name: torch.zeros_like(value) for name, value in parameters.items()}
    second = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for step, grad in enumerate(grads, start=1):
        for name, value in parameters.items():
            decay = options.weight_decay if value.ndim >= 2 else 0.0
            value -= options.learning_rate * decay * value
            first[name] = betas[0] * first[name] + (1 - betas[0]) * grad[name]
            second[name] = betas[1] * second[name] + (1 - betas[1]) * grad[name] ** 2
            unbiased = first[name] / (1 - betas[0] ** step), second[name] / (1 - betas[1] ** step)
            value -= options.learning_rate * unbiased[0] / (unbiased[1].sqrt() + eps)
    return parameters


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_the_fused_update_is_the_definition(tiny_model, tower, dtype, tolerance):
    model = tiny_model.to(dtype)
    options = OptimizerOptions(learning_rate=1e-3, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    names = dict(model.named_parameters())
    grads = [
        {name: torch.randn(value.shape, generator=generator, dtype=dtype) for name, value in names.items()}
        for _ in range(3)
    ]
    betas, eps = {"vit": ((0.9, 0.98), 1e-6), "resnet": ((0.9, 0.999), 1e-8)}[tower]
    expected = _plain_adamw(names, grads, options, betas, eps)
    optimizer = build_optimizer(model, options)
    assert all(group["fused"] for group in optimizer.param_groups)
    for grad in grads:
        for name, parameter in names.items():
            parameter.grad = grad[name]
        optimizer.step()
    for name, parameter in names.items():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=tolerance, atol=tolerance)


def test_own_betas_and_eps(tiny_model):
    options = OptimizerOptions(betas=[0.8, 0.95], eps=1e-7, layer_decay=0.9)
    optimizer = build_optimizer(tiny_model, options)
    assert all((group["betas"], group["eps"]) == ((0.8, 0.95), 1e-7) for group in optimizer.param_groups)


def test_a_missing_library_is_named_at_once(tiny_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        build_optimizer(tiny_model, OptimizerOptions(name="adamw_8bit"))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_logit_scale_is_clipped_from_above_only(tiny_model, shape):
    tiny_model.logit_scale = parameter = nn.Parameter(tiny_model.logit_scale.detach().reshape(shape))
    for value, expected in ((5.0, math.log(100)), (2.0, 2.0), (-1.0, -1.0)):
        torch.nn.init.constant_(parameter, value)
        clamp_logit_scale_(tiny_model)
        assert tiny_model.logit_scale is parameter
        assert parameter.item() == pytest.approx(expected, rel=1e-6)
    assert parameter.requires_grad
