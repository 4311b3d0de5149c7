# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Features of whole datasets: images read ahead of the model, kept on disk, shared out over processes."""

import hashlib
import json
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.decoding import check_not_missing, skipped_image
from ..data.skips import SkipCounter, SkippedRow
from ..model.image_reading_clip_hf import unwrapped
from ..utils.processes import SharedOutcome
from .dual_encoder import DualEncoder, NotFiniteError, checked_texts
from .feature_store import FeatureFolder, FeatureIdentity, part_ranges


if TYPE_CHECKING:
    from accelerate import Accelerator

_ROWS_PER_READ = 256
# Encodes the rows of each list in turn: (rows, dim), float32. NaN stands for an image that was skipped.
_Encode = Callable[[list[Sequence[int]], Callable[[int], None]], Iterator[np.ndarray]]


@dataclass
class EncodingOptions:
    """
    How datasets are encoded.

    Args:
        batch_size (`int`, *optional*, defaults to 64):
            Images in one pass of the model.
        num_threads (`int`, *optional*):
            Threads that read and prepare images while the model runs; by default the processor's cores, 8 at most.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where features are kept, so that they are computed once and an interrupted run resumes. Without it nothing
            is written.
        accelerator (`accelerate.Accelerator`, *optional*):
            Of this process, where several share the work; every process then makes the same calls and gets all
            features. The cache folder must be one that all of them see.
        progress (`bool`, *optional*, defaults to `True`):
            Whether the main process shows a progress bar.
        max_skipped_share (`float`, *optional*, defaults to 0.05):
            Images that cannot be read are skipped and counted in evaluations, but more than this share of all images,
            and more than one, is an error. With 0 the first one is. [`encode_image_column`] skips none.

    Raises:
        ValueError: if a number is less than 1, or the share is not from 0 to 1.
    """

    batch_size: int = 64
    num_threads: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    cache_dir: str | os.PathLike | None = None
    accelerator: "Accelerator | None" = None
    progress: bool = True
    max_skipped_share: float = 0.05

    def __post_init__(self):
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(f"`max_skipped_share` is {self.max_skipped_share}; it must be a share, 0 to 1.")
        for name in ("batch_size", "num_threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} has to be an integer of at least 1.")

    @property
    def processes(self) -> int:
        """How many processes share the work."""
        return 1 if self.accelerator is None else self.accelerator.num_processes

    @property
    def process(self) -> int:
        """Which of them this is."""
        return 0 if self.accelerator is None else self.accelerator.process_index


def encode_image_column(
    encoder: DualEncoder,
    data: datasets.Dataset,
    image_column: str = "image",
    *,
    projected: bool = True,
    options: EncodingOptions | None = None,
) -> np.ndarray:
    """
    Features of the images in a column of a dataset.

    With a cache folder they are those on disk if the model, its processing and the content of the images are the same;
    what is missing or damaged is encoded and added.

    Args:
        encoder (`DualEncoder`):
            The model.
        data (`datasets.Dataset`):
            The data.
        image_column (`str`, *optional*, defaults to `"image"`):
            A column of images, paths or bytes of image files.
        projected (`bool`, *optional*, defaults to `True`):
            Features in the space shared with texts, L2-normalised; otherwise those before the projection.
        options (`EncodingOptions`, *optional*):
            Batches, threads, cache, processes.

    Returns:
        `np.ndarray` of shape (rows, dim), float32, in the order of the rows; the same on every process.

    Raises:
        ValueError: if there is no such column or no row, an image cannot be read or its features are not finite (both
            name the row), or the cache folder is of another model.
        RuntimeError: if another process failed, with its error.
    """
    return _encode_images(encoder, data, image_column, projected, options or EncodingOptions(), None)


