# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Batches across requests: their sizes, their order and fairness, what waits, and what fails."""

import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from clip_hf.serving.dynamic_batching import BatchingOptions, DynamicBatcher
from clip_hf.serving.server_metrics import ServerMetrics


class FakeModel:
    """Notes its batches, gives ten times each number after some seconds, and runs only while `gate` is set."""

    seconds = 0.0

    def __init__(self, bad: dict[int, Exception] | None = None):
        self.batches: list[tuple[str, list[int]]] = []
        self.bad, self.gate, self.entered = bad or {}, threading.Event(), threading.Event()
        self.gate.set()

    def encoder(self, kind: str) -> Callable[[list[int]], list[int]]:
        def encode(items: list[int]) -> list[int]:
            self.batches.append((kind, list(items)))
            self.entered.set()
            assert self.gate.wait(10)
            time.sleep(self.seconds)
            for item in items:
                if item in self.bad:
                    raise self.bad[item]
            return [10 * item for item in items]

        return encode


def run(
    model: FakeModel,
    use: Callable[[DynamicBatcher], Coroutine],
    size: int = 4,
    wait: float = 0.0,
    is_more_coming: Callable[[str], bool] = lambda kind: False,
) -> Any:
    async def main() -> Any:
        batcher = DynamicBatcher(
            {kind: model.encoder(kind) for kind in ("image", "text")},
            {"image": size, "text": size},
            wait,
            is_more_coming,
            ServerMetrics(),
        )
        try:
            return await asyncio.wait_for(use(batcher), 20)
        finally:
            model.gate.set()
            batcher.close()

    return asyncio.run(main())


async def hold(model: FakeModel, batcher: DynamicBatcher, kind: str = "text") -> asyncio.Task:
    """Keep the model busy with item 0, so that what is submitted next waits."""
    model.gate.clear()
    first = asyncio.ensure_future(batcher.submit(kind, [0]))
    await asyncio.to_thread(model.entered.wait, 10)
    return first


async def queue(batcher: DynamicBatcher, *requests: tuple[str, list[int]]) -> list[asyncio.Task]:
    tasks = []
    for kind, items in requests:
        tasks.append(asyncio.ensure_future(batcher.submit(kind, items)))
        await asyncio.sleep(0.002)  # so that they have an order
    return tasks


def test_requests_share_batches_and_get_their_own_rows():
    model = FakeModel()

    async def use(batcher):
        first = await hold(model, batcher)
        tasks = await queue(batcher, ("text", [1]), ("text", [2]), ("text", [3, 4]))
        model.gate.set()
        return await asyncio.gather(first, *tasks)

    assert run(model, use) == [[0], [10], [20], [30, 40]]
    assert model.batches == [("text", [0]), ("text", [1, 2, 3, 4])]


def test_a_large_request_gets_a_share_and_goes_behind_the_others():
    model = FakeModel()

    async def use(batcher):
        first = await hold(model, batcher)
        tasks = await queue(batcher, ("text", list(range(100, 112))), ("text", [1]), ("text", [2]), ("text", [3, 4]))
        model.gate.set()
        return await asyncio.gather(first, *tasks)

    assert run(model, use)[1] == [10 * item for item in range(100, 112)]
    assert [items for _, items in model.batches[:4]] == [[0], [100, 1, 2, 3], [101, 102, 4, 103], [104, 105, 106, 107]]


def test_a_kind_does_not_starve_the_other():
    model = FakeModel()

    async def use(batcher):
        first = await hold(model, batcher)
        tasks = await queue(batcher, ("text", list(range(1, 13))), ("image", list(range(1, 9))))
        model.gate.set()
        await asyncio.gather(first, *tasks)

    run(model, use)
    assert [kind for kind, _ in model.batches] == ["text", "text", "image", "text", "image", "text"]


def test_nothing_waits_where_nothing_is_on_its_way():
    async def use(batcher):
        started = time.monotonic()
        await batcher.submit("text", [1])
        return time.monotonic() - started

    assert run(FakeModel(), use, wait=5.0) < 2


@pytest.mark.parametrize("reason", ["full", "nobody else", "time"])
def test_what_ends_the_wait(reason):
    model, coming = FakeModel(), [True]

    async def use(batcher):
        started = time.monotonic()
        tasks = await queue(batcher, ("text", [1]), ("text", [2]))
        assert model.batches == []
        if reason == "full":
            tasks += await queue(batcher, ("text", [3, 4]))
        elif reason == "nobody else":
            coming.clear()
            batcher.announce()
        await asyncio.gather(*tasks)
        return time.monotonic() - started

    seconds = run(model, use, wait=0.3 if reason == "time" else 8.0, is_more_coming=lambda kind: bool(coming))
    assert [items for _, items in model.batches] == [[1, 2, 3, 4] if reason == "full" else [1, 2]]
    assert 0.3 <= seconds < 5 if reason == "time" else seconds < 5


def test_a_kind_that_waits_does_not_hold_up_the_other():
    model, coming = FakeModel(), {"text"}

    async def use(batcher):
        started = time.monotonic()
        (text,) = await queue(batcher, ("text", [1]))
        assert await batcher.submit("image", [2]) == [20]
        coming.clear()
        batcher.announce()
        await text
        return time.monotonic() - started

    assert run(model, use, wait=8.0, is_more_coming=lambda kind: kind in coming) < 5
    assert model.batches == [("image", [2]), ("text", [1])]


