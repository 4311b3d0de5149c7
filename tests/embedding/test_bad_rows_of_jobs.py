# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Rows that an embedding job cannot use: left out, counted, listed, and embedded again after a repair."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from job_inputs import ENCODING, NUM_PARTS, ROWS, SMALL

from clip_hf.embedding import (
    EmbeddingJob,
    EmbeddingOptions,
    RowColumns,
    embed,
    part_files,
    part_worker,
    read_embeddings,
)
from clip_hf.embedding.job_summary import first_bad_rows
from encoding_inputs import files_in, quiet
from pair_data import (
    caption_of,
    encoded,
    image_of,
    write_tar,
)


def test_bad_rows_are_left_out_and_listed(encoder, damaged, tmp_path):
    encoding = quiet(batch_size=4, max_skipped_share=0.1)
    summary = embed(encoder, damaged, tmp_path / "out", options=SMALL, encoding=encoding)
    assert summary.rows == ROWS - 2 and summary.bad == {"file empty": 1, "file truncated": 1}
    first, second, third = read_embeddings(tmp_path / "out")
    assert first.rows["row"].to_pylist() == [0, 1, 2, 4, 5, 6, 7] and len(first.images) == len(first.texts) == 7
    expected = encoder.encode_images([image_of(number) for number in (8, *range(10, 16))]).numpy()
    np.testing.assert_allclose(second.images, expected, atol=1e-6)
    line = json.loads((tmp_path / "out" / "bad" / "part-00000-00000.jsonl").read_text())
    assert (line["row"], line["name"], line["kind"]) == (3, "03.png", "file truncated")
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


