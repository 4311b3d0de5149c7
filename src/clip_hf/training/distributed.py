# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What several processes need: FSDP2's logit scale, a check that they agree, and BatchNorm over all of them."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate

from ..model.modeling_clip_hf import ClipHFModel


# Parameters without dimensions.
_SCALARS = ("logit_scale", "logit_bias")


def make_logit_scale_shardable_(model: ClipHFModel) -> ClipHFModel:
    """Give the logit scale (and bias) one dimension, because FSDP2's `fully_shard` refuses scalars.

    Call it before the optimiser is built. The model then loads state dicts with a logit scale of either shape. Its
    own state dict must go through [`restore_scalar_logit_scale`] before it is saved.

    Args:
        model ([`ClipHFModel`]): Changed in place, and returned.
    """
    scalars = {name: getattr(model, name) for name in _SCALARS}
    scalars = {name: old for name, old in scalars.items() if old is not None and old.ndim == 0}
    for name, old in scalars.items():
        setattr(model, name, nn.Parameter(old.detach().reshape(1), requires_grad=old.requires_grad))
    if scalars:
        model.register_load_state_dict_pre_hook(_fit_scalars)
    return model


def _fit_scalars(module: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    for name in _SCALARS:
        key, parameter = f"{prefix}{name}", getattr(module, name)
        value = state_dict.get(key)
        if parameter is None or value is None or value.shape == parameter.shape or value.numel() != 1:
            continue
        value = value.reshape(parameter.shape)
        if isinstance(parameter, DTensor):
            mesh = parameter.device_mesh
            if not isinstance(value, DTensor):
                value = DTensor.from_local(value.to(parameter.device), mesh, [Replicate()] * mesh.ndim)
            # A saved scalar is never sharded, so each process has the whole value.
            value = value.redistribute(mesh, parameter.placements)
        state_dict[key] = value


def restore_scalar_logit_scale(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of a state dict that shares the tensors, with scalars for logit scale and bias, as checkpoints have them.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): Whole tensors, of a model that was changed by
            [`make_logit_scale_shardable_`] or not.
    """
    return {
        name: value.reshape(()) if name.rpartition(".")[2] in _SCALARS else value for name, value in state_dict.items()
    }


def logit_scale_of(model: nn.Module) -> torch.Tensor:
    """The logarithm of a model's multiplier as a scalar with gradient, whatever shape the parameter has.

    A parameter that FSDP2 has sharded is gathered; its gradient is the mean over the processes, as that of the others.

    Args:
        model (`nn.Module`): A model with a `logit_scale`, not wrapped (but after `fully_shard`).

    Returns:
        `torch.Tensor`, a scalar of the parameter's dtype. Processes that share a sharded model call this together.
    """
    return _scalar_of(model.logit_scale)


def logit_bias_of(model: nn.Module) -> torch.Tensor | None:
    """A model's logit bias as a scalar with gradient, as [`logit_scale_of`] gives the scale; None where it has none.

    Args:
        model (`nn.Module`): A [`ClipHFModel`], not wrapped (but after `fully_shard`).
    """
    return None if model.logit_bias is None else _scalar_of(model.logit_bias)


def _scalar_of(parameter: torch.Tensor) -> torch.Tensor:
    if isinstance(parameter, DTensor):
        mesh = parameter.device_mesh
        parameter = parameter.full_tensor(grad_placements=[Partial()] * mesh.ndim)
        if parameter.requires_grad:  # FSDP averages gradients over the processes; gloo can only sum them
            parameter.register_hook(lambda grad: grad / mesh.size())
    return parameter.reshape(())


def check_processes_agree(accelerator: Accelerator, values: Mapping[str, Any]) -> None:
    """Compare what must be the same on all processes; a training with differences would hang or compute nonsense.

    Args:
        accelerator (`Accelerator`): The accelerator of this process.
        values (`Mapping[str, Any]`): Small values with equality, by name, such as the number of pairs and the options.

    Raises:
        ValueError: if they differ, with names and values. Every process raises it.
    """
    if accelerator.num_processes == 1:
        return
    everyone = gather_object([dict(values)])
    names = dict.fromkeys(name for values in everyone for name in values)
    differing = []
    for name in names:
        shown = [repr(values[name]) if name in values else "missing" for values in everyone]
        if any(text != shown[0] for text in shown):
            listed = ", ".join(f"{text} on process {rank}" for rank, text in enumerate(shown[:8]))
            differing.append(f"`{name}`: {listed}{', ...' if len(shown) > 8 else ''}")
    if differing:
        raise ValueError(
            f"The processes differ: {'; '.join(differing)}. Start all of them with the same options, "
            "on the same data and versions."
        )


def sync_batch_norm(model: nn.Module) -> nn.Module:
    """Let BatchNorm take its statistics from the batches of all processes (torch's `SyncBatchNorm`).

    A ResNet's update then equals that of one process with the whole batch. Frozen layers are not changed.

    Args:
        model (`nn.Module`): Changed in place, after [`freeze`] and before it is wrapped, and returned.

    Raises:
        ValueError: on a CPU, for which torch has no such layer.
    """
    layers = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
        and not isinstance(child, nn.SyncBatchNorm)
        and not getattr(child, "frozen", False)
    ]
    if layers and not torch.accelerator.is_available():
        raise ValueError(
            f"BatchNorm over all processes does not run on a CPU, and the model has {len(layers)} such layers in "
            "training. Freeze them (the part `batch_norm`), train with one process, or on GPUs."
        )
    for parent, name, child in layers:
        setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
    return model
