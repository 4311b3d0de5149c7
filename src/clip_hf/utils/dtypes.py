# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Dtypes by their names."""

import torch


def parse_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The floating dtype that a user asks for, such as `torch.bfloat16`, `"bfloat16"` or `"torch.bfloat16"`.

    `None` stays `None`; what is no floating dtype is a `ValueError`.
    """
    parsed = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(parsed, torch.dtype) and parsed.is_floating_point):
        raise ValueError(f'`dtype` is {dtype!r}; it must be a floating dtype, such as "float32" or torch.bfloat16.')
    return parsed
