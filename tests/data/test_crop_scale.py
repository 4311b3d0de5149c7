# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""RandomResizedCrop: its rule, where it is cut out, kept images and films, and bad values."""

import math
import random

import numpy as np
import pytest
from PIL import Image

from clip_hf import ClipHFImageProcessor
from clip_hf.data import Augmentation, PairOptions
from clip_hf.data.augmentation import random_area_window
from clip_hf.data.clip_reading import build_reader


@pytest.fixture
def processor() -> ClipHFImageProcessor:
    return ClipHFImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})


def gradient(width: int, height: int) -> Image.Image:
    """Red is the column, green the row, blue 0."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(200, 150), (97, 230)])
def test_share_shape_and_place_are_uniform(size):
    width, height = size
    generator = random.Random(0)
    windows = [random_area_window(width, height, (0.08, 0.3), generator) for _ in range(4000)]
    shares, shapes, middles = [], [], []
    for left, top, right, bottom in windows:
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        shares.append((right - left) * (bottom - top) / (width * height))
        shapes.append(math.log((right - left) / (bottom - top)))
        middles.append(left / max(1, width - (right - left)))
    # Rounding to whole pixels blurs the ends.
    assert min(shares) > 0.075 and max(shares) < 0.31
    assert np.mean(shares) == pytest.approx(0.19, abs=0.01) and np.std(shares) == pytest.approx(0.0635, abs=0.005)
    assert min(shapes) > math.log(0.72) and max(shapes) < math.log(1.39)
    assert np.mean(shapes) == pytest.approx(0, abs=0.02) and np.std(shapes) == pytest.approx(0.166, abs=0.01)
    assert np.mean(middles) == pytest.approx(0.5, abs=0.02) and np.std(middles) == pytest.approx(0.289, abs=0.015)


@pytest.mark.parametrize(
    ("size", "window"),
    [((100, 10), (43, 0, 56, 10)), ((10, 100), (0, 43, 10, 56)), ((9, 9), (0, 0, 9, 9)), ((1, 50), (0, 24, 1, 25))],
)
def test_what_never_fits_is_the_largest_part_in_the_centre(size, window):
    class Whole(random.Random):
        """Draws the largest area each time, and the widest shape, which the image has no room for."""

        def uniform(self, low, high):
            return high

    assert random_area_window(*size, (0.9, 1.0), Whole()) == window


def test_the_part_is_cut_out_of_the_image_as_it_was_read(processor):
    options = PairOptions(augmentation=Augmentation(crop_scale=(0.05, 0.05)))
    reader, image = build_reader(processor, options), gradient(240, 180)
    for seed in range(5):
        pixels = reader.read(image, "row 0", random.Random(seed))
        left, top, right, bottom = random_area_window(240, 180, (0.05, 0.05), random.Random(seed))
        expected = image.crop((left, top, right, bottom)).resize((32, 32), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(pixels, np.asarray(expected).transpose(2, 0, 1))
    # The centre, as in inference.
    assert reader.read(image, "row 0", None).shape == (3, 32, 32)


def test_the_part_of_a_kept_image_is_cut_out_of_the_resized_one(processor):
    options = PairOptions(augmentation=Augmentation(crop_scale=(0.3, 0.6)), cache_images=True)
    reader, image = build_reader(processor, options), gradient(240, 180)
    first = reader.read(image, "row 0", random.Random(4), cache_key=0)
    assert reader.cached(0).shape == (3, 36, 48)
    np.testing.assert_array_equal(reader.read(None, "row 0", random.Random(4), cache_key=0), first)
    left, top, right, bottom = random_area_window(48, 36, (0.3, 0.6), random.Random(4))
    # The gradient tells the part: in the whole image a column is five times as wide.
    red, green = first[0].astype(int), first[1].astype(int)
    assert red.min() == pytest.approx(5 * left, abs=6) and red.max() == pytest.approx(5 * right, abs=6)
    assert green.min() == pytest.approx(5 * top, abs=6) and green.max() == pytest.approx(5 * bottom, abs=6)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.1), (0.5,), 0.5])
def test_bad_scales_are_named(scale):
    with pytest.raises(ValueError, match="`crop_scale` is .* share of the area"):
        Augmentation(crop_scale=scale)


def test_a_processor_without_a_crop_is_refused(processor):
    processor.do_center_crop = False
    with pytest.raises(ValueError, match="`crop_scale` needs an image processor with do_center_crop=True"):
        build_reader(processor, PairOptions(augmentation=Augmentation(crop_scale=(0.1, 1))))
