# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf search` over films, from the command line to its output, with a tiny model."""

import base64
import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import clip_hf.cli.indexed_sources
from clip_hf.cli import main
from clip_hf.cli.moment_output import clock
from clip_hf.embedding import load_dual_encoder
from clip_hf.search import EmbeddingIndex, MomentSearcher, film_index, open_source_index, parse_query
from clip_hf.video import describe_video
from drawings import draw
from films import write_film
from tiny_models import make_tiny_model


RATE = 4
SCENES = [("red", "square", 3), ("green", "bar", 2), ("blue", "cross", 4)]  # seconds


def write_scenes(path: Path, scenes) -> None:
    frames = [
        np.asarray(draw(colour, pattern).resize((64, 64)))
        for colour, pattern, seconds in scenes
        for _ in range(seconds * RATE)
    ]
    write_film(path, frames, rate=RATE, options={"g": "4"})


@pytest.fixture(scope="module")
def indexed(tiny_processor, tmp_path_factory) -> Path:
    """A folder with a model, two films, and their index."""
    folder = tmp_path_factory.mktemp("search")
    make_tiny_model("vit").save_pretrained(folder / "model")
    tiny_processor.save_pretrained(folder / "model")
    (folder / "films" / "sub").mkdir(parents=True)
    write_scenes(folder / "films" / "a b.mp4", SCENES)
    write_scenes(folder / "films" / "sub" / "c.mkv", SCENES[::-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(film_index, "SAME_COSINE", 0.9999)
        assert main(["search", str(folder / "films"), "--model", str(folder / "model")]) == 0
    return folder


@pytest.fixture
def films(indexed, tmp_path, monkeypatch) -> Path:
    """A copy of it, which is the working folder."""
    shutil.copytree(indexed, tmp_path / "work", copy_function=shutil.copy2)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def search(capsys):
    """Run the command; returns exit status, lines of output, and errors."""

    def run(*arguments: str) -> tuple[int, list[str], str]:
        capsys.readouterr()
        try:
            status = main(["search", *arguments])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out.splitlines(), err

    return run


@pytest.fixture
def no_model(monkeypatch) -> None:
    """Loading a model fails the test: what is wrong must be found before."""
    monkeypatch.setattr(
        clip_hf.cli.indexed_sources, "load_dual_encoder", lambda *_, **__: pytest.fail("the model was loaded")
    )


def found(folder: Path, *tokens: str, k: int = 10) -> list:
    encoder = load_dual_encoder(folder / "model")
    source = open_source_index(f"{folder / 'films'}.moments.clip-index", encoder, over="moments")
    return MomentSearcher(encoder, source).search(parse_query(tokens), k).hits


def test_json_lines_are_moments(films, search):
    status, lines, err = search("films", "a", "red", "square", "--json", "--top-k", "2")
    records = [json.loads(line) for line in lines]
    expected = found(films, "a red square", k=2)
    assert status == 0 and "6 frames of 2 films of" in err and len(records) == len(expected) == 2
    for record, hit in zip(records, expected, strict=True):
        times = {name: getattr(hit, name) for name in ("rank", "file", "start", "end", "peak")}
        assert times.items() <= record.items() and record["score"] == pytest.approx(hit.score, abs=1e-6)
        assert record["path"] == str(films / "films" / hit.file) and record["metadata"]["name"] == hit.file
        assert 0 <= hit.start <= hit.peak < hit.end <= 9
        assert not {"start", "end", "time"} & record["metadata"].keys()  # those of the best frame's row alone


def test_lines_of_a_pipe_and_a_picture_as_the_query(films, search):
    draw("blue", "cross").resize((64, 64)).save(films / "query.png")
    status, lines, _ = search("films", "./query.png", "--top-k", "2")
    fields = [line.split("\t") for line in lines]
    hits = found(films, "./query.png", k=2)
    assert status == 0
    assert [(times, name) for _, times, name in fields] == [
        (f"{clock(hit.start)}-{clock(hit.end)}", f"films/{hit.file}") for hit in hits
    ]
    assert re.fullmatch(r"0:0\d\.\d-0:0\d\.\d", fields[0][1])


def test_a_filter_says_which_frames_count(films, search):
    _, lines, _ = search("films", "a red square", "--json", "--filter", "start>=2", "--filter", "name~*.mp4")
    records = [json.loads(line) for line in lines]
    assert records and all(record["file"] == "a b.mp4" and record["start"] >= 2 for record in records)
    status, lines, _ = search("films", "a red square", "--threshold", "1")
    assert status == 0 and len(lines) == 1 and lines[0].startswith("Nothing in films fits: ")


def test_the_contact_sheet_has_frames_and_links_that_start_there(films, search):
    status, _, _ = search("films", "a red square", "--html", "hits.html", "--top-k", "2")
    page = (films / "hits.html").read_text()
    assert status == 0 and page.count("data:image/jpeg") == 2
    links = re.findall(r'href="([^"]+)"', page)
    assert links == [
        f"{(films / 'films' / hit.file).as_uri()}#t={hit.first:g}" for hit in found(films, "a red square", k=2)
    ]
    # The scenes change at whole seconds, and `start` lies half a second before.
    assert all(0 <= hit.first - hit.start <= 0.5 and hit.first % 1 == 0 for hit in found(films, "a red square", k=2))
    assert any("a%20b.mp4#t=" in link for link in links)


def test_clips_are_cut(films, search):
    status, _, err = search("films", "a red square", "--cut", "clips", "--top-k", "2")
    told = re.findall(
        r"wrote clips/\S+ \(\d:[\d.]+-\d:[\d.]+(?:, begins (.*) s before the moment, at a key frame)?\)", err
    )
    clips = sorted((films / "clips").iterdir())
    hits = found(films, "a red square", k=2)
    assert status == 0 and len(clips) == 2 and err.count("wrote clips/") == 2
    for clip, hit in zip(clips, hits, strict=True):
        assert clip.name.startswith(f"a_red_square_{hit.rank:02d}_{Path(hit.file).stem.replace(' ', '_')}_0m")
        assert (
            hit.end - hit.start - 0.3 <= describe_video(clip).duration <= hit.end - hit.start + 1.3
        )  # a key a second
    # The key frames are at whole seconds.
    assert told == [f"{hit.start % 1:.1f}" if hit.start % 1 else "" for hit in hits]
    search("films", "a red square", "--cut", "clips", "--top-k", "2")
    search("films", "a blue cross", "--cut", "clips", "--top-k", "2")
    names = sorted(clip.name for clip in (films / "clips").iterdir())
    assert len(names) == 6 and sum(name.endswith(("_2.mp4", "_2.mkv")) for name in names) == 2
    assert sum(name.startswith("a_blue_cross_") for name in names) == 2
    (films / "films" / "a b.mp4").unlink()
    status, lines, err = search("films.moments.clip-index", "a red square", "--cut", "others", "--json")
    assert status == 0 and "are not where they were indexed" in err
    assert all("path" not in json.loads(line) for line in lines if json.loads(line)["file"] == "a b.mp4")
    assert all("_c_" in clip.name for clip in (films / "others").iterdir())


def test_thumbnails_are_frames(films, search, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    _, lines, _ = search("films", "a red square", "--thumbnails", "--top-k", "1")
    assert "▀" in lines[0] and "0:0" in "".join(lines)


def test_one_film_and_a_folder_of_both_kinds(films, search, caplog):
    status, lines, err = search("films/a b.mp4", "a red square", "--json", "--model", "model")
    assert status == 0 and "of 1 film of" in err and {json.loads(line)["file"] for line in lines} == {"a b.mp4"}
    assert (films / "films" / "a b.mp4.moments.clip-index").is_dir()
    draw("red", "square").save(films / "films" / "picture.png")
    status, lines, err = search("films", "a red square")  # the index that is there decides, with its model
    assert status == 0 and "\t0:0" in lines[0] and not Path("films.clip-index").exists()
    assert "The pictures of films are left out, because its index is of moments: --over images searches them." in err
    assert "left out, by ending: 1 .png." in caplog.text  # the index of the film is no data
    pictures = search("films", "a red square", "--model", "model", "--over", "images")
    assert pictures[1][0].endswith("\tfilms/picture.png")
    assert "\t0:0" in search("films", "a red square", "--over", "moments")[1][0]
    status, lines, err = search("films", "a red square")
    assert status == 1 and lines == [] and "films holds pictures and films" in err
    assert "--over images or --over moments" in err
    assert {
        EmbeddingIndex.open(f"films{end}").description["over"] for end in (".clip-index", ".moments.clip-index")
    } == {"images", "moments"}
    shutil.rmtree("films.moments.clip-index")
    status, lines, err = search("films", "a red square")
    assert status == 0 and lines[0].endswith("\tfilms/picture.png")
    assert "The films of films are left out, because its index is of images: --over moments searches them." in err


def test_unreadable_films_are_told_and_counted(films, search):
    search("films")  # files that were copied just now are looked at again
    assert "0 frames" not in search("films")[2]  # no bar where there is nothing to do
    write_film(films / "films" / "sound.mp4", [])
    (films / "films" / "text.mp4").write_text("no film")
    status, _, err = search("films", "a red square")
    assert status == 1 and "2 of 4 films (50.00%) were skipped" in err and "--max-skipped-share" in err
    assert search("films", "a red square")[0] == 1  # remembered
    status, lines, err = search("films", "a red square", "--max-skipped-share", "0.5")
    assert status == 0 and lines


def test_another_rate_names_rebuild(films, search):
    status, _, err = search("films", "a", "--frames-per-second", "2")
    assert status == 1 and "frames_per_second" in err and "--rebuild" in err
    assert search("films", "--frames-per-second", "2", "--rebuild", "--model", "model")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["films", "--duplicates"], "--duplicates is for pictures, and SOURCE is searched for moments"),
        (["films", "a", "--store", "postgresql://x"], "--store is for pictures"),
        (["films", "a", "--approximate", "hnsw"], "--approximate is for pictures"),
        (["films", "--cut", "clips"], "--cut writes what a query finds"),
        (["films", "a", "--over", "images", "--cut", "clips"], "--cut is for moments of films"),
        (["films", "a", "--over", "images", "--frames-per-second", "2"], "--frames-per-second is for moments"),
        (["films", "a", "--filter", "colour>3"], "colour"),
        (["films", "a", "--filter", "file~*.mp4"], "The file is `name`."),
        (["films", "a", "--cut", "model/config.json"], "model/config.json is no folder"),
        (["films", "a", "--cut", "model/config.json/clips"], "model/config.json is no folder"),
        (["films", "a", "--frames-per-second", "0"], "'0' must be more than 0"),
        (["model/config.json", "a", "--over", "moments"], "config.json is no film by its ending"),
        (["nowhere", "a", "--over", "moments"], "There is no film, and no folder of films, nowhere"),
        (["--server", "http://127.0.0.1:1", "a", "--over", "moments"], "--server decides what --over would"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(arguments, message, films, search, no_model):
    status, lines, err = search(*arguments)
    assert status in (1, 2) and lines == [] and message in " ".join(err.split())


def test_embedded_films_show_their_middle_frames(films, search, monkeypatch):
    """A red square for 3 seconds, a green bar for 2 and a blue cross for 4: the middle is green."""
    assert main(["embed", "model", "films", "embedded", "--num-frames", "2"]) == 0
    status, lines, _ = search("embedded", "a film", "--html", "hits.html")
    page = (films / "hits.html").read_text()
    assert status == 0 and {line.split("\t")[-1] for line in lines} == {"films/a b.mp4", "films/sub/c.mkv"}
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 2 and "not an image" not in page
    for picture in pictures:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))), np.float64)
        wanted = np.asarray(draw("green", "bar").resize((64, 64)), np.float64)
        assert pixels.shape == (64, 64, 3) and np.abs(pixels - wanted).mean() < 12
    (films / "films" / "a b.mp4").write_bytes(b"no film")
    search("embedded", "a film", "--html", "hits.html")
    assert (films / "hits.html").read_text().count("data:image/jpeg") == 1


