# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What this machine's processor is and has, and whether bfloat16 is the faster dtype on it."""

import functools
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..model.linear_clip_hf import read_cpu_info


# Our names of features; what Linux calls them, for x86 and ARM; and what PyTorch does.
_FEATURES = {
    "avx2": (("avx2",), ("avx2",)),
    "avx512": (("avx512f",), ("avx512_f",)),
    "avx512_bf16": (("avx512_bf16",), ("avx512_bf16",)),
    "amx_bf16": (("amx_bf16",), ("amx_bf16",)),
    "vnni": (("avx512_vnni", "avx_vnni"), ("avx512_vnni", "avx_vnni")),
    "arm_bf16": (("bf16", "svebf16"), ("bf16", "sve_bf16")),
}
_NATIVE_BFLOAT16 = ("avx512_bf16", "amx_bf16", "arm_bf16")
# A layer of ViT-B/32 and its input: (rows, in, out). Some 2 ms a product on a core of 2020.
_LAYER = (64, 768, 2048)
_REPETITIONS = 9
_BETTER = 0.9
_MAX_SECONDS = 0.5
# bfloat16 loses digits, so it must win clearly; and noise must not decide.
_CLEARLY_FASTER = 1.3


@dataclass(frozen=True)
class ProcessorInfo:
    """A machine's processor.

    Args:
        name (`str`): The model, such as `"AMD EPYC 9655"`, or `"unknown"`.
        vendor (`str`): Its maker, such as `"AuthenticAMD"`, or `"unknown"`.
        cores (`int`): Logical cores that this process may use.
        features (`Mapping[str, bool | None]`): Whether it has `avx2`, `avx512`, `avx512_bf16`, `amx_bf16`, `vnni`
            (products of int8) and `arm_bf16`; None where that cannot be found out.
    """

    name: str
    vendor: str
    cores: int
    features: Mapping[str, bool | None]

    @property
    def has_bfloat16(self) -> bool:
        """Whether it multiplies bfloat16 itself. Elsewhere bfloat16 is emulated, hundreds of times slower."""
        return any(self.features[name] for name in _NATIVE_BFLOAT16)

    def describe(self) -> str:
        """Name and features in a few words, such as `"AMD EPYC (avx2, avx512, vnni)"`."""
        known = [name for name, value in self.features.items() if value]
        unknown = all(value is None for value in self.features.values())
        return f"{self.name} ({'features unknown' if unknown else ', '.join(known) or 'none of the features'})"


@functools.cache
def read_processor() -> ProcessorInfo:
    """The processor of this machine: from Linux's `/proc/cpuinfo`, elsewhere as far as PyTorch knows it."""
    fields = read_cpu_info()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    flags = set((fields.get("flags") or fields.get("features") or "").split())
    if flags:
        features = {name: any(flag in flags for flag in of_linux) for name, (of_linux, _) in _FEATURES.items()}
    elif capabilities:
        features = {
            name: any(capabilities.get(flag, False) for flag in of_torch) for name, (_, of_torch) in _FEATURES.items()
        }
    else:
        features = dict.fromkeys(_FEATURES)
    name = fields.get("model name") or capabilities.get("cpu_name") or platform.processor() or "unknown"
    vendor = fields.get("vendor_id") or fields.get("cpu implementer") or "unknown"
    return ProcessorInfo(str(name), vendor, count_cores(), features)


def count_cores() -> int:
    """The cores that this process may use, of which a scheduler may allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_threads(num_cores: float | None = None) -> int:
    """How many threads read files for so many cores, or for all that this process may use: one each, 8 at most."""
    return int(max(1, min(8, count_cores() if num_cores is None else num_cores)))


@dataclass(frozen=True)
class ProductTimes:
    """Seconds that the product of a layer takes, the best of several."""

    float32: float
    bfloat16: float


@functools.cache
def time_products() -> ProductTimes:
    """Measure a linear layer in float32 and bfloat16, in turns, with the process's number of threads.

    It takes some 30 ms where bfloat16 is native, up to half a second on a busy machine, and is done once in a process.
    Each time is the least of several, because whatever else runs on the machine can only lengthen it. There are more
    of them as long as one of the two becomes less.
    """
    rows, width, out = _LAYER
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    with torch.inference_mode():
        operands = {dtype: [torch.ones(size, width, dtype=dtype) for size in (rows, out)] for dtype in best}
        for pair in operands.values():
            nn.functional.linear(*pair)  # the first one also sets things up
        begun, since_better = time.perf_counter(), 0
        while since_better < _REPETITIONS:
            since_better += 1
            for dtype, pair in operands.items():
                start = time.perf_counter()
                nn.functional.linear(*pair)
                seconds = time.perf_counter() - start
                since_better = 0 if seconds < _BETTER * best[dtype] else since_better
                best[dtype] = min(best[dtype], seconds)
            if time.perf_counter() - begun > _MAX_SECONDS:  # emulated, or on a busy machine
                break
    return ProductTimes(best[torch.float32], best[torch.bfloat16])


def picks_bfloat16() -> bool:
    """Whether inference on this processor is better done in bfloat16: it is native, and measured to be faster."""
    if not read_processor().has_bfloat16:
        return False
    times = time_products()
    return times.float32 > _CLEARLY_FASTER * times.bfloat16
