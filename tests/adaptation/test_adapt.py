# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""From a model and a few examples to an adapted model and a report of what was gained and lost."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from test_adapt_data import captioned, labelled
from transformers import pipeline

from clip_hf import ClipHFModel, ClipHFProcessor
from clip_hf.adaptation import AdaptationReport, AdaptOptions, adapt
from clip_hf.adaptation.adapted_heads import distinct_labels
from clip_hf.data import load_pairs
from clip_hf.evaluation import load_classification
from clip_hf.evaluation.tasks.evaluation_result import read_result
from clip_hf.model.modeling_clip_hf import ClipHFForImageClassification
from drawings import draw
from tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def model(tiny_processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_tiny_model("vit").save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


def adapted(model: Path, folder: Path, **options) -> AdaptationReport:
    given = {"data": {"train": labelled(8), "test": labelled(4)}, "retain": captioned(6), "resamples": 50}
    notes = []
    return adapt(
        AdaptOptions(**{"model": str(model), "output_dir": folder, "device": "cpu", **given, **options}), notes.append
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return ClipHFModel.from_pretrained(folder).state_dict()


def predictions_of(folder: Path) -> list[str]:
    classify = pipeline("image-classification", model=str(folder))
    return [classify(row["image"])[0]["label"] for row in labelled(4)]


@pytest.mark.parametrize("method", ["tip", pytest.param("clap", marks=pytest.mark.slow)])
def test_a_head_is_saved_as_a_classifier_and_the_towers_stay(method, model, tmp_path, undrawn_plots):
    report = adapted(model, tmp_path / "o", method=method, shots=4, seeds=2)
    assert [one.role for one in report.changes] == ["task", "retained", "retained"]
    assert all(one.interval == (0.0, 0.0) for one in report.changes[1:])
    labels = predictions_of(report.model_folder)
    names = load_classification(labelled(4)).class_names
    targets = load_classification(labelled(4)).targets
    saved = [one.seed for one in report.seeds].index(report.saved_seed)
    assert (
        np.mean([names[target] == label for target, label in zip(targets, labels)]) == report.changes[0].after[saved]
    )
    saved = ClipHFForImageClassification.from_pretrained(report.model_folder).state_dict()
    before = weights(model)
    assert all(torch.equal(saved[name], before[name]) for name in before.keys() & saved.keys())
    card = (report.model_folder / "README.md").read_text()
    assert f"| `method` | {method} |" in card and report.verdict[0] in card and report.how_measured() in card
    assert "with a fixed set of 3 classes: red, green, blue" in card and "| `draws` | 2 |" in card
    assert ("| `parameters_trained` | 0 |" in card) == ("| `cached values` |" in card) == (method == "tip")
    data = ModelCard(card).data
    assert data.pipeline_tag == "image-classification" and data.model_name.endswith(f" adapted to data by {method}")
    result = data.eval_results[0]
    assert result.metric_value == round(100 * report.changes[0].mean_after, 2) and "mean of 2 draws" in card
    assert (result.dataset_name, result.dataset_split) == (report.changes[0].data, "test")
    assert read_result(tmp_path / "o" / "results.json")["metrics"]["top1_after"] == report.metrics["top1_after"]


def test_classes_of_one_name_are_told_apart_by_their_numbers():
    assert distinct_labels(["crane", "cat", "crane"]) == ["crane (0)", "cat", "crane (2)"]


def test_the_best_validation_seed_is_saved(model, tmp_path, undrawn_plots):
    report = adapted(model, tmp_path / "o", method="text_linear", shots=2, seeds=3, retain=None)
    scores = {one.seed: one.validation for one in report.seeds}
    assert scores[report.saved_seed] == max(scores.values())
    assert len(report.changes) == 1 and len(report.changes[0].after) == 3
    assert report.validation_from == "2 rows of each class from training rows that were not drawn"


def test_trained_towers_are_saved_as_a_plain_model(model, tmp_path, undrawn_plots, capsys):
    folder = tmp_path / "o"
    report = adapted(model, folder, method="flyp", shots=4, steps=3, learning_rate=0.01, wise=1)
    shown = capsys.readouterr().out
    assert "Held out: none in the training itself; the adaptation measures the model." in shown and "give" not in shown
    assert report.seeds[0].trained == report.seeds[0].parameters
    changed, trained = weights(folder / "model"), weights(folder / "runs/seed0/training/last")
    assert all(torch.equal(changed[name], trained[name]) for name in trained)
    assert any(not torch.equal(changed[name], value) for name, value in weights(model).items())
    ClipHFProcessor.from_pretrained(folder / "model")
    assert sorted(set(load_pairs([str(folder / "runs/seed0/examples")])["caption"])) == ["blue", "green", "red"]
    content = json.loads((folder / "results.json").read_text())
    assert content["details"]["seeds"][0]["settings"]["steps"] == 3
    assert {"model", "runs", "results.json", "results.md", "results.png", "adaptation.json"} <= set(names_in(folder))
    assert (
        "Adaptation" in (folder / "model/README.md").read_text() or "flyp" in (folder / "model/README.md").read_text()
    )


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_classes_are_learned_by_few_or_all_weights(method, model, tmp_path, undrawn_plots):
    report = adapted(
        model,
        tmp_path / "o",
        method=method,
        shots=4,
        steps=3,
        learning_rate=0.01,
        crop_scale=(0.5, 1),
        wise=0.5,
        image_options={"high_bit_depth": "scale"},
    )
    for part in ("model", "runs/seed0/training/last"):  # trained on what is measured, and saved so
        assert ClipHFProcessor.from_pretrained(tmp_path / "o" / part).image_processor.high_bit_depth == "scale"
    data = ModelCard.load(tmp_path / "o/model/README.md").data
    assert data.model_name.endswith(f" adapted to data by {method}")
    (one,) = report.seeds
    assert 0 < one.trained <= one.parameters and (one.trained < one.parameters / 20) == (method == "lora")
    before, after = weights(model), weights(report.model_folder)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert "text_model.encoder.layers.0.self_attn.q_proj.weight" in changed and before.keys() == after.keys()
    assert ("logit_scale" in changed) == (method == "full")


@pytest.mark.slow
def test_weights_in_between(model, tmp_path, undrawn_plots):
    half = adapted(model, tmp_path / "half", method="flyp", shots=4, steps=3, learning_rate=0.01, wise=0.5)
    tuned, before = weights(tmp_path / "half/runs/seed0/training/last"), weights(model)
    for name, value in weights(half.model_folder).items():
        assert torch.allclose(value, (before[name] + tuned[name]) / 2, atol=1e-6)
    auto = adapted(model, tmp_path / "auto", method="flyp", shots=4, steps=3, learning_rate=0.01, wise="auto")
    assert auto.seeds[0].settings["alpha"] in [step / 10 for step in range(11)]
    assert auto.seeds[0].settings["alpha from"] == "validation rows" and "Alpha, the share" in auto.how_measured()
    none = {"train": labelled(4), "test": labelled(4)}
    whole = adapted(model, tmp_path / "whole", data=none, method="flyp", shots=4, steps=3, learning_rate=0.01)
    assert "trained weights: 1 (by the lack of validation rows)" in whole.how_measured()
    with pytest.raises(ValueError, match="`wise` is auto, which needs rows to choose on, and there are none"):
        adapted(model, tmp_path / "none", data=none, method="flyp", shots=4, wise="auto")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_captions_are_learned_with_the_contrastive_loss(model, tmp_path, undrawn_plots):
    report = adapted(model, tmp_path / "o", data=captioned(20), method="flyp", steps=2, retain=None)
    assert [one.metric for one in report.changes] == ["image_to_text_R@1", "text_to_image_R@1"]
    assert report.notes and report.task_type == "image-classification"


def test_an_adaptation_is_replaced_only_if_asked_and_only_by_a_whole_one(model, tmp_path, undrawn_plots, monkeypatch):
    folder = tmp_path / "o"
    adapted(model, folder, method="tip", shots=2, retain=None)
    with pytest.raises(ValueError, match="`output_dir` .* is not empty; choose another, or pass --overwrite"):
        adapted(model, folder, method="clap", shots=2, retain=None)
    monkeypatch.setattr("clip_hf.adaptation.adapted_heads.fit_head", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        adapted(model, folder, method="clap", shots=2, retain=None, overwrite=True)
    assert json.loads((folder / "results.json").read_text())["details"]["method"] == "tip"
    monkeypatch.undo()
    adapted(model, folder, method="clap", shots=2, retain=None, overwrite=True)
    assert json.loads((folder / "results.json").read_text())["details"]["method"] == "clap"
    assert [path.name for path in tmp_path.iterdir()] == ["o"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    with pytest.raises(ValueError, match="holds no adaptation, so it is not replaced"):
        adapted(model, tmp_path / "mine", method="tip", overwrite=True)


def test_an_unreadable_picture_is_left_out_before_and_after(model, tmp_path, undrawn_plots):
    for name in ("red", "green"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for place, pattern in enumerate(("square", "bar", "frame", "corner", "cross")):
            draw(name, pattern).save(tmp_path / "data" / name / f"{place}.png")
    (tmp_path / "data" / "red" / "0.png").write_bytes(b"no picture")
    report = adapted(model, tmp_path / "o", data=str(tmp_path / "data"), method="tip", retain=None)
    assert sum(one.examples for one in report.seeds) + report.changes[0].rows + report.seeds[0].validation_rows == 9


@pytest.mark.parametrize("what", ["file", "other"])
def test_models_that_cannot_be_adapted(what, model, tmp_path):
    name = str(tmp_path / "weights.pt") if what == "file" else str(tmp_path / "nothing")
    if what == "file":
        torch.save({}, name)
    with pytest.raises((ValueError, OSError)):
        adapted(Path(name), tmp_path / "o", method="flyp")
    assert not (tmp_path / "o").exists()
