# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Files of an index: segments that are written once and memory-mapped, and the manifest that says which ones count.

A segment is a folder `segments/<number>` of rows (n, dim) little-endian, their int8 codes and bounds (see
`row_codes.py`), and an Arrow table of ids and metadata. A file of removed places lies beside them; when more rows are
removed, it is written anew under a new name. Replacing the manifest `index.json` is what commits: files that it does
not name do not count, and the next writer deletes them.
"""

import base64
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import GenericAlias
from typing import Any

import numpy as np
import pyarrow as pa

from ..utils.atomic import replaced_file, replaced_folder
from ..utils.json_files import read_json
from .row_codes import encode_rows


FORMAT_NAME, FORMAT_VERSION = "clip_hf index", 1
MANIFEST, SEGMENTS = "index.json", "segments"
DTYPES = ("float16", "float32")
ID_TYPES = {"int": pa.int64(), "str": pa.string()}
ID = "id"
_ROWS, _CODES, _BOUNDS, _TABLE = "rows.bin", "codes.bin", "bounds.bin", "table.arrow"
BLOCK_ROWS = 4096
"""So many rows are read or written at a time."""


@dataclass(frozen=True)
class SegmentRecord:
    """What the manifest says of a segment.

    Args:
        number (`int`): Name of its folder; numbers are never used again.
        rows (`int`): How many rows it has, removed ones too.
        files (`dict[str, int]`): Bytes of its files, by name.
        removed (`int`): How many of the rows are removed.
        removed_file (`str`, *optional*): The file of their places.
    """

    number: int
    rows: int
    files: dict[str, int]
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
        generation (`int`): Number of commits.
        next_segment (`int`): The number of the next segment.
        next_id (`int`): Above all ids so far, if they are whole numbers.
        segments (`tuple[SegmentRecord, ...]`): In order of their rows' places.
    """

    dim: int
    dtype: str
    id_type: str
    columns: str
    description: dict[str, Any] = field(default_factory=dict)
    generation: int = 0
    next_segment: int = 0
    next_id: int = 0
    segments: tuple[SegmentRecord, ...] = ()

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
        if content.pop("format", None) != FORMAT_NAME or content.pop("version", None) != FORMAT_VERSION:
            raise ValueError(f"{path} is not of the format {FORMAT_NAME!r} {FORMAT_VERSION}. Build the index again.")
        try:
            records = tuple(SegmentRecord(**record) for record in content.pop("segments"))
            manifest = cls(**content, segments=records)
            for part in (manifest, *records):
                for part_field in fields(part):
                    kind = part_field.type.__origin__ if isinstance(part_field.type, GenericAlias) else part_field.type
                    if not isinstance(getattr(part, part_field.name), kind):
                        raise TypeError(f"`{part_field.name}` is {getattr(part, part_field.name)!r}")
            if manifest.dtype not in DTYPES or manifest.id_type not in ID_TYPES:
                raise ValueError(f"type {manifest.dtype!r} of rows, {manifest.id_type!r} of ids")
            pa.ipc.read_schema(pa.py_buffer(base64.b64decode(manifest.columns)))
        except (TypeError, KeyError, AttributeError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"{path} is damaged ({error}). Build the index again.") from error
        return manifest

    def write(self, folder: Path) -> None:
        """Replace the manifest: the commit."""
        content = {"format": FORMAT_NAME, "version": FORMAT_VERSION} | asdict(self)
        with replaced_file(folder / MANIFEST) as path:
            path.write_text(json.dumps(content, indent=1), encoding="utf-8")


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
        ValueError: if a file is damaged.
    """

    def __init__(self, folder: Path, manifest: IndexManifest, record: SegmentRecord):
        place = folder / SEGMENTS / str(record.number)
        for name, size in record.files.items():
            if (place / name).stat().st_size != size:
                found = (place / name).stat().st_size
                raise ValueError(f"{place / name} is damaged: {found:,} bytes, not {size:,}. Build the index again.")
        shape = (record.rows, manifest.dim)
        try:
            self.rows = _map_array(place / _ROWS, manifest.dtype, shape)
            self.codes = _map_array(place / _CODES, "int8", shape)
            self.bounds = _map_array(place / _BOUNDS, "float32", (record.rows, 2))
            with pa.memory_map(str(place / _TABLE)) as source:
                self.table = pa.ipc.open_file(source).read_all()
            self.removed = np.empty(0, np.int64)
            if record.removed_file:
                self.removed = np.load(place / record.removed_file, allow_pickle=False)
            if len(self.table) != record.rows or len(self.removed) != record.removed:
                raise ValueError("files of different numbers of rows")
        except (ValueError, EOFError, pa.ArrowException) as error:
            raise ValueError(f"{place} is damaged ({error}). Build the index again.") from error

    def __len__(self) -> int:
        return len(self.rows)


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
        files = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
    if not count:
        shutil.rmtree(place)
        return manifest, 0
    record = SegmentRecord(manifest.next_segment, count, files)
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
            record = replace(record, removed=len(places), removed_file=name)
        records.append(record)
    return replace(manifest, segments=tuple(records))


def delete_leftovers(folder: Path, manifest: IndexManifest) -> None:
    """Delete what the manifest does not name. Only who holds the writers' lock may call this.

    Processes that have such files mapped keep them until they close them.
    """
    records = {str(record.number): record for record in manifest.segments}
    for entry in os.scandir(folder / SEGMENTS):
        record = records.get(entry.name)
        if record is None:
            shutil.rmtree(entry.path, ignore_errors=True)
            continue
        for file in os.scandir(entry.path):
            if file.name not in record.files and file.name != record.removed_file:
                try:
                    os.unlink(file.path)
                except PermissionError:  # Windows: another process has it open
                    continue
