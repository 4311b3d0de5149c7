# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Captioned images and films from a `datasets.Dataset`, prepared for contrastive training."""

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import Dataset
from transformers.utils import logging

from ..model.checks_clip_hf import did_you_mean
from ..model.image_reading_clip_hf import REFUSED, UnreadableImage, check_scheme
from .clip_reading import build_reader
from .decoding import skipped_image
from .locations import may_have_paths, undecoded
from .media import IMAGES, MEDIA, MEDIA_BY_ROLE, Media, find_media
from .pair_extras import PairExtras
from .pair_options import PairOptions, named_columns, row_columns
from .skips import SkippedRow, stop_if_exhausted
from .texts import TextReader, find_caption_problem, stable_id, with_class_names


if TYPE_CHECKING:
    from ..model.image_processing_clip_hf import ClipHFImageProcessor

logger = logging.get_logger(__name__)

# If this many rows drawn one after another are bad, nearly all are.
_MAX_ATTEMPTS = 200
_CHECKED_AT_ONCE = 10_000
NO_ROWS = "The dataset is empty; training needs at least one pair."


def check_column(column_names: Sequence[str], column: str, content: str, option: str) -> None:
    """Raise a `ValueError` that names the columns and the option that chooses one, if this one is missing."""
    if column not in column_names:
        # pandas writes its index as a column without a name.
        shown = ", ".join(repr(name) if name else "'' (no name)" for name in column_names)
        raise ValueError(
            f"The dataset has no column {column!r}; it has {shown}.{did_you_mean(column, column_names)} Name the one "
            f"that holds the {content} with `{option}` (--{option.replace('_', '-')})."
        )


def check_columns(column_names: Sequence[str], options: PairOptions) -> None:
    """Raise a `ValueError` if a column that `options` name is missing."""
    check_column(column_names, options.image_column, f"{find_media(options.media).noun}s", "image_column")
    for column in TextReader(options.templates, options.caption_column).columns:
        is_caption = column == options.caption_column
        content = ("captions", "caption_column") if is_caption else ("text of the templates", "templates")
        check_column(column_names, column, *content)
    contents = {
        "image_id_column": "ids of the images",
        "label_column": "labels",
        "negative_column": "hard negatives",
        "short_caption_column": "short captions",
    }
    for option, content in contents.items():
        if getattr(options, option) is not None:
            check_column(column_names, getattr(options, option), content, option)


def read_captions(dataset: datasets.Dataset, caption_column: str = "caption") -> list[list[str]]:
    """Read all captions of a dataset and check them.

    Args:
        dataset (`datasets.Dataset`): Rows with a caption, or a list of captions.
        caption_column (`str`, *optional*, defaults to `"caption"`): Their column.

    Returns:
        `list[list[str]]`: the captions of each row, at least one.

    Raises:
        ValueError: if there is no such column, the dataset is empty, or a row has no caption, or one that is blank or
            not a string.
    """
    check_column(dataset.column_names, caption_column, "captions", "caption_column")
    if len(dataset) == 0:
        raise ValueError(NO_ROWS)
    rows = []
    captions = with_class_names(undecoded(dataset.select_columns(caption_column)), [caption_column])
    for row, value in enumerate(captions[caption_column]):
        problem = find_caption_problem(value, f"row {row}")
        if problem:
            raise ValueError(problem.message)
        rows.append([value] if isinstance(value, str) else list(value))
    return rows


def text_length(value: Any) -> int:
    """Number of characters of a text, or of the longest of several."""
    if isinstance(value, list | tuple):
        return max(map(text_length, value), default=0)
    return len(str(value)) if value is not None else 0


def _may_exist(path: str, listings: dict[str, set[str]]) -> bool:
    """Whether a file is there. Each folder is listed once, which is far quicker than asking for each file."""
    if "://" in path or path[:5].lower() == "data:":
        return True  # not a file: found out when it is read
    folder, name = os.path.split(path)
    if folder not in listings:
        try:
            listings[folder] = set(os.listdir(folder or "."))
        except (OSError, ValueError):  # ValueError: a null byte
            listings[folder] = set()
    return name in listings[folder] or os.path.exists(path)


