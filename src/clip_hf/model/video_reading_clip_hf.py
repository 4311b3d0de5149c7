# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Open films: the one place that reads their files and bytes, frame by frame, by presentation time."""

from .image_reading_clip_hf import UnreadableImage


VIDEO_ENDINGS = frozenset(
    "3g2 3gp asf avi flv gifv m2ts m2v m4v mkv mov mp4 mpeg mpg mts mxf ogm ogv ts vob webm wmv".split()
)
"""Endings of films, lower case and without the dot."""


class UnreadableVideo(UnreadableImage):
    """A film that cannot be used; counted and skipped where an [`UnreadableImage`] is."""
