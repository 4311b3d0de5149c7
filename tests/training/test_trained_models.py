# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a training leaves: a model that loads, its processor, and a card that says how it was trained."""

import typing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from huggingface_hub import HfApi, ModelCard, RepoUrl
from huggingface_hub.errors import RemoteEntryNotFoundError

from clip_hf import ClipHFModel, ClipHFProcessor
from clip_hf.model_card.card import create_model_card
from clip_hf.training import (
    TrainingOptions,
    describe_training,
    make_logit_scale_shardable_,
    push_model,
    save_model,
    trained_models,
)
from tiny_models import make_tiny_model


METRICS = {"zero_shot_top1": 0.123456, "text_to_image_R@5": 0.5}


class Missing(RemoteEntryNotFoundError):
    """What the hub answers where there is no such file, without an answer of a server."""

    def __init__(self):
        Exception.__init__(self, "there is no such file")


@pytest.fixture
def hub(monkeypatch) -> dict[str, dict[str, bytes]]:
    """A hub in memory: the files of each repo."""
    repos: dict[str, dict[str, bytes]] = {}

    def create_repo(self, repo_id, **kwargs):
        repos.setdefault(repo_id, {})
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def hf_hub_download(self, repo_id, filename, **kwargs):
        raise Missing

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        repos[repo_id] |= {path.name: path.read_bytes() for path in Path(folder_path).iterdir() if path.is_file()}
        return f"https://huggingface.co/{repo_id}/commit/1"

    def create_commit(self, repo_id, operations, **kwargs):
        for operation in operations:
            with operation.as_file() as file:
                repos[repo_id][operation.path_in_repo] = file.read()

    for function in (create_repo, hf_hub_download, upload_folder, create_commit):
        monkeypatch.setattr(HfApi, function.__name__, function)
    return repos


@pytest.fixture
def details():
    options = TrainingOptions(
        batch_size=64, learning_rate=1e-4, freeze=["vision"], dataset=["me/pairs"], model="me/first", ema_decay=0.99
    )
    return describe_training(options, 321, METRICS)


def test_a_card_says_how_the_model_was_trained(details):
    assert details.base_model == "me/first" and details.datasets == ["me/pairs"]
    assert details.training["steps"] == 321 and details.training["batch_size"] == 64
    assert details.training["freeze"] == ["vision"] and details.training["ema_decay"] == 0.99
    assert "warmup_steps" not in details.training  # as it was not given
    assert [(result.metric_type, result.metric_value) for result in details.eval_results] == [
        ("zero_shot_top1", 12.35),
        ("text_to_image_R@5", 50.0),
    ]
    assert details.eval_results[0].dataset_name == "me/pairs (test)"
    plain = describe_training(TrainingOptions(eval_dataset="me/others"), 1, {})
    assert plain.eval_results == [] and "freeze" not in plain.training


LEFT_OUT = {
    "model config dataset": "named in the text, the layers by the configuration",
    "epochs min_steps max_steps pairs_per_epoch": "`steps`",
    "eval_dataset eval_split eval_share eval_every eval_rows eval_with_train_captions": "`held_out_pairs`",
    "output_dir overwrite resume trust_checkpoint save_every keep_checkpoints push_to_hub": "where results go",
    "trackers log_every": "logging",
    "max_skipped_share max_loss_ratio": "when a training stops",
    "image_root": "a path; the images are the same",
    "num_workers cache_images padding compile cpu gradient_checkpointing": "speed and memory",
    "grad_cache_chunk_size loss_chunk_size": "memory: the gradient is the same",
}


def test_a_card_records_every_option_that_changes_the_training():
    """All of them but `LEFT_OUT`, where they differ from their default, and no paths."""
    left_out, recorded = " ".join(LEFT_OUT).split(), {}
    for name, kind in typing.get_type_hints(TrainingOptions).items():
        (inner,) = [each for each in typing.get_args(kind) if each is not type(None)] or [kind]
        value = {str: "/srv/jane/other", int: 7, float: 0.875, bool: True}[inner]
        options = TrainingOptions(dataset=["me/pairs"])
        assert getattr(options, name) != value, name
        setattr(options, name, [value] if typing.get_origin(kind) is list else value)  # whether or not it fits others
        details = describe_training(options, 1, {})
        assert (name in details.training) == (name not in left_out), name
        assert name in left_out or str(value).rpartition("/")[2] in str(details.training[name]), name
        recorded |= {name: details.training.get(name)}
    card = create_model_card(make_tiny_model("vit").config, None, details=replace(details, training=recorded))
    assert "| `target_model` | other |" in str(card) and "jane" not in str(card)


