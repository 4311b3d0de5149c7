# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows of any source in a fixed order, by shards: what one reader reads in sequence, from any row on.

The readers are those of `captioned_images`, but captions may be missing, nothing is copied to the cache of `datasets`
where the files can be read from the middle, and rows have numbers that do not depend on who reads them.
"""

import codecs
import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ..model.image_reading_clip_hf import DEFAULT_LIMITS, REFUSED, ImageLimits, refused_name
from ..utils.json_files import check_regular
from ..utils.wording import counted
from .data_sources import KNOWN_ENDINGS, Data, DataSource, HubSource, Rows, find_source
from .file_patterns import ending_of
from .image_folders import folder_rows, images_in, walk
from .image_text import check_column, undecoded_images
from .locations import ImagePlaces, stored_image
from .media import IMAGES, find_media
from .parquet_files import check_names, naming_damage
from .parts import parts_in
from .row_ranges import ParquetRanges, TableRanges, absolute, check_unchanged, open_file, state_of_file
from .skips import DamagedFile, UnreachableFile, stop_if_exhausted
from .tables import FILE_NAME, raw_table_rows, table_columns
from .tars import DamagedTar, check_ends, check_tars, tar_rows
from .texts import escaped, with_class_names


LIST_ENDING = ".txt"
"""The ending of a file with the path or URL of an image on each line."""
# Samples of tars among which a caption is looked for: in any case, and where captions are asked for.
_PEEKED_SAMPLES, _SEARCHED_SAMPLES = 256, 10_000
_ROWS_PER_READ = 64
_DIGESTED_BYTES = 2**16  # of a column of images in each row group of a Parquet file
_LONGEST_NAME = 4096
_UTF_16 = tuple(mark.decode(errors="surrogateescape") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
_IMAGE_TYPES = (pa.binary(), pa.large_binary(), pa.string(), pa.large_string(), pa.null())
_COLUMN_OPTIONS = {"image_column": "images", "caption_column": "captions"}  # and what the columns hold

_Read = Callable[[int, int | None], Iterator[dict[str, Any]]]


@dataclass(frozen=True)
class RowColumns:
    """Which rows of a source are read, and from which columns.

    Args:
        image_column (`str`, *optional*): Column of the images or films; `"image"` by default, of films `"video"`.
        caption_column (`str`, *optional*, defaults to `"caption"`): Column of the captions.
        image_root (`str`, *optional*): A second folder that image paths may lead to; `"/"` for any.
        split (`str`, *optional*): One part of the data, such as `"train"`; all of them by default.
        media (`str`, *optional*, defaults to `"images"`): `"images"` or `"videos"` (films).
    """

    image_column: str | None = None
    caption_column: str = "caption"
    image_root: str | None = None
    split: str | None = None
    media: str = "images"

    def __post_init__(self):
        if self.image_column is None:
            object.__setattr__(self, "image_column", find_media(self.media).role)
        for option in _COLUMN_OPTIONS:
            value = getattr(self, option)
            if not isinstance(value, str) or not value:
                raise ValueError(f"`{option}` is {value!r}; it must be the name of a column.")
        if self.image_column == self.caption_column:
            raise ValueError(
                f"`image_column` (--image-column) and `caption_column` (--caption-column) are both "
                f"{self.image_column!r}; images and captions are in columns of their own."
            )

    @property
    def roles(self) -> dict[str, str]:
        """The columns to read and what they hold."""
        return {self.image_column: find_media(self.media).role, self.caption_column: "caption"}

    def named(self) -> dict[str, str]:
        """The options that name another column than the usual one, and the column."""
        usual = {"image_column": find_media(self.media).role, "caption_column": "caption"}
        return {option: name for option in _COLUMN_OPTIONS if (name := getattr(self, option)) != usual[option]}


@dataclass(frozen=True)
class RowShard:
    """Rows that are read in sequence.

    Args:
        name (`str`): The file, or what else holds the rows.
        num_rows (`int`, *optional*): Number of rows; None where only reading to the end tells.
        read (`Callable`): `read(start, stop)` gives the rows in this range, up to the end if `stop` is None.
    """

    name: str
    num_rows: int | None
    read: _Read


@dataclass(frozen=True)
class ShardedRows:
    """The rows of a source.

    Args:
        location (`str`): The source, for messages.
        kind (`str`): `"folder"`, `"table"`, `"parquet"`, `"tar"`, `"list"`, `"dataset"` or `"stream"`.
        folder (`str`): The folder to which the names of images are relative; empty if there is none.
        shards (`tuple[RowShard, ...]`): The rows in their order.
        has_captions (`bool`): Whether rows may have captions.
        fingerprint (`str`): The same wherever the data lies. It changes if a table or list changes in any byte; if
            images of a folder are added, removed or renamed; with the footer, texts, paths and first images of Parquet
            files; with the size and the time of change of tars; with what `datasets` calls its fingerprint. It does
            not change with image files, texts beside them, and what the hub streams.
    """

    location: str
    kind: str
    folder: str
    shards: tuple[RowShard, ...]
    has_captions: bool
    fingerprint: str


def shard_rows(
    source: Any,
    columns: RowColumns,
    *,
    images: bool = True,
    captions: bool = False,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> ShardedRows:
    """Find the rows of a source, see [`load_pairs`]; also of a `.txt` file that lists paths, one a line.

    Args:
        source (`str`, `os.PathLike` or `datasets.Dataset`): The source. Datasets on the hub are streamed.
        columns ([`RowColumns`]): The columns and the split.
        images (`bool`, *optional*, defaults to `True`): Whether images are needed.
        captions (`bool`, *optional*, defaults to `False`): Whether captions are needed; else they are welcome.
        limits ([`ImageLimits`], *optional*): Limits of the members of tars.

    Raises:
        ValueError: if there is no such source or split, it is empty, or lacks a column that is needed.
    """
    text = os.path.expanduser(os.fspath(source)) if isinstance(source, str | os.PathLike) else ""
    if ending_of(text) == LIST_ENDING and (os.path.isfile(text) or not os.path.isdir(text)):
        check_no_columns(columns, f"The list {text}")
        _check_split(columns.split, text, ())
        each, location = [_list_shards(text, columns)], text
    else:
        found = find_source(source, labelled=False, media=find_media(columns.media))
        location = found.location
        each = [_shards_of(rows, found, columns, images, captions, limits) for rows in _chosen(found, columns.split)]
    shards = tuple(shard for part, _, _, _ in each for shard in part)
    if not shards or all(shard.num_rows == 0 for shard in shards):
        raise ValueError(f"The source {location} is empty: it has no rows.")
    kind, has_captions = each[0][1], any(has for _, _, has, _ in each)
    if captions and not has_captions:
        raise ValueError(f"The source {location} has no captions, so no texts can be embedded: leave them out.")
    folder = folder_of(location)
    names = [[_relative(shard.name, folder), shard.num_rows] for shard in shards]
    options = asdict(columns) | {"image_root": None}
    if columns.media == IMAGES.name:  # so that fingerprints from before there were films stay
        del options["media"]
    described = [kind, options, names, [state for *_, state in each]]
    digest = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(errors="surrogatepass"), digest_size=16)
    return ShardedRows(location, kind, folder, shards, has_captions, digest.hexdigest())


def read_list(path: str | os.PathLike) -> list[str]:
    """The paths and URLs in a file of one a line; blank lines do not count."""
    check_regular(path)
    with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        lines = [line.removeprefix("\ufeff").rstrip("\r\n") for line in file]
    if lines and lines[0].startswith(_UTF_16):
        raise ValueError(f"The list {os.fspath(path)} is in UTF-16; save it as UTF-8.")
    return [line for line in lines if line.strip()]


def image_name(image: Any, folder: str) -> str:
    """What rows call their image: its path, relative to `folder` if it is below, the member of a tar, or a URL."""
    name = image.get("path") if isinstance(image, dict) else image
    if not isinstance(name, str) or name.startswith("data:"):
        return ""
    name = refused_name(name) if name.startswith(REFUSED) else name
    return escaped(_relative(name, folder))[:_LONGEST_NAME]


def _relative(name: str, folder: str) -> str:
    return name.removeprefix(os.path.join(folder, "")) if folder else name


def folder_of(location: str) -> str:
    """The folder of data on disk, absolute; empty for other data."""
    if location == "given" or "://" in location:
        return ""
    path = Path(os.path.abspath(location))
    return str(path) if path.is_dir() else str(path.parent) if path.parent.is_dir() else ""


def _chosen(found: DataSource | HubSource, split: str | None) -> list[Rows]:
    """The rows of the split, or of all."""
    if split is None:
        return [found.whole] if found.whole is not None else [found.rows(part) for part in found.part_names]
    return [found.rows(_check_split(split, found.location, found.part_names))]


def _check_split(split: str | None, location: str, there: Sequence[str]) -> str | None:
    """The part of the source that is meant; ValueError if there is none of this name, or a slice is asked for."""
    if split is None:
        return None
    part = parts_in(split, location, there)
    if part not in (there or ("train",)):
        raise ValueError(
            f"`split` is {split!r}, but whole parts are read here, not slices or sums: name one of "
            f"{', '.join(there) or 'train'}, or leave `split` out for all rows."
        )
    return part


def check_no_columns(columns: RowColumns, what: str) -> None:
    """Raise a `ValueError` if a column is named, though these data have none."""
    for option, name in columns.named().items():
        flag = f"--{option.replace('_', '-')}"
        raise ValueError(f"{what} has no columns, so there is no column {name!r}; leave `{option}` ({flag}) out.")


def _check_endings(files: Sequence[str]) -> None:
    """Raise a `ValueError` for a file that holds no rows, such as an image."""
    other = next((file for file in files if ending_of(file) not in KNOWN_ENDINGS), None)
    if other is not None:
        raise ValueError(
            f"{other} is no kind of file that can be read; there are {', '.join((*KNOWN_ENDINGS, LIST_ENDING))}. For "
            f"images, give their folder, or a list of their paths ({LIST_ENDING})."
        )


_Shards = tuple[list[RowShard], str, bool, Any]  # shards, kind, whether there are captions, what tells them apart


def _shards_of(
    rows: Rows,
    found: DataSource | HubSource,
    columns: RowColumns,
    images: bool,
    captions: bool,
    limits: ImageLimits,
) -> _Shards:
    _check_endings(rows.files)
    kind = "stream" if isinstance(found, HubSource) else rows.kind
    # A column that is named must be there, needed or not: else a misspelt one would be left out in silence.
    images, captions = images or "image_column" in columns.named(), captions or "caption_column" in columns.named()
    if kind == "folder":
        return _folder_shards(rows, columns)
    if kind == "tar":
        return _tar_shards(rows, columns, images, captions, limits)
    needed = [name for name, is_needed in zip(columns.roles, (images, captions), strict=True) if is_needed]
    make_parquet = partial(_parquet_shards, needed=needed)
    names, made = {"table": _table_shards, "parquet": make_parquet}.get(kind, _dataset_shards)(rows, kind, columns)
    if images and kind == "table" and columns.image_column not in names and FILE_NAME in names:
        names = [*names, columns.image_column]
    shards, state = made
    for option, content in _COLUMN_OPTIONS.items() if shards else ():
        if getattr(columns, option) in needed:
            check_column(names, getattr(columns, option), content, option)
    return shards, kind, columns.caption_column in names, state


# -------------------------------------------------------------------------------------------------- folders and lists


def _folder_shards(rows: Rows, columns: RowColumns) -> _Shards:
    folder = os.path.abspath(rows.folder)
    media = find_media(columns.media)
    check_no_columns(columns, f"The folder of {media.noun}s {folder}")
    (paths,) = images_in(Path(folder), media=media)
    if not paths:
        raise ValueError(f"The folder {folder} holds no {media.noun}s, Parquet files, tars or metadata.")

    def read(start: int, stop: int | None) -> Iterator[dict[str, Any]]:
        return folder_rows([paths[start:stop]], columns.roles)

    listed = ((parent, name) for parent, _, names in walk(folder) for name in names)
    texts = {os.path.join(parent, name) for parent, name in listed if name.endswith(".txt")}
    has_texts = any(f"{os.path.splitext(path)[0]}.txt" in texts for path in paths)
    names = _names_digest(os.path.relpath(path, folder) for path in paths)
    return [RowShard(os.path.join(folder, ""), len(paths), read)], "folder", has_texts, names


def _list_shards(path: str, columns: RowColumns) -> _Shards:
    if not os.path.isfile(path):
        raise ValueError(f"There is no file {path} with a path of an image on each line.")
    places = read_list(path)
    # Whoever gives a list means its paths, so that they may lead anywhere.
    locate = ImagePlaces(os.path.dirname(os.path.abspath(path)), "/")

    def read(start: int, stop: int | None) -> Iterator[dict[str, Any]]:
        return ({columns.image_column: stored_image(locate(place))} for place in places[start:stop])

    return [RowShard(os.path.abspath(path), len(places), read)], "list", False, _names_digest(places)


def _names_digest(names: Iterator[str] | Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(name.encode(errors="surrogatepass") + b"\0")
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------- tars, tables, Parquet


def _tar_shards(rows: Rows, columns: RowColumns, images: bool, captions: bool, limits: ImageLimits) -> _Shards:
    check_tars(rows.files, {columns.image_column: columns.roles[columns.image_column]} if images else {}, limits)
    check_ends(rows.files)
    states = list(map(state_of_file, rows.files))
    shards = [
        RowShard(tar, None, partial(_read_tar, tar, state, columns, limits))
        for tar, state in zip(map(absolute, rows.files), states, strict=True)
    ]
    first = itertools.islice(_first_rows(shards), _SEARCHED_SAMPLES if captions else _PEEKED_SAMPLES)
    has_captions = any(row[columns.caption_column] is not None for row in first)
    if captions and not has_captions:
        check_tars(rows.files, {columns.caption_column: "caption"}, limits)
    return shards, "tar", has_captions, states


def _read_tar(
    tar: str, state: list[int] | None, columns: RowColumns, limits: ImageLimits, start: int, stop: int | None
) -> Iterator[dict[str, Any]]:
    """The samples of one tar; a `DamagedTar` where it cannot be read further, so that no end is taken for its end."""
    check_unchanged(tar, state)
    return itertools.islice(tar_rows([tar], columns.roles, limits=limits), start, stop)


def _first_rows(shards: Sequence[RowShard]) -> Iterator[dict[str, Any]]:
    """The rows of tars as far as they can be read; what is wrong with the rest is said when it is embedded."""
    for shard in shards:
        with contextlib.suppress(DamagedTar):
            yield from shard.read(0, None)


_Made = tuple[list[str], tuple[list[RowShard], Any]]


def _table_shards(rows: Rows, kind: str, columns: RowColumns) -> _Made:
    shards = []
    for table in map(absolute, rows.files):
        count = sum(1 for _ in raw_table_rows(table))
        shards.append(RowShard(table, count, TableRanges(table, columns, count)))
    return table_columns(rows.files), (shards, list(map(_digest_of_file, rows.files)))


def _parquet_shards(rows: Rows, kind: str, columns: RowColumns, needed: Sequence[str]) -> _Made:
    shards, names, states = [], {}, []
    for path in rows.files:
        with naming_damage(path), open_file(path) as file:
            metadata = pq.read_metadata(file)
            states.append(_digest_of_parquet(file, metadata, "://" not in path, columns))
        schema = metadata.schema.to_arrow_schema()
        _check_images(path, schema, columns.image_column)
        check_names(path, schema.names)
        names[path] = schema.names
        shards.append(RowShard(absolute(path), metadata.num_rows, ParquetRanges(absolute(path), columns, metadata)))
    for name in needed:
        lacking = [path for path in rows.files if name not in names[path]]
        if 0 < len(lacking) < len(names):
            shown = ", ".join(map(repr, names[lacking[0]]))
            raise ValueError(
                f"{lacking[0]} has no column {name!r}, which other files of the source have; it has {shown}. Give the "
                "files of one kind together, or rename its column."
            )
    return list(dict.fromkeys(itertools.chain.from_iterable(names.values()))), (shards, states)


def _check_images(path: str, schema: pa.Schema, column: str) -> None:
    """Raise a `ValueError` if a column of images has a type that holds no images."""
    for field in (field for field in schema if field.name == column):
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        is_struct = pa.types.is_struct(kind) and {"bytes", "path"} & {inner.name for inner in kind}
        if not (is_struct or kind in _IMAGE_TYPES):
            raise ValueError(
                f"The column {column!r} of {path} holds {field.type}; images are files' bytes, paths, or structs of "
                "`bytes` and `path`. Name the column of the images with `image_column` (--image-column)."
            )


def _digest_of_file(path: str) -> str | None:
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).hexdigest()


def _digest_of_parquet(file: Any, metadata: pq.FileMetaData, is_near: bool, columns: RowColumns) -> str:
    """A digest of the footer and, of a file on disk, of the columns that are read; of large values the beginning."""
    size = file.seek(-8, os.SEEK_END) + 8
    footer = int.from_bytes(file.read(4), "little")
    file.seek(size - 8 - footer)
    digest = hashlib.blake2b(file.read(footer), digest_size=16)
    for group in range(metadata.num_row_groups if is_near else 0):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            if not any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in columns.roles):
                continue
            start, length = chunk.data_page_offset, chunk.total_compressed_size
            start = start if chunk.dictionary_page_offset is None else min(start, chunk.dictionary_page_offset)
            file.seek(start)
            is_text = metadata.schema.column(index).logical_type.type == "STRING"
            digest.update(file.read(length if is_text else min(length, _DIGESTED_BYTES)))
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------- datasets and the hub


def _dataset_shards(rows: Rows, kind: str, columns: RowColumns) -> _Made:
    def image_column_of(data: Data) -> str:
        return columns.image_column

    is_stream = kind == "stream"
    state = None if is_stream else rows.load(False)._fingerprint
    data = rows.read_dataset(image_column_of, columns.image_root, is_stream)
    names = data.column_names or list(next(iter(data), ()))
    if not names:
        return names, ([], state)
    wanted = [name for name in columns.roles if name in names]
    if data.features is not None:
        data = data.select_columns(wanted)
        data = (
            undecoded_images(data, columns.image_column, find_media(columns.media))
            if columns.image_column in wanted
            else data
        )
        data = with_class_names(data, [columns.caption_column])
    if not is_stream:
        return names, ([RowShard("rows", len(data), partial(_read_dataset, data))], state)
    shards = [RowShard(f"shard {index}", None, partial(_read_stream, data, index)) for index in range(data.num_shards)]
    return names, (shards, None)


def _read_dataset(data: datasets.Dataset, start: int, stop: int | None) -> Iterator[dict[str, Any]]:
    stop = len(data) if stop is None else min(stop, len(data))
    for first in range(start, stop, _ROWS_PER_READ):
        try:
            read = data[first : min(first + _ROWS_PER_READ, stop)]
        except Exception as error:  # of a damaged file of the dataset, of many types
            stop_if_exhausted(error, f"row {first}")
            raise DamagedFile(f"The dataset cannot be read from row {first:,} on: {error}.") from error
        yield from (dict(zip(read, values)) for values in zip(*read.values()))


def _read_stream(data: datasets.IterableDataset, index: int, start: int, stop: int | None) -> Iterator[dict[str, Any]]:
    shard = data.shard(data.num_shards, index) if data.num_shards > 1 else data
    number = start
    try:
        for row in itertools.islice(iter(shard), start, stop):
            number += 1
            yield row
    except Exception as error:  # hub, network and dataset errors have many types
        stop_if_exhausted(error, f"shard {index} of the stream")
        raise UnreachableFile(
            f"Shard {index} of the stream cannot be read further than its first {counted(number, 'row')}: {error}."
        ) from error
