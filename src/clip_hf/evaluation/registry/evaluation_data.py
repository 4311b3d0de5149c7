# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The data of evaluations: labelled images or films, and those with captions, from any source.

Images and films stay undecoded. Shapes: n rows, c classes.
"""

import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
from transformers.utils import logging

from ...data.captioned_images import read_pairs
from ...data.data_sources import Rows
from ...data.image_text import check_column, read_captions, undecoded_images
from ...data.labelled_images import read_labelled
from ...data.locations import undecoded
from ...data.media import IMAGES, VIDEOS, Media, find_media, media_in
from ...data.pair_options import PairOptions
from ...data.tables import PEEKED_ROWS
from ...data.texts import class_label
from ...model.image_reading_clip_hf import open_image
from ...model.video_pipeline_clip_hf import DEFAULT_PROMPT_SET
from ...utils.wording import counted, quoted
from ..numerics.metrics import CLASSIFICATION_METRICS
from .dataset_registry import RegistryEntry, load_templates
from .evaluation_source import EvaluationSource, open_source, wrong_media
from .labels import read_class_names, read_targets


logger = logging.get_logger(__name__)

_USUAL_COLUMNS = {
    "films": ("video", "clip", "film", "mp4", "webm", "avi", "mov", "mkv", "file_name", "path"),
    "images": ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "file_name", "path"),
    "labels": ("label", "labels", "cls", "class", "target", "fine_label", "category"),
}


@dataclass(frozen=True, kw_only=True)
class ImageDataOptions:
    """Which images of a dataset are taken, with or without labels; see [`ClassificationOptions`]."""

    image_column: str | None = None
    split: str | None = None
    limit: int | None = None
    min_image_size: int | None = None
    image_root: str | None = None
    media: str = IMAGES.name

    def __post_init__(self):
        if find_media(self.media) is VIDEOS and self.min_image_size is not None:
            raise ValueError("`min_image_size` (--min-image-size) is for images; leave it out with films.")
        for name in ("limit", "min_image_size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(
                    f"`{name}` is {value!r}; it must be a whole number of at least 1, or None for all rows."
                )
        if self.image_root is not None and not os.path.isdir(self.image_root):
            raise ValueError(
                f"`image_root` (--image-root) is {self.image_root!r}, which is no folder; give one that the images "
                'lie below, or "/" for any.'
            )


@dataclass(frozen=True, kw_only=True)
class ClassificationOptions(ImageDataOptions):
    """Choices for labelled images that replace those of the registry and of the data.

    Args:
        image_column, label_column (`str`, *optional*): Columns of the images and labels; by default the only one of
            that type, or one with a usual name.
        class_names (`Sequence[str]` or `str`, *optional*): A name for each label id, or where to find them, see
            [`load_class_names`].
        templates (*optional*): Prompts: whatever [`load_templates`] takes. By default the registry's, or `"simple"`,
            of films `"actionclip"` as in their pipeline.
        metric (`str`, *optional*): A key of `CLASSIFICATION_METRICS`. By default the registry's; `"map_11point"` where
            an image has several labels, `"top1"` otherwise.
        split (`str`, *optional*): Which split. By default the registry's, `"test"`, `"validation"`, or the only one
            there is; all rows of data without splits.
        limit (`int`, *optional*): Take at most this many rows, evenly spaced.
        min_image_size (`int`, *optional*): Leave out images whose shorter edge has fewer pixels, with a warning that
            says how many.
        image_root (`str`, *optional*): A folder below which paths of images in tables and Parquet may lead, besides
            their own; `"/"` for any.
        media (`str`, *optional*, defaults to `"images"`): `"images"`, or `"videos"` for films, which a
            [`VideoEncoder`] embeds. Everything said of images then holds for films.

    Raises:
        ValueError: if a value is out of its range.
    """

    label_column: str | None = None
    class_names: Sequence[str] | str | None = None
    templates: Any = None
    metric: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.metric is not None and self.metric not in CLASSIFICATION_METRICS:
            raise ValueError(f"`metric` is {self.metric!r}; there are {', '.join(CLASSIFICATION_METRICS)}.")


@dataclass
class ClassificationData:
    """Labelled images, ready to be classified.

    Args:
        name (`str`): The dataset's name.
        data (`datasets.Dataset`): n rows, images undecoded.
        image_column (`str`): Column of the images.
        label_column (`str`): Column of the labels, as they were given; `targets` has them as numbers.
        class_names (`list[str]`): c names; a name may occur twice, as "missile" does in ImageNet.
        templates (`tuple[str, ...]` or `dict[str, tuple[str, ...]]`): Prompts with `{}` where the class goes, or each
            class's own.
        metric (`str`): What the dataset is scored by, a key of `CLASSIFICATION_METRICS`.
        split (`str`): The split of the dataset.
        source (`str`): Where it was.
    """

    name: str
    data: datasets.Dataset
    image_column: str
    label_column: str
    class_names: list[str]
    templates: Any
    metric: str = "top1"
    split: str = "test"
    source: str = ""

    def __len__(self) -> int:
        return len(self.data)

    @functools.cached_property
    def targets(self) -> np.ndarray:
        """The labels: int64 (n,), or bool (n, c) where an image may have several.

        Raises:
            ValueError: if a label is missing, or is none of the classes.
        """
        where = f"{self.name} ({self.split})"
        return read_targets(self.data, self.label_column, self.class_names, where)

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.targets.ndim == 2

    @property
    def class_counts(self) -> np.ndarray:
        """Images of each class, int64 (c,)."""
        if self.is_multi_label:
            return self.targets.sum(0)
        return np.bincount(self.targets, minlength=len(self.class_names))

    @property
    def empty_classes(self) -> list[str]:
        """Names of the classes without an image."""
        return [name for name, count in zip(self.class_names, self.class_counts) if count == 0]

    def select(self, rows: Sequence[int] | np.ndarray) -> "ClassificationData":
        """The same with these rows only, in this order."""
        return replace(self, data=self.data.select(rows))


@dataclass(frozen=True, kw_only=True)
class CaptionedDataOptions(ImageDataOptions):
    """Choices for captioned images that replace those of the registry.

    Args:
        image_column (`str`, *optional*): Column of the images, `"image"` by default.
        caption_column (`str`, *optional*): Column of the captions, a string or a list of strings, `"caption"` by
            default.
        image_id_column (`str`, *optional*): A column that has equal values in rows that show the same image; their
            captions are put together.
        captions_per_image (`int`, *optional*): Take at most this many captions of each image, the first ones; by
            default all, or as the registry says.
        split, limit, min_image_size, image_root, media: As in [`ClassificationOptions`].

    Raises:
        ValueError: if a value is out of its range.
    """

    caption_column: str | None = None
    image_id_column: str | None = None
    captions_per_image: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.captions_per_image is not None and self.captions_per_image < 1:
            raise ValueError(f"`captions_per_image` is {self.captions_per_image}; it must be at least 1.")


@dataclass
class RetrievalData:
    """Images with their captions.

    Args:
        name (`str`): The dataset's name.
        data (`datasets.Dataset`): One row an image, undecoded.
        image_column (`str`): Column of the images.
        captions (`list[list[str]]`): The captions of each image, at least one.
        split (`str`): The split of the dataset.
        source (`str`): Where it was.
    """

    name: str
    data: datasets.Dataset
    image_column: str
    captions: list[list[str]]
    split: str = "test"
    source: str = ""

    def __len__(self) -> int:
        return len(self.data)


def load_classification(
    source: str | os.PathLike | datasets.Dataset | Mapping[str, datasets.Dataset],
    options: ClassificationOptions | None = None,
) -> ClassificationData:
    """Load labelled images with class names, prompts and metric.

    A source is one of:

    - a name of the registry, see [`dataset_names`], such as `"food101"` (on the hub), `"openmoji"` or `"digits"` (made
      on this machine);
    - `"name=path"`: local data with the metric, prompts and class names that the registry has for this name;
    - a folder of class folders, `path/CLASS/*.jpg` or `path/test/CLASS/*.jpg`; the class is the folder's name with
      spaces for underscores;
    - a folder that `datasets` saved with `save_to_disk`;
    - Parquet files, or webdataset tars: a file, a folder, or a pattern; the split is what a file's name begins with;
    - a table (`.csv`, `.tsv`, `.jsonl`, `.json`) with paths of images, below its folder, in `image` or `file_name`;
    - a dataset on the hub, `"owner/name"` or `"owner/name:config"`;
    - a `datasets.Dataset`, or several by the name of their split.

    Labels are a `ClassLabel`, strings, which are class names by themselves (sorted, over all splits; spaces for
    underscores), numbers or strings together with class names, or lists of these (an image has several labels). Class
    names that are the data's in another order are brought into the data's order.

    Args:
        source (`str`, `os.PathLike`, `datasets.Dataset` or mapping): Which data.
        options ([`ClassificationOptions`], *optional*): Columns, names, prompts, metric, split and number of rows.

    Returns:
        [`ClassificationData`].

    Raises:
        ValueError: if there are no such data, split or column; they have no rows or no labels; class names are
            missing, or their number disagrees with the labels; or the metric needs images of every class and one has
            none.
        TypeError: if `source` is nothing that can hold data.
    """
    options = options or ClassificationOptions()
    opened = open_source(source, "classification", find_media(options.media))
    data = _classification(opened, opened.resolve(options.split), options)
    check_metric(data)
    return data


def load_splits(
    source: str | os.PathLike | datasets.Dataset | Mapping[str, datasets.Dataset],
    options: ClassificationOptions | None = None,
) -> dict[str, ClassificationData]:
    """Load all splits of labelled images, for classifiers that are trained on their features.

    Args:
        source (`str`, `os.PathLike`, `datasets.Dataset` or mapping): As in [`load_classification`].
        options ([`ClassificationOptions`], *optional*): As there, without `split`; `limit` holds for each split.

    Returns:
        `dict[str, ClassificationData]`: the splits among `"train"`, `"validation"` and `"test"`; `"test"` is
        the one on which figures are published. Data without splits come as `"all"`.

    Raises:
        ValueError: as [`load_classification`], and if `options.split` is given.
        TypeError: if `source` is nothing that can hold data.
    """
    options = options or ClassificationOptions()
    if options.split is not None:
        raise ValueError(f"`split` is {options.split!r}, but `load_splits` loads all splits; leave it out.")
    opened = open_source(source, "classification", find_media(options.media))
    return {name: _classification(opened, split, options) for name, split in opened.parts().items()}


def _classification(opened: EvaluationSource, split: str, options: ClassificationOptions) -> ClassificationData:
    entry, media = opened.entry, find_media(options.media)

    def read(rows: Rows, image_column_of: Any = None) -> datasets.Dataset:
        return undecoded(read_labelled(rows, image_column_of, options.image_column, options.image_root, media))

    data = opened.load(split, lambda rows: read(rows, lambda data: _image_column(data, options, entry)))
    image_column = _image_column(data, options, entry)
    label_column = _find_column(data, "labels", options.label_column, entry.label_column, class_label)
    names = read_class_names(opened, data, label_column, options.class_names, read)
    templates = options.templates if options.templates is not None else entry.prompts
    data, _ = _chosen_images(data, image_column, options, opened.name)
    if entry.border:
        arguments = {"column": image_column, "pixels": entry.border}
        data = data.map(_without_border, fn_kwargs=arguments, desc=f"{opened.name}: cutting off the images' borders")
    loaded = ClassificationData(
        name=opened.name,
        data=data,
        image_column=image_column,
        label_column=label_column,
        class_names=names,
        templates=load_templates(templates or (DEFAULT_PROMPT_SET if media is VIDEOS else "simple")),
        split=split,
        source=opened.location,
    )
    default = "map_11point" if loaded.is_multi_label else "top1"  # the labels are read, and checked, here
    loaded.metric = options.metric or entry.metric or default
    return loaded


def _without_border(row: dict[str, Any], column: str, pixels: int) -> dict[str, Any]:
    """The row with `pixels` less on each side of its image; an unreadable one stays, so that the encoder names it."""
    try:
        image = open_image(row[column])
    except (TypeError, ValueError):
        return {}
    cut = image.crop((pixels, pixels, image.width - pixels, image.height - pixels))
    with io.BytesIO() as buffer:
        cut.save(buffer, "PNG", compress_level=1)
        return {column: {"bytes": buffer.getvalue(), "path": None}}


def _chosen_images(
    data: datasets.Dataset, column: str, options: Any, name: str
) -> tuple[datasets.Dataset, np.ndarray]:
    """The rows that `limit` and `min_image_size` leave, images undecoded, and their numbers."""
    rows = np.arange(len(data))
    if options.limit is not None and len(data) > options.limit:
        # Evenly: of rows that are sorted by class, the first ones would be of a few classes only.
        rows = np.arange(options.limit) * len(data) // options.limit
        data = data.select(rows)
    data = undecoded_images(data, column, find_media(options.media))
    _check_media(data, column, find_media(options.media), name)
    if options.min_image_size is not None:
        kept = _large_enough(data, column, options.min_image_size, name)
        data, rows = data.select(kept), rows[kept]
    return data, rows


def _check_media(data: datasets.Dataset, column: str, media: Media, name: str) -> None:
    """Refuse paths of films where images are meant, and the reverse, by the endings of the first rows."""
    sources = data[: min(len(data), PEEKED_ROWS)][column]
    paths = [source["path"] if isinstance(source, dict) else source for source in sources]
    kinds = {media_in(os.path.splitext(path)[1][1:].lower()) for path in paths if isinstance(path, str)}
    if len(kinds) == 1 and kinds.isdisjoint((media, None)):
        raise ValueError(wrong_media(f"The column {column!r} of {name}", media))


def _large_enough(images: datasets.Dataset, column: str, min_size: int, name: str) -> np.ndarray:
    """The rows whose image has at least so many pixels along its shorter edge; unreadable ones stay, to be named."""

    def fits(row: int) -> bool:
        try:
            return min(open_image(images[row][column]).size) >= min_size
        except (ValueError, TypeError):
            return True

    kept = np.array([row for row in range(len(images)) if fits(row)], dtype=np.int64)
    if len(kept) == 0:
        least = counted(min_size, "pixel")
        raise ValueError(f"No image of {name} has a shorter edge of at least {least} (`min_image_size`).")
    if left_out := len(images) - len(kept):
        verb, pixels = "is" if left_out == 1 else "are", counted(min_size, "pixel")
        logger.warning(
            f"{name}: {left_out:,} of {counted(len(images), 'image')} {verb} smaller than {pixels}; left out."
        )
    return kept


def check_metric(data: ClassificationData) -> None:
    """Raise a `ValueError` if the data's metric is not defined for them; the message says why."""
    where, metric, count = f"{data.name} ({data.split})", data.metric, len(data.class_names)
    if (metric == "map_11point") != data.is_multi_label:
        kind = "several labels" if data.is_multi_label else "one label"
        fitting = ["map_11point"] if data.is_multi_label else [m for m in CLASSIFICATION_METRICS if m != "map_11point"]
        raise ValueError(
            f"The metric {metric} does not fit {where}, whose images have {kind}; choose {', '.join(fitting)}."
        )
    if metric == "roc_auc" and count != 2:
        raise ValueError(f"The metric roc_auc is for two classes; {where} has {count}.")
    if metric in ("mean_per_class", "map_11point", "roc_auc") and data.empty_classes:
        empty = data.empty_classes
        verb = "has" if len(empty) == 1 else "have"
        cure = "or drop" if data.is_multi_label else "choose the metric top1, or drop"
        raise ValueError(
            f"{len(empty)} of the {count} classes of {where} {verb} no image, {quoted(empty)}, so {metric} is not "
            f"defined. Use all rows, {cure} these classes."
        )


