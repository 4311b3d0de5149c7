# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Features of streams: batch by batch, in bounded memory, images read in threads ahead of the model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import count, islice
from operator import itemgetter
from typing import Any

import datasets
import numpy as np

from ..data.locations import undecoded
from ..data.media import find_media
from ..data.skips import SkipCounter
from ..model.checks_clip_hf import type_of
from .dual_encoder import DualEncoder, check_texts
from .encoding_ahead import FeatureBatch, check_skips, encode_ahead, finish_skips
from .encoding_options import EncodingOptions


# Before this many items of a stream of unknown length, a share of skipped ones says little.
_LEAST_ITEMS = 1000
# Texts in one read: of those, texts of similar length share a pass of the model.
_TEXTS_PER_READ = 2048


def encode_image_stream(
    encoder: DualEncoder,
    images: Iterable[Any],
    get_image: Callable[[Any], Any] | str | int | None = None,
    *,
    projected: bool = True,
    options: EncodingOptions | None = None,
    name: str = "the stream",
) -> Iterator[FeatureBatch]:
    """Features of any number of images, batch by batch: the files of a folder, frames of a video, rows of a dataset.

    - Memory is bounded: at most `options.num_threads + 1` batches are read ahead of the model.
    - `images` is read in the caller's thread, image files and `get_image` in `options.num_threads` threads. An error
      of `images` comes after the features of what it gave before.
    - Images that cannot be read are left out by the rule of [`encode_readable_images`]: the number of all images is
      the length of `images`, or what was read so far, from 1,000 images on and again at the end.
    - With `options.accelerator`, each process reads all of `images` and encodes every n-th batch. No process waits for
      another, and an error stops only its own.

    Args:
        encoder (`DualEncoder`): The model.
        images (`Iterable`): Images, paths, URLs, bytes of files; or items of any kind, whose image `get_image`
            returns.
        get_image (`Callable`, `str` or `int`, *optional*): A function that returns an item's image, or a key to
            index the item with, such as a column of `datasets`. By default the item itself. An error that it raises
            ends the stream.
        projected (`bool`, *optional*, defaults to `True`): As in [`encode_image_column`].
        options ([`EncodingOptions`], *optional*): Batches, threads, processes, progress and how many images may be
            skipped.
        name (`str`, *optional*): What to call the stream in messages.

    Yields:
        [`FeatureBatch`]: in the order of the stream, without items whose image cannot be read.

    Raises:
        TypeError: if `images` is a single path, not an iterable, or a dataset without its column.
        ValueError: if there is a cache folder, too many images cannot be read, or features are not finite.
    """
    options, get = _check_stream(images, "images", get_image, options)
    if isinstance(images, (datasets.Dataset, datasets.IterableDataset)):
        if get_image is None:
            raise TypeError('The items of a dataset are rows: name the column of images, as in `get_image="image"`.')
        images = undecoded(images) if isinstance(get_image, str) else images
    return _image_batches(encoder, images, get, projected, options, name)


def _image_batches(
    encoder: DualEncoder,
    images: Iterable[Any],
    get_image: Callable[[Any], Any] | None,
    projected: bool,
    options: EncodingOptions,
    name: str,
) -> Iterator[FeatureBatch]:
    length = len(images) if hasattr(images, "__len__") else None
    least = _LEAST_ITEMS if length is None else -(-length // options.processes)
    skips, waiting = SkipCounter(options.max_skipped_share, min_rows=1), []
    batches = _share_of_batches(images, encoder.items_in(options.batch_size), options)
    encoded = encode_ahead(encoder, batches, get_image, projected=projected, num_threads=options.num_threads)
    with closing(encoded), options.progress_bar(encoder.name, "images", length) as bar:
        for batch in encoded:
            skips.add(batch.skipped, num_used=len(batch.places))
            check_skips(skips, max(least, skips.num_used + skips.num_skipped))
            waiting += batch.skipped
            if len(batch.places):
                yield FeatureBatch(batch.places, batch.items, batch.features, waiting)
                waiting = []
            bar.update((len(batch.places) + len(batch.skipped)) * options.processes)
    if skips.num_skipped:
        finish_skips(skips, name, noun=find_media(encoder.media).noun)


def encode_text_stream(
    encoder: DualEncoder,
    texts: Iterable[Any],
    get_text: Callable[[Any], str] | str | int | None = None,
    *,
    options: EncodingOptions | None = None,
) -> Iterator[FeatureBatch]:
    """Features of any number of texts, batch by batch. Memory is bounded: 2,048 texts are read at a time.

    Args:
        encoder (`DualEncoder`): The model.
        texts (`Iterable`): Texts; or items of any kind, whose text `get_text` returns.
        get_text (`Callable`, `str` or `int`, *optional*): A function or key for an item's text, as
            `get_image` in [`encode_image_stream`].
        options ([`EncodingOptions`], *optional*): Processes and progress; `batch_size` is for images.

    Yields:
        [`FeatureBatch`]: in the order of the stream, L2-normalised.

    Raises:
        TypeError: if `texts` is a single text or not an iterable, or a text is no string.
        ValueError: if there is a cache folder, or features are not finite.
    """
    options, get = _check_stream(texts, "texts", get_text, options)
    return _text_batches(encoder, texts, get, options)


def _text_batches(
    encoder: DualEncoder, items: Iterable[Any], get_text: Callable[[Any], str] | None, options: EncodingOptions
) -> Iterator[FeatureBatch]:
    length = len(items) if hasattr(items, "__len__") else None
    with options.progress_bar(encoder.name, "texts", length) as bar:
        for places, batch in _share_of_batches(items, _TEXTS_PER_READ, options):
            texts = check_texts(batch if get_text is None else map(get_text, batch), places[0])
            yield FeatureBatch(np.array(places), batch, encoder.encode_texts(texts).numpy(), [])
            bar.update(len(batch) * options.processes)


def _check_stream(
    items: Iterable[Any], what: str, get: Callable[[Any], Any] | str | int | None, options: EncodingOptions | None
) -> tuple[EncodingOptions, Callable[[Any], Any] | None]:
    """Check the arguments of a stream; returns the options, and the function that gets what to encode."""
    if isinstance(items, (str, bytes, bytearray, memoryview)) or not hasattr(items, "__iter__"):
        raise TypeError(f"`{what}` must be an iterable of {what}; given {items!r:.80}, {type_of(items)}.")
    options = options or EncodingOptions()
    if options.cache_dir is not None:
        raise ValueError(
            f"A stream has no cache, but `cache_dir` is {options.cache_dir!s}: write its batches where you need them, "
            "or encode a dataset with `encode_image_column`, which keeps them."
        )
    return options, itemgetter(get) if isinstance(get, (str, int)) else get


def _share_of_batches(
    items: Iterable[Any], size: int, options: EncodingOptions
) -> Iterator[tuple[Sequence[int], list[Any]]]:
    """Every n-th batch, the batches of this process: the places of its items, and the items.

    An error of `items` comes after the items before it.
    """
    iterator, problem = iter(items), None
    for number in count():
        batch: list[Any] = []
        try:
            for item in islice(iterator, size):
                batch.append(item)  # one by one, because those before an error count
        except Exception as error:
            problem = error
        if batch and number % options.processes == options.process:
            yield range(number * size, number * size + len(batch)), batch
        if problem is not None:
            raise problem
        if not batch:
            return