@dataclass(frozen=True)
class ReadableImages:
    """
    Features of the images that could be read.

    Args:
        features (`np.ndarray` of shape (k, dim), float32):
            As [`encode_image_column`] gives them, without the images that were skipped.
        rows (`np.ndarray` of shape (k,), int64):
            The rows that they are of, ascending.
        skips ([`SkipCounter`]):
            How many images were skipped, why, and the first of each kind.
    """

    features: np.ndarray
    rows: np.ndarray
    skips: SkipCounter

    @property
    def skipped(self) -> dict[str, Any] | None:
        """What results say of the images that were skipped; None if none was."""
        if not self.skips.num_skipped:
            return None
        examples = [message for kind, _ in self.skips.kinds.most_common() for message in self.skips.examples[kind]]
        numbers = {"images": self.skips.num_skipped, "of": self.skips.num_skipped + len(self.rows)}
        return {**numbers, "kinds": dict(self.skips.kinds.most_common()), "examples": examples}


def encode_readable_images(
    encoder: DualEncoder,
    data: datasets.Dataset,
    image_column: str = "image",
    *,
    projected: bool = True,
    options: EncodingOptions | None = None,
    name: str = "the data",
) -> ReadableImages:
    """
    As [`encode_image_column`], but images that cannot be read are left out, with a warning that names the first ones.

    What was skipped is tried again each time: a cache folder keeps the features of the others only.

    Args:
        encoder, data, image_column, projected, options:
            As in [`encode_image_column`].
        name (`str`, *optional*):
            What to call the data in messages.

    Returns:
        [`ReadableImages`], the same on every process.

    Raises:
        ValueError: as [`encode_image_column`], but for images only if more than `options.max_skipped_share` cannot be
            read, or all.
        RuntimeError: if another process failed, with its error.
    """
    options = options or EncodingOptions()
    skips = SkipCounter(options.max_skipped_share, min_rows=1)
    features = _encode_images(encoder, data, image_column, projected, options, skips)
    total = SkipCounter(options.max_skipped_share, min_rows=1)
    for state in SharedOutcome(options.processes).gather(skips.state_dict()):
        total.merge({**state, "num_used": 0})
    rows = np.flatnonzero(_is_known(features))
    total.num_used = len(rows)
    assert total.num_used + total.num_skipped == len(data)
    _check_skips(total, len(data))
    found = ReadableImages(features[rows], rows, total)
    if not len(rows):
        raise ValueError(f"No image of {name} can be read: {' '.join(found.skipped['examples'])}")
    if total.num_skipped and options.process == 0:
        shown = " ".join(found.skipped["examples"])
        warnings.warn(f"Images of {name} that cannot be read: {total.summary()} {shown}", stacklevel=2)
    return found


def _encode_images(
    encoder: DualEncoder,
    data: datasets.Dataset,
    column: str,
    projected: bool,
    options: EncodingOptions,
    skips: SkipCounter | None,
) -> np.ndarray:
    """Features of all rows; where there is a counter, NaN for the images that it counts as skipped."""
    identity = None
    with SharedOutcome(options.processes) as shared:
        images = _undecoded(data, column)
        if options.cache_dir is not None:
            kind = "image" if projected else "image before projection"
            identity = FeatureIdentity(encoder.fingerprint, images_fingerprint(images, column), kind, len(images))
    shared.gather()
    reader = _Reader(encoder, images, column, projected, options, skips)
    return _Run(encoder.name, len(images), identity, options).features(reader.encode, "images")


def _check_skips(skips: SkipCounter, rows: int) -> None:
    """Raise a `ValueError` if more of `rows` images were skipped than may be; a single one may, unless none may."""
    if skips.num_skipped > max(skips.max_skipped_share * rows, 1 if skips.max_skipped_share else 0):
        skips.check()


