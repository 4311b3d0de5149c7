# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Labels of images as numbers, and the names of their classes, in the same order. Shapes: n rows, c classes."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np

from ...data.data_sources import Rows
from ...data.parts import SPLIT_NAMES
from ...data.texts import class_label, label_feature, readable_name
from ...utils.wording import counted, quoted
from .dataset_registry import check_class_names, imagenet_subsets, load_class_names
from .evaluation_source import EvaluationSource


_TEXT = ".*string"
_SYNSET = re.compile(r"n\d{8}")
# A label id written as text; pandas writes those of a column with gaps with a decimal point.
_NUMBER = re.compile(r"\s*[+-]?\d+(?:\.0*)?\s*")


def read_class_names(
    opened: EvaluationSource,
    data: datasets.Dataset,
    column: str,
    class_names: Any,
    read: Callable[[Rows], datasets.Dataset],
) -> list[str]:
    """A name for each label id, in the order of the ids.

    `class_names` are the user's choice, if any; `read` reads other splits, whose labels may be names too.
    """
    label, entry = class_label(data.features[column]), opened.entry
    where = f"{opened.name}: "
    data_names = list(label.names) if label is not None else None
    curated = None if entry.class_names == "features" else entry.class_names
    if class_names is not None:
        names = load_class_names(class_names) if isinstance(class_names, str | os.PathLike) else None
        names = check_class_names(class_names if names is None else names, "`class_names`")
    elif curated is not None:
        names = load_class_names(curated)
        if data_names and all(map(_SYNSET.fullmatch, data_names)) and "imagenet" in curated:
            return _names_of_synsets(data_names, names, where)
    elif data_names is not None:
        return [readable_name(name) for name in data_names]
    else:
        names = _names_of_strings(opened, data, column, read)
        if names is None:
            raise ValueError(_no_names(opened, data, column))
        return names
    if data_names is None:
        return names
    if len(data_names) != len(names):
        raise ValueError(
            f"{where}there are {len(names)} class names, but the column {column!r} is a ClassLabel of "
            f"{len(data_names)} ({quoted(data_names)}). Give one name for each, in that order."
        )
    return _in_order_of(data_names, names, where, may_differ=class_names is not None)


def _names_of_strings(
    opened: EvaluationSource, data: datasets.Dataset, column: str, read: Callable[[Rows], datasets.Dataset]
) -> list[str] | None:
    """The class names of string labels: the labels of all splits, sorted, with spaces for underscores.

    None if the labels are not strings, or are all numbers: these are class ids, whose names are elsewhere.
    """
    parts = opened.parts()
    others = parts.values() if parts.keys() <= SPLIT_NAMES.keys() else ()  # tables of other names are other data
    labels: set[str] = set()
    for part in (data, *(read(opened.data_source.rows(name)) for name in others)):
        if column in part.column_names and _is_value(part.features[column], _TEXT):
            labels |= _different_labels(part, column)
    if not labels or all(map(_NUMBER.fullmatch, labels)):
        return None
    names = [readable_name(label) for label in sorted(labels)]
    return names if len(set(names)) == len(names) else sorted(labels)


def _different_labels(data: datasets.Dataset, column: str) -> set:
    values = data.with_format(None)[column][:]
    return {label for value in values for label in _labels_of(value) if not _is_missing(label)}


def _labels_of(value: Any) -> list:
    """An image's labels; the list may be empty."""
    return value if isinstance(value, list) else [value]


def _is_value(feature: Any, dtypes: str = "") -> bool:
    """Whether labels are plain values, of a dtype that matches this regular expression."""
    label = label_feature(feature)
    return isinstance(label, datasets.Value) and re.match(dtypes, label.dtype) is not None


def _is_missing(label: Any) -> bool:
    return label is None or label != label or (isinstance(label, str) and not label.strip())  # NaN is not itself


