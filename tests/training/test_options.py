# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Options: what a recipe and a command line give together, the paper's values, and what is refused."""

import json
import os
import typing
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from clip_hf.model.architectures_clip_hf import ARCHITECTURES
from clip_hf.model.image_reading_clip_hf import ImageLimits
from clip_hf.training import OptimizerOptions, TrainingOptions, parse_options, read_recipe


RECIPES = Path(__file__).resolve().parents[2] / "examples" / "recipes"


@pytest.fixture
def recipe_with(tmp_path):
    """A function that writes a recipe and returns its path."""

    def write(text: str, name: str = "recipe.yaml") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_command_line_overrules_the_recipe_and_the_recipe_the_defaults(recipe_with):
    recipe = recipe_with("epochs: 7\nbatch_size: 64\ntemplates: ['a {}', 'the {}']\ncompile: true\n")
    options = parse_options([recipe, "--epochs", "3", "--templates", "one {}", "--seed", "5"])
    assert (options.epochs, options.batch_size, options.seed) == (3, 64, 5)
    assert options.templates == ["one {}"]
    assert options.compile and not options.streaming
    assert options.weight_decay == TrainingOptions().weight_decay
    assert parse_options([]) == TrainingOptions()
    assert parse_options([recipe, "--compile", "False"]).compile is False


def test_values_in_yaml_become_what_their_option_is(recipe_with):
    recipe = recipe_with(
        "learning_rate: 5e-4\nwarmup_steps: null\nmax_grad_norm: 1\ndataset: one.csv\nweight_decay: 0"
    )
    options = parse_options([recipe])
    # YAML reads 5e-4 as a text.
    assert options.learning_rate == 5e-4 and isinstance(options.learning_rate, float)
    assert options.warmup_steps is None
    assert isinstance(options.max_grad_norm, float) and isinstance(options.weight_decay, float)
    assert options.dataset == ["one.csv"]


def test_recipes_may_be_json_or_empty_and_hold_a_config(recipe_with):
    config = {"projection_dim": 8, "text_config": {"hidden_size": 8}}
    assert parse_options([recipe_with(json.dumps({"config": config}), "recipe.json")]).config == config
    assert parse_options([recipe_with("# nothing\n")]) == TrainingOptions()


def test_options_survive_their_own_recipe(recipe_with):
    options = parse_options(
        [str(RECIPES / "demo.yaml"), "--max_grad_norm", "2", "--freeze", "vision", "--ema_decay", "0"]
    )
    assert parse_options([recipe_with(yaml.safe_dump(asdict(options)))]) == options


KINDS = typing.get_type_hints(TrainingOptions)
OPTIONAL = [name for name, kind in KINDS.items() if type(None) in typing.get_args(kind)]
LISTS = [name for name, kind in KINDS.items() if typing.get_origin(kind) is list]
LOSS_OF = {"label_column": "soft_labels", "target_model": "soft_texts"}
VALUES = {str: "red", int: 3, float: 0.5, bool: True}


@pytest.mark.parametrize("none", ["none", "None", "NONE"])
@pytest.mark.parametrize("name", OPTIONAL)
def test_what_may_be_none_can_be_unset(name, none, recipe_with):
    chosen = {"temporal_head": "LSTM", "high_bit_depth": "scale"}
    value = chosen[name] if name in chosen else VALUES[typing.get_args(KINDS[name])[0]]
    needed = {"num_frames": 4} if name.startswith("temporal") else {}
    needed |= {"loss": LOSS_OF[name]} if name in LOSS_OF else {}
    needed |= {"model": "red"} if name == "lora_rank" else {}
    recipe = recipe_with(yaml.safe_dump({name: value, **needed}))
    assert getattr(parse_options([recipe]), name) == value
    assert getattr(parse_options([recipe, f"--{name}", none, "--loss", "softmax"]), name) is None
    assert getattr(parse_options([recipe, f"--{name}={none}", "--loss", "softmax"]), name) is None
    assert getattr(parse_options([recipe_with(f"{name}: {none}\n")]), name) is None


