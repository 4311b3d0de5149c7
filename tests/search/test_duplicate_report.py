# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reports of near-duplicates, and moves that lose nothing, whatever happens in the middle."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from clip_hf.data.texts import escaped
from clip_hf.search import EmbeddingIndex, SourceIndex, run_duplicates, undo_moves
from clip_hf.search import duplicate_report as module
from clip_hf.search.folder_index import FOLDER_SCHEMA


# Name, width, and which row of random vectors: equal ones are duplicates.
PICTURES = [
    (b"big.png", 40, 0),
    (b"sub/small.png", 10, 0),
    (b"alone.png", 20, 1),
    (b"sub/deep/caf\xe9.png", 12, 2),
    (b"two\nlines.png", 13, 2),
    (b"a.png", 14, 2),
]


def write_source(tmp_path: Path) -> SourceIndex:
    folder = tmp_path / "photos"
    rows = []
    for name, width, _ in PICTURES:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = tuple(hashlib.sha256(name).digest()[:3])
        Image.new("RGB", (width, 10), colour).save(path)
        status = path.stat()
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
        size = {"bytes": status.st_size, "modified": status.st_mtime_ns, "width": width, "height": 10}
        rows.append({"name": escaped(os.fsdecode(name)), "path": name, "digest": digest, **size})
    vectors = np.random.default_rng(0).standard_normal((3, 32))[[picture[2] for picture in PICTURES]]
    table = pa.Table.from_pylist(rows, schema=FOLDER_SCHEMA)
    index = EmbeddingIndex.build(tmp_path / "photos.clip-index", vectors, table["name"], table)
    return SourceIndex(index, folder=folder)


