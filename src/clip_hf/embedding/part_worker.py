# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embed the rows of parts, one after another, while threads read and prepare what comes next."""

import hashlib
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from ..data.row_shards import image_name
from ..data.skips import DamagedFile, SkippedRow, stop_if_exhausted
from ..data.texts import find_caption_problem
from ..model.image_reading_clip_hf import IMAGE_FORMATS, fetch_file
from ..model.video_opening_clip_hf import is_video
from .dual_encoder import DualEncoder
from .encoding_ahead import encode_ahead
from .job_progress import JobProgress
from .part_files import IMAGES, TEXTS, PartContent, PartName


@dataclass
class PartRow:
    """A row on its way into a part; the image's bytes are let go once they are encoded."""

    number: int
    image: Any
    captions: Any
    known: dict[str, Any] = field(default_factory=dict)  # digest, bytes, width and height


@dataclass(frozen=True)
class PartEnd:
    """Comes after the batches of a part; with a `problem` instead of its last rows, and then the part is not made."""

    name: PartName
    is_last: bool
    problem: DamagedFile | None = None


Batch = tuple[PartName, list[PartRow]]


def part_batches(
    shard: int, first: int, rows: Iterator[tuple[int, Any, Any]], rows_per_part: int, batch_size: int
) -> Iterator[Batch | PartEnd]:
    """Divide the rows of a shard (number, image, captions) into parts and batches, by their numbers alone.

    The rows are those of the part `first` and of what follows it. A shard without rows has one empty part. The rows
    of a file that cannot be read to its end make whole parts, as far as they reach.
    """
    part = first
    try:
        row = next(rows, None)
    except DamagedFile as error:
        yield PartEnd(PartName(shard, part), False, error)
        return
    while True:
        name, count = PartName(shard, part), 0
        while row is not None and count < rows_per_part:
            batch: list[PartRow] = []
            while row is not None and count < rows_per_part and len(batch) < batch_size:
                batch.append(PartRow(*row))
                count += 1
                try:
                    row = next(rows, None)
                except DamagedFile as error:
                    yield PartEnd(name, False, error)
                    return
            yield name, batch
        yield PartEnd(name, row is None)
        if row is None:
            return
        part += 1


def describe_file(data: bytes) -> dict[str, Any]:
    """The digest, bytes, width and height of an image file, as rows hold them; its pixels are not decoded.

    Raises:
        Exception: of any type, if Pillow cannot read the file's header.
    """
    with Image.open(io.BytesIO(data), formats=[name for name in IMAGE_FORMATS if name in Image.OPEN]) as header:
        width, height = header.size
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return {"digest": digest, "bytes": len(data), "width": width, "height": height}


