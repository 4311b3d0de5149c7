# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reports of exports that were never made."""

from clip_hf.export.parity_report import FeatureParity, ParityReport, TowerSpeed


def report_of(cosine: float, precision: str = "float32", ratio: float = 2.0) -> ParityReport:
    parity, speed = FeatureParity(3, cosine, cosine), TowerSpeed("image", 16, 10.0, 10.0 * ratio)
    return ParityReport("onnx", precision, parity, parity, 1.0, "given images", (speed,), "Pentium", 2)