def test_options_that_may_be_none_are_all_of_them():
    assert {"ema_decay", "max_grad_norm", "model", "apply_exif_orientation", "warmup_steps"} <= set(OPTIONAL)
    assert len(OPTIONAL) == sum(getattr(TrainingOptions(), name) is None for name in KINDS)


@pytest.mark.parametrize("empty", [[], ["none"], ["None"]])
@pytest.mark.parametrize("name", LISTS)
def test_lists_can_be_emptied(name, empty, recipe_with):
    items = {"color_jitter": [0.1] * 4, "templates": ["a {}"], "dataset_weights": [1.0], "rand_augment": [2.0, 9.0]}
    item = (items | {"crop_scale": [0.5, 1.0]}).get(name, ["a"])
    needed = {"lora_rank": 2, "model": "red"} if name == "lora_modules" else {}
    recipe = recipe_with(yaml.safe_dump({name: item, **needed}))
    assert getattr(parse_options([recipe]), name) == item
    if name in ("color_jitter", "templates", "lora_modules"):  # which must not be empty
        with pytest.raises(ValueError, match=f"`{name.removeprefix('lora_')}`|no templates"):
            parse_options([recipe, f"--{name}", *empty])
    else:
        assert getattr(parse_options([recipe, f"--{name}", *empty]), name) == []
        assert getattr(parse_options([recipe_with(f"{name}: {empty[0] if empty else []}\n")]), name) == []
        assert getattr(parse_options([recipe_with(f"{name}: null\n")]), name) == []


def test_none_is_nothing_else(recipe_with):
    with pytest.raises(ValueError, match="`freeze` has `none` among other values"):
        parse_options(["--freeze", "none", "vision"])


@pytest.mark.parametrize("name", [name for name in KINDS if name not in (*OPTIONAL, *LISTS)])
def test_none_gives_other_options_their_default(name, recipe_with):
    changed = {"padding": "max_length", "config": "RN50", "loss": "sigmoid", "optimizer": "adamw_8bit"}
    changed |= {"mixed_precision": "bf16", "save_every": 7, "num_workers": 1, "max_loss_ratio": 2.0}
    changed |= {"target_scale": 5.0, "short_caption_weight": 5.0, "lora_alpha": 5.0}
    value = changed.get(name, {str: "other", int: 3, float: 0.5, bool: True}[KINDS[name]])
    needed = {"loss": "same_label"} if name == "target_scale" else {}
    needed |= {"teachers": ["a"]} if name.startswith(("distill_", "contrastive_", "resize_for_")) else {}
    needed |= {"lora_rank": 2, "model": "a"} if name.startswith("lora_") else {}
    needed |= {"patch_dropout": 0.5} if name == "unmasked_share" else {}
    needed |= {"short_caption_column": "a"} if name == "short_caption_weight" else {}
    needed |= {"max_steps": 3} if name == "streaming" else {}
    needed |= {"num_frames": 3} if name == "head_learning_rate_multiplier" else {}
    recipe = recipe_with(yaml.safe_dump({**needed, name: value}))
    assert getattr(parse_options([recipe]), name) == value
    assert getattr(parse_options([recipe, f"--{name}", "none"]), name) == getattr(TrainingOptions, name)


def test_image_options():
    options = parse_options(["--background_color", "255, 0,7", "--apply_exif_orientation", "False"])
    assert options.image_options == {"background_color": [255, 0, 7], "apply_exif_orientation": False}
    assert parse_options(["--apply_exif_orientation"]).image_options == {"apply_exif_orientation": True}
    assert parse_options([]).image_options == {}
    assert parse_options([str(RECIPES / "demo.yaml")]).image_options == {"background_color": [255] * 3}
    line = "--min_image_size 9 --image_root /data --max_image_pixels 99 --max_image_bytes 98 --max_image_seconds 2.5"
    pairs = parse_options(line.split()).pair_options
    assert (pairs.min_image_size, pairs.image_root) == (9, "/data")
    assert pairs.image_limits == ImageLimits(max_pixels=99, max_bytes=98, max_seconds=2.5)
    assert parse_options([]).pair_options.image_limits == ImageLimits()


