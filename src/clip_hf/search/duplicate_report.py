# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Report near-duplicates as HTML and JSON, and move them away if told so; nothing is ever deleted."""

import errno
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..data.image_folders import is_hidden
from ..utils.atomic import replaced_file, sync
from ..utils.wording import counted
from .contact_sheet import SheetGroup, SheetItem, printable, write_contact_sheet
from .index_sources import SourceIndex
from .near_duplicates import DuplicateGroup, find_near_duplicates


DEFAULT_THRESHOLD = 0.95
"""Cosine of near-duplicates, near the 0.94 that clip-retrieval uses. What is right depends on the model: look at the
report, and see `benchmarks/bench_duplicates.py --model`."""
MOVES = "moves.jsonl"
"""The log in the folder to which pictures are moved."""


@dataclass(frozen=True)
class DuplicateReport:
    """What [`run_duplicates`] found and did.

    Args:
        threshold (`float`): Smallest cosine of two near-duplicates.
        groups (`list[DuplicateGroup]`): The groups.
        moved (`list[tuple[Path, Path]]`): Pictures that were moved: from where, and to where.
        stayed (`list[tuple[str, str]]`): Pictures that were not moved although asked for, and why.
        move_to (`Path`, *optional*): The folder with the moved pictures and their log.
    """

    threshold: float
    groups: list[DuplicateGroup]
    moved: list[tuple[Path, Path]] = field(default_factory=list)
    stayed: list[tuple[str, str]] = field(default_factory=list)
    move_to: Path | None = None

    def summary(self) -> str:
        """What was found and done, and how to undo it, in a few lines."""
        others = sum(len(group.others) for group in self.groups)
        lines = [
            f"{counted(len(self.groups), 'group')} of near-duplicates (cosine {self.threshold:g} or more): "
            f"{counted(others, 'picture')} beside the best of each group."
        ]
        if self.move_to is not None:
            lines.append(f"Moved {counted(len(self.moved), 'picture')} to {printable(str(self.move_to))}.")
            lines += [f"Not moved: {printable(name)}: {reason}" for name, reason in self.stayed]
        if self.moved:
            call = f"from clip_hf.search import undo_moves; undo_moves({str(self.move_to)!a})"
            lines.append(f"{MOVES} there lists each move. To undo them: python -c {shlex.quote(call)}")
        return "\n".join(lines)


def run_duplicates(
    source: SourceIndex,
    threshold: float = DEFAULT_THRESHOLD,
    *,
    json_file: str | os.PathLike | None = None,
    html_file: str | os.PathLike | None = None,
    move_to: str | os.PathLike | None = None,
    progress: bool = False,
) -> DuplicateReport:
    """Find near-duplicates, report them, and move all but the best of each group if `move_to` is given.

    Moved files keep their path relative to the folder of pictures, get a number where a file of that name exists, and
    are never overwritten or removed. Each move is logged before it happens. On one file system a move is one step, so
    a crash leaves each picture in exactly one place. To another one a picture is copied, flushed, read again and only
    then removed, so a crash leaves at least one whole copy. Pictures that changed since the index saw them, and
    groups with symbolic links, stay. The index is not changed: the next refresh of the folder finds the files gone.

    Args:
        source ([`SourceIndex`]): The pictures; bring the index up to date before.
        threshold (`float`, *optional*, defaults to 0.95): Smallest cosine of two near-duplicates.
        json_file (`str` or `os.PathLike`, *optional*): JSON lines to write, an object for each group: `"kept"` and
            `"others"`, each with `"id"`, `"path"`, `"width"`, `"height"`, `"bytes"`, and of others the `"cosine"` with
            the kept one. Bytes of paths that are not UTF-8 are escaped as `os.fsdecode` does.
        html_file (`str` or `os.PathLike`, *optional*): Contact sheet to write, each group's best first and marked.
        move_to (`str` or `os.PathLike`, *optional*): Folder for the moved pictures, outside of the folder of pictures.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

    Raises:
        OSError: if a report cannot be written, or a picture cannot be moved; what was moved stays in the log.
        ValueError: if `threshold` is out of range, the source is not a folder of pictures but `move_to` is given, or
            `move_to` lies in that folder.
    """
    target = None if move_to is None else Path(os.path.abspath(os.path.expanduser(move_to)))
    if target is not None:
        _check_target(source, target)
    groups = find_near_duplicates(source.index, threshold, progress=progress)
    if json_file is not None:
        with replaced_file(json_file) as temporary, open(temporary, "w", encoding="ascii") as file:
            file.writelines(json.dumps(_describe(source, group)) + "\n" for group in groups)
    if html_file is not None:
        title = f"Near-duplicates, cosine {threshold:g} or more"
        write_contact_sheet(html_file, title, (_sheet_group(source, *item) for item in enumerate(groups, 1)))
    report = DuplicateReport(threshold, groups, move_to=target)
    if target is not None and groups:
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / ".moves.lock"):
            for group in groups:
                _move_group(source, group, report)
    return report


def undo_moves(folder: str | os.PathLike) -> list[Path]:
    """Move pictures back to where [`run_duplicates`] took them from; the last move first.

    A picture whose old place is taken by now stays.

    Args:
        folder (`str` or `os.PathLike`): The folder that was `move_to`.

    Returns:
        `list[Path]`: the pictures that are in their old place again.

    Raises:
        FileNotFoundError: if the folder has no log of moves.
    """
    folder = Path(folder)
    log = folder / MOVES
    if not log.is_file():
        raise FileNotFoundError(f"{folder} has no {MOVES}; give the folder to which pictures were moved.")
    back = []
    with FileLock(folder / ".moves.lock"):
        for line in reversed(log.read_text(encoding="ascii").splitlines()):
            try:
                move = json.loads(line)
            except ValueError:  # a crash cut the line, so its move did not begin
                continue
            old, new = Path(move["from"]), folder / move["to"]
            if not new.is_file() or new.stat().st_size != move["bytes"] or os.path.lexists(old):
                continue
            old.parent.mkdir(parents=True, exist_ok=True)
            _reserve(old)
            _move(new, old)
            back.append(old)
    return back


