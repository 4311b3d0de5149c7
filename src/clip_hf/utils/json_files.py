# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Read JSON and text files that may be damaged; every problem is one clear error."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from ..model.checks_clip_hf import type_of, with_article


def check_regular(path: str | os.PathLike) -> None:
    """Raise a `ValueError` for a pipe or device, which may block for ever."""
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{path} is a pipe or device; only regular files are read.")


def read_text(path: str | os.PathLike, what: str | None = None, max_bytes: int | None = None) -> str:
    """The content of a text file; `what` names it in messages.

    Raises:
        OSError: if there is no such file, or it is a folder, pipe or device.
        ValueError: if it has more than `max_bytes` or is not UTF-8.
    """
    path, what = Path(path), what or str(path)
    mode = _mode(path)
    if mode is not None and not stat.S_ISREG(mode):
        raise OSError(f"{what} is a folder, pipe or device, not a file.")
    try:
        if mode is None:
            raise FileNotFoundError
        with path.open("rb") as file:  # which may be gone since
            content = file.read(-1 if max_bytes is None else max_bytes + 1)
    except FileNotFoundError:
        message = f"{what} is not there. Check its path; it is taken from the folder {os.getcwd()}."
        raise FileNotFoundError(message) from None
    if max_bytes is not None and len(content) > max_bytes:
        raise ValueError(f"{what} has more than {max_bytes:,} bytes; only small files are read here.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise ValueError(f"{what} is not UTF-8: {reason}. Save it with the encoding UTF-8.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")  # as reading text does


def _mode(path: str | os.PathLike) -> int | None:
    """What a path is, None if it is not there; asked once, because it may be gone at a second question."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a name that no file can have
        return None


def read_json(
    path: str | os.PathLike, kind: type = object, what: str | None = None, max_bytes: int | None = None
) -> Any:
    """The content of a JSON file, which must be of the type `kind`; `what` and `max_bytes` are as in [`read_text`].

    Raises:
        OSError: if there is no such file, or it is a folder, pipe or device.
        ValueError: if it is too large, not UTF-8, no JSON, nested too deeply, or holds another kind of value.
    """
    text, what = read_text(path, what, max_bytes), what or str(path)
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{what} is no JSON that can be read: it is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"{what} is no JSON file ({error}). Copy or download it again.") from error
    if not isinstance(content, kind):
        raise ValueError(f"{what} holds {type_of(content)}; it must hold {with_article(kind.__name__)}.")
    return content
