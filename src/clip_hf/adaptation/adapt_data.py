# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The data of an adaptation: parts to train on, to choose on and to test on, and the draws of examples."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import numpy as np

from ..evaluation import (
    CaptionedDataOptions,
    ClassificationData,
    dataset_names,
    get_dataset,
    load_classification,
    load_retrieval,
    load_retrieval_splits,
    load_splits,
    split_validation,
)
from ..evaluation.tasks.few_shot import check_shots, draw_shots
from ..evaluation.tasks.labelled_features import train_and_test
from ..evaluation.tasks.measured_change import Data
from ..utils.wording import counted
from .adapt_options import AdaptOptions


TEST_SHARE = 0.2
"""Share of the rows that is held out for the test where the data have no test part."""
VALIDATION_SHARE = 0.2
"""Share of the training rows that is held out to choose on, where all are used and there is no validation part."""
MOST_VALIDATION_SHOTS = 4
"""Validation examples of each class in a few-shot adaptation, as in CoOp (Zhou et al. 2022): min(shots, 4)."""


@dataclass
class AdaptationData:
    """The parts of the data.

    Args:
        train, test ([`ClassificationData`] or [`RetrievalData`]): Where examples are drawn from, and what is scored.
        validation (*optional*): The data's own validation part.
        notes (`list[str]`): What was held out.
    """

    train: Data
    test: Data
    validation: Data | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def has_labels(self) -> bool:
        """Whether these are labelled images; else captioned ones."""
        return isinstance(self.test, ClassificationData)


@dataclass
class Draw:
    """The examples of one adaptation.

    Args:
        seed (`int`): Seed of the draw.
        train ([`ClassificationData`] or [`RetrievalData`]): The examples.
        validation (*optional*): Rows to choose on, none of them among the examples or the test rows.
        validation_from (`str`): Where they come from, in words.
    """

    seed: int
    train: Data
    validation: Data | None
    validation_from: str


def select_rows(data: Data, rows: np.ndarray) -> Data:
    """These rows of labelled or captioned images."""
    if isinstance(data, ClassificationData):
        return data.select(rows)
    return replace(data, data=data.data.select(rows), captions=[data.captions[row] for row in rows])


def load_adaptation_data(options: AdaptOptions) -> AdaptationData:
    """Load and check the data, before anything is encoded.

    Labels are taken where the data have them; captions where `caption_column` is given, the registry has nothing else,
    or no column of labels can be found.

    Raises:
        ValueError: as [`load_splits`] and [`load_retrieval`]; if there are no training rows, the classes of train and
            test differ, a class has no example or fewer than `shots`, an image has several labels, or the method needs
            labels and the data have captions.
    """
    if options.caption_column is not None or _has_only_captions(options.data):
        data = _load_captions(options)
    else:
        try:
            data = _load_labels(options)
        except _NoLabels as error:
            data = _captions_instead(options, error.__cause__)
    if data.has_labels:
        counts = data.train.class_counts
        if options.shots is not None:
            check_shots([options.shots], counts, data.train.class_names, data.train.name)
    return data


class _NoLabels(ValueError):
    """Data that could not be read as labelled images."""


def _has_only_captions(source: Any) -> bool:
    name = source.partition("=")[0].lower().replace("-", "_") if isinstance(source, str) else None
    return name in dataset_names() and get_dataset(name).tasks == ("retrieval",)


def _load_labels(options: AdaptOptions) -> AdaptationData:
    try:
        parts = load_splits(options.data, options.data_options)
    except ValueError as error:
        raise _NoLabels from error
    notes: list[str] = []
    for part in parts.values():
        if part.is_multi_label:
            raise ValueError(f"An image of {part.name} may have several classes; adapting is for one class an image.")
    if "train" not in parts and "test" not in parts:
        whole = next(iter(parts.values()))
        if len(parts) > 1:
            raise ValueError(
                f"{whole.name} has the parts {', '.join(parts)}, and none of them is train: name one train, or give "
                "data without parts."
            )
        parts = {"train": replace(whole, split="train")}
    if "test" not in parts:
        whole = parts["train"]
        train_rows, test_rows = split_validation(whole.targets, TEST_SHARE)
        parts = parts | {"train": whole.select(train_rows), "test": replace(whole.select(test_rows), split="test")}
        notes.append(_held_out_note(whole, len(test_rows)))
    parts = train_and_test(parts)
    return AdaptationData(parts["train"], parts["test"], parts.get("validation"), notes)


def _held_out_note(whole: Data, count: int) -> str:
    return (
        f"{whole.name} has no test part: {count:,} of its {counted(len(whole), 'row')} are held out for the test, the "
        "same ones each time."
    )


