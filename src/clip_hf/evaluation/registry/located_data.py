# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Images with several named things and where each of them is: the data that explanations are measured on."""

import functools
import io
import os
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from PIL import Image

from ...data.data_sources import Rows, find_source
from ...data.image_text import check_column
from ...data.locations import undecoded
from .evaluation_data import ImageDataOptions
from .evaluation_source import EvaluationSource


@dataclass
class LocatedData:
    """Images, the names of what is in each, and where it is.

    Args:
        name (`str`): The dataset's name.
        data (`datasets.Dataset`): A row for each image: `image` (undecoded), `labels` (names), and `mask` (undecoded,
            0 where none of them is, k + 1 where the k-th is) or `boxes` (left, top, right, bottom in pixels of each).
        split (`str`): The split of the dataset.
        source (`str`): Where it was.
    """

    name: str
    data: datasets.Dataset
    split: str = "test"
    source: str = ""
    image_column: str = "image"

    def __len__(self) -> int:
        return len(self.data)

    @functools.cached_property
    def labels(self) -> list[list[str]]:
        """The names of what is in each image."""
        return [list(names) for names in self.data["labels"]]

    @functools.cached_property
    def names(self) -> list[str]:
        """All different names, sorted."""
        return sorted({name for names in self.labels for name in names})

    def masks(self, row: int, size: tuple[int, int]) -> np.ndarray:
        """Where each named thing of an image of `size` (width, height) is, bool (labels, height, width).

        Raises:
            ValueError: if the mask has another size than the image, or a box lies outside of it.
        """
        found, number = self.data[row], len(self.labels[row])
        width, height = size
        if "mask" in found:
            stored = found["mask"]
            with Image.open(stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"])) as file:
                values = np.asarray(file)
            if values.shape != (height, width):
                raise ValueError(
                    f"The mask of row {row} has the shape {values.shape}; its image, {width} x {height} pixels, needs "
                    f"{(height, width)}: one value a pixel, 0 for nothing and k + 1 for the k-th label."
                )
            return values == np.arange(1, number + 1)[:, None, None]
        masks = np.zeros((number, height, width), bool)
        for mask, box in zip(masks, found["boxes"], strict=True):
            left, top, right, bottom = box
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                raise ValueError(
                    f"The box {list(box)} of row {row} must be left, top, right, bottom in pixels, in order and "
                    f"within the image of {width} x {height}."
                )
            mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
        return masks


def load_located(source: str | os.PathLike | datasets.Dataset, options: ImageDataOptions | None = None) -> LocatedData:
    """Load images with the names and places of what is in them.

    A source is `"openmoji_scenes"`, a `datasets.Dataset`, a folder that `datasets` saved, or Parquet files, with the
    columns

    - `image`: the images;
    - `labels`: a list of names for each image, of which no two are equal;
    - `mask`: an image of the same size with one value a pixel: 0 for nothing, k + 1 for the k-th label; or
    - `boxes`: for each label left, top, right, bottom in pixels.

    Args:
        source (`str`, `os.PathLike` or `datasets.Dataset`): Which data.
        options ([`ImageDataOptions`], *optional*): `image_column`, `split`, `limit` and `image_root`.

    Returns:
        [`LocatedData`].

    Raises:
        ValueError: if there are no such data, split or column, no rows, or a row has no labels, labels twice, or
            another number of boxes than of labels.
        TypeError: if `source` is nothing that can hold data.
    """
    options = options or ImageDataOptions()
    opened = EvaluationSource(find_source(source, labelled=False))
    split = opened.resolve(options.split)
    data = opened.load(split, lambda rows: _read(rows, options))
    if options.limit is not None and len(data) > options.limit:
        data = data.select(np.arange(options.limit) * len(data) // options.limit)
    _check_rows(data)
    return LocatedData(opened.name, data, split, opened.location)


def _read(rows: Rows, options: ImageDataOptions) -> datasets.Dataset:
    if rows.kind not in ("dataset", "parquet"):
        raise ValueError(
            "Images with places are read from Parquet or a folder saved by `datasets`, with the columns 'image', "
            f"'labels', and 'mask' or 'boxes'; this is a {rows.kind}."
        )
    image_column = options.image_column or "image"

    def column(data: Any) -> str:
        check_column(data.column_names, image_column, "images", "image_column")
        return image_column

    data = rows.read_dataset(column, options.image_root)
    places = next((name for name in ("mask", "boxes") if name in data.column_names), None)
    if "labels" not in data.column_names or places is None:
        raise ValueError(
            "The dataset must have a column 'labels', a list of names for each image, and 'mask' or 'boxes' with "
            f"their places; it has {', '.join(map(repr, data.column_names))}."
        )
    data = data.select_columns([column(data), "labels", places])
    if image_column != "image":
        data = data.rename_column(image_column, "image")
    return undecoded(data)


def _check_rows(data: datasets.Dataset) -> None:
    boxes = data["boxes"] if "boxes" in data.column_names else None
    for row, names in enumerate(data["labels"]):
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(name, str) and name.strip() for name in names)
        ):
            raise ValueError(f"Row {row} has the labels {names!r:.80}; it must have a list of one or more names.")
        if len(set(names)) < len(names):
            raise ValueError(f"Row {row} has a label twice ({names!r:.80}); a map of it cannot tell which is meant.")
        if boxes is not None and len(boxes[row]) != len(names):
            raise ValueError(f"Row {row} has {len(boxes[row])} boxes for {len(names)} labels; give one for each.")
