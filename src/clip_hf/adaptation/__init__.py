# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Adapt a model: few examples, low rank, weights in between, smaller students, longer texts."""

from ..utils.extras import require_extra


require_extra("adapt", "clip_hf.adaptation", "accelerate", "datasets", "filelock", "fsspec", "pyarrow")

from .adapt_options import AdaptOptions
from .adapt_report import AdaptationReport, AdaptedSeed
from .adapting import adapt
from .measuring_change import Change
from .tower_training import TrainingSize, size_training


__all__ = [
    "AdaptOptions",
    "AdaptationReport",
    "AdaptedSeed",
    "Change",
    "TrainingSize",
    "adapt",
    "size_training",
]
