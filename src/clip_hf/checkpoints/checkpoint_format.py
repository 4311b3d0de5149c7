# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a checkpoint format is. A new format is one file with a subclass, and one line in `format_table.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .checkpoint import Checkpoint, SourceOptions
from .stored_tensor import StoredTensor
from .weight_files import WeightFile, first_file, open_weights


class CheckpointFormat:
    """Reads and writes checkpoints of one format, and computes features as the code of that format does.

    Attributes:
        name (`str`): Name in `FORMATS`.
        config_name (`str`, *optional*): File with the configuration in a folder of this format; `None` where a
            checkpoint is a single file.
        weight_names (`tuple[str, ...]`): Files with the weights in a folder; the first that exists is read.
        has_towers (`bool`): Whether a single tower can be written.
        keeps_norms_in_float32 (`bool`): Whether half precision keeps norms and embeddings in float32.
    """

    name: str
    config_name: str | None = "config.json"
    weight_names: tuple[str, ...] = ()
    has_towers = False
    keeps_norms_in_float32 = False

    def reads_file(self, file: WeightFile, path: Path, options: SourceOptions) -> bool:
        """Whether a single file of weights is of this format."""
        raise NotImplementedError

    def reads_folder(self, folder: Path) -> bool:
        """Whether a folder is of this format; never, where a checkpoint is a single file."""
        return False

    def read_path(self, path: Path, options: SourceOptions) -> Checkpoint:
        """Read a file or folder of this format."""
        weights = first_file(path, self.weight_names) if path.is_dir() else path
        if weights is None:
            raise ValueError(
                f"{path} has a {self.config_name} but no weights: none of {', '.join(self.weight_names)}."
            )
        return self.read(open_weights(weights), path, options)

    def read(self, file: WeightFile, path: Path, options: SourceOptions) -> Checkpoint:
        """A checkpoint of weights; `path` is their file, or its folder."""
        raise NotImplementedError

    def check_holds(self, checkpoint: Checkpoint, tower: str | None) -> None:
        """Raise a `ValueError` if the format has no counterpart to an option of the model."""

    def notes(self, checkpoint: Checkpoint) -> list[str]:
        """Sentences for the user: where the format differs from the model and its processor."""
        return []

    def write(self, checkpoint: Checkpoint, path: Path, tower: str | None) -> None:
        """Write a file, or into an existing folder."""
        raise NotImplementedError

    def features(
        self, tensors: Mapping[str, StoredTensor], config: Any, inputs: Mapping[str, torch.Tensor], dtype: torch.dtype
    ) -> dict[str, torch.Tensor]:
        """The features that the code of this format computes from weights under its names.

        Args:
            tensors (`Mapping[str, StoredTensor]`): Weights under the names of this format.
            config (`Any`): What [`source_config`] returns.
            inputs (`Mapping[str, torch.Tensor]`): `pixel_values` (batch, channels, height, width) and `input_ids`
                (batch, length).
            dtype (`torch.dtype`): Computing precision.

        Returns:
            `dict[str, torch.Tensor]`: `"image"` and `"text"`, each (batch, dim), not normalised.
        """
        raise NotImplementedError

    def source_config(self, checkpoint: Checkpoint, path: Path) -> Any:
        """The configuration that [`features`] takes for a checkpoint read from `path`."""
        return checkpoint.config
