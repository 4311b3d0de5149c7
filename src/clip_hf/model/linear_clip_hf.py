# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Linear layers through the faster of torch's two float32 matrix products, and when oneDNN may stand in for a layer.

torch gives float32 products to MKL, which leaves AVX-512 unused on processors that Intel did not make; oneDNN uses it.
Layers stay plain `nn.Linear`, so that tools which replace, wrap or quantise them by class find them.
"""

import functools
import platform
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import _get_current_dispatch_mode


# Multiplications below which oneDNN's preparations cost more than its product saves. Measured on two cores of Zen 5:
# 0.3x at 2^16, 0.9x at 2^19, 1.2x to 1.8x at 2^21 and 2x above. A single row is bound by memory: no gain.
MIN_MULTIPLICATIONS = 2**21
_OTHER_MAKERS = ("AuthenticAMD", "HygonGenuine")


@functools.cache
def mkl_is_slower() -> bool:
    """Return whether oneDNN multiplies float32 faster than MKL: AVX-512 on a processor that Intel did not make.

    It looks at the processor's maker and never at a clock, so that runs on one machine do not differ.
    """
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    if not (has_both and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _maker() in _OTHER_MAKERS


def read_cpu_info() -> dict[str, str]:
    """Return Linux's fields of the first core by name, in lower case; empty on other systems."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                fields.setdefault(name.strip().lower(), value.strip())
    except OSError:
        pass
    return fields


def _maker() -> str:
    """Return the x86 processor's vendor id, or "" if it cannot be found out."""
    fields = read_cpu_info()
    if fields:
        return fields.get("vendor_id", "")
    return platform.processor().rpartition(", ")[2]  # Windows: "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD"


@functools.cache
def convolutions_fuse() -> bool:
    """Return whether torch has oneDNN's convolutions with a sum and an activation, on an x86 processor."""
    is_there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    return is_there and torch.backends.cpu.get_cpu_capability().startswith("AVX")


def apply_linear(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return `layer(x)`, for a plain float32 `nn.Linear` on the CPU without gradients by the faster product.

    The results differ by rounding. `torch.backends.mkldnn.flags(enabled=False)` gives those of `layer(x)`.

    Args:
        layer (`nn.Module`): An `nn.Linear`, or what another library put in its place.
        x (`torch.Tensor` of shape `(..., in_features)`): The input.

    Returns:
        `torch.Tensor` of shape `(..., out_features)`.
    """
    if torch.compiler.is_compiling() or not (
        mkl_is_slower() and runs_plainly(layer, nn.Linear, x) and _fits(layer, x)
    ):
        return layer(x)
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")


def _fits(layer: nn.Linear, x: torch.Tensor) -> bool:
    rows = x.numel() // layer.in_features
    large_enough = rows > 1 and rows * layer.weight.numel() >= MIN_MULTIPLICATIONS
    return large_enough and x.shape[-1] == layer.in_features


def runs_plainly(layer: nn.Module, kind: type[nn.Module], *inputs: torch.Tensor) -> bool:
    """Whether a oneDNN operator, which knows no gradients and no hooks, may stand in for a call of the layer.

    Args:
        layer (`nn.Module`): The layer, or what another library put in its place.
        kind (`type`): The class that it must have, `nn.Linear` or `nn.Conv2d`.
        inputs (`torch.Tensor`): What the operator is given besides the layer's weights.

    Returns:
        `bool`: false in compilers, exporters, tracers and function transforms, under autocast and in modes that watch
        operators; for a layer of another class, with hooks or a replaced `forward`; unless all tensors are dense
        float32 on the CPU and need no gradients; and within `torch.backends.mkldnn.flags(enabled=False)`.
    """
    # First, because compilers, exporters and tracers must see none of the rest.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(inputs[0]) is not torch.Tensor:
        return False
    return (
        type(layer) is kind
        and "forward" not in layer.__dict__  # accelerate's offloading
        and not (layer._forward_hooks or layer._forward_pre_hooks or _has_any_global_hook())
        and torch.backends.mkldnn.enabled
        and _get_current_dispatch_mode() is None
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
        # Parametrised weights are no parameters but properties.
        and all(type(tensor) is nn.Parameter for tensor in (layer.weight, layer.bias) if tensor is not None)
        and _are_plain(*inputs, *layer.parameters(recurse=False))
    )


def _are_plain(*tensors: torch.Tensor) -> bool:
    needs_gradients = torch.is_grad_enabled()
    return all(
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.layout == torch.strided
        and not (needs_gradients and tensor.requires_grad)
        for tensor in tensors
    )
