# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Export a model's towers for another runtime."""

import importlib.metadata
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..utils.atomic import replaced_folder
from ..utils.extras import require_extra
from .exported_folder import TOWERS, tower_file, write_record
from .exported_model import ClipHFExportedConfig
from .runtime_sessions import check_precision, check_runtime
from .towers import ImageTower, TextTower


_MODULES = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "openvino": ("openvino", "nncf")}


def export_model(
    model: PreTrainedModel,
    folder: str | os.PathLike,
    runtime: str = "onnx",
    precision: str = "float32",
    *,
    processor: Any = None,
) -> None:
    """Export both towers into a folder, which appears when it is whole."""
    check_runtime(runtime)
    check_precision(runtime, precision)
    require_extra(runtime, f'export_model(runtime="{runtime}")', *_MODULES[runtime])
    with replaced_folder(folder) as temporary:
        config = describe_model(model, processor, runtime, precision)
        config.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        export_towers(model, config, temporary)
        packages = ("clip_hf", "torch", "transformers", *_MODULES[runtime])
        write_record(temporary, {"versions": {package: importlib.metadata.version(package) for package in packages}})


def describe_model(model: PreTrainedModel, processor: Any, runtime: str, precision: str) -> ClipHFExportedConfig:
    """The configuration of the export of a model."""
    config, tokenizer = model.config, getattr(processor, "tokenizer", processor)
    length = min(config.text_config.max_position_embeddings, tokenizer.model_max_length)
    bias = getattr(model, "logit_bias", None)
    return ClipHFExportedConfig(
        tower_format=runtime,
        precision=precision,
        projection_dim=config.projection_dim,
        image_size=config.vision_config.image_size,
        context_length=length,
        has_projection=config.model_type == "clip_hf",
        logit_scale=float(model.logit_scale),
        logit_bias=None if bias is None else float(bias),
        source_config=config.to_dict(),
        architectures=["ClipHFExportedModel"],
    )


def export_towers(model: PreTrainedModel, config: ClipHFExportedConfig, folder: Path) -> None:
    """Write the graphs of both towers, float32, with dynamic batch and length of texts."""
    size, dynamic = config.image_size, torch.export.Dim.DYNAMIC
    towers = {
        "image_tower": (ImageTower(model), {"pixel_values": torch.zeros(2, 3, size, size)}, {0: dynamic}),
        "text_tower": (
            TextTower(model),
            {"input_ids": torch.zeros(2, config.context_length, dtype=torch.int64)},
            {0: dynamic} if config.fixed_length else {0: dynamic, 1: dynamic},
        ),
    }
    for name in TOWERS:
        tower, inputs, axes = towers[name]
        tower.eval()
        with quiet_exporters(), torch.no_grad():
            _export(
                tower,
                inputs,
                {next(iter(inputs)): axes},
                folder / tower_file(name, config.tower_format),
                config.tower_format,
            )


def _export(tower: torch.nn.Module, inputs: dict, shapes: dict, path: Path, runtime: str) -> None:
    if runtime == "onnx":
        from transformers.exporters.exporter_onnx import OnnxConfig as Config
        from transformers.exporters.exporter_onnx import OnnxExporter as Exporter
    else:
        from transformers.exporters.exporter_openvino import OpenVINOConfig as Config
        from transformers.exporters.exporter_openvino import OpenVINOExporter as Exporter
    exported = Exporter().export(tower, inputs, config=Config(dynamic_shapes=shapes))
    Exporter.save_program(exported.program, path)


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keep back what the exporters say of operators and versions that these towers do not need."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "transformers.exporters", "nncf")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
