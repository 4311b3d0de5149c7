# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The zero-shot example with a tiny model that was never trained."""

import json

import pytest

from evaluate_zero_shot import main


@pytest.fixture
def arguments(model_folder, tmp_path):
    return ["--model", str(model_folder), "--data", "digits", "--limit", "60", "--output-dir", str(tmp_path / "out")]


def test_digits_are_classified_offline(arguments, tmp_path, capsys):
    result = main(arguments)
    printed = capsys.readouterr().out
    assert result.num_images == 60 and result.class_names == list("0123456789")
    assert result.table() in printed and str(tmp_path / "out" / "zero_shot-digits-test.png") in printed
    saved = json.loads((tmp_path / "out" / "zero_shot-digits-test.json").read_text())
    assert saved["metrics"]["top1"] == result.accuracy
    assert (tmp_path / "out" / "features").is_dir()


def test_other_prompts(arguments, undrawn_plots):
    first = main(arguments)
    other = main([*arguments, "--templates", "the digit {}", "{} as handwriting"])
    assert (first.num_prompts, other.num_prompts) == (1, 2)
    assert (first.ranks != other.ranks).any()
    assert main([*arguments, "--templates", "ocr"]).num_prompts == 1


def test_bad_input_is_named(arguments, tmp_path):
    with pytest.raises(ValueError, match="where the label goes"):
        main([*arguments, "--templates", "a photo"])
    assert not (tmp_path / "out").exists()
