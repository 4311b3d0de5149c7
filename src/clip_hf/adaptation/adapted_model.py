# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a method of adaptation is given, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..embedding.dual_encoder import DualEncoder
from ..evaluation.tasks.measured_change import Data, Figure, ZeroShot
from ..model_card.card import ModelCardDetails
from .adapt_data import AdaptationData
from .adapt_options import AdaptOptions
from .adapt_report import AdaptedSeed


@dataclass
class Starting:
    """The model before the adaptation, with its figures.

    Args:
        options ([`AdaptOptions`]): What was asked for.
        encoder ([`DualEncoder`]): The model.
        data ([`AdaptationData`]): The task.
        retained ([`ClassificationData`] or [`RetrievalData`], *optional*): What it could do before.
        on_task, on_retained ([`ZeroShot`]): Its figures on both; none on what there is not.
    """

    options: AdaptOptions
    encoder: DualEncoder
    data: AdaptationData
    retained: Data | None
    on_task: ZeroShot = field(default_factory=lambda: ZeroShot([]))
    on_retained: ZeroShot = field(default_factory=lambda: ZeroShot([]))


@dataclass
class Adapted:
    """One adapted model.

    Args:
        entry ([`AdaptedSeed`]): What it was made of.
        on_task, on_retained (`list[Figure]`): Its figures, in the order of those before.
        save (`Callable`): Writes model, processor and card into a folder, given what the card says.
        warnings (`list[str]`): Why its training can hardly have moved the model.
    """

    entry: AdaptedSeed
    on_task: list[Figure]
    on_retained: list[Figure]
    save: Callable[[Path, ModelCardDetails], None]
    warnings: list[str] = field(default_factory=list)
