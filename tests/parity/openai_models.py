# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""OpenAI's models of several shapes, made so that a comparison of their features can fail."""

import copy

import torch

import references
from clip_hf import ARCHITECTURES, ClipHFConfig
from clip_hf.checkpoints.openai_names import rename
from clip_hf.checkpoints.stored_tensor import StoredTensor
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
SHAPES = {**SMALL, **{name: ARCHITECTURES[name] for name in ("RN50", "RN50x4", "ViT-B/32")}}


def relative_difference(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


def assert_bit_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Check that the same names have the same values of the same dtype and shape."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name], tensor), name


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
        calibrate_model(model, vision.image_size)
    return model.eval()


def calibrate_model(model: torch.nn.Module, image_size: int) -> None:
    """Make every tensor of OpenAI's or open_clip's model that starts constant random or measured."""
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, 1.0, 0.2)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
        if isinstance(module, torch.nn.MultiheadAttention):
            torch.nn.init.normal_(module.in_proj_bias, std=0.2)
            torch.nn.init.normal_(module.out_proj.bias, std=0.2)
    if any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules()):
        wake_batch_norm(model.visual, image_size)


def token_ids(config: ClipHFConfig, batch: int) -> torch.Tensor:
    """Texts of several lengths at the full context length, padded with 0 as OpenAI pads them."""
    text = config.text_config
    ids = torch.zeros(batch, text.max_position_embeddings, dtype=torch.long)
    for row, length in enumerate([5, text.max_position_embeddings, 17][:batch]):
        ids[row, :length] = torch.randint(1, text.vocab_size - 2, (length,))
        ids[row, 0], ids[row, length - 1] = text.bos_token_id, text.eos_token_id
    return ids


def in_float64(model: torch.nn.Module) -> torch.nn.Module:
    """OpenAI's or open_clip's model in float64: their LayerNorm goes through float32, torch's own takes its place."""
    model.double()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.forward = torch.nn.LayerNorm.forward.__get__(module)
    return model


def from_openai(weights: dict[str, torch.Tensor], config: ClipHFConfig) -> dict[str, torch.Tensor]:
    """OpenAI's weights under our names, with the library's own table."""
    stored = {name: StoredTensor.of(tensor) for name, tensor in weights.items()}
    renamed, filled = rename(stored, config, "OpenAI's model")
    assert not filled
    return {name: tensor.read() for name, tensor in renamed.items()}


def config_of(shape: str) -> ClipHFConfig:
    """A configuration of one of `SHAPES`."""
    return ClipHFConfig(**copy.deepcopy(SHAPES[shape]))
