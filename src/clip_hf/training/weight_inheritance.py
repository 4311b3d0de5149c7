# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A smaller model that starts from a larger one's weights: every k-th layer, leading channels and heads.

Wu et al. 2023, "TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance", section 3.2 (manual
inheritance).
"""

import copy
import re
from collections.abc import Iterator

import torch
from transformers import PreTrainedConfig

from ..checkpoints.adapters import check_without_adapter
from ..model.checks_clip_hf import type_of
from ..model.configuration_clip_hf import ClipHFConfig, ClipHFResNetConfig
from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_base import ClipHFFoldedBatchNorm, interpolate_positions


# What must be the same, because the weights mean something else without it.
_SAME_IN_TEXT = ("vocab_size", "bos_token_id", "eos_token_id", "hidden_act", "layer_norm_eps")
_SAME_IN_VIT = ("patch_size", "num_channels", "hidden_act", "layer_norm_eps")
_SAME_IN_RESNET = ("num_channels",)
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_POSITIONS = (
    "vision_model.embeddings.position_embedding.weight",
    "vision_model.attention_pool.position_embedding.weight",
)
_LAYER = re.compile(r"(text_model|vision_model)\.encoder\.(?:layers|stages\.(\d+)\.blocks)\.(\d+)\.")


def inherit_weights(teacher: ClipHFModel, config: ClipHFConfig) -> ClipHFModel:
    """Build a model whose weights are a part of a larger one's.

    - Of the layers, layer `i` of `n` is the larger model's layer `i * m // n` of `m`: every k-th one. A ResNet's
      stages take blocks by the same rule, so the first, which changes the shape, stays the first.
    - Of the channels, the leading ones are taken: of embeddings, norms, attention, MLPs and projections. Heads have
      the same width in both models, so leading channels are leading heads. A ResNet's `width` is that of its channels;
      BatchNorm's statistics come with them and are only roughly right until they are estimated again, which a
      training does.
    - Positions of another image size are resized bicubically; of a shorter context the leading ones are taken.
    - With the larger model's own configuration the copy is exact.

    The result is a start for a training, usually with the larger model as its teacher; by itself it classifies poorly.

    Args:
        teacher ([`ClipHFModel`]): The larger model, not changed.
        config ([`ClipHFConfig`]): The configuration of the smaller model, copied.

    Returns:
        [`ClipHFModel`] in the larger model's dtype and on its device, in evaluation mode.

    Raises:
        ValueError: if something cannot be inherited: a size is larger than the teacher's, the towers are of other
            kinds, heads have another width, or the vocabulary, patch size or activation differs; or if the teacher's
            BatchNorm is folded, or it has an adapter.
        TypeError: if `teacher` is no model, or `config` no configuration.
    """
    if not isinstance(getattr(teacher, "config", None), PreTrainedConfig):
        raise TypeError(f"`teacher` is {type_of(teacher)}; it must be a model: `ClipHFModel.from_pretrained(...)`.")
    if not isinstance(config, PreTrainedConfig):
        raise TypeError(f"`config` is {type_of(config)}; it must be a configuration: `ClipHFConfig.from_dict(...)`.")
    ClipHFConfig.check(teacher.config, "The larger model")
    ClipHFConfig.check(config, "The smaller model")
    check_without_adapter(teacher, "The larger model")
    problems = list(_find_problems(teacher.config, config))
    if problems:
        raise ValueError(f"The weights cannot be inherited: {'; '.join(problems)}.")
    if any(isinstance(module, ClipHFFoldedBatchNorm) for module in teacher.modules()):
        raise ValueError(
            "The weights cannot be inherited: the larger model's BatchNorm is folded into its convolutions. Load it "
            "anew, and inherit before `fold_batch_norm`."
        )
    model = ClipHFModel(copy.deepcopy(config)).to(teacher.device, teacher.dtype)
    weights = teacher.state_dict()
    state = {}
    for name, value in model.state_dict().items():
        source = weights[_teacher_name(name, teacher.config, config)]
        if name in _POSITIONS:
            source = _fit_positions(source, teacher.config.vision_config, config.vision_config)
        state[name] = source[tuple(slice(length) for length in value.shape)].to(source.dtype, copy=True)
    model.load_state_dict(state)
    return model.eval()


def _find_problems(teacher: ClipHFConfig, config: ClipHFConfig) -> Iterator[str]:
    """What forbids that a model of `config` inherits from one of the configuration `teacher`, in words."""
    theirs, ours = teacher.vision_config, config.vision_config
    yield from _too_large("projection_dim", teacher, config)
    if (teacher.logit_bias_init_value is None) != (config.logit_bias_init_value is None):
        yield "one of the models has a `logit_bias` (of the sigmoid loss), and the other has none"
    yield from _tower_problems("text_config", teacher.text_config, config.text_config, _SAME_IN_TEXT)
    yield from _too_large("text_config.max_position_embeddings", teacher.text_config, config.text_config)
    if theirs.model_type != ours.model_type:
        yield f"`vision_config` is of type {ours.model_type}, and the larger model's of type {theirs.model_type}"
    elif ours.model_type != ClipHFResNetConfig.model_type:
        yield from _tower_problems("vision_config", theirs, ours, _SAME_IN_VIT)
    else:
        yield from _resnet_problems(theirs, ours)


def _tower_problems(name: str, theirs: PreTrainedConfig, ours: PreTrainedConfig, same: tuple[str, ...]):
    for option in _SIZES:
        yield from _too_large(f"{name}.{option}", theirs, ours)
    yield from _differing(name, theirs, ours, same)
    yield from _other_head_width(name, theirs, ours)


def _resnet_problems(theirs: PreTrainedConfig, ours: PreTrainedConfig) -> Iterator[str]:
    yield from _too_large("vision_config.width", theirs, ours)
    if any(depth > theirs_ for depth, theirs_ in zip(ours.stage_depths, theirs.stage_depths, strict=True)):
        yield f"`vision_config.stage_depths` is {ours.stage_depths}, and the larger model's {theirs.stage_depths}"
    yield from _differing("vision_config", theirs, ours, _SAME_IN_RESNET)
    yield from _other_head_width("vision_config", theirs, ours)


def _too_large(name: str, theirs: PreTrainedConfig, ours: PreTrainedConfig) -> Iterator[str]:
    option = name.rpartition(".")[2]
    if getattr(ours, option) > getattr(theirs, option):
        yield f"`{name}` is {getattr(ours, option)}, and the larger model has only {getattr(theirs, option)}"


def _differing(name: str, theirs: PreTrainedConfig, ours: PreTrainedConfig, same: tuple[str, ...]) -> Iterator[str]:
    for option in same:
        mine, other = getattr(ours, option), getattr(theirs, option)
        if mine != other:
            yield f"`{name}.{option}` is {mine!r}, and must be the larger model's {other!r}"


def _other_head_width(name: str, theirs: PreTrainedConfig, ours: PreTrainedConfig) -> Iterator[str]:
    mine, other = (each.hidden_size // each.num_attention_heads for each in (ours, theirs))
    if mine != other:
        yield (
            f"`{name}` has heads of {mine} channels, and the larger model of {other}: choose "
            f"`num_attention_heads` so that they have as many"
        )


def _teacher_name(name: str, teacher: ClipHFConfig, config: ClipHFConfig) -> str:
    """The larger model's name of a weight: the same but for the number of its layer or block."""
    match = _LAYER.match(name)
    if match is None:
        return name
    towers = [
        getattr(each, "text_config" if match[1] == "text_model" else "vision_config") for each in (teacher, config)
    ]
    stage = match[2]
    theirs, ours = (tower.num_hidden_layers if stage is None else tower.stage_depths[int(stage)] for tower in towers)
    return f"{name[: match.start(3)]}{int(match[3]) * theirs // ours}{name[match.end(3) :]}"


def _fit_positions(positions: torch.Tensor, theirs: PreTrainedConfig, ours: PreTrainedConfig) -> torch.Tensor:
    """Positions `(1 + grid ** 2, channels)` for the smaller model's grid."""
    if ours.grid_size == theirs.grid_size:
        return positions
    resized = interpolate_positions(positions.float(), theirs.grid_size, ours.grid_size, ours.grid_size)
    return resized.to(positions.dtype)
