# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The runtimes of exported models: one entry each, with all that differs between them but their code."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..utils.extras import require_extra
from ..utils.processor import read_processor


TORCH = "torch"
"""PyTorch by name, in the place of a runtime."""
PRECISIONS = ("float32", "bfloat16", "int8")
_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Runtime:
    """A runtime of exported models. Its extra is called as it is.

    Args:
        title (`str`): Its name in prose.
        module (`str`): The module that runs towers, and package whose version may change features.
        exporters (`tuple[str]`): The modules that write float32 towers.
        quantizer (`str`): The module that makes towers int8.
        ending (`str`): The ending of a tower's graph.
        formats (`tuple[str]`): The runtimes whose towers it runs.
        options (`Mapping`): Its own options by precision; a precision that is not among them it does not have.
    """

    title: str
    module: str
    exporters: tuple[str, ...]
    quantizer: str
    ending: str
    formats: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]]

    @property
    def modules(self) -> tuple[str, ...]:
        """All modules that an export needs."""
        return tuple(dict.fromkeys((*self.exporters, self.module, self.quantizer)))


RUNTIMES = {
    "onnx": Runtime(
        title="ONNX Runtime",
        module="onnxruntime",
        exporters=("onnx", "onnxscript"),
        quantizer="onnxruntime",
        ending=".onnx",
        formats=("onnx",),
        options={"float32": {}, "int8": {}},
    ),
    "openvino": Runtime(
        title="OpenVINO",
        module="openvino",
        exporters=("openvino",),
        quantizer="nncf",
        ending=".xml",
        formats=("openvino", "onnx"),
        # OpenVINO's own choice is bfloat16 where the processor has it.
        options={
            "float32": {"INFERENCE_PRECISION_HINT": "f32"},
            "bfloat16": {"INFERENCE_PRECISION_HINT": "bf16"},
            "int8": {"INFERENCE_PRECISION_HINT": "f32"},
        },
    ),
}
"""The runtimes by name."""


def check_runtime(runtime: str) -> None:
    """
    Raises:
        ValueError: if there is no such runtime.
        MissingExtra: if it is not installed.
    """
    if not isinstance(runtime, str) or runtime not in RUNTIMES:
        raise ValueError(f"`runtime` is {runtime!r:.80}; it must be {' or '.join(map(repr, RUNTIMES))}.")
    require_extra(runtime, f'runtime="{runtime}"', RUNTIMES[runtime].module)


def check_precision(runtime: str, precision: str, option: str = "precision") -> None:
    """Check the `precision` of an export, or, with `option="dtype"`, what to compute in.

    Raises:
        ValueError: if there is no such precision, or the runtime or the processor does not have it.
    """
    known = PRECISIONS if option == "precision" else _DTYPES
    if precision not in PRECISIONS:
        raise ValueError(f"`{option}` is {precision!r:.80}; it must be one of {', '.join(known)}.")
    if precision not in RUNTIMES[runtime].options:
        others = [name for name, other in RUNTIMES.items() if precision in other.options]
        own = [name for name in known if name in RUNTIMES[runtime].options]
        raise ValueError(
            f"{RUNTIMES[runtime].title} does not compute in {precision} on processors. Use "
            f'runtime="{others[0]}", or the {option} {" or ".join(own)}.'
        )
    if precision != "bfloat16":
        return
    processor = read_processor()
    if not processor.has_bfloat16:
        cure = '"int8" or "float32"' if option == "precision" else '"float32"'
        raise ValueError(
            f"This processor, {processor.describe()}, does not multiply bfloat16 itself (avx512_bf16, amx_bf16 or "
            f"arm_bf16), and would be many times slower with it than with float32. Use {option}={cure}."
        )
