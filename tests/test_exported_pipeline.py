# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Exported models in pipelines, ours and transformers': the scores are those of the model in PyTorch."""

import re
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import pipeline

import clip_hf
from clip_hf import ClipHFModel, ClipHFZeroShotImageClassificationPipeline
from clip_hf.cli import main
from clip_hf.export import ClipHFExportedModel, exported_model, opening, runtime_sessions, runtimes
from tiny_models import as_transformers_clip, make_tiny_model


TASK = "zero-shot-image-classification"
LABELS = ["a cat", "dog", "a map of the whole world", "snow"]


@pytest.fixture
def folder(exported_folder):
    return exported_folder("vit", "onnx")


@pytest.fixture
def expected(tiny_processor, images) -> list:
    return clip_hf.pipeline(make_tiny_model("vit"), tiny_processor, device="cpu")(images, LABELS)


def assert_same(results: list, others: list) -> None:
    for predictions, predicted in zip(results, others, strict=True):
        scores, wanted = ({entry["label"]: entry["score"] for entry in each} for each in (predictions, predicted))
        assert scores == pytest.approx(wanted, abs=1e-5)
    assert len({results[row][0]["score"] for row in range(len(results))}) > 1


@pytest.mark.slow_but_for("vit")
def test_ours_gives_the_scores_of_pytorch(tower, runtime, exported_folder, tiny_processor, images):
    ours = clip_hf.pipeline(make_tiny_model(tower), tiny_processor, device="cpu")
    exported = clip_hf.pipeline(exported_folder(tower, "onnx"), runtime=runtime)
    assert exported.model.runtime == runtime
    for options in (
        {},
        {"batch_size": 3, "num_workers": 2},
        {"multi_label": True, "batch_size": 2},
        {"function_to_apply": "none"},
        {"hypothesis_template": ["a map of {}.", "the {}"]},
    ):
        assert_same(exported(images, LABELS, **options), ours(images, LABELS, **options))


def test_transformers_pipeline_gives_ours(folder, images, expected):
    exported = pipeline(TASK, model=str(folder))
    assert type(exported) is ClipHFZeroShotImageClassificationPipeline
    assert type(exported.model) is ClipHFExportedModel
    assert_same(exported(images, candidate_labels=LABELS, batch_size=2, num_workers=1), expected)


