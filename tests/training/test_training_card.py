# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The card of a training, and what the training says before it starts."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from PIL import Image

from clip_hf.cli.evaluate import update_card
from clip_hf.training import HeldOutPairs, TrainingOptions, describe_training, parse_options, train
from without_clip_hf import run_without_clip_hf


@pytest.fixture
def trained(recipe_of, tiny_data_folder, tmp_path, monkeypatch, capsys):
    """The folder of a training that was started with relative paths, its output, and a photo elsewhere."""
    monkeypatch.chdir(tmp_path)
    train(parse_options([str(recipe_of("vit", max_steps=2)), "--output_dir", "runs/birds"]))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Image.new("RGB", (50, 40), "red").save("photo.jpg")
    return tmp_path / "runs" / "birds", capsys.readouterr().out


def test_what_the_card_says(trained, tiny_data_folder, tmp_path):
    folder, _ = trained
    texts = [(folder / name / "README.md").read_text() for name in ("last", "best")]
    title = f"birds: a CLIP with ViT/16, trained on {tiny_data_folder.name}"
    for text in texts:
        assert f"\n# {title}\n" in text and str(tmp_path.parent) not in text
        assert "| `training_pairs` | 16 |" in text
        assert "| `held_out_pairs` | 4: 4 images and 4 different captions; zero-shot among 20 classes |" in text
        for step in (
            "turn the image upright by its EXIF orientation",
            "put a transparent image on the background (255, 255, 255)",
            "resize the shorter side to 36 pixels with a bicubic filter",
            "crop the centre of 32 x 32 pixels",
        ):
            assert f". {step}\n" in text


def test_the_figures_of_a_card(trained):
    folder, _ = trained
    data = ModelCard.load(folder / "last" / "README.md").data
    (index,) = yaml.safe_load(data.to_yaml())["model-index"]
    assert index["name"] == "birds"
    tasks = {entry["task"]["type"]: [one["type"] for one in entry["metrics"]] for entry in index["results"]}
    assert tasks == {
        "zero-shot-image-classification": ["zero_shot_top1", "zero_shot_top5"],
        "zero-shot-image-retrieval": [
            f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)
        ],
    }
    name, results = model_index_to_eval_results(eval_results_to_model_index("birds", data.eval_results))
    assert name == "birds" and results == data.eval_results
    for result in results:
        low, high = result.metric_args["interval_95"]
        assert 0 <= low <= result.metric_value <= high <= 100 and high - low > 40  # of four


@pytest.mark.slow
def test_the_code_runs_from_anywhere(trained, tmp_path):
    folder = trained[0] / "last"
    usage = (folder / "README.md").read_text().partition("## Use")[2].partition("## Preprocessing")[0]
    with_library, without, features = re.findall(r"^```python\n(.*?)^```$", usage, re.S | re.M)
    placed = [block.replace("path/to/this/folder", str(folder)) for block in (with_library, features)]
    assert all(str(folder) in block for block in placed)
    names: dict = {}
    exec(placed[0], names)
    expected = {entry["label"]: entry["score"] for entry in names["scores"]}
    exec(placed[1], names)
    found = dict(zip(names["labels"], names["logits"].softmax(dim=-1)[0].tolist(), strict=True))
    assert found == pytest.approx(expected, abs=1e-5) and len(set(expected.values())) == 3
    save = '\nis_remote(classify)\njson.dump(scores, open(f"{folder}/result.json", "w"))\n'
    scores = run_without_clip_hf(
        without.replace("path/to/this/folder", str(folder)) + save, folder, tmp_path / "elsewhere"
    )
    assert {entry["label"]: entry["score"] for entry in scores} == pytest.approx(expected, abs=1e-5)


def test_results_of_an_evaluation_change_nothing_else(trained):
    folder = trained[0] / "last"
    before = (folder / "README.md").read_text()
    update_card(folder, [])
    assert (folder / "README.md").read_text() == before


def test_what_is_about_to_be_done_is_said(trained, tiny_data_folder):
    lines = trained[1].splitlines()
    assert re.fullmatch(
        r"Training a new model from scratch \(ViT/16, [0-9,]+ parameters\); `config` makes another, `model` starts "
        "from a trained one.",
        lines[0],
    )
    assert lines[1:3] == [
        f"Data: 16 pairs from {tiny_data_folder}. Held out: 4: 4 images and 4 different captions; zero-shot among 20 "
        "classes.",
        "Plan: 2 steps of 8 pairs (1 times through them); learning rate up to 0.001 after 1 step of warm-up. "
        "Results: runs/birds.",
    ]


def test_titles():
    def title(**options) -> str:
        return describe_training(TrainingOptions(output_dir="runs/birds", **options), 1, {}).title

    assert title() == "birds: a CLIP, trained on OpenMoji"
    assert title(model="me/first", dataset=["a/b", "/home/alice/c.csv", "d"]) == (
        "birds: me/first fine-tuned on a/b, c.csv and others"
    )


@pytest.mark.parametrize(
    ("value", "metric", "interval"),
    # Wilson's, by hand: (p + z2 / 2n -+ sqrt(p (1 - p) z2 / n + (z2 / 2n)^2)) / (1 + z2 / n), z2 = 3.8415.
    [(0.0, "zero_shot_top1", [0.0, 27.75]), (0.5, "image_to_text_R@1", [23.66, 76.34])]
    + [(1.0, "text_to_image_R@1", [56.55, 100.0])],
)
def test_intervals_of_percentages(value, metric, interval):
    held_out = HeldOutPairs.__new__(HeldOutPairs)
    held_out.noun = "image"
    held_out.pixels, held_out.texts, held_out.captions, held_out.labels = [0] * 10, ["a"] * 5, [["a"]] * 10, ["a"]
    (result,) = describe_training(TrainingOptions(), 1, {metric: value}, held_out=held_out).eval_results
    assert result.metric_args == {"interval_95": interval}
