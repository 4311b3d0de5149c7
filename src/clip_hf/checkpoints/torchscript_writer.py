# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tensors as a TorchScript archive of modules without methods: what OpenAI's `clip.load` opens.

`clip.load` calls `torch.jit.load` and takes the state dict of what that returns. It cannot fall back on a file of
`torch.save`: the failed attempt leaves the open file at its end.

The archive is written by hand, so that one tensor at a time is in memory and equal weights give equal bytes. Its parts
are those that `safe_torchscript.py` lists; torch reads archives of this kind since version 1.4.
"""

import math
import struct
import sys
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .safe_torchscript import REBUILD_TENSOR, STORAGE_DTYPES
from .stored_tensor import StoredTensor


_STORAGE_TYPES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
_ROOT = "model"
# Where torch lets the bytes of each tensor begin: at multiples of this.
_ALIGNMENT = 64
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # so that equal weights give equal bytes


def write_torchscript(tensors: Mapping[str, StoredTensor], buffers: Collection[str], path: Path) -> None:
    """Write tensors so that `torch.jit.load(path).state_dict()` returns them, bit for bit.

    The tensors are read one after the other; those that are not named in `buffers` become parameters.
    """
    classes = {}
    _, module = _module(_tree(tensors, buffers), classes)
    code = "".join(f"class {name}(Module):\n{body}" for body, name in classes.items())
    with zipfile.ZipFile(path, "w") as file:
        for key, tensor in enumerate(tensors.values()):
            values = tensor.read().contiguous().flatten()
            # Seen as bytes, because numpy has no bfloat16.
            _write_entry(file, f"data/{key}", values.view(torch.uint8).numpy().data)
        _write_entry(file, "data.pkl", b"\x80\x02" + module + b".")
        _write_entry(file, "code/__torch__.py", code.encode())
        _write_entry(file, "constants.pkl", b"\x80\x02).")  # an empty tuple
        _write_entry(file, "version", b"3\n")
        _write_entry(file, "byteorder", sys.byteorder.encode())


def _write_entry(file: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    entry = zipfile.ZipInfo(f"{_ROOT}/{name}", _FIRST_DATE)
    entry.file_size = len(content)
    padding = -(file.fp.tell() + 30 + len(entry.filename)) % _ALIGNMENT
    if padding:  # an extra field: its kind, its length, zeros
        padding += _ALIGNMENT if padding < 4 else 0
        entry.extra = struct.pack("<2sH", b"FB", padding - 4) + bytes(padding - 4)
    with file.open(entry, "w") as stream:
        stream.write(content)


def _tree(tensors: Mapping[str, StoredTensor], buffers: Collection[str]) -> dict[str, Any]:
    """Modules as dictionaries of modules and tensors; each tensor with its key and whether it is a buffer."""
    tree = {}
    for key, (name, tensor) in enumerate(tensors.items()):
        *parents, last = name.split(".")
        module = tree
        for parent in parents:
            module = module.setdefault(parent, {})
        module[last] = (key, name in buffers, tensor)
    return tree


def _module(tree: Mapping[str, Any], classes: dict[str, str]) -> tuple[str, bytes]:
    """The class of a module, and its pickle.

    `classes` is filled with the body of each class to its name: modules of the same members share one.
    """
    types, state = {"training": "bool"}, _text("training") + b"\x89"
    lists = {"__parameters__": [], "__buffers__": []}
    for name, member in tree.items():
        if isinstance(member, dict):
            types[name], value = _module(member, classes)
        else:
            key, is_buffer, tensor = member
            takes_gradient = tensor.dtype.is_floating_point and not is_buffer
            types[name], value = "Tensor", _tensor(key, tensor, takes_gradient)
            lists["__buffers__" if is_buffer else "__parameters__"].append(name)
        state += _text(name) + value
    body = "".join(f"  {name} = {items!r}\n" for name, items in lists.items())
    body += "  __annotations__ = []\n"
    # In this form, because the names of layers are numbers.
    body += "".join(f'  __annotations__["{name}"] = {kind}\n' for name, kind in types.items())
    name = classes.setdefault(body, f"Module{len(classes)}")
    return f"__torch__.{name}", _global(f"__torch__ {name}") + b")\x81}(" + state + b"ub"


# Pickles, in the few opcodes that torch's own reader knows.


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _global(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)  # of 64 bits, the only length that torch reads


def _numbers(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(_number(value) for value in values) + b"t"


def _tensor(key: int, tensor: StoredTensor, takes_gradient: bool) -> bytes:
    """A contiguous tensor that has the record `data/<key>` for itself."""
    strides = torch.empty(tensor.shape, device="meta").stride()
    storage = _text("storage") + _global(_STORAGE_TYPES[tensor.dtype]) + _text(str(key)) + _text("cpu")
    storage = b"(" + storage + _number(math.prod(tensor.shape)) + b"tQ"
    layout = _number(0) + _numbers(tensor.shape) + _numbers(strides)
    gradient = b"\x88" if takes_gradient else b"\x89"
    return _global(REBUILD_TENSOR) + b"(" + storage + layout + gradient + _global("collections OrderedDict") + b")RtR"
