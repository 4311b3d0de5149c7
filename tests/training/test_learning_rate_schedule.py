# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The learning rate over a training."""

import math

import pytest
import torch
from torch import nn

from clip_hf.training.learning_rate_schedule import cosine_schedule


def test_cosine_schedule():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.AdamW(groups)
    schedule = cosine_schedule(optimizer, warmup_steps=4, total_steps=12)
    rates = []
    for _ in range(13):
        rates.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    assert [rate[0] for rate in rates[:5]] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    assert [rate[0] for rate in rates[4:]] == pytest.approx([(1 + math.cos(math.pi * k / 8)) / 2 for k in range(9)])
    assert all(rate[1] == pytest.approx(0.1 * rate[0]) for rate in rates)
    assert schedule.state_dict()["last_epoch"] == 13
    for _ in range(8):  # steps beyond the end change nothing
        optimizer.step()
        schedule.step()
        assert schedule.get_last_lr()[0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(0, 0), (-1, 5), (5, 5), (6, 5)])
def test_a_schedule_that_is_not_possible_is_refused(warmup_steps, total_steps):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match=r"`(warmup|total)_steps` is"):
        cosine_schedule(optimizer, warmup_steps, total_steps)
