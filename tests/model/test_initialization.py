# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The initial value of every tensor: OpenAI's distribution, tensor by tensor."""

import math

import pytest
import torch
from torch import nn

from clip_hf import (
    ClipHFConfig,
    ClipHFForImageClassification,
    ClipHFModel,
    ClipHFTextModelWithProjection,
    ClipHFVisionModelWithProjection,
)


TEXT_WIDTH, TEXT_LAYERS, VISION_WIDTH, PROJECTION = 128, 3, 192, 64
RESNET_WIDTH = 16


def make_config(tower: str, **kwargs) -> ClipHFConfig:
    vision_config = {
        "vit": {"hidden_size": VISION_WIDTH, "num_attention_heads": 3, "num_hidden_layers": 2, "patch_size": 32},
        "resnet": {"model_type": "clip_hf_resnet", "width": RESNET_WIDTH, "stage_depths": [2, 2, 2, 2]},
    }[tower]
    text_config = {"hidden_size": TEXT_WIDTH, "num_attention_heads": 4, "num_hidden_layers": TEXT_LAYERS}
    return ClipHFConfig(
        text_config={**text_config, "intermediate_size": 4 * TEXT_WIDTH, "vocab_size": 1000},
        vision_config=vision_config,
        projection_dim=PROJECTION,
        **kwargs,
    )


def uniform_std(fan_in: int) -> float:
    """Standard deviation of torch's default for linear layers and convolutions, uniform on +-1/sqrt(fan_in)."""
    return 1 / math.sqrt(3 * fan_in)


def expected_std(model: nn.Module, name: str) -> float:
    """What OpenAI's `initialize_parameters` and the constructors before it leave, from the tensor's name."""
    layer_std = (2 * TEXT_LAYERS * TEXT_WIDTH) ** -0.5
    table = {
        "text_model.embeddings.token_embedding.weight": 0.02,
        "text_model.embeddings.position_embedding.weight": 0.01,
        "text_projection.weight": TEXT_WIDTH**-0.5,
        "text q_proj.weight": TEXT_WIDTH**-0.5,
        "text k_proj.weight": TEXT_WIDTH**-0.5,
        "text v_proj.weight": TEXT_WIDTH**-0.5,
        "text out_proj.weight": layer_std,
        "text fc1.weight": (2 * TEXT_WIDTH) ** -0.5,
        "text fc2.weight": layer_std,
        "vision_model.embeddings.class_embedding": VISION_WIDTH**-0.5,
        "vision_model.embeddings.position_embedding.weight": VISION_WIDTH**-0.5,
        # Xavier-uniform over the three as one matrix: variance 2 / (fan_in + fan_out) = 2 / (4 * width).
        "vision q_proj.weight": (2 * VISION_WIDTH) ** -0.5,
        "vision k_proj.weight": (2 * VISION_WIDTH) ** -0.5,
        "vision v_proj.weight": (2 * VISION_WIDTH) ** -0.5,
        "vision_model.attention_pool.position_embedding.weight": (32 * RESNET_WIDTH) ** -0.5,
        "vision_model.attention_pool.q_proj.weight": (32 * RESNET_WIDTH) ** -0.5,
        "vision_model.attention_pool.k_proj.weight": (32 * RESNET_WIDTH) ** -0.5,
        "vision_model.attention_pool.v_proj.weight": (32 * RESNET_WIDTH) ** -0.5,
    }
    module = model.get_submodule(name.rpartition(".")[0])
    kind = f"{name.split('_')[0]} {'.'.join(name.split('.')[-2:])}"
    if name == "visual_projection.weight":
        return module.in_features**-0.5
    if name in table or kind in table:
        return table[name] if name in table else table[kind]
    if "self_attn" in name and name.endswith("bias"):
        return 0.0
    return uniform_std(module.weight[0].numel())


def test_every_tensor_has_openais_distribution(tower):
    torch.manual_seed(0)
    model = ClipHFModel(make_config(tower))
    norms = {name for name, module in model.named_modules() if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d))}
    checked = 0
    for name, tensor in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module in norms:
            last_of_block = module.endswith("bn3") and "encoder" in module
            constants = {"weight": 0.0 if last_of_block else 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
            assert (tensor == constants.get(kind, 0)).all(), name
        elif name == "logit_scale":
            assert tensor.item() == pytest.approx(math.log(1 / 0.07), abs=1e-6)
        else:
            std = expected_std(model, name)
            # Of n draws the sample's deviation strays by 1/sqrt(2 n), its mean by std/sqrt(n): five of each.
            assert tensor.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * tensor.numel())), name
            assert abs(tensor.mean().item()) <= 5 * std / math.sqrt(tensor.numel()), name
            checked += 1
    assert checked > 30


def test_factor_scales_what_is_random(tower):
    config = make_config(tower, initializer_factor=0.0)
    config.text_config.initializer_factor = config.vision_config.initializer_factor = 0.0
    model = ClipHFModel(config)
    assert {parameter.abs().sum().item() for parameter in model.text_model.encoder.layers[0].mlp.parameters()} == {0.0}
    assert model.visual_projection.weight.abs().sum() == 0
    assert model.text_model.final_layer_norm.weight.min() == 1


def test_models_made_by_from_pretrained_initialise_what_is_missing(tower, tmp_path):
    """A checkpoint without some tensors: those get their initial distribution, not zeros or leftover memory."""
    torch.manual_seed(0)
    model = ClipHFModel(make_config(tower))
    weights = model.state_dict()
    missing = ["logit_scale", "text_projection.weight", "text_model.embeddings.position_embedding.weight"]
    missing.append(
        "vision_model.encoder.stages.0.blocks.0.bn3.weight" if tower == "resnet" else "visual_projection.weight"
    )
    kept = {name: value for name, value in weights.items() if name not in missing}
    loaded, info = ClipHFModel.from_pretrained(None, config=model.config, state_dict=kept, output_loading_info=True)
    assert set(info["missing_keys"]) == set(missing)
    assert loaded.logit_scale.item() == pytest.approx(math.log(1 / 0.07), abs=1e-6)
    assert loaded.text_projection.weight.std().item() == pytest.approx(TEXT_WIDTH**-0.5, rel=0.1)
    assert loaded.text_model.embeddings.position_embedding.weight.std().item() == pytest.approx(0.01, rel=0.1)
    if tower == "resnet":
        assert loaded.vision_model.encoder.stages[0].blocks[0].bn3.weight.abs().sum() == 0


@pytest.mark.parametrize(
    ("cls", "config_of", "std"),
    [
        (ClipHFTextModelWithProjection, lambda config: config.text_config, TEXT_WIDTH**-0.5),
        (ClipHFVisionModelWithProjection, lambda config: config.vision_config, VISION_WIDTH**-0.5),
    ],
)
def test_projections_of_single_towers(cls, config_of, std):
    torch.manual_seed(0)
    model = cls(config_of(make_config("vit")))
    projection = model.text_projection if hasattr(model, "text_projection") else model.visual_projection
    assert projection.weight.std().item() == pytest.approx(std, rel=0.05)


def test_classifier(tower):
    torch.manual_seed(0)
    model = ClipHFForImageClassification(make_config(tower, num_labels=50))
    width = model.config.vision_config.hidden_size
    assert model.classifier.weight.std().item() == pytest.approx(width**-0.5, rel=0.05)
    assert model.classifier.bias.abs().sum() == 0
