# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The linear probe's protocol: the search for lambda, scikit-learn's choice, splits, results and bad input."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score

from clip_hf.evaluation.numerics.logistic_regression import fit_logistic_regression
from clip_hf.evaluation.tasks.linear_probe import (
    LAMBDAS,
    LinearProbeOptions,
    linear_probe,
    search_lambda,
    split_validation,
)


QUICK = {"resamples": 50}


def digits(rows: int = 900, classes: int = 10) -> tuple[np.ndarray, ...]:
    """Features and labels of train, validation and test."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(np.flatnonzero(data.target < classes))[:rows]
    features, labels = data.data[order].astype(np.float32) / 8, data.target[order]
    first, second = rows // 2, rows * 2 // 3
    parts = (slice(0, first), slice(first, second), slice(second, None))
    return tuple(array[part] for part in parts for array in (features, labels))


# ------------------------------------------------------------------------------------------------------------- search


def test_grid_is_the_papers():
    assert len(LAMBDAS) == 97
    assert (LAMBDAS[0], LAMBDAS[48], LAMBDAS[-1]) == (1e-6, 1.0, 1e6)
    np.testing.assert_allclose(np.diff(np.log10(LAMBDAS)), 1 / 8, rtol=1e-9)


@pytest.mark.parametrize("peak", range(0, 97, 3))
def test_search_finds_any_single_peak(peak):
    asked = []

    def score(penalty: float) -> float:
        asked.append(penalty)
        return -abs(math.log10(penalty) - math.log10(LAMBDAS[peak]))

    best, sweep = search_lambda(score)
    assert best == LAMBDAS[peak]
    assert list(sweep) == asked and len(set(asked)) == len(asked) <= 15
    np.testing.assert_allclose(asked[:7], [1e6, 1e4, 1e2, 1, 1e-2, 1e-4, 1e-6])
    # Both neighbours of the best one were tried, an eighth of a decade away.
    around = [LAMBDAS[place] for place in (peak - 1, peak + 1) if 0 <= place < 97]
    assert set(around) <= set(asked)


def test_example_of_the_docstring():
    best, _ = search_lambda(lambda penalty: -abs(math.log10(penalty) - 0.3))
    assert best == pytest.approx(10**0.25)


def test_of_equal_scores_the_largest_lambda_is_taken():
    # A plateau from 1e-6 to 30, as in separable data; rounding must not break the tie.
    best, _ = search_lambda(lambda penalty: 0.9 + (1e-14 if penalty < 1e-3 else 0) if penalty < 30 else 0.5)
    assert best == max(penalty for penalty in LAMBDAS if penalty < 30)
    assert search_lambda(lambda penalty: 1.0)[0] == 1e6


# -------------------------------------------------------------------------------------------------------------- probe


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_scikit_learn_chooses_the_same_lambda_and_scores_the_same():
    train, train_labels, val, val_labels, test, test_labels = parts = digits(600, 4)
    ours = linear_probe(*parts, options=LinearProbeOptions(max_iterations=300, **QUICK))

    def fit(features: np.ndarray, labels: np.ndarray, penalty: float) -> LogisticRegression:
        return LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=300).fit(features.astype(np.float64), labels)

    best, sweep = search_lambda(lambda penalty: fit(train, train_labels, penalty).score(val, val_labels))
    final = fit(np.concatenate([train, val]), np.concatenate([train_labels, val_labels]), best)
    assert ours.converged
    assert ours.best_lambda == best and list(ours.sweep) == list(sweep)
    assert ours.accuracy == pytest.approx(final.score(test, test_labels), abs=1e-3)


def test_the_protocol_step_by_step():
    train, train_labels, val, val_labels, test, test_labels = parts = digits()
    result = linear_probe(*parts, options=LinearProbeOptions(**QUICK))
    for penalty in (1.0, result.best_lambda):
        alone = fit_logistic_regression(train, train_labels, penalty)
        expected = accuracy_score(val_labels, alone.scores(val).argmax(1))
        assert result.sweep[penalty] == pytest.approx(expected, abs=0.004)  # one of 300 at most
    assert result.sweep[result.best_lambda] == max(result.sweep.values())
    # Refitted to train and validation, scored on test.
    final = fit_logistic_regression(
        np.concatenate([train, val]), np.concatenate([train_labels, val_labels]), result.best_lambda
    )
    predictions = final.scores(test).argmax(1)
    assert result.accuracy == accuracy_score(test_labels, predictions)
    np.testing.assert_array_equal(result.predictions, predictions)
    assert result.accuracy > 0.93
    assert result.interval[0] < result.accuracy < result.interval[1]
    assert [fit.rows for fit in result.fits] == [450] * len(result.sweep) + [600]
    assert [fit.penalty for fit in result.fits] == [*result.sweep, result.best_lambda]
    assert result.converged and all(fit.iterations < 400 for fit in result.fits)


def test_the_test_split_does_not_choose():
    *parts, test, test_labels = digits()
    options = LinearProbeOptions(**QUICK)
    one = linear_probe(*parts, test, test_labels, options=options)
    other = linear_probe(*parts, -test[::-1], (test_labels + 3) % 10, options=options)
    assert one.sweep == other.sweep and one.best_lambda == other.best_lambda
    np.testing.assert_array_equal(one.classifier.coefficients, other.classifier.coefficients)


def test_several_labels_an_image():
    train, train_labels, val, val_labels, test, test_labels = digits()
    many = [
        np.stack([labels % 2 == 0, labels > 6, labels < 2], 1) for labels in (train_labels, val_labels, test_labels)
    ]
    result = linear_probe(
        train, many[0], val, many[1], test, many[2], metric="map_11point", options=LinearProbeOptions(**QUICK)
    )
    assert 0.8 < result.accuracy <= 1 and result.num_classes == 3
    assert result.metrics == {"map_11point": result.accuracy, "lambda": result.best_lambda}
    assert len(result.predictions) == 0


@pytest.mark.parametrize("metric", ["roc_auc", "mean_per_class"])
def test_other_metrics(metric):
    parts = digits(300, 2)
    noisy = [part + np.random.default_rng(1).normal(size=part.shape) * 3 if part.ndim == 2 else part for part in parts]
    result = linear_probe(*noisy, metric=metric, options=LinearProbeOptions(**QUICK))
    scores = result.classifier.scores(noisy[4])
    if metric == "roc_auc":
        assert result.value == pytest.approx(roc_auc_score(parts[5], scores[:, 1] - scores[:, 0]))
    assert result.metrics[metric] == result.value < 1


def test_tensors_give_the_same():
    parts = digits(300, 3)
    tensors = [torch.from_numpy(part) for part in parts]
    one, other = (linear_probe(*given, options=LinearProbeOptions(**QUICK)) for given in (parts, tensors))
    assert one.sweep == other.sweep and one.value == other.value


def test_without_a_validation_split_one_is_split_off_and_said_so():
    train, train_labels, *_, test, test_labels = digits()
    options = LinearProbeOptions(validation_share=0.25, seed=3, **QUICK)
    result = linear_probe(train, train_labels, None, None, test, test_labels, options=options)
    assert "25% of the training rows, split off by class with seed 3" in result.details()
    rows, held_out = split_validation(train_labels, 0.25, 3)
    given = linear_probe(
        train[rows], train_labels[rows], train[held_out], train_labels[held_out], test, test_labels, options=options
    )
    assert result.rows["validation"] == len(held_out)
    assert given.sweep == result.sweep and given.value == result.value
    assert "the split that was given" in given.details()


def test_iterations_that_do_not_suffice_are_shown():
    result = linear_probe(*digits(300, 3), options=LinearProbeOptions(max_iterations=2, resamples=0))
    assert result.intervals == {}
    assert not result.converged
    assert "**Not converged** at lambda = " in result.details()


def test_files_and_plot(tmp_path):
    options = LinearProbeOptions(model="some/model", data="digits", **QUICK)
    result = linear_probe(*digits(300, 3), options=options)
    paths = result.save(tmp_path)
    assert [path.name for path in paths] == [
        f"linear_probe-digits-test.{ending}" for ending in ("json", "md", "npz", "png")
    ]
    saved = json.loads(paths[0].read_text())
    assert saved["metrics"]["top1"] == result.accuracy
    assert list(map(float, saved["details"]["sweep"])) == list(result.sweep)
    assert saved["details"]["classifier"]["converged"] and "coefficients" not in saved["details"]["classifier"]
    with np.load(paths[2]) as arrays:
        np.testing.assert_array_equal(arrays["coefficients"], result.classifier.coefficients)
        np.testing.assert_array_equal(arrays["predictions"], result.predictions)
    axis = result.figure().axes[0]
    np.testing.assert_allclose(axis.lines[0].get_xdata(), sorted(result.sweep))
    np.testing.assert_allclose(axis.lines[1].get_xdata(), [result.best_lambda])
    assert "some/model on digits" in result.figure().get_suptitle()


# ------------------------------------------------------------------------------------------------------------- splits


def test_every_class_keeps_a_row_on_either_side():
    for share in (0.05, 0.95):
        rows, held_out = split_validation(np.repeat(np.arange(3), [2, 3, 9]), share)
        labels = np.repeat(np.arange(3), [2, 3, 9])
        assert set(labels[rows]) == set(labels[held_out]) == {0, 1, 2}


def test_split_is_stratified_and_repeatable():
    labels = np.repeat([0, 1, 2, 3], [50, 10, 2, 1])
    labels = np.random.default_rng(0).permutation(labels)
    rows, held_out = split_validation(labels, 0.2, 1)
    assert sorted([*rows, *held_out]) == list(range(63))
    assert np.bincount(labels[held_out], minlength=4).tolist() == [10, 2, 1, 0]
    again = split_validation(labels, 0.2, 1)
    np.testing.assert_array_equal(again[1], held_out)
    assert not np.array_equal(split_validation(labels, 0.2, 2)[1], held_out)


def test_split_of_several_labels_keeps_shares():
    generator = np.random.default_rng(0)
    labels = generator.random((400, 4)) < [0.5, 0.2, 0.05, 0.01]
    rows, held_out = split_validation(labels, 0.25)
    assert len(rows) + len(held_out) == 400
    shares = labels[held_out].sum(0) / labels.sum(0)
    assert (np.abs(shares - 0.25) < 0.08 + 1 / labels.sum(0)).all()
    assert labels[rows].any(0).all() and labels[held_out].any(0).all()
    # What a rare class has put there counts for the class that all its rows have too.
    nested = np.zeros((60, 2), bool)
    nested[:40, 0] = nested[:8, 1] = True
    assert nested[split_validation(nested, 0.25)[1]].sum(0).tolist() == [10, 2]


@pytest.mark.parametrize("share", [0, 1, 1.5])
def test_split_refuses_impossible_shares(share):
    with pytest.raises(ValueError, match="more than 0 and less than 1"):
        split_validation(np.array([0, 0, 1]), share)


def test_split_refuses_classes_of_one():
    with pytest.raises(ValueError, match="No class has two rows"):
        split_validation(np.arange(4))


# ---------------------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_named():
    train, y, val, v, test, t = digits(90, 3)
    broken = test.copy()
    broken[4] = np.nan
    several = np.stack([y == 0, y == 1], 1)
    cases = [
        ((train, y, val[:, 1:], v, test, t), {}, "validation_features have 63 columns where others have 64"),
        ((train, y, val, v, broken, t), {}, "test_features have NaN or infinite values in row 4"),
        ((train, y, val[:0], v[:0], test, t), {}, "validation_features have shape"),
        ((train, y, val, None, test, t), {}, "only one of features and labels"),
        ((train, y, val, v, None, None), {}, "The test split is missing"),
        ((train, y, val, v, test, t + 5), {}, r"train_labels have no row of [0-9] of 8 classes: 3, 4, 5"),
        ((train, several, val, v, test, t), {}, "must be of one kind"),
        ((train, y, val, v, test, t), {"metric": "top7"}, "`metric` is 'top7'; it must be one of top1"),
        ((train, y, val, v, test, t), {"metric": "map_11point"}, r"takes labels of shape \(rows, classes\) bool"),
        ((train, y, val, v, test, t), {"metric": "roc_auc"}, "metric='roc_auc' cannot be computed on the validation"),
        ((train, y, val, v % 2, test, t), {"metric": "mean_per_class"}, "on the validation split: .*2"),
    ]
    for parts, arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            linear_probe(*parts, **arguments)
    with pytest.raises(TypeError, match="train_labels are strings"):
        linear_probe(train, y.astype(str), val, v, test, t)
