# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Keep the exporters' and quantizers' chatter from users."""

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any


# The exporters patch functions of transformers and PyTorch while they work.
_WORKING = threading.RLock()
# None is the root logger, which onnxruntime's quantizer uses.
_LOGGERS = (None, "torch.onnx", "onnxscript", "transformers.exporters", "nncf")


class _WithoutThread:
    """A stream that leaves out what one thread writes."""

    def __init__(self, stream: Any, thread: int):
        self._stream, self._thread = stream, thread

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keep back what this thread's exporters print, log and warn of; one thread exports at a time."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    with _WORKING, warnings.catch_warnings(), redirect_stdout(_WithoutThread(sys.stdout, threading.get_ident())):
        levels = [logger.level for logger in loggers]
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
