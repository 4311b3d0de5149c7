# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Digests of what decides a model's features: weights, settings of modules, configuration, tokenizer, versions."""

import functools
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

from .processor import count_threads


# Keys of configurations that do not decide features.
_VOLATILE = {
    "_name_or_path",
    "name_or_path",
    "_commit_hash",
    "architectures",
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
}
# Attributes of modules that do not decide features.
_STATE = {"training", "gradient_checkpointing", "warnings_issued", "name_or_path", "hf_device_map"}
# Attributes of tokenizers that decide tokens but are not in the backend.
_TOKENIZER_SETTINGS = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "split_special_tokens",
    "clean_text",
    "do_lower_case",
)
# Attributes that say which of peft's adapters are active.
_ADAPTERS = {"_active_adapter", "_disable_adapters"}
# Where functions come from that change nothing in evaluation mode.
_HARMLESS = ("transformers.", "clip_hf.training.freezing.")
# accelerate's classes of hooks that only move tensors between devices.
_PLACING = {f"accelerate.hooks.{name}" for name in ("ModelHook", "AlignDevicesHook", "CpuOffload")}


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers by name, also buffers that are not saved with the model."""
    saved = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    buffers = model.named_buffers(remove_duplicate=False)
    return {**saved, **{name: value for name, value in buffers if name not in saved}}


def weights_digest(model: nn.Module) -> bytes:
    """Digest of names, dtypes, shapes and bytes of all weights and buffers; all must be in memory."""
    return tensors_digest(tensors_of(model))


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Digest of names, dtypes, shapes and bytes of tensors, which must be in memory."""

    def digest(item: tuple[str, torch.Tensor]) -> bytes:
        name, tensor = item
        if tensor.is_meta:
            raise ValueError(f"{name} is not in memory (offloaded), so the model has no fingerprint.")
        result = hashlib.blake2b(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
        if tensor.numel():
            result.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return result.digest()

    # hashlib releases the interpreter lock.
    with ThreadPoolExecutor(count_threads()) as pool:
        return hashlib.blake2b(b"".join(pool.map(digest, tensors.items())), digest_size=16).digest()


def module_settings(model: nn.Module) -> list:
    """Class and plain attributes of each module: heads, epsilons, activations, scalings of adapters."""
    return [
        [
            name,
            type(module).__qualname__,
            {
                key: value
                for key, value in vars(module).items()
                if (key in _ADAPTERS or not key.startswith("_")) and key not in _STATE and _is_plain(value)
            },
        ]
        for name, module in model.named_modules()
    ]


def find_overrides(model: nn.Module) -> list[tuple[str, str, str]]:
    """What changes a model's modules from outside, in the order of the modules.

    What changes nothing in evaluation mode is left out: transformers' hooks, which collect hidden states when asked
    to, and ours, which keep frozen parts in that mode.

    Returns:
        `list[tuple[str, str, str]]`: a module's path ("" is the model, or every module of PyTorch); `"forward_hook"`,
        `"forward_pre_hook"`, `"forward"` (a method in the place of the class's) or `"placement"` (a `forward` of
        accelerate's that only moves tensors between devices); and the qualified name of the function.
    """
    owners = [("", torch.nn.modules.module, "_global"), *((path, each, "") for path, each in model.named_modules())]
    found = [
        (path, kind, _qualified_name(hook))
        for path, owner, prefix in owners
        for kind in ("forward_pre_hook", "forward_hook")
        for hook in getattr(owner, f"{prefix}_{kind}s").values()
    ]
    found = [each for each in found if not each[2].startswith(_HARMLESS)]
    for path, module in model.named_modules():
        forward = vars(module).get("forward")
        if forward is not None and not _is_method_of(forward, module):
            kind = "placement" if _only_places(forward, module) else "forward"
            found.append((path, kind, _qualified_name(forward)))
    return found


def _qualified_name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _is_method_of(forward: Any, module: nn.Module) -> bool:
    """Whether a `forward` is the one of the module's class, which accelerate leaves where its own was."""
    is_bound = getattr(forward, "__self__", None) is module
    return is_bound and getattr(forward, "__func__", None) is type(module).forward


def _only_places(forward: Any, module: nn.Module) -> bool:
    hook = getattr(module, "_hf_hook", None)
    return (
        _qualified_name(forward).startswith("accelerate.hooks.")
        and all(_qualified_name(type(each)) in _PLACING for each in getattr(hook, "hooks", [hook]))
        and _is_method_of(getattr(module, "_old_forward", None), module)
    )


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int, float, str))


def plain_config(config: Any) -> Any:
    """A configuration as JSON, without the keys that do not decide features."""
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if isinstance(config, Mapping):
        return {str(key): plain_config(value) for key, value in config.items() if key not in _VOLATILE}
    if isinstance(config, (list, tuple)):
        return [plain_config(value) for value in config]
    return config if _is_plain(config) else str(config)


def tokenizer_digest(tokenizer: Any) -> list:
    """Class of a tokenizer of transformers, a digest of its backend, and its settings in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # A call with truncation or padding leaves its options in the backend.
        content = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("truncation", "padding")}
    else:
        content = sorted(tokenizer.get_vocab().items())
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
    settings = {name: getattr(tokenizer, name, None) for name in _TOKENIZER_SETTINGS}
    return [type(tokenizer).__name__, digest, settings]


def package_version(package: str) -> str | None:
    """A package's version; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # It was imported from a folder that is no longer on the path.
        return getattr(sys.modules.get(package), "__version__", None)