def pictures_in(folder: Path) -> dict[bytes, bytes]:
    """Content of each picture by its path in a folder."""
    files = [path for path in folder.rglob("*") if path.suffix == ".png" and path.is_file()]
    return {os.fsencode(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def source(tmp_path) -> SourceIndex:
    return write_source(tmp_path)


def test_the_report_as_json_and_html(source, tmp_path):
    before = pictures_in(source.folder)
    report = run_duplicates(source, 0.9, json_file=tmp_path / "groups.jsonl", html_file=tmp_path / "groups.html")
    assert [group.kept for group in report.groups] == ["big.png", "a.png"]
    first, second = map(json.loads, (tmp_path / "groups.jsonl").read_text().splitlines())
    assert first["kept"] == {
        "id": "big.png",
        "path": str(source.folder / "big.png"),
        "width": 40,
        "height": 10,
        "bytes": len(before[b"big.png"]),
    }
    (other,) = first["others"]
    assert other["id"] == "sub/small.png" and other["cosine"] == pytest.approx(1)
    assert {os.fsencode(other["path"]) for other in second["others"]} == {
        os.fsencode(source.folder) + b"/sub/deep/caf\xe9.png",
        os.fsencode(source.folder) + b"/two\nlines.png",
    }
    page = (tmp_path / "groups.html").read_text()
    assert page.count("<img") == 5 and page.count("class=marked") == 2 and "2 groups" not in page
    assert page.index("big.png") < page.index("sub/small.png") and "40 x 10" in page
    assert pictures_in(source.folder) == before and report.moved == []
    assert report.summary() == (
        "2 groups of near-duplicates (cosine 0.9 or more): 3 pictures beside the best of each group."
    )


def test_all_but_the_best_move_and_come_back(source, tmp_path):
    before = pictures_in(source.folder)
    report = run_duplicates(source, 0.9, move_to=tmp_path / "away")
    assert set(pictures_in(source.folder)) == {b"big.png", b"alone.png", b"a.png"}
    moved = pictures_in(tmp_path / "away")
    assert moved == {name: before[name] for name in before.keys() - {b"big.png", b"alone.png", b"a.png"}}
    assert len(report.moved) == 3 and "Moved 3 pictures" in report.summary()
    # What the summary says is a command that works.
    command = report.summary().partition("python -c ")[2]
    subprocess.run(f"{sys.executable} -c {command}", shell=True, check=True)
    assert pictures_in(source.folder) == before and pictures_in(tmp_path / "away") == {}
    assert undo_moves(tmp_path / "away") == []


def test_nothing_is_overwritten(source, tmp_path):
    away = tmp_path / "away"
    (away / "sub").mkdir(parents=True)
    (away / "sub" / "small.png").write_bytes(b"mine")
    (away / "sub" / "small-2.png").symlink_to("nowhere")
    before = pictures_in(source.folder)
    run_duplicates(source, 0.9, move_to=away)
    assert (away / "sub" / "small.png").read_bytes() == b"mine"
    assert (away / "sub" / "small-2.png").is_symlink()
    assert (away / "sub" / "small-3.png").read_bytes() == before[b"sub/small.png"]
    (source.folder / "sub" / "small.png").write_bytes(b"new")
    back = undo_moves(away)
    assert len(back) == 2 and (source.folder / "sub" / "small.png").read_bytes() == b"new"
    assert (away / "sub" / "small-3.png").read_bytes() == before[b"sub/small.png"]


@pytest.mark.parametrize("other_file_system", [False, True])
@pytest.mark.parametrize("moment", [0, 1, 2, 3, 5, 8])
def test_a_crash_leaves_every_picture_in_one_place(source, tmp_path, monkeypatch, moment, other_file_system):
    before, away = pictures_in(source.folder), tmp_path / "away"
    left = moment

    def crash_at_the_moment():
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    replace, log_move, reserve, copy = os.replace, module._log_move, module._reserve, module.shutil.copy2

    def watch(function):
        def watched(*args):
            crash_at_the_moment()
            return function(*args)

        return watched

    def replace_here(old, new):
        crash_at_the_moment()
        if other_file_system and Path(old).suffix == ".png" and Path(old).parent != Path(new).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(old, new)

    monkeypatch.setattr(module, "_log_move", watch(log_move))
    monkeypatch.setattr(module, "_reserve", watch(reserve))
    monkeypatch.setattr(module.shutil, "copy2", watch(copy))
    monkeypatch.setattr(os, "replace", replace_here)
    try:
        run_duplicates(source, 0.9, move_to=away)
    except KeyboardInterrupt:
        pass
    monkeypatch.undo()
    here, there = pictures_in(source.folder), pictures_in(away)
    assert sorted([*here.values(), *(data for data in there.values() if data)]) == sorted(before.values())
    if (away / "moves.jsonl").exists():
        undo_moves(away)
    assert pictures_in(source.folder) == before
    run_duplicates(source, 0.9, move_to=away)
    assert set(pictures_in(source.folder)) == {b"big.png", b"alone.png", b"a.png"}


def test_a_copy_that_differs_is_not_trusted(source, tmp_path, monkeypatch):
    before, replace = pictures_in(source.folder), os.replace

    def refuse(old, new):
        if Path(old).parent != Path(new).parent and Path(old).suffix == ".png":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(old, new)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(module.shutil, "copy2", lambda old, new: Path(new).write_bytes(b"other"))
    with pytest.raises(OSError, match="differs from it"):
        run_duplicates(source, 0.9, move_to=tmp_path / "away")
    assert pictures_in(source.folder) == before and pictures_in(tmp_path / "away") == {}


def test_pictures_that_changed_and_groups_with_links_stay(source, tmp_path):
    (source.folder / "sub" / "small.png").write_bytes(b"edited")
    caf = source.folder / os.fsdecode(b"sub/deep/caf\xe9.png")
    caf.rename(tmp_path / "real.png")
    caf.symlink_to(tmp_path / "real.png")
    report = run_duplicates(source, 0.9, move_to=tmp_path / "away")
    assert report.moved == [] and pictures_in(tmp_path / "away") == {}
    assert [reason.split(" since")[0] for _, reason in report.stayed] == [
        "it is gone or changed",
        "its group has symbolic links",
        "its group has symbolic links",
    ]
    assert report.summary().count("Not moved: ") == 3


def test_nothing_moves_where_the_best_is_gone(source, tmp_path):
    (source.folder / "big.png").unlink()
    report = run_duplicates(source, 0.9, move_to=tmp_path / "away")
    assert (source.folder / "sub" / "small.png").exists() and len(report.moved) == 2
    assert "the picture to keep" in report.stayed[0][1]


def test_a_line_that_a_crash_cut_hides_no_other(source, tmp_path):
    before, away = pictures_in(source.folder), tmp_path / "away"
    away.mkdir()
    (away / "moves.jsonl").write_text('{"from": "/photo')
    run_duplicates(source, 0.9, move_to=away)
    undo_moves(away)
    assert pictures_in(source.folder) == before


def test_what_cannot_be_moved(source, tmp_path):
    with pytest.raises(ValueError, match="in the folder of pictures"):
        run_duplicates(source, move_to=source.folder / "away")
    with pytest.raises(ValueError, match="Only pictures of a folder"):
        run_duplicates(SourceIndex(source.index), move_to=tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=r"no moves.jsonl"):
        undo_moves(tmp_path)
    run_duplicates(source, 0.9, move_to=source.folder / ".away")  # hidden: no search looks there
    assert len(pictures_in(source.folder / ".away")) == 3


def test_a_table_is_reported_without_paths(tmp_path):
    rows = np.repeat(np.eye(4)[:1], 2, axis=0)
    index = EmbeddingIndex.build(tmp_path / "index", rows, metadata=pa.table({"name": ["row 0", "row 1"]}))
    run_duplicates(SourceIndex(index), json_file=tmp_path / "a.jsonl", html_file=tmp_path / "a.html")
    (group,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert group["kept"] == {"id": 0, "path": None, "width": None, "height": None, "bytes": None}
    assert "cosine 1.0000" in (tmp_path / "a.html").read_text()
