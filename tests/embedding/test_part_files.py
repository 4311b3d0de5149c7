# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Parts of a folder of embeddings whose files were changed, exchanged or put beside others."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_inputs import ENCODING, NUM_PARTS, ROWS, SMALL, sources

from clip_hf.embedding import EmbeddingJob, embed, part_files, read_embeddings
from encoding_inputs import files_in


def rows_in(folder) -> list[dict]:
    return [row for part in read_embeddings(folder) for row in part.rows.to_pylist()]


def footer_of(data: bytes) -> int:
    """Where the footer of a Parquet file begins."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


# ------------------------------------------------------------------------------------------------------ changed rows


@pytest.mark.slow
def test_flipped_bytes_of_rows_never_give_wrong_rows(tmp_path, plain):
    """Of the pages when they are read, and of the whole file when it is checked."""
    whole, name = rows_in(tmp_path / "plain"), "rows/part-00000-00001.parquet"
    path, noticed = tmp_path / "plain" / name, 0
    for place in range(4, len(plain[name]), 17):
        data = bytearray(plain[name])
        data[place] ^= 0xFF
        path.write_bytes(bytes(data))
        folder = read_embeddings(tmp_path / "plain", allow_incomplete=True)
        try:
            folder.check()
            assert rows_in(tmp_path / "plain") == whole, place
        except ValueError as error:
            assert "part-00000-00001" in str(error)
            noticed += place < footer_of(plain[name])
        if place < footer_of(plain[name]):
            try:
                assert rows_in(tmp_path / "plain") == whole, place
            except ValueError as error:
                assert "part-00000-00001" in str(error)
    assert noticed > 0.5 * len(range(4, footer_of(plain[name]), 17))


def test_other_rows_with_the_record_of_a_part_are_found_by_its_digest(encoder, photos, tmp_path, plain):
    name = "rows/part-00000-00001.parquet"
    table = pq.read_table(tmp_path / "plain" / name)
    captions = pa.array([["another"]] * len(table), pa.list_(pa.string()))
    pq.write_table(table.set_column(7, "captions", captions), tmp_path / "plain" / name)
    with pytest.raises(ValueError, match=f"{name} has changed. Remove {name} and run"):
        read_embeddings(tmp_path / "plain").check()
    (tmp_path / "plain" / name).unlink()
    embed(encoder, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING)
    assert files_in(tmp_path / "plain") == plain


@pytest.mark.parametrize("value", ["rows", "texts", "is_last"])
def test_a_part_with_a_record_that_was_changed_is_embedded_again(value, encoder, photos, tmp_path, plain):
    path = tmp_path / "plain" / "rows" / "part-00000-00001.parquet"
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    record = json.loads(metadata[b"clip_hf"])
    metadata[b"clip_hf"] = json.dumps({**record, value: record[value] + 1 if value != "is_last" else True}).encode()
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(ValueError, match="part-00000-00001 is not complete"):
        read_embeddings(tmp_path / "plain").check()
    assert embed(encoder, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING).timing.rows == 8
    assert files_in(tmp_path / "plain") == plain


def test_rows_under_another_name_are_not_those_of_the_part(encoder, photos, tmp_path, plain):
    folder = tmp_path / "plain" / "rows"
    for number, other in ((0, 1), (1, 0)):
        (folder / f"part-00000-0000{number}.parquet").write_bytes(plain[f"rows/part-00000-0000{other}.parquet"])
    for action in (lambda: rows_in(tmp_path / "plain"), lambda: read_embeddings(tmp_path / "plain").check()):
        with pytest.raises(ValueError, match="part-00000-00000 is not complete, or belongs to another job or place"):
            action()
    assert embed(encoder, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING).timing.rows == 16
    assert files_in(tmp_path / "plain") == plain


# ------------------------------------------------------------------------------------------------ foreign parts


def test_a_part_too_many_does_not_make_up_for_one_that_is_missing(encoder, photos, tmp_path, plain):
    folder = tmp_path / "plain" / "rows"
    for number in ("00009", "000001"):  # of no part, and a second way to write one
        shutil.copy(folder / "part-00000-00000.parquet", folder / f"part-00000-{number}.parquet")
    shutil.copy(folder / "part-00000-00000.parquet", folder / "part-00001-00000.parquet")
    assert read_embeddings(tmp_path / "plain").is_complete and len(rows_in(tmp_path / "plain")) == ROWS
    (folder / "part-00000-00001.parquet").unlink()
    with pytest.raises(ValueError, match="is not complete: 1 of 3 parts are missing"):
        read_embeddings(tmp_path / "plain")
    some = read_embeddings(tmp_path / "plain", allow_incomplete=True)
    assert not some.is_complete and some.summary is None and [part.name.number for part in some] == [0, 2]
    summary = embed(encoder, photos, tmp_path / "plain", options=SMALL, encoding=ENCODING)
    assert (summary.rows, summary.parts, summary.missing, summary.timing.rows) == (ROWS, NUM_PARTS, 0, 8)
    assert len(rows_in(tmp_path / "plain")) == ROWS


@pytest.mark.parametrize("kind, missing", [("parquet", "1 of 4 parts"), ("tar", "parts of 1 of 2 shards")])
def test_a_part_behind_the_last_of_a_shard_is_not_the_shard_s(kind, missing, encoder, tmp_path):
    embed(encoder, sources(tmp_path / "data")[kind], tmp_path / "out", options=SMALL, encoding=ENCODING)
    folder, whole = tmp_path / "out" / "rows", rows_in(tmp_path / "out")
    shutil.copy(folder / "part-00000-00001.parquet", folder / "part-00000-00002.parquet")
    assert read_embeddings(tmp_path / "out").is_complete and rows_in(tmp_path / "out") == whole
    last = max(path.name for path in folder.glob("part-00001-*"))
    (folder / last).unlink()
    with pytest.raises(ValueError, match=f"is not complete: {missing} are missing"):
        read_embeddings(tmp_path / "out")


def test_a_file_without_rows_has_no_part(encoder, tmp_path):
    data = sources(tmp_path / "data")["parquet"]
    first = min(data.glob("*.parquet"))
    pq.write_table(pq.read_table(first).slice(0, 0), first)
    summary = embed(encoder, data, tmp_path / "out", options=SMALL, encoding=ENCODING)
    assert read_embeddings(tmp_path / "out").is_complete and len(rows_in(tmp_path / "out")) == summary.rows == 11


def test_parts_come_in_the_order_of_their_numbers(tmp_path):
    (tmp_path / "rows").mkdir()
    for name in ("0-99999", "0-100000", "2-00003", "x-y", "0-00001.old", "0-00007-1", "0-000008"):
        shard, _, rest = name.partition("-")
        (tmp_path / "rows" / f"part-{shard.zfill(5) if shard.isdigit() else shard}-{rest}.parquet").touch()
    names = part_files.PartStore(tmp_path, "npy", "").names()
    assert [(name.shard, name.number) for name in names] == [(0, 99999), (0, 100000), (2, 3)]


def test_a_folder_says_what_it_holds(encoder, photos, tmp_path, plain):
    assert repr(read_embeddings(tmp_path / "plain")) == f"<EmbeddingFolder {tmp_path}/plain: 22 rows, dim 16, 3 parts>"
    (tmp_path / "plain" / "rows" / "part-00000-00001.parquet").unlink()
    some = read_embeddings(tmp_path / "plain", allow_incomplete=True)
    assert repr(some).endswith("plain: dim 16, 2 parts; 1 of 3 parts are missing>")
    EmbeddingJob(encoder, photos, tmp_path / "none", SMALL, ENCODING)
    none = read_embeddings(tmp_path / "none", allow_incomplete=True)
    assert repr(none).endswith("none: dim 16, 0 parts; 3 of 3 parts are missing>")
