# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The tensors of a TorchScript archive, read without running anything that is in it.

`torch.jit.load` compiles the code that the archive brings along, so it is no way to open a file that is not trusted.
The archive is a zip file whose entries all lie in one folder, here called root:

- `root/data.pkl`: a pickle of the module tree; a tensor in it is a description that names a record
- `root/data/<key>`: the bytes of one storage each, never compressed
- `root/code/...`, `root/constants.pkl`: what the module does; never opened here

Python's `pickle.Unpickler` is not used, not even with `find_class` restricted: its BUILD sets attributes of whatever
is on its stack, and a tuple nested a million deep as the key of a dictionary overflows the C stack, which ends the
process. `pickletools` splits the pickle into opcodes, and the few that TorchScript writes are followed here.
"""

import math
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from pickletools import genops
from typing import BinaryIO, NoReturn

import torch

from ..model.checks_clip_hf import type_of
from .stored_tensor import StoredTensor


# Far above what a CLIP needs (some 1000 tensors, a pickle of some 200 kB), low enough that a hostile file cannot take
# more than a few GB of memory or a minute of time.
MAX_ENTRIES = 1_000_000
MAX_DIRECTORY_BYTES = 128 * 2**20
MAX_PICKLE_BYTES = 16 * 2**20
MAX_TENSORS = 100_000
MAX_DEPTH = 100
MAX_KEY_LENGTH = 1024
MAX_DIMENSIONS = 64
# A tensor with stride 0 repeats its values, so that a small record can stand for any number of them.
MAX_REPEATED_VALUES = 2**24
CHUNK_BYTES = 2**24

DOWNLOAD_AGAIN = "Download the file again"
DO_NOT_USE = "Do not use this file; torch does not write such archives"
SAVE_OTHERWISE = "If it is your own file, save the model's state_dict() with torch.save instead; else do not use it"

STORAGE_DTYPES = {
    "torch BFloat16Storage": torch.bfloat16,
    "torch BoolStorage": torch.bool,
    "torch ByteStorage": torch.uint8,
    "torch CharStorage": torch.int8,
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch IntStorage": torch.int32,
    "torch LongStorage": torch.int64,
    "torch ShortStorage": torch.int16,
}
REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
# Called with a list or dictionary first, and for us no more than that.
CONTAINERS = frozenset(
    f"torch.jit._pickle {name}"
    for name in ("build_boollist", "build_doublelist", "build_intlist", "build_tensorlist", "restore_type_tag")
)
OTHER_GLOBALS = frozenset(["collections OrderedDict", "torch device"])


# ------------------------------------------------------------------------------------------------------- the zip file


@dataclass(frozen=True, slots=True)
class _Record:
    """The place of an entry's bytes in the file, and their checksum."""

    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class Archive:
    """A checked archive: the folder that holds all its entries, and the entries by name."""

    root: str
    records: dict[str, _Record]

    @property
    def is_torchscript(self) -> bool:
        """Whether there are code and constants beside the tensors."""
        has_code = any(name.startswith(f"{self.root}/code/") for name in self.records)
        return has_code and f"{self.root}/constants.pkl" in self.records


def check_archive(path: str | os.PathLike) -> Archive:
    """Read the directory of a zip archive; refuse one that is damaged or that torch cannot have written.

    Fit for TorchScript archives and for the files of `torch.save`. Only the directory and the headers are read, so it
    is quick for large files too, and a change within the data of an entry goes unnoticed here.

    Raises:
        ValueError: the file is no zip archive or is truncated; an entry overlaps another, has an unsafe name or the
            name of another, is encrypted, or is compressed although it holds data; there are too many entries.
        OSError: the file cannot be read.
    """
    with _naming(path), open(path, "rb") as file:
        return _read_directory(file)


def is_zip(path: str | os.PathLike) -> bool:
    """Tell whether a file begins as a zip archive does; whether it is whole is for `check_archive` to say.

    The rule is torch's own, so that a file is never one kind of file here and another in `torch.load`.
    """
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _fail(problem: str, cure: str = DO_NOT_USE) -> NoReturn:
    raise ValueError(f"{problem}. {cure}.")


