# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Files and folders that are written as a whole or not at all."""

import pytest

from clip_hf.atomic import replaced_file, replaced_folder


def test_contents_replace_the_folder_at_the_end(tmp_path):
    folder = tmp_path / "parent" / "folder"
    folder.mkdir(parents=True)
    (folder / "old").write_text("old")
    with replaced_folder(folder) as temporary:
        (temporary / "new").write_text("new")
        assert [path.name for path in folder.iterdir()] == ["old"]
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert list(folder.parent.iterdir()) == [folder]


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
