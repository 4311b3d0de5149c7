# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embedding jobs: what they write, that interruptions and company change nothing, and what they refuse."""

import errno
import json
import os
import shutil
import threading
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from clip_hf.data import row_shards
from clip_hf.embedding import (
    EmbeddingJob,
    EmbeddingOptions,
    EncodingOptions,
    RowColumns,
    embed,
    embedding_job,
    load_dual_encoder,
    part_files,
    read_embeddings,
)
from encoding_inputs import quiet
from pair_data import caption_of, dataset_of, encoded, image_of, rows_of, write_parquet, write_tar
from tiny_models import make_tiny_model


ROWS = 22
SMALL = EmbeddingOptions(rows_per_part=8, dtype="float32")
ENCODING = quiet(batch_size=4)
NUM_PARTS = 3


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of images with texts."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(ROWS):
        image_of(number).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(caption_of(number))
    return folder


def files_in(folder: Path) -> dict[str, bytes]:
    """The content of every file of a job but its locks."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "locks"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def names_in(folder: Path) -> list[str]:
    return [name for part in read_embeddings(folder) for name in part.rows["name"].to_pylist()]


@pytest.fixture
def plain(encoder, photos, tmp_path) -> dict[str, bytes]:
    """What an uninterrupted job of one process writes."""
    embed(encoder, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING)
    return files_in(tmp_path / "plain")


# --------------------------------------------------------------------------------------------------- what is written


def sources(folder: Path) -> dict:
    rows = rows_of(range(ROWS))
    folder.mkdir()
    for number in range(ROWS):
        image_of(number).save(folder / f"{number:02d}.png")
    lines = "".join(f"{number:02d}.png,{caption_of(number)}\n" for number in range(ROWS))
    (folder / "table.csv").write_text(f"image,caption\n{lines}")
    (folder / "list.txt").write_text("".join(f"{number:02d}.png\n\n" for number in range(ROWS)))
    samples = [{"png": encoded(image_of(n)), "txt": caption_of(n).encode()} for n in range(ROWS)]
    write_tar(folder / "a.tar", samples[:16])
    write_tar(folder / "b.tar", samples[16:])
    dataset_of(rows).save_to_disk(str(folder / "saved"))
    write_parquet(folder / "parquet", rows, 2)
    return {
        "table": folder / "table.csv",
        "list": folder / "list.txt",
        "paths": [folder / f"{number:02d}.png" for number in range(ROWS)],
        "tar": f"{folder}/{{a,b}}.tar",
        "saved": folder / "saved",
        "memory": dataset_of(rows),
        "parquet": folder / "parquet",
    }


@pytest.mark.parametrize("kind", ["table", "list", "paths", "tar", "saved", "memory", "parquet"])
def test_every_kind_of_source_is_embedded(kind, encoder, tmp_path):
    summary = embed(encoder, sources(tmp_path / "data")[kind], tmp_path / "out", options=SMALL, encoding=ENCODING)
    parts = list(read_embeddings(tmp_path / "out"))
    expected = encoder.encode_images([image_of(number) for number in range(ROWS)]).numpy()
    np.testing.assert_allclose(np.concatenate([part.images for part in parts]), expected, atol=1e-6)
    has_texts = kind not in ("list", "paths")
    assert (summary.rows, summary.texts, summary.bad) == (ROWS, ROWS * has_texts, {})
    assert summary.is_complete and summary.parts == len(parts)
    rows = [row for part in parts for row in part.rows.to_pylist()]
    assert [(row["width"], row["height"]) for row in rows] == [(12, 10)] * ROWS
    assert [row["bytes"] for row in rows] == [len(encoded(image_of(number))) for number in range(ROWS)]
    assert len({row["digest"] for row in rows}) == ROWS
    places = [(row["shard"], row["row"]) for row in rows]
    assert len(set(places)) == ROWS and places == sorted(places)
    if has_texts:
        assert [row["captions"] for row in rows] == [[caption_of(number)] for number in range(ROWS)]
        texts = encoder.encode_texts([caption_of(number) for number in range(ROWS)]).numpy()
        np.testing.assert_allclose(np.concatenate([part.texts for part in parts]), texts, atol=1e-6)
    read_embeddings(tmp_path / "out").check()


def test_the_file_format_and_dtype_are_those_asked_for(encoder, photos, tmp_path, plain):
    options = EmbeddingOptions(rows_per_part=8, file_format="npy", dtype="float16", what="images")
    embed(encoder, photos, tmp_path / "out", options=options, encoding=ENCODING)
    for part, other in zip(read_embeddings(tmp_path / "out"), read_embeddings(tmp_path / "plain"), strict=True):
        assert isinstance(part.images, np.memmap) and part.images.dtype == np.float16 and part.texts is None
        np.testing.assert_array_equal(part.images, other.images.astype(np.float16))


def test_every_caption_of_an_image_is_embedded_and_an_image_needs_none(encoder, tmp_path):
    rows = [{"image": encoded(image_of(n)), "caption": texts} for n, texts in enumerate([["a", "b"], None, ["c"]])]
    data = datasets.Dataset.from_list(rows)
    summary = embed(encoder, data, tmp_path / "out", options=SMALL, encoding=ENCODING)
    (part,) = read_embeddings(tmp_path / "out")
    assert part.rows["captions"].to_pylist() == [["a", "b"], [], ["c"]] and (summary.rows, summary.texts) == (3, 3)
    np.testing.assert_allclose(part.texts, encoder.encode_texts(["a", "b", "c"]).numpy(), atol=1e-6)
    lone = EmbeddingOptions(what="texts")
    tolerant = quiet(max_skipped_share=0.5)
    summary = embed(encoder, data, tmp_path / "texts", options=lone, encoding=tolerant)
    assert (summary.rows, summary.texts, summary.bad) == (2, 3, {"caption missing": 1})


def test_images_with_a_caption_of_a_wrong_type_are_left_out_only_where_captions_count(encoder, tmp_path):
    lines = [{"image": f"{n}.png", "caption": caption_of(n) if n else 7} for n in range(3)]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for number in range(3):
        image_of(number).save(tmp_path / f"{number}.png")
    summary = embed(encoder, tmp_path / "table.jsonl", tmp_path / "both", options=SMALL, encoding=ENCODING)
    assert (summary.rows, summary.texts, summary.bad) == (2, 2, {"caption of a wrong type": 1})
    options = EmbeddingOptions(what="images")
    summary = embed(encoder, tmp_path / "table.jsonl", tmp_path / "images", options=options, encoding=ENCODING)
    assert (summary.rows, summary.texts, summary.bad) == (3, 0, {})


def test_captions_that_cannot_be_used_are_listed_with_their_image(encoder, photos, tmp_path):
    (photos / "03.txt").write_bytes("café".encode("latin-1"))
    summary = embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert (summary.rows, summary.texts, summary.bad) == (ROWS - 1, ROWS - 1, {"caption not UTF-8": 1})
    rows = [{"image": "photos/00.png", "caption": "a"}, {"image": "x.png", "caption": 7}]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = EmbeddingOptions(what="texts")
    tolerant = quiet(max_skipped_share=0.5)
    embed(encoder, tmp_path / "table.jsonl", tmp_path / "table", options=texts, encoding=tolerant)
    for folder, row, name, kind in (
        ("out", "row 3", "03.png", "caption not UTF-8"),
        ("table", "row 1", "x.png", "caption of a wrong type"),
    ):
        line = json.loads((tmp_path / folder / "bad" / "part-00000-00000.jsonl").read_text())
        assert (line["row"], line["name"], line["kind"]) == (row, name, kind)


def test_blanks_among_the_captions_of_an_image_say_nothing(encoder, tmp_path):
    each = [["x", None], [None, " "], ["", "y", "z"]]
    data = datasets.Dataset.from_list([{"image": encoded(image_of(0)), "caption": texts} for texts in each])
    summary = embed(encoder, data, tmp_path / "out", options=SMALL, encoding=ENCODING)
    (part,) = read_embeddings(tmp_path / "out")
    assert part.rows["captions"].to_pylist() == [["x"], [], ["y", "z"]] and (summary.rows, summary.bad) == (3, {})


def test_parts_come_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "rows").mkdir()
    for name in ("0-99999", "0-100000", "2-00003", "x-y", "0-00001.old", "0-00007-1"):
        shard, _, rest = name.partition("-")
        (tmp_path / "rows" / f"part-{shard.zfill(5) if shard.isdigit() else shard}-{rest}.parquet").touch()
    names = part_files.PartStore(tmp_path, "npy").names()
    assert [(name.shard, name.number) for name in names] == [(0, 99999), (0, 100000), (2, 3)]


def test_captions_that_come_too_late_to_be_noticed_are_an_error(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(row_shards, "_PEEKED_SAMPLES", 10)
    samples = [{"png": encoded(image_of(n)), **({"txt": b"a"} if n == 20 else {})} for n in range(ROWS)]
    write_tar(tmp_path / "a.tar", samples)
    with pytest.raises(ValueError, match=r"Row 20 of .*a.tar has a caption, though .*--images\) goes on here without"):
        embed(encoder, tmp_path / "a.tar", tmp_path / "out", options=SMALL, encoding=ENCODING)
    plain = EmbeddingOptions(rows_per_part=8, dtype="float32", what="images")
    summary = embed(encoder, tmp_path / "a.tar", tmp_path / "out", options=plain, encoding=ENCODING)
    assert (summary.rows, summary.texts, summary.timing.rows) == (ROWS, 0, ROWS - 16)
    both = EmbeddingOptions(rows_per_part=8, what="both")
    summary = embed(encoder, tmp_path / "a.tar", tmp_path / "both", options=both, encoding=ENCODING)
    assert (summary.rows, summary.texts) == (ROWS, 1)


def test_columns_and_splits_are_chosen_by_name(encoder, tmp_path):
    for part in ("train", "test"):
        (tmp_path / "data" / part).mkdir(parents=True)
        image_of(len(part)).save(tmp_path / "data" / part / f"{part}.png")
    embed(encoder, tmp_path / "data", tmp_path / "all", options=SMALL, encoding=ENCODING)
    assert names_in(tmp_path / "all") == ["test/test.png", "train/train.png"]
    options = EmbeddingOptions(columns=RowColumns(split="test"))
    embed(encoder, tmp_path / "data", tmp_path / "one", options=options, encoding=ENCODING)
    assert names_in(tmp_path / "one") == ["test/test.png"]
    (tmp_path / "table.csv").write_text("photo,caption\ndata/test/test.png,a\n")
    with pytest.raises(ValueError, match="no column 'image'; it has 'photo', 'caption'"):
        embed(encoder, tmp_path / "table.csv", tmp_path / "two", encoding=ENCODING)
    options = EmbeddingOptions(columns=RowColumns(image_column="photo"))
    assert embed(encoder, tmp_path / "table.csv", tmp_path / "two", options=options, encoding=ENCODING).rows == 1


@pytest.mark.parametrize("kind", ["table", "tar"])
def test_parts_have_their_own_rows_whatever_the_size_of_batches(kind, encoder, tmp_path):
    """Threads read ahead over the ends of parts, but no batch goes over one."""
    data = sources(tmp_path / "data")[kind]
    embed(encoder, data, tmp_path / "out", options=SMALL, encoding=quiet(batch_size=3, num_threads=8))
    last = [list(range(16, 22))] if kind == "table" else [list(range(6))]
    expected = [list(range(8)), list(range(8, 16)), *last]
    assert [part.rows["row"].to_pylist() for part in read_embeddings(tmp_path / "out")] == expected


# ---------------------------------------------------------------------------------------- interruptions and company


class Killed(BaseException):
    pass


@pytest.mark.parametrize("source", ["photos", "tars"])
def test_an_interruption_anywhere_changes_nothing(source, encoder, photos, tmp_path, monkeypatch):
    """Die before every file that is written; the folder must grow, and end as that of a job that did not die."""
    data = photos if source == "photos" else sources(tmp_path / "data")["tar"]
    embed(encoder, data, tmp_path / "plain", options=SMALL, encoding=ENCODING)
    write, left = part_files._write_file, [0]

    def dying(path, content):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        write(path, content)

    monkeypatch.setattr(part_files, "_write_file", dying)
    deaths = 0
    while True:
        left[0] = deaths % 4
        deaths += 1
        before = set(files_in(tmp_path / "out")) if deaths > 1 else set()
        try:
            embed(encoder, data, tmp_path / "out", options=SMALL, encoding=ENCODING)
            break
        except Killed:
            assert before <= set(files_in(tmp_path / "out"))
            store = part_files.PartStore(tmp_path / "out", SMALL.file_format, SMALL.rows_per_part)
            assert all(store.find_damage(name) is None for name in store.names())
    assert deaths > 4 and files_in(tmp_path / "out") == files_in(tmp_path / "plain")


def test_nothing_is_done_twice(encoder, photos, tmp_path, plain):
    passes = len(encoder.counted)
    summary = embed(encoder, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING)
    assert len(encoder.counted) == passes and summary.timing is None and summary.rows == ROWS
    (tmp_path / "plain" / "image_embeddings" / "part-00000-00001.safetensors").write_bytes(b"cut off")
    assert embed(encoder, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING).timing.rows == 8
    assert files_in(tmp_path / "plain") == plain


def test_shares_make_up_the_whole(encoder, photos, tmp_path, plain):
    for share in (1, 0):
        options = EmbeddingOptions(rows_per_part=8, dtype="float32", shard=(share, 2))
        summary = embed(encoder, photos, tmp_path / "out", options=options, encoding=ENCODING)
        assert summary.is_complete == (share == 0) and summary.parts == (1 if share else NUM_PARTS)
        assert (tmp_path / "out" / "summary.json").exists() == (share == 0)
    assert files_in(tmp_path / "out") == plain


def test_a_part_that_another_process_has_locked_is_left_to_it(encoder, photos, tmp_path, plain):
    job = EmbeddingJob(encoder, photos, tmp_path / "out", SMALL, ENCODING)
    lock = FileLock(tmp_path / "out" / "locks" / "part-00000-00001.lock")
    thread = threading.Thread(target=job.run)
    with lock:
        thread.start()
        end = time.monotonic() + 60
        while len(job.store.names()) < NUM_PARTS - 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert [name.number for name in job.store.names()] == [0, 2]
    # Its owner is gone: the job that waited does its work.
    thread.join(60)
    assert files_in(tmp_path / "out") == plain


def test_locks_go_with_an_error(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(part_files.PartStore, "write", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=ENCODING)
    for path in (tmp_path / "out" / "locks").iterdir():
        FileLock(path).acquire(timeout=0).lock.release()


def test_the_place_of_data_and_model_does_not_matter(encoder, photos, tmp_path, plain):
    shutil.copytree(photos, tmp_path / "elsewhere" / "images")
    embed(encoder, tmp_path / "elsewhere" / "images", tmp_path / "out", options=SMALL, encoding=ENCODING)
    files = files_in(tmp_path / "out")
    assert {name for name in plain if files[name] != plain[name]} == {"manifest.json"}  # which names the source


# ------------------------------------------------------------------------------------------------------------ bad rows


@pytest.fixture
def damaged(photos) -> Path:
    (photos / "03.png").write_bytes(encoded(image_of(3))[:-200])
    (photos / "09.png").write_bytes(b"")
    return photos


def test_bad_rows_are_left_out_and_listed(encoder, damaged, tmp_path):
    encoding = quiet(batch_size=4, max_skipped_share=0.1)
    summary = embed(encoder, damaged, tmp_path / "out", options=SMALL, encoding=encoding)
    assert summary.rows == ROWS - 2 and summary.bad == {"file empty": 1, "file truncated": 1}
    first, second, third = read_embeddings(tmp_path / "out")
    assert first.rows["row"].to_pylist() == [0, 1, 2, 4, 5, 6, 7] and len(first.images) == len(first.texts) == 7
    expected = encoder.encode_images([image_of(number) for number in (8, *range(10, 16))]).numpy()
    np.testing.assert_allclose(second.images, expected, atol=1e-6)
    line = json.loads((tmp_path / "out" / "bad" / "part-00000-00000.jsonl").read_text())
    assert (line["row"], line["name"], line["kind"]) == ("row 3", "03.png", "file truncated")
    assert str(tmp_path) not in line["reason"] and len(third.rows) == 6
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["bad"] == summary.bad


def test_too_many_bad_rows_are_an_error_until_they_are_repaired(encoder, damaged, tmp_path):
    strict = quiet(batch_size=4, max_skipped_share=0.05)
    with pytest.raises(ValueError, match=r"2 of 22 rows cannot be used \(1 file empty, 1 file truncated\), more than"):
        embed(encoder, damaged, tmp_path / "out", options=SMALL, encoding=strict)
    assert not (tmp_path / "out" / "summary.json").exists()
    for number in (3, 9):
        image_of(number).save(damaged / f"{number:02d}.png")
    with pytest.raises(ValueError, match="run again with `retry_bad`"):
        embed(encoder, damaged, tmp_path / "out", options=SMALL, encoding=strict)
    retry = EmbeddingOptions(rows_per_part=8, dtype="float32", retry_bad=True)
    assert embed(encoder, damaged, tmp_path / "out", options=retry, encoding=strict).timing.rows == 16
    assert read_embeddings(tmp_path / "out").summary["bad"] == {}


def test_a_source_of_bad_rows_only_is_an_error(encoder, tmp_path):
    (tmp_path / "list.txt").write_text("nowhere.png\n")
    with pytest.raises(ValueError, match=r"No row of .*list.txt can be used \(1 file missing\)\. .*bad lists"):
        embed(encoder, tmp_path / "list.txt", tmp_path / "out", encoding=quiet(max_skipped_share=1.0))


def test_rows_whose_location_was_refused_are_tried_again_only_by_retry_bad(encoder, photos, tmp_path):
    lines = "".join(f"../photos/{number:02d}.png\n" for number in range(3))
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "a.csv").write_text(f"image\n{lines}")
    rooted = RowColumns(image_root=str(photos))
    hint = r"\(3 location refused\).* `image_root` .* tried again only with `retry_bad` \(--retry-bad\)"
    for columns in (RowColumns(), rooted):
        with pytest.raises(ValueError, match=f"No row of .*{hint}"):
            embed(encoder, tmp_path / "table" / "a.csv", tmp_path / "out", options=EmbeddingOptions(columns=columns))
    retry = EmbeddingOptions(columns=rooted, retry_bad=True)
    assert embed(encoder, tmp_path / "table" / "a.csv", tmp_path / "out", options=retry).rows == 3


def test_what_follows_damage_in_a_tar_is_one_bad_row(encoder, tmp_path):
    samples = [{"png": encoded(image_of(n)), "txt": caption_of(n).encode()} for n in range(ROWS)]
    write_tar(tmp_path / "a.tar", samples)
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: len(data) // 2 + 100])
    summary = embed(
        encoder, tmp_path / "a.tar", tmp_path / "out", options=SMALL, encoding=quiet(max_skipped_share=0.5)
    )
    assert summary.bad == {"file damaged": 1} and 5 < summary.rows < ROWS


# ----------------------------------------------------------------------------------------------------- what is refused


def test_another_model_source_or_option_is_refused_by_name(encoder, photos, tmp_path, plain, tiny_processor):
    other = load_dual_encoder(make_tiny_model("vit", seed=1), processor=tiny_processor)
    finer = EmbeddingOptions(rows_per_part=4, dtype="float32")
    for arguments, message in (
        ((other, photos, tmp_path / "plain", SMALL, ENCODING), "model fingerprint is "),
        ((encoder, photos, tmp_path / "plain", finer, ENCODING), "options rows_per_part is 8 there and 4 now"),
        ((encoder, photos, tmp_path / "plain", SMALL, quiet(batch_size=8)), "options batch_size is 4 there and 8 now"),
    ):
        with pytest.raises(ValueError, match=f"holds embeddings of another job, .*{message}"):
            EmbeddingJob(*arguments)
    image_of(99).save(photos / "99.png")
    with pytest.raises(ValueError, match="source fingerprint is .*source rows is 22 there and 23 now"):
        EmbeddingJob(encoder, photos, tmp_path / "plain", SMALL, ENCODING)
    assert files_in(tmp_path / "plain") == plain


def test_a_destination_that_would_harm_something_is_refused(encoder, photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; the destination must be a folder"):
        EmbeddingJob(encoder, photos, tmp_path / "file")
    for inside in (photos / "out", photos, photos / "." / "x" / ".." / "out"):
        with pytest.raises(ValueError, match="lies in the source .*, whose files it would become"):
            EmbeddingJob(encoder, photos, inside)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no manifest.json"):
        EmbeddingJob(encoder, photos, tmp_path / "used")
    with pytest.raises(OSError):
        EmbeddingJob(encoder, photos, tmp_path / "file" / "below")
    EmbeddingJob(encoder, photos, tmp_path / "photos_too")


def test_a_full_disk_is_said_and_what_was_written_stays(encoder, photos, tmp_path, plain, monkeypatch):
    write = part_files._write_file

    def full(path, content):
        if "00001" in path.stem:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(part_files, "_write_file", full)
    with pytest.raises(OSError, match="There is no space left for .*make room and run this again"):
        embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=ENCODING)
    monkeypatch.undo()
    assert embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=ENCODING).timing.rows == 14
    assert files_in(tmp_path / "out") == plain


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_shortage_of_the_process_stops_the_job_and_spoils_no_row(number, encoder, photos, tmp_path, monkeypatch):
    opened = os.open

    def short(path, *arguments, **keywords):
        if str(path).endswith("09.png"):
            raise OSError(number, os.strerror(number), path)
        return opened(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", short)
    tolerant = quiet(batch_size=4, max_skipped_share=0.5)
    with pytest.raises(OSError, match=f"{os.strerror(number)}: .* says nothing about the data") as caught:
        embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=tolerant)
    assert caught.value.errno == number and not (tmp_path / "out" / "bad").exists()
    monkeypatch.undo()
    assert embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=tolerant).bad == {}


@pytest.mark.parametrize(
    "values, message",
    [
        ({"what": "video"}, "`what` is 'video'; it must be one of 'images', 'texts', 'both'"),
        ({"file_format": "hdf5"}, "`file_format` is 'hdf5'; it must be one of 'safetensors', 'npy'"),
        ({"dtype": "int8"}, "`dtype` is 'int8'; it must be one of 'float16', 'float32'"),
        ({"rows_per_part": 0}, "`rows_per_part` is 0"),
        ({"shard": (4, 4)}, "`shard` is 4/4; it must be i/n with i from 0 to n-1"),
    ],
)
def test_options_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingOptions(**values)


def test_sources_that_hold_nothing_to_embed_are_refused(encoder, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    image_of(0).save(tmp_path / "one.png")
    texts = EmbeddingOptions(what="texts")
    for source, options, message in (
        (tmp_path / "empty", SMALL, "holds no images, Parquet files, tars or metadata"),
        (tmp_path / "empty.txt", SMALL, "is empty: it has no rows"),
        ([], SMALL, "The list of images is empty"),
        ([tmp_path / "one.png"], texts, "has no captions, so no texts can be embedded"),
        (tmp_path / "nowhere", SMALL, "There is no file or folder"),
    ):
        with pytest.raises(ValueError, match=message):
            EmbeddingJob(encoder, source, tmp_path / "out", options, ENCODING)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_a_list_of_paths_is_kept_for_the_next_run(encoder, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    embed(encoder, ["00.png", "01.png"], tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert (tmp_path / "out" / "source.txt").read_text() == f"{photos}/00.png\n{photos}/01.png\n"
    assert embed(encoder, [], tmp_path / "out", options=SMALL, encoding=ENCODING).timing is None
    with pytest.raises(ValueError, match="source.txt lists other images"):
        embed(encoder, ["02.png"], tmp_path / "out", options=SMALL, encoding=ENCODING)


def test_paths_with_odd_characters_are_kept_or_refused(encoder, tmp_path):
    odd = ["a\rb.png", " c.png", "d .png", "\u2028e.png", "f\x0cg.png"]
    for name in odd:
        image_of(0).save(tmp_path / name, format="png")
    summary = embed(encoder, [tmp_path / name for name in odd], tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert (summary.rows, summary.bad) == (len(odd), {})
    again = embed(encoder, [tmp_path / name for name in odd], tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert again.timing is None
    for name in ("a.png\r", "a\nb.png", " "):
        with pytest.raises(ValueError, match="is no path that a list can hold: .* rename the file"):
            embed(encoder, [tmp_path / "d .png", name], tmp_path / "odd", options=SMALL, encoding=ENCODING)


def test_a_changed_file_is_found_by_its_digest(tmp_path, plain):
    folder = read_embeddings(tmp_path / "plain")
    folder.check()
    path = tmp_path / "plain" / "text_embeddings" / "part-00000-00002.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="text_embeddings/part-00000-00002.safetensors has changed"):
        folder.check()
    (tmp_path / "plain" / "manifest.json").write_text('{"format": "another", "version": 1}')
    with pytest.raises(ValueError, match="is of the format 'another', version 1"):
        read_embeddings(tmp_path / "plain")


def test_damaged_files_are_named_when_they_are_read(encoder, photos, tmp_path, plain):
    folder, other = tmp_path / "plain", plain["text_embeddings/part-00000-00002.safetensors"]
    for file, data, message in (
        ("image_embeddings/part-00000-00001.safetensors", b"", "is damaged"),
        ("image_embeddings/part-00000-00001.safetensors", None, "is missing"),
        ("text_embeddings/part-00000-00001.safetensors", other, "shape"),
        ("text_embeddings/part-00000-00001.safetensors", b"x" * 100, "is damaged"),
        ("rows/part-00000-00001.parquet", b"PAR1", "is damaged"),
    ):
        (folder / file).unlink() if data is None else (folder / file).write_bytes(data)
        with pytest.raises(ValueError, match=f"{file} .*{message}.* Remove rows/part-00000-00001.parquet and run"):
            list(read_embeddings(folder))
        (folder / file).write_bytes(plain[file])
    pq.write_table(pa.table({"a": [1]}), folder / "rows" / "part-00000-00001.parquet")
    with pytest.raises(ValueError, match="part-00000-00001.parquet is damaged .its columns are 'a'"):
        list(read_embeddings(folder))
    assert embed(encoder, photos, folder, options=SMALL, encoding=ENCODING).timing.rows == 8
    assert files_in(folder) == plain


@pytest.mark.parametrize("section", ["model", "source", "options"])
def test_a_manifest_without_its_sections_is_an_error_that_names_it(section, encoder, photos, tmp_path, plain):
    path = tmp_path / "plain" / "manifest.json"
    for value in ({}, {section: []}):
        manifest = json.loads(path.read_text())
        manifest.pop(section, None)
        path.write_text(json.dumps({**manifest, **value}))
        for action in (
            lambda: read_embeddings(tmp_path / "plain"),
            lambda: EmbeddingJob(encoder, photos, tmp_path / "plain", SMALL, ENCODING),
        ):
            with pytest.raises(ValueError, match=f"manifest.json is damaged: '{section}' is missing.* Put back a"):
                action()


def test_parts_of_another_size_do_not_count(encoder, photos, tmp_path, plain):
    finer = EmbeddingOptions(rows_per_part=4, dtype="float32")
    embed(encoder, photos, tmp_path / "finer", options=finer, encoding=ENCODING)
    for path in (tmp_path / "finer").rglob("part-*-0000[15].*"):
        shutil.copy(path, tmp_path / "plain" / path.relative_to(tmp_path / "finer"))
    with pytest.raises(ValueError, match="part-00000-00001 is not complete, or was made for another number of rows"):
        list(read_embeddings(tmp_path / "plain"))
    summary = embed(encoder, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING)
    assert (summary.rows, summary.parts, summary.timing.rows) == (ROWS, NUM_PARTS, 8)
    assert all(file == plain[name] for name, file in files_in(tmp_path / "plain").items() if name in plain)


def test_a_source_that_lost_rows_meanwhile_is_an_error(encoder, tmp_path):
    data = sources(tmp_path / "data")["table"]
    job = EmbeddingJob(encoder, data, tmp_path / "out", SMALL, ENCODING)
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:12]))
    with pytest.raises(ValueError, match="table.csv has only 11 rows now; it had 22"):
        job.run()


def test_progress_says_where_the_time_went(encoder, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(embedding_job.JobProgress.__init__.__globals__["tqdm"], "monitor_interval", 0)
    monkeypatch.setitem(embedding_job.JobProgress.__init__.__globals__, "_SECONDS_PER_LINE", 0.0)
    encoding = EncodingOptions(batch_size=4, num_threads=2)
    summary = embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=encoding)
    said = capsys.readouterr().err
    assert "embed: 22 of 22 rows, 0 bad; " in said and "rows/s; model " in said
    assert 0 < summary.timing.model < 1 and 0 < summary.timing.preparing < 1 and 0 < summary.timing.reading < 1
