# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The paper's metrics as modules of Hugging Face's `evaluate`. They load without a network.

`load("map_11point")` and `evaluate.load(path("map_11point"))` are the same. The figures are those of
`clip_hf.evaluation`, whose functions are faster on large arrays.

A new metric is one file here (a subclass of `CheckedMetric`) and one line in `METRICS`. `evaluate` copies that file to
its cache, so the file imports clip_hf by its full name.
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
"""Names of the metrics, each a file in this folder."""


def path(name: str) -> str:
    """Path of a metric's file, for `evaluate.load` and `evaluate.combine`.

    Args:
        name (`str`): One of `METRICS`.

    Returns:
        `str`: the metric's file.

    Raises:
        ValueError: If there is no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"There is no metric {name!r}; there are {', '.join(METRICS)}.")
    return str(Path(__file__).parent / f"{name}.py")


def load(name: str, **options: Any) -> "Metric":
    """Load a metric with `evaluate`.

    ```python
    from clip_hf import metrics

    metric = metrics.load("zero_shot_accuracy")
    metric.compute(predictions=[[0.9, 0.1], [0.4, 0.6]], references=[0, 0])  # {"accuracy": 0.5}
    ```

    Args:
        name (`str`): One of `METRICS`.
        **options: Passed on to `evaluate.load`: `keep_in_memory`, `experiment_id`, `num_process` and `process_id`, ...

    Returns:
        `evaluate.Metric`: with `compute`, `add` and `add_batch`.

    Raises:
        ValueError: If there is no such metric.
        MissingExtra: If `evaluate` is not installed.
    """
    file = path(name)
    require_extra("eval", "`clip_hf.metrics.load`", "evaluate")
    import evaluate

    return evaluate.load(file, **options)


__all__ = ["METRICS", "load", "path"]
