# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Opening images: paths, URLs, the bytes of files, and what is wrong with them."""

import base64
import os
import urllib.request
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image


URL_TIMEOUT = 30  # seconds


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
