# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The training loop: that it learns, what it saves, its options, bad data, and two processes."""

import dataclasses
import functools
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.errors import RemoteEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline
from two_processes import train_in_float64

from clip_hf import ClipHFModel, ClipHFProcessor
from clip_hf.data import SkipCounter
from clip_hf.embedding.load_encoder import load_dual_encoder
from clip_hf.training import (
    ContrastiveObjective,
    Training,
    TrainingDiverged,
    TrainingLog,
    TrainingOptions,
    build_model,
    parse_options,
    train,
)
from pair_data import bad_rows, rows_of, write_parquet
from several_processes import torchrun


HERE = Path(__file__).resolve().parent
# Images of these data have 12 x 10 pixels, and the recipes' model takes 32 x 32: every row can be used.
BAD_ROWS = {kind: row for kind, row in bad_rows().items() if kind != "image too small"}


def options_for(recipe: Path, output_dir: Path, *more: str) -> TrainingOptions:
    return parse_options([str(recipe), "--output_dir", str(output_dir), *more])


def steps_of(log: list[dict]) -> list[dict]:
    return [entry for entry in log if "loss" in entry]


def losses_of(log: list[dict]) -> list[float]:
    return [entry["loss"] for entry in steps_of(log)]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# -------------------------------------------------------------------------------------------------------- the training


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_two_steps_leave_a_model_that_loads(tower, recipe_of, tmp_path):
    log = train(options_for(recipe_of(tower), tmp_path / "out", "--max_steps", "2"))
    steps = steps_of(log)
    assert [entry["step"] for entry in steps] == [0, 1]
    # Right after the initialisation, the eight pairs are as good as indistinguishable.
    assert steps[0]["loss"] == pytest.approx(math.log(8), abs=1.0)
    assert steps[0]["temperature"] == pytest.approx(0.07, rel=0.01)
    assert steps[0]["skipped"] == 0 and steps[0]["pairs_per_second"] > 0
    assert 0 <= log[-1]["zero_shot_top1"] <= log[-1]["zero_shot_top5"] <= 1
    assert log[-1]["text_to_image_R@5"] == 1  # of four
    for name in ("last", "best"):
        model = ClipHFModel.from_pretrained(tmp_path / "out" / name)
        processor = ClipHFProcessor.from_pretrained(tmp_path / "out" / name)
        inputs = processor(text=["a"], images=Image.new("RGB", (50, 50)), return_tensors="pt", padding=True)
        assert model(**inputs).logits_per_image.shape == (1, 1)
        assert model.config.vision_config.model_type == f"clip_hf_{tower}"
    card = (tmp_path / "out" / "last" / "README.md").read_text()
    assert "zero_shot_top1" in card and "| `steps` | 2 |" in card
    assert TrainingLog(tmp_path / "out" / "training_log.jsonl").entries() == log
    # What was trained can be trained again from its own recipe.
    again = parse_options([str(tmp_path / "out" / "recipe.yaml")])
    assert again == options_for(recipe_of(tower), tmp_path / "out", "--max_steps", "2")


@pytest.mark.slow_but_for("softmax")
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_training_learns_the_pairs(loss, recipe_of, tmp_path):
    recipe = recipe_of("vit", epochs=60, learning_rate=5e-3, weight_decay=0.0, loss=loss)
    log = train(options_for(recipe, tmp_path / "out"))
    losses = losses_of(log)
    assert len(losses) == 120
    assert sum(losses[-4:]) / 4 < 0.5 * sum(losses[:2]) / 2
    assert ("logit_bias" in weights_of(tmp_path / "out" / "last")) == (loss == "sigmoid")


def test_learning_rate_rises_then_falls_to_zero_and_the_temperature_is_clipped(recipe_of, tmp_path):
    recipe = recipe_of("vit", max_steps=10, warmup_share=0.2, learning_rate=0.5)
    steps = steps_of(train(options_for(recipe, tmp_path / "out")))
    rates = [entry["learning_rate"] for entry in steps]
    assert rates[:3] == pytest.approx([0.0, 0.25, 0.5])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.03
    assert min(entry["temperature"] for entry in steps) >= 0.01 - 1e-6


def test_a_run_can_be_repeated(recipe_of, tmp_path):
    recipe = recipe_of("vit", max_steps=3)
    first, again, other = (
        losses_of(train(options_for(recipe, tmp_path / name, "--seed", seed)))
        for name, seed in (("a", "0"), ("b", "0"), ("c", "1"))
    )
    assert first == again
    assert first != other


@pytest.mark.slow
def test_a_second_training_in_one_program_has_a_precision_of_its_own(recipe_of, tmp_path):
    recipe = recipe_of("vit", max_steps=2)
    runs = [("a", "no"), ("b", "bf16"), ("c", "no")]
    plain, half, again = (
        losses_of(train(options_for(recipe, tmp_path / name, "--mixed_precision", precision)))
        for name, precision in runs
    )
    assert plain == again
    assert plain != half
    with pytest.raises(ValueError, match="must have text_config"):  # after a failed start, too
        train(dataclasses.replace(options_for(recipe, tmp_path / "d", "--mixed_precision", "bf16"), config={}))
    assert losses_of(train(options_for(recipe, tmp_path / "e", "--mixed_precision", "no"))) == plain


def test_a_program_that_has_an_accelerator_keeps_its_settings(recipe_of, tmp_path):
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    train(options_for(recipe_of("vit", max_steps=1), tmp_path / "out", "--mixed_precision", "bf16"))
    assert accelerator.mixed_precision == "bf16"


def test_start_from_a_saved_model(recipe_of, tmp_path):
    train(options_for(recipe_of("resnet"), tmp_path / "first", "--max_steps", "1"))
    first = ClipHFModel.from_pretrained(tmp_path / "first" / "last")
    options = options_for(recipe_of("resnet"), tmp_path / "second", "--model", str(tmp_path / "first" / "last"))
    model, _ = build_model(options, [])
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in model.state_dict().items())
    options.max_steps = 2
    train(options)
    second = weights_of(tmp_path / "second" / "last")
    # Trained, BatchNorm included: what from_pretrained returns is in evaluation mode.
    moved = [name for name, value in second.items() if not torch.equal(value, first.state_dict()[name])]
    assert "vision_model.stem.bn1.running_mean" in moved and "text_projection.weight" in moved


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(recipe_of, tmp_path):
    recipes = [str(recipe_of(tower)) for tower in ("vit", "resnet")]
    run = torchrun(HERE / "two_processes.py", tmp_path / "two", *recipes)
    assert run.returncode == 0, run.stderr[-4000:]
    train_in_float64(tmp_path / "one", recipes)
    for recipe in recipes:
        name = Path(recipe).stem
        one, two = (steps_of(TrainingLog(tmp_path / run / name / "training_log.jsonl").entries()) for run in OF_EACH)
        assert len(one) == len(two) == 3
        assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-9)
        assert [entry["learning_rate"] for entry in two] == [entry["learning_rate"] for entry in one]
        states = [weights_of(tmp_path / run / name / "last") for run in OF_EACH]
        for key, value in states[0].items():
            torch.testing.assert_close(states[1][key], value, rtol=1e-7, atol=1e-9)


OF_EACH = ("one", "two")


# -------------------------------------------------------------------------------------------- frozen, averaged, pushed


FROZEN = {
    "vision": lambda name: name.startswith(("vision_model.", "visual_projection.")),
    "text": lambda name: name.startswith(("text_model.", "text_projection.")),
    "batch_norm": lambda name: ".bn" in name or "running_" in name,
    "all_but_projections": lambda name: name.startswith(("vision_model.", "text_model.")),
}


@pytest.mark.parametrize("part", FROZEN)
def test_what_is_frozen_stays_to_the_last_bit_and_the_rest_does_not(part, recipe_of, tmp_path):
    recipe = recipe_of("resnet", max_steps=3, learning_rate=1e-2, freeze=[part], warmup_steps=0)
    options = options_for(recipe, tmp_path / "out")
    training = Training(options)
    before = {name: value.clone() for name, value in training.clip.state_dict().items()}
    trained = {id(parameter) for group in training.optimizer.param_groups for parameter in group["params"]}
    for step, batch in enumerate(training.loader):
        training.step(step, batch)
    names = [name for name, parameter in training.clip.named_parameters() if id(parameter) in trained]
    assert names and not any(FROZEN[part](name) for name in names)
    after = training.clip.state_dict()
    assert any(FROZEN[part](name) for name in after)
    for name in after:
        if FROZEN[part](name):
            assert torch.equal(after[name], before[name]), name
    moved = [name for name in names if not torch.equal(after[name], before[name])]
    assert len(moved) > 0.6 * len(names)


