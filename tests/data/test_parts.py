# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Parts of sources: which there are, which is read, and that one that is not there is an error."""

import csv
from pathlib import Path

import datasets
import pytest

from clip_hf.data import PairOptions, load_pairs, split_names
from clip_hf.evaluation import CaptionedDataOptions, load_retrieval
from pair_data import (
    caption_of,
    dataset_of,
    encoded,
    image_of,
    rows_of,
    samples_of,
    use_openmoji,
    write_parquet,
    write_tar,
)


pytestmark = pytest.mark.usefixtures("own_cache")


def pairs_in(folder: Path, rows: range) -> Path:
    folder.mkdir(parents=True)
    for number in rows:
        (folder / f"{number}.png").write_bytes(encoded(image_of(number)))
        (folder / f"{number}.txt").write_text(caption_of(number))
    return folder


def table(path: Path) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["image", "caption"], *([f"{n}.png", caption_of(n)] for n in range(10))])
    pairs_in(path.parent / "pictures", range(10))
    return path


def parquet(path: Path, rows: range) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset_of(rows_of(rows)).to_parquet(path)
    return path


def saved(folder: Path) -> Path:
    dataset_of(rows_of(range(10))).save_to_disk(folder)
    return folder


WHOLE = {
    "table": lambda folder: table(folder / "pairs.csv"),
    "tar": lambda folder: write_tar(folder / "00000.tar", samples_of(range(10))),
    "parquet": lambda folder: parquet(folder / "pairs.parquet", range(10)),
    "folder of Parquet": lambda folder: parquet(folder / "data" / "pairs.parquet", range(10)).parent,
    "folder": lambda folder: pairs_in(folder / "data", range(10)),
    "saved": lambda folder: saved(folder / "data"),
}


def splits_of_files(folder: Path) -> Path:
    for name, rows in (("train-00000-of-00002", range(5)), ("train-00001-of-00002", range(5, 8)), ("val_0", range(2))):
        parquet(folder / "data" / f"{name}.parquet", rows)
    return folder


def splits_of_tars(folder: Path) -> Path:
    for name, rows in (("train-0", range(8)), ("val-0", range(2))):
        (folder / "tars").mkdir(parents=True, exist_ok=True)
        write_tar(folder / "tars" / f"{name}.tar", samples_of(rows))
    return folder


def splits_of_folders(folder: Path) -> Path:
    pairs_in(folder / "train", range(8))
    pairs_in(folder / "val", range(2))
    pairs_in(folder / "notes", range(3))
    return folder


def saved_splits(folder: Path) -> Path:
    rows = dataset_of(rows_of(range(8)))
    datasets.DatasetDict(train=rows, val=rows.select([0, 1])).save_to_disk(folder)
    return folder


