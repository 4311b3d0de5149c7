# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The curation example on tiny data: what it keeps, writes and prints, and bad input."""

import datasets
import pytest

from curate import curate, parse


@pytest.fixture(scope="module")
def doubled_data(tiny_data, tmp_path_factory):
    """The sixteen drawings, and four of them again under another name."""
    rows = tiny_data["train"]
    again = rows.select(range(4)).map(lambda row: {"caption": f"again {row['caption']}"})
    folder = tmp_path_factory.mktemp("doubled") / "data"
    datasets.concatenate_datasets([rows, again]).save_to_disk(str(folder))
    return folder


def test_pairs_are_balanced_and_copies_dropped(doubled_data, model_folder, tmp_path, capsys):
    queries = tmp_path / "queries.txt"
    queries.write_text("RED\n\nblue\nagain\nnothing\n")
    arguments = ["--dataset", str(doubled_data), "--output_dir", str(tmp_path / "out"), "--queries", str(queries)]
    rows = curate(parse([*arguments, "--model", str(model_folder), "--threshold", "0.9999999"]))
    printed = capsys.readouterr().out
    every = datasets.load_from_disk(str(doubled_data))["caption"]
    expected = [caption for caption in every[:16] if "red" in caption or "blue" in caption]
    # The four copies match a query, and are dropped for their images.
    assert rows["caption"] == expected
    kept = datasets.load_from_disk(str(tmp_path / "out"))
    assert kept["caption"] == expected
    assert kept[0]["image"].size == (40, 40)
    assert "4 queries: 1 match nothing" in printed
    assert "4 of 12 images are near-duplicates, 8 are kept" in printed


def test_frequent_words_are_queries_and_keep_so_many(tiny_data_folder, tmp_path, capsys):
    arguments = ["--dataset", str(tiny_data_folder), "--output_dir", str(tmp_path / "out"), "--min_count", "4"]
    rows = curate(parse([*arguments, "--max_per_query", "1"]))
    words = [caption.split(": ")[1] for caption in rows["caption"]]
    assert {"red", "green", "blue", "yellow"} <= set(words)
    assert len(rows) < 10
    assert "1 pairs, its sample has 1" not in capsys.readouterr().out


def test_bad_input_is_named_and_nothing_is_written(tiny_data_folder, tmp_path):
    out, data = str(tmp_path / "out"), ["--dataset", str(tiny_data_folder)]
    with pytest.raises(ValueError, match="no such file"):
        parse([*data, "--output_dir", out, "--queries", str(tmp_path / "none.txt")])
    with pytest.raises(ValueError, match="no column 'text'; it has 'image', 'caption'"):
        curate(parse([*data, "--output_dir", out, "--caption_column", "text"]))
    with pytest.raises(ValueError, match="There are no queries"):
        curate(parse([*data, "--output_dir", out, "--min_count", "1000"]))
    (tmp_path / "queries.txt").write_text("purple\n")
    with pytest.raises(ValueError, match="No pair is left"):
        curate(parse([*data, "--output_dir", out, "--queries", str(tmp_path / "queries.txt")]))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(ValueError, match="is not empty"):
        parse([*data, "--output_dir", out])
