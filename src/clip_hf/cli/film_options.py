# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `_clip_hf_cli.evaluate.add_film_arguments`, as options."""

import argparse

from ..embedding.load_encoder import sampling_of
from ..embedding.video_encoder import ClipSampling


def clip_sampling(model: str, options: argparse.Namespace) -> ClipSampling | None:
    """The frames that are asked for; None if none are, so that a video model's own count."""
    frames, views = options.num_frames, options.num_views
    if frames is None and views is None:
        return None
    own = sampling_of(model) or ClipSampling()
    return ClipSampling(own.num_frames if frames is None else frames, own.num_views if views is None else views)
