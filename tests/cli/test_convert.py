# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command `clip-hf convert`: what it takes, prints, uploads, and how it fails."""

import configparser
import importlib
import json
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from transformers.utils import logging

from clip_hf import ClipHFConfig, ClipHFModel, checkpoints
from clip_hf.cli import convert as cli_convert
from clip_hf.cli import main
from tiny_models import CONTEXT_LENGTH, IMAGE_SIZE, VOCAB_SIZE, make_tiny_model


ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def progress_bars():
    """The command turns transformers' progress bars off."""
    enabled = logging.is_progress_bar_enabled()
    yield
    if enabled:
        logging.enable_progress_bar()


@pytest.fixture(scope="module")
def model():
    """A tiny model of the sizes that OpenAI's code has."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 1}
    text = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": CONTEXT_LENGTH}
    vision = {"model_type": "clip_hf_vit", "patch_size": 16, "image_size": IMAGE_SIZE}
    return make_tiny_model("vit", text_config=text | sizes, vision_config=vision | sizes)


@pytest.fixture(scope="module")
def folder(model, tiny_processor, tmp_path_factory):
    """A repo of ours; not to be changed."""
    path = tmp_path_factory.mktemp("ours") / "repo"
    checkpoints.save(model, tiny_processor, path)
    return path


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    """A file of OpenAI's format; not to be changed."""
    path = tmp_path_factory.mktemp("theirs") / "model.pt"
    checkpoints.save(model, None, path, format="openai")
    return path


def run(capsys, *arguments) -> SimpleNamespace:
    """Run the command; its exit status and what it printed."""
    capsys.readouterr()
    try:
        status = main(["convert", *map(str, arguments)])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return SimpleNamespace(status=status, out=out, err=err)


# --------------------------------------------------------------------------------------------------------- it converts


def test_it_converts_and_prints_the_report(folder, model, tmp_path, capsys):
    done = run(capsys, folder, tmp_path / "theirs", "--to", "open_clip")
    assert done.status == 0
    assert done.out.startswith(f"{folder} (clip_hf) -> {tmp_path / 'theirs'} (open_clip)\n")
    for part in ("used once, none missing", "dtypes:   62 in float32", "features: largest relative difference image"):
        assert part in done.out
    assert "Traceback" not in done.err
    loaded, _ = checkpoints.load(tmp_path / "theirs")
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_only_the_bar_is_on_stderr(folder, tmp_path, capsys):
    done = run(capsys, folder, tmp_path / "ours")
    assert "Writing ours: " in done.err
    assert "shards" not in done.err
    assert "Writing ours: " not in done.out


def test_options_reach_the_conversion(file, folder, tmp_path, capsys):
    arguments = ["--merges", folder, "--hidden-act", "gelu", "--text-heads", 2, "--vision-heads", 4]
    done = run(capsys, file, tmp_path / "ours", *arguments, "--dtype", "bfloat16")
    assert done.status == 0, done.err
    config = ClipHFConfig.from_pretrained(tmp_path / "ours")
    assert config.text_config.hidden_act == config.vision_config.hidden_act == "gelu"
    assert (config.text_config.num_attention_heads, config.vision_config.num_attention_heads) == (2, 4)
    assert ClipHFModel.from_pretrained(tmp_path / "ours").dtype == torch.bfloat16


