# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Search by text and by image: an exact index, folders, near-duplicates, tags, and databases."""

from ..utils.extras import require_extra


require_extra("train", "clip_hf.search", "datasets", "filelock", "pyarrow")

from .embedding_index import EmbeddingIndex
from .exact_scan import SearchStatistics
from .row_filters import parse_filter, parse_filters
from .store_base import VectorStore
from .vector_store import StoreSync, open_store, sync_store


__all__ = [
    "EmbeddingIndex",
    "SearchStatistics",
    "StoreSync",
    "VectorStore",
    "open_store",
    "parse_filter",
    "parse_filters",
    "sync_store",
]
