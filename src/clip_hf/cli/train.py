# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf train`: contrastive training with a recipe, on one process or many."""

import argparse
import os

from torch import distributed

from ..training.loop import train
from ..training.options import build_options
from ..utils.failures import report_failure


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; the exit status."""
    try:
        train(build_options(options))
    except Exception as error:
        report_failure(error, "clip-hf train")
        if int(os.environ.get("WORLD_SIZE") or 1) > 1:
            os._exit(1)  # At once: after an error, processes that still hold one another may hang at the usual exit.
        return 1
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return 0


__all__ = ["run"]
