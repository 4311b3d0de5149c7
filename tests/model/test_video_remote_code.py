# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A saved video model, classifier or processor loads without clip_hf, by plain transformers with trust."""

import pytest
import torch
from transformers import pipeline

from clip_hf import (
    ClipHFForVideoClassification,
    ClipHFProcessor,
    ClipHFVideoModel,
    ClipHFVideoProcessor,
    build_text_classifier,
)
from films import numbered_frames, write_film
from tiny_models import make_tiny_model
from without_clip_hf import run_without_clip_hf


def approximately(scores: list[dict]) -> list[dict]:
    return [{"label": entry["label"], "score": pytest.approx(entry["score"], abs=1e-6)} for entry in scores]


LOAD_VIDEO = """
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForVideoClassification, AutoProcessor, pipeline,
)
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

trust = {"trust_remote_code": True, "device": "cpu"}
film, labels = f"{folder}/film.mp4", ["cat", "dog"]
names = [is_remote(auto.from_pretrained(repo, trust_remote_code=True)) for auto in (
    AutoConfig, AutoModel, AutoProcessor, AutoImageProcessor, AutoVideoProcessor)]
result = {"names": names}
pipes = [pipeline("zero-shot-video-classification", repo, **trust), pipeline(model=repo, **trust)]
result["classes"] = [[is_remote(x) for x in (pipe, pipe.model, pipe.image_processor)] for pipe in pipes]
result["scores"] = [pipe(film, labels, num_views=2, aggregate="probabilities") for pipe in pipes]
processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
inputs = processor(videos=[film], text=labels, return_tensors="pt")
result["logits"] = pipes[0].model(**inputs).logits_per_video.tolist()
pipes[1].save_pretrained(f"{folder}/again")
pipe = pipeline(model=f"{folder}/again", **trust)
is_remote(pipe)
result["scores"].append(pipe(film, labels, num_views=2, aggregate="probabilities"))
fixed = pipeline("video-classification", f"{folder}/fixed", **trust)
result["fixed"] = [is_remote(fixed.model), fixed(film)]
json.dump(result, open(f"{folder}/result.json", "w"))
"""


@pytest.mark.slow
def test_a_video_models_repo_loads_without_clip_hf(tiny_processor, tmp_path):
    model = ClipHFVideoModel.from_clip(make_tiny_model("vit"), "LSTM", num_frames=3)
    for parameter in model.temporal_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    options = tiny_processor.image_processor
    video_processor = ClipHFVideoProcessor(size=options.size, crop_size=options.crop_size, num_frames=3)
    processor = ClipHFProcessor(video_processor, tiny_processor.tokenizer)
    film, labels = write_film(tmp_path / "film.mp4", numbered_frames(10)), ["cat", "dog"]
    classifier = build_text_classifier(model, processor, labels)
    fixed = ClipHFForVideoClassification.from_text_classifier(model, classifier, labels)
    for name, each in (("our repo-v1.0", model), ("fixed", fixed)):
        each.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    result = run_without_clip_hf(LOAD_VIDEO, tmp_path / "our repo-v1.0", tmp_path)
    classes = ["ClipHFVideoConfig", "ClipHFVideoModel", "ClipHFProcessor", *["ClipHFVideoProcessor"] * 2]
    assert result["names"] == classes
    assert result["classes"] == [["ClipHFZeroShotVideoClassificationPipeline", *classes[1:2], classes[-1]]] * 2
    pipe = pipeline(
        "zero-shot-video-classification",
        model=model,
        device="cpu",
        tokenizer=processor.tokenizer,
        image_processor=video_processor,
    )
    expected = pipe(film, labels, num_views=2, aggregate="probabilities")
    for scores in result["scores"]:
        assert scores == approximately(expected)
    inputs = processor(videos=[film], text=labels, return_tensors="pt")
    assert result["logits"][0] == pytest.approx(model(**inputs).logits_per_video[0].tolist(), abs=1e-4)
    name, scores = result["fixed"]
    assert name == "ClipHFForVideoClassification"
    assert scores == approximately(pipe(film, labels, hypothesis_template="a photo of a {}."))
