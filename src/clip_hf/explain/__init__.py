# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Where a CLIP looks, and what it sees at each place: relevance maps, dense features, text spans."""

from .attention_twin import attention_twin
from .dense_features import DENSE_METHODS, dense_features
from .image_explanation import ImageExplanation, explain_image, relevance
from .image_maps import METHODS, default_method, image_maps
from .image_segmentation import UNSEEN, Segmentation, segment_image
from .text_spans import HeadContributions, TextSpan, head_contributions, text_spans
from .word_explanation import WordExplanation, explain_words


__all__ = [
    "DENSE_METHODS",
    "HeadContributions",
    "ImageExplanation",
    "METHODS",
    "Segmentation",
    "TextSpan",
    "UNSEEN",
    "WordExplanation",
    "attention_twin",
    "default_method",
    "dense_features",
    "explain_image",
    "explain_words",
    "head_contributions",
    "image_maps",
    "relevance",
    "segment_image",
    "text_spans",
]
