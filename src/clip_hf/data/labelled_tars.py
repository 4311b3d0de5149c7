# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Webdataset tars as tables: images or films, and a column for each other member and each field of `.json`."""

import io
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from ..model.image_reading_clip_hf import DEFAULT_LIMITS, ImageLimits
from .file_patterns import stamp_of
from .generated_datasets import generate_dataset
from .media import IMAGES, Media
from .tables import PEEKED_ROWS
from .tars import TarSample, all_samples
from .texts import is_utf8


_TEXTS = ("txt", "text", "transcript")
_NUMBERS = ("cls", "cls2", "index", "inx", "id")
_MOST_NUMBERS = 2**20


def read_tars(tars: list[str], limits: ImageLimits = DEFAULT_LIMITS, media: Media = IMAGES) -> datasets.Dataset:
    """The samples of tars, images (or films) undecoded; see [`tar_rows`] for the arguments.

    The columns are the image under its ending (`jpg`), or `image` (`video`) if there are several; texts, whole
    numbers and arrays (`txt`, `cls`, `npy`) under theirs; and the fields of `.json` under their names. The first
    samples decide on the columns. What a sample lacks, or has of another type, is None.

    Raises:
        ValueError: if a tar cannot be read to its end.
    """
    first = list(itertools.islice(all_samples(tars, partial(_is_wanted, media=media), limits), PEEKED_ROWS))
    images = {ending for sample in first if (ending := sample.image(media.role, media)) is not None}
    image_column = images.pop() if len(images) == 1 else media.role
    rows = [_values(sample) for sample in first]
    columns = dict.fromkeys(name for row in rows for name in row if name != image_column)
    types = {name: _type_of([row.get(name) for row in rows]) for name in columns}
    features = datasets.Features.from_arrow_schema(pa.schema(list(types.items())))
    features = datasets.Features({image_column: media.feature, **features})
    if not first:
        return datasets.Dataset.from_dict({image_column: []}, features=features)
    arguments = {"tars": tuple(tars), "types": types, "image_column": image_column, "limits": limits}
    arguments |= {} if media is IMAGES else {"media": media}  # images keep their place in the cache
    return generate_dataset(_rows, features, {**arguments, "stamp": stamp_of(tars)})


def _is_wanted(ending: str, media: Media) -> bool:
    return media.has_ending(ending) or ending.rpartition(".")[2] in ("json", "npy", *_TEXTS, *_NUMBERS)


def _rows(
    tars: tuple[str, ...],
    types: dict[str, pa.DataType],
    image_column: str,
    stamp: str,
    limits: ImageLimits,
    media: Media = IMAGES,
) -> Iterator[dict[str, Any]]:
    for sample in all_samples(tars, partial(_is_wanted, media=media), limits):
        values = _values(sample)
        row = {name: _as_type(values.get(name), kind) for name, kind in types.items()}
        yield {image_column: sample.value(media.role, media.role), **row}


def _values(sample: TarSample) -> dict[str, Any]:
    """The columns of a sample beside its image."""
    values = sample.fields()
    for ending, (_, content) in sample.members.items():
        kind = ending.rpartition(".")[2]
        if kind == "npy":
            values[ending] = _array(content)
        elif kind in (*_NUMBERS, *_TEXTS):
            text = content.decode("utf-8-sig", "replace").strip()
            is_number = kind in _NUMBERS and text.lstrip("-").isdecimal() and len(text) < 19
            values[ending] = int(text) if is_number else text
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """Values and lists of values; nested values, and texts that are not UTF-8, become JSON."""
    items = value if isinstance(value, list) else [value]
    is_plain = all(is_utf8(item) if isinstance(item, str) else not isinstance(item, list | dict) for item in items)
    return value if is_plain else json.dumps(value)


def _array(content: bytes) -> list | None:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
        # An axis of length 0 takes no bytes in the file, and may come with others of any length.
        fits = math.prod(max(side, 1) for side in array.shape) <= _MOST_NUMBERS and array.dtype.itemsize > 0
        return array.tolist() if fits else None
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError):
        return None


def _type_of(values: Iterable[Any]) -> pa.DataType:
    try:
        kind = pa.array(values).type
    except (pa.ArrowException, OverflowError):
        return pa.string()
    return pa.string() if pa.types.is_null(kind) else kind


def _as_type(value: Any, kind: pa.DataType) -> Any:
    if value is not None and pa.types.is_string(kind):
        return value if isinstance(value, str) else str(value)
    try:
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return None