# ------------------------------------------------------------------------------------------------------------- report


def _describe(source: SourceIndex, group: DuplicateGroup) -> dict[str, Any]:
    rows = source.index.metadata([group.kept, *group.others]).to_pylist()
    described = []
    for id_, row in zip([group.kept, *group.others], rows):
        path = source.picture(id_)
        path = str(path) if isinstance(path, Path) else None
        described.append({"id": id_, "path": path} | {name: row.get(name) for name in ("width", "height", "bytes")})
    others = [{**other, "cosine": float(cosine)} for other, cosine in zip(described[1:], group.cosines)]
    return {"kept": described[0], "others": others}


def _sheet_group(source: SourceIndex, number: int, group: DuplicateGroup) -> SheetGroup:
    def items() -> Iterator[SheetItem]:
        described = _describe(source, group)
        for item in chain([described["kept"]], described["others"]):
            size = f"{item['width']} x {item['height']}, " if item["width"] and item["height"] else ""
            size += f"{item['bytes']:,} bytes" if item["bytes"] is not None else ""
            is_kept = "cosine" not in item
            note = "kept" if is_kept else f"cosine {item['cosine']:.4f}"
            lines = [str(item["id"]), note, size]
            yield SheetItem(source.picture(item["id"]), lines, is_marked=is_kept)

    return SheetGroup(f"Group {number}: {counted(len(group.others) + 1, 'picture')}", items())


# -------------------------------------------------------------------------------------------------------------- moves


def _check_target(source: SourceIndex, target: Path) -> None:
    if source.folder is None or "path" not in source.index.columns.names:
        raise ValueError("Only pictures of a folder can be moved, not rows of tables or tars. Leave `move_to` out.")
    inside = os.path.realpath(target), os.path.realpath(source.folder)
    if os.path.commonpath(inside) == inside[1]:
        names = Path(inside[0]).relative_to(inside[1]).parts
        if not any(map(is_hidden, names)):
            raise ValueError(
                f"{target} is in the folder of pictures {source.folder}, where the next search would find them again. "
                "Give a folder outside."
            )


def _move_group(source: SourceIndex, group: DuplicateGroup, report: DuplicateReport) -> None:
    """Move all but the best of a group; what stays is noted in the report."""
    ids = [group.kept, *group.others]
    rows = dict(zip(ids, source.index.metadata(ids).to_pylist()))
    paths = {id_: source.folder / os.fsdecode(row["path"]) for id_, row in rows.items()}
    if any(path.is_symlink() for path in paths.values()):
        report.stayed.extend((str(paths[id_]), "its group has symbolic links") for id_ in group.others)
        return
    if _has_changed(paths[group.kept], rows[group.kept]):
        reason = f"the picture to keep, {paths[group.kept]}, is gone or changed since the index saw it"
        report.stayed.extend((str(paths[id_]), reason) for id_ in group.others)
        return
    for id_ in group.others:
        if _has_changed(paths[id_], rows[id_]):
            report.stayed.append((str(paths[id_]), "it is gone or changed since the index saw it"))
            continue
        new = _reserve_numbered(report.move_to / os.fsdecode(rows[id_]["path"]))
        _log_move(report.move_to, paths[id_], new)
        _move(paths[id_], new)
        report.moved.append((paths[id_], new))


def _has_changed(path: Path, row: dict[str, Any]) -> bool:
    try:
        status = path.stat()
    except OSError:
        return True
    return (status.st_size, status.st_mtime_ns) != (row["bytes"], row["modified"])


def _reserve_numbered(path: Path) -> Path:
    """Make an empty file of this name, or with a number before its ending if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        name = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        try:
            _reserve(name)
            return name
        except FileExistsError:
            continue
    raise AssertionError("numbers do not end")


def _reserve(path: Path) -> None:
    """Make an empty file, which only its owner may replace.

    Raises:
        FileExistsError: if there is anything of this name.
    """
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def _log_move(folder: Path, old: Path, new: Path) -> None:
    """Append a move to the log, before it happens, and flush it."""
    line = json.dumps({"from": str(old), "to": str(new.relative_to(folder)), "bytes": old.stat().st_size})
    with open(folder / MOVES, "ab+") as log:
        if log.tell() and not _ends_with_newline(log):
            line = f"\n{line}"
        log.write(f"{line}\n".encode("ascii"))
        log.flush()
        os.fsync(log.fileno())
    sync(folder)


def _ends_with_newline(log: Any) -> bool:
    log.seek(-1, os.SEEK_END)
    return log.read(1) == b"\n"


def _move(old: Path, new: Path) -> None:
    """Move a file to a reserved name."""
    try:
        os.replace(old, new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            new.unlink()  # only the reserved name
            raise
        _copy_and_remove(old, new)
    sync(new.parent)
    sync(old.parent)


def _copy_and_remove(old: Path, new: Path) -> None:
    try:
        with replaced_file(new) as temporary:
            shutil.copy2(old, temporary)
            sync(temporary)
            if _digest(temporary) != _digest(old):
                raise OSError(f"The copy of {old} to {new} differs from it. {old} stays where it is. Check the disk.")
    except BaseException:
        new.unlink()  # only the reserved name
        raise
    old.unlink()


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
