# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Trainings with soft targets, hard negatives and short captions: from options to updates, and resumed."""

from dataclasses import replace

import datasets
import pytest
import torch
from safetensors.torch import load_file

from clip_hf import contrastive_loss
from clip_hf.embedding import load_dual_encoder
from clip_hf.training import (
    PairLoss,
    SoftTargets,
    Training,
    TrainingOptions,
    build_pair_loss,
    loop,
    parse_options,
    soft_target_loss,
    store_for_training,
    train,
)
from clip_hf.training.options import LOSSES
from pair_data import rows_of
from tiny_models import make_tiny_model


# Of every kind of loss the options, besides the data.
KINDS = {
    "softmax": {"loss": "softmax"},
    "same_label": {"loss": "same_label"},
    "soft_labels": {"loss": "soft_labels", "label_column": "findings", "target_scale": 4.0},
    "soft_texts": {"loss": "soft_texts", "target_scale": 20.0},
    "negatives": {"negative_column": "wrong", "grad_cache_chunk_size": 3},
    "short": {"short_caption_column": "short", "short_caption_weight": 0.5},
    "sigmoid": {"loss": "sigmoid"},
    "all": {"loss": "sigmoid", "negative_column": "wrong", "short_caption_column": "short"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_processor):
    """Two files of pairs with all columns, held-out pairs without, and another model."""
    folder = tmp_path_factory.mktemp("targets")
    rows = [
        {
            **row,
            "findings": [float(number % 2), 1.0, float(number % 3)],
            "wrong": [f"no drawing of {number}", "nothing"][: number % 3],
            "short": [f"drawing {number}"],
        }
        for number, row in enumerate(rows_of(range(16)))
    ]
    for name, part in (("train-0", rows[:8]), ("train-1", rows[8:]), ("test-0", rows_of(range(20, 24)))):
        data = datasets.Dataset.from_list(part).cast_column("image", datasets.Image())
        data.to_parquet(folder / f"{name}.parquet")
    for thing in (make_tiny_model("vit"), tiny_processor):
        thing.save_pretrained(folder / "other")
    return folder


def options_of(recipe_of, folder, output_dir, kind: str, *more: str) -> TrainingOptions:
    options = KINDS[kind] | ({"target_model": str(folder / "other")} if kind == "soft_texts" else {})
    recipe = recipe_of("vit", dataset=str(folder / "*.parquet"), **options)
    return parse_options([str(recipe), "--output_dir", str(output_dir), *more])


@pytest.mark.slow_but_for("soft_labels-True", "negatives-False", "short-True")
@pytest.mark.parametrize(
    ("kind", "streaming"),
    [("soft_labels", False), ("soft_labels", True), ("soft_texts", True), ("negatives", False), ("short", True)]
    + [("all", False)],
)
def test_a_training_learns_from_them(kind, streaming, recipe_of, folder, tmp_path):
    more = ["--max_steps", "20", "--batch_size", "16", "--learning_rate", "0.005"]
    more += ["--streaming", "--cache_images", "false"] if streaming else []
    more += ["--eval_dataset", str(folder / "test-0.parquet")]
    log = train(options_of(recipe_of, folder, tmp_path / "out", kind, *more))
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 20 and sum(losses[-3:]) < sum(losses[:3])
    assert (tmp_path / "out" / "last" / "model.safetensors").exists()


@pytest.mark.slow_but_for("softmax")
@pytest.mark.parametrize("kind", [loss for loss in LOSSES if loss != "classes"])
def test_every_loss_goes_with_teachers_running_and_stored(kind, recipe_of, folder, tmp_path):
    more = ["--max_steps", "1", "--teachers", str(folder / "other"), "--resize_for_teachers"]
    plain = options_of(recipe_of, folder, tmp_path / "out", kind, *more, "--distill_soft", "0.5")
    stored = replace(plain, teacher_features=str(tmp_path / "features"))
    store_for_training(stored, dtype="float32")
    found = []
    for options in (plain, stored, replace(stored, teachers=[]), replace(plain, grad_cache_chunk_size=3)):
        log = train(replace(options, overwrite=True))
        found += [entry["loss"] for entry in log if "loss" in entry]
        card = (tmp_path / "out" / "last" / "README.md").read_text()
        assert "| `teachers` | ['other'] |" in card and str(folder.parent) not in card
        assert ("| `teacher_features` | features |" in card) == (options.teacher_features is not None)
        assert "| `distill_soft` | 0.5 |" in card and "| `distill_features` | 2000.0 |" in card
    assert len(found) == 4 and found == pytest.approx([found[0]] * 4, rel=1e-5)


def test_the_targets_of_soft_texts_are_the_other_models(recipe_of, folder, tmp_path):
    training = Training(options_of(recipe_of, folder, tmp_path / "out", "soft_texts", "--max_steps", "1"))
    batch = next(iter(training.loader))
    texts, inputs = batch["texts"], {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    with torch.no_grad():
        output = training.clip(**inputs, return_logits=False)
        vectors = load_dual_encoder(folder / "other").encode_texts(texts)
        expected = soft_target_loss(
            output.image_embeds,
            output.text_embeds,
            training.clip.logit_scale.exp(),
            targets=[SoftTargets(vectors, vectors, 20.0)],
        )
    assert training.step(0, batch)["loss"] == pytest.approx(expected.item(), rel=1e-5)


class Shifted(PairLoss):
    """The softmax loss above a learned map of the images."""

    def __init__(self, dim: int):
        super().__init__()
        self.map = torch.nn.Linear(dim, dim)

    def forward(self, images, texts, scale, /, **ids):
        return contrastive_loss(torch.nn.functional.normalize(self.map(images), dim=-1), texts, scale, **ids)


@pytest.mark.slow
def test_a_losss_own_parameters_are_trained_and_resumed_exactly(recipe_of, folder, tmp_path, monkeypatch):
    losses = []

    def build(options, clip, prompts):
        torch.manual_seed(1)
        losses.append(Shifted(clip.config.projection_dim))
        return losses[-1]

    monkeypatch.setattr(loop, "build_pair_loss", build)
    recipe = recipe_of("vit", dataset=str(folder / "train-*.parquet"), save_every=2, max_grad_norm=1.0)

    def run(name: str, *more: str) -> list[dict]:
        return train(parse_options([str(recipe), "--output_dir", str(tmp_path / name), "--max_steps", "4", *more]))

    whole = run("whole")
    run("part")
    again = run("part", "--resume", str(tmp_path / "part" / "checkpoints" / "step_00000002"))
    assert [entry["loss"] for entry in again] == [entry["loss"] for entry in whole]
    at_first = Shifted(len(losses[0].map.bias))
    for ours, theirs in zip(losses[0].parameters(), losses[2].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    torch.manual_seed(1)
    at_first = Shifted(len(losses[0].map.bias))
    assert (losses[0].map.weight - at_first.map.weight).abs().min() > 0
    states = [load_file(tmp_path / name / "last" / "model.safetensors") for name in ("whole", "part")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not any(name.startswith("map") for name in states[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"loss": "soft_labels"},
            "`label_column` is missing; `label_column` and the loss soft_labels belong together",
        ),
        ({"label_column": "a"}, "`loss` is softmax; `label_column` and the loss soft_labels belong together"),
        ({"loss": "soft_texts"}, "`target_model` is missing"),
        ({"target_model": "a"}, "`loss` is softmax; `target_model` and the loss soft_texts belong together"),
        ({"loss": "soft_labels", "label_column": "a", "target_scale": float("inf")}, "`target_scale` is infinite"),
        ({"loss": "soft_labels", "label_column": "a", "loss_chunk_size": 8}, "soft_labels has no chunks"),
        (
            {"loss": "soft_labels", "label_column": "a", "negative_column": "b"},
            "`negative_column` gives an image more",
        ),
        ({"loss": "same_label", "short_caption_column": "b"}, "`short_caption_column` gives an image more texts"),
        (
            {"short_caption_weight": 2.0},
            "`short_caption_weight` belongs to short captions: give `short_caption_column`",
        ),
        ({"loss": "classes", "teachers": ["a"]}, "`loss` is classes, whose texts are of all classes, and teachers"),
        ({"loss": "classes", "teacher_features": "a"}, "`loss` is classes, whose texts are of all classes"),
        ({"loss": "classes", "negative_column": "a"}, "`negative_column` gives an image more texts"),
        ({"loss": "classes", "short_caption_column": "a"}, "`short_caption_column` gives an image more texts"),
        ({"teachers": ["a"], "negative_column": "b"}, "`negative_column` gives an image more texts, and teachers see"),
        ({"teachers": ["a"], "short_caption_column": "b"}, "`short_caption_column` gives an image more texts, and"),
        ({"short_caption_column": "a", "short_caption_weight": -1.0}, "`short_caption_weight` is -1.0; it must be at"),
    ],
)
def test_options_of_other_losses_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**options)


@pytest.mark.parametrize("kind", ["soft_labels", "soft_texts"])
def test_a_model_with_a_bias_is_refused(kind):
    options = TrainingOptions(**KINDS[kind], **({"target_model": "a"} if kind == "soft_texts" else {}))
    with pytest.raises(ValueError, match=f"The loss is `{kind}`, and the model has a `logit_bias`"):
        build_pair_loss(options, make_tiny_model("vit", logit_bias_init_value=-10.0))


def test_a_target_model_that_is_not_there_is_named(recipe_of, folder, tmp_path):
    options = options_of(recipe_of, folder, tmp_path / "out", "soft_texts", "--target_model", str(folder / "nothing"))
    with pytest.raises((OSError, ValueError), match="nothing"):
        train(options)
