# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Which files of a folder are pictures, in which order, and where the paths in rows may lead."""

import csv
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.data import PairLoader, PairOptions, load_pairs
from clip_hf.data.image_folders import contiguous_parts
from clip_hf.model.image_reading_clip_hf import UnreadableImage, open_image
from hostile_paths import HOSTILE
from pair_data import caption_of, encoded, image_of, rows_of, write_parquet


@pytest.fixture(scope="module")
def processor(tiny_tokenizer) -> ClipHFProcessor:
    return ClipHFProcessor(ClipHFImageProcessor(size=8, crop_size=8), tiny_tokenizer)


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    logged: list[str] = []
    monkeypatch.setattr("clip_hf.data.image_folders.logger.warning", logged.append)
    return logged


def write_pair(path: Path, number: int = 0, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image_of(number), kind))
    path.with_suffix(".txt").write_text(caption_of(number))


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize(("name", "kind"), [("a.ppm", "PPM"), ("a.PGM", "PPM"), ("a.JPeG", "JPEG"), ("a.tga", "TGA")])
def test_pictures_are_what_pillow_reads(name, kind, tmp_path, warnings):
    write_pair(tmp_path / name, 1, kind)
    assert load_pairs(tmp_path)["caption"][:] == [caption_of(1)]
    assert warnings == []


def test_files_that_are_left_out_are_counted_by_ending(tmp_path, warnings):
    write_pair(tmp_path / "sub" / "a.png")
    for name in ("a.json", "b.txt", "c.TXT", "d.mp4", "README", "e.eps"):
        (tmp_path / "sub" / name).write_text("{}")
    os.mkfifo(tmp_path / "f.png")
    assert len(load_pairs(tmp_path)) == 1
    no_file, by_ending = sorted(warnings)
    assert no_file == f"1 file in {tmp_path} was left out, for being no regular file: 1 .png."
    assert by_ending.startswith(f"5 files in {tmp_path} were left out, by ending: 2 .txt,")
    assert all(text in by_ending for text in ("1 .mp4", "1 without", "1 .eps"))


def test_a_file_whose_name_is_not_utf_8_is_skipped_and_counted(tmp_path):
    for name in (b"a.png", b"bad\xff.png"):
        write_pair(tmp_path / os.fsdecode(name))
    data = load_pairs(tmp_path)
    problems = []
    for image in data["image"]:
        try:
            open_image(image)
        except UnreadableImage as error:
            problems.append((error.kind, str(error)))
    assert problems == [("file name not UTF-8", f"the path {tmp_path}/bad\\udcff.png is not UTF-8; rename the file.")]


def test_a_member_whose_name_is_not_utf_8_is_read(tmp_path):
    write_pair(tmp_path / "a.png")
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        for ending in ("png", "txt"):
            file.add(tmp_path / f"a.{ending}", f"bad\udcff.{ending}")
    (row,) = load_pairs(tmp_path / "a.tar")
    assert row["image"]["path"].endswith("/bad\\udcff.png")
    assert open_image(row["image"]).size == open_image(tmp_path / "a.png").size


@pytest.mark.parametrize("name", ["train.csv", "train.parquet"])
def test_a_table_whose_name_is_not_utf_8_is_an_error_that_names_it(name, tmp_path):
    folder = tmp_path / os.fsdecode(b"bad\xff")
    folder.mkdir()
    (folder / name).write_text("image,caption\na.png,a\n")
    with pytest.raises(ValueError, match=rf"The name of .*bad\\udcff/{name} is not UTF-8; rename it"):
        load_pairs(folder / name)


def test_hidden_files_and_folders_are_no_data(tmp_path, warnings):
    folder = tmp_path / ".data"  # the folder that was asked for may be called anything
    for name in (
        "a.png",
        ".b.png",
        "._a.png",
        ".ipynb_checkpoints/a-checkpoint.png",
        "__MACOSX/sub/._a.png",
        "a.mp4.moments.clip-index/b.png",
    ):
        write_pair(folder / name)
    assert [Path(row["image"]["path"]).name for row in load_pairs(folder)] == ["a.png"]
    assert warnings == []


@pytest.mark.parametrize("streaming", [False, True])
def test_folders_come_in_order(streaming, tmp_path):
    picture = encoded(image_of(0))
    for number in range(300):
        (tmp_path / f"{number:03d}.png").write_bytes(picture)
        (tmp_path / f"{number:03d}.txt").write_text(f"cat {number}")
    data = load_pairs(tmp_path, streaming=streaming)
    assert [row["caption"] for row in data] == [f"cat {number}" for number in range(300)]
    if streaming:
        assert data.num_shards == 256
        assert [row["caption"] for row in data.shard(256, 255)] == ["cat 298", "cat 299"]


@pytest.mark.parametrize(("items", "count"), [(0, 4), (3, 4), (4, 4), (10, 4), (300, 256)])
def test_parts_are_contiguous_and_about_equal(items, count):
    parts = contiguous_parts(list(range(items)), count)
    assert [item for part in parts for item in part] == list(range(items))
    assert len(parts) == min(items, count)
    assert not parts or max(map(len, parts)) - min(map(len, parts)) <= 1


# -------------------------------------------------------------------------------------------------------------- places


def write_csv(folder: Path, paths: list[str | None], name: str = "pairs.csv", column: str = "image") -> Path:
    with open(folder / name, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if name.endswith("tsv") else ",")
        writer.writerow([column, "caption"])
        writer.writerows([path or "", caption_of(number)] for number, path in enumerate(paths))
    return folder / name


def write_lines(folder: Path, paths: list[str | None]) -> Path:
    rows = [{"image": path, "caption": caption_of(number)} for number, path in enumerate(paths)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "pairs.jsonl"


def write_strings(folder: Path, paths: list[str | None], structs: bool = False) -> Path:
    images = [{"bytes": None, "path": path} for path in paths] if structs else paths
    captions = [caption_of(number) for number in range(len(paths))]
    pq.write_table(pa.table({"image": images, "caption": captions}), folder / "pairs.parquet", row_group_size=7)
    return folder / "pairs.parquet"


KINDS = {
    "csv": write_csv,
    "tsv": lambda folder, paths: write_csv(folder, paths, "pairs.tsv"),
    "metadata.csv": lambda folder, paths: write_csv(folder, paths, "metadata.csv", "file_name").parent,
    "jsonl": write_lines,
    "json": lambda folder, paths: Path(write_lines(folder, paths).rename(folder / "pairs.json")),
    "parquet of paths": write_strings,
    "parquet of structs": lambda folder, paths: write_strings(folder, paths, structs=True),
}


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The paths of all files that image readers ask the system to open."""
    paths: list[str] = []
    really = os.open

    def watched(path, *arguments, **options):
        paths.append(os.fspath(path))
        return really(path, *arguments, **options)

    monkeypatch.setattr("clip_hf.model.image_reading_clip_hf.os.open", watched)
    return paths


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_paths_are_refused_and_counted(kind, streaming, tmp_path, processor, opened):
    folder = tmp_path / "data"
    write_pair(folder / "good.png")
    for each in (tmp_path, tmp_path / "data2"):  # there, but not the data's
        write_pair(each / "a.png")
    paths = [*(f"{'sub/../' * (n % 2)}good.png" for n in range(len(HOSTILE) + 1)), *HOSTILE]
    data = load_pairs(KINDS[kind](folder, paths), streaming=streaming)
    loader = PairLoader(
        data, processor, PairOptions(max_skipped_share=0.6, shuffle_buffer=1), batch_size=11, num_steps=9
    )
    if not streaming:
        bad = loader.pairs.bad_rows  # before the training starts
        assert len(bad) == len(HOSTILE) and {row.kind for row in bad.values()} == {"location refused"}
        assert all("image_root" in row.message or "is not opened" in row.message for row in bad.values())
        with pytest.raises(ValueError, match=rf"{len(HOSTILE)} location refused. The image of row \d+ cannot be used"):
            PairLoader(data, processor, PairOptions(), batch_size=11, num_steps=9)
    skipped = Counter(row.kind for batch in loader for row in batch["skipped"])
    assert set(skipped) == {"location refused"} and skipped.total() >= len(HOSTILE)
    pictures = {str(path) for path in opened if str(path).endswith(".png") or "passwd" in str(path)}
    assert pictures == {str(folder / "good.png")}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_paths_start_at_the_data_s_folder_and_stay_below_it_or_the_root(kind, streaming, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.chdir(folder)
    there, other = str(folder / "a.png"), str(tmp_path / "pictures" / "b.png")
    source = KINDS[kind](folder, ["a.png", there, other, "../pictures/b.png", "https://example.org/c.png", None])
    source = os.path.relpath(source)

    def places(**options) -> list:
        data = load_pairs(source, streaming=streaming, options=PairOptions(**options))
        images = [row["image"] for row in data]
        return [image["path"] if isinstance(image, dict) else image for image in images]

    expected = [there, there, f"refused:{other}", "refused:../pictures/b.png", "https://example.org/c.png", None]
    assert places() == expected
    assert places(image_root=str(tmp_path / "pictures")) == [there, there, other, other, *expected[4:]]
    assert places(image_root="/") == [there, there, other, other, *expected[4:]]


def test_a_table_of_the_same_name_elsewhere_is_another_one(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        os.utime(write_lines(tmp_path / name, ["0.png"]), (1, 1))
        monkeypatch.chdir(tmp_path / name)
        assert load_pairs("pairs.jsonl")[0]["image"]["path"] == str(tmp_path / name / "0.png")


@pytest.mark.parametrize("streaming", [False, True])
def test_each_parquet_file_has_its_own_folder(streaming, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_strings(tmp_path / name, ["0.png", "1.png"])
    data = load_pairs(str(tmp_path / "*" / "*.parquet"), streaming=streaming)
    assert [row["image"] for row in data] == [str(tmp_path / name / f"{n}.png") for name in "ab" for n in range(2)]


@pytest.mark.parametrize("streaming", [False, True])
def test_images_in_parquet_keep_their_names_and_are_not_copied(streaming, tmp_path):
    rows = rows_of(range(5))
    for row in rows:
        row["image"]["path"] = "../a.png"  # a name only, since the bytes are there
    rows[3]["image"] = {"bytes": None, "path": "b.png"}
    rows[4]["image"] = None
    data = load_pairs(write_parquet(tmp_path / "data", rows), streaming=streaming)
    found = [row["image"] for row in data]
    assert [image and image["path"] for image in found] == ["../a.png"] * 3 + [str(tmp_path / "data" / "b.png"), None]
    assert [image and image["bytes"] for image in found] == [row["image"] and row["image"]["bytes"] for row in rows]
    if not streaming:
        before = datasets.load_dataset("parquet", data_files=str(tmp_path / "data" / "*.parquet"), split="train")

        def addresses(dataset) -> list[int]:
            return [chunk.field("bytes").buffers()[2].address for chunk in dataset.data.column("image").chunks]

        assert len(set(addresses(data))) == len(addresses(before))
        assert pa.total_allocated_bytes() < 2**20


def test_saved_data_keep_their_absolute_paths(tmp_path):
    paths = [str(tmp_path / "a.png"), "b.png", "../a.png"]  # `datasets` would save images as bytes
    datasets.Dataset.from_dict({"image": paths, "caption": list("abc")}).save_to_disk(tmp_path / "saved")
    paths = load_pairs(tmp_path / "saved")["image"][:]
    assert paths == [str(tmp_path / "a.png"), str(tmp_path / "saved" / "b.png"), "refused:../a.png"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("features", [None, "string"])
def test_data_of_the_hub_lead_only_to_what_was_downloaded(streaming, features, tmp_path, monkeypatch):
    downloaded = str(tmp_path / "cache" / "downloads" / "a.png")
    paths = [downloaded, "hf://datasets/someone/cats/a.png", "/etc/passwd", f"{downloaded}/../../../b.png", "a.png"]
    data = datasets.Dataset.from_dict({"image": paths, "caption": list("abcde")})
    if streaming:
        data = data.to_iterable_dataset()
    if streaming and features is None:  # as of CSV on the hub
        rows = list(data)
        data = datasets.IterableDataset.from_generator(lambda: iter(rows))
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **options: data)
    places = [row["image"] for row in load_pairs("someone/cats", streaming=streaming)]
    assert places[:3] == [*paths[:2], "refused:/etc/passwd"]
    assert places[3:] == [f"refused:{paths[3]}", str(tmp_path / "cache" / "a.png")]  # relative ones lead nowhere


def test_what_cannot_be_a_file_is_not_looked_for(tmp_path, processor):
    url = "DATA:image/png;base64,iVBORw0KGgo="
    rows = [{"image": path, "caption": "a cat"} for path in (url, "HTTP://127.0.0.1:9/a.png", "a\0b/c.png")]
    data = datasets.Dataset.from_list(rows)
    loader = PairLoader(data, processor, PairOptions(max_skipped_share=0.9), batch_size=1, num_steps=1)
    assert {row: problem.kind for row, problem in loader.pairs.bad_rows.items()} == {2: "file missing"}


def test_pictures_are_read_as_before(tmp_path, processor):
    write_pair(tmp_path / "data" / "a.png", 3)
    (row,) = load_pairs(write_csv(tmp_path / "data", ["a.png"]))
    with Image.open(row["image"]["path"]) as image:
        assert image.tobytes() == image_of(3).tobytes()