@contextmanager
def _naming(path: str | os.PathLike) -> Iterator[None]:
    """Put the file's name before the message of a `ValueError`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def _read_directory(file: BinaryIO) -> Archive:
    """Read the directory of an open archive and check every entry; see `check_archive`."""
    directory_start, count = _check_end(file)
    file.seek(0)
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, EOFError, struct.error) as error:
        _fail(f"its zip directory is damaged ({error})", DOWNLOAD_AGAIN)
    if not entries:
        _fail("it is an empty zip archive", DOWNLOAD_AGAIN)
    if len(entries) != count:
        _fail(f"its zip directory has {len(entries)} entries, but {count} are announced")
    root = entries[0].orig_filename.split("/")[0]
    _check_names(entries, root)

    entries.sort(key=lambda entry: entry.header_offset)
    if entries[0].header_offset != 0:
        _fail("something stands before its first entry")
    ends = [entry.header_offset for entry in entries[1:]] + [directory_start]
    records = {}
    for entry, end in zip(entries, ends, strict=True):
        name = entry.orig_filename
        _check_storing(entry, root)
        offset = _data_offset(file, entry)
        if offset + entry.compress_size > end:
            _fail(f"entry {_short(name)} overlaps what follows it")
        records[name] = _Record(offset, entry.compress_size, entry.CRC)
    return Archive(root, records)


def _check_end(file: BinaryIO) -> tuple[int, int]:
    """Check the end of a zip file; return where it says that the directory is, and how many entries there are.

    Readers look for the end in different places, and differ when its parts disagree, so one file can be two archives.
    Here the end must be the last thing in the file, and its parts must agree.
    """
    if file.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):  # the second begins an empty one
        _fail("it is no zip archive", "Give a file that torch.save or torch.jit.save has written")
    size = file.seek(0, os.SEEK_END)
    tail_start = max(size - 98, 0)  # an end of 22 bytes; in large files before it 56 and 20 bytes, with 64-bit numbers
    file.seek(tail_start)
    tail = file.read(98)
    end = tail[-22:]
    if len(end) < 22 or end[:4] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        _fail("it is truncated, or something follows the end of the zip archive", DOWNLOAD_AGAIN)
    count, directory_size, directory_start = struct.unpack("<HLL", end[10:20])
    directory_end = size - 22
    if tail[-42:-38] == b"PK\x06\x07":
        directory_end = size - 98
        (place,) = struct.unpack("<Q", tail[-34:-26])
        long_end = tail[:56]
        if len(tail) < 98 or place != directory_end or long_end[:4] != b"PK\x06\x06":
            _fail("its zip directory is damaged", DOWNLOAD_AGAIN)
        short = (count, directory_size, directory_start)
        count, directory_size, directory_start = long = struct.unpack("<3Q", long_end[32:56])
        for value, long_value, unused in zip(short, long, (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF), strict=True):
            if value not in (long_value, unused):
                _fail("its zip directory contradicts itself")
    if directory_start + directory_size != directory_end:
        _fail("its zip directory is not where it should be, so the file is damaged", DOWNLOAD_AGAIN)
    # Before the directory is read, as reading it costs memory.
    if count > MAX_ENTRIES or directory_size > MAX_DIRECTORY_BYTES:
        _fail(f"it has {count} entries in {directory_size} bytes, more than {MAX_ENTRIES} or too long ones")
    return directory_start, count


def _check_names(entries: list[zipfile.ZipInfo], root: str) -> None:
    """Check that each entry has a relative name of its own in the folder `root`."""
    seen = set()
    for entry in entries:
        name = entry.orig_filename  # `filename` is what Python made of it
        parts = PurePosixPath(name).parts
        if not name or name.startswith("/") or name[1:2] == ":" or "\\" in name or "\0" in name or ".." in parts:
            cure = "If it is your own file, save it again under a plain file name; else do not use it"
            _fail(f"entry {_short(name)} has an unsafe name", cure)
        if not name.startswith(f"{root}/"):
            _fail(f"entry {_short(name)} lies outside {_short(root)}, the folder of the first entry")
        # torch finds its records without regard to case; two classes in the code may well differ only in that.
        key = name if _is_code(name, root) else name.lower()
        if key in seen:
            _fail(f"it has two entries named {_short(name)}")
        seen.add(key)


def _check_storing(entry: zipfile.ZipInfo, root: str) -> None:
    """Check that an entry is not encrypted, and not compressed either if anybody reads it."""
    if entry.flag_bits & 0x2041:  # encrypted, strongly so, or in a masked header
        _fail(f"entry {_short(entry.orig_filename)} is encrypted")
    if _is_code(entry.orig_filename, root):
        return
    if entry.compress_type != zipfile.ZIP_STORED:
        cure = "torch does not compress data, and a small compressed file can fill the memory; do not use this file"
        _fail(f"entry {_short(entry.orig_filename)} is compressed", cure)
    if entry.file_size != entry.compress_size:
        _fail(f"entry {_short(entry.orig_filename)} contradicts itself on its size")


def _is_code(name: str, root: str) -> bool:
    """Whether an entry belongs to a TorchScript archive's code, which nobody here reads and torch compresses."""
    inner = name.removeprefix(f"{root}/")
    return inner.startswith("code/") or inner == "constants.pkl" or inner.endswith(".debug_pkl")


