# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Export a model's towers for another runtime."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..checkpoints.dual_models import load_dual_model
from ..utils.atomic import clear_leftovers, replaced_folder
from ..utils.extras import require_extra
from ..utils.fingerprints import package_version, weights_digest
from ..utils.output_folders import check_writable
from .export_card import write_export_card
from .exported_folder import RECORD, TOWERS, tower_file, write_record
from .exported_model import ClipHFExportedConfig, ClipHFExportedModel
from .parity_report import ParityReport, compare_with_torch
from .program_files import write_program
from .quantizing import needs_calibration, quantize_towers
from .quiet_libraries import quiet_exporters
from .runtimes import RUNTIMES, check_precision, check_runtime
from .sources import as_exportable, describe_model
from .tower_inputs import Samples, prepare_samples
from .towers import ImageTower, TextTower


# `torch.export` replaces functions of PyTorch for all threads, so another export, or the comparison after one, would
# fail meanwhile.
_EXPORTING = threading.RLock()


@contextmanager
def _alone_in_plain_torch() -> Iterator[None]:
    """Keep other threads' exports, and a user's autocast and default device, out of the towers."""
    with _EXPORTING, torch.autocast("cpu", enabled=False), torch.device("cpu"):
        yield


@_alone_in_plain_torch()
def export_model(
    model: PreTrainedModel | str | os.PathLike,
    folder: str | os.PathLike,
    runtime: str = "onnx",
    precision: str = "float32",
    *,
    processor: Any = None,
    images: Sequence[Any] | None = None,
    texts: Sequence[str] | None = None,
    allow_loss: bool = False,
) -> ParityReport:
    """Export both towers of a CLIP or SigLIP into a folder, once they are shown to compute what PyTorch does.

    [`ClipHFExportedModel`] opens the folder, which also holds configuration, processor, `export.json` (versions, files
    with their SHA-256, this report) and a model card; its `.onnx` files run in ONNX Runtime without clip_hf.

    While a model is exported, no other thread of the process may run models: `torch.export` replaces functions of
    PyTorch for all of them. Exports of several threads wait for each other. A server exports before it starts.

    Args:
        model (`PreTrainedModel`, `str` or `os.PathLike`): A model of ours, or transformers' CLIP or SigLIP; or the
            path or name of one. It stays as it is.
        folder (`str` or `os.PathLike`): Where to write. An export that is there is replaced; a link to a folder stays,
            and what it points to is replaced.
        runtime (`str`, *optional*, defaults to `"onnx"`): `"onnx"` or `"openvino"`.
        precision (`str`, *optional*, defaults to `"float32"`): `"float32"`; `"bfloat16"`, OpenVINO's products on
            processors that have it; or `"int8"`, for which weights are rounded by channel.
        processor (*optional*): The model's processor, with `image_processor` and `tokenizer`; needed for a model in
            memory.
        images (`Sequence`, *optional*): Images such as the model will see: paths, or whatever
            [`open_image`](zero_shot.md) reads. Int8 needs them; every other one, 128 at most, calibrates a ResNet's
            convolutions, and the rest are compared. Without any, eight random ones are compared, and speed is not
            measured.
        texts (`Sequence[str]`, *optional*): Labels or captions to compare; by default a few prompts.
        allow_loss (`bool`, *optional*, defaults to `False`): Whether to write an export whose features differ by more
            than [`MIN_COSINE`] allows, too.

    Returns:
        [`ParityReport`]: how the towers compare with PyTorch in float32, and their speed.

    Raises:
        ValueError: if the model cannot be exported, the runtime or the processor lacks the precision, int8 has no
            images, or features differ too much. What is at `folder` is then unchanged, as after any other error.
        TypeError: if `images` or `texts` are a single one, not several.
        FileExistsError: if there is something at `folder` that is no export.
        MissingExtra: if the runtime is not installed.
        OSError: if the model is not found, or there is not enough room.

    Example:

    ```python
    >>> from clip_hf.export import export_model

    >>> report = export_model("openai/clip-vit-base-patch32", "vit-b-32-onnx", "onnx")
    >>> report.images.cosine_min > 0.99999
    True
    ```
    """
    check_runtime(runtime)
    check_precision(runtime, precision)
    require_extra(runtime, f'export_model(runtime="{runtime}")', *RUNTIMES[runtime].modules)
    folder = Path(folder).resolve()
    check_destination(folder)
    if precision == "int8" and not images:
        raise ValueError(
            "int8 towers are compared, and a ResNet's calibrated, on images as they will see, but there are none: "
            "pass some hundred as `images` (`--images FOLDER`)."
        )
    if isinstance(model, (str, os.PathLike)):
        model, processor = load_dual_model(model, torch.float32, processor)
    config = describe_model(model, processor, runtime, precision)
    samples = prepare_samples(config, processor, images, texts)
    compared, calibration = samples.split() if needs_calibration(config) else (samples, None)
    with replaced_folder(folder, check_destination) as temporary, as_exportable(model) as source:
        config.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        export_towers(source, config, temporary)
        in_float32 = _open_in_float32(temporary, config)
        if precision == "int8":
            quantize_towers(temporary, config, calibration)
        report = _write_report(temporary, source, processor, (compared, calibration), in_float32)
        if not allow_loss:
            report.check()
    return report


