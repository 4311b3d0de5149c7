# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Heat maps and classes over a picture, drawn."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..utils.extras import require_extra
from ..utils.figures import COLOURS, new_figure
from ..utils.wording import escape_name


_PER_ROW = 4
_PANEL = 2.6  # inches
_TITLE_LINE = 0.19  # inches
_DPI = 120
# Characters that fit over a panel.
_LINE = 30
_SMALL_PART = 0.4
# Larger pictures are drawn smaller: a panel has some 300 pixels.
_LONGEST_EDGE = 768


def draw_heat(
    image: Image.Image,
    maps: np.ndarray,
    titles: Sequence[str],
    seen_box: tuple[int, int, int, int],
    label: str,
    unit: str = "relevance",
) -> Image.Image:
    """Draw a picture and a panel for each map: the picture in grey, the map in colour over it.

    Args:
        image (`PIL.Image.Image`): The picture, RGB.
        maps (`np.ndarray` of shape `(maps, height, width)`): One colour scale holds for all: from 0, or around 0 if
            some values are negative. NaN is shaded.
        titles (`Sequence[str]`): The maps' titles.
        seen_box (`tuple[int, int, int, int]`): Left, top, right and bottom of a frame in the picture; of one much
            smaller than the picture only the neighbourhood is drawn.
        label (`str`): The drawing's title.
        unit (`str`, *optional*, defaults to `"relevance"`): What the values are, beside the legend.

    Returns:
        `PIL.Image.Image`: the drawing, RGB.
    """
    require_extra("explain", "Drawing maps", "matplotlib")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    name, view = "picture", _view(image.size, seen_box)
    if view != (0, 0, *image.size):
        name, (left, top, right, bottom) = "part of the picture", view
        image, maps = image.crop(view), maps[:, top:bottom, left:right]
        seen_box = (seen_box[0] - left, seen_box[1] - top, seen_box[2] - left, seen_box[3] - top)
    shrink, small = _shrink(image)
    width, height = image.size
    extent = (0, width, height, 0)
    largest = max(float(np.nanmax(np.abs(maps))), np.finfo(np.float32).tiny)
    signed = bool(np.nanmin(maps) < 0)
    scale = ScalarMappable(Normalize(-largest if signed else 0, largest), "PuOr_r" if signed else "YlOrRd")
    columns = min(_PER_ROW, 1 + len(maps))
    rows = math.ceil((1 + len(maps)) / columns)
    titles = ["\n".join(map(_fit_line, title.split("\n"))) for title in titles]
    panel = _PANEL * min(2.0, height / width) + _TITLE_LINE * (1 + max(title.count("\n") + 1 for title in titles))
    # The title is of the page, the panels have their own.
    with new_figure(label, max(2.4, 0.5 + rows * panel), columns * _PANEL + 1.0) as figure:
        figure.set_layout_engine("compressed", w_pad=0.08, h_pad=0.08)  # no gaps where panels keep their shape
        axes = figure.subplots(rows, columns, squeeze=False)
        for place in axes.flat:
            place.set_axis_off()
        axes.flat[0].imshow(small, extent=extent)
        axes.flat[0].set_title(name)
        _frame(axes.flat[0], seen_box, (width, height))
        grey = np.asarray(small.convert("L"))
        for place, values, title in zip(axes.flat[1:], maps, titles, strict=False):
            place.imshow(grey, extent=extent, cmap="gray", vmin=0, vmax=255)
            shown = values[::shrink, ::shrink]
            place.imshow(shown, extent=extent, cmap=scale.cmap, norm=scale.norm, alpha=0.65, interpolation="nearest")
            place.set_title(title, parse_math=False)
            _frame(place, seen_box, (width, height))
        figure.colorbar(scale, ax=axes, shrink=0.8, label=unit)
        return _render(figure)


