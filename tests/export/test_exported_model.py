# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Exported towers against the model in PyTorch."""

import pytest
import torch
from transformers import AutoModel, AutoModelForZeroShotImageClassification

from clip_hf.export import ClipHFExportedModel


@pytest.fixture(params=["onnx", "openvino"])
def runtime(request) -> str:
    return request.param


@torch.no_grad()
def test_features_are_those_of_pytorch(tower, tiny_model, runtime, exported_folder, pixel_values, text_inputs):
    exported = ClipHFExportedModel.from_pretrained(exported_folder(tower, runtime))
    for batch in (1, 4):  # the axes are dynamic
        pixels, ids = pixel_values[:batch], text_inputs["input_ids"][:batch]
        torch.testing.assert_close(exported.encode_image(pixels), tiny_model.encode_image(pixels), atol=1e-5, rtol=0)
        torch.testing.assert_close(exported.encode_text(ids), tiny_model.encode_text(ids), atol=1e-5, rtol=0)
        pooled = tiny_model.vision_model(pixels).pooler_output
        torch.testing.assert_close(exported.pooled_image_features(pixels), pooled, atol=1e-4, rtol=1e-5)
    first, second = exported.encode_image(pixel_values)[:2]
    assert torch.dist(first, second) > 0.01  # features that do not depend on the image would agree, too
    short = text_inputs["input_ids"][2:3, :3]
    torch.testing.assert_close(exported.encode_text(short), tiny_model.encode_text(short), atol=1e-5, rtol=0)


@torch.no_grad()
def test_logits_are_those_of_pytorch(tower, tiny_model, exported_folder, pixel_values, text_inputs):
    exported = AutoModelForZeroShotImageClassification.from_pretrained(exported_folder(tower, "onnx"))
    logits = exported(input_ids=text_inputs["input_ids"], pixel_values=pixel_values).logits_per_image
    expected = tiny_model(**text_inputs, pixel_values=pixel_values).logits_per_image
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


def test_openvino_runs_onnx_and_not_the_reverse(exported_folder, pixel_values):
    towers = [AutoModel.from_pretrained(exported_folder("vit", "onnx"), runtime=each) for each in ("onnx", "openvino")]
    assert [each.runtime for each in towers] == ["onnx", "openvino"]
    torch.testing.assert_close(*(each.encode_image(pixel_values) for each in towers), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="ONNX Runtime cannot read that"):
        AutoModel.from_pretrained(exported_folder("vit", "openvino"), runtime="onnx")
