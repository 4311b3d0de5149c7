# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Our towers against OpenAI's code with the same weights: structure in float64, rounding in float32."""

import copy

import pytest
import torch
from openai_weights import from_openai

import references
from clip_hf import ARCHITECTURES, ClipHFConfig, ClipHFModel
from tiny_models import wake_batch_norm


SMALL = {
    "small ResNet": {
        "projection_dim": 32,
        "text_config": {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 1},
        "vision_config": {"model_type": "clip_hf_resnet", "stage_depths": [2, 1, 2, 1], "width": 16, "image_size": 96},
    },
    "small ViT": {
        "projection_dim": 32,
        "text_config": {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "vision_config": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3}
        | {"num_attention_heads": 2, "image_size": 80, "patch_size": 16},
    },
}
SHAPES = {**SMALL, "RN50": ARCHITECTURES["RN50"], "ViT-B/32": ARCHITECTURES["ViT-B/32"]}


def relative_difference(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


def openai_model(config: ClipHFConfig, calibrate: bool = True):
    """OpenAI's CLIP of the same shape; with `calibrate`, every tensor that starts constant is random or measured."""
    text, vision = config.text_config, config.vision_config
    resnet = vision.model_type == "clip_hf_resnet"
    model = references.load_openai_model_module().CLIP(
        embed_dim=config.projection_dim,
        image_resolution=vision.image_size,
        vision_layers=tuple(vision.stage_depths) if resnet else vision.num_hidden_layers,
        vision_width=vision.width if resnet else vision.hidden_size,
        vision_patch_size=None if resnet else vision.patch_size,
        context_length=text.max_position_embeddings,
        vocab_size=text.vocab_size,
        transformer_width=text.hidden_size,
        transformer_heads=text.num_attention_heads,
        transformer_layers=text.num_hidden_layers,
    )
    if calibrate:
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                torch.nn.init.normal_(module.weight, 1.0, 0.2)
                torch.nn.init.normal_(module.bias, 0.0, 0.2)
            if isinstance(module, torch.nn.MultiheadAttention):
                torch.nn.init.normal_(module.in_proj_bias, std=0.2)
                torch.nn.init.normal_(module.out_proj.bias, std=0.2)
        if resnet:
            wake_batch_norm(model.visual, vision.image_size)
    return model.eval()


def token_ids(config: ClipHFConfig, batch: int) -> torch.Tensor:
    """Texts of several lengths at the full context length, padded with 0 as OpenAI pads them."""
    text = config.text_config
    ids = torch.zeros(batch, text.max_position_embeddings, dtype=torch.long)
    for row, length in enumerate([5, text.max_position_embeddings, 17][:batch]):
        ids[row, :length] = torch.randint(1, text.vocab_size - 2, (length,))
        ids[row, 0], ids[row, length - 1] = text.bos_token_id, text.eos_token_id
    return ids


@pytest.mark.parametrize("shape", SHAPES)
def test_features_equal_openais(shape, record_property):
    torch.manual_seed(0)
    config = ClipHFConfig(**copy.deepcopy(SHAPES[shape]))
    theirs = openai_model(config)
    ours = ClipHFModel(config).eval()
    ours.load_state_dict(from_openai(theirs.state_dict()))
    size = config.vision_config.image_size
    # A colour cast of its own for each image: noise alone is the same to a random vision transformer.
    pixels = torch.randn(3, 3, size, size) + 3 * torch.randn(3, 3, 1, 1)
    ids = token_ids(config, 3)
    with torch.no_grad():
        single = {
            "text": (theirs.encode_text(ids), ours.get_text_features(ids).pooler_output),
            "image": (theirs.encode_image(pixels), ours.get_image_features(pixels).pooler_output),
        }
        # OpenAI's LayerNorm always goes through float32; for the reference in float64 it is torch's own.
        theirs.double()
        for module in theirs.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.forward = torch.nn.LayerNorm.forward.__get__(module)
        expected = {"text": theirs.encode_text(ids), "image": theirs.encode_image(pixels.double())}
        logits = theirs(pixels.double(), ids)[0]
        for attn_implementation in ("sdpa", "eager"):
            ours.double().set_attn_implementation(attn_implementation)
            actual = {
                "text": ours.get_text_features(ids).pooler_output,
                "image": ours.get_image_features(pixels.double()).pooler_output,
            }
            for kind, features in expected.items():
                assert relative_difference(features[0], features[1]) > 0.2, kind
                difference = relative_difference(actual[kind], features)
                print(f"{shape} {kind} float64 {attn_implementation}: relative difference {difference:.1e}")
                assert difference <= 1e-10, kind
            assert relative_difference(ours(ids, pixels.double()).logits_per_image, logits) <= 1e-10
    for kind, (their_single, our_single) in single.items():
        errors = [relative_difference(features, expected[kind]) for features in (their_single, our_single)]
        print(f"{shape} {kind} float32: error of OpenAI's {errors[0]:.1e}, of ours {errors[1]:.1e}")
        assert errors[1] <= 2 * errors[0]


@pytest.mark.parametrize("shape", SMALL)
def test_initial_values_are_distributed_as_openais(shape):
    torch.manual_seed(0)
    config = ClipHFConfig(**copy.deepcopy(SHAPES[shape]))
    theirs = from_openai(openai_model(config, calibrate=False).state_dict())
    ours = ClipHFModel(config).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.shape == theirs[name].shape, name
        if tensor.numel() == 1:
            torch.testing.assert_close(tensor, theirs[name], msg=name)
            continue
        # Two samples of n draws: deviations within five standard errors of each other, ranges within a fifth.
        std, their_std = tensor.float().std().item(), theirs[name].float().std().item()
        assert std == pytest.approx(their_std, rel=5 * tensor.numel() ** -0.5), name
        if tensor.numel() > 1000 and their_std > 0:
            bounded = theirs[name].abs().max() / their_std < 1.8  # uniform, not normal
            assert (tensor.abs().max() / std < 1.8) == bounded, name
