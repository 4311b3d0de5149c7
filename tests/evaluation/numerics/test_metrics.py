# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Metrics against exact ones in fractions and scikit-learn, by hand, and what they refuse; bootstrap by a loop."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from scipy.special import expit, logit
from scipy.stats import hmean, linregress
from sklearn import metrics as reference

from clip_hf.evaluation.numerics import bootstrap, statistics
from clip_hf.evaluation.numerics import metrics as scores
from clip_hf.evaluation.numerics.bootstrap import bootstrap_interval, bootstrap_mean_interval
from clip_hf.evaluation.numerics.caption_scores import clip_score, ref_clip_score
from clip_hf.evaluation.numerics.metrics import (
    CLASSIFICATION_METRICS,
    average_precision_11point,
    best_target_ranks,
    confusion_matrix,
    effective_robustness,
    fit_logit_line,
    map_11point,
    mean_per_class_accuracy,
    median_rank,
    per_class_accuracy,
    recall_at_k,
    roc_auc,
    target_ranks,
    top1_top5_mean,
    top_k_accuracy,
)
from plain_metrics import (
    cases,
    plain_average_precision,
    plain_map,
    plain_mean_per_class,
    plain_ranks,
    plain_resamples,
    plain_roc_auc,
    plain_top_k,
)


CASES = {f"{case.name}, {seed}": case for seed in range(3) for case in cases(np.random.default_rng(seed))}
close = lambda value: pytest.approx(value, rel=0, abs=1e-9)  # noqa: E731


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


# --------------------------------------------------------------------------------------- against other implementations


def test_ranks_and_accuracies_equal_exact_ones(case):
    given = case.scores, case.targets, case.weights
    assert target_ranks(*given[:2]).tolist() == plain_ranks(*given[:2])
    tops = [plain_top_k(*given, k) for k in (1, 2, 5)]
    assert [top_k_accuracy(*given[:2], k, case.weights) for k in (1, 2, 5)] == close(tops)
    assert top1_top5_mean(*given) == close((tops[0] + tops[2]) / 2)
    assert mean_per_class_accuracy(*given) == close(plain_mean_per_class(*given))


def test_precision_and_roc_equal_exact_ones(case):
    assert map_11point(case.scores, case.flags, case.weights) == close(
        plain_map(case.scores, case.flags, case.weights)
    )
    column = case.scores[:, 1], case.flags[:, 1], case.weights
    assert average_precision_11point(*column) == close(float(plain_average_precision(*column)))
    assert roc_auc(*column) == close(plain_roc_auc(*column))


# scikit-learn sums such weights to infinity or zero, and refuses infinite scores.
@pytest.mark.parametrize(
    "name", [name for name in CASES if not name.startswith(("huge weights", "tiny w", "infinite"))]
)
def test_equal_to_scikit_learn(name):
    case = CASES[name]
    guesses, weights = case.scores.argmax(axis=1), case.weights
    assert (confusion_matrix(case.scores, case.targets) == reference.confusion_matrix(case.targets, guesses)).all()
    recalls = reference.recall_score(case.targets, guesses, average=None, sample_weight=weights)
    assert per_class_accuracy(case.scores, case.targets, weights) == close(recalls)
    area = reference.roc_auc_score(case.flags[:, 0], case.scores[:, 0], sample_weight=weights)
    assert roc_auc(case.scores[:, 0], case.flags[:, 0], weights) == close(area)
    precision, recall, _ = reference.precision_recall_curve(case.flags[:, 0], case.scores[:, 0], sample_weight=weights)
    points = [precision[:-1][recall[:-1] >= k / 10 - 1e-12].max() for k in range(11)]
    assert average_precision_11point(case.scores[:, 0], case.flags[:, 0], weights) == close(np.mean(points))


def test_a_whole_weight_is_as_many_rows():
    generator = np.random.default_rng(0)
    case = next(cases(generator, n=60))
    weights = generator.integers(1, 4, size=60)
    rows = np.repeat(np.arange(60), weights)
    for name, metric in CLASSIFICATION_METRICS.items():
        values = case.scores[:, :2] if name == "roc_auc" else case.scores
        targets = {"map_11point": case.flags, "roc_auc": case.flags[:, 0]}.get(name, case.targets)
        assert metric(values, targets, weights) == pytest.approx(metric(values[rows], targets[rows]), rel=1e-14)


