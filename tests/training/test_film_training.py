# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training on films: model, loss, rates, frozen parts, held-out films, and a resume to the last bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import load_file
from two_processes import train_in_float64

from clip_hf import ClipHFImageProcessor, ClipHFModel, ClipHFProcessor, same_label_loss
from clip_hf.data import PairOptions
from clip_hf.model.configuration_clip_hf_video import TEMPORAL_HEADS
from clip_hf.model.modeling_clip_hf_video import ClipHFVideoModel
from clip_hf.model.video_processing_clip_hf import ClipHFVideoProcessor
from clip_hf.training import (
    ContrastiveObjective,
    HeldOutPairs,
    OptimizerOptions,
    SameLabelLoss,
    Training,
    TrainingLog,
    TrainingOptions,
    adamw_parameter_groups,
    build_model,
    build_optimizer,
    build_pair_loss,
    freeze,
    load_training_data,
    parse_options,
    train,
)
from clip_hf.training.video_models import as_video_model, as_video_processor
from films import write_film
from several_processes import torchrun
from tiny_models import make_tiny_model


HERE = Path(__file__).resolve().parent
RECIPE = HERE.parents[1] / "examples" / "recipes" / "actionclip.yaml"
STEPS = 5
FRAMES = 3
# All that is random, and all that is of films.
OF_FILMS = {
    "num_frames": FRAMES,
    "temporal_head": "Transf",
    "temporal_num_layers": 1,
    "loss": "same_label",
    "head_learning_rate_multiplier": 10.0,
    "rand_augment": [2, 9],
    "templates": ["video_actions"],
    "cache_images": False,
    "background_color": None,
    "batch_size": 4,
    "max_steps": STEPS,
    "save_every": 2,
    "ema_decay": 0.5,
    "eval_every": 1.0,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
}


def frames_of(number: int) -> list[np.ndarray]:
    """Eight frames of 40 x 40 pixels in which a square moves to the right, or for odd numbers to the left."""
    colour = np.random.default_rng(number).integers(64, 256, 3)
    frames = np.zeros((8, 40, 40, 3), np.uint8)
    for index in range(8):
        left = 4 * (index if number % 2 == 0 else 7 - index)
        frames[index, 12:28, left : left + 10] = colour
    return list(frames)


def caption_of(number: int) -> str:
    return ["moves to the right", "moves to the left"][number % 2]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> str:
    """Eight films to train on, one of them damaged, and four to test."""
    folder = tmp_path_factory.mktemp("films")
    for part, numbers in (("train", range(8)), ("test", range(8, 12))):
        (folder / part).mkdir()
        for number in numbers:
            path = write_film(folder / part / f"{number}.mp4", frames_of(number))
            path.with_suffix(".txt").write_text(caption_of(number), encoding="utf-8")
    (folder / "train" / "7.mp4").write_bytes(b"damaged")
    return str(folder)


@pytest.fixture
def options_of(films, recipe_of, tmp_path):
    """A function that makes options of a training on the films into a folder of this name."""

    def make(name: str = "out", tower: str = "vit", **changes) -> TrainingOptions:
        content = {"dataset": films, **OF_FILMS, "max_skipped_share": 0.5, **changes}
        recipe = recipe_of(tower, **content)
        return parse_options([str(recipe), "--output_dir", str(tmp_path / name)])

    return make


def steps_of(log: list[dict]) -> list[dict]:
    return [entry for entry in log if "loss" in entry]


def exact(log: list[dict]) -> list[dict]:
    return [{name: value for name, value in entry.items() if name != "pairs_per_second"} for entry in log]


# ------------------------------------------------------------------------------------------------------- the training


