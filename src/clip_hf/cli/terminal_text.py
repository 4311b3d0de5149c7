# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Text for standard output, whatever is in it: one line, and only characters that the output has."""

import json
import re
import sys
from typing import Any


# What would end a line or a field of the output, or steer a terminal; and the backslash, which begins an escape.
_ESCAPED = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029]")


def printable(text: str) -> str:
    """The text in one line, with control characters and backslashes escaped as in C: `\\t`, `\\n`, `\\x1b`, `\\\\`."""
    return encodable(_ESCAPED.sub(lambda match: match[0].encode("unicode_escape").decode(), text))


def encodable(text: str) -> str:
    """The text without what standard output has no character for, such as the bytes of a path that is not UTF-8."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def json_line(value: Any) -> str:
    """The value as JSON; escaped where standard output has no character for some of it."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    return text if encodable(text) == text else json.dumps(value, allow_nan=False)
