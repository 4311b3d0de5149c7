# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Search by text and by image: an exact index, folders, near-duplicates, tags, and databases."""

from ..utils.extras import require_extra


require_extra("train", "clip_hf.search", "datasets", "filelock", "pyarrow")

from .background_texts import load_background_texts
from .contact_sheet import SheetGroup, SheetItem, write_contact_sheet
from .embedding_index import EmbeddingIndex
from .no_match import NoMatch
from .queries import QueryTerm, encode_query, parse_query
from .row_filters import parse_filter, parse_filters
from .search_results import Searcher, SearchHit, SearchResults


__all__ = [
    "EmbeddingIndex",
    "NoMatch",
    "QueryTerm",
    "SearchHit",
    "SearchResults",
    "Searcher",
    "SheetGroup",
    "SheetItem",
    "encode_query",
    "load_background_texts",
    "parse_filter",
    "parse_filters",
    "parse_query",
    "write_contact_sheet",
]
