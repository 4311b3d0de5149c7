# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Text for standard output, whatever is in it: one line, and only characters that the output has."""

import json
import re
import sys
from typing import Any

from _clip_hf_cli.control_characters import CONTROLS, escape_character


_ESCAPED = re.compile(rf"[\\{CONTROLS}]")  # with the backslash, which begins an escape


def printable(text: str) -> str:
    """The text in one line, with control characters and backslashes escaped as in C: `\\t`, `\\n`, `\\x1b`, `\\\\`."""
    return encodable(_ESCAPED.sub(escape_character, text))


def encodable(text: str) -> str:
    """The text without what standard output has no character for, such as the bytes of a path that is not UTF-8."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def json_line(value: Any) -> str:
    """The value as JSON; escaped where standard output has no character for some of it."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    return text if encodable(text) == text else json.dumps(value, allow_nan=False)
