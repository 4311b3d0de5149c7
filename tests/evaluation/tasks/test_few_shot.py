# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Few-shot: how examples are drawn, the curves, what starts at the text classifier, interpolation and bad input."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from clip_hf.evaluation.numerics.logistic_regression import LogisticRegressionOptions, fit_logistic_regression
from clip_hf.evaluation.tasks.few_shot import FewShotOptions, FewShotResult, draw_shots, few_shot, shots_to_match


CLASSES, WIDTH = 6, 24


def fit(*parts, shots=(1, 2, 4, 8, 16), seeds=(0, 1, 2), options=None, **more) -> FewShotResult:
    """Few-shot with these shots and seeds."""
    return few_shot(*parts, options=replace(options or FewShotOptions(), shots=shots, seeds=seeds), **more)


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def embeddings(per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """L2-normalised "image embeddings" around a direction of each class, all in one cone."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(CLASSES), per_class))
    noise = generator.normal(size=(len(labels), WIDTH)) / np.sqrt(WIDTH)
    return unit(1.0 + 2.5 * directions()[labels] + 4.0 * noise).astype(np.float32), labels


def directions() -> np.ndarray:
    return unit(np.random.default_rng(9).normal(size=(CLASSES, WIDTH)))


def texts(error: float = 0.6) -> np.ndarray:
    """A text classifier (classes, width) that knows the classes, but for some error."""
    return unit(directions() + error * unit(np.random.default_rng(8).normal(size=(CLASSES, WIDTH))))


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, ...]:
    """Training and test features and labels."""
    return *embeddings(10, 0), *embeddings(40, 1)


# -------------------------------------------------------------------------------------------------------------- draws


def test_fewer_shots_are_a_part_of_more():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [16, 20, 16, 30, 18]))
    for seed in range(3):
        drawn = [set(draw_shots(labels, shots, seed).tolist()) for shots in (1, 2, 4, 8, 16)]
        for shots, fewer, more in zip((1, 2, 4, 8), drawn, drawn[1:]):
            assert fewer < more
            assert np.bincount(labels[sorted(fewer)]).tolist() == [shots] * 5
    assert set(draw_shots(labels, 4, 0)) != set(draw_shots(labels, 4, 1))
    np.testing.assert_array_equal(draw_shots(labels, 4, 1), draw_shots(labels, 4, 1))
    # What is drawn of a class does not depend on the others.
    other = np.where(labels == 4, 3, labels)
    assert set(draw_shots(labels, 4, 0)[labels[draw_shots(labels, 4, 0)] < 3]) <= set(draw_shots(other, 4, 0))


# ------------------------------------------------------------------------------------------------------ interpolation


@pytest.mark.parametrize(
    ("zero_shot", "shots", "words"),
    [
        (0.5, 2 * math.sqrt(2), "2.8"),  # half-way from 2 to 4 on a logarithmic axis
        (0.2, 1.0, "1.0"),
        (0.6, 4.0, "4.0"),
        (0.45, 2 ** (1 + 0.25), "2.4"),
        (0.1, math.nan, "fewer than 1"),
        (0.61, math.nan, "more than 4"),
        (math.nan, math.nan, ""),
    ],
)
def test_shots_that_zero_shot_is_worth(zero_shot, shots, words):
    found, said = shots_to_match([(1, 0.2), (2, 0.4), (4, 0.6)], zero_shot)
    assert found == pytest.approx(shots, nan_ok=True) and said == words


def test_the_first_crossing_counts():
    assert shots_to_match([(1, 0.2), (2, 0.4), (4, 0.3), (8, 0.6)], 0.35)[0] == pytest.approx(2**0.75)


# -------------------------------------------------------------------------------------------------------------- curves


def test_probe_is_logistic_regression_on_the_rows_drawn(data):
    train, labels, test, test_labels = data
    penalty = 0.05 * train.astype(np.float64).var(axis=0).sum()
    result = fit(*data, shots=(4, 1), seeds=(0, 5), options=FewShotOptions(penalty=0.05))
    assert result.shots == [1, 4] and result.seeds == [0, 5]
    for place, shots in enumerate(result.shots):
        for column, seed in enumerate(result.seeds):
            rows = draw_shots(labels, shots, seed)
            theirs = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000).fit(
                train[rows].astype(np.float64), labels[rows]
            )
            assert result.probe.scores[place, column] == pytest.approx(theirs.score(test, test_labels), abs=0.005)
    np.testing.assert_allclose(result.probe.penalties, penalty, rtol=1e-6)
    assert result.accuracies[4] > result.accuracies[1] + 0.1
    assert math.isnan(result.zero_shot_accuracy) and result.match == "" and result.from_text is None
    assert result.probe.spread[0] == pytest.approx(np.std(result.probe.scores[0], ddof=1))
    assert result.probe.converged


def test_scale_and_mean_of_features_do_not_matter_to_the_fixed_penalty(data):
    train, labels, test, test_labels = data
    one = fit(*data, shots=(2,), seeds=(0,))
    other = fit(30 * train + 7, labels, 30 * test + 7, test_labels, shots=(2,), seeds=(0,))
    assert one.accuracies == other.accuracies
    assert other.probe.penalties[0, 0] == pytest.approx(900 * one.probe.penalties[0, 0], rel=1e-5)


def test_text_classifier_is_where_no_example_leads(data):
    _train, _, test, test_labels = data
    zero_shot = np.mean((test @ texts().T).argmax(1) == test_labels)
    result = fit(*data, text_classifier=texts(), shots=(1, 2, 4, 8))
    assert result.zero_shot_accuracy == zero_shot == result.from_text_accuracies[0]
    assert 0.4 < zero_shot < 0.9
    # Held still it stays zero-shot; let go it learns, and with few examples it is ahead of the probe.
    held = fit(*data, text_classifier=texts(), shots=(1, 8), options=FewShotOptions(text_penalty=1e7))
    np.testing.assert_allclose(held.from_text.scores, zero_shot)
    options = LogisticRegressionOptions(intercept=False)
    rows, penalty = draw_shots(data[1], 2, 0), 0.1 * data[0].astype(np.float64).var(axis=0).sum()
    assert result.from_text.penalties[1, 0] == pytest.approx(penalty)
    small = fit(*data, shots=(1, 2), text_classifier=texts(), options=FewShotOptions(logit_scale=5.0))
    assert small.from_text.scores[1, 0] != result.from_text.scores[1, 0]
    for scale, found in ((100, result), (5, small)):
        alone = fit_logistic_regression(data[0][rows], data[1][rows], penalty, center=scale * texts(), options=options)
        assert found.from_text.scores[1, 0] == np.mean(alone.scores(test).argmax(1) == test_labels)
    means = result.from_text_accuracies
    assert means[8] > zero_shot + 0.05
    assert means[1] > result.accuracies[1] + 0.1
    assert result.from_text.converged
    # The probe's curve crosses zero-shot between two shots that say so.
    below = max(shots for shots, value in result.accuracies.items() if value < zero_shot)
    assert below < result.shots_to_match_zero_shot <= 2 * below
    assert result.match == f"{result.shots_to_match_zero_shot:.1f}"


def test_shots_outside_of_what_was_measured(data):
    options = FewShotOptions(zero_shot_accuracy=0.999)
    result = fit(*data, shots=(1, 2), seeds=(0,), options=options)
    assert result.match == "more than 2" and math.isnan(result.shots_to_match_zero_shot)
    assert result.eval_results()[-1].metric_name == "few_shot zero_shot"  # no figure where there is none
    result = fit(*data, shots=(1, 2), seeds=(0,), options=FewShotOptions(zero_shot_accuracy=0.01))
    assert result.match == "fewer than 1"


def test_all_rows_are_the_last_point(data):
    options = FewShotOptions(zero_shot_accuracy=0.6, fully_supervised=True)
    result = fit(*data, shots=(1,), seeds=(0,), options=options)
    rows, score = result.fully_supervised
    assert rows == 10 and score > 0.6 > result.accuracies[1]
    first = result.accuracies[1]
    assert result.shots_to_match_zero_shot == pytest.approx(10 ** ((0.6 - first) / (score - first)))
    assert result.metrics["fully_supervised"] == score


def test_lambda_comes_from_validation_rows_and_never_from_test(data):
    train, labels, test, test_labels = data
    options = FewShotOptions(validation=embeddings(10, 2))
    arguments = {"shots": (2,), "seeds": (0, 1), "text_classifier": texts(), "options": options}
    one = fit(*data, **arguments)
    other = fit(train, labels, -test, test_labels, **arguments)
    np.testing.assert_array_equal(one.probe.penalties, other.probe.penalties)
    assert len(np.unique(one.from_text.penalties)) > 1 or one.from_text.penalties[0, 0] != 0.1
    assert "on 60 validation images" in one.details()
    assert "lambda fixed: 0.03" in fit(*data, shots=(1,)).details()


def test_scikit_learn_scores_the_same_and_tensors_are_taken(data):
    train, labels, test, test_labels = data
    arrays = fit(*data, shots=(2,))
    for column, seed in enumerate(arrays.seeds):
        rows = draw_shots(labels, 2, seed)
        theirs = LogisticRegression(C=1 / arrays.probe.penalties[0, column], tol=1e-10, max_iter=1000)
        theirs.fit(train[rows].astype(np.float64), labels[rows])
        assert arrays.probe.scores[0, column] == pytest.approx(theirs.score(test, test_labels), abs=0.005)
    tensors = [torch.from_numpy(part) for part in data]
    result = fit(*tensors, shots=(2,), text_classifier=torch.from_numpy(texts()).float())
    np.testing.assert_array_equal(result.probe.scores, arrays.probe.scores)


def test_files_and_plot(data, tmp_path):
    options = FewShotOptions(model="some/model", data="shapes")
    result = fit(*data, shots=(1, 2, 4), seeds=(0,), text_classifier=texts(), options=options)
    assert [label.get_text() for label in result.figure().axes[0].get_xticklabels()] == ["0", "1", "2", "4"]
    options = FewShotOptions(model="some/model", data="shapes", fully_supervised=True)
    result = fit(*data, shots=(1, 2, 4), text_classifier=texts(), options=options)
    paths = result.save(tmp_path)
    assert [path.name for path in paths] == [f"few_shot-shapes-test.{ending}" for ending in ("json", "md", "png")]
    saved = json.loads(paths[0].read_text())
    assert saved["metrics"]["2_shot"] == result.accuracies[2]
    assert saved["details"]["probe"]["scores"] == result.probe.scores.tolist()
    axis = result.figure().axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "2", "4", "10"]
    assert result.figure().get_suptitle() == "Few-shot classification: some/model on shapes (test)"
    assert (
        axis.get_title("left") == f"Bars: ± 1 standard deviation over 3 draws; zero-shot is worth {result.match} shots"
    )
    labels = axis.get_legend_handles_labels()[1]
    assert {"linear probe", "starting at the text classifier", "zero-shot", "all training images"} == set(labels)
    star = next(line for line in axis.lines if line.get_label() == "zero-shot")
    np.testing.assert_allclose(star.get_xydata(), [[-1, 100 * result.zero_shot_accuracy]])
    assert "| 0 |  | " in result.details()


def test_spreads_over_draws_are_in_the_table_in_place_of_intervals(data):
    result = fit(*data, shots=(1, 2), text_classifier=texts())
    table = result.table()
    assert table.startswith("| metric | value | 1 SD over draws | chance |")
    for curve, ending in ((result.probe, ""), (result.from_text, "_from_text")):
        value, spread = 100 * curve.scores[1].mean(), 100 * np.std(curve.scores[1], ddof=1)
        assert spread > 0 and f"| 2_shot{ending} | {value:.2f}% | ± {spread:.2f} |" in table
    assert "interval" not in table and "1 SD over draws" in result.terminal_table()
    assert "±" not in fit(*data, shots=(1, 2), seeds=(0,)).table()  # one draw has no spread


def test_shots_outside_of_what_was_measured_are_said_in_the_table(data):
    options = FewShotOptions(zero_shot_accuracy=0.0)
    result = fit(*data, shots=(1,), options=options)
    assert result.metrics["shots_to_match_zero_shot"] != result.metrics["shots_to_match_zero_shot"]  # NaN
    assert "| shots_to_match_zero_shot | fewer than 1 |" in result.table()
    assert result.to_dict()["words"] == {"shots_to_match_zero_shot": "fewer than 1"}
    inside = fit(*data, shots=(1, 2, 4), options=FewShotOptions(zero_shot_accuracy=result.accuracies[1]))
    assert "| shots_to_match_zero_shot | 1.0 |" in inside.table() and "zero-shot: 1.0." in inside.details()
    unknown = fit(*data, shots=(1,))
    assert "| shots_to_match_zero_shot | - |" in unknown.table()
    chance = dict.fromkeys(("1_shot", "zero_shot"), 1 / 6)
    assert result.chance == pytest.approx(chance) and result.majority_class == 1 / 6


def test_bad_input_is_named(data):
    train, labels, test, test_labels = data
    names = FewShotOptions(class_names=["ant", "bee", "cat", "dog", "elk", "fox"])
    keep = (labels != 1) | (np.cumsum(labels == 1) <= 3)
    with pytest.raises(
        ValueError, match=r"up to 4, but 1 of 6 classes .*: 'bee' \(3\). The most that every class has is 3"
    ):
        fit(train[keep], labels[keep], test, test_labels, shots=(1, 4), options=names)
    cases = [
        ((train[labels < 5], labels[labels < 5], test, test_labels), {}, "no row of 1 of 6 classes: 5"),
        ((train, labels, test[:, 1:], test_labels), {}, "23 columns where others have 24"),
        ((train, np.stack([labels == 0] * 2, 1), test, test_labels), {}, "few-shot needs one class an image"),
        ((train, labels, test, test_labels), {"shots": (0, 1)}, "shots from 1"),
        ((train, labels, test, test_labels), {"seeds": ()}, "at least one of each"),
        ((train, labels, test, test_labels), {"text_classifier": texts()[:5]}, "5 rows, but there are 6 classes"),
        ((3 * train, labels, test, test_labels), {"text_classifier": texts()}, "L2-normalised image embeddings"),
    ]
    for parts, arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            fit(*parts, **{"shots": (1,), **arguments})
    for bad in ({"penalty": 0}, {"metric": "map_11point"}, {"zero_shot_accuracy": 65.0}, {"logit_scale": math.inf}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            FewShotOptions(**bad)
