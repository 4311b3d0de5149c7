# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Zero-shot classification of films: the scores by hand, every kind of model, and bad input."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

import clip_hf
from clip_hf import (
    ClipHFForVideoClassification,
    ClipHFModel,
    ClipHFProcessor,
    ClipHFVideoModel,
    ClipHFVideoProcessor,
    ClipHFZeroShotVideoClassificationPipeline,
    build_text_classifier,
    load_prompt_set,
)
from clip_hf.embedding import VideoEncoder, load_dual_encoder
from clip_hf.model.video_opening_clip_hf import VideoLimits
from clip_hf.model.video_reading_clip_hf import ClipSampling, read_clip
from films import animated_picture, numbered_frames, write_film
from tiny_models import as_transformers_clip, make_tiny_model


TASK = "zero-shot-video-classification"
LABELS = ["cat", "dog", "{snow}"]
TEMPLATES = ["a photo of {}", "{}", "the {label} and {}"]
FRAMES = 3


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("films")
    return [write_film(folder / f"{i}.mp4", numbered_frames(12 + i, first=90 * i)) for i in range(2)]


@pytest.fixture
def model() -> ClipHFVideoModel:
    torch.manual_seed(0)
    model = ClipHFVideoModel.from_clip(make_tiny_model("vit"), "LSTM", num_frames=FRAMES)
    for parameter in model.temporal_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def processor(tiny_processor) -> ClipHFProcessor:
    options = tiny_processor.image_processor
    return ClipHFProcessor(
        ClipHFVideoProcessor(size=options.size, crop_size=options.crop_size, num_frames=FRAMES),
        tiny_processor.tokenizer,
    )


@pytest.fixture
def pipe(model, processor) -> ClipHFZeroShotVideoClassificationPipeline:
    return clip_hf.pipeline(model, processor, task=TASK, device="cpu")


def by_label(result: list[dict]) -> list[float]:
    scores = {entry["label"]: entry["score"] for entry in result}
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    return [scores[label] for label in LABELS]


@torch.no_grad()
def test_scores_by_hand(pipe, model, processor, films):
    clips = processor(videos=films, num_frames=2, return_tensors="pt")["pixel_values"]
    chosen = [read_clip(film, ClipSampling(2, 2), view=view) for film in films for view in range(2)]
    chosen = processor(videos=chosen, num_frames=2, return_tensors="pt")["pixel_values"]
    views = model.encode_video(chosen).unflatten(0, (2, 2))  # (films, views, dim)
    scale = model.logit_scale.exp()
    options = {"hypothesis_template": TEMPLATES, "num_frames": 2}
    classifier = build_text_classifier(model, processor, LABELS, TEMPLATES)
    for batch_size in (1, 2):
        results = pipe(films, LABELS, **options, batch_size=batch_size)
        expected = (scale * model.encode_video(clips) @ classifier.T).softmax(-1)
        assert torch.tensor([by_label(r) for r in results]) == pytest.approx(expected, abs=1e-5)
    mean = torch.nn.functional.normalize(views.mean(dim=1), dim=-1)
    results = pipe(films, LABELS, **options, num_views=2, num_workers=1)
    expected = (scale * mean @ classifier.T).softmax(-1)
    assert torch.tensor([by_label(r) for r in results]) == pytest.approx(expected, abs=1e-5)
    each = [build_text_classifier(model, processor, LABELS, [template]) for template in TEMPLATES]
    expected = sum((scale * views[:, view] @ c.T).softmax(-1) for c in each for view in range(2)) / (2 * len(each))
    results = pipe(films, LABELS, **options, num_views=2, aggregate="probabilities", batch_size=2)
    assert torch.tensor([by_label(r) for r in results]) == pytest.approx(expected, abs=1e-5)
    assert by_label(results[0]) != pytest.approx(by_label(pipe(films[0], LABELS, **options, num_views=2)), abs=1e-4)


def test_the_default_prompts_are_actionclips(pipe, films):
    prompts = load_prompt_set("actionclip")
    assert len(set(prompts)) == 16 and all("{}" in prompt for prompt in prompts)
    labels = LABELS[:2]
    assert pipe(films[0], labels) == pipe(films[0], labels, hypothesis_template=prompts)
    assert pipe(films[0], labels) != pipe(films[0], labels, hypothesis_template="a photo of {}")


