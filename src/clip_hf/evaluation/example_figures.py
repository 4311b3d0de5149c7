# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Plots of single images: the labels that models find most probable, and similarities with texts."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.figures import COLOURS, WIDTH, new_figure


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from PIL import Image

# Pale, so that black text on them is easy to read; blue and orange differ for colour-blind readers.
_RIGHT, _OTHER = "#F5C767", "#CFE1F0"
# Characters of a label that fit in one panel; several panels share them.
_LABEL_CHARACTERS = 92
_BOLD = 0.87  # bold text is wider: this share of the characters fits
_CAPTION_CHARACTERS = 40
_LABEL_ROW, _CAPTION_ROW = 0.19, 0.34  # inches


def plot_predictions(
    images: Sequence["Image.Image"],
    predictions: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    answers: Sequence[str] | None = None,
    *,
    title: str = "Most probable labels",
    note: str = "",
) -> "Figure":
    """Draw images beside the labels that one or several models find most probable.

    Args:
        images (`Sequence[PIL.Image.Image]`): The images, one a row.
        predictions (`Mapping[str, Sequence]`): By model, for each image its labels as
            `pipeline("zero-shot-image-classification")` returns them: `[{"label": "a cat", "score": 0.9}, ...]`, best
            first.
        answers (`Sequence[str]`, *optional*): The right label of each image. It stands above the image's row, and its
            bar is orange.
        title (`str`, *optional*): Title of the figure.
        note (`str`, *optional*): Line below the figure, such as the licence of the images.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        ValueError: if there is no image or no model, or the numbers of images, answers and predictions differ.
        MissingExtra: if matplotlib is not installed.
    """
    _check_lengths(len(images), {**predictions, **({} if answers is None else {"`answers`": answers})})
    most = max(len(row) for rows in predictions.values() for row in rows)
    height = 1.2 + len(images) * (_LABEL_ROW * most + 0.38)
    with new_figure(title, height) as figure:
        widths = [1.1] + [(WIDTH - 1.1) / len(predictions)] * len(predictions)
        grid = figure.subplots(len(images), 1 + len(predictions), squeeze=False, width_ratios=widths)
        for row, (axes, image) in enumerate(zip(grid, images)):
            axes[0].imshow(image)
            axes[0].axis("off")
            answer = None if answers is None else answers[row]
            for axis, rows in zip(axes[1:], predictions.values()):
                _draw_labels(axis, rows[row], most, answer, _LABEL_CHARACTERS // len(predictions))
            if answer is not None:
                axes[1].set_title(answer, fontsize=9, fontweight="bold", pad=3)
        for axis, model in zip(grid[0, 1:], predictions):
            place = {"xytext": (0, 20), "textcoords": "offset points", "annotation_clip": False}
            axis.annotate(model, (0, 1), xycoords="axes fraction", fontsize=11, fontweight="bold", **place)
        for axis in grid[-1, 1:]:
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("probability (%)")
        if answers is not None:
            bars = [grid[0, 1].bar([0], [0], color=colour) for colour in (_RIGHT, _OTHER)]
            figure.legend(bars, ["right label", "other label"], loc="outside lower right", ncols=2)
        _write_note(figure, note)
    return figure


def plot_similarities(
    images: Sequence["Image.Image"],
    captions: Sequence[str],
    similarities: Mapping[str, np.ndarray],
    *,
    title: str = "Cosine similarity of images and captions",
    note: str = "",
) -> "Figure":
    """Draw the similarities of images and captions by one or several models, one panel for each model.

    Args:
        images (`Sequence[PIL.Image.Image]`): The images, as columns.
        captions (`Sequence[str]`): The captions, as rows. Where there are as many as images, each image's own is
            outlined.
        similarities (`Mapping[str, np.ndarray]`): By model, cosines of shape (images, captions).
        title, note (`str`, *optional*): Title of the figure, and a line below it.

    Returns:
        `matplotlib.figure.Figure`

    Raises:
        ValueError: if there is no image or no model, or a matrix has another shape.
        MissingExtra: if matplotlib is not installed.
    """
    _check_lengths(len(images), similarities)
    for model, matrix in similarities.items():
        if np.shape(matrix) != (len(images), len(captions)):
            raise ValueError(
                f"The similarities of {model} have the shape {np.shape(matrix)}; it must be images by captions, "
                f"{(len(images), len(captions))}."
            )
    lowest = min(0.0, *(float(np.min(matrix)) for matrix in similarities.values()))
    height = 0.9 + len(similarities) * (1.0 + _CAPTION_ROW * len(captions))
    with new_figure(title, height) as figure:
        panels = figure.subplots(len(similarities), 1, squeeze=False)[:, 0]
        for axis, (model, matrix) in zip(panels, similarities.items()):
            shown = axis.imshow(np.transpose(matrix), vmin=lowest, vmax=1, aspect="auto")
            axis.grid(visible=False)
            axis.set_yticks(range(len(captions)), map(_wrap, captions), fontsize=8)
            axis.set_xticks([])
            for column, image in enumerate(images):
                left, width = (column + 0.05) / len(images), 0.9 / len(images)
                inset = axis.inset_axes([left, 1.01, width, 0.5 / (_CAPTION_ROW * len(captions))])
                inset.imshow(image)
                inset.axis("off")
            outline = _write_values(axis, np.transpose(matrix), lowest)
            axis.set_title(model, fontsize=11, fontweight="bold", pad=44)
        figure.colorbar(shown, ax=list(panels), label="cosine similarity", shrink=0.5, aspect=30)
        if outline is not None:
            figure.legend([outline], ["an image and its own caption"], loc="outside lower right")
        _write_note(figure, note)
    return figure


def _draw_labels(axis: "Axes", labels: Sequence[Mapping[str, Any]], most: int, answer: str | None, room: int) -> None:
    scores = [100 * entry["score"] for entry in labels]
    colours = [_RIGHT if entry["label"] == answer else _OTHER for entry in labels]
    axis.barh(range(len(labels)), scores, height=0.86, color=colours)
    for place, (entry, score) in enumerate(zip(labels, scores)):
        is_right = entry["label"] == answer
        style = {"va": "center_baseline", "fontsize": 8, "in_layout": False}
        label = _shorten(entry["label"], int(_BOLD * room) if is_right else room)
        axis.text(1, place, label, fontweight="bold" if is_right else "normal", **style)
        axis.text(112, place, f"{score:.0f}%", ha="right", color="#444444", **style)
    axis.set(xlim=(0, 112), ylim=(most - 0.5, -0.5), yticks=[], xticks=[0, 25, 50, 75, 100])
    axis.grid(axis="y", visible=False)
    axis.tick_params(labelbottom=False, length=0)
    axis.spines["bottom"].set_visible(False)


def _write_values(axis: "Axes", matrix: np.ndarray, lowest: float) -> "Patch | None":
    """Write each cosine into its cell; outline the diagonal of a square matrix and return one of the outlines."""
    outline = None
    for row, column in np.ndindex(matrix.shape):
        colour = "black" if matrix[row, column] > (lowest + 1.2) / 2 else "white"
        axis.text(column, row, f"{matrix[row, column]:z.2f}", ha="center", va="center", fontsize=8, color=colour)
        if row == column and matrix.shape[0] == matrix.shape[1]:
            style = {"facecolor": "none", "edgecolor": COLOURS[1], "linewidth": 2}
            (outline,) = axis.bar([column], [1], 1, bottom=row - 0.5, **style)
    return outline


def _write_note(figure: "Figure", note: str) -> None:
    if note:
        figure.supxlabel(note, fontsize=7.5, color="#666666", x=0.012, ha="left")


def _wrap(caption: str) -> str:
    """A caption on two lines at most."""
    return textwrap.fill(_shorten(caption, 2 * _CAPTION_CHARACTERS - 8), _CAPTION_CHARACTERS)


def _shorten(text: str, most: int) -> str:
    """A long label without its middle, because labels often differ at either end."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half].rstrip()}…{text[-half:].lstrip()}"


def _check_lengths(count: int, by_model: Mapping[str, Any]) -> None:
    if not count or not by_model:
        raise ValueError("There is nothing to draw: give at least one image and one model.")
    for name, rows in by_model.items():
        if len(rows) != count:
            raise ValueError(f"There are {count} images and {len(rows)} rows of {name}; give one for each image.")
