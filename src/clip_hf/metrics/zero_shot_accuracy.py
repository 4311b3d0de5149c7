# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Top-1 and top-k accuracy of scores for each class."""

from typing import Any

from clip_hf.evaluation.numerics.metrics import top_k_accuracy
from clip_hf.metrics.checked_metric import FLOATS, INTEGER, CheckedMetric


class ZeroShotAccuracy(CheckedMetric):
    """Top-1 and top-k accuracy of classification scores.

    The share of the images whose class has the largest score (top-1), or one of the k largest (top-k). Of classes with
    equal scores, the lower index comes first.

    Args:
        predictions: For each image, a score for each class, such as `logits_per_image`: `(n, c)`.
        references: For each image, the index of its class, from 0 to c - 1: `(n,)`.
        k: How many guesses count, an integer or a list of them, at most c. By default 1.
        sample_weight: How much each image counts, `(n,)`. By default all the same.

    Returns:
        accuracy: Top-1 accuracy from 0 to 1, if k has 1.
        top<k>_accuracy: Top-k accuracy, for each other k.

    Examples:
        Class 0 of the first image comes first, class 1 of the second comes second and class 0 of the third comes last.

        >>> from clip_hf import metrics
        >>> metric = metrics.load("zero_shot_accuracy")
        >>> scores = [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.5, 0.4]]
        >>> result = metric.compute(predictions=scores, references=[0, 1, 0], k=[1, 2])
        >>> {name: round(value, 4) for name, value in result.items()}
        {'accuracy': 0.3333, 'top2_accuracy': 0.6667}
    """

    columns = ({"predictions": FLOATS, "references": INTEGER},)

    def _compute(
        self, predictions: Any, references: Any, k: int | list[int] = 1, sample_weight: Any = None
    ) -> dict[str, float]:
        ks = k if isinstance(k, list | tuple) else [k]
        values = [top_k_accuracy(predictions, references, k, sample_weight) for k in ks]
        return {"accuracy" if k == 1 else f"top{k}_accuracy": value for k, value in zip(ks, values, strict=True)}
