# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Logistic regression against Newton's method on a plain objective; each speed-up against doing without; bad input."""

import math

import numpy as np
import pytest
import torch

from clip_hf.evaluation.numerics import newton
from clip_hf.evaluation.numerics.logistic_regression import (
    LogisticRegressionOptions,
    RegularizationPath,
    check_labels,
    fit_logistic_regression,
)


SIZES = [
    (240, 12, 5),
    (50, 120, 4),
    (150, 10, 2),
    (40, 90, 2),
]  # rows, features, classes; fewer rows than features too


def clusters(rows: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, features of different scales and away from zero."""
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(0, classes, rows - classes)])
    means = generator.normal(size=(classes, width))
    features = 0.4 * means[labels] + generator.normal(size=(rows, width)) + 2
    return features * np.logspace(0, -0.5, width), labels


def several_labels(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    features, _ = clusters(rows, width, 3, seed)
    noise = np.random.default_rng(seed).normal(size=(rows, 4))
    values = features[:, :4] + noise
    quantiles = [np.quantile(column, share) for column, share in zip(values.T, (0.5, 0.8, 0.3, 0.9))]
    return features, values > np.array(quantiles)


def plain_objective(features, labels, weights, penalty, w, b, center=None) -> torch.Tensor:
    """The objective in double precision, as scikit-learn's documentation has it."""
    x, rows = torch.as_tensor(features, dtype=torch.float64), torch.as_tensor(weights, dtype=torch.float64)
    logits = x @ w.T + b
    shift = w if center is None else w - torch.as_tensor(center, dtype=torch.float64)
    if labels.ndim == 2:
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.as_tensor(labels, dtype=torch.float64), reduction="none"
        ).sum(1)
        norm = shift.square().sum()
    else:
        losses = torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels), reduction="none")
        norm = (shift[1] - shift[0]).square().sum() if len(w) == 2 else shift.square().sum()
    return (rows * losses).sum() + penalty / 2 * norm


def objective(features, labels, weights, fit, center=None) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """The plain objective at what was found, and its gradient by coefficients and intercept."""
    w, b = (torch.tensor(values, requires_grad=True) for values in (fit.coefficients, fit.intercept))
    value = plain_objective(features, labels, weights, fit.penalty, w, b, center)
    return value, torch.autograd.grad(value, (w, b))


