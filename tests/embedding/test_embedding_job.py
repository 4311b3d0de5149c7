# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embedding jobs: what they write, that interruptions and company change nothing, and what they refuse."""

import errno
import os
import re
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
from job_inputs import ENCODING, NUM_PARTS, ROWS, SMALL, names_in, sources

from clip_hf.data import row_shards
from clip_hf.embedding import (
    EmbeddingJob,
    EmbeddingOptions,
    EncodingOptions,
    RowColumns,
    embed,
    embedding_job,
    part_files,
    read_embeddings,
)
from encoding_inputs import files_in, quiet
from pair_data import caption_of, encoded, image_of, write_tar


# --------------------------------------------------------------------------------------------------- what is written


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
    options = EmbeddingOptions(rows_per_part=8, file_format="npy", dtype="float16", modalities="images")
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
    lone = EmbeddingOptions(modalities="texts")
    tolerant = quiet(max_skipped_share=0.5)
    summary = embed(encoder, data, tmp_path / "texts", options=lone, encoding=tolerant)
    assert (summary.rows, summary.texts, summary.bad) == (2, 3, {"caption missing": 1})


def test_captions_that_come_too_late_to_be_noticed_are_an_error(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(row_shards, "_PEEKED_SAMPLES", 10)
    samples = [{"png": encoded(image_of(n)), **({"txt": b"a"} if n == 20 else {})} for n in range(ROWS)]
    write_tar(tmp_path / "a.tar", samples)
    with pytest.raises(ValueError, match=r"Row 20 of .*a.tar has a caption, though .*--images\) goes on here without"):
        embed(encoder, tmp_path / "a.tar", tmp_path / "out", options=SMALL, encoding=ENCODING)
    plain = EmbeddingOptions(rows_per_part=8, dtype="float32", modalities="images")
    summary = embed(encoder, tmp_path / "a.tar", tmp_path / "out", options=plain, encoding=ENCODING)
    assert (summary.rows, summary.texts, summary.timing.rows) == (ROWS, 0, ROWS - 16)
    both = EmbeddingOptions(rows_per_part=8, modalities="both")
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
            read_embeddings(tmp_path / "out", allow_incomplete=True).check()
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


# ----------------------------------------------------------------------------------------------------- what is refused


def test_a_full_disk_is_said_and_what_was_written_stays(encoder, photos, tmp_path, plain, monkeypatch):
    write = part_files._write_file

    def full(path, content):
        if "00001" in path.stem:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(part_files, "_write_file", full)
    with pytest.raises(
        OSError, match="There is no space left: .*/out cannot be written .*make room, and run this again"
    ):
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


def test_parts_of_another_size_do_not_count(encoder, photos, tmp_path, plain):
    finer = EmbeddingOptions(rows_per_part=4, dtype="float32")
    embed(encoder, photos, tmp_path / "finer", options=finer, encoding=ENCODING)
    for path in (tmp_path / "finer").rglob("part-*-0000[15].*"):
        shutil.copy(path, tmp_path / "plain" / path.relative_to(tmp_path / "finer"))
    with pytest.raises(ValueError, match="part-00000-00001 is not complete, or belongs to another job"):
        list(read_embeddings(tmp_path / "plain"))
    summary = embed(encoder, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING)
    assert (summary.rows, summary.parts, summary.timing.rows) == (ROWS, NUM_PARTS, 8)
    assert all(file == plain[name] for name, file in files_in(tmp_path / "plain").items() if name in plain)


def test_only_the_last_part_of_a_shard_says_is_last(encoder, tmp_path):
    for kind, expected in (("table", [False, False, True]), ("tar", [False, True, True])):
        job = EmbeddingJob(encoder, sources(tmp_path / kind)[kind], tmp_path / f"{kind}_out", SMALL, ENCODING)
        job.run()
        assert [job.store.record(name)["is_last"] for name in job.store.names()] == expected


@pytest.mark.parametrize("kind", ["table", "tar"])
def test_an_incomplete_folder_is_read_only_where_that_is_asked_for(kind, encoder, tmp_path):
    data, out = sources(tmp_path / "data")[kind], tmp_path / "out"
    embed(encoder, data, out, options=SMALL, encoding=ENCODING)
    whole = [part.rows["row"].to_pylist() for part in read_embeddings(out)]
    assert read_embeddings(out).is_complete
    folder = read_embeddings(out)
    last = "part-00000-00002" if kind == "table" else "part-00000-00001"  # of the tar's first shard
    for name, left in (
        ("part-00000-00000", whole[1:]),
        (last, [rows for n, rows in enumerate(whole) if n != int(last[-1])]),
    ):
        shutil.copytree(out, tmp_path / "copy")
        (out / "rows" / f"{name}.parquet").unlink()
        missing = "1 of 3 parts" if kind == "table" else "parts of 1 of 2 shards"
        message = (
            f"/out is not complete: {missing} are missing. Run the same .*`read_embeddings.folder, allow_incomplete"
        )
        for action in (lambda: read_embeddings(out), lambda: list(folder), folder.check):
            with pytest.raises(ValueError, match=message):
                action()
        some = read_embeddings(out, allow_incomplete=True)
        assert not some.is_complete and [part.rows["row"].to_pylist() for part in some] == left
        some.check()
        assert some.summary is None
        shutil.rmtree(out)
        (tmp_path / "copy").rename(out)


def test_the_columns_of_rows_are_those_of_the_pages(tmp_path, plain):
    """Numbers are int64 for every kind of source, so that tables of rows of all jobs fit together."""
    (rows, *_) = (part.rows for part in read_embeddings(tmp_path / "plain"))
    page = (Path(__file__).parents[2] / "docs" / "howto" / "embed.md").read_text()
    described = re.findall(r"^\| `(\w+)` \| ([\w ]+) \|", page, re.MULTILINE)
    kinds = {"int64": pa.int64(), "string": pa.string(), "list of strings": pa.list_(pa.string())}
    assert [(name, kinds[kind]) for name, kind in described] == [(field.name, field.type) for field in rows.schema]


def test_a_source_that_lost_rows_meanwhile_is_an_error(encoder, tmp_path):
    data = sources(tmp_path / "data")["table"]
    job = EmbeddingJob(encoder, data, tmp_path / "out", SMALL, ENCODING)
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:12]))
    with pytest.raises(ValueError, match="table.csv has changed since its rows were counted"):
        job.run()


