# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Words for messages and tables, and names for files."""

INTERVAL = "interval_95"
"""Name of a figure's 95% interval, two numbers, in `EvalResult.metric_args`."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun: `"1 prompt"`, `"2 prompts"`; `plural` is for nouns that take more than an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def listed(names: list[str], limit: int = 8) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return f"{', '.join(names[:limit])}{more}"


def safe_name(name: str) -> str:
    """Replace what does not belong in a file's name: `"me/my clip:1"` becomes `"me_my_clip_1"`."""
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in name).strip("._") or "_"
