# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Faults in the choice of a dtype, and in exported models behind encoders and pipelines."""

from .mutation import Mutation


MUTATIONS = [
    Mutation(
        "bfloat16 picked where it is emulated",
        "utils/processor.py",
        "if not read_processor().has_bfloat16:",
        "if False:",
        "utils/test_processor.py -k native_and_clearly",
    ),
    Mutation(
        "bfloat16 picked where it is hardly faster",
        "utils/processor.py",
        "return times.float32 > _CLEARLY_FASTER * times.bfloat16",
        "return times.float32 > times.bfloat16",
        "utils/test_processor.py -k native_and_clearly",
    ),
    Mutation(
        "the last time counts instead of the least",
        "utils/processor.py",
        "best[dtype] = min(best[dtype], time.perf_counter() - start)",
        "best[dtype] = time.perf_counter() - start",
        "utils/test_processor.py -k least_of_several",
    ),
    Mutation(
        "the last core's features",
        "utils/processor.py",
        "fields.setdefault(name.strip().lower(), value.strip())",
        "fields[name.strip().lower()] = value.strip()",
        "utils/test_processor.py -k x86",
    ),
    Mutation(
        "emulated bfloat16 counts as a GPU's own",
        "utils/dtypes.py",
        "is_bf16_supported(including_emulation=False)",
        "is_bf16_supported(including_emulation=True)",
        "utils/test_processor.py -k auto_is_what_a_device_has",
    ),
]