def test_an_accelerator_is_left_alone(folder, images, expected, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    monkeypatch.setattr(transformers.pipelines.base, "is_torch_cuda_available", lambda: True)
    for make in (clip_hf.pipeline, lambda model, **options: pipeline(TASK, model=str(model), **options)):
        for options in ({}, {"device": "cpu"}, {"device": -1}, {"device_map": "auto"}):
            exported = make(folder, **options)
            assert exported.device.type == exported.model.device.type == "cpu"
        assert_same(exported(images, candidate_labels=LABELS), expected)
        for device in ("cuda", 0, torch.device("cuda")):
            with pytest.raises(ValueError, match="^Exported models run on the processor only"):
                make(folder, device=device)


def test_autocast_and_defaults_of_pytorch_change_nothing(folder, images):
    expected = clip_hf.pipeline(folder)(images, LABELS)
    for setting in (torch.autocast("cpu", torch.bfloat16), torch.device("meta")):
        with setting:
            assert clip_hf.pipeline(folder)(images, LABELS) == expected


def test_labels_are_encoded_once(folder, images, monkeypatch):
    exported = clip_hf.pipeline(folder)
    encode_text, calls = exported.model.encode_text, []
    monkeypatch.setattr(ClipHFExportedModel, "encode_text", lambda _, *a, **k: calls.append(1) or encode_text(*a, **k))
    first = exported(images, LABELS)
    assert calls and exported(images, LABELS) == first and len(calls) == 1
    exported(images, [*LABELS, "another"])
    assert len(calls) == 2


def test_a_model_is_exported_once(exported_folder, tiny_processor, images, expected, tmp_path, monkeypatch):
    made = []

    def export_model(model, folder, runtime, *, processor):
        made.append((type(model).__name__, type(processor).__name__))
        shutil.copytree(exported_folder("vit", runtime), folder)

    monkeypatch.setattr(opening.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(opening, "export_model", export_model)
    model = make_tiny_model("vit")
    model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    for source, options in (
        (tmp_path / "model", {}),
        (model, {"processor": tiny_processor}),
        (tmp_path / "model", {"tokenizer": tiny_processor.tokenizer}),
    ):
        exported = clip_hf.pipeline(source, runtime="onnx", **options)
        assert type(exported.model) is ClipHFExportedModel and exported.model.runtime == "onnx"
        assert_same(exported(images, LABELS), expected)
    assert made == [("ClipHFModel", "ClipHFProcessor")]
    clip_hf.pipeline(as_transformers_clip(model), tiny_processor, runtime="onnx")
    assert made[1:] == [("CLIPModel", "ClipHFProcessor")]


@pytest.mark.parametrize("picks", [True, False])
def test_auto_is_bfloat16_where_it_is_faster(folder, monkeypatch, picks):
    opened = []

    def open_session(path, runtime, precision):
        opened.append(precision)
        return runtime_sessions.open_session(path, runtime, "float32")

    monkeypatch.setattr(runtimes, "read_processor", lambda: SimpleNamespace(has_bfloat16=True))
    monkeypatch.setattr(exported_model, "open_session", open_session)
    monkeypatch.setattr(opening, "picks_bfloat16", lambda: picks)
    clip_hf.pipeline(folder, runtime="openvino", dtype="auto")
    assert opened == ["bfloat16" if picks else "float32"] * 2
    pipeline(TASK, model=str(folder), dtype="auto")  # transformers' default: as the files are
    assert opened[2:] == ["float32"] * 2


def test_the_command_classifies_with_a_runtime(folder, images, expected, tmp_path, capsys):
    images[0].save(tmp_path / "a.png")
    shown = []
    for options in ([], ["--runtime", "openvino", "--dtype", "float32", "--device", "cpu"]):
        command = ["classify", str(tmp_path / "a.png"), "--model", str(folder), *options, "--json", "--labels"]
        assert main([*command, *LABELS]) == 0
        shown.append(capsys.readouterr().out)
    for out in shown:
        scores = {label: float(score) for score, label in re.findall(r'"score": ([\d.e-]+), "label": "(.*?)"', out)}
        assert scores == pytest.approx({entry["label"]: entry["score"] for entry in expected[0]}, abs=1e-5)


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorrt"}, "`runtime` is 'tensorrt'; it must be one of 'torch', 'onnx', 'openvino', or None"),
        ({"runtime": "onnx", "dtype": "bfloat16"}, "ONNX Runtime does not compute in bfloat16"),
        ({"runtime": "onnx", "device": "cuda"}, "Exported models run on the processor only; `device` is 'cuda'"),
        ({"runtime": "onnx", "device": 0}, "Exported models run on the processor only; `device` is '0'"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(tiny_processor, monkeypatch, options, message):
    monkeypatch.setattr(ClipHFModel, "from_pretrained", lambda *args, **kwargs: pytest.fail("a model was loaded"))
    for model in ("somewhere", make_tiny_model("vit")):
        with pytest.raises(ValueError, match=re.escape(message)):
            clip_hf.pipeline(model, tiny_processor, **options)


def test_what_an_export_cannot_do(folder, tiny_processor, exported_folder):
    with pytest.raises(ValueError, match="is an exported model, which PyTorch does not run"):
        clip_hf.pipeline(folder, runtime="torch")
    with pytest.raises(ValueError, match="Exported models run on the processor only; `device` is 'cuda'"):
        clip_hf.pipeline(folder, device="cuda")
    with pytest.raises(ValueError, match="Exported models run on the processor only; `device` is '0'"):
        pipeline(TASK, model=str(folder), device=0)
    opened = ClipHFExportedModel.from_pretrained(folder)
    assert clip_hf.pipeline(opened, tiny_processor).model is clip_hf.pipeline(opened).model is opened
    for options in ({"runtime": "openvino"}, {"dtype": torch.float32}):
        with pytest.raises(ValueError, match="is open already, in onnx and float32"):
            clip_hf.pipeline(opened, tiny_processor, **options)


def test_a_runtime_that_is_not_installed_names_its_extra(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match="openvino is not installed. The extra `openvino` of clip_hf"):
        clip_hf.pipeline(folder, runtime="openvino")
    assert main(["classify", "a.png", "--model", str(folder), "--runtime", "openvino", "--labels", "a", "b"]) == 1
    assert "The extra `openvino` of clip_hf brings all that this needs" in capsys.readouterr().err
    assert main(["evaluate", str(folder), "--runtime", "openvino", "--data", "openmoji"]) == 1
    assert "The extra `openvino` of clip_hf brings all that this needs" in capsys.readouterr().err
