# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What is written appears as a whole or not at all, and never over what is not to be replaced."""

import collections
import copy
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from openai_like import assert_bit_equal, features, make_model, to_openai
from safetensors.torch import load_file

from clip_hf import ClipHFProcessor, ClipHFTextModelWithProjection, checkpoints
from clip_hf.checkpoints.format_table import FORMAT_TABLE


FORMATS = ("clip_hf", "openai", "open_clip", "transformers")


def test_every_format_is_tested():
    assert checkpoints.FORMATS == FORMATS


@pytest.fixture(scope="module")
def model(source_models):
    """The tiny ViT; not to be changed."""
    return source_models["vit"]


def content(path):
    """The bytes of a file, or of every file below a folder."""
    if path.is_file():
        return path.read_bytes()
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# -------------------------------------------------------------------------------------------------------- destinations


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_there_is_not_replaced(model, format, tiny_processor, tmp_path):
    path = tmp_path / "it.pt"
    checkpoints.save(model, tiny_processor, path, format=format)
    before = content(path)
    assert names(tmp_path) == ["it.pt"]
    other = make_model("vit", seed=1)
    with pytest.raises(FileExistsError, match=r"it.pt exists; give another path, or overwrite=True \(--overwrite\)"):
        checkpoints.save(other, tiny_processor, path, format=format)
    assert content(path) == before
    checkpoints.save(other, tiny_processor, path, format=format, overwrite=True)
    assert names(tmp_path) == ["it.pt"]
    assert content(path) != before
    loaded, _ = checkpoints.load(path)
    assert_bit_equal(loaded.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", ["it.safetensors", "it.bin"])
def test_openais_format_has_no_file_that_load_would_take_for_another(model, name, tmp_path):
    with pytest.raises(ValueError, match=f"{name}: OpenAI's format is a TorchScript archive; give a path"):
        checkpoints.save(model, None, tmp_path / name, format="openai")


@pytest.mark.parametrize("name", ["it", "it.pt", "it.pth"])
def test_openais_format_is_a_file_that_load_recognises(model, name, tmp_path):
    checkpoints.save(model, None, tmp_path / name, format="openai")
    assert checkpoints.read_checkpoint(tmp_path / name).format == "openai"


@pytest.mark.parametrize("format", ["clip_hf", "open_clip", "transformers"])
@pytest.mark.parametrize("extra", ["no checkpoint", "a folder"])
def test_a_folder_that_is_more_than_a_checkpoint_is_not_replaced(model, tiny_processor, format, extra, tmp_path):
    path = tmp_path / "home"
    path.mkdir()
    (path / "letter.txt").write_text("dear")
    if extra == "a folder":
        (path / "config.json").write_text("{}")
        (path / ".git").mkdir()
    why = {"no checkpoint": "there is no checkpoint in it", "a folder": "it holds the folder .git"}[extra]
    with pytest.raises(FileExistsError, match=f"home would be replaced as a whole, and {why}; empty it"):
        checkpoints.save(model, tiny_processor, path, format=format, overwrite=True)
    assert (path / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_the_wrong_kind_is_never_replaced(model, format, overwrite, tmp_path):
    path = tmp_path / "it.pt"
    if format == "openai":
        path.mkdir()
    else:
        path.write_text("mine")
    kind = "a file" if format == "openai" else "a folder"
    with pytest.raises(FileExistsError, match=f"it.pt exists and is not {kind}, which the format {format} is"):
        checkpoints.save(model, None, path, format=format, overwrite=overwrite)
    assert path.is_dir() if format == "openai" else path.read_text() == "mine"


@pytest.mark.parametrize("format", [name for name in FORMATS if name != "openai"])
def test_an_empty_folder_is_filled_and_an_old_one_emptied(model, format, tmp_path):
    (tmp_path / "it.pt").mkdir()
    checkpoints.save(model, None, tmp_path / "it.pt", format=format)
    (tmp_path / "it.pt" / "stale.bin").write_text("old")
    with pytest.raises(FileExistsError):
        checkpoints.save(model, None, tmp_path / "it.pt", format=format)
    checkpoints.save(model, None, tmp_path / "it.pt", format=format, overwrite=True)
    assert not (tmp_path / "it.pt" / "stale.bin").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_missing_parents_are_made(model, format, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints.save(model, None, "a/b/it.pt", format=format)
    assert names(tmp_path / "a" / "b") == ["it.pt"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_broken_link_is_something(model, format, tmp_path):
    (tmp_path / "it.pt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        checkpoints.save(model, None, tmp_path / "it.pt", format=format)
    assert names(tmp_path) == ["it.pt"]


@pytest.mark.parametrize("format", FORMATS)
def test_processors_are_written_as_far_as_given(model, format, tiny_processor, tmp_path):
    parts = {"both": tiny_processor, "tokenizer": tiny_processor.tokenizer, "none": None}
    parts["image_processor"] = tiny_processor.image_processor
    for name, processor in parts.items():
        checkpoints.save(model, processor, tmp_path / f"{name}.pt", format=format)
        if format != "openai":
            has_tokenizer = (tmp_path / f"{name}.pt" / "tokenizer.json").is_file()
            assert has_tokenizer == (name in ("both", "tokenizer"))
    if format != "openai":
        _, processor = checkpoints.load(tmp_path / "both.pt")
        assert isinstance(processor, ClipHFProcessor)


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_format_does_not_hold_of_the_image_processor_is_said(model, format, tiny_processor, tmp_path, caplog):
    image_processor = copy.copy(tiny_processor.image_processor)
    processor = ClipHFProcessor(image_processor, tiny_processor.tokenizer)
    checkpoints.save(model, processor, tmp_path / "a.pt", format=format)
    assert "image processor" not in caplog.text
    image_processor.background_color = [255, 255, 255]
    checkpoints.save(model, processor, tmp_path / "b.pt", format=format)
    said = f"{format} has no place for background_color=[255, 255, 255] of the image processor"
    assert (said in caplog.text) == (format != "clip_hf")
    checkpoints.save(model, processor, tmp_path / "c", format="clip_hf")
    report = checkpoints.convert(tmp_path / "c", tmp_path / "d.pt", to=format)
    assert (said in str(report.notes)) == (format != "clip_hf")


# ----------------------------------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize("format", ["onnx", "OpenAI", "", None])
def test_an_unknown_format_is_refused(model, format, tmp_path):
    with pytest.raises(ValueError, match=f"no format {format!r}.* Available: clip_hf, openai, open_"):
        checkpoints.save(model, None, tmp_path / "it.pt", format=format)


def test_an_unknown_tower_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="no tower 'image'.* Available: text, text_with_projection, vision, vision_"):
        checkpoints.save(model, None, tmp_path / "it.pt", format="transformers", tower="image")


@pytest.mark.parametrize("format", ["clip_hf", "openai", "open_clip"])
def test_a_tower_of_another_format_is_refused(model, format, tmp_path):
    with pytest.raises(ValueError, match="tower='text': single towers are written with format='transformers' only"):
        checkpoints.save(model, None, tmp_path / "it.pt", format=format, tower="text")


@pytest.mark.parametrize("format", FORMATS)
def test_the_model_is_left_as_it_is(format, tiny_processor, tmp_path):
    model = make_model("vit")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, processor = model.config.to_dict(), repr(tiny_processor)
    checkpoints.save(model, tiny_processor, tmp_path / "it.pt", format=format, dtype=torch.float16)
    assert model.config.to_dict() == config
    assert repr(tiny_processor) == processor
    assert_bit_equal(model.state_dict(), weights)


def test_what_is_no_whole_model_is_refused(model, tmp_path):
    part = ClipHFTextModelWithProjection(model.config.text_config)
    for other in (part, torch.nn.Linear(1, 1), None, "model"):
        with pytest.raises(TypeError, match=f"must be a ClipHFModel, a whole CLIP; given {type(other).__name__}"):
            checkpoints.save(other, None, tmp_path / "it.pt")


def test_what_is_no_processor_of_ours_is_refused(model, tmp_path):
    for other in (3, torch.nn.Linear(1, 1)):
        with pytest.raises(TypeError, match=f"must be a ClipHFProcessor, .* given {type(other).__name__}"):
            checkpoints.save(model, other, tmp_path / "it.pt")


@pytest.mark.parametrize("path", ["it.pt", Path("it.pt")])
def test_a_path_in_place_of_the_processor_is_named(model, path):
    with pytest.raises(TypeError, match=r"path third: save\(model, processor, 'it.pt'\)"):
        checkpoints.save(model, path, None)


def test_a_scale_of_one_axis_is_written_as_a_number(model, tmp_path):
    model = copy.deepcopy(model)
    model.logit_scale = torch.nn.Parameter(model.logit_scale.detach().reshape(1))
    checkpoints.save(model, None, tmp_path / "it.pt", format="open_clip")
    assert load_file(tmp_path / "it.pt" / "open_clip_model.safetensors")["logit_scale"].shape == ()


# ----------------------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("format", FORMATS)
def test_dtypes(model, format, dtype, tmp_path):
    checkpoints.save(model, None, tmp_path / "it.pt", format=format, dtype=dtype)
    stored = checkpoints.read_checkpoint(tmp_path / "it.pt").source_tensors
    mixed = format in ("openai", "open_clip") and dtype != torch.float64
    for name, tensor in stored.items():
        float32 = mixed and any(part in name for part in ("ln_", "embedding", "logit_scale"))
        assert tensor.dtype == (torch.float32 if float32 else dtype), name
    if mixed:
        assert stored["visual.transformer.resblocks.0.attn.in_proj_bias"].dtype == dtype
        assert stored["visual.class_embedding"].dtype == torch.float32


def test_values_too_large_are_refused_and_nothing_is_written(model, tmp_path):
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.text_projection.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match="text_projection.weight has values up to 1e"):
        checkpoints.save(model, None, tmp_path / "it.pt", dtype=torch.float16)
    assert names(tmp_path) == []
    checkpoints.save(model, None, tmp_path / "it.pt", dtype=torch.bfloat16)


# ----------------------------------------------------------------------------------------------------------- disk full


@pytest.mark.parametrize("format", FORMATS)
def test_too_little_room_is_seen_before_writing(model, format, tmp_path, monkeypatch):
    size = sum(tensor.numel() * 4 for tensor in model.state_dict().values())
    usage = collections.namedtuple("usage", "total used free")
    asked = []

    def disk_usage(path):
        asked.append(Path(path))
        return usage(10 * size, 9 * size, size - 1)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    with pytest.raises(OSError, match="There is not enough room for .*deep/it.pt: its weights take 4 MiB, 4 are free"):
        checkpoints.save(model, None, tmp_path / "deep" / "it.pt", format=format)
    assert names(tmp_path) == []
    assert asked == [tmp_path]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10 * size, 8 * size, 2 * size))
    checkpoints.save(model, None, tmp_path / "deep" / "it.pt", format=format)


FAILING = """
import resource, sys, torch
import openai_like
from clip_hf import ClipHFModel, checkpoints

model = openai_like.make_model("vit")
# As when the disk is full: every file may have so many bytes. Python ignores the signal; the write fails.
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for format in checkpoints.FORMATS:
    for name in ("new-" + format + ".pt", "old-" + format + ".pt"):
        try:
            checkpoints.save(model, None, name, format=format, overwrite=True)
        except OSError as error:
            print(name, "OSError", error)
        else:
            print(name, "written")
"""


@pytest.mark.slow
def test_a_write_that_fails_leaves_nothing_behind(model, tmp_path):
    assert hasattr(resource, "RLIMIT_FSIZE")
    for format in FORMATS:
        checkpoints.save(model, None, tmp_path / f"old-{format}.pt", format=format)
    before = {name: content(tmp_path / name) for name in names(tmp_path)}
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([*sys.path, str(tests), str(tests / "checkpoints")])
    environment = {**os.environ, "PYTHONPATH": path}
    arguments = [sys.executable, "-c", FAILING]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(FORMATS), done.stdout
    for line in lines:
        assert " OSError " in line, line
    assert {name: content(tmp_path / name) for name in names(tmp_path)} == before


def test_errors_of_another_kind_leave_nothing_behind(model, tmp_path, monkeypatch):
    for format in ("openai", "open_clip", "transformers"):

        def interrupted(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(type(FORMAT_TABLE[format]), "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(model, None, tmp_path / "it.pt", format=format)
        assert names(tmp_path) == []


def test_saving_again_from_a_mapped_file_over_itself(model, tmp_path):
    torch.save(to_openai(model.state_dict()), tmp_path / "it.pt")
    loaded, processor = checkpoints.load(tmp_path / "it.pt")
    checkpoints.save(loaded, processor, tmp_path / "it.pt", format="openai", overwrite=True)
    again, _ = checkpoints.load(tmp_path / "it.pt")
    assert_bit_equal(again.state_dict(), model.state_dict())
    assert torch.equal(features(again)["image"], features(model)["image"])


@pytest.mark.parametrize("format", ["clip_hf", "open_clip", "transformers"])
def test_weights_can_be_read_by_whom_the_other_files_can(model, tiny_processor, format, tmp_path):
    checkpoints.save(model, tiny_processor, tmp_path / "it", format=format)
    assert len({path.stat().st_mode for path in (tmp_path / "it").iterdir()}) == 1
