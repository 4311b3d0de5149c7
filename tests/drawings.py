# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Drawings of a pattern in a colour, for trainings that take seconds."""

import numpy as np
from PIL import Image


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "yellow": (240, 220, 20)}
PATTERNS = ("square", "bar", "frame", "corner", "cross")


def draw(colour: str, pattern: str) -> Image.Image:
    pixels = np.full((40, 40, 3), 255, dtype=np.uint8)
    inside = {
        "square": np.s_[10:30, 10:30],
        "bar": np.s_[16:24, 2:38],
        "frame": np.s_[4:36, 4:36],
        "corner": np.s_[2:14, 2:14],
        "cross": np.s_[4:36, 17:23],
    }[pattern]
    pixels[inside] = COLOURS[colour]
    if pattern == "frame":
        pixels[10:30, 10:30] = 255
    return Image.fromarray(pixels)
