# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf train`: its help, what it hands to the loop, and how it ends."""

import re
import subprocess
import sys
from dataclasses import fields

import pytest

import clip_hf.cli.train
from _clip_hf_cli.train import TrainingFields
from clip_hf.cli import main
from clip_hf.model.image_reading_clip_hf import DEFAULT_LIMITS
from clip_hf.training import TrainingOptions, parse_options


@pytest.fixture
def trained(monkeypatch) -> list[TrainingOptions]:
    """The options of each training that the command starts, in place of the trainings."""
    started: list[TrainingOptions] = []
    monkeypatch.setattr(clip_hf.cli.train, "train", started.append)
    return started


def test_the_help_lists_every_option_once_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    listed = re.findall(r"^  --(\w+)", text, re.MULTILINE)
    assert listed == [option.name for option in fields(TrainingOptions)]
    assert re.search(r"--batch_size NUMBER +Pairs of a step, .*?\(default: 128\)", text, re.DOTALL)
    assert "\ndata:\n  --dataset " in text and "\nevaluation:\n  --eval_every " in text


def test_the_checked_options_add_none():
    assert fields(TrainingOptions) == fields(TrainingFields)
    limits = TrainingOptions().pair_options.image_limits
    assert (limits.max_bytes, limits.max_seconds) == (DEFAULT_LIMITS.max_bytes, DEFAULT_LIMITS.max_seconds)


def test_a_recipe_and_options_reach_the_loop(trained, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 7\nfreeze: [vision]\nema_decay: 0.9\n")
    line = [str(recipe), "--batch-size", "64", "--seed", "5", "--freeze", "none", "--ema_decay", "none", "--cpu"]
    assert main(["train", *line]) == 0 and main(["train"]) == 0
    assert trained == [TrainingOptions(epochs=7, batch_size=64, seed=5, cpu=True), TrainingOptions()]
    assert parse_options(line) == trained[0]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("train --bach_size 3", r"clip-hf train: error: unknown option --bach_size\. Did you mean --batch_size\?"),
        ("train --epochs three", r"clip-hf train: error: argument --epochs.*: invalid int value: 'three'"),
        ("train --overwrite recipe.yaml", r"clip-hf train: error: .*'recipe.yaml' must be true or false"),
    ],
)
def test_a_wrong_command_line_ends_with_2(line, error, trained, capsys):
    with pytest.raises(SystemExit) as stop:
        main(line.split())
    assert stop.value.code == 2 and not trained
    assert re.fullmatch(error, capsys.readouterr().err.strip().splitlines()[-1])


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("nowhere.yaml", "clip-hf train: The recipe nowhere.yaml is not there. Check its path"),
        ("--epochs 0", "clip-hf train: `epochs` is 0; it must be at least 1."),
        ("--freeze none vision", "clip-hf train: `freeze` has `none` among other values"),
        ("--dataset nowhere.csv --cpu", "clip-hf train: "),
    ],
)
def test_what_a_user_can_mend_ends_in_one_line(line, error, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *line.split()]) == 1
    said = capsys.readouterr().err
    assert said.startswith(error) and said.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_a_fault_of_the_code_ends_with_its_trace(monkeypatch, capsys):
    monkeypatch.setattr(clip_hf.cli.train, "train", lambda options: {}["x"])
    assert main(["train"]) == 1
    assert capsys.readouterr().err.startswith("Traceback")


@pytest.mark.slow
def test_it_is_a_module_for_launchers(tmp_path):
    command = [sys.executable, "-m", "clip_hf", "train", "nowhere.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("clip-hf train: The recipe nowhere.yaml is not there.")
