# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `_clip_hf_cli.evaluate.add_image_arguments`, as options."""

import argparse
from typing import Any

from _clip_hf_cli.evaluate import IMAGE_LIMITS

from ..model.image_reading_clip_hf import ImageLimits


def image_options(options: argparse.Namespace) -> dict[str, Any]:
    """How image files are read: `image_limits`, and what is to differ from the model's image processor, else None."""
    limits = {f"max_{name}": getattr(options, f"max_image_{name}") for name in IMAGE_LIMITS}
    changed = ("background_color", "apply_exif_orientation", "high_bit_depth", "draft")
    return {**{name: getattr(options, name) for name in changed}, "image_limits": ImageLimits(**limits)}
