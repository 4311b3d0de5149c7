# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Every CLIP checkpoint, in and out: OpenAI's, open_clip's, transformers' and ours.

Nothing in a checkpoint is executed, every weight is used exactly once, and facts that a source lacks are asked for,
not guessed.
"""

from .checkpoint import Checkpoint, SourceOptions
from .conversion import ConversionReport, convert
from .format_table import FORMATS
from .open_clip_format import config_from_open_clip
from .reading import read_checkpoint
from .saving import load, save
from .transformers_format import TOWERS


__all__ = [
    "Checkpoint",
    "ConversionReport",
    "FORMATS",
    "SourceOptions",
    "TOWERS",
    "config_from_open_clip",
    "convert",
    "load",
    "read_checkpoint",
    "save",
]
