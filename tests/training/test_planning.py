# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Steps, warm-up, batches and averages follow from the data, and a training that can change nothing says so."""

import re
from types import SimpleNamespace

import pytest
import torch

from clip_hf.training import (
    AveragedWeights,
    TrainingOptions,
    build_optimizer,
    cosine_schedule,
    describe_plan,
    fit_batch_size,
    planning,
)
from clip_hf.training.planning import averaged_share, check_average, check_plan, num_steps_of
from clip_hf.utils.wording import counted
from tiny_models import make_tiny_model


def processes(count: int, main: bool = True) -> SimpleNamespace:
    return SimpleNamespace(num_processes=count, is_main_process=main)


@pytest.mark.parametrize(
    ("options", "pairs", "steps", "per_epoch"),
    [
        # An epoch is as long as it takes, so that evaluations per epoch stay what they are.
        ({"epochs": 5, "min_steps": 500, "batch_size": 128}, 635, 500, 100),
        ({"epochs": 5, "min_steps": 501, "batch_size": 128}, 635, 505, 101),
        ({"epochs": 5, "min_steps": 500, "batch_size": 128}, 128_000, 5000, 1000),
        ({"epochs": 5, "min_steps": 500, "max_steps": 7, "batch_size": 128}, 635, 7, 4),
        ({"epochs": 2, "min_steps": 30, "streaming": True, "pairs_per_epoch": 256}, None, 30, 15),
    ],
)
def test_few_pairs_are_repeated_within_an_epoch(options, pairs, steps, per_epoch):
    assert num_steps_of(TrainingOptions(**options), range(pairs or 0)) == (steps, per_epoch)


@pytest.mark.parametrize(("pairs", "count", "size"), [(635, 1, 635), (635, 2, 634), (635, 4, 632), (1000, 2, 1000)])
def test_a_batch_is_cut_to_the_data_with_a_word(pairs, count, size, caplog):
    options = TrainingOptions(batch_size=1000)
    assert fit_batch_size(options, processes(count), range(pairs)).batch_size == size
    assert options.batch_size == 1000
    words = f"`batch_size` is 1000 and there are {pairs} pairs: it is cut to {size}."
    assert (words in caplog.text) == (pairs < 1000)
    caplog.clear()
    assert fit_batch_size(options, processes(count, main=False), range(pairs)).batch_size == size
    assert not caplog.text


def test_batches_that_cannot_be_cut():
    stream = TrainingOptions(batch_size=1000, streaming=True, max_steps=3)
    assert fit_batch_size(stream, processes(1), None) is stream
    with pytest.raises(ValueError, match="There are 3 pairs for 4 processes; start fewer"):
        fit_batch_size(TrainingOptions(), processes(4), range(3))


@pytest.mark.parametrize(("batch_size", "pairs"), [(1, 5), (8, 1)])
def test_a_batch_of_one_pair_is_refused_because_it_teaches_nothing(batch_size, pairs):
    with pytest.raises(ValueError, match="A batch has one pair, and so no negatives: the loss would be 0"):
        fit_batch_size(TrainingOptions(batch_size=batch_size), processes(1), range(pairs))
    # A pair alone has a sigmoid loss.
    assert fit_batch_size(TrainingOptions(batch_size=1, loss="sigmoid"), processes(1), range(5)).batch_size == 1


def test_what_is_about_to_be_done():
    options = TrainingOptions(model="me/first", dataset=["a", "b"], streaming=True, max_steps=40, output_dir="runs/x")
    said = describe_plan(options, make_tiny_model("resnet"), 40, None, None)
    assert said.startswith("Fine-tuning me/first (ResNet, ") and "a stream of pairs from a, b." in said
    assert "Held out: none, so nothing is evaluated: give `eval_dataset` or `eval_share`." in said
    assert "Plan: 40 steps of 128 pairs; learning rate up to 0.0005 after 4 steps of warm-up. Results: runs/x." in said


def test_the_plan_names_a_loss_that_is_not_clips():
    def said(model, **options) -> str:
        plan = describe_plan(TrainingOptions(**options), model, 40, 100, None)
        first = plan.splitlines()[0]
        return first.partition(" Loss: ")[2]

    vit, with_bias = make_tiny_model("vit"), make_tiny_model("vit", logit_bias_init_value=-10.0)
    assert said(vit) == said(vit, loss="sigmoid") == ""  # which goes on with its own
    assert said(with_bias) == "sigmoid."
    assert said(vit, loss="soft_labels", label_column="findings") == "soft_labels (column findings)."
    assert said(vit, loss="soft_texts", target_model="m") == "soft_texts (m)."
    assert said(vit, negative_column="n", short_caption_column="s", short_caption_weight=0.5) == (
        "softmax with hard negatives (column n) and short captions (column s, weight 0.5)."
    )


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        (("train", "val"), "`eval_split`, a part of the data (--eval_split val), "),
        (("train", "dev", "more"), "`eval_split`, a part of the data (--eval_split dev or --eval_split more), "),
        (("train",), ""),
        ((), ""),
    ],
)
def test_parts_that_could_be_held_out_are_named(parts, named, monkeypatch):
    monkeypatch.setattr(planning, "split_names", lambda source, media: parts)
    said = describe_plan(TrainingOptions(dataset=["a"]), make_tiny_model("resnet"), 40, 100, None)
    assert f"Held out: none, so nothing is evaluated: give {named}`eval_dataset` or `eval_share`." in said