@pytest.mark.parametrize(
    "head", ["LSTM", *(pytest.param(head, marks=pytest.mark.slow) for head in TEMPORAL_HEADS if head != "LSTM")]
)
def test_a_training_on_films_leaves_a_video_model(head, options_of, tmp_path):
    log = train(options_of(temporal_head=head, max_steps=2))
    assert all(np.isfinite(entry["loss"]) for entry in steps_of(log))
    metrics = log[-1]
    assert {"zero_shot_top1", "zero_shot_top5", "text_to_image_R@1"} <= metrics.keys()
    folder = tmp_path / "out" / "last"
    model, processor = ClipHFVideoModel.from_pretrained(folder), ClipHFProcessor.from_pretrained(folder)
    assert (model.config.temporal_head, model.config.num_frames) == (head, FRAMES)
    assert isinstance(processor.image_processor, ClipHFVideoProcessor)
    assert processor.image_processor.num_frames == FRAMES
    batch = processor(images=[frames_of(3)], text=["moves to the left"], return_tensors="pt")
    assert batch["pixel_values"].shape == (1, FRAMES, 3, 32, 32)
    with torch.no_grad():
        assert model(**batch).logits_per_image.shape == (1, 1)
    card = (folder / "README.md").read_text()
    for text in ("a video CLIP with", head, "num_frames", "same_label"):
        assert text in card


def test_the_plan_names_the_clips_and_films_are_counted(options_of, capsys):
    training = Training(options_of())
    plan = capsys.readouterr().out
    assert "clips of 3 frames, temporal head Transf" in plan
    assert "8 pairs" in plan and "4 films and 2 different captions" in plan and "among 2 classes" in plan
    for step, batch in enumerate(training.loader):
        training.step(step, batch)
    assert training.skips.num_skipped > 0
    assert "The film of row" in next(iter(training.skips.examples.values()))[0]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_training_goes_on_to_the_last_bit(workers, options_of, tmp_path, monkeypatch):
    whole = train(options_of("whole", num_workers=workers))
    step = Training.step

    def die(self, number, batch):
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Training, "step", die)
        train(options_of("stopped", num_workers=workers))
    options = options_of("stopped", num_workers=workers)
    options.resume = "latest"
    train(options)
    assert exact(TrainingLog(tmp_path / "stopped" / "training_log.jsonl").entries()) == exact(whole)
    for name in ("last", "best"):
        states = [load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "stopped")]
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"mixed_precision": "bf16"}, {"streaming": True}])
def test_other_options_work_with_films(more, options_of):
    more = {**more, "pairs_per_epoch": 8} if "streaming" in more else more
    log = train(options_of(max_steps=2, save_every=0, **more))
    assert len(steps_of(log)) == 2 and "zero_shot_top1" in log[-1]