def _image_problems(images: datasets.Dataset, name: str, noun: str) -> Iterator[tuple[int, SkippedRow]]:
    """The rows whose image (or film, the `noun`) is missing, as far as that shows without reading images."""
    column = images.data.column(name)  # as it is stored, before the rows were selected; the images are not touched
    indices = getattr(images, "_indices", None)
    places = np.arange(len(images)) if indices is None else indices.column(0).to_numpy()
    is_struct = pa.types.is_struct(column.type)
    data = pc.struct_field(column, "bytes") if is_struct else column
    paths = pc.struct_field(column, "path") if is_struct else column
    if pa.types.is_binary(data.type) or pa.types.is_large_binary(data.type):
        lengths = pc.fill_null(pc.binary_length(data), -1).to_numpy()[places]
        paths = paths if is_struct else None
    else:
        lengths = np.full(len(places), -1)
    listings: dict[str, set[str]] = {}
    for row in np.nonzero(lengths <= 0)[0].tolist():
        where = f"row {row}"
        path = None if paths is None else paths[int(places[row])].as_py()
        if lengths[row] == 0:
            yield row, SkippedRow("file empty", where, f"The {noun} of {where} is empty.")
        elif not path:
            yield row, SkippedRow(f"{noun} missing", where, f"Row {row} has no {noun}.")
        elif path.startswith(REFUSED):
            yield row, _refused(path, where, noun)
        elif not _may_exist(path, listings):
            message = f"The {noun} of {where} is missing: there is no file {path}."
            yield row, SkippedRow("file missing", where, message, path)


def _refused(location: str, where: str, noun: str) -> SkippedRow:
    try:
        check_scheme(location)
    except UnreadableImage as error:
        return skipped_image(error, location, where, noun)
    raise AssertionError("a refused location was opened")


def undecoded_images(dataset: Any, column: str, media: Media = IMAGES) -> Any:
    """Switch off decoding, also of streams; ValueError if the column holds something that is no image (or film)."""
    dataset = undecoded(dataset)
    feature = dataset.features[column] if dataset.features else media.feature
    is_bytes = isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")
    if not is_bytes and not may_have_paths(feature):
        raise ValueError(
            f"The column {column!r} holds {feature}; {media.noun}s are files' bytes, paths, or the feature "
            f"`datasets.{media.feature_type.__name__}()`."
        )
    for other in (other for other in MEDIA.values() if other is not media):
        if isinstance(feature, other.feature_type):
            raise ValueError(
                f"The column {column!r} holds {other.noun}s, not {media.noun}s: name another with `image_column` "
                f"(--image-column), or read it with media={other.name!r}."
            )
    return dataset


class ItemFeatures(Protocol):
    """What is kept of the items of an [`ImageTextDataset`], and read with them in its workers."""

    draws: int
    """How many epochs differ."""

    def read(self, draw: int, row: int, item: dict) -> np.ndarray:
        """What is kept of a row's item in a draw, (width,); ValueError if the item is another."""


