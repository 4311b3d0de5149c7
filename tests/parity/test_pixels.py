# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pixels against OpenAI's own transform, bit for bit."""

import numpy as np
import pytest
from PIL import Image

from bench_image_processor import LONG, MODES, SIZES, make_image, odd_images
from clip_hf import ClipHFImageProcessor
from references import load_torchvision, openai_transform


def differing(processor: ClipHFImageProcessor, transform, images) -> list[str]:
    """The names of the images of which a value differs in a bit."""
    return [
        name
        for name, image in images
        if not np.array_equal(
            processor(image, return_tensors="np").pixel_values[0].view(np.int32),
            transform(image).numpy().view(np.int32),
        )
    ]


def test_odd_images():
    images = list(odd_images())
    assert len(images) == len(MODES) * len(SIZES) + len(LONG) >= 300
    assert differing(ClipHFImageProcessor(), openai_transform(224), images) == []


@pytest.mark.parametrize("n_px", [1, 7, 32, 288, 336])
def test_other_input_sizes(n_px):
    generator = np.random.default_rng(n_px)
    processor = ClipHFImageProcessor(size=n_px, crop_size=n_px)
    images = []
    for number in range(60):
        width, height = (int(length) for length in np.exp(generator.uniform(0, np.log(700), 2)))
        mode = MODES[number % len(MODES)]
        images.append((f"{mode} {width}x{height}", make_image(mode, (width, height), generator)))
    assert differing(processor, openai_transform(n_px), images) == []


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "I;16B", "I;16L", "I;16N"])
def test_more_than_8_bits_clipped(mode):
    generator = np.random.default_rng(0)
    dtype = {"I": "<i4", "F": "<f4", "I;16B": ">u2"}.get(mode, "<u2")
    images = []
    for width, height in SIZES:
        values = generator.integers(0, 65536, (height, width)).astype(dtype)
        images.append((f"{width}x{height}", Image.frombytes(mode, (width, height), values.tobytes())))
    assert differing(ClipHFImageProcessor(high_bit_depth="clip"), openai_transform(224), images) == []


def test_mode_that_openai_refuses_is_read_as_la():
    image = make_image("LA", (40, 30), np.random.default_rng(0))
    with pytest.raises(ValueError, match="La"):
        openai_transform(24)(image.convert("La"))
    processor = ClipHFImageProcessor(size=24, crop_size=24)
    found = processor(image.convert("La"), return_tensors="pt").pixel_values[0]
    assert (found == openai_transform(24)(image)).all()


def test_a_batch_of_threads_gives_the_pixels_of_single_images():
    generator = np.random.default_rng(1)
    images = [make_image("RGB", (97 + 13 * number, 80), generator) for number in range(12)]
    transform = openai_transform(224)
    batch = ClipHFImageProcessor()(images, return_tensors="pt").pixel_values
    assert all((pixels == transform(image)).all() for pixels, image in zip(batch, images))


def test_images_smaller_than_the_crop_are_padded_as_torchvision_pads():
    transforms = load_torchvision().transforms
    processor = ClipHFImageProcessor(do_resize=False, crop_size={"height": 40, "width": 33}, do_normalize=False)
    generator = np.random.default_rng(0)
    for width, height in [(5, 60), (60, 5), (32, 39), (33, 40), (34, 41), (7, 8)]:
        image = make_image("RGB", (width, height), generator)
        expected = transforms.ToTensor()(transforms.CenterCrop((40, 33))(image))
        assert (processor(image, return_tensors="pt").pixel_values[0] == expected).all()
