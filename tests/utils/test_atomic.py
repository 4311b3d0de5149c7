# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Files and folders that are written as a whole or not at all."""

import errno
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from clip_hf.utils import atomic
from clip_hf.utils.atomic import (
    clear_leftovers,
    move_into_place,
    remove_folder,
    replaced_file,
    replaced_folder,
    set_aside,
    take_over,
    usual_mode,
)


def test_contents_replace_the_folder_at_the_end(tmp_path):
    folder = tmp_path / "parent" / "folder"
    folder.mkdir(parents=True)
    (folder / "old").write_text("old")
    with replaced_folder(folder) as temporary:
        (temporary / "new").write_text("new")
        assert [path.name for path in folder.iterdir()] == ["old"]
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("name", [None, "before"])
def test_a_folder_that_is_removed_is_never_seen_half(name, tmp_path, monkeypatch):
    """It loses its name before its first file."""
    folder, seen = tmp_path / "folder", []
    folder.mkdir()
    (folder / "one").write_text("1")
    (folder / "two").write_text("2")
    rmtree = atomic.shutil.rmtree

    def spy(path, **options):
        seen.append((folder.exists(), sorted(os.listdir(path))))
        rmtree(path, **options)

    monkeypatch.setattr(atomic.shutil, "rmtree", spy)
    atomic.remove_folder(folder, name and tmp_path / name)
    assert seen == [(False, ["one", "two"])] and os.listdir(tmp_path) == []


