# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Each reference loads, is the code it claims to be, and leaves the process as it was."""

import gzip
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.utils import is_torchvision_available, is_torchvision_v2_available

import references


def test_openai_model_runs():
    module = references.load_openai_model_module()
    model = module.CLIP(
        embed_dim=8,
        image_resolution=32,
        vision_layers=(1, 1, 1, 1),
        vision_width=4,
        vision_patch_size=None,
        context_length=77,
        vocab_size=64,
        transformer_width=8,
        transformer_heads=2,
        transformer_layers=1,
    ).eval()
    assert Path(module.__file__) == references.PARITY_FOLDER / "clip" / "model.py"
    with torch.no_grad():
        assert model.encode_image(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
        assert model.encode_text(torch.ones(2, 77, dtype=torch.long)).shape == (2, 8)


def test_openai_tokenizer_gives_the_published_ids():
    tokenizer = references.load_openai_tokenizer()
    assert len(tokenizer.encoder) == 49408
    assert tokenizer.encoder["<|startoftext|>"] == 49406
    assert tokenizer.encode("a photo of a cat") == [320, 1125, 539, 320, 2368]


def test_openai_merges_file():
    with gzip.open(references.openai_bpe_path(), "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert lines[0].startswith('"bpe_simple_vocab_16e6.txt#version')
    assert lines[1] == "i n"


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK"])
def test_openai_transform(mode):
    pixels = references.openai_transform(24)(Image.effect_noise((40, 31), 64).convert(mode))
    assert pixels.shape == (3, 24, 24)
    assert pixels.dtype == torch.float32


def test_open_clip_runs():
    open_clip = references.load_open_clip()
    assert "RN50" in open_clip.list_models()
    assert open_clip.get_tokenizer("RN50")(["a photo of a cat"])[0, :7].tolist() == [
        49406, 320, 1125, 539, 320, 2368, 49407,
    ]  # fmt: skip


def test_torchvision_transforms():
    torchvision = references.load_torchvision()
    assert torchvision.transforms.CenterCrop(4)(torch.zeros(3, 8, 8)).shape == (3, 4, 4)


def test_clip_benchmark_has_its_data():
    assert (references.clip_benchmark_folder() / "datasets" / "en_zeroshot_classification_templates.json").is_file()


def test_loading_changes_neither_the_path_nor_transformers():
    references.openai_transform(8)
    references.load_open_clip()
    assert not [entry for entry in sys.path if ".parity" in entry]
    assert not is_torchvision_available()
    assert not is_torchvision_v2_available()
    assert "pkg_resources" not in sys.modules


def test_missing_folder_names_the_cure(monkeypatch, tmp_path):
    monkeypatch.setattr(references, "PARITY_FOLDER", tmp_path / ".parity")
    for load in (
        references.openai_bpe_path,
        references.load_openai_model_module,
        references.load_openai_tokenizer,
        references.load_open_clip,
        references.load_torchvision,
        references.load_diffusers,
        references.clip_benchmark_folder,
    ):
        with pytest.raises(FileNotFoundError, match="make parity-env"):
            load()
    with pytest.raises(FileNotFoundError, match="make parity-env"):
        references.openai_transform(8)
