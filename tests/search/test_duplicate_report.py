# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Reports of near-duplicates, and what is moved and what stays."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from clip_hf.data.texts import escaped
from clip_hf.search import EmbeddingIndex, SourceIndex, UndoneMoves, run_duplicates, undo_moves
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
MOVED = [b"sub/small.png", b"sub/deep/caf\xe9.png", b"two\nlines.png"]


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


@pytest.mark.slow
def test_all_but_the_best_move_and_come_back(source, tmp_path):
    before = pictures_in(source.folder)
    report = run_duplicates(source, 0.9, move_to=tmp_path / "away")
    assert set(pictures_in(source.folder)) == {b"big.png", b"alone.png", b"a.png"}
    moved = pictures_in(tmp_path / "away")
    assert moved == {name: before[name] for name in before.keys() - {b"big.png", b"alone.png", b"a.png"}}
    assert len(report.moved) == 3 and "Moved 3 pictures" in report.summary()
    # What the summary says is a command that works, and prints what it did.
    command = report.summary().partition("python -c ")[2]
    run = subprocess.run(f"{sys.executable} -c {command}", shell=True, check=True, capture_output=True, text=True)
    assert run.stdout.startswith("Moved 3 pictures back, left 0.\nBack: ")
    assert pictures_in(source.folder) == before and pictures_in(tmp_path / "away") == {}
    assert undo_moves(tmp_path / "away", source.folder) == UndoneMoves()


def test_reports_name_pictures_where_they_are_after_the_move(source, tmp_path):
    away = tmp_path / "away"
    run_duplicates(source, 0.9, json_file=tmp_path / "a.jsonl", html_file=tmp_path / "a.html", move_to=away)
    groups = list(map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines()))
    paths = [picture["path"] for group in groups for picture in [group["kept"], *group["others"]]]
    assert sorted(paths) == sorted(
        [*(str(source.folder / name) for name in ("big.png", "a.png"))]
        + [os.fsdecode(os.fsencode(away) + b"/" + name) for name in MOVED]
    )
    page = (tmp_path / "a.html").read_text()
    links = re.findall('href="([^"]*)"', page)
    assert sorted(links) == sorted(Path(path).as_uri() for path in paths) and page.count("<img") == 5


def test_a_picture_that_cannot_be_moved_does_not_end_the_run(source, tmp_path, monkeypatch):
    before, link = pictures_in(source.folder), os.link

    def refuse(old, new):
        if Path(old).name == "small.png":
            raise PermissionError(errno.EACCES, "Permission denied")
        link(old, new)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", refuse)
    report = run_duplicates(source, 0.9, html_file=tmp_path / "a.html", move_to=tmp_path / "away")
    small = str(source.folder / "sub" / "small.png")
    assert report.errors == [(small, "[Errno 13] Permission denied")] and len(report.moved) == 2
    lines = report.summary().splitlines()
    assert lines[1].startswith("Moved 2 pictures to ")
    assert lines[2] == f"Not moved: {small}: [Errno 13] Permission denied"
    assert "To undo them: python -c " in lines[3]
    assert pictures_in(source.folder)[b"sub/small.png"] == before[b"sub/small.png"]
    assert (tmp_path / "a.html").read_text().count("<img") == 5


def test_a_report_that_cannot_be_written_does_not_hide_the_moves(source, tmp_path):
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(OSError, match=r"is a folder(.|\n)*Moved 3 pictures to(.|\n)*To undo them: python -c"):
        run_duplicates(source, 0.9, html_file=tmp_path / "folder.html", move_to=tmp_path / "away")


def test_pictures_that_changed_and_groups_with_links_stay(source, tmp_path):
    (source.folder / "sub" / "small.png").write_bytes(b"edited")
    caf = source.folder / os.fsdecode(b"sub/deep/caf\xe9.png")
    caf.rename(tmp_path / "real.png")
    caf.symlink_to(tmp_path / "real.png")
    report = run_duplicates(source, 0.9, move_to=tmp_path / "away")
    assert report.moved == [] and pictures_in(tmp_path / "away") == {}
    assert [reason.split(" since")[0] for _, reason in report.stayed] == [
        "it is gone or changed",
        "its group has symbolic links, or pictures outside the folder",
        "its group has symbolic links, or pictures outside the folder",
    ]
    assert report.summary().count("Not moved: ") == 3


def test_pictures_below_a_link_stay(source, tmp_path):
    (source.folder / "sub").rename(tmp_path / "elsewhere")
    (source.folder / "sub").symlink_to(tmp_path / "elsewhere")
    report = run_duplicates(source, 0.9, move_to=tmp_path / "away")
    assert report.moved == [] and {reason for _, reason in report.stayed} == {
        "its group has symbolic links, or pictures outside the folder"
    }


def test_nothing_moves_where_the_best_is_gone(source, tmp_path):
    (source.folder / "big.png").unlink()
    report = run_duplicates(source, 0.9, move_to=tmp_path / "away")
    assert (source.folder / "sub" / "small.png").exists() and len(report.moved) == 2
    assert "the picture to keep" in report.stayed[0][1]


def test_what_cannot_be_moved(source, tmp_path):
    with pytest.raises(ValueError, match="in the folder of pictures"):
        run_duplicates(source, move_to=source.folder / "away")
    with pytest.raises(ValueError, match="Only pictures of a folder"):
        run_duplicates(SourceIndex(source.index), move_to=tmp_path / "away")
    with pytest.raises(FileNotFoundError, match=r"no moves.jsonl"):
        undo_moves(tmp_path, source.folder)
    run_duplicates(source, 0.9, move_to=source.folder / ".away")  # hidden: no search looks there
    assert len(pictures_in(source.folder / ".away")) == 3


def test_a_table_is_reported_without_paths(tmp_path):
    rows = np.repeat(np.eye(4)[:1], 2, axis=0)
    index = EmbeddingIndex.build(tmp_path / "index", rows, metadata=pa.table({"name": ["row 0", "row 1"]}))
    run_duplicates(SourceIndex(index), json_file=tmp_path / "a.jsonl", html_file=tmp_path / "a.html")
    (group,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert group["kept"] == {"id": 0, "path": None, "width": None, "height": None, "bytes": None}
    assert "cosine 1.0000" in (tmp_path / "a.html").read_text()
