# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Resizing with cropping against Pillow's own `resize` and `crop`, bit for bit, in every path."""

import numpy as np
import pytest
from PIL import Image

from clip_hf.model import image_resizing_clip_hf
from clip_hf.model.image_resizing_clip_hf import PASS_ORDER_PROBES, PASS_ORDERS, crop_start, resize_and_crop
from odd_images import MODES_8_BITS, MODES_MORE_BITS, make_image


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", MODES_8_BITS + MODES_MORE_BITS + ("La",))
def test_resize_and_crop_equals_pillow(mode, threads, monkeypatch):
    """In every path: small chunks and few pixels per thread make small images take the paths of large ones."""
    monkeypatch.setattr(image_resizing_clip_hf, "PARALLEL_PIXELS", 100)
    generator = np.random.default_rng(threads)
    for number in range(40):
        monkeypatch.setattr(image_resizing_clip_hf, "CHUNK_PIXELS", (200, 3000, 2**24)[number % 3])
        size = tuple(int(length) for length in np.exp(generator.uniform(0, np.log(150), 2)))
        edge = int(generator.integers(1, 40))
        new = (edge, max(edge * size[1] // size[0], 1)) if number % 2 else (max(edge * size[0] // size[1], 1), edge)
        if new[0] * new[1] > 50_000:
            continue
        left, top = (int(generator.integers(-2, length)) for length in new)
        window = (left, top, left + int(generator.integers(3, 30)), top + int(generator.integers(3, 30)))
        resample = int(generator.choice([3, 3, 3, 0, 1, 2, 4, 5]))
        image = make_image(mode, size, number)
        found = resize_and_crop(image, new, window, resample, threads)
        expected = image.resize(new, resample).crop(window)
        assert (found.mode, found.size) == (expected.mode, expected.size)
        assert found.tobytes() == expected.tobytes(), (size, new, window, resample)
        if mode in ("P", "PA"):
            assert found.getpalette() == expected.getpalette()


def test_columns_that_the_crop_leaves_out_are_not_resized(monkeypatch):
    """3:2 becomes 48x32, where a crop of 32 begins at a whole source pixel."""
    calls = []
    resize = Image.Image.resize

    def recorded(self, size, *args, **kwargs):
        calls.append(size)
        return resize(self, size, *args, **kwargs)

    image = make_image("RGB", (96, 64))
    expected = image.resize((48, 32)).crop((8, 0, 40, 32))
    image_resizing_clip_hf._pass_order()  # tries Pillow out on its first use
    monkeypatch.setattr(Image.Image, "resize", recorded)
    assert resize_and_crop(image, (48, 32), (8, 0, 40, 32)).tobytes() == expected.tobytes()
    assert calls == [(32, 64), (32, 32)]


@pytest.mark.parametrize("new", [(1500, 1001), (1000, 997)])
def test_a_million_pixels_are_pillows(new):
    """A weight that is off by its last bit changes a pixel in some ten thousand."""
    image = make_image("L", (1100, 300))
    lowest, weights = image_resizing_clip_hf._bicubic_weights(image.width, new[0], 0, new[0])
    places = np.minimum(lowest[:, None] + np.arange(weights.shape[1]), image.width - 1)  # past the end the weight is 0
    sums = (np.asarray(image)[:, places] * weights).sum(axis=2) + 2**21
    expected = np.clip(sums >> 22, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(image.resize((new[0], image.height))), expected)


def test_pillow_follows_one_of_the_known_rules():
    rule = image_resizing_clip_hf._pass_order()
    assert rule in PASS_ORDERS.values()
    for width, height, new_width, new_height in PASS_ORDER_PROBES:
        image = make_image("L", (width, height))
        whole = image.resize((new_width, new_height)).tobytes()
        by_x = image.resize((new_width, height)).resize((new_width, new_height)).tobytes()
        by_y = image.resize((width, new_height)).resize((new_width, new_height)).tobytes()
        assert by_x != by_y  # or the probe shows nothing
        assert whole == (by_y if rule(width, height, new_width, new_height) else by_x)
    answers = [[rule(*probe) for probe in PASS_ORDER_PROBES] for rule in PASS_ORDERS.values()]
    assert all(answers.count(answer) == 1 for answer in answers)


@pytest.mark.parametrize(
    ("length", "crop", "start"), [(5, 2, 2), (7, 2, 2), (9, 2, 4), (4, 4, 0), (2, 5, -1), (1, 5, -2)]
)
def test_crop_rounds_half_to_even_and_pads_the_end(length, crop, start):
    assert crop_start(length, crop) == start
