# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Where a CLIP looks, and what it sees at each place: relevance maps, dense features, text spans."""

from .attention_twin import attention_twin
from .image_explanation import ImageExplanation, explain_image, relevance
from .image_maps import METHODS, default_method, image_maps
from .word_explanation import WordExplanation, explain_words


__all__ = [
    "METHODS",
    "ImageExplanation",
    "WordExplanation",
    "attention_twin",
    "default_method",
    "explain_image",
    "explain_words",
    "image_maps",
    "relevance",
]
