# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What may be opened as an image, how much of it, and for how long; and that nothing else happens."""

import base64
import io
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import contextmanager

import pytest
from PIL import Image

from clip_hf import ClipHFImageProcessor
from clip_hf.data.decoding import ImageReader
from clip_hf.data.locations import ImagePlaces
from clip_hf.model.image_reading_clip_hf import (
    IMAGE_ENDINGS,
    IMAGE_FORMATS,
    ImageLimits,
    UnreadableImage,
    open_image,
)
from hostile_paths import HOSTILE
from pair_data import encoded, image_of


def processor_of(size: int = 12, **options) -> ClipHFImageProcessor:
    return ClipHFImageProcessor(size=size, crop_size=size, **options)


def refusal(source, limits: ImageLimits | None = None) -> UnreadableImage:
    with pytest.raises(UnreadableImage) as caught:
        open_image(source, limits or ImageLimits())
    return caught.value


# ----------------------------------------------------------------------------------------------------------- locations


# Each would read a file that is not the data's, start a program, or run what a file holds.
@pytest.mark.parametrize("path", HOSTILE)
def test_rows_lead_nowhere_else(path, tmp_path):
    assert len(HOSTILE) >= 40
    folder = tmp_path / "data"
    folder.mkdir()
    for each in (tmp_path, tmp_path / "data2"):  # there, but not the data's
        each.mkdir(exist_ok=True)
        (each / "a.png").write_bytes(encoded(image_of(0)))
    location = ImagePlaces(folder)(path)
    result = ImageReader(processor_of()).read(location, "row 7", random.Random(0))
    assert (result.kind, result.where) == ("location refused", "row 7")
    with pytest.raises(ValueError, match="is not (used|opened)"):
        processor_of()(location)


@pytest.mark.parametrize("path", [path for path in HOSTILE if "://" in path])
def test_nobody_else_is_led_there_either(path):
    # Not even by a user's own argument: which files a URL opens must not depend on the packages that are installed.
    assert refusal(path).kind == "location refused"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.png", "{data}/a.png"),
        ("sub/b c.png", "{data}/sub/b c.png"),
        ("sub/../a.png", "{data}/a.png"),
        ("./a.png", "{data}/a.png"),
        ("..a.png", "{data}/..a.png"),
        ("a:b.png", "{data}/a:b.png"),
        ("{data}/sub/b.png", "{data}/sub/b.png"),
        ("https://example.org/a.png", "https://example.org/a.png"),
        ("s3://bucket/a.png", "s3://bucket/a.png"),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
        (" ", None),
        (None, None),
        (7, "refused:not an image\nit is 7, which is neither a path nor a URL."),
    ],
)
def test_rows_lead_below_their_folder(path, expected, tmp_path):
    def filled(text):
        return text.replace("{data}", str(tmp_path)) if isinstance(text, str) else text

    assert ImagePlaces(tmp_path)(filled(path)) == filled(expected)


def test_another_root_is_an_option(tmp_path):
    (tmp_path / "data").mkdir()
    outside = str(tmp_path / "other" / "a.png")
    assert ImagePlaces(tmp_path / "data")(outside).startswith("refused:")
    assert ImagePlaces(tmp_path / "data", tmp_path / "other")(outside) == outside
    assert ImagePlaces(tmp_path / "data", tmp_path / "other")("../other/a.png") == outside
    assert ImagePlaces(tmp_path / "data", "/")(outside) == outside
    # A folder whose name begins alike is another one.
    assert ImagePlaces(tmp_path / "data")(f"{tmp_path}/data-2/a.png").startswith("refused:")


# --------------------------------------------------------------------------------------------------------------- files


