# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the metrics have in common: inputs are looked at before `evaluate` converts them."""

from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
import torch


# By the type of a feature: what its values must be in words, and where in an array of numbers they are that.
_ALLOWED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "int64": ("integers", lambda array: np.full(array.shape, array.dtype.kind in "iu")),
    "bool": ("True and False, or 1 and 0", lambda array: np.isin(array, (0, 1))),
    "float64": ("numbers", lambda array: np.full(array.shape, True)),
}


class CheckedMetric(evaluate.Metric):
    """
    A metric that refuses what `evaluate` would convert without a word.

    Without it, labels such as "7" and 7.9 become 7, and names of classes end in an error of `int`.
    """

    def add_batch(self, *, predictions: Any = None, references: Any = None, **inputs: Any) -> None:
        """Add rows, after a look at them."""
        given = {"predictions": predictions, "references": references, **inputs}
        self._check({name: given[name] for name in self._feature_names() if given.get(name) is not None})
        super().add_batch(predictions=predictions, references=references, **inputs)

    def add(self, *, prediction: Any = None, reference: Any = None, **inputs: Any) -> None:
        """Add one row, after a look at it."""
        given = {"predictions": prediction, "references": reference, **inputs}
        self._check({name: [given[name]] for name in self._feature_names() if given.get(name) is not None})
        super().add(prediction=prediction, reference=reference, **inputs)

    def _check(self, columns: dict[str, Any]) -> None:
        features = self.features[0] if isinstance(self.features, list) else self.features
        for name, column in columns.items():
            feature = features[name]
            while not isinstance(feature, datasets.Value):
                feature = feature.feature
            what, fits = _ALLOWED[feature.dtype]
            wrong = _first_that_does_not_fit(column, fits)
            if wrong is None:
                continue
            message = f"{name} must hold {what}, got {wrong[0]!r}."
            if isinstance(wrong[0], str) and feature.dtype == "int64":
                message += (
                    " Give the index of each row's class; `Dataset.class_encode_column` of datasets turns a column of "
                    "names into indices."
                )
            raise TypeError(message)


def _first_that_does_not_fit(values: Any, fits: Callable[[np.ndarray], np.ndarray]) -> tuple[Any] | None:
    """The first value, however deep, that is no number or does not fit, in a tuple; None if there is none."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float().numpy() if values.is_floating_point() else values.numpy()
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = None
    if array is not None and array.dtype.kind in "biuf":
        wrong = array[~fits(array)] if array.size else array
        return (wrong.ravel()[0].item(),) if wrong.size else None
    if array is not None and array.ndim == 0:
        return (values,)
    return next((found for value in values if (found := _first_that_does_not_fit(value, fits)) is not None), None)


__all__ = ["CheckedMetric"]