PARTS = [splits_of_files, splits_of_tars, splits_of_folders, saved_splits]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", WHOLE)
def test_data_without_parts(kind, streaming, tmp_path):
    source = WHOLE[kind](tmp_path)
    assert split_names(source) == ()
    assert len(list(load_pairs(source, streaming=streaming))) == 10
    assert len(list(load_pairs(source, split="train", streaming=streaming))) == 10
    for split in ("nonsense", "test", "nonsense[:10%]"):
        with pytest.raises(ValueError, match=f"has no splits, so there is no `{split.partition('[')[0]}`. Leave"):
            load_pairs(source, split=split, streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("make", PARTS)
def test_data_with_parts(make, streaming, tmp_path):
    source = make(tmp_path / "data")
    assert split_names(source) == ("train", "val")
    assert len(list(load_pairs(source, streaming=streaming))) == 8
    # Another usual name of the part.
    assert len(list(load_pairs(source, split="validation", streaming=streaming))) == 2
    with pytest.raises(ValueError, match="has no split `test`; it has train, val"):
        load_pairs(source, split="test", streaming=streaming)


@pytest.mark.parametrize("make", [*PARTS, *WHOLE.values()])
def test_slices_and_sums(make, tmp_path):
    source = make(tmp_path)
    count = len(load_pairs(source))
    assert list(load_pairs(source, split="train[:50%]")["caption"]) == list(map(caption_of, range(count // 2)))
    assert list(load_pairs(source, split="train[-1:]")["caption"]) == [caption_of(count - 1)]
    if split_names(source):
        assert len(load_pairs(source, split="train[:3]+validation")) == 5
    with pytest.raises(ValueError, match="streams have no slices"):
        load_pairs(source, split="train[:50%]", streaming=True)
    with pytest.raises(ValueError, match="must be a part's name, or a slice"):
        load_pairs(source, split="train[:50%")


def test_several_sources_each_have_the_part(tmp_path):
    one, two = splits_of_folders(tmp_path / "one"), parquet(tmp_path / "two.parquet", range(3))
    assert len(load_pairs([one, two])) == 11
    with pytest.raises(ValueError, match="two.parquet has no splits, so there is no `validation`"):
        load_pairs([one, two], split="validation")


def test_files_that_are_named_are_what_is_meant(tmp_path):
    folder = splits_of_files(tmp_path / "data") / "data"
    assert split_names(folder / "val_0.parquet") == ("val",)
    assert len(load_pairs(folder / "val_0.parquet")) == 2
    assert split_names(folder / "*.parquet") == ("train", "val") and len(load_pairs(folder / "*.parquet")) == 8
    parquet(folder / "more.parquet", range(1))
    with pytest.raises(ValueError, match="more.parquet belongs to no split, but others do"):
        load_pairs(folder)


def test_a_topic_may_be_called_test(tmp_path):
    for topic in ("cats", "test"):
        pairs_in(tmp_path / "data" / topic, range(2))
    assert split_names(tmp_path / "data") == () and len(load_pairs(tmp_path / "data")) == 4


def test_parts_on_the_hub(monkeypatch):
    def load_dataset(name, config, split, streaming):
        if split not in ("training", "val"):
            raise ValueError(f"Unknown split {split!r}.")
        return dataset_of(rows_of(range(4 if split == "training" else 2)))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config: ["training", "val"])
    assert split_names("someone/cats") == ("training", "val")
    assert len(load_pairs("someone/cats")) == 4 and len(load_pairs("someone/cats", split="validation")) == 2
    with pytest.raises(ValueError, match="cats has no split `nonsense`; it has training, val"):
        load_pairs("someone/cats", split="nonsense")


def test_openmoji_has_parts(monkeypatch):
    data = datasets.DatasetDict(train=dataset_of(rows_of(range(3))), test=dataset_of(rows_of([0])))
    use_openmoji(monkeypatch, data)
    assert split_names("openmoji") == ("train", "test")
    with pytest.raises(ValueError, match="openmoji has no split `validation`; it has train, test"):
        load_pairs("openmoji", split="validation")


@pytest.mark.parametrize("kind", WHOLE)
def test_retrieval_without_parts(kind, tmp_path):
    source = WHOLE[kind](tmp_path)
    data = load_retrieval(source)
    assert len(data) == 10 and data.split == "all"
    with pytest.raises(ValueError, match="no splits, so there is no `test`"):
        load_retrieval(source, CaptionedDataOptions(split="test"))


@pytest.mark.parametrize("make", PARTS)
def test_retrieval_of_parts(make, tmp_path):
    source = make(tmp_path / "data")
    assert load_retrieval(source).split == "val" and len(load_retrieval(source)) == 2
    assert len(load_retrieval(source, CaptionedDataOptions(split="train"))) == 8
    assert len(load_retrieval(source, CaptionedDataOptions(split="train[:4]"))) == 4
    with pytest.raises(ValueError, match="has no split `nonsense`; it has train, val"):
        load_retrieval(source, CaptionedDataOptions(split="nonsense"))


def test_other_columns_in_parts(tmp_path):
    write_parquet(tmp_path / "data", rows_of(range(4)))
    with pytest.raises(ValueError, match="no column 'text'"):
        load_pairs(tmp_path / "data", split="train", options=PairOptions(caption_column="text"))