def _no_names(opened: EvaluationSource, data: datasets.Dataset, column: str) -> str:
    feature = data.features[column]
    has_values = _is_value(feature)
    labels = sorted(_different_labels(data, column)) if has_values else []
    if has_values and not labels:
        return f"No row of {opened.name} has a label in the column {column!r}. Fill them in, or name another column."
    kind = f"{feature.dtype} values" if isinstance(feature, datasets.Value) else str(feature)
    kind = "numbers, written as text" if _is_value(feature, _TEXT) else kind
    values = ""
    if labels:
        labels = sorted(labels, key=int) if all(re.fullmatch(r"\d+", str(label)) for label in labels) else labels
        values = f" There {'is one' if len(labels) == 1 else f'are {len(labels)} different ones'}, {quoted(labels)}."
    return (
        f"The labels of {opened.name}, in the column {column!r}, are {kind}, which do not say what the classes are."
        f"{values} Give `class_names`, a name for each label id from 0 on (--class-names FILE: a .txt with a name a "
        "line, or a .json with a list of them), write the names into the column, or make it a ClassLabel: "
        f"data.cast_column({column!r}, datasets.ClassLabel(names=[...]))."
    )


def _names_of_synsets(data_names: list[str], names: list[str], where: str) -> list[str]:
    """The names of classes that are called by their synset, n01440764 and so on, as ImageNet's folders are."""
    synsets = imagenet_subsets()["synsets"]
    by_synset = dict(zip(synsets, load_class_names("class_names.json#imagenet")))
    ordered = [by_synset.get(synset) for synset in data_names]
    if sorted(map(str, ordered)) != sorted(names):
        raise ValueError(
            f"{where}the {len(data_names)} classes {quoted(data_names)} are not the dataset's {len(names)} "
            "ImageNet classes."
        )
    return ordered


def _normal(name: str) -> str:
    return "".join(char for char in name.casefold() if char.isalnum())


def _in_order_of(data_names: list[str], names: list[str], where: str, may_differ: bool) -> list[str]:
    """`names` in the order of the data's ids: matched by name if both lists agree, else by position."""
    places = {_normal(name): place for place, name in enumerate(names)}
    matches = [places.get(_normal(name)) for name in data_names]
    if None not in matches and len(set(matches)) == len(names):
        return [names[place] for place in matches]
    numbers = [int(name) if name.isdecimal() else -1 for name in data_names]
    for first in (0, 1):  # folders may be named by the label's number, sorted as text: 0, 1, 10, 100
        if sorted(numbers) == list(range(first, len(names) + first)):
            return [names[number - first] for number in numbers]
    displaced = [
        index
        for index, match in enumerate(matches)
        if match is not None and match != index and _normal(names[index]) != _normal(data_names[index])
    ]
    in_place = sum(_normal(name) == _normal(other) for name, other in zip(data_names, names))
    if len(displaced) > in_place and not may_differ:
        index = displaced[0]
        raise ValueError(
            f"{where}the data's classes are in another order than the registry's, and not the same ones: class "
            f"{index} is {data_names[index]!r} in the data, {names[index]!r} in the registry. Give `class_names` "
            "in the data's order."
        )
    return names


def read_targets(data: datasets.Dataset, column: str, names: list[str], where: str) -> np.ndarray:
    """The labels of each row: int64 (n,), or bool (n, c) of a column of lists."""
    feature, values = data.features[column], data[column][:]
    is_list = label_feature(feature) is not feature
    missing = [row for row, value in enumerate(values) if any(map(_is_missing, _labels_of(value)))]
    if missing:
        rows = f"{counted(len(missing), 'row')} {'has' if len(missing) == 1 else 'have'}"
        or_empty = ", or an empty one in a list," if is_list else ""
        raise ValueError(
            f"{where}: {rows} no label{or_empty} in {column!r}, the first is row {missing[0]}. Fill them in, or "
            "take these rows out of the data."
        )
    if is_list:
        return _multi_label(values, feature, names, where)
    if _is_value(feature, _TEXT):
        return _checked_ids(_ids_of_strings(values, names, where), names, where)
    # Floats are the ids of a column that once had gaps.
    is_whole = _is_value(feature, "float") and all(value % 1 == 0 for value in values)
    if is_whole or isinstance(feature, datasets.ClassLabel) or _is_value(feature, "u?int|bool"):
        return _checked_ids(values, names, where)
    raise ValueError(
        f"{where}: the labels in {column!r} are {feature}; they must be a ClassLabel, whole numbers, strings, or "
        "lists of these."
    )


