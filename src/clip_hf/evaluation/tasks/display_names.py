# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Names of metrics, tasks and models in plots, where an identifier would not read well."""

import re

from ...utils.wording import TASK_TITLES


_METRICS = {
    "fully_supervised": "all training images",
    "map_11point": "11-point mAP",
    "mean_per_class": "accuracy, mean of classes",
    "roc_auc": "ROC AUC",
    "top1": "top-1 accuracy",
    "top1_top5_mean": "mean of top-1 and top-5",
    "top5": "top-5 accuracy",
    "zero_shot": "zero-shot",
}
_PREFIXES = {
    "one_prompt_": "{}, one prompt",
    "class_name_": "{}, bare class name",
    "image_to_text_": "image to text {}",
    "text_to_image_": "text to image {}",
}
_SHOTS = re.compile(r"(\d+)_shot(?:_(from_text|clap|probe|text_linear|tip|tip_f))?")
HEAD_LABELS = {
    "tip": "Tip-Adapter",
    "tip_f": "Tip-Adapter-F",
    "clap": "CLAP",
    "text_linear": "linear from text",
    "probe": "linear probe",
}
"""Heads on frozen features in words, by method."""
_LONGEST_MODEL = 40  # characters


def metric_label(name: str) -> str:
    """A metric in words: `"one_prompt_top1"` is `"top-1 accuracy, one prompt"`."""
    if name in _METRICS:
        return _METRICS[name]
    for prefix, words in _PREFIXES.items():
        if name.startswith(prefix):
            return words.format(metric_label(name.removeprefix(prefix)))
    shots = _SHOTS.fullmatch(name)
    if shots is not None:
        words = HEAD_LABELS | {"from_text": "from text"}
        return f"{shots[1]}-shot" + (f" {words[shots[2]]}" if shots[2] else "")
    return name.replace("_", " ")


def task_label(task: str) -> str:
    """An evaluation in words: `"few_shot"` is `"Few-shot classification"`."""
    return TASK_TITLES.get(task, task.replace("_", " ").capitalize())


def model_label(name: str) -> str:
    """A model's name, of a long path only the last folders: `"…/vit/last"`."""
    parts = name.rstrip("/").split("/")
    while len("/".join(parts)) > _LONGEST_MODEL and len(parts) > 2:
        parts = ["…", *parts[2:]] if parts[0] == "…" else ["…", *parts[1:]]
    return "/".join(parts)
