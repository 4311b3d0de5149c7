# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What sources stand for: patterns as in bash, several files, URLs that may be opened, and files that are missing."""

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import datasets
import fsspec
import pytest

from clip_hf.data import load_pairs
from clip_hf.data.file_patterns import files_of
from clip_hf.evaluation import load_classification, load_retrieval
from pair_data import caption_of, dataset_of, rows_of, samples_of, write_tar


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)


# Each with what bash makes of it; `test_bash_agrees` asks it.
BRACES = {
    "{a,b}.tar": ["a.tar", "b.tar"],
    "{b,a}.tar": ["b.tar", "a.tar"],
    "{0..8..2}": ["0", "2", "4", "6", "8"],
    "{8..0..-3}": ["8", "5", "2"],
    "{a..c}": ["a", "b", "c"],
    "{A..E..2}": ["A", "C", "E"],
    "{c..a}": ["c", "b", "a"],
    "{08..10}": ["08", "09", "10"],
    "{1..03}": ["01", "02", "03"],
    "{00..100..50}": ["000", "050", "100"],
    "{-1..1}": ["-1", "0", "1"],
    "{-01..1}": ["-01", "000", "001"],
    "{1..2..0}": ["1", "2"],
    "{a,{b,c}x}d": ["ad", "bxd", "cxd"],
    "x{1..2}{a,b}y": ["x1ay", "x1by", "x2ay", "x2by"],
    "{a,{1..2}}": ["a", "1", "2"],
    "{x{a,b}}": ["{xa}", "{xb}"],
    "{{a,b}": ["{a", "{b"],
    "{a,b}}": ["a}", "b}"],
    "q{a,}": ["qa", "q"],
    "{1..2,3}": ["1..2", "3"],
}
NO_PATTERNS = ["{a}", "{}", "{a..3}", "{a,b", "a,b}", "a{1...3}", "{1.5..2}"]


@pytest.mark.parametrize("text", BRACES)
def test_braces_are_those_of_bash(text, tmp_path):
    for name in BRACES[text]:
        Path(name).touch()
    assert files_of(text) == BRACES[text]
    assert files_of(str(tmp_path / text)) == [str(tmp_path / name) for name in BRACES[text]]


@pytest.mark.parametrize("text", NO_PATTERNS)
def test_braces_that_are_no_pattern(text):
    assert files_of(text) == []
    Path(text).touch()
    assert files_of(text) == [text]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here to be asked")
def test_bash_agrees():
    for text in [*BRACES, *NO_PATTERNS]:
        said = subprocess.run(["bash", "-c", f"echo {text}"], capture_output=True, text=True, check=True).stdout
        assert said.split() == BRACES.get(text, [text])


def test_files_with_a_patterns_name_and_spaces(tmp_path):
    for name in ("{a,b}.tar", "a b.tar", "[1].tar", "a::b.tar"):
        Path(name).touch()
        assert files_of(name) == [name]
    assert files_of("a b.tar::[1].tar") == ["a b.tar", "[1].tar"]


def test_order_and_chains():
    for name in ("b.tar", "a.tar", "c-1.tar", "c-0.tar"):
        Path(name).touch()
    assert files_of("*.tar") == ["a.tar", "b.tar", "c-0.tar", "c-1.tar"]
    assert files_of("b.tar::a.tar") == ["b.tar", "a.tar"]
    assert files_of("c-{1,0}.tar::a.tar") == ["c-1.tar", "c-0.tar", "a.tar"]
    assert files_of("{b,c-*}.tar") == ["b.tar", "c-0.tar", "c-1.tar"]
    assert files_of("https://x.org/{1..2}.tar::s3://y/3.tar?v=1") == [
        "https://x.org/1.tar",
        "https://x.org/2.tar",
        "s3://y/3.tar?v=1",
    ]


def test_what_is_missing_is_named():
    Path("a.tar").touch()
    for source, missing in (
        ("a.tar::b.tar", "there is no b.tar."),
        ("{a..i}.tar", "Of the 9 files .* no b.tar, c.tar, d.tar, e.tar, f.tar and 3 more."),
        ("{x,y}-*.tar", "no x-.*.tar, y-.*.tar"),
    ):
        with pytest.raises(ValueError, match=missing):
            load_pairs(source)
    with pytest.raises(ValueError, match="more than 1,000,000 names"):
        files_of("{0..99999999999}.tar")
    with pytest.raises(ValueError, match="more than 1,000,000 names"):
        files_of("{0..9999}{0..9999}.tar")


