# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The demo, in its shortest form."""

import json
from types import SimpleNamespace

import numpy as np
from PIL import Image
from transformers import pipeline

import demo
from several_processes import process_server


def test_quick_demo_leaves_models_pictures_and_figures(tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "multiprocessing", SimpleNamespace(get_context=lambda method: process_server()))
    tiny_data.save_to_disk(tmp_path / "data")
    results = demo.main(["--quick", "--dataset", str(tmp_path / "data"), "--output-dir", str(tmp_path / "demo")])
    printed = capsys.readouterr().out
    assert set(results) == {"ResNet", "ViT"}
    for by_prompts in results.values():
        assert set(by_prompts) == {"one prompt", "prompt ensemble"}
        for accuracy in by_prompts.values():
            assert 0 <= accuracy["top1"] <= accuracy["top5"] <= 100
            assert accuracy["top1"] <= accuracy["base"]
    for name in ("predictions.png", "similarities.png", "losses.png", "relevance_vit.png", "relevance_resnet.png"):
        with Image.open(tmp_path / "demo" / name) as picture:
            assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 10
        assert name in printed
    assert json.loads((tmp_path / "demo" / "results.json").read_text())["accuracy"] == results
    assert "CC BY-SA 4.0" in printed
    assert "chance" in printed and "5.00%" in printed  # one of twenty names
    first = tiny_data["test"][int(np.random.default_rng(0).permutation(len(tiny_data["test"]))[0])]["caption"]
    assert f"\n{first}\n" in printed  # the title of the hits
    assert (tmp_path / "demo" / "search.html").read_text().count("<img") == min(demo.SHOWN, len(tiny_data["test"]))
    classifier = pipeline("zero-shot-image-classification", model=str(tmp_path / "demo" / "vit" / "last"))
    found = classifier(tiny_data["test"][0]["image"], candidate_labels=["red", "blue"])
    assert abs(sum(entry["score"] for entry in found) - 1) < 1e-5


def test_accuracy_counts_the_first_the_five_and_the_base():
    names = [["a: red", "a: blue"], ["a: red", "a: blue"], ["b", "a: red"]]
    predictions = [[{"label": name, "score": 0.5} for name in row] for row in names]
    accuracy = demo.accuracies(predictions, ["a: red", "a: blue", "c"])
    assert {name: round(value, 1) for name, value in accuracy.items()} == {"top1": 33.3, "top5": 66.7, "base": 66.7}