def _find_column(
    data: datasets.Dataset, content: str, chosen: str | None, registered: str | None, is_typed: Callable[[Any], bool]
) -> str:
    """The column of the images, films or labels: the chosen or registered one, the only one of its type, or a usual
    name.
    """
    kind = "label" if content == "labels" else "image"
    if chosen is not None:
        check_column(data.column_names, chosen, content, f"{kind}_column")
        return chosen
    if registered in data.column_names:
        return registered
    typed = [name for name, feature in data.features.items() if is_typed(feature)]
    if len(typed) == 1:
        return typed[0]
    column = next((name for name in _USUAL_COLUMNS[content] if name in (typed or data.column_names)), None)
    if column is None:
        raise ValueError(
            f"Which column holds the {content} cannot be told; there are {', '.join(map(repr, data.column_names))}. "
            f"Name it with `{kind}_column` (--{kind}-column)."
        )
    return column


def _image_column(data: datasets.Dataset, options: Any, entry: RegistryEntry) -> str:
    media = find_media(options.media)
    for other in (IMAGES, VIDEOS):
        of_others = [name for name, feature in data.features.items() if isinstance(feature, other.feature_type)]
        if of_others and other is not media and options.image_column in (None, *of_others):
            typed = any(isinstance(feature, media.feature_type) for feature in data.features.values())
            if not typed:
                raise ValueError(wrong_media(f"The column {of_others[0]!r} of the data", media))
    return _find_column(
        data,
        f"{media.noun}s",
        options.image_column,
        entry.image_column,
        lambda feature: isinstance(feature, media.feature_type),
    )


