# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The temporal heads written out frame by frame: the reference that `modeling_clip_hf_video` is tested against.

Every function takes the L2-normalised embeddings of one clip's frames (frames, dim) and the head's `weights`, with
their names within the head, and returns the clip's embedding (dim,), not normalised.
"""

import torch

from plain_clip import layer_norm, transformer


def mean_head(frames, weights, config):
    return frames.mean(0)


def conv_head(frames, weights, config):
    kernel = weights["conv.weight"][:, 0]  # (dim, 3)
    result, last = [], len(frames) - 1
    for t in range(len(frames)):
        before, after = frames[max(t - 1, 0)], frames[min(t + 1, last)]
        result.append(frames[t] + kernel[:, 0] * before + kernel[:, 1] * frames[t] + kernel[:, 2] * after)
    return torch.stack(result).mean(0)


def lstm_head(frames, weights, config):
    frames = frames * frames.shape[1] ** 0.5
    hidden, cell, result = torch.zeros_like(frames[0]), torch.zeros_like(frames[0]), []
    for frame in frames:
        gates = weights["lstm.weight_ih_l0"] @ frame + weights["lstm.bias_ih_l0"]
        gates = gates + weights["lstm.weight_hh_l0"] @ hidden + weights["lstm.bias_hh_l0"]
        enter, keep, content, leave = gates.chunk(4)
        cell = keep.sigmoid() * cell + enter.sigmoid() * content.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        result.append(frame + hidden)
    return torch.stack(result).mean(0)


def positions_at(weights, count):
    """Positions of `count` frames at the centres of equal parts of the film, between those that were learned."""
    table = weights["position_embedding.weight"]
    result = []
    for index in range(count):
        place = min(max((index + 0.5) * len(table) / count - 0.5, 0.0), len(table) - 1.0)
        low = int(place)
        high = min(low + 1, len(table) - 1)
        result.append(table[low] + (place - low) * (table[high] - table[low]))
    return torch.stack(result)


def transformer_head(frames, weights, config):
    frames = frames * frames.shape[1] ** 0.5
    positions = positions_at(weights, len(frames))
    weights = {f"head.{name}": value for name, value in weights.items()}
    layers, heads = config.temporal_num_layers, config.temporal_num_heads
    if config.temporal_head == "Transf":
        states = transformer(frames + positions, weights, "head", layers, heads, causal=False)
        return (frames + states - positions).mean(0)
    tokens = torch.cat([weights["head.class_embedding"][None], frames + positions])
    states = transformer(tokens, weights, "head", layers, heads, causal=False)
    return layer_norm(states[0], weights, "head.final_layer_norm")


PLAIN_HEADS = {
    "meanP": mean_head,
    "Conv_1D": conv_head,
    "Transf": transformer_head,
    "LSTM": lstm_head,
    "Transf_cls": transformer_head,
}


def clip_embedding(features, weights, config):
    """L2-normalised embedding (dim,) of a clip whose frames have the projected features (frames, dim)."""
    frames = torch.stack([feature / feature.norm() for feature in features])
    clip = PLAIN_HEADS[config.temporal_head](frames, weights, config)
    return clip / clip.norm()