@pytest.fixture
def data_of_films(films) -> Path:
    """A table, a Parquet file, a tar and a saved dataset of the films, in the working folder."""
    names = ["films/a b.mp4", "films/sub/c.mkv"]
    rows = [{"video": {"bytes": Path(name).read_bytes(), "path": name}, "label": 0} for name in names]
    pq.write_table(pa.Table.from_pylist(rows), "data.parquet")
    Path("data.csv").write_text("video,caption\n" + "".join(f"{name},x\n" for name in names))
    with tarfile.open("data.tar", "w") as tar:
        tar.add(names[0], "1.mp4")
    datasets.Dataset.from_list(rows).cast_column("video", datasets.Video(decode=False)).save_to_disk("saved")
    return films


@pytest.mark.slow
def test_films_that_are_no_files_are_embedded_before_they_are_searched(data_of_films, search):
    advice = "as whole films, once they are embedded: `clip-hf embed MODEL SOURCE OUT --num-frames 8`, then"
    for source in ("data.parquet", "data.csv", "data.tar", "saved"):
        for more in ([], ["--over", "moments"], ["--image-column", "video"]):
            status, lines, err = search(source, "a film", "--model", "model", *more)
            assert status == 1 and lines == [] and advice in err and "retry" not in err, (source, more)
    assert not list(data_of_films.glob("data*.clip-index"))
    for source in ("films", "data.parquet", "data.csv", "data.tar", "saved"):
        assert main(["embed", "model", source, "out"]) == 1
    assert main(["embed", "model", "data.parquet", "out", "--num-frames", "2"]) == 0


def test_embed_names_the_option_for_a_folder_of_films(films, capsys):
    assert main(["embed", "model", "films", "out"]) == 1
    err = capsys.readouterr().err
    assert "holds no images, Parquet files, tars or metadata. It holds 2 films: " in err and "(--num-frames 8)" in err


def test_a_row_that_cannot_be_used_is_tried_again_by_an_option_that_search_has(films, search):
    Path("list.csv").write_text("image\ngone.png\n")
    status, _, err = search("list.csv", "a film", "--model", "model")
    assert status == 1 and "run again with `rebuild` (--rebuild)" in err and "retry" not in err


def test_clock():
    assert [clock(seconds) for seconds in (0, 9.96, 59.96, 61.25, 3723.5)] == [
        "0:00.0",
        "0:10.0",
        "1:00.0",
        "1:01.2",
        "1:02:03.5",
    ]
