# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Signals that end a training at the end of a step."""

import os
import signal
import threading
import time

import pytest
from accelerate import Accelerator

from clip_hf.training.stop_signal import StopSignal


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_note(accelerator, number):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        assert not stop.should_stop(accelerator) and stop.received is None
        os.kill(os.getpid(), number)
        assert stop.should_stop(accelerator) and stop.received is number
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    with stop:
        assert not stop.should_stop(accelerator)


def test_a_second_interrupt_interrupts():
    before = signal.getsignal(signal.SIGINT)  # "ignore", where a shell has started the tests in the background
    with pytest.raises(KeyboardInterrupt), StopSignal():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert signal.getsignal(signal.SIGINT) is before
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.received is signal.SIGINT


def test_other_signals_on_request(accelerator):
    with StopSignal([signal.SIGUSR1]) as stop:
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.should_stop(accelerator)


def test_outside_the_main_thread_nothing_is_caught(accelerator):
    found = []

    def train():
        with StopSignal() as stop:
            found.append((signal.getsignal(signal.SIGTERM), stop.should_stop(accelerator)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [(signal.SIG_DFL, False)]
