# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""From options to data, steps, model and loader; and what is refused on the way."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import datasets
import pytest
import torch
from accelerate import Accelerator, DistributedType
from torch.distributed.fsdp import StateDictType

from clip_hf import ClipHFModel, ClipHFProcessor
from clip_hf.training import LOG_NAME, TrainingOptions, build_model, load_training_data, prepare_model, training_setup
from clip_hf.training.checkpoint_files import check_can_be_resumed
from clip_hf.training.planning import num_steps_of
from clip_hf.training.training_setup import (
    build_loader,
    check_output_dir,
    check_trackers,
    load_held_out,
    prepare_output_dir,
    seed_step,
    start_accelerator,
    wrap_model,
)
from clip_hf.utils.atomic import set_aside
from pair_data import caption_of, dataset_of, rows_of
from tiny_models import make_tiny_model, tiny_config


@pytest.fixture
def saved(tmp_path) -> str:
    """Twenty pairs, with four to test."""
    splits = {"train": dataset_of(rows_of(range(20))), "test": dataset_of(rows_of(range(20, 24)))}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    return str(tmp_path / "saved")


def config_of(tower: str = "vit") -> dict:
    """As it is saved with a model: with the ids of that model's tokenizer."""
    return tiny_config(tower).to_dict()


def options_of(saved: str, **kwargs) -> TrainingOptions:
    return TrainingOptions(**{"dataset": [saved], "config": config_of(), "vocab_size": 540, "cpu": True, **kwargs})


# ------------------------------------------------------------------------------------------------------------ folders


def test_a_folder_must_be_new_or_hold_a_training_that_is_replaced_or_resumed(tmp_path):
    folder = tmp_path / "out"
    options = TrainingOptions(output_dir=str(folder))
    check_output_dir(options)
    folder.mkdir()
    check_output_dir(options)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="out is not empty; choose another, pass --resume latest"):
        check_output_dir(options)
    with pytest.raises(ValueError, match="out holds no training"):
        check_output_dir(TrainingOptions(output_dir=str(folder), overwrite=True))
    (folder / LOG_NAME).write_text("")
    check_output_dir(TrainingOptions(output_dir=str(folder), overwrite=True))
    check_output_dir(TrainingOptions(output_dir=str(folder), resume="latest"))
    file = TrainingOptions(output_dir=str(folder / "thesis.txt"))
    with pytest.raises(ValueError, match="thesis.txt is a file; name a folder"):
        check_output_dir(file)


def test_only_what_is_to_be_replaced_is_emptied(tmp_path):
    folder = tmp_path / "out"
    (folder / "checkpoints").mkdir(parents=True)
    with prepare_output_dir(TrainingOptions(output_dir=str(folder), overwrite=True, resume="latest")):
        pass
    assert (folder / "checkpoints").exists() and (folder / "recipe.yaml").exists()
    with prepare_output_dir(TrainingOptions(output_dir=str(folder), overwrite=True), active=False):
        assert (folder / "checkpoints").exists()
    with prepare_output_dir(TrainingOptions(output_dir=str(folder), overwrite=True)):
        assert [path.name for path in folder.iterdir()] == ["recipe.yaml"]
    assert [path.name for path in folder.iterdir()] == ["recipe.yaml"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_training_that_does_not_start_leaves_the_one_that_it_was_to_replace(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / LOG_NAME).write_text("old")
    options = TrainingOptions(output_dir=str(folder), overwrite=True)
    with pytest.raises(MemoryError), prepare_output_dir(options):
        (folder / "new").mkdir()
        raise MemoryError
    assert [path.name for path in folder.iterdir()] == [LOG_NAME] and list(tmp_path.iterdir()) == [folder]
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="is the current folder; start from another"):
        check_output_dir(options)


