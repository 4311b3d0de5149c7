# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The example with transformers' Trainer: that it learns, draws anew in each epoch, evaluates, and what it saves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import EvalPrediction, pipeline

from clip_hf import ClipHFModel
from clip_hf.data import ImageTextDataset
from clip_hf.training import build_model
from tiny_models import make_tiny_model
from train_with_trainer import parse, retrieval_metrics, train, training_options


HERE = Path(__file__).resolve().parent


@pytest.fixture
def arguments(model_folder, tiny_data_folder, tmp_path):
    return [
        *("--dataset", str(tiny_data_folder), "--model", str(model_folder), "--output_dir", str(tmp_path / "out")),
        *("--use_cpu", "True", "--per_device_train_batch_size", "8", "--per_device_eval_batch_size", "3"),
        *("--logging_steps", "1", "--disable_tqdm", "True", "--save_strategy", "no"),
    ]


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_it_learns_evaluates_and_saves_with_our_card(arguments, tmp_path, tiny_data, capsys):
    trainer = train(*parse([*arguments, "--num_train_epochs", "30", "--learning_rate", "2e-3"]))
    found = losses(trainer)
    assert len(found) == 60
    assert np.mean(found[-4:]) < 0.7 * np.mean(found[:2])
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(evaluations) == 30
    for name in ("image_to_text_R@1", "image_to_text_R@5", "text_to_image_R@1", "text_to_image_R@5"):
        assert 0 <= evaluations[-1][f"eval_{name}"] <= 1
    # Of four pairs, in batches of three: the last one is evaluated too.
    assert evaluations[-1]["eval_text_to_image_R@5"] == 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "clip_hf" in card and "generated_from_trainer" not in card
    assert "| `batch_size` | 8 |" in card and "| `training_pairs` | 16 |" in card
    assert "| `held_out_pairs` | 4 with 4 different captions |" in card
    data, model = (Path(arguments[place]).name for place in (1, 3))
    assert f"\n# out: {model} fine-tuned on {data}\n" in card and str(tmp_path.parent) not in card
    assert ModelCard(card).data.model_name == "out"
    figures = {one.metric_type: one for one in ModelCard(card).data.eval_results}
    assert figures["text_to_image_R@5"].task_type == "zero-shot-image-retrieval"
    assert figures["text_to_image_R@5"].metric_value == 100
    assert figures["text_to_image_R@5"].metric_args["interval_95"] == [51.01, 100.0]  # Wilson's for 4 of 4
    said = capsys.readouterr().out
    assert f"Fine-tuning {arguments[3]} (ViT/16, " in said
    assert "Data: 16 pairs from" in said and "Held out: 4 with 4 different captions." in said
    assert "Plan: 60 steps of 8 pairs (30 times through them); learning rate up to 0.002 after 6 steps" in said
    trained = ClipHFModel.from_pretrained(tmp_path / "out")
    assert not torch.equal(trained.logit_scale, make_tiny_model("vit").logit_scale)
    classifier = pipeline("zero-shot-image-classification", model=str(tmp_path / "out"))
    assert len(classifier(tiny_data["test"][0]["image"], candidate_labels=["red", "blue"])) == 2


def test_each_epoch_draws_anew(arguments, monkeypatch):
    epochs, read = [], ImageTextDataset.__getitem__
    monkeypatch.setattr(
        ImageTextDataset, "__getitem__", lambda self, row: epochs.append(self.epoch) or read(self, row)
    )
    train(*parse([*arguments, "--num_train_epochs", "3", "--eval_split", "none"]))
    assert sorted(set(epochs)) == [0, 1, 2]


def evaluations(trainer) -> list[dict]:
    return [entry for entry in trainer.state.log_history if any(name.startswith("eval") for name in entry)]


@pytest.fixture
def table(tiny_data, tmp_path) -> str:
    """The tiny data for training as a table: without parts."""
    lines = ["image,caption"]
    for index, row in enumerate(tiny_data["train"]):
        row["image"].save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{row['caption']}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    return str(tmp_path / "pairs.csv")


