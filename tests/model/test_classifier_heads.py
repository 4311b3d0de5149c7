# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`ClipHFForImageClassification` on the embedding: from texts, from fitted heads, saved, piped, trained."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments, pipeline

from clip_hf import ClipHFConfig, ClipHFForImageClassification, ClipHFImageProcessor, ClipHFModel
from clip_hf.evaluation import HEAD_METHODS, fit_head
from tiny_models import IMAGE_SIZE, make_tiny_model, tiny_config
from without_clip_hf import run_without_clip_hf


LABELS = ["red", "blue", "green"]


@pytest.fixture(scope="module", params=["vit", "resnet"])
def clip(request) -> ClipHFModel:
    return make_tiny_model(request.param).double()


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator, dtype=torch.float64)


def classifier_of(clip: ClipHFModel) -> torch.Tensor:
    rows = torch.randn(len(LABELS), clip.config.projection_dim, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.normalize(rows.double(), dim=-1)


def fit(clip: ClipHFModel, method: str):
    with torch.no_grad():
        features, scale = clip.encode_image(pixels(6, 1)), float(clip.logit_scale.exp())
    return fit_head(method, features, np.arange(6) % 3, classifier_of(clip), logit_scale=scale)


def test_a_text_classifier_gives_the_zero_shot_logits(clip):
    model = ClipHFForImageClassification.from_text_classifier(clip, classifier_of(clip), LABELS)
    assert model.config.id2label == dict(enumerate(LABELS)) and model.config.classifier_input == "embedding"
    assert model.vision_model is clip.vision_model and not model.training
    with torch.no_grad():
        expected = clip.logit_scale.exp() * clip.encode_image(pixels(4)) @ classifier_of(clip).T
        torch.testing.assert_close(model(pixel_values=pixels(4)).logits, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"has the shape \(3, \d+\); it must be \(2, \d+\): one row a label"):
        ClipHFForImageClassification.from_text_classifier(clip, classifier_of(clip), LABELS[:2])


def test_an_array_is_a_classifier_and_what_is_none_is_refused(clip):
    make, rows = ClipHFForImageClassification.from_text_classifier, classifier_of(clip)
    assert torch.equal(make(clip, rows.numpy(), LABELS).classifier.weight, make(clip, rows, LABELS).classifier.weight)
    for labels, message in ((["red", "blue", "red"], r".*repeated: \['red'\]"), ([], r"\[\]"), ("abc", "'abc'")):
        with pytest.raises(ValueError, match=f"`labels` must be different names, not {message}"):
            make(clip, rows, labels)
    with pytest.raises(ValueError, match="NaN or infinite values for classifier.weight"):
        make(clip, rows * torch.nan, LABELS)
    for wrong in ((clip, "rows"), ("folder", rows), (clip, None)):
        with pytest.raises(TypeError, match="Give a CLIP and a tensor or an array, not a"):
            make(*wrong, LABELS)
    for wrong in ((clip, None), (clip, "head"), ("folder", fit(clip, "tip")), (clip, {})):
        with pytest.raises(TypeError, match="Give a CLIP and a head of `fit_head`, not a"):
            ClipHFForImageClassification.from_feature_head(*wrong, LABELS)


@pytest.mark.slow_but_for("vit", "resnet-tip")
@pytest.mark.parametrize("method", HEAD_METHODS)
def test_a_fitted_head_as_a_model_is_the_head(clip, method, tmp_path):
    head = fit(clip, method)
    model = ClipHFForImageClassification.from_feature_head(clip, head, LABELS)
    assert model.config.num_cache_keys == (6 if "tip" in method else 0)
    with torch.no_grad():
        expected = head.scores(clip.encode_image(pixels(4)))
        np.testing.assert_allclose(model(pixel_values=pixels(4)).logits, expected, rtol=0, atol=1e-6)
        model.save_pretrained(tmp_path)
        again, info = ClipHFForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        torch.testing.assert_close(again(pixel_values=pixels(4)).logits, model(pixel_values=pixels(4)).logits)


LOAD = """
from PIL import Image
from transformers import pipeline

classify = pipeline("image-classification", model=repo, trust_remote_code=True, device="cpu")
assert is_remote(classify.model) and is_remote(classify)
json.dump(classify(Image.open(f"{folder}/image.png")), open(f"{folder}/result.json", "w"))
"""


@pytest.mark.slow
def test_a_pipeline_here_and_without_clip_hf(tiny_processor, tmp_path):
    clip = make_tiny_model("vit")
    model = ClipHFForImageClassification.from_feature_head(clip, fit(clip.double(), "tip"), LABELS).float()
    model.save_pretrained(tmp_path / "repo")
    tiny_processor.image_processor.save_pretrained(tmp_path / "repo")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)).save(
        tmp_path / "image.png"
    )
    classify = pipeline("image-classification", model=str(tmp_path / "repo"), device="cpu")
    expected = classify(Image.open(tmp_path / "image.png"))
    assert {row["label"] for row in expected} == set(LABELS)
    found = run_without_clip_hf(LOAD, tmp_path / "repo", tmp_path)
    assert [row["label"] for row in found] == [row["label"] for row in expected]
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in expected], abs=1e-5)
    assert json.loads((tmp_path / "repo" / "config.json").read_text())["num_cache_keys"] == 6


