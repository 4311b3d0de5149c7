# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What an image of a client may cost: formats, passes over its pixels, and pixels that are decoded at a time."""

import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from ..model.image_reading_clip_hf import IMAGE_FORMATS, IMAGE_SIGNATURES, UnreadableImage


SERVED_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "MPO")
"""What clients send. Other formats that this library reads are slow to decode, and hold the interpreter meanwhile."""
_MOST_PASSES = 16  # over the pixels of the largest image; progressive files have some 10 scans
_MOST_MARKERS, _MOST_PADDING = 10_000, 2**16
_MOST_SLOW_PIXELS = 2**16  # of what Pillow decodes in Python
_MOST_STRIPS = 2**16
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
_SCAN, _END, _ALONE = 0xDA, 0xD9, (0x01, 0xD8)
_STRIPS, _TILES = 273, 324  # TIFF: where they lie


def check_served_image(data: bytes, max_pixels: int) -> int:
    """The pixels of an image file, of which the header is read; 0 if its decoder will say what is wrong with it.

    Args:
        data (`bytes`): The file.
        max_pixels (`int`): What an image may have.

    Raises:
        UnreadableImage: if it is of another format, or would take far longer to decode than an image of `max_pixels`.
    """
    scans = _count_scans(data) if data.startswith(b"\xff\xd8\xff") else 1
    _check_strips(data)
    try:
        with Image.open(io.BytesIO(data), formats=[name for name in SERVED_FORMATS if name in Image.OPEN]) as image:
            pixels = image.width * image.height
            is_slow = any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", None) or [])
    except UnidentifiedImageError as error:
        if not data:
            return 0
        kind = "file damaged" if data.startswith(IMAGE_SIGNATURES) else "not an image"
        raise UnreadableImage(kind, f"this is none of {', '.join(SERVED_FORMATS)}.") from error
    except Exception:  # Pillow's readers raise many types for damaged headers
        return 0
    if pixels * scans > _MOST_PASSES * max_pixels:
        raise UnreadableImage("image too large", f"it has {scans:,} scans of {pixels:,} pixels.")
    if is_slow and pixels > _MOST_SLOW_PIXELS:
        raise UnreadableImage("format not supported", f"it has {pixels:,} pixels that are decoded in Python.")
    return pixels


def count_pixels(data: bytes) -> int:
    """The pixels of an image file of any format that this library reads; 0 if it cannot be opened."""
    try:
        with Image.open(io.BytesIO(data), formats=[name for name in IMAGE_FORMATS if name in Image.OPEN]) as image:
            return image.width * image.height
    except Exception:  # its decoder will say what is wrong
        return 0


def _count_scans(data: bytes) -> int:
    """The scans of a JPEG file, as its decoder walks through it."""
    scans = markers = padding = 0
    place = 2
    while (match := _JPEG_MARKER.search(data, place)) and match[1][0] != _END:
        markers += 1
        padding += 0 if scans else match.start() - place
        if markers > _MOST_MARKERS or padding > _MOST_PADDING:
            raise UnreadableImage("file damaged", "it has too many markers, or too much between them.")
        place = match.end()
        if match[1][0] not in _ALONE:
            place += int.from_bytes(data[place : place + 2], "big")
        scans += match[1][0] == _SCAN
    return max(scans, 1)


def _check_strips(data: bytes) -> None:
    """Raise for a TIFF file of very many strips or tiles, each of which costs as much as an image."""
    order = {b"II": "little", b"MM": "big"}.get(data[:2])
    if order is None:
        return

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    is_big = number(2, 2) == 43
    start, width, entry = (number(8, 8), 8, 20) if is_big else (number(4, 4), 2, 12)
    for place in range(start + width, start + width + entry * min(number(start, width), 2**16), entry):
        if number(place, 2) in (_STRIPS, _TILES) and number(place + 4, 8 if is_big else 4) > _MOST_STRIPS:
            raise UnreadableImage("format not supported", f"it has more than {_MOST_STRIPS:,} strips or tiles.")


class PixelRoom:
    """Bounds the pixels that threads decode at a time: a large image alone, small ones beside each other.

    Args:
        most (`int`): Pixels.
    """

    def __init__(self, most: int):
        self._most, self._taken = most, 0
        self._turn, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for an image of so many pixels, and hold it while the block runs."""
        with self._turn, self._changed:  # a large one is not passed by small ones
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + pixels <= self._most)
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()
