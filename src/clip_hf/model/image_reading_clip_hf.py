# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Open images: the one place that reads their files, bytes and URLs.

Pipeline, processor, training and evaluation all use `open_image`, so they read the same formats, refuse the same
locations, and stop at the same limits.
"""

import base64
import http.client
import io
import math
import os
import re
import socket
import stat
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError


# Raster formats that Pillow reads without other programs (EPS starts Ghostscript). Pillow tries them in this order:
# the commonest first, those with weak signatures last.
IMAGE_FORMATS = (
    "JPEG PNG WEBP GIF BMP TIFF PPM AVIF HEIF JPEG2000 MPO DIB DDS ICNS ICO PSD QOI SGI SUN XBM XPM PCX TGA".split()
)


def _list_image_endings() -> frozenset[str]:
    Image.init()
    return frozenset(
        ending.lstrip(".") for ending, name in Image.registered_extensions().items() if name in IMAGE_FORMATS
    )


IMAGE_ENDINGS = _list_image_endings()
"""Endings of image files, lower case and without the dot."""

# URLs that a table may name. `fsspec` opens those of `_REMOTE`.
_REMOTE = ("s3", "gs", "gcs", "az", "abfs", "abfss", "hf")
URL_SCHEMES = ("http", "https", "data", *_REMOTE)
REFUSED = "refused:"
_REFUSED_KINDS = ("file damaged", "file too large", "file name not UTF-8", "not an image")
_SCHEME = re.compile(r"(?:data|refused)(?=:)|[a-z][a-z0-9+.-]*(?=://)", re.IGNORECASE | re.ASCII)
_CHUNK = 2**16  # bytes
_MAX_SLOW_PIXELS = 2**22  # some ten seconds
_TILE_TAGS = (322, 323)  # TIFF: width and height of a tile
# A file that begins with one of these and cannot be opened is damaged.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")


@dataclass(frozen=True)
class ImageLimits:
    """Limits on reading one image; exceeding them is an error, or in data a row that is skipped and counted.

    Args:
        max_pixels (`int`, *optional*): Pixels of the stored image, and of each of its tiles. By default twice
            `PIL.Image.MAX_IMAGE_PIXELS`, 178,956,970: Pillow's own limit, which always applies to files.
        max_resized_pixels (`int`, *optional*, defaults to 10,000,000,000): Pixels after resizing and before the crop.
            Only the crop is computed, so this bounds the aspect ratio.
        max_bytes (`int`, *optional*, defaults to 536,870,912): Bytes of the file, download or tar member.
        max_seconds (`float`, *optional*, defaults to 60): Time of a whole download over http or https. (For other
            schemes, the time-outs of their libraries apply.)

    Raises:
        ValueError: if a limit is not greater than 0.
    """

    max_pixels: int | None = None
    max_resized_pixels: int = 10**10
    max_bytes: int = 2**29
    max_seconds: float = 60.0

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is None and name == "max_pixels":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"`{name}` is {value!r}; it must be a number greater than 0.")

    def check_pixels(self, width: int, height: int) -> None:
        """Raise [`UnreadableImage`] for an image of more pixels than `max_pixels`, or than Pillow allows."""
        limit = self.max_pixels or 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
        if width * height > limit:
            raise UnreadableImage(
                "image too large",
                f"it has {width}x{height} pixels, more than the {limit:,} that `max_pixels` allows.",
            )

    def check_resized(self, size: tuple[int, int], original: tuple[int, int]) -> None:
        """Raise [`UnreadableImage`] for an image that resizing would make larger than `max_resized_pixels`."""
        if size[0] * size[1] > self.max_resized_pixels:
            raise UnreadableImage(
                "image too large",
                f"resized from {original[0]}x{original[1]} it would have {size[0]}x{size[1]} pixels, more than the "
                f"{self.max_resized_pixels:,} that `max_resized_pixels` allows: it is too long and thin.",
            )

    def check_bytes(self, count: int) -> None:
        """Raise [`UnreadableImage`] for a file of more bytes than `max_bytes`."""
        if count > self.max_bytes:
            raise UnreadableImage(
                "file too large", f"it has more than the {self.max_bytes:,} bytes that `max_bytes` allows."
            )


DEFAULT_LIMITS = ImageLimits()


class UnreadableImage(ValueError):
    """An image that cannot be used.

    Args:
        kind (`str`): The kind of problem in a few words, to count by, such as `"file truncated"`.
        message (`str`): A sentence for the user.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


