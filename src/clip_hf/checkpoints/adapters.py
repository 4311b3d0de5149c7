# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Folders with a LoRA adapter, as peft writes them: put one onto its model, or merge it into the weights."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..utils.extras import require_extra
from ..utils.wording import counted, listed
from .paths import check_exists


ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# The name that peft and transformers give an adapter that has none.
ADAPTER = "default"
_PREFIX = "base_model.model."  # before the names in the file, which are those in a `PeftModel`
_EXTRA = "adapt"


def is_adapter_folder(path: str | os.PathLike) -> bool:
    """Whether a path is a folder with an adapter and without a model of its own."""
    path = Path(path)
    return (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").exists()


def base_of_adapter(folder: str | os.PathLike) -> str:
    """Name or path of the model that an adapter was trained on.

    Raises:
        ValueError: if the folder's file does not name it, or cannot be read.
        FileNotFoundError: if it is a path, and nothing is there.
    """
    path = Path(folder) / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        base = config["base_model_name_or_path"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read, or lacks `base_model_name_or_path` ({error}).") from error
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{path} does not name the model that the adapter was trained on: `base_model_name_or_path` is {base!r}. "
            "Write it there, or load the model yourself and call `load_adapter(model, folder)`."
        )
    try:
        check_exists(base)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The adapter in {folder} was trained on {base}, which is not here ({error}) Correct "
            f"`base_model_name_or_path` in {path}, or load the model yourself and call `load_adapter(model, folder)`."
        ) from error
    return base


def load_with_adapter(cls: type, folder: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
    """What `cls.from_pretrained` gives for a folder with an adapter: its model with the adapter on it, as transformers
    loads it.

    Raises:
        FileNotFoundError, OSError, ValueError: as [`base_of_adapter`], `from_pretrained` and [`load_adapter`].
    """
    result = cls.from_pretrained(base_of_adapter(folder), *args, **kwargs)
    load_adapter(result[0] if isinstance(result, tuple) else result, folder)
    return result


def load_adapter(model: nn.Module, folder: str | os.PathLike) -> nn.Module:
    """Put a LoRA adapter onto a model; it then takes part in `forward`.

    Args:
        model (`nn.Module`): The model that the adapter was trained on, changed in place. Nothing of it is trained from
            then on, and it is in evaluation mode.
        folder (`str` or `os.PathLike`): A folder with `adapter_config.json` and `adapter_model.safetensors`.

    Returns:
        The model itself.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if the adapter is none of LoRA or belongs to another model (it names modules that this one lacks,
            or has other shapes), or the model has an adapter already; the model is then unchanged.
        ImportError: if peft is not installed.
    """
    require_extra(_EXTRA, "Adapters", "peft")
    from peft import PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict

    folder = Path(folder)
    check_without_adapter(model)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no folder of an adapter: it has no {name}.")
    config = PeftConfig.from_pretrained(folder)
    if config.peft_type != "LORA":
        raise ValueError(f"The adapter in {folder} is of the kind {config.peft_type}; `load_adapter` loads LoRA only.")
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / ADAPTER_WEIGHTS} is damaged ({error}); copy or download it again.") from error
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}
    _check_fits(model, state, folder)
    config.inference_mode = True
    inject_adapter_in_model(config, model, ADAPTER)
    expected = get_peft_model_state_dict(model, adapter_name=ADAPTER)
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        remove_adapter_(model)
        what = f"lacks weights for {listed(missing, 4)}" if missing else f"has weights for {listed(unknown, 4)}"
        raise ValueError(f"The adapter in {folder} {what}: it belongs to another model, or its files do not match.")
    set_peft_model_state_dict(model, state, adapter_name=ADAPTER)
    mark_adapter(model)
    return model.requires_grad_(False).eval()


def _check_fits(model: nn.Module, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Raise a `ValueError` unless the model has every module that the weights are for, of their shapes."""
    modules = dict(model.named_modules())
    problems = []
    for name, tensor in state.items():
        module, mark, part = name.partition(".lora_")
        weight = getattr(modules.get(module), "weight", None) if mark else None
        side = {"A": 1, "B": 0}.get(part[:1])
        if mark and weight is None:
            problems.append(f"there is no {module}")
        elif side is not None and tensor.shape[side] != weight.shape[side]:
            there, here = tensor.shape[side], weight.shape[side]
            problems.append(f"{module} has {here} {('outputs', 'inputs')[side]}, and the adapter's {there}")
    if problems:
        raise ValueError(
            f"The adapter in {folder} belongs to another model than this {type(model).__name__}: "
            f"{listed([*dict.fromkeys(problems)], 3)}. {ADAPTER_CONFIG} names the model that it was trained on."
        )


def check_without_adapter(model: nn.Module) -> None:
    """Raise a `ValueError` if the model has an adapter already."""
    adapted = [name for name, _ in adapted_layers(model)]
    if adapted:
        raise ValueError(
            f"The model has an adapter already, on {counted(len(adapted), 'module')} ({listed(adapted, 2)}). Merge it "
            "first: `merge_lora(model)`."
        )


def adapted_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of each layer that peft has put an adapter around."""
    # By what they have, because peft need not be installed.
    return [each for each in model.named_modules() if hasattr(each[1], "get_base_layer") and hasattr(each[1], "merge")]


def mark_adapter(model: nn.Module) -> None:
    """Tell transformers of the adapter: `save_pretrained` then writes it alone, `disable_adapters` switches it off."""
    model._hf_peft_config_loaded = True


def merge_lora(model: nn.Module) -> nn.Module:
    """Add a model's adapter to its weights, and put the plain layers back: the same features, at the plain model's
    speed, and `save_pretrained` writes the whole model.

    Args:
        model (`nn.Module`): Changed in place. Its parameters do not take gradients before `requires_grad_(True)`.

    Returns:
        The model itself.

    Raises:
        ValueError: if the model has no adapter, or merged weights are not finite.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError(f"This {type(model).__name__} has no adapter to merge.")
    for _, layer in layers:
        layer.merge(safe_merge=True)
    return remove_adapter_(model)


def remove_adapter_(model: nn.Module) -> nn.Module:
    """Put the plain layers back, with the weights that they have at the moment; returns the model."""
    for name, layer in adapted_layers(model):
        model.set_submodule(name, layer.get_base_layer())
    vars(model).pop("peft_config", None)
    model._hf_peft_config_loaded = False
    return model
