# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Open models in another runtime: an exported folder, or any other model, which is exported once into a cache."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock  # torch depends on it
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from torch import nn
from transformers import AutoProcessor, PreTrainedModel
from transformers.utils import logging

from ..checkpoints.dual_models import read_config
from ..checkpoints.reading import is_foreign
from ..model.processing_clip_hf import ClipHFProcessor
from ..utils.atomic import clear_leftovers, remove_folder
from ..utils.dtypes import AUTO, parse_dtype
from ..utils.fingerprints import module_settings, package_version, plain_config, weights_digest
from ..utils.hub import check_hub
from ..utils.processor import picks_bfloat16
from .exported_folder import RECORD
from .exported_model import ClipHFExportedConfig, ClipHFExportedModel, check_device
from .exporting import export_model
from .runtimes import RUNTIMES, TORCH, check_precision, check_runtime
from .sources import check_exportable


logger = logging.get_logger(__name__)

# Versions that may change an export, besides those of its exporters.
_WRITERS = ("clip_hf", "torch", "transformers")


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
            check_precision(runtime, str(parse_dtype(dtype)).removeprefix("torch."), "dtype")
        check_device(device)


def open_if_exported(
    model: nn.Module | str | os.PathLike,
    runtime: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | int | None = None,
    **location: Any,
) -> ClipHFExportedModel | None:
    """The exported model that is named or given, or None for any other model.

    Args:
        model (`nn.Module`, `str` or `os.PathLike`): A model, or the path or name of one.
        runtime (`str`, *optional*): What is to run it. By default that for which it was made.
        dtype (`torch.dtype` or `str`, *optional*): What to compute in. With `"auto"`, OpenVINO computes in bfloat16
            where that is measured to be faster, unless the towers are int8.
        device (`torch.device`, `str` or `int`, *optional*): The device that a user asks for.
        **location: Where on the hub it is, for `from_pretrained`.

    Raises:
        ValueError: if it is exported, but no whole export, or asked to run in a way in which it cannot.
        MissingExtra: if the runtime is not installed.
    """
    if isinstance(model, ClipHFExportedModel):
        check_device(device)
        if runtime not in (None, model.runtime) or dtype is not None:
            raise ValueError(
                f"{model.name_or_path} is open already, in {model.runtime} and {model.precision}: give its folder to "
                "choose runtime and dtype."
            )
        return model
    if not isinstance(model, (str, os.PathLike)) or not is_exported(model, **location):
        return None
    check_device(device)
    return _open(model, runtime, dtype, **location)


def pick_precision(runtime: str) -> str | None:
    """What `dtype="auto"` is in a runtime: `"bfloat16"` if it has that and it is faster here; None is the export's."""
    return "bfloat16" if "bfloat16" in RUNTIMES[runtime].options and picks_bfloat16() else None


def load_export_processor(model: ClipHFExportedModel) -> Any:
    """The processor in an exported model's folder: ours for a model of ours, else transformers'."""
    is_ours = model.config.source_config["model_type"] == "clip_hf"
    return (ClipHFProcessor if is_ours else AutoProcessor).from_pretrained(model.folder)


def is_exported(name: str | os.PathLike, **location: Any) -> bool:
    """Whether a folder, or a repo on the hub, holds an exported model; False where there is none of that name."""
    is_file = os.path.exists(name) and not (Path(name) / "config.json").is_file()
    if is_file or is_foreign(name):
        return False
    try:
        if not os.path.exists(name):
            check_hub(os.fspath(name))
        return read_config(name, **location).get("model_type") == ClipHFExportedConfig.model_type
    except (OSError, HFValidationError):
        return False  # whoever loads it says why


def _open(
    name: str | os.PathLike, runtime: str | None = None, dtype: torch.dtype | str | None = None, **location: Any
) -> ClipHFExportedModel:
    if runtime == TORCH:
        raise ValueError(
            f"{name} is an exported model, which PyTorch does not run: leave out `runtime`, or name the model that "
            "was exported."
        )
    config = ClipHFExportedConfig.from_pretrained(name, **location)
    if dtype == AUTO:
        dtype = None if config.precision == "int8" else pick_precision(runtime or config.tower_format)
    return ClipHFExportedModel.from_pretrained(name, config=config, runtime=runtime, dtype=dtype, **location)


def open_cached_export(
    model: PreTrainedModel, processor: Any, runtime: str, dtype: torch.dtype | str | None, name: str
) -> ClipHFExportedModel:
    """Export a model in float32, unless that was done before, and open the export.

    Exports lie in `clip_hf/exports` below `$HF_HOME`, each under a digest of weights, buffers, configuration, runtime
    and versions. A damaged one is made again. Several processes may call this at once: one exports, the others wait.
    An export that is there needs no right to write.

    Args:
        model (`PreTrainedModel`): The model; it stays as it is.
        processor: Its processor.
        runtime (`str`): `"onnx"` or `"openvino"`.
        dtype (`torch.dtype` or `str`, *optional*): What to compute in, see [`open_if_exported`].
        name (`str`): What to call the model.

    Raises:
        ValueError: if the model cannot be exported.
        OSError: if there is no room, or no right to write, with what to do.
    """
    check_exportable(model)  # the key does not tell a model with hooks from the one without
    folder = Path(constants.HF_HOME) / "clip_hf" / "exports" / _key(model, runtime)
    found, _ = _open_entry(folder, runtime, dtype)
    if found is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            clear_leftovers(folder)
            found, damage = _open_entry(folder, runtime, dtype)  # another process may have made it by now
            if found is not None:
                return found
            if os.path.lexists(folder):
                logger.warning(f"{name} is exported again, because what is in {folder} cannot be opened: {damage}")
                remove_folder(folder)
            logger.warning(f"Exporting {name} for the runtime {runtime!r} once, into {folder}.")
            export_model(model, folder, runtime, processor=processor)
            return _open(folder, runtime, dtype)
    except (OSError, NotImplementedError) as error:  # the second is filelock's, of file systems without locks
        raise OSError(
            f"{name} could not be exported for the runtime {runtime!r} into {folder.parent}: "
            f"{str(error).rstrip('.')}. Set HF_HOME to a folder with room that you may write to; or export the model "
            f"with `clip-hf export MODEL FOLDER --runtime {runtime}`, and give FOLDER in the model's place."
        ) from error


def _open_entry(
    folder: Path, runtime: str, dtype: torch.dtype | str | None
) -> tuple[ClipHFExportedModel | None, Exception | None]:
    """The export in a folder of the cache; None if there is none, or if it cannot be opened, with the reason."""
    if not (folder / RECORD).is_file():
        return None, FileNotFoundError(f"there is no {RECORD}.")
    try:
        return _open(folder, runtime, dtype), None
    except Exception as error:  # of any kind, because any file may be damaged, or be removed meanwhile
        return None, error


def _key(model: PreTrainedModel, runtime: str) -> str:
    versions = {package: package_version(package) for package in _WRITERS + RUNTIMES[runtime].exporters}
    described = [runtime, versions, type(model).__name__, module_settings(model), plain_config(model.config)]
    digest = hashlib.blake2b(json.dumps(described, sort_keys=True, default=str).encode(), digest_size=16)
    digest.update(weights_digest(model))
    return digest.hexdigest()