def test_an_error_leaves_the_folder_as_it_was(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_text("old")
    with pytest.raises(RuntimeError, match="stop"), replaced_folder(folder) as temporary:
        (temporary / "new").write_text("new")
        raise RuntimeError("stop")
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_new_folder_and_its_parents_are_made(tmp_path):
    with replaced_folder(tmp_path / "a" / "b") as temporary:
        (temporary / "new").write_text("new")
    assert (tmp_path / "a" / "b" / "new").read_text() == "new"


def test_a_file_in_its_place_is_kept(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(NotADirectoryError, match="is a file"), replaced_folder(tmp_path / "file"):
        raise AssertionError("the block must not run")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / "parent" / "file"
    with replaced_file(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    with replaced_file(path) as temporary:
        temporary.write_text("second")
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(OSError, match=f"No space left on device: '{path}'") as caught, replaced_file(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="^a reason$"), replaced_file(path):
        raise OSError("a reason")


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), replaced_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"), replaced_file(tmp_path):
        pass


# ------------------------------------------------------------------------------------------------------------- kills

# Replaces a folder or a file, and dies at one of the calls that rename, remove, make or sync. The module is imported
# by its path, which takes no time.
KILLED = """
import importlib.util, os, shutil, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("atomic", sys.argv[1])
atomic = importlib.util.module_from_spec(spec)
spec.loader.exec_module(atomic)
folder, number, kind = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
calls = 0
def deadly(function):
    def call(*arguments, **keywords):
        global calls
        calls += 1
        if calls == number:
            os._exit(9)
        return function(*arguments, **keywords)
    return call
deadly_names = [(shutil, "rmtree"), *((os, name) for name in ("rename", "replace", "fsync", "unlink", "mkdir"))]
for module, name in deadly_names:
    setattr(module, name, deadly(getattr(module, name)))
if kind == "file":
    with atomic.replaced_file(folder / "file") as path:
        path.write_text("new")
else:
    with atomic.replaced_folder(folder / "folder") as path:
        (path / "one").write_text("new")
        (path / "two").write_text("new")
"""


def _contents(path: Path) -> dict[str, str] | None:
    if path.is_file():
        return {"": path.read_text()}
    return {file.name: file.read_text() for file in path.iterdir()} if path.is_dir() else None


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_kill_at_any_point_leaves_the_old_or_the_new_and_the_next_run_clears_up(kind, tmp_path):
    old, new = ({"": "old"}, {"": "new"}) if kind == "file" else ({"old": "old"}, {"one": "new", "two": "new"})
    found = []
    for number in range(1, 40):
        home = tmp_path / str(number)
        place = home / kind
        place.parent.mkdir()
        if kind == "file":
            place.write_text("old")
        else:
            place.mkdir()
            (place / "old").write_text("old")
        command = [sys.executable, "-c", KILLED, atomic.__file__, str(home), str(number), kind]
        done = subprocess.run(command, check=False).returncode
        clear_leftovers(place)
        found.append(_contents(place))
        assert found[-1] in (old, new), number
        assert list(home.iterdir()) == [place], number
        if done == 0:
            break
        assert done == 9
    assert number > 4 and found[0] == old and found[-1] == new
    assert sorted(found, key=lambda content: content == new) == found  # once it is there, it stays


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    with replaced_folder(tmp_path / "folder") as one:
        with replaced_folder(tmp_path / "folder") as two:
            (two / "two").write_text("two")
        assert one.is_dir() and (tmp_path / "folder" / "two").exists()
        (one / "one").write_text("one")
    assert _contents(tmp_path / "folder") == {"one": "one"}
    aside = set_aside(tmp_path / "folder")
    clear_leftovers(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == [aside]
    clear_leftovers(tmp_path / "folder", every_owner=True)
    assert _contents(tmp_path / "folder") == {"one": "one"}


def test_what_another_machine_writes_is_left_alone_for_a_day(tmp_path, monkeypatch):
    leftover = tmp_path / ".folder.01234567-1-0123456789ab.tmp"
    leftover.mkdir()
    (leftover / "file").write_text("half")
    for path in (leftover / "file", leftover):
        os.utime(path, (0, 0))  # times that can be set do not count by themselves
    clear_leftovers(tmp_path / "folder")
    assert leftover.exists()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 23 * 3600)
    clear_leftovers(tmp_path / "folder")
    assert leftover.exists()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    os.utime(leftover / "file", (now, now + 2 * 3600))  # the folder's own times do not show it
    clear_leftovers(tmp_path / "folder")
    assert leftover.exists()
    os.utime(leftover / "file", (now, now))
    clear_leftovers(tmp_path / "folder")
    assert not leftover.exists()


@pytest.mark.parametrize("name", [".folder.tmp", ".folder.old", "folder.01234567-1-0123456789ab.tmp", ".fold"])
def test_nothing_of_others_is_taken_for_a_leftover(name, tmp_path):
    (tmp_path / name).mkdir()
    clear_leftovers(tmp_path / "folder", every_owner=True)
    assert (tmp_path / name).is_dir()


def test_what_was_there_is_back_where_the_new_one_cannot_take_its_place(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError):
        move_into_place(tmp_path / "missing", tmp_path / "folder")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_link_to_a_folder_is_replaced_and_what_it_leads_to_is_kept(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("kept")
    (tmp_path / "folder").symlink_to(tmp_path / "elsewhere")
    with replaced_folder(tmp_path / "folder") as temporary:
        (temporary / "new").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "folder"]
    assert not (tmp_path / "folder").is_symlink()
    assert _contents(tmp_path / "elsewhere") == {"kept": "kept"}


def test_what_a_killed_process_left_for_a_machine_of_ours_is_told_by_its_process(tmp_path, monkeypatch):
    leftover = tmp_path / f".folder.{atomic._machine()}-{os.getpid()}-0123456789ab.tmp"
    leftover.mkdir()
    for error, stays in ((PermissionError, True), (ProcessLookupError, False)):

        def kill(process, signal, error=error):
            assert (process, signal) == (os.getpid(), 0)
            raise error

        monkeypatch.setattr(os, "kill", kill)
        clear_leftovers(tmp_path / "folder")
        assert leftover.exists() == stays


@pytest.mark.parametrize("replaced", [replaced_folder, replaced_file])
def test_the_next_writer_clears_up(replaced, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    leftover = tmp_path / f".it.{atomic._machine()}-{dead.pid}-0123456789ab.tmp"
    leftover.mkdir()
    with replaced(tmp_path / "it") as temporary:
        assert not leftover.exists()
        (temporary / "new" if replaced is replaced_folder else temporary).write_text("new")


@pytest.mark.parametrize("name", ["n" * 255, "n" * 201, "語" * 85, "n" * 200])
def test_long_names(name, tmp_path):
    """A temporary name fits into 255 bytes, and the next writer knows it."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with replaced_file(tmp_path / name) as temporary:
        temporary.write_text("new")
        assert len(os.fsencode(temporary.name)) <= 255
        own = f"-{os.getpid()}-"
        assert own in temporary.name
        leftover = temporary.with_name(temporary.name.replace(own, f"-{dead.pid}-"))
        leftover.write_text("old")
    with replaced_folder(tmp_path / f"{name[:-1]}x") as other:  # another name does not
        assert other.name.partition("-")[0] != temporary.name.partition("-")[0]
    assert leftover.exists()
    clear_leftovers(tmp_path / name)
    assert not leftover.exists() and (tmp_path / name).read_text() == "new"


def test_of_several_that_were_set_aside_the_last_is_put_back(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / name).write_text(name)
        assert set_aside(tmp_path / "folder") is not None
        time.sleep(0.02)  # file systems count time in steps
    assert set_aside(tmp_path / "folder") is None
    clear_leftovers(tmp_path / "folder", every_owner=True)
    assert _contents(tmp_path / "folder") == {"c": "c"}
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_what_a_dead_process_had_set_aside_is_taken_over(tmp_path):
    assert take_over(tmp_path / "folder") is None
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    abandoned = tmp_path / f".folder.{atomic._machine()}-{dead.pid}-0123456789ab.aside"
    abandoned.mkdir()
    aside = take_over(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == [aside] and aside.name.endswith(".aside")
    clear_leftovers(tmp_path / "folder")  # it is a living process's now
    assert aside.is_dir()
    assert take_over(tmp_path / "folder") is None


def test_a_folder_is_not_under_its_name_while_it_is_removed(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("old")
    removed = []

    def rmtree(path, **options):
        assert not (tmp_path / "folder").exists()
        removed.append(path)

    monkeypatch.setattr(atomic.shutil, "rmtree", rmtree)
    remove_folder(tmp_path / "folder")
    assert [_contents(path) for path in removed] == [{"file": "old"}]
    monkeypatch.undo()
    clear_leftovers(tmp_path / "folder", every_owner=True)  # a killed process's is never put back
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_all_is_on_the_disk_before_it_gets_its_name_and_the_name_after(kind, tmp_path, monkeypatch):
    place, done = tmp_path / kind, []

    def note(module, name):
        def call(path, *arguments):
            done.append((name, path.name if isinstance(path, Path) else os.path.basename(path)))
            return function(path, *arguments)

        function = getattr(module, name)
        monkeypatch.setattr(module, name, call)

    for module, name in ((atomic, "sync"), (os, "rename"), (os, "replace")):
        note(module, name)
    if kind == "folder":
        with replaced_folder(place) as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / "file").write_text("new")
        expected = [("sync", "file"), ("sync", "inner"), ("sync", temporary.name), ("rename", "folder")]
        expected += [("rename", temporary.name), ("sync", tmp_path.name)]
    else:
        with replaced_file(place) as temporary:
            temporary.write_text("new")
        expected = [("sync", temporary.name), ("replace", temporary.name), ("sync", tmp_path.name)]
    assert done == expected


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_sync_is_no_error_but_a_failing_disk_is(number, passes, tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(number, "")

    monkeypatch.setattr(os, "fsync", fsync)
    with nullcontext() if passes else pytest.raises(OSError), replaced_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").exists() == passes


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_a_library_writes_gets_the_mode_that_the_umask_gives(umask, tmp_path):
    before = os.umask(umask)
    try:
        with replaced_file(tmp_path / "file") as temporary, usual_mode(temporary):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
