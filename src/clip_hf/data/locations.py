# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The places of images that columns name: every path in data goes through `ImagePlaces`."""

import functools
import itertools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub.constants import HF_HUB_CACHE

from ..model.image_reading_clip_hf import REFUSED, UnreadableImage, check_scheme, refused_location
from ..utils.json_files import check_regular
from .generated_datasets import raising_causes
from .parquet_files import check_content, common_columns
from .texts import escaped, is_utf8


_SAVED = ("dataset_dict.json", "state.json", "dataset_info.json")
# A relative path without any special name or character.
_PLAIN_PATH = re.compile(r"[^\s./\\:\0][^/\\:\0]*(?:/[^./\\:\0][^/\\:\0]*)*")


class ImagePlaces:
    """Locates the images that the rows of a table name.

    Calling it with the path or URL in a row (relative paths start at `folder`) returns an absolute path below `folder`
    or `root`, or a URL of `URL_SCHEMES`; None for a blank value; for any other location or value a text that begins
    with `REFUSED`, which is refused when read. Symbolic links are followed, because whoever can make a link can also
    put the image there.

    Args:
        folder (`str` or `os.PathLike`): Folder of the table.
        root (`str` or `os.PathLike`, *optional*): Another folder below which paths may lead; `"/"` for any path.
    """

    def __init__(self, folder: str | os.PathLike, root: str | os.PathLike | None = None):
        allowed = [os.path.abspath(each) for each in (folder, root) if each is not None]
        self._below = tuple(os.path.join(each, "") for each in allowed)

    def __call__(self, value: Any) -> str | None:
        """The location of the image that `value` names."""
        if value is None:
            return None
        if not isinstance(value, str):
            return refused_location("not an image", f"it is {value!r:.80}, which is neither a path nor a URL.")
        if _PLAIN_PATH.fullmatch(value):
            return self._below[0] + value
        if not value.strip():
            return None
        try:
            if check_scheme(value) is not None:
                return value
        except UnreadableImage:
            return value if value.startswith(REFUSED) else REFUSED + value
        path = os.path.normpath(os.path.join(self._below[0], value))
        return path if path.startswith(self._below) and "\0" not in path else REFUSED + value


def stored_image(path: str, data: bytes | None = None) -> dict[str, Any]:
    """An image as a column of images takes it; a path that is not UTF-8 makes one that is refused when read."""
    if data is None and not is_utf8(path):
        name = escaped(path)
        message = f"the path {name} is not UTF-8; rename the file."
        return {
            "bytes": None,
            "path": refused_location("file name not UTF-8", message, name.replace("\n", "\\n")),
        }
    return {"bytes": data, "path": escaped(path)}


def undecoded(dataset: Any) -> Any:
    """The dataset as plain Python values, with nothing decoded; works for streams too.

    A file declares its column types, so a hostile file could make `datasets` open any path, chains of schemes
    included. So `datasets` must never decode a column.
    """
    dataset = dataset.with_format(None)
    for name, feature in (dataset.features or {}).items():
        plain = _undecoded_feature(feature)
        if plain != feature:
            dataset = dataset.cast_column(name, plain)
    return dataset


def _undecoded_feature(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: _undecoded_feature(column) for name, column in feature.items()}
    if isinstance(feature, list | tuple):
        return type(feature)(_undecoded_feature(item) for item in feature)
    if getattr(feature, "decode", False) is True:  # images, audio, video, PDF, ...
        return replace(feature, decode=False)
    if hasattr(feature, "feature"):  # a list
        return replace(feature, feature=_undecoded_feature(feature.feature))
    return feature


def with_locations(
    data: Any, column: str, folder: str | Sequence[str], root: str | None = None, written_below: Sequence[str] = ()
) -> Any:
    """Resolve the paths of image files by [`ImagePlaces`]; images with bytes stay. Works for streams too.

    Args:
        data (`datasets.Dataset` or `datasets.IterableDataset`): The rows.
        column (`str`): The images' column.
        folder (`str`, or a sequence of them): Where relative paths start: the data's folder, or that of each row (not
            of streams).
        root (`str`, *optional*): Another folder below which paths may lead.
        written_below (`Sequence[str]`, *optional*): Folders below which absolute paths may lead, because `datasets`
            wrote them.
    """
    # The columns of some streams are not known before they are read.
    feature = None if data.features is None else data.features.get(column)
    if data.features is not None and not may_have_paths(feature):
        return data
    data = undecoded(data)
    locate = functools.partial(_location, root=root, written_below=tuple(written_below))
    if isinstance(data, datasets.Dataset):
        return _located_rows(data, column, folder, locate)
    return data.map(
        _located_row, fn_kwargs={"column": column, "folder": folder, "locate": locate}, features=data.features
    )


def located_from_hub(data: Any, column: str, root: str | None = None) -> Any:
    """A hub dataset whose image paths may lead to files that `datasets` downloaded; relative ones lead nowhere."""
    caches = (str(datasets.config.HF_DATASETS_CACHE), HF_HUB_CACHE)
    return with_locations(data, column, caches[0], root, written_below=caches)


