# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""One loader of dual encoders: what encoders and exports are loaded by, and what both say of bad ones."""

import pytest
import torch
from transformers import BertConfig, BertModel, SiglipConfig, SiglipModel

from clip_hf import ClipHFModel, ClipHFProcessor, checkpoints
from clip_hf.checkpoints.dual_models import load_dual_model
from clip_hf.embedding import load_dual_encoder
from clip_hf.export import export_model
from tiny_models import make_tiny_model


SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def load_and_fail(path, folder, error: type[Exception], match: str) -> None:
    """Both users of the loader fail alike."""
    with pytest.raises(error, match=match):
        load_dual_encoder(path)
    with pytest.raises(error, match=match):
        export_model(path, folder / "never written")
    assert not (folder / "never written").exists()


@pytest.mark.parametrize("format", ["clip_hf", "transformers", "open_clip"])
def test_every_clip_is_a_model_of_ours(format, tiny_processor, tmp_path):
    model = make_tiny_model("vit")
    checkpoints.save(model, tiny_processor, tmp_path / "model", format=format)
    loaded, processor = load_dual_model(tmp_path / "model")
    assert type(loaded) is ClipHFModel and type(processor) is ClipHFProcessor and not loaded.training
    assert torch.equal(loaded.logit_scale, model.logit_scale) and loaded.dtype == torch.float32
    assert processor.tokenizer.get_vocab() == tiny_processor.tokenizer.get_vocab()
    half, given = load_dual_model(tmp_path / "model", torch.bfloat16, tiny_processor)
    assert half.dtype == torch.bfloat16 and given is tiny_processor


def test_others_run_as_transformers_runs_them(tiny_processor, tmp_path):
    config = SiglipConfig(text_config=SIZES, vision_config={**SIZES, "image_size": 32, "patch_size": 16})
    SiglipModel(config).save_pretrained(tmp_path)
    assert type(load_dual_model(str(tmp_path), processor=tiny_processor)[0]) is SiglipModel


def test_what_is_no_dual_encoder_is_named(tmp_path, tiny_processor):
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path / "bert")
    load_and_fail(tmp_path / "bert", tmp_path, ValueError, "is a model of type 'bert', which does not embed images")
    model = make_tiny_model("vit")
    state = {name: value for name, value in model.state_dict().items() if "visual_projection" not in name}
    model.save_pretrained(tmp_path / "partial", state_dict=state)
    tiny_processor.save_pretrained(tmp_path / "partial")
    message = r"lacks 1 of the model's weights \(visual_projection.weight\)"
    load_and_fail(tmp_path / "partial", tmp_path, ValueError, message)


def test_a_checkpoint_without_vocabulary_needs_a_processor(source_models, tiny_processor, tmp_path):
    path = tmp_path / "model.pt"
    checkpoints.save(source_models["vit"], None, path, format="openai")
    load_and_fail(path, tmp_path, ValueError, "does not say how images and texts are prepared")
    assert load_dual_model(path, processor=tiny_processor)[1] is tiny_processor


def test_a_name_that_is_nowhere_is_said_to_be(tmp_path):
    load_and_fail(tmp_path / "none.pt", tmp_path, FileNotFoundError, "There is no file or folder")
    load_and_fail("nobody/nothing", tmp_path, OSError, "There is no file or folder 'nobody/nothing' here, and the hub")
    with pytest.raises(OSError, match="is named open_clip:hf-hub:nobody/nothing or sentence_transformers:nobody"):
        load_dual_encoder("nobody/nothing")
