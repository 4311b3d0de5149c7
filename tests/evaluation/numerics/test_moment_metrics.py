# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Metrics of moments against a plain reference that follows the definition step by step."""

from fractions import Fraction

import numpy as np
import pytest

from clip_hf.evaluation.numerics.moment_metrics import (
    IOU_THRESHOLDS,
    first_moment_iou,
    interval_iou,
    moment_average_precisions,
)


def plain_iou(first, second) -> Fraction:
    """Shared points over all points of intervals with whole ends, counted second by second."""
    one, other = (set(range(*each)) for each in (first, second))
    return Fraction(len(one & other), len(one | other)) if one | other else Fraction(0)


def plain_average_precision(moments, windows, threshold: Fraction) -> float:
    """ActivityNet's: each moment goes through the windows by falling overlap until one is free, or too far off."""
    taken, right = set(), []
    for moment in moments:
        overlaps = [plain_iou(moment, window) for window in windows]
        found = False
        for window in sorted(range(len(windows)), key=lambda each: (overlaps[each], each), reverse=True):
            if overlaps[window] < threshold:
                break
            if window not in taken:
                taken.add(window)
                found = True
                break
        right.append(found)
    points = []
    for count in range(1, len(right) + 1):
        points.append((Fraction(sum(right[:count]), len(windows)), Fraction(sum(right[:count]), count)))
    area, before = Fraction(0), Fraction(0)
    for place, (recall, _) in enumerate(points):
        area += (recall - before) * max(precision for _, precision in points[place:])
        before = recall
    return float(area)


def draw(generator, count: int) -> list[tuple[int, int]]:
    """Intervals with whole ends within 40 seconds, at least one second long."""
    starts = generator.integers(0, 30, count)
    return [(int(start), int(start + length)) for start, length in zip(starts, generator.integers(1, 11, count))]


def test_average_precision_is_that_of_the_definition():
    generator, seen = np.random.default_rng(3), set()
    # As fractions: IoU that equals a threshold counts, and 11/20 in float64 is the nearest number to both.
    exact = [Fraction(str(each)) for each in IOU_THRESHOLDS]
    for _ in range(300):
        windows, moments = draw(generator, generator.integers(1, 5)), draw(generator, generator.integers(0, 8))
        # Near copies of windows, so that there is something to find.
        moments += [(start, max(end - 1, start + 1)) for start, end in windows if generator.random() < 0.6]
        moments = [moments[place] for place in generator.permutation(len(moments))]
        values = moment_average_precisions(moments, windows)
        assert values == pytest.approx([plain_average_precision(moments, windows, each) for each in exact])
        assert first_moment_iou(moments, windows) == pytest.approx(
            float(max((plain_iou(moments[0], each) for each in windows), default=0)) if moments else 0
        )
        seen.add(round(values[0], 3))
    assert len(seen) > 20  # not all 0 or 1


def test_the_examples_of_the_docstrings():
    assert interval_iou([(0, 10)], [(5, 15)]).tolist() == [[pytest.approx(1 / 3)]]
    moments, windows = [(0, 9), (40, 50), (21, 30)], [(0, 10), (20, 30)]
    assert moment_average_precisions(moments, windows, (0.5, 0.95)).tolist() == [pytest.approx(5 / 6), 0]
    assert first_moment_iou(moments, windows) == pytest.approx(0.9)


def test_a_window_is_found_once():
    assert moment_average_precisions([(0, 10), (0, 10)], [(0, 10)]).tolist() == [1] * 10
    assert moment_average_precisions([(0, 10), (0, 10)], [(0, 10), (50, 60)])[0] == 0.5
    # The second moment fits the first window best, which is taken, and takes the other one.
    assert moment_average_precisions([(0, 10), (0, 9)], [(0, 10), (0, 6)], (0.6,)).tolist() == [1]


def test_nothing_found_scores_nothing():
    assert moment_average_precisions([], [(0, 5)]).tolist() == [0] * 10
    assert first_moment_iou([], [(0, 5)]) == 0
    assert interval_iou([(3, 3)], [(3, 3)]).tolist() == [[0]]


@pytest.mark.parametrize(
    ("moments", "windows", "message"),
    [
        ([(5, 1)], [(0, 5)], "5 to 1 in row 0"),
        ([(0, float("nan"))], [(0, 5)], "must be numbers in order"),
        ([(0, 1, 2)], [(0, 5)], "start and end, got"),
        ([(0, 1)], [], "needs at least one"),
    ],
)
def test_what_is_no_interval_is_refused(moments, windows, message):
    with pytest.raises(ValueError, match=message):
        moment_average_precisions(moments, windows)


def test_thresholds_are_shares():
    with pytest.raises(ValueError, match="above 0"):
        moment_average_precisions([(0, 1)], [(0, 1)], (0.0,))
    with pytest.raises(TypeError, match="seconds"):
        interval_iou([("0", "1")], [(0, 1)])


def test_of_equal_windows_the_last_one_is_taken():
    # As the official program of QVHighlights, which sorts overlaps upwards and goes through them from the end.
    found = moment_average_precisions([(0, 10), (5, 10)], [(0, 5), (5, 10)], [0.5])
    assert found.tolist() == [0.5]
