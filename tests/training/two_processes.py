# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Run by `torchrun` in the tests: train in float64, where two processes and one must agree but for the last digits."""

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from accelerate import PartialState
from torch.nn.parallel import DistributedDataParallel

from clip_hf.training import build_model, parse_options, train


def train_in_float64(output_dir: Path, recipes: Sequence[str]) -> None:
    """Train with each recipe, three steps."""

    def build_in_float64(*arguments):
        model, processor = build_model(*arguments)
        # Statistics of a batch differ from those of its halves; frozen, BatchNorm does not know the batch.
        model.freeze_batch_norm(freeze_affine=False)
        return model.double(), processor

    with mock.patch("clip_hf.training.loop.build_model", build_in_float64):
        for recipe in recipes:
            more = ["--output_dir", str(Path(output_dir) / Path(recipe).stem), "--max_steps", "3"]
            train(parse_options([recipe, *more]))


if __name__ == "__main__":
    train_in_float64(Path(sys.argv[1]), sys.argv[2:])
    # One that outlives its process group may wait for the group's threads while they wait for Python.
    assert not any(type(thing) is DistributedDataParallel for thing in gc.get_objects())
    PartialState().destroy_process_group()
