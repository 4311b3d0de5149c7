# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Files and folders that are written as a whole or not at all, whether a process is killed or the power fails.

What is new is written under a temporary name beside its place, put on the disk, and renamed. A folder that is in the
way is set aside by a rename before, and removed after, so one of the two is always whole. Temporary names hold
the machine and the number of the process that made them. What a killed process left is removed by whoever writes there
next; a folder that was set aside, and whose place nothing took, is put back.
"""

import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


_WRITTEN, _ASIDE, _REMOVED = "tmp", "aside", "removed"
_LEFTOVER = re.compile(rf"\.([0-9a-f]{{8}})-(\d{{1,9}})-[0-9a-f]{{12}}\.({_WRITTEN}|{_ASIDE}|{_REMOVED})")
# After this many seconds without a change, what another machine's process was writing is taken for abandoned.
_LONG_AGO = 24 * 3600.0


@functools.cache
def _machine() -> str:
    # Containers may share a machine's name, but then not its process numbers.
    space = os.readlink("/proc/self/ns/pid") if os.path.islink("/proc/self/ns/pid") else ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _beside(path: Path, ending: str) -> Path:
    # In the same parent, because only a rename within one file system is a single step.
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.{ending}")


def sync(path: str | os.PathLike) -> None:
    """Put a file, or a folder's list of names, on the disk, so that it outlasts a power failure."""
    if os.name == "nt":  # Windows has no such call for folders, nor for files that are open to read.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that cannot
            raise
    finally:
        os.close(descriptor)


def sync_folder(folder: str | os.PathLike) -> None:
    """Put a folder with all that is in it on the disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            if os.path.isfile(os.path.join(parent, name)):
                sync(os.path.join(parent, name))
        sync(parent)


def remove_folder(folder: str | os.PathLike, name: str | os.PathLike | None = None) -> None:
    """
    Remove a folder so that no other process ever finds half of it: it is renamed first.

    Args:
        folder (`str` or `os.PathLike`):
            The folder.
        name (`str` or `os.PathLike`, *optional*):
            Its name before it was set aside, if it was.
    """
    doomed = _beside(Path(folder if name is None else name), _REMOVED)
    os.rename(folder, doomed)
    _delete(doomed)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def move_into_place(temporary: str | os.PathLike, folder: str | os.PathLike) -> None:
    """
    Give a folder that is written its name; one that has the name is set aside before, and removed after.

    Args:
        temporary (`str` or `os.PathLike`):
            In the same parent, and on the disk (see [`sync_folder`]).
        folder (`str` or `os.PathLike`):
            Its name to be.

    Raises:
        OSError: if it cannot be renamed; what was at `folder` is there again.
    """
    folder = Path(folder)
    aside = set_aside(folder)
    try:
        os.rename(temporary, folder)
        sync(folder.parent)
    except BaseException:
        if aside is not None and not os.path.lexists(folder):
            os.rename(aside, folder)
        raise
    if aside is not None:
        remove_folder(aside, folder)


def set_aside(folder: Path) -> Path | None:
    """Rename a folder to a name that [`clear_leftovers`] knows; returns it, or None if there is no folder."""
    aside = _beside(folder, _ASIDE)
    try:
        os.rename(folder, aside)
    except FileNotFoundError:
        return None
    return aside


def clear_leftovers(path: str | os.PathLike, every_owner: bool = False) -> None:
    """
    Clear up after killed processes: remove what they were writing or removing for a place, and put back what they had
    set aside for it if nothing took the place.

    What a living process of this machine made is left alone, and what another machine's made until a day after its
    last change.

    Args:
        path (`str` or `os.PathLike`):
            The file or folder that was to be written. To be called before looking what is there.
        every_owner (`bool`, *optional*, defaults to `False`):
            Whether it is known that no other process is writing there.
    """
    path = Path(os.path.abspath(path))
    leftovers = _leftovers_of(path, every_owner)
    for aside in leftovers[_ASIDE]:
        with suppress(FileNotFoundError):  # another process was quicker
            if os.path.lexists(path):
                remove_folder(aside, path)
            else:
                os.rename(aside, path)
    for leftover in leftovers[_WRITTEN] + leftovers[_REMOVED]:
        _delete(leftover)


def take_over(path: Path) -> Path | None:
    """What a killed process had set aside last for a place, as if this process had done it; None if there is none."""
    for abandoned in _leftovers_of(path, every_owner=False)[_ASIDE]:
        aside = _beside(path, _ASIDE)
        os.rename(abandoned, aside)
        return aside
    return None


def _leftovers_of(path: Path, every_owner: bool) -> dict[str, list[Path]]:
    """By their endings; of those that were set aside the last first."""
    leftovers: dict[str, list[Path]] = {_WRITTEN: [], _ASIDE: [], _REMOVED: []}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path.parent) as entries:
        for entry in entries:
            prefix = f".{path.name}"
            match = _LEFTOVER.fullmatch(entry.name[len(prefix) :]) if entry.name.startswith(prefix) else None
            if match and (every_owner or _is_abandoned(Path(entry.path), match[1], int(match[2]))):
                leftovers[match[3]].append(Path(entry.path))
    # A rename changes `st_ctime`.
    leftovers[_ASIDE].sort(key=lambda leftover: leftover.lstat().st_ctime, reverse=True)
    return leftovers


def _is_abandoned(leftover: Path, machine: str, process: int) -> bool:
    if machine == _machine() and os.name != "nt":  # on Windows `os.kill` would end the process
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # it lives, and is another user's
            return False
        return False
    try:
        status = [path.lstat() for path in [leftover, *leftover.rglob("*")]]
        return time.time() - max(max(one.st_mtime, one.st_ctime) for one in status) > _LONG_AGO
    except FileNotFoundError:  # another process is at work
        return False


@contextmanager
def replaced_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """
    Give an empty folder to write into that takes the place of `folder` when the block ends without an error.

    If it ends with one, whatever was at `folder` before is still there, as it was; so it is if the process dies, or is
    put back by the next call if it died between two renames.

    Args:
        folder (`str` or `os.PathLike`):
            Where the contents are to be in the end.

    Returns:
        `Path` (on entering): the folder to write into.

    Raises:
        NotADirectoryError: if `folder` exists and is a file.
    """
    folder = Path(os.path.abspath(folder))
    clear_leftovers(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; a folder is to be written there.")
    temporary = _beside(folder, _WRITTEN)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync_folder(temporary)
        move_into_place(temporary, folder)
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
    clear_leftovers(path)
    temporary = _beside(path, _WRITTEN)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


__all__ = [
    "clear_leftovers",
    "move_into_place",
    "remove_folder",
    "replaced_file",
    "replaced_folder",
    "set_aside",
    "sync",
    "sync_folder",
    "take_over",
]