@pytest.mark.parametrize("task", ["image-classification", "image-feature-extraction"])
def test_stock_pipelines_read_16_bits_as_our_processor_does(task, tmp_path):
    Image.fromarray((np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)).save(tmp_path / "deep.png")
    clip = make_tiny_model("vit")
    model = ClipHFForImageClassification.from_text_classifier(clip, torch.eye(3, clip.config.projection_dim), LABELS)
    (model if task == "image-classification" else clip.vision_model).save_pretrained(tmp_path / "repo")
    processor = ClipHFImageProcessor(size=64, crop_size=64, high_bit_depth="scale")
    processor.save_pretrained(tmp_path / "repo")
    pipe = pipeline(task, model=str(tmp_path / "repo"), device="cpu")
    expected = processor(tmp_path / "deep.png", return_tensors="pt")["pixel_values"]
    assert torch.equal(pipe.preprocess(str(tmp_path / "deep.png"))["pixel_values"], expected)
    found = pipe([str(tmp_path / "deep.png")] * 2)
    assert len(found) == 2 and expected.std() > 0.3  # not white
    with torch.no_grad():
        output = pipe.model(pixel_values=expected)
    if task == "image-classification":
        best = max(found[0], key=lambda row: row["score"])
        assert best["label"] == LABELS[int(output.logits.argmax())]
    else:
        np.testing.assert_allclose(found[0], output.last_hidden_state.numpy(), atol=1e-5)


def test_a_whole_clip_loads_with_a_new_classifier(tmp_path):
    make_tiny_model("vit").save_pretrained(tmp_path)
    model, info = ClipHFForImageClassification.from_pretrained(
        tmp_path, classifier_input="embedding", output_loading_info=True
    )
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"} and not info["unexpected_keys"]
    hidden, info = ClipHFForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert hidden.config.classifier_input == "hidden" and not hasattr(hidden, "visual_projection")
    assert not info["unexpected_keys"]
    assert model.classifier.in_features == model.config.projection_dim


def test_trainer_lowers_the_loss(clip, tmp_path):
    model = ClipHFForImageClassification.from_feature_head(clip, fit(clip, "tip"), LABELS).float()
    rows = [{"pixel_values": image, "labels": (place + 1) % 3} for place, image in enumerate(pixels(6, 1).float())]
    common = {"save_strategy": "no", "report_to": [], "use_cpu": True, "per_device_train_batch_size": 6}
    arguments = TrainingArguments(str(tmp_path), max_steps=6, learning_rate=1e-3, **common)
    before = model.cache_keys.weight.clone()
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    loss = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < loss and not torch.equal(before, model.cache_keys.weight)
    clip.double()  # its tower is the model's


@pytest.mark.parametrize(
    "options",
    [{"classifier_input": "pooled"}, {"num_cache_keys": 3}, {"num_cache_keys": -1, "classifier_input": "embedding"}],
)
def test_bad_configs(options):
    with pytest.raises(ValueError, match="allowed are 'hidden' with 0 keys, and 'embedding' with 0 to"):
        tiny_config("vit", **options)
    assert ClipHFConfig().classifier_input == "hidden"
