# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The options of all bulk encoding: batches, threads, cache, processes, progress and skipped images."""

import os
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from ..utils.processor import count_threads


if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class EncodingOptions:
    """How datasets and streams are encoded.

    Args:
        batch_size (`int`, *optional*, defaults to 64): Images in one pass of the model, the frames of films
            included.
        num_threads (`int`, *optional*): Threads that read and prepare images while the model runs; by default as many
            as there are cores for this process, 8 at most.
        cache_dir (`str` or `os.PathLike`, *optional*): Where features are kept, so that they are computed once and an
            interrupted run resumes. Without it nothing is written. Streams have no cache.
        accelerator (`accelerate.Accelerator`, *optional*): This process's, where several share the work. Every process
            then makes the same calls. Of a dataset each gets all features, and the cache folder must be one that all
            of them see; of a stream each gets its own batches.
        progress (`bool`, *optional*, defaults to `True`): Whether the main process shows a progress bar.
        stage (`str`, *optional*): What the progress bar says is going on, such as `"linear_probe"`; by default the end
            of the model's name. [`encode_readable_images`] adds the name of the data.
        max_skipped_share (`float`, *optional*, defaults to 0.05): In evaluations and streams, unreadable images are
            skipped and counted. More than this share is an error, but one image may always be skipped; with 0 none
            may. [`encode_image_column`] skips none.

    Raises:
        ValueError: if a number is less than 1, or the share is not from 0 to 1.
    """

    batch_size: int = 64
    num_threads: int = field(default_factory=count_threads)
    cache_dir: str | os.PathLike | None = None
    accelerator: "Accelerator | None" = None
    progress: bool = True
    stage: str = ""
    max_skipped_share: float = 0.05

    def __post_init__(self):
        share = self.max_skipped_share
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= share <= 1:
            raise ValueError(f"`max_skipped_share` is {share!r}; it must be a share, 0 to 1.")
        for name in ("batch_size", "num_threads"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` is {value!r}; it must be an integer of at least 1.")

    @property
    def processes(self) -> int:
        """How many processes share the work."""
        return 1 if self.accelerator is None else self.accelerator.num_processes

    @property
    def process(self) -> int:
        """Which of them this is."""
        return 0 if self.accelerator is None else self.accelerator.process_index

    def progress_bar(self, model: str, unit: str, total: int | None, initial: int = 0) -> tqdm:
        """The bar of the main process; other processes, and all without `progress` or work, get one that
        shows nothing.
        """
        hidden = not self.progress or self.process != 0 or total == 0
        stage = self.stage or model[-40:]
        return tqdm(total=total, initial=initial, unit=f" {unit}", desc=stage, leave=False, disable=hidden)