@pytest.mark.parametrize(
    ("steps", "rate", "words"),
    [
        (
            10,
            1e-5,
            "no weight moves by more than 5e-05, 0.[0-9]+% of their usual size: it will leave the model nearly",
        ),
        (1000, 1e-7, "nearly as it was. Raise `min_steps`, `epochs` or `learning_rate`"),
        (49, 1e-2, "The training has 49 steps of 8 pairs; that is little time to learn."),
        (500, 1e-5, None),
        (50, 1e-2, None),
    ],
)
def test_a_training_that_changes_nothing_says_so(steps, rate, words, caplog):
    options = TrainingOptions(learning_rate=rate, layer_decay=0.8)
    check_plan(build_optimizer(make_tiny_model("vit"), options.optimizer_options), steps, 8)
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(found) == (words is not None)
    assert words is None or re.search(words, found[0])


def test_the_cure_for_few_steps_is_the_option_that_counts(caplog):
    options = TrainingOptions(max_steps=9)
    check_plan(build_optimizer(make_tiny_model("vit"), options.optimizer_options), 9, 8, options.max_steps)
    assert "Raise `max_steps` or `learning_rate`" in caplog.text


@pytest.mark.parametrize("steps", [*range(1, 12), 100])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_warm_up_as_a_share_leaves_a_step_at_the_highest_rate(steps, share):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = cosine_schedule(optimizer, TrainingOptions(warmup_share=share).warmup_steps_of(steps), steps)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert max(rates) == 1.0


@pytest.mark.parametrize("steps", [1, 10])
def test_a_warm_up_to_the_end_is_refused(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=f"`warmup_steps` is {steps} and the training has {counted(steps, 'step')}:"):
        cosine_schedule(optimizer, steps, steps)


def test_an_average_of_ten_steps_holds_nothing_of_the_start():
    model = make_tiny_model("vit")
    average = AveragedWeights(model, decay=0.999)
    with torch.no_grad():
        start = model.text_projection.weight.clone()
        for number in range(1, 11):
            model.text_projection.weight.copy_(start + number)
            average.update(model)
    with average.applied_to(model):
        moved = (model.text_projection.weight - start).mean().item()
    # Of ten steps of 1 the average is at 8 to 9; with a decay of 0.999 from the first on it would be near 1.
    assert 8 < moved < 10


@pytest.mark.parametrize(("decay", "steps"), [(0.999, 1), (0.999, 10), (0.5, 10), (0.9, 200)])
def test_what_the_average_holds_is_what_averaged_weights_come_to(decay, steps):
    options = TrainingOptions(ema_decay=decay, warmup_share=0.3)
    model = torch.nn.Linear(1, 1)
    torch.nn.init.zeros_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    schedule = cosine_schedule(optimizer, options.warmup_steps_of(steps), steps)
    average = AveragedWeights(model, decay)
    for _ in range(steps):
        model.weight.grad = -torch.ones_like(model.weight)  # each step goes the same way
        optimizer.step()
        schedule.step()
        average.update(model)
    moved = model.weight.item()
    with average.applied_to(model):
        assert model.weight.item() / moved == pytest.approx(averaged_share(options, steps), abs=1e-5)


def test_an_average_that_holds_little_of_the_training_says_so(caplog):
    check_average(TrainingOptions(ema_decay=0.999), 10)
    check_average(TrainingOptions(), 10)
    assert not caplog.text
    check_average(TrainingOptions(ema_decay=0.999, warmup_share=0.99), 10)
    words = r"`ema_decay` 0.999\) holds [0-9]+% of what 10 steps with 9 steps of warm-up move.* Leave `ema_decay` out"
    assert re.search(words, caplog.text)
    said = describe_plan(TrainingOptions(model="m", ema_decay=0.999), make_tiny_model("vit"), 10, 100, None)
    assert re.search(r"1 step of warm-up; the weights' average holds 9[0-9]% of what they move\. Results", said)
