# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The files of a folder of embeddings: parts that are written once, checked, and read back."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
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
from ..utils.atomic import replaced_file, replaced_folder, sync
from ..utils.json_files import read_json
from ..utils.wording import counted


FORMAT_NAME, FORMAT_VERSION = "clip_hf embeddings", 1
MANIFEST, SUMMARY = "manifest.json", "summary.json"
FILE_FORMATS = ("safetensors", "npy")
IMAGES, TEXTS = "image_embeddings", "text_embeddings"
BAD = "bad"
"""The folder that lists the rows that were left out."""
_ROWS, _PENDING = "rows", "pending"
_NUMBER = "([0-9]{5}|[1-9][0-9]{5,})"  # one way to write each
_PART = re.compile(f"part-{_NUMBER}-{_NUMBER}")
_RECORD = {
    "part": str,
    "rows": int,
    "texts": int,
    "bad": dict,
    "is_last": bool,
    "job": str,
    "files": dict,
    "content": str,
}
PLACES = ("name", "location")
"""What of a manifest may differ between runs of one job, because data and model may be moved."""
SECTIONS = ("versions", "image_options", "model", "source", "options")
"""The parts of a manifest; `digest_of_job` is of all of them."""
_SOURCE = {"shards": int, "parts": (int, type(None))}
_OPTIONS = {"images": bool, "texts": bool, "file_format": str, "rows_per_part": int}
# Of the Parquet file's metadata: the record of its part, and the digest of that.
_KEY, _DIGEST_KEY = b"clip_hf", b"clip_hf_digest"
ROW_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),  # of the source, from 0
        ("row", pa.int64()),  # in its shard, from 0
        ("name", pa.string()),  # path or member of a tar; empty if there is none
        ("digest", pa.string()),  # BLAKE2b of the image file's bytes, 32 hexadecimal digits
        ("bytes", pa.int64()),  # of the image file
        ("width", pa.int64()),  # as stored, before any EXIF orientation
        ("height", pa.int64()),
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
        bad (`Sequence[tuple[int, SkippedRow]]`): Rows that were left out, with their numbers in the shard.
        is_last (`bool`): Whether the shard has no further part.
    """

    rows: list[dict[str, Any]]
    embeddings: Mapping[str, np.ndarray]
    bad: Sequence[tuple[int, SkippedRow]]
    is_last: bool


class PartStore:
    """Writes parts and says which ones are there.

    A part's Parquet file of rows is written last. Its metadata hold the part's record, with sizes and digests of the
    other files and a digest of the rows. So a part whose rows are there is complete. A part that replaces another is
    first written as a whole to a folder in `pending/`, and moved into place by [`PartStore.settle`], which whoever
    comes next does after a crash.

    Args:
        folder (`Path`): The folder of the job.
        file_format (`str`): Files of embeddings: `"safetensors"` or `"npy"`.
        job (`str`): Digest of the job's manifest, see [`digest_of_job`]; parts of another job do not count.
    """

    def __init__(self, folder: Path, file_format: str, job: str):
        self.folder, self.file_format, self.job = folder, file_format, job

    def write(self, name: PartName, content: PartContent) -> dict[str, Any]:
        """Write a part and return its [`PartStore.record`]; an old part stays until the new one is whole."""
        files = {}
        for kind, values in content.embeddings.items():
            files[self._file(kind, name)] = _as_bytes(values, self.file_format)
        if content.bad:
            text = "".join(f"{_bad_line(name.shard, number, row)}\n" for number, row in content.bad)
            files[_bad_file(name)] = text.encode(errors="backslashreplace")
        kinds = Counter(row.kind for _, row in content.bad)
        table = pa.Table.from_pylist(content.rows, ROW_SCHEMA)
        record = {
            "part": str(name),
            "rows": len(content.rows),
            "texts": sum(len(row["captions"]) for row in content.rows),
            "bad": dict(sorted(kinds.items())),
            "is_last": content.is_last,
            "job": self.job,
            "files": {path: {"bytes": len(data), "blake2b": _digest(data)} for path, data in files.items()},
            "content": _digest_of_rows(table),
        }
        rows = _as_parquet(table, record)
        old = self.record(name)
        if old is not None and old["files"] != record["files"]:
            staged = self._staged(name)
            with replaced_folder(staged) as temporary:
                for path, data in {**files, _rows_file(name): rows}.items():
                    _write_file(temporary / path, data)
            self.settle(name)
            return record
        if not content.bad:
            (self.folder / _bad_file(name)).unlink(missing_ok=True)
        if old is None:
            for path, data in files.items():
                _write_file(self.folder / path, data)
        _write_file(self.folder / _rows_file(name), rows)
        return record

    def settle(self, name: PartName) -> None:
        """Move a part that is whole in `pending/` into place, if there is one. The caller has the part's lock."""
        staged, rows = self._staged(name), _rows_file(name)
        record = _read_record(staged / rows, name)
        if record is not None and record["job"] == self.job:
            for path in record["files"]:
                if (staged / path).exists():  # else it was moved before a crash
                    _move_file(staged / path, self.folder / path)
            if not record["bad"]:
                (self.folder / _bad_file(name)).unlink(missing_ok=True)
            _move_file(staged / rows, self.folder / rows)
        shutil.rmtree(staged, ignore_errors=True)
        with contextlib.suppress(OSError):  # others are in it, or it is gone
            staged.parent.rmdir()

    def pending(self) -> list[PartName]:
        """Parts that a process left in `pending/`, or that one is about to move into place."""
        return _names_of(self.folder / _PENDING, "")

    def record(self, name: PartName) -> dict[str, Any] | None:
        """What a part's rows say of it: rows, texts, bad rows by kind, its files, and whether it is the last.

        None if the part is not there, its rows are another's under its name or of another job, or one of its files is
        missing, damaged in its size, or unreadable.
        """
        record = _read_record(self.folder / _rows_file(name), name)
        if record is None or record["job"] != self.job:
            return None
        try:
            sizes = {path: os.path.getsize(self.folder / path) for path in record["files"]}
        except OSError:
            return None
        return record if all(size == record["files"][path]["bytes"] for path, size in sizes.items()) else None

    def stamp(self, name: PartName) -> tuple[int, int] | None:
        """What changes whenever a part is written, even if its content does not; None if the part is not there."""
        try:
            status = (self.folder / _rows_file(name)).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def names(self) -> list[PartName]:
        """The parts whose rows are there, in their order."""
        return _names_of(self.folder / _ROWS, ".parquet")

    def read_rows(self, name: PartName) -> pa.Table:
        """The rows of a part, with the columns of `ROW_SCHEMA`; ValueError if they are damaged."""
        path = self.folder / _rows_file(name)
        with _naming_damage(path, name):
            table = pq.read_table(path, page_checksum_verification=True).replace_schema_metadata()
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
        """What is wrong with a part; all its files are read. None if nothing is.

        Raises:
            ValueError: if its rows are damaged; it names the file.
        """
        record = self.record(name)
        if record is None:
            return f"{name} is not complete, or belongs to another job or place"
        if _digest_of_rows(self.read_rows(name)) != record["content"]:
            return f"{_rows_file(name)} has changed"
        for path, known in record["files"].items():
            if _digest((self.folder / path).read_bytes()) != known["blake2b"]:
                return f"{path} has changed"
        return None

    def _file(self, kind: str, name: PartName) -> str:
        return f"{kind}/{name}.{self.file_format}"

    def _staged(self, name: PartName) -> Path:
        return self.folder / _PENDING / str(name)


