# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A model beside the caller's: modules and configuration of its own, with the same weights in memory."""

import copy
from typing import Any, TypeVar

from torch import nn
from transformers import PreTrainedConfig

from ..model.checks_clip_hf import type_of
from ..model.modeling_clip_hf import ClipHFModel
from ..model.zero_shot_clip_hf import evaluated_copy


Model = TypeVar("Model", bound=nn.Module)


def plain_clip(model: nn.Module, users: str) -> ClipHFModel:
    """Return the plain model behind `torch.compile` or peft, or the model itself.

    Args:
        model (`nn.Module`): The model.
        users (`str`): Who needs it, for messages, in the plural, such as `"explanations"`.

    Raises:
        TypeError: if it is not a [`ClipHFModel`], or one of films.
        ValueError: if some weights are offloaded, so that they are not in memory.
    """
    plain = getattr(model, "_orig_mod", model)
    plain = plain.get_base_model() if hasattr(plain, "get_base_model") else plain
    if not isinstance(plain, ClipHFModel):
        raise TypeError(
            f"`model` is {type_of(plain)}; {users} need a ClipHFModel. "
            "`ClipHFModel.from_pretrained(path)` reads every CLIP: ours, transformers', OpenAI's and open_clip's."
        )
    if plain.config.model_type != "clip_hf":
        raise TypeError(f"`model` is {type_of(plain)}, of films; {users} need a ClipHFModel of pictures.")
    if any(tensor.is_meta for tensor in plain.parameters()):
        raise ValueError("Some weights of `model` are offloaded; load it whole onto one device.")
    return plain


def copy_modules(model: Model, *, frozen: bool = False) -> Model:
    """Return a copy in evaluation mode that shares its weights with the model, and so takes next to no memory.

    - The caller's model keeps its mode, configuration and gradients, so that other threads may use it meanwhile.
    - The copy follows changes of the weights. The model's hooks run on the copy too, because pruning and other tools
      work through them; hooks of the copy are its own.

    Args:
        model (`nn.Module`): A model.
        frozen (`bool`, *optional*, defaults to `False`): Whether the copy's parameters require no gradient; they are
            other objects then, over the same memory.
    """
    twin = evaluated_copy(model)
    copied: dict[int, Any] = {}  # a configuration that several modules share stays one
    for module in twin.modules():
        attributes = vars(module)
        if isinstance(attributes.get("config"), PreTrainedConfig):
            attributes["config"] = copy.deepcopy(attributes["config"], copied)
        hooks = (name for name, value in attributes.items() if name.endswith("_hooks") and isinstance(value, dict))
        for name in list(hooks):
            attributes[name] = copy.copy(attributes[name])
        if frozen:
            weights = attributes["_parameters"].items()
            attributes["_parameters"] = {
                name: weight if weight is None else nn.Parameter(weight.detach(), requires_grad=False)
                for name, weight in weights
            }
    return twin
