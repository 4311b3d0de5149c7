# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Recall at k and median rank of a retrieval."""

from typing import Any

from clip_hf.evaluation.numerics.metrics import best_target_ranks, median_rank, recall_at_k
from clip_hf.metrics.checked_metric import FLOATS, INTEGER, INTEGERS, CheckedMetric


class RecallAtK(CheckedMetric):
    """Recall at k (R@k) and median rank of a retrieval.

    R@k is the share of the queries for which at least one right candidate is among the k with the largest scores. The
    median rank is the median over queries of the first right candidate's rank, counted from 1. Of candidates with
    equal scores, the lower index comes first.

    Args:
        predictions: For each query, a score for each candidate: `(n, c)`.
        references: For each query, the index of the right candidate, or a list of indices where several are right,
            such as the five captions of an image.
        k: How many candidates count, an integer or a list of them, at most c. By default 1, 5 and 10.

    Returns:
        recall_at_<k>: From 0 to 1, for each k.
        median_rank: From 1, which is the best.

    Examples:
        The first query's right candidate comes first, the best of the second query's two comes second.

        >>> from clip_hf import metrics
        >>> metric = metrics.load("recall_at_k")
        >>> scores = [[0.9, 0.3, 0.1], [0.2, 0.8, 0.6]]
        >>> metric.compute(predictions=scores, references=[[0], [0, 2]], k=[1, 2])
        {'recall_at_1': 0.5, 'recall_at_2': 1.0, 'median_rank': 1.5}
    """

    columns = (
        {"predictions": FLOATS, "references": INTEGERS},
        {"predictions": FLOATS, "references": INTEGER},
    )

    def _compute(self, predictions: Any, references: Any, k: int | list[int] = (1, 5, 10)) -> dict[str, float]:
        ranks = best_target_ranks(predictions, references)
        ks = list(k) if isinstance(k, list | tuple) else [k]
        columns = len(predictions[0])
        if max(ks) > columns:
            raise ValueError(f"k is {max(ks)}, but there are {columns} candidates only: all would be found.")
        return {**{f"recall_at_{k}": recall_at_k(ranks, k) for k in ks}, "median_rank": median_rank(ranks)}
