# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""TorchScript archives that we write: what torch and our own reader find in them."""

import weakref
import zipfile

import pytest
import torch

from clip_hf.checkpoints.safe_torchscript import read_torchscript
from clip_hf.checkpoints.stored_tensor import StoredTensor
from clip_hf.checkpoints.torchscript_writer import write_torchscript


pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
TENSORS = {
    "scale": torch.tensor(2.5),
    "layers.0.weight": torch.arange(12.0).reshape(3, 4).half(),
    "layers.0.bias": torch.arange(3.0).bfloat16(),
    "layers.1.weight": torch.arange(20.0).double().reshape(5, 4).T,
    "layers.1.running_mean": torch.arange(9.0)[2:7:2],
    "layers.10.block.weight": torch.arange(60.0).reshape(3, 4, 5),
    "steps": torch.tensor(77),
    "flags": torch.tensor([True, False]),
    "none": torch.zeros(0, 3),
}
BUFFERS = {"layers.1.running_mean", "steps", "flags"}


def write(path, tensors=TENSORS):
    write_torchscript({name: StoredTensor.of(tensor) for name, tensor in tensors.items()}, BUFFERS, path)
    return path


def same(found, expected):
    return found.dtype == expected.dtype and found.shape == expected.shape and torch.equal(found, expected)


def test_torch_and_our_reader_find_every_tensor(tmp_path):
    path = write(tmp_path / "it.pt")
    with open(path, "rb") as file:  # as `clip.load` opens it
        archive = torch.jit.load(file, map_location="cpu").eval()
    found, ours = archive.state_dict(), read_torchscript(path)
    assert found.keys() == ours.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert same(found[name], tensor), name
        assert same(ours[name].read(), tensor), name
    assert {name for name, _ in archive.named_buffers()} == BUFFERS
    parameters = dict(archive.named_parameters())
    assert parameters.keys() == TENSORS.keys() - BUFFERS
    assert all(parameter.requires_grad for parameter in parameters.values())


def test_equal_weights_give_equal_bytes(tmp_path):
    first = write(tmp_path / "first.pt").read_bytes()
    assert write(tmp_path / "another_name.pt").read_bytes() == first
    other = write(tmp_path / "other.pt", {**TENSORS, "scale": torch.tensor(2.0)}).read_bytes()
    assert len(other) == len(first) and other != first


def test_values_begin_where_torch_lets_them_begin(tmp_path):
    path = write(tmp_path / "it.pt")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        entries = archive.infolist()
    assert len(entries) == len(TENSORS) + 5
    content = path.read_bytes()
    for entry in entries:
        name, extra = (int.from_bytes(content[entry.header_offset + at :][:2], "little") for at in (26, 28))
        assert (entry.header_offset + 30 + name + extra) % 64 == 0, entry.filename


def test_one_tensor_at_a_time_is_in_memory(tmp_path):
    alive, most = weakref.WeakSet(), 0

    def read():
        nonlocal most
        tensor = torch.zeros(1000)
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    tensors = {f"layers.{number}.weight": StoredTensor((1000,), torch.float32, read) for number in range(20)}
    write_torchscript(tensors, (), tmp_path / "it.pt")
    # The last and, while it is read, the one before it.
    assert most <= 2
    assert len(read_torchscript(tmp_path / "it.pt")) == 20


def test_modules_of_the_same_members_share_a_class(tmp_path):
    tensors = {f"layers.{number}.{name}": torch.zeros(2) for number in range(30) for name in ("weight", "bias")}
    with zipfile.ZipFile(write(tmp_path / "it.pt", tensors)) as archive:
        code = archive.read("model/code/__torch__.py").decode()
    assert code.count("class ") == 3  # a layer, the layers, the whole
    assert torch.jit.load(str(tmp_path / "it.pt")).state_dict().keys() == tensors.keys()
