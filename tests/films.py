# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Small films for tests, written by PyAV, and films whose pictures say their own number."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


BITS = 8
BLOCK = 8  # pixels


def write_film(
    path: str | Path,
    frames: Iterable[np.ndarray | Image.Image],
    *,
    rate: float | Fraction = 25,
    codec: str = "mpeg4",
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """Write frames (height, width, 3) uint8 as a film; the ending of `path` names the container.

    `pts` are the frames' presentation times in units of `time_base` (by default 1/rate). A frame list that is empty
    gives a container without frames.
    """
    rate = Fraction(rate).limit_denominator(100_000)
    options = dict(options or {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.pix_fmt = pix_fmt
        stream.width, stream.height = 64, 64
        stream.codec_context.time_base = time_base or 1 / rate
        if codec == "mpeg4":
            stream.codec_context.bit_rate = 2_000_000
        for number, frame in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.asarray(frame)), format="rgb24")
            if number == 0:
                stream.width, stream.height = frame.width, frame.height
            frame.pts = number if pts is None else pts[number]
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Path(path)


def numbered_frames(count: int, width: int = 64, height: int = 64, first: int = 0) -> list[np.ndarray]:
    """Frames that show their number as eight black and white blocks, on moving noise, so that they need each other."""
    noise = np.random.default_rng(0).integers(96, 160, (height, width * 2, 3), dtype=np.uint8)
    frames = []
    for number in range(first, first + count):
        frame = noise[:, number % width : number % width + width].copy()
        for bit in range(BITS):
            row, column = divmod(bit, 4)
            frame[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK] = 255 * (number >> bit & 1)
        frames.append(frame)
    return frames


def read_number(image: Image.Image) -> int:
    """The number that a frame of `numbered_frames` shows, from 0 to 255."""
    pixels = np.asarray(image.convert("L"), dtype=np.float64)
    number = 0
    for bit in range(BITS):
        row, column = divmod(bit, 4)
        block = pixels[row * BLOCK + 2 : (row + 1) * BLOCK - 2, column * BLOCK + 2 : (column + 1) * BLOCK - 2]
        number |= (block.mean() > 128) << bit
    return int(number)
