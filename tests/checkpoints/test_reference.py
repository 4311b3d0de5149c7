# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arithmetic of each format against the models in float64, and that defects of every kind move it."""

import copy

import pytest
import torch
import transformers
from openai_like import (
    assert_same_features,
    features,
    inputs_of,
    make_model,
    relative_difference,
    to_openai,
)

from clip_hf import ClipHFModel, checkpoints
from clip_hf.checkpoints import reference
from clip_hf.checkpoints.conversion import TOLERANCE, TOLERANCE_OF_ROUNDED_WEIGHTS, fixed_inputs
from clip_hf.checkpoints.format_table import FORMAT_TABLE
from clip_hf.checkpoints.stored_tensor import StoredTensor
from clip_hf.checkpoints.transformers_format import config_to_transformers


def stored(weights: dict[str, torch.Tensor]) -> dict[str, StoredTensor]:
    return {name: StoredTensor.of(tensor) for name, tensor in weights.items()}


def computed(format, weights, config, inputs=None, dtype=torch.float64):
    return FORMAT_TABLE[format].features(stored(weights), config, inputs or fixed_inputs(config), dtype)


def double_inputs(model):
    pixels, ids = inputs_of(model)
    return {"pixel_values": pixels, "input_ids": ids}


@pytest.mark.parametrize("format", ["openai", "open_clip", "clip_hf"])
def test_features_equal_the_models(tower, source_model, format):
    weights = source_model.state_dict()
    weights = weights if format == "clip_hf" else to_openai(weights)
    before = source_model.config.to_dict()
    found = computed(format, weights, source_model.config, double_inputs(source_model))
    assert source_model.config.to_dict() == before
    assert {values.dtype for values in found.values()} == {torch.float64}
    assert_same_features(found, features(source_model))


@pytest.mark.parametrize(
    "changes",
    [
        {"text": {"hidden_act": "gelu", "num_attention_heads": 8}, "vision": {"hidden_act": "gelu_pytorch_tanh"}},
        {"vision": {"hidden_size": 160, "num_attention_heads": 2, "image_size": 70, "patch_size": 14}},
        {"text": {"layer_norm_eps": 1e-2, "eos_token_id": 17}, "vision": {"layer_norm_eps": 1e-3}},
        {"vision": {"num_channels": 2}, "projection_dim": 40},
    ],
)
def test_features_of_other_options_equal_the_models(changes):
    model = make_model("vit", **changes)
    inputs = fixed_inputs(model.config)
    model.double()
    with torch.no_grad():
        expected = {
            "image": model.get_image_features(inputs["pixel_values"].double()).pooler_output,
            "text": model.get_text_features(inputs["input_ids"]).pooler_output,
        }
    weights = model.state_dict()
    assert_same_features(computed("open_clip", to_openai(weights), model.config), expected)
    assert_same_features(computed("clip_hf", weights, model.config), expected)


def test_transformers_features_equal_the_models(source_models):
    model = source_models["vit"]
    config = config_to_transformers(checkpoints.Checkpoint.of(model, None))
    assert isinstance(config, transformers.CLIPConfig)
    found = computed("transformers", model.state_dict(), config, double_inputs(model))
    assert_same_features(found, features(model))


# ------------------------------------------------------------------------------------------------------------- defects


def swap(weights, first, second):
    weights[first], weights[second] = weights[second], weights[first]


def transpose(weights, name, *axes):
    weights[name] = weights[name].transpose(*axes)


def swap_query_and_key(weights, tower):
    swap(weights, f"{tower}.q_proj.weight", f"{tower}.k_proj.weight")
    swap(weights, f"{tower}.q_proj.bias", f"{tower}.k_proj.bias")


def swap_packed(weights, name):
    query, key, value = weights[name].chunk(3)
    weights[name] = torch.cat([key, query, value])


TEXT_LAYER = "transformer.resblocks.0"
DEFECTS = {
    "swapped query and key": ("text", lambda weights: swap_packed(weights, f"{TEXT_LAYER}.attn.in_proj_weight")),
    "dropped packed bias": ("text", lambda weights: weights[f"{TEXT_LAYER}.attn.in_proj_bias"].zero_()),
    "dropped bias": ("text", lambda weights: weights[f"{TEXT_LAYER}.mlp.c_fc.bias"].zero_()),
    "dropped gain": ("text", lambda weights: weights["ln_final.weight"].fill_(1)),
    "transposed projection": ("text", lambda weights: transpose(weights, "text_projection", 0, 1)),
    "swapped layers": (
        "text",
        lambda weights: swap(weights, f"{TEXT_LAYER}.ln_1.weight", "transformer.resblocks.1.ln_1.weight"),
    ),
    "shifted positions": (
        "text",
        lambda weights: weights.update(positional_embedding=weights["positional_embedding"].roll(1, 0)),
    ),
}
VISION_DEFECTS = {
    "vit": {
        "transposed projection": lambda weights: transpose(weights, "visual.proj", 0, 1),
        "swapped norms": lambda weights: swap(weights, "visual.ln_pre.weight", "visual.ln_post.weight"),
        "transposed patches": lambda weights: weights.update(
            {"visual.conv1.weight": weights["visual.conv1.weight"].mT}
        ),
        "dropped class": lambda weights: weights["visual.class_embedding"].zero_(),
    },
    "resnet": {
        "swapped query and key": lambda weights: swap_query_and_key(weights, "visual.attnpool"),
        "dropped bias": lambda weights: weights["visual.attnpool.c_proj.bias"].zero_(),
        "another mean": lambda weights: weights["visual.layer3.0.bn2.running_mean"].zero_(),
        "another variance": lambda weights: weights["visual.layer1.0.downsample.1.running_var"].fill_(1),
        "transposed convolution": lambda weights: transpose(weights, "visual.layer2.1.conv2.weight", 0, 1),
        "transposed projection": lambda weights: transpose(weights, "visual.attnpool.c_proj.weight", 0, 1),
    },
}
CASES = [(tower, *DEFECTS[name]) for tower in ("vit", "resnet") for name in DEFECTS]
CASES += [(tower, "image", defect) for tower, defects in VISION_DEFECTS.items() for defect in defects.values()]
IDS = [f"{tower} {name}" for tower in ("vit", "resnet") for name in DEFECTS]
IDS += [f"{tower} vision {name}" for tower, defects in VISION_DEFECTS.items() for name in defects]


