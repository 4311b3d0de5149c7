# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Scikit-learn's 1,797 handwritten digits as labelled images, for evaluations without a network."""

import functools
import io
from collections.abc import Callable

import datasets
import numpy as np
from PIL import Image

from ..utils.extras import require_extra


_PIXELS = 64


def load_digits_parts() -> dict[str, Callable[[], datasets.Dataset]]:
    """Functions that draw scikit-learn's digits as RGB images of 64 x 64 pixels, white on black, for each part.

    Of five images of a digit in sequence, `train` has 3, `validation` 1 and `test` 1. The columns are `image` (PNG,
    undecoded) and `label` (a `ClassLabel` of ten names).
    """
    require_extra("eval", "The dataset `digits`", "sklearn")
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Fixed parts with the classes in equal shares.
    order = np.zeros(len(digits.target), np.int64)
    for digit in range(10):
        rows = np.nonzero(digits.target == digit)[0]
        order[rows] = np.arange(len(rows)) % 5
    parts = {"train": order < 3, "validation": order == 3, "test": order == 4}
    return {
        name: functools.partial(_as_dataset, digits.images[rows], digits.target[rows]) for name, rows in parts.items()
    }


def _as_dataset(images: np.ndarray, targets: np.ndarray) -> datasets.Dataset:
    label = datasets.ClassLabel(names=[str(digit) for digit in range(10)])
    features = datasets.Features({"image": datasets.Image(decode=False), "label": label})
    encoded = [{"bytes": _png(image), "path": None} for image in images]
    return datasets.Dataset.from_dict({"image": encoded, "label": targets.tolist()}, features=features)


def _png(image: np.ndarray) -> bytes:
    """8 x 8 shades from 0 to 16 as a larger image, white on black."""
    shades = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    with io.BytesIO() as buffer:
        shades.resize((_PIXELS, _PIXELS), Image.Resampling.BICUBIC).convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()
