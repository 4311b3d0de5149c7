# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The optimiser and the clipped temperature of the CLIP paper (Radford et al. 2021, section 2.5 and table 18)."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from ..model.modeling_clip_hf import ClipHFModel


# Vision tower -> (beta1, beta2), epsilon; table 18.
_ADAM = {
    "clip_hf_resnet": ((0.9, 0.999), 1e-8),
    "clip_hf_vit": ((0.9, 0.98), 1e-6),
}
_NAMES = ("adamw", "adamw_8bit")
_HEAD = "temporal_head."  # beginning of the names of its parameters
_LAYER = re.compile(r"encoder\.(?:layers|stages)\.(\d+)\.")


@dataclass(frozen=True)
class OptimizerOptions:
    """The settings of [`build_optimizer`].

    Args:
        name (`str`, *optional*, defaults to `"adamw"`): `"adamw"`, or `"adamw_8bit"`: bitsandbytes' AdamW, whose
            moments take one byte each instead of four.
        learning_rate (`float`, *optional*, defaults to 5e-4): The highest learning rate.
        weight_decay (`float`, *optional*, defaults to 0.2): Weight decay of all weights that are not gains or biases.
        betas (`tuple[float, float]`, *optional*): By default the paper's for the model's vision tower.
        eps (`float`, *optional*): By default the paper's for the model's vision tower.
        layer_decay (`float`, *optional*, defaults to 1.0): Factor of the learning rate from each layer to the one
            below, see [`adamw_parameter_groups`].
        head_multiplier (`float`, *optional*, defaults to 1.0): Learning rate of a video model's temporal head, as a
            multiple of the others'.

    Raises:
        ValueError: if a value is out of its range.
    """

    name: str = "adamw"
    learning_rate: float = 5e-4
    weight_decay: float = 0.2
    betas: tuple[float, float] | None = None
    eps: float | None = None
    layer_decay: float = 1.0
    head_multiplier: float = 1.0

    def __post_init__(self):
        if self.name not in _NAMES:
            raise ValueError(f"The optimiser `name` is {self.name!r}; it must be one of {', '.join(_NAMES)}.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"`learning_rate` is {self.learning_rate}; it must be finite and greater than 0.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"`weight_decay` is {self.weight_decay}; it must be finite and at least 0.")
        if self.betas is not None and (len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas)):
            raise ValueError(f"`betas` is {self.betas}; it must be two numbers, at least 0 and less than 1.")
        if self.eps is not None and not self.eps > 0:
            raise ValueError(f"`eps` is {self.eps}; it must be greater than 0.")
        _check_layer_decay(self.layer_decay)
        _check_head_multiplier(self.head_multiplier)


def _check_head_multiplier(head_multiplier: float) -> None:
    if not (math.isfinite(head_multiplier) and head_multiplier > 0):
        raise ValueError(f"`head_multiplier` is {head_multiplier}; it must be finite and greater than 0.")


def _check_layer_decay(layer_decay: float) -> None:
    if not 0 < layer_decay <= 1:
        raise ValueError(f"`layer_decay` is {layer_decay}; it must be greater than 0 and at most 1.")


def _distance_from_top(name: str, depths: dict[str, int]) -> int:
    """Number of layers above a parameter; 0 where it belongs to no layer of a tower."""
    tower = name.partition(".")[0]
    if tower not in depths or name.startswith((f"{tower}.final_layer_norm.", f"{tower}.post_layernorm.")):
        return 0
    if name.startswith(f"{tower}.attention_pool."):
        return 1
    # A ResNet's attention pool counts as a layer above its stages.
    above = 1 if f"{tower}.attention_pool" in depths else 0
    layer = _LAYER.search(name)
    below = int(layer[1]) if layer else -1  # the embeddings or the stem
    return depths[tower] - below + above