def test_a_card_names_the_loss_that_was_trained_with():
    config = make_tiny_model("vit", logit_bias_init_value=-10.0).config
    assert describe_training(TrainingOptions(), 1, {}, config).training["loss"] == "sigmoid"
    options = TrainingOptions(loss="sigmoid", model="a")
    assert describe_training(options, 1, {}, make_tiny_model("vit").config).training["loss"] == "softmax"


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_saved_model_loads(vector, compiled, details, tiny_processor, tmp_path):
    accelerator, model = Accelerator(cpu=True), make_tiny_model("resnet")
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    if vector:  # as FSDP2 wants it
        make_logit_scale_shardable_(model)
    wrapped = torch.compile(model) if compiled else accelerator.prepare(model)
    save_model(tmp_path / "last", accelerator, wrapped, tiny_processor, details)
    loaded = ClipHFModel.from_pretrained(tmp_path / "last")
    assert loaded.state_dict().keys() == expected.keys() and loaded.logit_scale.ndim == 0
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert len(ClipHFProcessor.from_pretrained(tmp_path / "last").tokenizer) == len(tiny_processor.tokenizer)
    card = ModelCard.load(tmp_path / "last" / "README.md")
    assert "me/pairs" in card.data.datasets and "| `steps` | 321 |" in card.content
    assert card.data.eval_results[0].metric_value == 12.35


def test_a_home_folder_names_no_model(tiny_processor, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    details = describe_training(TrainingOptions(dataset=["me/pairs"], output_dir=str(tmp_path)), 1, METRICS)
    assert details.title == "a CLIP, trained on me/pairs"
    save_model(tmp_path / "last", Accelerator(cpu=True), make_tiny_model("vit"), tiny_processor, details)
    card = ModelCard.load(tmp_path / "last" / "README.md")
    assert tmp_path.name not in str(card) and "\n# a CLIP, trained on me/pairs\n" in str(card)
    assert card.data.model_name == "a CLIP, trained on me/pairs"
    elsewhere = describe_training(TrainingOptions(dataset=["me/pairs"], output_dir=str(tmp_path / "vit")), 1, METRICS)
    assert elsewhere.title == "vit: a CLIP, trained on me/pairs"


def test_an_older_model_stays_if_saving_fails(details, tiny_processor, tmp_path, monkeypatch):
    accelerator, model = Accelerator(cpu=True), make_tiny_model("vit")
    save_model(tmp_path / "last", accelerator, model, tiny_processor, details)
    before = {path.name: path.read_bytes() for path in (tmp_path / "last").iterdir() if path.is_file()}

    def full(*arguments, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(trained_models, "write_model_card", full)
    with torch.no_grad():
        model.logit_scale += 1
    with pytest.raises(OSError, match="no space left"):
        save_model(tmp_path / "last", accelerator, model, tiny_processor, details)
    assert {path.name: path.read_bytes() for path in (tmp_path / "last").iterdir() if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_model_processor_and_card_are_pushed(hub, details, tiny_processor, tmp_path):
    model = make_tiny_model("vit")
    save_model(tmp_path / "last", Accelerator(cpu=True), model, tiny_processor, details)
    push_model(tmp_path / "last", "me/clip", details)
    files = hub["me/clip"]
    assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= files.keys()
    assert files["model.safetensors"] == (tmp_path / "last" / "model.safetensors").read_bytes()
    card = files["README.md"].decode()
    assert 'model="me/clip"' in card and "| `batch_size` | 64 |" in card and "12.35" in card


def test_only_what_is_on_the_hub_looks_like_a_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.csv").write_text("image,caption\n")
    options = TrainingOptions(dataset=["pairs.csv", "shards/*.tar", "openmoji", "owner/name"])
    named = describe_training(options, 1, {}).datasets
    assert named == [
        "files: pairs.csv",
        "files: *.tar",
        "OpenMoji (openmoji.org, CC BY-SA 4.0)",
        "owner/name",
    ]
