# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Parquet files in training and evaluation: damaged ones are named, and files with different columns are read."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_hf.data import load_pairs
from clip_hf.evaluation import load_retrieval
from pair_data import encoded, image_of


pytestmark = pytest.mark.usefixtures("own_cache")
READERS = {
    "training": load_pairs,
    "stream": lambda source: list(load_pairs(source, streaming=True)),
    "evaluation": load_retrieval,
}


def write(path, **columns) -> None:
    values = {"image": [encoded(image_of(n)) for n in range(40)], "caption": list(map(str, range(40))), **columns}
    values = {name: column for name, column in values.items() if column is not None}
    pq.write_table(pa.table(values), path, compression="none", use_dictionary=False)


@pytest.mark.parametrize("kind", ["no Parquet", "cut", "empty"])
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_named(reader, kind, tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.parquet")
    whole = (tmp_path / "1.parquet").read_bytes()
    (tmp_path / "1.parquet").write_bytes({"no Parquet": b"<html>" * 99, "cut": whole[:-5], "empty": b""}[kind])
    with pytest.raises(ValueError, match=r"1.parquet is damaged, or no Parquet file: "):
        READERS[reader](tmp_path)


@pytest.mark.parametrize("reader", ["training", "evaluation"])
def test_a_file_that_is_damaged_inside_is_named(reader, tmp_path):
    for number in range(2):
        write(tmp_path / f"{number}.parquet")
    whole = (tmp_path / "1.parquet").read_bytes()
    (tmp_path / "1.parquet").write_bytes(whole[:2000] + b"\xff" * (len(whole) - 5000) + whole[-3000:])
    with pytest.raises(ValueError, match=r"1.parquet is damaged, or no Parquet file: "):
        READERS[reader](tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_columns_that_only_some_files_have_are_left_out(reader, tmp_path, caplog):
    write(tmp_path / "0.parquet", more=list(range(40)))
    write(tmp_path / "1.parquet", other=["x"] * 40)
    assert len(READERS[reader](tmp_path)) == 80
    assert "Those that some lack are not read: 'more', 'other'." in caplog.text
    write(tmp_path / "1.parquet", caption=None, captions=["x"] * 40)
    with pytest.raises(ValueError, match="caption"):
        READERS[reader](tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_columns_of_different_kinds_are_named_with_their_files(reader, tmp_path):
    write(tmp_path / "0.parquet")
    write(tmp_path / "1.parquet", caption=[["a", "b"]] * 40)
    with pytest.raises(ValueError, match=r"'caption' holds string in .*0.parquet, but list<.*> in .*1.parquet"):
        READERS[reader](tmp_path)