class ImageTextDataset(Dataset):
    """Captioned images, or films, for training; [`ImageTextCollator`] makes batches of them.

    - `image_processor` decides how an image is resized. Its centre crop is replaced by a square at a random place,
      CLIP's only augmentation (Radford et al. 2021, section 2.3).
    - One of an image's captions is drawn, and one of the templates is put around it.
    - Every draw depends only on the seed, the epoch and the row, so any number of processes and workers gives the same
      items. `pairs[epoch, row]` is an item; `pairs[row]` takes the epoch from [`~ImageTextDataset.set_epoch`].
    - A row that cannot be used is replaced by another row, drawn by the same rule, and the item says why.
    - With `features`, such as those of a teacher, only the epochs 0 to `features.draws - 1` have items of their own,
      which come again and again, because only of those there are features.

    An item holds `pixel_values`, uint8 `(channels, height, width)` (of films `(frames, channels, height, width)`),
    not rescaled or normalised; `text`; `text_id`, a number that only equal captions share; `image_id`, if
    `image_id_column` is given; `token_seed`, if tokens are dropped; what [`PairExtras`] reads, if its columns are
    given (`short` and `negatives`, texts with their ids, `label_vector` or `label_ids`); `lost_alpha`, of a picture
    with transparency and no `background_color`; and `skipped`, `None` or a [`SkippedRow`].

    Args:
        dataset (`datasets.Dataset`): Rows with an image and a caption, or a list of captions.
        image_processor ([`ClipHFImageProcessor`]): Decides the sizes.
        options ([`PairOptions`], *optional*): Columns, templates, seed and so on.

    Raises:
        ValueError: if a column is missing, the dataset is empty, or more than `options.max_skipped_share` of the rows
            have no usable caption or no image file; images are decoded later.
    """

    def __init__(
        self, dataset: datasets.Dataset, image_processor: "ClipHFImageProcessor", options: PairOptions | None = None
    ):
        self.options = options = options or PairOptions()
        check_columns(dataset.column_names, options)
        if len(dataset) == 0:
            raise ValueError(NO_ROWS)
        self.media = find_media(options.media)
        images = dataset.select_columns([options.image_column])
        self.images = undecoded_images(images, options.image_column, self.media)
        self.texts = TextReader(options.templates, options.caption_column)
        self.extras = PairExtras(options) if options.has_extras else None
        columns = [name for name, role in row_columns(options).items() if role not in MEDIA_BY_ROLE]
        # Arrow columns: a row is read in microseconds, and they are not held twice.
        columns = with_class_names(dataset.select_columns(columns), named_columns(options))
        self._columns = columns.with_format("arrow")[:]
        self.reader = build_reader(image_processor, options)
        self.epoch = 0
        self.features: ItemFeatures | None = None
        self.bad_rows: dict[int, SkippedRow] = {}
        self._find_bad_rows()

    def __len__(self) -> int:
        return len(self._columns)

    def set_epoch(self, epoch: int) -> None:
        """Draw new crops, captions and templates."""
        self.epoch = epoch

    def text_lengths(self) -> np.ndarray:
        """Characters in each row's longest caption and template columns, without templates; int64 `(rows,)`."""
        total = np.zeros(len(self), np.int64)
        for name in self.texts.columns:
            column = self._columns[name]
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                total += pc.fill_null(pc.utf8_length(column), 0).to_numpy().astype(np.int64)
            elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
                total += np.array([text_length(texts) for texts in column.to_pylist()])
        return total

    def texts_fingerprint(self) -> str:
        """Digest of the columns that the texts are made of, in hexadecimal digits; images are not read."""
        digest = hashlib.blake2b(digest_size=16)
        for start in range(0, len(self), _CHECKED_AT_ONCE):
            rows = self._columns.slice(start, _CHECKED_AT_ONCE).select(list(self.texts.columns)).to_pylist()
            digest.update(json.dumps(rows, default=str).encode())
        return digest.hexdigest()

    def _find_bad_rows(self) -> None:
        """Find all rows without a caption or an image file, before the training starts."""
        options, total = self.options, len(self)
        for start in range(0, total, _CHECKED_AT_ONCE):
            texts = self._columns.slice(start, _CHECKED_AT_ONCE).select(named_columns(options)).to_pylist()
            for row, values in enumerate(texts, start):
                problem = self.texts.find_problem(values, f"row {row}")
                if problem is None and self.extras is not None:
                    problem = self.extras.find_problem(values, f"row {row}")
                if problem:
                    self.bad_rows[row] = problem
        for row, problem in _image_problems(self.images, options.image_column, self.media.noun):
            self.bad_rows.setdefault(row, problem)
        if not self.bad_rows:
            return
        counts = Counter(problem.kind for problem in self.bad_rows.values())
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
        share = len(self.bad_rows) / total
        first = " ".join(self.bad_rows[row].message for row in sorted(self.bad_rows)[:3])
        problem = f"{len(self.bad_rows):,} of {total:,} rows ({share:.2%}) cannot be used: {kinds}. {first}"
        if len(self.bad_rows) == total or share > options.max_skipped_share:
            raise ValueError(
                f"{problem} That is more than max_skipped_share={options.max_skipped_share:g} allows; repair or "
                "remove these rows, or raise `max_skipped_share` (--max-skipped-share)."
            )
        logger.warning(f"{problem} They are skipped.")

    def _read(self, row: int, generator: random.Random) -> dict | SkippedRow:
        if row in self.bad_rows:
            return self.bad_rows[row]
        where, image = f"row {row}", None
        if self.reader.cached(row) is None:  # a kept image saves the look at the dataset too
            try:
                image = self.images[row][self.options.image_column]
            except Exception as error:  # a damaged file of the dataset itself
                stop_if_exhausted(error, where)
                return SkippedRow("row cannot be read", where, f"Row {row} cannot be read: {error}")
        pixels = self.reader.read(image, where, generator, row)
        if isinstance(pixels, SkippedRow):
            return pixels
        values = {name: self._columns[name][row].as_py() for name in self._columns.column_names}
        return finish_item(pixels, values, where, self, generator)

    def __getitem__(self, item: int | tuple[int, int]) -> dict:
        epoch, row = item if isinstance(item, tuple) else (self.epoch, item)
        epoch = epoch if self.features is None else epoch % self.features.draws
        skipped, seed = None, f"{self.options.seed}/{epoch}/{row}"
        # A string, because a tuple's hash differs between processes.
        result = self._read(row, random.Random(seed))
        for attempt in range(_MAX_ATTEMPTS):
            if isinstance(result, dict):
                result["skipped"] = skipped
                if self.features is not None:
                    result["teacher_features"] = self.features.read(epoch, row, result)
                return result
            # Only the row that was asked for is counted, so that each bad row counts once in an epoch.
            skipped = skipped or result
            generator = random.Random(f"{seed}/{attempt}")
            result = self._read(generator.randrange(len(self)), generator)
        raise ValueError(
            f"{_MAX_ATTEMPTS} rows in sequence cannot be used. The first: {skipped.message} Check the images."
        )


