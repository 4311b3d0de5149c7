# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Captioned images from where people have them: one function for all kinds of files, folders and the hub."""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..model.image_reading_clip_hf import check_scheme
from .file_patterns import TABLES, data_files, ending_of, files_of, table_parts, without_metadata
from .file_readers import (
    contiguous_parts,
    folder_rows,
    images_in,
    is_hidden,
    row_columns,
    table_columns,
    table_rows,
)
from .image_text import check_columns, undecoded_images
from .locations import load_parquet, load_saved, located_from_hub, located_in_saved
from .openmoji import load_openmoji
from .pair_options import PairOptions
from .parts import files_by_part, is_part_of_its_own, part_folders, parts_in, read_parts
from .streaming import MixedStream
from .tars import check_tars, tar_rows


_KNOWN = (".parquet", ".tar", *TABLES)
_FOLDER_SHARDS = 256
_PEEKED_ROWS = 100
# Raised when the same files give other rows than before.
_RECIPE_VERSION = "2"

Data = datasets.Dataset | datasets.IterableDataset


def load_pairs(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    weights: Sequence[float] | None = None,
    split: str | None = None,
    streaming: bool = False,
    options: PairOptions | None = None,
    seed: int = 0,
) -> datasets.Dataset | datasets.IterableDataset | MixedStream:
    """
    Load captioned images from one or several sources, images undecoded.

    A source is one of:

    - `"openmoji"`, see [`load_openmoji`];
    - a folder that `datasets` saved with `save_to_disk`;
    - Parquet files: a file, a folder of them, or a pattern such as `"data/*.parquet"`;
    - webdataset tars: a file, a folder of them, or a pattern such as `"data/{00000..00099}.tar"`; the image is the
      member `.jpg`, `.png`, `.webp` ... (`.input.jpg` with `options.image_column="input"`), the caption that of
      `.txt`, or the field `caption` of `.json`; with `options.caption_column="recaption"` the member `.recaption` or
      `.recaption.txt`, or that field of `.json`;
    - a table (`.csv`, `.tsv`, `.jsonl`, or `.json` with a list of rows), or a pattern for several; paths of images are
      relative to the table's folder and lead below it, or below `options.image_root`;
    - a folder of images with `metadata.csv` or `metadata.jsonl` (the path in `file_name`), or with a text `cat.txt`
      beside each image `cat.jpg`, in subfolders too;
    - a data set on the hub, `"owner/name"` or `"owner/name:config"`.

    Files are named as in a shell: `"*"`, `"{a,b}"`, `"{00000..00099..2}"`; `"a.tar::b.tar"` are several, as in
    open_clip. Parquet files and tars may be URLs of http, https, s3, gs, az, abfs and hf.

    A folder may have a subfolder for each part, such as train and test, or a table: `train.csv` and `test.csv`.

    Args:
        sources (`str`, `os.PathLike`, or a sequence of them):
            One or several sources.
        weights (`Sequence[float]`, *optional*):
            Share of the pairs from each source, in any unit. Map-style: an epoch has each row at least once, and as
            many repetitions of smaller sources as that takes. Streams: each source is passed over on its own. Without
            weights each row comes once in an epoch.
        split (`str`, *optional*):
            Which part of every source: a name of [`split_names`], or a slice such as `"train[:10%]"` (not of streams).
            By default the part "train" where a source has parts, else all rows. Parts are the splits that `datasets`
            knows; subfolders called train, validation or test (or val, dev, ...); Parquet files and tars whose names
            begin so. Data without parts count as the part "train".
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read the rows in sequence, as the training needs them, instead of making them available in any
            order at once (which copies Parquet and tars to the cache of `datasets`).
        options ([`PairOptions`], *optional*):
            Names the columns, which are checked.
        seed (`int`, *optional*, defaults to 0):
            Decides which rows are repeated for `weights`.

    Returns:
        `datasets.Dataset`; with `streaming` a `datasets.IterableDataset`, or a [`MixedStream`] of several sources.

    Raises:
        ValueError: if there is no such source or split, it is empty, or a column is missing; the message names the
            columns there are.
    """
    options = options or PairOptions()
    sources = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    if not sources:
        raise ValueError("There are no sources; name at least one.")
    if weights is not None:
        _check_weights(weights, sources)
    loaded = [_load(str(source), split, streaming, options) for source in sources]
    if len(loaded) == 1:
        return loaded[0]
    if streaming:
        return MixedStream(loaded, weights)
    return _mixed([_alike(data, options) for data in _same_captions(loaded, options)], weights, seed)


