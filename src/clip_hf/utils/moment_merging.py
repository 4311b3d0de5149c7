# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Moments of one film: neighbouring frames that answer a query are one answer, not several."""

from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np


EXTENT_SHARE = 0.6
"""How far a moment's scores may fall from its peak to the film's typical score: 0 is typical, 1 the peak.

`benchmarks/check_moments.py` measures it."""
_SAME_SECOND = 1e-3  # intervals that are no further apart than this touch


class MomentSpan(NamedTuple):
    """The rows of a moment.

    Args:
        first (`int`): Its first row.
        last (`int`): Its last row, which belongs to it.
        peak (`int`): The row with the highest score, the first of several.
    """

    first: int
    last: int
    peak: int


def merge_moments(
    starts: Sequence[float] | np.ndarray,
    ends: Sequence[float] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    *,
    times: Sequence[float] | np.ndarray | None = None,
    breaks: Sequence[bool] | np.ndarray | None = None,
    share: float = EXTENT_SHARE,
) -> list[tuple[float, float, float, float]]:
    """Merge the frames of one film into moments.

    A moment is a peak of the scores in time, and what lies around it down to a limit between the film's typical score
    (the median over time) and the peak: `typical + share * (peak - typical)`. It ends where a scene or a gap in time
    begins. Frames on the slope of a moment that are below its limit are no moments of their own.

    With scores 0.1, 0.3, 0.25, 0.1, 0.1 of five seconds, the typical score is 0.1, so that the limit is 0.22 and the
    one moment is seconds 1 to 3 with its peak in the middle of the second frame's interval, at 1.5.

    Args:
        starts (`Sequence[float]` of length n): Where the interval begins that each frame stands for, in seconds,
            ascending.
        ends (`Sequence[float]` of length n): Where it ends.
        scores (`Sequence[float]` of length n): How well each frame answers, for example its cosine with a text.
        times (`Sequence[float]` of length n, *optional*): The frames' own times, for the peak; by default the middle
            of their intervals.
        breaks (`Sequence[bool]` of length n, *optional*): Whether a scene begins with a frame.
        share (`float`, *optional*): See above, 0 to 1.

    Returns:
        `list[tuple[float, float, float, float]]`: start, end, peak (seconds) and score of each moment, the best first,
        of equal ones the earliest. They do not overlap.

    Raises:
        ValueError: if lengths differ, a number is not finite, intervals overlap or are not in order, a time lies
            outside its interval, or `share` is no share.
    """
    starts, ends, scores = (np.asarray(each, np.float64) for each in (starts, ends, scores))
    spans = find_spans(starts, ends, scores, breaks=breaks, share=share)
    peaks = (starts + ends) / 2 if times is None else np.asarray(times, np.float64)
    if peaks.shape != starts.shape:
        raise ValueError(f"There are {len(starts)} frames and `times` of the shape {peaks.shape}; each has one time.")
    outside = np.flatnonzero(~((starts - _SAME_SECOND <= peaks) & (peaks <= ends + _SAME_SECOND)))
    if len(outside):
        row = int(outside[0])
        raise ValueError(
            f"The time of frame {row} is {peaks[row]:g} s, outside its interval {starts[row]:g} to {ends[row]:g} s."
        )
    starts, ends, peaks, scores = (each.tolist() for each in (starts, ends, peaks, scores))
    return [(starts[span.first], ends[span.last], peaks[span.peak], scores[span.peak]) for span in spans]


def find_spans(
    starts: np.ndarray,
    ends: np.ndarray,
    scores: np.ndarray,
    *,
    breaks: Sequence[bool] | np.ndarray | None = None,
    share: float = EXTENT_SHARE,
) -> list[MomentSpan]:
    """The rows of each moment of [`merge_moments`], whose arguments and errors it shares."""
    starts, ends, scores = (np.asarray(each, np.float64) for each in (starts, ends, scores))
    breaks = np.zeros(len(scores), bool) if breaks is None else np.asarray(breaks, bool)
    _check_frames(starts, ends, scores, breaks, share)
    if not len(scores):
        return []
    # Whether a frame goes on where the one before it ends.
    joined = np.append(False, starts[1:] - ends[:-1] <= _SAME_SECOND) & ~breaks
    typical = typical_score(scores, ends - starts)
    peaks = _peaks(scores, joined).tolist()
    scores, joined = scores.tolist(), joined.tolist()  # single items of lists are read several times as fast
    taken = bytearray(len(scores))
    spans = []
    for peak in peaks:
        if taken[peak]:
            continue
        limit = min(typical + share * (scores[peak] - typical), scores[peak])
        first = last = peak
        while joined[first] and not taken[first - 1] and scores[first - 1] >= limit:
            first -= 1
        while last + 1 < len(scores) and joined[last + 1] and not taken[last + 1] and scores[last + 1] >= limit:
            last += 1
        taken[first : last + 1] = b"\1" * (last + 1 - first)
        spans.append(MomentSpan(first, last, peak))
    return spans


def typical_score(scores: np.ndarray, seconds: np.ndarray) -> float:
    """The median of a film's scores over time: frames count by the seconds (n,) that they stand for."""
    order = np.argsort(scores, kind="stable")
    upto = np.cumsum(seconds[order])
    if upto[-1] <= 0:  # a film of one frame
        return float(np.median(scores))
    return float(scores[order[np.searchsorted(upto, upto[-1] / 2)]])


def _peaks(scores: np.ndarray, joined: np.ndarray) -> np.ndarray:
    """The first rows of the local maxima, the best first. Joined rows of one score are one maximum, or none."""
    begins = ~joined | np.append(True, scores[1:] != scores[:-1])
    firsts = np.flatnonzero(begins)
    values, is_joined = scores[firsts], joined[firsts]
    above_left = np.append(True, values[1:] > values[:-1]) | ~is_joined
    above_right = np.append(values[:-1] > values[1:], True) | np.append(~is_joined[1:], True)
    peaks = firsts[above_left & above_right]
    return peaks[np.argsort(-scores[peaks], kind="stable")]


def _check_frames(starts: np.ndarray, ends: np.ndarray, scores: np.ndarray, breaks: np.ndarray, share: float) -> None:
    if scores.ndim != 1 or not starts.shape == ends.shape == scores.shape == breaks.shape:
        shapes = ", ".join(str(each.shape) for each in (starts, ends, scores, breaks))
        raise ValueError(f"`starts`, `ends`, `scores` and `breaks` have the shapes {shapes}; each must be (n,).")
    if not all(np.isfinite(each).all() for each in (starts, ends, scores)):
        raise ValueError("`starts`, `ends` or `scores` holds NaN or infinite values; leave those frames out.")
    if not isinstance(share, Real) or not 0 <= share <= 1:
        raise ValueError(f"`share` is {share!r}; it must be 0 (down to the typical score) to 1 (the peak alone).")
    wrong = np.flatnonzero((ends < starts) | np.append(False, starts[1:] < ends[:-1] - _SAME_SECOND))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"Frame {row} stands for {starts[row]:g} to {ends[row]:g} s, which ends before it begins, or begins "
            "before the frame before it ends; give the frames of one film, in the order of time."
        )
