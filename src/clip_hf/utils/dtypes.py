# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Dtypes by their names, and the one that suits a device."""

import torch

from .processor import picks_bfloat16


AUTO = "auto"


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The floating dtype that a user asks for, such as `torch.bfloat16`, `"bfloat16"` or `"torch.bfloat16"`.

    `None` stays `None`; what is no floating dtype is a `ValueError`.
    """
    parsed = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(parsed, torch.dtype) and parsed.is_floating_point):
        raise ValueError(f'`dtype` is {dtype!r}; it must be a floating dtype, such as "float32" or torch.bfloat16.')
    return parsed


def parse_inference_dtype(
    dtype: torch.dtype | str | None, device: torch.device | str | None = None
) -> torch.dtype | None:
    """As [`parse_dtype`], but `"auto"` is the dtype that [`pick_dtype`] picks for the device.

    Without a device, `"auto"` is for the accelerator, or for the processor where there is none.
    """
    if not isinstance(dtype, str) or dtype != AUTO:
        return parse_dtype(dtype)
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return pick_dtype(device)


def pick_dtype(device: torch.device | str) -> torch.dtype:
    """The dtype to run inference in on a device.

    - A processor: `torch.bfloat16` if it is native there (AVX512_BF16, AMX or ARM's BF16) and measured to be faster,
      which takes some milliseconds at the first use; else `torch.float32`.
    - CUDA: `torch.bfloat16` if the GPU has it natively, else `torch.float16`.
    - XPU: `torch.bfloat16`. MPS: `torch.float16`. Any other device: `torch.float32`.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return torch.bfloat16 if picks_bfloat16() else torch.float32
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"xpu": torch.bfloat16, "mps": torch.float16}.get(kind, torch.float32)
