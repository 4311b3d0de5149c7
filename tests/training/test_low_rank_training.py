# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Training with LoRA: what is trained and saved, exact resuming, two processes, chunks, Trainer, and bad options."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments
from two_processes import train_in_float64

from clip_hf import ClipHFModel, ClipHFProcessor
from clip_hf.data import ImageTextCollator, ImageTextDataset
from clip_hf.training import Training, TrainingOptions, adamw_from_paper, parse_options, prepare_model, train
from several_processes import torchrun
from tiny_models import make_tiny_model


HERE = Path(__file__).resolve().parent
MODULES = {"vit": ["q_proj", "v_proj", "patch_embedding"], "resnet": ["q_proj", "v_proj", "conv2", "fc1"]}
ADAPTER = "adapter/adapter_model.safetensors"
# All at once; the data are those of `recipe_of`.
EVERYTHING = {
    "lora_rank": 2,
    "lora_alpha": 4.0,
    "learning_rate": 0.02,
    "max_steps": 4,
    "save_every": 2,
    "warmup_steps": 1,
}
EVERYTHING |= {"ema_decay": 0.9, "gradient_checkpointing": True, "templates": ["{}", "a {}"], "max_grad_norm": 1.0}
EVERYTHING |= {"crop_scale": [0.2, 1.0], "eval_every": 1.0}


@pytest.fixture
def options_of(recipe_of, tiny_processor, tmp_path):
    """A function that makes options for a training with LoRA into a folder of this name."""

    def make(name: str, tower: str, **changes) -> TrainingOptions:
        base = tmp_path / f"base-{tower}"
        if not base.exists():
            make_tiny_model(tower).save_pretrained(base)
            tiny_processor.save_pretrained(base)
        changes = {"model": str(base), "lora_modules": MODULES[tower], **EVERYTHING, **changes}
        recipe = recipe_of(tower, **changes)
        return parse_options([str(recipe), "--output_dir", str(tmp_path / name)])

    return make


@torch.no_grad()
def features(model, pixel_values, text_inputs) -> torch.Tensor:
    return torch.cat([model.encode_image(pixel_values), model.encode_text(**text_inputs)])


@pytest.mark.slow_but_for("vit")
def test_what_is_trained_and_saved(tower, options_of, pixel_values, text_inputs, capsys):
    options = options_of("out", tower)
    log = train(options)
    assert any("zero_shot_top1" in entry for entry in log)
    out, base = Path(options.output_dir), ClipHFModel.from_pretrained(options.model)
    size = f"{base.num_parameters():,} parameters"
    saved = load_file(out / "last" / "model.safetensors")
    assert saved.keys() == base.state_dict().keys()
    changed = {name for name, value in saved.items() if not torch.equal(value, base.state_dict()[name])}
    assert changed and all(any(f".{module}." in name for module in MODULES[tower]) for name in changed)
    merged = ClipHFModel.from_pretrained(out / "last")
    with_adapter = ClipHFModel.from_pretrained(out / "last" / "adapter")
    with_peft = PeftModel.from_pretrained(base, out / "last" / "adapter")
    expected = features(merged, pixel_values, text_inputs)
    for model in (with_adapter, with_peft):
        torch.testing.assert_close(features(model, pixel_values, text_inputs), expected, rtol=0, atol=2e-6)
    assert (out / "best" / "adapter" / "adapter_config.json").exists()
    processor = ClipHFProcessor.from_pretrained(out / "last" / "adapter")
    assert processor.tokenizer.get_vocab() == ClipHFProcessor.from_pretrained(options.model).tokenizer.get_vocab()
    trained = sum(
        value.numel() for value in load_file(out / "last" / "adapter" / "adapter_model.safetensors").values()
    )
    said = capsys.readouterr().out
    assert f"{size}, all frozen, and {trained:,} beside them trained: LoRA of rank 2; logit_scale stays " in said
    card = (out / "last" / "README.md").read_text()
    assert size in card
    for line in ("| `lora_rank` | 2 |", "| `lora_alpha` | 4.0 |", f"| `trained_parameters` | {trained} |"):
        assert line in card


@pytest.mark.slow_but_for("vit")
def test_a_stopped_training_resumes_to_the_last_bit(tower, options_of):
    whole = options_of("whole", tower)
    log = train(whole)
    options = options_of("parts", tower)
    training = Training(options)
    training.start()
    for step, batch in zip(range(2), training.loader):
        training.log.add(training.step(step, batch))
    training.save_checkpoint(2)
    options.resume = "latest"
    losses = [[entry["loss"] for entry in entries if "loss" in entry] for entries in (log, train(options))]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    for name in ("model.safetensors", ADAPTER):
        one, two = (load_file(Path(each.output_dir) / "last" / name) for each in (whole, options))
        assert one and all(torch.equal(value, two[key]) for key, value in one.items())


