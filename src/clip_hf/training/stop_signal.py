# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Stop a training at the end of a step when a scheduler or a user asks for it."""

import signal
import threading
from collections.abc import Iterable
from types import FrameType

import torch
from accelerate import Accelerator


# A cluster's scheduler sends the one, Ctrl-C the other.
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """A context manager that records SIGTERM and Ctrl-C, so that the training can save and end by itself.

    - A second Ctrl-C interrupts as usual. The previous handlers come back at the end of the block.
    - With several processes, a signal may reach only one of them, or each at another time. So all processes ask
      [`StopSignal.should_stop`] at the same step.
    - Outside the main thread, where Python handles no signals, nothing is caught.

    Args:
        signals (`Iterable[signal.Signals]`, *optional*): By default SIGTERM and SIGINT; SLURM may be told to send
            SIGUSR1.
    """

    def __init__(self, signals: Iterable[signal.Signals] = _SIGNALS):
        self.signals = tuple(signals)
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopSignal":
        self.received = None
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._previous.items():
            # None is a handler that was not set from Python, which cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def should_stop(self, accelerator: Accelerator) -> bool:
        """Whether any process got a signal; every process calls it at the same step and gets the same answer."""
        if accelerator.num_processes == 1:
            return self.received is not None
        flag = torch.tensor(float(self.received is not None), device=accelerator.device)
        return accelerator.reduce(flag, "sum").item() > 0