def test_progress_expects_only_what_other_processes_leave(encoder, photos, tmp_path, capsys, monkeypatch):
    job = EmbeddingJob(encoder, photos, tmp_path / "out", SMALL, EncodingOptions(batch_size=4, num_threads=1))
    done = EmbeddingJob(encoder, photos, tmp_path / "out", SMALL, ENCODING)
    lock = FileLock(tmp_path / "out" / "locks" / "part-00000-00001.lock")
    claimed = job._claimed

    def claim(*arguments):
        monkeypatch.undo()  # the first time only
        done.do(done.tasks()[:1])  # after the job has looked what is missing
        with lock:
            yield from claimed(*arguments)

    monkeypatch.setattr(job, "_claimed", claim)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(embedding_job.JobProgress.__init__.__globals__, "_SECONDS_PER_LINE", 0.0)
        job.do(job.tasks())
    said = capsys.readouterr().err
    assert "embed: 6 of 6 rows, " in said and "embed: 14 of 14 rows, " in said


def test_progress_says_where_the_time_went(encoder, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(embedding_job.JobProgress.__init__.__globals__["tqdm"], "monitor_interval", 0)
    monkeypatch.setitem(embedding_job.JobProgress.__init__.__globals__, "_SECONDS_PER_LINE", 0.0)
    encoding = EncodingOptions(batch_size=4, num_threads=2)
    summary = embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=encoding)
    said = capsys.readouterr().err
    assert "embed: 22 of 22 rows, 0 bad; " in said and "rows/s; model " in said and "% preparing" in said
    assert 0 < summary.timing.model < 1 and 0 < summary.timing.preparing < 1 and 0 < summary.timing.reading < 1