def _rows_file(name: PartName) -> str:
    return f"{_ROWS}/{name}.parquet"


def _bad_file(name: PartName) -> str:
    return f"{BAD}/{name}.jsonl"


def _names_of(folder: Path, ending: str) -> list[PartName]:
    """The parts that name a file or folder, in the order of their numbers."""
    found = (_PART.fullmatch(path.name.removesuffix(ending)) for path in folder.glob(f"part-*-*{ending}"))
    names = (PartName(int(match[1]), int(match[2])) for match in found if match)
    return sorted(names, key=lambda name: (name.shard, name.number))


def _read_record(path: Path, name: PartName) -> dict[str, Any] | None:
    """What a Parquet file of rows says of its part; None if there is none, it is damaged, or of another part."""
    try:
        metadata = pq.read_schema(path).metadata
        if metadata[_DIGEST_KEY] != _digest(metadata[_KEY]).encode():
            return None
        record = json.loads(metadata[_KEY])
        _check_values(record, _RECORD)
        for file in record["files"].values():
            _check_values(file, {"bytes": int, "blake2b": str})
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return record if record["part"] == str(name) else None


@contextlib.contextmanager
def _naming_damage(path: Path, name: PartName) -> Iterator[None]:
    """Make whatever libraries raise for a damaged or missing file one ValueError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing. {_advice(name)}") from error
    except (pa.ArrowException, SafetensorError, KeyError, ValueError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; pyarrow's own have no number
            raise
        raise ValueError(f"{path} is damaged ({error}). {_advice(name)}") from error


def _advice(name: PartName) -> str:
    return f"Remove {_ROWS}/{name}.parquet and run `clip-hf embed` again: it writes the part anew."


def _check_values(content: Any, kinds: dict[str, Any]) -> None:
    """ValueError that names the value, if one of `content` is missing or of another type."""
    for name, kind in kinds.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), kind):
            raise ValueError(f"{name!r} is missing, or of a wrong type")


def _bad_line(shard: int, number: int, row: SkippedRow) -> str:
    line = {"shard": shard, "row": number, "name": row.name, "kind": row.kind, "reason": row.message}
    return json.dumps(line, ensure_ascii=False)


def _as_parquet(table: pa.Table, record: dict[str, Any]) -> bytes:
    text, buffer = json.dumps(record), io.BytesIO()
    table = table.replace_schema_metadata({_KEY: text, _DIGEST_KEY: _digest(text.encode())})
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


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


def _move_file(path: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    os.replace(path, target)
    sync(target.parent)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _digest_of_rows(table: pa.Table) -> str:
    """Digest of the values of rows; the same for every Parquet file that holds them."""
    digest = hashlib.blake2b(digest_size=16)
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()


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
        allow_incomplete (`bool`, *optional*, defaults to `False`): Whether parts may be missing.

    Raises:
        OSError: if there is no such folder or manifest.
        ValueError: if the folder is of another format, its manifest is damaged, or parts are missing; in iterating, if
            a file is missing or damaged.
    """

    def __init__(self, folder: str | os.PathLike, allow_incomplete: bool = False):
        self.path, self.allow_incomplete = Path(folder), allow_incomplete
        self.manifest = read_manifest(self.path)
        options = self.manifest["options"]
        self._kinds = [kind for kind, key in ((IMAGES, "images"), (TEXTS, "texts")) if options[key]]
        self._store = PartStore(self.path, options["file_format"], digest_of_job(self.manifest))
        self._part_names()

    @property
    def summary(self) -> dict[str, Any] | None:
        """Numbers of the whole job; None if it did not end, or parts are missing."""
        path = self.path / SUMMARY
        return read_json(path, dict) if path.is_file() and self.is_complete else None

    @property
    def is_complete(self) -> bool:
        """Whether all parts are there."""
        return not self._find_parts()[1]

    @property
    def stamp(self) -> str:
        """Hexadecimal digest that changes whenever a part is written, or the job is another; no file is read."""
        stamps = [self._store.job, *([str(name), *(self._store.stamp(name) or ())] for name in self._store.names())]
        return _digest(json.dumps(stamps).encode())

    def rows(self) -> pa.Table:
        """The rows of all parts in order, as [`EmbeddedPart`] has them; no embedding is read."""
        return pa.concat_tables([ROW_SCHEMA.empty_table(), *map(self._store.read_rows, self._part_names())])

    def __repr__(self) -> str:
        (names, missing), summary = self._find_parts(), self.summary
        rows = f"{summary['rows']:,} rows, " if summary else ""
        lacking = f"; {missing} are missing" if missing else ""
        dim = self.manifest["model"].get("projection_dim")
        return f"<{type(self).__name__} {self.path}: {rows}dim {dim}, {counted(len(names), 'part')}{lacking}>"

    def _find_parts(self) -> tuple[list[PartName], str]:
        """The parts that are there, and what is missing besides them in a few words; empty if nothing is."""
        total, num_shards = self.manifest["source"]["parts"], self.manifest["source"]["shards"]
        numbers: dict[int, list[int]] = {shard: [] for shard in range(num_shards)}
        for name in self._store.names():
            if name.shard < num_shards and (total is None or name.number < total):
                numbers[name.shard].append(name.number)
        names, lacking = [], 0
        for shard, there in numbers.items():
            there, is_whole = self._parts_of_shard(shard, there)
            names += [PartName(shard, number) for number in there]
            # Where rows were counted, a shard without rows has no part; else it has an empty one.
            lacking += not is_whole and (bool(there) or total is None)
        if total is not None and len(names) < total:
            return names, f"{total - len(names):,} of {counted(total, 'part')}"
        return names, f"parts of {lacking:,} of {counted(num_shards, 'shard')}" if lacking else ""

    def _parts_of_shard(self, shard: int, numbers: list[int]) -> tuple[list[int], bool]:
        """Of the parts with these numbers, those of the shard, and whether they are all of it.

        Only the last part of a shard says that it is the last; what lies behind it is not the shard's. A damaged one
        at the end counts as the last, so that iterating names it.
        """
        run = [number for place, number in enumerate(numbers) if number == place]
        for number in reversed(run):
            record = self._store.record(PartName(shard, number))
            if record is not None:
                is_damaged = number < run[-1]
                return (run[: number + 1], True) if record["is_last"] else (numbers, is_damaged and run == numbers)
        return numbers, bool(run) and run == numbers

    def _part_names(self) -> list[PartName]:
        """The parts that are there; ValueError if that is not all of them."""
        names, missing = self._find_parts()
        if missing and not self.allow_incomplete:
            raise ValueError(
                f"{self.path} is not complete: {missing} are missing. Run the same `clip-hf embed` again, which does "
                "only what is missing, or read what is there with `read_embeddings(folder, allow_incomplete=True)`."
            )
        return names

    def __iter__(self) -> Iterator[EmbeddedPart]:
        for name in self._part_names():
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
        for name in self._part_names():
            if problem := self._store.find_damage(name):
                raise ValueError(f"{self.path}: {problem}. {_advice(name)}")


