# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""TorchScript archives, read without running them: real ones against torch.jit.load, hostile pickles made by hand."""

import io
import os
import pickle
import random
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torchscript_files import (
    WEIGHT,
    Net,
    make,
    make_pickle,
    module,
    number,
    numbers,
    refuses,
    save_net,
    tensor,
    text,
    whole,
)

from clip_hf.checkpoints import safe_torchscript
from clip_hf.checkpoints.safe_torchscript import check_archive, is_zip, read_torchscript


pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(params=["trace", "script"])
def archive(request, tmp_path) -> Path:
    """A real archive of either kind."""
    path = tmp_path / "net.pt"
    save_net(path, request.param)
    return path


# ------------------------------------------------------------------------------------------------------- real archives


def test_equals_torch(archive):
    expected = torch.jit.load(archive).state_dict()
    stored = read_torchscript(archive)
    assert stored.keys() - expected.keys() <= {"attn_mask"}
    assert [name for name in stored if name in expected] == list(expected)
    assert len(expected) > 15
    for name, values in expected.items():
        read = stored[name].read()
        assert read.is_contiguous()
        assert stored[name].shape == tuple(read.shape) == tuple(values.shape)
        assert stored[name].dtype == read.dtype == values.dtype
        assert read.view(-1).view(torch.uint8).equal(values.contiguous().view(-1).view(torch.uint8)), name
        assert read.untyped_storage().nbytes() == read.numel() * read.itemsize  # keeps no more of the file


def test_real_archives_hold_the_hard_cases(tmp_path):
    expected = save_net(tmp_path / "net.pt", "script").state_dict()
    assert {values.dtype for values in expected.values()} == {
        torch.bfloat16,
        torch.bool,
        torch.float16,
        torch.float32,
        torch.float64,
        torch.int64,
    }
    assert not expected["transposed"].is_contiguous()
    assert expected["window"].storage_offset() == 3
    assert expected["scale"].shape == ()
    assert expected["same"].data_ptr() == expected["transposed"].data_ptr()
    stored = read_torchscript(tmp_path / "net.pt")
    assert stored["attn_mask"].read().equal(torch.full((3, 3), float("-inf")).triu(1))
    assert "attn_mask" not in expected
    assert "number" not in stored
    assert "tensors" not in stored


def test_each_read_is_anew(archive):
    stored = read_torchscript(archive)["scale"]
    stored.read().fill_(0)
    assert stored.read().item() == 2.5
    assert stored.read().requires_grad is False


def test_reads_from_another_working_directory(archive, monkeypatch, tmp_path):
    monkeypatch.chdir(archive.parent)
    stored = read_torchscript(archive.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert stored["scale"].read().item() == 2.5


def test_reads_no_tensor_until_asked(tmp_path, monkeypatch):
    class CountingFile(io.FileIO):
        count = 0

        def read(self, size=-1):
            data = super().read(size)
            CountingFile.count += len(data)
            return data

        def readinto(self, buffer):
            count = super().readinto(buffer)
            CountingFile.count += count
            return count

    net = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Linear(2, 3))
    torch.jit.trace(net[0], torch.randn(1, 1024)).save(tmp_path / "large.pt")
    monkeypatch.setattr(safe_torchscript, "open", CountingFile, raising=False)
    stored = read_torchscript(tmp_path / "large.pt")
    assert 0 < CountingFile.count < 20_000
    CountingFile.count = 0
    assert stored["weight"].read().equal(net[0].weight)
    assert CountingFile.count == 4 * 1024 * 1024


def test_large_records_are_read_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_torchscript, "CHUNK_BYTES", 3)
    assert read_torchscript(make(tmp_path / "net.pt"))["weight"].read().equal(WEIGHT)


def test_accepts_what_torch_writes(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Net(everything=True).eval())
        scripted.save(tmp_path / "script.pt", _extra_files={"notes.txt": b"x" * 5000})
        scripted.save(tmp_path / "naïve name.pt")
        scripted._save_for_lite_interpreter(str(tmp_path / "lite.ptl"))
        torch.jit.freeze(scripted).save(tmp_path / "frozen.pt")
        buffer = io.BytesIO()
        torch.jit.save(scripted, buffer)
    (tmp_path / "buffer.pt").write_bytes(buffer.getvalue())
    paths = list(tmp_path.iterdir())
    assert len(paths) == 5
    for path in paths:
        assert is_zip(path)
        assert check_archive(path).is_torchscript
        assert read_torchscript(path).keys() >= torch.jit.load(path).state_dict().keys()


