# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What every result writes: files that any program reads, whole or not at all, and figures for a card."""

import copy
import json
import pickle
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from clip_hf import evaluation
from clip_hf.evaluation import EvaluationResult
from clip_hf.evaluation.tasks.evaluation_result import (
    format_difference,
    format_difference_interval,
    format_metric,
)
from clip_hf.utils.wording import counted, safe_name


@dataclass(kw_only=True, repr=False)
class Measured(EvaluationResult):
    """A result with fields of every kind."""

    task = "measured"
    values: dict = field(default_factory=lambda: {"top1": 0.5, "median_rank": 3.0, "top5": float("nan")})
    scalar: np.float32 = field(default_factory=lambda: np.float32(0.25))
    tensor: torch.Tensor = field(default_factory=lambda: torch.tensor([1.0, float("inf")]))
    ranks: np.ndarray = field(default_factory=lambda: np.arange(3))
    texts: dict = field(default_factory=dict)

    @property
    def metrics(self):
        return self.values

    @property
    def intervals(self):
        return {"top1": (0.25, 0.75)}

    @property
    def words(self):
        return self.texts

    @property
    def arrays(self):
        return {"ranks": self.ranks}

    def figure(self):
        figure = Figure()
        figure.subplots().plot([1, 2])
        return figure


@pytest.fixture
def result() -> Measured:
    return Measured(model="me/clip", data="data/of me", split="test")


def test_the_files(result, tmp_path):
    paths = result.save(tmp_path / "new")
    stem = "measured-data_of_me-test"
    assert [path.name for path in paths] == [f"{stem}.json", f"{stem}.md", f"{stem}.npz", f"{stem}.png"]
    assert sorted((tmp_path / "new").iterdir()) == sorted(paths)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    content = json.loads(paths[0].read_text(), parse_constant=refuse)
    assert content["metrics"] == {"top1": 0.5, "median_rank": 3.0, "top5": None}
    assert content["intervals"] == {"top1": [0.25, 0.75]}
    assert content["details"]["scalar"] == 0.25 and content["details"]["tensor"] == [1.0, None]
    assert "ranks" not in content["details"] and {"torch", "clip_hf", "date"} <= content["environment"].keys()
    assert np.load(paths[2])["ranks"].tolist() == [0, 1, 2]
    text = paths[1].read_text()
    assert "| top1 | 50.00% | 25.00% to 75.00% |" in text and "| median_rank | 3 |" in text and "| top5 | - |" in text


def test_a_file_that_cannot_be_written_leaves_the_old_one(result, tmp_path, monkeypatch):
    paths = result.save(tmp_path)
    before = {path: path.read_bytes() for path in paths}
    result.values["top1"] = 0.75
    monkeypatch.setattr(json, "dumps", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        result.save(tmp_path)
    assert {path: path.read_bytes() for path in sorted(tmp_path.iterdir())} == dict(sorted(before.items()))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))])
def test_a_result_can_be_copied_and_pickled(result, duplicate):
    again = duplicate(result)
    drop = [{**one.to_dict(), "environment": None} for one in (again, result)]
    assert drop[0] == drop[1] and again.arrays["ranks"].tolist() == [0, 1, 2]


def test_figures_for_a_card_name_what_was_changed(result):
    assert {figure.metric_name for figure in result.eval_results()} == {"measured top1", "measured median_rank"}
    result.runtime, result.dtype = "onnx", "int8"
    result.image_options = {"apply_exif_orientation": False, "high_bit_depth": "scale"}
    setting = "(onnx, int8, no apply_exif_orientation, high_bit_depth scale)"
    assert result.eval_results()[0].metric_name == f"measured top1 {setting}"
    assert "Image files were read with no apply_exif_orientation, high_bit_depth scale." in result.table()
    result.image_options = {}
    assert result.eval_results()[0].metric_name == "measured top1 (onnx, int8)" and "Image files" not in result.table()


def test_figures_for_a_card(result):
    found = {one.metric_type: one for one in result.eval_results()}
    assert sorted(found) == ["median_rank", "top1"]  # what has no value is left out
    assert found["top1"].metric_value == 50.0 and found["median_rank"].metric_value == 3.0
    assert found["top1"].metric_args == {"interval_95": [25.0, 75.0]} and found["median_rank"].metric_args is None
    assert found["top1"].dataset_split == "test" and found["top1"].metric_name == "measured top1"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("top1", 0.12345, "12.35%"),
        ("image_to_text_median_rank", 2.0, "2"),
        ("lambda", 1e-6, "1e-06"),
        ("a", np.nan, "-"),
        ("prompt_gain", 0.0123, "+1.23 points"),
        ("ensemble_gain", -0.00001, "0.00 points"),
        ("effective_robustness_imagenet_a", -0.5, "-50.00 points"),
        ("mean_effective_robustness", 0.1, "+10.00 points"),
        ("imagenet_v2_change", 0.1, "+10.00 points"),
        ("place_fruit_difference", np.nan, "-"),
    ],
)
def test_how_figures_are_shown(name, value, shown):
    assert format_metric(name, value) == shown


@pytest.mark.parametrize(
    ("name", "value", "interval", "shown"),
    [
        ("top1", 0.1, (-0.05, 0.25), "+10.00 points (-5.00 to +25.00)"),
        ("image_to_text_median_rank", -1.5, (-2.0, 0.0), "-1.5 (-2 to +0)"),
    ],
)
def test_how_differences_are_shown(name, value, interval, shown):
    assert f"{format_difference(name, value)} ({format_difference_interval(name, interval)})" == shown


def test_numbers_of_things():
    assert (
        counted(1, "prompt") == "1 prompt" and counted(2, "prompt") == "2 prompts" and counted(0, "text") == "0 texts"
    )
    assert counted(1, "class", "classes") == "1 class" and counted(1234, "class", "classes") == "1,234 classes"


def test_words_and_skipped_images_are_in_the_table(result, tmp_path):
    result.skipped = {"train": {"images": 2, "of": 90, "kinds": {"file empty": 2}, "examples": ["row 1|2 is empty"]}}
    assert result.table().endswith("| skipped_images | 2 of 90 |  |")
    result.skipped["test"] = {"images": 1, "of": 9, "kinds": {}, "examples": []}
    assert result.table().endswith("| skipped_images (test) | 1 of 9 |  |")
    result.texts = {"top5": "fewer than 1"}
    assert "| top5 | fewer than 1 |  |\n" in result.table() and result.to_dict()["words"] == result.words
    text = result.save(tmp_path)[1].read_text()
    assert "Images of train that could not be read: 2 of 90." in text and "- row 1\\|2 is empty" in text


def test_names_of_files():
    assert safe_name("me/my clip:1") == "me_my_clip_1" and safe_name("../..") == "_"


def test_print_shows_the_headline(result):
    assert (
        str(result)
        == repr(result)
        == (
            "measured: me/clip on data/of me (test)\n"
            "  top1: 50.00% (95% interval: 25.00% to 75.00%)\n"
            "  median_rank: 3\n"
            "  top5: -"
        )
    )
    result.values = {f"{k}_shot": k / 10 for k in range(7)}
    assert str(result).splitlines()[-2:] == ["  3_shot: 30.00%", "  and 3 more in `metrics`"]


def test_every_result_prints_so():
    kinds = [
        kind for kind in vars(evaluation).values() if isinstance(kind, type) and issubclass(kind, EvaluationResult)
    ]
    assert len(kinds) >= 6
    assert all(kind.__repr__ is EvaluationResult.__repr__ for kind in kinds)
