# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Zip archives that torch cannot have written, and what reads as one archive here and as another elsewhere."""

import random
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
from torchscript_files import ENTRIES, WEIGHT, make, refuses, save_net

from clip_hf.checkpoints import safe_torchscript
from clip_hf.checkpoints.safe_torchscript import check_archive, read_torchscript


pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


@pytest.fixture(params=["trace", "script"])
def archive(request, tmp_path) -> Path:
    """A real archive of either kind."""
    path = tmp_path / "net.pt"
    save_net(path, request.param)
    return path


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.6, 0.9, 0.97, -100, -50, -22, -10, -1])
def test_truncated(archive, kept):
    data = archive.read_bytes()
    archive.write_bytes(data[: kept if kept < 0 else int(kept * len(data))])
    refuses(archive, "is truncated|is no zip archive", check_archive)
    refuses(archive, "is truncated|is no zip archive")


@pytest.mark.parametrize("name", ["data.pkl", "data/0", "version", "byteorder", ".data/serialization_id", "extra/a"])
def test_compressed_data_is_refused(tmp_path, name):
    bomb = b"\0" * 1_000_000
    path = make(tmp_path / "net.pt", {name: bomb}, deflated=name)
    assert path.stat().st_size < 5000
    for function in (check_archive, read_torchscript):
        refuses(path, f"entry 'net/{name}' is compressed.*fill the memory", function)


def test_compressed_code_is_accepted(tmp_path):
    # Nobody opens it, whatever it would unpack to.
    path = make(tmp_path / "net.pt", {"code/bomb.py": b"\0" * 1_000_000})
    with zipfile.ZipFile(path) as file:
        assert file.getinfo("net/code/bomb.py").compress_type == zipfile.ZIP_DEFLATED
    check_archive(path)
    assert read_torchscript(path)["weight"].read().equal(WEIGHT)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "net/../../evil",
        "net/..",
        "../net/x",
        "net\\..\\evil",
        "net/a\\b",
        "C:/evil",
        "c:evil",
        "net/data/../version",
    ],
)
def test_unsafe_names(tmp_path, name):
    path = tmp_path / "net.pt"
    make(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"x")
    before = sorted(tmp_path.rglob("*"))
    for function in (check_archive, read_torchscript):
        refuses(path, "unsafe name", function)
    assert sorted(tmp_path.rglob("*")) == before


def test_unsafe_root(tmp_path):
    refuses(make(tmp_path / "net.pt", root="../"), "unsafe name")
    refuses(make(tmp_path / "net.pt", root="/"), "unsafe name")
    refuses(make(tmp_path / "net.pt", root=""), "lies outside")


def test_name_with_a_zero_byte(tmp_path):
    path = make(tmp_path / "net.pt", {"versionX": b"x"})
    path.write_bytes(path.read_bytes().replace(b"versionX", b"version\0"))
    refuses(path, "unsafe name")


def test_second_root(tmp_path):
    path = make(tmp_path / "net.pt")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("other/data/0", b"x")
    refuses(path, "'other/data/0' lies outside 'net'", check_archive)


@pytest.mark.parametrize(("name", "wrong"), [("data/0", True), ("DATA.PKL", True), ("code/__TORCH__.py", False)])
def test_duplicate_names(tmp_path, name, wrong):
    path = make(tmp_path / "net.pt")
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr(f"net/{name}", b"x")
    if wrong:
        refuses(path, f"two entries named 'net/{name}'", check_archive)
        refuses(path, f"two entries named 'net/{name}'")
    else:
        check_archive(path)


def directory_entry(data: bytes, name: str) -> int:
    """Where the zip directory's entry of `name` begins."""
    place = data.rindex(f"net/{name}".encode()) - 46
    assert data[place : place + 4] == b"PK\x01\x02"
    return place


@pytest.mark.parametrize(
    ("offset", "kind", "value", "message"),
    [
        (8, "<H", 1, "is encrypted"),
        (8, "<H", 0x2000, "is encrypted"),
        (10, "<H", 8, "is compressed"),
        (10, "<H", 99, "is compressed"),
        (24, "<I", 17, "contradicts itself on its size"),
        (42, "<I", 0, "overlaps what follows it"),
        (42, "<I", 7, "overlaps what follows it"),
        (42, "<I", 2**31, "is not where the zip directory says"),
    ],
)
def test_directory_entries_that_lie(tmp_path, offset, kind, value, message):
    path = make(tmp_path / "net.pt")
    data = bytearray(path.read_bytes())
    struct.pack_into(kind, data, directory_entry(data, "data/0") + offset, value)
    path.write_bytes(data)
    for function in (check_archive, read_torchscript):
        refuses(path, message, function)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"PK\x03\x05", "is not where the zip directory says"),
        (6, b"\x01", "contradicts the zip directory"),  # encrypted
        (8, b"\x08", "contradicts the zip directory"),  # compressed
        (26, b"\x05", "contradicts the zip directory"),  # the length of the name
        (30, b"not", "contradicts the zip directory"),  # the name
    ],
)
def test_headers_that_contradict_the_directory(tmp_path, offset, value, message):
    path = make(tmp_path / "net.pt")
    with zipfile.ZipFile(path) as file:
        start = file.getinfo("net/data/0").header_offset + offset
    data = bytearray(path.read_bytes())
    data[start : start + len(value)] = value
    path.write_bytes(data)
    refuses(path, message, check_archive)


