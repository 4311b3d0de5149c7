# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The retrieval example on tiny data: what it prints and writes, and bad input."""

import json

import numpy as np
import pytest

from evaluate_retrieval import main


@pytest.fixture
def arguments(model_folder, tiny_data_folder, tmp_path):
    out = ["--output-dir", str(tmp_path / "out")]
    return ["--model", str(model_folder), "--data", str(tiny_data_folder), "--split", "train", *out]


def test_both_directions_are_printed_and_written(arguments, tiny_data, tmp_path, capsys):
    result = main([*arguments, "--worst", "2"])
    printed = capsys.readouterr().out
    assert (result.num_images, result.num_texts) == (16, 16)
    assert result.table() in printed
    stem = tmp_path / "out" / result.stem
    metrics = json.loads(stem.with_suffix(".json").read_text())["metrics"]
    ranks = np.load(stem.with_suffix(".npz"))["text_to_image_ranks"]
    assert metrics["text_to_image_R@5"] == pytest.approx((ranks < 5).mean())
    worst = int(ranks.argmax())
    assert f"rank {ranks[worst] + 1}: {tiny_data['train']['caption'][worst]!r}, image {worst}" in printed
    assert printed.count("  rank ") == 2
    assert stem.with_suffix(".png").stat().st_size > 1000


def test_features_are_kept_and_the_template_is_used(arguments, tmp_path, undrawn_plots):
    first, again = main(arguments), main(arguments)
    assert first.metrics == again.metrics
    assert any((tmp_path / "out" / "features").iterdir())
    other = main([*arguments, "--template", "a drawing of {}"])
    assert other.template == "a drawing of {}"
    assert (other.text_to_image_ranks != first.text_to_image_ranks).any()


def test_limit(arguments, undrawn_plots):
    assert main([*arguments, "--limit", "5"]).num_images == 5


def test_bad_input_is_named(arguments, tmp_path):
    with pytest.raises(ValueError, match="template"):
        main([*arguments, "--template", "a photo"])
    with pytest.raises(ValueError, match="'text'"):
        main([*arguments, "--caption-column", "text"])
    assert not (tmp_path / "out").exists()
