# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Features of whole datasets: images read ahead of the model, kept on disk, shared out over processes."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np

from ..data.locations import undecoded
from ..data.media import IMAGES, VIDEOS, find_media
from ..data.skips import SkipCounter
from ..model.image_reading_clip_hf import unwrap_source
from ..utils.processes import SharedOutcome
from .dual_encoder import DualEncoder, check_texts
from .encoding_ahead import check_skips, encode_ahead, finish_skips, skip_examples
from .encoding_options import EncodingOptions
from .feature_store import FeatureFolder, FeatureIdentity, part_ranges


_ROWS_PER_READ = 256
# Encodes the rows of each list in turn: (rows, dim), float32. Skipped images are NaN.
_Encode = Callable[[list[Sequence[int]], Callable[[int], None]], Iterator[np.ndarray]]


def encode_image_column(
    encoder: DualEncoder,
    data: datasets.Dataset,
    image_column: str | None = None,
    *,
    projected: bool = True,
    options: EncodingOptions | None = None,
) -> np.ndarray:
    """Features of the images in a column of a dataset.

    With a cache folder, features of the same model, processing and images are read from disk; what is missing or
    damaged there is encoded and added.

    Args:
        encoder (`DualEncoder`): The model.
        data (`datasets.Dataset`): The data.
        image_column (`str`, *optional*): A column of images, paths or bytes of image files, or of films for a
            [`VideoEncoder`]; by default `"image"`, or `"video"`.
        projected (`bool`, *optional*, defaults to `True`): Features in the space shared with texts, L2-normalised;
            otherwise those before the projection.
        options (`EncodingOptions`, *optional*): Batches, threads, cache, processes.

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
    """Features of the images that could be read.

    Args:
        features (`np.ndarray` of shape (k, dim), float32): As [`encode_image_column`] gives them, without the images
            that were skipped.
        rows (`np.ndarray` of shape (k,), int64): Their rows, ascending.
        skips ([`SkipCounter`]): How many images were skipped, why, and the first ones of each kind.
    """

    features: np.ndarray
    rows: np.ndarray
    skips: SkipCounter

    @property
    def skipped(self) -> dict[str, Any] | None:
        """Number, kinds and first messages of the skipped images, for results; None if none was skipped."""
        if not self.skips.num_skipped:
            return None
        numbers = {"images": self.skips.num_skipped, "of": self.skips.num_skipped + len(self.rows)}
        return {**numbers, "kinds": dict(self.skips.kinds.most_common()), "examples": skip_examples(self.skips)}


def encode_readable_images(
    encoder: DualEncoder,
    data: datasets.Dataset,
    image_column: str | None = None,
    *,
    projected: bool = True,
    options: EncodingOptions | None = None,
    name: str = "the data",
) -> ReadableImages:
    """As [`encode_image_column`], but leave out images that cannot be read, and warn with the first ones.

    Skipped images are tried again each time, because a cache folder keeps only the features of the others.

    Args:
        encoder, data, image_column, projected, options: As in [`encode_image_column`].
        name (`str`, *optional*): What to call the data in messages and on the progress bar.

    Returns:
        [`ReadableImages`], the same on every process.

    Raises:
        ValueError: as [`encode_image_column`], but for images only if more than `options.max_skipped_share` cannot be
            read, or all.
        RuntimeError: if another process failed, with its error.
    """
    options = options or EncodingOptions()
    options = replace(options, stage=f"{options.stage}: {name}" if options.stage else name)
    skips = SkipCounter(options.max_skipped_share, min_rows=1)
    features = _encode_images(encoder, data, image_column, projected, options, skips)
    total = SkipCounter(options.max_skipped_share, min_rows=1)
    for state in SharedOutcome(options.processes).gather(skips.state_dict()):
        total.merge({**state, "num_used": 0})
    rows = np.flatnonzero(_is_known(features))
    total.num_used = len(rows)
    assert total.num_used + total.num_skipped == len(data)
    finish_skips(total, name, options.process == 0, find_media(encoder.media).noun)
    return ReadableImages(features[rows], rows, total)


def _encode_images(
    encoder: DualEncoder,
    data: datasets.Dataset,
    column: str | None,
    projected: bool,
    options: EncodingOptions,
    skips: SkipCounter | None,
) -> np.ndarray:
    """Features of all rows, NaN where an image was skipped; without `skips`, one that cannot be read is an error."""
    identity, column = None, column or find_media(encoder.media).role
    with SharedOutcome(options.processes) as shared:
        images = _undecoded_column(data, column)
        _check_media(encoder, images, column)
        if options.cache_dir is not None:
            kind = "image" if projected else "image before projection"
            kind += f" in batches of {options.batch_size}" if encoder.depends_on_batch else ""
            identity = FeatureIdentity(encoder.fingerprint, images_fingerprint(images, column), kind, len(images))
    shared.gather()

    def encode(parts: list[Sequence[int]], done: Callable[[int], None]) -> Iterator[np.ndarray]:
        rows, size = [row for part in parts for row in part], encoder.items_in(options.batch_size)
        # Batches are whole, whatever the parts: one may hold the end of a part and the beginning of the next.
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        # Rows are read in this thread: nothing says that a dataset may be read in several.
        sources = ((batch, _sources(images, column, batch)) for batch in batches)
        may_skip, num_threads = skips is not None, options.num_threads
        encoded = encode_ahead(encoder, sources, projected=projected, num_threads=num_threads, may_skip=may_skip)
        features, count, batches = [], 0, iter(batches)
        with closing(encoded):
            for part in parts:
                while count < len(part):
                    batch, result = next(batches), next(encoded)
                    if skips is not None:
                        skips.add(result.skipped, num_used=len(result.places))
                        check_skips(skips, len(images))
                    features.append(np.full((len(batch), result.features.shape[1]), np.nan, np.float32))
                    features[-1][np.isin(batch, result.places)] = result.features
                    count += len(batch)
                    done(len(batch))
                joined = _join(features)
                yield joined[: len(part)]
                features, count = [joined[len(part) :]], count - len(part)

    return EncodingRun(encoder.name, len(images), identity, options).features(encode, "images")


def _is_known(features: np.ndarray) -> np.ndarray:
    """Which rows have features, bool (rows,). A part has no width if all its rows were skipped."""
    return np.isfinite(features[:, 0]) if features.shape[1] else np.zeros(len(features), bool)


def _join(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate parts, (rows, dim)."""
    width = max(part.shape[1] for part in parts)
    whole = [part if part.shape[1] == width else np.full((len(part), width), np.nan, np.float32) for part in parts]
    return np.concatenate(whole)


