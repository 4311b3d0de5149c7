# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip_hf.pipeline` on the files that OpenAI's and open_clip's code write."""

import pytest
import torch
from openai_like import make_model

import clip_hf
from clip_hf import checkpoints


LABELS = ["cat", "dog", "number seven"]


@pytest.fixture
def openai_file(tower, tmp_path):
    """A state dict of OpenAI's, with its vocabulary's size."""
    model = make_model(tower, text={"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407})
    checkpoints.save(model, None, tmp_path / "model.pt", format="openai")
    return model, tmp_path / "model.pt"


@pytest.mark.slow_but_for("vit")
def test_a_file_of_openais(openai_file, images):
    model, path = openai_file
    loaded, processor = checkpoints.load(path)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    expected = clip_hf.ClipHFZeroShotImageClassificationPipeline(
        model=loaded, tokenizer=processor.tokenizer, image_processor=processor.image_processor, device="cpu"
    )(images, LABELS)
    for pipe in (
        clip_hf.pipeline(path, device="cpu"),
        clip_hf.pipeline(str(path), device="cpu", dtype=torch.float32),
        clip_hf.pipeline(loaded, device="cpu"),  # which knows its file
        clip_hf.pipeline(*checkpoints.load(path), device="cpu"),
    ):
        assert pipe(images, LABELS) == expected


def test_a_file_with_another_vocabulary_needs_a_processor(source_model, tiny_processor, images, tmp_path):
    checkpoints.save(source_model, None, tmp_path / "model.pt", format="openai")
    with pytest.raises(ValueError, match=r"model.pt has no vocabulary.*merges=..."):
        clip_hf.pipeline(tmp_path / "model.pt")
    pipe = clip_hf.pipeline(tmp_path / "model.pt", tiny_processor, device="cpu")
    assert pipe(images, LABELS) == clip_hf.pipeline(source_model, tiny_processor, device="cpu")(images, LABELS)
