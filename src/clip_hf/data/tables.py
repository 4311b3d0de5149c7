# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows of CSV, TSV, JSON Lines and JSON files; a file that cannot be divided into rows is an error with its line."""

import csv
import io
import itertools
import json
import os
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from transformers.utils import logging

from ..utils.json_files import check_regular
from .locations import ImagePlaces, stored_image
from .media import MEDIA, MEDIA_BY_ROLE
from .texts import is_utf8


logger = logging.get_logger(__name__)

FILE_NAME = "file_name"
"""The name of the image column in the metadata files of `datasets`' image folders."""
PEEKED_ROWS = 100
"""Rows by which the columns of data, and their types, are told."""
_LARGEST_FIELD = 2**27  # characters; Python's own limit is 128k
_NOT_UTF8 = "is not UTF-8"
# Where a quoted text has more lines, a quote is missing.
_MOST_LINES = 20
_ENDINGS = "|".join(sorted(ending for media in MEDIA.values() for ending in media.endings))
_LOOKS_LIKE_IMAGE = re.compile(rf"://|\.({_ENDINGS})\s*$", re.IGNORECASE)


def raw_table_rows(table: str) -> Iterator[dict[str, Any]]:
    """The rows of a table as they are; the path's ending says its kind. `.json` is a list of objects, or JSON Lines.

    A line that is no row (JSON that is no object, more fields than columns) is a row without values; in one that is
    not UTF-8, texts may have lone surrogates. The first such line is logged.

    Raises:
        ValueError: if the file cannot be divided into rows; the message names the line.
    """
    check_regular(table)
    is_separated = table.lower().endswith((".csv", ".tsv"))
    # Bytes that are no UTF-8 become lone surrogates, which `is_utf8` finds.
    with open(table, encoding="utf-8-sig", errors="surrogateescape", newline="" if is_separated else None) as file:
        if is_separated:
            rows = _separated_rows(file, table)
        elif _first_character(file) == "[":
            rows = _listed_rows(file, table)
        else:
            rows = _json_lines(file, table)
        is_logged = False
        for line, row, problem in rows:
            if problem and not is_logged:
                is_logged = True
                logger.warning_once(
                    f"{line} of {os.path.abspath(table)} {problem}. Rows that lack a needed value are skipped and "
                    "counted; further lines of this table are not named."
                )
            yield row


def table_rows(
    tables: Sequence[str], roles: dict[str, str], stamp: str = "", root: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of tables, with images where [`ImagePlaces`] says they are, below the table's folder or `root`.

    `roles` are the columns to make, see `row_columns`; the path of an image or film may also be in a column
    `file_name`. What is not UTF-8 stays in images and captions, which are checked when they are used; elsewhere it is
    None. `stamp` is not used: it makes a cache differ where a file changed.
    """
    for table in tables:
        location_of = ImagePlaces(os.path.dirname(os.path.abspath(table)), root)
        for fields in raw_table_rows(table):
            row: dict[str, Any] = {}
            for column, role in roles.items():
                value = fields.get(column)
                if role in MEDIA_BY_ROLE:
                    value = value if column in fields else fields.get(FILE_NAME)
                    location = location_of(value)
                    value = None if location is None else stored_image(location)
                elif role != "caption" and not _can_be_stored(value):
                    value = None
                row[column] = value
            yield row


def table_columns(tables: Sequence[str]) -> list[str]:
    """The names of the columns of tables, by the first rows of each."""
    first = (row for table in tables for row in itertools.islice(raw_table_rows(table), PEEKED_ROWS))
    return list(dict.fromkeys(name for row in first for name in row))


# -------------------------------------------------------------------------------------------------------- CSV and TSV

_Numbered = Iterator[tuple[str, dict[str, Any], str | None]]
"""For each row its name in messages, its values, and its problem, if any."""


def _separated_rows(file: TextIO, table: str) -> _Numbered:
    records = _tsv_records(file) if table.lower().endswith(".tsv") else _csv_records(file, table)
    records = ((line, fields) for line, fields in records if fields not in ([], [""]))
    _, names = next(records, (0, []))
    if not all(map(is_utf8, names)):
        raise ValueError(f"The table {table} is not UTF-8; save it as UTF-8.")
    _check_header(names, table)
    for number, fields in records:
        line = f"Line {number}"
        if any(fields[len(names) :]):
            yield line, {}, f"has {len(fields)} fields, more than the {len(names)} columns (a text not in quotes?)"
            continue
        problem = f"has {len(fields)} fields for {len(names)} columns" if len(fields) < len(names) else None
        problem = problem if is_utf8("".join(fields)) else _NOT_UTF8
        yield line, dict(itertools.zip_longest(names, fields[: len(names)])), problem


def _check_header(names: list[str], table: str) -> None:
    """Raise if two columns have one name, or the fields are divided by something else than the ending says."""
    other = [mark for mark in ",;\t|" if len(names) == 1 and mark in names[0]]
    if other:
        raise ValueError(
            f"The table {table} has one column, {names[0]!r}: its fields are divided by {other[0]!r}. Save it as .csv "
            "with commas, or as .tsv with tabs between the fields."
        )
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise ValueError(f"The table {table} has more than one column {twice[0]!r}; rename or remove one of them.")


def _csv_records(file: TextIO, table: str) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record, and its first line."""
    csv.field_size_limit(_LARGEST_FIELD)
    reader = csv.reader(file, strict=True)
    columns = None
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"Line {line} of {table} cannot be read: {error}. A text that begins with a quote must end with one, "
                'with quotes inside it doubled: "a ""cat""".'
            ) from error
        if fields is None:
            return
        columns = columns or len(fields)
        if reader.line_num > line:
            _check_lines(fields, columns, f"Line {line} of {table}")
        yield line, fields


