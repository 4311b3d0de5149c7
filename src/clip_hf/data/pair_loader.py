# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Batches for a training: in one order for any number of processes, and resumed where they stopped."""

import itertools
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import datasets
import torch
from torch.utils.data import DataLoader

from ..utils.saved_states import check_kinds
from .collator import ImageTextCollator
from .image_text import ImageTextDataset, check_columns
from .pair_options import PairOptions
from .sampling import StepOrder
from .streaming import ImageTextStream, MixedStream
from .texts import TextReader, with_class_names


if TYPE_CHECKING:
    from ..model.processing_clip_hf import ClipHFProcessor


_SECONDS_AFTER_SIGTERM = 60


def _start_worker(worker: int) -> None:
    # Workers share the cores among themselves.
    torch.set_num_threads(1)
    # A scheduler that ends a job signals all of its processes, and a terminal's Ctrl-C does. The training then saves,
    # and must not lose its workers while it does.
    signal.signal(signal.SIGTERM, _end_later)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unchanged(batch: dict) -> dict:
    return batch


def _end_later(*_) -> None:
    signal.alarm(_SECONDS_AFTER_SIGTERM)  # the default action of SIGALRM ends the process


class PairLoader:
    """The batches of captioned images that this process trains on.

    - Map-style data: the seed and the epoch decide an epoch's order, and each process takes an equal slice of every
      step. The pairs of a step therefore do not depend on the number of processes or workers, and a training can
      resume with any number of them.
    - Streams have no end, see [`ImageTextStream`]. They must resume with the same number of processes and workers.
    - Rows that cannot be used never shorten a batch. The batch lists them in `"skipped"`; give them to a
      [`SkipCounter`].

    The batches are those of [`ImageTextCollator`], of `batch_size / world_size` pairs.

    Args:
        data (`datasets.Dataset`, or what [`load_pairs`] gives): Rows with images and captions.
        processor ([`ClipHFProcessor`]): Decides the sizes of images and makes the token ids.
        options ([`PairOptions`]): Columns, templates, seed and the other options.
        batch_size (`int`): Pairs in a step, over all processes.
        num_steps (`int`): Steps in the whole training.
        num_workers (`int`, *optional*, defaults to 0): Worker processes of this process that prepare batches.
        rank (`int`, *optional*, defaults to 0): The number of this process, from 0.
        world_size (`int`, *optional*, defaults to 1): Number of processes.

    Raises:
        ValueError: if the data do not fill a step, `batch_size` is no multiple of `world_size`, or what
            [`ImageTextDataset`] and [`ImageTextStream`] raise for bad data.
    """

    def __init__(
        self,
        data: Any,
        processor: "ClipHFProcessor",
        options: PairOptions,
        *,
        batch_size: int,
        num_steps: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        least = {"batch_size": 1, "num_steps": 1, "num_workers": 0, "world_size": 1}
        for name, value in zip(least, (batch_size, num_steps, num_workers, world_size)):
            if value < least[name]:
                raise ValueError(f"`{name}` is {value}; it must be at least {least[name]}.")
        if isinstance(data, dict):
            raise ValueError(f"The data are a dictionary of splits; choose one of {', '.join(map(repr, data))}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"`rank` is {rank}; of {world_size} processes it must be 0 to {world_size - 1}.")
        if batch_size % world_size:
            raise ValueError(
                f"`batch_size` is {batch_size}, the pairs of all processes together; it must be a multiple of their "
                f"number, {world_size}."
            )
        self.options, self.batch_size, self.num_steps = options, batch_size, num_steps
        self.num_workers, self.rank, self.world_size = num_workers, rank, world_size
        self.collator = ImageTextCollator(
            processor,
            options.padding,
            options.token_dropout,
            keep_texts=options.keep_texts,
            keep_crops=options.keep_crops,
        )
        self.step = 0
        self.order: StepOrder | None = None
        self._worker_states: list[dict | None] = [None] * max(num_workers, 1)
        if isinstance(data, datasets.IterableDataset | MixedStream):
            share = batch_size // world_size
            self.pairs = ImageTextStream(data, processor, options, batch_size=share, rank=rank, world_size=world_size)
        else:
            self.pairs = ImageTextDataset(data, processor.image_processor, options)
            lengths = self.pairs.text_lengths() if options.bucket_batches > 1 else None
            self.order = StepOrder(len(self.pairs), batch_size, options.seed, options.bucket_batches, lengths)

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps in an epoch; None for a stream."""
        return None if self.order is None else self.order.steps_per_epoch

    def __len__(self) -> int:
        """Steps still to come."""
        return self.num_steps - self.step

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = iter(self._loader())
        while self.step < self.num_steps:
            batch = next(batches)
            self.step += 1
            if self.order is None:
                self._worker_states[batch.pop("worker")] = batch.pop("state")
            yield batch

    def _loader(self) -> DataLoader:
        common = {
            "num_workers": self.num_workers,
            "worker_init_fn": _start_worker,
            # A generator of its own, because starting a loader must not change the model's random numbers.
            "generator": torch.Generator().manual_seed(self.options.seed),
            "pin_memory": torch.cuda.is_available(),
            "prefetch_factor": self.options.prefetch_factor if self.num_workers else None,
        }
        if self.order is None:
            self.pairs.worker_states = list(self._worker_states)
            self.pairs.first_worker = self.step % len(self._worker_states)
            return DataLoader(self.pairs, batch_size=None, collate_fn=_unchanged, **common)
        batches = self.order.batches(range(self.step, self.num_steps), self.rank, self.world_size)
        return DataLoader(self.pairs, batch_sampler=batches, collate_fn=self.collator, **common)

    def state_dict(self) -> dict[str, Any]:
        """The position after the last batch: a small dictionary of plain values; in a stream each process's own."""
        state = {"step": self.step, "data": self._identity()}
        return state if self.order is not None else {**state, "workers": list(self._worker_states)}

    def _identity(self) -> dict[str, Any]:
        """What must stay the same so that a resumed training makes the same batches."""
        same = {
            "batch_size": self.batch_size,
            "seed": self.options.seed,
            "bucket_batches": self.options.bucket_batches,
        }
        if self.order is not None:
            return {"kind": "map-style", "rows": len(self.pairs), **same}
        return {
            "kind": "stream",
            "shards": self.pairs.num_shards,
            "shuffle_buffer": self.options.shuffle_buffer,
            "world_size": self.world_size,
            "rank": self.rank,
            "num_workers": len(self._worker_states),
            **same,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batch at which `state` was saved.

        Raises:
            ValueError: if the state is no loader's, or that of other data, another batch size or seed; for a stream
                also if it is that of another process, or of another number of processes or workers.
        """
        kinds = {"step": int, "data": dict, **({} if "workers" not in state else {"workers": [dict | None]})}
        check_kinds(state, kinds, "The loader's state")
        mine, theirs = self._identity(), state["data"]
        changed = [name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)]
        if changed:
            changes = ", ".join(f"{name} {theirs.get(name)} (now {mine.get(name)})" for name in sorted(changed))
            raise ValueError(f"The training to resume had {changes}; resume it with the same data and options.")
        self.step = state["step"]
        if self.order is None:
            self._worker_states = list(state["workers"])


def iter_texts(data: Any, options: PairOptions, num_rows: int | None = None) -> Iterator[str]:
    """The texts that a training may see, each caption in each template, row by row; for example for a tokenizer.

    Args:
        data (`datasets.Dataset`, or what [`load_pairs`] gives): Rows with captions. Rows without a usable one are
            passed over.
        options ([`PairOptions`]): Columns and templates.
        num_rows (`int`, *optional*): How many rows to read at most; all by default.

    Raises:
        ValueError: if a column is missing.
    """
    reader = TextReader(options.templates, options.caption_column)
    if data_columns := getattr(data, "column_names", None):
        check_columns(data_columns, options)
        data = with_class_names(data.with_format(None).select_columns(list(reader.columns)), reader.columns)
    for row in itertools.islice(data, num_rows):
        yield from reader.read_all({name: row.get(name) for name in reader.columns})