def test_an_animated_gif_is_a_film_for_pipeline_and_encoder(pipe, tiny_processor, tmp_path):
    data = animated_picture("GIF")
    (tmp_path / "a.gif").write_bytes(data)
    expected = pipe(read_clip(data, ClipSampling(4)), LABELS)
    encoder = VideoEncoder(load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor), ClipSampling(2))
    features = encoder.encode_images([read_clip(data, ClipSampling(4))])
    for make in (lambda: tmp_path / "a.gif", lambda: data, lambda: {"bytes": data}, lambda: io.BytesIO(data)):
        assert pipe(make(), LABELS) == expected
        torch.testing.assert_close(encoder.encode_images([make()]), features)
        assert not encoder.prepare([make()])["is_picture"].item()
    for give in (lambda film: pipe(film, LABELS), lambda film: encoder.prepare([film])):
        with pytest.raises(ValueError, match="animated WEBP picture"):
            give(animated_picture("WEBP"))


def test_films_in_every_form(pipe, films):
    expected = pipe(str(films[0]), LABELS)
    frames = read_clip(films[0], ClipSampling(12))
    array = np.stack([np.asarray(frame) for frame in frames])
    for form in (films[0], films[0].read_bytes(), {"path": str(films[0])}, frames, array, torch.from_numpy(array)):
        assert pipe(form, LABELS) == expected
        assert pipe([form, form], LABELS) == [expected, expected]
    assert list(pipe((film for film in films[:1]), LABELS)) == [expected]
    assert pipe([], LABELS) == []
    still = pipe([frames[0]] * 3, LABELS)
    assert still == pipe([frames[0]] * 2, LABELS)  # a list of frames is one film


def test_labels_are_encoded_once(pipe, films, monkeypatch):
    pipe(films, LABELS)
    pipe(films, LABELS, aggregate="probabilities")
    assert len(pipe._classifiers) == 2
    monkeypatch.setattr(ClipHFVideoModel, "get_text_features", None)
    pipe(films, LABELS)
    pipe(films[0], LABELS, aggregate="probabilities", top_k=1)


def test_any_clip_by_the_mean_of_its_frames(tower, processor, tiny_processor, films):
    image_model = make_tiny_model(tower)
    expected = clip_hf.pipeline(
        ClipHFVideoModel.from_clip(image_model, num_frames=FRAMES), processor, task=TASK, device="cpu"
    )(films, LABELS)
    models = [image_model, as_transformers_clip(image_model)] if tower == "vit" else [image_model]
    for each in models:
        pipe = clip_hf.pipeline(each, tiny_processor, task=TASK, device="cpu", num_frames=FRAMES)
        for result, reference in zip(pipe(films, LABELS), expected, strict=True):
            assert by_label(result) == pytest.approx(by_label(reference), abs=1e-5)


def test_transformers_makes_it(model, processor, tiny_processor, films, tmp_path):
    model.save_pretrained(tmp_path / "video")
    processor.save_pretrained(tmp_path / "video")
    make_tiny_model("vit").save_pretrained(tmp_path / "image")
    tiny_processor.save_pretrained(tmp_path / "image")
    pipe = pipeline(TASK, model=str(tmp_path / "video"), device="cpu")
    assert type(pipe) is ClipHFZeroShotVideoClassificationPipeline and type(pipe.model) is ClipHFVideoModel
    expected = clip_hf.pipeline(model, processor, task=TASK, device="cpu")(films[0], LABELS)
    assert by_label(pipe(films[0], LABELS)) == pytest.approx(by_label(expected), abs=1e-5)
    by_name = clip_hf.pipeline(tmp_path / "video", task=TASK, device="cpu")
    assert by_label(by_name(films[0], LABELS)) == pytest.approx(by_label(expected), abs=1e-5)
    pipe.save_pretrained(tmp_path / "again")
    assert by_label(pipeline(TASK, model=str(tmp_path / "again"), device="cpu")(films[0], LABELS)) == pytest.approx(
        by_label(expected), abs=1e-5
    )
    pipe = pipeline(TASK, model=str(tmp_path / "image"), device="cpu")
    assert type(pipe.model) is ClipHFModel
    assert len(pipe(films, LABELS)) == 2


