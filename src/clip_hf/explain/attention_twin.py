# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A model whose attention weights can be seen, beside the caller's, with the same weights in memory."""

from torch import nn

from ..model.checks_clip_hf import type_of
from ..model.modeling_clip_hf import ClipHFModel
from ..utils.module_copies import copy_modules


def check_explainable(model: nn.Module) -> ClipHFModel:
    """Return the plain model behind `torch.compile` or peft, or the model itself.

    Raises:
        TypeError: if it is not a [`ClipHFModel`], or one of films.
        ValueError: if some weights are offloaded, so that they are not in memory.
    """
    plain = getattr(model, "_orig_mod", model)
    plain = plain.get_base_model() if hasattr(plain, "get_base_model") else plain
    if not isinstance(plain, ClipHFModel):
        raise TypeError(
            f"`model` is {type_of(plain)}; explanations need a ClipHFModel, whose layers they look into. "
            "`ClipHFModel.from_pretrained(path)` reads every CLIP: ours, transformers', OpenAI's and open_clip's."
        )
    if plain.config.model_type != "clip_hf":
        raise TypeError(f"`model` is {type_of(plain)}, of films; explanations need a ClipHFModel of pictures.")
    if any(tensor.is_meta for tensor in plain.parameters()):
        raise ValueError("Some weights of `model` are offloaded; load it whole onto one device to explain it.")
    return plain


def attention_twin(model: nn.Module) -> ClipHFModel:
    """Return a copy of a model that shares its weights and computes attention so that its weights can be seen.

    It is in evaluation mode and uses the eager implementation; see [`copy_modules`] for what it shares.

    Args:
        model ([`ClipHFModel`]): The model, also compiled, folded, in half precision or with adapters of peft.

    Returns:
        [`ClipHFModel`]: the copy.

    Raises:
        TypeError: if it is a model of another class.
        ValueError: if some weights are offloaded.
    """
    plain = check_explainable(model)
    twin = copy_modules(plain)
    twin.set_attn_implementation("eager")
    return twin
