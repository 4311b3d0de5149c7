# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Features of streams: batch by batch, in bounded memory, images read in threads ahead of the model."""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.decoding import check_not_missing, skipped_image
from ..data.locations import undecoded
from ..data.skips import SkipCounter, SkippedRow
from .dual_encoder import DualEncoder, NotFiniteError, check_texts


if TYPE_CHECKING:
    from accelerate import Accelerator

# Before this many items of a stream of unknown length, a share of skipped ones says little.
_LEAST_ITEMS = 1000
# Texts in one read: of those, texts of similar length share a pass of the model.
_TEXTS_PER_READ = 2048


@dataclass
class EncodingOptions:
    """How datasets and streams are encoded.

    Args:
        batch_size (`int`, *optional*, defaults to 64): Images in one pass of the model.
        num_threads (`int`, *optional*): Threads that read and prepare images while the model runs; by default the
            processor's cores, 8 at most.
        cache_dir (`str` or `os.PathLike`, *optional*): Where features are kept, so that they are computed once and an
            interrupted run resumes. Without it nothing is written. Streams have no cache.
        accelerator (`accelerate.Accelerator`, *optional*): This process's, where several share the work. Every process
            then makes the same calls. Of a dataset each gets all features, and the cache folder must be one that all
            of them see; of a stream each gets its own batches.
        progress (`bool`, *optional*, defaults to `True`): Whether the main process shows a progress bar.
        stage (`str`, *optional*): What the progress bar says is going on, such as `"linear_probe"`; by default the end
            of the model's name. [`encode_readable_images`] adds the name of the data.
        max_skipped_share (`float`, *optional*, defaults to 0.05): In evaluations and streams, unreadable images are
            skipped and counted. More than this share is an error, but one image may always be skipped; with 0 none
            may. [`encode_image_column`] skips none.

    Raises:
        ValueError: if a number is less than 1, or the share is not from 0 to 1.
    """

    batch_size: int = 64
    num_threads: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    cache_dir: str | os.PathLike | None = None
    accelerator: "Accelerator | None" = None
    progress: bool = True
    stage: str = ""
    max_skipped_share: float = 0.05

    def __post_init__(self):
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(f"`max_skipped_share` is {self.max_skipped_share}; it must be a share, 0 to 1.")
        for name in ("batch_size", "num_threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` is {value!r}; it must be an integer of at least 1.")

    @property
    def processes(self) -> int:
        """How many processes share the work."""
        return 1 if self.accelerator is None else self.accelerator.num_processes

    @property
    def process(self) -> int:
        """Which of them this is."""
        return 0 if self.accelerator is None else self.accelerator.process_index

    def progress_bar(self, model: str, unit: str, total: int | None, initial: int = 0) -> tqdm:
        """The bar of the main process; other processes, and all without `progress`, get one that shows nothing.

        Args:
            model (`str`): the model's name, whose end is shown if there is no `stage`.
            unit (`str`): what is counted.
            total (`int`, *optional*): how many there are; None if that is not known.
            initial (`int`, *optional*, defaults to 0): how many are done.
        """
        hidden = not self.progress or self.process != 0
        stage = self.stage or model[-40:]
        return tqdm(total=total, initial=initial, unit=f" {unit}", desc=stage, leave=False, disable=hidden)


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
    - `images` is read in the caller's thread, image files and `get_image` in `options.num_threads` threads.
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
    options = _check_stream(images, "images", options)
    if isinstance(images, (datasets.Dataset, datasets.IterableDataset)):
        if get_image is None:
            raise TypeError('The items of a dataset are rows: name the column of images, as in `get_image="image"`.')
        images = undecoded(images) if isinstance(get_image, str) else images
    return _image_batches(encoder, images, _getter(get_image), projected, options, name)


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
    batches = _share_of_batches(images, options.batch_size, options)
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
        finish_skips(skips, name)


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
    options = _check_stream(texts, "texts", options)
    return _text_batches(encoder, texts, _getter(get_text), options)


def _text_batches(
    encoder: DualEncoder, items: Iterable[Any], get_text: Callable[[Any], str] | None, options: EncodingOptions
) -> Iterator[FeatureBatch]:
    length = len(items) if hasattr(items, "__len__") else None
    with options.progress_bar(encoder.name, "texts", length) as bar:
        for places, batch in _share_of_batches(items, _TEXTS_PER_READ, options):
            texts = check_texts(batch if get_text is None else map(get_text, batch), places[0])
            yield FeatureBatch(np.array(places), batch, encoder.encode_texts(texts).numpy(), [])
            bar.update(len(batch) * options.processes)


def _check_stream(items: Iterable[Any], what: str, options: EncodingOptions | None) -> EncodingOptions:
    if isinstance(items, (str, bytes, bytearray, memoryview)) or not hasattr(items, "__iter__"):
        raise TypeError(f"`{what}` must be an iterable of {what}; given {items!r:.80}, a {type(items).__name__}.")
    options = options or EncodingOptions()
    if options.cache_dir is not None:
        raise ValueError(
            f"A stream has no cache, but `cache_dir` is {options.cache_dir!s}: write its batches where you need them, "
            "or encode a dataset with `encode_image_column`, which keeps them."
        )
    return options


def _getter(get: Callable[[Any], Any] | str | int | None) -> Callable[[Any], Any] | None:
    return itemgetter(get) if isinstance(get, (str, int)) else get


