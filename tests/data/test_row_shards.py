# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows by shards: any range of any source, the same numbers always, and fingerprints that tell sources apart."""

import pickle
import shutil
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clip_hf.data.row_shards import RowColumns, image_name, read_list, shard_rows
from clip_hf.model.image_reading_clip_hf import REFUSED, UnreadableImage, fetch_file, open_image, refused_location
from pair_data import as_stream, caption_of, dataset_of, encoded, image_of, rows_of, write_parquet, write_tar


ROWS = 13
KINDS = ("folder", "table", "parquet", "tar", "list", "dataset", "stream")


def make_source(kind: str, folder: Path, monkeypatch) -> str:
    folder.mkdir()
    for number in range(ROWS):
        image_of(number).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(caption_of(number))
    if kind == "folder":
        return str(folder)
    if kind == "table":
        lines = [f"{number:02d}.png\t{caption_of(number)}\n" for number in range(ROWS)]
        (folder / "table.tsv").write_text("image\tcaption\n" + "".join(lines))
        return str(folder / "table.tsv")
    if kind == "list":
        (folder / "list.txt").write_text("\ufeff" + "\n".join(f"{number:02d}.png" for number in range(ROWS)))
        return str(folder / "list.txt")
    if kind == "tar":
        samples = [{"png": encoded(image_of(n)), "txt": caption_of(n).encode()} for n in range(ROWS)]
        return write_tar(folder / "a.tar", samples)
    pattern = write_parquet(folder / "parquet", rows_of(range(ROWS)), 2)
    if kind == "parquet":
        return pattern
    if kind == "dataset":
        dataset_of(rows_of(range(ROWS))).save_to_disk(str(folder / "saved"))
        return str(folder / "saved")
    return as_stream(pattern, monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
def test_any_range_of_any_source_can_be_read(kind, tmp_path, monkeypatch, own_cache):
    found = shard_rows(make_source(kind, tmp_path / "data", monkeypatch), RowColumns())
    found = pickle.loads(pickle.dumps(found)) if kind not in ("folder", "list") else found
    assert found.kind == kind and found.has_captions == (kind != "list")
    whole = [list(shard.read(0, None)) for shard in found.shards]
    assert sum(map(len, whole)) == ROWS
    images = [open_image(row["image"]) for rows in whole for row in rows]
    assert [image.tobytes() for image in images] == [image_of(number).tobytes() for number in range(ROWS)]
    if found.has_captions:
        assert [row["caption"] for rows in whole for row in rows] == [caption_of(number) for number in range(ROWS)]
    for shard, rows in zip(found.shards, whole, strict=True):
        assert shard.num_rows == (None if kind in ("tar", "stream") else len(rows))
        for start, stop in ((0, 3), (3, 5), (5, None), (2, 4), (1, 3), (len(rows) - 1, len(rows)), (1, 1)):
            assert list(shard.read(start, stop)) == rows[start:stop]


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_fingerprint_is_that_of_the_rows_and_not_of_their_place(kind, tmp_path, monkeypatch, own_cache):
    source = make_source(kind, tmp_path / "data", monkeypatch)
    before = shard_rows(source, RowColumns()).fingerprint
    assert shard_rows(source, RowColumns()).fingerprint == before
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
    moved = source.replace(str(tmp_path / "data"), str(tmp_path / "elsewhere"))
    assert shard_rows(moved, RowColumns()).fingerprint == before
    (tmp_path / "elsewhere" / "00.png").rename(tmp_path / "elsewhere" / "0.png")
    if kind == "folder":
        assert shard_rows(moved, RowColumns()).fingerprint != before


@pytest.mark.parametrize("kind", ["table", "list", "parquet", "paths in parquet", "tar"])
def test_a_fingerprint_tells_rows_in_another_order_though_sizes_are_the_same(kind, tmp_path):
    fingerprints, sizes = set(), set()
    for order in (range(9), reversed(range(9))):
        rows = [{"image": encoded(image_of(0)), "caption": f"caption {number}"} for number in order]
        (tmp_path / "data").mkdir(exist_ok=True)
        path = tmp_path / "data" / {"table": "a.csv", "list": "a.txt", "tar": "a.tar"}.get(kind, "a.parquet")
        if kind in ("table", "list"):
            header = "" if kind == "list" else "image,caption\n"
            path.write_text(header + "".join(f"{row['caption']}.png,c\n" for row in rows))
        elif kind == "tar":
            write_tar(path, [{"png": row["image"], "txt": row["caption"].encode()} for row in rows])
        else:
            data = rows if kind == "parquet" else [{"image": f"{row['caption']}.png", "caption": "c"} for row in rows]
            pq.write_table(pa.Table.from_pylist(data), path, compression="none")
        sizes.add(path.stat().st_size)
        fingerprints.add(shard_rows(path, RowColumns()).fingerprint)
    assert len(sizes) == 1 and len(fingerprints) == 2


def test_images_in_another_order_within_parquet_are_told_by_the_first(tmp_path):
    fingerprints = set()
    for order in ((0, 1, 2), (2, 1, 0)):
        images = [encoded(image_of(number)).ljust(100_000, b"\0") for number in order]
        table = pa.table({"image": [{"bytes": image, "path": None} for image in images]})
        pq.write_table(table, tmp_path / "a.parquet", compression="none", write_statistics=False)
        fingerprints.add(shard_rows(tmp_path / "a.parquet", RowColumns()).fingerprint)
    assert len(fingerprints) == 2


def test_paths_in_data_lead_where_they_may(tmp_path):
    (tmp_path / "data").mkdir()
    image_of(0).save(tmp_path / "outside.png")
    image_of(1).save(tmp_path / "data" / "inside.png")
    rows = {"image": ["inside.png", "../outside.png", None], "caption": ["a", "b", "c"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "data" / "rows.parquet")
    for root, is_refused in ((None, True), (str(tmp_path), False)):
        (shard,) = shard_rows(tmp_path / "data" / "rows.parquet", RowColumns(image_root=root)).shards
        inside, outside, missing = (row["image"] for row in shard.read(0, None))
        assert inside == f"{tmp_path}/data/inside.png" and missing is None
        assert outside.startswith(REFUSED) == is_refused
    (tmp_path / "data" / "list.txt").write_text(f"../outside.png\n{tmp_path}/outside.png\nftp://x/y.png\n")
    (shard,) = shard_rows(tmp_path / "data" / "list.txt", RowColumns()).shards
    first, second, third = (row["image"]["path"] for row in shard.read(0, None))
    assert first == second == f"{tmp_path}/outside.png" and third.startswith(REFUSED)


def test_names_are_relative_to_the_data(tmp_path):
    folder = str(tmp_path)
    for image, name in (
        (f"{folder}/a/b.png", "a/b.png"),
        ({"bytes": b"", "path": f"{folder}/x.tar/a.png"}, "x.tar/a.png"),
        ({"bytes": b"", "path": None}, ""),
        (f"{folder}more/b.png", f"{folder}more/b.png"),
        ("https://example.org/a.png", "https://example.org/a.png"),
        (f"{REFUSED}file damaged\nno.", ""),
        (refused_location("file name not UTF-8", "no.", f"{folder}/a: b.png"), "a: b.png"),
        (f"{REFUSED}../caf\udce9: b\n.png", "../caf\\udce9: b\n.png"),
        ("data:image/png;base64,aaaa", ""),
        ("caf\udce9.png", "caf\\udce9.png"),
        (None, ""),
    ):
        assert image_name(image, folder) == name


def test_what_is_needed_must_be_there(tmp_path, monkeypatch):
    table = make_source("table", tmp_path / "data", monkeypatch)
    with pytest.raises(ValueError, match="no column 'photo'"):
        shard_rows(table, RowColumns(image_column="photo"))
    only_images = tmp_path / "data" / "images.csv"
    only_images.write_text("image\n00.png\n")
    with pytest.raises(ValueError, match="no column 'caption'"):
        shard_rows(only_images, RowColumns(), captions=True)
    assert not shard_rows(only_images, RowColumns()).has_captions
    with pytest.raises(ValueError, match="has no splits, so there is no `test`"):
        shard_rows(table, RowColumns(split="test"))
    with pytest.raises(ValueError, match="There is no file"):
        shard_rows(tmp_path / "nowhere.txt", RowColumns())
    assert read_list(make_source("list", tmp_path / "lists", monkeypatch))[0] == "00.png"


def test_captions_that_begin_late_are_found(tmp_path):
    image = encoded(image_of(0))
    (tmp_path / "folder").mkdir()
    for number in range(1002):
        (tmp_path / "folder" / f"{number:04d}.png").write_bytes(image)
    (tmp_path / "folder" / "other.txt").write_text("beside no image")
    assert not shard_rows(tmp_path / "folder", RowColumns()).has_captions
    (tmp_path / "folder" / "1001.txt").write_text("a")
    assert shard_rows(tmp_path / "folder", RowColumns()).has_captions
    tar = write_tar(tmp_path / "a.tar", [{"png": image}] * 300 + [{"png": image, "txt": b"a"}])
    assert not shard_rows(tar, RowColumns()).has_captions
    assert shard_rows(tar, RowColumns(), captions=True).has_captions
    later = write_tar(tmp_path / "b.tar", [{"png": image}] * 100 + [{"png": image, "txt": b"a"}])
    assert shard_rows(later, RowColumns()).has_captions


def test_every_parquet_file_must_have_the_columns_that_are_needed(tmp_path):
    row = {"image": encoded(image_of(0)), "caption": "a"}
    for name, columns in (("0", ["image"]), ("1", ["image", "caption"])):
        pq.write_table(pa.Table.from_pylist([row]).select(columns), tmp_path / f"{name}.parquet")
    assert shard_rows(tmp_path, RowColumns()).has_captions
    with pytest.raises(ValueError, match="0.parquet has no column 'caption', which other files .* it has 'image'"):
        shard_rows(tmp_path, RowColumns(), captions=True)
    pq.write_table(pa.table({"photo": [b""]}), tmp_path / "2.parquet")
    with pytest.raises(ValueError, match="2.parquet has no column 'image'"):
        shard_rows(tmp_path, RowColumns())


def test_the_bytes_of_a_file_are_those_that_are_decoded(tmp_path):
    data = encoded(image_of(0))
    (tmp_path / "a.png").write_bytes(data)
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), data, {"bytes": data, "path": None}):
        assert fetch_file(source) == data
    image = image_of(0)
    assert fetch_file(image) is image and fetch_file("nowhere.png") == "nowhere.png"
    for source in (str(tmp_path), "/dev/null", "ftp://x/y.png"):
        with pytest.raises(UnreadableImage):
            fetch_file(source)


