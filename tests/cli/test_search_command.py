# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf search` from the command line to its output, with a tiny model."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clip_hf.cli.indexed_sources
import clip_hf.cli.search
from clip_hf.cli import main
from clip_hf.embedding import load_dual_encoder
from clip_hf.search import EmbeddingIndex, NoMatch, StoreSync, contact_sheet, encode_query, parse_query
from encoding_inputs import write_model_and_photos


COUNT = 8


@pytest.fixture(scope="module")
def indexed(tiny_processor, tmp_path_factory) -> Path:
    """A folder with a model, photos 0 to 7, and their index."""
    folder = write_model_and_photos(tmp_path_factory.mktemp("search"), tiny_processor, COUNT)
    assert main(["search", str(folder / "photos"), "--model", str(folder / "model")]) == 0
    return folder


@pytest.fixture
def photos(indexed, tmp_path, monkeypatch) -> Path:
    """A copy of it, which is the working folder."""
    shutil.copytree(indexed, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def search(capsys):
    """Run the command; returns exit status, lines of output, and errors."""

    def run(*arguments: str) -> tuple[int, list[str], str]:
        capsys.readouterr()
        status = main(["search", *arguments])
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


@pytest.fixture
def no_model(monkeypatch) -> None:
    """Loading a model fails the test: what is wrong must be found before."""

    def refuse(*args, **kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(clip_hf.cli.indexed_sources, "load_dual_encoder", refuse)


def expected(folder: Path, tokens: list[str]) -> list[str]:
    """The names of the photos in the order of a plain search."""
    encoder = load_dual_encoder(folder / "model")
    names = sorted(path.name for path in (folder / "photos").iterdir())
    scores = encoder.encode_images([folder / "photos" / name for name in names]).numpy() @ encode_query(
        encoder, parse_query(tokens)
    )
    return [names[place] for place in np.argsort(-scores, kind="stable")]


@pytest.mark.parametrize(
    "tokens",
    [
        ["a small red dog"],
        ["a", "small", "red", "dog"],
        ["a beach", "+", "photos/3.png", "-", "0.5*people"],
        ["./photos/5.png"],
    ],
)
def test_hits_are_those_of_a_plain_search(tokens, photos, search):
    status, lines, err = search("photos", *tokens, "--top-k", "3")
    assert status == 0
    assert [line.split("\t")[1] for line in lines] == [f"photos/{name}" for name in expected(photos, tokens)[:3]]
    scores = [float(line.split("\t")[0]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    times = re.search(r"start and model ([\d.]+) s, index .* encode .* search .* to the answer ([\d.]+) s", err)
    assert 0 < float(times[1]) <= float(times[2])


@pytest.mark.parametrize(
    "arguments",
    [
        ["photos", "-", "people", "+", "a", "beach", "--top-k", "2"],
        ["--top-k", "2", "photos", "a beach", "- people"],
        ["photos", "--top-k=2", "a", "--no-match", "0.9", "beach", "-1*people", "--filter", "width>0"],
        ["--top_k", "2", "--", "photos", "a beach", "-", "people"],
        ["photos", "--thresh", "-1", "a", "beach", "- people", "--top-k", "2"],
        ["photos", "--top-k", "2", "a beach - people"],
    ],
)
def test_options_and_signs_stand_anywhere(arguments, photos, search, monkeypatch):
    asked = []
    monkeypatch.setattr(
        clip_hf.cli.search.Searcher,
        "search",
        lambda self, terms, k, **limits: (
            asked.append((sorted((term.weight, term.text) for term in terms), k)) or 1 / 0
        ),
    )
    with pytest.raises(ZeroDivisionError):
        search(*arguments)
    assert asked == [([(-1, "people"), (1, "a beach")], 2)]


@pytest.mark.parametrize(
    ("arguments", "query", "share"),
    [
        (["cats", "--no-match", "1e-2"], ["cats"], 0.01),
        (["--no-match", ".05", "cats"], ["cats"], 0.05),
        (["--no-match", "101", "dalmatians"], ["101", "dalmatians"], 0.05),
        (["--no-match", "2", "dogs"], ["2", "dogs"], 0.05),
        (["--no-match=0.1", "2", "dogs"], ["2", "dogs"], 0.1),
        (["--no-match", "-0.5*dog", "+", "cat"], ["-0.5*dog", "+", "cat"], 0.05),
    ],
)
def test_a_number_behind_an_option_that_needs_none(arguments, query, share, monkeypatch):
    asked = []
    monkeypatch.setattr(clip_hf.cli.search, "run", lambda options: asked.append(options) or 0)
    assert main(["search", "photos", *arguments]) == 0
    assert (asked[0].query, asked[0].no_match) == (query, share)


def test_the_query_is_shown_as_it_was_understood(photos, search):
    err = search("photos", "a", "beach", "+ photos/3.png - 0.5 * people\x1b", "--top-k", "1")[2]
    assert err.startswith("clip-hf search: query: a beach + photos/3.png - 0.5*people\\x1b\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "-people"], "unknown option -people. For what is unlike a text, write - 'people'"),
        (["photos", "a", "--tresh", "3"], "Did you mean --threshold?"),
        (["photos", "a", "--top-k", "0"], "at least 1"),
        (["photos", "a", "--no-match", "5%"], "argument --no-match: '5%' must be a share"),
        (["photos", "a", "--no-match", "0,05"], "'0,05' must be a share"),
        (["photos", "a", "--no-match", "0"], "more than 0"),
        (["photos", "a", "--no-match=2"], "less than 1"),
        (["photos", "--duplicates", "1.5"], "1 at most"),
        (["photos", "--duplicates", "97%"], "'97%' must be a cosine"),
        ([], "required: SOURCE"),
    ],
)
def test_wrong_command_lines(arguments, message, search, capsys):
    with pytest.raises(SystemExit) as stop:
        search(*arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "-", "people"], "only terms with a minus"),
        (["photos", "a", "--filter", "widht>3"], "Did you mean 'width'?"),
        (["unindexed", "a", "--filter", "widht>3"], "Did you mean 'width'?"),
        (["photos", "./missing.png"], "./missing.png is not there"),
        (["photos", "./bad.png"], "bad.png"),
        (["photos", "a", "--threshold", "2"], "must be a cosine"),
        (["photos", "a", "--device", "toaster"], "toaster"),
        (["photos.clip-index", "a", "--index", "other"], "leave out --index"),
        (["damaged", "a"], "index.json"),
        (["bad.png", "a"], "bad.png is no kind of file that can be read"),
        (["unindexed", "a", "--over", "texts"], "has no captions"),
        (["photos", "dgo.png"], "dgo.png is not there"),
        (["photos", "7.png"], "Did you mean photos/7.png?"),
        (["photos", "a", "--html", "photos"], "--html is the folder photos"),
        (["photos", "a", "--html", "new/hits.html"], "There is no folder"),
        (["photos", "--duplicates", "--html", "photos"], "--html is the folder photos"),
        (["photos", "--json", "--filter", "width>0"], "There is no query, and --filter, --json would do nothing"),
        (["photos", "--top-k", "10"], "--top-k would do nothing"),
        (["photos", "--duplicates", "--no-match"], "--duplicates has no query, and --no-match would do nothing"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(arguments, message, photos, search, no_model):
    (photos / "bad.png").write_bytes(b"no picture")
    shutil.copytree(photos / "photos", photos / "unindexed")
    (photos / "damaged").mkdir()
    (photos / "damaged.clip-index").mkdir()
    (photos / "damaged.clip-index" / "index.json").write_text("{}")
    status, lines, err = search(*arguments)
    assert (status, lines) == (1, [])
    assert err.startswith("clip-hf search: ") and message in err


def test_the_model_of_the_index_is_the_default_wherever_one_is(photos, search, monkeypatch):
    (photos / "below").mkdir()
    monkeypatch.chdir(photos / "below")
    status, lines, _ = search("../photos", "a dog", "--top-k", "1")
    assert status == 0
    assert lines[0].split("\t")[1] == str(photos / "photos" / expected(photos, ["a dog"])[0])
    # The index as the source, which knows its folder.
    assert search("../photos.clip-index", "a dog", "--top-k", "1")[1] == lines


def test_the_image_options_of_the_index_are_the_default(photos, search):
    options = ("--background-color", "red")
    assert search("photos", "--index", "red", "--model", "model", *options)[0] == 0
    assert search("photos", "--index", "red", "a dog")[0] == 0
    status, _, err = search("photos", "--index", "red", "a dog", "--background-color", "blue")
    assert status == 1 and "--rebuild" in err


def test_without_a_query_the_index_is_brought_up_to_date(photos, search):
    shutil.copy("photos/1.png", "photos/copy.png")
    os.unlink("photos/2.png")
    status, lines, err = search("photos")
    assert (status, len(lines)) == (0, 1)
    assert lines[0].startswith(f"{COUNT} rows in ")
    assert "1 renamed or copied, 1 removed" in err


def test_json_has_all_of_a_hit(photos, search):
    lines = search("photos", "a dog", "--json", "--top-k", "2")[1]
    records = [json.loads(line) for line in lines]
    names = expected(photos, ["a dog"])[:2]
    assert [record["rank"] for record in records] == [1, 2]
    assert [record["id"] for record in records] == names
    assert [record["path"] for record in records] == [str(photos / "photos" / name) for name in names]
    for record in records:
        with Image.open(record["path"]) as image:
            assert (record["metadata"]["width"], record["metadata"]["height"]) == image.size


def test_where_nothing_fits(photos, search, monkeypatch):
    monkeypatch.setattr(NoMatch, "lowest_score", lambda *_: 0.99)
    status, lines, err = search("photos", "a dog", "--no-match")
    assert status == 0
    assert re.fullmatch(
        r"Nothing in photos fits: the best score is -?0\.\d+, and a fit takes more than 0\.990\.", lines[0]
    )
    status, lines, err = search("photos", "a dog", "--no-match", "--json")
    assert (status, lines) == (0, [])
    assert "Nothing in photos fits" in err


def test_no_row_passes_the_filter(photos, search):
    assert search("photos", "a dog", "--filter", "width>1000")[:2] == (0, ["photos has no rows that pass the filter."])


def test_names_that_would_break_the_output(photos, search):
    name = b"a\nb\t\xff.png"
    shutil.copy("photos/0.png", os.fsdecode(os.path.join(b"photos", name)))
    lines = search("photos", "./photos/0.png", "--top-k", "2")[1]
    assert sorted(line.split("\t")[1] for line in lines) == ["photos/0.png", r"photos/a\nb\t\udcff.png"]


def test_names_cannot_steer_the_terminal_through_messages(photos, search, caplog):
    Path("photos/bad\x1b]0;x\a\u202e.png").write_bytes(b"no picture")
    Path("photos/c.e\x1bf").write_bytes(b"")
    search("photos", "a", "--top-k", "1")
    err = caplog.text
    assert r"bad\x1b]0;x\x07\u202e.png" in err and r".e\x1bf" in err and not re.search(r"[\x1b\a\u202e]", err)
    status, _, err = search("photos\x1b", "a")
    assert status == 1 and r"photos\x1b" in err and "\x1b" not in err


def test_the_contact_sheet(photos, search):
    status, _, err = search("photos", "a dog <b>", "--html", "hits.html", "--top-k", "3")
    assert status == 0 and "wrote hits.html" in err
    page = Path("hits.html").read_text()
    assert page.count("<img") == 3
    assert "a dog &lt;b&gt; in photos" in page
    names = re.findall(r">(photos/\d\.png)</a>", page)
    assert names == [f"photos/{name}" for name in expected(photos, ["a dog <b>"])[:3]]


def test_the_contact_sheet_is_written_for_a_reader_that_has_enough(photos, monkeypatch):
    def refuse(*_):
        raise BrokenPipeError

    monkeypatch.setattr(clip_hf.cli.search, "_as_text", refuse)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert main(["search", "photos", "a dog", "--html", "hits.html", "--top-k", "3"]) == 1
    assert Path("hits.html").read_text().count("<img") == 3


def test_hits_are_printed_where_the_contact_sheet_cannot_be_written(photos, search, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hits = search("photos", "a dog")[1]
    monkeypatch.setattr(contact_sheet, "_figure", refuse)
    status, lines, err = search("photos", "a dog", "--html", "hits.html")
    assert status == 1 and lines == hits and len(lines) == COUNT
    assert f"No space left on device: '{Path('hits.html').absolute()}'" in err and not Path("hits.html").exists()
    status, lines, err = search("photos", "--duplicates", "0.1", "--json", "--html", "hits.html")
    assert status == 1 and json.loads(lines[0])["kept"] and "hits.html" in err


def test_pictures_that_are_gone_are_counted(photos, search):
    search("photos", "--index", "index", "--model", "model")
    assert "not where they were" not in search("index", "a dog")[2]
    os.rename("photos/3.png", "3.png")
    lines, err = search("index", "a dog")[1:]
    assert len(lines) == COUNT and f"the pictures of 1 of {COUNT} hits are not where" in err


def test_thumbnails_are_off_in_a_pipe_unless_asked_for(photos, search, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in "".join(search("photos", "a dog")[1])
    lines = search("photos", "a dog", "--thumbnails", "--top-k", "1")[1]
    assert "▀" in lines[0] and "\t" in lines[-1]
    assert re.match(r"1 -?0\.\d{3} \d\.png", lines[10])
    monkeypatch.setenv("NO_COLOR", "1")
    status, lines, err = search("photos", "a dog", "--thumbnails", "--top-k", "1")
    assert (status, len(lines)) == (0, 1) and "no thumbnails: this output has no colours" in err


def test_texts_of_a_table(photos, search):
    Path("captions.csv").write_text("caption\na red dog\na blue fish\n")
    arguments = ("captions.csv", "a red dog", "--over", "texts", "--model", "model")
    assert search(*arguments, "--thumbnails")[1][0] == "1.000000\ta red dog"
    # The second time, the index says which model.
    record = json.loads(search(*arguments[:4], "--json", "--top-k", "1")[1][0])
    assert (record["metadata"]["caption"], pytest.approx(1, abs=1e-3)) == ("a red dog", record["score"])


def test_the_output_of_embed_knows_its_model(photos, search):
    assert main(["embed", "model", "photos", "embedded"]) == 0
    lines = search("embedded", "a dog", "--top-k", "1")[1]
    assert lines[0].endswith(f"photos/{expected(photos, ['a dog'])[0]}")


def test_an_index_of_vectors_alone_needs_the_model(photos, search):
    EmbeddingIndex.build("vectors", np.eye(3, 16, dtype=np.float32))
    status, _, err = search("vectors", "a dog")
    assert status == 1 and "name it with --model" in err
    assert len(search("vectors", "a dog", "--model", "model")[1]) == 3


def test_duplicates_are_reported_and_moved(photos, search):
    shutil.copy("photos/1.png", "photos/copy of 1.png")
    status, lines, _ = search("photos", "--duplicates", "0.9999", "--json", "--html", "groups.html")
    (group,) = map(json.loads, lines)
    assert status == 0
    assert {group["kept"]["id"], *(each["id"] for each in group["others"])} == {"1.png", "copy of 1.png"}
    assert Path("groups.html").read_text().count("<img") == 2
    assert search("photos", "--duplicates=0.9999", "--move-duplicates", "moved")[1][0].startswith("1 group ")
    assert len(list(Path("moved").rglob("*.png"))) == 1
    assert len(list(Path("photos").iterdir())) == COUNT


def test_a_duplicate_that_cannot_be_moved_is_told_by_the_exit_status(photos, search):
    for name in ("photos/sub", "moved"):
        Path(name).mkdir()
    shutil.copy("photos/1.png", "photos/sub/copy.png")
    shutil.copy("photos/2.png", "photos/copy of 2.png")
    Path("moved/sub").touch()  # in the way of the folder
    status, lines, _ = search("photos", "--duplicates=0.9999", "--move-duplicates", "moved")
    assert status == 1 and lines[1].startswith("Moved 1 picture to ")
    assert re.fullmatch(r"Not moved: .*sub/copy.png: .*File exists: .*moved/sub'", lines[2])
    assert "To undo them: python -c " in lines[3] and Path("photos/sub/copy.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "a", "--approximate", "hnsw", "--filter", "width>3"], "leave out --filter"),
        (["photos", "--duplicates", "--", "a"], "leave out the query"),
        (["photos", "--duplicates", "--over", "texts"], "--over texts"),
        (["photos", "--move-duplicates", "moved"], "give both"),
    ],
)
def test_options_that_do_not_go_together(arguments, message, photos, search, no_model):
    status, _, err = search(*arguments)
    assert status == 1 and message in err


def test_a_store_is_brought_up_to_date_and_searched(photos, search, monkeypatch):
    class Store:
        name = "a database"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            events.append("closed")

        def search(self, vector, k, filters):
            events.append(("searched", k, filters))
            return np.array([0.25]), np.array(["3.png"], dtype=object)

    events, store = [], Store()
    monkeypatch.setattr(clip_hf.cli.search, "open_store", lambda url: events.append(url) or store)
    monkeypatch.setattr(
        clip_hf.cli.search,
        "sync_store",
        lambda index, to: events.append(("synced", len(index), to)) or StoreSync(8, 0, 0, 0, 1.0),
    )
    status, lines, err = search("photos", "a dog", "--store", "postgresql://host/db", "--filter", "width>0")
    assert (status, lines) == (0, ["0.250000\tphotos/3.png"])
    assert events == ["postgresql://host/db", ("synced", COUNT, store), ("searched", 10, ["width>0"]), "closed"]
    assert "8 rows in a database (8 added, 0 changed, 0 removed)" in err


def test_an_approximate_index_is_built_once_for_a_state_of_the_index(photos, search, monkeypatch):
    class Approximate:
        def __init__(self, index):
            self.index = index

        def __str__(self):
            return "recall 0.99"

        def search(self, vector, k):
            return np.array([0.5]), np.array(["7.png"], dtype=object)

        @classmethod
        def open(cls, index, kind):
            if not built:
                raise FileNotFoundError("none yet")
            return cls(index)

        @classmethod
        def build(cls, index, texts, *, kind):
            built.append((len(index), texts.shape, kind))
            return cls(index)

    built = []
    monkeypatch.setattr(clip_hf.cli.search, "ApproximateIndex", Approximate)
    for says_recall in (False, True):  # `build` logs it
        status, lines, err = search("photos", "a dog", "--approximate", "ivfpq")
        assert (status, lines) == (0, ["0.500000\tphotos/7.png"])
        assert ("clip-hf search: recall 0.99" in err) == says_recall
    assert built == [(COUNT, (370, 16), "ivfpq")]
