# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures of single images: what they show, and that texts do not run into each other."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from clip_hf.evaluation import plot_predictions, plot_similarities


IMAGES = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green", "blue")]
LONG = "a very long label of which there is far more than fits beside a picture: medium-light"
ANSWERS = ["red", LONG, "blue"]
PREDICTIONS = [
    [{"label": name, "score": score} for name, score in zip(names, (0.7, 0.2))]
    for names in (("red", "blue"), ("green", LONG), ("red", "green"))
]


def test_predictions_mark_the_right_label_and_keep_within_the_figure():
    figure = plot_predictions(IMAGES, {"one": PREDICTIONS, "two": PREDICTIONS}, ANSWERS, title="T", note="licence")
    figure.draw_without_rendering()
    rows = np.array(figure.axes).reshape(3, 3)
    bars = [[to_hex(bar.get_facecolor()) for bar in axis.patches[:2]] for axis in rows[:, 1]]
    right, other = bars[0]
    assert right != other and bars == [[right, other], [other, right], [other, other]]
    assert [axis.get_title("left") for axis in rows[:, 1]] == ANSWERS
    assert rows[2, 1].get_xlabel() == rows[2, 2].get_xlabel() == "probability (%)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["right label", "other label"]
    # Labels end before the percentages, and no row's title touches the row above.
    for axis in rows[:, 1:].ravel():
        boxes = [text.get_window_extent() for text in axis.texts if text.get_text() not in ("one", "two")]
        for label, percentage in zip(boxes[::2], boxes[1::2]):
            assert label.x1 < percentage.x0 and percentage.x1 <= figure.bbox.x1
    for above, answer, axis in zip(rows, ANSWERS[1:], rows[1:, 1]):
        (name,) = axis.findobj(lambda part, text=answer: isinstance(part, Text) and part.get_text() == text)[:1]
        assert name.get_window_extent().y1 <= min(axis.bbox.y0 for axis in above)


def test_similarities_have_each_image_above_its_column_and_outline_its_own_caption():
    matrix = np.array([[0.9, -0.001, 0.1], [0.2, 0.8, 0.3], [0.0, 0.1, 0.7]])
    figure = plot_similarities(IMAGES, ANSWERS, {"one": matrix}, note="licence")
    figure.draw_without_rendering()
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == [f"{value:z.2f}" for value in matrix.T.ravel()]
    assert "0.00" in [text.get_text() for text in axis.texts] and len(axis.patches) == 3
    left = [inset.bbox.x0 for inset in axis.child_axes]
    assert left == sorted(left) and all(inset.bbox.y0 >= axis.bbox.y1 for inset in axis.child_axes)
    assert max(text.count("\n") for text in (tick.get_text() for tick in axis.get_yticklabels())) == 1
    assert not plot_similarities(IMAGES, ["red"], {"one": matrix[:, :1]}).legends  # nothing to outline


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot_predictions([], {"one": []}), "nothing to draw"),
        (lambda: plot_predictions(IMAGES, {}), "nothing to draw"),
        (lambda: plot_predictions(IMAGES, {"one": PREDICTIONS[:2]}), "3 images and 2 rows of one"),
        (lambda: plot_predictions(IMAGES, {"one": PREDICTIONS}, ["red"]), "3 images and 1 rows of `answers`"),
        (lambda: plot_similarities(IMAGES, ANSWERS, {"one": np.zeros((3, 2))}), r"shape \(3, 2\); .*\(3, 3\)"),
    ],
)
def test_what_does_not_fit_is_said(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
