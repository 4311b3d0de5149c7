# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Paths that do not exist: said as such, with what was meant; names on the hub go to the hub."""

from pathlib import Path

import pytest
from openai_like import assert_bit_equal

from clip_hf import ClipHFModel, ClipHFProcessor, ClipHFViTModel, checkpoints
from clip_hf.checkpoints.paths import check_exists
from clip_hf.embedding import load_dual_encoder


READERS = {
    "model": ClipHFModel.from_pretrained,
    "tower": ClipHFViTModel.from_pretrained,
    "processor": ClipHFProcessor.from_pretrained,
    "load": checkpoints.load,
    "convert": lambda path: checkpoints.convert(path, "never written"),
    "encoder": load_dual_encoder,
}
WHAT_TO_GIVE = r"Give a file of weights \(.pt, .pth, .bin, .safetensors\) or a folder with a checkpoint. .* OWNER/NAME"


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working folder with the outputs of some trainings."""
    (tmp_path / "outputs" / "demo" / "resnet" / "last").mkdir(parents=True)
    (tmp_path / "outputs" / "demo" / "vit").mkdir()
    (tmp_path / "weights.pt").write_text("hello")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("outputs/demo/resnt/last", "Did you mean outputs/demo/resnet/last?"),
        ("outputs/demo/resnt/first", "Did you mean outputs/demo/resnet?"),
        ("outputs/demo/swin/last", "outputs/demo exists, and holds resnet, vit."),
        ("outputs/demo/vit/last", "outputs/demo/vit exists, and holds nothing."),
        ("RN51.pt", ""),
        ("weihgts.pt", "Did you mean weights.pt?"),
        ("weights.pt/config.json", "weights.pt is a file."),
        ("outputs/model.safetensors", "outputs exists, and holds demo."),
        ("outputs/pytorch_model.bin", "outputs exists, and holds demo."),
        ("/nowhere/to/be/found", "/ exists, and holds "),
        ("./resnet", ""),
        ("~/outputs", "Did you mean {home}/outputs?"),
        ("https://huggingface.co/openai/clip-vit-base-patch32/tree/main", "the repo is named openai/clip-vit-base-"),
        ("", ""),
    ],
)
def test_what_can_only_be_a_path_is_missing(reader, path, hint, workplace):
    with pytest.raises(FileNotFoundError, match=WHAT_TO_GIVE) as caught:
        reader(path)
    message = str(caught.value)
    assert message.startswith(f"There is no file or folder {path or repr(path)}. ")
    assert hint.format(home=workplace) in message
    assert ("Did you mean" in message) == ("Did you mean" in hint)


@pytest.mark.parametrize("name", ["gpt2", "openai/clip-vit-base-patch32", "outputs/resnet", "laion/CLIP-ViT-H.14"])
def test_names_on_the_hub_go_to_the_hub(name, workplace):
    check_exists(name)
    for reader in ("model", "tower", "processor", "encoder"):
        with pytest.raises(OSError) as caught:  # offline
            READERS[reader](name)
        assert "Give a file of weights" not in str(caught.value)  # what is said where it can only be a path
    with pytest.raises(FileNotFoundError, match=f"There is no file or folder {name}. .*OWNER/NAME"):
        checkpoints.load(name)


@pytest.mark.parametrize("reader", ["model", "tower", "load", "encoder"])
def test_a_folder_that_is_no_checkpoint_says_what_it_holds(reader, workplace):
    for path, hint in (
        ("outputs/demo", r"json. Give one of its folders instead: resnet, vit\."),
        ("outputs/demo/vit", "There are no weights in it at all. Give the folder that a model was saved in"),
        (".", r"json. Give one of its files instead: weights.pt\."),
    ):
        with pytest.raises(ValueError, match=f"{path} is no checkpoint of a format known here: .*{hint}"):
            READERS[reader](path)


def test_a_file_that_is_no_checkpoint_is_named(workplace):
    for reader in READERS.values():
        with pytest.raises(ValueError, match="weights.pt is not a file of weights, or is incomplete or damaged"):
            reader("weights.pt")


def test_a_folder_without_a_configuration_loads_with_one(source_models, tmp_path):
    model = source_models["vit"]
    model.save_pretrained(tmp_path / "whole" / "part")
    assert isinstance(ClipHFModel.from_pretrained(tmp_path / "whole", subfolder="part"), ClipHFModel)
    (tmp_path / "whole" / "part" / "config.json").unlink()
    given = ClipHFModel.from_pretrained(Path(tmp_path / "whole" / "part"), config=model.config)
    assert_bit_equal(given.state_dict(), model.state_dict())
