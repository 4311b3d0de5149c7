# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Mean of the classes' top-1 accuracies."""

from typing import Any

from clip_hf.evaluation.numerics.metrics import mean_per_class_accuracy
from clip_hf.metrics.checked_metric import FLOATS, INTEGER, CheckedMetric


class MeanPerClassAccuracy(CheckedMetric):
    """Mean of the classes' top-1 accuracies, also called balanced accuracy.

    The accuracy of a class is the share of its images that are classified right. The CLIP paper uses the metric for
    FGVC Aircraft, Oxford Pets, Caltech101 and Flowers102, whose classes differ in size.

    Args:
        predictions: For each image, a score for each class: `(n, c)`.
        references: For each image, the index of its class, from 0 to c - 1, each at least once: `(n,)`.
        sample_weight: How much each image counts within its class, `(n,)`. By default all the same.

    Returns:
        mean_per_class_accuracy: From 0 to 1.

    Examples:
        Of four images of class 0, three are right; the one of class 1 is wrong: (3/4 + 0) / 2. Accuracy is 3/5.

        >>> from clip_hf import metrics
        >>> metric = metrics.load("mean_per_class_accuracy")
        >>> scores = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.6, 0.4]]
        >>> metric.compute(predictions=scores, references=[0, 0, 0, 0, 1])
        {'mean_per_class_accuracy': 0.375}
    """

    columns = ({"predictions": FLOATS, "references": INTEGER},)

    def _compute(self, predictions: Any, references: Any, sample_weight: Any = None) -> dict[str, float]:
        return {"mean_per_class_accuracy": mean_per_class_accuracy(predictions, references, sample_weight)}
