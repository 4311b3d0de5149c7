# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Folders with a LoRA adapter, as peft writes them: put one onto its model, or merge it into the weights."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers.utils import logging

from ..utils.extras import require_extra
from ..utils.fingerprints import tensors_digest
from ..utils.json_files import read_json
from ..utils.wording import counted, listed
from .paths import check_exists


ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# The name that peft and transformers give an adapter that has none.
ADAPTER = "default"
BASE_WEIGHTS = "base_weights"
"""Key of [`base_digest`] in the metadata of an adapter's weights; peft drops what it does not know from its config."""
_PREFIX = "base_model.model."  # before the names in the file, which are those in a `PeftModel`
_EXTRA = "adapt"

logger = logging.get_logger(__name__)


def is_adapter_folder(path: str | os.PathLike) -> bool:
    """Whether a path is a folder with an adapter and without a model of its own."""
    path = Path(path)
    return (path / ADAPTER_CONFIG).is_file() and not (path / "config.json").exists()


def _read_config(folder: Path) -> dict:
    """The content of an adapter's configuration; a `ValueError` if it is damaged or not of LoRA."""
    path = folder / ADAPTER_CONFIG
    config = read_json(path, dict)
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"The adapter in {folder} is of the kind {config.get('peft_type')}; `load_adapter` loads LoRA only."
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise ValueError(f"{path} is damaged: its rank `r` is {rank!r}, and must be a whole number of at least 1.")
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise ValueError(f"{path} is damaged: `lora_alpha` is {alpha!r}, and must be a finite number.")
    return config


def base_of_adapter(folder: str | os.PathLike) -> str:
    """Name or path of the model that an adapter was trained on.

    Raises:
        ValueError: if the folder's file does not name it, names another adapter, or is damaged.
        FileNotFoundError: if it is a path, and nothing is there.
    """
    path = Path(folder) / ADAPTER_CONFIG
    base = _read_config(Path(folder)).get("base_model_name_or_path")
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
    check_no_adapter_folder(base, f"The model that {path} names, {base},")
    return base


def check_no_adapter_folder(base: str, name: str) -> None:
    """Raise a `ValueError` if an adapter's model is another adapter, or the adapter itself."""
    if is_adapter_folder(base):
        raise ValueError(
            f"{name} is an adapter itself, and an adapter needs a whole model. Merge that one (`clip_hf.checkpoints."
            "load` merges it, and `save` writes the model), and name the merged model."
        )


def load_with_adapter(cls: type, base: str | os.PathLike, folder: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
    """What `cls.from_pretrained` gives for a folder with an adapter: its base with the adapter on it, as transformers
    loads it.

    Raises:
        FileNotFoundError, OSError, ValueError: as `from_pretrained` and [`load_adapter`].
    """
    result = cls.from_pretrained(base, *args, **kwargs)
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
            or has other shapes), if its files are damaged, do not match or hold NaN, or if the model has an adapter
            already; the model is then unchanged.
        ImportError: if peft is not installed.

    An adapter that [`save_adapter`] wrote knows its model's weights: on others, such as another fine-tune of the same
    base, it is loaded with a warning.
    """
    require_extra(_EXTRA, "Adapters", "peft")
    from peft import PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict

    folder = Path(folder)
    check_without_adapter(model)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no folder of an adapter: it has no {name}.")
    _read_config(folder)
    state, trained_on = _read_weights(folder)
    _check_fits(model, state, folder)
    with plain_after_error(model):
        try:
            config = PeftConfig.from_pretrained(folder)
            config.inference_mode = True
            inject_adapter_in_model(config, model, ADAPTER)
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # what peft makes of wrong values
            raise ValueError(
                f"The adapter in {folder} cannot be put onto this {type(model).__name__} ({error}): "
                f"{ADAPTER_CONFIG} is damaged or belongs to another model."
            ) from error
        _check_same_names(state, get_peft_model_state_dict(model, adapter_name=ADAPTER), folder)
        set_peft_model_state_dict(model, state, adapter_name=ADAPTER)
    mark_adapter(model)
    here = base_digest(model) if trained_on else ""
    if here and not {*trained_on.split()} & {*here.split()}:
        logger.warning(
            f"The adapter in {folder} was trained on other weights than those of this {type(model).__name__}, though "
            f"of the same shapes, so its features may be wrong. {ADAPTER_CONFIG} names the model that it belongs to."
        )
    return model.requires_grad_(False).eval()


def _read_weights(folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    """An adapter's weights, named as in the model, and the digest of the weights that it was trained on, or ""."""
    path = folder / ADAPTER_WEIGHTS
    try:
        with safe_open(path, "pt") as file:
            state = {name.removeprefix(_PREFIX): file.get_tensor(name) for name in file.keys()}
            trained_on = (file.metadata() or {}).get(BASE_WEIGHTS, "")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); copy or download it again.") from error
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"The adapter in {folder} has NaN or infinity in {listed(broken, 2)}; its training failed.")
    return state, trained_on