def test_cancelled_items_are_dropped_before_their_batch():
    model = FakeModel()

    async def use(batcher):
        first = await hold(model, batcher)
        requests = [("text", [1]), ("text", [2]), ("image", [3]), ("text", [4]), ("text", [5])]
        tasks = await queue(batcher, *requests)
        for place in (0, 2, 3):
            tasks[place].cancel()
        await asyncio.sleep(0)
        model.gate.set()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    results = run(model, use)
    assert [results[2], results[5]] == [[20], [50]]
    assert all(isinstance(results[place], asyncio.CancelledError) for place in (1, 3, 4))
    assert model.batches == [("text", [0]), ("text", [2, 5])]


def test_a_request_that_is_cancelled_in_its_batch_harms_nobody():
    model = FakeModel()

    async def use(batcher):
        first = await hold(model, batcher)
        first.cancel()
        (second,) = await queue(batcher, ("text", [2]))
        model.gate.set()
        return await second

    assert run(model, use) == [20]


@pytest.mark.parametrize("error", [ValueError("bad"), MemoryError("full"), RuntimeError("cuda")])
def test_only_the_item_that_fails_fails(error):
    model = FakeModel({3: error})

    async def use(batcher):
        first = await hold(model, batcher)
        tasks = await queue(batcher, *(("text", [item]) for item in range(1, 9)))
        model.gate.set()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    assert run(model, use, size=8) == [[0], [10], [20], error, [40], [50], [60], [70], [80]]
    assert [items for _, items in model.batches[1:]] == [
        [1, 2, 3, 4, 5, 6, 7, 8],
        [1, 2, 3, 4],
        [1, 2],
        [3, 4],
        [3],
        [4],
        [5, 6, 7, 8],
    ]


def test_each_bad_item_has_its_own_error_and_ends_its_request():
    model = FakeModel({2: ValueError("two"), 5: ValueError("five")})
    model.seconds = 0.01

    async def use(batcher):
        first = await hold(model, batcher)
        # The second request has 12 items in several batches: those after the bad one are dropped.
        tasks = await queue(batcher, ("text", [1, 2]), ("text", [5, *range(20, 31)]), ("text", [6]))
        model.gate.set()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    results = run(model, use)
    assert [str(results[1]), str(results[2])] == ["two", "five"]
    assert results[3] == [60]
    assert 30 not in {item for _, items in model.batches for item in items}


def test_order_of_256_requests():
    model, generator = FakeModel(), random.Random(0)
    sizes = [generator.choice([0, 1, 1, 2, 5, 40]) for _ in range(256)]

    async def use(batcher):
        async def ask(number: int) -> None:
            await asyncio.sleep(generator.random() / 50)
            items = [1000 * number + place for place in range(sizes[number])]
            kind = "image" if number % 3 else "text"
            assert await batcher.submit(kind, items) == [10 * item for item in items]

        await asyncio.gather(*map(ask, range(256)))

    run(model, use, size=16)
    assert max(len(items) for _, items in model.batches) == 16
    assert sum(len(items) for _, items in model.batches) == sum(sizes)


def test_closing_ends_the_thread_and_cancels_what_waits():
    model, others = FakeModel(), set(threading.enumerate())

    async def main() -> list[Any]:
        encoders = {kind: model.encoder(kind) for kind in ("image", "text")}
        batcher = DynamicBatcher(encoders, {"image": 1, "text": 1}, 0, lambda kind: False, ServerMetrics())
        first = await hold(model, batcher)
        (second,) = await queue(batcher, ("text", [2]))
        threading.Timer(0.05, model.gate.set).start()
        await asyncio.to_thread(batcher.close)
        with pytest.raises(RuntimeError, match="closed"):
            await batcher.submit("text", [3])
        return await asyncio.gather(first, second, return_exceptions=True)

    first, second = asyncio.run(main())
    assert first == [0]
    assert isinstance(second, asyncio.CancelledError)
    assert not [thread for thread in threading.enumerate() if thread.name == "model" and thread not in others]


def test_threads_wait_less_for_the_interpreter_until_it_is_closed():
    before = sys.getswitchinterval()

    async def use(batcher):
        return sys.getswitchinterval()

    assert run(FakeModel(), use) == pytest.approx(0.0005)
    assert sys.getswitchinterval() == before


def test_speed_is_measured():
    model = FakeModel()

    async def use(batcher):
        assert batcher.items_per_second is None
        first = await hold(model, batcher)
        await asyncio.sleep(0.1)
        model.gate.set()
        await first
        return batcher.items_per_second

    assert 0.5 < run(model, use) <= 10  # one item in 0.1 seconds or more


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch_images": 0}, "`max_batch_images` is 0; it must be a whole number, at least 1"),
        ({"max_batch_texts": 1.5}, "`max_batch_texts` is 1.5"),
        ({"max_batch_texts": True}, "`max_batch_texts` is True"),
        ({"max_wait_ms": -1}, "`max_wait_ms` is -1; it must be a number of milliseconds, at least 0"),
        ({"max_wait_ms": float("inf")}, "`max_wait_ms` is inf"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        BatchingOptions(**options)