def test_recall_levels_are_exact():
    # 3 of 10 positives are a recall of exactly 0.3, which 0.1 + 0.1 + 0.1 in floats is above.
    flags = np.array([1, 1, 1] + [0] * 7 + [1] * 7)
    for weights in (None, np.full(17, 0.1), np.full(17, 1 / 3)):
        expected = (4 * 1 + 7 * 10 / 17) / 11
        assert average_precision_11point(-np.arange(17), flags, weights) == close(expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_tensors_and_lists_are_taken(dtype):
    values = torch.tensor([[3, 1, 2], [1, 5, 5], [2, 2, 8]], dtype=dtype).requires_grad_(dtype.is_floating_point)
    assert target_ranks(values, torch.tensor([2, 2, 1])).tolist() == [1, 1, 2]
    assert target_ranks(values.tolist(), [2, 2, 1]).tolist() == [1, 1, 2]
    assert roc_auc(values[:, 0], torch.tensor([True, False, False])) == 1


def test_ranks_do_not_depend_on_the_block_size(monkeypatch):
    case = CASES["ties, 0"]
    monkeypatch.setattr(scores, "BLOCK", 20)
    assert target_ranks(case.scores, case.targets).tolist() == plain_ranks(case.scores, case.targets)


# ---------------------------------------------------------------------------- the docstrings' worked examples, by hand


def test_worked_examples_of_accuracy():
    assert [target_ranks([[0.2, 0.5, 0.2]], [label])[0] for label in range(3)] == [1, 0, 2]
    three = [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.5, 0.4]], [0, 1, 0]
    assert target_ranks(*three).tolist() == [0, 1, 2]
    assert [top_k_accuracy(*three), top_k_accuracy(*three, 2)] == close([1 / 3, 2 / 3])
    two = [[9, 0, 0, 0, 0, 0], [4, 3, 2, 1, 0, 0]], [0, 3]
    assert target_ranks(*two).tolist() == [0, 3]
    assert top1_top5_mean(*two) == 0.75
    five = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.6, 0.4]], [0, 0, 0, 0, 1]
    assert per_class_accuracy(*five).tolist() == [0.75, 0.0]
    assert mean_per_class_accuracy(*five) == 0.375
    assert top_k_accuracy(*five) == 0.6
    assert confusion_matrix([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]], [0, 0, 1]).tolist() == [[1, 1], [1, 0]]
    assert best_target_ranks([[0.2, 0.8, 0.6]], [[0, 2]]).tolist() == [1]
    # Of right columns of one score the lower is the best, wherever it was named.
    assert best_target_ranks([[0.5, 0.7, 0.5], [0.5, 0.7, 0.5]], [[2, 0], [0, 2]]).tolist() == [1, 1]


def test_worked_examples_of_precision_roc_and_retrieval():
    assert average_precision_11point([3, 2, 1], [1, 0, 1]) == close(28 / 33)
    assert map_11point([[3, 1], [2, 8], [1, 2]], [[1, 0], [0, 1], [1, 0]]) == close(61 / 66)
    assert roc_auc([0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0]) == 0.875
    assert [recall_at_k([0, 3, 12], 1), recall_at_k([0, 3, 12], 5)] == close([1 / 3, 2 / 3])
    assert recall_at_k([0, 3, 12], 1, weights=[3, 1, 0]) == 0.75
    assert [median_rank([0, 3, 12]), median_rank([0, 3])] == [4, 2.5]
    # Of 0, 3: between the two. Of 0, 0: 0. Of 0, 3, 3: 3. Of 0, 0, 3, 3: between them again.
    weights = np.array([[1, 1], [2, 0], [1, 2], [2, 2]])
    found = statistics.median_of_rows(np.array([3, 0]))(weights[:, ::-1])
    assert found.tolist() == [1.5, 0, 3, 1.5]