def _check_lines(fields: list[str], columns: int, where: str) -> None:
    """Raise if a quoted text contains whole rows, because its closing quote is missing."""
    for field in fields:
        lines = field.splitlines()[1:]
        for text in lines:
            cells = text.split(",")
            if len(cells) == columns and any(map(_LOOKS_LIKE_IMAGE.search, cells)):
                raise ValueError(f"{where} begins a text with a quote that swallows the row {text[:80]!r}; close it.")
        if len(lines) > _MOST_LINES:
            end = f"ends {len(lines)} lines later"
            raise ValueError(f"{where} begins a text with a quote that {end}; close it before.")


def _tsv_records(file: TextIO) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record, and its first line.

    Few programs quote in TSV, so a quote counts only where a field begins and ends with one. A quoted field goes on
    over tabs and line breaks where that gives the right number of columns, and no line in it is a row by itself.
    """
    ahead: deque[str] = deque()
    number, columns = 0, None
    while line := ahead.popleft() if ahead else file.readline():
        number += 1
        fields = line.rstrip("\r\n").split("\t")
        columns = columns or len(fields)
        if '"' not in line:
            yield number, fields
            continue
        is_open = any(field.startswith('"') and not _is_quoted(field) for field in fields)
        longer = _longer_record(line, ahead, file, columns) if is_open else None
        fields, more = longer or ([_unquoted(field) for field in fields], 0)
        yield number, fields
        for _ in range(more):
            ahead.popleft()
        number += more


def _longer_record(line: str, ahead: deque[str], file: TextIO, columns: int) -> tuple[list[str], int] | None:
    """The CSV record that begins in this line, and how many more lines it has; None if no record begins here."""
    for more in range(_MOST_LINES):
        try:
            (fields,) = csv.reader(io.StringIO(line, newline=""), delimiter="\t", strict=True)
            if len(fields) == columns:
                return fields, more
        except (csv.Error, ValueError):
            pass  # not closed yet, or no record
        if more == len(ahead):
            ahead.append(file.readline())
        following = ahead[more]
        if not following or following.count("\t") + 1 == columns:
            break
        line += following
    return None


def _is_quoted(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == '"' and '"' not in field[1:-1].replace('""', "")


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if _is_quoted(field) else field


# --------------------------------------------------------------------------------------------------------------- JSON


def _first_character(file: TextIO) -> str:
    while (character := file.read(1)).isspace():
        pass
    file.seek(0)
    return character


def _listed_rows(file: TextIO, table: str) -> _Numbered:
    try:
        rows = json.loads(file.read().removeprefix("\ufeff"), object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError(f"The table {table} is nested too deeply for JSON rows.") from error
    except ValueError as error:
        raise ValueError(f"The table {table} begins as a list of rows, but is no JSON: {error}.") from error
    for number, row in enumerate(rows):
        problem = _object_problem(row, True)
        yield f"Row {number}", _values_of(row, problem), problem


def _json_lines(file: TextIO, table: str) -> _Numbered:
    for number, line in enumerate(file, 1):
        line = line.removeprefix("\ufeff").strip()
        if not line:
            continue
        row = None
        try:
            row = json.loads(line, object_pairs_hook=_object)
            problem = _object_problem(row, not line.isascii() or "\\u" in line)
        except RecursionError:
            problem = "is nested too deeply"
        except ValueError as error:
            problem = f"is no JSON ({error})"
        if problem and number == 1 and table.lower().endswith(".json"):
            raise ValueError(
                f"Line 1 of {table} {problem}. A table in JSON is a list of objects, or has an object on each line."
            )
        yield f"Line {number}", _values_of(row, problem), problem


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has the key {twice!r} more than once")
    return row


def _object_problem(row: Any, may_have_surrogates: bool) -> str | None:
    if not isinstance(row, dict):
        return "is no object"
    try:
        has_texts = not may_have_surrogates or is_utf8(json.dumps(row, ensure_ascii=False))
    except RecursionError:
        return "is nested too deeply"
    return None if has_texts else _NOT_UTF8


def _values_of(row: Any, problem: str | None) -> dict[str, Any]:
    """The values of a row that may have a problem; columns whose names are not UTF-8 are none."""
    if problem == _NOT_UTF8:
        return {name: value for name, value in row.items() if is_utf8(name)}
    return {} if problem else row


def _can_be_stored(value: Any) -> bool:
    """Whether all texts in a value are UTF-8."""
    if not isinstance(value, list | dict):
        return not isinstance(value, str) or is_utf8(value)
    try:
        return is_utf8(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        return False
