# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Move pictures to another folder and back, with a log, so that a crash at any step loses none.

A picture gets its new name before it loses the old one: as a hard link, or as a copy that was flushed and read again
where there are no links (another file system). So it is whole under one of its two names at any time, and under both
only if a crash came between; then the next move or undo finds that both are equal, and ends what was begun.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from filelock import FileLock

from ..utils.atomic import sync
from ..utils.wording import counted, escape_name
from .index_segments import digest_file


MOVES = "moves.jsonl"
"""The log in the folder to which pictures are moved."""
_LOCK = ".moves.lock"


@dataclass(frozen=True)
class UndoneMoves:
    """What [`undo_moves`] did; as a string, both lists in words.

    Args:
        back (`list[Path]`): Pictures that are in their old place again.
        left (`list[tuple[Path, str]]`): Pictures that stay where they were moved to, and why.
    """

    back: list[Path] = field(default_factory=list)
    left: list[tuple[Path, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"Moved {counted(len(self.back), 'picture')} back, left {len(self.left):,}."]
        lines += [f"Back: {escape_name(str(path))}" for path in self.back]
        lines += [f"Left: {escape_name(str(path))}: {escape_name(reason)}" for path, reason in self.left]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Move:
    old: Path
    new: Path
    size: int


class PictureMover:
    """Moves pictures to a folder; a context, which no two processes enter at a time.

    Args:
        folder (`Path`): The folder, absolute; it is made if necessary.

    Raises:
        OSError: if the folder cannot be written.
        ValueError: if its log is not one of moves.
    """

    def __init__(self, folder: Path):
        self._folder, self._lock = folder, FileLock(folder / _LOCK)

    def __enter__(self) -> "PictureMover":
        _make_folder(self._folder)
        self._lock.acquire()
        try:
            moves = _read_log(self._folder)
            _clear_leftovers(moves)
        except BaseException:
            self._lock.release()
            raise
        self._begun = {move.new: move.old for move in moves}
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def move(self, old: Path, name: str) -> Path:
        """Move a picture to this name in the folder, with a number before its ending if there is anything.

        Raises:
            OSError: if it cannot be moved; it is in its old place then.
        """
        wanted = self._folder / name
        _make_folder(wanted.parent)
        for number in count(1):
            new = wanted if number == 1 else wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
            if os.path.lexists(new):
                # A crash or an undo that was cut short left it in both places.
                if self._begun.get(new) == old and _are_copies(old, new):
                    _remove(old)
                    return new
                continue
            _log_move(self._folder, _Move(old, new, old.stat().st_size))
            try:
                _move(old, new)
            except FileExistsError:  # somebody else was quicker
                continue
            return new
        raise AssertionError("numbers do not end")


def undo_moves(folder: str | os.PathLike, pictures: str | os.PathLike) -> UndoneMoves:
    """Move pictures back to where [`run_duplicates`] took them from; the last move first.

    What changed since it was moved stays, as does a picture whose old place is taken by now, or is not in `pictures`:
    whoever can write the log cannot have files put anywhere else. An undo that was cut short is completed by the next.

    Args:
        folder (`str` or `os.PathLike`): The folder that was `move_to`.
        pictures (`str` or `os.PathLike`): The folder of pictures that they came from.

    Returns:
        [`UndoneMoves`]: what is back and what was left; print it to read it.

    Raises:
        FileNotFoundError: if the folder has no log of moves.
        ValueError: if a line of the log is no move, or one of a file that is not in the folder; nothing is moved then.
    """
    folder = Path(os.path.abspath(folder))
    if not (folder / MOVES).is_file():
        raise FileNotFoundError(f"{folder} has no {MOVES}; give the folder to which pictures were moved.")
    undone, seen = UndoneMoves(), set()
    with FileLock(folder / _LOCK):
        moves = _read_log(folder)
        _clear_leftovers(moves)
        for move in reversed(moves):
            if move.new in seen or not os.path.lexists(move.new):  # back already, or never begun
                continue
            seen.add(move.new)
            try:
                reason = _undo(move, folder, Path(pictures))
            except OSError as error:
                reason = str(error)
            if reason is None:
                undone.back.append(move.old)
            else:
                undone.left.append((move.new, reason))
    return undone


def _undo(move: _Move, folder: Path, pictures: Path) -> str | None:
    """Move one picture back; returns why it stays, or None."""
    status = move.new.lstat()
    if not _is_inside(move.new, folder):
        return f"a link leads out of {folder}"
    if not stat.S_ISREG(status.st_mode) or status.st_size != move.size:
        return "it changed since it was moved"
    if not _is_inside(move.old, pictures):
        return f"its old place, {move.old}, is not in {pictures}"
    if not os.path.lexists(move.old):
        _make_folder(move.old.parent)
        _move(move.new, move.old)
    elif _are_copies(move.new, move.old):  # a crash left it in both places
        _remove(move.new)
    else:
        return f"its old place, {move.old}, is taken"
    return None


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a name lies in a folder, wherever links on the way lead."""
    return Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(folder))


# ---------------------------------------------------------------------------------------------------------------- log


def _log_move(folder: Path, move: _Move) -> None:
    """Append a move to the log, before it happens, and flush it."""
    line = json.dumps({"from": str(move.old), "to": str(move.new.relative_to(folder)), "bytes": move.size})
    with open(folder / MOVES, "ab+") as log:
        if log.tell():
            log.seek(-1, os.SEEK_END)
            if log.read(1) != b"\n":  # a crash cut the line
                log.seek(0)
                log.truncate(log.read().rfind(b"\n") + 1)
        log.write(f"{line}\n".encode("ascii"))
        log.flush()
        os.fsync(log.fileno())
    sync(folder)


def _read_log(folder: Path) -> list[_Move]:
    """The moves that were begun, in order; the line that a crash cut is none."""
    try:
        *lines, _ = (folder / MOVES).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [_parse_move(folder, line, number) for number, line in enumerate(lines, 1)]


def _parse_move(folder: Path, line: bytes, number: int) -> _Move:
    try:
        entry = json.loads(line)
        old, new, size = Path(entry["from"]), Path(entry["to"]), entry["bytes"]
        is_move = old.is_absolute() and new.name and not new.is_absolute() and ".." not in old.parts + new.parts
        is_move = is_move and type(size) is int and b"\0" not in os.fsencode(old) + os.fsencode(new)
    except (ValueError, TypeError, KeyError, RecursionError):
        is_move = False
    if not is_move:
        raise ValueError(
            f"Line {number} of {folder / MOVES} is not a move from a folder of pictures to this folder. Nothing was "
            "moved. Mend or remove the line."
        )
    return _Move(old, folder / new, size)


# -------------------------------------------------------------------------------------------------------------- files


def _move(old: Path, new: Path) -> None:
    """Move a file to a name that is free.

    Raises:
        FileExistsError: if there is anything of the new name.
        OSError: if it cannot be moved; it has its old name only, then.
    """
    _put(old, new)
    try:
        sync(new.parent)
        _remove(old)
    except OSError:
        if os.path.lexists(old):
            new.unlink()
        raise


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    sync(path.parent)


def _put(old: Path, new: Path) -> None:
    """Give a file a second name as a hard link, or copy it where that does not work."""
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without links; if the reason is another, copying says it
        _copy(old, new)


def _copy(old: Path, new: Path) -> None:
    temporary = _temporary(new)
    temporary.unlink(missing_ok=True)
    try:
        shutil.copy2(old, temporary)
        sync(temporary)
        if digest_file(temporary) != digest_file(old):
            raise OSError(f"The copy of {old} to {new} differs from it. {old} stays where it is. Check the disk.")
        try:
            os.link(temporary, new)
        except FileExistsError:
            raise
        except OSError as error:  # no links: this look and the rename are two steps
            if os.path.lexists(new):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from error
            os.rename(temporary, new)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A hidden name beside a path, of a length that fits."""
    return path.with_name(f".{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}.moving")


def _clear_leftovers(moves: list[_Move]) -> None:
    """Remove copies that a crash cut."""
    for path in {path for move in moves for path in (move.old, move.new)}:
        try:
            _temporary(path).unlink()
        except OSError:  # there is none, or its folder is gone or closed to us
            continue


def _are_copies(left: Path, right: Path) -> bool:
    """Whether these are two files of the same bytes, or two names of one file: not one name by two ways."""
    status, other = left.lstat(), right.lstat()
    if not stat.S_ISREG(status.st_mode) or not stat.S_ISREG(other.st_mode):
        return False
    if os.path.samestat(status, other):
        return status.st_nlink > 1 and os.path.realpath(left) != os.path.realpath(right)
    return status.st_size == other.st_size and digest_file(left) == digest_file(right)


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, each flushed to disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
