# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Features of labelled images, by split: what classifiers are fitted to and scored on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...embedding.bulk_encoding import encode_readable_images
from ...embedding.dual_encoder import DualEncoder
from ...embedding.encoding_options import EncodingOptions
from ...utils.wording import counted, quoted
from ..registry.evaluation_data import ClassificationData, ClassificationOptions, check_metric, load_splits
from .evaluation_task import EvaluationTask, TaskSettings


class TrainAndTestTask(EvaluationTask):
    """A task that fits classifiers to the images of one split and scores them on another."""

    def load(self, sources: Sequence[str], settings: TaskSettings) -> dict[str, ClassificationData]:
        """Load train, test and, where there is one, validation."""
        split = settings.data_options.split
        if split not in (None, "test"):
            raise ValueError(f"The task is measured on the split test; leave out --split {split}.")
        return train_and_test(load_splits(sources[0], replace(settings.data_options, split=None)))


def train_and_test(data: Any, media: str = "images") -> dict[str, ClassificationData]:
    """`"train"`, `"test"` and, where there is one, `"validation"` of what [`load_splits`] takes or returned.

    `media` says what is loaded: `"images"`, or `"videos"` for films.

    Raises:
        ValueError: if train or test is missing, their classes differ, or a class has no image to train on.
    """
    if not (isinstance(data, Mapping) and all(isinstance(part, ClassificationData) for part in data.values())):
        data = load_splits(data, ClassificationOptions(media=media))
    missing = [name for name in ("train", "test") if name not in data]
    if missing:
        raise ValueError(f"Classifiers need the splits train and test; there are {', '.join(data) or 'none'}.")
    train, test = data["train"], data["test"]
    if train.class_names != test.class_names:
        raise ValueError(f"The classes of {test.name} differ between train and test.")
    unseen = train.empty_classes
    if unseen:
        raise ValueError(
            f"{len(unseen)} of {counted(len(test.class_names), 'class', 'classes')} "
            f"{'has' if len(unseen) == 1 else 'have'} no image to train on, such as {quoted(unseen)}."
        )
    return dict(data)


def encode_labelled(
    encoder: DualEncoder,
    data: ClassificationData,
    *,
    projected: bool = True,
    options: EncodingOptions | None = None,
) -> tuple[ClassificationData, np.ndarray, dict[str, Any] | None]:
    """The labelled images that can be read, their features (n, dim), and what results say of the others."""
    name = f"{data.name} ({data.split})"
    images = encode_readable_images(
        encoder, data.data, data.image_column, projected=projected, options=options, name=name
    )
    if images.skipped is not None:
        data = data.select(images.rows)
        check_metric(data)
    return data, images.features, images.skipped


def encode_splits(
    encoder: DualEncoder,
    parts: Mapping[str, ClassificationData],
    names: tuple[str, ...],
    *,
    projected: bool,
    options: EncodingOptions,
) -> tuple[list[np.ndarray | None], dict[str, dict[str, Any]]]:
    """Features and targets of each split in turn (None, None if it is missing), and what was skipped, by split."""
    arrays, skipped = [], {}
    for name in names:
        if name not in parts:
            arrays += [None, None]
            continue
        part, features, left_out = encode_labelled(encoder, parts[name], projected=projected, options=options)
        arrays += [features, part.targets]
        skipped |= {} if left_out is None else {name: left_out}
    return arrays, skipped