def minimum(features, labels, weights, penalty) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients, intercept and value of the plain objective's minimum, by Newton's method."""
    classes = labels.shape[1] if labels.ndim == 2 else labels.max() + 1
    shape = (classes, features.shape[1] + 1)
    mean = torch.as_tensor(features.mean(0))

    def value(flat: torch.Tensor) -> torch.Tensor:
        w, b = flat.view(shape)[:, :-1], flat.view(shape)[:, -1]  # the intercept is that of centred features
        return plain_objective(features - features.mean(0), labels, weights, penalty, w, b)

    found = torch.zeros(classes * shape[1], dtype=torch.float64)
    for _ in range(30):
        gradient, hessian = torch.func.grad(value)(found), torch.func.hessian(value)(found)
        # The pseudo-inverse leaves out what the softmax does not see: a constant for all classes.
        step = torch.linalg.pinv(hessian, hermitian=True, rtol=1e-13) @ gradient
        size = 1.0
        while value(found - size * step) > value(found) * (1 + 1e-12) and size > 1e-3:  # more than rounding
            size /= 2
        found = found - size * step
        if step.norm() < 1e-8 * found.norm():
            break  # the next one would be as small as its square
    else:
        raise AssertionError("Newton's method has not converged.")
    w, b = found.view(shape)[:, :-1], found.view(shape)[:, -1]
    return w.numpy(), (b - w @ mean).numpy(), value(found).item()


def relative(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("penalty", [100.0, 1.0, 0.01])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_minimum_is_newtons(size, penalty, weighted):
    features, labels = clusters(*size)
    weights = np.random.default_rng(1).uniform(0.5, 2, len(features)) if weighted else None
    tolerance = 1e-6
    options = LogisticRegressionOptions(tolerance=tolerance)
    fit = fit_logistic_regression(features, labels, penalty, weights=weights, options=options)
    w, b, value = minimum(features, labels, np.ones(len(labels)) if weights is None else weights, penalty)
    assert fit.converged
    # The tolerance bounds the coefficients' relative error. With the mean, they move the intercept.
    assert relative(fit.coefficients, w) < tolerance
    moved = np.linalg.norm(features.mean(0)) * np.linalg.norm(w) + np.linalg.norm(b)
    assert np.linalg.norm(fit.intercept - b) < tolerance * moved
    assert -1e-12 < fit.objective / value - 1 < 1e-10


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_is_reported_is_the_plain_objective(size):
    features, labels = clusters(*size)
    weights = np.linspace(0.5, 2, len(labels))
    fit = fit_logistic_regression(features, labels, 0.5, weights=weights)
    value, (by_weight, by_bias) = objective(features, labels, weights, fit)
    assert fit.objective == pytest.approx(value.item(), rel=1e-10)
    assert 0 < fit.iterations < 200
    # The tolerance is for centred features, whose gradient is this one less the mean's share of the bias'.
    mean = weights @ features / weights.sum()
    centred = by_weight.numpy() - by_bias.numpy()[:, None] * mean
    norm = math.hypot(np.linalg.norm(centred), by_bias.norm().item())
    assert fit.gradient_norm == pytest.approx(norm / weights.sum(), rel=1e-3)
    factor = 2 if size[2] == 2 else 1
    assert fit.converged and norm <= 1e-4 * factor * 0.5 * np.linalg.norm(fit.coefficients)


def test_several_labels_are_a_regression_for_each_class():
    features, labels = several_labels(200, 8)
    options = LogisticRegressionOptions(tolerance=1e-7)
    together = fit_logistic_regression(features, labels, 2.0, options=options)
    w, _, least = minimum(features, labels, np.ones(200), 2.0)
    assert relative(together.coefficients, w) < 1e-7
    value, _ = objective(features, labels, np.ones(200), together)
    assert together.objective == pytest.approx(value.item(), rel=1e-10)
    assert -1e-12 < together.objective / least - 1 < 1e-10
    # One class alone is the binary problem.
    alone = fit_logistic_regression(features, labels[:, 1].astype(int), 2.0, options=options)
    np.testing.assert_allclose(alone.coefficients[1] - alone.coefficients[0], together.coefficients[1], rtol=1e-4)


def test_weights_count_rows():
    features, labels = clusters(80, 6, 3)
    counts = np.random.default_rng(2).integers(1, 4, 80)
    rows = np.repeat(np.arange(80), counts)
    options = LogisticRegressionOptions(tolerance=1e-8)
    weighted = fit_logistic_regression(features, labels, 0.3, weights=counts, options=options)
    repeated = fit_logistic_regression(features[rows], labels[rows], 0.3, options=options)
    assert relative(weighted.coefficients, repeated.coefficients) < 1e-7


@pytest.mark.parametrize("classes", [2, 4])
def test_center_is_where_a_large_penalty_leads(classes):
    features, labels = clusters(30, 50, classes)
    center = np.random.default_rng(3).normal(size=(classes, 50))
    options = LogisticRegressionOptions(intercept=False, tolerance=1e-7)
    held = fit_logistic_regression(features, labels, 1e9, center=center, options=options)
    np.testing.assert_allclose(held.coefficients, center, atol=1e-5)
    assert (held.intercept == 0).all()
    free = fit_logistic_regression(features, labels, 0.7, center=center, options=options)
    value, (gradient, _) = objective(features, labels, np.ones(30), free, center)
    assert free.objective == pytest.approx(value.item(), rel=1e-10)
    # A minimum of the plain objective over all 50 features, though it was searched in the span of 30 rows.
    assert gradient.norm() < 2e-7 * 0.7 * np.linalg.norm(free.coefficients - center) * (2 if classes == 2 else 1)
    assert relative(free.coefficients, center) > 0.05


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_starting_from_other_penalties_changes_nothing_but_the_time(size):
    features, labels = clusters(*size)
    options = LogisticRegressionOptions(tolerance=1e-7)
    path = RegularizationPath(features, labels, options=options)
    warm, cold = 0, 0
    # Beyond the others, between them, with those nearest on one side only.
    for penalty in (100.0, 1.0, 0.01, 10.0, 0.1, 0.03, 0.05):
        on_path = path.solve(penalty)
        alone = fit_logistic_regression(features, labels, penalty, options=options)
        assert on_path.converged and relative(on_path.coefficients, alone.coefficients) < 2e-7 * 10
        warm, cold = warm + on_path.iterations, cold + alone.iterations
    assert warm < 0.95 * cold
    # Solved before: nothing to do.
    assert path.solve(0.05).iterations == 0


@pytest.mark.parametrize("shape", [(60, 20), (20, 60)])
def test_rotation_keeps_the_rows_up_to_their_mean(shape):
    features = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 3
    problem = newton.Problem(features, np.arange(shape[0]) % 3, 3)
    assert problem.rows.shape == (shape[0], min(shape) + 1)
    centred = features - features.mean(0)
    torch.testing.assert_close(problem.rows[:, :-1] @ problem.axes.T, centred, rtol=1e-12, atol=1e-12)
    # In the rows' own axes they are uncorrelated.
    gram = problem.rows[:, :-1].T @ problem.rows[:, :-1]
    assert (gram - gram.diagonal().diag()).abs().max() < 1e-10 * gram.diagonal().max()


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_newton_step_solves_with_the_hessian(several, weighted, monkeypatch):
    features, labels = several_labels(60, 6) if several else clusters(60, 6, 4)
    weights = np.random.default_rng(1).uniform(0.5, 2, 60) if weighted else None
    problem = newton.Problem(torch.from_numpy(features), labels, 4, weights=weights)
    penalties = torch.full((1, 7), 0.3, dtype=torch.float64)
    penalties[:, -1] = 0
    rows = torch.ones(60, dtype=torch.float64) if weights is None else torch.from_numpy(weights)

    def value(flat: torch.Tensor) -> torch.Tensor:
        position = flat.view(4, 7)
        logits = position @ problem.rows.T
        if several:
            targets = torch.from_numpy(labels).double()
            losses = torch.nn.functional.binary_cross_entropy_with_logits(logits.T, targets, reduction="none").sum(1)
        else:
            losses = torch.nn.functional.cross_entropy(logits.T, torch.from_numpy(labels), reduction="none")
        return (rows * losses).sum() + (penalties * position.square()).sum() / 2

    position = torch.randn(4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    position -= 0 if several else position.mean(0)
    gradient, hessian = (function(value)(position.flatten()) for function in (torch.func.grad, torch.func.hessian))
    exact = -(torch.linalg.pinv(hessian, hermitian=True, rtol=1e-13) @ gradient).view(4, 7)
    monkeypatch.setattr(newton, "_FORCING", 0.0)
    point = newton.Point(problem, penalties, position, position @ problem.rows.T)
    step, change, _ = point.newton_step(1e-9, 200)
    torch.testing.assert_close(point.gradient, gradient.view(4, 7), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(step, exact, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(change, step @ problem.rows.T, rtol=1e-9, atol=1e-9)


def test_a_step_that_overshoots_is_shortened():
    features, labels = clusters(60, 6, 3)
    problem = newton.Problem(torch.from_numpy(features), labels, 3)
    penalties = torch.full((1, 7), 0.1, dtype=torch.float64)
    start = torch.zeros(3, 7, dtype=torch.float64)
    point = newton.Point(problem, penalties, start, start @ problem.rows.T)
    step, change, _ = point.newton_step(1e-9, 200)
    assert point.step_length(step, change) == 1.0
    length = point.step_length(50 * step, 50 * change)
    assert 0.001 < length < 0.1
    after = newton.Point(problem, penalties, 50 * length * step, 50 * length * change)
    assert after.loss + after.penalty < point.loss + point.penalty
    # Uphill there is no length.
    assert point.step_length(-step, -change) is None


def test_too_few_iterations_are_reported():
    features, labels = clusters(240, 12, 5)
    fit = fit_logistic_regression(features, labels, 1e-4, options=LogisticRegressionOptions(max_iterations=3))
    assert not fit.converged and fit.iterations == 3 and fit.gradient_norm > 1e-4


def test_single_precision_and_extreme_penalties_come_to_an_end():
    features, labels = clusters(240, 12, 5)
    exact = fit_logistic_regression(features, labels, 1.0)
    options = LogisticRegressionOptions(dtype=torch.float32)
    assert (
        relative(fit_logistic_regression(features, labels, 1.0, options=options).coefficients, exact.coefficients)
        < 1e-3
    )
    for penalty in (1e-6, 1e6):
        assert fit_logistic_regression(features, labels, penalty).converged
    # Single precision cannot see so small a penalty, and says so.
    assert not fit_logistic_regression(features, labels, 1e-6, options=options).converged
    # Nothing to tell the classes apart by: the intercept is all there is, here log 3 apart.
    constant = fit_logistic_regression(np.ones((8, 2)), np.array([0, 0, 1, 1, 1, 1, 1, 1]), 1.0)
    assert constant.converged and np.abs(constant.coefficients).max() < 1e-12
    assert constant.intercept[1] - constant.intercept[0] == pytest.approx(math.log(3), rel=1e-4)


def test_bad_input_is_named():
    features, labels = clusters(20, 4, 3)
    broken = features.copy()
    broken[[7, 9], 1] = np.nan, np.inf
    cases = [
        (broken, labels, {}, ValueError, "infinite values in rows 7, 9"),
        (
            features,
            ["cat"] * 20,
            {},
            TypeError,
            "strings or objects such as 'cat'; encode them as integers.*ClassLabel",
        ),
        (features, labels + 0.5, {}, TypeError, "float64; give integers"),
        (features, labels - 1, {}, ValueError, "labels have -1 in row 0; allowed are 0 and more"),
        (features, labels, {"num_classes": 2}, ValueError, "labels have 2 in row 2; allowed are 0 to 1"),
        (features, labels * 2, {}, ValueError, "no row of 2 of 5 classes: 1, 3"),
        (features, labels * 0, {}, ValueError, "all of one class"),
        (features, labels[:-1], {}, ValueError, "one for each of the 20 rows"),
        (features, np.ones((20, 2), bool), {}, ValueError, "same value in every row for 2 of 2 classes"),
        (features, np.ones((20, 2), int), {}, TypeError, "must be bool"),
        (features[:0], labels[:0], {}, ValueError, "at least one of each"),
        (features[0], labels, {}, ValueError, r"shape \(4,\); give \(rows, columns\)"),
        (features.tolist(), labels, {}, TypeError, "list; give an array or a tensor"),
        (features.astype(str), labels, {}, TypeError, "give real numbers"),
        (features, labels, {"weights": -np.ones(20)}, ValueError, "give 20 positive numbers"),
        (
            features,
            labels,
            {"center": np.ones((3, 5))},
            ValueError,
            r"it must be \(classes, features\), here \(3, 4\)",
        ),
    ]
    for x, y, arguments, error, message in cases:
        with pytest.raises(error, match=message):
            fit_logistic_regression(x, y, 1.0, **arguments)
    with pytest.raises(ValueError, match="penalty` is 0"):
        fit_logistic_regression(features, labels, 0.0)
    for bad in ({"max_iterations": 0}, {"tolerance": 0.0}, {"dtype": torch.float16}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            LogisticRegressionOptions(**bad)


def test_tensors_are_taken_and_labels_checked():
    features, labels = clusters(60, 5, 3)
    fit = fit_logistic_regression(torch.from_numpy(features).float(), torch.from_numpy(labels), 1.0)
    expected = fit_logistic_regression(features.astype(np.float32), labels, 1.0)
    np.testing.assert_array_equal(fit.coefficients, expected.coefficients)
    np.testing.assert_allclose(fit.scores(torch.from_numpy(features)), expected.scores(features))
    half = torch.from_numpy(features).bfloat16()
    np.testing.assert_allclose(fit.scores(half), expected.scores(half.double().numpy()))
    with pytest.raises(ValueError, match="MPS has no double precision"):
        fit_logistic_regression(features, labels, 1.0, options=LogisticRegressionOptions(device="mps"))
    with pytest.raises(ValueError, match="2 columns, but there are 3 classes"):
        check_labels(np.ones((4, 2), bool), 4, "labels", 3)
