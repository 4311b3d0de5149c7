# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Encode batches of images while threads read the next ones; images that cannot be read are left out and counted."""

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.decoding import check_not_missing, skipped_image
from ..data.media import find_media
from ..data.skips import SkipCounter, SkippedRow
from ..model.image_reading_clip_hf import UnreadableImage
from .dual_encoder import DualEncoder, NotFiniteError


@dataclass(frozen=True)
class FeatureBatch:
    """Features of some items of a stream.

    Args:
        places (`np.ndarray` of shape (k,), int64): Where in the stream the items stand, counted from 0, ascending.
        items (`list`): The k items, as the stream gave them.
        features (`np.ndarray` of shape (k, dim), float32): Their features.
        skipped (`list[SkippedRow]`): What was left out since the batch before, because it cannot be read.
    """

    places: np.ndarray
    items: list[Any]
    features: np.ndarray
    skipped: list[SkippedRow]


def encode_ahead(
    encoder: DualEncoder,
    batches: Iterable[tuple[Sequence[int], list[Any]]],
    get_image: Callable[[Any], Any] | None = None,
    *,
    projected: bool,
    num_threads: int,
    may_skip: bool = True,
    may_be_nan: bool = False,
) -> Iterator[FeatureBatch]:
    """Encode batches, each the places of its items and the items, while threads prepare at most `num_threads` more.

    Batches are read in the caller's thread, images and `get_image` in the others. Without `may_skip`, an image that
    cannot be read is a ValueError. Where no image of a batch can be read, its features have the shape (0, 0).
    `NotFiniteError` says that the model gives NaN or infinite values; with `may_be_nan`, they are among the features.
    """

    def prepare(places: Sequence[int], items: list[Any]) -> tuple:
        sources = items if get_image is None else [get_image(item) for item in items]
        return places, items, *_prepare_readable(encoder, places, sources, may_skip)

    with closing(run_ahead(prepare, batches, num_threads)) as prepared:
        for places, items, inputs, skipped in prepared:
            kept = [index for index in range(len(items)) if index not in skipped]
            features = np.empty((0, 0), np.float32)
            if inputs is not None:
                try:
                    features = encoder.encode_images(inputs, projected=projected).numpy()
                except NotFiniteError as error:
                    if may_be_nan:
                        features = error.features.numpy()
                    else:
                        row = places[kept[error.row]]
                        noun = find_media(encoder.media).noun
                        raise NotFiniteError(row, f"the {noun} of row {row}") from error
            read = np.array([places[index] for index in kept], np.int64)
            yield FeatureBatch(read, [items[index] for index in kept], features, list(skipped.values()))


def run_ahead(prepare: Callable[..., tuple], batches: Iterable[tuple], num_threads: int) -> Iterator[tuple]:
    """What `prepare` makes of each batch; threads prepare at most `num_threads` batches after it.

    An error of `batches` comes after what was read before it.
    """
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="images")

    def submitted() -> Iterator[Future]:
        try:
            for batch in batches:
                yield pool.submit(prepare, *batch)
        except Exception as error:
            failed: Future = Future()
            failed.set_exception(error)
            yield failed

    try:
        for future in submitted():
            waiting.append(future)
            if len(waiting) > num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _prepare_readable(
    encoder: DualEncoder, places: Sequence[int], sources: list[Any], may_skip: bool
) -> tuple[dict[str, torch.Tensor] | None, dict[int, SkippedRow]]:
    """The model's inputs for the images that can be read, None if none can; and by their index the others."""
    try:
        return encoder.prepare(sources), {}
    except Exception as error:  # one image makes libraries raise whatever they like, as in training
        problem = error
    skipped: dict[int, SkippedRow] = {}
    noun = find_media(encoder.media).noun
    for index, (place, source) in enumerate(zip(places, sources, strict=True)):
        try:
            check_not_missing(source, noun)
            encoder.prepare([source])
        except Exception as error:
            # An `UnreadableImage` of another one names its place among these; one of FFmpeg's or Pillow's says more.
            inner = UnreadableImage if isinstance(error, UnreadableImage) else (ValueError, TypeError)
            is_wrapped = isinstance(error.__cause__, inner)
            cause = error.__cause__ if is_wrapped else error
            skipped[index] = skipped_image(cause, source, f"row {place}", noun)
            if not may_skip:
                raise ValueError(skipped[index].message) from error
    if not skipped:
        raise problem
    readable = [source for index, source in enumerate(sources) if index not in skipped]
    return (encoder.prepare(readable) if readable else None), skipped


# ----------------------------------------------------------------------------------------------------- skipped images


def check_skips(skips: SkipCounter, rows: int) -> None:
    """ValueError if too many of the `rows` were skipped. One is always allowed, unless the share is 0."""
    if skips.num_skipped > max(skips.max_skipped_share * rows, 1 if skips.max_skipped_share else 0):
        skips.check()


def skip_examples(skips: SkipCounter) -> list[str]:
    """The first messages of each kind, the most common kind first."""
    return [message for kind, _ in skips.kinds.most_common() for message in skips.examples[kind]]


def finish_skips(skips: SkipCounter, name: str, is_main: bool = True, noun: str = "image") -> None:
    """Warn of the images (or films, the `noun`) of the data `name` that were skipped; ValueError if they are too many,
    or all.
    """
    check_skips(skips, skips.num_used + skips.num_skipped)
    shown = " ".join(skip_examples(skips))
    if not skips.num_used:
        raise ValueError(f"No {noun} of {name} can be read: {shown}")
    if skips.num_skipped and is_main:
        warnings.warn(f"{noun.capitalize()}s of {name} that cannot be read: {skips.summary()} {shown}", stacklevel=3)
