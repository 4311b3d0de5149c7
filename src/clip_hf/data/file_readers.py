# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows of webdataset tars, tables with image paths, and folders of images with texts; images are not decoded."""

import csv
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec

from .pair_options import PairOptions
from .texts import TextReader


IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
# What the image column is called in the metadata files of `datasets`' image folders.
_FILE_NAME = "file_name"
_LARGEST_FIELD = 2**27  # characters; Python's own limit is 128k


def row_columns(options: PairOptions) -> dict[str, str]:
    """The columns that a pair needs and their roles: `"image"`, `"caption"` or `"text"`."""
    roles = {options.image_column: "image"}
    for name in TextReader(options.templates, options.caption_column).columns:
        roles[name] = "caption" if name == options.caption_column else "text"
    if options.image_id_column is not None:
        roles.setdefault(options.image_id_column, "text")
    return roles


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data: `.ipynb_checkpoints`, `._cat.jpg`, `__MACOSX`."""
    return name.startswith((".", "__"))


# ----------------------------------------------------------------------------------------------------- webdataset tars


def tar_rows(tars: Sequence[str], roles: dict[str, str], stamp: str = "") -> Iterator[dict[str, Any]]:
    """
    The samples of webdataset tars, members with the same name up to the first dot.

    Args:
        tars (`Sequence[str]`):
            Paths of tars, or URLs that `fsspec` opens.
        roles (`dict[str, str]`):
            The columns to make, see `row_columns`. The image is the member `.jpg`, `.png` or the like; the caption
            that of `.txt`, or else a field of `.json`; other columns are fields of `.json`.
        stamp (`str`, *optional*):
            Not used; it makes a cache differ where a file changed.
    """
    for tar in tars:
        try:
            with fsspec.open(tar, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as members:
                for sample in _samples(members):
                    yield _tar_row(sample, roles, tar)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"The tar {tar} is damaged, or cannot be read: {error}.") from error


def _samples(members: tarfile.TarFile) -> Iterator[dict[str, tuple[str, bytes]]]:
    """For each sample, the name and content of each member by its ending."""
    key, sample = None, {}
    for member in members:
        folder, name = os.path.split(member.name)
        stem, _, ending = name.partition(".")
        if not member.isfile() or not stem:
            continue
        if key not in (None, (folder, stem)):
            yield sample
            sample = {}
        key = (folder, stem)
        sample[ending.lower()] = (member.name, members.extractfile(member).read())
    if sample:
        yield sample


def _tar_row(sample: dict[str, tuple[str, bytes]], roles: dict[str, str], tar: str) -> dict[str, Any]:
    try:
        fields = json.loads(sample["json"][1]) if "json" in sample else {}
    except ValueError:  # damaged; its values are missing then
        fields = {}
    fields = fields if isinstance(fields, dict) else {}
    row: dict[str, Any] = {}
    for column, role in roles.items():
        if role == "image":
            member = next((sample[ending] for ending in IMAGE_ENDINGS if ending in sample), None)
            row[column] = None if member is None else {"bytes": member[1], "path": f"{tar}/{member[0]}"}
        elif role == "caption" and "txt" in sample:
            row[column] = _decoded(sample["txt"][1])
        else:
            row[column] = fields.get(column)
    return row


def _decoded(data: bytes) -> str | bytes:
    try:
        return data.decode("utf-8").strip()
    except UnicodeDecodeError:
        return data  # reported as a caption of a wrong type


# -------------------------------------------------------------------------------------------------------------- tables


def table_rows(tables: Sequence[str], roles: dict[str, str], stamp: str = "") -> Iterator[dict[str, Any]]:
    """
    The rows of CSV, TSV and JSON Lines files, image paths made absolute: they are relative to the file's folder.

    Args:
        tables (`Sequence[str]`):
            Paths; the ending says which kind of file it is.
        roles (`dict[str, str]`):
            The columns to make, see `row_columns`. The image's path may also be in a column `file_name`.
        stamp (`str`, *optional*):
            Not used; it makes a cache differ where a file changed.
    """
    for table in tables:
        folder = os.path.dirname(os.path.abspath(table))
        for fields in raw_table_rows(table):
            row: dict[str, Any] = {}
            for column, role in roles.items():
                value = fields.get(column)
                if role == "image":
                    value = value if column in fields else fields.get(_FILE_NAME)
                    value = {"bytes": None, "path": _absolute(folder, value)}
                row[column] = value
            yield row


def raw_table_rows(table: str) -> Iterator[dict[str, Any]]:
    """The rows of a table as they are; lines of JSON that are no object are rows without values."""
    if table.lower().endswith((".csv", ".tsv")):
        csv.field_size_limit(_LARGEST_FIELD)
        with open(table, encoding="utf-8-sig", errors="replace", newline="") as file:
            yield from csv.DictReader(file, delimiter="\t" if table.lower().endswith(".tsv") else ",")
        return
    with open(table, encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            if line.strip():
                try:
                    fields = json.loads(line)
                except ValueError:
                    fields = {}
                yield fields if isinstance(fields, dict) else {}


def table_columns(table: str, options: PairOptions) -> list[str]:
    """The columns of a table by its first row, with the image column under the name that `options` gives it."""
    names = [name for name in next(raw_table_rows(table), {}) if name is not None]
    if options.image_column not in names and _FILE_NAME in names:
        names[names.index(_FILE_NAME)] = options.image_column
    return names


def _absolute(folder: str, path: Any) -> str | None:
    if not isinstance(path, str) or not path.strip():
        return None
    return path if "://" in path or path.startswith("data:") else os.path.join(folder, path)


# ------------------------------------------------------------------------------------------------------- image folders


def folder_rows(parts: Sequence[Sequence[str]], roles: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The images of each list of paths, with the text of the `.txt` beside each, if there is one."""
    for path in (path for part in parts for path in part):
        text = Path(path).with_suffix(".txt")
        caption = _decoded(text.read_bytes()) if text.is_file() else None
        values = {"image": {"bytes": None, "path": path}, "caption": caption}
        yield {column: values.get(role) for column, role in roles.items()}


def images_in(folder: Path) -> list[str]:
    """The image files in a folder and its subfolders, sorted."""
    return sorted(
        str(path.absolute())
        for path in folder.rglob("*")
        if path.suffix.lower().lstrip(".") in IMAGE_ENDINGS and path.is_file()
    )


__all__ = [
    "folder_rows",
    "images_in",
    "is_hidden",
    "raw_table_rows",
    "row_columns",
    "table_columns",
    "table_rows",
    "tar_rows",
]
