# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Towers for other runtimes: ONNX Runtime and OpenVINO."""

from .exported_model import ClipHFExportedConfig, ClipHFExportedModel
from .exporting import export_model


__all__ = ["ClipHFExportedConfig", "ClipHFExportedModel", "export_model"]