def _depths(model: nn.Module) -> dict[str, int]:
    """Number of layers (or stages) of each tower, and a mark for an attention pool."""
    depths = {}
    for tower in ("text_model", "vision_model"):
        encoder = getattr(getattr(model, tower, None), "encoder", None)
        if encoder is None:
            continue
        depths[tower] = len(encoder.stages if hasattr(encoder, "stages") else encoder.layers)
        if hasattr(getattr(model, tower), "attention_pool"):
            depths[f"{tower}.attention_pool"] = 1
    return depths


def adamw_parameter_groups(
    model: nn.Module,
    weight_decay: float,
    learning_rate: float | None = None,
    layer_decay: float = 1.0,
    head_multiplier: float = 1.0,
) -> list[dict]:
    """Split the trained parameters for AdamW: weight decay "on all weights that are not gains or biases".

    Gains, biases, class embeddings and the logit scale have fewer than two dimensions; nothing else has. The frame
    positions of a temporal head, which has ten times the towers' rate in ActionCLIP, have no weight decay either.

    With `layer_decay` below 1, the learning rate of a layer is `learning_rate * layer_decay ** d`, `d` its distance
    from the top of its tower:

    - 0: the projections, the logit scale, the last LayerNorm, and parameters outside the towers;
    - a transformer of L layers: from 1 (last layer) to L (first layer); L + 1 for its embeddings and a ViT's first
      LayerNorm;
    - a ResNet: 1 for the attention pool, from 2 (last stage) to 5 (first stage), 6 for the stem.

    Args:
        model (`nn.Module`): The model, not wrapped for distributed training. Parameters that take no gradient are left
            out.
        weight_decay (`float`): Weight decay of the first group; the gains and biases of the second have none.
        learning_rate (`float`, *optional*): Learning rate at the top; required if `layer_decay` is not 1.
        layer_decay (`float`, *optional*, defaults to 1.0): Greater than 0, at most 1.
        head_multiplier (`float`, *optional*, defaults to 1.0): The learning rate of a video model's temporal head is
            `learning_rate` times this, in groups of its own.

    Returns:
        `list[dict]`: two groups, with and without weight decay; with `layer_decay` below 1 up to two for each
        distance, from the top down, each with its `lr`; last those of the temporal head.

    Raises:
        ValueError: if no parameter takes a gradient, or `layer_decay` or `head_multiplier` is out of its range or
            lacks a `learning_rate`.
    """
    _check_layer_decay(layer_decay)
    _check_head_multiplier(head_multiplier)
    for name, value in (("layer_decay", layer_decay), ("head_multiplier", head_multiplier)):
        if value != 1.0 and learning_rate is None:
            raise ValueError(f"`{name}` is {value} and `learning_rate` is missing; give the one at the top.")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError(f"No parameter of {type(model).__name__} takes a gradient; there is nothing to train.")
    head = {name: trained.pop(name) for name in list(trained) if name.startswith(_HEAD) and head_multiplier != 1.0}
    head_groups = [
        {**group, "lr": learning_rate * head_multiplier}
        for group in _by_weight_decay(head, weight_decay)
        if group["params"]
    ]
    if layer_decay == 1.0:
        groups = _by_weight_decay(trained, weight_decay)
        return (
            groups if learning_rate is None else [*({**group, "lr": learning_rate} for group in groups), *head_groups]
        )
    depths = _depths(model)
    layers: dict[int, dict[str, nn.Parameter]] = {}
    for name, parameter in trained.items():
        layers.setdefault(_distance_from_top(name, depths), {})[name] = parameter
    groups = [
        {**group, "lr": learning_rate * layer_decay**distance}
        for distance in sorted(layers)
        for group in _by_weight_decay(layers[distance], weight_decay)
        if group["params"]
    ]
    return [*groups, *head_groups]


def _by_weight_decay(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict]:
    # FSDP2's logit scale has one dimension, like gains and biases.
    decayed = {
        name
        for name, parameter in parameters.items()
        if parameter.ndim >= 2 and not name.startswith(f"{_HEAD}position_embedding.")
    }
    return [
        {"params": [value for name, value in parameters.items() if name in decayed], "weight_decay": weight_decay},
        {"params": [value for name, value in parameters.items() if name not in decayed], "weight_decay": 0.0},
    ]


