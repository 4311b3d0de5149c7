# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Filters on the columns of an index: `width>=800`, `name~holiday/*.jpg`."""

import functools
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import acero

from ..model.checks_clip_hf import did_you_mean


_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# No two parts can match the same characters, so a match takes time in proportion to the text.
_FILTER = re.compile(r"([^=!<>~]++)(==|<=|>=|!=|[=<>~])(.*)", re.DOTALL)
MAX_FILTERS, MAX_FILTER_CHARACTERS = 100, 1000
_SHOWN = 100  # characters of a bad filter in its error
_END = "\\x00"  # between the texts of a list that are joined to be searched


def parse_filters(texts: Sequence[str], columns: pa.Schema) -> pc.Expression | None:
    """Parse several filters, which must all hold; None if there are none.

    Args:
        texts (`Sequence[str]`): Filters as [`parse_filter`] takes them.
        columns (`pa.Schema`): The columns and their types.

    Raises:
        ValueError: if there are more than `MAX_FILTERS`, one is no filter, there is no such column, or a value is not
            of the column's type.
    """
    if len(texts) > MAX_FILTERS:
        raise ValueError(f"There are {len(texts):,} filters; at most {MAX_FILTERS} are taken.")
    filters = [parse_filter(text, columns) for text in texts]
    return functools.reduce(operator.and_, filters) if filters else None


def split_filter(text: str) -> tuple[str, str, str]:
    """Column, operator and value of a filter; `==` is `=`.

    Raises:
        ValueError: if this is no filter, or has more than `MAX_FILTER_CHARACTERS` characters.
    """
    if len(text) > MAX_FILTER_CHARACTERS:
        raise ValueError(
            f"The filter {_shown(text)} has {len(text):,} characters; at most {MAX_FILTER_CHARACTERS:,} are taken."
        )
    match = _FILTER.fullmatch(text)
    if match is None or not match[1].strip():
        raise ValueError(
            f"{_shown(text)} is no filter. Write it as column, one of = != < <= > >= ~, and value: 'width>=800'."
        )
    return match[1].strip(), match[2].replace("==", "="), match[3].strip()


def _shown(text: str) -> str:
    return f"{text!r}" if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


def parse_filter(text: str, columns: pa.Schema) -> pc.Expression:
    """Parse a filter `column OP value`, for `where` of [`EmbeddingIndex.search`].

    OP is `=`, `!=`, `<`, `<=`, `>`, `>=`, or `~`: the text matches a pattern with `*`, `?` and `[a-z]`, in which upper
    and lower case differ. A list of texts (captions) has `=`, `!=` and `~`; one of its texts must match, or with `!=`
    none. A row without a value in the column passes no filter.

    Args:
        text (`str`): For example `"width>=800"`, `"name~holiday/*.jpg"`, `"caption=a dog"`.
        columns (`pa.Schema`): The columns and their types, for example [`EmbeddingIndex.filter_columns`].

    Raises:
        ValueError: if this is no filter, there is no such column, or the value is not of the column's type.
    """
    name, sign, value = split_filter(text)
    if name not in columns.names:
        is_file = name == "file" and "name" in columns.names  # as a moment's field is called
        hint = " The file is `name`." if is_file else did_you_mean(name, columns.names)
        raise ValueError(
            f"The filter {_shown(text)} is about the column {_shown(name)}, which is not there. The columns are "
            f"{', '.join(columns.names) or 'none'}.{hint}"
        )
    kind, column = columns.field(name).type, pc.field(name)
    if pa.types.is_dictionary(kind):
        kind, column = kind.value_type, column.cast(kind.value_type)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    is_text = _is_text(kind.value_type if is_list else kind)
    if is_list and not (is_text and sign in ("=", "!=", "~")):
        raise ValueError(
            f"The filter {_shown(text)}: {_shown(name)} holds lists ({kind}). Lists of texts have = != ~, others none."
        )
    if sign == "~" and not is_text:
        texts = ", ".join(field.name for field in columns if _is_text(field.type)) or "none"
        raise ValueError(
            f"The filter {_shown(text)}: ~ is for texts, and {_shown(name)} holds {kind}. Use = != < <= > >=. "
            f"Texts are: {texts}."
        )
    if is_list:
        return _applicable(_match_any(column, sign, value), text, columns.field(name))
    if sign == "~":
        return _applicable(pc.match_substring_regex(column, f"(?s)\\A{_regex(value)}\\z"), text, columns.field(name))
    try:
        comparison = _COMPARISONS[sign](column, pc.scalar(pa.scalar(value).cast(kind)))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        hint = _as_nanoseconds(value) if pa.types.is_integer(kind) else ""
        raise ValueError(
            f"The filter {_shown(text)}: {_shown(value)} is no value of {_shown(name)}, which holds {kind}.{hint}"
        ) from error
    return _applicable(comparison, text, columns.field(name))


