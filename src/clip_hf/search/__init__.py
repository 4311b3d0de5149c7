# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Search by text and by image: an exact index, folders, near-duplicates, tags, and databases."""

from ..utils.extras import require_extra


require_extra("train", "clip_hf.search", "datasets", "filelock", "pyarrow")

from ..utils.moment_merging import merge_moments
from .approximate_index import ApproximateIndex, Effort, Recall
from .background_texts import load_background_texts
from .contact_sheet import SheetGroup, SheetItem, write_contact_sheet
from .contradiction import contradiction_score, contradiction_scores
from .duplicate_report import DuplicateReport, run_duplicates
from .embedding_index import EmbeddingIndex
from .exact_scan import SearchStatistics
from .film_index import FilmRefresh, refresh_film_index
from .folder_index import refresh_folder_index
from .folder_refresh import FolderRefresh
from .index_places import default_index_folder
from .index_sources import SourceIndex, open_source_index
from .label_thresholds import LabelThreshold, LabelThresholds, fit_threshold
from .labelled_samples import LabelledSample, read_labelled_sample
from .moments import FilmFrame, FoundMoment, Moment, MomentSearcher, find_moments
from .near_duplicates import DuplicateGroup, find_near_duplicates
from .no_match import NoMatch
from .picture_moves import UndoneMoves, undo_moves
from .queries import QueryTerm, encode_query, parse_query
from .row_filters import parse_filter, parse_filters
from .search_results import Searcher, SearchHit, SearchResults
from .store_base import VectorStore
from .tagging import LabelScorer, ModerationLabels, PictureTags, load_moderation_labels, tag_rows
from .vector_store import StoreSync, open_store, sync_store
from .xmp_sidecars import add_tags, read_tags, sidecar_path


__all__ = [
    "ApproximateIndex",
    "DuplicateGroup",
    "DuplicateReport",
    "Effort",
    "EmbeddingIndex",
    "FilmFrame",
    "FilmRefresh",
    "FolderRefresh",
    "FoundMoment",
    "LabelScorer",
    "LabelThreshold",
    "LabelThresholds",
    "LabelledSample",
    "ModerationLabels",
    "Moment",
    "MomentSearcher",
    "NoMatch",
    "PictureTags",
    "QueryTerm",
    "Recall",
    "SearchHit",
    "SearchResults",
    "SearchStatistics",
    "Searcher",
    "SheetGroup",
    "SheetItem",
    "SourceIndex",
    "StoreSync",
    "UndoneMoves",
    "VectorStore",
    "add_tags",
    "contradiction_score",
    "contradiction_scores",
    "default_index_folder",
    "encode_query",
    "find_moments",
    "find_near_duplicates",
    "fit_threshold",
    "load_background_texts",
    "load_moderation_labels",
    "merge_moments",
    "open_source_index",
    "open_store",
    "parse_filter",
    "parse_filters",
    "parse_query",
    "read_labelled_sample",
    "read_tags",
    "refresh_film_index",
    "refresh_folder_index",
    "run_duplicates",
    "sidecar_path",
    "sync_store",
    "tag_rows",
    "undo_moves",
    "write_contact_sheet",
]
