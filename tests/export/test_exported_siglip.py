# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""An exported SigLIP: its bias is kept, and its texts have their full length, in encoders and pipelines alike."""

import shutil

import pytest
import torch
from transformers import SiglipConfig, SiglipModel, SiglipProcessor, pipeline
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

import clip_hf
from clip_hf import ClipHFTokenizer
from clip_hf.embedding import load_dual_encoder
from clip_hf.export import ClipHFExportedModel, export_model, exporting
from tiny_models import CONTEXT_LENGTH, VOCAB_SIZE


LABELS = ["a cat", "a map of the whole world", "snow"]
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def siglip() -> SiglipModel:
    text = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": CONTEXT_LENGTH, "projection_size": 32, **SIZES}
    text |= {"bos_token_id": 598, "eos_token_id": 599, "pad_token_id": 599}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={"image_size": 32, "patch_size": 16, **SIZES}))
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-2.25)
    return model.eval()


@pytest.fixture(scope="module")
def processor(tiny_tokenizer, tmp_path_factory) -> SiglipProcessor:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer.save_pretrained(folder)
    tokenizer = ClipHFTokenizer.from_pretrained(folder, model_input_names=["input_ids"])
    return SiglipProcessor(SiglipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer)


@pytest.fixture(scope="module", params=["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def folder(request, siglip, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / request.param
    report = export_model(siglip, folder, request.param, processor=processor)
    assert min(report.images.cosine_min, report.texts.cosine_min) > 0.99999
    return folder


@pytest.mark.slow
def test_scores_have_the_scale_and_the_bias(folder, siglip, processor, images):
    inputs = processor(images=images, text=LABELS, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        expected = siglip(**inputs).logits_per_image
    exported = ClipHFExportedModel.from_pretrained(folder)
    torch.testing.assert_close(exported(**inputs).logits_per_image, expected, atol=1e-5, rtol=1e-5)
    encoder = load_dual_encoder(folder)
    assert encoder.logit_bias == -2.25 and encoder.depends_on_padding
    logits = encoder.logit_scale * encoder.encode_images(images) @ encoder.encode_texts(LABELS).T + encoder.logit_bias
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert "@ text_embeds.T + -2.25" in (folder / "README.md").read_text()
    assert expected.std(dim=0).min() > 1e-3 and expected.std(dim=1).min() > 1e-2  # it depends on both
    stock = pipeline("zero-shot-image-classification", str(folder))
    for classify in (clip_hf.pipeline(folder), stock):
        for options, wanted in (
            ({"function_to_apply": "none"}, expected),
            ({"multi_label": True}, expected.sigmoid()),
        ):
            results = classify(images, candidate_labels=LABELS, hypothesis_template="{}", batch_size=2, **options)
            scores = [[{each["label"]: each["score"] for each in row}[label] for label in LABELS] for row in results]
            torch.testing.assert_close(torch.tensor(scores), wanted, atol=1e-5, rtol=1e-5)


def test_texts_that_are_short_or_masked_are_refused(folder):
    exported = ClipHFExportedModel.from_pretrained(folder)
    with pytest.raises(ValueError, match=f"have 5 tokens; this model takes exactly {CONTEXT_LENGTH}"):
        exported.encode_text(torch.zeros(1, 5, dtype=torch.int64))
    ids = torch.ones(2, CONTEXT_LENGTH, dtype=torch.int64)
    assert torch.equal(exported.encode_text(ids, ids), exported.encode_text(ids))
    mask = ids.clone()
    mask[1, -3:] = 0
    with pytest.raises(ValueError, match="`attention_mask` hides padding, which this model's features depend on"):
        exported.encode_text(ids, mask)


def test_a_tokenizer_with_a_mask_is_refused(siglip, processor, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "export_towers", lambda *args: pytest.fail("it was exported"))
    masking = SiglipProcessor(processor.image_processor, tiny_tokenizer)
    with pytest.raises(ValueError, match=r"Load it with `from_pretrained\(\.\.\., model_input_names="):
        export_model(siglip, tmp_path / "x", processor=masking)


def test_an_export_is_not_exported_again(folder, processor, tmp_path):
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    with pytest.raises(ValueError, match="copy is exported already: name the model that it was made of"):
        export_model(copied, tmp_path / "x")
    with pytest.raises(ValueError, match="is exported already"):
        export_model(ClipHFExportedModel.from_pretrained(folder), tmp_path / "x", processor=processor)
