# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Search by text and by image: an exact index, folders, near-duplicates, tags, and databases."""

from ..utils.extras import require_extra


require_extra("train", "clip_hf.search", "datasets", "filelock", "pyarrow")

from .approximate_index import ApproximateIndex, Effort, Recall
from .contact_sheet import SheetGroup, SheetItem, write_contact_sheet
from .duplicate_report import DuplicateReport, run_duplicates, undo_moves
from .embedding_index import EmbeddingIndex
from .folder_index import FolderRefresh, refresh_folder_index
from .index_places import default_index_folder
from .index_sources import SourceIndex, open_source_index
from .near_duplicates import DuplicateGroup, find_near_duplicates
from .row_filters import parse_filter, parse_filters


__all__ = [
    "ApproximateIndex",
    "DuplicateGroup",
    "DuplicateReport",
    "Effort",
    "EmbeddingIndex",
    "FolderRefresh",
    "Recall",
    "SheetGroup",
    "SheetItem",
    "SourceIndex",
    "default_index_folder",
    "find_near_duplicates",
    "open_source_index",
    "parse_filter",
    "parse_filters",
    "refresh_folder_index",
    "run_duplicates",
    "undo_moves",
    "write_contact_sheet",
]
