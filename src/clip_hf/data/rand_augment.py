# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""RandAugment (Cubuk et al. 2020): some of 14 changes, drawn evenly, all of one strength.

The changes, their ranges and the scale of 0 to 30 are those of torchvision's `RandAugment`, which follow table 6 of
AutoAugment (Cubuk et al. 2019). Pixels that a change leaves empty become black.
"""

import math
import random
from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageOps


MAX_MAGNITUDE = 30

_MAX_SHEAR = 0.3
_MAX_SHIFT = 150 / 331  # of the width or height
_MAX_DEGREES = 30.0
_MAX_FACTOR = 0.9  # how far a factor may be from 1
_MAX_LOST_BITS = 4

_Change = Callable[[Image.Image, float], Image.Image]  # of an image by a strength of 0 to 1, with a sign if it has one


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """Each pixel (x, y) is taken from (a x + b y + c, d x + e y + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


def _shear_x(image: Image.Image, strength: float) -> Image.Image:
    shear = _MAX_SHEAR * strength
    return _affine(image, 1, shear, -shear * image.height / 2, 0, 1, 0)  # about the centre


def _shear_y(image: Image.Image, strength: float) -> Image.Image:
    shear = _MAX_SHEAR * strength
    return _affine(image, 1, 0, 0, shear, 1, -shear * image.width / 2)


def _shift_x(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, 1, 0, round(_MAX_SHIFT * strength * image.width), 0, 1, 0)


def _shift_y(image: Image.Image, strength: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0, 1, round(_MAX_SHIFT * strength * image.height))


def _rotate(image: Image.Image, strength: float) -> Image.Image:
    return image.rotate(_MAX_DEGREES * strength)


def _enhance(enhancer: type) -> _Change:
    return lambda image, strength: enhancer(image).enhance(1 + _MAX_FACTOR * strength)


def _posterize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(_MAX_LOST_BITS * strength))


def _solarize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.solarize(image, round(255 * (1 - strength)))


# The change, and whether it goes both ways.
_CHANGES: dict[str, tuple[_Change, bool]] = {
    "identity": (lambda image, strength: image, False),
    "shear_x": (_shear_x, True),
    "shear_y": (_shear_y, True),
    "shift_x": (_shift_x, True),
    "shift_y": (_shift_y, True),
    "rotate": (_rotate, True),
    "brightness": (_enhance(ImageEnhance.Brightness), True),
    "saturation": (_enhance(ImageEnhance.Color), True),
    "contrast": (_enhance(ImageEnhance.Contrast), True),
    "sharpness": (_enhance(ImageEnhance.Sharpness), True),
    "posterize": (_posterize, False),
    "solarize": (_solarize, False),
    "autocontrast": (lambda image, strength: ImageOps.autocontrast(image), False),
    "equalize": (lambda image, strength: ImageOps.equalize(image), False),
}
CHANGES = tuple(_CHANGES)
"""The names of the changes, from which each is drawn with the same probability."""


def check_rand_augment(value: object) -> tuple[int, float] | None:
    """The number of changes and their magnitude, or None; ValueError for anything else."""
    if value is None or (isinstance(value, list | tuple) and not value):
        return None
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) != 2 or any(isinstance(each, bool) or not isinstance(each, int | float) for each in numbers):
        raise ValueError(
            f"`rand_augment` is {value!r}; it must be two numbers, how many changes and their magnitude, such as 2 9."
        )
    count, magnitude = numbers
    if count != int(count) or count < 1 or not (math.isfinite(magnitude) and 0 <= magnitude <= MAX_MAGNITUDE):
        raise ValueError(
            f"`rand_augment` is {value!r}; the number of changes must be a whole number of at least 1, and their "
            f"magnitude 0 to {MAX_MAGNITUDE}."
        )
    return int(count), float(magnitude)


def apply_change(image: Image.Image, name: str, strength: float) -> Image.Image:
    """Apply one of [`CHANGES`] to an RGB image.

    Args:
        image (`PIL.Image.Image`): In mode RGB.
        name (`str`): The change.
        strength (`float`): 0 to 1; below 0 the other way, for those that have one.
    """
    return _CHANGES[name][0](image, strength)


def rand_augment(image: Image.Image, count: int, magnitude: float, generator: random.Random) -> Image.Image:
    """Apply `count` changes of the same magnitude, 0 to 30, to an RGB image. The draws do not depend on the image."""
    for _ in range(count):
        name = generator.choice(CHANGES)
        sign = generator.choice((1, -1))
        image = apply_change(image, name, magnitude / MAX_MAGNITUDE * (sign if _CHANGES[name][1] else 1))
    return image
