# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Write files and folders completely or not at all, even if the process is killed or the power fails.

New content is written under a temporary name beside its destination, flushed to disk, and renamed. An existing folder
is first renamed out of the way and removed afterwards, so one of the two is always complete. Temporary names contain
the machine and the process id. The next writer removes what a killed process left, and puts back a folder that was set
aside if nothing took its place.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


_WRITTEN, _ASIDE, _REMOVED = "tmp", "aside", "removed"
_LEFTOVER = re.compile(rf"\.([0-9a-f]{{8}})-(\d{{1,9}})-[0-9a-f]{{12}}\.({_WRITTEN}|{_ASIDE}|{_REMOVED})")
_LONGEST_NAME = 200
# After this many seconds without a change, files of a process on another machine count as abandoned.
_LONG_AGO = 24 * 3600.0


@functools.cache
def _machine() -> str:
    # Containers may share a machine's name, but then not its process numbers.
    space = os.readlink("/proc/self/ns/pid") if os.path.islink("/proc/self/ns/pid") else ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _beside(path: Path, ending: str) -> Path:
    # In the same parent, because only a rename within one file system is a single step.
    return path.with_name(f"{_prefix(path)}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:12]}.{ending}")


def _prefix(path: Path) -> str:
    name = os.fsencode(path.name)
    # File systems take 255 bytes, and about 40 come behind this.
    return f".{path.name}" if len(name) <= _LONGEST_NAME else f".{hashlib.sha256(name).hexdigest()}"


def sync(path: str | os.PathLike) -> None:
    """Flush a file, or a folder's list of names, to disk, so that it survives a power failure."""
    if os.name == "nt":  # Windows has no such call for folders or for files that are open to read.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system cannot flush
            raise
    finally:
        os.close(descriptor)


def sync_folder(folder: str | os.PathLike) -> None:
    """Flush a folder and everything in it to disk."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            if os.path.isfile(os.path.join(parent, name)):
                sync(os.path.join(parent, name))
        sync(parent)


def remove_folder(folder: str | os.PathLike, name: str | os.PathLike | None = None) -> None:
    """Remove a folder. It is renamed first, so no other process ever sees half of it.

    `name` is its original name, if it was set aside.
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
    """Rename a finished temporary folder to its final name, replacing a folder of that name.

    It lies in the same parent and is flushed to disk (see [`sync_folder`]). If it cannot be renamed, the old folder is
    put back.
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
    """Clean up after killed processes: remove their temporary files for `path`, and put back a folder that they had
    set aside if nothing took its place. Call this before checking whether `path` exists.

    Files of a running process on this machine stay. Files of another machine stay for a day after their last change.
    With `every_owner` all go, which is only safe if no other process is writing there.
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
    """Take over the last folder that a killed process had set aside for `path`; None if there is none."""
    for abandoned in _leftovers_of(path, every_owner=False)[_ASIDE]:
        aside = _beside(path, _ASIDE)
        os.rename(abandoned, aside)
        return aside
    return None


def _leftovers_of(path: Path, every_owner: bool) -> dict[str, list[Path]]:
    """Leftovers of killed processes by ending; folders that were set aside are sorted newest first."""
    leftovers: dict[str, list[Path]] = {_WRITTEN: [], _ASIDE: [], _REMOVED: []}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path.parent) as entries:
        for entry in entries:
            prefix = _prefix(path)
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
        except PermissionError:  # it is running, as another user
            return False
        return False
    try:
        status = [path.lstat() for path in [leftover, *leftover.rglob("*")]]
        return time.time() - max(max(entry.st_mtime, entry.st_ctime) for entry in status) > _LONG_AGO
    except FileNotFoundError:  # another process is at work
        return False


@contextmanager
def replaced_folder(folder: str | os.PathLike, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield an empty folder to write into; it replaces `folder` when the block ends without an error.

    After an error the old `folder` is unchanged. The same holds if the process dies; if it died between the two
    renames, the next call puts the old folder back.

    Args:
        folder (`str` or `os.PathLike`): Folder to make or to replace.
        check (`Callable`, *optional*): Called with `folder` right before it is replaced; raises if what is there by
            then must stay.

    Raises:
        NotADirectoryError: if `folder` is a file.
    """
    folder = Path(os.path.abspath(folder))
    clear_leftovers(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, but a folder must be written there.")
    temporary = _beside(folder, _WRITTEN)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync_folder(temporary)
        if check is not None:
            check(folder)
        move_into_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def usual_mode(path: Path) -> Iterator[None]:
    """Give a new file that the block writes the mode that the umask gives; safetensors lets only its owner read it."""
    path.touch()
    mode = path.stat().st_mode
    path.unlink()
    yield
    path.chmod(mode)


@contextmanager
def replaced_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yield the name of a file to write; it replaces `path` when the block ends without an error.

    After an error, or if the process dies, the old file is unchanged. The folder is created if necessary. An error in
    writing, such as for a full disk, names the file.
    """
    path = Path(os.path.abspath(path))
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, but a file must be written there.")
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(path)
    temporary = _beside(path, _WRITTEN)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.errno is None or error.filename is not None or error.__cause__ is not None:
            raise  # it says itself what it is about
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
