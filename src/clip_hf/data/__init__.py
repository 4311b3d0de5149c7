# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Data for training: captioned images, what is done to them on the way into a batch, and a dataset to start with."""

from ..utils.extras import require_extra


require_extra("train", "clip_hf.data", "datasets", "filelock", "fsspec", "pyarrow")

from ..utils.atomic import replaced_folder
from .augmentation import Augmentation, random_square_crop
from .captioned_images import load_pairs, split_names
from .collator import ImageTextCollator
from .composed_scenes import SCENE_CLASSES, load_composed_scenes
from .curation import Duplicates, QueryBalance, balance_by_query, deduplicate, queries_from_captions
from .holdout import hold_out
from .image_text import ImageTextDataset, read_captions
from .line_drawings import load_line_drawings
from .moving_drawings import REVERSED_ACTIONS, load_moving_drawings
from .openmoji import (
    ATTRIBUTION,
    OPENMOJI_TEMPLATES,
    caption_from_emoji_name,
    load_openmoji,
    split_emoji_name,
)
from .pair_extras import PairExtras
from .pair_loader import PairLoader, iter_texts
from .pair_options import PairOptions
from .placed_drawings import load_placed_drawings
from .skips import SkipCounter, SkippedRow
from .streaming import ImageTextStream, MixedStream


__all__ = [
    "ATTRIBUTION",
    "Augmentation",
    "Duplicates",
    "ImageTextCollator",
    "ImageTextDataset",
    "ImageTextStream",
    "MixedStream",
    "OPENMOJI_TEMPLATES",
    "PairExtras",
    "PairLoader",
    "PairOptions",
    "QueryBalance",
    "REVERSED_ACTIONS",
    "SCENE_CLASSES",
    "SkipCounter",
    "SkippedRow",
    "balance_by_query",
    "caption_from_emoji_name",
    "deduplicate",
    "hold_out",
    "iter_texts",
    "load_composed_scenes",
    "load_line_drawings",
    "load_moving_drawings",
    "load_openmoji",
    "load_pairs",
    "load_placed_drawings",
    "queries_from_captions",
    "random_square_crop",
    "read_captions",
    "replaced_folder",
    "split_emoji_name",
    "split_names",
]
