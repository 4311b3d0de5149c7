# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The datasets that are made on this machine from installed packages: the one table of their names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import datasets

from .composed_scenes import load_composed_scenes
from .digits import load_digits_parts
from .line_drawings import load_line_drawings
from .moving_drawings import load_moving_drawings
from .openmoji import OPENMOJI_TEMPLATES, load_openmoji, load_openmoji_skin_tones
from .placed_drawings import load_placed_drawings


@dataclass(frozen=True)
class BuiltInDataset:
    """A dataset that needs no files and no hub."""

    # Gives its parts by name, or functions that make them when they are read.
    load: Callable[[], Mapping[str, datasets.Dataset | Callable[[], datasets.Dataset]]]
    credit: str  # how a model card names it: its title, and in parentheses its home page and licence
    templates: tuple[str, ...] | None = None  # prompts that have the dataset's name


_OPENMOJI_CREDIT = "OpenMoji (openmoji.org, CC BY-SA 4.0)"

BUILT_IN_DATASETS: dict[str, BuiltInDataset] = {
    "openmoji": BuiltInDataset(load_openmoji, _OPENMOJI_CREDIT, OPENMOJI_TEMPLATES),
    "openmoji_lines": BuiltInDataset(load_line_drawings, _OPENMOJI_CREDIT, OPENMOJI_TEMPLATES),
    "openmoji_scenes": BuiltInDataset(load_composed_scenes, _OPENMOJI_CREDIT, OPENMOJI_TEMPLATES),
    "openmoji_skin_tones": BuiltInDataset(load_openmoji_skin_tones, _OPENMOJI_CREDIT),
    "moving-drawings": BuiltInDataset(load_moving_drawings, _OPENMOJI_CREDIT),
    "placed-drawings": BuiltInDataset(load_placed_drawings, _OPENMOJI_CREDIT),
    "digits": BuiltInDataset(load_digits_parts, "Handwritten digits (scikit-learn.org, CC BY 4.0)"),
}
"""What training's `--dataset` and evaluation's `--data` take by name."""
