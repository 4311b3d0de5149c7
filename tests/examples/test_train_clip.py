# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The training example: that it learns, what it saves, its options, bad data, and two processes."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from transformers import BatchFeature
from two_processes import train_in_float64

from clip_hf import ClipHFModel, ClipHFProcessor
from train_clip import Options, build_model, load_data, parse_options, train, zero_shot_accuracy


HERE = Path(__file__).resolve().parent


def options_for(recipe: Path, output_dir: Path, *more: str) -> Options:
    return parse_options([str(recipe), "--output_dir", str(output_dir), "--cpu", *more])


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_two_steps_leave_a_model_that_loads(tower, recipe_of, tmp_path):
    log = train(options_for(recipe_of(tower), tmp_path / "out", "--max_steps", "2"))
    steps = [entry for entry in log if "loss" in entry]
    assert [entry["step"] for entry in steps] == [0, 1]
    # Right after the initialisation, the eight pairs are as good as indistinguishable.
    assert steps[0]["loss"] == pytest.approx(math.log(8), abs=1.0)
    assert steps[0]["temperature"] == pytest.approx(0.07, rel=0.01)
    assert 0 <= log[-1]["top1"] <= log[-1]["top5"] <= 100
    model = ClipHFModel.from_pretrained(tmp_path / "out")
    processor = ClipHFProcessor.from_pretrained(tmp_path / "out")
    inputs = processor(text=["a"], images=Image.new("RGB", (50, 50)), return_tensors="pt", padding=True)
    assert model(**inputs).logits_per_image.shape == (1, 1)
    assert model.config.vision_config.model_type == f"clip_hf_{tower}"
    record = json.loads((tmp_path / "out" / "training_log.json").read_text())
    assert record["log"] == log
    assert record["options"]["max_steps"] == 2


def test_training_learns_the_pairs(recipe_of, tmp_path):
    more = ("--epochs", "60", "--learning_rate", "5e-3", "--weight_decay", "0.0", "--eval_every", "100")
    log = train(options_for(recipe_of("vit"), tmp_path / "out", *more))
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert sum(losses[-4:]) / 4 < 0.5 * sum(losses[:2]) / 2


def test_learning_rate_rises_then_falls_to_zero_and_the_temperature_is_clipped(recipe_of, tmp_path):
    more = ("--max_steps", "10", "--warmup_share", "0.2", "--learning_rate", "0.5")
    log = train(options_for(recipe_of("vit"), tmp_path / "out", *more))
    rates = [entry["learning_rate"] for entry in log if "loss" in entry]
    assert rates[:3] == pytest.approx([0.0, 0.25, 0.5])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.03
    assert min(entry["temperature"] for entry in log if "loss" in entry) >= 0.01 - 1e-6


def test_a_run_can_be_repeated(recipe_of, tmp_path):
    first, again, other = (
        train(options_for(recipe_of("vit"), tmp_path / name, "--max_steps", "3", "--seed", seed))
        for name, seed in (("a", "0"), ("b", "0"), ("c", "1"))
    )
    first, again, other = ([entry["loss"] for entry in log if "loss" in entry] for log in (first, again, other))
    assert first == again
    assert first != other


def test_start_from_a_saved_model(recipe_of, tmp_path):
    train(options_for(recipe_of("resnet"), tmp_path / "first", "--max_steps", "1"))
    first = ClipHFModel.from_pretrained(tmp_path / "first")
    options = options_for(recipe_of("resnet"), tmp_path / "second", "--model", str(tmp_path / "first"))
    model, _ = build_model(options, [])
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in model.state_dict().items())
    options.max_steps = 2
    train(options)
    second = ClipHFModel.from_pretrained(tmp_path / "second")
    # Trained, BatchNorm included: what from_pretrained returns is in evaluation mode.
    moved = [name for name, value in second.state_dict().items() if not torch.equal(value, first.state_dict()[name])]
    assert "vision_model.stem.bn1.running_mean" in moved and "text_projection.weight" in moved


def test_two_processes_make_the_update_of_one(recipe_of, tmp_path, monkeypatch):
    towers = ("vit", "resnet")
    recipes = [str(recipe_of(tower)) for tower in towers]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [*command, str(HERE / "two_processes.py"), str(tmp_path / "two"), "4", *recipes],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    train_in_float64(tmp_path / "one", 8, recipes)
    for recipe in recipes:
        name = Path(recipe).stem
        logs, states = [], []
        for folder in (tmp_path / "one" / name, tmp_path / "two" / name):
            log = json.loads((folder / "training_log.json").read_text())["log"]
            logs.append([entry for entry in log if "loss" in entry])
            states.append(ClipHFModel.from_pretrained(folder, dtype=torch.float64).state_dict())
        one, two = logs
        assert len(one) == len(two) == 3
        assert [entry["loss"] for entry in two] == pytest.approx([entry["loss"] for entry in one], rel=1e-9)
        assert [entry["learning_rate"] for entry in two] == [entry["learning_rate"] for entry in one]
        for key, value in states[0].items():
            torch.testing.assert_close(states[1][key], value, rtol=1e-7, atol=1e-9)