def finish_item(
    pixels: np.ndarray, values: dict[str, Any], where: str, pairs: Any, generator: random.Random
) -> dict | SkippedRow:
    """An item of a crop `(channels, height, width)`, or those of a clip's frames, uint8, and the row's other columns.

    `pairs` is the [`ImageTextDataset`] or [`ImageTextStream`]; the crop's place has been drawn from `generator`.
    """
    options = pairs.options
    drawn = pairs.texts.draw(values, where, generator)
    if isinstance(drawn, SkippedRow):
        return drawn
    # Drawn in any case, so that switching one option on leaves the other draws as they were.
    token_seed = generator.getrandbits(63)
    extras = {} if pairs.extras is None else pairs.extras.read(values, where, drawn, token_seed)
    if isinstance(extras, SkippedRow):
        return extras
    pixels = pairs.reader.augment(pixels, generator)
    item = {"pixel_values": pixels, "text": drawn.text, "text_id": drawn.text_id, **extras}
    if pairs.reader.lost_alpha:
        item["lost_alpha"] = True
    if options.token_dropout:
        item["token_seed"] = token_seed
    if options.image_id_column is not None:
        value = values[options.image_id_column]
        # A row without an id shares its image with no other.
        item["image_id"] = stable_id("row", where) if value is None else stable_id("id", str(value))
    return item
