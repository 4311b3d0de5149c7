# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Small pictures of pictures, for sheets, terminals and pages."""

import io
from typing import Any

from PIL import Image

from ..model.image_reading_clip_hf import DEFAULT_LIMITS, ImageLimits, UnreadableImage
from ..model.image_transform_clip_hf import DRAFT_FACTOR, open_upright, to_rgb
from ..model.video_opening_clip_hf import is_video
from ..model.video_reading_clip_hf import ClipSampling, read_clip


_WHITE = (255, 255, 255)


def thumbnail(picture: Any, edge: int, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """A picture, of what [`open_image`] takes, with at most `edge` pixels a side: upright, RGB, on white where it is
    transparent. 16 bits are scaled, because it shows what is in a picture, not what a model sees of it. Of a film it
    is the middle frame.

    Raises:
        UnreadableImage: if the picture cannot be read.
    """
    try:
        image = to_rgb(open_upright(picture, limits, True, "scale", _WHITE, draft_edge=DRAFT_FACTOR * edge))
    except UnreadableImage:
        if not is_video(picture):
            raise
        (image,) = read_clip(picture, ClipSampling(1))
    image.thumbnail((edge, edge))
    return image


def jpeg_bytes(image: Image.Image) -> bytes:
    """An image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()
