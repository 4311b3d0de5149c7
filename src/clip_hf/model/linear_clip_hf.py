# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Linear layers through the faster of torch's two float32 matrix products.

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


@functools.cache
def mkl_is_slower() -> bool:
    """Return whether oneDNN multiplies float32 faster than MKL: AVX-512 on a processor that Intel did not make.

    It looks at the processor's maker and never at a clock, so that runs on one machine do not differ.
    """
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    if not (has_both and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _maker() in (
        "AuthenticAMD",
        "HygonGenuine",
    )


def _maker() -> str:
    """Return the x86 processor's vendor id, or "" if it cannot be found out."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
    except OSError:
        return platform.processor().rpartition(", ")[2]  # Windows: "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD"


def apply_linear(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return `layer(x)`, for a plain float32 `nn.Linear` on the CPU without gradients by the faster product.

    The results differ by rounding. `torch.backends.mkldnn.flags(enabled=False)` gives those of `layer(x)`.

    Args:
        layer (`nn.Module`): An `nn.Linear`, or what another library put in its place.
        x (`torch.Tensor` of shape `(..., in_features)`): The input.

    Returns:
        `torch.Tensor` of shape `(..., out_features)`.
    """
    # First, because compilers, exporters and tracers must see none of the rest.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not torch.Tensor:
        return layer(x)
    if not (mkl_is_slower() and torch.backends.mkldnn.enabled and _is_plain(layer) and _fits(layer, x)):
        return layer(x)
    return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "none", [], "")


def _is_plain(layer: nn.Module) -> bool:
    """Whether calling the layer is a product and nothing else: no hooks, wrappers, transforms or counting modes."""
    return (
        type(layer) is nn.Linear
        and "forward" not in layer.__dict__  # accelerate's offloading
        and not (layer._forward_hooks or layer._forward_pre_hooks or _has_any_global_hook())
        and _get_current_dispatch_mode() is None
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
    )


def _fits(layer: nn.Linear, x: torch.Tensor) -> bool:
    """Whether the product is of dense float32 on the CPU, without gradients, and large enough."""
    weight, bias = layer.weight, layer.bias
    if type(weight) is not nn.Parameter or (bias is not None and type(bias) is not nn.Parameter):
        return False
    tensors = (x, weight) if bias is None else (x, weight, bias)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    rows = x.numel() // layer.in_features
    return (
        rows > 1
        and rows * weight.numel() >= MIN_MULTIPLICATIONS
        and x.shape[-1] == layer.in_features
        and all(
            tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.layout == torch.strided
            for tensor in tensors
        )
    )
