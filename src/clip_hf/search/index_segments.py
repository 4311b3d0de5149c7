# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Files of an index: segments that are written once and memory-mapped, and the manifest that says which ones count.

A segment is a folder `segments/<number>` of rows (n, dim) little-endian, their int8 codes and bounds (see
`row_codes.py`), and an Arrow table of ids and metadata. A file of removed places lies beside them; when more rows are
removed, it is written anew under a new name. Replacing the manifest `index.json` is what commits: files that it does
not name do not count, and the next writer deletes them.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..utils.atomic import replaced_file, replaced_folder
from ..utils.json_files import read_json
from .row_codes import encode_rows


FORMAT_NAME, FORMAT_VERSION = "clip_hf index", 1
MANIFEST, SEGMENTS, WRITE_LOCK = "index.json", "segments", "write.lock"
DTYPES = ("float16", "float32")
ID_TYPES = {"int": pa.int64(), "str": pa.string()}
ID = "id"
_ROWS, _CODES, _BOUNDS, _TABLE = "rows.bin", "codes.bin", "bounds.bin", "table.arrow"
BLOCK_ROWS = 4096
"""So many rows are read or written at a time."""
MOST_VALUES = 2**20
"""So many values a row may have."""
_REMOVED = re.compile(r"removed-[0-9]+\.npy")
_DIGEST = re.compile(r"[0-9a-f]{32}")
# Names that a writer gives, with the temporary ones of `utils.atomic`: only these are ever deleted.
_TEMPORARY = r"\.[0-9a-f]{8}-[0-9]+-[0-9a-f]{12}\.[a-z]+"
_SEGMENT_FOLDER = re.compile(rf"[0-9]+|\.[0-9]+{_TEMPORARY}")
_SEGMENT_FILE = re.compile(rf"{_REMOVED.pattern}|\.{_REMOVED.pattern}{_TEMPORARY}")


@dataclass(frozen=True)
class SegmentRecord:
    """What the manifest says of a segment.

    Args:
        number (`int`): Name of its folder; numbers are never used again.
        rows (`int`): How many rows it has, removed ones too.
        files (`dict[str, int]`): Bytes of its files, by name.
        digests (`dict[str, str]`): Their BLAKE2b digests, 32 hexadecimal digits, and that of `removed_file`.
        removed (`int`): How many of the rows are removed.
        removed_file (`str`, *optional*): The file of their places.
    """

    number: int
    rows: int
    files: dict[str, int]
    digests: dict[str, str]
    removed: int = 0
    removed_file: str | None = None


@dataclass(frozen=True)
class IndexManifest:
    """What `index.json` holds.

    Args:
        dim (`int`): Values of a row.
        dtype (`str`): Their type, `"float16"` or `"float32"`.
        id_type (`str`): `"int"` or `"str"`.
        columns (`str`): The schema of the metadata, as Arrow serialises it, in base64.
        description (`dict`): The caller's.
        identity (`str`): Tells the index from all others: 32 hexadecimal digits, drawn when it was made.
        generation (`int`): Number of commits.
        next_segment (`int`): The number of the next segment.
        next_id (`int`): Above all ids so far, if they are whole numbers.
        segments (`tuple[SegmentRecord, ...]`): In order of their rows' places.
    """

    dim: int
    dtype: str
    id_type: str
    columns: str
    description: dict[str, Any]
    identity: str
    generation: int
    next_segment: int
    next_id: int
    segments: tuple[SegmentRecord, ...]

    @classmethod
    def new(cls, dim: int, dtype: str, id_type: str, columns: str, description: dict[str, Any]) -> "IndexManifest":
        """The manifest of a new index without rows."""
        return cls(dim, dtype, id_type, columns, description, uuid.uuid4().hex, 0, 0, 0, ())

    @classmethod
    def read(cls, folder: Path) -> "IndexManifest":
        """Read the manifest of an index.

        Raises:
            FileNotFoundError: if the folder has none.
            ValueError: if it is damaged, or of another program or version.
        """
        path = folder / MANIFEST
        if not path.exists():
            raise FileNotFoundError(f"{folder} is no index: it has no {MANIFEST}. Check the path, or build it first.")
        content = read_json(path, dict)
        if (content.pop("format", None), repr(content.pop("version", None))) != (FORMAT_NAME, repr(FORMAT_VERSION)):
            raise ValueError(f"{path} is not of the format {FORMAT_NAME!r} {FORMAT_VERSION}. Build the index again.")
        try:
            _check_fields(cls, content)
            for record in content["segments"]:
                _check_fields(SegmentRecord, record)
            records = tuple(SegmentRecord(**record) for record in content.pop("segments"))
            manifest = cls(**content, segments=records)
            _check_manifest(manifest)
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"{path} is damaged ({error}). Build the index again.") from error
        return manifest

    @property
    def version(self) -> tuple[str, int]:
        """Tells this state of this index from all others."""
        return self.identity, self.generation

    def write(self, folder: Path) -> None:
        """Replace the manifest: the commit."""
        content = {"format": FORMAT_NAME, "version": FORMAT_VERSION} | asdict(self)
        with replaced_file(folder / MANIFEST) as path:
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")


