# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Images of every mode of Pillow that the tests of image processing share."""

import numpy as np
from PIL import Image


MODES_8_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
MODES_MORE_BITS = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def make_image(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Random values of 0 to 255 in every band."""
    generator = np.random.default_rng([seed, *size])
    if mode in MODES_MORE_BITS:
        dtype = {"I": "<i4", "F": "<f4", "I;16B": ">u2"}.get(mode, "<u2")
        return Image.frombytes(mode, size, generator.integers(0, 256, size[::-1]).astype(dtype).tobytes())
    length = len(Image.new(mode, size).tobytes())
    image = Image.frombytes(mode, size, generator.integers(0, 256, length, dtype=np.uint8).tobytes())
    if mode in ("P", "PA"):
        image.putpalette(generator.integers(0, 256, 768, dtype=np.uint8).tobytes())
    return image
