# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The generated parts of a README, found in time that grows with its length, whatever someone wrote into it."""

import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass


# The hash is missing in the template and put in when a card is made.
_BEGIN = re.compile(r"<!-- clip_hf card: (?P<name>[a-z-]+)(?: (?P<hash>[0-9a-f]{10}))? -->\r?\n")
_END = re.compile(r"\r?\n<!-- /clip_hf card: (?P<name>[a-z-]+) -->")
_RECORD = "clip_hf card record: "


@dataclass(frozen=True)
class Section:
    """A generated section: `text[start:end]` with its two comments, `body` without.

    `hash` is of the body as it was generated; None in the template.
    """

    name: str
    hash: str | None
    body: str
    start: int
    end: int


def find_sections(text: str) -> list[Section]:
    """The sections of a README in their order: each from a first comment to the next last comment of its name."""
    ends: dict[str, list[re.Match]] = {}
    for match in _END.finditer(text):
        ends.setdefault(match["name"], []).append(match)
    sections: list[Section] = []
    for begin in _BEGIN.finditer(text):
        if sections and begin.start() < sections[-1].end:
            continue  # within the one before
        same = ends.get(begin["name"], [])
        place = bisect_left(same, begin.end(), key=re.Match.start)
        if place < len(same):
            body = text[begin.end() : same[place].start()]
            sections.append(Section(begin["name"], begin["hash"], body, begin.start(), same[place].end()))
    return sections


def replace_sections(text: str, replacement: Callable[[Section], str]) -> str:
    """The text with what `replacement` gives in place of each section, its comments included."""
    parts, place = [], 0
    for section in find_sections(text):
        parts += [text[place : section.start], replacement(section)]
        place = section.end
    return "".join([*parts, text[place:]])


def find_record(text: str) -> tuple[str, int, int] | None:
    """The comment that records what was generated: its JSON, and where the comment starts and ends."""
    start = 0
    while (start := text.find("<!--", start)) >= 0:
        end = text.find("-->", start + 4)
        if end < 0:
            return None
        mark = text.find(_RECORD, start, end)
        if mark >= 0:
            return text[mark + len(_RECORD) : end].rstrip(), start, end + 3
        start = end + 3
    return None
