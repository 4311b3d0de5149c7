# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Our towers against OpenAI's code with the same weights: structure in float64, rounding in float32."""

import pytest
import torch
from openai_models import (
    SHAPES,
    SMALL,
    config_of,
    from_openai,
    in_float64,
    openai_model,
    relative_difference,
    token_ids,
)

from clip_hf import ClipHFModel


def rounding_of(tower: torch.nn.Module) -> float:
    """The most that float32 should cost: a unit in the last place for each layer, one after another."""
    layers = sum(isinstance(module, torch.nn.Conv2d | torch.nn.Linear) for module in tower.modules())
    return layers * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("shape", SHAPES)
def test_features_equal_openais(shape):
    torch.manual_seed(0)
    config = config_of(shape)
    theirs = openai_model(config)
    ours = ClipHFModel(config).eval()
    ours.load_state_dict(from_openai(theirs.state_dict(), config))
    size = config.vision_config.image_size
    # A colour cast of its own for each image: noise alone is the same to a random vision transformer.
    pixels = torch.randn(3, 3, size, size) + 3 * torch.randn(3, 3, 1, 1)
    ids = token_ids(config, 3)
    with torch.no_grad():
        single = {
            "text": (theirs.encode_text(ids), ours.get_text_features(ids).pooler_output),
            "image": (theirs.encode_image(pixels), ours.get_image_features(pixels).pooler_output),
        }
        in_float64(theirs)
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
        # Not OpenAI's error: how either is rounded depends on processor, threads and memory format.
        assert errors[1] <= rounding_of({"text": ours.text_model, "image": ours.vision_model}[kind])


@pytest.mark.parametrize("shape", SMALL)
def test_initial_values_are_distributed_as_openais(shape):
    torch.manual_seed(0)
    config = config_of(shape)
    theirs = from_openai(openai_model(config, calibrate=False).state_dict(), config)
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