# ----------------------------------------------------------------------------------------------------------- locations


def check_scheme(text: str) -> str | None:
    """The scheme of a location in lower case, None for a path; raise [`UnreadableImage`] if it may not be opened."""
    match = _SCHEME.match(text)
    scheme = match[0].lower() if match else None
    if scheme == "data":
        return scheme
    if scheme == "refused":
        kind, name, message = _split_refused(text)
        if message:
            raise UnreadableImage(kind, message)
        raise UnreadableImage(
            "location refused",
            f"its path {name[:200]!r} is not used: a path in data must lead to a file in the data's own folder or "
            "below `image_root` (--image-root), or be a URL.",
        )
    if "::" in text or (scheme is not None and scheme not in URL_SCHEMES):
        raise UnreadableImage(
            "location refused",
            f"{text[:200]!r} is not opened: a location is a path, or a URL that begins with "
            f"{', '.join(URL_SCHEMES)}; chains with `::` and other schemes may run programs.",
        )
    return scheme


def refused_location(kind: str, message: str, name: str = "") -> str:
    """A location that stands for an unusable image: reading it raises [`UnreadableImage`] with this message.

    `name`, without line breaks, is that of the file.
    """
    assert kind in _REFUSED_KINDS and "\n" not in name
    return f"{REFUSED}{kind}{f': {name}' if name else ''}\n{message}"


def refused_name(location: str) -> str:
    """The file that a location beginning with `REFUSED` names; empty if it names none."""
    return _split_refused(location)[1]


def _split_refused(location: str) -> tuple[str, str, str]:
    """Kind, name and message of what `refused_location` gave; of another location its path is the name."""
    path = location.removeprefix(REFUSED)
    head, _, message = path.partition("\n")
    kind, _, name = head.partition(": ")
    return (kind, name, message) if message and kind in _REFUSED_KINDS else ("", path, "")


# ------------------------------------------------------------------------------------------------------------- opening


def open_image(
    source: str | os.PathLike | bytes | dict[str, Any] | Image.Image,
    limits: ImageLimits = DEFAULT_LIMITS,
    draft_edge: int | None = None,
) -> Image.Image:
    """Open and decode an image, without converting it to RGB or turning it upright.

    Args:
        source (`str`, `os.PathLike`, `bytes`, `dict` or `PIL.Image.Image`): Path of a regular file, URL (`http`,
            `https`, or `s3`, `gs`, `az`, `abfs`, `hf` through fsspec), `data:image/...;base64,` URL or bare base64
            text, bytes of an image file, open binary file, mapping with `"bytes"` or `"path"` as from
            `datasets.Image(decode=False)`, or image.
        limits ([`ImageLimits`], *optional*): Limits on reading.
        draft_edge (`int`, *optional*): Decode JPEG files at 1/2, 1/4 or 1/8 of their size, the smallest whose shorter
            edge has this many pixels. Such an image has an attribute `drafted`: width and height in the file, and
            left, top, width and height of the part that they became (0, 0, 125.125, 100 of 126x100 for 1001x800).

    Returns:
        `PIL.Image.Image`: The image with its pixels loaded.

    Raises:
        UnreadableImage: a `ValueError` with a `kind`. The file is missing, not a regular file, empty, truncated, not
            in one of `IMAGE_FORMATS`, or larger than `limits`; the location is refused, or the download failed.
        TypeError: `source` is none of the above.
    """
    source = unwrap_source(source)
    if isinstance(source, Image.Image):
        return _decode(source, limits)
    if hasattr(source, "read"):
        source = source.read(limits.max_bytes + 1)
    if isinstance(source, bytes | bytearray | memoryview):
        return _read_bytes(source, limits, draft_edge)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"expected a PIL image, an array, a tensor, a path, a URL or the bytes of an image file, got "
            f"{type(source).__name__}."
        )
    text = os.fsdecode(source) if isinstance(source, os.PathLike) else source
    if not text.strip():
        raise UnreadableImage("image missing", "the path is blank.")
    scheme = check_scheme(text) if isinstance(source, str) else None
    if scheme in ("http", "https", *_REMOTE):
        try:
            return _read_bytes(_fetch(text, scheme, limits), limits, draft_edge)
        except UnreadableImage as error:
            raise UnreadableImage(error.kind, f"{text[:200]}: {error}") from error
    if scheme == "data":
        return _read_base64(text, limits, draft_edge)
    return _read_file(text, limits, draft_edge, may_be_base64=isinstance(source, str))