def _check_weights(weights: Sequence[float], sources: Sequence[Any]) -> None:
    if len(weights) != len(sources):
        raise ValueError(f"There are {len(weights)} weights for {len(sources)} sources; give one for each.")
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ValueError(f"The weights are {list(weights)}; each must be a number above 0.")


def split_names(source: str | os.PathLike) -> tuple[str, ...]:
    """
    The parts that a source has, as [`load_pairs`] takes them for `split`.

    Args:
        source (`str` or `os.PathLike`):
            One source, see [`load_pairs`].

    Returns:
        `tuple[str, ...]`: their names, sorted for files and folders; empty where the source has no parts.

    Raises:
        ValueError: if there is no such source.
    """
    return _find(str(source)).parts


def _load(source: str, split: str | None, streaming: bool, options: PairOptions) -> Data:
    data = _read(_find(source), split, streaming, options)
    if isinstance(data, datasets.Dataset):
        if len(data) == 0:
            raise ValueError(f"The data set {source} is empty.")
        check_columns(data.column_names, options)
        data = undecoded_images(data, options.image_column)
        if streaming:
            return data.to_iterable_dataset(num_shards=min(len(data), _FOLDER_SHARDS))
    elif data.column_names is not None:
        check_columns(data.column_names, options)
        data = undecoded_images(data, options.image_column)
    return data


# -------------------------------------------------------------------------------------------- what a source stands for


class _Source:
    """
    A source as it was found, before rows are read.

    Args:
        name (`str`):
            For messages.
        parts (`Mapping[str, Callable]`):
            Reads each part: `read(streaming, options)`.
        whole (`Callable`, *optional*):
            Reads all rows, which is what is meant by no `split`. By default it is the part "train".
    """

    def __init__(self, name: str, parts: Mapping[str, Callable], whole: Callable | None = None):
        self.name, self.readers, self.whole = name, dict(parts), whole

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.readers)

    def read(self, part: str, streaming: bool, options: PairOptions) -> Data:
        # Data without parts count as the part "train".
        return self.readers.get(part, self.whole)(streaming, options)


class _HubSource(_Source):
    """A data set on the hub; which parts it has is asked for only where that is needed, since it takes a download."""

    def __init__(self, name: str):
        self.name = name
        self.arguments = (name.partition(":")[0], name.partition(":")[2] or None)

    @property
    def parts(self) -> tuple[str, ...]:
        try:
            return tuple(datasets.get_dataset_split_names(*self.arguments))
        except Exception as error:  # hub, network and data set errors have many types
            raise self._error(error) from error

    def load(self, split: str, streaming: bool) -> Data:
        try:
            return datasets.load_dataset(*self.arguments, split=split, streaming=streaming)
        except Exception as error:
            try:
                there = self.parts
            except ValueError:
                raise self._error(error) from error
            known = parts_in(split, self.name, there)
            if known == split:
                raise self._error(error) from error
        return self.load(known, streaming)

    def _error(self, error: Exception) -> ValueError:
        return ValueError(
            f"The data set {self.name} is neither a file nor a folder here, and cannot be loaded from the hub: {error}"
        )


def _read(found: _Source, split: str | None, streaming: bool, options: PairOptions) -> Data:
    """The rows of one source that `split` names."""
    if isinstance(found, _HubSource):
        data = found.load(split or "train", streaming)
        return located_from_hub(data, options.image_column, options.image_root)
    if split is None:
        if found.whole is not None:
            return found.whole(streaming, options)
        split = "train"
    split = parts_in(split, found.name, found.parts)
    if streaming and split not in (*found.parts, "train"):
        # Slices of what is there in any order can be told; a stream would be read to its end.
        raise ValueError(f"`split` is {split!r}, but streams have no slices: leave `streaming` out, or name a part.")
    return read_parts(split, lambda part: found.read(part, streaming, options))


def _find(source: str) -> _Source:
    """What a source stands for: its parts, and how to read them."""
    if source == "openmoji":
        return _given(load_openmoji(), source)
    source = os.path.expanduser(source)
    path = Path(source)
    if path.is_dir() and any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        return _saved(load_saved(source), source)
    if path.is_dir():
        return _find_in_folder(path)
    files = without_metadata(files_of(source))
    if files:
        parts = files_by_part(files)
        # Files that are named one by one are what is meant, though all of them be "test".
        whole = partial(_read_files, files) if len(parts) < 2 else None
        return _Source(source, {part: partial(_read_files, own) for part, own in parts.items()}, whole)
    check_scheme(source)
    name = source.partition(":")[0]
    if os.sep == source[:1] or source.startswith((".", "~")) or any(name.endswith(ending) for ending in _KNOWN):
        raise ValueError(f"There is no file, folder or pattern {source} with data.")
    return _HubSource(source)


