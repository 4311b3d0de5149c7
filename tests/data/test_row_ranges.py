# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Ranges of rows of tables and Parquet files: in little memory, in one pass, and of files that stay as they are."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_hf.data import row_ranges
from clip_hf.data.row_shards import RowColumns, shard_rows
from pair_data import encoded, image_of, samples_of, write_tar


def only_shard(path: Path, **columns):
    (shard,) = shard_rows(path, RowColumns(**columns)).shards
    return shard


def write_large(path: Path, count: int, size: int, row_group_size: int) -> None:
    images = [{"bytes": encoded(image_of(n)).ljust(size, b"\0"), "path": None} for n in range(count)]
    table = pa.table({"image": images, "caption": [str(n) for n in range(count)]})
    pages = {"data_page_size": 2**16, "write_batch_size": 4, "use_dictionary": False}
    pq.write_table(table, path, row_group_size=row_group_size, compression="none", **pages)


class Counted:
    """A file that counts the bytes that are read of it."""

    def __init__(self, path: str):
        self.file, self.bytes, self.closed = open(path, "rb"), 0, False

    def read(self, *arguments) -> bytes:
        data = self.file.read(*arguments)
        self.bytes += len(data)
        return data

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()


def test_a_large_row_group_is_read_a_little_at_a_time(tmp_path, monkeypatch):
    write_large(tmp_path / "a.parquet", 400, 50_000, 400)
    shard = only_shard(tmp_path / "a.parquet")
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 1
    files = []

    def opened(path: str) -> Counted:
        files.append(Counted(path))
        return files[-1]

    monkeypatch.setattr(row_ranges, "open_file", opened)
    assert [row["caption"] for row in shard.read(0, 8)] == list(map(str, range(8)))
    assert sum(file.bytes for file in files) < 5_000_000  # of 20 million
    # Further parts go on where the last one ended, instead of reading the row group from its beginning.
    for start in range(8, 400, 8):
        assert [row["caption"] for row in shard.read(start, start + 8)] == list(map(str, range(start, start + 8)))
    assert len(files) == 1 and files[0].bytes < 22_000_000


def test_only_the_row_groups_that_hold_the_rows_are_read(tmp_path, monkeypatch):
    write_large(tmp_path / "a.parquet", 40, 50_000, 10)
    shard = only_shard(tmp_path / "a.parquet")
    files = []
    monkeypatch.setattr(row_ranges, "open_file", lambda path: files.append(Counted(path)) or files[-1])
    assert [row["caption"] for row in shard.read(31, 33)] == ["31", "32"]
    assert files[0].bytes < 2_000_000
    assert [row["caption"] for row in shard.read(5, 12)] == list(map(str, range(5, 12)))
    assert [row["caption"] for row in shard.read(35, None)] == list(map(str, range(35, 40)))
    assert len(files) == 3 and files[2].bytes < 2_000_000


def test_row_groups_and_files_without_rows_are_no_trouble(tmp_path):
    rows = [pa.table({"image": [encoded(image_of(n))], "caption": [str(n)]}) for n in range(4)]
    with pq.ParquetWriter(tmp_path / "a.parquet", rows[0].schema) as writer:
        for table in (
            rows[0].slice(0, 0),
            rows[0],
            rows[1],
            rows[1].slice(0, 0),
            rows[2],
            rows[3],
            rows[3].slice(0, 0),
        ):
            writer.write_table(table)
    pq.write_table(rows[0].slice(0, 0), tmp_path / "b.parquet")
    first, second = shard_rows(tmp_path, RowColumns()).shards
    assert (first.num_rows, second.num_rows) == (4, 0) and list(second.read(0, None)) == []
    for start, stop in ((0, 1), (1, 3), (2, 4), (3, None), (0, None), (4, None)):
        assert [row["caption"] for row in first.read(start, stop)] == list("0123"[start:stop])


