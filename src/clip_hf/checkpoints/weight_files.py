# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Open files of weights: safetensors, pickles of torch and TorchScript archives, of one piece or in shards.

Nothing that is in a file is executed: pickles are loaded with `weights_only=True`, TorchScript archives as
`safe_torchscript.py` describes.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..model.checks_clip_hf import type_of
from ..utils.atomic import usual_mode
from ..utils.json_files import read_json
from ..utils.wording import listed
from .safe_torchscript import check_archive, is_zip, read_torchscript
from .stored_tensor import StoredTensor


# How safetensors names dtypes.
_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


TRANSFORMERS_WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass
class WeightFile:
    """The tensors of a file or of shards.

    Args:
        kind (`str`): `"safetensors"`, `"pickle"` or `"torchscript"`.
        tensors (`dict[str, StoredTensor]`): the tensors by name, the prefixes of wrappers taken off.
        is_training_checkpoint (`bool`): whether they lay inside `state_dict` beside an optimizer and the like.
    """

    kind: str
    tensors: dict[str, StoredTensor]
    is_training_checkpoint: bool = False


def open_weights(path: Path) -> WeightFile:
    """Open a file of weights, or the `*.index.json` of shards beside it. Its content decides its kind, not its name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, cannot be read without executing it, or holds no tensors by name.
    """
    if not path.is_file():
        is_folder = path.is_dir()
        raise FileNotFoundError(
            f"{path} is a folder; give the file of weights in it." if is_folder else f"There is no file {path}."
        )
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    if path.suffix == ".safetensors":
        return WeightFile("safetensors", _without_prefixes(_open_safetensors(path), path))
    if is_zip(path) and check_archive(path).is_torchscript:
        return WeightFile("torchscript", read_torchscript(path))
    content = _load_pickle(path)
    wrapped = isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping)
    state_dict = content["state_dict"] if wrapped else content
    return WeightFile("pickle", _without_prefixes(_tensors_of(state_dict, path), path), wrapped)


def save_weights(tensors: Mapping[str, StoredTensor], path: Path) -> None:
    """Write weights as safetensors."""
    read = {name: tensor.read().contiguous() for name, tensor in tensors.items()}
    with usual_mode(path):
        save_file(read, path, metadata={"format": "pt"})


def first_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these files that a folder has."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _open_shards(index: Path) -> WeightFile:
    try:
        weight_map = read_json(index, dict)["weight_map"]
        names = {name: str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not an index of shards: {error}. Copy or download it again.") from error
    if not names:
        raise ValueError(f"{index} is not an index of shards: it names none. Copy or download it again.")
    files = {}
    for shard in sorted(set(names.values())):
        if Path(shard).name != shard:
            raise ValueError(f"{index} names the shard {shard!r}; shards lie beside the index.")
        if not (index.parent / shard).is_file():
            raise ValueError(f"{index} names the shard {shard}, which is missing. Copy or download it again.")
        files[shard] = open_weights(index.parent / shard)
    tensors = {}
    for shard, file in files.items():
        expected = {name for name, its_shard in names.items() if its_shard == shard}
        if expected != file.tensors.keys():
            differing = sorted(expected ^ file.tensors.keys())
            raise ValueError(f"{index.parent / shard} and {index.name} disagree about {listed(differing)}.")
        tensors.update(file.tensors)
    return WeightFile(next(iter(files.values())).kind, tensors)


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    with open(path, "rb"):
        pass  # safetensors says of a file that may not be read that there is none
    try:
        # Not mapped: pages of the file would count as memory of this process for as long as it is open.
        file = safe_open(path, framework="pt", backend="pread")
        names = list(file.keys())
        slices = {name: file.get_slice(name) for name in names}
        unknown = {slice_.get_dtype() for slice_ in slices.values()} - _SAFETENSORS_DTYPES.keys()
    except SafetensorError as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}): it is incomplete or damaged. Copy or download it again."
        ) from error
    if unknown:
        raise ValueError(
            f"{path} has weights of the types {listed(sorted(unknown))}, quantised ones have no use here."
        )
    return {
        name: StoredTensor(
            tuple(slice_.get_shape()),
            _SAFETENSORS_DTYPES[slice_.get_dtype()],
            lambda name=name: file.get_tensor(name),
        )
        for name, slice_ in slices.items()
    }


def _load_pickle(path: Path) -> Any:
    try:
        # Mapped, so that values are read when they are used; the format before torch 1.6 cannot be.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
    except pickle.UnpicklingError as error:
        # Not torch's whole message, which advises to load it all the same.
        match = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = (
            f"holds {match[1]}, which is no tensor" if match else "holds more than tensors, or is no file of weights"
        )
        raise ValueError(
            f"{path} {what}, and is not loaded, because loading it could run code. Should you trust where it comes "
            "from, save its weights alone with the program that wrote it: `torch.save(model.state_dict(), path)`."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is not a file of weights, or is incomplete or damaged ({_reason(error)}). The files "
            "that can be read are safetensors, torch.save's and TorchScript archives."
        ) from error


def _reason(error: Exception) -> str:
    # An unknown opcode of a pickle is a KeyError of its number.
    text = str(error).strip()[:200]
    return f"{type(error).__name__} {text}" if text.isdecimal() else text or type(error).__name__


def _tensors_of(state_dict: Any, path: Path) -> dict[str, StoredTensor]:
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"{path} holds {type_of(state_dict)} instead of tensors by name.")
    others = [str(name) for name, value in state_dict.items() if not isinstance(value, torch.Tensor)]
    if others or not state_dict:
        what = f"besides tensors {listed(others)}" if others else "nothing"
        raise ValueError(f"{path} holds {what}; a state dict, which holds tensors only, was expected.")
    without = [str(name) for name, value in state_dict.items() if value.is_meta or value.layout != torch.strided]
    if without:
        raise ValueError(f"{path} holds tensors without values (meta), or sparse ones: {listed(without)}.")
    return {str(name): StoredTensor.of(tensor.detach()) for name, tensor in state_dict.items()}


def _without_prefixes(tensors: dict[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    """Take off what wrappers put before every name: data parallelism `module.`, torch.compile `_orig_mod.`."""
    prefixes = ("module.", "_orig_mod.")
    while prefix := next((p for p in prefixes if any(name.startswith(p) for name in tensors)), None):
        if not all(name.startswith(prefix) for name in tensors):
            others = [name for name in tensors if not name.startswith(prefix)]
            raise ValueError(f"{path}: some names begin with {prefix!r} and some do not, such as {others[0]}.")
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors
