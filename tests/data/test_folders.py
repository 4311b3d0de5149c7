# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Folders as people have them: called like a part, a table for each part, by img2dataset, with pipes in them."""

import io
import json
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_hf.data import ImageTextDataset, PairOptions, load_pairs, split_names
from clip_hf.data.tables import raw_table_rows
from clip_hf.data.tars import tar_samples
from clip_hf.data.texts import find_caption_problem
from clip_hf.evaluation import ClassificationOptions, load_classification, load_retrieval
from clip_hf.model.image_reading_clip_hf import UnreadableImage, open_image
from pair_data import caption_of, dataset_of, encoded, image_of, rows_of, samples_of, write_tar


pytestmark = pytest.mark.usefixtures("own_cache")


def write_pairs(folder: Path, rows: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in rows:
        (folder / f"{number}.png").write_bytes(encoded(image_of(number)))
        (folder / f"{number}.txt").write_text(caption_of(number))


def write_table(path: Path, rows: range, column: str = "image", pictures: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{pictures}{number}.png,{caption_of(number)},{number % 2}\n" for number in rows]
    path.write_text("".join([f"{column},caption,label\n", *lines]))


def captions_of(source: Path, **options) -> list[str]:
    return [row["caption"] for row in load_pairs(source, **options)]


# ----------------------------------------------------------------------------------------- folders called like a part

KINDS: dict[str, Callable[[Path, str, range], None]] = {
    "tars": lambda folder, name, rows: write_tar(folder / f"{name}.tar", samples_of(rows)),
    "Parquet": lambda folder, name, rows: dataset_of(rows_of(rows)).to_parquet(folder / f"{name}.parquet") and None,
    "pictures": lambda folder, name, rows: write_pairs(folder, rows),
    "tables": lambda folder, name, rows: write_table(folder / f"{name}.csv", rows),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["00000", "validation-00000-of-00001", "val-0"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_called_like_a_part_is_read_whole(kind, name, streaming, tmp_path):
    if kind == "tables" and name == "00000":
        name = "metadata"
    folder = tmp_path / "val"
    folder.mkdir()
    KINDS[kind](folder, name, range(4))
    assert captions_of(folder, streaming=streaming) == list(map(caption_of, range(4)))
    assert len(load_retrieval(folder)) == 4


@pytest.mark.parametrize("folder", ["test", "dev", "train"])
def test_relative_folders_called_like_a_part(folder, tmp_path, monkeypatch):
    (tmp_path / folder).mkdir()
    write_tar(tmp_path / folder / "0.tar", samples_of(range(4)))
    monkeypatch.chdir(tmp_path)
    assert split_names(f"./{folder}/") == () and len(load_pairs(folder)) == 4
    monkeypatch.chdir(folder)
    assert len(load_pairs(".")) == 4


def test_parts_in_a_folder_called_like_a_part(tmp_path):
    for name, rows in (("train", range(3)), ("test", range(2))):
        (tmp_path / "test" / name).mkdir(parents=True)
        write_tar(tmp_path / "test" / name / "0.tar", samples_of(rows))
    assert split_names(tmp_path / "test") == ("test", "train") and len(load_pairs(tmp_path / "test")) == 3


def test_labelled_images_in_a_folder_called_like_a_part(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    rows = {"image": [encoded(image_of(0))], "label": [0]}
    pq.write_table(pa.table(rows), folder / "0.parquet")
    options = ClassificationOptions(class_names=["cat"])
    assert load_classification(folder, options).split == "all"


# ---------------------------------------------------------------------------------------------- a table for each part


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("shards", ["", "-00000-of-00001", "_0"])
@pytest.mark.parametrize("pictures", ["", "train/"])
def test_tables_that_are_called_like_parts(pictures, shards, streaming, tmp_path):
    write_table(tmp_path / f"train{shards}.csv", range(4), pictures=pictures)
    write_table(tmp_path / f"val{shards}.csv", range(2), pictures=pictures)
    write_table(tmp_path / "notes.csv", range(3))
    for folder in ("train", "test"):
        write_pairs(tmp_path / folder, range(4))
    assert split_names(tmp_path) == ("train", "val")
    assert captions_of(tmp_path, streaming=streaming) == list(map(caption_of, range(4)))
    assert captions_of(tmp_path, split="validation", streaming=streaming) == list(map(caption_of, range(2)))
    (row, *_) = load_pairs(tmp_path)
    assert row["image"]["path"] == str(tmp_path / f"{pictures}0.png")
    # Evaluation has the same parts, of captions and of labels.
    assert load_retrieval(tmp_path).split == "val" and len(load_retrieval(tmp_path)) == 2
    data = load_classification(tmp_path, ClassificationOptions(class_names=["a", "b"]))
    assert data.split == "val" and data.targets.tolist() == [0, 1]


def test_several_tables_of_a_part(tmp_path):
    for shard, rows in enumerate((range(2), range(2, 5))):
        write_table(tmp_path / f"train-{shard}.csv", rows, "file_name")
    assert captions_of(tmp_path) == list(map(caption_of, range(5)))
    data = load_classification(tmp_path, ClassificationOptions(class_names=["a", "b"]))
    assert data.targets.tolist() == [0, 1, 0, 1, 0]


def test_other_files_are_no_parts(tmp_path):
    write_pairs(tmp_path / "data", range(3))
    for name in ("test_results.json", "train_state.json", ".train.csv", "results.csv", "train.csv.bak"):
        (tmp_path / "data" / name).write_text("{}")
    assert split_names(tmp_path / "data") == () and len(load_pairs(tmp_path / "data")) == 3


def test_parts_in_folders_with_their_tables(tmp_path):
    for part, rows in (("train", range(4)), ("val", range(2))):
        write_table(tmp_path / part / f"{part}.csv", rows)
    assert len(load_pairs(tmp_path)) == 4 and len(load_pairs(tmp_path, split="val")) == 2


# --------------------------------------------------------------------------------------------- img2dataset's folders


def img2dataset_files(folder: Path, columns: dict | None = None) -> None:
    for shard in range(2):
        name, rows = f"{shard:05}", range(3 * shard, 3 * shard + 3)
        write_pairs(folder / name, rows)
        for number in rows:
            (folder / name / f"{number}.json").write_text(json.dumps({"caption": "not this"}))
        pq.write_table(
            pa.table(columns or {"url": ["http://a/"] * 3, "caption": ["b"] * 3}), folder / f"{name}.parquet"
        )
        (folder / f"{name}_stats.json").write_text('{"count": 3}')


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_with_metadata_beside_their_folder(streaming, tmp_path, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr("clip_hf.data.file_patterns.logger.warning", warnings.append)
    img2dataset_files(tmp_path / "data")
    assert captions_of(tmp_path / "data", streaming=streaming) == list(map(caption_of, range(6)))
    (warning,) = warnings
    assert (
        "00000.parquet has metadata of the pictures in the folder beside it" in warning and "2 such files" in warning
    )
    assert load_retrieval(tmp_path / "data").captions == [[caption_of(number)] for number in range(6)]


def test_parquet_with_pictures_beside_a_folder_is_data(tmp_path):
    columns = {"url": ["http://a/"] * 3, "caption": ["b"] * 3, "image": [encoded(image_of(0))] * 3}
    img2dataset_files(tmp_path / "data", columns)
    assert captions_of(tmp_path / "data") == ["b"] * 6


# ------------------------------------------------------------------------------------------------------------- pipes


@pytest.fixture
def no_waiting():
    """Opening a pipe that nobody writes into would wait for ever; here it fails after a while."""

    def stop(*_):
        raise AssertionError("a pipe was waited for")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(15)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "name", ["metadata.csv", "metadata.jsonl", "train.csv", "0.tar", "0.parquet", "0.txt", "0.json"]
)
def test_pipes_in_a_folder_are_no_data(name, tmp_path, no_waiting):
    write_pairs(tmp_path / "data" / "cat", range(1, 3))
    for folder in (tmp_path / "data", tmp_path / "data" / "cat"):
        os.mkfifo(folder / name)
    (tmp_path / "data" / "cat" / "0.png").write_bytes(encoded(image_of(0)))
    expected = [None, *map(caption_of, range(1, 3))]
    assert captions_of(tmp_path / "data") == captions_of(tmp_path / "data", streaming=True) == expected
    assert len(load_classification(tmp_path / "data")) == 3


@pytest.mark.parametrize("name", ["dataset_dict.json", "state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
@pytest.mark.parametrize("load", [load_pairs, load_classification, load_retrieval])
def test_pipes_in_saved_data_are_an_error(load, name, tmp_path, no_waiting):
    folder = tmp_path / "data"
    dataset_of(rows_of(range(2))).save_to_disk(folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=f"{name} is a pipe or device; only regular files are read"):
        load(folder)


def test_readers_open_no_pipes(tmp_path, no_waiting):
    for name in ("a.csv", "a.jsonl", "a.tar"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ValueError, match="is a pipe or device"):
            list(tar_samples(str(tmp_path / name), bool) if name == "a.tar" else raw_table_rows(str(tmp_path / name)))


# -------------------------------------------------------------------------------------------------- names of any bytes


def odd_name(folder: Path, name: bytes) -> str:
    """A path whose last part is not UTF-8; the test is skipped where the file system has no such names."""
    path = os.path.join(os.fsencode(folder), name)
    try:
        os.makedirs(path) if b"." not in name else os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    except OSError:
        pytest.skip("names of files must be UTF-8 here")
    return os.fsdecode(path)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_whose_name_is_not_utf8_is_skipped_and_counted(streaming, tmp_path, tiny_processor):
    write_pairs(tmp_path / "a", range(4))
    odd = odd_name(tmp_path / "a", b"z\xff.png")
    Path(odd).write_bytes(encoded(image_of(9)))
    Path(odd).with_suffix(".txt").write_text("odd")
    data = load_pairs(tmp_path / "a", streaming=streaming)
    rows = list(data)
    assert [row["caption"] for row in rows] == [*map(caption_of, range(4)), "odd"]
    with pytest.raises(UnreadableImage, match=r"the path .*z\\udcff\.png is not UTF-8; rename the file") as error:
        open_image(rows[4]["image"])
    assert error.value.kind == "file name not UTF-8"
    if not streaming:
        pairs = ImageTextDataset(data, tiny_processor.image_processor, PairOptions(max_skipped_share=0.5))
        assert {row: problem.kind for row, problem in pairs.bad_rows.items()} == {4: "file name not UTF-8"}


def test_class_folders_and_data_of_such_names(tmp_path):
    for name in ("green", "red"):
        write_pairs(tmp_path / "a" / name, range(3))
    Path(odd_name(tmp_path / "a" / "red", b"z\xff.png")).write_bytes(encoded(image_of(9)))
    rows = list(load_classification(tmp_path / "a").data)
    assert [row["label"] for row in rows] == [0, 0, 0, 1, 1, 1, 1]
    assert [row["image"]["path"].startswith("refused:file name not UTF-8") for row in rows] == [False] * 6 + [True]
    odd = odd_name(tmp_path / "a", b"bad\xff")
    Path(odd, "0.png").write_bytes(encoded(image_of(0)))
    with pytest.raises(ValueError, match=r"The name of .*bad\\udcff is not UTF-8; rename it"):
        load_classification(tmp_path / "a")
    for place in (odd, os.path.join(odd, "pairs.csv")):
        Path(odd, "pairs.csv").write_text("image,caption\n0.png,red\n")
        with pytest.raises(ValueError, match=r"The name of .*bad\\udcff.* is not UTF-8"):
            load_pairs(place)


@pytest.mark.parametrize("streaming", [False, True])
def test_members_of_such_names_and_texts(streaming, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (
            ("0\udcff.png", encoded(image_of(0))),
            ("0\udcff.txt", b"\xef\xbb\xbfred"),
            ("1.png", encoded(image_of(1))),
            ("1.json", b'{"caption": "half a \\ud800"}'),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    first, second = load_pairs(tmp_path / "a.tar", streaming=streaming)
    assert first["caption"] == "red" and first["image"]["path"].endswith(r"0\udcff.png")
    assert first["image"]["bytes"] == encoded(image_of(0))
    assert find_caption_problem(second["caption"], "row 1").kind == "caption not UTF-8"
    assert second["image"]["bytes"] == encoded(image_of(1))