def test_worked_examples_of_robustness_and_clip_score():
    line = fit_logit_line([0.5, 0.8], [0.5, 0.5])
    assert line[:2] == close((0, 0))
    assert math.isnan(line.r_squared)
    line = fit_logit_line([0.5, 0.8], [0.2, 0.5])
    assert line == close((1, -math.log(4), 1))
    robustness = effective_robustness(0.8, 0.6, [0.5, 0.8], [0.2, 0.5])
    assert robustness.shape == ()
    assert robustness == close(0.1)
    assert clip_score([[3, 4]], [[4, 3]]).tolist() == close([2.4])
    references = [[[0, 2], [-3, 4]]]  # cosines 0.6 and 0
    assert ref_clip_score([[3, 4]], [[4, 3]], references).tolist() == close([0.96])


def test_logit_line_and_effective_robustness_equal_scipy():
    generator = np.random.default_rng(1)
    for spread in (0.1, 1, 8):
        x, y = expit(spread * generator.normal(size=(2, 12)))
        expected, line = linregress(logit(x), logit(y)), fit_logit_line(x, y)
        assert line == pytest.approx((expected.slope, expected.intercept, expected.rvalue**2), rel=1e-9, abs=1e-9)
        model, shifted = generator.uniform(0.01, 0.99, size=(2, 3))
        wanted = shifted - expit(expected.slope * logit(model) + expected.intercept)
        assert effective_robustness(model, shifted, x, y) == close(wanted)
    assert effective_robustness([0.7, 0.7], [0.0, 1.0], [0.5, 0.8], [0.2, 0.5]).tolist() == close([-7 / 19, 12 / 19])


@pytest.mark.parametrize("scale", [1, 1e200, 1e-200])
def test_clip_score_equals_scipy(scale):
    generator = np.random.default_rng(2)
    images, texts = generator.normal(size=(2, 20, 8))
    expected = np.array([2.5 * max(0, 1 - cosine(image, text)) for image, text in zip(images, texts)])
    assert 0 < (expected == 0).sum() < 20
    assert clip_score(scale * images, texts / scale) == close(expected)
    references = generator.normal(size=(20, 3, 8))
    nearest = [max(0, *(1 - cosine(one, text) for one in rows)) for rows, text in zip(references, texts)]
    means = [hmean([a, b]) if a and b else 0 for a, b in zip(expected, nearest)]
    assert ref_clip_score(scale * images, texts, references) == close(means)
    assert clip_score(torch.tensor(images), torch.tensor(texts), weight=1.0) == close(expected / 2.5)


# ----------------------------------------------------------------------------------------------------- what is refused


