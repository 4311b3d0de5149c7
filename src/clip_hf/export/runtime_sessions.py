# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Graphs of towers, run by ONNX Runtime or OpenVINO on the processor."""

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .runtimes import RUNTIMES, check_precision, check_runtime


Session = Callable[[str, dict[str, np.ndarray]], np.ndarray]
"""Runs a graph: `session(output_name, inputs)` -> the output. Several threads may call it at once."""


class _SignalStack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give this thread its stack for signals back when the block ends.

    Each model that OpenVINO compiles on Linux sets one in its own memory, and the one of the model before again when
    it is freed. That memory may be gone by then, and the next signal, such as Ctrl-C, would end the process.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    library, before = ctypes.CDLL(None), _SignalStack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)


def open_session(path: str | os.PathLike, runtime: str, precision: str) -> Session:
    """Load a graph, an `.onnx` or, for OpenVINO only, an `.xml` file, to run in as many threads as PyTorch does.

    `"bfloat16"` is the precision of OpenVINO's products; the graph's weights and outputs are float32.
    """
    check_runtime(runtime)
    check_precision(runtime, precision)
    return _open_onnx(Path(path)) if runtime == "onnx" else _open_openvino(Path(path), precision)


def _open_onnx(path: Path) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait for work must leave the cores to those that prepare the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(output: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return session.run([output], inputs)[0]

    return run


def _open_openvino(path: Path, precision: str) -> Session:
    import openvino

    options = {
        **RUNTIMES["openvino"].options[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    with kept_signal_stack():
        compiled = openvino.Core().compile_model(path, "CPU", options)
    requests = threading.local()  # each serves one call at a time

    def run(output: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        results: Any = requests.own.infer(inputs)
        return np.array(results[output])  # the request's own memory is written again by the next call

    return run