@pytest.mark.parametrize("wrapped", [False, True])
def test_configurations_come_from_files(file, folder, wrapped, tmp_path, capsys):
    content = {name: tensor.read() for name, tensor in checkpoints.read_checkpoint(file).source_tensors.items()}
    torch.save({"epoch": 1, "state_dict": content}, tmp_path / "epoch_1.pt")
    checkpoints.convert(folder, tmp_path / "open_clip", "open_clip")
    config = json.loads((tmp_path / "open_clip" / "open_clip_config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config["model_cfg"]))
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "p.json").write_text(json.dumps({"preprocess_cfg": preprocess} if wrapped else preprocess))
    options = ["--config", tmp_path / "config.json", "--preprocess", tmp_path / "p.json", "--merges", folder]
    done = run(capsys, tmp_path / "epoch_1.pt", tmp_path / "ours", *options)
    assert done.status == 0, done.err
    _, processor = checkpoints.load(tmp_path / "ours")
    assert list(processor.image_processor.image_mean) == [0.1, 0.2, 0.3]
    done = run(capsys, tmp_path / "epoch_1.pt", tmp_path / "b", *options[:2], *options[4:], "--preprocess", "openai")
    assert done.status == 0, done.err
    _, processor = checkpoints.load(tmp_path / "b")
    assert processor.image_processor.image_mean[0] == pytest.approx(0.48145466)


def test_a_tower_is_written(folder, tmp_path, capsys):
    done = run(capsys, folder, tmp_path / "text", "--to", "transformers", "--tower", "text_with_projection")
    assert done.status == 0
    assert "(transformers, CLIPTextModelWithProjection)" in done.out
    assert json.loads((tmp_path / "text" / "config.json").read_text())["model_type"] == "clip_text_model"


def test_the_card_says_what_is_given(folder, tmp_path, capsys):
    details = ["--license", "mit", "--base-model", "me/base", "--datasets", "me/one", "me/two"]
    assert run(capsys, folder, tmp_path / "ours", *details).status == 0
    card = (tmp_path / "ours" / "README.md").read_text(encoding="utf-8")
    for part in ("license: mit", "base_model: me/base", "- me/one", "- me/two"):
        assert part in card


# ------------------------------------------------------------------------------------------------------------ it fails


def test_what_a_user_can_mend_is_one_message(folder, file, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    (tmp_path / "text.json").write_text("{")
    for arguments, message in (
        ([tmp_path / "nothing.pt", tmp_path / "a"], f"There is no file or folder {tmp_path / 'nothing.pt'}"),
        ([folder, tmp_path / "taken"], "exists; give another path, or overwrite=True (--overwrite)"),
        ([file, tmp_path / "a"], "--merges"),
        ([folder, tmp_path / "a", "--tower", "text"], "single towers are written with format='transformers' only"),
        ([folder, tmp_path / "a", "--hidden-act", "gelu"], "hidden_act='gelu' was given, but the configuration says"),
        ([file, tmp_path / "a", "--hidden-act", "swishy"], "`hidden_act` is 'swishy'"),
        ([folder, tmp_path / "a", "--preprocess", "imagenet"], "--preprocess imagenet: neither 'openai' nor a JSON"),
        ([folder, tmp_path / "a", "--preprocess", tmp_path / "text.json"], "text.json is no JSON file"),
        ([folder, tmp_path / "a", "--config", tmp_path / "text.json"], "`config` is for open_clip's weights"),
        ([folder, tmp_path / "a.bin", "--to", "openai"], "give a path that ends in .pt"),
    ):
        done = run(capsys, *arguments)
        assert done.status == 1, arguments
        assert done.out == ""
        assert done.err.startswith("clip-hf convert: "), done.err
        assert message in done.err
        assert "Traceback" not in done.err
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "taken" / "mine.txt").read_text() == "mine"
    assert run(capsys, folder, tmp_path / "taken", "--overwrite").status == 1  # it is no checkpoint
    (tmp_path / "taken" / "config.json").write_text("{}")
    assert run(capsys, folder, tmp_path / "taken", "--overwrite").status == 0
    assert not (tmp_path / "taken" / "mine.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: source, destination"),
        (["a"], "the following arguments are required: destination"),
        (["a", "b", "--to", "onnx"], "argument --to: invalid choice: 'onnx'"),
        (["a", "b", "--tower", "image"], "argument --tower: invalid choice"),
        (["a", "b", "--dtype", "int8"], "argument --dtype: invalid choice"),
        (["a", "b", "--text-heads", "two"], "argument --text-heads: invalid int value"),
        (["a", "b", "--form", "openai"], "unknown option --form\n"),
    ],
)
def test_a_wrong_command_line_is_status_2(arguments, message, capsys):
    done = run(capsys, *arguments)
    assert done.status == 2
    assert message in done.err
    assert "usage: clip-hf convert" in done.err or "usage: clip-hf" in done.err


