# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""CLIP inside image generators: losses that guide them, reranking, linear heads."""

from .candidates import LinearHead, Reranking, load_linear_head, rerank, score_images
from .clip_guidance import ClipGuidance, CutOuts, spherical_distance
from .preprocessing import DifferentiablePreprocessing


__all__ = [
    "ClipGuidance",
    "CutOuts",
    "DifferentiablePreprocessing",
    "LinearHead",
    "Reranking",
    "load_linear_head",
    "rerank",
    "score_images",
    "spherical_distance",
]