def _data_offset(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: after its own header, which repeats what the directory says of it."""
    name = entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
    file.seek(entry.header_offset)
    header = file.read(30 + len(name))
    if len(header) < 30 + len(name) or header[:4] != b"PK\x03\x04":
        _fail(f"entry {_short(entry.orig_filename)} is not where the zip directory says", DOWNLOAD_AGAIN)
    flags, method = struct.unpack("<HH", header[6:10])
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    if name_length != len(name) or header[30:] != name or method != entry.compress_type or flags & 0x2041:
        _fail(f"the header of entry {_short(entry.orig_filename)} contradicts the zip directory")
    return entry.header_offset + 30 + name_length + extra_length


def _read_record(file: BinaryIO, record: _Record, what: str) -> torch.Tensor:
    """Read an entry's bytes into a new tensor of bytes, and check them."""
    data = torch.empty(record.size, dtype=torch.uint8)
    view = memoryview(data.numpy())
    file.seek(record.offset)
    crc = 0
    position = 0
    while position < record.size:
        count = file.readinto(view[position : position + CHUNK_BYTES])
        if not count:
            _fail(f"the file ends within {what}", DOWNLOAD_AGAIN)
        crc = zlib.crc32(view[position : position + count], crc)
        position += count
    if crc != record.crc:
        _fail(f"{what} is damaged: its checksum is {crc:#010x}, not {record.crc:#010x}", DOWNLOAD_AGAIN)
    return data


# --------------------------------------------------------------------------------------------------------- the pickle


@dataclass(frozen=True, slots=True)
class _Storage:
    """A record that holds values of one dtype."""

    record: _Record
    dtype: torch.dtype
    size: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """A tensor's layout in its storage; all but `storage` count values, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    """The name of a class or function; the object itself is never looked up."""

    name: str

    @property
    def is_class_of_archive(self) -> bool:
        return self.name.startswith(("__torch__ ", "__torch__."))


@dataclass(eq=False, slots=True)
class _Module:
    """A module, or another object of a class that the archive defines: only its tensors and modules by name."""

    type_name: str
    members: dict[str, "_Layout | _Module"] | None = None


@dataclass(eq=False, slots=True)
class _Dict:
    """A dictionary as its keys and values in turn, so that nothing from the file is hashed unless it is a string."""

    keys_and_values: list = field(default_factory=list)


MARK = object()
"""Where on the stack a group of values begins."""


def _opcodes(data: bytes) -> Iterator[tuple]:
    """The opcodes of a pickle with their arguments and positions."""
    try:
        yield from genops(data)
    except (ValueError, OverflowError) as error:
        _fail(f"its data.pkl is damaged ({error})", DOWNLOAD_AGAIN)


class _PickleReader:
    """Follows the opcodes of a TorchScript archive's `data.pkl`; builds nothing but the classes above and plain
    values.
    """

    def __init__(self, archive: Archive):
        self.archive = archive
        self.stack = []
        self.memo = {}

    def read(self, data: bytes) -> _Module:
        """Return the outermost module of a pickle."""
        for opcode, argument, position in _opcodes(data):
            self.step(opcode.name, argument, position)
        if len(self.stack) != 1 or not isinstance(self.stack[0], _Module):
            _fail("its data.pkl does not hold a module")
        return self.stack[0]

    def step(self, opcode: str, argument: object, position: int) -> None:
        """Follow one opcode. All that TorchScript writes are here; Python's own pickles have others."""
        match opcode:
            case "PROTO":
                if argument != 2:
                    _fail(f"its data.pkl has protocol {argument}, not 2")
            case "MARK":
                self.stack.append(MARK)
            case "NONE":
                self.stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                self.stack.append(opcode == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                self.stack.append(argument)
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self.pop(int(opcode[-1]))))
            case "TUPLE":
                self.stack.append(tuple(self.pop_to_mark()))
            case "EMPTY_LIST":
                self.stack.append([])
            case "APPEND" | "APPENDS":
                values = self.pop(1) if opcode == "APPEND" else self.pop_to_mark()
                self.top(list).extend(values)
            case "EMPTY_DICT":
                self.stack.append(_Dict())
            case "SETITEM" | "SETITEMS":
                values = self.pop(2) if opcode == "SETITEM" else self.pop_to_mark()
                if len(values) % 2:
                    _fail("its data.pkl is damaged: a key has no value")
                self.top(_Dict).keys_and_values.extend(values)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.top(object)
            case "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    _fail(f"its data.pkl uses value {argument} before it is there")
                self.stack.append(self.memo[argument])
            case "GLOBAL":
                self.stack.append(self.find_global(argument))
            case "BINPERSID":
                self.stack.append(self.find_storage(*self.pop(1)))
            case "REDUCE":
                self.stack.append(self.call(*self.pop(2)))
            case "NEWOBJ":
                self.stack.append(self.new_module(*self.pop(2)))
            case "BUILD":
                self.fill_module(*self.pop(1))
            case "STOP":
                pass
            case _:
                _fail(f"its data.pkl has opcode {opcode} at byte {position}, which TorchScript does not write")

    def top(self, kind: type) -> object:
        """The last value on the stack, which must be a `kind` and not a mark."""
        if not self.stack or self.stack[-1] is MARK or not isinstance(self.stack[-1], kind):
            _fail("its data.pkl is damaged: a value is missing or of the wrong kind")
        return self.stack[-1]

    def pop(self, count: int) -> list:
        """Take the last `count` values off the stack."""
        values = self.stack[-count:]
        if len(values) < count or any(value is MARK for value in values):
            _fail("its data.pkl is damaged: a value is missing")
        del self.stack[-count:]
        return values

    def pop_to_mark(self) -> list:
        """Take all values above the last mark off the stack, and the mark."""
        values = []
        while self.stack:
            value = self.stack.pop()
            if value is MARK:
                return values[::-1]
            values.append(value)
        _fail("its data.pkl is damaged: a mark is missing")

    def find_global(self, name: str) -> _Global:
        """Note the name of a class or function, if TorchScript writes it; `name` is "module name"."""
        symbol = _Global(name)
        known = name == REBUILD_TENSOR or name in CONTAINERS or name in OTHER_GLOBALS or name in STORAGE_DTYPES
        if not known and not (symbol.is_class_of_archive and name.count(" ") == 1):
            module, _, attribute = name.partition(" ")
            _fail(
                f"its data.pkl asks for {_short(attribute)} of module {_short(module)}, which no CLIP needs and which "
                "was not run",
                SAVE_OTHERWISE,
            )
        return symbol

    def find_storage(self, reference: object) -> _Storage:
        """The storage that `("storage", type, key, device, number of values)` stands for."""
        match reference:
            case ("storage", _Global(name=name), str(key), _, int(size)) if name in STORAGE_DTYPES:
                pass
            case _:
                _fail("its data.pkl describes a storage in an unknown way")
        record = self.archive.records.get(f"{self.archive.root}/data/{key}")
        if record is None:
            _fail(f"its data.pkl uses record data/{_short(key)}, which the archive does not have")
        dtype = STORAGE_DTYPES[name]
        if size * dtype.itemsize != record.size:
            _fail(f"record data/{_short(key)} has {record.size} bytes, but must hold {_short(size)} values of {dtype}")
        return _Storage(record, dtype, size)

    def call(self, function: object, arguments: object) -> object:
        """Do what a call in the pickle is for: tensors become a `_Layout`, containers stay, all else is left out."""
        if not isinstance(function, _Global) or not isinstance(arguments, tuple) or function.name in STORAGE_DTYPES:
            _fail("its data.pkl calls what is no function")
        if function.name == REBUILD_TENSOR:
            return self.make_layout(arguments)
        if function.name in CONTAINERS:
            return arguments[0] if arguments else None
        return None  # an empty OrderedDict of hooks, a device, an enumeration's value

    def make_layout(self, arguments: tuple) -> _Layout:
        """Check a tensor's description: storage, offset, sizes, strides, whether it takes a gradient, hooks."""
        match arguments:
            case (_Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), _):
                pass
            case _:
                _fail("its data.pkl describes a tensor in an unknown way")
        if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
            _fail(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
        for value in (offset, *shape, *strides):
            if type(value) is not int or not 0 <= value < 2**63:
                _fail(f"a tensor has {_short(value)} as size, stride or offset")
        count = math.prod(shape)
        if math.prod(size for size in shape if size) >= 2**63:
            _fail("a tensor has more values than torch can count")
        if count:
            last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            if last >= storage.size:
                _fail(f"a tensor of shape {shape} reaches beyond its storage of {storage.size} values")
            if count > max(storage.size, MAX_REPEATED_VALUES):
                _fail(f"a tensor of shape {shape} repeats the {storage.size} values of its storage too often")
        return _Layout(storage, offset, shape, strides)

    def new_module(self, kind: object, arguments: object) -> _Module:
        """An object of a class that the archive defines, still empty."""
        if not isinstance(kind, _Global) or not kind.is_class_of_archive or arguments != ():
            _fail("its data.pkl makes an object in an unknown way")
        return _Module(kind.name.replace(" ", "."))

    def fill_module(self, state: object) -> None:
        """Keep the tensors and modules among the attributes of the object on top of the stack."""
        module = self.top(_Module)
        if module.members is not None or not isinstance(state, _Dict):
            # A quantized layer, for example, packs its tensors into a tuple that only its own code can read.
            _fail(
                f"an object of class {_short(module.type_name)} has a state other than its attributes", SAVE_OTHERWISE
            )
        module.members = {}
        names, values = state.keys_and_values[::2], state.keys_and_values[1::2]
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, _Layout | _Module):
                continue
            if not isinstance(name, str) or not name or "." in name or name in module.members:
                _fail(f"an object of class {_short(module.type_name)} has a wrong or second attribute {_short(name)}")
            module.members[name] = value


