# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The table of checkpoint formats."""

from .checkpoint_format import CheckpointFormat
from .open_clip_format import OpenClipFormat
from .openai_format import OpenAIFormat
from .transformers_format import ClipHFFormat, TransformersFormat


FORMAT_TABLE: dict[str, CheckpointFormat] = {
    checkpoint_format.name: checkpoint_format
    # Reading asks the last one first: open_clip's files have OpenAI's names too.
    for checkpoint_format in (ClipHFFormat(), OpenAIFormat(), OpenClipFormat(), TransformersFormat())
}
FORMATS = tuple(FORMAT_TABLE)
"""The formats that can be read and written."""
