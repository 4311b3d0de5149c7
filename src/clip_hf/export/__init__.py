# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Towers for other runtimes: ONNX Runtime and OpenVINO."""

from .exported_model import ClipHFExportedConfig, ClipHFExportedModel
from .exporting import export_model
from .parity_report import MIN_COSINE, FeatureParity, ParityReport, TowerSpeed


__all__ = [
    "ClipHFExportedConfig",
    "ClipHFExportedModel",
    "FeatureParity",
    "MIN_COSINE",
    "ParityReport",
    "TowerSpeed",
    "export_model",
]
