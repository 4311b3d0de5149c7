# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""CLIP inside image generators: losses that guide them, reranking, linear heads."""

__all__: list[str] = []
