# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Augmentation of training images."""

import random

import numpy as np


def random_square_crop(image: np.ndarray, size: int, generator: random.Random) -> np.ndarray:
    """
    Cut a square out of an image at a random place: CLIP's only augmentation (Radford et al. 2021, section 2.3).

    Args:
        image (`np.ndarray` of shape `(channels, height, width)`):
            An image, already resized.
        size (`int`):
            Height and width of the square in pixels.
        generator (`random.Random`):
            Decides the place.

    Returns:
        `np.ndarray` of shape `(channels, size, size)`, a view of `image`.

    Raises:
        ValueError: if the image is smaller than the square.
    """
    height, width = image.shape[1:]
    if min(height, width) < size:
        raise ValueError(f"A square of {size} x {size} pixels does not fit into an image of {height} x {width}.")
    top, left = generator.randint(0, height - size), generator.randint(0, width - size)
    return image[:, top : top + size, left : left + size]


__all__ = ["random_square_crop"]