class PartWorker:
    """Turns batches of rows into the contents of parts.

    Args:
        encoder (`DualEncoder`): The model.
        folder (`str`): The folder to which names of images are relative.
        images (`bool`): Whether images are embedded.
        texts (`bool`): Whether captions are embedded.
        dtype (`str`): Of the embeddings: `"float16"` or `"float32"`.
        num_threads (`int`): Threads that read and prepare images.
        progress ([`JobProgress`]): Counts rows and measures time.

    `unread` holds, by their number, the shards that could not be read to their end, and why.
    """

    def __init__(
        self,
        encoder: DualEncoder,
        folder: str,
        *,
        images: bool,
        texts: bool,
        dtype: str,
        num_threads: int,
        progress: JobProgress,
    ):
        self.encoder, self.folder, self.images, self.texts = encoder, folder, images, texts
        self.dtype, self.num_threads, self.progress = np.dtype(dtype), num_threads, progress
        self.unread: dict[int, DamagedFile] = {}

    def embed(self, batches: Iterable[Batch | PartEnd]) -> Iterator[tuple[PartName, PartContent]]:
        """The content of each part. `batches` is read ahead of the model, across the ends of parts."""
        underway: deque[Batch | PartEnd] = deque()
        rows: list[PartRow] = []
        features: list[np.ndarray] = []
        bad: list[tuple[int, SkippedRow]] = []

        def noted() -> Iterator[tuple[range, list[PartRow]]]:
            for batch in batches:
                underway.append(batch)
                if not isinstance(batch, PartEnd):
                    yield range(batch[1][0].number, batch[1][-1].number + 1), batch[1]

        def ended() -> Iterator[tuple[PartName, PartContent]]:
            nonlocal rows, features, bad
            while underway and isinstance(underway[0], PartEnd):
                end = underway.popleft()
                if end.problem is None:
                    yield end.name, self._content(end, rows, features, bad)
                else:
                    self.unread[end.name.shard] = end.problem
                rows, features, bad = [], [], []

        with closing(self._encoded(noted())) as encoded:
            for kept, encoded_features, skipped in encoded:
                yield from ended()
                batch = underway.popleft()
                read = {row.number for row in kept}
                left_out = (row.number for row in batch[1] if row.number not in read)
                rows += kept
                features += [encoded_features] if kept and encoded_features is not None else []
                bad += zip(left_out, skipped, strict=True)
                self.progress.add(len(kept) + len(skipped), len(skipped))
                yield from ended()
        yield from ended()

    def _encoded(
        self, batches: Iterator[tuple[range, list[PartRow]]]
    ) -> Iterator[tuple[list[PartRow], np.ndarray | None, list[SkippedRow]]]:
        """For each batch the rows that were read, the features of their images, and the other rows in their order."""
        if not self.images:
            for _, rows in batches:
                for row in rows:
                    row.image = image_name(row.image, self.folder)
                yield rows, None, []
            return
        timed = _TimedEncoder(self.encoder, self.progress)
        encoded = encode_ahead(timed, batches, self._read_image, projected=True, num_threads=self.num_threads)
        with closing(encoded):
            for batch in encoded:
                for row in batch.items:
                    row.image = image_name(row.image, self.folder)
                yield batch.items, batch.features, batch.skipped

    def _read_image(self, row: PartRow) -> Any:
        """The bytes of a row's image file; what cannot be read stays as it is, so that the encoder says why."""
        with self.progress.measure("reading"):
            source = row.image
            if self.encoder.media == "videos" and is_video(source):
                return source  # its frames are read where they are needed, not the whole file
            try:
                data = fetch_file(source, self.encoder.image_limits)
                if not isinstance(data, bytes):
                    return source
                row.known = describe_file(data)
            except Exception as error:  # libraries raise whatever they like for damaged files
                stop_if_exhausted(error, f"the image of row {row.number}")
                return source
            path = source.get("path") if isinstance(source, dict) else source
            row.image = path if isinstance(path, str | os.PathLike) else ""
            return {"bytes": data, "path": row.image}

    def _content(
        self, end: PartEnd, rows: list[PartRow], features: list[np.ndarray], bad: list[tuple[int, SkippedRow]]
    ) -> PartContent:
        image_features = np.concatenate(features) if features else np.empty((0, self.encoder.projection_dim), "f4")
        kept, captions = [], []
        for index, row in enumerate(rows):
            texts, problem = self._captions_of(row)
            if problem is None:
                kept.append(index)
                captions.append(texts)
            else:
                bad.append((row.number, problem))
                self.progress.bad += 1
        embeddings = {}
        if self.images:
            embeddings[IMAGES] = image_features[kept].astype(self.dtype)
        if self.texts:
            embeddings[TEXTS] = self._encode_texts([text for texts in captions for text in texts])
        return PartContent(
            [
                {"shard": end.name.shard, "row": row.number, "name": row.image, "captions": texts, **row.known}
                for row, texts in zip((rows[index] for index in kept), captions)
            ],
            embeddings,
            [(number, self._described(row)) for number, row in sorted(bad, key=lambda each: each[0])],
            end.is_last,
        )

    def _described(self, row: SkippedRow) -> SkippedRow:
        """A bad row without the place of the data, which may be another the next time."""
        message = row.message.replace(os.path.join(self.folder, ""), "") if self.folder else row.message
        return replace(row, name=image_name(row.name, self.folder), message=message)

    def _captions_of(self, row: PartRow) -> tuple[list[str], SkippedRow | None]:
        """The captions of a row; what is wrong with them, where that leaves nothing of the row or is no text.

        Blanks in a list of captions say nothing, so they count only if there is nothing else.
        """
        value = row.captions
        filled = [text for text in value if not _is_blank(text)] if isinstance(value, list | tuple) else None
        problem = find_caption_problem(filled or value, f"row {row.number}")
        if problem is None:
            return filled or [value], None
        # An image may be without caption; where captions are not embedded, nothing about them matters.
        is_welcome = not self.texts or (self.images and problem.kind in ("caption missing", "caption blank"))
        return [], None if is_welcome else replace(problem, name=row.image)

    def _encode_texts(self, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.empty((0, self.encoder.projection_dim), self.dtype)
        with self.progress.measure("model"):
            return self.encoder.encode_texts(texts).numpy().astype(self.dtype)


def _is_blank(text: Any) -> bool:
    return text is None or (isinstance(text, str) and not text.strip())


class _TimedEncoder:
    """An encoder of images whose steps are measured."""

    def __init__(self, encoder: DualEncoder, progress: JobProgress):
        self._encoder, self._progress, self.media = encoder, progress, encoder.media

    def prepare(self, images: list[Any]) -> dict[str, Any]:
        with self._progress.measure("preparing"):
            return self._encoder.prepare(images)

    def encode_images(self, inputs: dict[str, Any], *, projected: bool) -> Any:
        with self._progress.measure("model"):
            return self._encoder.encode_images(inputs, projected=projected)
