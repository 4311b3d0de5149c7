# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Filters as a database can apply them.

A database narrows down the rows, and the search applies the filter itself to those that come back. So what is sent may
keep too many rows, but never too few: that is how dialects with other patterns give the same result.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from .row_filters import parse_filter, split_filter


# What a pattern of SQL would read in its own way, and what a string of Milvus would need an escape for.
_SPECIAL = re.compile(r"""[%_\\"'\x00-\x1f]""")


@dataclass(frozen=True)
class Condition:
    """One filter for a database.

    Args:
        column (`str`): Name of the column.
        kind (`pa.DataType`): Its type.
        sign (`str`): `=`, `!=`, `<`, `<=`, `>`, `>=` or `~`.
        value (`Any`): The value in the column's type; for a list, that of an item. With `~`, a pattern of LIKE that
            matches at least the same texts.
    """

    column: str
    kind: pa.DataType
    sign: str
    value: Any

    @property
    def is_list(self) -> bool:
        """Whether the column holds lists."""
        return pa.types.is_list(self.kind)


def parse_conditions(texts: Sequence[str], columns: pa.Schema) -> list[Condition]:
    """Parse filters for a database; see [`parse_filter`] for their form.

    Args:
        texts (`Sequence[str]`): Filters, which must all hold.
        columns (`pa.Schema`): The columns as the store has them.

    Raises:
        ValueError: if [`parse_filter`] refuses one.
    """
    conditions = []
    for text in texts:
        parse_filter(text, columns)
        name, sign, value = split_filter(text)
        kind = columns.field(name).type
        if sign == "~":
            value = _like_pattern(value)
        elif not pa.types.is_list(kind):
            value = pa.scalar(value).cast(kind).as_py()
        conditions.append(Condition(name, kind, sign, value))
    return conditions


def _like_pattern(pattern: str) -> str:
    """A pattern with `*`, `?` and `[a-z]` as one of LIKE that needs no escapes: `_` for each special character."""
    parts = re.split(r"\*|\?|\[!?\]?[^]]*\]", pattern)
    return "%".join(_SPECIAL.sub("_", part) for part in parts)
