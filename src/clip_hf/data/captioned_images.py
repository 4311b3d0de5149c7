# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Captioned images and films from where people have them: one function for all kinds of files, folders and the hub."""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from .data_sources import Data, DataSource, HubSource, Rows, find_source
from .file_patterns import stamp_of
from .generated_datasets import generate_dataset
from .image_folders import LABEL, contiguous_parts, folder_rows, has_images, has_texts, images_in
from .image_text import check_columns, undecoded_images
from .media import MEDIA, MEDIA_BY_ROLE, VIDEOS, Media, find_media
from .pair_options import PairOptions, named_columns, row_columns
from .parts import parts_in, read_parts
from .streaming import MixedStream
from .tables import FILE_NAME, PEEKED_ROWS, table_columns, table_rows
from .tars import check_tars, tar_rows
from .texts import escaped, stored_captions, with_class_names


_FOLDER_SHARDS = 256


def load_pairs(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    weights: Sequence[float] | None = None,
    split: str | None = None,
    streaming: bool = False,
    options: PairOptions | None = None,
    seed: int = 0,
) -> datasets.Dataset | datasets.IterableDataset | MixedStream:
    """Load captioned images, or films with `options.media="videos"`, from one or several sources, undecoded.

    A source is one of:

    - `"openmoji"`, see [`load_openmoji`], or another dataset that is made on this machine and has captions;
    - a folder that `datasets` saved with `save_to_disk`;
    - Parquet files: a file, a folder of them, or a pattern such as `"data/*.parquet"`;
    - webdataset tars: a file, a folder of them, or a pattern such as `"data/{00000..00099}.tar"`; the image is the
      member `.jpg`, `.png`, `.webp` ... (`.input.jpg` with `options.image_column="input"`; of films `.mp4`, `.webm`
      ...), the caption that of `.txt`, or the field `caption` of `.json`; with `options.caption_column="recaption"`
      the member `.recaption` or `.recaption.txt`, or that field of `.json`;
    - a table (`.csv`, `.tsv`, `.jsonl`, or `.json` with a list of rows), or a pattern for several; paths of images are
      relative to the table's folder and lead below it, or below `options.image_root`;
    - a folder of images with `metadata.csv` or `metadata.jsonl` (the path in `file_name`), or with a text `cat.txt`
      beside each image `cat.jpg`, in subfolders too;
    - a dataset on the hub, `"owner/name"` or `"owner/name:config"`.

    A folder with the name of a built-in dataset is given as `"./openmoji"`. Files are named as in a shell: `"*"`,
    `"{a,b}"`, `"{00000..00099..2}"`; `"a.tar::b.tar"` are several, as in open_clip. Parquet files and tars may be URLs
    of http, https, s3, gs, az, abfs and hf.

    A folder may have a subfolder for each part, such as train and test, or a table: `train.csv` and `test.csv`.

    Args:
        sources (`str`, `os.PathLike`, or a sequence of them): One or several sources.
        weights (`Sequence[float]`, *optional*): Share of the pairs from each source, in any unit. Map-style: an epoch
            has each row at least once, and as many repetitions of smaller sources as that takes. Streams: each source
            is passed over on its own. Without weights each row comes once in an epoch.
        split (`str`, *optional*): Which part of every source: a name of [`split_names`], or a slice such as
            `"train[:10%]"` (not of streams). By default the part "train" where a source has parts, else all rows.
            Parts are the splits that `datasets` knows; subfolders called train, validation or test (or val, dev, ...);
            Parquet files and tars whose names begin so. Data without parts count as the part "train".
        streaming (`bool`, *optional*, defaults to `False`): Whether to read the rows in sequence, instead of making
            them available in any order (which copies Parquet and tars to the cache of `datasets`).
        options ([`PairOptions`], *optional*): Names the columns, which are checked.
        seed (`int`, *optional*, defaults to 0): Decides which rows are repeated for `weights`.

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
    return _mixed(_alike(loaded, options), weights, seed)


def _check_weights(weights: Sequence[float], sources: Sequence[Any]) -> None:
    if len(weights) != len(sources):
        raise ValueError(f"There are {len(weights)} weights for {len(sources)} sources; give one for each.")
    if not all(weight > 0 and math.isfinite(weight) for weight in weights):
        raise ValueError(f"The weights are {list(weights)}; each must be a number above 0.")


def split_names(source: str | os.PathLike, media: str = "images") -> tuple[str, ...]:
    """The names of a source's parts, as [`load_pairs`] takes them for `split`; empty if it has none.

    Args:
        source (`str` or `os.PathLike`): One source, see [`load_pairs`].
        media (`str`, *optional*, defaults to `"images"`): As in [`PairOptions`].

    Raises:
        ValueError: if there is no such source.
    """
    return find_source(str(source), labelled=False, media=find_media(media)).part_names


def _load(source: str, split: str | None, streaming: bool, options: PairOptions) -> Data:
    found = find_source(source, labelled=False, media=find_media(options.media))
    data = _read(found, split, streaming, options)
    if isinstance(data, datasets.Dataset) and len(data) == 0:
        raise ValueError(f"The dataset {source} is empty.")
    if data.column_names is not None:
        check_columns(data.column_names, options)
        data = undecoded_images(data, options.image_column, find_media(options.media))
        data = with_class_names(data, named_columns(options))
    if streaming and isinstance(data, datasets.Dataset):
        return data.to_iterable_dataset(num_shards=min(len(data), _FOLDER_SHARDS))
    return data


def _read(source: DataSource | HubSource, split: str | None, streaming: bool, options: PairOptions) -> Data:
    """The rows of one source that `split` names."""
    if isinstance(source, HubSource):
        return read_pairs(source.rows(split or "train"), options, streaming, go_on=True)
    if split is None:
        if source.whole is not None:
            return read_pairs(source.whole, options, streaming, go_on=True)
        split = "train"
    split = parts_in(split, source.location, source.part_names)
    if streaming and split not in (*source.part_names, "train"):
        # A stream cannot be sliced without reading it to its end.
        raise ValueError(f"`split` is {split!r}, but streams have no slices: leave `streaming` out, or name a part.")
    return read_parts(split, lambda part: read_pairs(source.rows(part), options, streaming, go_on=True))


# ------------------------------------------------------------------------------------------------- rows of one source


def read_pairs(rows: Rows, options: PairOptions, streaming: bool = False, go_on: bool = False) -> Data:
    """Read rows as captioned images.

    Args:
        rows ([`Rows`]): Where they are.
        options ([`PairOptions`]): Names the columns.
        streaming (`bool`, *optional*, defaults to `False`): Whether to read the rows in sequence.
        go_on (`bool`, *optional*, defaults to `False`): Whether the rest of a damaged tar is one row that cannot be
            used, as in training; else it is an error. A stream says itself what becomes of it.

    Raises:
        ValueError: if the rows cannot be read, are none, or lack a column of `options`.
    """
    if rows.kind in ("dataset", "parquet"):
        return rows.read_dataset(lambda data: options.image_column, options.image_root, streaming)
    roles = row_columns(options)
    if rows.kind == "folder":
        media = find_media(options.media)
        (images,) = images_in(rows.folder, media=media)
        if not images:
            raise ValueError(
                f"The folder {rows.folder} holds no {media.noun}s, Parquet files, tars or metadata."
                f"{_other_media(rows.folder, media)}"
            )
        check_columns([options.image_column, options.caption_column], options)
        if options.caption_column != LABEL and not has_texts(images):
            raise ValueError(
                f"No {media.noun} in {rows.folder} has a `.txt` beside it, so none has a caption. If the folders are "
                f"named as classes, `caption_column` {LABEL!r} (--caption_column label) takes their names."
            )
        arguments = {"parts": contiguous_parts(images, _FOLDER_SHARDS), "roles": roles}
        return _from_rows(folder_rows, arguments, streaming, in_memory=True)
    files, shared = list(rows.files), {"roles": roles, "stamp": "" if streaming else stamp_of(rows.files)}
    if rows.kind == "tar":
        check_tars(files, roles, options.image_limits)
        # `datasets` makes a shard of each item of a list; what reads all tars at once gets a tuple.
        tars = files if streaming else tuple(files)
        arguments = {
            "tars": tars,
            "limits": options.image_limits,
            "whole": not streaming,
            "go_on": go_on and not streaming,
        }
        return _from_rows(tar_rows, {**arguments, **shared}, streaming)
    for file in files:
        columns = table_columns([file])
        if not columns:
            raise ValueError(f"The dataset {file} is empty.")
        if options.image_column not in columns and FILE_NAME in columns:
            columns[columns.index(FILE_NAME)] = options.image_column
        check_columns(columns, options)
    # Absolute, because a cache of rows does not know where a relative path started.
    tables = [os.path.abspath(file) for file in files]
    return _from_rows(table_rows, {"tables": tables, "root": options.image_root, **shared}, streaming)


def _other_media(folder: Path, media: Media) -> str:
    """A hint where a folder holds films and images were looked for, or the other way round."""
    for other in (other for other in MEDIA.values() if other is not media and has_images(folder, other)):
        advice = "give `num_frames` (--num_frames)" if other is VIDEOS else "leave `num_frames` (--num_frames) out"
        return f" It holds {other.noun}s; to train on these, {advice}."
    return ""


def _from_rows(read: Callable, arguments: dict[str, Any], streaming: bool, in_memory: bool = False) -> Data:
    if streaming:
        # No features are declared: values of a wrong type are counted when they are read.
        return datasets.IterableDataset.from_generator(read, gen_kwargs=arguments)
    roles = arguments["roles"]
    first = list(itertools.islice(read(**arguments), PEEKED_ROWS))
    if not first:
        return datasets.Dataset.from_dict({name: [] for name in roles})
    as_list = any(isinstance(row[name], list) for row in first for name, role in roles.items() if role == "caption")
    try:
        return _typed({"read": read, "as_list": as_list, **arguments}, in_memory)
    except _ListFound:
        return _typed({"read": read, "as_list": True, **arguments}, in_memory)


class _ListFound(Exception):
    """A list of captions occurred among strings, so all captions must be lists."""


def _typed(arguments: dict[str, Any], in_memory: bool) -> datasets.Dataset:
    text = datasets.Value("string")
    captions = datasets.List(text) if arguments["as_list"] else text
    kinds = {role: media.feature for role, media in MEDIA_BY_ROLE.items()} | {"caption": captions}
    features = datasets.Features({name: kinds.get(role, text) for name, role in arguments["roles"].items()})
    if in_memory:
        return datasets.Dataset.from_list(list(_typed_rows(**arguments)), features=features)
    return generate_dataset(_typed_rows, features, arguments)


def _typed_rows(read: Callable, as_list: bool, roles: dict[str, str], **arguments) -> Iterator[dict[str, Any]]:
    """Rows as Arrow takes them. What a wrong type makes of them is reported when the row is used."""
    for row in read(roles=roles, **arguments):
        for name, role in roles.items():
            value = row[name]
            if role == "caption":
                if isinstance(value, list) and not as_list:
                    raise _ListFound
                texts = stored_captions(value)
                row[name] = texts if as_list or texts is None else texts[0]
            elif role == "text":
                row[name] = escaped(str(value)) if isinstance(value, str | int | float) else None
            elif role in ("id", "label") and value is not None:
                # A list as JSON, because a column of one file may have numbers, and of the next classes.
                row[name] = json.dumps(value) if isinstance(value, list) else escaped(str(value))
        yield row


# ------------------------------------------------------------------------------------------- several map-style sources


def _alike(loaded: list[datasets.Dataset], options: PairOptions) -> list[datasets.Dataset]:
    """The columns that pairs need, of the same types in every source; captions are lists if they are in one."""
    roles, text = row_columns(options), datasets.Value("string")
    with_lists = {name for name in roles for data in loaded if _is_list(data.features.get(name))}
    _check_labels(loaded, options)
    alike = []
    for data in loaded:
        for name, role in roles.items():
            feature = data.features[name]
            media = MEDIA_BY_ROLE.get(role)
            if media is not None and not isinstance(feature, media.feature_type):
                data = data.cast_column(name, media.feature)
            elif role == "caption" and name in with_lists and not _is_list(feature):
                data = _with_lists(data, name)
            elif role in ("text", "id") and feature != text:
                data = data.cast_column(name, text)
        alike.append(data.select_columns(list(roles)))
    return alike


def _check_labels(loaded: list[datasets.Dataset], options: PairOptions) -> None:
    """Raise a `ValueError` if the sources' labels are of different types."""
    column = options.label_column
    kinds = dict.fromkeys(str(data.features[column]) for data in loaded) if column is not None else {}
    if len(kinds) > 1:
        raise ValueError(
            f"The sources' columns {column!r} (`label_column`) are of different types, {' and '.join(kinds)}; let all "
            "hold vectors, or all classes."
        )


def _is_list(feature: Any) -> bool:
    return isinstance(feature, datasets.List | datasets.LargeList | list)


def _with_lists(data: datasets.Dataset, column: str) -> datasets.Dataset:
    """Replace only this column; the images are not copied."""
    captions = [None if value is None else [value] for value in data[column]]
    captions = pa.array(captions, pa.list_(pa.string()))
    feature = datasets.List(datasets.Value("string"))
    return data.remove_columns(column).add_column(column, captions, feature=feature)


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
