# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Accuracy under shift above what standard models reach."""

from typing import Any

import datasets
import evaluate

from clip_hf.evaluation.numerics.metrics import effective_robustness, fit_logit_line
from clip_hf.metrics import checked_metric


_DESCRIPTION = """\
Taori et al. fit a line between standard models' accuracies on a reference test set and under a distribution shift,
both as logits: logit(y) = slope * logit(x) + intercept. A model's effective robustness is its accuracy under shift
minus what the line predicts from its reference accuracy. Section 3.3 of the CLIP paper.
"""

_CITATION = """\
@inproceedings{taori2020measuring,
    title = {Measuring Robustness to Natural Distribution Shifts in Image Classification},
    author = {Taori, Rohan and Dave, Achal and Shankar, Vaishaal and Carlini, Nicholas and Recht, Benjamin and Schmidt,
        Ludwig},
    booktitle = {Advances in Neural Information Processing Systems},
    year = {2020}
}

@inproceedings{radford2021learning,
    title = {Learning Transferable Visual Models From Natural Language Supervision},
    author = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and Agarwal,
        Sandhini and Sastry, Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack and Krueger, Gretchen and
        Sutskever, Ilya},
    booktitle = {International Conference on Machine Learning},
    year = {2021}
}
"""

_INPUTS = """\
Args:
    accuracy: Each model's accuracy on the reference set, a share between 0 and 1: `(m,)`.
    shifted_accuracy: Each model's accuracy under shift, a share from 0 to 1: `(m,)`.
    baseline_accuracy: Standard models' accuracies on the reference set, at least two different ones.
    baseline_shifted_accuracy: Standard models' accuracies under shift.

Returns:
    effective_robustness: For each model, the difference of shares, from -1 to 1.
    expected_accuracy: For each model, the accuracy under shift that the line predicts.
    slope, intercept, r_squared: The line between logits, and the share of variance that it explains.

Examples:
    The odds are 1 and 4 on the reference set, and a quarter of that under shift, so that the line has slope 1 and
    intercept -log 4. It predicts 0.5 for a model with 0.8; the model has 0.6.

    >>> from clip_hf import metrics
    >>> metric = metrics.load("effective_robustness")
    >>> result = metric.compute(
    ...     accuracy=[0.8],
    ...     shifted_accuracy=[0.6],
    ...     baseline_accuracy=[0.5, 0.8],
    ...     baseline_shifted_accuracy=[0.2, 0.5],
    ... )
    >>> round(result["effective_robustness"][0], 9), round(result["expected_accuracy"][0], 9)
    (0.1, 0.5)
    >>> round(result["slope"], 9), round(result["intercept"], 4)
    (1.0, -1.3863)
"""


class EffectiveRobustness(checked_metric.CheckedMetric):
    """Accuracy under shift above what standard models reach."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"accuracy": datasets.Value("float64"), "shifted_accuracy": datasets.Value("float64")}
            ),
            reference_urls=["https://arxiv.org/abs/2007.00644", "https://arxiv.org/abs/2103.00020"],
        )

    def _compute(
        self, accuracy: Any, shifted_accuracy: Any, baseline_accuracy: Any, baseline_shifted_accuracy: Any
    ) -> dict[str, Any]:
        robustness = effective_robustness(accuracy, shifted_accuracy, baseline_accuracy, baseline_shifted_accuracy)
        line = fit_logit_line(baseline_accuracy, baseline_shifted_accuracy)
        return {
            "effective_robustness": robustness.tolist(),
            "expected_accuracy": line.predict(accuracy).tolist(),
            **line._asdict(),
        }
