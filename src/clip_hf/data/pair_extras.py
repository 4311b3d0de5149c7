# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a pair may have besides its image and caption: a short caption, hard negatives, and labels."""

import json
import math
import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .pair_options import PairOptions
from .skips import SkippedRow
from .texts import DrawnText, find_caption_problem, stable_id


@dataclass
class PairExtras:
    """Reads the short caption, the negatives and the labels of a row, as the options name their columns.

    - A short caption is drawn from a column like the caption, and put into the same template.
    - Negatives are texts that do not describe the image, any number of them, in the same template as the caption.
    - Labels are a list of numbers (a vector, such as findings that are 1 or 0), or classes: a text, a list of texts, a
      number, or a `ClassLabel` (or a list of it). A text in JSON's form, `"[1, 0, 0.5]"`, is what it says, because
      tables have no lists. Vectors must be of one width, and all rows of one kind.

    Args:
        options ([`PairOptions`]): Names the columns.
    """

    options: PairOptions
    width: int | None = None  # of the label vectors, 0 for classes; that of the first row
    _labels_known: bool = False

    def find_problem(self, row: dict[str, Any], where: str) -> SkippedRow | None:
        """Why a row cannot be used, whatever is drawn; None if it can be."""
        options = self.options
        if options.short_caption_column is not None:
            problem = find_caption_problem(row[options.short_caption_column], where)
            if problem:
                kind, message = f"short {problem.kind}", problem.message.replace("caption", "short caption", 1)
                return replace(problem, kind=kind, message=message)
        if options.negative_column is not None:
            negatives = _negatives(row[options.negative_column])
            problem = find_caption_problem(negatives, where) if negatives else None
            if problem:
                kind = problem.kind.replace("caption", "negative")
                message = problem.message.replace("caption", "negative")
                return replace(problem, kind=kind, message=f"{message} Leave it out: a row may have no negatives.")
        if options.label_column is None:
            return None
        labels = self._labels(row[options.label_column], where)
        return labels if isinstance(labels, SkippedRow) else None

    def read(self, row: dict[str, Any], where: str, drawn: DrawnText, seed: int) -> dict[str, Any] | SkippedRow:
        """The entries of a pair's item, drawn by `seed` alone, so that no other draw changes."""
        problem = self.find_problem(row, where)
        if problem:
            return problem
        options, entries = self.options, {}
        if options.short_caption_column is not None:
            captions = _as_list(row[options.short_caption_column])
            entries["short"] = drawn.with_caption(random.Random(f"{seed}/short").choice(captions))
        if options.negative_column is not None:
            negatives = [drawn.with_caption(text) for text in _negatives(row[options.negative_column])]
            # One that is the row's own caption would be its image's positive; the loss leaves out the others'.
            entries["negatives"] = [each for each in dict.fromkeys(negatives) if each[1] != drawn.text_id]
        if options.label_column is not None:
            name = "label_vector" if self.width else "label_ids"
            entries[name] = self._labels(row[options.label_column], where)
        return entries

    def _labels(self, value: Any, where: str) -> np.ndarray | list[int] | SkippedRow:
        """A row's normalised vector, float32, or the ids of its classes."""
        value = _from_json(value)
        if isinstance(value, list) and value and not any(isinstance(item, str | list | dict) for item in value):
            width, labels = len(value), _vector(value)
        else:
            width, labels = 0, _class_ids(value)
        if labels is None:
            needed = "a list of finite numbers that are not all 0, or a class (a text or a whole number), or several"
            # pandas makes a NaN of an empty field.
            is_missing = value is None or value == [] or (isinstance(value, float) and math.isnan(value))
            kind = "label missing" if is_missing else "label unusable"
            message = f"{where.capitalize()} has the labels {value!r:.80}; they must be {needed}."
            return SkippedRow(kind, where, message)
        if not self._labels_known:
            self.width, self._labels_known = width, True
        if width != self.width:
            kinds = [f"a vector of {size:,} numbers" if size else "classes" for size in (width, self.width)]
            message = f"{where.capitalize()} has as labels {kinds[0]}, and the first row has {kinds[1]}."
            return SkippedRow("label of another kind", where, message)
        return labels


def _as_list(value: Any) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]


def _negatives(value: Any) -> list:
    # A table's empty field is no text.
    return [] if value == "" else _as_list(_from_json(value))


def _from_json(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass  # a class whose name begins so
    return value


def _vector(value: list) -> np.ndarray | None:
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in value):
        return None
    vector = np.array(value, np.float64)
    length = np.linalg.norm(vector)
    return (vector / length).astype(np.float32) if 0 < length < np.inf else None


def _class_ids(value: Any) -> list[int] | None:
    classes = value if isinstance(value, list) else [value]
    # pandas makes floats of whole numbers where one is missing.
    classes = [int(each) if isinstance(each, float) and each.is_integer() else each for each in classes]
    names = [str(each).strip() for each in classes if isinstance(each, str | int) and not isinstance(each, bool)]
    if not names or len(names) < len(classes) or not all(names):
        return None
    return sorted({stable_id("class", name) for name in names})
