# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Characters that steer a terminal, or turn a line's direction, as escapes."""

import re


CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
"""What ends a line, steers a terminal or turns a line's direction, as a class of a regular expression has it."""
_STEERING = re.compile(rf"(?!\n)[{CONTROLS}]")


def escape_controls(text: str) -> str:
    """A message with escapes, such as `\\x1b`, for control characters other than the end of a line."""
    return _STEERING.sub(escape_character, text)


def escape_character(match: re.Match[str]) -> str:
    """The escape of a matched character as in C: `\\t`, `\\x1b`, `\\u202e`."""
    return match[0].encode("unicode_escape").decode()
