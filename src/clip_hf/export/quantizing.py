# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Towers in int8, by ONNX Runtime's quantizer or OpenVINO's (NNCF)."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ..utils.processor import read_processor
from .exported_folder import TOWERS, tower_file
from .exported_model import ClipHFExportedConfig
from .program_files import needing_room, write_program
from .quiet_libraries import quiet_exporters
from .runtime_sessions import kept_signal_stack
from .tower_inputs import Samples


# Inputs that share a range in a product. OpenVINO takes 32; 128 are faster, and cost 0.00002 of a cosine.
_OPENVINO_GROUP = "128"
_STEM_CONVOLUTIONS = 3
_FLOAT32_WEIGHTS = (".stem.", ".shortcut.")


def needs_calibration(config: ClipHFExportedConfig) -> bool:
    """Whether images must calibrate an export: the convolutions of a ResNet in int8."""
    vision_type = (config.source_config or {}).get("vision_config", {}).get("model_type")
    return config.precision == "int8" and vision_type == "clip_hf_resnet"


def quantize_towers(folder: Path, config: ClipHFExportedConfig, calibration: Samples | None) -> None:
    """Replace the float32 towers of a folder by int8 ones: weights rounded by channel, in both runtimes alike.

    - Products of layers take the ranges of their inputs as they come, so they need no calibration.
    - Convolutions of a ResNet have ranges from calibration. Those of the stem and the shortcuts stay float32, because
      every block's features pass through them; so do the patches of a ViT.
    """
    pixels = [] if calibration is None else list(calibration.pixel_values)
    quantize = _quantize_onnx if config.tower_format == "onnx" else _quantize_openvino
    for tower in TOWERS:
        feeds = [{"pixel_values": image[None]} for image in pixels] if tower == "image_tower" else []
        quantize(folder / tower_file(tower, config.tower_format), feeds)


def _files(exporter: Any, path: Path) -> list[Path]:
    """A graph's files: weights may lie beside it."""
    files = [path.with_name(name) for name in exporter.program_files(path.name)]
    return [file for file in files if file.exists()]


def _replace(exporter: Any, program: Any, path: Path) -> None:
    """Write a graph in place of the float32 one. That one is open elsewhere, so its files are not written into."""
    files = _files(exporter, path)
    num_bytes = sum(file.stat().st_size for file in files)
    for file in files:
        file.unlink()
    write_program(exporter.save_program, program, path, num_bytes)


# -------------------------------------------------------------------------------------------------------- ONNX Runtime


def _quantize_onnx(path: Path, feeds: list[dict[str, torch.Tensor]]) -> None:
    import onnx_ir
    from onnxruntime.quantization import QuantType
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig
    from transformers.exporters.configs import ExportFormat
    from transformers.exporters.exporter_onnx import OnnxExporter

    # Sums of products of 8 bits overflow the 16 bits that processors without VNNI have for them; those of 7 do not.
    options: dict[str, Any] = {"per_channel": True, "reduce_range": not read_processor().features["vnni"]}
    num_bytes = sum(file.stat().st_size for file in _files(OnnxExporter, path))
    graph = onnx_ir.load(path)
    # The quantizer writes both graphs into a temporary folder of its own.
    with quiet_exporters(), needing_room(f"{path.name} in int8", Path(tempfile.gettempdir()), 2 * num_bytes):
        if feeds:
            convolutions = OnnxRuntimeStaticConfig(
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=[node.name for node in graph.graph if _stays_float32(node)],
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                **options,
            )
            graph = OnnxRuntimeQuantizer(convolutions, feeds).quantize(graph, feeds[0], ExportFormat.ONNX)
        products = OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul", "Gemm"], **options)
        graph = OnnxRuntimeQuantizer(products).quantize(graph, {}, ExportFormat.ONNX)
    _replace(OnnxExporter, graph, path)


def _stays_float32(node: Any) -> bool:
    """Whether an ONNX node is a convolution of a ResNet's stem or shortcuts."""
    return node.op_type == "Conv" and any(part in node.inputs[1].name for part in _FLOAT32_WEIGHTS)


# ------------------------------------------------------------------------------------------------------------ OpenVINO


def _quantize_openvino(path: Path, feeds: list[dict[str, torch.Tensor]]) -> None:
    import nncf
    import openvino
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    with quiet_exporters(), kept_signal_stack():
        # Weights are read into memory, because their file goes.
        model = openvino.Core().read_model(path, config={"ENABLE_MMAP": False})
        if feeds:
            model = _quantize_convolutions(model, feeds)
        model = nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT8_SYM,
            ignored_scope=nncf.IgnoredScope(types=["Convolution"], validate=False),
        )
    # Kept in the graph's file, and obeyed wherever it is opened.
    model.set_rt_info(_OPENVINO_GROUP, ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    _replace(OpenVINOExporter, model, path)


def _quantize_convolutions(model: Any, feeds: list[dict[str, torch.Tensor]]) -> Any:
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    # NNCF would quantize sums and poolings, too, to which a ResNet's features are more sensitive.
    others = {node.get_type_name() for node in model.get_ops()} - {"Convolution", "Constant", "Parameter", "Result"}
    return nncf.quantize(
        model,
        nncf.Dataset(feeds, lambda feed: {name: tensor.numpy() for name, tensor in feed.items()}),
        subset_size=len(feeds),
        # Symmetric ranges for ReLU's outputs, too, would waste half of them.
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(names=list(_float32_convolutions(model)), types=sorted(others)),
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            disable_bias_correction=True,
            # Means of the images' ranges, NNCF's own choice, cut what one image exceeds them by.
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        ),
    )


def _float32_convolutions(model: Any) -> Iterator[str]:
    """The names of a ResNet's convolutions that stay float32. OpenVINO does not keep those of the weights."""
    convolutions = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    for place, node in enumerate(convolutions):
        if place < _STEM_CONVOLUTIONS or _is_shortcut(node):
            yield node.get_friendly_name()


def _is_shortcut(convolution: Any) -> bool:
    """Whether a convolution reads what the other branch of its block does, too, and no ReLU comes before their sum."""
    source = convolution.input_value(0).get_node()
    while source.get_type_name() == "AvgPool" and len(_readers(source)) == 1:
        source = source.input_value(0).get_node()
    (reader,) = _readers(convolution)
    if reader.get_type_name() == "Add":  # of the bias
        (reader,) = _readers(reader)
    return len(_readers(source)) > 1 and reader.get_type_name() != "Relu"


def _readers(node: Any) -> list[Any]:
    return [each.get_node() for each in node.output(0).get_target_inputs()]