def _share_of_batches(
    items: Iterable[Any], size: int, options: EncodingOptions
) -> Iterator[tuple[Sequence[int], list[Any]]]:
    """Every n-th batch, the batches of this process: the places of its items, and the items."""
    iterator, start = iter(items), 0
    for number in count():
        batch = list(islice(iterator, size))
        if not batch:
            return
        if number % options.processes == options.process:
            yield range(start, start + len(batch)), batch
        start += len(batch)


# ------------------------------------------------------------------------------------------------------- reading ahead


def encode_ahead(
    encoder: DualEncoder,
    batches: Iterable[tuple[Sequence[int], list[Any]]],
    get_image: Callable[[Any], Any] | None = None,
    *,
    projected: bool,
    num_threads: int,
    may_skip: bool = True,
) -> Iterator[FeatureBatch]:
    """Encode batches in turn while threads prepare the next ones.

    Args:
        encoder (`DualEncoder`): The model.
        batches (`Iterable[tuple[Sequence[int], list]]`): For each batch the places of its items, for messages, and the
            items. Read in the caller's thread.
        get_image (`Callable`, *optional*): Gives an item's image, in the threads.
        projected (`bool`): As in [`DualEncoder.encode_images`].
        num_threads (`int`): How many threads, and how many batches wait at most.
        may_skip (`bool`, *optional*, defaults to `True`): Whether images that cannot be read are left out; otherwise
            the first one is an error.

    Yields:
        [`FeatureBatch`]: one for each batch; where no image can be read, the features have the shape (0, 0).

    Raises:
        ValueError: if an image cannot be read and may not be skipped, or features are not finite.
    """

    def prepare(places: Sequence[int], items: list[Any]) -> tuple[dict[str, torch.Tensor] | None, dict]:
        sources = items if get_image is None else [get_image(item) for item in items]
        return _prepare_readable(encoder, places, sources, may_skip)

    with closing(_run_ahead(prepare, batches, num_threads)) as prepared:
        for places, items, (inputs, skipped) in prepared:
            kept = [index for index in range(len(items)) if index not in skipped]
            features = np.empty((0, 0), np.float32)
            if inputs is not None:
                try:
                    features = encoder.encode_images(inputs, projected=projected).numpy()
                except NotFiniteError as error:
                    row = places[kept[error.row]]
                    raise NotFiniteError(row, f"the image of row {row}") from error
            read = np.array([places[index] for index in kept], np.int64)
            yield FeatureBatch(read, [items[index] for index in kept], features, list(skipped.values()))


def _run_ahead(
    prepare: Callable[[Sequence[int], list[Any]], Any],
    batches: Iterable[tuple[Sequence[int], list[Any]]],
    num_threads: int,
) -> Iterator[tuple[Sequence[int], list[Any], Any]]:
    """Each batch with what `prepare` makes of it; threads prepare at most `num_threads` batches after it."""
    waiting: deque[tuple[Sequence[int], list[Any], Future]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="images")
    try:
        for places, items in batches:
            waiting.append((places, items, pool.submit(prepare, places, items)))
            if len(waiting) > num_threads:
                first_places, first_items, future = waiting.popleft()
                yield first_places, first_items, future.result()
        while waiting:
            first_places, first_items, future = waiting.popleft()
            yield first_places, first_items, future.result()
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
    for index, (place, source) in enumerate(zip(places, sources, strict=True)):
        try:
            check_not_missing(source)
            encoder.prepare([source])
        except Exception as error:
            cause = error.__cause__ if isinstance(error.__cause__, (ValueError, TypeError)) else error
            skipped[index] = skipped_image(cause, source, f"row {place}")
            if not may_skip:
                raise ValueError(skipped[index].message) from error
    if not skipped:
        raise problem
    readable = [source for index, source in enumerate(sources) if index not in skipped]
    return (encoder.prepare(readable) if readable else None), skipped


# ----------------------------------------------------------------------------------------------------- skipped images


def check_skips(skips: SkipCounter, rows: int) -> None:
    """Raise if too many of the `rows` were skipped. One is always allowed, unless the share is 0.

    Raises:
        ValueError: if more were skipped than allowed.
    """
    if skips.num_skipped > max(skips.max_skipped_share * rows, 1 if skips.max_skipped_share else 0):
        skips.check()


def skip_examples(skips: SkipCounter) -> list[str]:
    """The first messages of each kind, the most common kind first."""
    return [message for kind, _ in skips.kinds.most_common() for message in skips.examples[kind]]


def finish_skips(skips: SkipCounter, name: str, is_main: bool = True) -> None:
    """Check what was skipped of all, and warn of it with the first examples.

    Args:
        skips (`SkipCounter`): of all images.
        name (`str`): what to call the data.
        is_main (`bool`, *optional*, defaults to `True`): whether this process warns.

    Raises:
        ValueError: if too many were skipped, or all.
    """
    check_skips(skips, skips.num_used + skips.num_skipped)
    shown = " ".join(skip_examples(skips))
    if not skips.num_used:
        raise ValueError(f"No image of {name} can be read: {shown}")
    if skips.num_skipped and is_main:
        warnings.warn(f"Images of {name} that cannot be read: {skips.summary()} {shown}", stacklevel=3)
