# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The optimiser of the CLIP paper (Radford et al. 2021, section 2.5 and table 18)."""

import math

import torch
from torch import nn

from ..modeling_clip_hf import ClipHFModel


# Vision tower -> (beta1, beta2), epsilon; table 18.
_ADAM = {
    "clip_hf_resnet": ((0.9, 0.999), 1e-8),
    "clip_hf_vit": ((0.9, 0.98), 1e-6),
}


def adamw_parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """
    Split the trained parameters for AdamW: weight decay "on all weights that are not gains or biases".

    Gains, biases, ViT's class embedding and the logit scale have fewer than two dimensions; nothing else has.

    Args:
        model (`nn.Module`):
            Parameters that take no gradient are left out.
        weight_decay (`float`):
            Weight decay of the others.

    Returns:
        `list[dict]`: two groups, with and without weight decay.

    Raises:
        ValueError: if nothing is trained.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"No parameter of {type(model).__name__} takes a gradient; there is nothing to train.")
    return [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]


def adamw_from_paper(model: ClipHFModel, learning_rate: float, weight_decay: float = 0.2) -> torch.optim.AdamW:
    """
    AdamW as the paper sets it for the model's vision tower: beta2 0.999 and epsilon 1e-8 for a ResNet, 0.98 and 1e-6
    for a ViT.

    Args:
        model ([`ClipHFModel`]):
            The model to train, not wrapped for distributed training.
        learning_rate (`float`):
            The highest learning rate. The paper's, from 5e-4 down, are for batches of 32,768.
        weight_decay (`float`, *optional*, defaults to 0.2):
            Weight decay of all weights that are not gains or biases.
    """
    betas, eps = _ADAM[model.config.vision_config.model_type]
    return torch.optim.AdamW(adamw_parameter_groups(model, weight_decay), lr=learning_rate, betas=betas, eps=eps)


@torch.no_grad()
def clamp_logit_scale_(model: ClipHFModel, maximum: float = 100.0) -> None:
    """
    Clip the learned multiplier of the cosines, `exp(logit_scale)`; to be called after each step.

    Args:
        model ([`ClipHFModel`]):
            The model, changed in place.
        maximum (`float`, *optional*, defaults to 100.0):
            The highest multiplier allowed, a temperature of 0.01: "which we found necessary to prevent training
            instability" (section 2.5).
    """
    model.logit_scale.clamp_(max=math.log(maximum))


__all__ = ["adamw_from_paper", "adamw_parameter_groups", "clamp_logit_scale_"]
