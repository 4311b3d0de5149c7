# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Captions that are a `ClassLabel`: the names of the classes, for images and films, wherever captions are read."""

from typing import Any

import datasets
import pytest

from clip_hf.data import ImageTextDataset, PairLoader, PairOptions, hold_out, iter_texts, load_pairs, read_captions
from clip_hf.data.row_shards import RowColumns, shard_rows
from clip_hf.evaluation import CaptionedDataOptions, load_retrieval
from films import numbered_frames, write_film
from pair_data import encoded, image_of


NAMES = ["red_square", "circle"]
TEXTS = ["circle", "red square", "circle", "circle"]
OPTIONS = PairOptions(caption_column="label")

pytestmark = pytest.mark.usefixtures("own_cache")


def labelled(labels: list[Any] | None = None, feature: Any = None) -> datasets.Dataset:
    """Four images with labels."""
    feature = datasets.ClassLabel(names=NAMES) if feature is None else feature
    images = [{"bytes": encoded(image_of(number)), "path": None} for number in range(4)]
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    return datasets.Dataset.from_dict({"image": images, "label": labels or [1, 0, 1, 1]}, features=features)


def saved(folder, kind: str, data: datasets.Dataset) -> str:
    if kind == "saved":
        data.save_to_disk(str(folder / "data"))
        return str(folder / "data")
    data.to_parquet(str(folder / "data.parquet"))
    return str(folder / "data.parquet")


def batch_of(data: Any, processor, options: PairOptions = OPTIONS) -> dict[str, Any]:
    return next(iter(PairLoader(data, processor, options, batch_size=4, num_steps=1)))


@pytest.mark.parametrize("kind", ["saved", "parquet"])
def test_files(kind, tmp_path, tiny_processor):
    source = saved(tmp_path, kind, labelled())
    data = load_pairs(source, options=OPTIONS)
    assert data["label"] == TEXTS and list(iter_texts(data, OPTIONS)) == TEXTS
    assert data.column_names == ["image", "label"]
    token_ids = {tuple(tiny_processor(text=[text])["input_ids"][0]) for text in TEXTS}
    for streaming in (False, True):
        batch = batch_of(load_pairs(source, streaming=streaming, options=OPTIONS), tiny_processor)
        assert sorted(batch["text_ids"].tolist().count(each) for each in set(batch["text_ids"].tolist())) == [1, 3]
        assert not batch["skipped"] and len(token_ids) == 2
    retrieval = load_retrieval(source, CaptionedDataOptions(caption_column="label"))
    assert retrieval.captions == [[text] for text in TEXTS]
    (shard,) = shard_rows(source, RowColumns(caption_column="label")).shards
    assert [row["label"] for row in shard.read(0, None)] == TEXTS
    assert [row["label"] for row in shard.read(1, 3)] == TEXTS[1:3]
    # Together with captions that are texts.
    both = load_pairs([source, saved(tmp_path, "parquet", labelled(TEXTS, datasets.Value("string")))], options=OPTIONS)
    assert both["label"] == TEXTS * 2


def test_data_in_memory(tiny_processor):
    data = labelled().select([3, 1, 2])
    assert read_captions(data, "label") == [["circle"], ["red square"], ["circle"]]
    pairs = ImageTextDataset(data, tiny_processor.image_processor, OPTIONS)
    assert [pairs[row]["text"] for row in range(3)] == ["circle", "red square", "circle"]
    stream = labelled().to_iterable_dataset()
    assert list(iter_texts(stream, OPTIONS)) == TEXTS and batch_of(stream, tiny_processor)["skipped"] == []
    named = labelled(TEXTS, datasets.Value("string"))
    sides, expected = (hold_out(each, 0.5, OPTIONS) for each in (labelled(), named))
    assert [len(side) for side in sides] == [len(side) for side in expected]
    in_templates = PairOptions(caption_column="label", templates=("a {label}",))
    assert list(iter_texts(data, in_templates)) == ["a circle", "a red square", "a circle"]


def test_lists_of_classes_and_rows_without_one():
    data = labelled([[0, 1], [1], [0], [1]], datasets.List(datasets.ClassLabel(names=NAMES)))
    assert read_captions(data, "label") == [["red square", "circle"], ["circle"], ["red square"], ["circle"]]
    assert list(iter_texts(labelled([1, -1, 0, None]), OPTIONS)) == ["circle", "red square"]
    with pytest.raises(ValueError, match="Row 1 has no caption but None"):
        read_captions(labelled([1, -1, 0, 0]), "label")


def test_films(tmp_path, tiny_processor):
    rows = []
    for number, label in enumerate([1, 0]):
        write_film(tmp_path / f"{number}.mp4", numbered_frames(8))
        rows.append({"video": str(tmp_path / f"{number}.mp4"), "label": label})
    features = datasets.Features({"video": datasets.Video(), "label": datasets.ClassLabel(names=NAMES)})
    data = datasets.Dataset.from_list(rows, features=features)
    source, options = saved(tmp_path, "saved", data), PairOptions(caption_column="label", num_frames=2)
    assert load_pairs(source, options=options)["label"] == ["circle", "red square"]
    for streaming in (False, True):
        data = load_pairs(source, streaming=streaming, options=options)
        assert list(iter_texts(data, options)) == ["circle", "red square"]


def test_numbers_without_names_stay_an_error(tmp_path, tiny_processor):
    data = labelled(feature=datasets.Value("int64"))
    source = saved(tmp_path, "saved", data)
    for given in (data, load_pairs(source, options=OPTIONS)):
        with pytest.raises(ValueError, match="caption of a wrong type. Row 0 has no caption but 1; it needs a string"):
            batch_of(given, tiny_processor)