def _given(data: Any, source: str, locate: Callable = lambda data, options: data) -> _Source:
    """Data that are loaded already; `locate(data, options)` says where their images are."""
    if isinstance(data, datasets.Dataset):
        return _Source(source, {}, lambda streaming, options: locate(data, options))
    return _Source(source, {name: lambda streaming, options, own=data[name]: locate(own, options) for name in data})


def _saved(data: Any, folder: str) -> _Source:
    def locate(data: datasets.Dataset, options: PairOptions) -> datasets.Dataset:
        return located_in_saved(data, options.image_column, folder, options.image_root)

    return _given(data, folder, locate)


def _find_in_folder(folder: Path) -> _Source:
    """Parts are subfolders, or files that are called so; beside tables that are, subfolders only hold the images."""
    subfolders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path.name)]
    tables = {part: own for part, own in table_parts(folder).items() if part is not None}
    if not tables and (parts := part_folders(subfolders)):
        return _Source(str(folder), {part: partial(_read_folder, path) for part, path in parts.items()})
    files = data_files(folder)
    if parts := files_by_part(files, folder) if files else tables:
        own_files = [file for own in parts.values() for file in own]
        whole = partial(_read_files, own_files) if is_part_of_its_own(folder, list(parts)) else None
        return _Source(str(folder), {part: partial(_read_files, own) for part, own in parts.items()}, whole)
    return _Source(str(folder), {}, partial(_read_files, files) if files else partial(_read_pictures, folder))


def _read_folder(folder: Path, streaming: bool, options: PairOptions) -> Data:
    files = data_files(folder)
    return _read_files(files, streaming, options) if files else _read_pictures(folder, streaming, options)


def _read_pictures(folder: Path, streaming: bool, options: PairOptions) -> Data:
    """Images with a table, or with a text beside each."""
    tables = table_parts(folder)
    if None in tables or is_part_of_its_own(folder, list(tables)):
        return _read_files(*tables.values(), streaming, options)
    (images,) = images_in(folder)
    if not images:
        raise ValueError(f"The folder {folder} holds no images, Parquet files, tars or metadata.")
    parts = contiguous_parts(images, _FOLDER_SHARDS)
    roles = row_columns(options)
    check_columns([options.image_column, options.caption_column], options)
    return _from_rows(folder_rows, {"parts": parts, "roles": roles}, roles, streaming, in_memory=True)


def _read_files(files: list[str], streaming: bool, options: PairOptions) -> Data:
    endings = {ending_of(file) for file in files}
    if len(endings) > 1:
        raise ValueError(f"The files are of different kinds, {', '.join(sorted(endings))}; name each kind on its own.")
    (ending,) = endings
    if ending == ".parquet":
        return load_parquet(files, "part", streaming, options.image_column, options.image_root)
    roles, stamp = row_columns(options), "" if streaming else stamp_of(files)
    if ending == ".tar":
        check_tars(files, roles, options.image_limits)
        # `datasets` makes a shard of each item of a list; what reads all tars at once gets a tuple.
        arguments = {"tars": files if streaming else tuple(files), "roles": roles, "stamp": stamp}
        arguments["limits"] = options.image_limits
        return _from_rows(tar_rows, {**arguments, "whole": not streaming}, roles, streaming)
    if ending not in TABLES:
        raise ValueError(f"{files[0]} is no kind of file that can be read; there are {', '.join(_KNOWN)}.")
    for file in files:
        columns = table_columns(file, options)
        if not columns:
            raise ValueError(f"The data set {file} is empty.")
        check_columns(columns, options)
    # Absolute, for a cache of rows does not know from where a relative path started.
    tables = [os.path.abspath(file) for file in files]
    arguments = {"tables": tables, "roles": roles, "stamp": stamp, "root": options.image_root}
    return _from_rows(table_rows, arguments, roles, streaming)


def stamp_of(files: Sequence[str]) -> str:
    """Something that changes with the files, and with what is made of them, for `datasets`' cache."""
    stats = [os.stat(file) for file in files if os.path.exists(file)]
    return " ".join([_RECIPE_VERSION, *(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)])


