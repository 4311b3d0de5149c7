# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The one style of all plots: sizes, fonts, and colours that colour-blind readers can tell apart."""

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .atomic import replaced_file
from .extras import require_extra


if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
"""Okabe and Ito's colours in the order of series: blue, vermilion, green, purple, orange, sky blue; then grey."""
WIDTH = 8.0
"""Width of a plot in inches. At 800 pixels, 9 points are 12 pixels."""
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "errorbar.capsize": 3,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "font.size": 9.5,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "image.cmap": "cividis",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "xtick.color": "#444444",
    "xtick.labelsize": 9,
    "ytick.color": "#444444",
    "ytick.labelsize": 9,
}
_TITLE_CHARACTERS = 88  # of a title across the whole width


@contextmanager
def new_figure(title: str, height: float, width: float = WIDTH) -> Iterator["Figure"]:
    """Give an empty figure with a title; drawings inside the `with` block get the style of all our plots.

    Long titles are wrapped; height and width are in inches.
    """
    require_extra("eval", "A plot", "matplotlib")
    from cycler import cycler
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
        wrapped = textwrap.fill(title, int(_TITLE_CHARACTERS * width / WIDTH))
        figure.suptitle(wrapped, x=0.012, horizontalalignment="left")
        yield figure


def save_figure(figure: "Figure", path: str | os.PathLike) -> None:
    """Write a plot as PNG; the file appears when it is complete."""
    with replaced_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