def test_few_files_stay_open(tmp_path):
    """A job may have a hundred thousand files, and go from one to another in the middle."""
    image = encoded(image_of(0))
    (tmp_path / "a.png").write_bytes(image)
    for number in range(60):
        pq.write_table(pa.table({"image": [image] * 4, "caption": list("abcd")}), tmp_path / f"{number}.parquet")
        (tmp_path / f"{number}.csv").write_text("image,caption\n" + "".join(f"a.png,{text}\n" for text in "abcd"))
    for kind in ("parquet", "csv"):
        before = len(os.listdir("/proc/self/fd"))
        shards = shard_rows(f"{tmp_path}/*.{kind}", RowColumns()).shards
        for start in (0, 2):
            for shard in shards:
                assert [row["caption"] for row in shard.read(start, start + 2)] == list("abcd"[start : start + 2])
            assert len(os.listdir("/proc/self/fd")) <= before + 17
        # Nothing is left open of what was read to its last row.
        assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.parametrize("kind", ["csv", "parquet", "tar"])
def test_a_file_that_changed_meanwhile_is_an_error(kind, tmp_path):
    path = tmp_path / f"a.{kind}"

    def write() -> None:
        if kind == "tar":
            write_tar(path, samples_of(range(4)))
        elif kind == "csv":
            path.write_text("image,caption\n" + "a.png,a\n" * 4)
        else:
            pq.write_table(pa.table({"image": ["a.png"] * 4, "caption": ["a"] * 4}), path)

    write()
    shard = only_shard(path)
    assert len(list(shard.read(0, 2))) == 2
    write()
    os.utime(path, ns=(1, 1))
    with pytest.raises(ValueError, match=rf"a.{kind} has changed since its rows were counted. Run this again"):
        list(shard.read(0, 2))


@pytest.mark.parametrize("kind", ["no Parquet", "cut", "empty", "damaged inside"])
def test_a_damaged_parquet_file_is_named(kind, tmp_path):
    path = tmp_path / "a.parquet"
    write_large(path, 40, 5_000, 40)
    whole = path.read_bytes()
    inside = whole[:20_000] + b"\xff" * 60_000 + whole[80_000:]
    path.write_bytes({"no Parquet": b"<html>" * 99, "cut": whole[:9000], "empty": b"", "damaged inside": inside}[kind])
    with pytest.raises(ValueError, match=r"a.parquet is damaged, or no Parquet file: "):
        list(only_shard(path).read(0, None))


def test_what_a_reader_says_of_a_table_is_said_again(tmp_path):
    """A reader that failed does not look like one that came to its end."""
    (tmp_path / "a.csv").write_text('image,caption\na.png,a\nb.png,"b\n')
    with pytest.raises(ValueError, match="Line 3"):
        shard_rows(tmp_path / "a.csv", RowColumns())
    reader = row_ranges.TableRanges(str(tmp_path / "a.csv"), RowColumns(), 3)
    for _ in range(2):
        with pytest.raises(ValueError, match="Line 3"):
            list(reader(1, None))


@pytest.mark.parametrize("kind", ["bytes", "struct", "struct without path", "path", "category", "large"])
def test_images_in_parquet_of_every_form(kind, tmp_path):
    data, path = encoded(image_of(0)), "photos/a.png"
    column = {
        "bytes": pa.array([data]),
        "struct": pa.array([{"bytes": data, "path": None}]),
        "struct without path": pa.array([{"bytes": data}]),
        "path": pa.array([path]),
        "category": pa.array([path]).dictionary_encode(),
        "large": pa.array([path], pa.large_string()),
    }[kind]
    pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet")
    (row,) = only_shard(tmp_path / "a.parquet").read(0, None)
    image = row["image"]
    expected = data if column.type == pa.binary() else f"{tmp_path}/photos/a.png"
    assert (image["bytes"] if isinstance(image, dict) else image) == (data if "struct" in kind else expected)


def test_a_column_that_holds_no_images_is_an_error(tmp_path):
    pq.write_table(pa.table({"image": [[1.0, 2.0]], "caption": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"'image' of .*a.parquet holds list<.*>; images are files' bytes, paths, or"):
        shard_rows(tmp_path / "a.parquet", RowColumns())


def test_columns_of_numbers_do_not_number_the_rows(tmp_path):
    values = {"id": [7, 7], "index": [9, 8], "__key__": ["x", "x"], "row": [5, 5], "image": ["a.png", "b.png"]}
    pq.write_table(pa.table(values), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("id,index,__key__,row,image\n7,9,x,5,a.png\n7,8,x,5,b.png\n")
    for name in ("a.parquet", "a.csv"):
        rows = list(only_shard(tmp_path / name).read(0, None))
        assert [row.keys() - {"caption"} for row in rows] == [{"image"}] * 2
