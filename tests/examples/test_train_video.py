# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The page of films in its smallest form: it trains a head and the towers, saves a video model, and names actions."""

import csv
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clip_hf import ClipHFVideoModel
from clip_hf.data import built_in_datasets, load_moving_drawings
from train_video import build_model, build_optimizer, parse, train


EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_video.py"
SHORT = ["--steps", "2", "--batch_size", "4", "--temporal_num_layers", "1", "--num_frames", "3", "--cpu"]


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    return load_moving_drawings(tmp_path_factory.mktemp("drawings"), num_drawings=2, clips_per_action=1, image_size=16)


def test_the_page_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 250


def test_it_trains_and_names_the_actions_of_held_out_films(drawings, model_folder, tmp_path, monkeypatch, capsys):
    table = built_in_datasets.BUILT_IN_DATASETS
    changed = dataclasses.replace(table["moving-drawings"], load=lambda: drawings)
    monkeypatch.setitem(table, "moving-drawings", changed)
    output = tmp_path / "video"
    train(parse([*SHORT, "--model", str(model_folder), "--num_shown", "3", "--output_dir", str(output)]))
    printed = capsys.readouterr().out
    # The only drawing of the training has eight of the ten actions.
    assert f"The model is in {output}." in printed and "Held-out films among 8 texts:" in printed
    lines = printed.splitlines()[-3:]
    for line, row in zip(lines, drawings["test"]):
        found = re.fullmatch(r"  ([=x]) (.+): (.+) \((\d+)%\)", line)
        assert found[2] == row["action"] and found[3] in drawings["train"]["action"]
        assert (found[1] == "=") == (found[2] == found[3]) and 100 / 8 <= int(found[4]) + 1

    model = ClipHFVideoModel.from_pretrained(output)
    assert model.config.temporal_head == "LSTM" and model.config.num_frames == 3
    before, after = (load_file(folder / "model.safetensors") for folder in (model_folder, output))
    assert any(name.startswith("temporal_head.") for name in after)
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved and not any(name.startswith(("vision_model.", "visual_projection.")) for name in moved)
    text = {name for name in before if name.startswith("text_")}
    assert len(moved & text) > 0.9 * len(text)


def test_a_table_of_films_without_parts(drawings, model_folder, tmp_path, capsys):
    # Own films: a table beside them. What training has not held out is shown as what it is.
    films = drawings["train"].select(range(6))
    with open(tmp_path / "films.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["video", "caption"])
        for number, row in enumerate(films):
            (tmp_path / f"{number}.mp4").write_bytes(Path(row["video"]["path"]).read_bytes())
            table.writerow([f"{number}.mp4", row["caption"]])
    arguments = ["--dataset", str(tmp_path / "films.csv"), "--caption_column", "caption", "--temporal_head", "meanP"]
    output = tmp_path / "video"
    train(parse([*SHORT, *arguments, "--model", str(model_folder), "--output_dir", str(output)]))
    assert "Training films among 6 texts:" in capsys.readouterr().out
    assert ClipHFVideoModel.from_pretrained(output).config.temporal_head == "meanP"


def test_the_head_has_its_own_rate(model_folder):
    options = parse(["--model", str(model_folder), "--temporal_head", "LSTM"])
    model, processor = build_model(options)
    towers, head = build_optimizer(model, 1e-4, 10).param_groups
    assert towers["lr"] == pytest.approx(1e-4) and head["lr"] == pytest.approx(1e-3)
    assert {id(parameter) for parameter in head["params"]} == {id(each) for each in model.temporal_parameters()}
    assert len(towers["params"]) + len(head["params"]) == len(list(model.parameters()))
    assert processor.image_processor.num_frames == 8
    model, _ = build_model(parse(["--model", str(model_folder), "--temporal_head", "meanP"]))
    assert len(build_optimizer(model, 1e-4, 10).param_groups) == 1
