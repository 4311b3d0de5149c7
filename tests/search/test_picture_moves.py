# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Moves and their undoing lose no picture and leave nothing behind, whatever happens in the middle."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clip_hf.search import UndoneMoves, undo_moves
from clip_hf.search.picture_moves import PictureMover


CONTENTS = {name: os.fsencode(name) * 9 for name in ("a.png", "sub/a.png", "sub/deep/caf\udce9.png", "stays.png")}
MOVED = [name for name in CONTENTS if name != "stays.png"]


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_photos(tmp_path)


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds take seconds


def write_photos(folder: Path) -> Path:
    for name, data in CONTENTS.items():
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / "photos"


def files_in(folder: Path) -> dict[str, bytes]:
    """Content of each file, hidden ones too, except the log and its lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in ("moves.jsonl", ".moves.lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def move_all(photos: Path, away: Path) -> None:
    with PictureMover(away) as mover:
        for name in MOVED:
            if (photos / name).exists():
                mover.move(photos / name, name)


def write_log(away: Path, *lines: dict) -> None:
    away.mkdir(exist_ok=True)
    (away / "moves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


class Killed(BaseException):
    pass


class Machine:
    """File operations of a process that is killed before one of them, so that it cleans up nothing either.

    Args:
        links (`str`): `"all"`, `"on one file system"` (the two folders are on two), or `"none"`.
    """

    def __init__(self, patch: pytest.MonkeyPatch, links: str, moment: int = 10**9):
        self.left, self.links = moment, links
        self.link, self.copy = os.link, shutil.copy2
        patch.setattr(os, "link", self.step(self.try_link))
        patch.setattr(shutil, "copy2", self.copy_in_two)
        for name in ("unlink", "rename", "fsync"):
            patch.setattr(os, name, self.step(getattr(os, name)))

    def step(self, function: Callable) -> Callable:
        def stepped(*args, **options):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return function(*args, **options)

        return stepped

    def try_link(self, old, new):
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, "File exists")
        if self.links == "none":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        if self.links == "on one file system" and Path(old).suffix != ".moving":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        self.link(old, new)

    def copy_in_two(self, old, new):
        data = Path(old).read_bytes()
        self.step(Path(new).write_bytes)(data[: len(data) // 2])
        self.step(self.copy)(old, new)


@pytest.mark.slow_but_for("on one file system")
@pytest.mark.parametrize("links", ["all", "on one file system", "none"])
@pytest.mark.parametrize("begun", ["move", "undo"])
@pytest.mark.parametrize("ended", ["move", "undo"])
def test_a_crash_at_any_step(tmp_path, monkeypatch, links, begun, ended):
    for moment in range(200):
        folder = tmp_path / str(moment)
        photos, away = write_photos(folder), folder / "away"
        if begun == "undo":
            move_all(photos, away)
        with monkeypatch.context() as patch:
            Machine(patch, links, moment)
            try:
                move_all(photos, away) if begun == "move" else undo_moves(away, photos)
                killed = False
            except Killed:
                killed = True
        visible = [
            {name: data for name, data in files_in(place).items() if not Path(name).name.startswith(".")}
            for place in (photos, away)
        ]
        assert visible[0] | visible[1] == CONTENTS and all(found.items() <= CONTENTS.items() for found in visible)
        with monkeypatch.context() as patch:
            Machine(patch, links)
            if ended == "move":
                move_all(photos, away)
            elif (away / "moves.jsonl").exists():
                undo_moves(away, photos)
                assert undo_moves(away, photos) == UndoneMoves()
        in_photos = ["stays.png"] if ended == "move" else list(CONTENTS)
        assert files_in(photos) == {name: CONTENTS[name] for name in in_photos}, moment
        assert files_in(away) == {name: data for name, data in CONTENTS.items() if name not in in_photos}, moment
        if not killed:
            assert moment > 15
            return
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("links", ["all", "on one file system", "none"])
def test_nothing_is_overwritten(photos, tmp_path, monkeypatch, links):
    away = tmp_path / "away"
    (away / "sub").mkdir(parents=True)
    (away / "sub" / "a.png").write_bytes(b"mine")
    (away / "sub" / "a-2.png").symlink_to("nowhere")
    (away / "a.png").write_bytes(CONTENTS["a.png"])  # equal, but the log does not know it
    Machine(monkeypatch, links)
    move_all(photos, away)
    assert files_in(photos) == {"stays.png": CONTENTS["stays.png"]}
    mine = {"sub/a.png": b"mine", "a.png": CONTENTS["a.png"]}
    assert files_in(away) == mine | {
        "sub/a-3.png": CONTENTS["sub/a.png"],
        "a-2.png": CONTENTS["a.png"],
        "sub/deep/caf\udce9.png": CONTENTS["sub/deep/caf\udce9.png"],
    }
    assert (away / "sub" / "a-2.png").is_symlink()
    assert undo_moves(away, photos).left == [] and files_in(photos) == CONTENTS and files_in(away) == mine


@pytest.mark.parametrize("links", ["all", "on one file system", "none"])
def test_a_name_that_is_taken_at_the_last_moment(photos, tmp_path, monkeypatch, links):
    away, lexists = tmp_path / "away", os.path.lexists
    Machine(monkeypatch, links)
    away.mkdir()
    (away / "a.png").write_bytes(b"mine")
    looks = []

    def overlook_once(path):
        if path == away / "a.png":
            looks.append(path)
        return lexists(path) and len(looks) != 1

    monkeypatch.setattr(os.path, "lexists", overlook_once)
    with PictureMover(away) as mover:
        assert mover.move(photos / "a.png", "a.png") == away / "a-2.png"
    assert files_in(away) == {"a.png": b"mine", "a-2.png": CONTENTS["a.png"]}


@pytest.mark.parametrize("links", ["all", "on one file system"])
def test_a_picture_that_cannot_be_removed_stays_in_one_place(photos, tmp_path, monkeypatch, links):
    Machine(monkeypatch, links)
    unlink = os.unlink

    def refuse(path, **options):
        if Path(path) == photos / "a.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    with PictureMover(tmp_path / "away") as mover, pytest.raises(PermissionError):
        mover.move(photos / "a.png", "a.png")
    assert files_in(photos) == CONTENTS and files_in(tmp_path / "away") == {}


def test_a_copy_that_differs_is_not_trusted(photos, tmp_path, monkeypatch):
    Machine(monkeypatch, "on one file system")
    monkeypatch.setattr(shutil, "copy2", lambda old, new: Path(new).write_bytes(b"other"))
    with PictureMover(tmp_path / "away") as mover, pytest.raises(OSError, match="differs from it"):
        mover.move(photos / "a.png", "a.png")
    assert files_in(photos) == CONTENTS and files_in(tmp_path / "away") == {}


def test_undo_says_what_it_left_and_why(photos, tmp_path, monkeypatch):
    away = tmp_path / "away"
    move_all(photos, away)
    (away / "a.png").write_bytes(b"edited")
    (photos / "sub" / "a.png").write_bytes(b"new")
    undone = undo_moves(away, photos)
    assert undone.back == [photos / "sub/deep/caf\udce9.png"]
    assert undone.left == [
        (away / "sub" / "a.png", f"its old place, {photos / 'sub' / 'a.png'}, is taken"),
        (away / "a.png", "it changed since it was moved"),
    ]
    assert str(undone).splitlines() == [
        "Moved 1 picture back, left 2.",
        f"Back: {photos}/sub/deep/caf\\udce9.png",
        f"Left: {away}/sub/a.png: its old place, {photos}/sub/a.png, is taken",
        f"Left: {away}/a.png: it changed since it was moved",
    ]
    assert files_in(photos)["sub/a.png"] == b"new" and files_in(away)["sub/a.png"] == CONTENTS["sub/a.png"]
    (photos / "sub" / "a.png").unlink()

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copy2", refuse)
    assert undo_moves(away, photos).left[0] == (away / "sub" / "a.png", "[Errno 13] Permission denied")


def test_one_folder_for_two_folders_of_pictures(photos, tmp_path):
    away, others = tmp_path / "away", write_photos(tmp_path / "others")
    move_all(photos, away)
    move_all(others, away)
    undone = undo_moves(away, others)
    assert len(undone.back) == 3 and files_in(others) == CONTENTS
    assert {reason for _, reason in undone.left} == {
        f"its old place, {photos / name}, is not in {others}" for name in MOVED
    }
    assert len(undo_moves(away, photos).back) == 3 and files_in(photos) == CONTENTS and files_in(away) == {}


def test_a_name_that_served_twice_belongs_to_its_last_move(photos, tmp_path):
    away, others = tmp_path / "away", write_photos(tmp_path / "others")
    move_all(photos, away)
    undo_moves(away, photos)
    (photos / "a.png").unlink()
    move_all(others, away)
    assert undo_moves(away, photos).back == [] and not (photos / "a.png").exists()


LINE = {"from": "/photos/a.png", "to": "a.png", "bytes": 5}
BAD_ENTRIES = [
    *[{"to": to} for to in ("../secret", "/secret", "b/../../secret", ".", 2, "a\0b", "\ud800")],
    *[{"from": old} for old in ("a.png", "/photos/../x", 1, "/a\0b")],
    *[{"bytes": size} for size in ("5", True, None)],
]
BAD_LINES = [
    *[json.dumps(LINE | entry).encode() for entry in BAD_ENTRIES],
    *[b"{}", b"[]", b'"x"', b"null", b"7", b"", "\xe9".encode(), b"\xe9", b'{"from": "/pho', b"[" * 100_000],
]


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_line_that_is_no_move_is_told_before_anything_is_moved(photos, tmp_path, line):
    away = tmp_path / "away"
    with PictureMover(away) as mover:
        mover.move(photos / "a.png", "a.png")
    (tmp_path / "secret").write_bytes(b"12345")
    with open(away / "moves.jsonl", "ab") as log:
        log.write(line + b"\n")
    before = files_in(tmp_path)
    for action in (undo_moves, move_all):
        with pytest.raises(ValueError, match=r"Line 2 of .*moves.jsonl is not a move"):
            action(*((away, photos) if action is undo_moves else (photos, away)))
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("cut", [b'{"from": "/photo', b"{}", b"\0\0\0\0", b"\xe9"])
def test_a_line_that_a_crash_cut_is_none(photos, tmp_path, cut):
    away = tmp_path / "away"
    with PictureMover(away) as mover:
        mover.move(photos / "a.png", "a.png")
        with open(away / "moves.jsonl", "ab") as log:  # as by a full disk
            log.write(cut)
        mover.move(photos / "sub/a.png", "sub/a.png")
    with open(away / "moves.jsonl", "ab") as log:
        log.write(cut)
    assert len(undo_moves(away, photos).back) == 2 and files_in(photos) == CONTENTS
    move_all(photos, away)
    assert len(undo_moves(away, photos).back) == 3


def test_a_log_puts_nothing_elsewhere(photos, tmp_path):
    """Whoever sends a folder with a log must not place files where they do harm, nor take files from elsewhere."""
    away, elsewhere = tmp_path / "away", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret").write_bytes(b"12345")
    (photos / "link").symlink_to(elsewhere)
    away.mkdir()
    (away / "link").symlink_to(elsewhere)
    (away / "leaf").symlink_to(elsewhere / "secret")
    (away / "evil").write_bytes(b"12345")
    before = files_in(tmp_path)
    moves = [
        ("evil", elsewhere / "evil"),
        ("evil", tmp_path / "photos-2" / "evil"),
        ("evil", photos / "link" / "evil"),
        ("link/secret", photos / "secret"),
        ("leaf", photos / "secret"),
    ]
    for new, old in moves:
        write_log(away, {"from": str(old), "to": new, "bytes": 5})
        undone = undo_moves(away, photos)
        assert undone.back == [] and len(undone.left) == 1
    assert files_in(tmp_path) == before and not (tmp_path / "photos-2").exists()


def test_one_file_under_two_paths_is_not_its_own_copy(photos, tmp_path):
    write_log(photos, {"from": str(photos / "a.png"), "to": "a.png", "bytes": len(CONTENTS["a.png"])})
    os.link(photos / "a.png", tmp_path / "another name")
    (tmp_path / "alias").symlink_to(photos)
    for pictures in (photos, tmp_path / "alias"):
        assert undo_moves(photos, pictures).back == [] and files_in(photos) == CONTENTS
    write_log(photos, {"from": str(tmp_path / "alias" / "a.png"), "to": "a.png", "bytes": len(CONTENTS["a.png"])})
    assert undo_moves(photos, photos).back == [] and files_in(photos) == CONTENTS