def unwrap_source(source: Any) -> Any:
    """Take the bytes or the path out of a mapping of `datasets.Image(decode=False)`; leave anything else."""
    if isinstance(source, dict) and source.keys() & {"bytes", "path"}:
        data = source.get("bytes")
        if data is not None and not isinstance(data, bytes | bytearray | memoryview):
            # Text here would be taken for a path that nothing has checked.
            raise UnreadableImage("not an image", f"its bytes are of type {type(data).__name__}.")
        return source.get("path") if data is None else data
    return source


def fetch_file(source: Any, limits: ImageLimits = DEFAULT_LIMITS) -> Any:
    """The bytes of the image file that [`open_image`] would decode; an image in memory or base64 text as it is.

    Raises:
        UnreadableImage: if the file is missing, no regular file or too large, refused, or cannot be downloaded.
    """
    source = unwrap_source(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    scheme = check_scheme(source) if isinstance(source, str) else None
    if scheme not in (None, "data"):
        return _fetch(source, scheme, limits)
    if not isinstance(source, str | os.PathLike) or scheme == "data" or not os.path.lexists(source):
        return source
    with open_regular(os.fsdecode(source), limits) as file:
        return file.read()


def _fetch(url: str, scheme: str, limits: ImageLimits) -> bytes:
    return (_read_remote if scheme in _REMOTE else _download)(url, limits)


def _read_file(path: str, limits: ImageLimits, draft_edge: int | None, may_be_base64: bool) -> Image.Image:
    try:
        file = open_regular(path, limits)
    except UnreadableImage as error:
        if may_be_base64 and error.kind == "file missing":
            return _read_base64(path, limits, draft_edge)
        raise
    with file:
        return _read(file, limits, draft_edge)


def open_regular(path: str, limits: Any) -> BinaryIO:
    """Open a regular file to read; `limits.check_bytes` gets its size.

    Raises:
        UnreadableImage: if it is missing, cannot be opened, or is a folder, a pipe or a device.
    """
    try:
        # Non-blocking, because opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a null byte
        if not os.path.lexists(path):
            raise UnreadableImage("file missing", f"there is no file {path[:200]}.") from error
        reason = getattr(error, "strerror", None) or error
        raise UnreadableImage("file cannot be read", f"the file cannot be opened: {reason}.") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise UnreadableImage("not a regular file", f"{path[:200]} is {kind}, not a file.")
    file = os.fdopen(descriptor, "rb")
    try:
        limits.check_bytes(status.st_size)
    except UnreadableImage:
        file.close()
        raise
    return file


def _read_bytes(data: bytes | bytearray | memoryview, limits: ImageLimits, draft_edge: int | None) -> Image.Image:
    limits.check_bytes(len(data))
    return _read(io.BytesIO(data), limits, draft_edge)


def _read(file: BinaryIO, limits: ImageLimits, draft_edge: int | None) -> Image.Image:
    try:
        # Formats of this Pillow: AVIF depends on how it was built, HEIF on a plug-in.
        image = Image.open(file, formats=[name for name in IMAGE_FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise UnreadableImage(
            "image too large",
            f"{str(error).rstrip('.')}. The limit is twice `PIL.Image.MAX_IMAGE_PIXELS`; raise it only for files that "
            "you trust.",
        ) from error
    except Exception as error:  # Pillow's readers raise many types for damaged headers
        if file.seek(0, os.SEEK_END) == 0:
            raise UnreadableImage("file empty", "the file is empty.") from error
        file.seek(0)
        if isinstance(error, UnidentifiedImageError):
            kind = "file damaged" if file.read(8).startswith(_SIGNATURES) else "not an image"
        else:
            kind = _classify_decoding_error(error)
        raise UnreadableImage(kind, "this is not an image that Pillow can read.") from error
    return _decode(image, limits, draft_edge)


def _decode(image: Image.Image, limits: ImageLimits, draft_edge: int | None = None) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise UnreadableImage("image too small", f"the image has no pixels: its size is {image.width}x{image.height}.")
    limits.check_pixels(*image.size)
    _check_decoder(image, limits)
    if image.format is not None and image.format not in IMAGE_FORMATS and getattr(image, "tile", None):
        raise UnreadableImage(
            "not an image", f"the format {image.format} is not decoded; the formats are {', '.join(IMAGE_FORMATS)}."
        )
    try:
        if draft_edge is not None:
            size = image.size
            drafted = image.draft(None, (draft_edge, draft_edge))
            if drafted is not None and image.size != size:
                image.drafted = (size, drafted[1])
        image.load()
    except MemoryError as error:
        raise UnreadableImage(
            "image too large", f"there is not enough memory for its {image.width}x{image.height} pixels."
        ) from error
    except Exception as error:  # OSError, SyntaxError, struct.error, zlib.error, ... depending on the format
        kind = _classify_decoding_error(error)
        raise UnreadableImage(kind, f"the {image.format or 'image'} data cannot be decoded: {error}.") from error
    limits.check_pixels(*image.size)  # the size of an icon is certain only now
    return image


def _check_decoder(image: Image.Image, limits: ImageLimits) -> None:
    """Refuse images with few pixels or bytes that would still take minutes or gigabytes to decode."""
    tiles = getattr(image, "tile", None) or []
    is_slow = any(tile[0] in Image.DECODERS for tile in tiles)  # decoders written in Python
    if is_slow and image.width * image.height > _MAX_SLOW_PIXELS:
        raise UnreadableImage(
            "image too large",
            f"it has {image.width}x{image.height} pixels; this kind of {image.format} decodes slowly and may have "
            f"{_MAX_SLOW_PIXELS:,}.",
        )
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        sides = [tags.get(tag) for tag in _TILE_TAGS]
        if all(isinstance(side, int) for side in sides):
            limits.check_pixels(*sides)


def _classify_decoding_error(error: Exception) -> str:
    text = str(error).lower()
    if "truncated" in text or "unexpected end" in text or "broken data stream" in text:
        return "file truncated"
    if isinstance(error, NotImplementedError) or any(
        words in text for words in ("unsupported", "not supported", "wrong mode")
    ):
        return "format not supported"
    return "file damaged"


def _read_base64(text: str, limits: ImageLimits, draft_edge: int | None) -> Image.Image:
    is_url = text[:5].lower() == "data:"
    limits.check_bytes(len(text) * 3 // 4)
    try:
        data = base64.b64decode("".join(text.partition(",")[2].split() if is_url else text.split()), validate=True)
        return _read_bytes(data, limits, draft_edge)
    except ValueError as error:
        if isinstance(error, UnreadableImage) and (is_url or error.kind == "image too large"):
            raise
        if is_url:
            raise UnreadableImage("not an image", "the data URL does not hold the base64 text of an image.") from error
        raise UnreadableImage(
            "file missing", f"there is no file {text[:200]}, and it is neither a URL nor the base64 text of an image."
        ) from error


# ----------------------------------------------------------------------------------------------------------- downloads


def _download(url: str, limits: ImageLimits) -> bytes:
    transfer = _Transfer(limits.max_seconds)
    data = bytearray()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "clip_hf"})
        with transfer, transfer.opener.open(request, timeout=limits.max_seconds) as response:
            limits.check_bytes(int(response.headers.get("Content-Length") or 0))
            while chunk := response.read1(_CHUNK):
                data += chunk
                limits.check_bytes(len(data))
            missing = getattr(response, "length", None)
            if missing and not transfer.is_over:
                raise UnreadableImage(
                    "download failed", f"the download broke off {missing:,} bytes before the announced end."
                )
    except UnreadableImage:
        raise
    # HTTPException: malformed answers; ValueError: impossible addresses.
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not transfer.is_over:
            reason = str(error).removeprefix("<urlopen error ").removesuffix(">") or type(error).__name__
            raise UnreadableImage("download failed", f"the download failed: {reason.rstrip('.')}.") from error
    if transfer.is_over:
        raise UnreadableImage(
            "download failed", f"the download took longer than the {limits.max_seconds:g} seconds allowed."
        )
    return bytes(data)


class _Transfer:
    """Opens http and https only, and closes the connection when the time is over, whatever it is waiting for."""

    def __init__(self, seconds: float):
        self._end_time = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self.opener = urllib.request.OpenerDirector()
        handlers = (
            urllib.request.ProxyHandler(),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            _HttpOnlyRedirects(),
            urllib.request.HTTPErrorProcessor(),
            _build_handler(urllib.request.HTTPHandler, http.client.HTTPConnection, "http_open", self._connect),
            _build_handler(urllib.request.HTTPSHandler, http.client.HTTPSConnection, "https_open", self._connect),
        )
        for handler in handlers:
            self.opener.add_handler(handler)

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._end_time - 0.05  # a socket's time-out may end a little earlier

    def __enter__(self) -> "_Transfer":
        self._timer.start()
        return self

    def __exit__(self, *_) -> None:
        self._timer.cancel()
        for each in self._sockets:
            each.close()

    def _connect(self, create: Callable, address: tuple, timeout: float, *args) -> socket.socket:
        if self.is_over:
            raise TimeoutError("the time is over")
        result = create(address, min(timeout, self._end_time - time.monotonic()), *args)
        # A second handle, because the handshake of https takes over the first.
        self._sockets.append(result.dup())
        if self.is_over:  # while it connected
            self._end()
        return result

    def _end(self) -> None:
        for each in list(self._sockets):
            try:
                each.shutdown(socket.SHUT_RDWR)  # pending reads end
            except OSError:
                pass  # already closed


class _HttpOnlyRedirects(urllib.request.HTTPRedirectHandler):
    def http_error_302(self, req, fp, code, msg, headers):
        # urllib would read the whole body of a redirect before it follows.
        fp.read = lambda *_: b""
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise UnreadableImage("download failed", f"the server redirects to {newurl[:200]!r}, which is not http.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _build_handler(handler: type, connection: type, method: str, connect: Callable) -> urllib.request.BaseHandler:
    """Build a urllib handler that connects by `connect(create, address, timeout, ...)`."""

    class WatchedConnection(connection):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._create_connection = partial(connect, self._create_connection)

    opener = handler()
    setattr(opener, method, lambda request: opener.do_open(WatchedConnection, request))
    return opener


def _read_remote(url: str, limits: ImageLimits) -> bytes:
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            data = file.read(limits.max_bytes + 1)
    except FileNotFoundError as error:
        raise UnreadableImage("file missing", "there is no such file.") from error
    except Exception as error:  # each file system raises its own types
        raise UnreadableImage("file cannot be read", f"it cannot be read: {error}.") from error
    limits.check_bytes(len(data))
    return data


def flatten_images(images: Any) -> Iterator[Any]:
    """Yield the single images in nested sequences (lists, columns of a dataset) and in batched arrays."""
    if isinstance(images, Sequence) and not isinstance(images, str | bytes | bytearray | memoryview):
        for item in images:
            yield from flatten_images(item)
    elif isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        yield from images
    else:
        yield images
