# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A model whose attention weights can be seen, beside the caller's, with the same weights in memory."""

from torch import nn

from ..model.modeling_clip_hf import ClipHFModel
from ..utils.module_copies import copy_modules, plain_clip


def check_explainable(model: nn.Module) -> ClipHFModel:
    """Return the plain model behind `torch.compile` or peft, or raise as [`plain_clip`] does."""
    return plain_clip(model, "explanations")


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
