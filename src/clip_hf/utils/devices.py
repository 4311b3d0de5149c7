# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Devices by name, checked against what this machine has."""

import torch


def parse_device(name: str | None) -> torch.device | None:
    """Return the device of that name; `None` stays `None`.

    Args:
        name (`str`, *optional*): Such as `"cpu"`, `"cuda"` or `"cuda:1"`.

    Raises:
        ValueError: if it is not the name of a device, or this machine has no such device.
    """
    if name is None:
        return None
    available = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        available += [kind, *(f"{kind}:{index}" for index in range(torch.accelerator.device_count()))]
    if name not in available:
        raise ValueError(
            f"The device {name!r} is not on this machine; PyTorch {torch.__version__} finds {', '.join(available)}."
        )
    return torch.device(name)