def read_embeddings(folder: str | os.PathLike, *, allow_incomplete: bool = False) -> EmbeddingFolder:
    """Open the embeddings that [`embed`] wrote.

    Args:
        folder (`str` or `os.PathLike`): The destination of the job.
        allow_incomplete (`bool`, *optional*, defaults to `False`): Whether parts may be missing: those that are there
            are read then, while the job goes on or after it broke off.

    Returns:
        [`EmbeddingFolder`]: gives the parts in their order, one at a time.

    Raises:
        OSError: if there is no such folder or manifest.
        ValueError: if the folder is of another format, its manifest is damaged, or parts are missing.
    """
    return EmbeddingFolder(folder, allow_incomplete)


def digest_of_job(manifest: dict[str, Any]) -> str:
    """Hexadecimal digest of all in a manifest that decides what is written, without the places of data and model."""
    described = {
        section: {name: value for name, value in manifest[section].items() if name not in PLACES}
        for section in SECTIONS
    }
    return _digest(json.dumps(described, sort_keys=True).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of embeddings; ValueError if it is none, OSError if it is not there."""
    manifest = read_json(folder / MANIFEST, dict)
    if manifest.get("format") != FORMAT_NAME or manifest.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{folder / MANIFEST} is of the format {manifest.get('format')!r}, version {manifest.get('version')!r}; "
            f"this version of clip_hf reads {FORMAT_NAME!r}, version {FORMAT_VERSION}."
        )
    try:
        _check_values(manifest, dict.fromkeys(SECTIONS, dict))
        _check_values(manifest["source"], _SOURCE)
        _check_values(manifest["options"], _OPTIONS)
        if manifest["options"]["file_format"] not in FILE_FORMATS:
            raise ValueError(f"'file_format' is {manifest['options']['file_format']!r}")
    except ValueError as error:
        raise ValueError(
            f"{folder / MANIFEST} is damaged: {error}. Put back a copy of it, or embed into a new folder."
        ) from error
    return manifest
