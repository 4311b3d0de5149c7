# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf adapt`: its arguments become options, and what it prints says what was gained and lost."""

import argparse

import pytest

from _clip_hf_cli.adapt import METHODS, TOWER_METHODS, add_arguments
from clip_hf.adaptation.adapting import default_folder
from clip_hf.cli import main
from clip_hf.cli.adapt import adapt_options
from clip_hf.evaluation.numerics.feature_heads import HEAD_METHODS
from drawings import PATTERNS, draw
from tiny_models import make_tiny_model


def options_of(*arguments: str):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return adapt_options(parser.parse_args(["m", "digits", *arguments]))


def test_every_method_has_a_line():
    assert set(METHODS) == {*TOWER_METHODS, *HEAD_METHODS}


def test_arguments_become_options():
    asked = options_of("--shots", "4", "--seeds", "2", "--wise", "0.5", "--crop-scale", "0.3", "1", "--retain", "none")
    assert (asked.method, asked.shots, asked.all_seeds, asked.wise, asked.retain) == ("lora", 4, [0, 1], 0.5, None)
    assert asked.crop_scale == (0.3, 1.0) and str(asked.output_dir) == "adapted/m-digits-lora"
    assert options_of("--wise", "AUTO").wise == "auto" and options_of().retain == "openmoji"
    assert options_of("--wise", "none").wise == 1 and options_of().wise is None
    assert options_of("--templates", "a {}.").data_options.templates == ("a {}.",)


def test_the_default_folder_has_the_last_parts_of_paths(tmp_path):
    (tmp_path / "vit" / "last").mkdir(parents=True)
    (tmp_path / "photos").mkdir()
    folder = default_folder(str(tmp_path / "vit" / "last") + "/", str(tmp_path / "photos"), "clap")
    assert str(folder) == "adapted/vit-last-photos-clap"
    assert str(default_folder("openai/clip", "digits", "tip")) == "adapted/openai_clip-digits-tip"
    assert str(default_folder("openai/clip", "https://me:secret@x.org/a/b.tar?token=1", "tip")).endswith("-b.tar-tip")


def test_a_wrong_share_is_named():
    with pytest.raises(ValueError, match="`wise` is 'half'; it must be a share from 0 to 1, or 'auto'"):
        options_of("--wise", "half")


def test_the_report_is_printed(tiny_processor, tmp_path, capsys, undrawn_plots):
    make_tiny_model("vit").save_pretrained(tmp_path / "m")
    tiny_processor.save_pretrained(tmp_path / "m")
    for name in ("red", "green"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for pattern in PATTERNS:
            draw(name, pattern).save(tmp_path / "data" / name / f"{pattern}.png")
    line = [
        "adapt",
        str(tmp_path / "m"),
        str(tmp_path / "data"),
        "--method",
        "tip",
        "--shots",
        "2",
        "--retain",
        "none",
    ]
    assert main([*line, "--output-dir", str(tmp_path / "o"), "--resamples", "50"]) == 0
    out = capsys.readouterr().out
    assert " ".join(out.split()).count("data has no test part: ") == 1
    assert "measured on" in out and "data (test): top-1 accuracy" in out
    assert f"The model is in {tmp_path / 'o' / 'model'}, the report in {tmp_path / 'o'}." in out
    assert main([*line, "--output-dir", str(tmp_path / "o")]) == 1
    assert "is not empty; choose another, or pass --overwrite" in capsys.readouterr().err
