# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Opening images: paths, URLs, the bytes of files, and what is wrong with them."""

import base64
import os
import re
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image


URL_TIMEOUT = 30  # seconds

# Raster formats that Pillow reads by itself. Not EPS, for example, which starts Ghostscript.
IMAGE_FORMATS = (
    "AVIF BMP DDS DIB GIF HEIF ICNS ICO JPEG JPEG2000 MPO PCX PNG PPM PSD QOI SGI SUN TGA TIFF WEBP XBM XPM".split()
)


def _image_endings() -> frozenset[str]:
    Image.init()
    return frozenset(
        ending.lstrip(".") for ending, name in Image.registered_extensions().items() if name in IMAGE_FORMATS
    )


IMAGE_ENDINGS = _image_endings()
"""Endings of files that count as pictures, lower case and without the dot."""

# What a table may name besides files; `fsspec` opens those that are neither http nor data.
URL_SCHEMES = ("http", "https", "data", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf")
REFUSED = "refused:"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


@dataclass(frozen=True)
class ImageLimits:
    """What reading one image may take."""

    max_pixels: int | None = None
    max_resized_pixels: int = 10**10
    max_bytes: int = 2**29
    max_seconds: float = 60.0


DEFAULT_LIMITS = ImageLimits()


def image_location(value: Any, folder: "str | os.PathLike", root: "str | os.PathLike | None" = None) -> str | None:
    """Where the image is that a row of data names, or a text that begins with `REFUSED` and is refused when read.

    Args:
        value:
            What the row says. Relative paths start at `folder`.
        folder (`str` or `os.PathLike`):
            The folder of the table.
        root (`str` or `os.PathLike`, *optional*):
            Another folder below which paths may lead; `"/"` for any path.

    Returns:
        `str`: An absolute path below `folder` or `root`, or a URL of `URL_SCHEMES`; None for a blank value.
    """
    if not isinstance(value, str) or not value.strip():
        return None
    scheme = _SCHEME.match(value)
    if "::" in value or (scheme and "://" in value and scheme[1].lower() not in URL_SCHEMES):
        return f"{REFUSED}{value}"
    if scheme and ("://" in value or scheme[1].lower() == "data"):
        return value
    path = os.path.normpath(os.path.join(os.path.abspath(folder), value))
    allowed = [os.path.abspath(folder), *([] if root is None else [os.path.abspath(root)])]
    if not any(path.startswith(os.path.join(each, "")) for each in allowed):
        return f"{REFUSED}{value}"
    return path


class UnreadableImage(ValueError):
    """An image that cannot be used; `kind` says in few words what is wrong, the same for all with this trouble."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def open_image(source: "str | os.PathLike | bytes | dict[str, Any] | Image.Image") -> Image.Image:
    """Open and decode an image as it is stored: neither converted to RGB nor turned upright.

    Args:
        source (`str`, `os.PathLike`, `bytes`, `dict` or `PIL.Image.Image`):
            A path, a URL (`http://`, `https://`), a `data:image/...;base64,` URL or bare base64 text, the bytes of an
            image file, a mapping with `"bytes"` or `"path"` as `datasets.Image(decode=False)` gives, or an image.

    Returns:
        `PIL.Image.Image`: The image with its pixels loaded.

    Raises:
        ValueError: There is no such file, or it is empty, truncated, not an image that Pillow can read, or larger than
            Pillow's limit against decompression bombs (`PIL.Image.MAX_IMAGE_PIXELS`).
        TypeError: `source` is none of the above.
    """
    if isinstance(source, Image.Image):
        return _decoded(source)
    if isinstance(source, dict) and (source.get("bytes") is not None or source.get("path") is not None):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, str):
        if source.startswith(("http://", "https://")):
            return _read(BytesIO(_download(source)))
        if source.startswith("data:") or not os.path.exists(source):
            return _read_base64(source)
    if isinstance(source, str | os.PathLike):
        try:
            with open(source, "rb") as file:
                return _read(file)
        except OSError as error:
            raise ValueError(f"the file cannot be opened: {error.strerror or error}.") from error
    if isinstance(source, bytes | bytearray | memoryview):
        return _read(BytesIO(source))
    raise TypeError(
        f"expected a PIL image, an array, a tensor, a path, a URL or the bytes of an image file, got "
        f"{type(source).__name__}."
    )


def _read(file) -> Image.Image:
    try:
        image = Image.open(file)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{str(error).rstrip('.')}. The limit is twice `PIL.Image.MAX_IMAGE_PIXELS`; raise it only for files that "
            "you trust."
        ) from error
    except Exception as error:  # Pillow's readers raise many types for damaged headers
        if file.seek(0, os.SEEK_END) == 0:
            raise ValueError("the file is empty.") from error
        raise ValueError("this is not an image that Pillow can read.") from error
    return _decoded(image)


def _decoded(image: Image.Image) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ValueError(f"the image has no pixels: its size is {image.width}x{image.height}.")
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # OSError, SyntaxError, struct.error, zlib.error, ... depending on the format
        raise ValueError(f"the {image.format or 'image'} data cannot be decoded: {error}.") from error
    return image


def _download(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "clip_hf"})
    try:
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT) as response:
            return response.read()
    except OSError as error:
        raise ValueError(f"the download failed: {error}.") from error


def _read_base64(text: str) -> Image.Image:
    is_url = text.startswith("data:")
    try:
        data = base64.b64decode("".join(text.partition(",")[2].split() if is_url else text.split()), validate=True)
        return _read(BytesIO(data))
    except ValueError as error:
        if is_url:
            raise ValueError("the data URL does not hold the base64 text of an image.") from error
        raise ValueError("there is no such file, and it is neither a URL nor the base64 text of an image.") from error


def flatten_images(images: Any) -> Iterator[Any]:
    """The single images in nested sequences (lists, columns of a dataset) and in batched arrays."""
    if isinstance(images, Sequence) and not isinstance(images, str | bytes | bytearray | memoryview):
        for item in images:
            yield from flatten_images(item)
    elif isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4:
        yield from images
    else:
        yield images
