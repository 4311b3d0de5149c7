# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Where a layer's product may be computed by one of torch's oneDNN operators, which know no gradients and no hooks."""

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode


def can_use_onednn(layer: nn.Module, kind: type[nn.Module], operator: str, *inputs: torch.Tensor) -> bool:
    """Whether the oneDNN operator may stand in for calling the layer: nobody could tell but by rounding and time.

    Args:
        layer (`nn.Module`): The layer, or what another library put in its place.
        kind (`type`): The class that the layer must have, `nn.Conv2d` or `nn.Linear`.
        operator (`str`): The operator's name in `torch.ops.mkldnn`.
        inputs (`torch.Tensor`): What the operator would be given besides weight and bias.

    Returns:
        `bool`: false in compilers, exporters, tracers and function transforms; under autocast or modes that watch
        operators; for a layer of another class, with hooks or a replaced `forward`; unless all tensors are dense
        float32 on an x86 CPU and need no gradients; and within `torch.backends.mkldnn.flags(enabled=False)`.
    """
    # First, because compilers, exporters and tracers must see none of the rest.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(inputs[0]) is not torch.Tensor:
        return False
    return (
        type(layer) is kind
        and "forward" not in layer.__dict__  # accelerate's offloading
        and not (layer._forward_hooks or layer._forward_pre_hooks or _has_any_global_hook())
        and _operators_are_free(operator)
        and _are_plain(*inputs, *layer._parameters.values())
    )


def _operators_are_free(operator: str) -> bool:
    return (
        torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
        and hasattr(torch.ops.mkldnn, operator)
        and not torch.is_autocast_enabled("cpu")
        and _get_current_dispatch_mode() is None
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def _are_plain(*tensors: torch.Tensor | None) -> bool:
    needs_gradients = torch.is_grad_enabled()
    return all(
        type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.layout == torch.strided
        and not (needs_gradients and tensor.requires_grad)
        for tensor in tensors
        if tensor is not None
    )