@pytest.fixture(scope="module")
def square_models():
    """Models whose projections are square, so that a transposed one has the same shape."""
    return {tower: make_model(tower, projection_dim=128) for tower in ("vit", "resnet")}


@pytest.mark.parametrize(("tower", "kind", "defect"), CASES, ids=IDS)
def test_a_defect_of_the_weights_moves_the_features(square_models, tower, kind, defect):
    model = square_models[tower]
    weights = to_openai(model.state_dict())
    before = computed("openai", weights, model.config, dtype=torch.float32)
    defect(weights)
    after = computed("openai", weights, model.config, dtype=torch.float32)
    assert relative_difference(after[kind], before[kind]) > 5 * TOLERANCE
    other = "text" if kind == "image" else "image"
    assert torch.equal(after[other], before[other])


CONFIG_DEFECTS = {
    "activation": ("hidden_act", "gelu"),
    "heads": ("num_attention_heads", 1),
    "epsilon": ("layer_norm_eps", 1e-2),
    "end of text": ("eos_token_id", 598),
    "layers": ("num_hidden_layers", 1),
}


@pytest.mark.parametrize("format", ["openai", "clip_hf"])
@pytest.mark.parametrize(
    ("part", "case"),
    [
        (part, case)
        for part in ("text", "vision")
        for case in CONFIG_DEFECTS
        if (part, case) != ("vision", "end of text")
    ],
)
def test_a_defect_of_the_configuration_moves_the_features(source_models, part, case, format):
    model, (name, value) = source_models["vit"], CONFIG_DEFECTS[case]
    weights = model.state_dict() if format == "clip_hf" else to_openai(model.state_dict())
    config = copy.deepcopy(model.config)
    inputs = fixed_inputs(config)
    setattr(getattr(config, f"{part}_config"), name, value)
    found = computed(format, weights, config, inputs, torch.float32)
    expected = computed("openai", to_openai(model.state_dict()), model.config, inputs, torch.float32)
    kind = "image" if part == "vision" else "text"
    assert relative_difference(found[kind], expected[kind]) > 10 * TOLERANCE


def test_tolerances_are_as_wide_as_rounding_needs(tower, source_model):
    weights = to_openai(source_model.state_dict())
    exact = computed("openai", weights, source_model.config)
    single = computed("openai", weights, source_model.config, dtype=torch.float32)
    rounded = {
        name: tensor.half().float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()
    }
    half = computed("openai", rounded, source_model.config)
    for kind, values in exact.items():
        assert relative_difference(single[kind].double(), values) < TOLERANCE / 10
        assert TOLERANCE < relative_difference(half[kind], values) < TOLERANCE_OF_ROUNDED_WEIGHTS


# ----------------------------------------------------------------------------------------------------------- streaming


def test_each_layer_is_read_when_it_runs_and_dropped(tower, source_model):
    reads, weights = [], source_model.state_dict()

    def counted(name, tensor):
        def read():
            reads.append(name)
            return tensor

        return StoredTensor(tuple(tensor.shape), tensor.dtype, read)

    tensors = {name: counted(name, tensor) for name, tensor in weights.items()}
    config, inputs = source_model.config, fixed_inputs(source_model.config)
    with torch.device("meta"):
        model = ClipHFModel(config).double().eval()
    reference.stream_weights(model, tensors, torch.float64)
    assert reads == []
    in_memory = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda *args: in_memory.append(memory_of(model)))
    with torch.no_grad():
        model.get_image_features(pixel_values=inputs["pixel_values"].double())
        model.get_text_features(input_ids=inputs["input_ids"])
    assert memory_of(model) == 0
    assert sorted(reads) == sorted(name for name in weights if name != "logit_scale")
    largest = max(tensor.numel() for tensor in weights.values())
    assert max(in_memory) < 2 * largest < sum(tensor.numel() for tensor in weights.values()) / 3


def memory_of(model) -> int:
    """Numbers that a model has in memory, but for the few that only count."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() for tensor in tensors if tensor.device.type != "meta" and tensor.is_floating_point())
