# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What an image may cost the server: small versions of files that took others minutes, and ordinary ones that pass."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from clip_hf import UnreadableImage
from clip_hf.model.image_reading_clip_hf import open_image
from clip_hf.serving.served_images import SERVED_FORMATS, PixelRoom, check_served_image, count_pixels


MOST = 64_000_000


def save(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, **options)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
JPEG, PROGRESSIVE = save(NOISE, format="JPEG"), save(NOISE, format="JPEG", progressive=True)
SCAN = PROGRESSIVE[PROGRESSIVE.rfind(b"\xff\xda") : -2]


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def resized(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG file whose header says another size."""
    place = next(jpeg.find(bytes([0xFF, kind])) for kind in (0xC2, 0xC0) if bytes([0xFF, kind]) in jpeg)
    return jpeg[: place + 5] + struct.pack(">HH", height, width) + jpeg[place + 9 :]


def run_length_bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024) + bytes([width, 0, 0, 0]) * height


def tiff(num_strips: int, order: str = "<", is_big: bool = False) -> bytes:
    """A TIFF file of one tag: so many strips or tiles."""
    number = "Q" if is_big else "I"
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H", 43 if is_big else 42)
    head += struct.pack(f"{order}HHQ", 8, 0, 16) if is_big else struct.pack(f"{order}I", 8)
    count = struct.pack(f"{order}{'Q' if is_big else 'H'}", 2)
    entries = [(256, 4, 1, 9), (273 if order == "<" else 324, 4, num_strips, 200)]
    return head + count + b"".join(struct.pack(f"{order}HH{number}{number}", *entry) for entry in entries) + bytes(8)


@pytest.mark.parametrize("name", SERVED_FORMATS)
def test_formats_that_clients_send_are_decoded(name):
    if name in Image.SAVE:
        data = save(NOISE, format=name)
        assert check_served_image(data, MOST) == 2000
        assert open_image(data).size == (50, 40)


@pytest.mark.parametrize("name", ["PPM", "JPEG2000", "ICO", "ICNS", "TGA", "PCX", "SGI", "DDS", "QOI", "XBM", "DIB"])
def test_other_formats_are_refused_unopened(name, monkeypatch):
    data = save(NOISE.convert("1") if name == "XBM" else NOISE, format=name)
    assert open_image(data).size[0] > 0  # by everyone but the server
    with pytest.raises(UnreadableImage) as caught:
        check_served_image(data, MOST)
    assert caught.value.kind == "not an image"
    assert count_pixels(data) > 0


@pytest.mark.parametrize("data", [b"", save(NOISE, format="PNG")[:60]])
def test_what_a_decoder_says_of_damaged_files_is_left_to_it(data):
    assert check_served_image(data, MOST) in (0, 2000)


@pytest.mark.parametrize("data", [b"\x89PNG nothing", b"\xff\xd8\xff nothing", b"II*\0" + bytes(9)])
def test_a_damaged_header_is_damage(data):
    with pytest.raises(UnreadableImage) as caught:
        check_served_image(data, MOST)
    assert caught.value.kind == "file damaged"


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (JPEG, 2000),
        (PROGRESSIVE, 2000),
        (resized(PROGRESSIVE, 8000, 8000), MOST),  # 10 scans
        (resized(JPEG, 8000, 8000), MOST),
        (resized(JPEG[:2] + segment(0xE1, b"\xff\xda" * 30_000) + JPEG[2:], 8000, 8000), MOST),  # no scans in there
        (resized(JPEG, 8000, 8000) + SCAN * 100, MOST),  # after the end
        (JPEG[:2] + b"\xff" * 100 + JPEG[2:], 2000),
        (JPEG[:2] + segment(0xE2, bytes(65_000)) * 255 + JPEG[2:], 2000),  # a large profile
        (PROGRESSIVE[:-2] + SCAN * 1000 + b"\xff\xd9", 2000),  # a small image
    ],
)
def test_ordinary_jpegs_pass(data, pixels):
    assert check_served_image(data, MOST) == pixels


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (resized(PROGRESSIVE[:-2] + SCAN * 7 + b"\xff\xd9", 8000, 8000), "image too large"),
        (resized(PROGRESSIVE[:-2] + (b"\xff" + SCAN) * 7 + b"\xff\xd9", 8000, 8000), "image too large"),
        (resized(PROGRESSIVE[:-2] + (b"junk" + SCAN) * 7 + b"\xff\xd9", 8000, 8000), "image too large"),
        (PROGRESSIVE[:-2] + SCAN * 10_000 + b"\xff\xd9", "file damaged"),
        (JPEG[:2] + b"\xff" * 2**17 + JPEG[2:], "file damaged"),
        (JPEG[:2] + (b"\xff" * 2**15 + segment(0xFE, b"")) * 3 + JPEG[2:], "file damaged"),
        (JPEG[:2] + segment(0xFE, b"") * 10_001 + JPEG[2:], "file damaged"),
    ],
)
def test_jpegs_that_would_take_minutes_are_refused(data, kind):
    with pytest.raises(UnreadableImage) as caught:
        check_served_image(data, MOST)
    assert caught.value.kind == kind


def test_what_is_decoded_in_python_is_small():
    assert check_served_image(run_length_bmp(8, 8), MOST) == 64
    assert open_image(run_length_bmp(8, 8)).size == (8, 8)
    for width, height in ((1, 2**16 + 1), (255, 258)):
        with pytest.raises(UnreadableImage) as caught:
            check_served_image(run_length_bmp(width, height), MOST)
        assert caught.value.kind == "format not supported"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the files' end
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
def test_strips_and_tiles_are_bounded(order, is_big):
    with pytest.raises(UnreadableImage, match="more than 65,536 strips"):
        check_served_image(tiff(2**16 + 1, order, is_big), MOST)
    try:
        check_served_image(tiff(2**16, order, is_big), MOST)
    except UnreadableImage as error:
        assert error.kind == "file damaged"  # the file has nothing but the tag


def test_a_bomb_is_left_to_the_decoder_which_refuses_it():
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2**31 - 1, 1, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    assert check_served_image(data, MOST) == 0
    with pytest.raises(UnreadableImage) as caught:
        open_image(data)
    assert caught.value.kind == "image too large"


def test_a_large_image_is_decoded_alone_and_not_passed_by_small_ones():
    room, log, gate = PixelRoom(10), [], threading.Event()
    has_begun = {name: threading.Event() for name in ("small", "other", "large", "late")}

    def decode(name: str, pixels: int) -> None:
        with room.take(pixels):
            log.append(name)
            has_begun[name].set()
            gate.wait(20)

    threads = []
    for name, pixels, begins in (("small", 4, True), ("other", 6, True), ("large", 10, False), ("late", 1, False)):
        threads.append(threading.Thread(target=decode, args=(name, pixels), daemon=True))
        threads[-1].start()
        assert has_begun[name].wait(20 if begins else 0.05) == begins
    gate.set()
    for thread in threads:
        thread.join(20)
    assert log == ["small", "other", "large", "late"]
    with room.take(10):  # all of it is free again
        pass


def test_an_image_larger_than_the_room_waits_for_nothing_but_an_empty_one():
    with PixelRoom(10).take(11):
        pass
