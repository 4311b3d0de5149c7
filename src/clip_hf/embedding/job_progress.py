# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Where the time of an embedding job goes, and what it says of it while it runs."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tqdm.auto import tqdm


_SECONDS_PER_LINE = 60.0


@dataclass(frozen=True)
class JobTiming:
    """Where the time of a run went.

    Args:
        seconds (`float`): Of the whole run, without loading the model.
        rows (`int`): Rows that this process embedded or found unusable.
        model (`float`): Share of the time in which the model ran, 0 to 1: near 1, the model is the bottleneck.
        reading (`float`): Share of all threads' time that went into reading files, 0 to 1.
        preparing (`float`): Share of all threads' time that went into decoding and resizing, 0 to 1.
    """

    seconds: float
    rows: int
    model: float
    reading: float
    preparing: float

    @property
    def rows_per_second(self) -> float:
        """Rows a second over the whole run."""
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def shares(self) -> str:
        """Where the time went, in a few words."""
        return (
            f"model {self.model:.0%} of the time, threads {self.reading:.0%} reading, {self.preparing:.0%} preparing"
        )

    def __str__(self) -> str:
        return f"{self.rows_per_second:.1f} rows/s; {self.shares}"


def combine_timings(runs: Mapping[str, Sequence[JobTiming]]) -> JobTiming | None:
    """The timing of workers that ran side by side, each with its runs one after another.

    The seconds are those of the worker that took longest, the shares those of all workers' time. None if there are no
    runs.
    """
    timings = [timing for of_worker in runs.values() for timing in of_worker]
    if not timings:
        return None
    worked = sum(timing.seconds for timing in timings)
    return JobTiming(
        max(sum(timing.seconds for timing in of_worker) for of_worker in runs.values()),
        sum(timing.rows for timing in timings),
        *(
            sum(getattr(timing, step) * timing.seconds for timing in timings) / worked
            for step in ("model", "reading", "preparing")
        ),
    )


class JobProgress:
    """Measures the steps of a job and shows them: a bar on a terminal, else a line a minute on standard error.

    Args:
        total (`int`, *optional*): Rows that are missing, if they are known.
        num_threads (`int`): Threads that read and prepare.
        is_shown (`bool`): Whether anything is shown.
    """

    def __init__(self, total: int | None, num_threads: int, is_shown: bool):
        self._seconds = {"reading": 0.0, "preparing": 0.0, "model": 0.0}
        self._lock = threading.Lock()
        self._num_threads, self._is_shown = num_threads, is_shown
        self._start = self._last_line = time.monotonic()
        self.total, self.rows, self.bad = total, 0, 0
        on_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar = tqdm(total=total, unit=" rows", desc="embed", disable=not (is_shown and on_terminal))

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Add the time of the block to `"reading"`, `"preparing"` or `"model"`; from any thread."""
        start = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._seconds[step] += time.monotonic() - start

    def timing(self) -> JobTiming:
        """Where the time went so far."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        threads = seconds * self._num_threads
        of = self._seconds
        return JobTiming(seconds, self.rows, of["model"] / seconds, of["reading"] / threads, of["preparing"] / threads)

    def add(self, rows: int, bad: int) -> None:
        """Count rows that are done, and how many of them are bad."""
        self.rows, self.bad = self.rows + rows, self.bad + bad
        self._bar.update(rows)
        if not self._bar.disable:
            timing = self.timing()
            self._bar.set_postfix_str(f"{self.bad:,} bad, {timing.shares}", refresh=False)
        elif time.monotonic() - self._last_line > _SECONDS_PER_LINE:
            self._last_line = time.monotonic()
            total = "" if self.total is None else f" of {self.total:,}"
            self.say(f"{self.rows:,}{total} rows, {self.bad:,} bad; {self.timing()}")

    def leave(self, rows: int | None) -> None:
        """Expect fewer rows, because other processes do them; None if nobody knows how many."""
        if self.total is not None and rows is not None:
            self._set_total(self.total - rows)

    def expect(self, rows: int | None) -> None:
        """Expect this many more rows; None if nobody knows how many."""
        if rows is not None:
            self._set_total(self.rows + rows)

    def _set_total(self, total: int) -> None:
        self.total = self._bar.total = total
        self._bar.refresh()

    def say(self, text: str) -> None:
        """Write a line on standard error, where anything is shown."""
        if self._is_shown and sys.stderr is not None:
            tqdm.write(f"embed: {text}", file=sys.stderr)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
