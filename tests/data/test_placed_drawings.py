# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures of placed drawings: what their captions and numbers say is what they show."""

import numpy as np
import pytest
from PIL import Image

from clip_hf.data import load_pairs, load_placed_drawings, placed_drawings
from clip_hf.data.moving_drawings import DRAWINGS


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("placed")
    return load_placed_drawings(folder, num_drawings=20, pictures_per_drawing=2, image_size=64)


def inside(row) -> np.ndarray:
    pixels = np.asarray(Image.open(row["image"]["path"]), dtype=float)
    return np.abs(pixels - np.median(pixels.reshape(-1, 3), axis=0)).sum(2)


def test_drawings_are_where_the_numbers_say(parts):
    for row in [*parts["train"], *parts["test"]]:
        far = inside(row)
        y, x = np.nonzero(far > 0.5 * far.max())
        assert abs(x.mean() / 64 - row["x"]) <= row["size"] / 2 and abs(y.mean() / 64 - row["y"]) <= row["size"] / 2
        # A turned square reaches no further than its own frame, which is cut off.
        assert max(np.ptp(x), np.ptp(y)) <= row["size"] * 64 + 2


def test_captions_say_what_the_numbers_say(parts):
    words = {"left": lambda row: row["x"] < 0.5, "right": lambda row: row["x"] > 0.5}
    named = 0
    for row in [*parts["train"], *parts["test"]]:
        across, down, size, turn, opacity = row["caption"].split(", ")
        named += across.startswith(row["drawing"])
        for word, holds in words.items():
            assert not across.endswith(f" {word}") or holds(row), row
        assert ("up" in down) <= (row["y"] < 0.5) and ("down" in down) <= (row["y"] > 0.5)
        assert size == ("small", "middle", "large")[min(int((row["size"] - 0.1) / 0.35 * 3), 2)]
        assert (turn == "upright") == (abs(row["angle"]) <= 22.5) and (turn == "upside down") == (
            abs(row["angle"]) >= 157.5
        )
        assert turn not in ("tilted right", "lying right") or 0 < row["angle"] < 180
        assert (opacity == "solid") == (row["opacity"] >= 0.7)
    assert 0.3 < named / (len(parts["train"]) + len(parts["test"])) < 0.7


def test_to_the_right_is_clockwise(tmp_path, monkeypatch):
    # A quarter clockwise brings the rocket's nose, which points up and to the right, to the lower right.
    numbers = {"x": 0.5, "y": 0.5, "size": 0.45, "angle": 90.0, "opacity": 1.0}
    monkeypatch.setattr(placed_drawings, "_draw_numbers", lambda generator: numbers)
    turned = load_placed_drawings(tmp_path / "a", num_drawings=1, pictures_per_drawing=1)["test"]
    monkeypatch.setattr(placed_drawings, "_draw_numbers", lambda generator: numbers | {"angle": 0.0})
    upright = load_placed_drawings(tmp_path / "b", num_drawings=1, pictures_per_drawing=1)["test"]
    place = DRAWINGS.index("rocket")
    before, after = inside(upright[place]), inside(turned[place])
    difference = [np.abs(np.rot90(before, quarters) - after).mean() for quarters in range(4)]
    assert int(np.argmin(difference)) == 3  # `rot90` turns anticlockwise
    assert "lying right" in turned[place]["caption"]


def test_no_drawing_of_the_films_is_in_train(parts):
    assert set(parts["test"]["drawing"]) == set(DRAWINGS)
    train = {word for name in parts["train"]["drawing"] for word in name.lower().split()}
    assert not train & set(DRAWINGS) and len(set(parts["train"]["drawing"])) == 20


def test_it_is_a_source_by_name(parts, monkeypatch):
    from clip_hf.data import built_in_datasets

    few = built_in_datasets.BuiltInDataset(lambda: parts, "OpenMoji")
    monkeypatch.setitem(built_in_datasets.BUILT_IN_DATASETS, "placed-drawings", few)
    pairs = load_pairs("placed-drawings")
    assert len(pairs) == 40 and pairs[0]["caption"] == parts["train"][0]["caption"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_drawings": 0}, "`num_drawings` is 0; it must be at least 1"),
        ({"num_drawings": 5000}, "`num_drawings` is 5000; it must be at most"),
        ({"pictures_per_drawing": 0}, "`pictures_per_drawing` is 0"),
    ],
)
def test_numbers_out_of_range_are_errors(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load_placed_drawings(tmp_path, **options)
