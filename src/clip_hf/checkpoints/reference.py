# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arithmetic of each format's own code, for the parity report of a conversion.

- OpenAI's and open_clip's: plain functions on weights under their names, without any of our modules. Query,
  key and value stay one matrix, and torch's own multi-head attention is used, as in those codes.
- transformers' and ours: the model class itself, each layer's weights read when it runs and dropped after it.

So the memory that a report takes is that of a layer, whatever the model's size.
"""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from ..model.configuration_clip_hf import ClipHFConfig, ClipHFResNetConfig, ClipHFTextConfig, ClipHFViTConfig
from .stored_tensor import StoredTensor


class _Weights:
    """Weights of OpenAI's names, read one by one as they are used, in one dtype."""

    def __init__(self, tensors: Mapping[str, StoredTensor], dtype: torch.dtype, prefix: str = ""):
        self.tensors, self.dtype, self.prefix = tensors, dtype, prefix

    def __call__(self, name: str) -> torch.Tensor:
        return self.tensors[self.prefix + name].read().to(self.dtype)

    def below(self, prefix: str) -> "_Weights":
        """The weights whose names begin with a prefix, under the rest of their names."""
        return _Weights(self.tensors, self.dtype, f"{self.prefix}{prefix}.")


# Shapes: images (batch, channels, height, width), hidden states (length, batch, width), features (batch, dim).