def _captions_instead(options: AdaptOptions, error: Exception) -> AdaptationData:
    """Captions where the data have no labels; what was wrong with the labels, if there are no captions either."""
    named = options.data_options.label_column is not None or options.data_options.class_names is not None
    try:
        data = None if named else _load_captions(options, check=False)
    except (ValueError, TypeError):
        data = None
    if data is None:
        raise error
    options.check_captions_fit("captioned pictures, in which no column of labels was found")
    data.notes.insert(0, f"{data.train.name} has no column of labels, so the captions are what is learned.")
    return data


def _load_captions(options: AdaptOptions, check: bool = True) -> AdaptationData:
    if check:
        options.check_captions_fit("captioned pictures")
    given = options.data_options
    captioned = CaptionedDataOptions(
        image_column=given.image_column, caption_column=options.caption_column, image_root=given.image_root
    )
    parts = load_retrieval_splits(options.data, captioned)
    notes: list[str] = []
    if "train" not in parts:
        if len(parts) > 1 or "test" in parts:
            raise ValueError(f"The data {options.data} have the parts {', '.join(parts)}; there is none to train on.")
        parts = {"train": replace(next(iter(parts.values())), split="train")}
    if "test" not in parts:
        whole = parts["train"]
        if len(whole) < 3:
            raise ValueError(f"{whole.name} has {counted(len(whole), 'picture')}; nothing can be held out for a test.")
        order = np.random.default_rng(0).permutation(len(whole))
        count = max(1, round(TEST_SHARE * len(whole)))
        test, train = np.sort(order[:count]), np.sort(order[count:])
        parts["train"], parts["test"] = select_rows(whole, train), replace(select_rows(whole, test), split="test")
        notes.append(_held_out_note(whole, count))
    return AdaptationData(parts["train"], parts["test"], parts.get("validation"), notes)


def draw_examples(data: AdaptationData, options: AdaptOptions, seed: int) -> Draw:
    """Draw the examples of a seed, and the rows to choose on.

    - With `shots`, the examples are those of [`draw_shots`], and min(shots, 4) rows of each class to choose on come
      from the validation part or, without one, from training rows that were not drawn; where a class has too few of
      them, all classes give as many as it has; if that is none, nothing is chosen on other rows.
    - Without, all training rows are used; a fifth of them is held out to choose on, unless there is a validation part.
    """
    train, validation = data.train, data.validation
    if not data.has_labels:
        return _draw_pairs(data, seed)
    if options.shots is None:
        if validation is not None:
            return Draw(seed, train, validation, f"the validation part, {counted(len(validation), 'row')}")
        rows, held_out = split_validation(train.targets, VALIDATION_SHARE, seed)
        words = f"{counted(len(held_out), 'row')} held out of the training rows"
        return Draw(seed, train.select(rows), train.select(held_out), words)
    rows = draw_shots(train.targets, options.shots, seed)
    pool, origin = validation, "the validation part"
    if validation is None:
        pool, origin = train.select(np.setdiff1d(np.arange(len(train)), rows)), "training rows that were not drawn"
    count = min(options.shots, MOST_VALIDATION_SHOTS, int(pool.class_counts.min()))
    if count == 0:
        words = "none: no row of some class is left, so nothing is chosen on other rows than the examples"
        return Draw(seed, train.select(rows), None, words)
    chosen = pool.select(draw_shots(pool.targets, count, seed))
    return Draw(seed, train.select(rows), chosen, f"{counted(count, 'row')} of each class from {origin}")


def _draw_pairs(data: AdaptationData, seed: int) -> Draw:
    train, validation = data.train, data.validation
    if validation is not None:
        return Draw(seed, train, validation, f"the validation part, {counted(len(validation), 'picture')}")
    count = round(VALIDATION_SHARE * len(train) / 2)
    if count == 0:
        return Draw(seed, train, None, "none: there are too few pictures")
    order = np.random.default_rng(seed).permutation(len(train))
    held_out, rows = np.sort(order[:count]), np.sort(order[count:])
    words = f"{counted(count, 'picture')} held out of the training rows"
    return Draw(seed, select_rows(train, rows), select_rows(train, held_out), words)


def load_retained(source: Any) -> Data:
    """Load what is measured before and after besides the task: labels where the data have them, else captions.

    Raises:
        ValueError: if the data cannot be read as either, or hold nothing; the message says how to do without.
    """
    if isinstance(source, datasets.Dataset | Mapping) and not len(source):
        raise ValueError("`retain` (--retain) has no rows; give other data, or none to measure only the task.")
    try:
        if not _has_only_captions(source):
            try:
                data = load_classification(source)
                return data if not data.is_multi_label else load_retrieval(source)
            except ValueError as error:
                try:
                    return load_retrieval(source)
                except (ValueError, TypeError):
                    raise error from None
        return load_retrieval(source)
    except ValueError as error:
        raise ValueError(
            f"`retain` (--retain) cannot be read: {error} Give other labelled or captioned pictures, or none."
        ) from error
