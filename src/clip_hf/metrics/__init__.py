# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
The paper's metrics as modules of Hugging Face's `evaluate`, which load without a network.

`load("map_11point")` and `evaluate.load(path("map_11point"))` are the same. The figures are those of
`clip_hf.evaluation`, whose functions take arrays and are the better choice for large ones.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils.extras import require_extra


if TYPE_CHECKING:
    from evaluate import Metric


METRICS = (
    "clip_score",
    "effective_robustness",
    "map_11point",
    "mean_per_class_accuracy",
    "recall_at_k",
    "zero_shot_accuracy",
)
"""Names of the metrics."""


def path(name: str) -> str:
    """
    Where a metric is, for `evaluate.load` and `evaluate.combine`.

    Args:
        name (`str`):
            One of `METRICS`.

    Returns:
        `str`: the metric's folder.

    Raises:
        ValueError: if there is no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"There is no metric {name!r}; there are {', '.join(METRICS)}.")
    return str(Path(__file__).parent / name)


def load(name: str, **options: Any) -> "Metric":
    """
    Load a metric with `evaluate`.

    ```python
    from clip_hf import metrics

    metric = metrics.load("zero_shot_accuracy")
    metric.compute(predictions=[[0.9, 0.1], [0.4, 0.6]], references=[0, 0])  # {"accuracy": 0.5}
    ```

    Args:
        name (`str`):
            One of `METRICS`.
        **options:
            Passed on to `evaluate.load`: `keep_in_memory`, `experiment_id`, `num_process` and `process_id`, ...

    Returns:
        `evaluate.Metric`: with `compute`, `add` and `add_batch`.

    Raises:
        ValueError: if there is no such metric.
        MissingExtra: if `evaluate` is not installed.
    """
    folder = path(name)
    require_extra("eval", "`clip_hf.metrics.load`", "evaluate")
    import evaluate

    return evaluate.load(folder, **options)


__all__ = ["METRICS", "load", "path"]
