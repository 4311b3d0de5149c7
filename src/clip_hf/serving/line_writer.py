# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Lines for a reader who may be slow or gone, such as a log's: writing them never waits."""

import logging
import os
import queue
import threading
import time
from contextlib import suppress


_MAX_LINES = 10_000
_END_SECONDS = 1.0


class LineWriter:
    """Writes lines to a file descriptor in a thread of its own; what nobody takes in time is dropped and counted.

    It uses neither Python's streams nor their locks, which the end of the process would wait for.

    Args:
        descriptor (`int`): Where to write.
    """

    def __init__(self, descriptor: int):
        self._descriptor, self._num_dropped = descriptor, 0
        self._lines: queue.Queue[str | None] = queue.Queue(_MAX_LINES)
        threading.Thread(target=self._run, name="lines", daemon=True).start()

    def write(self, line: str) -> None:
        """Write a line, soon."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._num_dropped += 1

    def finish(self) -> None:
        """End when everything is written, but do not wait for a reader who stopped reading."""
        end = time.monotonic() + _END_SECONDS
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.005)
        with suppress(queue.Full):
            self._lines.put_nowait(None)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write_whole(line)
                dropped, self._num_dropped = self._num_dropped, 0
                if dropped:
                    self._write_whole(f"{dropped:,} lines were dropped, because nobody read them in time.")
            except OSError:
                pass  # the reader is gone, as after `| head -1`
            finally:
                self._lines.task_done()

    def _write_whole(self, line: str) -> None:
        data = f"{line}\n".encode(errors="backslashreplace")
        while data:
            data = data[os.write(self._descriptor, data) :]


class LineHandler(logging.Handler):
    """Gives what is logged to a [`LineWriter`]."""

    def __init__(self, writer: LineWriter):
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.write(self.format(record))
