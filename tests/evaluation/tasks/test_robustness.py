# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Robustness: classes of ImageNet's variants, the line of standard models, and what lies above it."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from clip_hf.evaluation import (
    baseline_accuracies,
    compare_adaptation,
    compare_under_shift,
    shift_names,
    subset_classes,
    subset_rows,
    subset_scores,
)
from clip_hf.evaluation.tasks import imagenet_shifts


# OpenAI's ViT-L/14@336 (open_clip's results tables).
CLIP = {
    "imagenet": 0.7656,
    "imagenet_v2": 0.7089,
    "imagenet_a": 0.7748,
    "imagenet_r": 0.8905,
    "imagenet_sketch": 0.6100,
    "objectnet": 0.7183,
}


def logit(share):
    return math.log(share / (1 - share))


# ------------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("subset", "classes", "labels"),
    [
        ("imagenet", 1000, 1000),
        ("imagenet_v2", 1000, 1000),
        ("imagenet_sketch", 1000, 1000),
        ("imagenet_a", 200, 200),
        ("imagenet_r", 200, 200),
        ("objectnet", 113, 125),
    ],
)
def test_numbers_of_classes(subset, classes, labels):
    groups = subset_classes(subset)
    flat = [label for group in groups for label in group]
    assert len(groups) == classes and len(flat) == len(set(flat)) == labels
    assert subset_scores(np.zeros((2, 1000)), subset).shape == (2, classes)


def test_scores_of_classes_that_imagenet_has_too():
    scores = np.random.default_rng(0).normal(size=(5, 1000))
    indices = [label for (label,) in subset_classes("imagenet_a")]
    np.testing.assert_array_equal(subset_scores(scores, "imagenet_a"), scores[:, indices])
    np.testing.assert_array_equal(subset_scores(scores, "imagenet_v2"), scores)


def test_objectnets_prediction_is_the_class_of_the_best_allowed_label():
    scores = np.random.default_rng(0).normal(size=(200, 1000))
    groups = subset_classes("objectnet")
    class_of = {label: number for number, group in enumerate(groups) for label in group}
    allowed = np.array(sorted(class_of))
    expected = [class_of[label] for label in allowed[scores[:, allowed].argmax(1)]]
    np.testing.assert_array_equal(subset_scores(scores, "objectnet").argmax(1), expected)
    # A chair is a barber chair, a folding chair or a rocking chair.
    one = np.zeros((1, 1000))
    one[0, 765], one[0, 0] = 1, 5  # rocking chair; tench is no class of ObjectNet
    assert subset_scores(one, "objectnet").argmax() == groups.index([423, 559, 765])


def test_a_worked_example_of_joined_classes(monkeypatch):
    monkeypatch.setattr(imagenet_shifts, "subset_classes", lambda subset: [[3, 7], [5]])
    scores = np.zeros((1, 1000))
    scores[0, [3, 5, 7]] = 0.1, 0.4, 0.3
    np.testing.assert_array_equal(subset_scores(scores, "own"), [[0.3, 0.4]])


def test_rows_of_shared_classes():
    rows, labels = subset_rows([0, 409, 530, 423, 999], "objectnet")
    groups = subset_classes("objectnet")
    assert rows.tolist() == [1, 2, 3, 4]  # toilet tissue is a class of ObjectNet, tench is none
    assert labels.tolist() == [groups.index(group) for group in ([409, 530], [409, 530], [423, 559, 765], [999])]
    rows, labels = subset_rows(np.arange(1000), "imagenet_r")
    assert rows.tolist() == [label for (label,) in subset_classes("imagenet_r")] and labels.tolist() == list(
        range(200)
    )
    assert subset_rows(np.zeros(0, int), "imagenet_a")[0].size == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subset_scores(np.zeros((2, 200)), "imagenet_a"), r"shape \(2, 200\); they must be \(images, 1000\)"),
        (lambda: subset_scores(np.zeros((2, 1000)), "imagenet_b"), "no classes for 'imagenet_b'"),
        (lambda: subset_rows([1000], "imagenet_a"), "0 to 999"),
        (lambda: subset_rows([0.5], "imagenet_a"), "must be labels"),
        (lambda: baseline_accuracies("cifar10"), "no baseline models for 'cifar10'"),
        (lambda: baseline_accuracies("imagenet_v2", on_subset=True), "has all of ImageNet's classes"),
    ],
)
def test_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ----------------------------------------------------------------------------------------------------- baseline models