def _multi_label(values: list, feature: Any, names: list[str], where: str) -> np.ndarray:
    lengths = [len(labels) for labels in values]
    flat = [label for labels in values for label in labels]
    # A list of class ids has no repeats, so a list that repeats 0 or 1 is a row of flags.
    if set(lengths) == {len(names)} and set(flat) <= {0, 1} and any(len(set(row)) < len(row) for row in values):
        return np.asarray(values, bool)
    is_text = _is_value(feature, _TEXT)
    if _is_value(feature) and not is_text and not _is_value(feature, "u?int"):
        raise ValueError(
            f"{where}: the labels are lists of {label_feature(feature).dtype}; give lists of the ids of an image's "
            f"classes, or a 0 or 1 for each of the {len(names)} classes."
        )
    ids = _ids_of_strings(flat, names, where) if is_text else flat
    targets = np.zeros((len(values), len(names)), bool)
    targets[np.repeat(np.arange(len(values)), lengths), _checked_ids(ids, names, where)] = True
    return targets


def _ids_of_strings(values: list[str], names: list[str], where: str) -> list[int]:
    """Ids of string labels: by class name, or the numbers themselves if all are numbers."""
    ids = {name: index for index, name in enumerate(names)}
    spelled = {value: value if value in ids else readable_name(value) for value in set(values)}
    unknown = sorted(value for value, name in spelled.items() if name not in ids)
    if unknown and len(unknown) == len(spelled) and all(map(_NUMBER.fullmatch, unknown)):
        return [int(value.partition(".")[0]) for value in values]
    if unknown:
        some_are = "1 of the labels is" if len(unknown) == 1 else f"{len(unknown)} of the labels are"
        raise ValueError(
            f"{where}: {some_are} no class name: {quoted(unknown)}. The class names are {quoted(names)}. Give one for "
            "each label (`class_names`, --class-names FILE)."
        )
    twice = [name for name, count in Counter(names).items() if count > 1 and name in set(spelled.values())]
    if twice:
        raise ValueError(f"{where}: labels are strings, but {quoted(twice)} names two classes; give numbers instead.")
    return [ids[spelled[value]] for value in values]


def _checked_ids(values: Sequence[float], names: list[str], where: str) -> np.ndarray:
    numbers = list(map(int, values))
    try:
        ids = np.array(numbers, np.int64)
    except OverflowError as error:
        raise ValueError(
            f"{where}: the label {max(numbers, key=abs)!s:.40} is too large for the id of a class; there are "
            f"{len(names)} class names, for the labels 0 to {len(names) - 1}."
        ) from error
    if (ids < 0).any():
        count = int((ids < 0).sum())
        verb = "is" if count == 1 else "are"
        raise ValueError(
            f"{where}: {count} of {len(ids)} labels {verb} below 0, which stands for an unknown label: the test "
            "splits of several datasets on the hub come without labels. Choose another split."
        )
    if ids.size and ids.max() >= len(names):
        raise ValueError(
            f"{where}: the largest label is {ids.max()}, but there are {len(names)} class names, for the labels 0 to "
            f"{len(names) - 1} ({quoted(names)}). {_cure(ids, len(names))}"
        )
    return ids


def _cure(ids: np.ndarray, num_names: int) -> str:
    labels = np.unique(ids)
    if labels[0] == 1 and labels[-1] == num_names:
        return "The labels begin at 1: subtract 1 from each, or give a name for the label 0 as well."
    if len(labels) <= num_names:
        return (
            f"There {'is' if len(labels) == 1 else 'are'} {counted(len(labels), 'different label')}, "
            f"{quoted(labels.tolist())}: number them from 0 on without gaps, or give a name for each number."
        )
    return "Give a name for each label (`class_names`, --class-names FILE)."
