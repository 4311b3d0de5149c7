# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Search by text and by image: an exact index, folders, near-duplicates, tags, and databases."""

from ..utils.extras import require_extra


require_extra("train", "clip_hf.search", "datasets", "filelock", "pyarrow")

from .contact_sheet import SheetGroup, SheetItem, write_contact_sheet


__all__ = [
    "SheetGroup",
    "SheetItem",
    "write_contact_sheet",
]
