# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Images and films as data: all in which their readers differ."""

from dataclasses import dataclass
from typing import Any

import datasets

from ..model.image_reading_clip_hf import IMAGE_ENDINGS
from ..model.video_opening_clip_hf import VIDEO_ENDINGS


@dataclass(frozen=True)
class Media:
    """What a column of images or films holds."""

    name: str  # the value of the option `media`
    noun: str  # in messages
    role: str  # of the column in a row; also the column's usual name
    endings: frozenset[str]  # of files, lower case and without the dot
    feature_type: type

    @property
    def feature(self) -> Any:
        """The feature of a column whose values are not decoded."""
        return self.feature_type(decode=False)

    def has_ending(self, ending: str) -> bool:
        """Whether files or members of tars with this ending are meant: what counts is what comes last."""
        return ending.rpartition(".")[2] in self.endings


IMAGES = Media("images", "image", "image", IMAGE_ENDINGS, datasets.Image)
VIDEOS = Media("videos", "film", "video", VIDEO_ENDINGS, datasets.Video)
MEDIA = {media.name: media for media in (IMAGES, VIDEOS)}
"""What the option `media` chooses."""
MEDIA_BY_ROLE = {media.role: media for media in (IMAGES, VIDEOS)}


def find_media(name: str) -> Media:
    """The media of this name; ValueError if there is none."""
    if name not in MEDIA:
        raise ValueError(f"`media` is {name!r}; it must be one of {', '.join(map(repr, MEDIA))}.")
    return MEDIA[name]


def media_in(ending: str) -> Media | None:
    """The media to which a file with this ending belongs, if any."""
    return next((media for media in MEDIA.values() if media.has_ending(ending)), None)


def media_role(roles: dict[str, str]) -> Media:
    """The media of the column that `row_columns` gives for images or films; images where there is none."""
    return next((MEDIA_BY_ROLE[role] for role in roles.values() if role in MEDIA_BY_ROLE), IMAGES)
