# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf explain`: what it prints and writes, and what it refuses before it loads a model."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import _clip_hf_cli.explain
from clip_hf.cli import main
from clip_hf.explain import METHODS, explain_image
from tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_processor):
    folder = tmp_path_factory.mktemp("explain")
    make_tiny_model("vit").save_pretrained(folder / "model")
    tiny_processor.save_pretrained(folder / "model")
    Image.effect_noise((120, 70), 60).convert("RGB").save(folder / "x.png")
    return folder


def run(folder, *arguments: str) -> int:
    return main(["explain", str(folder / "x.png"), "a cat", "two dogs", "--model", str(folder / "model"), *arguments])


def test_the_command_knows_the_methods():
    assert tuple(METHODS) == _clip_hf_cli.explain.METHODS


def test_drawing_arrays_and_words(folder, tmp_path, capsys):
    drawing, arrays = tmp_path / "new" / "map.png", tmp_path / "maps.npz"
    assert run(folder, "--output", str(drawing), "--arrays", str(arrays), "--words") == 0
    out, err = capsys.readouterr()
    assert err == "" and "120 x 70 pixels: relevance by chefer" in out
    assert [line.split("\t")[:2] for line in out.splitlines()[-4:]] == [
        ["a cat", "a"],
        ["a cat", "cat"],
        ["two dogs", "two"],
        ["two dogs", "dogs"],
    ]
    with Image.open(drawing) as image:
        assert image.format == "PNG" and image.width > 700
    with np.load(arrays) as stored:
        assert stored["maps"].shape == (2, 70, 120)


def test_json(folder, capsys):
    assert run(folder, "--json", "--words", "--method", "occlusion", "--stride", "8", "--window", "16") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["method"], result["width"], result["height"]) == ("occlusion", 120, 70)
    assert result["seen_box"] == {"left": 24, "top": 0, "right": 95, "bottom": 70}
    assert [entry["text"] for entry in result["texts"]] == ["a cat", "two dogs"]
    for entry in result["texts"]:
        assert 24 <= entry["top_point"]["x"] < 95 and -1 <= entry["cosine"] <= 1
    assert [each["word"] for each in result["texts"][1]["words"]] == ["two", "dogs"]


def test_a_text_that_nothing_speaks_for_has_no_strongest_point(folder, monkeypatch, capsys):
    def without(*arguments, **options):
        result = explain_image(*arguments, **options)
        return replace(result, grid_maps=result.grid_maps * np.array([0, 1], np.float32)[:, None, None])

    monkeypatch.setattr("clip_hf.cli.explain.explain_image", without)
    assert run(folder, "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["texts"]
    assert first["top_point"] is None and second["top_point"]["value"] > 0
    assert run(folder) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "a cat" in line]
    assert line.split()[-2:] == ["-", "-"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "{file}/x.png"], "{file}/x.png cannot be written: {file} is a file, not a folder"),
        (["--arrays", "{file}/x.npz"], "{file}/x.npz cannot be written: {file} is a file, not a folder"),
        (["--output", "{tmp}/x.gif"], "x.gif must end in .png, .jpg, .jpeg, .webp"),
        (["--arrays", "{tmp}/x.png"], "x.png must end in .npz"),
        (["--window", "8", "--method", "chefer"], "--window and --stride belong to --method occlusion, not chefer"),
    ],
)
def test_refused_before_any_work(arguments, message, folder, tmp_path, monkeypatch, capsys):
    def load(*_, **__):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("clip_hf.cli.explain.ClipHFModel.from_pretrained", load)
    (tmp_path / "file").touch()
    places = {"file": tmp_path / "file", "tmp": tmp_path}
    assert run(folder, *(argument.format(**places) for argument in arguments)) == 1
    assert message.format(**places) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_pictures_and_layers_that_cannot_be_used(folder, tmp_path, capsys):
    model = ["--model", str(folder / "model")]
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    for name, message in [
        ("nowhere.png", "There is no picture"),
        ("broken.png", "clip-hf explain: "),
        ("", "is a folder; name one picture"),
    ]:
        assert main(["explain", str(tmp_path / name), "a cat", *model, "--output", str(tmp_path / "map.png")]) == 1
        assert message in capsys.readouterr().err
    assert run(folder, "--layers", "9") == 1
    assert "`layers` is 9" in capsys.readouterr().err
    assert run(folder, "--window", "8") == 1
    assert "belong to" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "chefr"], "Did you mean chefer?"),
        (["--layers", "0"], "'0' must be all, last, or a whole number of layers"),
    ],
)
def test_wrong_command_lines(arguments, message, folder, capsys):
    with pytest.raises(SystemExit) as stop:
        run(folder, *arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err
