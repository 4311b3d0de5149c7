# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The nine published CLIP models by name, as data (Radford et al. 2021, tables 19 and 20)."""


def _text(width: int, heads: int) -> dict:
    # Every published text tower has 12 layers and a four times wider hidden layer.
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": heads,
        "num_hidden_layers": 12,
    }


def _resnet(stage_depths: list[int], width: int, image_size: int) -> dict:
    return {"model_type": "clip_hf_resnet", "stage_depths": stage_depths, "width": width, "image_size": image_size}


def _vit(layers: int, width: int, patch_size: int, image_size: int) -> dict:
    return {
        "model_type": "clip_hf_vit",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": width // 64,
        "num_hidden_layers": layers,
        "patch_size": patch_size,
        "image_size": image_size,
    }


def _model(projection_dim: int, text_config: dict, vision_config: dict) -> dict:
    return {"projection_dim": projection_dim, "text_config": text_config, "vision_config": vision_config}


ARCHITECTURES: dict[str, dict] = {
    "RN50": _model(1024, _text(512, 8), _resnet([3, 4, 6, 3], 64, 224)),
    "RN101": _model(512, _text(512, 8), _resnet([3, 4, 23, 3], 64, 224)),
    "RN50x4": _model(640, _text(640, 10), _resnet([4, 6, 10, 6], 80, 288)),
    "RN50x16": _model(768, _text(768, 12), _resnet([6, 8, 18, 8], 96, 384)),
    "RN50x64": _model(1024, _text(1024, 16), _resnet([3, 15, 36, 10], 128, 448)),
    "ViT-B/32": _model(512, _text(512, 8), _vit(12, 768, 32, 224)),
    "ViT-B/16": _model(512, _text(512, 8), _vit(12, 768, 16, 224)),
    "ViT-L/14": _model(768, _text(768, 12), _vit(24, 1024, 14, 224)),
    "ViT-L/14@336px": _model(768, _text(768, 12), _vit(24, 1024, 14, 336)),
}
"""Constructor arguments of [`ClipHFConfig`] for each published model; what is left out is that class's default."""
