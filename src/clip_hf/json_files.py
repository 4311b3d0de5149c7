# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reading JSON and text files that may be damaged, or somebody else's: what is wrong is one clear error."""

import json
import os
from pathlib import Path
from typing import Any


def check_regular(path: str | os.PathLike) -> None:
    """Raise a `ValueError` for a pipe or device: opening it would wait for ever, or reading it never end."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise ValueError(f"{path} is a pipe or device; only regular files are read.")


def read_text(path: str | os.PathLike) -> str:
    """
    The content of a text file.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is no regular file, or not UTF-8.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}).") from error


def read_json(path: str | os.PathLike, kind: type = object) -> Any:
    """
    The content of a JSON file.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        kind (`type`, *optional*):
            What it must hold: `dict` or `list`; anything by default.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is no regular file, not UTF-8, no JSON, nested too deeply, or holds another kind of value.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path} is nested too deeply to be read.") from error
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file ({error}). Copy or download it again.") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must hold a {kind.__name__}.")
    return content


__all__ = ["check_regular", "read_json", "read_text"]
