# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tables for people at a terminal; files hold Markdown instead."""

import io
import shutil
import sys
import textwrap
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console
from rich.table import Table
from rich.text import Text


# A pipe or a file gets spaces and a line of hyphens, which any encoding has and any program can split.
_PLAIN = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
# Rows in a pipe are never wrapped, however long they are.
_UNLIMITED = 10_000


def draw_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Draw a table for where standard output goes, below its title.

    A terminal gets it as wide as the terminal at most, with the title and column names in bold. A pipe or a file gets
    unwrapped text without escape codes. Columns whose cells are all figures or empty are aligned to the right.
    """
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    table = Table(box=SIMPLE_HEAD if on_terminal else _PLAIN, pad_edge=False, show_edge=False, header_style="bold")
    for place, name in enumerate(columns):
        is_number = all(_is_figure(row[place]) for row in rows)
        table.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(
        file=io.StringIO(),
        force_terminal=on_terminal,
        no_color=not on_terminal,
        width=shutil.get_terminal_size().columns if on_terminal else _UNLIMITED,
        legacy_windows=False,
    )
    console.print(Text(title, style="bold"))
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().rstrip().splitlines())


def wrap_lines(text: str) -> str:
    """Break lines between words where standard output is a terminal, at its width; else the text as it is."""
    if sys.stdout is None or not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    options = {"width": width, "break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False}
    return "\n".join(textwrap.fill(line, **options) for line in text.split("\n"))


def _is_figure(cell: str) -> bool:
    return cell in ("", "-") or cell.lstrip("+-")[:1].isdigit()
