# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Captioned images from where people have them: one function for all kinds of files, folders and the hub."""

import glob
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from .file_readers import folder_rows, images_in, row_columns, table_columns, table_rows, tar_rows
from .image_text import check_columns, undecoded_images
from .openmoji import load_openmoji
from .pair_options import PairOptions
from .streaming import MixedStream


_TABLES = (".csv", ".tsv", ".jsonl", ".json")
_KNOWN = (".parquet", ".tar", *_TABLES)
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_FOLDER_SHARDS = 256
_PEEKED_ROWS = 100
# Raised when the same files give other rows than before.
_RECIPE_VERSION = "1"

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
      member `.jpg`, `.png`, `.webp` ..., the caption that of `.txt`, or the field `options.caption_column` of `.json`;
    - a table (`.csv`, `.tsv`, `.jsonl`), or a pattern for several; paths of images are absolute, or relative to the
      table's folder;
    - a folder of images with `metadata.csv` or `metadata.jsonl` (the path in `file_name`), or with a text `cat.txt`
      beside each image `cat.jpg`, in subfolders too;
    - a data set on the hub, `"owner/name"` or `"owner/name:config"`.

    A folder may have a subfolder for each split.

    Args:
        sources (`str`, `os.PathLike`, or a sequence of them):
            One or several sources.
        weights (`Sequence[float]`, *optional*):
            Share of the pairs from each source, in any unit. Map-style: an epoch has each row at least once, and as
            many repetitions of smaller sources as that takes. Streams: each source is passed over on its own. Without
            weights each row comes once in an epoch.
        split (`str`, *optional*):
            Which part; by default `"train"` where a source has parts, else all rows.
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
    options, split = options or PairOptions(), split or "train"
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


def split_names(source: str | os.PathLike) -> tuple[str, ...]:
    """
    The parts that a source has, as [`load_pairs`] takes them for `split`.

    Args:
        source (`str` or `os.PathLike`):
            One source, see [`load_pairs`].

    Returns:
        `tuple[str, ...]`: their names; empty where the source has no parts.
    """
    if str(source) == "openmoji":
        return ("train", "test")
    splits = Path(source) / "dataset_dict.json"
    if splits.is_file():
        return tuple(json.loads(splits.read_text())["splits"])
    return tuple(name for name in ("train", "test") if (Path(source) / name).is_dir())


def _check_weights(weights: Sequence[float], sources: Sequence[Any]) -> None:
    if len(weights) != len(sources):
        raise ValueError(f"There are {len(weights)} weights for {len(sources)} sources; give one for each.")
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ValueError(f"The weights are {list(weights)}; each must be a number above 0.")


def _load(source: str, split: str, streaming: bool, options: PairOptions) -> Data:
    data = _read(source, split, streaming, options)
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


def _read(source: str, split: str, streaming: bool, options: PairOptions) -> Data:
    """The rows of one source, whatever kind it is."""
    if source == "openmoji":
        return _split_of(load_openmoji(), split, source)
    path = Path(source)
    if path.is_dir() and any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        try:
            return _split_of(datasets.load_from_disk(source), split, source)
        except IndexError as error:  # what `datasets` makes of a folder without rows
            raise ValueError(f"The data set {source} is empty.") from error
    if path.is_dir():
        return _read_folder(path / split if (path / split).is_dir() else path, split, streaming, options)
    files = files_of(source)
    if files:
        return _read_files(files, split, streaming, options)
    name, _, config = source.partition(":")
    if os.sep == source[:1] or source.startswith((".", "~")) or any(name.endswith(ending) for ending in _KNOWN):
        raise ValueError(f"There is no file, folder or pattern {source} with data.")
    try:
        return datasets.load_dataset(name, config or None, split=split, streaming=streaming)
    except Exception as error:  # hub, network and data set errors have many types
        raise ValueError(
            f"The data set {source} is neither a file nor a folder here, and cannot be loaded from the hub: {error}"
        ) from error


def _split_of(data: Any, split: str, source: str) -> datasets.Dataset:
    if isinstance(data, datasets.Dataset):
        return data
    if split not in data:
        raise ValueError(f"The data set {source} has no split `{split}`; it has {', '.join(data)}.")
    return data[split]


def files_of(source: str) -> list[str]:
    """The files that a path or pattern stands for, sorted; `{000..127}` counts as in a shell."""
    found = _BRACES.search(source)
    if found:
        first, last = found.groups()
        numbers = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        named = [source[: found.start()] + number + source[found.end() :] for number in numbers]
        return [file for name in named for file in files_of(name)]
    if "://" in source and source.lower().endswith((".parquet", ".tar")):
        return [source]
    if os.path.isfile(source):
        return [source]
    return sorted(path for path in glob.glob(source, recursive=True) if os.path.isfile(path))