def test_layers_get_their_own_learning_rates(recipe_of, tmp_path):
    options = options_for(recipe_of("vit", layer_decay=0.5, learning_rate=1e-3, warmup_steps=2), tmp_path / "out")
    training = Training(options)
    groups = training.optimizer.param_groups
    assert sorted({group["initial_lr"] for group in groups}) == pytest.approx([2.5e-4, 5e-4, 1e-3])
    assert sum(len(group["params"]) for group in groups) == len(list(training.clip.parameters()))
    training.step(0, next(iter(training.loader)))
    assert {group["lr"] / group["initial_lr"] for group in groups} == {0.5}


@pytest.mark.slow
def test_averaged_weights_are_evaluated_and_saved(recipe_of, tmp_path):
    recipe = recipe_of("vit", max_steps=6, learning_rate=1e-2, save_every=100)
    train(options_for(recipe, tmp_path / "plain"))
    train(options_for(recipe, tmp_path / "ema", "--ema_decay", "0.9"))
    state = torch.load(tmp_path / "ema/checkpoints/step_00000006/shared.pt", weights_only=True)["average"]
    averaged = {name.removeprefix("module."): value for name, value in state.items() if name != "n_averaged"}
    saved = weights_of(tmp_path / "ema" / "last")
    plain = weights_of(tmp_path / "plain" / "last")
    assert saved.keys() == averaged.keys()
    for name, value in saved.items():
        assert torch.equal(value, averaged[name]), name
    assert not torch.equal(saved["text_projection.weight"], plain["text_projection.weight"])
    # The training itself does not notice.
    own = weights_of(tmp_path / "ema/checkpoints/step_00000006/accelerate")
    assert all(torch.equal(value, plain[name]) for name, value in own.items())


@pytest.mark.slow
def test_recipes_that_start_from_a_model(recipe_of, tmp_path):
    train(options_for(recipe_of("resnet"), tmp_path / "first", "--max_steps", "1"))
    model, data = tmp_path / "first" / "last", yaml.safe_load(recipe_of("vit").read_text())["dataset"]
    first = weights_of(model)
    for name, kept in (("lit", FROZEN["vision"]), ("finetune", FROZEN["batch_norm"])):
        recipe = HERE.parents[1] / "examples" / "recipes" / f"{name}.yaml"
        more = ["--model", str(model), "--dataset", data, "--batch_size", "8", "--max_steps", "2", "--cpu"]
        more += ["--grad_cache_chunk_size", "3", "--warmup_steps", "0", "--num_workers", "0"]
        log = train(options_for(recipe, tmp_path / name, *more))
        assert [entry["step"] for entry in steps_of(log)] == [0, 1] and "zero_shot_top1" in log[-1]
        last = weights_of(tmp_path / name / "last")
        assert all(torch.equal(last[key], first[key]) for key in last if kept(key))
        assert not torch.equal(last["text_projection.weight"], first["text_projection.weight"])


def test_the_last_model_is_pushed_with_its_processor_and_card(recipe_of, tmp_path, monkeypatch):
    uploaded, created = {}, []

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        uploaded.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir() if path.is_file()})
        return "https://huggingface.co/me/clip/commit/1"

    def create_repo(self, repo_id, **kwargs):
        created.append(repo_id)
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(HfApi, "create_commit", fake_commit(uploaded))
    monkeypatch.setattr(HfApi, "hf_hub_download", missing)
    recipe = recipe_of("vit", max_steps=1, save_every=100, push_to_hub="me/clip")
    train(options_for(recipe, tmp_path / "out"))
    assert set(created) == {"me/clip"}
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= set(
        uploaded
    )
    assert uploaded["model.safetensors"] == (tmp_path / "out" / "last" / "model.safetensors").read_bytes()
    card = uploaded["README.md"].decode()
    assert 'model="me/clip"' in card and "zero_shot_top1" in card and "| `batch_size` | 8 |" in card


