# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Contact sheets: one HTML file with small pictures inside, which opens anywhere and needs no network."""

import base64
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..data.skips import stop_if_exhausted
from ..model.image_reading_clip_hf import UnreadableImage, check_scheme
from ..utils.atomic import replaced_file
from ..utils.wording import escape_name
from .thumbnails import jpeg_bytes, thumbnail


_EDGE = 200  # pixels
# The policy forbids scripts and everything from the network, should a browser find any in the texts.
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c1c1e; --paper: #fff; --card: #f2f2f4; --mark: #1a7f37; --link: #0b57d0; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #ececf1; --paper: #141416; --card: #222226; --mark: #56d364; --link: #8ab4f8; }}
}}
body {{ margin: 1rem; font: 15px/1.4 system-ui, sans-serif; color: var(--ink); background: var(--paper); }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin: 1.5rem 0 .5rem; }}
h1, h2, figcaption {{ overflow-wrap: anywhere; }}
.group {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(216px, 45%), 1fr)); gap: .6rem; }}
figure {{ margin: 0; padding: .5rem; background: var(--card); border: 2px solid transparent; border-radius: .5rem; }}
figure.marked {{ border-color: var(--mark); }}
img {{ display: block; max-width: 100%; height: auto; margin: 0 auto .4rem; }}
.placeholder {{ padding: 2rem .5rem; margin-bottom: .4rem; border: 1px dashed; text-align: center; }}
figcaption {{ font-size: .85rem; }} figcaption a {{ color: var(--link); }}
</style>
</head>
<body>
<h1>{title}</h1>
"""


@dataclass(frozen=True)
class SheetItem:
    """One picture of a contact sheet.

    Args:
        picture (`str`, `os.PathLike`, `bytes` or `None`): What [`open_image`] takes; None if there is no picture, as
            for a row that is a text.
        lines (`Sequence[str]`): Lines of text beneath it. The first links to the picture, if it is a file.
        is_marked (`bool`, *optional*, defaults to `False`): Whether a frame stands out from the others'.
        link (`str`, *optional*): Where the first line leads, if not to the picture, such as
            `"file:///films/a.mp4#t=12.5"`.
    """

    picture: Any
    lines: Sequence[str]
    is_marked: bool = False
    link: str | None = None


@dataclass(frozen=True)
class SheetGroup:
    """Pictures under one heading.

    Args:
        title (`str`): The heading; blank for none.
        items (`Iterable[SheetItem]`): The pictures, in order.
    """

    title: str
    items: Iterable[SheetItem]


def write_contact_sheet(path: str | os.PathLike, title: str, groups: Iterable[SheetGroup]) -> None:
    """Write groups of pictures and texts as one HTML file.

    Thumbnails of at most 200 pixels are inside the file: upright, on white where a picture is transparent. Pictures
    that are files are linked, so the sheet is most useful on the machine with the files. A picture that cannot be read
    has a placeholder with the reason. The file is complete or not there at all, and pictures are read one by one while
    it is written.

    Args:
        path (`str` or `os.PathLike`): HTML file to write or replace.
        title (`str`): Title of the page.
        groups (`Iterable[SheetGroup]`): The groups, in order.

    Raises:
        OSError: if the file cannot be written, or the machine has no files, memory or disk left to read pictures.
    """
    with replaced_file(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(_HEAD.format(title=_as_html(title)))
        for group in groups:
            if group.title.strip():
                file.write(f"<h2>{_as_html(group.title)}</h2>\n")
            file.write('<div class="group">\n')
            for item in group.items:
                file.writelines(_figure(item))
            file.write("</div>\n")
        file.write("</body>\n</html>\n")


def _as_html(text: str) -> str:
    return escape(escape_name(text), quote=True)


def _figure(item: SheetItem) -> Iterator[str]:
    name = _as_html(item.lines[0]) if item.lines else ""
    yield f"<figure{' class=marked' if item.is_marked else ''}>"
    if item.picture is not None:
        try:
            source, (width, height) = _thumbnail(item.picture)
            yield f'<img src="{source}" width="{width}" height="{height}" alt="{name}" decoding="async">'
        except UnreadableImage as error:
            stop_if_exhausted(error, "a picture")
            yield f'<div class="placeholder">{_as_html(f"{error.kind}: {error}")}</div>'
    link = item.link or _file_url(item.picture)
    first = [f'<a href="{escape(link, quote=True)}">{name}</a>' if link else name] if item.lines else []
    yield f"<figcaption>{'<br>'.join([*first, *map(_as_html, item.lines[1:])])}</figcaption></figure>\n"


def _thumbnail(picture: Any) -> tuple[str, tuple[int, int]]:
    """A data URL of a JPEG file, and its width and height."""
    image = thumbnail(picture, _EDGE)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg_bytes(image)).decode()}", image.size


def _file_url(picture: Any) -> str | None:
    """A link to a picture that is a file of this machine, whatever the bytes of its name; None for others."""
    if not isinstance(picture, str | os.PathLike) or not os.path.lexists(picture):
        return None
    if isinstance(picture, str) and check_scheme(picture) is not None:
        return None
    return Path(picture).absolute().as_uri()
