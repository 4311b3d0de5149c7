# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The modules for `evaluate`: loading without a network, their examples, batches, and what they refuse."""

import doctest
import math
import socket
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from clip_hf import metrics
from plain_metrics import cases, plain_map, plain_mean_per_class, plain_ranks, plain_top_k


CASES = {case.name: case for case in cases(np.random.default_rng(5))}
ROBUSTNESS = {"baseline_accuracy": [0.5, 0.8], "baseline_shifted_accuracy": [0.2, 0.5]}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args):
        raise OSError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def load(tmp_path):
    return lambda name, **options: metrics.load(name, cache_dir=str(tmp_path), **options)


# ------------------------------------------------------------------------------------------------------------- loading


def test_every_file_but_the_frame_is_a_metric():
    files = {path.stem for path in Path(metrics.__file__).parent.glob("*.py")}
    assert sorted(files - {"__init__", "checked_metric"}) == sorted(metrics.METRICS)


@pytest.mark.parametrize("name", metrics.METRICS)
def test_metric_loads_from_its_file(name):
    metric = evaluate.load(metrics.path(name))
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == name
    assert metric.description and "Args:" not in metric.description and "clip_hf" not in metric.description
    assert metric.inputs_description.startswith("Args:\n") and name in metric.inputs_description
    assert metric.citation.count("@") == len(metric.reference_urls) > 0
    assert type(metric).__module__.startswith("evaluate_modules.")  # the copy in evaluate's cache runs


@pytest.mark.parametrize("name", metrics.METRICS)
def test_examples_give_what_they_say(name):
    text = metrics.load(name).inputs_description
    examples = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert len(examples.examples) >= 4
    report: list[str] = []
    assert doctest.DocTestRunner().run(examples, out=report.append).failed == 0, "".join(report)


def test_unknown_name_is_refused():
    for function in (metrics.load, metrics.path):
        with pytest.raises(ValueError, match="no metric 'accuracy'; there are clip_score, .*zero_shot_accuracy"):
            function("accuracy")


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "evaluate", None)
    with pytest.raises(ImportError, match=r"evaluate is not installed.*pip install -e '.*\[eval\]'"):
        metrics.load("clip_score")


# ------------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_give_the_figures_of_plain_metrics(case, in_memory, load):
    expected = {
        "zero_shot_accuracy": {
            "accuracy": plain_top_k(case.scores, case.targets, case.weights, 1),
            "top5_accuracy": plain_top_k(case.scores, case.targets, case.weights, 5),
        },
        "mean_per_class_accuracy": {
            "mean_per_class_accuracy": plain_mean_per_class(case.scores, case.targets, case.weights)
        },
        "map_11point": {"map_11point": plain_map(case.scores, case.flags, case.weights)},
        "recall_at_k": {
            "recall_at_1": plain_top_k(case.scores, case.targets, None, 1),
            "recall_at_3": plain_top_k(case.scores, case.targets, None, 3),
            "median_rank": np.median(plain_ranks(case.scores, case.targets)) + 1,
        },
    }
    options = {"zero_shot_accuracy": {"k": [1, 5]}, "recall_at_k": {"k": (1, 3)}}
    for name, figures in expected.items():
        metric = load(name, keep_in_memory=in_memory)
        references = case.flags if name == "map_11point" else case.targets
        for rows in (slice(0, 4), slice(4, 9), slice(9, None)):
            if len(case.scores[rows]):
                metric.add_batch(predictions=case.scores[rows], references=references[rows])
        weights = {} if name == "recall_at_k" else {"sample_weight": case.weights}
        assert metric.compute(**weights, **options.get(name, {})) == pytest.approx(figures, rel=0, abs=1e-9)


@pytest.mark.parametrize("as_type", [np.asarray, torch.as_tensor, lambda array: array.tolist()])
def test_arrays_tensors_and_lists_are_taken(as_type, load):
    generator = np.random.default_rng(0)
    values, labels = generator.normal(size=(30, 6)), generator.permutation(30) % 6
    flags = np.eye(6, dtype=bool)[labels]
    given = {"predictions": as_type(values), "references": as_type(labels)}
    balanced = balanced_accuracy_score(labels, values.argmax(axis=1))
    found = load("mean_per_class_accuracy").compute(**given)
    assert found == pytest.approx({"mean_per_class_accuracy": balanced}, abs=1e-9)
    top = top_k_accuracy_score(labels, values, k=3)
    assert load("zero_shot_accuracy").compute(**given, k=3)["top3_accuracy"] == pytest.approx(top, abs=1e-9)
    assert load("recall_at_k").compute(**given, k=3)["recall_at_3"] == pytest.approx(top, abs=1e-9)
    found = [
        load("map_11point").compute(predictions=as_type(values), references=as_type(targets))
        for targets in (flags, flags.astype(np.int64), flags.astype(np.float32))
    ]
    assert found[0]["map_11point"] == pytest.approx(plain_map(values, flags, None), abs=1e-9)
    assert found[1] == found[2] == found[0]


def test_rows_one_by_one(load):
    metric = load("recall_at_k")
    for scores, right in (([0.9, 0.3, 0.1], [0]), ([0.2, 0.8, 0.6], [0, 2])):
        metric.add(prediction=scores, reference=right)
    assert metric.compute(k=[1, 2]) == {"recall_at_1": 0.5, "recall_at_2": 1.0, "median_rank": 1.5}
    metric.add(prediction=[0.9, 0.3], reference=1)
    assert metric.compute(k=1) == {"recall_at_1": 0.0, "median_rank": 2.0}
    metric = load("effective_robustness", keep_in_memory=True)
    metric.add(accuracy=0.8, shifted_accuracy=0.6)
    metric.add_batch(accuracy=[0.8, 0.5], shifted_accuracy=[0.5, 0.0])
    found = metric.compute(**ROBUSTNESS)
    assert found["effective_robustness"] == pytest.approx([0.1, 0, -0.2])
    assert found["expected_accuracy"] == pytest.approx([0.5, 0.5, 0.2])