def fake_commit(uploaded: dict):
    def create_commit(self, *, operations, **kwargs):
        for operation in operations:
            with operation.as_file() as file:
                uploaded[operation.path_in_repo] = file.read()

    return create_commit


def missing(self, *arguments, **kwargs):
    raise RemoteEntryNotFoundError.__new__(RemoteEntryNotFoundError)


def test_events_for_tensorboard(recipe_of, tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = recipe_of("vit", max_steps=4, log_every=2, trackers=["tensorboard"])
    log = train(options_for(recipe, tmp_path / "out"))
    (folder,) = {path.parent for path in (tmp_path / "out" / "clip_hf").glob("events*")}
    events = EventAccumulator(str(folder)).Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    assert logged == [(1, pytest.approx(losses_of(log)[1])), (3, pytest.approx(losses_of(log)[3]))]
    assert events.Scalars("held_out/zero_shot_top1")[0].value == pytest.approx(log[-1]["zero_shot_top1"])


# ------------------------------------------------------------------------------------------------ data that say little


def write_transparent(folder: Path, rows: list[dict], black: bool = False) -> str:
    """PNG files of drawings on transparency, and two equal tables of them; returns the path of the first."""
    folder.mkdir()
    lines = []
    for index, row in enumerate(rows):
        pixels = np.array(row["image"])
        alpha = np.where((pixels != 255).any(axis=2), 255, 0).astype(np.uint8)
        Image.fromarray(np.dstack([0 * pixels if black else pixels, alpha])).save(folder / f"{index}.png")
        lines.append(json.dumps({"image": f"{index}.png", "caption": row["caption"]}) + "\n")
    for name in ("pairs", "again"):
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return str(folder / "pairs.jsonl")


@pytest.mark.slow
def test_pictures_of_one_colour_are_counted(recipe_of, tiny_data, tmp_path, capsys):
    table = write_transparent(tmp_path / "black", tiny_data["train"], black=True)
    recipe = recipe_of("vit", dataset=table, resize_to=32)
    train(options_for(recipe, tmp_path / "white"))  # the demo's recipe has a white background
    assert "of one colour" not in capsys.readouterr().out
    log = train(options_for(recipe, tmp_path / "none", "--background_color", "none"))
    assert [entry["plain_images"] for entry in steps_of(log)] == [8, 16, 24, 32]
    # Black lines on what counts as black.
    assert "32 of 32 (100.00%) pictures are of one colour" in capsys.readouterr().out
    # White corners of opaque pictures are no drawings on transparency.
    parts = ["--crop_scale", "0.001", "0.002", "--background_color", "none"]
    log = train(options_for(recipe_of("vit", resize_to=32), tmp_path / "corners", *parts))
    assert [entry["plain_images"] for entry in steps_of(log)] == [0, 0, 0, 0]


@pytest.mark.slow
def test_drawings_on_transparency_are_seen_alike_everywhere(recipe_of, tiny_data, tmp_path):
    table = write_transparent(tmp_path / "drawings", tiny_data["train"])
    recipe = recipe_of("vit", dataset=table, epochs=40, learning_rate=5e-3, weight_decay=0.0, resize_to=32)
    evaluated = ["--eval_dataset", table.replace("pairs", "again"), "--eval_every", "100"]
    log = train(options_for(recipe, tmp_path / "out", "--background_color", "white", *evaluated))
    folder = str(tmp_path / "out" / "last")
    rows = [json.loads(line) for line in Path(table).read_text().splitlines()]
    names, paths = [row["caption"] for row in rows], [str(tmp_path / "drawings" / row["image"]) for row in rows]
    by_pipeline = pipeline("zero-shot-image-classification", model=folder)(
        paths, candidate_labels=names, hypothesis_template="{}", top_k=1
    )
    encoder = load_dual_encoder(folder)
    images, texts = encoder.encode_images(paths), encoder.encode_texts(names)
    by_evaluation = [names[place] for place in (images @ texts.T).argmax(1).tolist()]
    assert [entries[0]["label"] for entries in by_pipeline] == by_evaluation
    accuracy = float(np.mean([found == name for found, name in zip(by_evaluation, names)]))
    assert accuracy > 0.3 and log[-1]["zero_shot_top1"] == pytest.approx(accuracy)


@pytest.mark.slow
def test_captions_that_were_cut_are_counted_over_a_resume(recipe_of, tiny_data, tmp_path, capsys):
    long = tiny_data["train"].map(lambda row, n: {"caption": "word " * (100 if n < 4 else 3)}, with_indices=True)
    long.save_to_disk(str(tmp_path / "data"))
    recipe = recipe_of("vit", dataset=str(tmp_path / "data"), epochs=4, save_every=3, max_loss_ratio=1e9)
    train(options_for(recipe, tmp_path / "out"))
    assert "16 of 64 (25.00%) captions were cut at 40 tokens." in capsys.readouterr().out
    log = train(options_for(recipe, tmp_path / "out", "--resume", "step_00000006"))
    assert steps_of(log)[-1]["captions_cut"] == 16
    assert "16 of 64 (25.00%) captions were cut at 40 tokens." in capsys.readouterr().out


@pytest.mark.slow
def test_few_pairs_are_said_before_the_first_step(recipe_of, tmp_path, caplog):
    recipe = recipe_of("vit", batch_size=100, epochs=1, min_steps=3, learning_rate=1e-6)
    log = train(options_for(recipe, tmp_path / "out"))
    assert len(steps_of(log)) == 3
    assert "`batch_size` is 100 and there are 16 pairs: it is cut to 16." in caplog.text
    assert "The training has 3 steps of 16 pairs, in which no weight moves by more than" in caplog.text
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["batch_size"] == 16
    # One step is a step.
    before = weights_of(tmp_path / "out" / "last")
    model = ["--model", str(tmp_path / "out" / "last"), "--max_steps", "1", "--learning_rate", "0.1"]
    train(options_for(recipe, tmp_path / "one", *model))
    after = weights_of(tmp_path / "one" / "last")
    assert not torch.equal(after["text_projection.weight"], before["text_projection.weight"])


# -------------------------------------------------------------------------------------------- streams, corrupt rows


def write_stream(folder: Path, good: int, bad: list[dict], num_shards: int = 2) -> str:
    """Parquet files with bad rows at random places, but for the ends."""
    rows, generator = rows_of(range(good)), np.random.default_rng(0)
    for row in bad:
        rows.insert(int(generator.integers(20, len(rows) - 20)), row)
    return write_parquet(folder, rows, num_shards)


STREAM = {"streaming": True, "cache_images": False, "shuffle_buffer": 50}


def test_a_stream_with_one_percent_of_corrupt_rows_trains_to_the_end(recipe_of, tmp_path, capsys):
    assert len(BAD_ROWS) >= 10
    good = 100 * len(BAD_ROWS)
    dataset = write_stream(tmp_path / "rows", good, list(BAD_ROWS.values()))
    # One pass: the last step ends with the last good row.
    recipe = recipe_of("vit", **STREAM, dataset=dataset, batch_size=100, max_steps=len(BAD_ROWS), save_every=100)
    log = train(options_for(recipe, tmp_path / "out"))
    assert len(steps_of(log)) == len(BAD_ROWS)
    assert steps_of(log)[-1]["skipped"] == len(BAD_ROWS)
    (checkpoint,) = (tmp_path / "out" / "checkpoints").iterdir()
    skips = torch.load(checkpoint / "shared.pt", weights_only=True)["skips"]
    assert skips["kinds"] == dict(Counter(BAD_ROWS.keys())) and skips["num_used"] == good
    assert f"{len(BAD_ROWS)} of {good + len(BAD_ROWS):,} rows (0.99%) were skipped: 1 " in capsys.readouterr().out


def test_too_many_corrupt_rows_stop_the_training(recipe_of, tmp_path, monkeypatch):
    monkeypatch.setattr("clip_hf.training.loop.SkipCounter", functools.partial(SkipCounter, min_rows=60))
    dataset = write_stream(tmp_path / "rows", 100, [BAD_ROWS["not an image"]] * 20)
    recipe = recipe_of("vit", **STREAM, dataset=dataset, batch_size=20, max_steps=20)
    with pytest.raises(
        ValueError, match="of .* rows .* were skipped: .* not an image. .*max_skipped_share=0.05 allows"
    ):
        train(options_for(recipe, tmp_path / "out"))
    # Too few to tell in the first steps, too many in the third or fourth.
    assert len(steps_of(TrainingLog(tmp_path / "out" / "training_log.jsonl").entries())) in (2, 3)


@pytest.mark.slow
def test_too_many_corrupt_rows_stop_all_processes(recipe_of, tmp_path):
    rows = rows_of(range(2400))
    for place in range(1300, 2500, 5):
        rows.insert(place, BAD_ROWS["not an image"])
    dataset = write_parquet(tmp_path / "rows", rows, 2)
    recipe = recipe_of("vit", **STREAM, dataset=dataset, batch_size=200, max_steps=40)
    run = torchrun("-m", "clip_hf", "train", recipe, "--output_dir", tmp_path / "out")
    assert run.returncode != 0
    assert "is more than max_skipped_share=0.05 allows" in run.stderr
    assert re.search(r"Process [01] failed, and the others stop with it. ValueError: .* were skipped", run.stderr)


# ------------------------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_and_leaves_its_data(value, recipe_of, tmp_path, monkeypatch):
    backward = ContrastiveObjective.backward
    batches = []

    def broken(self, batch):
        batches.append(batch)
        loss = backward(self, batch)
        return torch.full_like(loss, value) if len(batches) == 3 else loss

    monkeypatch.setattr(ContrastiveObjective, "backward", broken)
    with pytest.raises(TrainingDiverged, match=f"loss of step 2 is {value}. Its data lies in .*step_00000002"):
        train(options_for(recipe_of("vit"), tmp_path / "out"))
    folder = tmp_path / "out" / "diverged" / "step_00000002"
    saved = load_file(folder / "rank_00000.safetensors")
    assert torch.equal(saved["pixel_values"], batches[2]["pixel_values"])
    assert torch.equal(saved["input_ids"], batches[2]["input_ids"])
    record = json.loads((folder / "rank_00000.json").read_text())
    assert record["step"] == 2 and len(record["recent_losses"]) == 2 and record["skipped"] == []
    assert not (tmp_path / "out" / "last").exists()


def test_a_spike_stops_the_training(recipe_of, tmp_path, monkeypatch):
    backward = ContrastiveObjective.backward
    count = iter(range(1000))
    monkeypatch.setattr(
        ContrastiveObjective,
        "backward",
        lambda self, batch: backward(self, batch) * (10.0 if next(count) == 55 else 1.0),
    )
    with pytest.raises(TrainingDiverged, match="step 55 .* a spike"):
        train(options_for(recipe_of("vit", epochs=30), tmp_path / "out"))
    assert (tmp_path / "out" / "diverged" / "step_00000055" / "rank_00000.safetensors").exists()


def test_results_are_not_overwritten_unasked_and_nothing_else_ever(recipe_of, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; choose another, pass --resume latest .* or --overwrite"):
        train(options_for(recipe_of("vit"), mine))
    with pytest.raises(ValueError, match="holds no training"):
        train(options_for(recipe_of("vit"), mine, "--overwrite"))
    train(options_for(recipe_of("vit"), tmp_path / "out", "--max_steps", "1", "--save_every", "1"))
    # One that does not come to a step leaves what it was to replace.
    old = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    def no_memory(*arguments, **keywords):
        raise MemoryError

    for where, name in ((Accelerator, "init_trackers"), (ContrastiveObjective, "backward")):
        with monkeypatch.context() as patch, pytest.raises(MemoryError):
            patch.setattr(where, name, no_memory)
            train(options_for(recipe_of("vit"), tmp_path / "out", "--max_steps", "2", "--overwrite"))
        found = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert {path.relative_to(tmp_path): path.read_bytes() for path in found} == old
    train(options_for(recipe_of("vit"), tmp_path / "out", "--max_steps", "2", "--overwrite"))
    assert yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text())["max_steps"] == 2
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


CHANGED_DATA = [
    (
        lambda rows: rows.rename_column("caption", "text"),
        {},
        r"no column 'caption'; it has 'image', 'text'\..*captions with `caption_column`",
    ),
    (lambda rows: rows.rename_column("image", "picture"), {}, "no column 'image'; it has 'picture', 'caption'"),
    (lambda rows: rows, {"templates": ["{title}"]}, r"'title'; it has 'image', 'caption'\..*with `templates`"),
    (lambda rows: rows.select([]), {}, "dataset .* is empty"),
    (lambda rows: rows.map(lambda row: {"caption": None}), {}, "No row has a text: the column 'caption' must"),
    (lambda rows: rows.map(lambda row: {"caption": []}), {}, "No row has a text: the column 'caption' must"),
    (
        lambda rows: rows.map(
            lambda row, index: {"caption": None if index == 3 else row["caption"]}, with_indices=True
        ),
        {},
        r"1 of 16 rows \(6.25%\) cannot be used: 1 caption missing. Row 3 has no caption but None",
    ),
    (lambda rows: rows, {"warmup_steps": 4}, "`warmup_steps` is 4 and the training has 4 steps: the learning rate"),
    (lambda rows: rows, {"eval_split": "train"}, "'train', the part that is trained on"),
    (lambda rows: rows, {"eval_share": 1e-6}, "A share of 1e-06 of 16 rows holds out 0 of them"),
    (lambda rows: rows, {"freeze": ["vison"]}, "There is no part 'vison' to freeze; .*Did you mean 'vision'"),
    (lambda rows: rows, {"freeze": ["vision", "text", "logit_scale"]}, "frozen there is nothing to train"),
    (lambda rows: rows, {"trackers": ["tensorbord"]}, "no tracker 'tensorbord'; there are .*tensorboard"),
    (
        lambda rows: rows,
        {"trackers": ["swanlab"]},
        "'swanlab' is not installed: `pip install swanlab`, or leave it out",
    ),
    (lambda rows: rows, {"dataset": "nowhere/*.parquet"}, "nowhere"),
    (lambda rows: rows, {"streaming": True, "cache_images": False}, "give `max_steps`, or `epochs` and `pairs_per_ep"),
    (
        lambda rows: rows.map(lambda row: {"caption": None}),
        {**STREAM, "max_steps": 3},
        "No row has a text: the column 'caption' must hold strings",
    ),
    (
        lambda rows: rows.rename_column("image", "picture"),
        {**STREAM, "max_steps": 3},
        "no column 'image'; it has 'picture', 'caption'",
    ),
]


@pytest.mark.parametrize(("change", "more", "message"), CHANGED_DATA)
def test_bad_input_is_found_before_the_first_step(change, more, message, tiny_data, recipe_of, tmp_path):
    change(tiny_data["train"]).save_to_disk(str(tmp_path / "data"))
    recipe = recipe_of("vit", **{"dataset": str(tmp_path / "data"), **more})
    with pytest.raises(ValueError, match=message):
        train(options_for(recipe, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_images_that_are_not_there_are_found_before_the_first_step(tiny_data, recipe_of, tmp_path, capsys):
    lines = ["image,caption"]
    for index, row in enumerate(tiny_data["train"]):
        if index % 3:
            row["image"].save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,drawing {index}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    recipe = recipe_of("vit", dataset=str(tmp_path / "pairs.csv"))
    with pytest.raises(ValueError, match=r"6 of 16 rows \(37.50%\) .* 6 file missing. .* no file .*0.png"):
        train(options_for(recipe, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    log = train(options_for(recipe, tmp_path / "out", "--max_skipped_share", "0.5"))
    assert 0 < steps_of(log)[-1]["skipped"] <= 12  # in each of two epochs
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("file missing: "))
    assert re.search(r"[1-6] different rows, [0-9]+ times: row [0-9]+ \(.*/[0-9]+\.png\)", line)


@pytest.mark.slow
def test_processes_that_do_not_know_each_other_do_not_train(recipe_of, tmp_path):
    arguments = ["-m", "clip_hf", "train", str(recipe_of("vit")), "--output_dir", str(tmp_path / "out")]
    environment = {**os.environ, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode != 0 and "WORLD_SIZE" in run.stderr
    assert not (tmp_path / "out").exists()
    # Three processes cannot share a batch of eight.
    run = torchrun(*arguments, processes=3)
    assert run.returncode != 0
    assert (
        "`batch_size` is 8, the pairs of all processes together; it must be a multiple of their number, 3"
        in run.stderr
    )
    assert not (tmp_path / "out").exists()
