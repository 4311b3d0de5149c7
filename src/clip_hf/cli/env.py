# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf env`: the machine, the versions, and what `dtype="auto"` picks."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
from typing import Any

import torch

from _clip_hf_cli import VERSION

from ..export.opening import pick_precision
from ..export.runtimes import RUNTIMES, TORCH
from ..utils.dtypes import pick_dtype
from ..utils.processor import read_processor, time_products
from ..utils.terminal_tables import draw_table


_PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "datasets",
    "safetensors",
    "numpy",
    "pillow",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "ray",
)
# Each runtime and the module that runs it.
_RUNTIMES = {TORCH: "torch", **{name: runtime.module for name, runtime in RUNTIMES.items()}}


def run(options: argparse.Namespace) -> int:
    """Print the machine, as tables or as JSON; returns the exit status."""
    facts = describe_environment()
    if options.json:
        print(json.dumps(facts, indent=1))
        return 0
    tables = []
    for title, part in facts.items():
        rows = [(name, _as_text(value)) for name, value in part.items()]
        tables.append(draw_table(title.replace("_", " "), ("name", "value"), rows))
    print("\n\n".join(tables))
    return 0


def describe_environment() -> dict[str, dict[str, Any]]:
    """All that the command prints, by part; a package that is not installed is None."""
    processor = read_processor()
    return {
        "machine": {
            "processor": processor.name,
            "vendor": processor.vendor,
            "cores": processor.cores,
            **processor.features,
            "memory_gib": _memory(),
            "accelerators": _accelerators(),
            "system": platform.platform(),
        },
        "torch": {
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "mkl": torch.backends.mkl.is_available(),
            "onednn": torch.backends.mkldnn.is_available(),
        },
        "dtype_auto": _automatic_dtypes(),
        "runtimes": _installed_runtimes(),
        "versions": {
            "clip_hf": VERSION,
            "python": platform.python_version(),
            **{package: _version(package) for package in _PACKAGES},
        },
    }


def _automatic_dtypes() -> dict[str, Any]:
    """What `dtype="auto"` picks here: for each kind of device in PyTorch, for float32 exports in each runtime; why."""
    facts: dict[str, Any] = {"cpu": str(pick_dtype("cpu")).removeprefix("torch.")}
    installed = _installed_runtimes()
    facts |= {runtime: pick_precision(runtime) or "float32" for runtime in RUNTIMES if installed[runtime]}
    if read_processor().has_bfloat16:
        times = time_products()
        facts["cpu_because"] = (
            f"a layer takes {times.bfloat16 * 1e3:.2f} ms in bfloat16, {times.float32 * 1e3:.2f} ms in float32"
        )
    else:
        facts["cpu_because"] = "the processor has no native bfloat16 (AVX512_BF16, AMX or ARM's BF16)"
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        facts[kind] = str(pick_dtype(kind)).removeprefix("torch.")
    return facts


def _installed_runtimes() -> dict[str, bool]:
    return {name: _is_installed(module) for name, module in _RUNTIMES.items()}


def _memory() -> float | None:
    """GiB of the machine's memory; None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _accelerators() -> list[str]:
    if not torch.accelerator.is_available():
        return []
    kind = torch.accelerator.current_accelerator().type
    module = torch.get_device_module(kind)
    name_of = getattr(module, "get_device_name", lambda index: kind)
    return [f"{kind}:{index} {name_of(index)}" for index in range(torch.accelerator.device_count())]


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if value is None:
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
