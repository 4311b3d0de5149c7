# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Adapt a model: few examples, low rank, weights in between, smaller students, longer texts."""

from ..utils.extras import require_extra


require_extra("adapt", "clip_hf.adaptation", "accelerate", "datasets", "filelock", "fsspec", "pyarrow")

from ..training.weight_inheritance import inherit_weights


__all__ = ["inherit_weights"]
