# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A tensor that is still in its file."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: shape and dtype are known, the values are read when they are asked for.

    Args:
        shape (`tuple[int, ...]`): its shape.
        dtype (`torch.dtype`): the dtype it has in the file.
        read (callable without arguments): returns the tensor; each call reads anew, so that nothing is kept.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], torch.Tensor]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "StoredTensor":
        """Wrap a tensor that is in memory, or mapped into it."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)
