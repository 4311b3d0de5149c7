# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Films of moving drawings: what they show, that pairs differ by order alone, and what is held out."""

import sys
from collections import defaultdict

import av
import numpy as np
import pytest
from transformers.testing_utils import CaptureLogger

from clip_hf.data import REVERSED_ACTIONS, cached_folders, load_moving_drawings, moving_drawings


SMALL = {"num_drawings": 8, "clips_per_action": 1, "image_size": 32}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return load_moving_drawings(tmp_path_factory.mktemp("films"), **SMALL)


def frames_of(row) -> np.ndarray:
    with av.open(row["video"]["path"]) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]).astype(float)


def trace(row) -> dict[str, np.ndarray]:
    """What a film shows over time: where the drawing is, its extent, and how far it is from the background."""
    frames = frames_of(row)
    background = np.median(frames.reshape(-1, 3), axis=0)
    contrast = np.abs(frames - background).sum(3)
    inside = contrast > 60
    rows, columns = np.arange(inside.shape[1]), np.arange(inside.shape[2])
    seen = np.maximum(inside.sum((1, 2)), 1)
    return {
        "x": (inside.sum(1) * columns).sum(1) / seen,
        "y": (inside.sum(2) * rows).sum(1) / seen,
        "area": inside.sum((1, 2)),
        "contrast": contrast.sum((1, 2)),
    }


def rows_by_action(films) -> dict[str, list[dict]]:
    by_action = defaultdict(list)
    for part in films.values():
        for row in part:
            by_action[row["action"]].append(row)
    return by_action


@pytest.mark.slow
def test_each_film_shows_its_action(films):
    by_action = rows_by_action(films)
    assert set(by_action) == {action for pair in REVERSED_ACTIONS for action in pair}
    # A measure and the sign of its change from the first to the last frame.
    expected = {
        "moving to the left": ("x", -1),
        "moving to the right": ("x", 1),
        "moving up": ("y", -1),
        "moving down": ("y", 1),
        "growing": ("area", 1),
        "shrinking": ("area", -1),
        "appearing": ("contrast", 1),
        "vanishing": ("contrast", -1),
    }
    for action, (measure, sign) in expected.items():
        for row in by_action[action]:
            values = trace(row)[measure]
            assert sign * (values[-3:].mean() - values[:3].mean()) > 0, row["caption"]


def test_clockwise_is_clockwise(films):
    # The direction from the drawing's centre to its darkest part turns clockwise, which is upwards in image angles.
    turns = []
    for row in rows_by_action(films)["spinning clockwise"]:
        frames = frames_of(row)
        darkness = (765 - frames.sum(3)) ** 4
        inside = np.abs(frames - np.median(frames.reshape(-1, 3), axis=0)).sum(3) > 60
        y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]

        def centre(weights, x=x, y=y):
            total = weights.sum((1, 2))
            return (weights * x).sum((1, 2)) / total + 1j * (weights * y).sum((1, 2)) / total

        arms = centre(darkness * inside) - centre(inside.astype(float))
        turns.append(np.angle(arms[1:] / arms[:-1]).sum())
    assert np.median(turns) > 1.5


def test_films_of_a_pair_have_the_same_frames_in_reverse(films):
    pairs = defaultdict(list)
    for part in films.values():
        for row in part:
            pairs[row["pair"]].append(row)
    assert len(pairs) == 8 * 5
    for first, second in pairs.values():
        assert (first["action"], second["action"]) in REVERSED_ACTIONS
        frames, backwards = frames_of(first), frames_of(second)
        assert frames.shape == (24, 32, 32, 3)
        assert np.array_equal(frames, backwards[::-1]) and not np.array_equal(frames, backwards)


def test_drawings_and_combinations_are_held_out(films):
    drawings = {name: set(part["drawing"]) for name, part in films.items()}
    assert not drawings["train"] & drawings["test"] and len(drawings["test"]) == 2
    assert drawings["train"] == drawings["combinations"]
    captions = {name: set(part["caption"]) for name, part in films.items()}
    assert not captions["train"] & captions["combinations"]
    assert len(captions["train"] | captions["combinations"]) == 6 * 10
    # Every action is seen in training, and with every drawing all but one pair of actions.
    assert len(set(films["train"]["action"])) == 10 and len(films["combinations"]) == 6 * 2
    for row in films["train"]:
        assert row["caption"].endswith(f"{row['drawing']} {row['action']}")
        assert films["train"].features["label"].int2str(row["label"]) == row["action"]
        assert row["caption"].split()[0] == ("an" if row["drawing"][0] in "aeiou" else "a")


def test_a_second_load_makes_nothing_and_damage_is_mended(tmp_path, monkeypatch):
    few = {"num_drawings": 2, "clips_per_action": 1, "image_size": 16}
    first = load_moving_drawings(tmp_path, **few)
    with monkeypatch.context() as patch:
        patch.setattr(moving_drawings, "_write_film", None)
        assert load_moving_drawings(tmp_path, **few)["test"].to_list() == first["test"].to_list()
    film = first["train"][0]["video"]["path"]
    with open(film, "rb") as file:
        content = file.read()
    with open(film, "wb") as file:
        file.write(content[:100])
    with CaptureLogger(cached_folders.logger) as logged:
        load_moving_drawings(tmp_path, **few)
    assert "is damaged" in logged.out
    with open(film, "rb") as file:
        assert file.read() == content  # the same films are made again
    (credit,) = tmp_path.glob("*/ATTRIBUTION.txt")
    assert "CC BY-SA 4.0" in credit.read_text()
    other = load_moving_drawings(tmp_path, **few, seed=1)
    assert other["train"].to_list() != first["train"].to_list()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_drawings": 1}, "`num_drawings` is 1; it must be from 2 to"),
        ({"clips_per_action": 0}, "`clips_per_action` is 0"),
        ({"image_size": 33}, "`image_size` is 33; it must be an even number"),
    ],
)
def test_options_out_of_range_are_errors(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        load_moving_drawings(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"`moving-drawings`: av is not installed.*\[video\]"):
        load_moving_drawings(tmp_path)