@contextmanager
def plain_after_error(model: nn.Module) -> Iterator[None]:
    """Take the adapter that the block puts onto a model off again if it raises."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    except BaseException:
        remove_adapter_(model)
        for parameter in trained:
            parameter.requires_grad_(True)
        raise


def base_digest(model: nn.Module) -> str:
    """Digests of the weights under a model's adapter, rounded to each half precision, as one text.

    Weights that were loaded in different dtypes have one of the two in common. It is empty where there is no digest:
    of quantised weights, and of weights that are not in memory.
    """
    weights = {name: layer.get_base_layer().weight for name, layer in adapted_layers(model)}
    if any(weight.is_meta or not weight.is_floating_point() for weight in weights.values()):
        return ""
    return " ".join(
        tensors_digest({name: weight.to(dtype) for name, weight in weights.items()}).hex()
        for dtype in (torch.float16, torch.bfloat16)
    )


def _check_same_names(state: dict, expected: dict, folder: Path) -> None:
    """Raise a `ValueError` unless an adapter's weights are those that its configuration makes here."""
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    other = [name for name in state if name in expected and state[name].shape != expected[name].shape]
    if missing or unknown:
        what = f"lacks weights for {listed(missing, 4)}" if missing else f"has weights for {listed(unknown, 4)}"
        raise ValueError(f"The adapter in {folder} {what}: it belongs to another model, or its files do not match.")
    if other:
        there, here = (list(each[other[0]].shape) for each in (state, expected))
        raise ValueError(
            f"The files of the adapter in {folder} do not match: by {ADAPTER_CONFIG} {other[0]} has the shape {here}, "
            f"and in {ADAPTER_WEIGHTS} {there}. Is its rank `r` another?"
        )


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
        elif side is not None and tensor.ndim != weight.ndim:
            problems.append(f"{name} has {tensor.ndim} dimensions, and the weight of {module} {weight.ndim}")
        elif side is not None and tensor.shape[side] != weight.shape[side]:
            there, here = tensor.shape[side], weight.shape[side]
            problems.append(f"{module} has {here} {('outputs', 'inputs')[side]}, and the adapter's {there}")
    if problems:
        raise ValueError(
            f"The adapter in {folder} belongs to another model than this {type(model).__name__}: "
            f"{listed([*dict.fromkeys(problems)], 3)}. {ADAPTER_CONFIG} names the model that it was trained on."
        )


def check_without_adapter(model: nn.Module, name: str = "The model") -> None:
    """Raise a `ValueError` if a model, called `name`, has an adapter already."""
    adapted = [name for name, _ in adapted_layers(model)]
    if adapted:
        raise ValueError(
            f"{name} has an adapter already, on {counted(len(adapted), 'module')} ({listed(adapted, 2)}). Merge it "
            "first: `merge_lora(model)` of `clip_hf.training`."
        )