def _short(value: object) -> str:
    """A value from the file for a message: without control characters, and not too long."""
    if not isinstance(value, str | int | float | None):
        return type_of(value)
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


# -------------------------------------------------------------------------------------------------------- the tensors


def read_torchscript(path: str | os.PathLike) -> dict[str, StoredTensor]:
    """Find the tensors of a TorchScript archive. No value is read yet and nothing from the archive is run.

    Differs from `torch.jit.load(path).state_dict()` in this:

    - Tensors that a module holds as plain attributes, such as CLIP's `attn_mask`, are there too: only the code tells
      them from buffers.
    - Each tensor is contiguous and has its storage for itself, whatever it shared or skipped in the file.
    - Reading a tensor checks its record's checksum.

    Numbers, texts, and tensors in lists or dictionaries are left out, as in a state dict.

    Returns:
        `dict[str, StoredTensor]`: the tensors by dotted name, in the order of the file, which must stay where it is as
        long as tensors are read.

    Raises:
        ValueError: the file is no TorchScript archive, is damaged, or holds what TorchScript does not write; or, from
            `StoredTensor.read`, the record of a tensor is damaged.
        OSError: the file cannot be read.
    """
    path = os.path.abspath(path)
    with _naming(path), open(path, "rb") as file:
        archive = _read_directory(file)
        if not archive.is_torchscript or f"{archive.root}/data.pkl" not in archive.records:
            cure = (
                "Give a file that torch.jit.save of torch 1.4 or later has written; read one of torch.save otherwise"
            )
            _fail("it is no TorchScript archive", cure)
        # Files from before torch 2.1 do not say; those were written on little-endian machines.
        byte_order = _read_small(file, archive, "byteorder", 16) or b"little"
        if byte_order != sys.byteorder.encode():
            cure = f"Load it with torch on a machine of that kind, or convert it; this one is {sys.byteorder}-endian"
            _fail(f"its byte order is {byte_order.decode(errors='replace')!r}", cure)
        module = _PickleReader(archive).read(_read_small(file, archive, "data.pkl", MAX_PICKLE_BYTES))
        return {
            name: StoredTensor(layout.shape, layout.storage.dtype, partial(_read_tensor, path, name, layout))
            for name, layout in _named_tensors(module)
        }


