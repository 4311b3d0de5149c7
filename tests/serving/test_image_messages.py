# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What clients are told of images that cannot be used: the kind of fault, and nothing that a decoder says."""

import io

import numpy as np
import pytest
from PIL import Image

from clip_hf import ClipHFImageProcessor, ImageLimits, UnreadableImage
from clip_hf.serving.image_messages import describe_unreadable, find_unreadable, unreadable_image_error


def save(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
PNG, TIFF = save(NOISE, format="PNG"), save(NOISE, format="TIFF")


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"", "image_file_empty", "the file is empty"),
        (b"secret words", "image_not_an_image", "not an image in a format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image_not_an_image", "not an image in a format"),
        (PNG[:-500], "image_file_truncated", "ends too early"),
        (PNG[:20] + b"\xff" * 300, "image_file_damaged", "is damaged"),
        (save(Image.new("L", (101, 100)), format="PNG"), "image_too_large", "more pixels than this server decodes"),
        (TIFF + bytes(40_000), "image_file_too_large", "more bytes than this server takes"),
    ],
)
def test_images_that_cannot_be_used(data, code, words):
    limits = ImageLimits(max_pixels=10_000, max_bytes=30_000)
    with pytest.raises(ValueError) as raised:
        ClipHFImageProcessor()([data], image_limits=limits, return_tensors="np")
    found = find_unreadable(raised.value)
    error = unreadable_image_error(found, "input[3]")
    assert (error.status, error.code, error.param) == (400, code, "input[3]")
    assert words in error.message
    assert str(found) not in error.message


def test_messages_hold_nothing_of_the_error():
    for kind in ("file damaged", "file missing", "location refused", "a new kind"):
        error = UnreadableImage(kind, "<_io.BytesIO object at 0x7f373e1cb100> of /home/me/secret.png")
        message = describe_unreadable(error)
        assert [word for word in ("0x", "/home", "BytesIO", "secret") if word in message] == []
        assert unreadable_image_error(error, "image").code in ("image_file_damaged", "image_unreadable")


def test_the_cause_is_found():
    unreadable = UnreadableImage("file empty", "the file is empty.")
    try:
        try:
            raise unreadable
        except ValueError as error:
            raise OSError("something else") from error
    except OSError as error:
        assert find_unreadable(error) is unreadable
    assert find_unreadable(unreadable) is unreadable
    assert find_unreadable(ValueError("no image")) is None
