# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A model whose attention weights can be seen, beside the caller's, with the same weights in memory."""

import copy

import torch
from torch import nn

from ..model.checks_clip_hf import type_of
from ..model.modeling_clip_hf import ClipHFModel


def check_explainable(model: nn.Module) -> nn.Module:
    """Return the plain model behind `torch.compile` or peft, or the model itself.

    Raises:
        TypeError: if it is not a [`ClipHFModel`].
    """
    model = getattr(model, "_orig_mod", model)
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(plain, ClipHFModel):
        raise TypeError(
            f"`model` is {type_of(model)}; explanations need a ClipHFModel, whose layers they look into. "
            "`ClipHFModel.from_pretrained(path)` reads every CLIP: ours, transformers', OpenAI's and open_clip's."
        )
    return plain


def attention_twin(model: nn.Module) -> ClipHFModel:
    """Return a copy of a model that shares its weights and computes attention so that its weights can be seen.

    It is in evaluation mode and uses the eager implementation. The caller's model keeps its mode, configuration,
    gradients and hooks, so that other threads may use it meanwhile. The copy costs no memory to speak of.

    Args:
        model ([`ClipHFModel`]): The model, also compiled or with adapters of peft.

    Returns:
        [`ClipHFModel`]: the copy.

    Raises:
        TypeError: if it is a model of another class.
    """
    plain = check_explainable(model)
    shared: dict[int, torch.Tensor] = {id(tensor): tensor for tensor in (*plain.parameters(), *plain.buffers())}
    twin = copy.deepcopy(plain, shared)
    twin.set_attn_implementation("eager")
    return twin.eval()