@pytest.mark.slow
def test_checkpointing_does_not_change_the_gradient(options_of):
    few = {"save_every": 0, "max_steps": 2, "eval_every": 100.0}
    logs = [train(options_of(name, gradient_checkpointing=name == "yes", **few)) for name in ("no", "yes")]
    losses = [[entry["loss"] for entry in steps_of(log)] for log in logs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.slow
def test_two_processes_make_the_update_of_one_on_films(films, recipe_of, tmp_path):
    content = {**OF_FILMS, "dataset": films, "max_skipped_share": 0.5, "save_every": 0}
    recipe = recipe_of("vit", **content)
    run = torchrun(HERE / "two_processes.py", tmp_path / "two", recipe)
    assert run.returncode == 0, run.stderr[-4000:]
    train_in_float64(tmp_path / "one", [str(recipe)])
    logs = [steps_of(TrainingLog(tmp_path / run / "vit" / "training_log.jsonl").entries()) for run in ("one", "two")]
    losses = [[entry["loss"] for entry in log] for log in logs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    states = [load_file(tmp_path / run / "vit" / "last" / "model.safetensors") for run in ("one", "two")]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------------------------------- loss and cached gradients


def small_video_model(head: str = "Transf") -> ClipHFVideoModel:
    torch.manual_seed(0)
    return ClipHFVideoModel.from_clip(make_tiny_model("vit"), head, FRAMES, 1).double().train()


def batch_of(model: ClipHFVideoModel, size: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    edge = model.config.vision_config.image_size
    input_ids = torch.randint(1, 500, (size, 6), generator=generator)
    input_ids[:, -1] = model.config.text_config.eos_token_id
    pixels = torch.randn(size, FRAMES, 3, edge, edge, generator=generator, dtype=torch.float64)
    return {"pixel_values": pixels, "input_ids": input_ids, "text_ids": torch.tensor([5, 7, 5, 9, 7, 5][:size])}


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_equal_captions_are_labels_of_the_loss():
    model = small_video_model()
    batch = batch_of(model)
    loss = ContrastiveObjective(Accelerator(cpu=True), model, SameLabelLoss(4.0)).backward(batch)
    output = model(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"])
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    expected = same_label_loss(
        output.image_embeds, output.text_embeds, model.logit_scale.exp(), labels=labels, target_scale=4.0
    )
    torch.testing.assert_close(loss, expected.detach())


@pytest.mark.parametrize("frozen", [(), ("vision",), ("vision", "text")], ids=["none", "vision", "both"])
def test_grad_cache_gives_the_gradient_of_the_whole_batch(frozen):
    """With frozen towers, too, the temporal head above them is trained."""
    results = []
    for chunk in (None, 4):
        model = small_video_model()
        if frozen:
            freeze(model, frozen)
        # The head starts as the mean of the frames, where most of its gradients are 0.
        for parameter in model.temporal_parameters():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(2))
        objective = ContrastiveObjective(
            Accelerator(cpu=True), model, SameLabelLoss(10.0), grad_cache_chunk_size=chunk
        )
        results.append((objective.backward(batch_of(model)), gradients_of(model)))
    (loss, expected), (cached_loss, cached) = results
    torch.testing.assert_close(cached_loss, loss)
    assert expected.keys() == cached.keys()
    assert any(name.startswith("temporal_head.") and value.abs().max() > 0 for name, value in cached.items())
    for name, value in expected.items():
        torch.testing.assert_close(cached[name], value, rtol=1e-9, atol=1e-12)


def test_a_model_with_a_bias_is_refused_by_the_same_label_loss():
    model = make_tiny_model("vit", logit_bias_init_value=-10.0)
    with pytest.raises(ValueError, match="same_label.*logit_bias"):
        build_pair_loss(TrainingOptions(loss="same_label"), model)


# ------------------------------------------------------------------------------------------------ parameters and rates


def names_in(group: dict, model) -> set[str]:
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return {known[id(parameter)] for parameter in group["params"]}


@pytest.mark.parametrize("head", TEMPORAL_HEADS)
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_the_head_has_its_own_rate_and_its_positions_no_weight_decay(head, layer_decay):
    model = small_video_model(head)
    groups = adamw_parameter_groups(model, 0.2, 1e-3, layer_decay, head_multiplier=10.0)
    of_head = {name for name, _ in model.named_parameters() if name.startswith("temporal_head.")}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    found = {name: group for group in groups for name in names_in(group, model)}
    for name, parameter in model.named_parameters():
        group = found[name]
        has_decay = parameter.ndim >= 2 and name != "temporal_head.position_embedding.weight"
        assert group["weight_decay"] == (0.2 if has_decay else 0.0), name
        assert (group["lr"] == pytest.approx(1e-2)) == (name in of_head), name
    if layer_decay < 1:
        assert found["vision_model.encoder.layers.0.self_attn.out_proj.weight"]["lr"] < 1e-3


def test_without_a_multiplier_the_head_is_at_the_top():
    model = small_video_model()
    groups = adamw_parameter_groups(model, 0.2, 1e-3, 0.5)
    found = {name: group["lr"] for group in groups for name in names_in(group, model)}
    assert {rate for name, rate in found.items() if name.startswith("temporal_head.")} == {1e-3}
    assert len(adamw_parameter_groups(model, 0.2, 1e-3)) == 2
    with pytest.raises(ValueError, match="`head_multiplier` is 10.0 and `learning_rate` is missing"):
        adamw_parameter_groups(model, 0.2, head_multiplier=10.0)
    for value in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="`head_multiplier` is"):
            OptimizerOptions(head_multiplier=value)
    assert build_optimizer(model, OptimizerOptions(head_multiplier=10.0)).param_groups[-1]["lr"] == 5e-3


def test_frozen_towers_leave_the_head_to_be_trained():
    model = small_video_model()
    freeze(model, ["vision_tower", "text_tower", "projections", "logit_scale"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith("temporal_head.") for name in trained)
    model = small_video_model("LSTM")
    freeze(model, ["temporal_head"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "visual_projection.weight" in trained and not any(name.startswith("temporal_head.") for name in trained)
    with pytest.raises(ValueError, match="no temporal head"):
        freeze(make_tiny_model("vit"), ["temporal_head"])


def test_a_frozen_head_stays_and_the_rest_moves(options_of):
    training = Training(options_of(temporal_head="LSTM", freeze=["temporal_head", "text"], save_every=0))
    before = {name: value.clone() for name, value in training.clip.state_dict().items()}
    for step, batch in enumerate(training.loader):
        training.step(step, batch)
    moved = {name for name, value in training.clip.state_dict().items() if not torch.equal(value, before[name])}
    assert "visual_projection.weight" in moved
    assert not any(name.startswith(("temporal_head.", "text_")) for name in moved)


# ----------------------------------------------------------------------------------------------------------- the model


def save_picture_model(folder: Path, tokenizer) -> str:
    model = make_tiny_model("vit")
    size = model.config.vision_config.image_size
    model.save_pretrained(folder)
    ClipHFProcessor(ClipHFImageProcessor(size=size, crop_size=size, resample=2), tokenizer).save_pretrained(folder)
    return str(folder)


def test_any_clip_becomes_a_video_model(films, tmp_path, tiny_tokenizer):
    source = save_picture_model(tmp_path / "clip", tiny_tokenizer)
    options = TrainingOptions(dataset=[films], num_frames=FRAMES, temporal_head="LSTM", model=source, cpu=True)
    model, processor = build_model(options, None)
    assert (model.config.temporal_head, model.config.num_frames) == ("LSTM", FRAMES)
    assert (processor.image_processor.num_frames, processor.image_processor.resample) == (FRAMES, 2)
    weights = ClipHFModel.from_pretrained(source).state_dict()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())


def test_a_video_model_keeps_its_head_unless_another_is_asked_for(films, tmp_path, tiny_tokenizer, caplog):
    torch.manual_seed(1)
    model = small_video_model("LSTM").float()
    torch.nn.init.normal_(model.temporal_head.lstm.weight_ih_l0)
    model.save_pretrained(tmp_path / "video")
    size = model.config.vision_config.image_size
    image_processor = as_video_processor(ClipHFImageProcessor(size=size, crop_size=size), FRAMES)
    ClipHFProcessor(image_processor, tiny_tokenizer).save_pretrained(tmp_path / "video")
    source = {"dataset": [films], "model": str(tmp_path / "video"), "cpu": True}
    kept, _ = build_model(TrainingOptions(num_frames=5, **source), None)
    assert kept.config.num_frames == 5
    assert torch.equal(kept.temporal_head.lstm.weight_ih_l0, model.temporal_head.lstm.weight_ih_l0)
    assert "replaced" not in caplog.text
    other, _ = build_model(TrainingOptions(num_frames=5, temporal_head="Conv_1D", **source), None)
    assert other.config.temporal_head == "Conv_1D"
    assert "LSTM, is replaced by a new one: temporal_head Conv_1D" in caplog.text
    with pytest.raises(ValueError, match=r"video model.*num_frames"):
        build_model(TrainingOptions(**source), None)


def test_learned_positions_are_of_one_number_of_frames():
    model = small_video_model("Transf")
    assert as_video_model(model, FRAMES) is model
    with pytest.raises(ValueError, match=f"learned positions of {FRAMES} frames: give num_frames={FRAMES}"):
        as_video_model(model, 16)


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 0}, "`num_frames` is 0; it must be at least 1"),
        ({"temporal_head": "Transf"}, "`temporal_head` belongs to a training on films: give `num_frames`"),
        ({"temporal_num_layers": 2}, "`temporal_num_layers` belongs to a training on films"),
        ({"head_learning_rate_multiplier": 10.0}, "`head_learning_rate_multiplier` belongs to a training on films"),
        ({"num_frames": 8, "head_learning_rate_multiplier": 0.0}, "it must be greater than 0"),
        ({"num_frames": 8, "temporal_head": "GRU"}, "it must be one of meanP, Conv_1D, Transf, LSTM, Transf_cls"),
        ({"num_frames": 8, "cache_images": True}, "`cache_images` keeps resized images"),
        ({"num_frames": 8, "background_color": "white"}, "`background_color` is of image files"),
        ({"num_frames": 8, "apply_exif_orientation": True}, "`apply_exif_orientation` is of image files"),
        ({"loss": "same_label", "label_smoothing": 0.1}, "`label_smoothing` belongs to the softmax loss"),
        ({"loss": "same_label", "loss_chunk_size": 8}, "`loss_chunk_size` belongs to other losses"),
        ({"loss": "same_label", "templates": ["{}", "{title}"]}, "`templates` name different columns"),
        ({"target_scale": 5.0}, "`target_scale` belongs to the losses same_label, .*; `loss` is softmax"),
        ({"loss": "same_label", "target_scale": -1.0}, "`target_scale` is -1.0; it must be at least 0"),
        ({"rand_augment": [2]}, "`rand_augment` is"),
        ({"loss": "kl"}, "it must be one of softmax, sigmoid, same_label"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions(**changes)


def test_pictures_with_a_number_of_frames_and_films_without(films, tiny_data_folder):
    with pytest.raises(ValueError, match="no column 'video'.*'image'"):
        load_training_data(TrainingOptions(dataset=[str(tiny_data_folder)], num_frames=8))
    with pytest.raises(ValueError, match=r"holds no images.*films.*num_frames"):
        load_training_data(TrainingOptions(dataset=[films]))


def test_held_out_films_are_of_the_middle_frames(films, tiny_tokenizer):
    options = PairOptions(num_frames=2)
    _, held_out = load_training_data(TrainingOptions(dataset=[films], num_frames=2))
    processor = ClipHFProcessor(ClipHFImageProcessor(size=40, crop_size=40), tiny_tokenizer)
    pairs = HeldOutPairs(held_out, processor, options)
    # Frames 1 and 5 of 8: a square of 10 pixels that is at 4 and 20, or at 24 and 8.
    column = pairs.captions.index(["moves to the right"])
    lefts = [int(np.argmax(frame[:, 20].max(axis=0) > 40)) for frame in pairs.pixels[column]]
    assert lefts == pytest.approx([4, 20], abs=1)
    assert "4 films" in pairs.summary()


def test_the_recipe_is_that_of_the_paper(films):
    options = parse_options([str(RECIPE), "--model", "some/clip", "--dataset", films])
    assert (options.learning_rate, options.head_learning_rate_multiplier, options.weight_decay) == (5e-6, 10.0, 0.2)
    assert (options.epochs, options.warmup_steps_of(500), options.num_frames) == (50, 50, 8)
    assert (options.loss, options.target_scale, options.temporal_head) == ("same_label", 10.0, "Transf")
    assert options.pair_options.augmentation.rand_augment == (2, 9.0)
    assert len(options.pair_options.templates) == 16
    assert yaml.safe_load(RECIPE.read_text())["templates"] == ["actionclip"]
