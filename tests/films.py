# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Small films for tests, written by PyAV, and films whose pictures say their own number."""

import io
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
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    broken: dict[int, int] | None = None,
) -> Path:
    """Write frames (height, width, 3) uint8 as a film; the ending of `path` names the container.

    `pts` are the frames' presentation times in units of 1/rate; `broken` replaces those of some packets, as a faulty
    recorder does. `options` go to the encoder and the container.
    """
    rate = Fraction(rate).limit_denominator(100_000)
    options = dict(options or {})
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.pix_fmt = pix_fmt
        stream.width, stream.height = 64, 64
        stream.codec_context.time_base = 1 / rate
        if codec == "mpeg4":
            stream.codec_context.bit_rate = 2_000_000
        for number, frame in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.asarray(frame)), format="rgb24")
            if number == 0:
                stream.width, stream.height = frame.width, frame.height
            frame.pts = number if pts is None else pts[number]
            frame.time_base = stream.codec_context.time_base
            container.mux(_break_stamps(stream.encode(frame), broken))
        container.start_encoding()  # writes the header, if there was no frame
        container.mux(_break_stamps(stream.encode(None), broken))
    return Path(path)


def _break_stamps(packets: list[av.Packet], broken: dict[int, int] | None) -> list[av.Packet]:
    for packet in packets:
        packet.pts = (broken or {}).get(packet.pts, packet.pts)
    return packets


def add_sound(path: Path, target: Path, seconds: float) -> Path:
    """Write the film `path` again, with a silent track of so many seconds."""
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        video = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream("aac", rate=8000)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = video
                container.mux(packet)
        for start in range(0, round(8000 * seconds), 1024):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            samples.rate, samples.pts = 8000, start
            container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    return target


def animated_picture(kind: str) -> bytes:
    """The file of an animated picture: two red frames and two blue ones."""
    colours = [Image.new("RGB", (64, 64), colour) for colour in ("red", "red", "blue", "blue")]
    for place, image in enumerate(colours):
        image.putpixel((place, 0), (0, 255, 0))  # so that no equal neighbours are joined
    file = io.BytesIO()
    colours[0].save(file, kind, save_all=True, append_images=colours[1:], duration=200)
    return file.getvalue()


def joined_stream(folder: Path) -> Path:
    """Two transport streams joined byte by byte: a red film of 40 seconds, and a blue one of the same times."""
    parts = [
        write_film(
            folder / f"{name}.ts",
            [np.full((64, 64, 3), colour, np.uint8)] * 400,
            rate=10,
            codec="libx264",
            options={"g": "10", "bf": "0", "preset": "ultrafast"},
        )
        for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255)))
    ]
    path = folder / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


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