def load_saved(folder: str) -> datasets.Dataset | datasets.DatasetDict:
    """Load what `datasets` saved in a folder; ValueError if it has no rows, or a file is a pipe or device."""
    for part in (Path(folder), *(path for path in Path(folder).iterdir() if path.is_dir())):
        for path in (*(part / name for name in _SAVED), *part.glob("*.arrow")):
            check_regular(path)
    try:
        return datasets.load_from_disk(folder)
    except IndexError as error:  # `datasets` raises this for a folder without rows
        raise ValueError(f"The dataset {folder} is empty: it has no rows.") from error


def located_in_saved(folder: str, data: datasets.Dataset, column: str, root: str | None = None) -> datasets.Dataset:
    """A dataset that `datasets` saved, whose absolute image paths may lead anywhere."""
    return with_locations(data, column, folder, root, written_below=("/",))


def load_parquet(
    files: Sequence[str], image_column_of: Callable[[Any], str] | None, root: str | None, streaming: bool
) -> Any:
    """The rows of Parquet files, with paths in the column `image_column_of(data)` relative to their file's folder."""

    columns = common_columns(files)

    def load(files: Sequence[str]) -> Any:
        keywords = {"data_files": {"part": list(files)}, "split": "part", "streaming": streaming}
        try:
            with raising_causes():
                return datasets.load_dataset("parquet", columns=columns, **keywords)
        except (pa.ArrowException, OSError):
            check_content(files)
            raise

    if image_column_of is None:
        return load(files)
    if not streaming:
        data = load(files)
        column, folders = image_column_of(data), [os.path.dirname(file) for file in files]
        if len(set(folders)) == 1 or not may_have_paths(data.features.get(column)):
            return with_locations(data, column, folders[0], root)
        counts = [pq.read_metadata(file).num_rows for file in files]
        return with_locations(data, column, [f for f, n in zip(folders, counts, strict=True) for _ in range(n)], root)
    by_folder = [(folder, load(list(group))) for folder, group in itertools.groupby(files, os.path.dirname)]
    located = [with_locations(data, image_column_of(data), folder, root) for folder, data in by_folder]
    return located[0] if len(located) == 1 else datasets.concatenate_datasets(located)


def may_have_paths(feature: Any) -> bool:
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("string", "large_string")
    return isinstance(feature, datasets.Image | datasets.Video) or (
        isinstance(feature, dict) and {"bytes", "path"} <= feature.keys()
    )


def _location(value: Any, folder: str, root: str | None, written_below: Sequence[str]) -> str | None:
    if isinstance(value, str) and os.path.isabs(value):
        for each in written_below:
            location = ImagePlaces(each)(value)
            if not location.startswith(REFUSED):
                return location
    return ImagePlaces(folder, root)(value)


def _located_row(row: dict[str, Any], column: str, folder: str, locate: Callable) -> dict[str, Any]:
    value = row.get(column)
    if isinstance(value, str):
        return {column: locate(value, folder)}
    if isinstance(value, dict) and value.get("bytes") is None:
        return {column: {**value, "path": locate(value.get("path"), folder)}}
    return {}


def _located_rows(
    data: datasets.Dataset, column: str, folder: str | Sequence[str], locate: Callable
) -> datasets.Dataset:
    """Only the paths are rewritten; the bytes are not copied."""
    stored = data.flatten_indices() if data._indices is not None else data
    chunks, start = [], 0
    for chunk in stored.data.column(column).chunks:
        folders = itertools.repeat(folder) if isinstance(folder, str) else folder[start : start + len(chunk)]
        chunks.append(_located_chunk(chunk, folders, locate))
        start += len(chunk)
    if all(new is old for new, old in zip(chunks, stored.data.column(column).chunks)):
        return data
    names, feature = stored.column_names, stored.features[column]
    column_type = stored.features.arrow_schema.field(column).type
    added = stored.remove_columns(column).add_column(column, pa.chunked_array(chunks, column_type), feature=feature)
    return added.select_columns(names)


def _located_chunk(chunk: pa.Array, folders: Any, locate: Callable) -> pa.Array:
    if not pa.types.is_struct(chunk.type):
        paths = [locate(path, folder) for path, folder in zip(chunk.to_pylist(), folders)]
        return pa.array(paths, chunk.type)
    names = [field.name for field in chunk.type]
    fields = dict(zip(names, chunk.flatten()))
    if pa.types.is_null(fields["path"].type) or fields["bytes"].null_count == 0:
        return chunk
    inside = fields["bytes"].is_valid().to_pylist()
    paths = [
        path if has_bytes else locate(path, folder)
        for path, has_bytes, folder in zip(fields["path"].to_pylist(), inside, folders)
    ]
    fields["path"] = pa.array(paths, fields["path"].type)
    return pa.StructArray.from_arrays([fields[name] for name in names], fields=list(chunk.type), mask=chunk.is_null())
