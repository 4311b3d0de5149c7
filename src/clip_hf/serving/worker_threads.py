# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Threads that work for an event loop, for which the end of the process does not wait."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any


_CLOSE_SECONDS = 2.0


class WorkerThreads:
    """Runs functions in daemon threads. Python waits at its end for those of `concurrent.futures`, whatever they do:
    a decoder that takes minutes would keep a server from ending.

    Args:
        count (`int`): How many.
        name (`str`): Begins their names.
    """

    def __init__(self, count: int, name: str):
        self._work: queue.SimpleQueue = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}_{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, function: Callable[[], Any]) -> Any:
        """The result of a function in one of the threads. Cancelled before its turn, it does not run."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._work.put((function, loop, future))
        return await future

    def close(self) -> None:
        """End the threads, and drop what has not begun; wait for those that work, but only two seconds."""
        with suppress(queue.Empty):
            while (work := self._work.get_nowait()) is not None:
                _, loop, future = work
                with suppress(RuntimeError):  # the loop is closed: nobody waits
                    loop.call_soon_threadsafe(future.cancel)
        for _ in self._threads:
            self._work.put(None)
        end = time.monotonic() + _CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            _do(*work)
            del work  # it holds an image


def _do(function: Callable[[], Any], loop: asyncio.AbstractEventLoop, future: asyncio.Future) -> None:
    if future.done():
        return
    try:
        result, error = function(), None
    except Exception as raised:  # it is for who asked
        result, error = None, raised
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        loop.call_soon_threadsafe(_deliver, future, result, error)


def _deliver(future: asyncio.Future, result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
