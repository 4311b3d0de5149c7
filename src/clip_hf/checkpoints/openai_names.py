# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A table of the weights' names in OpenAI's code and here. open_clip uses OpenAI's names.

The table is made for a configuration, so it lists every weight that a file must hold, once.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ..model.configuration_clip_hf import ClipHFConfig
from ..model.modeling_clip_hf import ClipHFModel
from ..utils.wording import listed
from .stored_tensor import StoredTensor


# OpenAI's class multiplies with `text_projection` and `visual.proj` from the right, (in, out); a Linear is (out, in).
TRANSPOSED = "transposed"
# Query, key and value are one matrix there, three here.
PACKED = "packed"
# Some training codes keep `logit_scale` as a vector of one element.
SCALAR = "scalar"
SAME = "same"

_TEXT_EMBEDDINGS = (
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight", SAME),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight", SAME),
    ("ln_final.weight", "text_model.final_layer_norm.weight", SAME),
    ("ln_final.bias", "text_model.final_layer_norm.bias", SAME),
    ("text_projection", "text_projection.weight", TRANSPOSED),
    ("logit_scale", "logit_scale", SCALAR),
)
_VIT_EMBEDDINGS = (
    ("visual.class_embedding", "vision_model.embeddings.class_embedding", SAME),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight", SAME),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight", SAME),
    ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight", SAME),
    ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias", SAME),
    ("visual.ln_post.weight", "vision_model.post_layernorm.weight", SAME),
    ("visual.ln_post.bias", "vision_model.post_layernorm.bias", SAME),
    ("visual.proj", "visual_projection.weight", TRANSPOSED),
)
_TRANSFORMER_LAYER = (
    ("ln_1", "layer_norm1"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
_ATTENTION_POOL = (
    ("visual.attnpool.q_proj", "vision_model.attention_pool.q_proj"),
    ("visual.attnpool.k_proj", "vision_model.attention_pool.k_proj"),
    ("visual.attnpool.v_proj", "vision_model.attention_pool.v_proj"),
    ("visual.attnpool.c_proj", "visual_projection"),
)
BATCH_NORM_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_BATCH_NORM = ("weight", "bias", *BATCH_NORM_STATISTICS)


@dataclass(frozen=True)
class Weight:
    """One weight of OpenAI's code.

    Args:
        source (`str`): its name there.
        ours (`tuple[str, ...]`): its name here; three of them where `kind` is `"packed"`.
        kind (`str`): how the values are laid out there: `"same"`, `"transposed"`, `"packed"` or `"scalar"`.
        optional (`bool`): whether a file may lack it: the counters of BatchNorm, which change no feature.
    """

    source: str
    ours: tuple[str, ...]
    kind: str = SAME
    optional: bool = False


def weight_table(config: ClipHFConfig) -> list[Weight]:
    """Every weight of a model, in the order of OpenAI's code."""
    table = [Weight(source, (ours,), kind) for source, ours, kind in _TEXT_EMBEDDINGS]
    table += _transformer("transformer", "text_model", config.text_config.num_hidden_layers)
    if config.vision_config.model_type == "clip_hf_resnet":
        return table + _resnet(config.vision_config.stage_depths)
    table += [Weight(source, (ours,), kind) for source, ours, kind in _VIT_EMBEDDINGS]
    return table + _transformer("visual.transformer", "vision_model", config.vision_config.num_hidden_layers)


def _transformer(source: str, ours: str, layers: int) -> list[Weight]:
    table = []
    for layer in range(layers):
        theirs, here = f"{source}.resblocks.{layer}", f"{ours}.encoder.layers.{layer}"
        for name in ("weight", "bias"):
            parts = tuple(f"{here}.self_attn.{part}_proj.{name}" for part in "qkv")
            table.append(Weight(f"{theirs}.attn.in_proj_{name}", parts, PACKED))
            table += [Weight(f"{theirs}.{a}.{name}", (f"{here}.{b}.{name}",)) for a, b in _TRANSFORMER_LAYER]
    return table


def _resnet(stage_depths: Iterable[int]) -> list[Weight]:
    table = []
    for number in (1, 2, 3):
        table.append(Weight(f"visual.conv{number}.weight", (f"vision_model.stem.conv{number}.weight",)))
        table += _batch_norm(f"visual.bn{number}", f"vision_model.stem.bn{number}")
    for stage, depth in enumerate(stage_depths):
        for block in range(depth):
            theirs, here = f"visual.layer{stage + 1}.{block}", f"vision_model.encoder.stages.{stage}.blocks.{block}"
            for number in (1, 2, 3):
                table.append(Weight(f"{theirs}.conv{number}.weight", (f"{here}.conv{number}.weight",)))
                table += _batch_norm(f"{theirs}.bn{number}", f"{here}.bn{number}")
            if block == 0:  # the only one of a stage that changes the shape
                table.append(Weight(f"{theirs}.downsample.0.weight", (f"{here}.shortcut.conv.weight",)))
                table += _batch_norm(f"{theirs}.downsample.1", f"{here}.shortcut.bn")
    ours = "vision_model.attention_pool.position_embedding.weight"
    table.append(Weight("visual.attnpool.positional_embedding", (ours,)))
    for theirs, here in _ATTENTION_POOL:
        table += [Weight(f"{theirs}.{name}", (f"{here}.{name}",)) for name in ("weight", "bias")]
    return table


def _batch_norm(source: str, ours: str) -> list[Weight]:
    return [
        Weight(f"{source}.{name}", (f"{ours}.{name}",), optional=name == "num_batches_tracked") for name in _BATCH_NORM
    ]


# ------------------------------------------------------------------------------------------------------ what is stored


def is_float32_in_mixed_precision(source: str) -> bool:
    """Whether OpenAI's and open_clip's half precision keeps this weight in float32; `source` is their name for it."""
    # Convolutions, linear layers and projections are halved; norms, embeddings and the temperature are not.
    return bool(re.search(r"(^|\.)(ln_\w+|bn\d|downsample\.1|token_embedding)\.|embedding$|^logit_scale$", source))


def our_shapes(config: ClipHFConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of a model, under our names."""
    with torch.device("meta"):
        model = ClipHFModel(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def source_shape(weight: Weight, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that a weight has in OpenAI's code, from ours."""
    shape = shapes[weight.ours[0]]
    if weight.kind == TRANSPOSED:
        return shape[::-1]
    return (3 * shape[0], *shape[1:]) if weight.kind == PACKED else shape


def rename(
    tensors: Mapping[str, StoredTensor], config: ClipHFConfig, source: str, has_our_names: bool = False
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Weights of a file under our names, each held against a configuration.

    `has_our_names` is for files whose names are ours already, which are transformers' too, instead of OpenAI's.

    Returns:
        The weights, and notes on optional ones that the file lacks and that are filled in.

    Raises:
        ValueError: if a weight is missing, left over, or of another shape; the message lists all of them.
    """
    shapes = our_shapes(config)
    table = [Weight(name, (name,), SCALAR if name == "logit_scale" else SAME) for name in shapes]
    table = table if has_our_names else weight_table(config)
    known = {weight.source for weight in table}
    missing = [weight for weight in table if weight.source not in tensors]
    wrong = []
    for weight in table:
        expected = source_shape(weight, shapes)
        shape = tensors[weight.source].shape if weight.source in tensors else expected
        if shape != expected and not (weight.kind == SCALAR and math.prod(shape) == 1):
            wrong.append(f"{weight.source} ({_size(shape)} instead of {_size(expected)})")
    by_problem = {
        "lacks the weights": [weight.source for weight in missing if not weight.optional],
        "has weights that this model has no place for": [name for name in tensors if name not in known],
        "has weights of another shape": wrong,
    }
    problems = [f"{what} {listed(names)}" for what, names in by_problem.items() if names]
    if problems:
        raise ValueError(f"{source} is not the CLIP that its configuration says: it {'; it '.join(problems)}.")
    result, zero = {}, StoredTensor((), torch.int64, lambda: torch.zeros((), dtype=torch.int64))
    for weight in table:
        parts = _to_ours(tensors[weight.source], weight) if weight.source in tensors else [zero]
        result.update(zip(weight.ours, parts, strict=True))
    notes = [f"{len(missing)} counters of BatchNorm, which change no feature, were missing and are 0."]
    return result, notes if missing else []


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _to_ours(tensor: StoredTensor, weight: Weight) -> list[StoredTensor]:
    if weight.kind == PACKED:
        rows = tensor.shape[0] // 3
        shape = (rows, *tensor.shape[1:])
        # Copied, so that a third does not keep the whole in memory.
        return [
            StoredTensor(shape, tensor.dtype, lambda part=part: tensor.read()[part * rows : (part + 1) * rows].clone())
            for part in range(3)
        ]
    if weight.kind == TRANSPOSED:
        return [StoredTensor(tensor.shape[::-1], tensor.dtype, lambda: tensor.read().T.contiguous())]
    if weight.kind == SCALAR:
        return [StoredTensor((), tensor.dtype, lambda: tensor.read().reshape(()))]
    return [tensor]


def rename_back(tensors: Mapping[str, StoredTensor], config: ClipHFConfig) -> dict[str, StoredTensor]:
    """Weights of our names under OpenAI's: the inverse of [`rename`]."""
    result = {}
    for weight in weight_table(config):
        parts = [tensors[name] for name in weight.ours]
        result[weight.source] = _from_ours(parts, weight.kind)
    return result


def _from_ours(parts: list[StoredTensor], kind: str) -> StoredTensor:
    first = parts[0]
    if kind == PACKED:
        shape = (3 * first.shape[0], *first.shape[1:])
        return StoredTensor(shape, first.dtype, lambda: torch.cat([part.read() for part in parts]))
    if kind == TRANSPOSED:
        return StoredTensor(first.shape[::-1], first.dtype, lambda: first.read().T.contiguous())
    return first