TWO = [[0.1, 0.9], [0.8, 0.2]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: target_ranks(TWO, [0, 2]), ValueError, "class 2 in row 1, but scores has 2 columns: classes 0 to 1"),
        (lambda: target_ranks(TWO, [-1, 0]), ValueError, "class -1 in row 0"),
        (lambda: target_ranks(TWO, [0]), ValueError, "targets has 1 rows, scores has 2"),
        (lambda: target_ranks(TWO, ["cat", "dog"]), TypeError, "'cat'.*class_encode_column"),
        (lambda: target_ranks(TWO, [0.0, 1.0]), TypeError, "integers, got float64 such as 0.0"),
        (lambda: target_ranks([[0.1, math.nan], [0, 1]], [0, 1]), ValueError, "NaN, first in row 0"),
        (lambda: target_ranks([[0.1, None], [0, 1]], [0, 1]), TypeError, "numbers, got object such as None"),
        (lambda: target_ranks([[0.1, 0.2], [0.3]], [0, 1]), ValueError, "rows of different lengths"),
        (lambda: target_ranks([0.1, 0.9], [0, 1]), ValueError, r"\(rows, columns\), got \(2,\)"),
        (lambda: target_ranks(np.zeros((0, 2)), []), ValueError, "scores is empty"),
        (lambda: best_target_ranks(TWO, [[0], []]), ValueError, "targets.1. is empty"),
        (lambda: best_target_ranks(TWO, [[0], [2]]), ValueError, "column 2, but scores has 2 columns"),
        (lambda: top_k_accuracy(TWO, [0, 1], 0), ValueError, "k must be at least 1"),
        (lambda: top_k_accuracy(TWO, [0, 1], 3), ValueError, "k is 3, but there are 2 classes"),
        (lambda: top_k_accuracy(TWO, [0, 1], 1.5), TypeError, "k must be an integer"),
        (lambda: top_k_accuracy(TWO, [0, 1], weights=[0, 0]), ValueError, "all zero"),
        (lambda: top_k_accuracy(TWO, [0, 1], weights=[1, -1]), ValueError, "not negative"),
        (lambda: top_k_accuracy(TWO, [0, 1], weights=[1, math.inf]), ValueError, "finite"),
        (lambda: top_k_accuracy(TWO, [0, 1], weights=[1]), ValueError, "weights has 1 rows"),
        (lambda: top1_top5_mean(TWO, [0, 1]), ValueError, "at least 5 classes"),
        (lambda: mean_per_class_accuracy(TWO, [0, 0]), ValueError, "Class 1 has no row"),
        (lambda: mean_per_class_accuracy(TWO, [0, 1], [1, 0]), ValueError, "Class 1 has no row of positive weight"),
        (lambda: map_11point(TWO, [[1, 0], [1, 0]]), ValueError, "Class 1 has no positive row"),
        (lambda: map_11point(TWO, [[1, 0, 0], [1, 0, 0]]), ValueError, r"\(2, 3\), scores \(2, 2\)"),
        (lambda: map_11point(TWO, [[1, 0], [2, 0]]), ValueError, "0 or 1, got 2"),
        (lambda: map_11point(TWO, [["a", "b"], ["c", "d"]]), TypeError, "got <U1 such as 'a'"),
        (lambda: average_precision_11point([1, 2], [0, 0]), ValueError, "No row of positive weight is positive"),
        (lambda: roc_auc([1, 2], [1, 1]), ValueError, "is negative"),
        (lambda: roc_auc([1, 2], [1, 0], [0, 1]), ValueError, "is positive"),
        (lambda: CLASSIFICATION_METRICS["roc_auc"]([[1, 2, 3]], [0]), ValueError, "2 classes.*got 3"),
        (lambda: recall_at_k([-1, 2], 1), ValueError, "counted from 0"),
        (lambda: recall_at_k([], 1), ValueError, "ranks is empty"),
        (lambda: median_rank([1.5]), TypeError, "ranks must hold integers"),
        (lambda: fit_logit_line([0.5, 0.5], [0.1, 0.2]), ValueError, "two models of different accuracy"),
        (lambda: fit_logit_line([0.5, 1.0], [0.1, 0.2]), ValueError, "no logit"),
        (lambda: fit_logit_line([50.0, 80.0], [0.1, 0.2]), ValueError, "got 50; divide percentages"),
        (lambda: fit_logit_line([0.5, math.nan], [0.1, 0.2]), ValueError, "got nan"),
        (lambda: fit_logit_line([0.5, 0.6], [0.1]), ValueError, "one shape"),
        (lambda: effective_robustness([0.5], [0.5, 0.6], [0.5, 0.6], [0.1, 0.2]), ValueError, "give one of each"),
        (lambda: clip_score([[1, 2]], [[1, 2], [3, 4]]), ValueError, "make them the same"),
        (lambda: clip_score([[1, 2], [0, 0]], TWO), ValueError, "image_embeds are all zeros in row 1"),
        (lambda: clip_score(TWO, [[1, 2], [math.nan, 0]]), ValueError, "text_embeds holds NaN, first in row 1"),
        (lambda: clip_score(TWO, TWO, weight=0), ValueError, "weight must be"),
        (lambda: ref_clip_score(TWO, TWO, [[[1, 2]]]), ValueError, "reference_embeds has 1 rows"),
        (lambda: ref_clip_score(TWO, TWO, [[[1, 2]], [[1, 2, 3]]]), ValueError, "has the width 3"),
        (lambda: ref_clip_score(TWO, TWO, [[[1, 2]], []]), ValueError, "reference_embeds.1. is empty"),
        (lambda: bootstrap_interval("top-1", TWO, [0, 1]), ValueError, "no metric 'top-1'.*top1"),
        (lambda: bootstrap_interval("top1", TWO, [0, 1], confidence=95), ValueError, "between 0 and 1, got 95"),
        (lambda: bootstrap_interval("top1", TWO, [0, 1], resamples=0), ValueError, "resamples must be at least 1"),
        (lambda: bootstrap_interval("mean_per_class", TWO, [0, 0]), ValueError, "Class 1 has no row"),
        (lambda: bootstrap_interval(roc_auc, [], []), ValueError, "at least one"),
        (lambda: bootstrap_mean_interval([1, math.nan]), ValueError, "NaN, first in row 1"),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ----------------------------------------------------------------------------------------------------------- bootstrap


