# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Towers in int8, by ONNX Runtime's quantizer or OpenVINO's (NNCF)."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from ..utils.processor import read_processor
from .exported_folder import TOWERS, tower_file
from .exported_model import ClipHFExportedConfig
from .quiet_libraries import quiet_exporters
from .runtime_sessions import kept_signal_stack
from .tower_inputs import MAX_CALIBRATION, Samples


_RESNETS = ("clip_hf_resnet",)


def quantize_towers(folder: Path, config: ClipHFExportedConfig, calibration: Samples) -> None:
    """Replace the float32 towers of a folder by int8 ones.

    - ONNX Runtime: a ResNet's convolutions and products have ranges from calibration; the products of transformers
      take theirs from each input, which is closer to float32.
    - OpenVINO: NNCF's preset for transformers or for convolutions, ranges from calibration.
    """
    feeds = {
        "image_tower": [{"pixel_values": image[None]} for image in calibration.pixel_values],
        "text_tower": [{"input_ids": text[None]} for text in calibration.input_ids[:MAX_CALIBRATION]],
    }
    vision_type = (config.source_config or {}).get("vision_config", {}).get("model_type")
    for tower in TOWERS:
        is_resnet = tower == "image_tower" and vision_type in _RESNETS
        quantize = _quantize_onnx if config.tower_format == "onnx" else _quantize_openvino
        quantize(folder / tower_file(tower, config.tower_format), feeds[tower], is_resnet)


def _quantize_onnx(path: Path, feeds: list[dict[str, torch.Tensor]], is_resnet: bool) -> None:
    import onnx_ir
    from onnxruntime.quantization import QuantType
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig
    from transformers.exporters.configs import ExportFormat
    from transformers.exporters.exporter_onnx import OnnxExporter

    # Sums of products of 8 bits overflow the 16 bits that processors without VNNI have for them; those of 7 do not.
    options: dict[str, Any] = {"per_channel": True, "reduce_range": not read_processor().features["vnni"]}
    if is_resnet:
        config = OnnxRuntimeStaticConfig(
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
            **options,
        )
    else:
        config = OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul", "Gemm"], **options)
    quantizer = OnnxRuntimeQuantizer(config, calibration_dataset=feeds)
    with quiet_exporters():
        quantized = quantizer.quantize(onnx_ir.load(path), feeds[0], ExportFormat.ONNX)
    for file in OnnxExporter.program_files(path.name):
        path.with_name(file).unlink(missing_ok=True)
    OnnxExporter.save_program(quantized, path)


def _quantize_openvino(path: Path, feeds: list[dict[str, torch.Tensor]], is_resnet: bool) -> None:
    import nncf
    import openvino
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    # Symmetric ranges for ReLU's outputs, too, would waste half of them.
    kind = {"preset": nncf.QuantizationPreset.MIXED} if is_resnet else {"model_type": nncf.ModelType.TRANSFORMER}
    with quiet_exporters(), kept_signal_stack():
        model = openvino.Core().read_model(path)
        arrays = nncf.Dataset(feeds, lambda feed: {name: tensor.numpy() for name, tensor in feed.items()})
        quantized = nncf.quantize(model, arrays, subset_size=len(feeds), **kind)
    with tempfile.TemporaryDirectory(dir=path.parent) as temporary:
        # The model still reads its weights from the files that are replaced.
        OpenVINOExporter.save_program(quantized, Path(temporary) / path.name)
        for file in OpenVINOExporter.program_files(path.name):
            (Path(temporary) / file).replace(path.with_name(file))
