# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The loss over all classes: against plain arithmetic, over two processes, in a training, and what it refuses."""

from types import SimpleNamespace

import datasets
import pytest
import torch
from accelerate import Accelerator

from clip_hf.data import PairOptions
from clip_hf.training import ContrastiveObjective, Training, parse_options, train
from clip_hf.training.class_prompts import MAX_CLASSES, read_class_prompts
from clip_hf.training.pair_losses import ClassesLoss, build_pair_loss
from several_processes import run_processes
from tiny_models import make_tiny_model


NAMES = ["a cat", "two dogs", "the snow"]


def labelled(captions: list) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"image": ["x"] * len(captions), "caption": captions})


@pytest.fixture
def prompts(tiny_processor):
    data = labelled(["two dogs", "a cat", "Two dogs ", "the snow", "a cat"])
    return read_class_prompts(data, PairOptions(templates=("{}", "a photo of {}.")), tiny_processor)


def batch_of(prompts) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixel_values = torch.randn(4, 3, 64, 64, generator=generator, dtype=torch.float64)
    labels = torch.tensor([2, 0, 0, 1])
    return {"pixel_values": pixel_values, "input_ids": torch.full((4, 3), 599), "text_ids": prompts.text_ids[labels]}


def test_classes_are_the_different_captions_in_order(prompts, tiny_processor):
    assert prompts.names == ("Two dogs ", "a cat", "the snow")
    assert len(set(prompts.text_ids.tolist())) == 3
    expected = tiny_processor.tokenizer([f"a photo of {name}." for name in prompts.names], padding=True)["input_ids"]
    assert prompts.tokens[1]["input_ids"].tolist() == expected


def test_loss_and_gradients_are_those_of_plain_arithmetic(prompts):
    model, reference = make_tiny_model("vit").double().train(), make_tiny_model("vit").double()
    batch, loss = batch_of(prompts), ClassesLoss(prompts, seed=3)
    objective = ContrastiveObjective(Accelerator(cpu=True), model, loss)
    draws = set()
    for step in range(4):
        model.zero_grad()
        reference.zero_grad()
        actual = objective.backward(batch)
        values = []
        for tokens in prompts.tokens:
            images = reference.get_image_features(batch["pixel_values"]).pooler_output
            texts = reference.get_text_features(**tokens).pooler_output
            images, texts = (x / x.norm(dim=-1, keepdim=True) for x in (images, texts))
            logits = reference.logit_scale.exp() * images @ texts.T
            rows = [logits[row].logsumexp(0) - logits[row, label] for row, label in enumerate([2, 0, 0, 1])]
            values.append(sum(rows) / 4)
        draw = min(range(2), key=lambda index: abs(values[index].item() - actual.item()))
        assert actual.item() == pytest.approx(values[draw].item(), rel=1e-12)
        draws.add(draw)
        values[draw].backward()
        expected = {name: p.grad for name, p in reference.named_parameters()}
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-8, atol=1e-11)
        assert step < 3 or draws == {0, 1}
    # A resumed training goes on with the draws.
    assert loss.state_dict()["num_steps"] == 4


def _of_rows(rank: int, prompts, rows: list[slice]) -> dict[str, torch.Tensor]:
    accelerator, model = Accelerator(cpu=True), make_tiny_model("vit").double()
    batch = {name: value[rows[rank]] for name, value in batch_of(prompts).items()}
    objective = ContrastiveObjective(accelerator, accelerator.prepare_model(model), ClassesLoss(prompts))
    loss = accelerator.reduce(objective.backward(batch), "mean")
    return {"loss": loss, **{name: p.grad for name, p in model.named_parameters()}}


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(prompts, tmp_path):
    two = run_processes(_of_rows, 2, tmp_path, prompts, [slice(0, 2), slice(2, 4)])
    one = _of_rows(0, prompts, [slice(0, 4)])
    for actual in two:
        for name, value in one.items():
            torch.testing.assert_close(actual[name], value, rtol=1e-8, atol=1e-11)


@pytest.mark.slow
def test_a_training_over_classes_resumes_to_the_last_bit(recipe_of, tmp_path):
    recipe = recipe_of("vit", loss="classes", templates=["{}", "a {}"], save_every=2, max_steps=4)
    whole = train(parse_options([str(recipe), "--output_dir", str(tmp_path / "whole")]))
    options = parse_options([str(recipe), "--output_dir", str(tmp_path / "parts")])
    training = Training(options)
    training.start()
    for step, batch in zip(range(2), training.loader):
        training.log.add(training.step(step, batch))
    training.save_checkpoint(2)
    options.resume = "latest"
    parts = train(options)
    losses = [[entry["loss"] for entry in log if "loss" in entry] for log in (whole, parts)]
    assert losses[0] == losses[1] and len(losses[0]) == 4


REFUSED = {
    "one class": (["a cat", "A cat"], {}, "the only caption is 'A cat'"),
    "many classes": ([str(number) for number in range(MAX_CLASSES + 1)], {}, "more than 5,000 different captions"),
    "several captions": ([["a cat", "b"], ["c"]], {}, "row 0 has 2 captions; an image has one class"),
    "other column": (["a", "b"], {"templates": ("{image}",), "image_column": "other"}, "names another column"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_data_without_classes_are_refused(case, tiny_processor):
    captions, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        read_class_prompts(labelled(captions), PairOptions(**options), tiny_processor)


@pytest.mark.parametrize("options", [["--grad_cache_chunk_size", "2"], ["--token_dropout", "0.1"], ["--streaming"]])
def test_options_that_exclude_classes_are_named(options):
    with pytest.raises(ValueError, match=f"`{options[0][2:]}` is .*loss` is classes"):
        parse_options(["--loss", "classes", "--max_steps", "3", *options])


def test_a_model_with_a_bias_is_refused(prompts):
    model = make_tiny_model("vit", logit_bias_init_value=-3.0)
    options = SimpleNamespace(loss="classes", label_smoothing=0.0, loss_chunk_size=None, target_scale=1.0, seed=0)
    with pytest.raises(ValueError, match="The loss is `classes`, and the model has a `logit_bias`"):
        build_pair_loss(options, model, prompts)
