# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What is done to training images beyond the crop: nothing by default, and the same for the same row."""

import random

import numpy as np
import pytest
from PIL import Image, ImageOps

from clip_hf import ClipHFImageProcessor
from clip_hf.data import Augmentation, ImageTextDataset, PairOptions, random_square_crop
from pair_data import dataset_of, image_of, rows_of


OPTIONS = {
    "brightness": {"color_jitter": (0.9, 0, 0, 0)},
    "contrast": {"color_jitter": (0, 0.9, 0, 0)},
    "saturation": {"color_jitter": (0, 0, 0.9, 0)},
    "hue": {"color_jitter": (0, 0, 0, 0.5)},
    "blur": {"blur": 1.0},
    "flip": {"horizontal_flip": 1.0},
}


def pairs_of(**options) -> ImageTextDataset:
    image_processor = ClipHFImageProcessor(size=10, crop_size=8)
    return ImageTextDataset(dataset_of(rows_of(range(4))), image_processor, PairOptions(**options))


def test_crop_reaches_every_place_and_only_cuts():
    image = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    generator = random.Random(0)
    crops = {random_square_crop(image, 3, generator).tobytes() for _ in range(200)}
    places = {image[:, y : y + 3, x : x + 3].tobytes() for y in range(2) for x in range(3)}
    assert crops == places


def test_crop_of_the_whole_and_of_too_much():
    image = np.zeros((3, 4, 5))
    assert random_square_crop(image, 4, random.Random(0)).shape == (3, 4, 4)
    with pytest.raises(ValueError, match="5 x 5 pixels does not fit into an image of 4 x 5"):
        random_square_crop(image, 5, random.Random(0))


def test_all_is_off_by_default():
    assert not Augmentation().is_on
    item = pairs_of()[2, 1]
    image = np.asarray(image_of(1)).transpose(2, 0, 1)  # 10 pixels high, so not resized
    crop = random_square_crop(image, 8, random.Random("0/2/1"))
    assert np.array_equal(item["pixel_values"], crop)


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_changes_the_pixels_by_row_and_epoch_alone(name):
    plain, changed, again = pairs_of(), *(pairs_of(augmentation=Augmentation(**OPTIONS[name])) for _ in range(2))
    for row in range(4):
        item = changed[1, row]
        assert item["pixel_values"].dtype == np.uint8 and item["pixel_values"].shape == (3, 8, 8)
        assert not np.array_equal(item["pixel_values"], plain[1, row]["pixel_values"])
        # Asked for in another order.
        again[0, 3 - row]
        assert np.array_equal(again[1, row]["pixel_values"], item["pixel_values"])
        # The other draws stay as they are.
        assert item["text"] == plain[1, row]["text"]


def test_a_flip_is_a_mirror_and_comes_as_often_as_asked():
    image = image_of(0)
    assert Augmentation(horizontal_flip=1.0)(image, random.Random(0)) == ImageOps.mirror(image)
    generator, flip = random.Random(0), Augmentation(horizontal_flip=0.25)
    flipped = sum(flip(image, generator) != image for _ in range(400))
    assert 70 < flipped < 130


def test_blur_comes_as_often_as_asked():
    image, generator, blur = image_of(0), random.Random(0), Augmentation(blur=0.25, blur_radius=(2.0, 2.0))
    assert 70 < sum(blur(image, generator) != image for _ in range(400)) < 130


def test_hue_turns_both_ways():
    red, jitter = Image.new("RGB", (1, 1), (255, 0, 0)), Augmentation(color_jitter=(0, 0, 0, 0.25))
    hues = [jitter(red, random.Random(seed)).convert("HSV").getpixel((0, 0))[0] for seed in range(40)]
    assert any(10 < hue < 70 for hue in hues) and any(186 < hue < 246 for hue in hues)


def test_factors_are_not_below_zero():
    # A negative brightness is black, which a factor from 0 to 3 hardly ever is.
    grey, jitter = Image.new("RGB", (1, 1), (90, 90, 90)), Augmentation(color_jitter=(2.0, 0, 0, 0))
    dark = sum(jitter(grey, random.Random(seed)).getpixel((0, 0)) == (0, 0, 0) for seed in range(100))
    assert dark <= 5


def test_hue_turns_colours_and_leaves_grey():
    red, grey = Image.new("RGB", (2, 2), (255, 0, 0)), Image.new("RGB", (2, 2), (90, 90, 90))
    jitter = Augmentation(color_jitter=(0, 0, 0, 0.5))
    hues = {jitter(red, random.Random(seed)).convert("HSV").getpixel((0, 0)) for seed in range(20)}
    assert len({hue for hue, _, _ in hues}) > 10
    assert {(saturation, value) for _, saturation, value in hues} == {(255, 255)}
    assert jitter(grey, random.Random(1)) == grey


class Highest(random.Random):
    """Draws the upper end of each range."""

    def uniform(self, a: float, b: float) -> float:
        return b


@pytest.mark.parametrize(
    ("share", "colour"),
    # Shares of the whole circle: from red a third to green, half to cyan.
    [(1 / 3, (0, 255, 0)), (0.5, (0, 255, 255)), (0.25, (127, 255, 0))],
)
def test_hue_is_turned_by_shares_of_the_circle(share, colour):
    red = Image.new("RGB", (1, 1), (255, 0, 0))
    found = Augmentation(color_jitter=(0, 0, 0, share))(red, Highest()).getpixel((0, 0))
    assert np.abs(np.subtract(found, colour)).max() <= 6  # a hue has 256 levels


@pytest.mark.parametrize(
    ("place", "expected"),
    # Twice as bright; twice as far from the mean grey, 100; grey has no saturation to double.
    [(0, (100, 200)), (1, (0, 100)), (2, (50, 100))],
)
def test_jitter_of_strength_one_reaches_a_factor_of_two(place, expected):
    strengths = [0.0] * 4
    strengths[place] = 1.0
    image = Image.fromarray(np.uint8([[[50] * 3, [100] * 3, [150] * 3]]))
    found = np.asarray(Augmentation(color_jitter=tuple(strengths))(image, Highest()))[0, :2, 0]
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blur": 1.5}, "`blur` is 1.5; it must be a probability"),
        ({"horizontal_flip": -1}, "`horizontal_flip` is -1"),
        ({"color_jitter": 0.4}, "`color_jitter` is 0.4; it must be 4 numbers"),
        ({"color_jitter": (0, 0, 0, 0.6)}, "hue up to 0.5"),
        ({"color_jitter": (-1, 0, 0, 0)}, "0 or more"),
        ({"blur_radius": (2.0, 1.0)}, "`blur_radius` is"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
