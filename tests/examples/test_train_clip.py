# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The one-page loop makes the updates of `clip-hf train`, to the last bit, on one process and on two."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from clip_hf import ClipHFModel
from clip_hf.cli import main
from clip_hf.training import TrainingOptions
from several_processes import torchrun
from train_clip import choose_warmup, parse, train


EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_clip.py"


@pytest.fixture
def shared_arguments(tiny_data_folder) -> list[str]:
    """Arguments that mean the same to both: two epochs of two steps."""
    lengths = ["--epochs", "2", "--batch_size", "8", "--warmup_steps", "1", "--learning_rate", "1e-2"]
    return ["--dataset", str(tiny_data_folder), *lengths, "--templates", "{}", "a {}", "--seed", "3", "--cpu"]


def assert_same_weights(page: Path, command: Path, first: Path | None = None) -> None:
    """Both saved the same weights, and none that were there before."""
    of_page, of_command = load_file(page / "model.safetensors"), load_file(command / "last" / "model.safetensors")
    assert of_page.keys() == of_command.keys()
    assert all(torch.equal(value, of_command[name]) for name, value in of_page.items())
    if first is not None:
        before = load_file(first / "model.safetensors")
        moved = [name for name, value in of_page.items() if not torch.equal(value, before[name])]
        assert len(moved) > 0.9 * len(before)


def test_the_page_is_a_page():
    assert len(EXAMPLE.read_text().splitlines()) <= 165
    assert "\nclass " not in EXAMPLE.read_text()


@pytest.mark.slow
def test_fine_tuning_makes_the_same_updates(shared_arguments, model_folder, tmp_path):
    model = ["--model", str(model_folder)]
    train(parse([*shared_arguments, *model, "--output_dir", str(tmp_path / "page")]))
    assert main(["train", *shared_arguments, *model, "--output_dir", str(tmp_path / "command")]) == 0
    assert_same_weights(tmp_path / "page", tmp_path / "command", model_folder)


def test_lora_saves_an_adapter_and_the_model_with_it(shared_arguments, model_folder, tmp_path, capsys):
    lora = ["--model", str(model_folder), "--lora_rank", "2"]
    train(parse([*shared_arguments, *lora, "--output_dir", str(tmp_path / "page")]))
    assert "parameters trained" in capsys.readouterr().out
    merged = ClipHFModel.from_pretrained(tmp_path / "page")
    adapted = ClipHFModel.from_pretrained(tmp_path / "page" / "adapter")
    before = ClipHFModel.from_pretrained(model_folder).state_dict()
    changed = [name for name, value in merged.state_dict().items() if not torch.equal(value, before[name])]
    assert changed and all(name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")) for name in changed)
    pixel_values = torch.randn(2, 3, *[merged.config.vision_config.image_size] * 2)
    embeds = [model.encode_image(pixel_values) for model in (merged, adapted)]
    torch.testing.assert_close(*embeds, rtol=0, atol=2e-6)
    with pytest.raises(SystemExit):
        parse(["--lora_rank", "2"])
    assert "give --model" in capsys.readouterr().err


def test_training_from_scratch_makes_the_same_updates(shared_arguments, tmp_path, capsys):
    train(parse([*shared_arguments, "--output_dir", str(tmp_path / "page")]))
    assert f"The model is in {tmp_path / 'page'}" in capsys.readouterr().out
    config = json.loads((tmp_path / "page" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    new = ["--config", str(tmp_path / "config.json"), "--vocab_size", "2048", "--resize_to", "66"]
    new += ["--background_color", "white", "--output_dir", str(tmp_path / "command")]
    assert main(["train", *shared_arguments, *new]) == 0
    assert_same_weights(tmp_path / "page", tmp_path / "command")
    classifier = pipeline("zero-shot-image-classification", model=str(tmp_path / "page"))
    scores = classifier(Image.new("RGB", (50, 40), "red"), candidate_labels=["red", "blue"])
    assert sum(entry["score"] for entry in scores) == pytest.approx(1)


def test_few_steps_have_few_steps_of_warm_up(tiny_data_folder, tmp_path, capsys):
    data = ["--dataset", str(tiny_data_folder), "--epochs", "2", "--batch_size", "8", "--cpu"]
    train(parse([*data, "--output_dir", str(tmp_path / "page")]))
    assert (tmp_path / "page" / "model.safetensors").is_file() and "give only" not in capsys.readouterr().err
    for num_steps in (1, 2, 6, 40, 1001):
        assert choose_warmup(None, num_steps) == TrainingOptions().warmup_steps_of(num_steps)
    assert choose_warmup(3, 6) == 3


@pytest.mark.slow
def test_two_processes_make_the_same_updates(shared_arguments, model_folder, tmp_path):
    arguments = [*shared_arguments, "--model", str(model_folder)]
    page = torchrun(EXAMPLE, *arguments, "--output_dir", tmp_path / "page")
    assert page.returncode == 0, page.stderr[-3000:]
    command = torchrun("-m", "clip_hf", "train", *arguments, "--output_dir", tmp_path / "command")
    assert command.returncode == 0, command.stderr[-3000:]
    assert_same_weights(tmp_path / "page", tmp_path / "command", model_folder)
    # The negatives come from both processes: one process makes the same updates but for rounding.
    train(parse([*arguments, "--output_dir", str(tmp_path / "one")]))
    of_one, of_two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "page"))
    for name, value in of_one.items():
        if not name.endswith("k_proj.bias"):  # its gradient is rounding alone, which Adam makes whole steps of
            torch.testing.assert_close(of_two[name], value, rtol=1e-3, atol=1e-4, msg=name)