_KINDS = {"segments": list, "files": dict, "digests": dict, "description": dict}
_WHOLE_NUMBERS = ("dim", "generation", "next_segment", "next_id", "number", "rows", "removed")


def _check_fields(part: type, content: Any) -> None:
    """Hold what JSON gave for the manifest or a record against its fields: all there, no others, of their types."""
    names = [part_field.name for part_field in fields(part)]
    if not isinstance(content, dict) or sorted(content) != sorted(names):
        raise ValueError(f"it must hold {', '.join(names)}")
    for name, value in content.items():
        kind = int if name in _WHOLE_NUMBERS else _KINDS.get(name, str)
        if not (type(value) is kind or (name == "removed_file" and value is None)):
            raise ValueError(f"`{name}` is {value!r}")
        if kind is int and not 0 <= value < 2**63 + (name == "next_id"):
            raise ValueError(f"`{name}` is {value}")


def _check_manifest(manifest: IndexManifest) -> None:
    if manifest.dtype not in DTYPES or manifest.id_type not in ID_TYPES:
        raise ValueError(f"type {manifest.dtype!r} of rows, {manifest.id_type!r} of ids")
    if not 1 <= manifest.dim <= MOST_VALUES or not _DIGEST.fullmatch(manifest.identity):
        raise ValueError(f"{manifest.dim} values of a row, identity {manifest.identity!r}")
    schema_of(manifest)
    numbers = [record.number for record in manifest.segments]
    if len(set(numbers)) < len(numbers) or max(numbers, default=-1) >= manifest.next_segment:
        raise ValueError(f"numbers {numbers} of segments")
    for record in manifest.segments:
        sizes = {_ROWS: np.dtype(manifest.dtype).itemsize * manifest.dim, _CODES: manifest.dim, _BOUNDS: 8}
        sizes = {name: record.rows * size for name, size in sizes.items()}
        if not record.rows or record.files != {**sizes, _TABLE: record.files.get(_TABLE)}:
            raise ValueError(f"{record.rows} rows, files {record.files}")
        if type(record.files[_TABLE]) is not int or any(type(size) is not int for size in record.files.values()):
            raise ValueError(f"files {record.files}")
        if record.removed >= record.rows or (record.removed_file is None) != (record.removed == 0):
            raise ValueError(f"{record.removed} of {record.rows} rows removed, {record.removed_file!r}")
        if record.removed_file is not None and not _REMOVED.fullmatch(record.removed_file):
            raise ValueError(f"name {record.removed_file!r}")
        names = {*record.files, record.removed_file} - {None}
        if set(record.digests) != names or not all(_is_digest(digest) for digest in record.digests.values()):
            raise ValueError(f"digests {record.digests}")


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def schema_text(schema: pa.Schema) -> str:
    """A schema as text for the manifest."""
    return base64.b64encode(schema.serialize()).decode()


