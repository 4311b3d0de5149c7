# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Search by text and by image: an exact index, folders, near-duplicates, tags, and databases."""

from ..utils.extras import require_extra


require_extra("train", "clip_hf.search", "datasets", "filelock", "pyarrow")

from .embedding_index import EmbeddingIndex
from .exact_scan import SearchStatistics
from .folder_index import FolderRefresh, refresh_folder_index
from .index_places import default_index_folder
from .index_sources import SourceIndex, open_source_index
from .row_filters import parse_filter, parse_filters


__all__ = [
    "EmbeddingIndex",
    "FolderRefresh",
    "SearchStatistics",
    "SourceIndex",
    "default_index_folder",
    "open_source_index",
    "parse_filter",
    "parse_filters",
    "refresh_folder_index",
]