def test_a_model_that_was_set_aside_when_its_training_was_killed_is_put_back(tmp_path):
    (tmp_path / "out" / "best").mkdir(parents=True)
    aside = set_aside(tmp_path / "out" / "best")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    aside.rename(aside.with_name(aside.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")))
    with prepare_output_dir(TrainingOptions(output_dir=str(tmp_path / "out"), resume="latest")):
        assert (tmp_path / "out" / "best").is_dir()


_REPLACES = """
import sys, time
from clip_hf.training import TrainingOptions
from clip_hf.training.training_setup import prepare_output_dir
with prepare_output_dir(TrainingOptions(output_dir=sys.argv[1], overwrite=True)):
    print("set aside", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_there", [True, False])
def test_a_training_is_put_back_after_one_that_was_to_replace_it_was_killed(is_there, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / LOG_NAME).write_text("old")
    with subprocess.Popen([sys.executable, "-c", _REPLACES, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"set aside\n"
        process.kill()
    (aside,) = tmp_path.glob(".out.*.aside")
    assert [path.name for path in folder.iterdir()] == ["recipe.yaml"] and (aside / LOG_NAME).read_text() == "old"
    options = TrainingOptions(output_dir=str(folder), overwrite=True)
    if is_there:
        check_output_dir(options)
        with pytest.raises(MemoryError), prepare_output_dir(options):
            raise MemoryError
    else:  # it was killed before it had written anything
        shutil.rmtree(folder)
        with pytest.raises(ValueError, match="is not empty"):
            check_output_dir(TrainingOptions(output_dir=str(folder)))
    assert list(tmp_path.iterdir()) == [folder] and (folder / LOG_NAME).read_text() == "old"


@pytest.mark.parametrize("resume", [None, "latest"])
@pytest.mark.parametrize("written", [["recipe.yaml"], ["recipe.yaml", LOG_NAME]])
def test_a_start_that_was_killed_costs_neither_the_old_training_nor_the_next_start(written, resume, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / LOG_NAME).write_text("old")
    aside = set_aside(folder)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    aside.rename(aside.with_name(aside.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")))
    folder.mkdir()
    for name in written:
        (folder / name).write_text("new")
    options = TrainingOptions(output_dir=str(folder), overwrite=True, resume=resume)
    check_output_dir(options)
    with pytest.raises(MemoryError), prepare_output_dir(options):
        raise MemoryError
    assert (folder / LOG_NAME).read_text() == "old" and list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("kind", "sharded", "message"),
    [
        (DistributedType.FSDP, "SHARDED_STATE_DICT", "pass --trust_checkpoint. Or set .*FULL_STATE_DICT"),
        (DistributedType.FSDP, "LOCAL_STATE_DICT", "pass --trust_checkpoint. Or set .*FULL_STATE_DICT"),
        (DistributedType.DEEPSPEED, None, "Checkpoints of DEEPSPEED hold pickles.*pass --trust_checkpoint.$"),
        (DistributedType.FSDP, "FULL_STATE_DICT", None),
        (DistributedType.MULTI_GPU, None, None),
    ],
)
def test_a_launch_whose_checkpoints_are_pickles_resumes_from_trusted_ones_only(kind, sharded, message):
    plugin = SimpleNamespace(state_dict_type=StateDictType[sharded]) if sharded else None
    accelerator = SimpleNamespace(distributed_type=kind, state=SimpleNamespace(fsdp_plugin=plugin))
    with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
        check_can_be_resumed(accelerator, trusted=False)
    check_can_be_resumed(accelerator, trusted=True)


def test_trackers():
    check_trackers([])
    with pytest.raises(ValueError, match="There is no tracker 'wandbb'; there are .*tensorboard.*wandb"):
        check_trackers(["wandbb"])
    with pytest.raises(ValueError, match="'swanlab' is not installed: `pip install swanlab`"):
        check_trackers(["swanlab"])


@pytest.mark.parametrize(
    ("known", "missing"),
    [({}, "RANK and MASTER_ADDR are"), ({"RANK": "0"}, "MASTER_ADDR are"), ({"MASTER_ADDR": "a"}, "RANK are")],
)
def test_processes_without_each_other_are_refused_before_they_wait(known, missing, monkeypatch):
    for name in ("RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**known, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=f"WORLD_SIZE is 2, but {missing} not set. .*torchrun"):
        start_accelerator(TrainingOptions(cpu=True))


def test_the_accelerator_is_that_of_the_options():
    accelerator = start_accelerator(TrainingOptions(cpu=True, seed=7))
    first = torch.rand(3)
    assert accelerator.num_processes == 1 and accelerator.device.type == "cpu" and accelerator.mixed_precision == "no"
    start_accelerator(TrainingOptions(cpu=True, seed=7))
    assert torch.equal(torch.rand(3), first)


# --------------------------------------------------------------------------------------------------------------- data


def test_held_out_pairs_are_a_split_another_source_or_none(saved, tmp_path):
    data, held_out = load_training_data(options_of(saved))
    assert len(data) == 20 and len(held_out) == 4
    data, held_out = load_training_data(options_of(saved, eval_dataset=saved, eval_split="train"))
    assert len(held_out) == 20
    datasets.load_from_disk(saved)["train"].save_to_disk(str(tmp_path / "plain"))
    assert load_training_data(options_of(str(tmp_path / "plain")))[1] is None
    assert load_training_data(options_of(saved, dataset=[saved, str(tmp_path / "plain")]))[1] is None
    with pytest.raises(ValueError, match="nowhere"):
        load_training_data(options_of(saved, eval_dataset=saved, eval_split="nowhere"))


def test_a_share_is_held_out_where_nothing_else_is(saved, tmp_path):
    rows = dataset_of(rows_of(range(60)))
    rows.save_to_disk(str(tmp_path / "plain"))
    plain = str(tmp_path / "plain")
    data, held_out = load_training_data(options_of(plain, eval_share=0.3))
    assert len(data) + len(held_out) == 60 and 9 <= len(held_out) <= 27
    again = load_training_data(options_of(plain, eval_share=0.3))[1]
    assert again["caption"][:] == held_out["caption"][:]
    assert load_training_data(options_of(plain, eval_share=0.3, seed=1))[1]["caption"][:] != held_out["caption"][:]
    # Of several sources together; where there is a part `test`, or other data, those are taken.
    data, held_out = load_training_data(options_of(saved, dataset=[saved, plain], eval_share=0.3))
    assert len(data) + len(held_out) == 80 and not set(data["caption"]) & set(held_out["caption"])
    data, held_out = load_training_data(options_of(saved, eval_share=0.3))
    assert (len(data), len(held_out)) == (20, 4)
    data, held_out = load_training_data(options_of(plain, eval_dataset=saved, eval_share=0.3))
    assert (len(data), len(held_out)) == (60, 4)


def test_the_root_of_the_images_must_be_there(saved, tmp_path):
    assert len(load_training_data(options_of(saved, image_root=str(tmp_path)))[0]) == 20
    with pytest.raises(ValueError, match="`image_root` /nowhere is no folder"):
        load_training_data(options_of(saved, image_root="/nowhere"))


def test_rows_that_are_trained_on_are_not_held_out_unasked(saved, tmp_path):
    parts = {name: dataset_of(rows_of(range(4))) for name in ("train", "validation", "extra")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "parts"))
    parts["extra"].save_to_disk(str(tmp_path / "plain"))
    parts, plain = str(tmp_path / "parts"), str(tmp_path / "plain")
    for changes, message in (
        ({"eval_dataset": parts}, "has the parts train, validation, extra: name one as `eval_split`"),
        (
            {"dataset": [plain], "eval_dataset": plain},
            "is what is trained on, and has no part `test`.* leave it out and give `eval_share`",
        ),
        ({"eval_split": "train"}, "'train', the part that is trained on; name another"),
        ({"dataset": [saved, plain], "eval_split": "test"}, "of one of several sources: name that as `eval_dataset`"),
    ):
        with pytest.raises(ValueError, match=message):
            load_training_data(options_of(saved, **changes))
    assert len(load_training_data(options_of(parts, eval_split="validation"))[1]) == 4
    assert len(load_training_data(options_of(saved, eval_dataset=plain))[1]) == 4
    assert load_training_data(options_of(parts))[1] is None


@pytest.mark.parametrize(
    ("options", "steps", "per_epoch"),
    [
        ({"epochs": 3, "batch_size": 6}, 9, 3),
        ({"epochs": 3, "batch_size": 6, "max_steps": 5}, 5, 3),
        ({"epochs": 3, "batch_size": 20}, 3, 1),
        ({"streaming": True, "max_steps": 7, "batch_size": 6}, 7, 7),
        ({"streaming": True, "epochs": 2, "pairs_per_epoch": 100, "batch_size": 6}, 32, 16),
        ({"streaming": True, "max_steps": 7, "pairs_per_epoch": 100, "batch_size": 6}, 7, 16),
    ],
)
def test_number_of_steps(options, steps, per_epoch):
    assert num_steps_of(TrainingOptions(**options), range(20)) == (steps, per_epoch)


def test_each_process_takes_its_share(saved, tiny_processor):
    options = options_of(saved, batch_size=6, epochs=1)
    data, _ = load_training_data(options)
    ids = []
    for rank in range(3):
        accelerator = SimpleNamespace(process_index=rank, num_processes=3)
        loader = training_setup.PairLoader(
            data, tiny_processor, options.pair_options, batch_size=6, num_steps=3, rank=rank, world_size=3
        )
        assert accelerator.num_processes == 3 and len(loader) == 3
        ids.append([batch["text_ids"].tolist() for batch in loader])
    alone = build_loader(options, Accelerator(cpu=True), data, tiny_processor, 3)
    for step, batch in enumerate(alone):
        assert batch["text_ids"].tolist() == [value for rank in ids for value in rank[step]]


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        # The program cuts the batch before.
        ({"batch_size": 21}, 1, "20 pairs do not fill a step of 21"),
        (
            {"batch_size": 8},
            3,
            "`batch_size` is 8, the pairs of all processes together; it must be a multiple of .* 3",
        ),
    ],
)
def test_batches_that_cannot_be(changes, processes, message, saved, tiny_processor):
    options = options_of(saved, **changes)
    data, _ = load_training_data(options)
    with pytest.raises(ValueError, match=message):
        build_loader(options, SimpleNamespace(process_index=0, num_processes=processes), data, tiny_processor, 1)


def test_training_captions_are_classes_too_if_asked_for(saved, tiny_processor):
    options = options_of(saved)
    data, held_out = load_training_data(options)
    assert len(load_held_out(options, held_out, data, tiny_processor).labels) == 4
    options.eval_with_train_captions = True
    assert load_held_out(options, held_out, data, tiny_processor).labels == sorted(map(caption_of, range(24)))
    assert load_held_out(options, None, data, tiny_processor) is None


# -------------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_a_model_from_scratch_fits_its_processor(tower, saved):
    options = options_of(saved, config=config_of(tower), resize_to=70, loss="sigmoid", templates=["a {}"])
    before = json.dumps(options.config, default=str)
    data, _ = load_training_data(options)
    model, processor = build_model(options, data)
    assert model.config.text_config.vocab_size == len(processor.tokenizer) <= 540
    assert model.config.vision_config.model_type == f"clip_hf_{tower}"
    assert processor.image_processor.size["shortest_edge"] == 70
    assert processor.image_processor.crop_size["height"] == model.config.vision_config.image_size
    assert model.config.text_config.eos_token_id == processor.tokenizer.eos_token_id
    assert model.logit_bias.item() == pytest.approx(-10) and model.logit_scale.exp().item() == pytest.approx(10)
    assert json.dumps(options.config, default=str) == before
    # "a drawing number" is in every text the tokenizer saw.
    assert len(processor.tokenizer("a drawing number 3")["input_ids"]) < 10


def test_a_published_architecture_and_a_file(saved, tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "config.json").write_text(json.dumps(config_of("resnet"), default=str))
    options = options_of(saved, config=str(tmp_path / "config.json"), tokenizer=str(tmp_path / "tokenizer"))
    model, processor = build_model(options, [])
    assert len(processor.tokenizer) == len(tiny_tokenizer) == model.config.text_config.vocab_size
    assert model.logit_bias is None
    with torch.device("meta"):
        model, processor = build_model(options_of(saved, config="ViT-B/32", tokenizer="openai"), [])
    assert len(processor.tokenizer) == 49_408 and model.config.vision_config.patch_size == 32


def test_a_model_to_start_from(saved, tmp_path, tiny_processor):
    first = make_tiny_model("vit")
    first.save_pretrained(tmp_path / "first")
    tiny_processor.save_pretrained(tmp_path / "first")
    model, processor = build_model(options_of(saved, model=str(tmp_path / "first")), [])
    assert isinstance(model, ClipHFModel) and len(processor.tokenizer) == len(tiny_processor.tokenizer)
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_processor_carries_the_image_options(saved, tmp_path, tiny_processor):
    make_tiny_model("vit").save_pretrained(tmp_path / "first")
    tiny_processor.save_pretrained(tmp_path / "first")
    for start in ({}, {"model": str(tmp_path / "first")}):
        given = {"background_color": "#010203", "apply_exif_orientation": False, "high_bit_depth": "scale"}
        options = options_of(saved, **given, **start)
        _, processor = build_model(options, load_training_data(options)[0])
        processor.save_pretrained(tmp_path / "saved")
        loaded = ClipHFProcessor.from_pretrained(tmp_path / "saved").image_processor
        assert loaded.background_color == [1, 2, 3] and loaded.apply_exif_orientation is False
        assert loaded.high_bit_depth == "scale"
        # Without the options the processor stays what it is.
        options = options_of(saved, model=str(tmp_path / "saved"))
        make_tiny_model("vit").save_pretrained(tmp_path / "saved")
        kept = build_model(options, [])[1].image_processor
        assert kept.background_color == [1, 2, 3] and kept.apply_exif_orientation is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{" * 10, "is no JSON"),
        (b'{"a":' * 100_000, "is no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b"\xff{}", "is not UTF-8"),
        (b"[]", "must have text_config and vision_config"),
        (b"{}", "must have text_config and vision_config"),
        (b'{"text_config": {}, "vision_config": 3}', "must have vision_config"),
        (b'{"text_config": 3, "vision_config": {}}', "must have text_config"),
    ],
)
def test_configurations_that_cannot_be_read(content, message, saved, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"The configuration .*config.json {message}"):
        build_model(options_of(saved, config=str(tmp_path / "config.json")), [])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"config": "ViT-B/33"}, OSError, "ViT-B/33"),
        ({"model": "/nowhere/clip"}, OSError, "nowhere"),
        ({"tokenizer": "/nowhere/tokenizer"}, OSError, "no tokenizer .*nowhere.*; `tokenizer` is `openai`, a folder"),
        ({"resize_to": 8}, ValueError, "`resize_to` is 8; it must be at least 64, the size of the crop"),
        ({"config": {}}, ValueError, "The `config` of the recipe must have text_config and vision_config"),
        ({"config": {"vision_config": 3}}, ValueError, "The `config` of the recipe must have text_config and"),
    ],
)
def test_models_that_are_not_there(changes, error, message, saved):
    options = options_of(saved, **changes)
    with pytest.raises(error, match=message):
        build_model(options, load_training_data(options)[0])


def test_captions_that_give_no_tokenizer(saved):
    rows = [{**row, "caption": None} for row in rows_of(range(4))]
    with pytest.raises(ValueError, match="No row has a text: the column 'caption' must hold strings"):
        build_model(options_of(saved), dataset_of(rows))


def test_a_model_is_frozen_and_checkpointed_as_asked():
    accelerator, model = Accelerator(cpu=True), make_tiny_model("resnet")
    options = TrainingOptions(freeze=["vision", "batch_norm"], gradient_checkpointing=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # of a name that transformers gives up
        prepared = prepare_model(options, accelerator, model)
    assert prepared is model and model.training
    assert not any(parameter.requires_grad for parameter in model.vision_model.parameters())
    assert model.is_gradient_checkpointing
    with pytest.raises(ValueError, match="There is no part 'visoin' to freeze; .*Did you mean 'vision'"):
        prepare_model(TrainingOptions(freeze=["visoin"]), accelerator, model)


def test_compiled_only_if_asked(monkeypatch):
    compiled = []
    monkeypatch.setattr(training_setup.torch, "compile", lambda model: compiled.append(model) or model)
    for asked in (False, True):
        accelerator, model = Accelerator(cpu=True), make_tiny_model("vit")
        optimizer = torch.optim.AdamW(model.parameters())
        wrap_model(TrainingOptions(compile=asked), accelerator, model, optimizer)
        assert compiled == ([model] if asked else [])


def test_random_numbers_of_a_step_are_its_own():
    drawn = set()
    for seed in (0, 1):
        for step in (0, 1, 4099):
            for rank in (0, 1):
                seed_step(seed, step, rank)
                drawn.add(torch.rand(1).item())
    assert len(drawn) == 12
    seed_step(1, 4099, 1)
    assert torch.rand(1).item() in drawn