def load_retrieval(
    source: str | os.PathLike | datasets.Dataset | Mapping[str, datasets.Dataset],
    options: CaptionedDataOptions | None = None,
) -> RetrievalData:
    """Load images with their captions.

    Args:
        source (`str`, `os.PathLike`, `datasets.Dataset` or mapping): A name of the registry, see [`dataset_names`]
            with the task `"retrieval"`; `"name=path"` for a local copy; whatever [`load_pairs`] takes (files, folders,
            the hub); a `datasets.Dataset`, or several by the name of their split.
        options ([`CaptionedDataOptions`], *optional*): Columns, split, number of images and of captions.

    Returns:
        [`RetrievalData`].

    Raises:
        ValueError: if there are no such data, split or column, no rows, or a caption is missing or blank.
        TypeError: if `source` is nothing that can hold data.
    """
    options = options or CaptionedDataOptions()
    opened = open_source(source, "retrieval", find_media(options.media))
    entry, split = opened.entry, opened.resolve(options.split)

    def read(rows: Rows) -> datasets.Dataset:
        if rows.kind in ("dataset", "parquet"):
            return undecoded(rows.read_dataset(lambda data: _image_column(data, options, entry), options.image_root))
        columns = PairOptions(
            media=options.media,
            image_column=options.image_column,
            caption_column=options.caption_column or "caption",
            image_id_column=options.image_id_column,
            image_root=options.image_root,
        )
        return undecoded(read_pairs(rows, columns))

    data = opened.load(split, read)
    image_column = _image_column(data, options, entry)
    captions = _captions(data, options.caption_column, entry)
    if options.image_id_column is not None:
        check_column(data.column_names, options.image_id_column, "ids of the images", "image_id_column")
        rows_of: dict[Any, list[int]] = {}
        for row, image_id in enumerate(data[options.image_id_column]):
            rows_of.setdefault(image_id, []).append(row)
        data = data.select([rows[0] for rows in rows_of.values()])
        captions = [[caption for row in rows for caption in captions[row]] for rows in rows_of.values()]
    data, chosen = _chosen_images(data, image_column, options, opened.name)
    captions = [captions[row][: options.captions_per_image or entry.captions_per_image] for row in chosen]
    return RetrievalData(opened.name, data, image_column, captions, split, opened.location)


