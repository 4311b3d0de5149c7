# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Intervals of shares, against values by hand."""

import pytest

from clip_hf.utils.intervals import wilson_interval


def test_wilson_intervals():
    assert wilson_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson_interval(1.0, 100) == pytest.approx((0.9630, 1.0), abs=1e-4)
