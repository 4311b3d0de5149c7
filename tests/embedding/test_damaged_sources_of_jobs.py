# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embedding jobs whose source is damaged or cannot be reached: no end of a file is taken for its end."""

import builtins
import errno
import gzip
import json
import os
from pathlib import Path

import datasets
import pytest
from job_inputs import ENCODING, NUM_PARTS, ROWS, SMALL

from clip_hf import ClipHFImageProcessor
from clip_hf.data import ImageTextDataset, PairOptions, load_pairs
from clip_hf.data.skips import DamagedFile
from clip_hf.data.tars import DamagedTar
from clip_hf.embedding import EmbeddingJob, EmbeddingOptions, embed
from encoding_inputs import files_in, quiet
from pair_data import as_stream, bad_rows, bad_samples, caption_of, rows_of, samples_of, write_parquet, write_tar


@pytest.fixture
def tars(tmp_path) -> Path:
    """A folder of three tars."""
    (tmp_path / "tars").mkdir()
    for number, name in enumerate("abc"):
        write_tar(tmp_path / "tars" / f"{name}.tar", samples_of(range(number * ROWS, (number + 1) * ROWS)))
    return tmp_path / "tars"


@pytest.mark.slow_but_for("0", "8")
@pytest.mark.parametrize("sample", [0, 5, 8, 16])
def test_a_tar_that_breaks_off_is_no_whole_tar(sample, encoder, tars, tmp_path):
    """Its last part is not written; the other tars are embedded all the same."""
    embed(encoder, tars, tmp_path / "whole", options=SMALL, encoding=ENCODING)
    data = (tars / "a.tar").read_bytes()
    cut = gzip.compress(data[: data.index(b"folder.d/%06d.png" % sample)], mtime=0)
    (tars / "a.tar").write_bytes(cut)
    for _ in range(2):
        with pytest.raises(
            DamagedFile, match=r"1 of 3 files could not be read to the end. The tar .*a.tar is damaged"
        ):
            embed(encoder, tars, tmp_path / "out", options=SMALL, encoding=ENCODING)
        names = [f"part-{shard:05d}-{part:05d}" for shard in (1, 2) for part in range(NUM_PARTS)]
        # The part before the cut is whole only if a row after it was seen.
        names += [f"part-00000-{part:05d}" for part in range(max(sample - 1, 0) // 8)]
        assert sorted(path.stem for path in (tmp_path / "out" / "rows").iterdir()) == sorted(names)
        assert not (tmp_path / "out" / "bad").exists() and not (tmp_path / "out" / "summary.json").exists()
        assert not any((tmp_path / "out" / "locks").glob("part*"))


def test_a_tar_that_could_not_be_reached_is_embedded_by_the_next_run(encoder, tars, tmp_path, monkeypatch):
    embed(encoder, tars, tmp_path / "whole", options=SMALL, encoding=ENCODING)
    opened = builtins.open

    def refuse(path, *arguments, **keywords):
        if str(path).endswith("b.tar") and is_lost:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *arguments, **keywords)

    is_lost = False
    monkeypatch.setattr(builtins, "open", refuse)
    job = EmbeddingJob(encoder, tars, tmp_path / "out", SMALL, ENCODING)
    is_lost = True
    with pytest.raises(DamagedFile, match=r"b.tar cannot be opened: Permission denied.*Run this again, which goes on"):
        job.run()
    is_lost = False
    summary = EmbeddingJob(encoder, tars, tmp_path / "out", SMALL, ENCODING).run()
    assert summary.is_complete and summary.timing.rows == ROWS
    assert files_in(tmp_path / "out") == files_in(tmp_path / "whole")


def test_a_tar_that_is_cut_off_is_found_before_the_job_begins(encoder, tars, tmp_path):
    data = (tars / "c.tar").read_bytes()
    (tars / "c.tar").write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedTar, match="c.tar is damaged, .*Copy or download them again"):
        embed(encoder, tars, tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert not (tmp_path / "out" / "manifest.json").exists()
    (tars / "c.tar").write_bytes(data)
    assert embed(encoder, tars, tmp_path / "out", options=SMALL, encoding=ENCODING).rows == 3 * ROWS


@pytest.mark.parametrize("source", ["parquet", "tar"])
def test_a_row_has_the_same_fault_in_a_job_as_in_a_training(source, encoder, tiny_processor, tmp_path, own_cache):
    good = samples_of(range(ROWS))
    if source == "tar":
        write_tar(tmp_path / "a.tar", [*good, *bad_samples().values()])
    else:
        write_parquet(tmp_path / "a", [*rows_of(range(ROWS)), *bad_rows().values()])
    data = tmp_path / ("a.tar" if source == "tar" else "a")
    options = PairOptions(max_skipped_share=1.0)
    pairs = ImageTextDataset(load_pairs(data, options=options), tiny_processor.image_processor, options)
    expected = {row: pairs[row]["skipped"].kind for row in range(len(pairs)) if pairs[row]["skipped"]}
    assert len(expected) >= 8
    texts = EmbeddingOptions(rows_per_part=8, modalities="texts")
    embed(encoder, data, tmp_path / "texts", options=texts, encoding=quiet(max_skipped_share=1.0))
    embed(encoder, data, tmp_path / "out", options=SMALL, encoding=quiet(max_skipped_share=1.0))
    found = {}
    for path in [*(tmp_path / "texts" / "bad").iterdir(), *(tmp_path / "out" / "bad").iterdir()]:
        for line in map(json.loads, path.read_text().splitlines()):
            found[int(str(line["row"]).removeprefix("row "))] = line["kind"]
    assert found == expected


@pytest.mark.parametrize("fault", ["refused", "too large"])
def test_a_text_beside_an_image_that_cannot_be_read_is_a_bad_row(fault, encoder, photos, tmp_path, monkeypatch):
    opened = builtins.open

    def refuse(path, *arguments, **keywords):
        if str(path).endswith("03.txt"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *arguments, **keywords)

    if fault == "refused":
        monkeypatch.setattr(builtins, "open", refuse)
    else:
        (photos / "03.txt").write_bytes(b"a" * (2**24 + 1))
    summary = embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert (summary.rows, summary.bad) == (ROWS - 1, {"caption cannot be read": 1})
    line = json.loads((tmp_path / "out" / "bad" / "part-00000-00000.jsonl").read_text())
    reason = {"refused": "cannot be opened: Permission denied", "too large": "has more than 16,777,216 bytes"}[fault]
    assert f"Row 3 has the caption of 03.txt, which {reason}; it must be a file that can be read." in line["reason"]
    data = load_pairs(photos)
    pairs = ImageTextDataset(data, ClipHFImageProcessor(size=10, crop_size=10), PairOptions(max_skipped_share=0.5))
    assert {row: problem.kind for row, problem in pairs.bad_rows.items()} == {3: "caption cannot be read"}


def test_a_folder_that_cannot_be_listed_is_not_empty(encoder, photos, tmp_path, monkeypatch):
    (photos / "more").mkdir()
    listed = os.scandir

    def refuse(path="."):
        if str(path).endswith("more"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for read in (load_pairs, lambda folder: embed(encoder, folder, tmp_path / "out", encoding=ENCODING)):
        with pytest.raises(OSError, match="Permission denied: the folder .*more cannot be read, so its files are unk"):
            read(photos)


@pytest.mark.parametrize("kind", ["parquet", "stream"])
def test_a_file_that_cannot_be_read_further_is_left_to_the_next_run(kind, encoder, tmp_path, monkeypatch, own_cache):
    write_parquet(tmp_path / "a", rows_of(range(3 * ROWS)), 3)
    source = tmp_path / "a"
    if kind == "stream":
        source = as_stream(f"{source}/*.parquet", monkeypatch)
    else:
        damaged = sorted((tmp_path / "a").iterdir())[1]
        whole = damaged.read_bytes()
        # The first pages of the first row group, and so the first part.
        damaged.write_bytes(whole[:4] + b"\xff" * 500 + whole[504:])
    breaks = kind == "stream"
    if kind == "stream":
        iterate = datasets.IterableDataset.__iter__

        def broken(self):
            for row in iterate(self):
                if breaks and row["caption"] == caption_of(ROWS + 9):
                    raise ConnectionError("the hub is gone")
                yield row

        monkeypatch.setattr(datasets.IterableDataset, "__iter__", broken)
    message = "hub is gone.* Run this again" if breaks else "00001.parquet is damaged.* Copy or download"
    with pytest.raises(DamagedFile, match=f"1 of 3 files could not be read to the end. .*{message}"):
        embed(encoder, source, tmp_path / "out", options=SMALL, encoding=ENCODING)
    parts = {path.stem for path in (tmp_path / "out" / "rows").iterdir()}
    everything = {f"part-{shard:05d}-{part:05d}" for shard in range(3) for part in range(NUM_PARTS)}
    assert everything - parts == ({"part-00001-00001", "part-00001-00002"} if breaks else {"part-00001-00000"})
    breaks = False
    if kind == "stream":
        summary = embed(encoder, source, tmp_path / "out", options=SMALL, encoding=ENCODING)
        assert summary.is_complete and summary.rows == 3 * ROWS and summary.timing.rows == ROWS - 8
