# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Batches across requests: one thread runs the model, on queues of images and of texts that requests share."""

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .server_metrics import ServerMetrics


_SWITCH_SECONDS, _CLOSE_SECONDS = 0.0005, 10.0
Encode = Callable[[list[Any]], Sequence[Any]]
"""Encodes items of a kind in one pass: returns a row for each, or raises."""
_CALL = "call"  # the kind of items that are functions


@dataclass(frozen=True)
class BatchingOptions:
    """How items of different requests share passes of the model.

    Args:
        max_batch_images (`int`, *optional*, defaults to 32): Images of one pass.
        max_batch_texts (`int`, *optional*, defaults to 256): Texts of one pass.
        max_wait_ms (`float`, *optional*, defaults to 5): The longest that an item waits for others, in milliseconds.
            It waits only while others are on their way and the batch is not full.

    Raises:
        ValueError: if a size is no whole number above 0, or the wait is negative.
    """

    max_batch_images: int = 32
    max_batch_texts: int = 256
    max_wait_ms: float = 5.0

    def __post_init__(self):
        for name in ("max_batch_images", "max_batch_texts"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` is {value!r}; it must be a whole number, at least 1.")
        wait = self.max_wait_ms
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait < float("inf"):
            raise ValueError(f"`max_wait_ms` is {wait!r}; it must be a number of milliseconds, at least 0.")


@dataclass(eq=False)
class _Group:
    """Items of one request, whose results come back together."""

    items: Sequence[Any]
    future: asyncio.Future
    since: float
    rows: list[Any] = field(default_factory=list)
    taken: int = 0
    left: int = 0

    def __post_init__(self):
        self.rows, self.left = [None] * len(self.items), len(self.items)


class DynamicBatcher:
    """Runs a model in a thread of its own, on batches of items that different requests submitted.

    - A batch takes the same share of each waiting request, so that a large one does not hold up small ones; what it
      leaves goes behind the others.
    - Of two kinds of items, the one goes next whose oldest item has waited longest since its kind's last batch.
    - Items of cancelled requests are dropped before their batch.
    - If a batch fails it is halved, until the items that fail are alone: others get their results.

    It is made on the thread of the event loop that submits. Until it is closed, threads of this process that wait for
    the interpreter get it after half a millisecond: after Python's 5, a busy event loop would hold up each layer.

    Args:
        encoders (`Mapping[str, Encode]`): What encodes the items of each kind.
        max_batch (`Mapping[str, int]`): Items of a batch, by kind.
        max_wait (`float`): Seconds that an item waits at most while others are on their way.
        is_more_coming (`Callable[[str], bool]`): Whether items of a kind are on their way; asked in the model's
            thread.
        metrics ([`ServerMetrics`]): Counts batches.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encode],
        max_batch: Mapping[str, int],
        max_wait: float,
        is_more_coming: Callable[[str], bool],
        metrics: ServerMetrics,
    ):
        self._encoders = {**encoders, _CALL: lambda functions: [function() for function in functions]}
        self._max_batch, self._max_wait = {**max_batch, _CALL: 1}, max_wait
        self._is_more_coming, self._metrics = is_more_coming, metrics
        self._queues: dict[str, deque[_Group]] = {kind: deque() for kind in self._encoders}
        self._last_batch = dict.fromkeys(self._encoders, 0.0)
        self._loop = asyncio.get_running_loop()
        self._changed = threading.Condition()
        self._is_closed = False
        self._rate: float | None = None  # items a second while the model is busy
        self._switch_seconds = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def items_per_second(self) -> float | None:
        """Recent speed of the model, over both kinds; None before the first batch."""
        return self._rate

    async def submit(self, kind: str, items: Sequence[Any]) -> list[Any]:
        """Encode items with those of other requests.

        Args:
            kind (`str`): Their kind.
            items (`Sequence`): The items.

        Returns:
            `list`: a row for each item, in their order.

        Raises:
            Exception: what the first of the items raised that fails; the others are dropped.
        """
        if not items:
            return []
        group = _Group(items, self._loop.create_future(), time.monotonic())
        with self._changed:
            if self._is_closed:
                raise RuntimeError("The batcher is closed.")
            self._queues[kind].append(group)
            self._changed.notify()
        return await group.future

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run a function that computes with tensors in the model's thread, between batches, and return its result.

        Two threads that both compute in parallel have more OpenMP threads than there are cores, whose workers then
        sleep between operations instead of waiting actively: passes of the model took 1.4 times as long.
        """
        return (await self.submit(_CALL, [function]))[0]

    def announce(self) -> None:
        """Look again whether others are on their way."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """End the thread when its batch is done; what still waits is cancelled. Any thread may call this.

        A batch that takes more than ten seconds ends with the process.
        """
        with self._changed:
            self._is_closed = True
            groups = [group for queue in self._queues.values() for group in queue]
            self._changed.notify()
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(lambda: [group.future.cancel() for group in groups])
        self._thread.join(_CLOSE_SECONDS)
        sys.setswitchinterval(self._switch_seconds)

    # ------------------------------------------------------------------------------------------- in the model's thread

    def _run(self) -> None:
        while (work := self._next_batch()) is not None:
            kind, batch = work
            started = time.monotonic()
            results = self._encode(kind, [group.items[place] for group, place in batch])
            seconds = time.monotonic() - started
            if kind != _CALL:
                self._metrics.observe_batch(kind, len(batch), seconds)
                rate = len(batch) / max(seconds, 1e-6)
                self._rate = rate if self._rate is None else 0.8 * self._rate + 0.2 * rate
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(_deliver, batch, results)

    def _next_batch(self) -> tuple[str, list[tuple[_Group, int]]] | None:
        """Wait for a batch; None when closed."""
        with self._changed:
            while not self._is_closed:
                waits = {kind: self._seconds_to_wait(kind) for kind in self._waiting_kinds()}
                ready = [kind for kind, seconds in waits.items() if seconds <= 0]
                if ready:
                    self._last_batch[ready[0]] = time.monotonic()
                    return ready[0], self._take(ready[0])
                self._changed.wait(min(waits.values(), default=None))
        return None

    def _waiting_kinds(self) -> list[str]:
        """Kinds with items, that with the oldest item first."""
        oldest = {}
        for kind, queue in self._queues.items():
            while queue and queue[0].future.done():
                queue.popleft()
            if queue:
                oldest[kind] = max(min(group.since for group in queue), self._last_batch[kind])
        return sorted(oldest, key=oldest.get)

    def _seconds_to_wait(self, kind: str) -> float:
        """How long to wait for more items: not at all where none are on their way, or the batch is full."""
        queue = self._queues[kind]
        num_items = sum(len(group.items) - group.taken for group in queue)
        if num_items >= self._max_batch[kind] or not self._is_more_coming(kind):
            return 0.0
        return min(group.since for group in queue) + self._max_wait - time.monotonic()

    def _take(self, kind: str) -> list[tuple[_Group, int]]:
        """Items of a batch: the same share of each group, first come first."""
        queue, size, batch = self._queues[kind], self._max_batch[kind], []
        while queue and len(batch) < size:
            share = max(1, (size - len(batch)) // len(queue))
            for _ in range(len(queue)):
                group = queue.popleft()
                if group.future.done():
                    continue
                count = min(share, size - len(batch), len(group.items) - group.taken)
                batch += [(group, place) for place in range(group.taken, group.taken + count)]
                group.taken += count
                if group.taken < len(group.items):
                    queue.append(group)
        return batch

    def _encode(self, kind: str, items: list[Any]) -> list[Any]:
        """A row for each item, or the exception that it raises."""
        try:
            return list(self._encoders[kind](items))
        except Exception as error:  # whatever a model raises is for those who asked, and not for their neighbours
            if len(items) == 1:
                return [error]
        middle = len(items) // 2
        return self._encode(kind, items[:middle]) + self._encode(kind, items[middle:])


def _deliver(batch: list[tuple[_Group, int]], results: list[Any]) -> None:
    for (group, place), result in zip(batch, results, strict=True):
        if group.future.done():
            continue
        if isinstance(result, Exception):
            group.future.set_exception(result)
            continue
        group.rows[place] = result
        group.left -= 1
        if group.left == 0:
            group.future.set_result(group.rows)