def schema_of(manifest: IndexManifest) -> pa.Schema:
    """The schema of the metadata, without the id."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(manifest.columns)))


def _map_array(path: Path, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    mapped = np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r", shape=shape)
    return np.asarray(mapped)


class Segment:
    """A segment of an index, memory-mapped.

    Args:
        folder (`Path`): The index.
        manifest (`IndexManifest`): Its manifest.
        record (`SegmentRecord`): The segment's.

    Attributes: `rows` (n, dim), `codes` (n, dim) int8, `bounds` (n, 2) float32 of scales and errors, `table` with the
    column `"id"`, and `removed`, places (r,) int64 in the segment.

    Raises:
        FileNotFoundError: if a file is missing, for example because the index was compacted meanwhile.
        ValueError: if a file is damaged, as far as sizes, types and places tell.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, record: SegmentRecord):
        self.record = record
        place = folder / SEGMENTS / str(record.number)
        for name in record.digests:
            found = os.stat(place / name)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{place / name} is damaged: it is no file. Build the index again.")
            size = record.files.get(name, found.st_size)
            if found.st_size != size:
                raise ValueError(
                    f"{place / name} is damaged: {found.st_size:,} bytes, not {size:,}. Build the index again."
                )
        shape = (record.rows, manifest.dim)
        try:
            self.rows = _map_array(place / _ROWS, manifest.dtype, shape)
            self.codes = _map_array(place / _CODES, "int8", shape)
            self.bounds = _map_array(place / _BOUNDS, "float32", (record.rows, 2))
            with pa.memory_map(str(place / _TABLE)) as source:
                self.table = pa.ipc.open_file(source).read_all()
            if len(self.table) != record.rows or not self.table.schema.equals(table_schema(manifest)):
                raise ValueError(f"{_TABLE} has other rows or columns than {MANIFEST} says")
            self.removed = np.empty(0, np.int64)
            if record.removed_file:
                self.removed = np.load(place / record.removed_file, allow_pickle=False)
                _check_places(self.removed, record)
        except (ValueError, EOFError, pa.ArrowException) as error:
            raise ValueError(f"{place} is damaged ({error}). Build the index again.") from error

    def __len__(self) -> int:
        return len(self.rows)


def _check_places(places: np.ndarray, record: SegmentRecord) -> None:
    if places.dtype != np.int64 or places.shape != (record.removed,):
        raise ValueError(f"{record.removed_file} holds {places.dtype} of the shape {places.shape}")
    if places[0] < 0 or places[-1] >= record.rows or (np.diff(places) <= 0).any():
        raise ValueError(f"{record.removed_file} holds places that are not in order, or are no rows")


def check_digests(folder: Path, manifest: IndexManifest) -> None:
    """Read all files of an index; ValueError names one that is not as it was written."""
    for record in manifest.segments:
        place = folder / SEGMENTS / str(record.number)
        for name, digest in record.digests.items():
            if digest_file(place / name) != digest:
                raise ValueError(f"{place / name} is damaged: its digest is not the one noted. Build the index again.")


