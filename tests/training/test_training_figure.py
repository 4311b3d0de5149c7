# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The picture of a training."""

import numpy as np
import pytest

from clip_hf.training import plot_training


def test_loss_and_temperature_of_each_training():
    losses = np.random.default_rng(0).random(200) + 1
    log = [{"step": step, "loss": loss, "temperature": 0.07} for step, loss in enumerate(losses)]
    log.append({"step": 200, "zero_shot_top1": 50.0})
    figure = plot_training({"a": log, "b": log[:3]}, title="Two trainings")
    assert figure.get_suptitle() == "Two trainings"
    left, right = figure.axes
    assert all(axis.get_xlabel() and axis.get_ylabel() and axis.get_title("left") for axis in figure.axes)
    pale, strong = left.lines[:2]
    assert pale.get_ydata().tolist() == losses.tolist() and strong.get_label() == "a"
    expected = [losses[max(0, place - 2) : place + 3].mean() for place in range(200)]
    assert strong.get_ydata() == pytest.approx(expected)
    assert left.lines[3].get_ydata() == pytest.approx(losses[:3])  # too short to be smoothed
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["a", "b"]


def test_a_log_without_steps():
    with pytest.raises(ValueError, match="log of a has no entry of a step"):
        plot_training({"a": [{"step": 1, "zero_shot_top1": 50.0}]})
