# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Trainings with teachers, running and stored, and those that start from a larger model's weights."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from _clip_hf_cli import main
from clip_hf import ClipHFImageProcessor, ClipHFModel, ClipHFProcessor
from clip_hf.training import TrainingOptions, build_model, load_training_data, parse_options, train
from tiny_models import make_tiny_model


SIZE = 32


@pytest.fixture(scope="module")
def teacher(tiny_tokenizer, tmp_path_factory) -> Path:
    """A teacher for images of 32 pixels, 16 wide, with a tokenizer of its own and another normalisation."""
    folder = tmp_path_factory.mktemp("teacher")
    vision = make_tiny_model("vit").config.vision_config.to_dict() | {"image_size": SIZE, "patch_size": 8}
    make_tiny_model("vit", seed=5, vision_config=vision).save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    images = ClipHFImageProcessor(size={"shortest_edge": 40}, crop_size=size, image_mean=[0.5] * 3)
    ClipHFProcessor(images, tiny_tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def options_of(recipe_of, teacher, tmp_path):
    """A function that gives the options of a training of six steps into a folder."""
    recipe = recipe_of("vit", teachers=[str(teacher)], max_steps=6, save_every=3)

    def build(name: str, *more: str) -> TrainingOptions:
        return parse_options([str(recipe), "--output_dir", str(tmp_path / name), *more])

    build.recipe = recipe
    return build


@pytest.fixture
def features(options_of, teacher, tmp_path, capsys) -> Path:
    """The teacher's features of the training's first three epochs, of `clip-hf embed`."""
    folder = tmp_path / "features"
    arguments = ["--teachers", str(teacher), "-o", str(folder), "--draws", "3", "--file-dtype", "float32"]
    assert main(["embed", "--for-training", str(options_of.recipe), *arguments]) == 0
    assert f"16 pairs in 3 draws, features of 1 teacher in {folder}" in capsys.readouterr().out
    return folder


def losses(log) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "last" / "model.safetensors")


def test_stored_and_running_teachers_give_equal_losses(options_of, features, teacher, tmp_path):
    live = losses(train(options_of("live")))
    stored = losses(train(options_of("stored", "--teachers", "none", "--teacher_features", str(features))))
    assert len(live) == 6 and live == pytest.approx(stored, rel=1e-5)
    both = options_of("both", "--teacher_features", str(features), "--grad_cache_chunk_size", "4")
    assert live == pytest.approx(losses(train(both)), rel=1e-5)
    plain = losses(train(options_of("plain", "--teachers", "none")))
    assert min(abs(one - other) for one, other in zip(plain, live)) > 1.0
    # The projection to the teacher's 16 dimensions is in the checkpoint, and not in the model.
    assert not [name for name in weights_of(tmp_path / "live") if "projections" in name]
    assert ClipHFModel.from_pretrained(tmp_path / "live" / "last").config.projection_dim == 128
    shared = torch.load(tmp_path / "live" / "checkpoints" / "step_00000006" / "shared.pt", weights_only=True)
    assert {tuple(value.shape) for value in shared["loss"].values()} == {(16, 128), (16,)}


@pytest.mark.slow_but_for("stored")
@pytest.mark.parametrize("kind", ["live", "stored"])
def test_a_resumed_training_is_the_same_to_the_last_bit(kind, options_of, features, tmp_path):
    more = ["--teacher_features", str(features), "--teachers", "none"] if kind == "stored" else []
    more += ["--ema_decay", "0.9"]
    whole = losses(train(options_of("whole", *more)))
    checkpoint = tmp_path / "whole" / "checkpoints" / "step_00000003"
    resumed = losses(train(options_of("resumed", "--resume", str(checkpoint), *more)))
    assert resumed == whole[3:]
    mine, theirs = (weights_of(tmp_path / name) for name in ("whole", "resumed"))
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def test_a_training_starts_from_a_larger_models_weights(options_of, teacher, tmp_path):
    towers = {
        "text_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "vision_config": {"model_type": "clip_hf_vit", "hidden_size": 16, "intermediate_size": 32, "patch_size": 8,
                          "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": SIZE},
    }  # fmt: skip
    recipe = yaml.safe_load(options_of.recipe.read_text())
    recipe |= {"config": {"projection_dim": 16, **towers}, "inherit_from": str(teacher), "resize_to": None}
    options_of.recipe.write_text(yaml.safe_dump(recipe))
    options = options_of("student", "--max_steps", "2")
    student, processor = build_model(options, load_training_data(options)[0])
    larger = ClipHFModel.from_pretrained(teacher)
    name = "text_model.embeddings.token_embedding.weight"
    assert torch.equal(student.state_dict()[name], larger.state_dict()[name][:, :16])
    assert student.config.text_config.max_position_embeddings == larger.config.text_config.max_position_embeddings
    assert processor.image_processor.image_mean[0] == 0.5 and processor.image_processor.size["shortest_edge"] == SIZE
    texts = ["a red cat"]
    assert processor.tokenizer(texts) == ClipHFProcessor.from_pretrained(teacher).tokenizer(texts)
    assert len(losses(train(options))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inherit_from": "m", "model": "n"}, "`inherit_from` makes a new model .* `model` is 'n'"),
        ({"inherit_from": "m", "tokenizer": "openai"}, "`tokenizer` is 'openai': leave one"),
        ({"distill_soft": 2.0}, "`distill_soft` belongs to a training with `teachers`"),
        ({"resize_for_teachers": True}, "`resize_for_teachers` belongs to a training with `teachers`"),
        ({"teachers": ["t"], "distill_soft": -1.0}, "`distill_soft` is -1.0; it must be at least 0"),
        (
            {"teachers": ["t"], "distill_soft": 0.0, "distill_features": 0.0, "distill_interactive": 0.0},
            "nothing would be learnt from them",
        ),
        ({"teachers": ["t"], "num_frames": 4}, "`num_frames` says that the data are films"),
        ({"teacher_features": "f", "streaming": True, "max_steps": 3}, "streams have none: let the teachers run"),
    ],
)
def test_options_that_do_not_go_together(change, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**change)


def test_what_does_not_fit_is_said_before_the_first_step(options_of, features, teacher, tmp_path, capsys):
    for more, message in (
        (["--seed", "1"], "are not those of this training: `items.seed` is 0, not 1"),
        (["--horizontal_flip", "0.5"], "`items.augmentation.horizontal_flip` is 0.0, not 0.5"),
        (["--resize_to", "40"], "`items.size.shortest_edge` is 36, not 40"),
    ):
        options = options_of("bad", "--teacher_features", str(features), "--teachers", "none", *more)
        with pytest.raises(ValueError, match=message):
            train(options)
    config = json.loads((teacher / "config.json").read_text())
    larger = yaml.safe_load(options_of.recipe.read_text())
    larger["config"]["vision_config"]["image_size"] = 48
    options_of.recipe.write_text(yaml.safe_dump({**larger, "resize_to": 50}))
    with pytest.raises(ValueError, match="takes images of 32 x 32 pixels, and the student's crops have 48 x 48"):
        train(options_of("bad"))
    assert config["vision_config"]["image_size"] == SIZE and not (tmp_path / "bad").exists()
    assert main(["embed", "--for-training", str(options_of.recipe), "--teachers", "none"]) == 1
    assert "give --teachers TEACHER ... and -o FOLDER" in capsys.readouterr().err


def test_a_stream_has_running_teachers(options_of, teacher):
    more = ["--streaming", "--shuffle_buffer", "4", "--cache_images", "false", "--max_steps", "2"]
    assert len(losses(train(options_of("stream", *more)))) == 2
