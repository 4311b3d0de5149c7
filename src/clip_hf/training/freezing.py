# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Freeze parts of a model: for locked-image tuning (Zhai et al. 2022), or fine-tuning with fixed BatchNorm."""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init

from ..model.checks_clip_hf import did_you_mean
from ..model.modeling_clip_hf import ClipHFModel
from ..model.modeling_clip_hf_video import ClipHFVideoModel


# What each part freezes: the beginnings of the names of parameters.
_PARTS = {
    "vision": ("vision_model.", "visual_projection."),
    "vision_tower": ("vision_model.",),
    "text": ("text_model.", "text_projection."),
    "text_tower": ("text_model.",),
    "projections": ("visual_projection.", "text_projection."),
    "all_but_projections": ("vision_model.", "text_model."),
    "temporal_head": ("temporal_head.",),
    "logit_scale": ("logit_scale",),
    "batch_norm": (),
}


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters (single values) of a model take a gradient, and how many take none."""

    trained: int
    frozen: int

    def __str__(self) -> str:
        share = 100.0 * self.trained / max(1, self.trained + self.frozen)
        return f"{self.trained:,} parameters trained, {self.frozen:,} frozen ({share:.1f}% trained)"


def freeze(model: ClipHFModel, parts: Iterable[str]) -> ParameterCounts:
    """Freeze parts of a model, so that training leaves them as they are, and count what is trained.

    - `"vision"`, `"text"`: a tower and its projection. `"vision"` is locked-image tuning (Zhai et al. 2022, "Lu" or
      "LU"): the image embeddings do not change. The projection is frozen too, as in the authors' code and open_clip's;
      the better of the authors' public models has no trained layer on the image side either.
    - `"vision_tower"`, `"text_tower"`: a tower without its projection, to train a new projection.
    - `"projections"`: both projections.
    - `"all_but_projections"`: both towers; the projections, the logit scale and a temporal head are trained.
    - `"temporal_head"`: what joins the frames of a [`ClipHFVideoModel`]; no other part includes it.
    - `"logit_scale"`: the temperature.
    - `"batch_norm"`: every BatchNorm: gains, biases and statistics.

    A frozen tower also keeps its BatchNorm statistics and drops nothing out, whatever the mode of the model.

    Parameters that were added to the model, such as LoRA's, are left alone, their dropout too.

    Args:
        model ([`ClipHFModel`]): Changed in place, before the optimiser is built and the model is wrapped.
        parts (`Iterable[str]`): Any of the names above.

    Raises:
        ValueError: if there is no such part, or nothing would be left to train; the model is then unchanged.
    """
    parts = parts if isinstance(parts, str) else list(parts)
    starts = starts_of_parts(parts)
    if "temporal_head" in parts and not isinstance(model, ClipHFVideoModel):
        raise ValueError("The model has no temporal head to freeze, because it is no video model; leave it out.")
    known_parameters, known_modules = _names_by_config(model)
    frozen = {
        name
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad or (_without_adapter(name) in known_parameters and name.startswith(starts))
    }
    if "batch_norm" in parts:
        frozen |= {
            f"{name}.{parameter}"
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            for parameter, _ in module.named_parameters(recurse=False)
        }
    if all(name in frozen for name, _ in model.named_parameters()):
        raise ValueError(f"With {', '.join(parts)} frozen there is nothing to train; freeze less.")
    for name, parameter in model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if "batch_norm" in parts:
        model.freeze_batch_norm()
    for name, module in model.named_modules():
        if f"{name}.".startswith(starts) and _without_adapter(name) in known_modules:
            _keep_in_eval_mode(module)
    return count_parameters(model)


def starts_of_parts(parts: Sequence[str]) -> tuple[str, ...]:
    """The beginnings of the names of parameters and modules that parts of a model have.

    Args:
        parts (`Sequence[str]`): Names of parts, as [`freeze`] takes them.

    Raises:
        ValueError: if there is no such part.
        TypeError: if `parts` is a text.
    """
    if isinstance(parts, str):
        raise TypeError(f"`parts` is the text {parts!r}; it must be a list of parts, such as [{parts!r}].")
    for part in parts:
        if part not in _PARTS:
            hint = did_you_mean(str(part), _PARTS)
            raise ValueError(f"There is no part {part!r} to freeze; the parts are {', '.join(_PARTS)}.{hint}")
    return tuple(start for part in parts for start in _PARTS[part])


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count the parameters of a model that take a gradient, and the others.

    Args:
        model (`nn.Module`): Any module.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return ParameterCounts(trained, frozen=sum(parameter.numel() for parameter in model.parameters()) - trained)


def _without_adapter(name: str) -> str:
    # peft puts the layer that it adapts one level deeper.
    return name.replace(".base_layer", "")


def _names_by_config(model: ClipHFModel) -> tuple[set[str], set[str]]:
    """Names of the parameters and of the modules that a model with this config has by itself."""
    with torch.device("meta"), init.no_init_weights():
        video = isinstance(model, ClipHFVideoModel)
        plain = (ClipHFVideoModel if video else ClipHFModel)(copy.deepcopy(model.config))
    return {name for name, _ in plain.named_parameters()}, {name for name, _ in plain.named_modules()}


def _keep_in_eval_mode(module: nn.Module) -> None:
    """Keep a module in evaluation mode for good; `model.train()` does not change it."""
    if hasattr(module, "freeze_statistics"):
        module.freeze_statistics(freeze_affine=False)
    elif hasattr(module, "dropout") or isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Dropout)):
        # A hook rather than a `train` of its own: it survives copies and pickles of the model.
        _set_eval_mode(module)
        module.register_forward_pre_hook(_set_eval_mode)


def _set_eval_mode(module: nn.Module, args: tuple = ()) -> None:
    module.training = False