def _read_folder(folder: Path, split: str, streaming: bool, options: PairOptions) -> Data:
    for ending in (".parquet", ".tar"):
        files = sorted(str(path) for path in folder.rglob(f"*{ending}"))
        # As on the hub, where a file's name begins with the split's.
        named = [file for file in files if re.match(rf"{re.escape(split)}\b|{re.escape(split)}_", Path(file).name)]
        if files:
            return _read_files(named or files, split, streaming, options)
    for ending in _TABLES:
        if (folder / f"metadata{ending}").is_file():
            return _read_files([str(folder / f"metadata{ending}")], split, streaming, options)
    images = images_in(folder)
    if not images:
        raise ValueError(f"The folder {folder} holds no images, Parquet files, tars or metadata.")
    parts = [images[start::_FOLDER_SHARDS] for start in range(min(len(images), _FOLDER_SHARDS))]
    roles = row_columns(options)
    check_columns([options.image_column, options.caption_column], options)
    return _from_rows(folder_rows, {"parts": parts, "roles": roles}, roles, streaming, in_memory=True)


def _read_files(files: list[str], split: str, streaming: bool, options: PairOptions) -> Data:
    endings = {Path(file).suffix.lower() for file in files}
    if len(endings) > 1:
        raise ValueError(f"The files are of different kinds, {', '.join(sorted(endings))}; name each kind on its own.")
    (ending,) = endings
    if ending == ".parquet":
        name = split.partition("[")[0]  # "train[:10%]" is a part of a split
        return datasets.load_dataset("parquet", data_files={name: files}, split=split, streaming=streaming)
    roles, stamp = row_columns(options), "" if streaming else _stamp(files)
    if ending == ".tar":
        return _from_rows(tar_rows, {"tars": files, "roles": roles, "stamp": stamp}, roles, streaming)
    if ending not in _TABLES:
        raise ValueError(f"{files[0]} is no kind of file that can be read; there are {', '.join(_KNOWN)}.")
    for file in files:
        columns = table_columns(file, options)
        if not columns:
            raise ValueError(f"The data set {file} is empty.")
        check_columns(columns, options)
    return _from_rows(table_rows, {"tables": files, "roles": roles, "stamp": stamp}, roles, streaming)


def _stamp(files: Sequence[str]) -> str:
    """Something that changes with the files, and with what is made of them, for `datasets`' cache."""
    stats = [os.stat(file) for file in files if os.path.exists(file)]
    return " ".join([_RECIPE_VERSION, *(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)])


def _from_rows(
    read: Callable, arguments: dict[str, Any], roles: dict[str, str], streaming: bool, in_memory: bool = False
) -> Data:
    if streaming:
        # Without features: what has a wrong type is found, and counted, when it is read.
        return datasets.IterableDataset.from_generator(read, gen_kwargs=arguments)
    first = [row for row, _ in zip(read(**arguments), range(_PEEKED_ROWS))]
    as_list = any(isinstance(row[name], list) for row in first for name, role in roles.items() if role == "caption")
    text = datasets.Value("string")
    kinds = {"image": datasets.Image(decode=False), "caption": datasets.List(text) if as_list else text, "text": text}
    features = datasets.Features({name: kinds[role] for name, role in roles.items()})
    arguments = {"read": read, "as_list": as_list, **arguments}
    if in_memory:
        return datasets.Dataset.from_list(list(_typed_rows(**arguments)), features=features)
    if not first:
        return datasets.Dataset.from_dict({name: [] for name in features}, features=features)
    return datasets.Dataset.from_generator(_typed_rows, features=features, gen_kwargs=arguments)


def _typed_rows(read: Callable, as_list: bool, roles: dict[str, str], **arguments) -> Iterator[dict[str, Any]]:
    """Rows as Arrow takes them: a caption that is no text becomes None, which is reported later."""
    for row in read(roles=roles, **arguments):
        for name, role in roles.items():
            value = row[name]
            if role == "caption":
                texts = [value] if isinstance(value, str) else value
                texts = texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else None
                row[name] = texts if as_list or texts is None else " ".join(texts)
            elif role == "text" and value is not None:
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
        if role == "text" and data.features[name] != datasets.Value("string"):
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


__all__ = ["load_pairs", "split_names"]
