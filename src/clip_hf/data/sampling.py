# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The order of map-style data: the same for any number of processes and workers; a step's number resumes it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StepOrder:
    """The rows of each step.

    - Every epoch has its own permutation, of the seed and the epoch. Step k of an epoch takes the k-th `batch_size`
      rows of it, each process an equal slice of them; rows left over at the end are dropped.
    - With `bucket_batches`, the rows of so many steps are sorted by the length of their texts and cut into steps
      again; the steps, and the rows of each, are shuffled.
    """

    num_rows: int
    batch_size: int  # of all processes together
    seed: int
    bucket_batches: int = 0
    lengths: np.ndarray | None = None  # of the rows' texts, (num_rows,), for `bucket_batches`

    def __post_init__(self):
        if self.num_rows < self.batch_size:
            raise ValueError(
                f"{self.num_rows} pairs do not fill a step of {self.batch_size}; choose a smaller `batch_size`."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.num_rows // self.batch_size

    def epoch_rows(self, epoch: int) -> np.ndarray:
        """Rows of all steps of an epoch: `(steps_per_epoch, batch_size)`, int64."""
        generator = np.random.default_rng((self.seed, epoch))
        steps = self.steps_per_epoch
        rows = generator.permutation(self.num_rows)[: steps * self.batch_size].reshape(steps, self.batch_size)
        if self.bucket_batches < 2:
            return rows
        groups = []
        for start in range(0, steps, self.bucket_batches):
            group = rows[start : start + self.bucket_batches].reshape(-1)
            group = group[np.argsort(self.lengths[group], kind="stable")].reshape(-1, self.batch_size)
            # Shuffled within each step too, or one process would get the long texts of all steps.
            groups.append(generator.permuted(generator.permutation(group), axis=1))
        return np.concatenate(groups)

    def batches(self, steps: range, rank: int = 0, world_size: int = 1) -> Iterator[list[tuple[int, int]]]:
        """A process's `(epoch, row)` of each of these steps, which count from the start of the training."""
        share = self.batch_size // world_size
        mine = slice(rank * share, (rank + 1) * share)
        current, rows = None, None
        for step in steps:
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != current:
                current, rows = epoch, self.epoch_rows(epoch)
            yield [(epoch, row) for row in rows[place, mine].tolist()]