def encode_text_list(
    encoder: DualEncoder, texts: Sequence[str], *, options: EncodingOptions | None = None
) -> np.ndarray:
    """Features of texts, as [`DualEncoder.encode_texts`] gives them, with cache and processes as in
    [`encode_image_column`].

    Args:
        encoder (`DualEncoder`): The model.
        texts (`Sequence[str]`): The texts; repeated ones are encoded once.
        options (`EncodingOptions`, *optional*): Cache and processes; `batch_size` is for images.

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
        # Sorted by length, because only texts of the same part share a batch.
        ordered += sorted(set(check_texts(texts)), key=lambda text: (len(text), text))
        if options.cache_dir is not None:
            fingerprint = hashlib.blake2b(json.dumps(ordered).encode(), digest_size=16).hexdigest()
            identity = FeatureIdentity(encoder.fingerprint, fingerprint, "text", len(ordered))
    shared.gather()
    features = EncodingRun(encoder.name, len(ordered), identity, options).features(encode, "texts")
    place = {text: index for index, text in enumerate(ordered)}
    return features[[place[text] for text in texts]]


# ------------------------------------------------------------------------------------------------------------- reading


def _undecoded_column(data: datasets.Dataset, column: str) -> datasets.Dataset:
    """The column alone, its images as bytes or paths."""
    if not isinstance(data, datasets.Dataset):
        raise TypeError(f"`data` must be a datasets.Dataset; given {type(data).__name__}.")
    if column not in data.column_names:
        raise ValueError(f"The data has no column {column!r}; it has {', '.join(data.column_names)}.")
    if len(data) == 0:
        raise ValueError("The data has no rows.")
    return undecoded(data.select_columns([column]))


def _check_media(encoder: DualEncoder, images: datasets.Dataset, column: str) -> None:
    if encoder.media == IMAGES.name and isinstance(images.features[column], VIDEOS.feature_type):
        raise ValueError(
            f"The column {column!r} holds films, and {encoder.name} embeds images: load it with "
            "`clip=ClipSampling(num_frames=8)` (--num-frames 8)."
        )


def _sources(images: datasets.Dataset, column: str, rows: Sequence[int]) -> list[Any]:
    consecutive = rows[-1] - rows[0] + 1 == len(rows)
    return images[slice(rows[0], rows[-1] + 1) if consecutive else list(rows)][column]


def images_fingerprint(images: datasets.Dataset, column: str) -> str:
    """Digest of undecoded images: of their bytes, or of a path with its size and time of change."""
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(images), _ROWS_PER_READ):
        for source in _sources(images, column, range(start, min(start + _ROWS_PER_READ, len(images)))):
            digest.update(_source_digest(source))
    return digest.hexdigest()


def _source_digest(source: Any) -> bytes:
    source = unwrap_source(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return hashlib.blake2b(source, digest_size=16).digest()
    text = str(source)
    try:
        status = os.stat(text)
        text = f"{os.path.abspath(text)} {status.st_size} {status.st_mtime_ns}"
    except (OSError, ValueError):
        pass  # a URL, or missing: reading it says so
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


# ----------------------------------------------------------------------------------------------------------- processes


class EncodingRun:
    """Encodes the parts that are not on disk; in each round every process encodes one part."""

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
        # The first process's cache decides how the work is split.
        todo = [part for part in range(len(self.ranges)) if self._unknown_rows(part)]
        plan = (len(self.ranges), None if self.identity is None else self.identity.key, todo)
        plans = shared.gather(plan)
        with SharedOutcome(self.options.processes) as shared:
            if any(other[:2] != plan[:2] for other in plans):
                raise ValueError("The processes were given different models or data; all need the same.")
            if self.folder is not None and self.options.process == 0:
                self.folder.create()
        shared.gather()
        if plans[0][2]:
            self._encode(plans[0][2], encode, unit)
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
        return _join([self.parts[part] for part in range(len(self.ranges))])

    def _unknown_rows(self, part: int) -> list[int]:
        """The rows of a part that have no features: all of them, or the rows skipped before."""
        rows = np.array(self.ranges[part])
        return (rows if part not in self.parts else rows[~_is_known(self.parts[part])]).tolist()

    def _complete(self, part: int, new_features: np.ndarray) -> None:
        """Add features of the part's unknown rows, and write the part if it has changed."""
        is_new = _is_known(new_features)
        if len(new_features) == len(self.ranges[part]):
            self.parts[part] = new_features
        elif is_new.any():
            features = self.parts[part].copy()  # some rows are known, so it has its width
            features[np.flatnonzero(~_is_known(features))[is_new]] = new_features[is_new]
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
        own_parts = missing[options.process :: options.processes]
        rows = {part: self._unknown_rows(part) or list(self.ranges[part]) for part in missing}
        total = sum(map(len, rows.values()))
        with (
            options.progress_bar(self.model, unit, self.rows, self.rows - total) as bar,
            closing(encode([rows[part] for part in own_parts], bar.update)) as encoded,
        ):
            for start in range(0, len(missing), options.processes):
                turn = missing[start : start + options.processes]
                mine = turn[options.process] if options.process < len(turn) else None
                with SharedOutcome(options.processes) as shared:
                    if mine is not None:
                        self._complete(mine, next(encoded))
                # Without a cache folder, the features themselves are gathered.
                sent = None if mine is None or self.folder is not None else (mine, self.parts.get(mine))
                for rank, received in enumerate(shared.gather(sent)):
                    if received is not None:
                        self.parts[received[0]] = received[1]
                    if rank != options.process and rank < len(turn):
                        bar.update(len(rows[turn[rank]]))
        if self.folder is not None and options.processes > 1:
            for part in set(missing) - set(own_parts):
                self.parts.pop(part, None)  # another process has completed it
