# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Search by text and by image: an exact index, folders, near-duplicates, tags, and databases."""

from ..utils.extras import require_extra


require_extra("train", "clip_hf.search", "datasets", "filelock", "pyarrow")

from .background_texts import load_background_texts
from .contact_sheet import SheetGroup, SheetItem, write_contact_sheet
from .queries import QueryTerm, encode_query, parse_query


__all__ = [
    "QueryTerm",
    "SheetGroup",
    "SheetItem",
    "encode_query",
    "load_background_texts",
    "parse_query",
    "write_contact_sheet",
]