def openai_features(
    tensors: Mapping[str, StoredTensor], config: ClipHFConfig, inputs: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Features, not normalised, of OpenAI's arithmetic, which open_clip's is: `"image"` and `"text"`."""
    weights = _Weights(tensors, dtype)
    with torch.no_grad():
        image = _image_features(weights.below("visual"), config.vision_config, inputs["pixel_values"].to(dtype))
        return {"image": image, "text": _text_features(weights, config.text_config, inputs["input_ids"])}


def _text_features(weights: _Weights, text: ClipHFTextConfig, input_ids: torch.Tensor) -> torch.Tensor:
    length = input_ids.shape[1]
    x = weights("token_embedding.weight")[input_ids] + weights("positional_embedding")[:length]
    causal = torch.full((length, length), -torch.inf, dtype=x.dtype).triu(1)
    x = _transformer(weights.below("transformer"), x.transpose(0, 1), text, causal).transpose(0, 1)
    x = _layer_norm(weights.below("ln_final"), x, text.layer_norm_eps)
    at = (input_ids == text.eos_token_id).int().argmax(dim=-1)
    return x[torch.arange(len(x)), at] @ weights("text_projection")


def _image_features(
    weights: _Weights, vision: ClipHFViTConfig | ClipHFResNetConfig, pixel_values: torch.Tensor
) -> torch.Tensor:
    if vision.model_type == "clip_hf_resnet":
        return _resnet(weights, pixel_values, vision)
    x = functional.conv2d(pixel_values, weights("conv1.weight"), stride=vision.patch_size).flatten(2).transpose(1, 2)
    first = weights("class_embedding").expand(len(x), 1, -1)
    x = torch.cat([first, x], dim=1) + weights("positional_embedding")
    x = _layer_norm(weights.below("ln_pre"), x, vision.layer_norm_eps)
    x = _transformer(weights.below("transformer"), x.transpose(0, 1), vision, None).transpose(0, 1)
    return _layer_norm(weights.below("ln_post"), x[:, 0], vision.layer_norm_eps) @ weights("proj")


def _layer_norm(weights: _Weights, x: torch.Tensor, eps: float) -> torch.Tensor:
    return functional.layer_norm(x, x.shape[-1:], weights("weight"), weights("bias"), eps)


def _linear(weights: _Weights, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, weights("weight"), weights("bias"))


def _transformer(weights: _Weights, x: torch.Tensor, config, mask: torch.Tensor | None) -> torch.Tensor:
    for number in range(config.num_hidden_layers):
        layer = weights.below(f"resblocks.{number}")
        y = _layer_norm(layer.below("ln_1"), x, config.layer_norm_eps)
        packed = {f"in_proj_{name}": layer(f"attn.in_proj_{name}") for name in ("weight", "bias")}
        x = x + _attention(layer.below("attn.out_proj"), y, y, config.num_attention_heads, attn_mask=mask, **packed)
        y = _layer_norm(layer.below("ln_2"), x, config.layer_norm_eps)
        y = _linear(layer.below("mlp.c_fc"), y)
        y = y * torch.sigmoid(1.702 * y) if config.hidden_act == "quick_gelu" else ACT2FN[config.hidden_act](y)
        x = x + _linear(layer.below("mlp.c_proj"), y)
    return x


def _resnet(weights: _Weights, x: torch.Tensor, config) -> torch.Tensor:
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        x = functional.conv2d(x, weights(f"conv{number}.weight"), stride=stride, padding=1)
        x = _batch_norm(weights.below(f"bn{number}"), x).relu()
    x = functional.avg_pool2d(x, 2)
    for stage, depth in enumerate(config.stage_depths):
        for number in range(depth):
            block = weights.below(f"layer{stage + 1}.{number}")
            x = _bottleneck(block, x, stride=2 if stage > 0 and number == 0 else 1, changes_shape=number == 0)
    return _attention_pool(weights.below("attnpool"), x, config.num_attention_heads)


def _batch_norm(weights: _Weights, x: torch.Tensor) -> torch.Tensor:
    statistics = weights("running_mean"), weights("running_var")
    return functional.batch_norm(x, *statistics, weights("weight"), weights("bias"), eps=1e-5)


def _bottleneck(weights: _Weights, x: torch.Tensor, stride: int, changes_shape: bool) -> torch.Tensor:
    y = _batch_norm(weights.below("bn1"), functional.conv2d(x, weights("conv1.weight"))).relu()
    y = _batch_norm(weights.below("bn2"), functional.conv2d(y, weights("conv2.weight"), padding=1)).relu()
    y = functional.avg_pool2d(y, stride) if stride > 1 else y
    y = _batch_norm(weights.below("bn3"), functional.conv2d(y, weights("conv3.weight")))
    if changes_shape:
        x = functional.avg_pool2d(x, stride) if stride > 1 else x
        x = _batch_norm(weights.below("downsample.1"), functional.conv2d(x, weights("downsample.0.weight")))
    return (x + y).relu()


def _attention_pool(weights: _Weights, x: torch.Tensor, heads: int) -> torch.Tensor:
    x = x.flatten(2).permute(2, 0, 1)  # (height * width, batch, channels)
    x = torch.cat([x.mean(dim=0, keepdim=True), x]) + weights("positional_embedding")[:, None]
    separate = {f"{part}_proj_weight": weights(f"{part}_proj.weight") for part in "qkv"}
    bias = torch.cat([weights(f"{part}_proj.bias") for part in "qkv"])
    separate |= {"use_separate_proj_weight": True, "in_proj_weight": None, "in_proj_bias": bias}
    return _attention(weights.below("c_proj"), x[:1], x, heads, **separate)[0]


def _attention(
    output: _Weights, query: torch.Tensor, keys: torch.Tensor, heads: int, **projections: Any
) -> torch.Tensor:
    """torch's own multi-head attention, with `keys` as the values too."""
    attended, _ = functional.multi_head_attention_forward(
        query,
        keys,
        keys,
        embed_dim_to_check=query.shape[-1],
        num_heads=heads,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=output("weight"),
        out_proj_bias=output("bias"),
        training=False,
        need_weights=False,
        **projections,
    )
    return attended


# -------------------------------------------------------------------------------------- models that read as they go


def model_features(
    model_class: type,
    tensors: Mapping[str, StoredTensor],
    config,
    inputs: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """Features, not normalised, that a whole model of transformers' or ours computes: `"image"` and `"text"`."""
    config = copy.deepcopy(config)  # into which transformers writes the dtype
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=dtype).eval()
    stream_weights(model, tensors, dtype)
    with torch.no_grad():
        image = model.get_image_features(pixel_values=inputs["pixel_values"].to(dtype)).pooler_output
        text = model.get_text_features(input_ids=inputs["input_ids"]).pooler_output
    return {"image": image, "text": text}


def stream_weights(model: nn.Module, tensors: Mapping[str, StoredTensor], dtype: torch.dtype) -> None:
    """Let each module of a model on the meta device read its own weights before it runs, and drop them after."""
    for module_name, module in model.named_modules():
        prefix = f"{module_name}." if module_name else ""
        names = [name for name in (*module._parameters, *module._buffers) if prefix + name in tensors]
        positions = module._buffers.get("position_ids")
        if positions is not None:  # not a weight: it counts
            module._buffers["position_ids"] = torch.arange(positions.shape[-1]).expand(positions.shape)
        if names:
            module.register_forward_pre_hook(partial(_read, {name: tensors[prefix + name] for name in names}, dtype))
            module.register_forward_hook(partial(_drop, names))


def _read(tensors: Mapping[str, StoredTensor], dtype: torch.dtype, module: nn.Module, args: tuple) -> None:
    for name, tensor in tensors.items():
        values = tensor.read()
        _set(module, name, values.to(dtype) if values.is_floating_point() else values)


def _drop(names: list[str], module: nn.Module, args: tuple, output: object) -> None:
    for name in names:
        _set(module, name, getattr(module, name).to("meta"))


def _set(module: nn.Module, name: str, values: torch.Tensor) -> None:
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(values, requires_grad=False)
    else:
        module._buffers[name] = values