def _applicable(filter_: pc.Expression, text: str, column: pa.Field) -> pc.Expression:
    """A filter that Arrow can apply; ValueError if it cannot: a pattern is bad, or it does not compare such values."""
    try:
        rows_that_match(pa.table({column.name: pa.nulls(1, column.type)}), filter_)  # patterns are read for a row
    except ValueError as error:
        reason = str(error.__cause__).splitlines()[0]
        raise ValueError(
            f"The filter {_shown(text)} cannot be applied to {column.name!r} ({column.type}): {reason:.200}"
        ) from error
    return filter_


def rows_that_match(table: pa.Table, where: pc.Expression) -> np.ndarray:
    """Which rows of a table a filter keeps, (n,) bool; rows for which it has no value are not kept.

    Raises:
        TypeError: if `where` is no expression, or not one that is true or false.
        ValueError: if it names a column that is not there, or does not fit the columns' types.
    """
    if not isinstance(where, pc.Expression):
        raise TypeError(f"`where` is {where!r}; it must be a pyarrow.compute.Expression, see parse_filter.")
    plan = [
        acero.Declaration("table_source", acero.TableSourceNodeOptions(table)),
        acero.Declaration("project", acero.ProjectNodeOptions([where], ["keep"])),
    ]
    try:
        kept = acero.Declaration.from_sequence(plan).to_table(use_threads=False)["keep"]
    except (pa.ArrowException, KeyError) as error:
        columns = ", ".join(f"{field.name} ({field.type})" for field in table.schema)
        raise ValueError(f"`where` does not fit the columns, which are {columns}: {error}") from error
    if not pa.types.is_boolean(kept.type):
        raise TypeError(f"`where` gives values of type {kept.type}; it must be true or false for each row.")
    return pc.fill_null(kept, False).to_numpy()


def _as_nanoseconds(value: str) -> str:
    """How a date is written for a column of nanoseconds, as a sentence; empty for other values."""
    try:
        nanoseconds = pa.scalar(value).cast(pa.timestamp("ns")).value
    except pa.ArrowInvalid:
        return ""
    return f" In nanoseconds since 1970 (UTC), as times of files are, that is {nanoseconds}."


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _match_any(column: pc.Expression, sign: str, value: str) -> pc.Expression:
    pattern = _regex(value) if sign == "~" else re.escape(value)
    found = pc.match_substring_regex(pc.binary_join(column, "\0"), f"(?s)(\\A|{_END}){pattern}({_END}|\\z)")
    found = found & (pc.list_value_length(column) > 0)  # no texts look like one empty text when they are joined
    return ~found if sign == "!=" else found


def _regex(pattern: str) -> str:
    """A pattern with `*`, `?` and `[a-z]` as a regular expression."""
    parts = re.split(r"(\*|\?|\[!?\]?[^]]*\])", pattern)
    return "".join(map(_regex_of, parts))


def _regex_of(part: str) -> str:
    if part in ("*", "?"):
        return f"[^{_END}]" + part.replace("?", "")
    if re.fullmatch(r"\[.+\]", part, re.DOTALL):
        inner = part[1:-1]
        negated, inner = inner.startswith("!"), inner.removeprefix("!")
        escaped = re.sub(r"([\[\]^\\])", r"\\\1", inner)
        return f"[^{_END}{escaped}]" if negated else f"[{escaped}]"
    return re.escape(part)
