# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Report near-duplicates as HTML and JSON, and move them away if told so; nothing is ever deleted."""

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ..data.image_folders import is_hidden
from ..utils.atomic import replaced_file
from ..utils.wording import counted, escape_name
from .contact_sheet import SheetGroup, SheetItem, write_contact_sheet
from .index_sources import SourceIndex
from .near_duplicates import DuplicateGroup, find_near_duplicates
from .picture_moves import MOVES, PictureMover


DEFAULT_THRESHOLD = 0.95
"""Cosine of near-duplicates, near the 0.94 that clip-retrieval uses. What is right depends on the model: look at the
report, and see `benchmarks/bench_duplicates.py --model`."""


@dataclass(frozen=True)
class DuplicateReport:
    """What [`run_duplicates`] found and did.

    Args:
        threshold (`float`): Smallest cosine of two near-duplicates.
        groups (`list[DuplicateGroup]`): The groups.
        moved (`list[tuple[Path, Path]]`): Pictures that were moved: from where, and to where.
        stayed (`list[tuple[str, str]]`): Pictures that were not moved although asked for, and why.
        errors (`list[tuple[str, str]]`): Pictures that could not be moved, and the error.
        move_to (`Path`, *optional*): The folder with the moved pictures and their log.
        folder (`Path`, *optional*): The folder that they came from.
    """

    threshold: float
    groups: list[DuplicateGroup]
    moved: list[tuple[Path, Path]] = field(default_factory=list)
    stayed: list[tuple[str, str]] = field(default_factory=list)
    errors: list[tuple[str, str]] = field(default_factory=list)
    move_to: Path | None = None
    folder: Path | None = None

    def summary(self) -> str:
        """What was found and done, and how to undo it, in a few lines."""
        others = sum(len(group.others) for group in self.groups)
        lines = [
            f"{counted(len(self.groups), 'group')} of near-duplicates (cosine {self.threshold:g} or more): "
            f"{counted(others, 'picture')} beside the best of each group."
        ]
        if self.move_to is not None:
            lines.append(f"Moved {counted(len(self.moved), 'picture')} to {escape_name(str(self.move_to))}.")
            left = self.stayed + self.errors
            lines += [f"Not moved: {escape_name(name)}: {escape_name(reason)}" for name, reason in left]
        if self.moved:
            call = f"print(undo_moves({str(self.move_to)!a}, {str(self.folder)!a}))"
            command = shlex.quote(f"from clip_hf.search import undo_moves; {call}")
            lines.append(f"{MOVES} there lists each move. To undo them: python -c {command}")
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
    are never overwritten or removed. Each move is logged before it happens, and a crash at any time leaves each
    picture whole; the next run or [`undo_moves`] completes what was begun. Pictures that changed since the index saw
    them, and groups with symbolic links, stay. A picture that cannot be moved is noted in the report, and the others
    go on. The index is not changed: the next refresh of the folder finds the files gone.

    Args:
        source ([`SourceIndex`]): The pictures; bring the index up to date before.
        threshold (`float`, *optional*, defaults to 0.95): Smallest cosine of two near-duplicates.
        json_file (`str` or `os.PathLike`, *optional*): JSON lines to write, an object for each group: `"kept"` and
            `"others"`, each with `"id"`, `"path"`, `"width"`, `"height"`, `"bytes"`, and of others the `"cosine"` with
            the kept one. The path of a picture that was moved is its new one. Bytes of paths that are not UTF-8 are
            escaped as `os.fsdecode` does.
        html_file (`str` or `os.PathLike`, *optional*): Contact sheet to write, each group's best first and marked.
        move_to (`str` or `os.PathLike`, *optional*): Folder for the moved pictures, outside of the folder of pictures.
        progress (`bool`, *optional*, defaults to `False`): Whether to show a progress bar.

    Raises:
        OSError: if a report cannot be written, or `move_to` cannot; what was moved by then is in the message.
        ValueError: if `threshold` is out of range, the source is not a folder of pictures but `move_to` is given,
            `move_to` lies in that folder, or has a log that is not one of moves.
    """
    target = None if move_to is None else Path(os.path.abspath(os.path.expanduser(move_to)))
    folder = None if source.folder is None else Path(os.path.abspath(source.folder))
    if target is not None:
        _check_target(source, target)
    groups = find_near_duplicates(source.index, threshold, progress=progress)
    report = DuplicateReport(threshold, groups, move_to=target, folder=folder)
    places: dict[int | str, Path] = {}
    if target is not None and groups:
        with PictureMover(target) as mover:
            for group in groups:
                places |= _move_group(source, group, report, mover)
    try:
        _write_reports(source, report, places, json_file, html_file)
    except OSError as error:
        raise OSError(f"{error}\n{report.summary()}") from error
    return report


# ------------------------------------------------------------------------------------------------------------- report


def _write_reports(
    source: SourceIndex,
    report: DuplicateReport,
    places: dict[int | str, Path],
    json_file: str | os.PathLike | None,
    html_file: str | os.PathLike | None,
) -> None:
    """Write reports with the pictures where they are by now: `places` has those that were moved, by id."""
    if json_file is not None:
        with replaced_file(json_file) as temporary, open(temporary, "w", encoding="ascii") as file:
            file.writelines(json.dumps(_describe(source, group, places)) + "\n" for group in report.groups)
    if html_file is not None:
        title = f"Near-duplicates, cosine {report.threshold:g} or more"
        groups = (_sheet_group(source, *item, places) for item in enumerate(report.groups, 1))
        write_contact_sheet(html_file, title, groups)


def _describe(source: SourceIndex, group: DuplicateGroup, places: dict[int | str, Path]) -> dict[str, Any]:
    rows = source.index.metadata([group.kept, *group.others]).to_pylist()
    described = []
    for id_, row in zip([group.kept, *group.others], rows):
        path = places.get(id_) or source.picture(id_)
        path = str(path) if isinstance(path, Path) else None
        described.append({"id": id_, "path": path} | {name: row.get(name) for name in ("width", "height", "bytes")})
    others = [{**other, "cosine": float(cosine)} for other, cosine in zip(described[1:], group.cosines)]
    return {"kept": described[0], "others": others}


def _sheet_group(source: SourceIndex, number: int, group: DuplicateGroup, places: dict[int | str, Path]) -> SheetGroup:
    def items() -> Iterator[SheetItem]:
        described = _describe(source, group, places)
        for item in chain([described["kept"]], described["others"]):
            size = f"{item['width']} x {item['height']}, " if item["width"] and item["height"] else ""
            size += f"{item['bytes']:,} bytes" if item["bytes"] is not None else ""
            is_kept = "cosine" not in item
            note = "kept" if is_kept else f"cosine {item['cosine']:.4f}"
            lines = [str(item["id"]), note, size]
            picture = places.get(item["id"]) or source.picture(item["id"])
            yield SheetItem(picture, lines, is_marked=is_kept)

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


def _move_group(
    source: SourceIndex, group: DuplicateGroup, report: DuplicateReport, mover: PictureMover
) -> dict[int | str, Path]:
    """Move all but the best of a group, and return where they are; what stays is noted in the report."""
    ids = [group.kept, *group.others]
    rows = dict(zip(ids, source.index.metadata(ids).to_pylist()))
    names = {id_: os.fsdecode(row["path"]) for id_, row in rows.items()}
    paths = {id_: report.folder / name for id_, name in names.items()}
    root = os.path.realpath(report.folder)
    places: dict[int | str, Path] = {}
    if any(os.path.isabs(names[id_]) or os.path.realpath(paths[id_]) != os.path.join(root, names[id_]) for id_ in ids):
        reason = "its group has symbolic links, or pictures outside the folder"
        report.stayed.extend((str(paths[id_]), reason) for id_ in group.others)
        return places
    if _has_changed(paths[group.kept], rows[group.kept]):
        reason = f"the picture to keep, {paths[group.kept]}, is gone or changed since the index saw it"
        report.stayed.extend((str(paths[id_]), reason) for id_ in group.others)
        return places
    for id_ in group.others:
        if _has_changed(paths[id_], rows[id_]):
            report.stayed.append((str(paths[id_]), "it is gone or changed since the index saw it"))
            continue
        try:
            places[id_] = mover.move(paths[id_], names[id_])
        except OSError as error:
            report.errors.append((str(paths[id_]), str(error)))
            continue
        report.moved.append((paths[id_], places[id_]))
    return places


def _has_changed(path: Path, row: dict[str, Any]) -> bool:
    try:
        status = path.stat()
    except OSError:
        return True
    return (status.st_size, status.st_mtime_ns) != (row["bytes"], row["modified"])
