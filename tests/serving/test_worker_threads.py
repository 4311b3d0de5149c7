# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Threads of the server, which never keep a process from ending."""

import asyncio
import subprocess
import sys
import textwrap
import threading

import pytest

from clip_hf.serving import worker_threads
from clip_hf.serving.worker_threads import WorkerThreads


def test_results_and_errors_are_those_of_the_function():
    async def main():
        threads = WorkerThreads(2, "work")
        try:
            assert await threads.run(lambda: 3) == 3
            with pytest.raises(ZeroDivisionError):
                await threads.run(lambda: 1 / 0)
            both = threading.Barrier(2)
            await asyncio.gather(*(threads.run(lambda: both.wait(20)) for _ in range(2)))  # beside each other
        finally:
            threads.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("work_")]

    asyncio.run(main())


def test_what_is_cancelled_before_its_turn_does_not_run_and_what_waits_is_cancelled_by_the_end():
    async def main():
        threads, gate, ran = WorkerThreads(1, "work"), threading.Event(), []
        first = asyncio.create_task(threads.run(lambda: gate.wait(20)))
        second = asyncio.create_task(threads.run(lambda: ran.append("second")))
        third = asyncio.create_task(threads.run(lambda: ran.append("third")))
        await asyncio.sleep(0)
        second.cancel()
        gate.set()
        await third
        assert (await first, ran) == (True, ["third"])
        gate.clear()
        busy = asyncio.create_task(threads.run(lambda: gate.wait(20)))
        waiting = asyncio.create_task(threads.run(lambda: ran.append("waiting")))
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(asyncio.to_thread(threads.close))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.set()
        assert await busy
        await closing
        assert ran == ["third"]

    asyncio.run(main())


@pytest.mark.slow
def test_a_process_ends_with_its_status_while_a_function_sleeps():
    program = textwrap.dedent(
        """
        import asyncio, runpy, sys, time
        WorkerThreads = runpy.run_path(sys.argv[1])["WorkerThreads"]

        async def main():
            threads = WorkerThreads(1, "decode")
            asyncio.ensure_future(threads.run(lambda: time.sleep(600)))
            await asyncio.sleep(0.1)
            await asyncio.to_thread(threads.close)

        asyncio.run(main())
        sys.exit(7)
        """
    )
    assert subprocess.run([sys.executable, "-c", program, worker_threads.__file__], timeout=60).returncode == 7
