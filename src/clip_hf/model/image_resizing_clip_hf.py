# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Resizing and cropping in one go: Pillow's pixels, without the work that the crop throws away.

Pillow resizes in two passes, one along each axis, each rounded to the pixel type; a pass computes every row (or
column) on its own. So rows that no pixel of the crop uses can be left out of a first pass along x, and columns out of
the second, without changing a bit. To leave columns out of the first pass, Pillow's `box` has to begin and end at
whole pixels (it is float32), and the weights have to be the same integers; `_aligned_columns` checks both. Images that
are so long that the crop keeps little of them would take gigabytes (1x10,000 becomes 224x2,240,000); `_bicubic_window`
computes their crop alone, in Pillow's arithmetic. Which pass comes first depends on the version of Pillow and is found
out by trying; where no known rule holds, Pillow resizes the whole image.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from PIL import Image
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import PILImageResampling, SizeDict, get_image_size_for_max_height_width


WEIGHT_BITS = 22  # Pillow: PRECISION_BITS = 32 - 8 - 2
BICUBIC_SUPPORT, MAX_SUPPORT = 2, 5  # source pixels around a centre that bicubic, and any filter, uses at scale 1
LONG_IMAGE = 8  # resized edge over cropped edge from where on the crop is computed alone
CHUNK_PIXELS = 2**24  # pixels of an intermediate image; twice as many of the source are read at once
CHUNK_STEPS = 2**20  # places along an axis that are computed at once
PARALLEL_PIXELS = 2**20  # source pixels from where on the rows of one image are shared between threads
WINDOW_MODES = ("L", "La", "RGB", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")

# Whether Pillow resizes along y first, from width, height, new width and new height.
PASS_ORDERS: dict[str, Callable[[int, int, int, int], bool]] = {
    "Pillow to 12.0": lambda width, height, new_width, new_height: False,
    "Pillow 12.1 to 12.3": lambda width, height, new_width, new_height: height > max(100 * width, new_height),
    "Pillow 13": lambda width, height, new_width, new_height: height - new_height > max(2 * (width - new_width), 0),
}
# Sizes at both sides of each rule's edge, all of which show which pass came first.
PASS_ORDER_PROBES = ((9, 9, 4, 4), (7, 9, 5, 5), (7, 10, 5, 5), (2, 200, 3, 4), (2, 201, 3, 4), (2, 201, 3, 203))

Window = tuple[int, int, int, int]  # left, top, right, bottom


def resized_size(width: int, height: int, size: SizeDict) -> tuple[int, int]:
    """Width and height after resizing; the longer edge is cut to an integer as torchvision does."""
    if size.shortest_edge and size.longest_edge:
        new_height, new_width = get_size_with_aspect_ratio((height, width), size.shortest_edge, size.longest_edge)
    elif size.shortest_edge:
        new_width = new_height = size.shortest_edge
        if width <= height:
            new_height = int(size.shortest_edge * height / width)
        else:
            new_width = int(size.shortest_edge * width / height)
    elif size.max_height:
        new_height, new_width = get_image_size_for_max_height_width((height, width), size.max_height, size.max_width)
    else:
        new_height, new_width = size.height, size.width
    return new_width, new_height


def crop_start(length: int, crop: int) -> int:
    """First pixel of a centre crop; negative where the image is smaller and has to be padded.

    torchvision rounds the start of the crop (half to even), and puts the odd pixel of a padding at the end.
    """
    return round((length - crop) / 2) if crop <= length else -((crop - length) // 2)


def crop_array(array: np.ndarray, window: Window) -> np.ndarray:
    """The window of (height, width, channels), filled up with zeros where it reaches beyond."""
    left, top, right, bottom = window
    height, width = array.shape[:2]
    margins = ((max(-top, 0), max(bottom - height, 0)), (max(-left, 0), max(right - width, 0)), (0, 0))
    part = array[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    return np.pad(part, margins) if any(map(any, margins)) else part


def _bicubic_weights(
    in_size: int, out_size: int, first: int, last: int, box: tuple[int, int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pillow's fixed-point weights of the output pixels `first` to `last`.

    Args:
        in_size (`int`): Length of the source.
        out_size (`int`): Length of the result of resizing the whole `box`.
        first, last (`int`): The output pixels wanted, without `last`.
        box (`tuple[int, int]`, *optional*): The part of the source that is resized; all of it if not given.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: The first source pixel of each output pixel (last - first,), and its weights
        times 2**22 (last - first, taps), zero past the last source pixel.
    """
    start, stop = box or (0, in_size)
    scale = (stop - start) / out_size
    filter_scale = max(scale, 1.0)
    support = 2.0 * filter_scale
    # The order of the operations is Pillow's (`precompute_coeffs` in Resample.c): the last bit counts.
    center = start + (np.arange(first, last) + 0.5) * scale
    lowest = np.maximum((center - support + 0.5).astype(np.int64), 0)
    counts = np.minimum((center + support + 0.5).astype(np.int64), in_size) - lowest
    taps = np.arange(counts.max())
    x = np.abs(((taps + lowest[:, None]) - center[:, None] + 0.5) * (1.0 / filter_scale))
    weights = np.where(x < 1.0, (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5)
    weights = np.where((x < 2.0) & (taps < counts[:, None]), weights, 0.0)
    weights /= np.add.accumulate(weights, axis=1)[:, -1:]
    return lowest, (weights * 2.0**WEIGHT_BITS + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)


def _weighted_rows(pixels: np.ndarray, offset: int, lowest: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Resample the first axis of uint8 `pixels`, whose first row is row `offset` of the image."""
    total = np.full((len(lowest), *pixels.shape[1:]), 1 << (WEIGHT_BITS - 1), np.int32)
    for tap in range(weights.shape[1]):
        rows = np.minimum(lowest + tap - offset, len(pixels) - 1)  # past the end the weight is 0
        total += pixels[rows] * weights[:, tap].reshape(-1, *[1] * (pixels.ndim - 1))
    return np.clip(total >> WEIGHT_BITS, 0, 255).astype(np.uint8)


def _bicubic_window(image: Image.Image, size: tuple[int, int], window: Window, along_y_first: bool) -> Image.Image:
    """`image.resize(size, BICUBIC).crop(window)` without the rest; for the modes of `WINDOW_MODES`."""
    left, top, right, bottom = window
    columns, column_weights = _bicubic_weights(image.width, size[0], left, right)
    rows, row_weights = _bicubic_weights(image.height, size[1], top, bottom)
    box = (columns[0], rows[0], columns[-1] + column_weights.shape[1], rows[-1] + row_weights.shape[1])
    pixels = np.asarray(
        image.crop((*map(int, box[:2]), min(int(box[2]), image.width), min(int(box[3]), image.height)))
    )
    for along_y in (along_y_first, not along_y_first):
        if along_y and size[1] != image.height:
            pixels = _weighted_rows(pixels, rows[0], rows, row_weights)
        elif along_y:
            pixels = pixels[top - rows[0] : bottom - rows[0]]
        elif size[0] != image.width:
            pixels = np.swapaxes(pixels, 0, 1)
            pixels = np.swapaxes(_weighted_rows(pixels, columns[0], columns, column_weights), 0, 1)
        else:
            pixels = pixels[:, left - columns[0] : right - columns[0]]
    return Image.frombytes(image.mode, (right - left, bottom - top), pixels.tobytes())


@lru_cache(maxsize=1)
def _pass_order() -> Callable[[int, int, int, int], bool] | None:
    """The entry of `PASS_ORDERS` that the installed Pillow follows, or None."""

    def follows(rule: Callable[[int, int, int, int], bool]) -> bool:
        for width, height, new_width, new_height in PASS_ORDER_PROBES:
            image = Image.frombytes("L", (width, height), bytes(i * i * 37 % 256 for i in range(width * height)))
            along_y_first = rule(width, height, new_width, new_height)
            halfway = image.resize((width, new_height) if along_y_first else (new_width, height))
            whole = image.resize((new_width, new_height))
            window = _bicubic_window(image, whole.size, (0, 0, *whole.size), along_y_first)
            if not halfway.resize(whole.size).tobytes() == whole.tobytes() == window.tobytes():
                return False
        return True

    return next((rule for rule in PASS_ORDERS.values() if follows(rule)), None)


def _nearest_window(image: Image.Image, size: tuple[int, int], window: Window) -> Image.Image:
    """`image.resize(size, NEAREST).crop(window)` without the rest; for the modes 1 and P."""

    def source(in_size: int, out_size: int, first: int, last: int) -> np.ndarray:
        # Pillow adds step by step too. A piece at a time, because a long image has many steps before the crop.
        step, place, kept = in_size / out_size, 0.5 * (in_size / out_size), []
        for start in range(0, last, CHUNK_STEPS):
            steps = np.full(min(CHUNK_STEPS, last - start), step)
            steps[0] = place
            places = np.add.accumulate(steps)
            place = places[-1] + step
            kept.append(places[max(first - start, 0) :].astype(np.int64))
        return np.concatenate(kept)

    rows = source(image.height, size[1], window[1], window[3])
    columns = source(image.width, size[0], window[0], window[2])
    result = Image.fromarray(np.asarray(image)[rows[:, None], columns])
    if image.mode == "P":
        result.putpalette(image.getpalette())
    return result


@lru_cache(maxsize=256)
def _aligned_columns(in_size: int, out_size: int, first: int, last: int) -> tuple[int, int, int, int]:
    """The narrowest run of output pixels around `first` to `last` that begins and ends at whole source pixels.

    Returns:
        `tuple[int, int, int, int]`: First and last source pixel, first and last output pixel.
    """
    step = out_size // math.gcd(in_size, out_size)
    low, high = first // step * step, -(-last // step) * step
    box = (low * in_size // out_size, high * in_size // out_size)
    whole = (0, in_size, 0, out_size)
    if high - low == out_size or in_size >= 2**24:
        return whole
    expected = _bicubic_weights(in_size, out_size, low, high)
    found = _bicubic_weights(in_size, high - low, 0, high - low, box)
    same = all(np.array_equal(one, other) for one, other in zip(expected, found))
    return (*box, low, high) if same else whole


def _resize_columns(
    image: Image.Image, size: tuple[int, int], window: Window, resample: int, threads: int
) -> Image.Image:
    """Pillow's first pass for the columns of `window`: (window width, image height), rows without use left blank."""
    width, height = image.size
    scale = height / size[1]
    support = (BICUBIC_SUPPORT if resample == PILImageResampling.BICUBIC else MAX_SUPPORT) * max(scale, 1.0) + 1
    top = max(int((window[1] + 0.5) * scale - support), 0)
    bottom = min(math.ceil((window[3] - 0.5) * scale + support), height)
    start, stop, low, high = 0, width, 0, size[0]
    if resample == PILImageResampling.BICUBIC and size[0] != width and image.mode[0] not in "IF":  # 8 bits
        start, stop, low, high = _aligned_columns(width, size[0], window[0], window[2])

    rows = min(max(CHUNK_PIXELS // max(size[0], width // 2), 1), -(-(bottom - top) // threads))

    def strip(first: int) -> Image.Image:
        last = min(first + rows, bottom)
        part = image if last - first == height else image.crop((0, first, width, last))
        if size[0] != width:
            part = part.resize((high - low, last - first), resample, (start, 0, stop, last - first))
        return part.crop((window[0] - low, 0, window[2] - low, last - first))

    starts = range(top, bottom, rows)
    placed = zip([(0, first) for first in starts], map_in_threads(strip, starts, threads))
    return _joined(placed, (window[2] - window[0], height))


def _resize_rows(image: Image.Image, height: int, window: Window, resample: int) -> Image.Image:
    """Pillow's second pass, cropped to the rows of `window`, a few columns at a time where the result is very long."""
    width = image.width
    if height == image.height:
        return image.crop((0, window[1], width, window[3]))
    step = max(CHUNK_PIXELS // height, 1)
    placed = (
        (
            (first, 0),
            image.crop((first, 0, min(first + step, width), image.height))
            .resize((min(step, width - first), height), resample)
            .crop((0, window[1], min(step, width - first), window[3])),
        )
        for first in range(0, width, step)
    )
    return _joined(placed, (width, window[3] - window[1]))


def _joined(placed: Iterable[tuple[tuple[int, int], Image.Image]], size: tuple[int, int]) -> Image.Image:
    """One image from parts and their places."""
    canvas = None
    for (x, y), part in placed:
        if canvas is None:  # cropping keeps the mode and the palette, and fills up with zeros
            canvas = part.crop((-x, -y, size[0] - x, size[1] - y))
        else:
            canvas.paste(part, (x, y))
    return canvas


def map_in_threads(function: Callable, items: Iterable, threads: int) -> Iterator:
    """As `map`, by several threads at once where there are several; the first error in order is raised."""
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, items)


def resize_and_crop(
    image: Image.Image,
    size: tuple[int, int],
    window: Window,
    resample: int = PILImageResampling.BICUBIC,
    threads: int = 1,
) -> Image.Image:
    """`image.resize(size, resample).crop(window)`, the same bits, without the work and memory for what is cropped.

    Args:
        image (`PIL.Image.Image`):
            An image of any mode.
        size (`tuple[int, int]`):
            Width and height to resize to.
        window (`tuple[int, int, int, int]`):
            Left, top, right and bottom of the crop in the resized image, some of which it has to show. What reaches
            beyond is filled with zeros.
        resample (`int`, *optional*, defaults to `PILImageResampling.BICUBIC`):
            Pillow's filter. As in Pillow, the modes 1 and P always use `NEAREST`.
        threads (`int`, *optional*, defaults to 1):
            Threads that share the rows of a large image, of more than a megapixel.

    Returns:
        `PIL.Image.Image`: An image of the mode of `image`, (right - left) wide and (bottom - top) high.
    """
    inside = (max(window[0], 0), max(window[1], 0), min(window[2], size[0]), min(window[3], size[1]))
    if image.mode in ("1", "P"):
        resample = PILImageResampling.NEAREST
    if image.size == size:
        return image if window == (0, 0, *size) else image.crop(window)
    premultiplied = {"LA": "La", "RGBA": "RGBa"}.get(image.mode)
    if premultiplied and resample != PILImageResampling.NEAREST:  # as Pillow does
        return resize_and_crop(image.convert(premultiplied), size, window, resample, threads).convert(image.mode)

    whole = inside == (0, 0, *size)
    threads = threads if image.width * image.height >= PARALLEL_PIXELS else 1
    is_long = max(size[0] / (inside[2] - inside[0]), size[1] / (inside[3] - inside[1])) > LONG_IMAGE
    is_nearest = resample == PILImageResampling.NEAREST
    rule = _pass_order()
    along_y_first = rule is not None and rule(*image.size, *size)
    if is_long and image.mode in ("1", "P"):
        result = _nearest_window(image, size, inside)
    elif rule is None or (not is_long and (along_y_first or is_nearest or (whole and threads == 1))):
        result = image.resize(size, resample)
        result = result if whole else result.crop(inside)
    elif image.mode in WINDOW_MODES and resample == PILImageResampling.BICUBIC and is_long:
        result = _bicubic_window(image, size, inside, along_y_first)
    elif along_y_first:
        flipped = (inside[1], inside[0], inside[3], inside[2])
        result = _resize_columns(image.transpose(Image.Transpose.TRANSPOSE), size[::-1], flipped, resample, threads)
        result = _resize_rows(result, size[0], flipped, resample).transpose(Image.Transpose.TRANSPOSE)
    else:
        result = _resize_columns(image, size, inside, resample, threads)
        result = _resize_rows(result, size[1], inside, resample)
    if inside != window:
        left, top = inside[:2]
        result = result.crop((window[0] - left, window[1] - top, window[2] - left, window[3] - top))
    return result
