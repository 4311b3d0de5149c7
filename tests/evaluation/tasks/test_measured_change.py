# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A change is measured on the same pictures before and after, and its interval tells noise from gain."""

import numpy as np
import pytest

from clip_hf.evaluation import bootstrap_mean_interval
from clip_hf.evaluation.numerics.statistics import mean_of_rows
from clip_hf.evaluation.tasks.measured_change import (
    Change,
    Figure,
    figure_of_scores,
    first_near_best,
    measure_change,
)


def hits(values: list[int] | np.ndarray) -> Figure:
    return Figure("top1", mean_of_rows(np.array(values)), len(values))


def test_one_adaptation_has_the_paired_interval_of_its_differences():
    generator = np.random.default_rng(0)
    before, after = generator.integers(0, 2, 80), generator.integers(0, 2, 80)
    change = measure_change("task", "x (test)", hits(before), [hits(after)], resamples=500, seed=3)
    assert change.change == pytest.approx(after.mean() - before.mean())
    assert change.interval == pytest.approx(bootstrap_mean_interval(after - before, resamples=500, seed=3))
    assert change.before_interval == pytest.approx(bootstrap_mean_interval(before, resamples=500, seed=3))
    assert change.after_interval == pytest.approx(bootstrap_mean_interval(after, resamples=500, seed=3))


def test_a_gain_on_every_picture_is_none_by_chance_and_no_change_is_exactly_none():
    before = [0] * 30 + [1] * 10
    gained = measure_change("task", "x", hits(before), [hits([1] * 30 + [0] * 0 + [1] * 10)])
    assert gained.change == 0.75 and not gained.is_noise and gained.interval[0] > 0.5
    same = measure_change("retained", "x", hits(before), [hits(before)] * 3)
    assert same.interval == (0.0, 0.0) and same.is_noise and same.change == 0 and same.spread == 0


def test_draws_that_differ_widen_the_interval():
    before, better, worse = [0, 1] * 50, [1, 1] * 50, [0, 0] * 50
    both = measure_change("task", "x", hits(before), [hits(better), hits(worse)])
    assert both.change == 0 and both.spread == pytest.approx(np.sqrt(0.5))
    # A quarter of the resamples are of the better draw alone, a quarter of the worse.
    assert both.interval[0] < -0.3 and both.interval[1] > 0.3 and both.is_noise


def test_metrics_of_classes_are_compared_too():
    targets = np.array([0, 0, 0, 1])
    before, after = np.eye(2)[[0, 0, 0, 0]], np.eye(2)[[0, 0, 1, 1]]
    figures = [figure_of_scores("mean_per_class", scores, targets) for scores in (before, after)]
    change = measure_change("task", "x", figures[0], figures[1:])
    assert (change.before, change.mean_after) == (0.5, pytest.approx(5 / 6))


def test_other_data_are_refused():
    with pytest.raises(ValueError, match="other data cannot be compared: top1 of 2, top1 of 3 pictures"):
        measure_change("task", "x", hits([0, 1]), [hits([0, 1, 1])])


def test_the_spread_is_that_of_a_sample():
    change = Change("task", "x", "top1", 4, 0.5, [0.5, 0.7], (0, 1), (0, 1), (0, 1))
    assert change.spread == pytest.approx(0.2 / np.sqrt(2)) and change.mean_after == pytest.approx(0.6)


def test_one_of_few_repeated_captions_that_flips_is_no_gain():
    """Of 6 captions of 24 pictures each, one is found after the adaptation: 24 pictures are one observation."""
    captions = np.repeat(np.arange(6), 24)
    before, after = hits(captions < 2), hits(captions < 3)
    as_if_independent = measure_change("task", "x", before, [after])
    assert as_if_independent.interval[0] > 0.1
    before.clusters = after.clusters = captions
    change = measure_change("task", "x", before, [after])
    assert (change.change, change.rows, change.units) == (pytest.approx(1 / 6), 144, 6)
    drawn = np.random.default_rng(0)
    values = [np.bincount(drawn.integers(6, size=6), minlength=6)[2] / 6 for _ in range(1000)]
    assert change.interval == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))
    assert change.interval[0] == 0 and change.is_noise and change.is_undecided


def test_fewer_than_six_units_decide_nothing():
    captions = np.repeat(np.arange(5), 10)
    before, after = hits([0] * 50), hits([1] * 50)
    before.clusters = captions
    change = measure_change("task", "x", before, [after])
    assert change.interval == (1.0, 1.0) and change.is_noise and change.is_undecided
    assert not measure_change("task", "x", hits([0] * 6), [hits([1] * 6)]).is_noise


@pytest.mark.parametrize(
    ("interval", "undecided"),
    [
        ((-0.039, 0.346), True),
        ((0.0, 0.125), True),
        ((-0.125, 0.0), True),
        ((-0.05, 0.09), False),
        ((-0.1, 0.1), False),
        ((0.0, 0.0), False),
    ],
)
def test_a_wide_interval_that_holds_0_decides_nothing(interval, undecided):
    change = Change("task", "x", "top1", 26, 0.5, [0.654], (0, 1), (0, 1), interval)
    assert change.is_noise and change.is_undecided == undecided


def first(right: int) -> Figure:
    """A figure of 10 pictures, of which so many of the first ones are right."""
    return hits(np.arange(10) < right)


def test_the_first_figure_near_the_best_is_the_most_cautious():
    # One picture of 10 fewer: the difference is 0.1, and its standard error sqrt(0.1 * 0.9 / 10) = 0.095.
    assert first_near_best([first(n) for n in (2, 2, 5, 8, 8, 8)]) == 3
    assert first_near_best([first(4)] * 5) == 0
    assert first_near_best([first(7)] * 4 + [first(8)]) == 4
    # 5 of 10 got better and 4 worse: 0.1 with an error of 0.3.
    assert first_near_best([hits([0] * 5 + [1] * 5), hits([1] * 5 + [0] * 4 + [1])]) == 0
    # Of classes: two of class 0 and the one of class 1 are gained.
    scores = [np.eye(2)[rows] for rows in ([1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1])]
    assert (
        first_near_best([figure_of_scores("mean_per_class", each, np.array([0, 0, 0, 0, 1])) for each in scores]) == 2
    )
