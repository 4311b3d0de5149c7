# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows of a source as labelled images or films with all of their columns; nothing is decoded."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from .data_sources import Rows
from .image_folders import images_in
from .labelled_tars import read_tars
from .locations import stored_image, with_locations
from .media import IMAGES, Media
from .tables import FILE_NAME, table_columns, table_rows


def read_labelled(
    rows: Rows,
    image_column_of: Callable[[datasets.Dataset], str] | None,
    image_column: str | None = None,
    image_root: str | None = None,
    media: Media = IMAGES,
) -> datasets.Dataset:
    """Read rows as labelled images or films.

    Class folders give the columns `image` (of films `video`) and `label`, a `ClassLabel` of their names; other data
    all their columns.

    Args:
        rows ([`Rows`]): Where they are.
        image_column_of, image_root (*optional*): As in [`Rows.read_dataset`].
        image_column (`str`, *optional*): The column of a table that has the paths of the images; by default one with a
            usual name.
        media ([`Media`], *optional*): Images, by default, or films.

    Raises:
        ValueError: if the rows are of no kind that can be read, or a table has no column with paths of images.
    """
    if rows.kind in ("dataset", "parquet"):
        return rows.read_dataset(image_column_of, image_root)
    if rows.kind == "folder":
        return _read_class_folders(rows.folder, rows.classes, media)
    files = list(rows.files)
    data = (
        read_tars(files, media=media) if rows.kind == "tar" else _read_tables(files, image_root, image_column, media)
    )
    if image_column_of is None:
        return data
    # Whichever column is taken for the images: a text in it is a path like any other.
    folder = os.path.dirname(files[0] if "://" in files[0] else os.path.abspath(files[0]))
    return with_locations(data, image_column_of(data), folder, image_root)


def _read_class_folders(folder: Path, classes: Sequence[str], media: Media) -> datasets.Dataset:
    images, labels = [], []
    for label, paths in enumerate(images_in(*(folder / name for name in classes), beside=folder, media=media)):
        images += map(stored_image, paths)
        labels += [label] * len(paths)
    label = datasets.ClassLabel(names=list(classes))
    features = datasets.Features({media.role: media.feature, "label": label})
    return datasets.Dataset.from_dict({media.role: images, "label": labels}, features=features)


def _read_tables(tables: list[str], root: str | None, image_column: str | None, media: Media) -> datasets.Dataset:
    """Tables with paths of images or films, relative to their folder, in `image_column` or one with a usual name."""
    names, table = table_columns(tables), ", ".join(tables)
    if not names:
        raise ValueError(f"The table {table} has no rows.")
    usual = (media.role, FILE_NAME, "path", "file", f"{media.role}_path")  # likeliest first
    allowed = usual if image_column in (None, media.role) else (image_column,)
    paths = next((name for name in allowed if name in names), None)
    if paths is None:
        begin = f"`image_column` is {image_column!r}. C" if image_column else "c"
        raise ValueError(
            f"The table {table} has the columns {', '.join(map(repr, names))}; {begin}all that of the {media.noun}s' "
            f"paths 'file_name' or {media.role!r}, or name it with `image_column` (--image-column)."
        )
    # Unless `file_name` was asked for, it becomes the column `image`, as in a folder's metadata.
    key = media.role if paths == FILE_NAME != image_column else paths
    roles = {key: media.role, **{name: "text" for name in names if name not in (paths, key)}}
    rows = list(table_rows(tables, roles, root=root))
    columns = {name: _of_one_kind([row[name] for row in rows], name, table) for name in roles if roles[name] == "text"}
    name = image_column or media.role
    data = datasets.Dataset.from_dict({name: [row[key] for row in rows], **columns})
    return data.cast_column(name, media.feature)


def _of_one_kind(values: list[Any], column: str, table: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(
            f"The column {column!r} of {table} has values of different kinds: {str(error).rstrip('.')}. Write all of "
            "them alike, as numbers or in quotes."
        ) from error
