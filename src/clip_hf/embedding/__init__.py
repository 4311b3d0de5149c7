# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embeddings of images and texts from any CLIP: one at a time, in bulk, and kept on disk."""

from ..utils.extras import require_extra


require_extra("eval", "clip_hf.embedding", "accelerate", "datasets", "filelock", "fsspec", "pyarrow")
