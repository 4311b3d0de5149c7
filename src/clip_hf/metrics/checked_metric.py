# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The frame of all metrics: their card for `evaluate`, and checks of inputs before `evaluate` converts them."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import datasets
import evaluate
import numpy as np

from ..evaluation.numerics.metric_inputs import NAMES_TO_INDICES, as_array


# Types of a row's value in a column.
FLOAT, INTEGER = datasets.Value("float64"), datasets.Value("int64")
FLOATS, INTEGERS, BOOLS = (datasets.Sequence(datasets.Value(dtype)) for dtype in ("float64", "int64", "bool"))


class Paper(NamedTuple):
    """The source of a metric: where to read it, and its citation."""

    url: str
    bibtex: str


CLIP_PAPER = Paper(
    "https://arxiv.org/abs/2103.00020",
    """\
@inproceedings{radford2021learning,
    title = {Learning Transferable Visual Models From Natural Language Supervision},
    author = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and Agarwal,
        Sandhini and Sastry, Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack and Krueger, Gretchen and
        Sutskever, Ilya},
    booktitle = {International Conference on Machine Learning},
    year = {2021}
}
""",
)

# For each dtype: its name in messages, and a test of array elements.
_ALLOWED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "int64": ("integers", lambda array: np.full(array.shape, array.dtype.kind in "iu")),
    "bool": ("True and False, or 1 and 0", lambda array: np.isin(array, (0, 1))),
    "float64": ("numbers", lambda array: np.full(array.shape, True)),
}


class CheckedMetric(evaluate.Metric, ABC):
    """A metric that refuses what `evaluate` would silently convert: labels such as "7" and 7.9 would become 7.

    A subclass has the attributes below, `_compute` (called with the columns and the options of `compute`) and a
    docstring: down to `Args:` it describes the metric, from there on it documents the inputs. `evaluate` takes the
    first class of a file that is not abstract, so the subclass must be the only one.

    Attributes:
        columns (`tuple[dict, ...]`): The types of each column's rows, by name; several where rows may have one of
            several types.
        papers (`tuple[Paper, ...]`): Where the metric comes from; by default the CLIP paper.
    """

    columns: ClassVar[tuple[dict[str, Any], ...]]
    papers: ClassVar[tuple[Paper, ...]] = (CLIP_PAPER,)

    @abstractmethod
    def _compute(self, **inputs: Any) -> dict[str, Any]:
        """The metric's figures by name."""

    def _info(self) -> evaluate.MetricInfo:
        description, arguments, inputs = inspect.getdoc(type(self)).partition("Args:\n")
        features = [datasets.Features(columns) for columns in self.columns]
        return evaluate.MetricInfo(
            description=description,
            citation="\n".join(paper.bibtex for paper in self.papers),
            inputs_description=arguments + inputs,
            features=features if len(features) > 1 else features[0],
            reference_urls=[paper.url for paper in self.papers],
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **inputs: Any) -> None:
        """Check rows and add them."""
        self._check({"predictions": predictions, "references": references, **inputs})
        super().add_batch(predictions=predictions, references=references, **inputs)

    def add(self, *, prediction: Any = None, reference: Any = None, **inputs: Any) -> None:
        """Check one row and add it."""
        row = {"predictions": prediction, "references": reference, **inputs}
        self._check({name: None if value is None else [value] for name, value in row.items()})
        super().add(prediction=prediction, reference=reference, **inputs)

    def _check(self, columns: dict[str, Any]) -> None:
        features = self.features[0] if isinstance(self.features, list) else self.features
        for name, feature in features.items():
            while not isinstance(feature, datasets.Value):
                feature = feature.feature
            what, fits = _ALLOWED[feature.dtype]
            wrong = None if columns.get(name) is None else _first_that_does_not_fit(columns[name], fits)
            if wrong is not None:
                hint = f" {NAMES_TO_INDICES}" if isinstance(wrong[0], str) and feature.dtype == "int64" else ""
                raise TypeError(f"{name} must hold {what}, got {wrong[0]!r}.{hint}")


def _first_that_does_not_fit(values: Any, fits: Callable[[np.ndarray], np.ndarray]) -> tuple[Any] | None:
    """A tuple of the first value, at any depth, that is not a number or does not fit; None if all fit."""
    try:
        array = as_array(values, "the column")
    except ValueError:  # rows of different lengths
        array = None
    if array is not None and array.dtype.kind in "biuf":
        wrong = array[~fits(array)] if array.size else array
        return (wrong.ravel()[0].item(),) if wrong.size else None
    if array is not None and array.ndim == 0:
        return (values,)
    return next((found for value in values if (found := _first_that_does_not_fit(value, fits)) is not None), None)