def _is_known(features: np.ndarray) -> np.ndarray:
    """Which rows have features, bool (rows,); all of a part may have been skipped, which then has no width."""
    return np.isfinite(features[:, 0]) if features.shape[1] else np.zeros(len(features), bool)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Parts one after another, (rows, dim)."""
    width = max(part.shape[1] for part in parts)
    whole = [part if part.shape[1] == width else np.full((len(part), width), np.nan, np.float32) for part in parts]
    return np.concatenate(whole)


def encode_text_list(
    encoder: DualEncoder, texts: Sequence[str], *, options: EncodingOptions | None = None
) -> np.ndarray:
    """
    Features of texts, as [`DualEncoder.encode_texts`] gives them, with cache and processes as in
    [`encode_image_column`].

    Args:
        encoder (`DualEncoder`):
            The model.
        texts (`Sequence[str]`):
            The texts; repeated ones are encoded once.
        options (`EncodingOptions`, *optional*):
            Cache and processes; `batch_size` is for images.

    Returns:
        `np.ndarray` of shape (texts, projection_dim), L2-normalised, float32, in the texts' order.

    Raises:
        TypeError, ValueError, RuntimeError: as in [`DualEncoder.encode_texts`] and [`encode_image_column`].
    """
    options = options or EncodingOptions()
    ordered: list[str] = []

    def encode(parts: list[Sequence[int]], done: Callable[[int], None]) -> Iterator[np.ndarray]:
        for rows in parts:
            features = encoder.encode_texts([ordered[row] for row in rows]).numpy()
            done(len(rows))
            yield features

    identity = None
    with SharedOutcome(options.processes) as shared:
        # In the order of lengths, for a part's texts are batched with each other only.
        ordered += sorted(set(checked_texts(texts)), key=lambda text: (len(text), text))
        if options.cache_dir is not None:
            fingerprint = hashlib.blake2b(json.dumps(ordered).encode(), digest_size=16).hexdigest()
            identity = FeatureIdentity(encoder.fingerprint, fingerprint, "text", len(ordered))
    shared.gather()
    features = _Run(encoder.name, len(ordered), identity, options).features(encode, "texts")
    place = {text: index for index, text in enumerate(ordered)}
    return features[[place[text] for text in texts]]


# ------------------------------------------------------------------------------------------------------------- reading


def _undecoded(data: datasets.Dataset, column: str) -> datasets.Dataset:
    """The one column, its images as bytes or paths."""
    if not isinstance(data, datasets.Dataset):
        raise TypeError(f"`data` must be a datasets.Dataset; given {type(data).__name__}.")
    if column not in data.column_names:
        raise ValueError(f"The data has no column {column!r}; it has {', '.join(data.column_names)}.")
    if len(data) == 0:
        raise ValueError("The data has no rows.")
    data = data.with_format(None).select_columns([column])
    is_image = isinstance(data.features[column], datasets.Image)
    return data.cast_column(column, datasets.Image(decode=False)) if is_image else data


def _sources(images: datasets.Dataset, column: str, rows: Sequence[int]) -> list[Any]:
    together = rows[-1] - rows[0] + 1 == len(rows)
    return images[slice(rows[0], rows[-1] + 1) if together else list(rows)][column]


def images_fingerprint(images: datasets.Dataset, column: str) -> str:
    """
    Digest of undecoded images: of their bytes; for paths of the path, size and time of the last change.

    Args:
        images (`datasets.Dataset`):
            With the images as `datasets.Image(decode=False)` gives them, as paths or as bytes.
        column (`str`):
            Their column.
    """
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(images), _ROWS_PER_READ):
        for source in _sources(images, column, range(start, min(start + _ROWS_PER_READ, len(images)))):
            digest.update(_source_digest(source))
    return digest.hexdigest()


def _source_digest(source: Any) -> bytes:
    source = unwrapped(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return hashlib.blake2b(source, digest_size=16).digest()
    text = str(source)
    try:
        status = os.stat(text)
        text = f"{os.path.abspath(text)} {status.st_size} {status.st_mtime_ns}"
    except (OSError, ValueError):
        pass  # a URL, or missing: reading it says so
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


class _Reader:
    """Encodes rows of a dataset of undecoded images, batches being prepared in threads ahead of the model."""

    def __init__(
        self,
        encoder: DualEncoder,
        images: datasets.Dataset,
        column: str,
        projected: bool,
        options: EncodingOptions,
        skips: SkipCounter | None,
    ):
        self.encoder, self.images, self.column = encoder, images, column
        self.projected, self.options = projected, options
        self.skips = skips  # without one, an image that cannot be read is an error

    def encode(self, parts: list[Sequence[int]], done: Callable[[int], None]) -> Iterator[np.ndarray]:
        """Features of the rows of each part, in turn; `done` is told the number of rows of each batch."""
        size = self.options.batch_size
        rows = [row for part in parts for row in part]
        # Batches are whole, whatever the parts: one may hold the end of a part and the beginning of the next.
        prepared = self._ahead([rows[start : start + size] for start in range(0, len(rows), size)])
        features, count = [], 0
        try:
            for part in parts:
                while count < len(part):
                    batch, inputs, skipped = next(prepared)
                    features.append(self._features(batch, inputs, skipped))
                    count += len(batch)
                    done(len(batch))
                joined = _joined(features)
                yield joined[: len(part)]
                features, count = [joined[len(part) :]], count - len(part)
        finally:
            prepared.close()

    def _features(
        self, batch: list[int], inputs: dict[str, torch.Tensor] | None, skipped: dict[int, SkippedRow]
    ) -> np.ndarray:
        if self.skips is not None:
            self.skips.add(skipped.values(), num_used=len(batch) - len(skipped))
            _check_skips(self.skips, len(self.images))
        if inputs is None:
            return np.empty((len(batch), 0), np.float32)
        kept = [place for place in range(len(batch)) if place not in skipped]
        try:
            found = self.encoder.encode_images(inputs, projected=self.projected).numpy()
        except NotFiniteError as error:
            row = batch[kept[error.row]]
            raise NotFiniteError(row, f"the image of row {row}") from error
        if not skipped:
            return found
        features = np.full((len(batch), found.shape[1]), np.nan, np.float32)
        features[kept] = found
        return features

    def _ahead(self, batches: list[list[int]]) -> Iterator[tuple[list[int], dict[str, torch.Tensor] | None, dict]]:
        waiting: deque[tuple[list[int], Future]] = deque()
        pool = ThreadPoolExecutor(self.options.num_threads, thread_name_prefix="images")
        try:
            for batch in batches:
                # Rows are read here: nothing says that a dataset may be read in threads.
                sources = _sources(self.images, self.column, batch)
                waiting.append((batch, pool.submit(self._prepare, batch, sources)))
                if len(waiting) > self.options.num_threads:
                    first, future = waiting.popleft()
                    yield first, *future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, *future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(
        self, batch: list[int], sources: list[Any]
    ) -> tuple[dict[str, torch.Tensor] | None, dict[int, SkippedRow]]:
        """The model's inputs for those that can be read, None if none can; and by their place those that cannot."""
        try:
            return self.encoder.prepare(sources), {}
        except Exception as error:  # one image makes libraries raise whatever they like, as in training
            problem = error
        skipped: dict[int, SkippedRow] = {}
        for place, (row, source) in enumerate(zip(batch, sources, strict=True)):
            try:
                check_not_missing(source)
                self.encoder.prepare([source])
            except Exception as error:
                cause = error.__cause__ if isinstance(error.__cause__, (ValueError, TypeError)) else error
                skipped[place] = skipped_image(cause, source, f"row {row}")
                if self.skips is None:
                    raise ValueError(skipped[place].message) from error
        if not skipped:
            raise problem
        readable = [source for place, source in enumerate(sources) if place not in skipped]
        return (self.encoder.prepare(readable) if readable else None), skipped