def test_several_tars_are_one_source(tmp_path):
    write_tar(tmp_path / "a.tar", samples_of(range(3)))
    write_tar(tmp_path / "b c.tar", samples_of(range(3, 5)))
    captions = [caption_of(number) for number in range(5)]
    for streaming in (False, True):
        data = load_pairs("a.tar::b c.tar", streaming=streaming)
        assert [row["caption"] for row in data] == captions
        assert [row["caption"] for row in load_pairs("{a,b c}.tar", streaming=streaming)] == captions
    assert [own[0] for own in load_retrieval("a.tar::b c.tar").captions] == captions


def test_only_regular_files_are_opened():
    os.mkfifo("pairs.csv")
    for load in (load_pairs, load_retrieval, load_classification):
        with pytest.raises(ValueError, match="pairs.csv is a pipe or device; only regular files"):
            load("pairs.csv")
    with pytest.raises(ValueError, match="/dev/zero is a pipe or device"):
        load_pairs("/dev/zero")


@pytest.mark.parametrize(
    "source",
    [
        "reference://a.tar::file://{folder}/refs.json",
        "reference://a.parquet",
        "zip://a.tar::{folder}/x.zip",
        "file://{folder}/a.tar",
        "ssh://host/a.tar",
        "local://{folder}/a.tar",
        "simplecache::file://{folder}/a.tar",
        "ftp://host/a.parquet",
        "memory://a.tar",
        "REFERENCE://a.tar",
    ],
)
@pytest.mark.parametrize("load", [load_pairs, load_retrieval, load_classification])
def test_sources_come_from_the_list_of_schemes(source, load, tmp_path):
    write_tar(tmp_path / "a.tar", samples_of(range(3)))
    Path("refs.json").write_text(json.dumps({"version": 1, "templates": {"f": "{{1/0}}"}, "refs": {"a.tar": "{{f}}"}}))
    with pytest.raises(ValueError, match="is not opened: a location is a path"):
        load(source.replace("{folder}", str(tmp_path)))


def test_a_folder_of_img2dataset(tmp_path, caplog):
    folder = tmp_path / "out"
    folder.mkdir()
    for number in range(2):
        stem = f"{number:05d}"
        write_tar(folder / f"{stem}.tar", samples_of(range(3 * number, 3 * number + 3)))
        rows = dataset_of(rows_of(range(3))).remove_columns("image")
        rows.to_parquet(folder / f"{stem}.parquet")
        (folder / f"{stem}_stats.json").write_text("{}")
    (folder / "._00000.tar").write_bytes(b"macOS")
    for source in (folder, folder / "*"):
        assert [row["caption"] for row in load_pairs(source)] == [caption_of(number) for number in range(6)]
        assert "as img2dataset writes them; the tars are read" in caplog.text
        caplog.clear()
    assert len(list(load_pairs(folder, streaming=True))) == len(load_retrieval(folder)) == 6
    with pytest.raises(ValueError, match="no column 'image'"):
        load_pairs(folder / "*.parquet")


def test_references_of_the_installed_fsspec_run_no_code(tmp_path):
    """Why `setup.cfg` asks for fsspec 2026.6: until 2026.4 this touches the file."""
    code = "{{ cycler.__init__.__globals__.os.popen('touch %s').read() }}" % (tmp_path / "ran")
    gen = {"key": code, "url": "{{u}}", "offset": "0", "length": "1", "dimensions": {"i": {"stop": 1}}}
    references = {
        "version": 1,
        "templates": {"u": "file:///nowhere"},
        "gen": [gen],
        "refs": {"a.png": ["file:///n", 0, 1]},
    }
    Path("refs.json").write_text(json.dumps(references))
    with contextlib.suppress(Exception):  # what is rendered in a sandbox may fail
        fsspec.open(f"reference://a.png::file://{tmp_path}/refs.json").open()
    assert not (tmp_path / "ran").exists()


def test_one_tar_of_several_that_is_no_tar(tmp_path):
    Path("0.tar").write_bytes(b"nonsense" * 300)
    write_tar(tmp_path / "1.tar", samples_of(range(3)))
    assert load_pairs("*.tar")["caption"][:] == [None, *map(caption_of, range(3))]
    with pytest.raises(ValueError, match="0.tar is damaged, or cannot be read: invalid header"):
        load_pairs("0.tar")
