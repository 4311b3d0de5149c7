# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A change is measured on the same pictures before and after, and its interval tells noise from gain."""

import numpy as np
import pytest

from clip_hf.evaluation import bootstrap_mean_interval
from clip_hf.evaluation.numerics.statistics import mean_of_rows
from clip_hf.evaluation.tasks.measured_change import Change, Figure, figure_of_scores, measure_change


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
