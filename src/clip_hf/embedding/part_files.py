# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The files of a folder of embeddings: parts that are written once, checked, and read back."""

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ..data.skips import SkippedRow
from ..utils.atomic import replaced_file
from ..utils.json_files import read_json


FORMAT_NAME, FORMAT_VERSION = "clip_hf embeddings", 1
MANIFEST, SUMMARY = "manifest.json", "summary.json"
FILE_FORMATS = ("safetensors", "npy")
IMAGES, TEXTS = "image_embeddings", "text_embeddings"
_ROWS, _BAD = "rows", "bad"
_PART_FILE = re.compile(r"part-([0-9]{5,})-([0-9]{5,})\.parquet")
_RECORD = {"rows": int, "texts": int, "bad": dict, "is_last": bool, "files": dict}
_SECTIONS = {"model": dict, "source": dict, "options": dict}
_OPTIONS = {"images": bool, "texts": bool, "file_format": str, "rows_per_part": int}
_KEY = b"clip_hf"  # of the Parquet file's metadata
ROW_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),  # of the source, from 0
        ("row", pa.int64()),  # in its shard, from 0
        ("name", pa.string()),  # path or member of a tar; empty if there is none
        ("digest", pa.string()),  # BLAKE2b of the image file's bytes, 32 hexadecimal digits
        ("bytes", pa.int64()),  # of the image file
        ("width", pa.int32()),  # as stored, before any EXIF orientation
        ("height", pa.int32()),
        ("captions", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class PartName:
    """A part's place: its shard of the source, and its number in the shard, both from 0."""

    shard: int
    number: int

    def __str__(self) -> str:
        return f"part-{self.shard:05d}-{self.number:05d}"


@dataclass(frozen=True)
class PartContent:
    """What a part holds.

    Args:
        rows (`list[dict]`): The values of each row, by the names in `ROW_SCHEMA`.
        embeddings (`Mapping[str, np.ndarray]`): Arrays (n, dim) by their folder: of images one row each, of texts one
            for each caption, in the order of the rows.
        bad (`list[SkippedRow]`): Rows that were left out.
        is_last (`bool`): Whether the shard has no further part.
    """

    rows: list[dict[str, Any]]
    embeddings: Mapping[str, np.ndarray]
    bad: Sequence[SkippedRow]
    is_last: bool


class PartStore:
    """Writes parts and says which ones are there.

    A part's Parquet file of rows is written last, with sizes and digests of the other files in its metadata. So a part
    whose rows are there is complete.
    """

    def __init__(self, folder: Path, file_format: str, rows_per_part: int | None = None):
        self.folder, self.file_format, self.rows_per_part = folder, file_format, rows_per_part

    def write(self, name: PartName, content: PartContent) -> dict[str, Any]:
        """Write a part and return its record, see [`PartStore.record`]."""
        files = {}
        for kind, values in content.embeddings.items():
            files[self._file(kind, name)] = _as_bytes(values, self.file_format)
        if content.bad:
            text = "".join(f"{_bad_line(row)}\n" for row in content.bad)
            files[f"{_BAD}/{name}.jsonl"] = text.encode(errors="backslashreplace")
        for path, data in files.items():
            _write_file(self.folder / path, data)
        kinds: dict[str, int] = {}
        for row in content.bad:
            kinds[row.kind] = kinds.get(row.kind, 0) + 1
        record = {
            "rows": len(content.rows),
            "texts": sum(len(row["captions"]) for row in content.rows),
            "bad": dict(sorted(kinds.items())),
            "is_last": content.is_last,
            "rows_per_part": self.rows_per_part,
            "files": {path: {"bytes": len(data), "blake2b": _digest(data)} for path, data in files.items()},
        }
        table = pa.Table.from_pylist(content.rows, ROW_SCHEMA).replace_schema_metadata({_KEY: json.dumps(record)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        _write_file(self._rows_file(name), buffer.getvalue())
        return record

    def record(self, name: PartName) -> dict[str, Any] | None:
        """What a part's rows say of it: rows, texts, bad rows by kind, its files, and whether it is the last.

        None if the part is not there or was made for another `rows_per_part`, or one of its files is missing, damaged
        in its size, or unreadable.
        """
        try:
            record = json.loads(pq.read_schema(self._rows_file(name)).metadata[_KEY])
            _check_values(record, _RECORD)
            sizes = {path: os.path.getsize(self.folder / path) for path in record["files"]}
            is_whole = all(size == record["files"][path]["bytes"] for path, size in sizes.items())
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None
        return record if is_whole and record.get("rows_per_part") == self.rows_per_part else None

    def remove(self, name: PartName) -> None:
        """Let a part count as missing."""
        self._rows_file(name).unlink(missing_ok=True)
        (self.folder / f"{_BAD}/{name}.jsonl").unlink(missing_ok=True)

    def names(self) -> list[PartName]:
        """The parts whose rows are there, in their order."""
        paths = (self.folder / _ROWS).glob("part-*-*.parquet")
        found = (match for path in paths if (match := _PART_FILE.fullmatch(path.name)))
        names = (PartName(int(match[1]), int(match[2])) for match in found)
        return sorted(names, key=lambda name: (name.shard, name.number))

    def read_rows(self, name: PartName) -> pa.Table:
        """The rows of a part, with the columns of `ROW_SCHEMA`; ValueError if they are damaged."""
        path = self._rows_file(name)
        with _naming_damage(path, name):
            table = pq.read_table(path).replace_schema_metadata()
            if not table.schema.equals(ROW_SCHEMA):
                raise ValueError(f"its columns are {', '.join(map(repr, table.column_names))}")
        return table

    def read_embeddings(self, kind: str, name: PartName, count: int) -> np.ndarray:
        """The `count` embeddings (count, dim) of a part; those in `.npy` are mapped into memory, not read.

        Raises:
            ValueError: if the file is missing, damaged, or has another number of embeddings.
        """
        path = self.folder / self._file(kind, name)
        with _naming_damage(path, name):
            values = np.load(path, mmap_mode="r") if self.file_format == "npy" else load_file(path)["embeddings"]
            if values.ndim != 2 or len(values) != count:
                raise ValueError(f"it holds an array of the shape {values.shape} for {count:,} embeddings")
        return values

    def find_damage(self, name: PartName) -> str | None:
        """What is wrong with a part; all its files are read. None if nothing is."""
        record = self.record(name)
        if record is None:
            return f"{name} is not complete, or was made for another number of rows in a part"
        for path, known in record["files"].items():
            if _digest((self.folder / path).read_bytes()) != known["blake2b"]:
                return f"{path} has changed"
        return None

    def _file(self, kind: str, name: PartName) -> str:
        return f"{kind}/{name}.{self.file_format}"

    def _rows_file(self, name: PartName) -> Path:
        return self.folder / _ROWS / f"{name}.parquet"


@contextlib.contextmanager
def _naming_damage(path: Path, name: PartName) -> Iterator[None]:
    """Make whatever libraries raise for a damaged or missing file one ValueError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing. {_advice(name)}") from error
    except (pa.ArrowException, SafetensorError, KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}). {_advice(name)}") from error


def _advice(name: PartName) -> str:
    return f"Remove {_ROWS}/{name}.parquet and run `clip-hf embed` again: it writes the part anew."


def _check_values(content: Any, kinds: dict[str, type]) -> None:
    """ValueError that names the value, if one of `content` is missing or of another type."""
    for name, kind in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), kind):
            raise ValueError(f"{name!r} is missing, or no {kind.__name__}")


def _bad_line(row: SkippedRow) -> str:
    line = {"row": row.where, "name": row.name, "kind": row.kind, "reason": row.message}
    return json.dumps(line, ensure_ascii=False)


def _as_bytes(values: np.ndarray, file_format: str) -> bytes:
    values = np.ascontiguousarray(values)
    if file_format == "safetensors":
        return save({"embeddings": values})
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _write_file(path: Path, data: bytes) -> None:
    with replaced_file(path) as temporary:
        temporary.write_bytes(data)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


# ------------------------------------------------------------------------------------------------------- reading back


@dataclass(frozen=True)
class EmbeddedPart:
    """A part of a folder of embeddings.

    Args:
        name (`PartName`): Its place.
        rows (`pa.Table`): What is known of each row: `shard`, `row`, `name`, `digest`, `bytes`, `width`, `height` and
            `captions`.
        images (`np.ndarray` of shape (rows, dim), *optional*): Embeddings of the images; None if there are none.
        texts (`np.ndarray` of shape (captions, dim), *optional*): Embeddings of all captions in the order of the rows.
    """

    name: PartName
    rows: pa.Table
    images: np.ndarray | None
    texts: np.ndarray | None


class EmbeddingFolder:
    """The embeddings that [`embed`] wrote; iterating gives its parts in order, one at a time in memory.

    Args:
        folder (`str` or `os.PathLike`): The folder.

    Raises:
        OSError: if there is no such folder or manifest.
        ValueError: if the folder is of another format, or its manifest is damaged; in iterating, if a file is missing
            or damaged.
    """

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder)
        self.manifest = read_manifest(self.path)
        options = self.manifest["options"]
        self._kinds = [kind for kind, key in ((IMAGES, "images"), (TEXTS, "texts")) if options[key]]
        self._store = PartStore(self.path, options["file_format"], options["rows_per_part"])

    @property
    def summary(self) -> dict[str, Any] | None:
        """Numbers of the whole job; None if it is not complete."""
        path = self.path / SUMMARY
        return read_json(path, dict) if path.is_file() else None

    def __iter__(self) -> Iterator[EmbeddedPart]:
        for name in self._store.names():
            if self._store.record(name) is None:
                # Reading names the file, if one is damaged.
                self._read(name)
                raise ValueError(f"{self.path}: {self._store.find_damage(name)}. {_advice(name)}")
            yield self._read(name)

    def _read(self, name: PartName) -> EmbeddedPart:
        rows = self._store.read_rows(name)
        counts = {IMAGES: rows.num_rows, TEXTS: sum(map(len, rows["captions"].to_pylist()))}
        arrays = {kind: self._store.read_embeddings(kind, name, counts[kind]) for kind in self._kinds}
        return EmbeddedPart(name, rows, arrays.get(IMAGES), arrays.get(TEXTS))

    def check(self) -> None:
        """Read every file and compare it with its digest; a ValueError names the first that differs."""
        for name in self._store.names():
            if problem := self._store.find_damage(name):
                raise ValueError(f"{self.path}: {problem}. {_advice(name)}")


def read_embeddings(folder: str | os.PathLike) -> EmbeddingFolder:
    """Open the embeddings that [`embed`] wrote.

    Args:
        folder (`str` or `os.PathLike`): The destination of the job.

    Returns:
        [`EmbeddingFolder`]: gives the parts in their order, one at a time.
    """
    return EmbeddingFolder(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of embeddings; ValueError if it is none, OSError if it is not there."""
    manifest = read_json(folder / MANIFEST, dict)
    if manifest.get("format") != FORMAT_NAME or manifest.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder / MANIFEST} is of the format {manifest.get('format')!r}, version {manifest.get('version')!r}; "
            f"this version of clip_hf reads {FORMAT_NAME!r}, version {FORMAT_VERSION}."
        )
    try:
        _check_values(manifest, _SECTIONS)
        _check_values(manifest["options"], _OPTIONS)
        if manifest["options"]["file_format"] not in FILE_FORMATS:
            raise ValueError(f"'file_format' is {manifest['options']['file_format']!r}")
    except ValueError as error:
        raise ValueError(
            f"{folder / MANIFEST} is damaged: {error}. Put back a copy of it, or embed into a new folder."
        ) from error
    return manifest