def mean_per_class_of_those_there(values, targets):
    return np.nanmean(per_class_accuracy(values, targets))


def map_of_those_there(values, flags):
    columns = flags.any(axis=0)
    return map_11point(values[:, columns], flags[:, columns])


def area_or_nan(values, flags):
    if flags.all() or not flags.any():
        return math.nan
    return reference.roc_auc_score(flags, values[:, 1] - values[:, 0])


PLAIN = {
    **CLASSIFICATION_METRICS,
    "mean_per_class": mean_per_class_of_those_there,
    "map_11point": map_of_those_there,
    "roc_auc": area_or_nan,
}


@pytest.mark.parametrize("name", CLASSIFICATION_METRICS)
@pytest.mark.parametrize("kind", ["random", "ties", "imbalanced", "as few rows as classes"])
@pytest.mark.parametrize("block", [None, 100])
def test_resamples_at_once_equal_a_loop(name, kind, block, monkeypatch):
    case = CASES[f"{kind}, 1"]
    if block:  # one or two resamples at a time
        monkeypatch.setattr(bootstrap, "BLOCK", block)
    values = case.scores[:, :2] if name == "roc_auc" else case.scores
    targets = {"map_11point": case.flags, "roc_auc": case.flags[:, 0]}.get(name, case.targets)
    loop = plain_resamples(lambda rows: PLAIN[name](values[rows], targets[rows]), len(values), 50, seed=7)
    expected = np.nanquantile(loop, [0.05, 0.95])
    found = bootstrap_interval(name, values, targets, resamples=50, confidence=0.9, seed=7)
    assert found == pytest.approx(expected, rel=1e-12)
    if kind == "random":
        assert found[0] < found[1]
    if not np.isnan(loop).any():
        called = bootstrap_interval(PLAIN[name], values, targets, resamples=50, confidence=0.9, seed=7)
        assert called == pytest.approx(expected, rel=1e-12)


def test_bootstrap_of_whole_numbers_equals_that_of_floats():
    case = CASES["uint8, 0"]
    for name, targets in (("map_11point", case.flags), ("top1", case.targets)):
        found = [bootstrap_interval(name, case.scores.astype(t), targets, resamples=20) for t in ("uint8", "f8")]
        assert found[0] == found[1]


def test_interval_of_a_share_is_that_of_the_binomial():
    right = np.arange(400) < 300
    low, high = bootstrap_mean_interval(right, resamples=4000)
    error = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == pytest.approx((0.75 - error, 0.75 + error), abs=0.006)
    assert bootstrap_mean_interval(right) == bootstrap_mean_interval(right, seed=0)
    assert bootstrap_mean_interval(right) != bootstrap_mean_interval(right, seed=1)
    narrow = bootstrap_mean_interval(right, confidence=0.5)
    assert low < narrow[0] < 0.75 < narrow[1] < high
    assert bootstrap_mean_interval(np.ones(10)) == (1, 1)


def test_resamples_without_both_kinds_are_left_out():
    # One positive of four: (3/4)^4 of the resamples have none, and all others have an area of 1.
    values = np.array([[0, 9], [0, 1], [0, 2], [0, 3]])
    assert bootstrap_interval("roc_auc", values, np.array([1, 0, 0, 0])) == (1, 1)
    with pytest.raises(ValueError, match="None of 1 resamples of 2 rows"):
        seed = next(s for s in range(99) if len(set(np.random.default_rng(s).integers(2, size=2))) == 1)
        bootstrap_interval("roc_auc", values[:2], np.array([1, 0]), resamples=1, seed=seed)


@pytest.mark.parametrize("name", ["top1", "mean_per_class", "roc_auc", "map_11point"])
def test_bootstrap_of_many_rows_needs_little_memory(name):
    generator = np.random.default_rng(0)
    values = generator.normal(size=(50_000, 2))
    targets = generator.integers(2, size=values.shape if name == "map_11point" else 50_000)
    tracemalloc.start()
    bootstrap_interval(name, values, targets, resamples=90)  # more than two blocks
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