def test_scores_of_all_pairs(load):
    images, texts = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-1.0, 0.0]])
    given = {"image_embeds": images, "text_embeds": texts}
    assert load("clip_score").compute(**given) == pytest.approx({"clip_score": 1.2})
    assert load("clip_score").compute(**given, average=False)["clip_score"] == pytest.approx([2.4, 0])
    found = load("clip_score").compute(
        **given, weight=1, reference_embeds=[[[8, 6]], [[0, 1], [-1, 1]]], average=False
    )
    assert found["ref_clip_score"] == pytest.approx([2 * 0.96 / 1.96, 0])


def test_metrics_are_combined():
    case = CASES["random"]
    together = evaluate.combine([metrics.path("zero_shot_accuracy"), metrics.load("mean_per_class_accuracy")])
    for rows in (slice(0, 10), slice(10, None)):
        together.add_batch(predictions=case.scores[rows], references=case.targets[rows])
    expected = {
        "accuracy": plain_top_k(case.scores, case.targets, None, 1),
        "mean_per_class_accuracy": plain_mean_per_class(case.scores, case.targets, None),
    }
    assert together.compute() == pytest.approx(expected, abs=1e-9)
    assert together.compute(predictions=case.scores, references=case.targets) == pytest.approx(expected, abs=1e-9)


# ----------------------------------------------------------------------------------------------------- what is refused


TWO = [[0.1, 0.9], [0.8, 0.2]]


@pytest.mark.parametrize(
    ("name", "given", "error", "message"),
    [
        ("zero_shot_accuracy", {"references": ["cat", "dog"]}, TypeError, "references .*'cat'.*class_encode_column"),
        ("zero_shot_accuracy", {"references": ["1", "0"]}, TypeError, "references must hold integers, got '1'"),
        ("zero_shot_accuracy", {"references": [0, 0.5]}, TypeError, "got 0.0|got 0.5"),
        ("zero_shot_accuracy", {"references": [0, None]}, TypeError, "references must hold integers, got None"),
        ("zero_shot_accuracy", {"references": [0, 2]}, ValueError, "class 2 in row 1, but scores has 2 columns"),
        ("zero_shot_accuracy", {"references": [0]}, ValueError, "Mismatch in the number"),
        ("zero_shot_accuracy", {"references": [0, 1], "k": 5}, ValueError, "k is 5, but there are 2 classes"),
        ("zero_shot_accuracy", {"references": [0, 1], "top": 5}, TypeError, "'top'"),
        ("zero_shot_accuracy", {"predictions": [], "references": []}, ValueError, "empty"),
        ("zero_shot_accuracy", {"predictions": [[0.1, math.nan]], "references": [0]}, ValueError, "NaN.*row 0"),
        ("zero_shot_accuracy", {"predictions": [[0.1, "a"]], "references": [0]}, TypeError, "numbers, got 'a'"),
        ("zero_shot_accuracy", {"predictions": [[1, 2], [1]], "references": [0, 0]}, ValueError, "different lengths"),
        ("mean_per_class_accuracy", {"references": [0, 0]}, ValueError, "Class 1 has no row"),
        ("map_11point", {"references": [[1, 0], [1, 0]]}, ValueError, "Class 1 has no positive row"),
        ("map_11point", {"references": [[1, 0], [0, 2]]}, TypeError, "references must hold True.*got 2"),
        ("map_11point", {"references": [[1, 0, 1], [0, 1, 1]]}, ValueError, r"shape \(2, 3\), scores \(2, 2\)"),
        ("recall_at_k", {"references": [[0], []], "k": 1}, ValueError, r"targets.1. is empty"),
        ("recall_at_k", {"references": [0, 2], "k": 1}, ValueError, "column 2, but scores has 2"),
        ("recall_at_k", {"references": [0, 1]}, ValueError, "k is 10, but there are 2 candidates"),
        ("recall_at_k", {"references": [0, 1], "k": [0]}, ValueError, "k must be at least 1"),
        ("recall_at_k", {"references": [["a"], ["b"]], "k": [1]}, TypeError, "integers, got 'a'"),
        (
            "clip_score",
            {"image_embeds": TWO, "text_embeds": [[0, 0], [1, 2]]},
            ValueError,
            "text_embeds are all zeros in row 0",
        ),
        ("clip_score", {"image_embeds": TWO, "text_embeds": TWO, "weight": -1}, ValueError, "weight must be"),
        (
            "effective_robustness",
            {"accuracy": [80], "shifted_accuracy": [60]},
            ValueError,
            "divide percentages by 100",
        ),
        ("effective_robustness", {"accuracy": [0.8], "shifted_accuracy": ["60%"]}, TypeError, "numbers, got '60%'"),
    ],
)
def test_bad_input_is_refused(name, given, error, message, load):
    if "references" in given:
        given = {"predictions": TWO, **given}
    if name == "effective_robustness":
        given = {**given, **ROBUSTNESS}
    with pytest.raises(error, match=message):
        load(name).compute(**given)


def test_a_refused_batch_leaves_nothing_behind(load):
    metric = load("zero_shot_accuracy")
    metric.add_batch(predictions=TWO, references=[1, 0])
    with pytest.raises(TypeError, match="'cat'"):
        metric.add_batch(predictions=TWO, references=["cat", "dog"])
    with pytest.raises(TypeError, match="'cat'"):
        metric.add(prediction=TWO[0], reference="cat")
    assert metric.compute() == {"accuracy": 1.0}