def test_captions_that_cannot_be_used_are_listed_with_their_image(encoder, photos, tmp_path):
    (photos / "03.txt").write_bytes("café".encode("latin-1"))
    summary = embed(encoder, photos, tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert (summary.rows, summary.texts, summary.bad) == (ROWS - 1, ROWS - 1, {"caption not UTF-8": 1})
    rows = [{"image": "photos/00.png", "caption": "a"}, {"image": "x.png", "caption": 7}]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = EmbeddingOptions(modalities="texts")
    tolerant = quiet(max_skipped_share=0.5)
    embed(encoder, tmp_path / "table.jsonl", tmp_path / "table", options=texts, encoding=tolerant)
    for folder, row, name, kind in (
        ("out", 3, "03.png", "caption not UTF-8"),
        ("table", 1, "x.png", "caption of a wrong type"),
    ):
        line = json.loads((tmp_path / folder / "bad" / "part-00000-00000.jsonl").read_text())
        assert (line["row"], line["name"], line["kind"]) == (row, name, kind)


def test_what_is_wrong_with_rows_of_a_table_is_called_so_and_named(encoder, tmp_path):
    """The name is there also where the location is refused or is not UTF-8."""
    for number in range(5):
        image_of(number).save(tmp_path / f"{number}.png")
    table = "image,caption\n0.png,a\n1.png,café\n../x: y.png,b\né.png,c\n"
    (tmp_path / "table.csv").write_bytes(table.encode("latin-1"))
    tolerant = quiet(max_skipped_share=1.0)
    summary = embed(encoder, tmp_path / "table.csv", tmp_path / "out", options=SMALL, encoding=tolerant)
    assert (summary.rows, summary.texts) == (1, 1)
    lines = map(json.loads, (tmp_path / "out" / "bad" / "part-00000-00000.jsonl").read_text().splitlines())
    assert [(line["row"], line["name"], line["kind"]) for line in lines] == [
        (1, "1.png", "caption not UTF-8"),
        (2, "../x: y.png", "location refused"),
        (3, "\\udce9.png", "file name not UTF-8"),
    ]
    caption, refused, not_utf8 = first_bad_rows(tmp_path / "out")
    assert caption.startswith("1.png: Row 1 has the caption 'caf")
    assert refused.startswith("The image of row 2 cannot be used: its path '../x: y.png' is not used: ")
    assert not_utf8 == "The image of row 3 cannot be used: the path \\udce9.png is not UTF-8; rename the file."


def test_images_with_a_caption_of_a_wrong_type_are_left_out_only_where_captions_count(encoder, tmp_path):
    lines = [{"image": f"{n}.png", "caption": caption_of(n) if n else 7} for n in range(3)]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for number in range(3):
        image_of(number).save(tmp_path / f"{number}.png")
    summary = embed(encoder, tmp_path / "table.jsonl", tmp_path / "both", options=SMALL, encoding=ENCODING)
    assert (summary.rows, summary.texts, summary.bad) == (2, 2, {"caption of a wrong type": 1})
    options = EmbeddingOptions(modalities="images")
    summary = embed(encoder, tmp_path / "table.jsonl", tmp_path / "images", options=options, encoding=ENCODING)
    assert (summary.rows, summary.texts, summary.bad) == (3, 0, {})


def test_blanks_among_the_captions_of_an_image_say_nothing(encoder, tmp_path):
    each = [["x", None], [None, " "], ["", "y", "z"]]
    data = datasets.Dataset.from_list([{"image": encoded(image_of(0)), "caption": texts} for texts in each])
    summary = embed(encoder, data, tmp_path / "out", options=SMALL, encoding=ENCODING)
    (part,) = read_embeddings(tmp_path / "out")
    assert part.rows["captions"].to_pylist() == [["x"], [], ["y", "z"]] and (summary.rows, summary.bad) == (3, {})


# --------------------------------------------------------------------------------------------- embedding them again


RETRY = EmbeddingOptions(rows_per_part=8, dtype="float32", retry_bad=True)
TOLERANT = quiet(batch_size=4, max_skipped_share=0.5)


def repair(folder: Path) -> None:
    for number in (3, 9):
        image_of(number).save(folder / f"{number:02d}.png")


def test_a_retry_that_repairs_nothing_changes_nothing(encoder, damaged, tmp_path):
    embed(encoder, damaged, tmp_path / "out", options=SMALL, encoding=TOLERANT)
    before = files_in(tmp_path / "out")
    summary = embed(encoder, damaged, tmp_path / "out", options=RETRY, encoding=TOLERANT)
    assert (summary.timing.rows, summary.is_complete) == (16, True)
    assert files_in(tmp_path / "out") == before


class Killed(BaseException):
    pass


@pytest.mark.slow_but_for("move")
@pytest.mark.parametrize("step", ["write", "move"])
def test_a_crash_in_a_retry_loses_no_part(step, encoder, damaged, tmp_path, monkeypatch):
    """Die before every file of the new parts is written or moved: the old part or the new one is there at the end."""
    embed(encoder, damaged, tmp_path / "plain", options=SMALL, encoding=TOLERANT)
    embed(encoder, damaged, tmp_path / "repaired", options=SMALL, encoding=TOLERANT)
    repair(damaged)
    embed(encoder, damaged, tmp_path / "repaired", options=RETRY, encoding=TOLERANT)
    repaired = files_in(tmp_path / "repaired")
    name = {"write": "_write_file", "move": "_move_file"}[step]
    do = getattr(part_files, name)
    for deaths in range(20):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.copytree(tmp_path / "plain", tmp_path / "out")
        left = [deaths]

        def dying(*arguments, left=left):
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            do(*arguments)

        monkeypatch.setattr(part_files, name, dying)
        try:
            embed(encoder, damaged, tmp_path / "out", options=RETRY, encoding=TOLERANT)
            break
        except Killed:
            monkeypatch.undo()
        passes = len(encoder.counted)
        summary = embed(encoder, damaged, tmp_path / "out", options=SMALL, encoding=TOLERANT)
        assert len(encoder.counted) == passes and summary.is_complete and not list(tmp_path.glob("out/pending/*"))
        assert summary.timing is None  # nothing ran whose speed could be told
        read_embeddings(tmp_path / "out").check()
        embed(encoder, damaged, tmp_path / "out", options=RETRY, encoding=TOLERANT)
        assert files_in(tmp_path / "out") == repaired
    assert deaths == 6  # two parts of three files
    assert files_in(tmp_path / "out") == repaired


def test_a_retry_of_a_share_leaves_the_other_parts_alone(encoder, damaged, tmp_path):
    embed(encoder, damaged, tmp_path / "out", options=SMALL, encoding=TOLERANT)
    before = files_in(tmp_path / "out")
    repair(damaged)
    for share, rows, bad in ((1, 8, {"file truncated": 1}), (0, 8, {})):
        options = replace(RETRY, shard=(share, 2))
        summary = embed(encoder, damaged, tmp_path / "out", options=options, encoding=TOLERANT)
        assert (summary.timing.rows, summary.bad, summary.is_complete) == (rows, bad, True)
        same = {name for name, data in files_in(tmp_path / "out").items() if before.get(name) == data}
        assert any("00000-00000" in name for name in same) == bool(share)
        assert any("00000-00002" in name for name in same)


@pytest.mark.parametrize("bad", [(3,), (9,), (3, 9), (21,), (3, 17, 21)])
def test_a_retry_of_a_tar_reads_only_the_parts_with_bad_rows(bad, encoder, tmp_path, monkeypatch):
    """Nothing says in advance how many rows a tar has; its images lie elsewhere, so that they can be repaired."""
    samples = [{"png": encoded(image_of(n)), "txt": caption_of(n).encode()} for n in range(ROWS)]
    write_tar(tmp_path / "a.tar", samples)
    embed(encoder, tmp_path / "a.tar", tmp_path / "plain", options=SMALL, encoding=ENCODING)
    fetch = part_worker.fetch_file
    refused = [encoded(image_of(n)) for n in bad]

    def fetch_some(source, limits):
        data = fetch(source, limits)
        return data[:-60] if data in refused else data

    monkeypatch.setattr(part_worker, "fetch_file", fetch_some)
    embed(encoder, tmp_path / "a.tar", tmp_path / "out", options=SMALL, encoding=TOLERANT)
    monkeypatch.undo()
    names = [f"rows/part-00000-0000{n}.parquet" for n in range(NUM_PARTS)]
    stamps = [(tmp_path / "out" / name).stat().st_ino for name in names]
    summary = embed(encoder, tmp_path / "a.tar", tmp_path / "out", options=RETRY, encoding=TOLERANT)
    parts = {number // 8 for number in bad}
    changed = {n for n, name in enumerate(names) if (tmp_path / "out" / name).stat().st_ino != stamps[n]}
    assert changed == parts and summary.timing.rows == sum(6 if part == 2 else 8 for part in parts)
    assert files_in(tmp_path / "out") == files_in(tmp_path / "plain")


def test_a_part_that_another_process_has_embedded_again_is_not_embedded_once_more(encoder, damaged, tmp_path):
    embed(encoder, damaged, tmp_path / "out", options=SMALL, encoding=TOLERANT)
    jobs = [EmbeddingJob(encoder, damaged, tmp_path / "out", RETRY, TOLERANT) for _ in range(2)]
    assert jobs[0].run().timing.rows == 16
    assert jobs[1].run().timing is None


def test_the_list_of_bad_rows_goes_with_the_part_that_had_them(encoder, damaged, tmp_path):
    embed(encoder, damaged, tmp_path / "out", options=SMALL, encoding=TOLERANT)
    repair(damaged)
    (tmp_path / "out" / "rows" / "part-00000-00000.parquet").unlink()
    summary = embed(encoder, damaged, tmp_path / "out", options=SMALL, encoding=TOLERANT)
    assert summary.bad == {"file empty": 1}
    assert [path.name for path in (tmp_path / "out" / "bad").iterdir()] == ["part-00000-00001.jsonl"]


def test_bad_rows_are_listed_by_their_numbers_in_order(encoder, tmp_path):
    """Also where captions are looked at after images."""
    lines = [{"image": f"{n}.png", "caption": 7 if n == 1 else caption_of(n)} for n in range(4)]
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for number in (0, 1, 3):
        image_of(number).save(tmp_path / f"{number}.png")
    embed(encoder, tmp_path / "table.jsonl", tmp_path / "out", options=SMALL, encoding=TOLERANT)
    lines = (tmp_path / "out" / "bad" / "part-00000-00000.jsonl").read_text().splitlines()
    assert [(line["shard"], line["row"]) for line in map(json.loads, lines)] == [(0, 1), (0, 2)]
