# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Find the cuts of a film: the times at which a new scene begins."""

from collections import deque
from fractions import Fraction
from typing import Any

import numpy as np

from ..model.video_opening_clip_hf import DEFAULT_VIDEO_LIMITS, VideoLimits, open_film


_WIDTH, _HEIGHT = 64, 36  # pixels that a frame is compared at
_NEIGHBOURS = 2  # changes on either side that a cut must stand out from
_SMALLEST_MEAN = 0.5  # grey levels; a still picture's neighbours would make any ratio large


def scene_cuts(
    video: Any,
    *,
    threshold: float = 8.0,
    ratio: float = 3.0,
    shortest: float = 0.3,
    limits: VideoLimits = DEFAULT_VIDEO_LIMITS,
) -> list[float]:
    """The times at which a new scene begins: where a frame differs from the one before much more than its neighbours.

    The change of a frame is the mean absolute difference of brightness and colour (Y, Cb, Cr) to the frame before, at
    64x36 pixels. A cut is a change of at least `threshold` that is also `ratio` times the mean of the two changes
    before and the two after, as in content detection with an adaptive threshold (PySceneDetect): motion changes many
    frames in a row, a cut only one. Slow fades are no cuts.

    Args:
        video: As for [`read_frames`].
        threshold (`float`, *optional*, defaults to 8.0): Smallest change of a cut, in levels of 0 to 255.
        ratio (`float`, *optional*, defaults to 3.0): How much larger it is than the changes around it.
        shortest (`float`, *optional*, defaults to 0.3): Seconds of the shortest scene. What is shorter belongs to the
            scene that begins with it; if the picture is then as it was before, it was a flash, and no cut.
        limits ([`VideoLimits`], *optional*): Limits on reading.

    Returns:
        `list[float]`: Seconds from the container's start, ascending; of the first frame of each new scene, without the
        first scene's.

    Raises:
        UnreadableVideo: if the film cannot be opened, has no frames, or exceeds `limits`.
        ValueError: if `threshold` or `ratio` is not greater than 0, or `shortest` is negative.
    """
    for name, value in (("threshold", threshold), ("ratio", ratio)):
        if not value > 0:
            raise ValueError(f"`{name}` is {value!r}; it must be greater than 0.")
    if not shortest >= 0:
        raise ValueError(f"`shortest` is {shortest!r}; it must be at least 0.")
    cuts: list[tuple[Fraction, np.ndarray]] = []  # with the picture before
    window: deque[tuple[Fraction, float, np.ndarray, np.ndarray]] = deque(maxlen=2 * _NEIGHBOURS + 1)

    def check(place: int) -> None:
        time, change, before, picture = window[place]
        around = [other for index, (_, other, _, _) in enumerate(window) if index != place]
        mean = max(float(np.mean(around)) if around else 0.0, _SMALLEST_MEAN)
        if change < threshold or change < ratio * mean:
            return
        if not cuts or time - cuts[-1][0] >= shortest:
            cuts.append((time, before))
        elif _difference(cuts[-1][1], picture) < threshold:
            cuts.pop()

    with open_film(video, limits) as film:
        before, number = None, 0
        for time, frame in film.ordered_frames():
            picture = film.to_rgb(frame, _WIDTH, _HEIGHT, "AREA")
            pixels = np.asarray(picture.convert("YCbCr"), dtype=np.int16)
            if before is not None:
                window.append((time, _difference(before, pixels), before, pixels))
                number += 1
                if number > _NEIGHBOURS:  # the first ones have fewer neighbours before them
                    check(len(window) - 1 - _NEIGHBOURS)
            before = pixels
        if before is None:
            raise film.without_frames()
        for place in range(max(len(window) - _NEIGHBOURS, 0), len(window)):  # the last ones have fewer behind them
            check(place)
        film.report()
    return [float(time) for time, _ in cuts]


def _difference(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.abs(after - before).mean())
