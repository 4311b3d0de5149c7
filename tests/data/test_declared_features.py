# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Files that say of their own columns that they hold images: `datasets` would open what is in them; nothing may."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest

from clip_hf.data import PairOptions, load_pairs, read_captions
from clip_hf.evaluation import load_classification, load_retrieval
from pair_data import encoded, image_of


# `datasets` opens it as soon as it decodes a row, and fails, because there is no such file.
PATH = {"bytes": None, "path": "simplecache::reference://a.png::file:///nowhere/refs.json"}
EXTRA = {
    "image": (datasets.Image(), PATH),
    "list": (datasets.List(datasets.Image()), [PATH]),
    "large list": (datasets.LargeList(datasets.Image()), [PATH]),
    "struct": ({"inner": datasets.Image()}, {"inner": PATH}),
    "list of structs": (datasets.List({"inner": datasets.List(datasets.Image())}), [{"inner": [PATH]}]),
}


pytestmark = pytest.mark.usefixtures("own_cache")


def with_column(name: str, feature: Any, value: Any) -> datasets.Dataset:
    """Three rows with images, captions and labels, and one column that is something else."""
    features = {
        "image": datasets.Image(),
        "caption": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["a", "b"]),
    }
    columns = {
        "image": [{"bytes": encoded(image_of(number)), "path": None} for number in range(3)],
        "caption": [f"caption {number}" for number in range(3)],
        "label": [0, 1, 0],
    }
    columns, features = {**columns, name: [value] * 3}, datasets.Features({**features, name: feature})
    return datasets.Dataset.from_dict(columns, features=features)


def parquet(folder: Path, data: datasets.Dataset) -> str:
    """The rows as a file, written without `datasets`, which opens paths to store the files instead."""
    pq.write_table(data.data.table.cast(data.features.arrow_schema), folder / "rows.parquet")
    return str(folder / "rows.parquet")


@pytest.mark.parametrize("kind", EXTRA)
@pytest.mark.parametrize(
    "load",
    [
        load_pairs,
        lambda source: load_pairs(source, streaming=True),
        lambda source: load_retrieval(source).data,
        lambda source: load_classification(source).data,
    ],
    ids=["map-style", "stream", "retrieval", "classification"],
)
def test_other_columns_are_not_opened(tmp_path, load: Callable, kind: str):
    feature, value = EXTRA[kind]
    rows = list(load(parquet(tmp_path, with_column("extra", feature, value))))
    assert [row["caption"] for row in rows] == [f"caption {number}" for number in range(3)]
    assert rows[0]["extra"] == value
    assert rows[0]["image"]["bytes"] == encoded(image_of(0))


def test_data_in_memory(tmp_path):
    data = with_column("extra", *EXTRA["image"])
    assert load_classification(data).data[0]["extra"] == PATH
    assert load_retrieval(data).data[0]["extra"] == PATH


@pytest.mark.parametrize("streaming", [False, True])
def test_captions_that_claim_to_be_images_are_bad_rows(tmp_path, streaming: bool):
    source = parquet(tmp_path, with_column("title", *EXTRA["image"]))
    options = PairOptions(caption_column="title")
    assert [row["title"] for row in load_pairs(source, streaming=streaming, options=options)] == [PATH] * 3
    with pytest.raises(ValueError, match="Row 0 has no caption but"):
        read_captions(with_column("title", *EXTRA["image"]), "title")


def test_nothing_is_copied():
    """The images stay where they are: one buffer."""
    data = with_column("extra", *EXTRA["image"])
    loaded = load_retrieval(data).data
    stored, kept = (each.data.column("image").chunk(0).field("bytes").buffers()[2] for each in (data, loaded))
    assert stored.address == kept.address
