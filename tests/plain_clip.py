# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""CLIP written out in plain tensor operations: the reference that the towers are tested against.

Every function takes `weights`, a model's state dict, and a `prefix` of its names. No mask trick, no fused attention,
no batching over texts: what it computes can be read off.
"""

import torch


def layer_norm(x, weights, prefix):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weights[f"{prefix}.weight"] + weights[f"{prefix}.bias"]


def linear(x, weights, prefix):
    y = x @ weights[f"{prefix}.weight"].T
    return y + weights[f"{prefix}.bias"] if f"{prefix}.bias" in weights else y


def attention(query, key, value, heads, causal):
    """(queries, width), (keys, width), (keys, width) -> (queries, width), head by head."""
    head_dim = query.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        scores = query[:, part] @ key[:, part].T / head_dim**0.5
        if causal:
            rows, columns = torch.arange(len(query))[:, None], torch.arange(len(key))[None]
            scores[columns > rows] = -torch.inf
        weights = (scores - scores.max(-1, keepdim=True).values).exp()
        outputs.append(weights / weights.sum(-1, keepdim=True) @ value[:, part])
    return torch.cat(outputs, dim=-1)


def transformer(x, weights, prefix, layers, heads, causal):
    """(length, width) -> (length, width)"""
    for layer in range(layers):
        name = f"{prefix}.encoder.layers.{layer}"
        y = layer_norm(x, weights, f"{name}.layer_norm1")
        query, key, value = (linear(y, weights, f"{name}.self_attn.{part}_proj") for part in "qkv")
        x = x + linear(attention(query, key, value, heads, causal), weights, f"{name}.self_attn.out_proj")
        y = linear(layer_norm(x, weights, f"{name}.layer_norm2"), weights, f"{name}.mlp.fc1")
        y = y / (1 + torch.exp(-1.702 * y))  # QuickGELU
        x = x + linear(y, weights, f"{name}.mlp.fc2")
    return x


def text_features(weights, config, token_ids):
    """Projected features (projection_dim,) of one text, a list of ids without padding."""
    x = weights["text_model.embeddings.token_embedding.weight"][token_ids]
    x = x + weights["text_model.embeddings.position_embedding.weight"][: len(token_ids)]
    x = transformer(x, weights, "text_model", config.num_hidden_layers, config.num_attention_heads, causal=True)
    x = layer_norm(x, weights, "text_model.final_layer_norm")
    return linear(x[token_ids.index(config.eos_token_id)], weights, "text_projection")


def vit_features(weights, config, pixels):
    """Projected features (projection_dim,) of one image (3, height, width)."""
    size = config.patch_size
    kernel = weights["vision_model.embeddings.patch_embedding.weight"].flatten(1)  # (width, 3 * size * size)
    tokens = [weights["vision_model.embeddings.class_embedding"]]
    for top in range(0, pixels.shape[1], size):
        for left in range(0, pixels.shape[2], size):
            tokens.append(kernel @ pixels[:, top : top + size, left : left + size].flatten())
    x = torch.stack(tokens) + weights["vision_model.embeddings.position_embedding.weight"]
    x = layer_norm(x, weights, "vision_model.pre_layrnorm")
    x = transformer(x, weights, "vision_model", config.num_hidden_layers, config.num_attention_heads, causal=False)
    return linear(layer_norm(x[0], weights, "vision_model.post_layernorm"), weights, "visual_projection")


def resnet_features(weights, config, pixels):
    """Projected features (projection_dim,) of one image (3, height, width), with running statistics."""

    def conv_bn(x, name, index="", stride=1, relu=True):
        kernel = weights[f"{name}.conv{index}.weight"]
        x = torch.nn.functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        parts = (weights[f"{name}.bn{index}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        mean, variance, gain, bias = (part[:, None, None] for part in parts)
        x = (x - mean) / (variance + 1e-5).sqrt() * gain + bias
        return x.clamp(min=0) if relu else x

    def halve(x):
        return (x[:, 0::2, 0::2] + x[:, 0::2, 1::2] + x[:, 1::2, 0::2] + x[:, 1::2, 1::2]) / 4

    x = conv_bn(pixels, "vision_model.stem", 1, stride=2)
    x = halve(conv_bn(conv_bn(x, "vision_model.stem", 2), "vision_model.stem", 3))
    for stage, depth in enumerate(config.stage_depths):
        for block in range(depth):
            name = f"vision_model.encoder.stages.{stage}.blocks.{block}"
            halves = stage > 0 and block == 0
            y = conv_bn(conv_bn(x, name, 1), name, 2)
            y = conv_bn(halve(y) if halves else y, name, 3, relu=False)
            if block == 0:
                x = conv_bn(halve(x) if halves else x, f"{name}.shortcut", relu=False)
            x = (x + y).clamp(min=0)
    x = x.flatten(1).T  # (positions, hidden_size)
    pool = "vision_model.attention_pool"
    x = torch.cat([x.mean(0, keepdim=True), x]) + weights[f"{pool}.position_embedding.weight"]
    query, key, value = (linear(x, weights, f"{pool}.{part}_proj") for part in "qkv")
    pooled = attention(query[:1], key, value, config.num_attention_heads, causal=False)[0]
    return linear(pooled, weights, "visual_projection")


def image_features(weights, config, pixels):
    """Projected features (projection_dim,) of one image by either tower."""
    features = resnet_features if config.model_type == "clip_hf_resnet" else vit_features
    return features(weights, config, pixels)


def cosine_logits(images, texts, scale):
    """(images, dim), (texts, dim) -> (images, texts), one cosine after the other."""
    cosine = [[image @ text / (image @ image).sqrt() / (text @ text).sqrt() for text in texts] for image in images]
    return scale * torch.stack([torch.stack(row) for row in cosine])