HOSTILE = {
    "Latin-1": ("templates: ['caf\xe9 {}']".encode("latin-1"), "is not UTF-8: .* Save it with the encoding UTF-8"),
    "UTF-16": ("epochs: 3".encode("utf-16"), "is not UTF-8"),
    "binary": (b"\x00\x01\x02", "cannot be read as YAML"),
    "lists": (b"a: " + b"[" * 20_000, "is nested too deeply"),
    "mappings": (b'{"a":' * 100_000, "is nested too deeply"),
    "dashes": (b"- " * 100_000, "is nested too deeply"),
    "tag": (b"epochs: !!python/object/apply:os.system ['true']", "cannot be read as YAML: .*constructor"),
    "aliases": (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases .* are not read; write the value out"),
    "itself": (b"templates: &a [*a]", "aliases"),
    "large": (b"#" * (2**20 + 1), "has more than 1,048,576 bytes"),
    "digits": (b"seed: 1\nepochs: " + b"9" * 5000, "5000 digits.*line 2, column 9"),
    "many digits": (b"learning_rate: " + b"9" * 400, "the number is too large.*line 1, column 16"),
    "hexadecimal": (b"epochs: 0x" + b"f" * 5000, "the number is too large"),
    "month": (b"seed: 1\nepochs: 2026-13-01", "month must be in 1..12.*line 2"),
    "tag that does not fit": (b"streaming: !!bool x", "x is no value of its kind"),
    "digits in a list": (b"templates: [" + b"9" * 5000 + b"]", "5000 digits"),
    "long key": (b"x" * 900 + b": 1", "Unknown option `xxx"),
    "twice": (b"epochs: 3\nseed: 0\nepochs: 4", "`epochs` appears twice; leave one out.*line 3"),
    "twice, in quotes": (b"{\"epochs\": 3, 'epochs': 3}", "`epochs` appears twice"),
    "twice, within": (b"config: {text_config: {a: 1, b: 2, a: 1}}", "`a` appears twice"),
    "twice, a long one": (b"? " + b"x" * 900 + b"\n: 1\n? " + b"x" * 900 + b"\n: 1", "`xxx"),
    "long value": (b"epochs: " + b"x" * 100_000, "`epochs` is 'xxx"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipes(name, tmp_path):
    content, message = HOSTILE[name]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){message}") as error:
        parse_options([str(path)])
    assert str(path) in str(error.value) and len(str(error.value)) < 1000


def test_recipes_that_are_no_files(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("folder", "pipe"):
        with pytest.raises(OSError, match=f"The recipe .*{name}.yaml is a folder, pipe or device, not a file"):
            parse_options([str(tmp_path / f"{name}.yaml")])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("epoch: 3", r"Unknown option `epoch` of the recipe .*recipe.yaml. Did you mean `epochs`\?"),
        ("leanring_rate: 1", "Did you mean `learning_rate`"),
        ("zzz: 1", "Unknown option `zzz` of the recipe .*recipe.yaml.$"),
        ("1: 2", "Unknown option `1`"),
        ("epochs: three", "`epochs` is 'three'; it must be of type int"),
        ("epochs: 2.5", "`epochs` is 2.5; it must be of type int"),
        ("epochs: true", "`epochs` is True; it must be of type int"),
        ("epochs: null", "`epochs` is None; it must be of type int"),
        ("learning_rate: fast", "`learning_rate` is 'fast'; it must be of type float"),
        ("learning_rate: true", "`learning_rate` is True; it must be of type float"),
        ("streaming: 'yes'", "`streaming` is 'yes'; it must be of type bool"),
        ("templates: [1]", "`templates` is 1; it must be of type str"),
        ("output_dir: [a]", r"`output_dir` is \['a'\]; it must be of type str"),
        ("- epochs", "is a list; it must be `option: value` lines"),
        ("epochs: [", "cannot be read as YAML"),
    ],
)
def test_bad_recipes(recipe, message, recipe_with):
    with pytest.raises(ValueError, match=message):
        read_recipe(Path(recipe_with(recipe)))


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        parse_options([str(tmp_path / "nowhere.yaml")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "`epochs` is 0; it must be at least 1"),
        (["--max_steps", "0"], "`max_steps` is 0"),
        (["--batch_size", "0"], "`batch_size` is 0"),
        (["--grad_cache_chunk_size", "0"], "`grad_cache_chunk_size` is 0"),
        (["--keep_checkpoints", "0"], "`keep_checkpoints` is 0"),
        (["--save_every", "-1"], "`save_every` is -1; it must be at least 0"),
        (["--num_workers", "-1"], "`num_workers` is -1; it must be from 0 to "),
        (["--num_workers", "20000"], "`num_workers` is 20000; it must be from 0 to "),
        (["--resize_to", "0"], "`resize_to` is 0; it must be at least 1"),
        (["--resume", ""], "`resume` is empty; give `latest` or a checkpoint's folder"),
        (["--learning_rate", "inf"], "`learning_rate` is inf; it must be finite and greater than 0"),
        (["--weight_decay", "inf"], "`weight_decay` is inf; it must be finite and at least 0"),
        (["--learning_rate", "-1"], "`learning_rate` is -1"),
        (["--learning_rate", "nan"], "`learning_rate` is nan"),
        (["--min_steps", "0"], "`min_steps` is 0; it must be at least 1"),
        (["--eval_share", "1"], "`eval_share` is 1.0; it must be at least 0 and less than 1"),
        (["--streaming", "--max_steps", "5", "--eval_share", "0.1"], "`eval_share` needs data that are read in any"),
        (["--background_color", "sky"], "'sky' is not a colour; it must be a name such as 'white'"),
        (["--min_image_size", "0"], "`min_image_size` is 0"),
        (["--max_image_pixels", "0"], "`max_image_pixels` is 0; it must be at least 1"),
        (["--max_image_bytes", "0"], "`max_image_bytes` is 0; it must be at least 1"),
        (["--max_image_seconds", "nan"], "`max_image_seconds` is nan; it must be greater than 0"),
        (["--weight_decay", "-1"], "`weight_decay` is -1"),
        (["--layer_decay", "1.5"], "`layer_decay` is 1.5"),
        (["--warmup_share", "1.0"], "`warmup_share` is 1.0; it must be at least 0 and less than 1"),
        (["--label_smoothing", "1"], "`label_smoothing` is 1.0; it must be at least 0 and less than 1"),
        (["--max_grad_norm", "0"], "`max_grad_norm` is 0.0; it must be greater than 0"),
        (["--eval_every", "nan"], "`eval_every` is nan"),
        (["--max_loss_ratio", "1"], "`max_loss_ratio` is 1.0; it must be greater than 1"),
        (["--ema_decay", "1"], "`ema_decay` is 1.0; it must be at least 0 and less than 1"),
        (["--loss", "hinge"], "`loss` is 'hinge'; it must be one of softmax, sigmoid"),
        (["--mixed_precision", "int4"], "`mixed_precision` is 'int4'; it must be one of no, fp16, bf16"),
        (["--optimizer", "sgd"], "'sgd'; it must be one of adamw, adamw_8bit"),
        (["--padding", "left"], "`padding` is 'left'"),
        (["--loss", "sigmoid", "--label_smoothing", "0.1"], "`label_smoothing` belongs to the softmax loss"),
        (["--streaming"], "give `max_steps`, or `epochs` and `pairs_per_epoch`"),
        (
            ["--streaming", "--max_steps", "5", "--cache_images"],
            "`cache_images` needs data that are read in any order",
        ),
        (["--templates", "a photo"], "'a photo' must have {} once"),
        (["--color_jitter", "0.1"], "`color_jitter` is .* it must be 4 numbers"),
        (["--blur", "2"], "`blur` is 2.0"),
        (["--token_dropout", "1"], "`token_dropout` is 1.0"),
        (["--max_skipped_share", "7"], "`max_skipped_share` is 7.0"),
        (["--seed", "-1"], "`seed` is -1"),
        (["--epoch_count", "3"], "Unknown option `--epoch_count`"),
        (
            ["--learning_rat", "3", "--bach_size", "2"],
            "Unknown option `--bach_size` of the training. Did you mean `--batch_size`?",
        ),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_options(arguments)


@pytest.mark.parametrize("name", sorted(path.name for path in RECIPES.glob("*.yaml")))
def test_recipes_are_valid_and_say_how_they_are_run(name):
    options = parse_options([str(RECIPES / name), *(["--pairs_per_epoch", "400000000"] if "pretrain" in name else [])])
    assert read_recipe(RECIPES / name).keys() <= vars(options).keys()
    assert (RECIPES / name).read_text().startswith("# ")


@pytest.mark.parametrize(("name", "architecture"), [("pretrain_rn50", "RN50"), ("pretrain_vit_b32", "ViT-B/32")])
def test_pretraining_has_the_paper_s_values(name, architecture):
    # Radford et al. 2021, sections 2.4 and 2.5, tables 18 to 20.
    options = parse_options([str(RECIPES / f"{name}.yaml"), "--pairs_per_epoch", "400000000"])
    assert options.config == architecture and architecture in ARCHITECTURES
    assert (options.batch_size, options.epochs, options.warmup_steps) == (32_768, 32, 2000)
    assert (options.learning_rate, options.weight_decay) == (5e-4, 0.2)
    assert options.tokenizer == "openai" and options.loss == "softmax" and options.label_smoothing == 0
    assert options.mixed_precision == "bf16" and options.gradient_checkpointing
    assert options.layer_decay == 1 and options.max_grad_norm is None and options.freeze == []
    assert not options.pair_options.augmentation.is_on and options.token_dropout == 0
    # The betas and epsilons follow from the model.
    assert options.optimizer_options == OptimizerOptions(learning_rate=5e-4, weight_decay=0.2)


def test_warm_up_in_steps_or_as_a_share():
    assert TrainingOptions(warmup_share=0.1).warmup_steps_of(101) == 11
    assert TrainingOptions(warmup_steps=0).warmup_steps_of(101) == 0


def test_what_goes_to_the_pairs_and_to_the_optimiser():
    options = TrainingOptions(
        caption_column="text",
        image_id_column="id",
        templates=["a {}"],
        color_jitter=[0.1, 0.2, 0.3, 0.4],
        blur=0.5,
        horizontal_flip=0.25,
        token_dropout=0.1,
        padding="max_length",
        bucket_batches=4,
        shuffle_buffer=9,
        cache_images=True,
        max_skipped_share=0.5,
        seed=3,
        learning_rate=1e-3,
        layer_decay=0.5,
    )
    pairs = options.pair_options
    assert (pairs.caption_column, pairs.image_id_column, pairs.templates) == ("text", "id", ("a {}",))
    assert pairs.augmentation.color_jitter == (0.1, 0.2, 0.3, 0.4)
    assert (pairs.augmentation.blur, pairs.augmentation.horizontal_flip, pairs.token_dropout) == (0.5, 0.25, 0.1)
    assert (pairs.padding, pairs.bucket_batches, pairs.shuffle_buffer) == ("max_length", 4, 9)
    assert (pairs.cache_images, pairs.max_skipped_share, pairs.seed) == (True, 0.5, 3)
    assert (options.optimizer_options.learning_rate, options.optimizer_options.layer_decay) == (1e-3, 0.5)