def digest_file(path: Path) -> str:
    """BLAKE2b of a file's bytes, 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def rows_at(segments: Sequence[Segment], places: np.ndarray) -> np.ndarray:
    """Rows (n, dim) as they are stored, by their places in all segments."""
    starts = np.cumsum([0, *map(len, segments)])
    owners = np.searchsorted(starts, places, side="right") - 1
    rows = np.empty((len(places), segments[0].rows.shape[1]), segments[0].rows.dtype)
    for number in np.unique(owners):
        mine = owners == number
        rows[mine] = segments[number].rows[places[mine] - starts[number]]
    return rows


def write_segment(
    folder: Path, manifest: IndexManifest, parts: Iterable[tuple[np.ndarray, pa.Table]]
) -> tuple[IndexManifest, int]:
    """Write a segment under the manifest's next number.

    Args:
        folder (`Path`): The index.
        manifest (`IndexManifest`): Its manifest.
        parts (`Iterable`): Rows (n, dim) as they are stored, and their tables of ids and metadata.

    Returns:
        `tuple`: the manifest with the segment, not yet written, and the segment's number of rows. Without rows the
        manifest stays as it is.
    """
    count, place = 0, folder / SEGMENTS / str(manifest.next_segment)
    schema = table_schema(manifest)
    with replaced_folder(place) as temporary:
        with (
            open(temporary / _ROWS, "wb") as rows_file,
            open(temporary / _CODES, "wb") as codes_file,
            open(temporary / _BOUNDS, "wb") as bounds_file,
            pa.OSFile(str(temporary / _TABLE), "wb") as table_file,
            pa.ipc.new_file(table_file, schema) as table_writer,
        ):
            for rows, table in parts:
                codes, bounds = encode_rows(rows)
                rows_file.write(np.ascontiguousarray(rows, np.dtype(manifest.dtype).newbyteorder("<")))
                codes_file.write(codes)
                bounds_file.write(bounds.astype("<f4"))
                table_writer.write_table(table, max_chunksize=BLOCK_ROWS)
                count += len(rows)
        paths = sorted(temporary.iterdir())
        files = {path.name: path.stat().st_size for path in paths}
        digests = {path.name: digest_file(path) for path in paths}
    if not count:
        shutil.rmtree(place)
        return manifest, 0
    record = SegmentRecord(manifest.next_segment, count, files, digests)
    return replace(manifest, segments=(*manifest.segments, record), next_segment=record.number + 1), count


def table_schema(manifest: IndexManifest) -> pa.Schema:
    """The schema of a segment's table: the id, then the metadata."""
    return pa.schema([pa.field(ID, ID_TYPES[manifest.id_type]), *schema_of(manifest)])


def write_removed(folder: Path, manifest: IndexManifest, removed: Mapping[int, np.ndarray]) -> IndexManifest:
    """Write the files of removed places; returns the manifest with them, not yet written.

    Args:
        folder (`Path`): The index.
        manifest (`IndexManifest`): Its manifest.
        removed (`Mapping[int, np.ndarray]`): All removed places of the segments that change, by number. A segment that
            has no other rows is dropped.
    """
    records = []
    for record in manifest.segments:
        places = removed.get(record.number)
        if places is not None and len(places) == record.rows:
            continue
        if places is not None:
            name = f"removed-{manifest.generation + 1}.npy"
            with replaced_file(folder / SEGMENTS / str(record.number) / name) as path, open(path, "wb") as file:
                np.save(file, np.sort(places).astype(np.int64))
            digests = {own: digest for own, digest in record.digests.items() if own in record.files}
            digests[name] = digest_file(folder / SEGMENTS / str(record.number) / name)
            record = replace(record, digests=digests, removed=len(places), removed_file=name)
        records.append(record)
    return replace(manifest, segments=tuple(records))


def delete_leftovers(folder: Path, manifest: IndexManifest) -> None:
    """Delete what writers wrote and the manifest does not name. Only who holds the writers' lock may call this.

    Processes that have such files mapped keep them until they close them. What cannot be deleted waits for the next
    writer; links, and names that no writer gives, stay.
    """
    records = {str(record.number): record for record in manifest.segments}
    if (folder / SEGMENTS).is_symlink():
        raise ValueError(f"{folder / SEGMENTS} is a link; nothing is written or deleted there. Move the whole index.")
    (folder / SEGMENTS).mkdir(exist_ok=True)
    for entry in os.scandir(folder / SEGMENTS):
        if not entry.is_dir(follow_symlinks=False) or not _SEGMENT_FOLDER.fullmatch(entry.name):
            continue
        record = records.get(entry.name)
        if record is None:
            shutil.rmtree(entry.path, ignore_errors=True)
            continue
        for file in os.scandir(entry.path):
            if file.name != record.removed_file and _SEGMENT_FILE.fullmatch(file.name):
                with suppress(OSError):  # Windows: another process has it open
                    os.unlink(file.path)
