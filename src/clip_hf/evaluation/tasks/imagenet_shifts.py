# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""ImageNet's variants: which classes each has, and accuracies of standard models (Taori et al. 2020).

Shapes: n images, c classes of a shifted dataset. Accuracies are shares from 0 to 1.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from ...utils.json_files import read_json
from ...utils.wording import quoted
from ..registry.dataset_registry import imagenet_subsets


_IMAGENET_CLASSES = 1000
_ALL_CLASSES = ("imagenet", "imagenet_v2", "imagenet_sketch")
CLASS_SUBSETS = (*_ALL_CLASSES, "imagenet_a", "imagenet_r", "objectnet")
"""Datasets for which [`subset_classes`] knows the classes."""
SHIFT_TITLES = {
    "imagenet_v2": "ImageNetV2",
    "imagenet_sketch": "ImageNet-Sketch",
    "imagenet_r": "ImageNet-R",
    "imagenet_a": "ImageNet-A",
    "objectnet": "ObjectNet",
    "imagenet_vid": "ImageNet-Vid",
    "youtube_bb": "YouTube-BB",
}
"""Titles of the shifted datasets for which there are baseline models, in the paper's order."""


def subset_classes(subset: str) -> list[list[int]]:
    """The ImageNet labels that count as right for each class of a shifted dataset.

    - ImageNetV2 and ImageNet-Sketch have all 1,000 classes.
    - ImageNet-A and ImageNet-R have 200 each.
    - ObjectNet has 113 classes in common with ImageNet, some of which are several in ImageNet: its "chair" is "barber
      chair", "folding chair" or "rocking chair".

    Args:
        subset (`str`): `"imagenet"`, `"imagenet_v2"`, `"imagenet_sketch"`, `"imagenet_a"`, `"imagenet_r"` or
            `"objectnet"`.

    Returns:
        `list[list[int]]`: c lists of labels from 0 to 999, no label in two of them.

    Raises:
        ValueError: if there is no such dataset.
    """
    if subset in _ALL_CLASSES:
        return [[label] for label in range(_IMAGENET_CLASSES)]
    if subset not in CLASS_SUBSETS:
        known = quoted(CLASS_SUBSETS, len(CLASS_SUBSETS))
        raise ValueError(f"There are no classes for {subset!r}; there are those of {known}.")
    classes = imagenet_subsets()[subset.replace("_", "-")]
    if subset == "objectnet":
        return [list(entry["classes"]) for entry in classes.values()]
    return [[label] for label in classes]


def subset_scores(scores: Any, subset: str) -> np.ndarray:
    """Turn scores of all ImageNet classes into scores of a shifted dataset's classes.

    The score of a class is that of its ImageNet class; where there are several, the highest. If ImageNet's labels 3
    and 7 are one class of a dataset and 5 is another, an image with the scores 0.1, 0.4 and 0.3 for 3, 5 and 7 has
    the scores 0.3 and 0.4.

    Args:
        scores (array of shape `(n, 1000)`): Scores of ImageNet's classes in their usual order.
        subset (`str`): See [`subset_classes`].

    Returns:
        `np.ndarray` of shape `(n, c)`, float64, in the order of the dataset's labels.

    Raises:
        ValueError: if `scores` has another shape, or there is no such dataset.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.shape[1] != _IMAGENET_CLASSES:
        raise ValueError(f"The scores have the shape {scores.shape}; they must be (images, 1000), ImageNet's classes.")
    classes = subset_classes(subset)
    starts = np.cumsum([0, *(len(labels) for labels in classes)])[:-1]
    return np.maximum.reduceat(scores[:, np.concatenate(classes)], starts, axis=1)


def subset_rows(targets: Any, subset: str) -> tuple[np.ndarray, np.ndarray]:
    """Find the ImageNet images that show a class of a shifted dataset.

    On them, accuracy on ImageNet is measured among the same classes as accuracy under shift, as in the paper.

    Args:
        targets (array of shape `(n,)`): ImageNet labels from 0 to 999.
        subset (`str`): See [`subset_classes`].

    Returns:
        `tuple[np.ndarray, np.ndarray]`: rows, int64 `(m,)`, and their labels in the dataset, int64 `(m,)`.

    Raises:
        ValueError: if a label is not one of ImageNet's, or there is no such dataset.
    """
    targets = np.asarray(targets)
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            f"The targets have the shape {targets.shape} and type {targets.dtype}; they must be labels (n,)."
        )
    if targets.size and not (0 <= targets.min() and targets.max() < _IMAGENET_CLASSES):
        raise ValueError(f"The targets are {targets.min()} to {targets.max()}; ImageNet's labels are 0 to 999.")
    new_labels = np.full(_IMAGENET_CLASSES, -1)
    for new_label, labels in enumerate(subset_classes(subset)):
        new_labels[labels] = new_label
    rows = np.nonzero(new_labels[targets] >= 0)[0]
    return rows, new_labels[targets[rows]]


@functools.cache
def _baselines() -> dict[str, Any]:
    return read_json(Path(__file__).parent / "robustness_baselines.json")


def shift_names() -> list[str]:
    """Names of the shifted datasets for which there are baseline models, in the paper's order."""
    return list(SHIFT_TITLES)


def baseline_accuracies(shift: str, *, on_subset: bool = False) -> dict[str, tuple[float, float]]:
    """Accuracies of standard models, trained on ImageNet only (Taori et al. 2020).

    Args:
        shift (`str`): One of [`shift_names`].
        on_subset (`bool`, *optional*, defaults to `False`): Whether to take accuracy on ImageNet among the classes of
            the shifted dataset.

    Returns:
        `dict[str, tuple[float, float]]`: by the model's name, accuracy on ImageNet and under shift. For ImageNet-A
        only models at least as accurate as the ResNet-50 against which it was made.

    Raises:
        ValueError: if there is no such dataset, or it has all of ImageNet's classes and `on_subset` is set.
    """
    if shift not in SHIFT_TITLES:
        raise ValueError(f"There are no baseline models for {shift!r}; there are for {', '.join(SHIFT_TITLES)}.")
    data = _baselines()
    least = data["fit_from"].get(shift, {}).get("subset" if on_subset else "imagenet", 0.0)
    accuracies = {}
    for name, model in data["models"].items():
        if on_subset and shift not in model["subset_accuracy"]:
            raise ValueError(
                f"{SHIFT_TITLES[shift]} has all of ImageNet's classes; there is no accuracy on a part of them."
            )
        reference = model["subset_accuracy"][shift] if on_subset else model["accuracy"]["imagenet"]
        shifted = model["accuracy"][shift]
        if shifted is not None and reference >= least:
            accuracies[name] = (reference, shifted)
    return accuracies
