# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Intervals of shares that were counted on a sample."""

from typing import Any

import numpy as np


NORMAL_QUANTILE = 1.959964
"""Of 97.5%: a normal value lies within so many standard deviations with a probability of 95%."""


def wilson_interval(share: Any, count: Any, quantile: float = NORMAL_QUANTILE) -> tuple[Any, Any]:
    """Wilson's interval of a share (1927), by default that of 95%: for 0 of 10, 0 to 0.2775.

    Args:
        share (`float` or `np.ndarray`): The share that was found, 0 to 1.
        count (`int` or `np.ndarray`): Of how many; at least 1.
        quantile (`float`, *optional*): The normal distribution's, for another confidence.
    """
    middle = share + quantile**2 / (2 * count)
    spread = quantile * np.sqrt(share * (1 - share) / count + quantile**2 / (4 * count**2))
    scale = 1 + quantile**2 / count
    return np.maximum((middle - spread) / scale, 0.0), np.minimum((middle + spread) / scale, 1.0)