@pytest.mark.parametrize(
    ("shift", "on_subset"),
    [
        *((shift, False) for shift in shift_names()),
        *((shift, True) for shift in shift_names() if shift not in ("imagenet_v2", "imagenet_sketch")),
    ],
)
def test_baseline_models_lie_on_a_line(shift, on_subset):
    points = baseline_accuracies(shift, on_subset=on_subset)
    assert len(points) >= (13 if shift == "imagenet_a" else 26)
    x, y = np.array([[logit(share) for share in pair] for pair in points.values()]).T
    fit = stats.linregress(x, y)
    assert fit.slope > 0.3 and fit.rvalue**2 > 0.93
    # No model lies far from it: a slip of a figure would.
    residuals = y - (fit.slope * x + fit.intercept)
    assert np.abs(residuals).max() < 0.45


def test_figures_of_known_models():
    # torchvision publishes 69.758, 77.374 and 69.02 for these.
    points = baseline_accuracies("imagenet_v2")
    assert points["resnet18"] == (0.69758, 0.5718)
    assert points["resnet101"][0] == 0.77374 and points["vgg11"][0] == 0.6902
    assert baseline_accuracies("objectnet", on_subset=True)["resnet18"] == (0.70624, 0.26737)
    # ImageNet-A was made against ResNet-50; it is fitted to better models only.
    assert "resnet50" not in baseline_accuracies("imagenet_a") and "resnet18" not in baseline_accuracies("imagenet_a")


def test_every_baseline_has_a_source():
    data = imagenet_shifts._baselines()
    assert "imagenet-testbed" in data["about"]["source"] and "2026" in data["about"]["source"]
    assert set(data["about"]["columns"]) == {"imagenet", *shift_names()}
    assert len(data["models"]) >= 20
    shares = [share for model in data["models"].values() for part in model.values() for share in part.values()]
    assert all(share is None or 0 < share < 1 for share in shares)
    accuracies = [model["accuracy"]["imagenet"] for model in data["models"].values()]
    assert min(accuracies) < 0.25 and max(accuracies) > 0.83


# ---------------------------------------------------------------------------------------------------------- evaluation


def test_effective_robustness_is_what_lies_above_the_line():
    result = compare_under_shift(CLIP, model="ViT-L/14@336")
    x, y = np.array(list(baseline_accuracies("objectnet").values())).T
    fit = stats.linregress([logit(share) for share in x], [logit(share) for share in y])
    expected = 1 / (1 + math.exp(-(fit.slope * logit(0.7656) + fit.intercept)))
    shift = result.shifts["objectnet"]
    assert shift.expected == pytest.approx(expected, abs=1e-12)
    assert shift.effective_robustness == pytest.approx(0.7183 - expected, abs=1e-12)
    assert shift.interval[0] < shift.effective_robustness < shift.interval[1]
    assert shift.interval[1] - shift.interval[0] < 0.03
    assert shift.line.r_squared == pytest.approx(fit.rvalue**2, abs=1e-12)
    assert not shift.extrapolated and not shift.on_subset and shift.reference == 0.7656
    assert result.accuracy == 0.7656 and result.metrics["mean_under_shift"] == pytest.approx(0.7405)


def test_a_standard_model_has_no_effective_robustness():
    accuracies = {"imagenet": 0.77374, "imagenet_v2": 0.6568, "objectnet": 0.38376, "imagenet_r": 0.39307}
    result = compare_under_shift(accuracies)
    assert max(abs(shift.effective_robustness) for shift in result.shifts.values()) < 0.025
    assert abs(result.metrics["mean_effective_robustness"]) < 0.015


def test_zero_shot_clip_has_much():
    metrics = compare_under_shift(CLIP).metrics
    # The paper's figure 13: between 6 and 75 points.
    assert 0.05 < metrics["effective_robustness_imagenet_v2"] < 0.08
    assert metrics["effective_robustness_imagenet_a"] > 0.7
    assert metrics["mean_effective_robustness"] == pytest.approx(
        np.mean([value for name, value in metrics.items() if name.startswith("effective_robustness")])
    )


def test_the_accuracy_on_the_same_classes_is_compared_where_it_is_given():
    result = compare_under_shift(CLIP, subset_accuracies={"imagenet_a": 0.95})
    shift = result.shifts["imagenet_a"]
    assert shift.on_subset and shift.reference == 0.95
    assert shift.expected > compare_under_shift(CLIP).shifts["imagenet_a"].expected
    assert not result.shifts["imagenet_r"].on_subset
    assert "95.00%*" in result.details() and "among the classes" in result.details()