def test_accuracy_of_a_model_that_knows_and_of_one_that_does_not(tiny_data, monkeypatch):
    names = sorted({*tiny_data["train"]["caption"], *tiny_data["test"]["caption"]})
    answers = list(tiny_data["test"]["caption"])
    monkeypatch.setattr("train_clip.build_text_classifier", lambda *_: torch.eye(len(names)))

    class Oracle(torch.nn.Module):
        """Puts the right name first, or behind `rank` wrong ones."""

        device = torch.device("cpu")
        rank = 0

        def encode_image(self, pixel_values):
            scores = torch.zeros(len(answers), len(names))
            for row, answer in enumerate(answers):
                right = names.index(answer)
                scores[row, right] = 1.0
                wrong = [place for place in range(len(names)) if place != right][: self.rank]
                scores[row, wrong] = 2.0
            return scores

    def processor(images, return_tensors):
        return BatchFeature({"pixel_values": torch.zeros(len(images), 3, 1, 1)})

    model = Oracle()
    for rank, top1, top5 in ((0, 100.0, 100.0), (1, 0.0, 100.0), (4, 0.0, 100.0), (5, 0.0, 0.0)):
        model.rank = rank
        accuracy = zero_shot_accuracy(model, processor, tiny_data, Options(), ["{}"])
        assert accuracy == {"top1": top1, "top5": top5}


def test_command_line_overrules_the_recipe(recipe_of, tmp_path):
    options = parse_options([str(recipe_of("vit")), "--output_dir", str(tmp_path / "x"), "--epochs", "3"])
    assert (options.epochs, options.batch_size, options.resize_to) == (3, 8, 36)
    assert options.config["vision_config"]["model_type"] == "clip_hf_vit"
    plain = parse_options(["--templates", "a {}", "the {}", "--output_dir", str(tmp_path / "x")])
    assert plain.templates == ["a {}", "the {}"]


@pytest.mark.parametrize("tower", ["resnet", "vit"])
def test_recipes_are_valid(tower):
    path = HERE.parents[1] / "examples" / "recipes" / f"openmoji_{tower}.json"
    options = parse_options([str(path), "--vocab_size", "514"])
    model, processor = build_model(options, ["thumbs up"])
    assert model.config.vision_config.model_type == f"clip_hf_{tower}"
    assert model.config.text_config.vocab_size == len(processor.tokenizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "`epochs` is 0"),
        (["--learning_rate", "-1"], "`learning_rate` is -1"),
        (["--max_steps", "0"], "`max_steps` is 0"),
        (["--warmup_share", "1.0"], "`warmup_share` is 1.0"),
        (["--epoch_count", "3"], "epoch_count"),
    ],
)
def test_bad_options(arguments, message, recipe_of, tmp_path):
    with pytest.raises(ValueError, match=message):
        options_for(recipe_of("vit"), tmp_path, *arguments)


def test_a_recipe_with_a_misspelled_option(recipe_of, tmp_path):
    with pytest.raises(ValueError, match="options that there are not: epoch"):
        options_for(recipe_of("vit", epoch=3), tmp_path)


def test_results_are_not_overwritten_unasked_and_nothing_else_ever(recipe_of, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; choose another, or pass --overwrite"):
        options_for(recipe_of("vit"), tmp_path)
    with pytest.raises(ValueError, match="holds no training"):
        options_for(recipe_of("vit"), tmp_path, "--overwrite")
    train(options_for(recipe_of("vit"), tmp_path / "out", "--max_steps", "1"))
    train(options_for(recipe_of("vit"), tmp_path / "out", "--max_steps", "2", "--overwrite"))
    assert json.loads((tmp_path / "out" / "training_log.json").read_text())["options"]["max_steps"] == 2
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (lambda rows: rows.rename_column("caption", "text"), [], "no column 'caption'; it has 'image', 'text'"),
        (lambda rows: rows.rename_column("image", "picture"), [], "no column 'image'; it has 'picture', 'caption'"),
        (lambda rows: rows.select([]), [], "data set .* is empty"),
        (lambda rows: rows.map(lambda row: {"caption": None}), [], "Row 0 has no caption but None"),
        (lambda rows: rows, ["--batch_size", "17"], "16 pairs do not fill a step of 1 x 17"),
    ],
)
def test_bad_data_is_found_before_the_first_step(change, more, message, tiny_data, recipe_of, tmp_path):
    change(tiny_data["train"]).save_to_disk(str(tmp_path / "data"))
    options = options_for(recipe_of("vit"), tmp_path / "out", "--dataset", str(tmp_path / "data"), *more)
    with pytest.raises(ValueError, match=message):
        train(options)
    assert not (tmp_path / "out").exists()


def test_data_from_folders(tiny_data, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    lines = []
    for index in range(3):
        tiny_data["train"][index]["image"].save(images / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "caption": f"drawing {index}"}))
    (images / "metadata.jsonl").write_text("\n".join(lines))
    data = load_data(Options(dataset=str(images), output_dir=str(tmp_path / "out")))
    assert list(data["train"]["caption"]) == ["drawing 0", "drawing 1", "drawing 2"]

    tiny_data["train"].save_to_disk(str(tmp_path / "one_split"))
    assert list(load_data(Options(dataset=str(tmp_path / "one_split")))) == ["train"]
    datasets.DatasetDict(test=tiny_data["test"]).save_to_disk(str(tmp_path / "no_train"))
    with pytest.raises(ValueError, match="no split `train`; it has test"):
        load_data(Options(dataset=str(tmp_path / "no_train")))
    shutil.rmtree(images)
