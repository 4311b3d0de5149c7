# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Adapt a model: few examples, low rank, weights in between, smaller students, longer texts."""

from ..utils.extras import require_extra


require_extra("adapt", "clip_hf.adaptation", "accelerate", "datasets", "filelock", "fsspec", "pyarrow")

from ..evaluation.tasks.measured_change import Change
from ..training.weight_inheritance import inherit_weights
from .adapt_options import AdaptOptions
from .adapt_report import AdaptationReport, AdaptedSeed
from .adapting import adapt
from .batch_norm import reestimate_batch_norm_
from .interpolation import CurveOptions, CurvePoint, InterpolationCurve, MeasuredParts, draw_curve, load_measured_parts
from .long_texts import stretch_context
from .tower_training import TrainingSize, size_training
from .weight_space import (
    GreedySoup,
    TaskVector,
    add_task_vectors,
    average_weights,
    greedy_soup,
    interpolate_weights,
    task_vector,
)


__all__ = [
    "AdaptOptions",
    "AdaptationReport",
    "AdaptedSeed",
    "Change",
    "CurveOptions",
    "CurvePoint",
    "GreedySoup",
    "InterpolationCurve",
    "MeasuredParts",
    "TaskVector",
    "TrainingSize",
    "adapt",
    "add_task_vectors",
    "average_weights",
    "draw_curve",
    "greedy_soup",
    "inherit_weights",
    "interpolate_weights",
    "load_measured_parts",
    "reestimate_batch_norm_",
    "size_training",
    "stretch_context",
    "task_vector",
]