def load_retrieval_splits(
    source: str | os.PathLike | datasets.Dataset | Mapping[str, datasets.Dataset],
    options: CaptionedDataOptions | None = None,
) -> dict[str, RetrievalData]:
    """Load all splits of images with their captions, as [`load_splits`] does those of labelled images.

    Args:
        source, options: As in [`load_retrieval`], without `split`; `limit` holds for each split.

    Returns:
        `dict[str, RetrievalData]`: the splits among `"train"`, `"validation"` and `"test"`; data without splits come
        as `"all"`.

    Raises:
        ValueError: as [`load_retrieval`], and if `options.split` is given.
    """
    options = options or CaptionedDataOptions()
    if options.split is not None:
        raise ValueError(f"`split` is {options.split!r}, but all splits are loaded; leave it out.")
    parts = open_source(source, "retrieval", find_media(options.media)).parts()
    return {name: load_retrieval(source, replace(options, split=part)) for name, part in parts.items()}


def _captions(data: datasets.Dataset, column: str | None, entry: RegistryEntry) -> list[list[str]]:
    """The captions of each row, in the chosen or registered column, or in `caption`."""
    if column is None and entry.caption_column in data.column_names:
        column = entry.caption_column
    captions = read_captions(data, column or "caption")
    if entry.caption_column == "txt":
        # clip-benchmark's tars have an image's captions in one text, a line each.
        captions = [[line for text in texts for line in text.splitlines() if line.strip()] for texts in captions]
    return captions