def test_archive_behind_something_else(tmp_path):
    path = tmp_path / "net.pt"
    with open(path, "wb") as file:
        file.write(b"PK\x03\x04 or what else a reader may take for the beginning")
        with zipfile.ZipFile(file, "w") as archive:  # its offsets count from the beginning of the file
            archive.writestr("net/data.pkl", b"x")
    refuses(path, "something stands before its first entry", check_archive)


@pytest.mark.parametrize("size", [17, 100, 100_000, 2**32 - 2])
def test_overlapping_entries(tmp_path, size):
    path = make(tmp_path / "net.pt")
    data = bytearray(path.read_bytes())
    struct.pack_into("<II", data, directory_entry(data, "data/0") + 20, size, size)
    path.write_bytes(data)
    for function in (check_archive, read_torchscript):
        refuses(path, "'net/data/0' overlaps what follows it", function)


def test_entries_that_share_their_bytes(tmp_path):
    # A zip bomb without compression: a thousand entries, all of the same bytes.
    names = {f"data/{i:04}": b"x" for i in range(1, 1001)}
    path = make(tmp_path / "net.pt", names)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        first = file.getinfo("net/data/0001").header_offset
    for name in names:
        struct.pack_into("<I", data, directory_entry(data, name) + 42, first)
    path.write_bytes(data)
    refuses(path, "contradicts|overlaps", check_archive)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data + b"x", "truncated, or something follows"),
        (lambda data: data + b"\0" * 100, "truncated, or something follows"),
        (lambda data: b"x" + data, "no zip archive"),
        (lambda data: b"PK\x03\x04" + data, "directory is not where"),
        (lambda data: data + data, "directory is not where"),
        (lambda data: data[:-2] + b"\1\0", "truncated, or something follows"),
        (lambda data: data[:-22] + b"PK\x05\x06" + bytes(18), "directory is not where"),
        (lambda data: b"PK\x05\x06" + bytes(18), "empty zip archive"),
        (lambda data: data[:-12] + b"\xff" + data[-11:], "directory is not where|announced"),
        (lambda data: data[:-12] + b"\x01" + data[-11:], "announced|not where"),
    ],
)
def test_ends_that_lie(tmp_path, change, message):
    path = make(tmp_path / "net.pt")
    path.write_bytes(change(path.read_bytes()))
    for function in (check_archive, read_torchscript):
        refuses(path, message, function)


def test_too_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_torchscript, "MAX_ENTRIES", len(ENTRIES))
    check_archive(make(tmp_path / "net.pt"))
    refuses(make(tmp_path / "more.pt", {"a": b"x"}), "has 7 entries in .* more than 6", check_archive)
    monkeypatch.setattr(safe_torchscript, "MAX_DIRECTORY_BYTES", 100)
    refuses(tmp_path / "net.pt", "too long ones", check_archive)


def test_number_of_entries_is_held_before_the_directory_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZipFile", None)
    path = tmp_path / "net.pt"
    count, size, start = 2_000_000, 92_000_000, 4
    long_end = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, start)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, start + size, 1)
    with open(path, "wb") as file:
        file.write(b"PK\x03\x04")
        file.seek(start + size)  # a hole, so that the disk holds none of it
        file.write(long_end + locator + b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, *[0xFFFF] * 2, size, start, 0))
    refuses(path, "has 2000000 entries", check_archive)


@pytest.mark.parametrize("what", ["place", "count", "signature"])
def test_ends_with_64_bits_that_lie(tmp_path, what):
    path = make(tmp_path / "net.pt")
    data = path.read_bytes()
    count, size, start = struct.unpack("<HLL", data[-12:-2])
    short_count = count - (what == "count")
    signature = b"PK\x06\x07" if what == "signature" else b"PK\x06\x06"
    long_end = signature + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, start)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, len(data) - 22 - (what == "place"), 1)
    end = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, short_count, short_count, size, start, 0)
    path.write_bytes(data[:-22] + long_end + locator + end)
    refuses(path, "contradicts itself" if what == "count" else r"directory is damaged\.", check_archive)


def test_ends_with_64_bits_that_agree(tmp_path):
    path = make(tmp_path / "net.pt")
    data = path.read_bytes()
    count, size, start = struct.unpack("<HLL", data[-12:-2])
    long_end = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, start)
    path.write_bytes(data[:-22] + long_end + b"PK\x06\x07" + struct.pack("<IQI", 0, len(data) - 22, 1) + data[-22:])
    assert read_torchscript(path)["weight"].read().equal(WEIGHT)


def test_big_endian_is_refused(tmp_path):
    refuses(make(tmp_path / "net.pt", {"byteorder": b"big"}), "its byte order is 'big'.*little-endian")
    refuses(make(tmp_path / "net.pt", {"byteorder": b"x" * 1000}), "byteorder has 1000 bytes")
    assert read_torchscript(make(tmp_path / "net.pt", {"byteorder": None}))["weight"].read().equal(WEIGHT)


def test_archive_without_pickle(tmp_path):
    refuses(make(tmp_path / "net.pt", {"data.pkl": None}), "it is no TorchScript archive")


def test_random_damage_ends_in_a_value_error(tmp_path):
    path = tmp_path / "net.pt"
    expected = save_net(path, "script").state_dict()
    whole_file = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(300):
        data = bytearray(whole_file)
        start = generator.choice([0, len(data) - 5000, len(data) - 120])
        for _ in range(generator.choice([1, 2, 5])):
            data[generator.randrange(start, len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            stored = read_torchscript(path)
            for name, values in expected.items():
                assert stored[name].read().equal(values), name
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert 100 < refused < 300
