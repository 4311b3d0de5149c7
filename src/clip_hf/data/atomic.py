# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Folders that are written as a whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _beside(folder: Path, ending: str) -> Path:
    # In the same parent, for only a rename within one file system is a single step.
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.{ending}")


def remove_folder(folder: str | os.PathLike) -> None:
    """Remove a folder so that no other process ever finds half of it: it is renamed first."""
    doomed = _beside(Path(folder), "old")
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def replaced_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """
    Give an empty folder to write into that takes the place of `folder` when the block ends without an error.

    If it ends with one, or the process dies, whatever was at `folder` before is still there, as it was.

    Args:
        folder (`str` or `os.PathLike`):
            Where the contents are to be in the end.

    Returns:
        `Path` (on entering): the folder to write into.

    Raises:
        NotADirectoryError: if `folder` exists and is a file.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; a folder is to be written there.")
    temporary = _beside(folder, "tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            remove_folder(folder)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


__all__ = ["remove_folder", "replaced_folder"]
