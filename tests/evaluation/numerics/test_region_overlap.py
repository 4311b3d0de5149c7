# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Mean intersection over union against what can be counted by hand."""

import numpy as np
import pytest

from clip_hf.evaluation.numerics.region_overlap import mean_iou, mean_iou_interval, overlap_counts


def test_counted_by_hand():
    truth = np.array([[0, 0, 1], [1, 1, -1]])
    predicted = np.array([[0, 1, 1], [1, -1, 2]])
    common, either = overlap_counts(predicted, truth, 4)
    assert common.tolist() == [1, 2, 0, 0]
    assert either.tolist() == [2, 4, 0, 0]  # the pixel without truth does not count; the one without class is missed
    assert mean_iou(common[None], either[None]) == 0.5
    common, either = overlap_counts(np.array([0, 0]), np.array([0, 1]), 2)
    assert mean_iou(common[None], either[None]) == 0.25


def test_images_are_summed_before_they_are_divided():
    common, either = np.array([[1.0], [0.0]]), np.array([[1.0], [3.0]])
    assert mean_iou(common, either) == 0.25
    low, high = mean_iou_interval(common, either, resamples=200)
    assert (low, high) == (0, 1)


@pytest.mark.parametrize(
    ("predicted", "truth", "error", "message"),
    [
        ([0, 1], [0, 1, 1], ValueError, "same pixels"),
        ([0, 2], [0, 1], ValueError, "from 0 to 1"),
        ([0, 1], [-2, 1], ValueError, "`truth` has classes from -2"),
        ([0.0, 1.0], [0, 1], TypeError, "whole numbers"),
    ],
)
def test_what_is_refused(predicted, truth, error, message):
    with pytest.raises(error, match=message):
        overlap_counts(np.array(predicted), np.array(truth), 2)


def test_nothing_to_count():
    with pytest.raises(ValueError, match="No pixel"):
        mean_iou(np.zeros((1, 2)), np.zeros((1, 2)))