def test_extrapolation_is_said():
    result = compare_under_shift({"imagenet": 0.92, "imagenet_v2": 0.85})
    assert result.shifts["imagenet_v2"].extrapolated
    assert "†" in result.details()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_interval():
    first, second = (compare_under_shift(CLIP, seed=3).intervals for _ in range(2))
    assert first == second != compare_under_shift(CLIP, seed=4).intervals


@pytest.mark.parametrize(
    ("accuracies", "more", "message"),
    [
        ({"imagenet": 0.7}, {}, "at least one shift"),
        ({"imagenet_v2": 0.7, "imagenet_a": 0.2}, {}, "must have 'imagenet'"),
        ({"imagenet": 76.5, "imagenet_v2": 70.0}, {}, "not a percentage"),
        ({"imagenet": 0.7, "imagenet_v2": float("nan")}, {}, "share from 0 to 1"),
        ({"imagenet": 0.7, "cifar10": 0.9}, {}, "'cifar10', which is no known dataset"),
        ({"imagenet": 1.0, "imagenet_v2": 0.9}, {}, "exactly 1, which has no logit"),
        (CLIP, {"imagenet_vid": 0.9}, "no accuracy under that shift"),
        (CLIP, {"imagenet_v2": 0.9}, "has all of ImageNet's classes"),
        (CLIP, {"imagenet_a": 95}, "not a percentage"),
    ],
)
def test_accuracies_that_do_not_fit(accuracies, more, message):
    with pytest.raises(ValueError, match=message):
        compare_under_shift(accuracies, subset_accuracies=more)


def test_accuracy_under_shift_may_be_nothing():
    assert compare_under_shift({"imagenet": 0.5, "imagenet_v2": 0.0}).shifts["imagenet_v2"].effective_robustness < 0


# ---------------------------------------------------------------------------------------------------------- adaptation


def test_adaptation_against_zero_shot():
    result = compare_adaptation(
        {"imagenet_v2": 0.60, "imagenet": 0.70, "objectnet": 0.50},
        {"imagenet": 0.80, "imagenet_v2": 0.59, "objectnet": 0.45},
    )
    assert result.metrics == pytest.approx(
        {
            "imagenet_gain": 0.10,
            "imagenet_v2_change": -0.01,
            "objectnet_change": -0.05,
            "mean_change_under_shift": -0.03,
        }
    )


def test_adaptation_needs_the_same_data():
    with pytest.raises(ValueError, match="in one only: imagenet_a, "):
        compare_adaptation({"imagenet": 0.7, "imagenet_v2": 0.6}, {**CLIP, "imagenet_v2": 0.6})
    with pytest.raises(ValueError, match="`adapted` must have 'imagenet'"):
        compare_adaptation({"imagenet": 0.7, "imagenet_v2": 0.6}, {"imagenet_v2": 0.6})


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.slow_but_for("1", "2")
@pytest.mark.parametrize("number", [1, 2, 5, 6])
def test_results_are_saved(tmp_path, number):
    accuracies = dict(list({**CLIP, "youtube_bb": 0.9}.items())[: number + 1])
    result = compare_under_shift(accuracies, model="a model")
    paths = result.save(tmp_path)
    assert [path.suffix for path in paths] == [".json", ".md", ".png"]
    saved = json.loads(paths[0].read_text(encoding="utf-8"))
    assert saved["metrics"]["imagenet"] == 0.7656 and saved["task"] == "robustness"
    assert saved["details"]["shifts"]["imagenet_v2"]["slope"] > 0
    assert paths[2].stat().st_size > 5000
    panels = [axis for axis in result.figure().axes if axis.get_title("left")]
    assert len(panels) == number
    assert all(axis.get_xscale() == axis.get_yscale() == "logit" for axis in panels)
    # Every point lies within its panel.
    for axis, shift in zip(panels, result.shifts.values()):
        assert axis.get_xlim()[0] < shift.reference < axis.get_xlim()[1]
        assert axis.get_ylim()[0] < shift.accuracy < axis.get_ylim()[1]


def test_adaptation_is_saved(tmp_path):
    adapted = {name: share - 0.02 for name, share in CLIP.items()} | {"imagenet": 0.85}
    result = compare_adaptation(CLIP, adapted, model="a model")
    paths = result.save(tmp_path)
    assert paths[2].suffix == ".png"
    widths = [bar.get_width() for bar in result.figure().axes[0].patches]
    assert max(widths) == pytest.approx(8.44) and min(widths) == pytest.approx(-2)
