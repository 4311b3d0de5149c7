# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Models small enough for tests, made so that a comparison of their features can fail."""

import torch
from transformers import CLIPConfig, CLIPModel

from clip_hf import ClipHFConfig, ClipHFModel


TOWERS = ("vit", "resnet")
IMAGE_SIZE = 64
CONTEXT_LENGTH = 24
VOCAB_SIZE = 600
CAPTIONS = [
    "a photo of a cat on a red mat",
    "two dogs playing in the snow",
    "a map of the world, folded",
    "the number seven, handwritten",
    "un café à la terrasse d'un hôtel",
]
MORE_TEXTS = [
    "this is a photo of a small yellow bird and a large blue fish",
    "a drawing of three horses running along the beach at sunset",
]


def tiny_config(tower: str, **kwargs) -> ClipHFConfig:
    """A CLIP of some 100k parameters with either vision tower; `kwargs` are further arguments of the config."""
    vision_config = {
        "vit": {
            "model_type": "clip_hf_vit",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "patch_size": 16,
            "image_size": IMAGE_SIZE,
        },
        "resnet": {
            "model_type": "clip_hf_resnet",
            "stage_depths": [1, 2, 1, 1],
            "width": 8,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
        },
    }[tower]
    text_config = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT_LENGTH,
    }
    return ClipHFConfig(**{"text_config": text_config, "vision_config": vision_config, "projection_dim": 16, **kwargs})


@torch.no_grad()
def wake_batch_norm(model: torch.nn.Module, image_size: int = IMAGE_SIZE) -> None:
    """Give BatchNorm random gains and biases and statistics of random images.

    Freshly initialised, every residual block is switched off and a ResNet's features hardly depend on the image, so
    that a comparison of two of them would show nothing.
    """
    layers = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for layer in layers:
        torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
        torch.nn.init.normal_(layer.bias, std=0.2)
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average
    model.train()
    dtype = next(model.parameters()).dtype
    for _ in range(4):
        model(torch.randn(8, 3, image_size, image_size, dtype=dtype))
    model.eval()
    for layer in layers:
        layer.momentum = 0.1


def make_tiny_model(tower: str, seed: int = 0, **kwargs) -> ClipHFModel:
    """A tiny model in evaluation mode whose features differ from image to image."""
    torch.manual_seed(seed)
    model = ClipHFModel(tiny_config(tower, **kwargs)).eval()
    if tower == "resnet":
        wake_batch_norm(model.vision_model)
    return model


def as_transformers_clip(model):
    """The same weights in transformers' CLIPModel."""
    text, vision = model.config.text_config.to_dict(), model.config.vision_config.to_dict()
    for config in (text, vision):
        config.pop("model_type")
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=model.config.projection_dim))
    clip.load_state_dict(model.state_dict())
    return clip.eval()
