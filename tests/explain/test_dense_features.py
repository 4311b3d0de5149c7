# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Dense features against each method written out by hand in float64, at the tower's size and at others."""

import pytest
import torch
import torch.nn.functional as F

from clip_hf import ClipHFModel
from clip_hf.explain import DENSE_METHODS, dense_features
from tiny_models import make_tiny_model, tiny_config


def linear(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def split(x, heads):
    return [x[..., i * x.shape[-1] // heads : (i + 1) * x.shape[-1] // heads] for i in range(heads)]


def attend(queries, keys, values, heads, scale):
    parts = zip(split(queries, heads), split(keys, heads), split(values, heads), strict=True)
    return torch.cat([(scale * q @ k.transpose(1, 2)).softmax(-1) @ v for q, k, v in parts], dim=-1)


def plain_layer(layer, x, act):
    normed, attention = layer.layer_norm1(x), layer.self_attn
    q, k, v = (linear(each, normed) for each in (attention.q_proj, attention.k_proj, attention.v_proj))
    x = x + linear(attention.out_proj, attend(q, k, v, 4, 8**-0.5))
    return x + linear(layer.mlp.fc2, act(linear(layer.mlp.fc1, layer.layer_norm2(x))))


def plain_vit(model, pixels, method):
    """Layers of four heads of 8. Surgery takes the last of three layers, and the last two of five."""
    tower = model.vision_model
    x = tower.pre_layrnorm(tower.embeddings(pixels, True))
    *first, last = tower.encoder.layers

    def act(x):
        return x * torch.sigmoid(1.702 * x)

    for layer in first:
        x = plain_layer(layer, x, act)
    if method == "surgery" and len(tower.encoder.layers) == 5:
        return patches(tower, plain_dual_path(tower, pixels, act), pixels)
    value, out = linear(last.self_attn.v_proj, last.layer_norm1(x)), last.self_attn.out_proj
    if method == "token":
        x = plain_layer(last, x, act)
    elif method == "clearclip":
        query = linear(last.self_attn.q_proj, last.layer_norm1(x))
        x = linear(out, attend(query, query, value, 4, 8**-0.5))
    elif method == "maskclip":
        x = x + linear(out, value)
        x = x + linear(last.mlp.fc2, act(linear(last.mlp.fc1, last.layer_norm2(x))))
    else:
        x = x + linear(out, attend(value, value, value, 4, 8**-0.5))
    return patches(tower, x, pixels)


def plain_dual_path(tower, pixels, act):
    """The tower goes on as it is, for its values; beside it, the attention among these of the last two layers."""
    x = tower.pre_layrnorm(tower.embeddings(pixels, True))
    for layer in tower.encoder.layers[:3]:
        x = plain_layer(layer, x, act)
    added = []
    fourth, fifth = tower.encoder.layers[3:]
    for layer, before in ((fourth, x), (fifth, plain_layer(fourth, x, act))):
        value = linear(layer.self_attn.v_proj, layer.layer_norm1(before))
        added.append(linear(layer.self_attn.out_proj, attend(value, value, value, 4, 8**-0.5)))
    return x + added[0] + added[1]


def patches(tower, x, pixels):
    rows, columns = pixels.shape[2] // 16, pixels.shape[3] // 16
    return tower.post_layernorm(x[:, 1:]).reshape(len(x), rows, columns, -1)


def plain_resnet(model, pixels, method):
    tower, pool = model.vision_model, model.vision_model.attention_pool
    feature_map = tower(pixels, interpolate_pos_encoding=True).last_hidden_state
    rows, columns = feature_map.shape[2:]
    flat = feature_map.flatten(2).transpose(1, 2)
    heads, width = pool.num_heads, flat.shape[-1]
    if method == "maskclip":
        x = linear(pool.v_proj, flat)
    else:
        places = pool.embed_places(feature_map, True)
        q, k, v = (linear(each, places) for each in (pool.q_proj, pool.k_proj, pool.v_proj))
        scale = (width // heads) ** -0.5
        if method == "surgery":
            unit = torch.cat([each / each.norm(dim=-1, keepdim=True) for each in split(v, heads)], dim=-1)
            x = attend(unit, unit, v, heads, 8 * scale)[:, 1:]
        else:
            x = attend(q, q if method == "clearclip" else k, v, heads, scale)[:, 1:]
    return x.reshape(len(x), rows, columns, -1)


@pytest.mark.parametrize("method", ["maskclip", "clearclip", "surgery", "token"])
@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_features_are_those_written_out(tower, method, size):
    model = make_tiny_model(tower).double()
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    dense = dense_features(model, pixels, method)
    cell = 16 if tower == "vit" else 32
    assert dense.shape == (2, size[0] // cell, size[1] // cell, 16)
    plain = {"vit": plain_vit, "resnet": plain_resnet}[tower](model, pixels, method)
    expected = F.normalize(linear(model.visual_projection, plain), dim=-1)
    torch.testing.assert_close(dense, expected, rtol=1e-9, atol=1e-10)
    parameters = [p for p in model.vision_model.parameters() if p.requires_grad]
    weights = torch.randn_like(dense)
    got = torch.autograd.grad((dense * weights).sum(), parameters, allow_unused=True)
    wanted = torch.autograd.grad((expected * weights).sum(), parameters, allow_unused=True)
    for one, other in zip(got, wanted, strict=True):
        one, other = (torch.zeros(()) if each is None else each for each in (one, other))
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-9)


def test_surgery_adds_up_its_layers():
    config = tiny_config("vit")
    config.vision_config.num_hidden_layers = 5
    torch.manual_seed(1)
    model, pixels = ClipHFModel(config).eval().double(), torch.randn(2, 3, 64, 96, dtype=torch.float64)
    expected = F.normalize(linear(model.visual_projection, plain_vit(model, pixels, "surgery")), dim=-1)
    torch.testing.assert_close(dense_features(model, pixels, "surgery"), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", DENSE_METHODS)
def test_half_precision(tower, method):
    model, pixels = make_tiny_model(tower), torch.randn(2, 3, 64, 64)
    exact = dense_features(model, pixels, method)
    dense = dense_features(model.bfloat16(), pixels, method)
    assert dense.dtype == torch.bfloat16
    assert (F.cosine_similarity(dense.float(), exact, dim=-1) > 0.98).all()


def test_windows_are_embeddings_of_squares(tower):
    model = make_tiny_model(tower)
    pixels = torch.randn(1, 3, 128, 128)
    dense = dense_features(model, pixels, "windows", window=64)
    cell = 16 if tower == "vit" else 32
    last = model.encode_image(pixels[:, :, 64:, 64:])
    torch.testing.assert_close(dense[:, -1, -1], last, rtol=1e-4, atol=1e-5)
    assert dense.shape == (1, 128 // cell, 128 // cell, 16)


@pytest.mark.parametrize("method", DENSE_METHODS)
def test_a_model_in_training_is_not_changed(tower, method):
    model = make_tiny_model(tower)
    pixels = torch.randn(1, 3, 64, 64)
    expected = dense_features(model, pixels, method)
    state = {name: value.clone() for name, value in model.train().state_dict().items()}
    torch.testing.assert_close(dense_features(model, pixels, method), expected, rtol=1e-4, atol=1e-5)
    assert model.training and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_what_is_refused(tower):
    model, pixels = make_tiny_model(tower), torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match="must be one of maskclip.*Did you mean .*surgery"):
        dense_features(model, pixels, "surgry")
    with pytest.raises(ValueError, match="one place of this tower is"):
        dense_features(model, pixels[:, :, :8])
    with pytest.raises(ValueError, match="must not be larger than the images"):
        dense_features(model, pixels, "windows", window=65)
    with pytest.raises(ValueError, match="belongs to the method windows"):
        dense_features(model, pixels, window=32)
    with pytest.raises(TypeError, match="ClipHFModel"):
        dense_features(model.vision_model, pixels)
    with pytest.raises(ValueError):
        dense_features(model, pixels[0])