def draw_classes(
    image: Image.Image, classes: np.ndarray, labels: Sequence[str], seen_box: tuple[int, int, int, int], title: str
) -> Image.Image:
    """Draw a picture and, beside it, the classes of its pixels in colours over it, with a legend.

    Args:
        image (`PIL.Image.Image`): The picture, RGB.
        classes (`np.ndarray` of shape `(height, width)`): Index of each pixel's label; negative: none.
        labels (`Sequence[str]`): The labels; those that occur are in the legend, the most frequent first.
        seen_box (`tuple[int, int, int, int]`): Left, top, right and bottom of a frame in the picture.
        title (`str`): The drawing's title.

    Returns:
        `PIL.Image.Image`: the drawing, RGB.
    """
    require_extra("explain", "Drawing classes", "matplotlib")
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    shrink, small = _shrink(image)
    (width, height), extent = image.size, (0, image.width, image.height, 0)
    counts = np.bincount(classes[classes >= 0], minlength=len(labels))
    present = [int(number) for number in np.argsort(-counts, kind="stable") if counts[number]]
    # Beyond those that colour-blind readers can tell apart, colours of the rainbow: the legend has them in order.
    rainbow = colormaps["hsv"](np.linspace(0, 0.9, max(1, len(present))))[:, :3]
    colours = [to_rgb(name) for name in COLOURS] if len(present) <= len(COLOURS) else rainbow
    painted = np.zeros((*classes.shape, 4), np.float32)
    for number, colour in zip(present, colours, strict=False):
        painted[classes == number] = (*colour, 0.6)
    panel = _PANEL * min(2.0, max(0.5, height / width)) + 0.6
    with new_figure(title, 0.8 + max(panel, 0.22 * len(present)), 2 * _PANEL + 2.4) as figure:
        left, right = figure.subplots(1, 2)
        left.imshow(small, extent=extent)
        right.imshow(small.convert("L"), extent=extent, cmap="gray", vmin=0, vmax=255)
        right.imshow(painted[::shrink, ::shrink], extent=extent, interpolation="nearest")
        for place in (left, right):
            place.set_axis_off()
            _frame(place, seen_box, (width, height))
        handles = [
            Patch(color=colour, label=f"{_fit_line(labels[number])} {counts[number] / counts.sum():.0%}")
            for number, colour in zip(present, colours, strict=False)
        ]
        right.legend(handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5))
        return _render(figure)


def _shrink(image: Image.Image) -> tuple[int, Image.Image]:
    """By how much a picture is made smaller to be drawn, and the smaller one."""
    shrink = max(1, math.ceil(max(image.size) / _LONGEST_EDGE))
    size = max(1, image.width // shrink), max(1, image.height // shrink)
    return shrink, image.resize(size, Image.Resampling.BOX)


def _render(figure) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(_DPI)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _view(size: tuple[int, int], box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The part of a picture to draw: all, or a box that has little of it, with a quarter of its edge on each side."""
    (width, height), (left, top, right, bottom) = size, box
    if (right - left) * (bottom - top) > _SMALL_PART * width * height:
        return 0, 0, width, height
    x, y = (right - left + 3) // 4, (bottom - top + 3) // 4
    return max(0, left - x), max(0, top - y), min(width, right + x), min(height, bottom + y)


def _fit_line(line: str) -> str:
    """Wrap a line into two; of a longer one, which often differs from others at its end, the middle is left out."""
    line = escape_name(line)
    line = line if len(line) <= 2 * _LINE - 5 else f"{line[: _LINE - 5]}...{line[5 - _LINE :]}"
    return "\n".join(textwrap.wrap(line, _LINE, break_on_hyphens=False)) or line


def _frame(place, box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    """Shade what lies outside the box, if anything does."""
    from matplotlib.patches import Rectangle

    (left, top, right, bottom), (width, height) = box, size
    outside = [(0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom)]
    for x0, y0, x1, y1 in outside:
        if x1 > x0 and y1 > y0:
            place.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, color="#808080", alpha=0.6, linewidth=0))
