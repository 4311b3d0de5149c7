# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Small pictures in a terminal: as pictures where it can show them, else as coloured half blocks."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from rich.cells import set_cell_size
from rich.color import Color
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from ..model.image_reading_clip_hf import UnreadableImage
from .thumbnails import thumbnail


BLOCK = "▀"
"""The character of coloured half blocks."""
_COLUMNS, _LINES = 20, 10  # of one picture; a character is about twice as high as wide
_GAP = 2  # columns between pictures
_PIXELS_PER_COLUMN = 10  # where pictures are shown as such
_WHITE = (255, 255, 255)
_KITTY_CHUNK = 4096  # bytes, the most that its protocol takes at once


def picture_protocol(environment: Mapping[str, str] = os.environ) -> str:
    """How the terminal of these environment variables shows pictures: `"kitty"`, `"iterm2"` or `"blocks"`."""
    program, kind = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if "TMUX" in environment or kind.startswith(("screen", "tmux")):
        return "blocks"  # these swallow the escape codes of pictures
    if "kitty" in kind or "ghostty" in kind or program == "ghostty":
        return "kitty"
    return "iterm2" if program in ("iTerm.app", "WezTerm") else "blocks"


def draw_pictures(pictures: Sequence[Any], labels: Sequence[str], width: int, protocol: str) -> str:
    """Pictures side by side, with a label below each, as text for a terminal.

    Args:
        pictures (`Sequence`): What [`open_image`] takes; None, and what cannot be read, leaves its place empty.
        labels (`Sequence[str]`): A line for each picture, cut to its width.
        width (`int`): Columns of the terminal.
        protocol (`str`): See [`picture_protocol`].
    """
    in_a_row = max(1, (width + _GAP) // (_COLUMNS + _GAP))
    scale = 1 if protocol == "blocks" else _PIXELS_PER_COLUMN
    rows = []
    for first in range(0, len(pictures), in_a_row):
        part = slice(first, first + in_a_row)
        thumbnails = [_thumbnail(picture, _COLUMNS * scale) for picture in pictures[part]]
        columns = len(thumbnails) * (_COLUMNS + _GAP) - _GAP
        row = Image.new("RGB", (columns * scale, _COLUMNS * scale), _WHITE)
        for place, small in enumerate(thumbnails):
            if small is not None:
                left = place * (_COLUMNS + _GAP) * scale + (_COLUMNS * scale - small.width) // 2
                row.paste(small, (left, (_COLUMNS * scale - small.height) // 2))
        rows.append(_SHOW[protocol](row, columns))
        rows.append((" " * _GAP).join(set_cell_size(label, _COLUMNS) for label in labels[part]).rstrip())
    return "\n".join(rows)


def _thumbnail(picture: Any, edge: int) -> Image.Image | None:
    if picture is None:
        return None
    try:
        return thumbnail(picture, edge)
    except UnreadableImage:  # it was readable when it was indexed, and may be gone since
        return None


def _as_blocks(image: Image.Image, columns: int) -> str:
    """Two pixels a character: the upper half in the text's colour, the lower half in the background's."""
    pixels, lines = image.load(), []
    for line in range(_LINES):
        colours = [[Color.from_rgb(*pixels[column, 2 * line + half]) for half in (0, 1)] for column in range(columns)]
        lines += [Segment(BLOCK, Style(color=upper, bgcolor=lower)) for upper, lower in colours] + [Segment.line()]
    console = Console(file=io.StringIO(), force_terminal=True, width=columns + 1, legacy_windows=False)
    console.print(Segments(lines), end="", soft_wrap=True)
    return console.file.getvalue().rstrip("\n")


def _as_kitty(image: Image.Image, columns: int) -> str:
    data = _png(image)
    chunks = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
    codes = []
    for number, chunk in enumerate(chunks):
        control = f"a=T,f=100,q=2,c={columns},r={_LINES}," if number == 0 else ""
        codes.append(f"\x1b_G{control}m={int(number < len(chunks) - 1)};{chunk}\x1b\\")
    return "".join(codes)


def _as_iterm2(image: Image.Image, columns: int) -> str:
    shape = f"width={columns};height={_LINES};preserveAspectRatio=0"
    return f"\x1b]1337;File=inline=1;{shape}:{_png(image)}\a"


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


_SHOW = {"blocks": _as_blocks, "kitty": _as_kitty, "iterm2": _as_iterm2}
