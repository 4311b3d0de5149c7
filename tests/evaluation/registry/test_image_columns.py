# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Whichever column is taken for the images, its paths lead nowhere else."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_hf.data import load_pairs
from clip_hf.evaluation.registry.evaluation_data import ClassificationOptions, load_classification
from clip_hf.model.image_reading_clip_hf import UnreadableImage, open_image
from pair_data import encoded, image_of


@pytest.fixture
def places(tmp_path):
    """A folder of data with a picture, and a picture outside."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(image_of(0)))
    (tmp_path / "secret.png").write_bytes(encoded(image_of(1)))
    return folder, str(tmp_path / "secret.png")


def assert_not_opened(source, error=(UnreadableImage, TypeError)):
    with pytest.raises(error):
        open_image(source)


@pytest.mark.parametrize("column", ["picture", "img", "image_path", "file_name"])
def test_any_column_of_a_table(column, places):
    folder, secret = places
    first = "image" if column == "file_name" else "file_name"
    (folder / "t.csv").write_text(f"{first},{column},label\na.png,{secret},cat\n")
    options = ClassificationOptions(image_column=column, class_names=["cat"])
    data = load_classification(str(folder / "t.csv"), options)
    assert_not_opened(data.data[0][data.image_column])


def test_a_registry_name_takes_no_column_of_paths(places):
    folder, secret = places
    (folder / "t.csv").write_text(f"file_name,img,label\na.png,{secret},0\n")
    data = load_classification(f"cifar10={folder / 't.csv'}")
    assert_not_opened(data.data[0][data.image_column])
    with tarfile.open(folder / "t.tar", "w") as tar:
        for name, content in (
            ("a.png", encoded(image_of(0))),
            ("a.json", json.dumps({"image": secret, "label": 0}).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = load_classification(f"food101={folder / 't.tar'}")
    source = data.data[0][data.image_column]
    if isinstance(source, str) or source.get("bytes") is None:
        assert_not_opened(source)


@pytest.mark.parametrize("streaming", [False, True])
def test_bytes_that_are_a_text(streaming, places):
    folder, secret = places
    kind = pa.struct([("bytes", pa.string()), ("path", pa.string())])
    table = pa.table({"image": pa.array([{"bytes": secret, "path": None}] * 3, kind), "caption": ["a", "b", "c"]})
    pq.write_table(table, folder / "p.parquet")
    try:
        rows = list(load_pairs(str(folder / "p.parquet"), streaming=streaming))
    except ValueError:
        return
    for row in rows:
        assert_not_opened(row["image"])


def test_arrays_of_nothing_cost_nothing():
    from clip_hf.data.labelled_tars import _array

    for shape, dtype in (((30_000_000, 0), "<f4"), ((100_000_000,), "|S0")):
        with io.BytesIO() as file:
            header = {"descr": dtype, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            assert _array(file.getvalue()) is None
