# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Open models in another runtime: an exported folder, or any other model, which is exported once into a cache."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..checkpoints.reading import is_foreign
from ..utils.dtypes import AUTO, parse_dtype
from ..utils.fingerprints import module_settings, package_version, plain_config, weights_digest
from ..utils.hub import check_hub
from ..utils.processor import picks_bfloat16
from .exported_folder import RECORD
from .exported_model import ClipHFExportedConfig, ClipHFExportedModel
from .exporting import export_model
from .runtime_sessions import RUNTIMES, check_precision, check_runtime


logger = logging.get_logger(__name__)

TORCH = "torch"
# Versions that may change an export.
_PACKAGES = {
    "onnx": ("clip_hf", "torch", "transformers", "onnx", "onnxscript"),
    "openvino": ("clip_hf", "torch", "transformers", "openvino"),
}


def check_options(
    runtime: str | None, dtype: torch.dtype | str | None, device: torch.device | str | int | None
) -> None:
    """Check the options of a model that is to be run by `runtime`, before anything is loaded.

    Raises:
        ValueError: if there is no such runtime or dtype, or the runtime has neither this dtype nor this device.
        MissingExtra: if the runtime is not installed.
    """
    if runtime not in (None, TORCH, *RUNTIMES):
        known = ", ".join(map(repr, (TORCH, *RUNTIMES)))
        raise ValueError(f"`runtime` is {runtime!r:.80}; it must be one of {known}, or None, which is PyTorch.")
    if dtype != AUTO:
        parse_dtype(dtype)
    if runtime in RUNTIMES:
        check_runtime(runtime)
        if dtype is not None and dtype != AUTO:
            check_precision(runtime, str(parse_dtype(dtype)).removeprefix("torch."))
        check_device(device)


def check_device(device: torch.device | str | int | None) -> None:
    """ValueError if an exported model cannot run on a device, which may be the number of an accelerator."""
    is_number = isinstance(device, int)
    if device is not None and (device >= 0 if is_number else torch.device(device).type != "cpu"):
        raise ValueError(
            f"`device` is {str(device)!r}, but exported models run on the processor. Leave it out, or run the model "
            "that was exported in PyTorch."
        )


def is_exported(name: str | os.PathLike, **location: Any) -> bool:
    """Whether a folder, or a repo on the hub, holds an exported model; False where there is none of that name."""
    is_file = os.path.exists(name) and not (Path(name) / "config.json").is_file()
    if is_file or is_foreign(name):
        return False
    try:
        if not os.path.exists(name):
            check_hub(os.fspath(name))
        config, _ = PreTrainedConfig.get_config_dict(name, **location)
    except (OSError, HFValidationError):
        return False  # whoever loads it says why
    return config.get("model_type") == ClipHFExportedConfig.model_type


def open_exported(
    name: str | os.PathLike, runtime: str | None = None, dtype: torch.dtype | str | None = None, **location: Any
) -> ClipHFExportedModel:
    """Open an exported folder, as [`ClipHFExportedModel.from_pretrained`] does.

    With `"auto"`, OpenVINO computes in bfloat16 where that is measured to be faster, unless the towers are int8.

    Raises:
        ValueError: if the folder is no whole export, or there is no such runtime or precision here.
        MissingExtra: if the runtime is not installed.
    """
    if runtime == TORCH:
        raise ValueError(
            f"{name} is an exported model, which PyTorch does not run: leave out `runtime`, or name the model that "
            "was exported."
        )
    config = ClipHFExportedConfig.from_pretrained(name, **location)
    if dtype == AUTO:
        may_pick = (runtime or config.tower_format) == "openvino" and config.precision != "int8"
        dtype = torch.bfloat16 if may_pick and picks_bfloat16() else None
    return ClipHFExportedModel.from_pretrained(name, config=config, runtime=runtime, dtype=dtype, **location)


def check_open_export(model: ClipHFExportedModel, runtime: str | None, dtype: torch.dtype | str | None) -> None:
    """ValueError if an exported model that is open is asked to run in another runtime or dtype."""
    if runtime not in (None, model.runtime) or dtype is not None:
        raise ValueError(
            f"{model.name_or_path} is open already, in {model.runtime} and {model.precision}: give its folder to "
            "choose runtime and dtype."
        )


def open_cached_export(
    model: PreTrainedModel, processor: Any, runtime: str, dtype: torch.dtype | str | None, name: str
) -> ClipHFExportedModel:
    """Export a model in float32, unless that was done before, and open the export.

    Exports lie in `clip_hf/exports` below `$HF_HOME`, each under a digest of weights, configuration, runtime and
    versions. A damaged one is made again. Several processes may call this at once: one exports, the others wait.

    Args:
        model (`PreTrainedModel`): The model; it stays as it is.
        processor: Its processor.
        runtime (`str`): `"onnx"` or `"openvino"`.
        dtype (`torch.dtype` or `str`, *optional*): What to compute in, see [`open_exported`].
        name (`str`): What to call the model.
    """
    from filelock import FileLock  # torch depends on it

    folder = Path(constants.HF_HOME) / "clip_hf" / "exports" / _key(model, runtime)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / RECORD).is_file():
            try:
                return open_exported(folder, runtime, dtype)
            except ValueError as error:
                logger.warning(f"{name} is exported again, because {error}")
        logger.warning(f"Exporting {name} for the runtime {runtime!r} once, into {folder}.")
        export_model(model, folder, runtime, processor=processor)
        return open_exported(folder, runtime, dtype)


def _key(model: PreTrainedModel, runtime: str) -> str:
    versions = {package: package_version(package) for package in _PACKAGES[runtime]}
    described = [runtime, versions, type(model).__name__, module_settings(model), plain_config(model.config)]
    digest = hashlib.blake2b(json.dumps(described, sort_keys=True, default=str).encode(), digest_size=16)
    digest.update(weights_digest(model))
    return digest.hexdigest()
