# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Words for messages and tables, and names for files."""

from collections.abc import Iterable, Sequence
from typing import Any


INTERVAL = "interval_95"
"""Name of a figure's 95% interval, two numbers, in `EvalResult.metric_args`."""
TASK_TITLES = {
    "adaptation": "Adaptation",
    "adapters": "Adapter heads",
    "explanation": "Faithfulness of relevance maps",
    "few_shot": "Few-shot classification",
    "label_probe": "Label probe",
    "linear_probe": "Linear probe",
    "moments": "Moment retrieval",
    "retrieval": "Retrieval",
    "robustness": "Robustness",
    "segmentation": "Segmentation",
    "zero_shot": "Zero-shot classification",
}
"""Evaluations as plots and model cards call them, by name."""
HUB_TASKS = {
    "moments": "video-moment-retrieval",
    "retrieval": "zero-shot-image-retrieval",
    "segmentation": "image-segmentation",
    "zero_shot": "zero-shot-image-classification",
}
"""The hub's identifiers of evaluations, by name."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: `"1 prompt"`, `"2 prompts"`; `plural` is for nouns that take more than an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], limit: int = 8) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"


def quoted(names: Iterable[Any], limit: int = 5) -> str:
    """The first names in quotes, and how many more there are."""
    return listed(list(map(repr, names)), limit)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown, each cell as text on one line."""
    header, *lines = (f"| {' | '.join(map(table_cell, row))} |" for row in (columns, *rows))
    return "\n".join([header, "|---" * len(columns) + "|", *lines])


def table_cell(text: Any) -> str:
    """`text` for a cell of a Markdown table: on one line, and without what would end the cell."""
    return " ".join(str(text).split()).replace("|", "\\|")


def escape_name(name: str) -> str:
    """A name on one line: escapes for bytes that are not UTF-8, and for characters that break, hide or turn a line."""
    return "".join(
        char if char.isprintable() or char == "\u200d" else char.encode("unicode_escape").decode()
        for char in name.encode(errors="backslashreplace").decode()
    )


def safe_name(name: str) -> str:
    """Replace what does not belong in a file's name: `"me/my clip:1"` becomes `"me_my_clip_1"`."""
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in name).strip("._") or "_"