def check_destination(folder: str | os.PathLike) -> None:
    """
    Raises:
        FileExistsError: if there is something at `folder` that is no export and no empty folder.
        OSError: if it cannot be written.
    """
    path = Path(folder)
    check_writable(path, path.parent)
    clear_leftovers(path)
    if path.exists() and not (path / RECORD).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is no export: it is not replaced. Name another folder.")


def _open_in_float32(folder: Path, config: ClipHFExportedConfig) -> ClipHFExportedModel | None:
    """The towers before they are rounded; None where they are not."""
    if config.precision == "float32":
        return None
    write_record(folder, {})
    plain = ClipHFExportedConfig.from_dict({**config.to_dict(), "precision": "float32"})
    return ClipHFExportedModel.from_pretrained(folder, config=plain)


def _write_report(
    folder: Path,
    model: PreTrainedModel,
    processor: Any,
    samples: tuple[Samples, Samples | None],
    in_float32: ClipHFExportedModel | None,
) -> ParityReport:
    """Compare the towers in a folder with the model, and write `export.json` and the card."""
    config, (compared, calibration) = ClipHFExportedConfig.from_pretrained(folder), samples
    packages = ("clip_hf", "torch", "transformers", *RUNTIMES[config.tower_format].modules)
    record = {
        "runtime": config.tower_format,
        "precision": config.precision,
        "versions": {package: package_version(package) for package in packages},
        "source_weights": weights_digest(model).hex(),
        "calibration": None if calibration is None else calibration.describe(),
    }
    if config.tower_format == "onnx":
        record["opset"] = _opset(folder)
    write_record(folder, record)
    exported = ClipHFExportedModel.from_pretrained(folder)
    record["pooled_dim"] = exported.pooled_image_features(compared.pixel_values[:1]).shape[-1]
    report = compare_with_torch(model, exported, compared, in_float32)
    record["report"] = report.to_dict()
    write_record(folder, record)
    write_export_card(folder, config, processor, record, report)
    return report


def _opset(folder: Path) -> int:
    """Version of the operators of ONNX towers."""
    import onnx

    graph = onnx.load(folder / tower_file(TOWERS[0], "onnx"), load_external_data=False)
    return next(each.version for each in graph.opset_import if each.domain in ("", "ai.onnx"))


@torch.no_grad()
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
    parts = {"image_tower": model.vision_model, "text_tower": model.text_model}
    for name in TOWERS:
        tower, inputs, axes = towers[name]
        path = folder / tower_file(name, config.tower_format)
        num_bytes = sum(weight.nbytes for weight in parts[name].parameters())
        with quiet_exporters():
            program, save_program = _program(tower.eval(), inputs, {next(iter(inputs)): axes}, config.tower_format)
            write_program(save_program, program, path, num_bytes)


def _program(tower: torch.nn.Module, inputs: dict, shapes: dict, runtime: str) -> tuple[Any, Any]:
    """A tower's graph, and what saves it."""
    if runtime == "onnx":
        from transformers.exporters.exporter_onnx import OnnxConfig as Config
        from transformers.exporters.exporter_onnx import OnnxExporter as Exporter
    else:
        from transformers.exporters.exporter_openvino import OpenVINOConfig as Config
        from transformers.exporters.exporter_openvino import OpenVINOExporter as Exporter
    exported = Exporter().export(tower, inputs, config=Config(dynamic_shapes=shapes))
    return exported.program, Exporter.save_program
