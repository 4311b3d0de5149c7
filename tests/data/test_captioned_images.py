# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Every kind of source, from its files to a batch; mixtures of several; and sources that are not there."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.data import MixedStream, PairLoader, PairOptions, load_pairs, split_names
from clip_hf.data.texts import stable_id
from pair_data import (
    caption_of,
    dataset_of,
    encoded,
    flat,
    image_of,
    rows_of,
    samples_of,
    use_openmoji,
    write_parquet,
    write_tar,
)


NUMBERS = range(12)


@pytest.fixture(scope="module")
def processor(tiny_tokenizer) -> ClipHFProcessor:
    return ClipHFProcessor(ClipHFImageProcessor(size=10, crop_size=10), tiny_tokenizer)


pytestmark = pytest.mark.usefixtures("own_cache")


def write_images(folder: Path, captions: bool = False) -> Path:
    folder.mkdir()
    for number in NUMBERS:
        path = folder / f"{number}.png"
        path.write_bytes(encoded(image_of(number)))
        if captions:
            path.with_suffix(".txt").write_text(caption_of(number) + "\n", encoding="utf-8")
    return folder


def write_table(path: Path, delimiter: str = ",", column: str = "image") -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow([column, "caption", "title"])
        writer.writerows([f"{number}.png", caption_of(number), "null"] for number in NUMBERS)
    return path


def write_lines(path: Path, column: str = "image") -> Path:
    lines = [json.dumps({column: f"{number}.png", "caption": caption_of(number)}) for number in NUMBERS]
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return path


def saved(folder: Path) -> Path:
    dataset_of(rows_of(NUMBERS)).save_to_disk(folder)
    return folder


def saved_splits(folder: Path) -> Path:
    data = dataset_of(rows_of(NUMBERS))
    datasets.DatasetDict(test=data.select([0]), train=data).save_to_disk(folder)
    return folder


def parquet_folder(folder: Path) -> Path:
    write_parquet(folder, rows_of(NUMBERS), 2)
    dataset_of(rows_of([99])).to_parquet(folder / "test-00000.parquet")
    return folder


def tars(folder: Path) -> str:
    folder.mkdir()
    samples = samples_of(NUMBERS)
    for number in range(0, 12, 3):  # of some, the caption is in the JSON
        fields = {"caption": samples[number].pop("txt").decode(), "width": 12}
        samples[number]["json"] = json.dumps(fields).encode()
    samples[1]["jpg.txt"] = b"an ending that is not used"
    for shard in range(3):
        write_tar(folder / f"part-{shard:02d}.tar", samples[shard * 4 : shard * 4 + 4])
    return str(folder / "part-{00..02}.tar")


def of_splits(folder: Path) -> Path:
    folder.mkdir()
    write_images(folder / "train", captions=True)
    write_images(folder / "test")
    return folder


def with_metadata(folder: Path, write: Callable) -> Path:
    write_images(folder)
    write(folder)
    return folder


SOURCES: dict[str, Callable[[Path], str | Path]] = {
    "saved": saved,
    "saved with splits": saved_splits,
    "parquet folder": parquet_folder,
    "parquet pattern": lambda folder: write_parquet(folder, rows_of(NUMBERS), 3),
    "parquet file": lambda folder: write_parquet(folder, rows_of(NUMBERS)).replace("*", "train-00000"),
    "tars": tars,
    "folder of tars": lambda folder: Path(tars(folder)).parent,
    "csv": lambda folder: write_table(write_images(folder) / "pairs.csv"),
    "tsv": lambda folder: write_table(write_images(folder) / "pairs.tsv", "\t"),
    "jsonl": lambda folder: write_lines(write_images(folder) / "pairs.jsonl"),
    "metadata.csv": lambda folder: with_metadata(
        folder, lambda f: write_table(f / "metadata.csv", column="file_name")
    ),
    "metadata.jsonl": lambda folder: with_metadata(folder, lambda f: write_lines(f / "metadata.jsonl", "file_name")),
    "texts beside images": lambda folder: write_images(folder, captions=True),
    "folder of splits": of_splits,
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_gives_its_pairs(kind, streaming, tmp_path, processor):
    data = load_pairs(SOURCES[kind](tmp_path / "data"), streaming=streaming)
    assert isinstance(data, datasets.IterableDataset if streaming else datasets.Dataset)
    assert set(next(iter(data))["image"]) == {"bytes", "path"}  # not decoded
    batches = list(PairLoader(data, processor, PairOptions(shuffle_buffer=5), batch_size=6, num_steps=2))
    assert not any(batch["skipped"] for batch in batches)
    text_ids = flat(batch["text_ids"].tolist() for batch in batches)
    assert sorted(text_ids) == sorted(stable_id(caption_of(number)) for number in NUMBERS)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tars", "texts beside images"])
def test_images_belong_to_their_captions(kind, tmp_path):
    for row in load_pairs(SOURCES[kind](tmp_path / "data")):
        image = row["image"]
        content = Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]
        number = int(row["caption"].split()[-1])
        assert content == encoded(image_of(number))


@pytest.mark.parametrize("kind", ["saved", "tars", "jsonl", "texts beside images"])
def test_streams_of_every_kind_are_resumed_exactly(kind, tmp_path, processor):
    data = load_pairs(SOURCES[kind](tmp_path / "data"), streaming=True)
    # Two processes: of the one shard of a table, each takes every other row.
    arguments = {"batch_size": 4, "num_steps": 12, "rank": 1, "world_size": 2}
    loader, batches, states = PairLoader(data, processor, PairOptions(shuffle_buffer=4), **arguments), [], []
    for batch in loader:
        batches.append(batch)
        states.append(loader.state_dict())
    for stop in (2, 5, 9):
        resumed = PairLoader(data, processor, PairOptions(shuffle_buffer=4), **arguments)
        resumed.load_state_dict(json.loads(json.dumps(states[stop - 1])))
        rest = list(resumed)
        assert len(rest) == 12 - stop
        for batch, expected in zip(rest, batches[stop:]):
            assert all(torch.equal(batch[name], expected[name]) for name in ("text_ids", "pixel_values"))


def test_openmoji_is_a_source(monkeypatch):
    data = datasets.DatasetDict(train=dataset_of(rows_of(NUMBERS)), test=dataset_of(rows_of([0])))
    use_openmoji(monkeypatch, data)
    assert len(load_pairs("openmoji")) == 12
    assert len(load_pairs("openmoji", split="test")) == 1
    assert load_pairs("openmoji", streaming=True).num_shards == 12


def test_built_in_datasets_without_captions_say_which_columns_they_have():
    with pytest.raises(ValueError, match="no column 'caption'; it has 'image', 'label'"):
        load_pairs("digits")
    assert split_names("digits") == ("train", "validation", "test")


def test_a_hub_name_is_loaded_with_its_config_and_split(monkeypatch):
    calls = []

    def load_dataset(*arguments, **options):
        calls.append((arguments, options))
        return dataset_of(rows_of(NUMBERS))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load_pairs("someone/cats", split="validation")) == 12
    load_pairs("someone/cats:small")
    assert calls == [
        (("someone/cats", None), {"split": "validation", "streaming": False}),
        (("someone/cats", "small"), {"split": "train", "streaming": False}),
    ]


@pytest.mark.parametrize("source", ["data/missing.parquet", "data/missing.csv", "./missing"])
def test_the_hub_is_not_asked_for_a_file_that_is_not_there(source, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **options: asked.append(arguments))
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *arguments: asked.append(arguments) or ["train"])
    for load in (load_pairs, split_names):
        with pytest.raises(ValueError, match=f"no file or folder '{source}'"):
            load(source)
    assert not asked


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_of_tables_have_any_name_and_lists_hold_several_captions(streaming, tmp_path, processor):
    folder = write_images(tmp_path / "images")
    lines = [
        json.dumps(
            {"photo": str(folder / f"{n}.png"), "texts": [f"cat {n}", f"kitten {n}"], "year": 1990 + n, "id": n % 2}
        )
        for n in NUMBERS
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    options = PairOptions(
        image_column="photo", caption_column="texts", image_id_column="id", templates=["{} of {year}"]
    )
    data = load_pairs(tmp_path / "pairs.jsonl", streaming=streaming, options=options)
    batch = next(iter(PairLoader(data, processor, options, batch_size=12, num_steps=1)))
    assert len(set(batch["image_ids"].tolist())) == 2
    expected = {stable_id(f"{word} {n}", str(1990 + n)) for word in ("cat", "kitten") for n in NUMBERS}
    assert set(batch["text_ids"].tolist()) <= expected


def test_a_table_s_words_are_not_taken_for_missing_values(tmp_path):
    path = write_table(write_images(tmp_path / "images") / "pairs.csv")
    data = load_pairs(path, options=PairOptions(templates=["{} ({title})"]))
    assert set(data["title"]) == {"null"}


def test_a_changed_table_is_read_again(tmp_path):
    path = write_lines(write_images(tmp_path / "images") / "pairs.jsonl")
    assert len(load_pairs(path)) == 12
    path.write_text(path.read_text().splitlines()[0])
    assert len(load_pairs(path)) == 1


def test_images_that_a_table_misses_are_named(tmp_path, processor):
    path = write_lines(write_images(tmp_path / "images") / "pairs.jsonl")
    for number in (3, 7):
        (tmp_path / "images" / f"{number}.png").unlink()
    data = load_pairs(path)
    with pytest.raises(ValueError, match=r"2 of 12 rows .* 2 file missing. The image of row 3 .*/images/3.png"):
        PairLoader(data, processor, PairOptions(), batch_size=4, num_steps=1)
    options = PairOptions(max_skipped_share=0.2)
    batches = list(PairLoader(data, processor, options, batch_size=4, num_steps=3))
    assert Counter(row.where for batch in batches for row in batch["skipped"]) == {"row 3": 1, "row 7": 1}


# ------------------------------------------------------------------------------------------------------------- several


@pytest.mark.parametrize("streaming", [False, True])
def test_sources_of_different_kinds_together(streaming, tmp_path, processor):
    folder = write_images(tmp_path / "images")
    lines = [json.dumps({"image": f"{n}.png", "caption": [f"cat {n}"]}) for n in NUMBERS]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    sources = [folder / "pairs.jsonl", write_parquet(tmp_path / "rows", rows_of(NUMBERS), 2), tars(tmp_path / "tars")]
    data = load_pairs(sources, streaming=streaming)
    assert isinstance(data, MixedStream) if streaming else len(data) == 36
    batches = list(PairLoader(data, processor, PairOptions(), batch_size=9, num_steps=4))
    counts = Counter(text_id for batch in batches for text_id in batch["text_ids"].tolist())
    expected = Counter({stable_id(f"cat {n}"): 1 for n in NUMBERS} | {stable_id(caption_of(n)): 2 for n in NUMBERS})
    assert counts == expected


def test_weights_of_map_style_sources(tmp_path):
    large, small = (
        write_parquet(tmp_path / name, rows_of(rows), 1) for name, rows in (("a", range(12)), ("b", [20, 21]))
    )
    data = load_pairs([large, small], weights=[3, 1])
    counts = Counter(data["caption"])
    assert len(data) == 16
    assert {counts[caption_of(n)] for n in NUMBERS} == {1} and {counts[caption_of(n)] for n in (20, 21)} == {2}
    data = load_pairs([large, small], weights=[0.5, 0.5])
    assert len(data) == 24
    assert list(load_pairs([large, small], weights=[3, 1], seed=0)["caption"]) == list(
        load_pairs([large, small], weights=[3, 1], seed=0)["caption"]
    )


@pytest.mark.parametrize(
    ("weights", "message"), [([1], "1 weights for 2 sources"), ([1, 0], "each must be a number above 0")]
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        load_pairs(["a", "b"], weights=weights)


# ----------------------------------------------------------------------------------------------------------- bad input


def rename(source: Path, column: str, to: str) -> Path:
    data = datasets.load_from_disk(source).rename_column(column, to)
    data.save_to_disk(source.with_name("renamed"))
    return source.with_name("renamed")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: rename(saved(path), "caption", "text"), "no column 'caption'; it has 'image', 'text'"),
        (lambda path: rename(saved(path), "image", "picture"), "no column 'image'; it has 'picture', 'caption'"),
        (lambda path: write_table(path, column="file"), "no column 'image'; it has 'file', 'caption', 'title'"),
        (lambda path: write_lines(path.with_suffix(".jsonl"), "url"), "no column 'image'; it has 'url', 'caption'"),
    ],
)
def test_missing_columns_are_named_with_those_there_are(make, message, streaming, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_pairs(make(tmp_path / "data.csv"), streaming=streaming)


def test_sources_that_are_empty(tmp_path):
    dataset_of(rows_of([0])).select([]).save_to_disk(tmp_path / "saved")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "folder").mkdir()
    write_tar(tmp_path / "empty.tar", [])
    with pytest.raises(ValueError, match="dataset .*saved is empty"):
        load_pairs(tmp_path / "saved")
    with pytest.raises(ValueError, match="dataset .*empty.csv is empty"):
        load_pairs(tmp_path / "empty.csv")
    with pytest.raises(ValueError, match="dataset .*empty.tar is empty"):
        load_pairs(tmp_path / "empty.tar")
    with pytest.raises(ValueError, match="folder holds no images, Parquet files, tars or metadata"):
        load_pairs(tmp_path / "folder")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("/nowhere/data", "no file or folder '/nowhere/data'"),
        ("nowhere-*.parquet", "no file or folder 'nowhere-"),
        ("nobody/nothing", "no file or folder 'nobody/nothing' .* cannot be loaded from the hub"),
        ([], "no sources"),
    ],
)
def test_sources_that_are_not_there(source, message):
    with pytest.raises(ValueError, match=message):
        load_pairs(source)


def test_splits_and_files_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="has no split `validation`; it has test, train"):
        load_pairs(saved_splits(tmp_path / "saved"), split="validation")
    (tmp_path / "notes.doc").write_text("no table")
    with pytest.raises(ValueError, match="notes.doc is no kind of file that can be read; there are .parquet, .tar"):
        load_pairs(tmp_path / "notes.doc")
    write_table(write_images(tmp_path / "mixed") / "a.csv")
    with pytest.raises(ValueError, match="files are of different kinds, .csv, .png"):
        load_pairs(str(tmp_path / "mixed" / "*"))