def build_optimizer(
    model: ClipHFModel, options: OptimizerOptions, loss_parameters: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Build the optimiser for the parameters of a model that take a gradient.

    On CPU and CUDA, AdamW is torch's fused one: the same update in one pass over the memory. In 8-bit AdamW, tensors
    of fewer than 4,096 values keep 32-bit moments.

    Args:
        model ([`ClipHFModel`]): The model to train, where it will be trained, not wrapped for distributed training
            (but after `fully_shard`).
        options ([`OptimizerOptions`]): Name, learning rate and the rest.
        loss_parameters (`Sequence[nn.Parameter]`, *optional*): Parameters of the loss itself, see [`PairLoss`].

    Returns:
        `torch.optim.Optimizer`, with the groups of [`adamw_parameter_groups`], then those of `loss_parameters`.

    Raises:
        ValueError: if no parameter takes a gradient, or the parameters of 8-bit AdamW are sharded.
        ImportError: if bitsandbytes is needed and not installed.
    """
    betas, eps = _ADAM[model.config.vision_config.model_type]
    settings = {
        "lr": options.learning_rate,
        "betas": tuple(options.betas) if options.betas is not None else betas,
        "eps": options.eps if options.eps is not None else eps,
    }
    groups = adamw_parameter_groups(
        model, options.weight_decay, options.learning_rate, options.layer_decay, options.head_multiplier
    )
    if loss_parameters:
        named = {str(number): parameter for number, parameter in enumerate(loss_parameters)}
        groups += [group for group in _by_weight_decay(named, options.weight_decay) if group["params"]]
    trained = [parameter for group in groups for parameter in group["params"]]
    if options.name == "adamw_8bit":
        if any(isinstance(parameter, DTensor) for parameter in trained):
            raise ValueError("adamw_8bit does not work on parameters sharded by FSDP2; choose adamw.")
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise ImportError(
                "The optimiser adamw_8bit needs bitsandbytes. Install it with `pip install bitsandbytes`, or choose "
                "adamw."
            ) from error
        return AdamW8bit(groups, **settings)
    fused = all(parameter.device.type in ("cpu", "cuda") and parameter.is_floating_point() for parameter in trained)
    return torch.optim.AdamW(groups, **settings, fused=fused)


def adamw_from_paper(model: ClipHFModel, learning_rate: float, weight_decay: float = 0.2) -> torch.optim.AdamW:
    """Build AdamW with the paper's settings for the model's vision tower.

    These are a beta2 of 0.999 and an epsilon of 1e-8 for a ResNet, and 0.98 and 1e-6 for a ViT (table 18).

    Args:
        model ([`ClipHFModel`]): The model to train, not wrapped for distributed training.
        learning_rate (`float`): The highest learning rate. The paper's, from 5e-4 down, are for batches of 32,768.
        weight_decay (`float`, *optional*, defaults to 0.2): Weight decay of all weights that are not gains or biases.
    """
    return build_optimizer(model, OptimizerOptions(learning_rate=learning_rate, weight_decay=weight_decay))


@torch.no_grad()
def clamp_logit_scale_(model: ClipHFModel, maximum: float = 100.0) -> None:
    """Clip the learned multiplier of the cosines, `exp(logit_scale)`; call it after each step.

    Args:
        model ([`ClipHFModel`]): The model, changed in place; its logit scale may be a scalar, have one dimension, or
            be sharded by FSDP2.
        maximum (`float`, *optional*, defaults to 100.0): The highest multiplier allowed, a temperature of 0.01: "which
            we found necessary to prevent training instability" (section 2.5).
    """
    logit_scale = model.logit_scale
    if isinstance(logit_scale, DTensor):
        logit_scale = logit_scale.to_local()
    logit_scale.clamp_(max=math.log(maximum))
