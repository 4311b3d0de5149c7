# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Captioned images from a `datasets.Dataset`, prepared for contrastive training."""

import hashlib
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Dataset

from .augmentation import random_square_crop


if TYPE_CHECKING:
    import datasets

    from ..image_processing_clip_hf import ClipHFImageProcessor


def _caption_id(caption: str) -> int:
    """A number that only equal captions share, the same in every process; 63 bits, for a tensor's int64."""
    digest = hashlib.blake2b(caption.strip().lower().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _check_column(dataset: "datasets.Dataset", column: str, content: str) -> None:
    if column not in dataset.column_names:
        raise ValueError(
            f"The data set has no column {column!r}; it has {', '.join(map(repr, dataset.column_names))}. Name the "
            f"one that holds the {content}."
        )


def read_captions(dataset: "datasets.Dataset", caption_column: str = "caption") -> list[list[str]]:
    """
    Read all captions of a data set and check them.

    Args:
        dataset (`datasets.Dataset`):
            Rows with a caption, or a list of captions.
        caption_column (`str`, *optional*, defaults to `"caption"`):
            Their column.

    Returns:
        `list[list[str]]`: the captions of each row, at least one.

    Raises:
        ValueError: if there is no such column, the data set is empty, or a caption is missing, blank or not a string;
            the message says in which row.
    """
    _check_column(dataset, caption_column, "captions")
    if len(dataset) == 0:
        raise ValueError("The data set is empty; training needs at least one captioned image.")
    rows = []
    for row, value in enumerate(dataset[caption_column]):
        captions = [value] if isinstance(value, str) else value
        if not isinstance(captions, Sequence) or len(captions) == 0:
            raise ValueError(f"Row {row} has no caption but {value!r}; it needs a string, or a list of at least one.")
        for caption in captions:
            if not isinstance(caption, str) or not caption.strip():
                raise ValueError(f"Row {row} has the caption {caption!r}; it must be a string that is not blank.")
        rows.append(list(captions))
    return rows


class ImageTextDataset(Dataset):
    """
    Captioned images for training; [`ImageTextCollator`] makes batches of them.

    - An image is resized as `image_processor` does it; instead of its centre crop, a square at a random place is cut
      out, CLIP's only augmentation (Radford et al. 2021, section 2.3).
    - Of an image's captions one is drawn, and one of `templates` is put around it.
    - What is drawn depends on `seed`, the epoch (see [`~ImageTextDataset.set_epoch`]) and the row alone: it is the
      same for any number of processes and of workers.

    An item holds `pixel_values`, an uint8 array `(channels, height, width)`, neither rescaled nor normalised; `text`;
    and `text_id`, a number that only equal captions share.

    Args:
        dataset (`datasets.Dataset`):
            Rows with an image and a caption, or a list of captions.
        image_processor ([`ClipHFImageProcessor`]):
            Decides the sizes.
        image_column (`str`, *optional*, defaults to `"image"`):
            Column of the images.
        caption_column (`str`, *optional*, defaults to `"caption"`):
            Column of the captions.
        templates (`Sequence[str]`, *optional*, defaults to `("{}",)`):
            What is put around a caption, which replaces the `{}`.
        seed (`int`, *optional*, defaults to 0):
            Decides crops, captions and templates.
        cache_images (`bool`, *optional*, defaults to `False`):
            Whether to keep the resized images in memory (a byte for each channel of each pixel). Saves the decoding
            and resizing from the second epoch on; for data sets that fit.

    Raises:
        ValueError: if a column is missing, the data set is empty, a caption is missing or blank, or a template lacks
            its `{}`, all found before the first item is asked for; then, if an image cannot be read, with its row.
    """

    def __init__(
        self,
        dataset: "datasets.Dataset",
        image_processor: "ClipHFImageProcessor",
        image_column: str = "image",
        caption_column: str = "caption",
        templates: Sequence[str] = ("{}",),
        seed: int = 0,
        cache_images: bool = False,
    ):
        _check_column(dataset, image_column, "images")
        for template in templates:
            if template.count("{}") != 1:
                raise ValueError(f"The template {template!r} must have {{}} once, where the caption goes.")
        if not templates:
            raise ValueError("There are no templates; for captions as they are, leave `templates` out.")
        self.captions = read_captions(dataset, caption_column)
        self.images = dataset.select_columns([image_column])
        self.image_processor = image_processor
        self.image_column = image_column
        self.templates = tuple(templates)
        self.seed = seed
        self.epoch = 0
        self._cache: dict[int, np.ndarray] | None = {} if cache_images else None

    def __len__(self) -> int:
        return len(self.captions)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew: other crops, captions and templates than in the other epochs."""
        self.epoch = epoch

    def _resized_image(self, row: int) -> np.ndarray:
        """The whole image in the processor's size, uint8 `(channels, height, width)`."""
        if self._cache is not None and row in self._cache:
            return self._cache[row]
        try:
            image = self.images[row][self.image_column]
        except Exception as error:
            raise ValueError(f"The image of row {row} cannot be read: {error}") from error
        pixels = self.image_processor(
            image, do_center_crop=False, do_rescale=False, do_normalize=False, return_tensors="np"
        )["pixel_values"][0].astype(np.uint8, copy=False)
        if self._cache is not None:
            self._cache[row] = pixels
        return pixels

    def __getitem__(self, row: int) -> dict:
        # A string, for a tuple's hash would be another one in each process.
        generator = random.Random(f"{self.seed}/{self.epoch}/{row}")
        pixels = self._resized_image(row)
        if self.image_processor.do_center_crop:
            pixels = random_square_crop(pixels, self.image_processor.crop_size["height"], generator)
        caption = generator.choice(self.captions[row])
        text = generator.choice(self.templates).replace("{}", caption)
        return {"pixel_values": pixels, "text": text, "text_id": _caption_id(caption)}


__all__ = ["ImageTextDataset", "read_captions"]