@pytest.mark.parametrize(("arguments", "status"), [(["converts"], 2), (["--help"], 0), (["--version"], 0)])
def test_the_command_itself(arguments, status, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == status
    out, err = capsys.readouterr()
    if status:
        assert "COMMAND" in err and out == ""
    else:
        assert (f"clip_hf {version('clip_hf')}" if arguments == ["--version"] else "convert a checkpoint of") in out


def test_help_names_every_option(capsys):
    done = run(capsys, "--help")
    assert done.status == 0
    for part in (*checkpoints.FORMATS, *checkpoints.TOWERS, "--merges", "--preprocess", "--push-to-hub", "examples:"):
        assert part in done.out


def test_errors_of_our_own_are_not_hidden(folder, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise AssertionError("a mistake")

    monkeypatch.setattr("clip_hf.cli.convert.convert", broken)
    with pytest.raises(AssertionError):
        main(["convert", str(folder), str(tmp_path / "a")])


# ---------------------------------------------------------------------------------------------------------- it uploads


@pytest.fixture
def hub(monkeypatch):
    """What would have been sent to the hub."""
    calls = []

    def create_repo(self, repo_id, **kwargs):
        calls.append(("create_repo", repo_id, kwargs))
        return SimpleNamespace(repo_id=f"someone/{repo_id}")

    def upload_folder(self, **kwargs):
        files = sorted(path.name for path in Path(kwargs["folder_path"]).iterdir())
        calls.append(("upload_folder", kwargs["repo_id"], files))
        return "https://hub/commit/1"

    def upload_file(self, **kwargs):
        assert Path(kwargs["path_or_fileobj"]).is_file()
        calls.append(("upload_file", kwargs["repo_id"], kwargs["path_in_repo"]))
        return "https://hub/commit/2"

    for function in (create_repo, upload_folder, upload_file):
        monkeypatch.setattr(HfApi, function.__name__, function)
    monkeypatch.setattr(cli_convert, "card_on_hub", lambda api, repo_id: None)
    return calls


@pytest.mark.parametrize("private", [False, True])
def test_a_folder_is_uploaded(folder, private, hub, tmp_path, capsys):
    options = ["--push-to-hub", "mine", *(["--private"] if private else [])]
    done = run(capsys, folder, tmp_path / "ours", *options)
    assert done.status == 0
    assert done.out.endswith("uploaded: https://hub/commit/1\n")
    assert hub[0][:2] == ("create_repo", "mine")
    assert hub[0][2]["private"] is private and hub[0][2]["exist_ok"] is True
    assert hub[1][:2] == ("upload_folder", "someone/mine")
    assert {"README.md", "config.json", "model.safetensors", "modeling_clip_hf.py"} <= set(hub[1][2])
    assert len(hub) == 2


def test_the_card_is_for_the_repo_and_keeps_what_was_written_there(folder, hub, tmp_path, capsys, monkeypatch):
    assert run(capsys, folder, tmp_path / "first", "--push-to-hub", "someone/mine").status == 0
    first = (tmp_path / "first" / "README.md").read_text()
    assert 'model="someone/mine"' in first
    there = first + "\nWritten on the hub.\n"
    monkeypatch.setattr(cli_convert, "card_on_hub", lambda api, repo_id: there.encode())
    assert run(capsys, folder, tmp_path / "second", "--push-to-hub", "someone/mine", "--license", "mit").status == 0
    second = (tmp_path / "second" / "README.md").read_text()
    assert second.endswith("\nWritten on the hub.\n") and "license: mit" in second
    assert 'model="someone/mine"' in second


def test_a_file_is_uploaded(folder, hub, tmp_path, capsys):
    done = run(capsys, folder, tmp_path / "theirs.pt", "--to", "openai", "--push-to-hub", "mine")
    assert done.status == 0
    assert hub[1:] == [("upload_file", "someone/mine", "theirs.pt")]
    assert done.out.endswith("uploaded: https://hub/commit/2\n")


def test_nothing_is_uploaded_unasked_or_unfinished(folder, file, hub, tmp_path, capsys):
    assert run(capsys, folder, tmp_path / "ours").status == 0
    assert run(capsys, file, tmp_path / "a", "--push-to-hub", "mine").status == 1
    assert hub == []


def test_an_upload_that_fails_keeps_the_result(folder, hub, tmp_path, capsys, monkeypatch):
    class ConnectionFailed(Exception):
        """What clients of the web raise is no OSError."""

    def refused(self, **kwargs):
        raise ConnectionFailed("no route to the hub")

    monkeypatch.setattr(HfApi, "upload_folder", refused)
    done = run(capsys, folder, tmp_path / "ours", "--push-to-hub", "mine")
    assert done.status == 1
    assert "is written, but uploading it to mine failed (no route to the hub)" in done.err
    assert "`hf upload mine " in done.err and "Traceback" not in done.err
    assert "used once, none missing" in done.out
    checkpoints.load(tmp_path / "ours")


# --------------------------------------------------------------------------------------------------------- the program


def test_the_program_is_declared():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    declared = dict(
        line.replace(" ", "").split("=")
        for line in config["options.entry_points"]["console_scripts"].strip().splitlines()
    )
    installed = {point.name: point.value for point in entry_points(group="console_scripts", name="clip-hf")}
    assert declared.items() >= installed.items()
    module, name = declared["clip-hf"].split(":")
    assert getattr(importlib.import_module(module), name) is main


@pytest.mark.slow
def test_the_program_runs(folder, tmp_path):
    code = "import sys; from clip_hf.cli import main; sys.exit(main())"
    arguments = [sys.executable, "-c", code, "convert", str(tmp_path / "nothing"), str(tmp_path / "a")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"clip-hf convert: There is no file or folder {tmp_path / 'nothing'}. ")
    assert done.stderr.count("\n") == 1
