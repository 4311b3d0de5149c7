# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How rows of a data set become pairs of an image and a text."""

from dataclasses import dataclass, field

from ..model.image_reading_clip_hf import DEFAULT_LIMITS, ImageLimits
from .augmentation import Augmentation
from .texts import TextReader, template_columns


PADDINGS = ("longest", "max_length")


@dataclass(frozen=True)
class PairOptions:
    """
    What decides a training pair, and the way to it.

    Args:
        image_column (`str`, *optional*, defaults to `"image"`):
            Column of the images: image files, their bytes, or paths.
        caption_column (`str`, *optional*, defaults to `"caption"`):
            Column of the captions: a string, or a list of strings of which one is drawn each time.
        image_id_column (`str`, *optional*):
            A column in which rows that show the same image have the same value; such pairs get equal `image_ids` and
            are no negatives of each other.
        image_root (`str`, *optional*):
            A folder below which image paths in tables and Parquet may lead, besides their own; `"/"` allows any path.
        templates (`Sequence[str]`, *optional*, defaults to `("{}",)`):
            Texts of which one is drawn for each pair. `{}` is the caption, `{title}` the text in the column `title`:
            `"{title}, {artist}"`. A template is not drawn for a row where one of its columns is blank.
        seed (`int`, *optional*, defaults to 0):
            Decides order, crops, captions, templates and augmentation.
        augmentation ([`Augmentation`], *optional*):
            What is done beyond the paper's random crop; nothing by default.
        token_dropout (`float`, *optional*, defaults to 0):
            Probability to leave out a token of a text (never the start, the end, or all of the others).
        max_skipped_share (`float`, *optional*, defaults to 0.05):
            Rows that cannot be used are skipped and counted, but more than this share of all rows is an error.
        min_image_size (`int`, *optional*, defaults to 1):
            Images with a shorter edge of fewer pixels are skipped.
        image_limits ([`ImageLimits`], *optional*):
            What reading an image may take: pixels, bytes, seconds. Images that exceed it are skipped.
        cache_images (`bool`, *optional*, defaults to `False`):
            Map-style data: whether each worker keeps the resized images in memory (a byte for each channel of each
            pixel). Saves the decoding and resizing from the second epoch on; for data sets that fit.
        padding (`str`, *optional*, defaults to `"longest"`):
            Length of a batch of texts: that of the longest, or always the context length (`"max_length"`), which
            compiled models like better.
        bucket_batches (`int`, *optional*, defaults to 0):
            Sort the pairs of so many batches by the length of their texts, so that a batch needs less padding, and
            shuffle the batches. It changes which pairs are each other's negatives: texts of about the same length,
            which are harder to tell apart. 0 is off.
        shuffle_buffer (`int`, *optional*, defaults to 1000):
            Streams: rows that are read at once, undecoded, and shuffled. 0 or 1 leaves the order within a shard.
        prefetch_factor (`int`, *optional*, defaults to 2):
            Batches that each worker prepares ahead.

    Raises:
        ValueError: if a value is out of its range, or a template has no place for a caption or column.
    """

    image_column: str = "image"
    caption_column: str = "caption"
    image_id_column: str | None = None
    image_root: str | None = None
    templates: tuple[str, ...] = ("{}",)
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    token_dropout: float = 0.0
    max_skipped_share: float = 0.05
    min_image_size: int = 1
    image_limits: ImageLimits = DEFAULT_LIMITS
    cache_images: bool = False
    padding: str = "longest"
    bucket_batches: int = 0
    shuffle_buffer: int = 1000
    prefetch_factor: int = 2

    def __post_init__(self):
        if isinstance(self.templates, str):
            raise ValueError(f"`templates` is the string {self.templates!r}; it must be a list of strings.")
        object.__setattr__(self, "templates", tuple(self.templates))
        if not self.templates:
            raise ValueError("There are no templates; for captions as they are, leave `templates` out.")
        for template in self.templates:
            template_columns(template)
        if not 0 <= self.token_dropout < 1:
            raise ValueError(f"`token_dropout` is {self.token_dropout}; it must be at least 0 and less than 1.")
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(f"`max_skipped_share` is {self.max_skipped_share}; it must be a share, 0 to 1.")
        for name, least in (
            ("seed", 0),
            ("min_image_size", 1),
            ("bucket_batches", 0),
            ("shuffle_buffer", 0),
            ("prefetch_factor", 1),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` is {value!r}; it must be a whole number of at least {least}.")
        if self.padding not in PADDINGS:
            raise ValueError(f"`padding` is {self.padding!r}; it must be one of {', '.join(map(repr, PADDINGS))}.")
        if not isinstance(self.image_limits, ImageLimits):
            raise ValueError(f"`image_limits` is {self.image_limits!r}; it must be an `ImageLimits`.")
        if not isinstance(self.augmentation, Augmentation):
            raise ValueError(f"`augmentation` is {self.augmentation!r}; it must be an `Augmentation`.")


def row_columns(options: PairOptions) -> dict[str, str]:
    """The columns that a pair needs and their roles: `"image"`, `"caption"`, `"text"` or `"id"`."""
    roles = {options.image_column: "image"}
    for name in TextReader(options.templates, options.caption_column).columns:
        roles[name] = "caption" if name == options.caption_column else "text"
    if options.image_id_column is not None:
        roles.setdefault(options.image_id_column, "id")
    return roles


__all__ = ["PairOptions", "row_columns"]