@pytest.mark.slow
def test_rows_that_are_trained_on_are_not_evaluated(arguments, table, tiny_data_folder, monkeypatch):
    said = []
    monkeypatch.setattr("train_with_trainer.logger.warning", said.append)
    arguments = [*arguments, "--dataset", table, "--max_steps", "2", "--per_device_train_batch_size", "4"]
    assert evaluations(train(*parse(arguments))) == []
    assert said == ["Nothing is held out, so nothing is evaluated: give `eval_dataset` or `eval_share`."]
    for wrong in (["--eval_dataset", table], ["--eval_split", "train"]):
        with pytest.raises(ValueError, match="trained on"):
            train(*parse([*arguments, *wrong]))
    trainer = train(*parse([*arguments, "--eval_share", "0.3", "--eval_strategy", "steps", "--eval_steps", "1"]))
    assert len(evaluations(trainer)) == 2
    held_out = set(trainer.eval_dataset.texts)
    trained = {
        caption for row in range(len(trainer.train_dataset)) for caption in [trainer.train_dataset[row]["text"]]
    }
    assert held_out and not held_out & trained and len(trainer.eval_dataset) + len(trainer.train_dataset) == 16
    trainer = train(*parse([*arguments, "--eval_dataset", str(tiny_data_folder)]))
    assert len(trainer.eval_dataset) == 4 and len(evaluations(trainer)) == 1


@pytest.mark.slow
def test_resume_goes_on_where_it_stopped(arguments, tmp_path):
    more = ["--num_train_epochs", "3", "--eval_split", "none", "--save_strategy", "epoch"]
    whole = losses(train(*parse([*arguments, *more])))
    resumed = losses(
        train(*parse([*arguments, *more, "--resume_from_checkpoint", str(tmp_path / "out/checkpoint-4")]))
    )
    assert resumed == whole


def test_the_temperature_is_clipped(arguments):
    trainer = train(*parse([*arguments, "--max_steps", "4", "--learning_rate", "5", "--eval_split", "none"]))
    assert trainer.model.logit_scale.exp().item() <= 100.001


def test_accumulation_is_warned_about(arguments, caplog, monkeypatch):
    warnings = []
    monkeypatch.setattr("train_with_trainer.logger.warning", warnings.append)
    trainer = train(
        *parse([*arguments, "--max_steps", "1", "--gradient_accumulation_steps", "2", "--eval_split", "none"])
    )
    assert "adds no negatives" in warnings[0]
    # The mean of the two micro-batches' losses, not their sum.
    assert losses(trainer)[0] == pytest.approx(np.log(8), abs=1.5)


def test_metrics_by_hand():
    # Images a, a, b; the text "a" is nearest to the first image, and "b" to the second, which is wrong.
    images = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    texts = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    metrics = retrieval_metrics(EvalPrediction(predictions=(texts, images), label_ids=np.array([7, 7, 3])))
    assert metrics["image_to_text_R@1"] == metrics["text_to_image_R@1"] == pytest.approx(2 / 3)
    assert metrics["image_to_text_R@5"] == metrics["text_to_image_R@5"] == 1


def test_equal_embeddings_are_as_good_as_chance():
    same = np.ones((12, 2))
    metrics = retrieval_metrics(EvalPrediction(predictions=(same, same), label_ids=np.arange(12)))
    assert metrics["image_to_text_R@1"] == metrics["text_to_image_R@1"] == 1 / 12
    assert metrics["image_to_text_R@5"] == metrics["text_to_image_R@5"] == 5 / 12


def test_a_model_from_scratch(tiny_data):
    model, processor = build_model(training_options(*parse(["--use_cpu", "True"])), tiny_data["train"])
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    assert model.config.vision_config.image_size == processor.image_processor.crop_size["height"]


@pytest.mark.slow
def test_two_processes_take_the_step_of_one(arguments, tmp_path):
    """Two processes with four pairs each, and one with eight: the first losses agree, over all eight pairs."""
    more = ["--max_steps", "2", "--eval_strategy", "no"]
    single = losses(train(*parse([*arguments, *more])))
    two = [*arguments, *more, "--per_device_train_batch_size", "4", "--output_dir", str(tmp_path / "two")]
    script = HERE.parents[1] / "examples" / "train_with_trainer.py"
    command = ["torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script), *two]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    weights = [ClipHFModel.from_pretrained(tmp_path / name).state_dict() for name in ("out", "two")]
    for name, value in weights[0].items():
        if name.endswith("k_proj.bias"):
            continue  # its gradient is zero but for rounding, and Adam makes steps of full size of that
        torch.testing.assert_close(weights[1][name], value, rtol=2e-3, atol=2e-5, msg=name)
    state = json.loads((tmp_path / "two" / "trainer_state.json").read_text())
    logged = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(single) == 2 and logged == pytest.approx(single, rel=1e-4)
