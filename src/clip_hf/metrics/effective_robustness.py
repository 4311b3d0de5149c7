# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Accuracy under shift above what standard models reach."""

from typing import Any

from clip_hf.evaluation.numerics.metrics import effective_robustness, fit_logit_line
from clip_hf.metrics.checked_metric import CLIP_PAPER, FLOAT, CheckedMetric, Paper


_TAORI_2020 = Paper(
    "https://arxiv.org/abs/2007.00644",
    """\
@inproceedings{taori2020measuring,
    title = {Measuring Robustness to Natural Distribution Shifts in Image Classification},
    author = {Taori, Rohan and Dave, Achal and Shankar, Vaishaal and Carlini, Nicholas and Recht, Benjamin and Schmidt,
        Ludwig},
    booktitle = {Advances in Neural Information Processing Systems},
    year = {2020}
}
""",
)


class EffectiveRobustness(CheckedMetric):
    """Accuracy under distribution shift above what standard models reach (Taori et al. 2020).

    A line is fitted to standard models' accuracies on a reference test set and under a distribution shift, both as
    logits: logit(y) = slope * logit(x) + intercept. A model's effective robustness is its accuracy under shift minus
    what the line predicts from its reference accuracy. Section 3.3 of the CLIP paper.

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

    columns = ({"accuracy": FLOAT, "shifted_accuracy": FLOAT},)
    papers = (_TAORI_2020, CLIP_PAPER)

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