def test_chunks_make_the_update_of_the_whole_batch(options_of):
    # Dropout's draws depend on the chunks.
    settings = {"lora_dropout": 0.0, "gradient_checkpointing": False, "save_every": 0}
    for name, chunk in (("whole", None), ("chunks", 4)):
        train(options_of(name, "vit", grad_cache_chunk_size=chunk, **settings))
    folder = Path(options_of("whole", "vit").output_dir).parent
    one, two = (
        load_file(folder / name / "last" / "adapter" / "adapter_model.safetensors") for name in ("whole", "chunks")
    )
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_adapters_learn_from_teachers(options_of):
    options = options_of("out", "vit", crop_scale=[], save_every=0)
    before = train(options)
    taught = replace(
        options, teachers=[options.model], resize_for_teachers=True, output_dir=f"{options.output_dir}-taught"
    )
    after = train(taught)
    assert after[-1].keys() == before[-1].keys()
    adapters = [load_file(Path(each.output_dir) / "last" / ADAPTER) for each in (options, taught)]
    assert any(not torch.equal(value, adapters[1][name]) for name, value in adapters[0].items())


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_sharded_trainings_with_adapters_are_refused(kind, options_of):
    accelerator = SimpleNamespace(distributed_type=kind, num_processes=1)
    with pytest.raises(ValueError, match=f"`lora_rank` does not work with {kind.value}"):
        prepare_model(options_of("out", "vit"), accelerator, make_tiny_model("vit"))


def test_a_frozen_tower_gets_no_adapter(options_of):
    training = Training(options_of("out", "vit", freeze=["text"], lora_modules=["q_proj"]))
    names = [name for name, parameter in training.clip.named_parameters() if parameter.requires_grad]
    assert names and all(name.startswith("vision_model.") and ".lora_" in name for name in names)


@pytest.mark.slow
def test_two_processes_make_the_update_of_one(options_of, tmp_path):
    recipe = tmp_path / "recipes" / "vit.yaml"
    options_of("unused", "vit", lora_dropout=0.0, save_every=0, ema_decay=None)
    run = torchrun(HERE / "two_processes.py", tmp_path / "two", str(recipe))
    assert run.returncode == 0, run.stderr[-4000:]
    train_in_float64(tmp_path / "one", [str(recipe)])
    one, two = (load_file(tmp_path / name / "vit" / "last" / "model.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-7, atol=1e-9)


def test_trainer_trains_a_model_of_peft(tower, tiny_data, tiny_processor, tmp_path, pixel_values, text_inputs):
    torch.manual_seed(0)
    make_tiny_model(tower).save_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, lora_alpha=1, use_rslora=True, target_modules=MODULES[tower])
    model = get_peft_model(ClipHFModel.from_pretrained(tmp_path / "base"), config)
    model.base_model.model.freeze_batch_norm()  # an adapter's file has no statistics
    settings = {"max_steps": 2, "per_device_train_batch_size": 8, "save_steps": 1, "use_cpu": True}
    settings |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    arguments = TrainingArguments(str(tmp_path / "out"), remove_unused_columns=False, report_to="none", **settings)
    trainer = Trainer(
        model,
        arguments,
        data_collator=ImageTextCollator(tiny_processor, return_loss=True),
        train_dataset=ImageTextDataset(tiny_data["train"], tiny_processor.image_processor),
        optimizers=(adamw_from_paper(model.base_model.model, 0.1), None),
    )
    trainer.train()
    trainer.save_model()
    expected = features(model.eval().base_model.model, pixel_values, text_inputs)
    plain = features(ClipHFModel.from_pretrained(tmp_path / "base"), pixel_values, text_inputs)
    assert (expected - plain).abs().max() > 1e-3
    loaded = PeftModel.from_pretrained(ClipHFModel.from_pretrained(tmp_path / "base"), tmp_path / "out")
    torch.testing.assert_close(features(loaded.eval(), pixel_values, text_inputs), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_adapters_are_trained_in_half_precision(tower, options_of, pixel_values, text_inputs):
    options = options_of("out", tower, max_steps=2, save_every=0, gradient_checkpointing=False, mixed_precision="bf16")
    losses = [entry["loss"] for entry in train(options) if "loss" in entry]
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)
    last = Path(options.output_dir) / "last"
    state = load_file(last / ADAPTER)
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert all(value.abs().max() > 0 for name, value in state.items() if "lora_B" in name)
    expected = features(ClipHFModel.from_pretrained(last / "adapter"), pixel_values, text_inputs)
    torch.testing.assert_close(
        features(ClipHFModel.from_pretrained(last), pixel_values, text_inputs), expected, rtol=0, atol=2e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lora_rank", "2"], "`lora_rank` adapts a trained model: give `model`"),
        (["--lora_rank", "0", "--model", "a"], "`rank` is 0"),
        (["--lora_alpha", "2"], "`lora_alpha` belongs to LoRA: give `lora_rank`"),
        (["--lora_modules", "fc1"], "`lora_modules` belongs to LoRA"),
        (["--lora_rank", "2", "--model", "a", "--num_frames", "4"], "`lora_rank` is given, and the data are films"),
    ],
)
def test_bad_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_options(arguments)