COLUMNS = {
    "table": "no column 'imgae'; it has 'image', 'caption'. Did you mean 'image'",
    "parquet": "no column 'imgae'; it has 'image', 'caption'. Did you mean 'image'",
    "dataset": "no column 'imgae'; it has 'image', 'caption'. Did you mean 'image'",
    "stream": "no column 'imgae'; it has 'image', 'caption'. Did you mean 'image'",
    "tar": "no column 'imgae' in its first samples: their members end in .png, .txt. Name the ending",
    "folder": "The folder of images .*data has no columns, so there is no column 'imgae'; leave `image_column` .* out",
    "list": "The list .*list.txt has no columns, so there is no column 'imgae'; leave `image_column` .* out",
}


@pytest.mark.parametrize("is_needed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_misspelt_column_is_an_error_at_the_start(kind, is_needed, tmp_path, monkeypatch, own_cache):
    """Also where nothing needs the column: what was named is meant."""
    source = make_source(kind, tmp_path / "data", monkeypatch)
    with pytest.raises(ValueError, match=COLUMNS[kind]):
        shard_rows(source, RowColumns(image_column="imgae"), images=is_needed)
    message = COLUMNS[kind].replace("imgae", "captoin").replace("mean 'image'", "mean 'caption'")
    with pytest.raises(ValueError, match=message.replace("image_column", "caption_column")):
        shard_rows(source, RowColumns(caption_column="captoin"), captions=is_needed and kind not in ("list", "folder"))


def test_near_names_of_a_tar_are_endings_and_fields(tmp_path):
    fields = b'{"recaption": "a"}'
    tar = write_tar(tmp_path / "a.tar", [{"input.png": encoded(image_of(0)), "json": fields}])
    for columns, near in (({"image_column": "inputs"}, "input"), ({"caption_column": "recapton"}, "recaption")):
        with pytest.raises(ValueError, match=f"Did you mean '{near}'"):
            shard_rows(tar, RowColumns(**columns))


@pytest.mark.parametrize("kind", KINDS)
def test_only_whole_parts_are_read(kind, tmp_path, monkeypatch, own_cache):
    """A slice would be the whole, in silence."""
    source = make_source(kind, tmp_path / "data", monkeypatch)
    assert shard_rows(source, RowColumns(split="train")).fingerprint
    for split in ("train[:10%]", "train+train"):
        with pytest.raises(ValueError, match="whole parts are read here, not slices or sums: name one of train"):
            shard_rows(source, RowColumns(split=split))
    with pytest.raises(ValueError, match="no split `test`|there is no `test`"):
        shard_rows(source, RowColumns(split="test"))


def test_a_single_image_is_no_source(tmp_path):
    image_of(0).save(tmp_path / "photo.png")
    (tmp_path / "a.csv").write_text("image\nphoto.png\n")
    for source in (tmp_path / "photo.png", str(tmp_path / "*")):
        with pytest.raises(ValueError, match=r"photo.png is no .* \.txt. For images, give their folder, or a list"):
            shard_rows(source, RowColumns())


def test_columns_are_names(tmp_path):
    for values, message in (
        ({"image_column": ""}, "`image_column` is ''"),
        ({"caption_column": 3}, "`caption_column` is 3; it must be the name"),
        ({"image_column": "text", "caption_column": "text"}, "are both 'text'"),
    ):
        with pytest.raises(ValueError, match=message):
            RowColumns(**values)


def test_lists_of_paths_from_any_editor(tmp_path):
    names = [" a b.png", "ü.png", "x\u2028y.png", "c.png", "https://example.org/a b.png"]
    text = "\ufeff" + "\r\n\n  \r\n".join(names) + "\n\ufeff\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert read_list(tmp_path / "a.txt") == names
    (shard,) = shard_rows(tmp_path / "a.txt", RowColumns()).shards
    places = [row["image"]["path"] for row in shard.read(0, None)]
    assert places == [f"{tmp_path}/{name}" for name in names[:-1]] + names[-1:]
    for encoding in ("utf-16", "utf-16-be"):
        (tmp_path / "b.txt").write_bytes(("\ufeff" * (encoding == "utf-16-be") + "a.png\nb.png\n").encode(encoding))
        with pytest.raises(ValueError, match="b.txt is in UTF-16; save it as UTF-8"):
            read_list(tmp_path / "b.txt")
    (tmp_path / "c.txt").write_text("\ufeff\n \n")
    with pytest.raises(ValueError, match="is empty"):
        shard_rows(tmp_path / "c.txt", RowColumns())


def test_a_hundred_thousand_paths_take_no_time(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"folder/{number}.png\n" for number in range(100_000)))
    started = time.process_time()
    (shard,) = shard_rows(tmp_path / "a.txt", RowColumns()).shards
    (last,) = shard.read(99_999, None)
    assert last["image"]["path"] == f"{tmp_path}/folder/99999.png" and time.process_time() - started < 5


def test_a_stream_without_rows_or_columns_is_empty(tmp_path, monkeypatch, own_cache):
    source = make_source("stream", tmp_path / "data", monkeypatch)
    empty = datasets.IterableDataset.from_generator(lambda: iter(()))
    monkeypatch.setattr(datasets, "load_dataset", lambda *arguments, **keywords: empty)
    with pytest.raises(ValueError, match="The source owner/name is empty: it has no rows"):
        shard_rows(source, RowColumns())