def test_formats_are_a_list(tmp_path):
    assert {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm"} <= IMAGE_ENDINGS
    assert not {"eps", "ps", "pdf", "wmf", "emf", "h5", "mpg", "fits"} & IMAGE_ENDINGS
    image = image_of(0)
    for ending, name in (("ppm", "PPM"), ("tga", "TGA"), ("webp", "WEBP"), ("jp2", "JPEG2000"), ("sgi", "SGI")):
        assert ending in IMAGE_ENDINGS and name in IMAGE_FORMATS
        assert open_image(encoded(image, name)).size == image.size


def test_no_program_is_started(monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **kwargs: started.append(args))
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: started.append(args))
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 10\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "a.png").write_bytes(drawing)
    assert refusal(drawing).kind == "not an image"
    assert "not an image that Pillow can read" in str(refusal(drawing))  # not even its head is looked at
    assert refusal(str(tmp_path / "a.png")).kind == "not an image"
    with Image.open(tmp_path / "a.png") as opened:  # by the user, not decoded yet
        assert opened.format == "EPS"
        assert "the format EPS is not decoded" in str(refusal(opened))
    assert started == []


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "device", "folder", "socket"])
def test_only_regular_files_are_opened(kind, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to a fifo":
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to(tmp_path / "fifo")
    elif kind == "device":
        path = "/dev/zero"
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            monkeypatch.chdir(tmp_path)  # the whole path may be too long for a socket's name
            server.bind("a.png")
    for source in (str(path), {"bytes": None, "path": str(path)}):
        assert refusal(source).kind in ("not a regular file", "file cannot be read")
    assert ImageReader(processor_of()).read(str(path), "row 0", random.Random(0)).kind == refusal(str(path)).kind


def test_a_link_to_a_file_is_a_file(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(image_of(0)))
    (tmp_path / "b.png").symlink_to("a.png")
    assert open_image(str(tmp_path / "b.png")).size == (12, 10)
    (tmp_path / "c.png").symlink_to("nowhere.png")
    assert refusal(str(tmp_path / "c.png")).kind == "file cannot be read"


def test_base64_text():
    text = base64.b64encode(encoded(image_of(0))).decode()
    for source in (text, f"data:image/png;base64,{text}", f"DATA:image/png;base64,{text}"):
        assert open_image(source).tobytes() == image_of(0).tobytes()
        assert refusal(source, ImageLimits(max_bytes=50)).kind == "file too large"
    assert "the base64 text of an image" in str(refusal("x" * 10_000))


# -------------------------------------------------------------------------------------------------------------- limits


def one_bit_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes((width + 7) // 8)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row * height)), chunk(b"IEND", b""))
    )


def test_limits_of_pixels_and_bytes():
    data = encoded(image_of(0))
    assert open_image(data, ImageLimits(max_pixels=120)).size == (12, 10)
    for source in (data, image_of(0)):
        assert "12x10 pixels, more than the 119" in str(refusal(source, ImageLimits(max_pixels=119)))
    assert refusal(data, ImageLimits(max_bytes=len(data) - 1)).kind == "file too large"
    assert open_image(data, ImageLimits(max_bytes=len(data))).size == (12, 10)
    with pytest.raises(ValueError, match="`max_seconds` is 0; it must be a number greater than 0"):
        ImageLimits(max_seconds=0)
    for value in (None, True):
        with pytest.raises(ValueError, match=f"`max_bytes` is {value}"):
            ImageLimits(max_bytes=value)
    assert open_image(io.BytesIO(data), ImageLimits(max_bytes=len(data))).size == (12, 10)
    assert refusal(io.BytesIO(data), ImageLimits(max_bytes=len(data) - 1)).kind == "file too large"
    assert open_image(base64.b64encode(data).decode(), ImageLimits(max_bytes=len(data) + 2)).size == (12, 10)
    ImageLimits(max_resized_pixels=100).check_resized((10, 10), (5, 5))
    with pytest.raises(UnreadableImage, match="resized from 5x5 it would have 101x1 pixels, more than the 100"):
        ImageLimits(max_resized_pixels=100).check_resized((101, 1), (5, 5))


def test_a_sparse_file_is_not_read(tmp_path):
    path = tmp_path / "a.png"
    with open(path, "wb") as file:
        file.truncate(9 * 2**30)
    assert refusal(str(path)).kind == "file too large"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited as Linux does it")
@pytest.mark.parametrize("way", ["processor", "reader"])
def test_a_thread_of_pixels_costs_no_gigabytes(way, tmp_path):
    # 18 kB of a file, within Pillow's limit; resized it would have 33,600,000,000 x 224 pixels.
    (tmp_path / "a.png").write_bytes(one_bit_png(150_000_000, 1))
    program = f"""
import random, resource
from clip_hf import ClipHFImageProcessor
from clip_hf.data.decoding import ImageReader
from clip_hf.data.locations import ImagePlaces
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
processor = ClipHFImageProcessor()
if {way!r} == "reader":
    print(ImageReader(processor).read({str(tmp_path / "a.png")!r}, "row 0", random.Random(0)).message)
else:
    try:
        processor({str(tmp_path / "a.png")!r})
    except ValueError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert "too long and thin" in result.stdout, result.stderr


def test_long_images_within_the_limit_are_read():
    for data in (one_bit_png(30_000, 1), one_bit_png(1, 30_000)):
        assert processor_of()(data, return_tensors="np").pixel_values.shape == (1, 3, 12, 12)
    with pytest.raises(UnreadableImage, match="max_resized_pixels"):
        processor_of()(one_bit_png(30_000, 1), image_limits=ImageLimits(max_resized_pixels=10**6))


def test_memory_that_is_missing_is_no_fault_of_the_image(monkeypatch):
    def load(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(UnreadableImage, match="not enough memory for its 12x10 pixels") as caught:
        open_image(encoded(image_of(0)))
    assert caught.value.kind == "image too large"
    # In data it stops what is done, because which rows are left out must not depend on the machine.
    with pytest.raises(OSError, match="Cannot allocate memory: the image of row 0 .* Use fewer threads"):
        ImageReader(processor_of()).read(encoded(image_of(0)), "row 0", random.Random(0))


def test_bytes_are_bytes(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(image_of(0)))
    for wrong in (str(tmp_path / "a.png"), tmp_path / "a.png", 7, ["a"]):
        assert "its bytes are of type" in str(refusal({"bytes": wrong, "path": None}))


def test_an_icon_has_the_size_that_it_is_decoded_to():
    inside = encoded(Image.new("RGB", (60, 50)))
    entry = struct.pack("<BBBBHHII", 1, 1, 0, 0, 1, 32, len(inside), 22)
    icon = struct.pack("<HHH", 0, 1, 1) + entry + inside
    assert refusal(icon, ImageLimits(max_pixels=2999)).kind == "image too large"


def test_a_tile_is_no_larger_than_an_image_may_be():
    tags = [
        (256, 1),
        (257, 1),
        (258, 8),
        (259, 1),
        (262, 1),
        (277, 1),
        (322, 46_000),
        (323, 46_000),
        (324, 8),
        (325, 1),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    error = refusal(tiff)
    assert error.kind == "image too large" and "46000x46000" in str(error)


def test_what_is_decoded_slowly_has_a_limit_of_its_own():
    width = 4100
    header = f"P6 {width} {width} 100\n".encode()  # a highest value other than 255 is worked out in Python
    assert "decodes slowly and may have 4,194,304" in str(refusal(header + bytes(3 * width * width)))
    assert open_image(b"P6 12 10 100\n" + bytes(360)).size == (12, 10)
    assert open_image(f"P6 {width} {width} 255\n".encode() + bytes(3 * width * width)).size == (width, width)


# ----------------------------------------------------------------------------------------------------------- downloads


@contextmanager
def server_of(answer):
    """A server on this machine whose every connection is handled by `answer(connection)`; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stopped = threading.Event()

        def handle(connection):
            with connection:
                try:
                    connection.recv(65536)
                    answer(connection, stopped)
                except OSError:
                    pass  # the client has gone

        def serve():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
        stopped.set()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def head(status: str = "200 OK", **headers) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{lines}Connection: close\r\n\r\n".encode()


PICTURE = encoded(image_of(0))


def drip(connection, stopped, first: bytes = b"") -> None:
    """One byte after another, for ever."""
    connection.sendall(first)
    while not stopped.wait(0.02):
        connection.sendall(b"x")


ANSWERS = {
    "breaks off": (lambda c, _: c.sendall(head(Content_Length=len(PICTURE) + 9) + PICTURE), "9 bytes before the"),
    "nonsense": (lambda c, _: c.sendall(b"what?\r\n\r\n"), "what?"),
    "nothing": (lambda c, _: None, "failed"),
    "half a head": (lambda c, _: c.sendall(b"HTTP/1.1 200 OK\r\nContent-Le"), "failed|not an image|empty"),
    "bad chunks": (lambda c, _: c.sendall(head(Transfer_Encoding="chunked") + b"zz\r\n"), "failed"),
    "no length": (lambda c, _: c.sendall(head(Content_Length="many") + PICTURE), "failed"),
    "404": (lambda c, _: c.sendall(head("404 Not Found")), "404"),
    "500": (lambda c, _: c.sendall(head("500 Internal Server Error")), "500"),
    "to a file": (
        lambda c, _: c.sendall(head("302 Found", Location="file:///etc/passwd")),
        "file:.*not allowed",
    ),
    "to ftp": (lambda c, _: c.sendall(head("302 Found", Location="ftp://127.0.0.1/a.png")), "redirects to 'ftp:"),
    "to itself": (lambda c, _: c.sendall(head("302 Found", Location="/a.png")), "redirect|302"),
    "too long a head": (lambda c, _: c.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"), "line"),
    "a page": (lambda c, _: c.sendall(head() + b"<html>sold</html>"), "not an image"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_servers_that_answer_badly_cost_a_row(kind):
    answer, message = ANSWERS[kind]
    with server_of(answer) as url:
        result = ImageReader(processor_of()).read(url, "row 7", random.Random(0))
    assert result.kind in ("download failed", "not an image", "file empty")
    assert re.search(message, result.message), result.message
    assert url in result.message


@pytest.mark.parametrize("kind", ["no length", "chunked", "announced"])
def test_downloads_have_a_length(kind):
    sent = []

    def answer(connection, stopped):
        first = {"no length": head(), "announced": head(Content_Length=10**12)}
        connection.sendall(first.get(kind) or head(Transfer_Encoding="chunked"))
        block = bytes(2**16)
        while not stopped.is_set():
            connection.sendall(b"10000\r\n" + block + b"\r\n" if kind == "chunked" else block)
            sent.append(len(block))

    with server_of(answer) as url:
        assert refusal(url, ImageLimits(max_bytes=10**6)).kind == "file too large"
    assert sum(sent) < 10**8


@pytest.mark.parametrize("kind", ["body", "head", "first line", "silence", "next page", "handshake"])
def test_downloads_have_an_end(kind):
    def answer(connection, stopped):
        if kind == "next page":  # each in time, for ever
            stopped.wait(0.1)
            connection.sendall(head("302 Found", Location=f"/{random.random()}"))
        elif kind == "silence":
            stopped.wait(20)
        else:
            first = {"body": head(), "head": b"HTTP/1.1 200 OK\r\nX: ", "handshake": b"\x16\x03\x03\x40\x00"}
            drip(connection, stopped, first.get(kind, b""))

    started = time.monotonic()
    with server_of(answer) as url:
        url = url.replace("http:", "https:") if kind == "handshake" else url
        error = refusal(url, ImageLimits(max_seconds=0.5))
    assert error.kind == "download failed"
    assert time.monotonic() - started < 10  # half a second, but for a busy machine
    if kind in ("body", "head", "first line", "handshake"):
        assert "longer than the 0.5 seconds" in str(error)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect"])
def test_what_comes_with_a_redirect_is_not_read(status):
    sent = []

    def answer(connection, stopped):
        connection.sendall(head(status, Location="/b.png"))
        while not stopped.is_set():
            connection.sendall(bytes(2**16))
            sent.append(2**16)

    with server_of(answer) as url:
        assert refusal(url, ImageLimits(max_bytes=10**6, max_seconds=5)).kind == "download failed"
    assert sum(sent) < 10**9


def test_time_is_that_of_all_redirects_together():
    def answer(connection, stopped):
        drip(connection, stopped, head("302 Found", Location=f"/{random.random()}", Content_Length=10**9))

    started = time.monotonic()
    with server_of(answer) as url:
        assert refusal(url, ImageLimits(max_seconds=0.5)).kind == "download failed"
    assert time.monotonic() - started < 10


def test_a_download_is_an_image():
    before = threading.active_count()
    with server_of(lambda c, _: c.sendall(head(Content_Length=len(PICTURE)) + PICTURE)) as url:
        for _ in range(20):
            assert open_image(url).tobytes() == image_of(0).tobytes()
    assert threading.active_count() < before + 10  # downloads end their threads


HTML = b"<html>Sign in</html>"


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (head("404 Not Found") + HTML, "download failed", "the download failed: HTTP Error 404: Not Found."),
        (head("403 Forbidden") + HTML, "download failed", "the download failed: HTTP Error 403: Forbidden."),
        (head("503 Busy"), "download failed", "the download failed: HTTP Error 503: Busy."),
        (head(Content_Length=len(HTML)) + HTML, "not an image", "this is not an image that Pillow can read."),
        (head(Content_Length=0), "file empty", "the file is empty."),
        (head("302 Found", Location="http://127.0.0.1:9/b.png"), "download failed", "Connection refused."),
    ],
    ids=["404", "403", "503", "page", "empty", "redirect to nowhere"],
)
def test_the_url_is_named_with_what_the_server_said(answer, kind, message):
    with server_of(lambda connection, _: connection.sendall(answer)) as url, pytest.raises(UnreadableImage) as caught:
        open_image(url, ImageLimits(max_seconds=5))
    assert str(caught.value).startswith(f"{url}: ") and str(caught.value).endswith(message)
    assert caught.value.kind == kind


def test_hosts_that_cannot_be_reached_are_named():
    for url in ("http://127.0.0.1:9/a.png", "http://no-such-host.invalid/a.png"):
        with pytest.raises(UnreadableImage, match=rf"^{url}: the download failed: \[Errno"):
            open_image(url, ImageLimits(max_seconds=5))