# ----------------------------------------------------------------------------------------------------------- processes


class _Run:
    """Encodes what is not on disk, shared out over the processes in rounds of one part each."""

    def __init__(self, model: str, rows: int, identity: FeatureIdentity | None, options: EncodingOptions):
        self.model, self.rows, self.identity, self.options = model, rows, identity, options
        self.ranges = part_ranges(rows)
        self.parts: dict[int, np.ndarray] = {}
        self.folder: FeatureFolder | None = None

    def features(self, encode: _Encode, unit: str) -> np.ndarray:
        """All features, (rows, dim)."""
        with SharedOutcome(self.options.processes) as shared:
            if self.identity is not None:
                self.folder = FeatureFolder(self.options.cache_dir, self.identity, self.model)
                self._read_parts()
        # The first process's cache decides how the work is shared out.
        todo = [part for part in range(len(self.ranges)) if self._unknown_rows(part)]
        own = (len(self.ranges), None if self.identity is None else self.identity.key, todo)
        everyone = shared.gather(own)
        with SharedOutcome(self.options.processes) as shared:
            if any(other[:2] != own[:2] for other in everyone):
                raise ValueError("The processes were given different models or data; all need the same.")
            if self.folder is not None and self.options.process == 0:
                self.folder.create()
        shared.gather()
        if everyone[0][2]:
            self._encode(everyone[0][2], encode, unit)
        with SharedOutcome(self.options.processes) as shared:
            if len(self.parts) < len(self.ranges):
                self._read_parts()
            lacking = [part for part in range(len(self.ranges)) if part not in self.parts]
            if lacking:
                raise OSError(
                    f"This process does not find {len(lacking)} of the {len(self.ranges)} parts in "
                    f"{self.folder.path}: all processes must see the same cache folder."
                )
        shared.gather()
        return _joined([self.parts[part] for part in range(len(self.ranges))])

    def _unknown_rows(self, part: int) -> list[int]:
        """The rows of a part that have no features yet; where some were skipped before, those are tried again."""
        rows = np.array(self.ranges[part])
        return (rows if part not in self.parts else rows[~_is_known(self.parts[part])]).tolist()

    def _complete(self, part: int, found: np.ndarray) -> None:
        """Take the features of the part's unknown rows, and write them if there are new ones."""
        is_new = _is_known(found)
        if len(found) == len(self.ranges[part]):
            self.parts[part] = found
        elif is_new.any():
            features = self.parts[part].copy()  # some of its rows are known, so that it has its width
            features[np.flatnonzero(~_is_known(features))[is_new]] = found[is_new]
            self.parts[part] = features
        else:
            return
        if self.folder is not None:
            self.folder.write(part, self.parts[part])

    def _read_parts(self) -> None:
        for part in range(len(self.ranges)):
            if part not in self.parts:
                features = self.folder.read(part)
                if features is not None:
                    self.parts[part] = features

    def _encode(self, missing: list[int], encode: _Encode, unit: str) -> None:
        options = self.options
        own = missing[options.process :: options.processes]
        rows = {part: self._unknown_rows(part) or list(self.ranges[part]) for part in missing}
        total = sum(map(len, rows.values()))
        with tqdm(
            total=self.rows,
            initial=self.rows - total,
            unit=unit,
            desc=self.model[-40:],
            leave=False,
            disable=not options.progress or options.process != 0,
        ) as bar:
            encoded = encode([rows[part] for part in own], bar.update)
            try:
                for start in range(0, len(missing), options.processes):
                    turn = missing[start : start + options.processes]
                    mine = turn[options.process] if options.process < len(turn) else None
                    with SharedOutcome(options.processes) as shared:
                        if mine is not None:
                            self._complete(mine, next(encoded))
                    # Without a folder that all see, the features themselves go round.
                    sent = None if mine is None or self.folder is not None else (mine, self.parts.get(mine))
                    for rank, found in enumerate(shared.gather(sent)):
                        if found is not None:
                            self.parts[found[0]] = found[1]
                        if rank != options.process and rank < len(turn):
                            bar.update(len(rows[turn[rank]]))
            finally:
                encoded.close()
        if self.folder is not None and options.processes > 1:
            for part in set(missing) - set(own):
                self.parts.pop(part, None)  # another process has completed it


__all__ = ["EncodingOptions", "encode_image_column", "encode_text_list", "images_fingerprint"]
