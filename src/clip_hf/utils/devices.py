# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Devices by name, checked against what this machine has."""

import torch


def parse_device(name: str | torch.device | None) -> torch.device | None:
    """The device of that name, such as `"cuda:1"`; a `ValueError` if this machine has none. `None` stays `None`."""
    if name is None:
        return None
    available = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        available += [kind, *(f"{kind}:{index}" for index in range(torch.accelerator.device_count()))]
    name = str(name)
    if name not in (*available, "cpu:0"):  # as Accelerate calls the processor in a launch of several processes
        raise ValueError(
            f"The device {name!r} is not on this machine; PyTorch {torch.__version__} finds {', '.join(available)}."
        )
    return torch.device(name)
