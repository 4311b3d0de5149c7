# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""TorchScript archives for tests: real ones, and ones made by hand, opcode by opcode."""

import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from clip_hf.checkpoints.safe_torchscript import read_torchscript


class Block(nn.Module):
    """Layers whose parameters lie two levels deep."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.attention = nn.MultiheadAttention(4, 2)

    def forward(self, x):
        x = self.layers(x).flatten(2).permute(2, 0, 1)  # (length, batch, 4)
        return self.attention(x, x, x)[0].sum()


class Net(nn.Module):
    """Parameters, buffers and attributes of every kind; `everything` adds those that cannot be traced."""

    def __init__(self, everything: bool):
        super().__init__()
        self.block = Block()
        self.head = nn.Linear(4, 2).half()
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.transposed = nn.Parameter(torch.randn(5, 7).t())
        self.register_buffer("window", torch.arange(20.0)[3:12:2])
        self.register_buffer("repeated", torch.tensor([1.5]).expand(9))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("brain_float", torch.randn(3).bfloat16())
        self.register_buffer("doubles", torch.randn(3, 2).double())
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("steps", torch.arange(6).reshape(2, 3))
        self.everything = everything
        self.attn_mask = torch.full((3, 3), float("-inf")).triu(1)
        if everything:
            self.same = self.transposed
            self.number, self.text, self.numbers = 7, "x", [1, 2]
            self.fractions, self.truths, self.tensors = [0.5], [True], [torch.ones(2)]
            self.lookup, self.pair, self.nothing = {"a": 1}, (1, 2.5), None
            self.device = torch.device("cpu")

    def forward(self, x):
        total = self.block(x) * self.scale + self.transposed.sum() + self.head.weight.float().sum()
        total = total + self.window.sum() + self.repeated.sum() + self.empty.sum() + self.brain_float.float().sum()
        return total + self.doubles.sum() + self.flags.float().sum() + self.steps.sum() + self.attn_mask[1, 0]


def save_net(path: Path, how: str) -> torch.jit.ScriptModule:
    """Save a `Net`, traced or scripted; the state dict is taken from the file by torch."""
    torch.manual_seed(0)
    net = Net(everything=how == "script").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.jit.script(net) if how == "script" else torch.jit.trace(net, torch.randn(1, 3, 5, 5))
        made.save(path)
        return torch.jit.load(path)


def text(value: str) -> bytes:
    """The pickle of a text."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    """The pickle of an integer of any size."""
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values) -> bytes:
    """The pickle of a tuple of integers."""
    return b"(" + b"".join(number(value) for value in values) + b"t"


def tensor(key="0", count=4, offset=0, shape=(4,), strides=(1,), storage="FloatStorage") -> bytes:
    """The pickle of a tensor as TorchScript writes it."""
    reference = (
        b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"
    )
    hooks = b"ccollections\nOrderedDict\n)R"
    layout = number(offset) + numbers(shape) + numbers(strides) + b"\x89" + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + layout + b"tR"


def module(attributes: dict[str, bytes] | None = None, name="__torch__\nNet") -> bytes:
    """The pickle of a module with pickled attributes."""
    items = b"".join(text(key) + value for key, value in (attributes or {}).items())
    return b"c" + name.encode() + b"\n)\x81}(" + items + b"ub"


def whole(value: bytes) -> bytes:
    """A complete pickle."""
    return b"\x80\x02" + value + b"."


WEIGHT = torch.tensor([1.0, 2.0, 3.0, 4.0])
ENTRIES = {
    "data.pkl": whole(module({"weight": tensor()})),
    "data/0": WEIGHT.numpy().tobytes(),
    "code/__torch__.py": b"class Net(Module):\n  weight : Tensor\n",
    "constants.pkl": b"\x80\x02).",
    "version": b"3\n",
    "byteorder": b"little",
}


def make(path: Path, changes: dict[str, bytes | None] | None = None, deflated: str = "", root: str = "net/") -> Path:
    """Write an archive of `ENTRIES` with some entries replaced, added or (None) left out."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {**ENTRIES, **(changes or {})}.items():
            if data is not None:
                kind = zipfile.ZIP_DEFLATED if name == deflated or name.startswith("code/") else zipfile.ZIP_STORED
                file.writestr(name if name.startswith("raw:") else root + name, data, compress_type=kind)
    return path


def make_pickle(path: Path, value: bytes) -> Path:
    """Write an archive with another pickle."""
    return make(path, {"data.pkl": whole(value)})


def refuses(path: Path, message: str, function=read_torchscript) -> None:
    """Check that an archive is refused with a message that names it."""
    with pytest.raises(ValueError, match=message) as caught:
        function(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600
    assert str(caught.value).endswith(".")