def test_accepts_what_torch_save_writes(tmp_path):
    torch.save(Net(everything=True).state_dict(), tmp_path / "state.pt")
    torch.save({"state_dict": {"a": torch.ones(3)}, "epoch": 3, "name": "x"}, tmp_path / "noext")
    torch.save([1], tmp_path / "ein näme.bin")
    torch.save(
        {str(i): torch.zeros(1) for i in range(66_000)}, tmp_path / "many.pt"
    )  # needs 64-bit numbers in the zip
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(torch.ones(4), tmp_path / "crc.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    for path in tmp_path.iterdir():
        assert is_zip(path)
        assert not check_archive(path).is_torchscript
    refuses(tmp_path / "state.pt", "it is no TorchScript archive. .* torch.save otherwise")


def test_other_files_are_neither(tmp_path):
    contents = {"text": b"hello", "empty": b"", "short": b"PK", "weights": b"\x80\x02}q\x00.", "gzip": b"\x1f\x8b\x08"}
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert not is_zip(path)
        refuses(path, "no zip archive", check_archive)
        refuses(path, "no zip archive")


@pytest.mark.parametrize("function", [check_archive, is_zip, read_torchscript])
def test_missing_file(tmp_path, function):
    with pytest.raises(FileNotFoundError):
        function(tmp_path / "missing.pt")
    with pytest.raises(OSError):
        function(tmp_path)


def test_torchscript_needs_code_and_constants(tmp_path):
    assert check_archive(make(tmp_path / "both.pt")).is_torchscript
    assert not check_archive(make(tmp_path / "one.pt", {"constants.pkl": None})).is_torchscript
    assert not check_archive(make(tmp_path / "two.pt", {"code/__torch__.py": None})).is_torchscript
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes((tmp_path / "both.pt").read_bytes()[:-30])
    assert is_zip(damaged)
    refuses(damaged, "truncated", check_archive)


# ------------------------------------------------------------------------------------------------------ nothing is run


@pytest.fixture
def forbidden(monkeypatch):
    """Make whatever could run an archive's content fail the test, with an error that nobody catches."""

    class Ran(BaseException):
        pass

    def ran(*args, **kwargs):
        raise Ran

    for owner, name in [
        (torch.jit, "load"),
        (torch._C, "import_ir_module"),
        (torch, "load"),
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (os, "system"),
    ]:
        monkeypatch.setattr(owner, name, ran)
    monkeypatch.setattr("builtins.eval", ran)
    monkeypatch.setattr(zipfile.ZipFile, "extract", ran)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", ran)


def test_code_is_never_run(tmp_path, forbidden):
    marker = tmp_path / "marker"
    code = f"open({str(marker)!r}, 'w').write('ran')\nimport os\nos.system('touch {marker}')\n".encode()
    changes = {
        "code/__torch__.py": code,
        "code/__init__.py": code,
        "__torch__.py": code,
        "constants.pkl": whole(b"cos\nsystem\n" + text(f"touch {marker}") + b"\x85R"),
        "code/__torch__.py.debug_pkl": whole(b"cos\nsystem\n" + text(f"touch {marker}") + b"\x85R"),
    }
    path = make(tmp_path / "net.pt", changes)
    before = sorted(tmp_path.rglob("*")), dict(sys.modules)
    assert check_archive(path).is_torchscript
    stored = read_torchscript(path)
    assert stored["weight"].read().equal(WEIGHT)
    assert (sorted(tmp_path.rglob("*")), dict(sys.modules)) == before
    assert not marker.exists()


class Hostile:
    """What `pickle` turns into a call of `os.system`."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"cos\nsystem\n" + text("touch m") + b"\x85R", "asks for 'system' of module 'os'"),
        (b"cposix\nsystem\n" + text("touch m") + b"\x85R", "asks for 'system' of module 'posix'"),
        (b"cbuiltins\neval\n" + text("open('m', 'w')") + b"\x85R", "asks for 'eval' of module 'builtins'"),
        (
            b"c__builtin__\nexec\n" + text("open('m', 'w')") + b"\x85R",
            "asks for 'exec' of module '__builtin__'",
        ),
        (b"ctorch\nload\n" + text("m") + b"\x85R", "asks for 'load' of module 'torch'"),
        (b"ctorch._utils\n_rebuild_qtensor\n)R", "asks for '_rebuild_qtensor' of module 'torch._utils'.*state_dict"),
        (b"c__torch__.os system\nx\n)\x81", "asks for 'system x' of module '__torch__.os'"),
        (b"c__torch__evil\nX\n)\x81", "asks for 'X' of module '__torch__evil'"),
        (b"cclip_hf.checkpoints\n__torch__\n)\x81", "asks for '__torch__' of module 'clip_hf.checkpoints'"),
        (b"(" + text("touch m") + b"ios\nsystem\n", "opcode INST at byte"),
        (b"(c__torch__\nNet\no", "opcode OBJ at byte"),
        (text("os") + text("system") + b"\x93", "opcode STACK_GLOBAL at byte"),
        (b"\x82\x01", "opcode EXT1 at byte"),
        (b"P0\n", "opcode PERSID at byte"),
        (b"]\x94", "opcode MEMOIZE at byte"),
        (b"c__torch__\nNet\n)}\x92", "opcode NEWOBJ_EX at byte"),
        (b"\x80\x04", "protocol 4"),
        (b"c__torch__\nNet\n}b", "missing or of the wrong kind"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n}b", "missing or of the wrong kind"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)\x81", "makes an object in an unknown way"),
        (b"c__torch__\nNet\n(K\x01t\x81", "makes an object in an unknown way"),
        (b"ctorch\nFloatStorage\n)R", "calls what is no function"),
        (text("os.system") + b")R", "calls what is no function"),
        (module() + b"}b", "state other than its attributes"),
        (b"c__torch__\nNet\n)\x81(}K\x01tb", "state other than its attributes"),
        (b"c__torch__\nNet\n)\x81K\x07b", "state other than its attributes"),
    ],
)
def test_hostile_pickles(tmp_path, forbidden, code, message):
    marker = tmp_path / "marker"
    path = make_pickle(tmp_path / "net.pt", module({"x": code}))
    before = sorted(tmp_path.rglob("*")), dict(sys.modules)
    refuses(path, message)
    assert (sorted(tmp_path.rglob("*")), dict(sys.modules)) == before
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_that_python_writes(tmp_path, request, protocol):
    marker = tmp_path / "marker"
    hostile = pickle.dumps({"a": Hostile(marker)}, protocol)
    pickle.loads(hostile)
    assert marker.exists()  # it does what it is to do
    marker.unlink()
    request.getfixturevalue("forbidden")
    refuses(make(tmp_path / "net.pt", {"data.pkl": hostile}), "its data.pkl (has opcode|asks for|has protocol)")
    assert not marker.exists()


def test_state_of_archive_classes_is_inert(tmp_path, forbidden):
    attributes = {
        "__class__": text("x"),
        "__dict__": b"}" + text("read") + b"K\x01s",
        "__setstate__": tensor(),
        "__reduce__": b"N",
        "members": b"}",
        "type_name": b"N",
        "weight": tensor(),
        "enum": b"c__torch__\nColour\n)R",
        "tag": b"ctorch.jit._pickle\nrestore_type_tag\n(}" + text("Dict[str, int]") + b"tR",
        "child": module({"weight": tensor()}, "__torch__.torch.nn.modules.conv\nConv2d"),
    }
    stored = read_torchscript(make_pickle(tmp_path / "net.pt", module(attributes)))
    assert list(stored) == ["__setstate__", "weight", "child.weight"]
    assert all(value.read().equal(WEIGHT) for value in stored.values())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor(), "does not hold a module"),
        (b"N", "does not hold a module"),
        (module() + module(), "does not hold a module"),
        (b"(" + module(), "does not hold a module"),
        (b"0", "opcode POP"),
        (b"R", "a value is missing"),
        (b"t", "a mark is missing"),
        (b"}(Nu", "a key has no value"),
        (b"h\x05", "uses value 5 before it is there"),
        (b"(q\x01", "a value is missing"),
        (b"(\x85", "a value is missing"),
        (b"K\x01K\x01a", "wrong kind"),
        (b"X\xff\xff\xff\x7fabc", "is damaged"),
        (b"X\x02\x00\x00\x00\xff\xff", "is damaged"),
        (b"\xff", "is damaged"),
        (b"K\x01Q", "a storage in an unknown way"),
        (module({"": tensor()}), "wrong or second attribute ''"),
        (module({"a.b": tensor()}), "wrong or second attribute 'a.b'"),
        (module()[:-2] + text("a") + tensor() + text("a") + tensor() + b"ub", "wrong or second attribute 'a'"),
        (module()[:-2] + b"K\x07" + tensor() + b"ub", "wrong or second attribute 7"),
        (module({"a" * 2000: tensor()}), "has more than 1024 characters"),
    ],
)
def test_malformed_pickles(tmp_path, value, message):
    refuses(make_pickle(tmp_path / "net.pt", value), message)


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"\x80\x02N", b".", b"hello"])
def test_truncated_pickles(tmp_path, content):
    refuses(make(tmp_path / "net.pt", {"data.pkl": content}), "its data.pkl")


# ----------------------------------------------------------------------------------------------- depth and endlessness


@pytest.mark.slow
def test_deep_tuples_as_keys_do_not_end_the_process(tmp_path):
    # With pickle.Unpickler, even one that refuses every class, this is a segmentation fault.
    deep = b")" + b"\x85" * 1_000_000
    path = make_pickle(tmp_path / "net.pt", module({"a": b"}" + deep + b"K\x01s", "weight": tensor()}))
    assert list(read_torchscript(path)) == ["weight"]


@pytest.mark.slow
@pytest.mark.parametrize("opening", [b"(", b"]", b"}", b"c__torch__\nN\n)\x81"])
def test_deep_stacks(tmp_path, opening):
    refuses(make_pickle(tmp_path / "net.pt", opening * 200_000), "does not hold a module")


@pytest.mark.slow
def test_deep_modules(tmp_path):
    start, end = b"c__torch__\nN\n)\x81}" + text("a"), b"sb"
    allowed = start * 99 + module({"weight": tensor()}) + end * 99
    assert list(read_torchscript(make_pickle(tmp_path / "net.pt", allowed))) == ["a." * 99 + "weight"]
    for depth in (100, 100_000):
        refuses(make_pickle(tmp_path / "net.pt", start * depth + module() + end * depth), "nested more than 100 deep")


def test_module_within_itself(tmp_path):
    value = b"c__torch__\nNet\n)\x81q\x01}" + text("me") + b"h\x01sb"
    refuses(make_pickle(tmp_path / "net.pt", value), "or one holds itself")


def test_doubling_modules(tmp_path):
    value = module({"weight": tensor()}) + b"q\x00"
    for level in range(1, 40):
        items = text("a") + f"h{chr(level - 1)}".encode() + text("b") + f"h{chr(level - 1)}".encode()
        value = value + b"c__torch__\nN\n)\x81}(" + items + b"ubq" + bytes([level])
        if level == 3:
            small = value
    # Each level leaves its module on the stack; the archive's is the last, in a module of its own.
    refuses(make_pickle(tmp_path / "net.pt", value), "does not hold a module")
    wrap = b"c__torch__\nN\n)\x81}(" + text("list") + b"](%se" + text("a") + b"h%sub"
    stored = read_torchscript(make_pickle(tmp_path / "net.pt", wrap % (small, b"\x03")))
    assert len(stored) == 8
    refuses(make_pickle(tmp_path / "net.pt", wrap % (value, bytes([39]))), "more than 100000 tensors")


def test_huge_pickles(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_torchscript, "MAX_PICKLE_BYTES", 1000)
    path = make_pickle(tmp_path / "net.pt", module({"a": text("x" * 1000)}))
    refuses(path, "its data.pkl has [0-9]+ bytes, more than 1000")


# --------------------------------------------------------------------------------------------- tensors that do not fit


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, WEIGHT),
        ({"shape": (2,), "offset": 1}, WEIGHT[1:3]),
        ({"shape": (2, 2), "strides": (1, 2)}, WEIGHT.view(2, 2).t()),
        ({"shape": (), "strides": (), "offset": 3}, WEIGHT[3]),
        ({"shape": (3, 2), "strides": (0, 3)}, WEIGHT[::3].expand(3, 2)),
        ({"shape": (0, 5), "strides": (1, 1), "offset": 9}, torch.zeros(0, 5)),
        ({"shape": (0, 2**40), "strides": (1, 1)}, None),
        ({"count": 2, "shape": (2,), "storage": "LongStorage"}, WEIGHT.view(torch.int64)),
        ({"count": 16, "shape": (16,), "storage": "CharStorage"}, WEIGHT.view(torch.int8)),
    ],
)
def test_layouts(tmp_path, arguments, expected):
    read = read_torchscript(make_pickle(tmp_path / "net.pt", module({"w": tensor(**arguments)})))["w"].read()
    if expected is None:
        assert read.shape == arguments["shape"]
    else:
        assert read.equal(expected)
        assert read.dtype == expected.dtype
        assert read.is_contiguous()
        assert read.untyped_storage().nbytes() == read.numel() * read.itemsize


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (5,)}, r"shape \(5,\) reaches beyond its storage of 4 values"),
        ({"offset": 1}, "reaches beyond"),
        ({"shape": (2, 2), "strides": (3, 1)}, "reaches beyond"),
        ({"shape": (), "strides": (), "offset": 4}, "reaches beyond"),
        ({"shape": (-4,)}, "has -4 as size, stride or offset"),
        ({"strides": (-1,), "offset": 3}, "has -1 as size, stride or offset"),
        ({"offset": -1}, "has -1 as size, stride or offset"),
        ({"shape": (2**70,)}, "has a number of 71 bits as size"),
        ({"shape": (0, 2**62, 4), "strides": (1, 1, 1)}, "more values than torch can count"),
        ({"shape": (2**40,), "strides": (0,)}, "repeats the 4 values of its storage too often"),
        ({"shape": (4, 1)}, "2 sizes and 1 strides"),
        ({"shape": (1,) * 65, "strides": (1,) * 65}, "65 sizes"),
        ({"count": 5}, "has 16 bytes, but must hold 5 values of torch.float32"),
        ({"count": -4}, "has 16 bytes, but must hold -4 values"),
        ({"count": 2**80}, "has 16 bytes, but must hold a number of 81 bits"),
        ({"storage": "HalfStorage"}, "has 16 bytes, but must hold 4 values of torch.float16"),
        ({"storage": "ComplexFloatStorage"}, "asks for 'ComplexFloatStorage' of module 'torch'"),
        ({"key": "1"}, "uses record data/'1', which the archive does not have"),
        ({"key": "../version"}, "which the archive does not have"),
        ({"key": "/etc/passwd"}, "which the archive does not have"),
        ({"key": ""}, "which the archive does not have"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, arguments, message):
    refuses(make_pickle(tmp_path / "net.pt", module({"w": tensor(**arguments)})), message)


@pytest.mark.parametrize(
    "value",
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))\x89NtR",
        tensor().replace(b"\x89", b"K\x01"),  # requires_grad
        tensor().replace(number(4), b"\x88", 1),  # True as a number of values
        tensor(shape=(1,), strides=(1,)).replace(numbers((1,)), b"(\x88t", 1),  # True as a size
        tensor()[:-2] + b"}tR",  # a seventh argument
    ],
)
def test_odd_descriptions_of_tensors(tmp_path, value):
    refuses(make_pickle(tmp_path / "net.pt", module({"w": value})), "in an unknown way|bytes, but|as size|has True as")


def test_damaged_tensor_is_named_when_read(archive):
    stored = read_torchscript(archive)
    with zipfile.ZipFile(archive) as file:
        place = next(info for info in file.infolist() if info.file_size == 4 * 3 * 9 * 4)  # the convolution's
    data = bytearray(archive.read_bytes())
    name_length, extra_length = struct.unpack("<HH", data[place.header_offset + 26 : place.header_offset + 30])
    data[place.header_offset + 30 + name_length + extra_length + 17] ^= 4
    archive.write_bytes(data)
    check_archive(archive)
    read_torchscript(archive)
    assert stored["scale"].read().item() == 2.5
    with pytest.raises(ValueError, match="tensor 'block.layers.0.weight' is damaged.*checksum.*Download"):
        stored["block.layers.0.weight"].read()
    archive.write_bytes(data[: place.header_offset + 40])
    with pytest.raises(ValueError, match="the file ends within tensor 'block.layers.0.weight'"):
        stored["block.layers.0.weight"].read()


@pytest.mark.slow
def test_random_pickles_end_in_a_value_error(tmp_path):
    path = tmp_path / "net.pt"
    save_net(path, "script")
    with zipfile.ZipFile(path) as file:
        content = {name.removeprefix("net/"): file.read(name) for name in file.namelist() if "/code/" not in name}
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        data = bytearray(content["data.pkl"])
        place, other = generator.randrange(len(data)), generator.randrange(len(data))
        if generator.random() < 0.5:
            data[place] = generator.randrange(256)
        else:
            data[place:place] = data[other : other + generator.randrange(1, 60)]
        make(path, {**content, "data.pkl": bytes(data)})
        try:
            for stored in read_torchscript(path).values():
                stored.read()
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert 100 < refused < 300
