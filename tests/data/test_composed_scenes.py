# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Composed scenes: masks and boxes are where the drawings are, and the same seed gives the same scenes."""

import numpy as np
import pytest

from clip_hf.data import SCENE_CLASSES, load_composed_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return load_composed_scenes(tmp_path_factory.mktemp("scenes"), image_size=64, num_scenes=6)


def test_parts_and_columns(scenes):
    assert {part: len(rows) for part, rows in scenes.items()} == {"validation": 6, "test": 6, "pairs": 6}
    for part, rows in scenes.items():
        numbers = {len(labels) for labels in rows["labels"]}
        assert numbers <= ({2} if part == "pairs" else {2, 3, 4})
        for labels in rows["labels"]:
            assert set(labels) <= set(SCENE_CLASSES) and len(set(labels)) == len(labels)
    assert scenes["validation"]["labels"] != scenes["test"]["labels"]


def test_masks_and_boxes_are_where_the_drawings_are(scenes):
    for row in scenes["test"]:
        pixels, mask = np.asarray(row["image"]).astype(int), np.asarray(row["mask"])
        assert mask.shape == (64, 64) and sorted(set(mask.flat) - {0}) == list(range(1, len(row["labels"]) + 1))
        background = pixels[mask == 0]
        colour = np.median(background, axis=0)
        is_other = (abs(pixels - colour) > 8).any(axis=-1)
        assert (is_other & (mask == 0)).mean() < 0.1  # soft edges
        for k, (left, top, right, bottom) in enumerate(row["boxes"], 1):
            assert is_other[mask == k].mean() > 0.8  # a drawing may have a pale part
            outside = mask == k
            outside[top:bottom, left:right] = False
            assert not outside.any() and (mask[top:bottom, left:right] == k).any(axis=0).all()
            assert max(right - left, bottom - top) <= 32


def test_pairs_lie_side_by_side(scenes):
    for boxes in scenes["pairs"]["boxes"]:
        assert boxes[0][2] <= 32 <= boxes[1][0]


def test_the_seed_decides(scenes, tmp_path):
    again = load_composed_scenes(tmp_path, image_size=64, num_scenes=6)
    other = load_composed_scenes(tmp_path, image_size=64, num_scenes=6, seed=1)
    assert again["test"][0]["image"].tobytes() == scenes["test"][0]["image"].tobytes()
    assert other["test"]["labels"] != scenes["test"]["labels"]


@pytest.mark.parametrize("option", [{"image_size": 31}, {"num_scenes": 0}])
def test_numbers_out_of_range(option, tmp_path):
    with pytest.raises(ValueError, match=f"`{next(iter(option))}` is .*at least"):
        load_composed_scenes(tmp_path, **option)
