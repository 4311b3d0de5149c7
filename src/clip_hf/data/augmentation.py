# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Augmentation of training images."""

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from .rand_augment import check_rand_augment, rand_augment


# torchvision's RandomResizedCrop: widths by heights, and how often it draws before it takes the centre.
_SHAPES = (3 / 4, 4 / 3)
_AREA_DRAWS = 10


def random_square_crop(image: np.ndarray, size: int, generator: random.Random) -> np.ndarray:
    """Cut a square out of an image at a random place: CLIP's only augmentation (Radford et al. 2021, section 2.3).

    Args:
        image (`np.ndarray` of shape `(channels, height, width)`): An image, already resized.
        size (`int`): Height and width of the square in pixels.
        generator (`random.Random`): Draws the place.

    Returns:
        `np.ndarray` of shape `(channels, size, size)`, a view of `image`.

    Raises:
        ValueError: if the image is smaller than the square.
    """
    height, width = image.shape[1:]
    left, top, right, bottom = random_window(width, height, (size, size), generator)
    return image[:, top:bottom, left:right]


def random_window(
    width: int, height: int, size: tuple[int, int], generator: random.Random
) -> tuple[int, int, int, int]:
    """Draw a place for a crop of `size` (width, height): left, top, right, bottom. ValueError if it does not fit."""
    if width < size[0] or height < size[1]:
        shape = f"{'square' if size[0] == size[1] else 'crop'} of {size[1]} x {size[0]} pixels"
        raise ValueError(f"A {shape} does not fit into an image of {height} x {width}.")
    top, left = generator.randint(0, height - size[1]), generator.randint(0, width - size[0])
    return left, top, left + size[0], top + size[1]


def random_area_window(
    width: int, height: int, scale: tuple[float, float], generator: random.Random
) -> tuple[int, int, int, int]:
    """Draw a part of an image by torchvision's rule for RandomResizedCrop (Szegedy et al. 2015, section 6).

    Its share of the image's area is uniform in `scale`, the logarithm of its width by its height uniform between those
    of 3/4 and 4/3, and its place uniform. If ten draws do not fit into the image, it is the largest part in the centre
    whose shape is within these limits.

    Args:
        width, height (`int`): Size of the image in pixels.
        scale (`tuple[float, float]`): Least and largest share of the area.
        generator (`random.Random`): Draws the part.

    Returns:
        `tuple[int, int, int, int]`: left, top, right, bottom.
    """
    for _ in range(_AREA_DRAWS):
        area = width * height * generator.uniform(*scale)
        shape = math.exp(generator.uniform(*map(math.log, _SHAPES)))
        part = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < part[0] <= width and 0 < part[1] <= height:
            return random_window(width, height, part, generator)
    shape = min(max(width / height, _SHAPES[0]), _SHAPES[1])
    part = max(1, min(width, round(height * shape))), max(1, min(height, round(width / shape)))
    left, top = (width - part[0]) // 2, (height - part[1]) // 2
    return left, top, left + part[0], top + part[1]


@dataclass(frozen=True)
class Augmentation:
    """Changes to a training image beyond the paper's random crop; all are off by default, as in the paper.

    But for `crop_scale`, which replaces that crop, they apply after it, to 8-bit RGB, in the order of the arguments
    (RandAugment first), by Pillow's own operations.

    Args:
        color_jitter (`tuple[float, float, float, float]`, *optional*, defaults to `(0, 0, 0, 0)`): Strength of the
            changes of brightness, contrast, saturation (each multiplied with a factor from `1 - strength` to `1 +
            strength`, drawn evenly and not below 0) and hue (turned by up to `strength` of the circle, at most 0.5).
        blur (`float`, *optional*, defaults to 0): Probability of a Gaussian blur.
        blur_radius (`tuple[float, float]`, *optional*, defaults to `(0.1, 2.0)`): Smallest and largest radius of the
            blur in pixels; drawn uniformly.
        horizontal_flip (`float`, *optional*, defaults to 0): Probability of a flip from left to right. Captions that
            say "left" or that quote text in the image are then wrong, and so are those of films that move to a side.
        rand_augment (`tuple[int, float]`, *optional*): RandAugment (Cubuk et al. 2020): how many of its 14 changes are
            drawn for an image, and their magnitude from 0 to 30, such as `(2, 9)`. They come first.
        crop_scale (`tuple[float, float]`, *optional*): Instead of a random square of the resized image, cut out a part
            of the whole one with this least and largest share of its area, such as `(0.08, 1)`, and resize that to
            the crop's size: RandomResizedCrop, by torchvision's rule. Kept images (`cache_images`) are
            cut out of after they were resized, which has less detail.

    Raises:
        ValueError: if a value is out of its range.
    """

    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    blur: float = 0.0
    blur_radius: tuple[float, float] = (0.1, 2.0)
    horizontal_flip: float = 0.0
    rand_augment: tuple[int, float] | None = None
    crop_scale: tuple[float, float] | None = None

    def __post_init__(self):
        for name, length in (("color_jitter", 4), ("blur_radius", 2)):
            value = getattr(self, name)
            if not isinstance(value, list | tuple) or len(value) != length:
                raise ValueError(f"`{name}` is {value!r}; it must be {length} numbers.")
            object.__setattr__(self, name, tuple(map(float, value)))
        object.__setattr__(self, "rand_augment", check_rand_augment(self.rand_augment))
        if self.crop_scale is not None:
            scale = self.crop_scale
            if not isinstance(scale, list | tuple) or len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
                raise ValueError(
                    f"`crop_scale` is {scale!r}; it must be the least and the largest share of the area, above 0 and "
                    "at most 1, such as 0.08 1."
                )
            object.__setattr__(self, "crop_scale", tuple(map(float, scale)))
        for name in ("blur", "horizontal_flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be a probability, 0 to 1.")
        if min(self.color_jitter) < 0 or self.color_jitter[3] > 0.5:
            raise ValueError(f"`color_jitter` is {self.color_jitter}; strengths are 0 or more, that of hue up to 0.5.")
        if not 0 < self.blur_radius[0] <= self.blur_radius[1]:
            raise ValueError(f"`blur_radius` is {self.blur_radius}; it must be the least and the largest, above 0.")

    @property
    def is_on(self) -> bool:
        """Whether any change after the crop is switched on."""
        changes = any(self.color_jitter) or self.blur > 0 or self.horizontal_flip > 0
        return changes or self.rand_augment is not None

    def __call__(self, image: Image.Image, generator: random.Random) -> Image.Image:
        """Change an RGB image; `generator` decides how. The draws do not depend on the image."""
        if self.rand_augment is not None:
            image = rand_augment(image, *self.rand_augment, generator)
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for enhancer, strength in zip(enhancers, self.color_jitter):
            if strength:
                image = enhancer(image).enhance(generator.uniform(max(0.0, 1 - strength), 1 + strength))
        if self.color_jitter[3]:
            image = _turn_hue(image, generator.uniform(-self.color_jitter[3], self.color_jitter[3]))
        if self.blur and generator.random() < self.blur:
            image = image.filter(ImageFilter.GaussianBlur(generator.uniform(*self.blur_radius)))
        if self.horizontal_flip and generator.random() < self.horizontal_flip:
            image = ImageOps.mirror(image)
        return image


def _turn_hue(image: Image.Image, share: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shift = round(share * 256)
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
