# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows held out of training by a hash of their content, the same in every process and every run."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from typing import Any

import datasets
import pyarrow as pa

from ..model.checks_clip_hf import type_of
from .image_text import check_columns, undecoded_images
from .media import find_media
from .pair_options import PairOptions
from .texts import stable_id, with_class_names


# Captions of more than this share of the rows (and more than a few) are names of classes rather than of images.
_COMMON_SHARE, _FEW = 0.01, 10
# Of an image file these bytes at each end, and its length, tell it from all others: headers and coded pixels.
_END_BYTES = 4096
_AT_ONCE = 1000


def hold_out(
    data: datasets.Dataset, share: float, options: PairOptions | None = None
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Split captioned images into a part to train on and one to evaluate on, by a hash of their content and the seed.

    - Rows with the same image (equal bytes, URL or image id) or an equal caption stay on the same side.
      Captions of more than 1% of the rows, and more than 10, are taken for names of classes, and do not count.
    - A group of such rows larger than half the share is never held out, because it can only go as a whole.
    - The split does not depend on the order of the rows, the number of processes or the folder of the files.
    - The share is drawn, not exact: 0.1 of 635 rows gives about 56 to 71.

    Args:
        data (`datasets.Dataset`): What [`load_pairs`] gave, not a stream.
        share (`float`): The share of rows to hold out, greater than 0 and less than 1.
        options ([`PairOptions`], *optional*): Names the columns, and has the seed.

    Returns:
        `tuple[datasets.Dataset, datasets.Dataset]`: the rows to train on and those held out, both in their order.

    Raises:
        TypeError: if the data are a stream.
        ValueError: if the share is out of its range, or one of the two sides would be empty.
    """
    options = options or PairOptions()
    if not isinstance(data, datasets.Dataset):
        raise TypeError(f"A share can be held out of a `datasets.Dataset`, not of {type_of(data)}.")
    if not 0.0 < share < 1.0:
        raise ValueError(f"`share` is {share}; it must be greater than 0 and less than 1.")
    check_columns(data.column_names, options)
    groups = _Groups(len(data))
    for row, keys in enumerate(_keys(data, options)):
        groups.add(row, keys)
    members = Counter(map(groups.root_of, range(len(data))))
    limit = max(1, share * len(data) / 2)
    sides: list[list[int]] = [[], []]
    for row in range(len(data)):
        root = groups.root_of(row)
        number = stable_id("held out", str(options.seed), str(groups.least_key[root])) / 2**63
        sides[number < share and members[root] <= limit].append(row)
    if not all(sides):
        raise ValueError(
            f"A share of {share:g} of {len(data)} rows holds out {len(sides[1])} of them. Give held-out data of their "
            f"own, or a {'smaller' if sides[1] else 'larger'} share. (Rows with equal images or captions stay "
            "together.)"
        )
    return tuple(data.select(rows, keep_in_memory=True) for rows in sides)


class _Groups:
    """Rows that share a key, directly or through others: a disjoint-set forest."""

    def __init__(self, num_rows: int):
        self.parents = list(range(num_rows))
        self.least_key: dict[int, int] = {}  # of each root: the same whatever the order of the rows
        self._first_row: dict[int, int] = {}

    def root_of(self, row: int) -> int:
        while self.parents[row] != row:
            self.parents[row] = row = self.parents[self.parents[row]]
        return row

    def add(self, row: int, keys: list[int]) -> None:
        self.least_key[row] = min(keys)
        for key in keys:
            root, joined = self.root_of(self._first_row.setdefault(key, row)), self.root_of(row)
            self.parents[joined] = root
            self.least_key[root] = min(self.least_key[root], self.least_key[joined])


def _keys(data: datasets.Dataset, options: PairOptions) -> Iterator[list[int]]:
    """The keys that each row shares with related rows, as numbers; at least one."""
    columns = [options.image_column, options.caption_column, options.image_id_column]
    columns = [name for name in dict.fromkeys(columns) if name in data.column_names]
    data = undecoded_images(data.select_columns(columns), options.image_column, find_media(options.media))
    data = with_class_names(data, [options.caption_column]).with_format("arrow")
    counts: Counter[str] = Counter()
    if options.caption_column in columns:
        for table in data.select_columns([options.caption_column]).iter(_AT_ONCE):
            counts.update(caption for value in table.column(0).to_pylist() for caption in set(_captions(value)))
    most = max(_FEW, _COMMON_SHARE * len(data))
    row = 0
    for table in data.iter(_AT_ONCE):
        others = [name for name in columns if name != options.image_column]
        for image, values in zip(_images(table[options.image_column]), table.select(others).to_pylist(), strict=True):
            captions = _captions(values.get(options.caption_column))
            keys = [image] if image is not None else []
            keys += [stable_id("caption", caption) for caption in captions if counts[caption] <= most]
            if options.image_id_column is not None and values[options.image_id_column] is not None:
                keys.append(stable_id("id", str(values[options.image_id_column])))
            yield keys or [stable_id("row", str(row))]
            row += 1


def _captions(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    return [text.strip().lower() for text in texts if isinstance(text, str) and text.strip()]


def _images(column: pa.ChunkedArray) -> Iterator[int | None]:
    """A number for each image, of its bytes or its path. The bytes of a large file are not copied."""
    for value in column:
        data, path = (value["bytes"], value["path"]) if pa.types.is_struct(value.type) else (value, None)
        if data.is_valid and pa.types.is_string(data.type) | pa.types.is_large_string(data.type):
            data, path = None, data
        if data is not None and data.is_valid:
            buffer = data.as_buffer()
            yield _content_id(buffer.size, buffer[:_END_BYTES].to_pybytes(), buffer[-_END_BYTES:].to_pybytes())
        else:
            yield _path_id(path.as_py()) if path is not None and path.is_valid else None


def _content_id(size: int, start: bytes, end: bytes) -> int:
    return stable_id("bytes", str(size), (start + end).decode("latin1"))


def _path_id(path: str) -> int:
    # The content of a local file, because its folder may have another name on the next machine.
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            with open(path, "rb", buffering=0) as file:
                size, start = os.fstat(file.fileno()).st_size, file.read(_END_BYTES)
                file.seek(max(size - _END_BYTES, 0))
                return _content_id(size, start, file.read(_END_BYTES))
    except (OSError, ValueError):  # ValueError: a null byte
        pass
    return stable_id("path", path)
