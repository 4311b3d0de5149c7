# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Data for training: captioned images, what is done to them on the way into a batch, and a data set to start with."""

from ..atomic import replaced_folder
from .augmentation import random_square_crop
from .collator import ImageTextCollator
from .image_text import ImageTextDataset, read_captions
from .openmoji import (
    ATTRIBUTION,
    OPENMOJI_TEMPLATES,
    caption_from_emoji_name,
    load_openmoji,
    split_emoji_name,
)


__all__ = [
    "ATTRIBUTION",
    "ImageTextCollator",
    "ImageTextDataset",
    "OPENMOJI_TEMPLATES",
    "caption_from_emoji_name",
    "load_openmoji",
    "random_square_crop",
    "read_captions",
    "replaced_folder",
    "split_emoji_name",
]
