# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Runs of an engine in an event loop of their own."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from clip_hf.serving.inference_engine import InferenceEngine
from clip_hf.serving.request_errors import RequestError
from clip_hf.serving.request_inputs import ImageItem, TextItem
from clip_hf.serving.serving_limits import ServingLimits
from encoding_inputs import png


Use = Callable[[InferenceEngine], Coroutine]


def run(encoder, use: Use, *, limits: ServingLimits | None = None, **options) -> Any:
    async def main() -> Any:
        engine = InferenceEngine(encoder, limits or ServingLimits(), **options)
        try:
            return await asyncio.wait_for(use(engine), 60)
        finally:
            await asyncio.to_thread(engine.close)

    return asyncio.run(main())


def texts(*values: str) -> list[TextItem]:
    return [TextItem(value, f"input[{place}]") for place, value in enumerate(values)]


def photos(*numbers: int) -> list[ImageItem]:
    return [ImageItem(png(number), f"images[{place}]") for place, number in enumerate(numbers)]


def refused(encoder, use: Use, **options) -> RequestError:
    with pytest.raises(RequestError) as caught:
        run(encoder, use, **options)
    return caught.value