def adapted_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and module of each layer that peft has put an adapter around."""
    # By what they have, because peft need not be installed. A wrapper lends the attributes of its copy.
    return [
        (name, module)
        for name, module in model.named_modules()
        if hasattr(module, "get_base_layer") and hasattr(module, "merge") and not hasattr(module, "original_module")
    ]


def _trained_copies(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Name and wrapper of each module that peft trains as a whole or in some rows, beside the adapters
    (`modules_to_save`, `trainable_token_indices`).
    """
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "original_module")]


def _trained_copy(wrapper: nn.Module) -> nn.Module:
    """What a wrapper's module is with the active adapter; its own adapters are not merged."""
    return wrapper.unload_and_optionally_merge_module(merge=False, safe_merge=False, adapter_names=None)


def mark_adapter(model: nn.Module) -> None:
    """Tell transformers of the adapter: `save_pretrained` then writes it alone, `disable_adapters` switches it off."""
    model._hf_peft_config_loaded = True


def merge_lora(model: nn.Module) -> nn.Module:
    """Add a model's adapter to its weights, and put the plain layers back: the same features, at the plain model's
    speed, and `save_pretrained` writes the whole model.

    Args:
        model (`nn.Module`): Changed in place. Its parameters do not take gradients before `requires_grad_(True)`.
            Modules that peft trained beside the adapters (`modules_to_save`) become those of the model.

    Returns:
        The model itself; of a `PeftModel` the model within.

    Raises:
        ValueError: if the model has no adapter, one that is no change of weights, or merged weights are not finite;
            the model is then unchanged.
    """
    while hasattr(model, "merge_and_unload"):  # a `PeftModel`, then the tuner within
        children = dict(model.named_children())
        model = children["base_model"] if "base_model" in children else children["model"]
    layers, copies = adapted_layers(model), _trained_copies(model)
    if not layers and not copies:
        raise ValueError(f"This {type(model).__name__} has no adapter to merge.")
    _check_mergeable(model, tuple(f"{name}." for name, _ in [*layers, *copies]))
    for name, wrapper in copies:
        if not all(parameter.isfinite().all() for parameter in _trained_copy(wrapper).parameters()):
            raise ValueError(f"The adapter cannot be merged into {name}: it has NaN or infinity. Nothing was merged.")
    # peft's safe merge gives a layer new values, so the old ones stay what they were.
    before = [(layer, [*layer.merged_adapters], _values_of(layer.get_base_layer())) for _, layer in layers]
    for name, layer in layers:
        try:
            layer.merge(safe_merge=True)
        except BaseException as error:
            for other, merged, values in before:
                other.merged_adapters[:] = merged
                for parameter, value in values:
                    parameter.data = value
            if not isinstance(error, (ValueError, NotImplementedError)):
                raise
            raise ValueError(f"The adapter cannot be merged into {name}: {error}. Nothing was merged.") from error
    for _, wrapper in copies:
        trained = _trained_copy(wrapper)
        if trained is not wrapper.original_module:
            wrapper.original_module = trained
    return remove_adapter_(model).requires_grad_(False)


def _check_mergeable(model: nn.Module, known: tuple[str, ...]) -> None:
    """Raise a `ValueError` if peft has modules outside those whose names begin so."""
    for name, module in model.named_modules():
        if type(module).__module__.startswith("peft.") and not f"{name}.".startswith(known):
            raise ValueError(
                f"{name} is a {type(module).__name__} of peft, which is no change of weights and cannot be merged."
            )


def _values_of(layer: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
    return [(parameter, parameter.data) for parameter in layer.parameters()]


def remove_adapter_(model: nn.Module) -> nn.Module:
    """Put the plain layers back, with the weights that they have at the moment, and the modules of which peft trained
    a copy, without that; returns the model.
    """
    while copies := _trained_copies(model):  # one by one, because adapters may be within
        name, wrapper = copies[0]
        model.set_submodule(name, wrapper.original_module)
    for name, layer in adapted_layers(model):
        model.set_submodule(name, layer.get_base_layer())
    vars(model).pop("peft_config", None)
    model._hf_peft_config_loaded = False
    return model
