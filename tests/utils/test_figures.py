# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""One style for all plots, which nobody else's plots get."""

import itertools

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from clip_hf.utils.figures import COLOURS, new_figure, save_figure


def test_the_style_ends_with_the_block(tmp_path):
    before = dict(matplotlib.rcParams)
    with new_figure("What this shows, " * 12, 3) as figure:
        axes = figure.subplots()
        axes.plot([1, 2], label="a")
    assert dict(matplotlib.rcParams) == before
    assert axes.lines[0].get_color() == COLOURS[0] and not axes.spines["top"].get_visible()
    assert figure.get_suptitle().count("\n") == 2  # a title that is too long for a line is wrapped
    save_figure(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (1200, 450)


def brightness(colour: str) -> float:
    return float(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)))


def test_neighbouring_colours_differ_without_red_and_green():
    """They differ even without the difference of red and green, which the most common colour blindness lacks."""
    for one, two in itertools.pairwise(COLOURS):
        blue = abs(to_rgb(one)[2] - to_rgb(two)[2])
        assert max(blue, abs(brightness(one) - brightness(two))) > 0.1, (one, two)
