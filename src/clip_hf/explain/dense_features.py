# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Features of each place of an image in the space of the texts. Hidden states are (batch, length, hidden_size)."""

import torch
from torch import nn

from ..model.checks_clip_hf import check_whole, did_you_mean
from ..model.linear_clip_hf import apply_linear
from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_base import ClipHFMultiHeadAttention, check_pixel_values
from ..model.zero_shot_clip_hf import evaluated
from .attention_twin import check_explainable
from .image_maps import cell_size, is_vit


_MOST_SURGERY_LAYERS = 6  # in the authors' code, of 12 or 24
_POOL_FACTOR = 8  # of the scale, for the unit vectors of a ResNet's pool, in the authors' code
_WINDOWS_BATCH = 64


def _attention_among(
    keys: nn.Linear, attention: ClipHFMultiHeadAttention, hidden_states: torch.Tensor, unit_keys: bool = False
) -> torch.Tensor:
    """Attention with keys K as queries too, `softmax(scale K K^T) V`: (batch, length, hidden_size)."""
    heads = attention.num_heads, attention.head_dim
    # (batch, heads, length, head_dim)
    key, value = (
        apply_linear(projection, hidden_states).unflatten(-1, heads).transpose(1, 2)
        for projection in (keys, attention.v_proj)
    )
    scale = attention.scale
    if unit_keys:
        key, scale = nn.functional.normalize(key, dim=-1), _POOL_FACTOR * scale
    weights = (scale * key @ key.transpose(2, 3)).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def _vit_tokens(model: ClipHFModel, pixel_values: torch.Tensor) -> torch.Tensor:
    return model.vision_model(pixel_values, interpolate_pos_encoding=True).last_hidden_state


def _before_last_layer(model: ClipHFModel, pixel_values: torch.Tensor) -> tuple[torch.Tensor, nn.Module]:
    tower = model.vision_model
    hidden_states = tower.pre_layrnorm(tower.embeddings(pixel_values, True))
    *layers, last = tower.encoder.layers
    for layer in layers:
        hidden_states = layer(hidden_states)
    return hidden_states, last


def _vit_clearclip(model: ClipHFModel, pixel_values: torch.Tensor) -> torch.Tensor:
    hidden_states, last = _before_last_layer(model, pixel_values)
    attention = last.self_attn
    value = _attention_among(attention.q_proj, attention, last.layer_norm1(hidden_states))
    return apply_linear(attention.out_proj, value)


def _vit_maskclip(model: ClipHFModel, pixel_values: torch.Tensor) -> torch.Tensor:
    hidden_states, last = _before_last_layer(model, pixel_values)
    value = apply_linear(last.self_attn.v_proj, last.layer_norm1(hidden_states))
    hidden_states = hidden_states + apply_linear(last.self_attn.out_proj, value)
    return hidden_states + last.mlp(last.layer_norm2(hidden_states))


