# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Small text and JSON files that may be damaged."""

import os
from pathlib import Path

import pytest

from clip_hf.utils.json_files import check_regular, read_json, read_text


def test_what_is_sound_is_read(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes('{"a": ["é"]}'.encode())
    size = path.stat().st_size
    assert read_text(path, max_bytes=size) == '{"a": ["é"]}'
    assert read_json(path) == read_json(path, dict, max_bytes=size) == {"a": ["é"]}


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b'\xef\xbb\xbf["cat"]')
    assert read_text(path) == '["cat"]' and read_json(path) == ["cat"]


@pytest.mark.parametrize("what", [None, "The recipe"])
@pytest.mark.parametrize(
    ("content", "kind", "max_bytes", "message"),
    [
        (b"[1, 2]", object, 5, "{what} has more than 5 bytes; only small files"),
        (b'["\xff"]', object, None, "{what} is not UTF-8: invalid start byte at byte 2"),
        (b"[1, 2", object, None, r"{what} is no JSON file \(.*\). Copy or download it again"),
        (b"[" * 100_000, object, None, "{what} is no JSON that can be read: it is nested too deeply"),
        (b"[1, 2]", dict, None, "{what} holds a list; it must hold a dict"),
    ],
)
def test_what_is_damaged_is_one_clear_error(content, kind, max_bytes, message, what, tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{message.format(what=what or path)}"):
        read_json(path, kind, what, max_bytes)


def test_only_regular_files_are_read(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "missing")
    with pytest.raises(OSError, match="The recipe is a folder, pipe or device"):
        read_json(tmp_path, what="The recipe")
    os.mkfifo(tmp_path / "pipe")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="is a folder, pipe or device"):
        patch.setattr(Path, "open", lambda *args, **kwargs: pytest.fail("this would wait for ever"))
        read_text(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is a pipe or device; only regular files"):
        check_regular(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file", tmp_path / "missing"):
        check_regular(path)


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_file_that_goes_while_it_is_read_is_not_there(is_seen, tmp_path, monkeypatch):
    """As in a folder that another one takes the place of: after the one question about it, or before the answer."""
    path = tmp_path / "file.json"
    path.write_text("[1]")
    questions, stat = [], os.stat

    def stat_and_go(asked_of, *args, **kwargs):
        if os.fspath(asked_of) == str(path):
            questions.append(asked_of)
            if is_seen:
                found = stat(asked_of, *args, **kwargs)
                path.unlink(missing_ok=True)
                return found
            path.unlink(missing_ok=True)
        return stat(asked_of, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat_and_go)
    with pytest.raises(FileNotFoundError, match="The recipe is not there. Check its path"):
        read_json(path, what="The recipe")
    path.write_text("[1]")
    check_regular(path)
    assert len(questions) == 2


def test_any_ends_of_lines_are_read(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(b"a\r\nb\rc\n")
    assert read_text(path) == path.read_text() == "a\nb\nc\n"
