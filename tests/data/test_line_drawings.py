# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""OpenMoji's black line drawings: what is drawn, what is left out, and which part it is in."""

import numpy as np
import pytest

from clip_hf.data import ATTRIBUTION, OPENMOJI_TEMPLATES, built_in_datasets, line_drawings, load_line_drawings
from clip_hf.data.openmoji import drawing_captions, render_drawings


NAMES = ("red apple", "artist", "man artist", "NEW button", "blue circle", "green circle", "snail", "lemon", "violin")


@pytest.fixture
def few_names(monkeypatch):
    """Let the drawings be a few ones."""
    assert set(NAMES) <= set(drawing_captions())
    monkeypatch.setattr(line_drawings, "drawing_captions", lambda: list(NAMES))


def test_lines_are_the_drawing_without_its_colours():
    (coloured,), (lines,) = (
        render_drawings(["red apple"], 72, only_lines=only_lines).values() for only_lines in (False, True)
    )
    assert np.asarray(coloured)[..., :3].max() > 200
    assert np.asarray(lines)[..., :3].max() == 0  # black, on nothing
    # Every pixel of a line is dark in the coloured drawing too; the filled inside of the apple is gone.
    line = np.asarray(lines)[..., 3] == 255
    assert line.sum() > 100 and np.asarray(coloured)[line][:, :3].max() == 0
    assert (np.asarray(lines)[..., 3] > 0).sum() < 0.7 * (np.asarray(coloured)[..., 3] > 0).sum()


def test_blank_and_shared_drawings_are_left_out(tmp_path, few_names):
    parts = load_line_drawings(tmp_path, image_size=24)
    captions = [caption for part in parts.values() for caption in part["caption"]]
    # Both artists are one drawing, coloured circles too, and "NEW button" has no lines.
    assert sorted(captions) == sorted({"red apple", "snail", "lemon", "violin"})
    assert list(parts) == ["train", "validation", "test"]
    pictures = [picture for part in parts.values() for picture in part["image"]]
    assert {picture.mode for picture in pictures} == {"RGB"} and {picture.size for picture in pictures} == {(24, 24)}
    assert all(picture.getpixel((0, 0)) == (255, 255, 255) for picture in pictures)
    assert all("CC BY-SA 4.0" in part.info.license for part in parts.values())
    (credit,) = tmp_path.glob("*/ATTRIBUTION.txt")
    assert credit.read_text().strip() == ATTRIBUTION


def test_parts_share_no_row_and_follow_the_seed():
    parts = line_drawings._split_rows(1549, seed=0)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 930, "validation": 232, "test": 387}
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1549))
    other = line_drawings._split_rows(1549, seed=1)
    assert not np.array_equal(parts["test"], other["test"])


def test_it_is_built_in_with_the_prompts_of_openmoji():
    built_in = built_in_datasets.BUILT_IN_DATASETS["openmoji_lines"]
    assert built_in.load is load_line_drawings
    assert built_in.templates == OPENMOJI_TEMPLATES


def test_impossible_size():
    with pytest.raises(ValueError, match="`image_size` is 0"):
        load_line_drawings(image_size=0)
