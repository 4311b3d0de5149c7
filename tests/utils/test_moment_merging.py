# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
import itertools

import numpy as np
import pytest

from clip_hf.utils.moment_merging import merge_moments, typical_score


def seconds(count):
    """Starts and ends of frames that stand for a second each."""
    return np.arange(count), np.arange(1, count + 1)


def test_the_example_of_the_docstring():
    assert merge_moments(*seconds(5), [0.1, 0.3, 0.25, 0.1, 0.1]) == [(1.0, 3.0, 1.5, 0.3)]


def test_two_peaks_are_two_moments_best_first():
    scores = [0.1, 0.3, 0.1, 0.1, 0.1, 0.4, 0.35, 0.1]
    assert merge_moments(*seconds(8), scores) == [(5, 7, 5.5, 0.4), (1, 2, 1.5, 0.3)]


def test_a_slope_is_no_moment_of_its_own():
    # 0.19 is below the limit of 0.22, and falls from the peak: it is neither in the moment nor another one.
    assert merge_moments(*seconds(6), [0.1, 0.3, 0.19, 0.1, 0.1, 0.1]) == [(1, 2, 1.5, 0.3)]


def test_a_scene_that_begins_ends_a_moment():
    scores = [0.1, 0.3, 0.29, 0.28, 0.1, 0.1, 0.1]
    breaks = [True, True, False, True, True, False, False]
    moments = merge_moments(*seconds(7), scores, breaks=breaks)
    assert moments[:2] == [(1, 3, 1.5, 0.3), (3, 4, 3.5, 0.28)]


def test_a_gap_in_time_ends_a_moment():
    moments = merge_moments([0, 1, 5, 6], [1, 2, 6, 7], [0.3, 0.3, 0.3, 0.1], share=1.0)
    assert [moment[:2] for moment in moments] == [(0, 2), (5, 6)]


def test_long_intervals_count_for_long_in_the_typical_score():
    assert typical_score(np.array([0.1, 0.5, 0.6]), np.array([10.0, 1.0, 1.0])) == 0.1
    assert typical_score(np.array([0.6, 0.1, 0.5]), np.array([1.0, 10.0, 1.0])) == 0.1
    assert typical_score(np.array([0.2, 0.4]), np.zeros(2)) == pytest.approx(0.3)


def test_the_peak_is_the_time_of_its_frame_where_that_is_known():
    assert merge_moments([0], [4], [0.2], times=[0.25]) == [(0, 4, 0.25, 0.2)]


def test_equal_scores_are_one_moment():
    assert merge_moments(*seconds(4), [0.2] * 4) == [(0, 4, 0.5, 0.2)]
    assert [each[:2] for each in merge_moments(*seconds(4), [0.1, 0.1, 0.1, 0.1], breaks=[1, 0, 1, 0])] == [
        (0, 2),
        (2, 4),
    ]


def test_no_frames_are_no_moments():
    assert merge_moments([], [], []) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_moments_of_random_films_keep_the_promises(share):
    generator = np.random.default_rng(0)
    for _ in range(50):
        count = int(generator.integers(1, 60))
        ends = np.cumsum(generator.uniform(0.1, 3.0, count))
        starts = np.append(0.0, ends[:-1]) + generator.choice([0.0, 0.05], count, p=[0.8, 0.2])
        scores = np.round(generator.normal(0.2, 0.05, count), 2)  # so that there are ties
        breaks = generator.random(count) < 0.1
        moments = merge_moments(starts, ends, scores, breaks=breaks, share=share)
        assert moments[0][3] == scores.max()
        assert [moment[3] for moment in moments] == sorted((moment[3] for moment in moments), reverse=True)
        in_time = sorted(moments)
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(in_time))
        typical = typical_score(scores, ends - starts)
        for start, end, peak, score in moments:
            inside = (starts >= start) & (ends <= end)
            limit = min(typical + share * (score - typical), score)
            assert start <= peak <= end and scores[inside].max() == score and scores[inside].min() >= limit
            assert not breaks[inside][1:].any() and np.ptp(np.flatnonzero(inside)) + 1 == inside.sum()
        if share == 0:  # what is above typical is in a moment
            above = scores > typical
            covered = np.array([any(s <= a and b <= e for s, e, *_ in moments) for a, b in zip(starts, ends)])
            assert covered[above].all()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0, 1], [1, 2], [0.1]), {}, r"shapes \(2,\), \(2,\), \(1,\)"),
        (([0], [1], [np.nan]), {}, "NaN"),
        (([0], [1], [0.1]), {"share": 1.5}, "`share` is 1.5"),
        (([0, 0.5], [1, 2], [0.1, 0.2]), {}, "Frame 1 stands for 0.5 to 2 s"),
        (([1], [0], [0.1]), {}, "Frame 0 stands for 1 to 0 s"),
        (([0], [1], [0.1]), {"times": [1, 2]}, "`times` of the shape"),
    ],
)
def test_wrong_frames_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        merge_moments(*arguments, **options)


@pytest.mark.parametrize("time", [np.nan, 5.0, -1.0])
def test_a_time_lies_in_its_interval(time):
    with pytest.raises(ValueError, match="time of frame 1 .* outside its interval 1 to 2 s"):
        merge_moments([0, 1], [1, 2], [0.1, 0.2], times=[0.5, time])


@pytest.mark.parametrize("share", ["0.5", None, 1.5])
def test_a_share_is_a_number(share):
    with pytest.raises(ValueError, match="`share` is .*; it must be 0"):
        merge_moments([0, 1], [1, 2], [0.1, 0.2], share=share)
