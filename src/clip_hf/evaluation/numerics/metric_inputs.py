# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Check the arrays, lists and tensors passed to metrics; errors name the row."""

import math
import operator
from typing import Any

import numpy as np
import torch

from ...utils.wording import listed


NAMES_TO_INDICES = (
    "Give the index of each row's class; `Dataset.class_encode_column` of datasets turns a column of names into "
    "indices."
)
"""What to do with names of classes, for messages."""


def as_array(values: Any, name: str) -> np.ndarray:
    """Convert an array, list or tensor to an array on the CPU."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} has rows of different lengths; make them equally long.") from error


def _check_kind(array: np.ndarray, kinds: str, name: str, what: str) -> None:
    """Raise TypeError unless the array is of one of numpy's kinds, naming a value that is not."""
    if array.dtype.kind in kinds:
        return
    values = array.ravel().tolist()
    if array.dtype.kind == "O":
        values = [value for value in values if np.asarray(value).dtype.kind not in kinds]
    message = f"{name} must hold {what}, got {array.dtype} such as {values[0]!r}."
    if kinds == "iu" and isinstance(values[0], str):
        message += f" {NAMES_TO_INDICES}"
    raise TypeError(message)


def as_numbers(values: Any, name: str, ndim: int) -> np.ndarray:
    """Numbers without NaN and with at least one row, as float32 or float64."""
    array = as_array(values, name)
    _check_kind(array, "biuf", name, "numbers")
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); at least one row is needed.")
    if array.ndim != ndim:
        shape = {1: "(rows,)", 2: "(rows, columns)"}[ndim]
        raise ValueError(f"{name} must have the shape {shape}, got {array.shape}.")
    if array.dtype.kind != "f":
        return array.astype(np.float64)
    array = array.astype(np.float32) if array.dtype == np.float16 else array
    if np.isnan(array.min()):  # the minimum is NaN if any is, without a second array of this size
        row = np.flatnonzero(np.isnan(array.reshape(len(array), -1)).any(axis=1))[0]
        raise ValueError(f"{name} holds NaN, first in row {row}; look at the features that it was computed from.")
    return array


def check_matrix(
    values: np.ndarray | torch.Tensor, name: str, *, width: int | None = None, directions: bool = False
) -> None:
    """Refuse features or embeddings that are not a matrix of finite real numbers, at least one row and column.

    `name` is a plural, for messages. With `directions`, rows of zeros are refused too: they have no direction.
    """
    if not isinstance(values, np.ndarray | torch.Tensor):
        raise TypeError(f"{name} are {type(values).__name__}; give an array or a tensor of shape (rows, columns).")
    if values.dtype.is_complex if isinstance(values, torch.Tensor) else values.dtype.kind not in "fiu":
        raise TypeError(f"{name} are of dtype {values.dtype}; give real numbers.")
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} have shape {tuple(values.shape)}; give (rows, columns), at least one of each.")
    if width is not None and values.shape[1] != width:
        raise ValueError(
            f"{name} have {values.shape[1]} columns where others have {width}; encode all splits with one model."
        )
    # Extremes first: they need no second array of this size.
    if not math.isfinite(float(values.max()) - float(values.min())):
        infinite = np.flatnonzero(~np.isfinite(as_array(values, name)).all(axis=1))
        if len(infinite):
            raise ValueError(
                f"{name} have NaN or infinite values in {list_rows(infinite)}; look at what they were encoded "
                "from, or encode in a wider dtype than float16."
            )
    if directions:
        zeros = np.flatnonzero(~as_array((values != 0).any(axis=1), name))
        if len(zeros):
            raise ValueError(f"{name} are all zeros in {list_rows(zeros)}, which is no direction; encode them again.")


def list_rows(indices: np.ndarray) -> str:
    """List the first rows for a message: `"row 3"`, `"rows 3, 5"`, `"rows 1, 2, 3, 4, 5 and 7 more"`."""
    return f"row{'' if len(indices) == 1 else 's'} {listed(list(map(str, indices)), 5)}"


def as_integers(values: Any, name: str) -> np.ndarray:
    """Integers `(rows,)` as int64, at least one."""
    array = as_array(values, name)
    if array.size == 0:
        raise ValueError(f"{name} is empty; at least one row is needed.")
    _check_kind(array, "iu", name, "integers")
    if array.ndim != 1:
        raise ValueError(f"{name} must have the shape (rows,), got {array.shape}.")
    return array.astype(np.int64)


def check_length(array: np.ndarray, rows: int, name: str) -> None:
    """Raise ValueError unless there are as many rows as scores has."""
    if len(array) != rows:
        raise ValueError(f"{name} has {len(array)} rows, scores has {rows}; both need one for each image.")


def as_scores_and_targets(scores: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores `(n, c)` and class indices `(n,)` that are columns of them."""
    scores, targets = as_numbers(scores, "scores", 2), as_integers(targets, "targets")
    check_length(targets, len(scores), "targets")
    classes = scores.shape[1]
    outside = np.flatnonzero((targets < 0) | (targets >= classes))
    if len(outside):
        raise ValueError(
            f"targets has class {targets[outside[0]]} in row {outside[0]}, but scores has {classes} columns: classes "
            f"0 to {classes - 1}. The class names that scores was computed with must be those of the labels."
        )
    return scores, targets


def as_flags(targets: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Bool targets, also where they are given as 0 and 1."""
    array = as_array(targets, "targets")
    _check_kind(array, "biuf", "targets", "True and False, or 1 and 0")
    if array.shape != shape:
        raise ValueError(f"targets has the shape {array.shape}, scores {shape}; they must be the same.")
    wrong = array[~np.isin(array, (0, 1))]
    if wrong.size:
        raise ValueError(f"targets must be 0 or 1, got {wrong[0]}.")
    return array.astype(bool)


def as_weights(weights: Any, rows: int) -> np.ndarray:
    """Sample weights as `(rows,)` float64 with the largest between 1/2 and 1; ones where None."""
    if weights is None:
        return np.ones(rows)
    array = as_numbers(weights, "weights", 1).astype(np.float64)
    check_length(array, rows, "weights")
    if (array < 0).any() or not np.isfinite(array).all():
        raise ValueError("weights must be finite and not negative.")
    if not array.any():
        raise ValueError("weights are all zero; nothing is left to measure.")
    return scaled(array)


def scaled(array: np.ndarray) -> np.ndarray:
    """The array with its largest value between 1/2 and 1."""
    # By a power of two, so that sums and products do not overflow, and round as they would without it.
    return np.ldexp(array, -np.frexp(array.max())[1])


def as_positive_integer(value: Any, name: str) -> int:
    """An integer of at least 1."""
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}.") from None
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return value


def as_shares(values: Any, name: str) -> np.ndarray:
    """Numbers from 0 to 1 as float64, of any shape."""
    array = as_array(values, name)
    _check_kind(array, "biuf", name, "numbers")
    array = array.astype(np.float64)
    if array.size == 0:
        raise ValueError(f"{name} is empty; at least one accuracy is needed.")
    wrong = array[~((array >= 0) & (array <= 1))]  # NaN is wrong, too
    if wrong.size:
        raise ValueError(f"{name} must hold shares from 0 to 1, got {wrong[0]:g}; divide percentages by 100.")
    return array