def test_transformers_own_pipeline_for_fixed_classes(model, processor, films, tmp_path):
    classifier = build_text_classifier(model, processor, LABELS, TEMPLATES)
    fixed = ClipHFForVideoClassification.from_text_classifier(model, classifier, LABELS)
    fixed.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = pipeline("video-classification", model=str(tmp_path), device="cpu")
    expected = clip_hf.pipeline(model, processor, task=TASK, device="cpu")(
        films[1], LABELS, hypothesis_template=TEMPLATES
    )
    assert by_label(pipe(str(films[1]))) == pytest.approx(by_label(expected), abs=1e-5)
    assert pipe(str(films[1]), top_k=1)[0]["label"] == expected[0]["label"]


def test_a_video_model_classifies_pictures(model, processor, tiny_processor, images, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = pipeline("zero-shot-image-classification", model=str(tmp_path), device="cpu")
    pixels = tiny_processor(images=images[:1], return_tensors="pt")["pixel_values"]
    images[0].save(tmp_path / "picture.png")
    classifier = build_text_classifier(model, processor, LABELS, TEMPLATES)
    with torch.no_grad():
        expected = (model.logit_scale.exp() * model.encode_image(pixels) @ classifier.T).softmax(-1)[0]
    data = (tmp_path / "picture.png").read_bytes()
    for given in (images[0], str(tmp_path / "picture.png"), data):
        result = pipe(given, LABELS, hypothesis_template=TEMPLATES)
        assert by_label(result) == pytest.approx(expected.tolist(), abs=1e-5)
    for given in (images[0], tmp_path / "picture.png", {"bytes": data, "path": None}):
        found = processor(images=given, return_tensors="pt")["pixel_values"]
        assert torch.equal(found, pixels[:, None])
    of_films = clip_hf.pipeline(model, processor, task=TASK, device="cpu")
    for given in (images[0], tmp_path / "picture.png"):
        result = of_films(given, LABELS, hypothesis_template=TEMPLATES)
        assert by_label(result) == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"aggregate": "mean"}, ValueError, "'embeddings', 'probabilities'"),
        ({"aggregate": "probabilities", "multi_label": True}, ValueError, "leave out `multi_label`"),
        ({"aggregate": "probabilities", "background": "a room"}, ValueError, "leave out `background`"),
        ({"aggregate": "probabilities", "function_to_apply": "cosine"}, ValueError, "leave out `function_to_apply`"),
        (
            {"aggregate": "probabilities", "hypothesis_template": {"cat": ["a", "b"], "dog": ["c"], "{snow}": ["d"]}},
            ValueError,
            "as many prompts for every label",
        ),
        ({"num_frames": 0}, ValueError, "`num_frames` is 0"),
        ({"num_views": 1.5}, ValueError, "`num_views` is 1.5"),
        ({"num_frame": 2}, TypeError, "Unknown option `num_frame`.*Did you mean `num_frames`"),
        ({"image_limits": 3}, TypeError, "Unknown option `image_limits`"),
        ({"hypothesis_template": "actionclp"}, ValueError, "Did you mean 'actionclip'"),
    ],
)
def test_wrong_options_raise_before_any_work(pipe, options, error, message):
    with pytest.raises(error, match=message):
        pipe("there is no such film.mp4", LABELS, **options)


def test_unusable_films_are_named(pipe, films, tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match=r"Video 1 \(.*empty.mp4'\)\) cannot be read"):
        pipe([films[0], empty], LABELS)
    text = tmp_path / "text.mp4"
    text.write_text("no film at all " * 99)
    with pytest.raises(ValueError, match="cannot be read: .*this is not a film that FFmpeg can read"):
        pipe(text, LABELS)
    with pytest.raises(ValueError, match="The video .* cannot be read: there is no file"):
        pipe(str(tmp_path / "missing.mp4"), LABELS)
    with pytest.raises(ValueError, match="cannot be read"):
        pipe(films[0], LABELS, video_limits=VideoLimits(max_bytes=10))
    with pytest.raises(ValueError, match="There is no video: pass one as the first argument or as `videos=`"):
        pipe(None, LABELS)
    with pytest.raises(TypeError, match="Video 0 is of a type that is not supported"):
        pipe([3], LABELS)
    with pytest.raises(ValueError, match="`task` is 'zero-shot-image-classification' or"):
        clip_hf.pipeline("some/clip", task="video-classification")
