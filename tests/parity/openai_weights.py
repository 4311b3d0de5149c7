# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""OpenAI's weight names in ours, for the comparison of the two models."""

import re

import torch


TEXT = [
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
]
VIT = [
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
]
LAYER = [
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.c_fc\.", ".fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
]
RESNET = [
    (r"^visual\.attnpool\.positional_embedding$", "vision_model.attention_pool.position_embedding.weight"),
    (r"^visual\.attnpool\.c_proj\.", "visual_projection."),
    (r"^visual\.attnpool\.", "vision_model.attention_pool."),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.bn."),
    (r"^visual\.((?:conv|bn)\d\.)", r"vision_model.stem.\1"),
]


def from_openai(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename OpenAI's weights; its matrices that multiply from the right are transposed, its q, k, v taken apart."""
    resnet = "visual.attnpool.c_proj.weight" in weights
    result = {}
    for name, tensor in weights.items():
        if name in ("text_projection", "visual.proj"):
            tensor = tensor.T
        stage = re.match(r"^visual\.layer(\d)\.(\d+)\.(.*)", name)
        if stage:
            name = f"vision_model.encoder.stages.{int(stage[1]) - 1}.blocks.{stage[2]}.{stage[3]}"
        for pattern, replacement in [*TEXT, *(RESNET if resnet else VIT), *LAYER]:
            name = re.sub(pattern, replacement, name)
        if ".in_proj_" in name:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                result[name.replace("in_proj_", f"{part}_proj.")] = piece
        else:
            result[name] = tensor
    return result