def _vit_surgery(model: ClipHFModel, pixel_values: torch.Tensor) -> torch.Tensor:
    tower = model.vision_model
    hidden_states = tower.pre_layrnorm(tower.embeddings(pixel_values, True))
    layers = tower.encoder.layers
    first = len(layers) - min(_MOST_SURGERY_LAYERS, max(1, len(layers) // 2))
    for layer in layers[:first]:
        hidden_states = layer(hidden_states)
    path = hidden_states  # the second path: attention alone, from values of the first
    for layer in layers[first:]:
        attention = layer.self_attn
        value = _attention_among(attention.v_proj, attention, layer.layer_norm1(hidden_states))
        path = path + apply_linear(attention.out_proj, value)
        hidden_states = layer(hidden_states)
    return path


_VIT_METHODS = {
    "clearclip": _vit_clearclip,
    "maskclip": _vit_maskclip,
    "surgery": _vit_surgery,
    "token": _vit_tokens,
}


def _vit_dense(model: ClipHFModel, pixel_values: torch.Tensor, method: str) -> torch.Tensor:
    """Features of the patches before they are projected, (batch, rows, columns, hidden_size)."""
    hidden_states = _VIT_METHODS[method](model, pixel_values)
    patch_size = model.config.vision_config.patch_size
    grid = pixel_values.shape[2] // patch_size, pixel_values.shape[3] // patch_size
    return model.vision_model.post_layernorm(hidden_states[:, 1:]).unflatten(1, grid)


def _resnet_dense(model: ClipHFModel, pixel_values: torch.Tensor, method: str) -> torch.Tensor:
    """Features of the places of the last feature map before they are projected."""
    tower = model.vision_model
    feature_map = tower(pixel_values, interpolate_pos_encoding=True).last_hidden_state
    pool = tower.attention_pool
    if method == "maskclip":  # values of the places themselves, without positions
        dense = apply_linear(pool.v_proj, feature_map.flatten(2).transpose(1, 2))
    else:
        places = pool.embed_places(feature_map, True)
        if method == "surgery":
            dense = _attention_among(pool.v_proj, pool, places, unit_keys=True)[:, 1:]
        elif method == "clearclip":
            dense = _attention_among(pool.q_proj, pool, places)[:, 1:]
        else:
            dense = pool.attend(places[:, 1:], places)[0]
    return dense.unflatten(1, tuple(feature_map.shape[2:]))


def _window_features(model: ClipHFModel, pixel_values: torch.Tensor, window: int | None) -> torch.Tensor:
    """Embeddings of squares around each place, (batch, rows, columns, dim), each resized to the tower's size."""
    height, width = pixel_values.shape[2:]
    cell, shorter = cell_size(model), min(height, width)
    window = max(cell, shorter // 2) if window is None else check_whole("window", window, 1)
    if window > shorter:
        raise ValueError(f"`window` is {window}; it must not be larger than the images of {height} x {width} pixels.")
    size = (model.config.vision_config.image_size,) * 2

    def starts(length: int) -> list[int]:
        centres = [cell * i + cell // 2 for i in range(length // cell)]
        return [min(max(0, centre - window // 2), length - window) for centre in centres]

    rows, columns = starts(height), starts(width)
    crops = [pixel_values[:, :, y : y + window, x : x + window] for y in rows for x in columns]
    features, per_batch = [], max(1, _WINDOWS_BATCH // len(pixel_values))
    for begin in range(0, len(crops), per_batch):
        part = torch.stack(crops[begin : begin + per_batch], dim=1).flatten(0, 1)  # (batch * windows, 3, ...)
        exact = part.to(torch.promote_types(part.dtype, torch.float32))  # torch does not resize halves everywhere
        part = nn.functional.interpolate(exact, size=size, mode="bicubic", antialias=True).to(part.dtype)
        features.append(model.encode_image(part).unflatten(0, (len(pixel_values), -1)))
    return torch.cat(features, dim=1).unflatten(1, (len(rows), len(columns)))


DENSE_METHODS = ("maskclip", "clearclip", "surgery", "token", "windows")
"""How [`dense_features`] are made, by name."""


def check_dense_method(method: str) -> str:
    """Return the method's name; ValueError, with the names, if there is none of this name."""
    if method not in DENSE_METHODS:
        raise ValueError(
            f"`method` is {method!r}; it must be one of {', '.join(DENSE_METHODS)}."
            f"{did_you_mean(str(method), DENSE_METHODS)}"
        )
    return method


def dense_features(
    model: nn.Module, pixel_values: torch.Tensor, method: str = "maskclip", *, window: int | None = None
) -> torch.Tensor:
    """Return features of each place of images, to be compared with text embeddings.

    The methods, for a ViT and for a ResNet's attention pool:

    - `"maskclip"` (Zhou et al. 2022, arXiv:2112.01071, section 3.2): each place attends only to itself. The last layer
      of a ViT keeps its residual and its MLP, as in the authors' code; a ResNet's places have no positions.
    - `"clearclip"` (Lan et al. 2024, arXiv:2407.12442, section 3.3): attention among queries, `softmax(scale Q Q^T)
      V`, in the last layer, whose residual and MLP are left out. In a ResNet it is the pool's attention.
    - `"surgery"` (Li et al. 2023, arXiv:2304.05653, section 3.2): attention among values, `softmax(scale V V^T) V`.
      In a ViT it is a second path beside the last layers, without their MLPs; the authors take 6 layers of 12, here
      it is the second half, at most 6. In a ResNet the values are normalised and the scale is 8 times as large, as in
      the authors' code. Their feature surgery, which needs a set of texts, is left out.
    - `"token"`: what the tower gives at each place: the plain way, on which the other two improve.
    - `"windows"`: the image embedding of a square around each place: the slow reference.

    Images may have other sizes than the tower's: positions are interpolated. Gradients flow where they are enabled.

    Args:
        model ([`ClipHFModel`]): A CLIP with either vision tower; it is not changed.
        pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): As the processor makes them.
        method (`str`, *optional*, defaults to `"maskclip"`): One of `DENSE_METHODS`.
        window (`int`, *optional*): Edge of the squares of `"windows"` in pixels; by default half the shorter edge.

    Returns:
        `torch.Tensor` of shape `(batch, rows, columns, projection_dim)`, L2-normalised, in the model's dtype: one for
        each patch of a ViT, or each place of a ResNet's last feature map (32 pixels).

    Raises:
        TypeError: if the model is of another class, or `pixel_values` no tensor.
        ValueError: if the method is unknown, a shape is wrong, or an image is smaller than one place.
    """
    plain, method = check_explainable(model), check_dense_method(method)
    if window is not None and method != "windows":
        raise ValueError(f"`window` belongs to the method windows, not {method}.")
    check_pixel_values(pixel_values, plain.config.vision_config.num_channels)
    cell = cell_size(plain)
    if min(pixel_values.shape[2:]) < cell:
        height, width = pixel_values.shape[2:]
        raise ValueError(f"The images are {height} x {width} pixels; one place of this tower is {cell} x {cell}.")
    twin = evaluated(plain)
    pixel_values = pixel_values.to(plain.device, plain.dtype)
    if method == "windows":
        return _window_features(twin, pixel_values, window)
    dense = (_vit_dense if is_vit(plain) else _resnet_dense)(twin, pixel_values, method)
    return nn.functional.normalize(apply_linear(twin.visual_projection, dense), dim=-1)
