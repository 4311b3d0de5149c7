# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Streams of captioned images: endless, shared between processes and workers, and resumed at any batch."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import datasets
import numpy as np
from torch.utils.data import IterableDataset, get_worker_info
from transformers.utils import logging

from .clip_reading import build_reader
from .collator import ImageTextCollator
from .image_text import NO_ROWS, check_columns, finish_item, text_length, undecoded_images
from .media import find_media
from .pair_extras import PairExtras
from .pair_options import PairOptions, named_columns, row_columns
from .skips import SkippedRow, stop_if_exhausted
from .texts import TextReader, with_class_names


if TYPE_CHECKING:
    from ..model.processing_clip_hf import ClipHFProcessor

logger = logging.get_logger(__name__)

_FIRST_ROWS = 16
# Give up after this many consecutive bad rows.
_MAX_BAD_IN_SEQUENCE = 1000


class MixedStream:
    """Several streams as one.

    Args:
        sources (`Sequence[datasets.IterableDataset]`): Streams with the same columns.
        weights (`Sequence[float]`, *optional*): Share of the pairs from each source, which is then passed over on its
            own. Without weights each row of all sources comes once in a pass.
    """

    def __init__(self, sources: Sequence[datasets.IterableDataset], weights: Sequence[float] | None = None):
        self.sources = tuple(sources)
        self.weights = None if weights is None else tuple(float(weight) / sum(weights) for weight in weights)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All rows of each source in turn, as they are stored."""
        for source in self.sources:
            yield from source


@dataclass(frozen=True)
class _Row:
    """A row as stored, not decoded, and its place."""

    values: dict[str, Any]
    epoch: int
    source: int
    shard: int
    number: int  # in its shard

    @property
    def where(self) -> str:
        source = f" of source {self.source}" if self.source else ""
        return f"row {self.number} of shard {self.shard}{source}"

    @property
    def seed(self) -> str:
        return f"{self.epoch}/{self.source}/{self.shard}/{self.number}"


class _Part(NamedTuple):
    """The part of the rows that one worker of one process reads: the `index`-th of `count`."""

    index: int
    count: int


class _Cursor:
    """Reads this worker's part of some shards, pass after pass, and knows its position.

    The order of the shards changes with each pass. If there are at least as many shards as workers, each worker reads
    its own shards; otherwise several workers read the same shard, and each keeps every n-th row.
    """

    def __init__(self, sources: Sequence[tuple[int, datasets.IterableDataset]], part: _Part, seed: int):
        self.shards = [(index, source, shard) for index, source in sources for shard in range(source.num_shards)]
        self.seed = seed
        groups = max(d for d in range(1, part.count + 1) if part.count % d == 0 and d <= len(self.shards))
        self.group, self.num_groups = part.index % groups, groups
        self.nth, self.of = part.index // groups, part.count // groups
        self.epoch, self.place, self.number = 0, 0, 0
        self._rows: Iterator[dict] | None = None
        self._source: datasets.IterableDataset | None = None
        self._order: tuple[int, list[int]] | None = None
        self._start: dict | None = None
        self._found = False

    def state_dict(self) -> dict[str, Any]:
        source = self._source.state_dict() if self._rows is not None else self._start
        place = {"epoch": self.epoch, "place": self.place, "number": self.number}
        return {**place, "found": self._found, "source": source}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.place, self.number = state["epoch"], state["place"], state["number"]
        self._found, self._start, self._rows = state["found"], state["source"], None

    def _my_shards(self) -> list[int]:
        if self._order is None or self._order[0] != self.epoch:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.shards))
            self._order = (self.epoch, order[self.group :: self.num_groups].tolist())
        return self._order[1]

    def _open(self) -> None:
        _, source, shard = self.shards[self._my_shards()[self.place]]
        self._source = source.shard(source.num_shards, shard) if source.num_shards > 1 else source
        # None is the shard's start.
        self._source.load_state_dict(self._start)
        # Not `iter(self._source)`, which within a worker would share the rows between the workers once more.
        batches = self._source.iter(batch_size=1)
        self._rows = ({name: values[0] for name, values in batch.items()} for batch in batches)
        self._start = None

    def next_row(self) -> _Row | SkippedRow | None:
        """The next row; a [`SkippedRow`] for a shard that cannot be read further; None at the end of each pass."""
        while True:
            if self.place == len(self._my_shards()):
                if not self._found:
                    raise ValueError("A pass over the stream gave a worker no row; use fewer workers or processes.")
                self.epoch, self.place, self._found = self.epoch + 1, 0, False
                return None
            source, _, shard = self.shards[self._my_shards()[self.place]]
            try:
                if self._rows is None:
                    self._open()
                values = next(self._rows, None)
            except Exception as error:  # readers raise many types for damaged files
                stop_if_exhausted(error, f"shard {shard} of the stream")
                self._next_shard()
                message = f"Shard {shard} of the stream cannot be read further; the rest of it is skipped: {error}"
                logger.warning(message)
                return SkippedRow("shard damaged", f"shard {shard} of source {source}", message)
            if values is None:
                self._next_shard()
                continue
            number, self.number = self.number, self.number + 1
            if number % self.of == self.nth:
                self._found = True
                return _Row(values, self.epoch, source, shard, number)

    def _next_shard(self) -> None:
        self.place, self.number, self._rows, self._start = self.place + 1, 0, None, None


class _Mixture:
    """Rows of one cursor, or of several, from which one is drawn for each row."""

    def __init__(self, data: MixedStream, part: _Part, seed: int):
        numbered = list(enumerate(data.sources))
        groups = [numbered] if data.weights is None else [[entry] for entry in numbered]
        self.cursors = [_Cursor(group, part, seed) for group in groups]
        self.weights, self.seed, self.part = data.weights, seed, part

    def state_dict(self) -> list[dict]:
        return [cursor.state_dict() for cursor in self.cursors]

    def load_state_dict(self, state: list[dict]) -> None:
        for cursor, cursor_state in zip(self.cursors, state, strict=True):
            cursor.load_state_dict(cursor_state)

    def read_block(self, number: int, size: int) -> list[_Row | SkippedRow]:
        """The next `size` rows, or fewer at the end of a pass."""
        rows: list[_Row | SkippedRow] = []
        generator = random.Random(f"{self.seed}/mixture/{self.part.index}/{number}")
        while len(rows) < size:
            (cursor,) = generator.choices(self.cursors, self.weights)
            row = cursor.next_row()
            # Sources that are mixed have no common pass.
            if row is None and self.weights is not None:
                row = cursor.next_row()
            if row is None:
                break
            rows.append(row)
        return rows


class ImageTextStream(IterableDataset):
    """Batches of captioned images from a stream, for a `DataLoader` with `batch_size=None`; [`PairLoader`] makes one.

    - All workers of all processes share the shards, whose order changes with each pass. If there are fewer shards than
      workers, several workers read the same shard and each keeps every n-th row: correct, but slower.
    - Each worker reads its rows pass after pass. Rows left over at the end of a pass go into the next batch, so no
      process ever waits for another.
    - `options.shuffle_buffer` rows at a time are read, undecoded, and shuffled; the last block of a pass is shorter. A
      training resumes exactly: the worker reads the block again and continues at its place in it.
    - Every draw for a row depends only on the seed, the pass, the shard, and the row's place in the shard.
    - Rows that cannot be used are skipped, and listed in the batch.

    Batches are those of [`ImageTextCollator`], with the worker's `"state"` after the batch.

    Args:
        data (`datasets.IterableDataset` or [`MixedStream`]): Rows with an image and a caption, or a list of captions.
        processor ([`ClipHFProcessor`]): Decides the sizes and makes the token ids.
        options ([`PairOptions`]): Columns, templates, seed and so on.
        batch_size (`int`): Pairs of a batch of this process.
        rank (`int`, *optional*, defaults to 0): This process.
        world_size (`int`, *optional*, defaults to 1): Number of processes.

    Raises:
        ValueError: if a column is missing, the stream is empty, or more than half of its first rows cannot be used.
    """

    def __init__(
        self,
        data: datasets.IterableDataset | MixedStream,
        processor: "ClipHFProcessor",
        options: PairOptions,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        data = data if isinstance(data, MixedStream) else MixedStream([data])
        self.texts = TextReader(options.templates, options.caption_column)
        self.extras = PairExtras(options) if options.has_extras else None
        self.columns, self.media = list(row_columns(options)), find_media(options.media)
        self.options, self.batch_size = options, batch_size
        self.rank, self.world_size = rank, world_size
        self.reader = build_reader(processor.image_processor, replace(options, cache_images=False))
        self.collator = ImageTextCollator(
            processor,
            options.padding,
            options.token_dropout,
            keep_texts=options.keep_texts,
            keep_crops=options.keep_crops,
        )
        self.data = MixedStream([self._prepared(source) for source in data.sources], data.weights)
        # Set by `PairLoader`: the states of the workers, and which of them gives the first batch.
        self.worker_states: list[dict | None] | None = None
        self.first_worker = 0
        for source in self.data.sources:
            self._check_first_rows(source)

    @property
    def num_shards(self) -> int:
        """Shards of all sources."""
        return sum(source.num_shards for source in self.data.sources)

    def _prepared(self, source: datasets.IterableDataset) -> datasets.IterableDataset:
        """The columns that are needed, images undecoded."""
        columns = source.column_names
        if columns is None:
            columns = next(list(row.values) for row in self._first_rows(source) if isinstance(row, _Row))
        check_columns(columns, self.options)
        if source.features is None:
            return source
        source = undecoded_images(source.select_columns(self.columns), self.options.image_column, self.media)
        return with_class_names(source, named_columns(self.options))

    def _first_rows(self, source: datasets.IterableDataset) -> list[_Row | SkippedRow]:
        """At most 16 rows, at least one of which could be read."""
        cursor, rows = _Cursor([(0, source)], _Part(0, 1), self.options.seed), []
        try:
            rows.extend(itertools.islice(iter(cursor.next_row, None), _FIRST_ROWS))
        except ValueError as error:
            raise ValueError(" ".join([NO_ROWS, *(row.message for row in rows[:1])])) from error
        return rows

    def _check_first_rows(self, source: datasets.IterableDataset) -> None:
        first = self._first_rows(source)
        results = [self._read(row) if isinstance(row, _Row) else row for row in first]
        bad = [result for result in results if isinstance(result, SkippedRow)]
        if 2 * len(bad) > len(first):
            raise ValueError(
                f"{len(bad)} of the first {len(first)} rows of the stream cannot be used. "
                f"{' '.join(row.message for row in bad[:3])} Check the columns and the data."
            )

    def _read(self, row: _Row) -> dict | SkippedRow:
        generator = random.Random(f"{self.options.seed}/{row.seed}")
        pixels = self.reader.read(row.values.get(self.options.image_column), row.where, generator)
        if isinstance(pixels, SkippedRow):
            return pixels
        values = {name: row.values.get(name) for name in self.columns}
        return finish_item(pixels, values, row.where, self, generator)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        index, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # The loader always starts at worker 0, so worker 0 takes the place of the worker whose turn it was.
        index = (index + self.first_worker) % count
        state = self.worker_states[index] if self.worker_states else None
        part = _Part(self.rank * count + index, self.world_size * count)
        for batch in self._batches(part, state):
            yield {**batch, "worker": index}

    def _batches(self, part: _Part, state: dict | None) -> Iterator[dict[str, Any]]:
        mixture = _Mixture(self.data, part, self.options.seed)
        block, position = 0, 0
        if state is not None:
            mixture.load_state_dict(state["source"])
            block, position = state["block"], state["position"]
        items: list[dict] = []
        skipped: list[SkippedRow] = []
        bad_in_sequence = 0
        while True:
            source = mixture.state_dict()
            rows = self._shuffled(mixture.read_block(block, max(self.options.shuffle_buffer, 1)), part, block)
            for place in range(position, len(rows)):
                item = rows[place] if isinstance(rows[place], SkippedRow) else self._read(rows[place])
                if isinstance(item, SkippedRow):
                    skipped.append(item)
                    bad_in_sequence += 1
                    if bad_in_sequence == _MAX_BAD_IN_SEQUENCE:
                        count = f"{_MAX_BAD_IN_SEQUENCE} rows in sequence"
                        raise ValueError(f"{count} cannot be used. The last: {item.message} Check the data.")
                    continue
                bad_in_sequence = 0
                items.append(item)
                if len(items) == self.batch_size:
                    batch = self.collator(items)
                    batch["skipped"] = skipped
                    batch["state"] = {"source": source, "block": block, "position": place + 1}
                    yield batch
                    items, skipped = [], []
            block, position = block + 1, 0

    def _shuffled(self, rows: list, part: _Part, block: int) -> list:
        if self.options.shuffle_buffer < 2:
            return rows
        generator = np.random.default_rng((self.options.seed, part.index, block))
        order = generator.permutation(len(rows))
        size, count = self.batch_size, self.options.bucket_batches
        if count > 1:
            lengths = np.array([self._length(row) for row in rows])
            groups = []
            for start in range(0, len(order), size * count):
                group = order[start : start + size * count]
                group = group[np.argsort(lengths[group], kind="stable")]
                batches = [group[first : first + size] for first in range(0, len(group), size)]
                # Only whole batches change places, or a shorter one would shift all that follow.
                whole = [batch for batch in batches if len(batch) == size]
                groups += [whole[place] for place in generator.permutation(len(whole))] + batches[len(whole) :]
            order = np.concatenate(groups)
        return [rows[place] for place in order]

    def _length(self, row: _Row | SkippedRow) -> int:
        if isinstance(row, SkippedRow):
            return 0
        return sum(text_length(row.values.get(name)) for name in self.texts.columns)
