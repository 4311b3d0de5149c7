# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Texts and images as a client sends them: read, checked, and in batches below a server's limits."""

import base64
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..model.image_reading_clip_hf import ImageLimits, fetch_file, open_image


# Base64 adds a third, and a server takes 32 MiB by default.
IMAGE_LIMITS = ImageLimits(max_bytes=24 * 2**20)
MAX_BATCH_BYTES = 8 * 2**20
PAUSE = object()
"""Stands among items for a pause: what came before is sent and answered, without waiting for more."""
_CHANNELS = (1, 3, 4)
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_TIFF_MODES = ("PA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16L", "I;16B")
_FILE_MODES = {"La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}  # in which an image processor resizes these anyway


class ItemError(ValueError):
    """A text or image that cannot be used; the others can.

    Args:
        index (`int`): Its place among those that were given, from 0.
        kind (`str`): `"image"` or `"text"`.
        message (`str`): What is wrong with it.
    """

    def __init__(self, index: int, kind: str, message: str):
        super().__init__(f"{kind.capitalize()} {index}: {message}")
        self.index, self.kind, self.message = index, kind, message

    def __reduce__(self):
        return type(self), (self.index, self.kind, self.message)


@dataclass(frozen=True)
class Batch:
    """Consecutive items: the place of the first, and what is sent of each, or the [`ItemError`] of a bad one."""

    first: int
    kind: str
    items: list[Any]


def read_image(source: Any) -> bytes:
    """The bytes of an image file: those of the file that is named, or a PNG or TIFF of an image in memory.

    Args:
        source: What [`open_image`] takes, or an array or tensor of uint8 or bool: (height, width), (height, width,
            channels) or (channels, height, width).

    Raises:
        UnreadableImage: if the file is not there, too large or no file, or cannot be downloaded.
        TypeError, ValueError: if it is no image.
    """
    if isinstance(source, np.ndarray | torch.Tensor):
        source = _image_of(source)
    elif hasattr(source, "read"):
        source = source.read(IMAGE_LIMITS.max_bytes + 1)
    data = fetch_file(source, IMAGE_LIMITS)
    if not isinstance(data, bytes):
        data = _as_file(open_image(data, IMAGE_LIMITS))
    IMAGE_LIMITS.check_bytes(len(data))
    return data


def _image_of(source: np.ndarray | torch.Tensor) -> Image.Image:
    array = source.detach().cpu() if isinstance(source, torch.Tensor) else source
    if array.ndim not in (2, 3) or str(array.dtype).removeprefix("torch.") not in ("uint8", "bool"):
        raise _no_image(array)
    array = np.asarray(array)
    array = array * np.uint8(255) if array.dtype == bool else array
    if array.ndim == 3:
        is_first, is_last = array.shape[0] in _CHANNELS, array.shape[2] in _CHANNELS
        if is_first and is_last:
            raise ValueError(
                f"in an array of shape {array.shape} the first or the last axis may be the channels: pass a PIL image."
            )
        if not is_first and not is_last:
            raise _no_image(array)
        array = np.moveaxis(array, 0, 2) if is_first else array
        array = array[..., 0] if array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(array))


def _no_image(array: np.ndarray | torch.Tensor) -> ValueError:
    return ValueError(
        f"an array of shape {tuple(array.shape)} and dtype {array.dtype} is no image that can be sent: pass uint8 or "
        "bool of shape (height, width), (height, width, channels) or (channels, height, width)."
    )


def _as_file(image: Image.Image) -> bytes:
    """The image in a file of which the server computes what it would of the image; ValueError if there is none."""
    file = io.BytesIO()
    exif, mode = image.getexif(), _FILE_MODES.get(image.mode, image.mode)
    image = image if mode == image.mode else image.convert(mode)
    if mode in _PNG_MODES:
        image.save(file, "PNG", compress_level=1, exif=exif)
    elif mode in _TIFF_MODES:
        image.save(file, "TIFF", exif=exif)
    else:
        raise ValueError(
            f'no file holds an image of mode {mode} exactly: convert it to another mode, such as image.convert("RGB").'
        )
    return file.getvalue()


def read_text(text: Any) -> str:
    """The text, checked: a string that is valid Unicode."""
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.80} is no text: pass a string.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r:.80} holds half a character (a lone surrogate), which cannot be sent.") from None
    return text


def read_item(item: Any) -> str | bytes:
    """A string as a text, anything else as an image."""
    return read_text(item) if isinstance(item, str) else read_image(item)


def wire(item: str | bytes) -> dict[str, str]:
    """A text or an image as JSON has it."""
    if isinstance(item, bytes):
        return {"image": base64.b64encode(item).decode("ascii")}
    return {"text": item}


def batches(
    items: Iterable[Any], kind: str, read: Callable[[Any], str | bytes], max_items: int
) -> Iterator[Batch | None]:
    """Read items into batches of at most `max_items` and `MAX_BATCH_BYTES`; None at a pause."""
    first, batch, size = 0, [], 0
    for item in _listed(items, kind):
        if item is PAUSE:
            if batch:
                yield Batch(first, kind, batch)
            first, batch, size = first + len(batch), [], 0
            yield None
            continue
        try:
            item = read(item)
        except (ValueError, TypeError, OSError) as error:
            failure = ItemError(first + len(batch), kind, str(error))
            failure.__cause__ = error
            item = failure
        length = 0 if isinstance(item, ItemError) else len(item)
        if batch and (len(batch) == max_items or size + length > MAX_BATCH_BYTES):
            yield Batch(first, kind, batch)
            first, batch, size = first + len(batch), [], 0
        batch.append(item)
        size += length
    if batch:
        yield Batch(first, kind, batch)


def _listed(items: Iterable[Any], kind: str) -> Iterable[Any]:
    """The items; a TypeError for a single one, of which the characters, rows or lines would be taken."""
    if hasattr(items, "__aiter__"):
        raise TypeError(f"An asynchronous generator of {kind}s is for `AsyncClient`; pass a list or a generator.")
    is_array = isinstance(items, np.ndarray | torch.Tensor) and items.ndim in (0, 2, 3)  # a batch of images has 4
    is_one = isinstance(items, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | dict)
    if is_one or is_array or hasattr(items, "read") or not hasattr(items, "__iter__"):
        raise TypeError(f"Pass a list of {kind}s, not one {type(items).__name__}: [{kind}].")
    return items