def _read_small(file: BinaryIO, archive: Archive, name: str, limit: int) -> bytes | None:
    """The bytes of an entry of at most `limit` bytes; None if there is no such entry."""
    record = archive.records.get(f"{archive.root}/{name}")
    if record is None:
        return None
    if record.size > limit:
        _fail(f"its {name} has {record.size} bytes, more than {limit}")
    return _read_record(file, record, name).numpy().tobytes()


def _named_tensors(module: _Module) -> Iterator[tuple[str, _Layout]]:
    """Walk through a module tree, in the order of the file. A module that is there twice is listed twice."""
    # Few bytes can describe endless trees: a module within itself, or doubled at each of many levels.
    visited = 0
    levels = [("", iter((module.members or {}).items()))]
    while levels:
        prefix, members = levels[-1]
        member, value = next(members, (None, None))
        if member is None:
            levels.pop()
            continue
        visited += 1
        name = prefix + member
        if visited > MAX_TENSORS:
            _fail(f"it has more than {MAX_TENSORS} tensors and modules")
        if len(name) > MAX_KEY_LENGTH:
            _fail(f"the name {_short(name)} has more than {MAX_KEY_LENGTH} characters")
        if isinstance(value, _Layout):
            yield name, value
        elif len(levels) >= MAX_DEPTH:
            _fail(f"its modules are nested more than {MAX_DEPTH} deep, or one holds itself")
        else:
            levels.append((f"{name}.", iter((value.members or {}).items())))


def _read_tensor(path: str, name: str, layout: _Layout) -> torch.Tensor:
    """Read one tensor from its record."""
    if math.prod(layout.shape) == 0:
        return torch.empty(layout.shape, dtype=layout.storage.dtype)
    with _naming(path), open(path, "rb") as file:
        data = _read_record(file, layout.storage.record, f"tensor {_short(name)}")
    values = data.view(layout.storage.dtype).as_strided(layout.shape, layout.strides, layout.offset)
    if values.is_contiguous() and values.numel() == layout.storage.size:
        return values
    return values.clone(memory_format=torch.contiguous_format)
