# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Files and folders that are written as a whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _beside(path: Path, ending: str) -> Path:
    # In the same parent, for only a rename within one file system is a single step.
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.{ending}")


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


@contextmanager
def replaced_file(path: str | os.PathLike) -> Iterator[Path]:
    """
    Give the name of a file to write that takes the place of `path` when the block ends without an error.

    If it ends with one, or the process dies, whatever was at `path` before is still there, as it was.

    Args:
        path (`str` or `os.PathLike`):
            Where the contents are to be in the end. Its folder is made if need be.

    Returns:
        `Path` (on entering): the file to write; it does not exist yet.

    Raises:
        IsADirectoryError: if `path` exists and is a folder.
    """
    path = Path(os.path.abspath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; a file is to be written there.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, "tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


__all__ = ["remove_folder", "replaced_file", "replaced_folder"]
