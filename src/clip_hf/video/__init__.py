# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Films: their frames by time, their cuts, and parts of them as files."""

from ..utils.extras import require_extra


require_extra("video", "clip_hf.video", "av")

from ..model.video_opening_clip_hf import (
    VIDEO_ENDINGS,
    UnreadableVideo,
    VideoDescription,
    VideoLimits,
    is_video,
)
from ..model.video_reading_clip_hf import (
    ClipSampling,
    describe_video,
    frame_times,
    read_clip,
    read_frames,
)
from .clip_cutting import cut_clip
from .scenes import scene_cuts


__all__ = [
    "ClipSampling",
    "UnreadableVideo",
    "VIDEO_ENDINGS",
    "VideoDescription",
    "VideoLimits",
    "cut_clip",
    "describe_video",
    "frame_times",
    "is_video",
    "read_clip",
    "read_frames",
    "scene_cuts",
]
