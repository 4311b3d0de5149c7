# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How rows of a dataset become pairs of an image or film and a text: the options, and the columns they need."""

from dataclasses import dataclass, field, replace

from ..model.image_reading_clip_hf import DEFAULT_LIMITS, ImageLimits
from .augmentation import Augmentation
from .media import VIDEOS, find_media
from .texts import TextReader


PADDINGS = ("longest", "max_length")


@dataclass(frozen=True)
class PairOptions:
    """How rows of a dataset become training pairs.

    Args:
        image_column (`str`, *optional*): Column of the images or films: files, their bytes, or paths; `"image"` by
            default, of films `"video"`.
        caption_column (`str`, *optional*, defaults to `"caption"`): Column of the captions: a string, or a list of
            strings from which one is drawn each time.
        image_id_column (`str`, *optional*): A column that has equal values in rows that show the same image. Such
            pairs get equal `image_ids`, and the loss does not count them as negatives of each other.
        image_root (`str`, *optional*): A second folder that image paths in tables and Parquet files may lead to,
            besides the folder of their file; `"/"` allows any path.
        templates (`Sequence[str]`, *optional*, defaults to `("{}",)`): Texts from which one is drawn for each pair.
            `{}` stands for the caption, `{title}` for the text in the column `title`: `"{title}, {artist}"`. A
            template with a column that is blank in a row is not drawn for that row.
        seed (`int`, *optional*, defaults to 0): Seed of the order, the frames, the crops, the drawn captions and
            templates, and the augmentation.
        augmentation ([`Augmentation`], *optional*): Changes to the image beyond the paper's random crop; none by
            default.
        token_dropout (`float`, *optional*, defaults to 0): Probability of leaving out each token of a text. The start
            and end tokens stay, and at least one other.
        max_skipped_share (`float`, *optional*, defaults to 0.05): The largest share of rows that may be unusable, 0 to
            1. Unusable rows are skipped and counted; more than this share is an error.
        min_image_size (`int`, *optional*, defaults to 1): The smallest shorter edge of an image, in pixels; smaller
            images are skipped.
        image_limits ([`ImageLimits`], *optional*): Limits on the pixels, bytes and seconds that reading an image may
            take. Images beyond them are skipped.
        cache_images (`bool`, *optional*, defaults to `False`): Map-style data only: whether each worker keeps the
            resized images in memory (one byte a channel and pixel), so that it decodes and resizes each only once.
        padding (`str`, *optional*, defaults to `"longest"`): Pad each batch of texts to its longest text
            (`"longest"`), or always to the context length (`"max_length"`), which suits compiled models.
        bucket_batches (`int`, *optional*, defaults to 0): Sort the pairs of this many batches by the length of their
            texts, so that batches need less padding, then shuffle the batches. Texts of similar length become each
            other's negatives, which are harder to tell apart. 0 switches it off.
        shuffle_buffer (`int`, *optional*, defaults to 1000): Streams only: the number of rows that are read,
            undecoded, and shuffled together. 0 and 1 keep the order within a shard.
        prefetch_factor (`int`, *optional*, defaults to 2): The number of batches that each worker prepares ahead.
        media (`str`, *optional*, defaults to `"images"`): What folders and tars are searched for, `"images"` or
            `"videos"` (films).
        num_frames (`int`, *optional*): Films only: frames of each clip, one of each of as many segments of equal
            length, see [`ClipSampling`]; with it `media` is `"videos"`. Training needs it.
        label_column (`str`, *optional*): A column of labels, whose similarities can be a loss's targets: lists of
            numbers of one width, or classes, see [`PairExtras`].
        negative_column (`str`, *optional*): A column of texts that do not describe the image though they are near to
            it, "hard negatives": a text, or a list of any number.
        short_caption_column (`str`, *optional*): A column of short captions beside long ones: a text, or a list from
            which one is drawn.
        keep_texts (`bool`, *optional*, defaults to `False`): Whether a batch has its texts as `texts`, a list.
        keep_crops (`bool`, *optional*, defaults to `False`): Whether a batch has its pixels as `crops`, uint8, before
            they are rescaled and normalised, for other models.

    Raises:
        ValueError: if a value is out of its range, an option is of images only, or a template names neither the
            caption nor a column.
    """

    image_column: str | None = None
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
    media: str = "images"
    num_frames: int | None = None
    label_column: str | None = None
    negative_column: str | None = None
    short_caption_column: str | None = None
    keep_texts: bool = False
    keep_crops: bool = False

    def __post_init__(self):
        if isinstance(self.templates, str):
            raise ValueError(f"`templates` is the string {self.templates!r}; it must be a list of strings.")
        object.__setattr__(self, "templates", tuple(self.templates))
        if not self.templates:
            raise ValueError("There are no templates; for captions as they are, leave `templates` out.")
        self._choose_media()
        texts = TextReader(self.templates, self.caption_column)
        if self.image_column in texts.columns:
            raise ValueError(
                f"The column {self.image_column!r} is both that of the {find_media(self.media).noun}s and a text; "
                "change `image_column` (--image-column), `caption_column` (--caption-column) or `templates` "
                "(--templates)."
            )
        self._check_extras(texts)
        if not 0 <= self.token_dropout < 1:
            raise ValueError(f"`token_dropout` is {self.token_dropout}; it must be at least 0 and less than 1.")
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(f"`max_skipped_share` is {self.max_skipped_share}; it must be a share, 0 to 1.")
        least_values = {"seed": 0, "min_image_size": 1, "bucket_batches": 0, "shuffle_buffer": 0, "prefetch_factor": 1}
        for name, least in least_values.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"`{name}` is {value!r}; it must be a whole number of at least {least}.")
        if self.padding not in PADDINGS:
            raise ValueError(f"`padding` is {self.padding!r}; it must be one of {', '.join(map(repr, PADDINGS))}.")
        for name, kind in (("image_limits", ImageLimits), ("augmentation", Augmentation)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be an `{kind.__name__}`.")

    @property
    def has_extras(self) -> bool:
        """Whether a pair has more than an image and a caption: labels, negatives or a short caption."""
        return any(
            column is not None for column in (self.label_column, self.negative_column, self.short_caption_column)
        )

    def without_extras(self) -> "PairOptions":
        """The same options for data that only have images and captions, such as held-out pairs."""
        return replace(self, label_column=None, negative_column=None, short_caption_column=None)

    def _check_extras(self, texts: TextReader) -> None:
        taken = {self.image_column: f"the {find_media(self.media).noun}s", **dict.fromkeys(texts.columns, "the texts")}
        for name in ("negative_column", "short_caption_column"):
            column = getattr(self, name)
            if column is None:
                continue
            if column in taken:
                raise ValueError(f"`{name}` is {column!r}, the column of {taken[column]}; name another.")
            taken[column] = "the other"
            fixed = [text for text, names in texts.templates if not {"", self.caption_column} & set(names)]
            if fixed:
                raise ValueError(
                    f"The template {fixed[0]!r} has no caption, and `{name}` gives other captions for it: put {{}} "
                    "into it, or leave it out."
                )
        if self.label_column == self.image_column:
            raise ValueError(f"`label_column` is {self.label_column!r}, the column of {taken[self.image_column]}.")

    def _choose_media(self) -> None:
        """Films where `num_frames` is given; the column of images or films by its usual name."""
        if self.num_frames is not None:
            count = self.num_frames
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"`num_frames` is {count!r}; it must be a whole number of at least 1.")
            object.__setattr__(self, "media", VIDEOS.name)
        media = find_media(self.media)
        if self.image_column is None:
            object.__setattr__(self, "image_column", media.role)
        if media is VIDEOS and self.cache_images:
            raise ValueError(
                "`cache_images` keeps resized images, but each epoch reads other frames of a film: leave it out with "
                "films."
            )


def row_columns(options: PairOptions) -> dict[str, str]:
    """The columns that a pair needs and their roles: `"image"` or `"video"`, `"caption"`, `"text"`, `"label"`
    or `"id"`.
    """
    roles = {options.image_column: find_media(options.media).role}
    for name in TextReader(options.templates, options.caption_column).columns:
        roles[name] = "caption" if name == options.caption_column else "text"
    for name in (options.negative_column, options.short_caption_column):
        if name is not None:
            roles[name] = "caption"
    if options.label_column is not None:
        roles.setdefault(options.label_column, "label")
    if options.image_id_column is not None:
        roles.setdefault(options.image_id_column, "id")
    return roles


def named_columns(options: PairOptions) -> list[str]:
    """The columns whose classes count by their names: those of texts and labels."""
    more = (options.negative_column, options.short_caption_column, options.label_column)
    texts = TextReader(options.templates, options.caption_column).columns
    return list(dict.fromkeys([*texts, *(name for name in more if name is not None)]))
