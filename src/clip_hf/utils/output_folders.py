# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The output folder of a long job: what may be written there, and what is put back if the job fails or is killed."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .atomic import clear_leftovers, remove_folder, set_aside, take_over


def check_writable(path: str | os.PathLike, into: str | os.PathLike) -> None:
    """Raise an `OSError` that names `path` if `into`, where it is to be written, is no folder and cannot become one,
    or may not be written; call it before anything else.
    """
    folder = Path(os.path.abspath(into))
    place = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    if not place.is_dir():
        kind = "a link to nothing" if place.is_symlink() and not place.exists() else "a file"
        raise NotADirectoryError(f"{path} cannot be written: {place} is {kind}, not a folder.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: {place} is not writable for this user.")


def check_output_folder(folder: Path, overwrite: bool, what: str, is_own: Callable[[Path], bool], ways: str) -> None:
    """Raise a `ValueError` if a job may not write into a folder, and an `OSError` if it cannot; call it before
    anything else.

    Args:
        folder (`Path`): The job's `output_dir`. It may be missing or empty.
        overwrite (`bool`): Whether what is in it may be replaced.
        what (`str`): What a job of this kind leaves, such as `"training"`, for the message.
        is_own (`Callable[[Path], bool]`): Whether a folder that is not empty holds such a thing; others stay.
        ways (`str`): What to do about a folder that is not empty besides choosing another, for the message.
    """
    if not folder.exists():
        clear_leftovers(folder)  # a killed process may have set one aside, and not begun another
    if not folder.exists():
        check_writable(folder, folder)
        return
    if not folder.is_dir():
        raise ValueError(f"`output_dir` {folder} is a file; name a folder.")
    check_writable(folder, folder)
    if not any(folder.iterdir()):
        return
    if not overwrite:
        raise ValueError(f"`output_dir` {folder} is not empty; choose another, {ways}.")
    if not is_own(folder):
        raise ValueError(f"`output_dir` {folder} holds no {what}, so it is not replaced; choose another.")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(f"`output_dir` {folder} would be replaced, but is the current folder; start from another.")


@contextmanager
def replacing_folder(folder: Path, replace: bool) -> Iterator[None]:
    """Set the folder aside if it is to be replaced; it is removed when the block ends, and put back if it raises.

    If the process is killed, the next call takes over what was set aside: it is removed once that job's block has
    ended, and put back if it raises.
    """
    folder = Path(os.path.abspath(folder))
    # A folder that is still set aside was to be replaced by a job that never got so far.
    aside = take_over(folder) if folder.exists() else None
    try:
        clear_leftovers(folder)
        if replace and folder.exists():
            if aside is None:
                aside = set_aside(folder)
            else:
                remove_folder(folder)
        yield
    except BaseException:
        if aside is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(aside, folder)
        raise
    if aside is not None:
        remove_folder(aside, folder)