def _from_rows(
    read: Callable, arguments: dict[str, Any], roles: dict[str, str], streaming: bool, in_memory: bool = False
) -> Data:
    if streaming:
        # Without features: what has a wrong type is found, and counted, when it is read.
        return datasets.IterableDataset.from_generator(read, gen_kwargs=arguments)
    first = list(itertools.islice(read(**arguments), _PEEKED_ROWS))
    if not first:
        return datasets.Dataset.from_dict({name: [] for name in roles})
    as_list = any(isinstance(row[name], list) for row in first for name, role in roles.items() if role == "caption")
    try:
        return _typed(read, arguments, roles, as_list, in_memory)
    except _ListFound:
        return _typed(read, arguments, roles, True, in_memory)


class _ListFound(Exception):
    """A list of captions among captions that are strings: all of them must be lists then."""


def _typed(
    read: Callable, arguments: dict[str, Any], roles: dict[str, str], as_list: bool, in_memory: bool
) -> datasets.Dataset:
    text = datasets.Value("string")
    kinds = {"image": datasets.Image(decode=False), "caption": datasets.List(text) if as_list else text}
    features = datasets.Features({name: kinds.get(role, text) for name, role in roles.items()})
    arguments = {"read": read, "as_list": as_list, **arguments}
    if in_memory:
        return datasets.Dataset.from_list(list(_typed_rows(**arguments)), features=features)
    try:
        return datasets.Dataset.from_generator(_typed_rows, features=features, gen_kwargs=arguments)
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError | _ListFound):
            raise error.__cause__ from None  # which names the line
        raise


def _typed_rows(read: Callable, as_list: bool, roles: dict[str, str], **arguments) -> Iterator[dict[str, Any]]:
    """Rows as Arrow takes them: what a stream could not use either becomes None, which is reported later."""
    for row in read(roles=roles, **arguments):
        for name, role in roles.items():
            value = row[name]
            if role == "caption":
                if isinstance(value, list) and not as_list:
                    raise _ListFound
                texts = [value] if isinstance(value, str) else value
                if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                    texts = None
                row[name] = texts if as_list or texts is None else texts[0]
            elif role == "text" and not isinstance(value, str):
                row[name] = str(value) if isinstance(value, int | float) else None
            elif role == "id" and value is not None:
                row[name] = str(value)
        yield row


# ------------------------------------------------------------------------------------------- several map-style sources


def _same_captions(loaded: list[datasets.Dataset], options: PairOptions) -> list[datasets.Dataset]:
    """Captions as lists in all sources, if they are in one."""
    column = options.caption_column
    if not any(column in data.column_names and _is_list(data.features[column]) for data in loaded):
        return loaded
    return [data if _is_list(data.features[column]) else _with_lists(data, column) for data in loaded]


def _is_list(feature: Any) -> bool:
    return isinstance(feature, datasets.List | datasets.LargeList | list)


def _with_lists(data: datasets.Dataset, column: str) -> datasets.Dataset:
    """Only this column is made anew; the images stay where they are."""
    captions = [None if value is None else [value] for value in data[column]]
    captions = pa.array(captions, pa.list_(pa.string()))
    feature = datasets.List(datasets.Value("string"))
    return data.remove_columns(column).add_column(column, captions, feature=feature)


def _alike(data: datasets.Dataset, options: PairOptions) -> datasets.Dataset:
    """The columns that pairs need, of the same types in every source."""
    roles = row_columns(options)
    data = data.select_columns(list(roles))
    if not isinstance(data.features[options.image_column], datasets.Image):
        data = data.cast_column(options.image_column, datasets.Image(decode=False))
    for name, role in roles.items():
        if role in ("text", "id") and data.features[name] != datasets.Value("string"):
            data = data.cast_column(name, datasets.Value("string"))
    return data


def _mixed(loaded: list[datasets.Dataset], weights: Sequence[float] | None, seed: int) -> datasets.Dataset:
    together = datasets.concatenate_datasets(loaded)
    if weights is None:
        return together
    shares = np.array(weights, np.float64) / sum(weights)
    # The shortest epoch in which each row comes at least once.
    total = max(len(data) / share for data, share in zip(loaded, shares))
    rows, offset = [], 0
    for data, share in zip(loaded, shares):
        count = max(round(total * share), len(data))
        order = np.random.default_rng((seed, offset)).permutation(len(data))
        rows.append(offset + order[np.arange(count) % len(data)])
        offset += len(data)
    return together.select(np.concatenate(rows), keep_in_memory=True)


__all__ = ["load_pairs", "split_names", "stamp_of"]
