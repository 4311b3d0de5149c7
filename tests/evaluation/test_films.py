# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Every evaluation on films: classification and retrieval against plain features, by Python and by command."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from clip_hf import ClipHFProcessor, ClipHFVideoModel, checkpoints
from clip_hf.cli import main
from clip_hf.embedding import VideoEncoder, load_dual_encoder
from clip_hf.evaluation import (
    CaptionedDataOptions,
    ClassificationOptions,
    FewShotOptions,
    LinearProbeOptions,
    RetrievalOptions,
    SuiteOptions,
    ZeroShotOptions,
    class_embeddings,
    evaluate_few_shot,
    evaluate_linear_probe,
    evaluate_retrieval,
    evaluate_zero_shot,
    load_classification,
    load_retrieval,
    load_templates,
    run_suite,
)
from clip_hf.model.video_processing_clip_hf import ClipHFVideoProcessor
from clip_hf.model.video_reading_clip_hf import ClipSampling
from encoding_inputs import quiet
from films import write_film
from tiny_models import IMAGE_SIZE, make_tiny_model


CLASSES = ("fade_in", "fade_out", "still")


def film(kind: str, number: int) -> list[np.ndarray]:
    """Six frames of a pattern that gets brighter, darker, or stays."""
    blocks = np.random.default_rng(number).integers(60, 256, (4, 4, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    shares = {"fade_in": np.linspace(0.1, 1, 6), "fade_out": np.linspace(1, 0.1, 6), "still": np.full(6, 0.7)}
    return [(blocks * share).astype(np.uint8) for share in shares[kind]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Class folders of films, train and test; a table in MSR-VTT's form; and a folder of pictures."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for split, count in (("train", 3), ("test", 2)):
        for place, kind in enumerate(CLASSES):
            (folder / "actions" / split / kind).mkdir(parents=True)
            for number in range(count):
                path = folder / "actions" / split / kind / f"{number}.mp4"
                write_film(path, film(kind, 100 * place + number + 10 * (split == "test")))
                rows.append({"video": str(path.relative_to(folder)), "caption": f"number {len(rows)} will {kind}"})
    (folder / "msrvtt_test.json").write_text(json.dumps(rows))
    for kind in ("cat", "dog"):
        (folder / "pictures" / kind).mkdir(parents=True)
        Image.fromarray(film("still", len(kind))[0]).save(folder / "pictures" / kind / "0.png")
    return folder


@pytest.fixture
def encoder(tiny_processor) -> VideoEncoder:
    inner = load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)
    return VideoEncoder(inner, ClipSampling(num_frames=3, num_views=2))


def test_zero_shot_classification_of_films(encoder, folder):
    options = ZeroShotOptions(encoding=quiet(), resamples=20)
    result = evaluate_zero_shot(encoder, folder / "actions", options)
    files = sorted((folder / "actions" / "test").glob("*/*.mp4"))
    scores = encoder.encode_images(files).numpy() @ class_embeddings(encoder, result.class_names, "actionclip").T
    assert result.class_names == [name.replace("_", " ") for name in CLASSES]
    assert result.predictions.tolist() == scores.argmax(axis=1).tolist()
    assert result.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert result.image_options == {"num_frames": 3, "num_views": 2}
    assert "Films were read with num_frames 3, num_views 2." in result.table() and result.num_prompts == 16


def test_probabilities_can_be_averaged_over_prompts(encoder, folder):
    templates = ["a photo of a {}", "{}", "the number {}"]
    options = {"templates": templates, "encoding": quiet(), "resamples": 0}
    result = evaluate_zero_shot(encoder, folder / "actions", ZeroShotOptions(aggregate="probabilities", **options))
    images = encoder.encode_images(sorted((folder / "actions" / "test").glob("*/*.mp4"))).numpy().astype(np.float64)
    names, total = result.class_names, 0
    for template in templates:
        logits = encoder.logit_scale * images @ class_embeddings(encoder, names, [template]).astype(np.float64).T
        total = total + np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert result.predictions.tolist() == total.argmax(axis=1).tolist()
    right = [sorted(row, reverse=True).index(row[target]) for row, target in zip(total.tolist(), result.targets)]
    assert result.ranks.tolist() == right
    with pytest.raises(ValueError, match="must be 'embeddings' or 'probabilities'"):
        ZeroShotOptions(aggregate="both")
    own = {name: [f"a {name}"] for name in names} | {names[0]: ["a", "b"]}
    with pytest.raises(ValueError, match="as many prompts"):
        evaluate_zero_shot(
            encoder, folder / "actions", ZeroShotOptions(**{**options, "templates": own}, aggregate="probabilities")
        )


def test_actionclip_prompts_can_be_chosen(encoder, folder):
    templates = load_templates("actionclip")
    assert len(templates) == 16
    result = evaluate_zero_shot(
        encoder, folder / "actions", ZeroShotOptions(templates="actionclip", encoding=quiet(), resamples=0)
    )
    assert result.num_prompts == 16


def test_classifiers_are_fitted_to_films(encoder, folder):
    probe = LinearProbeOptions(encoding=quiet(), resamples=0)
    result = evaluate_linear_probe(encoder, folder / "actions", probe)
    assert 0 <= result.accuracy <= 1 and result.image_options["num_frames"] == 3
    few = evaluate_few_shot(encoder, folder / "actions", FewShotOptions(shots=(1,), seeds=(0,), encoding=quiet()))
    assert 1 in few.accuracies


def test_retrieval_on_films(encoder, folder):
    result = evaluate_retrieval(encoder, folder / "msrvtt_test.json", RetrievalOptions(encoding=quiet(), resamples=20))
    rows = json.loads((folder / "msrvtt_test.json").read_text())
    films = encoder.encode_images([folder / row["video"] for row in rows]).numpy()
    cosines = films @ encoder.encode_texts([row["caption"] for row in rows]).numpy().T
    for name, scores in (("image_to_text", cosines), ("text_to_image", cosines.T)):
        ranks = [(row > row[place]).sum() for place, row in enumerate(scores)]
        assert result.values[f"{name}_R@1"] == pytest.approx(np.mean(np.array(ranks) < 1))
        assert result.values[f"{name}_R@5"] == pytest.approx(np.mean(np.array(ranks) < 5))
        assert result.values[f"{name}_median_rank"] == np.median(ranks) + 1
    assert result.num_images == 15


def test_films_of_a_dataset(encoder, folder):
    files = sorted((folder / "actions" / "test").glob("*/*.mp4"))
    given = datasets.Dataset.from_dict(
        {
            "clip": [{"bytes": path.read_bytes(), "path": None} for path in files],
            "action": [path.parent.name for path in files],
        }
    ).cast_column("clip", datasets.Video(decode=False))
    options = ClassificationOptions(media="videos", label_column="action")
    result = evaluate_zero_shot(encoder, load_classification(given, options), ZeroShotOptions(encoding=quiet()))
    again = evaluate_zero_shot(encoder, folder / "actions", ZeroShotOptions(encoding=quiet()))
    assert result.ranks.tolist() == again.ranks.tolist()


@pytest.mark.parametrize("load", [load_classification, load_retrieval])
def test_films_where_images_are_meant_and_the_reverse(load, folder, tmp_path):
    options = ClassificationOptions if load is load_classification else CaptionedDataOptions
    with pytest.raises(ValueError, match=r"holds films.*--num-frames 8"):
        load(folder / "actions")
    with pytest.raises(ValueError, match=r"holds images.*Leave out --num-frames"):
        load(folder / "pictures", options(media="videos"))
    for media, column, path in (("images", "image", "a.mp4"), ("videos", "video", "a.png")):
        (tmp_path / "table.csv").write_text(f"{column},caption,label\n{path},a,thing\n")
        with pytest.raises(ValueError, match="The column .* of table holds"):
            load(tmp_path / "table.csv", options(media=media))
    with pytest.raises(ValueError, match="`media` is 'film'"):
        options(media="film")
    with pytest.raises(ValueError, match="min-image-size"):
        options(media="videos", min_image_size=10)
    rows = {"video": [b"film"], "caption": ["a"], "label": ["a"]}
    given = datasets.Dataset.from_dict(rows).cast_column("video", datasets.Video(decode=False))
    with pytest.raises(ValueError, match="column 'video' of the data holds films"):
        load(given)


@pytest.mark.slow_but_for("LSTM")
@pytest.mark.parametrize("head", ["meanP", "LSTM"])
def test_a_video_model_takes_its_own_frames(head, folder, tiny_processor, tmp_path):
    model = ClipHFVideoModel.from_clip(make_tiny_model("vit"), temporal_head=head, num_frames=4)
    with torch.no_grad():
        for weight in model.temporal_head.parameters():
            weight.normal_(std=0.5)
    model.save_pretrained(tmp_path / "model")
    size = {"size": IMAGE_SIZE, "crop_size": IMAGE_SIZE}
    processor = ClipHFProcessor(ClipHFVideoProcessor(num_frames=4, **size), tiny_processor.tokenizer)
    processor.save_pretrained(tmp_path / "model")
    encoder = load_dual_encoder(tmp_path / "model")
    assert isinstance(encoder, VideoEncoder) and encoder.clip == ClipSampling(4)
    assert load_dual_encoder(model, processor=tiny_processor, clip=ClipSampling(2)).clip == ClipSampling(2)
    files = sorted((folder / "actions" / "test").glob("*/*.mp4"))
    inputs = processor.image_processor([str(path) for path in files], return_tensors="pt")["pixel_values"]
    assert torch.equal(encoder.prepare(files)["pixel_values"], inputs)
    with pytest.raises(ValueError, match="only PyTorch runs"):
        load_dual_encoder(tmp_path / "model", runtime="onnx")
    with torch.no_grad():
        right = model.eval().encode_image(inputs)
    found = encoder.encode_images(files)
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    pooled = encoder.encode_images(files, projected=False)
    assert pooled.shape == (6, 16 if encoder.has_temporal_head else 32)
    backwards = encoder.encode_images([[Image.fromarray(each) for each in film("fade_in", 10)[3::-1]]])
    forwards = encoder.encode_images([[Image.fromarray(each) for each in film("fade_in", 10)[:4]]])
    assert torch.allclose(backwards, forwards, atol=1e-4) == (head == "meanP")
    options = SuiteOptions(
        tasks=["zero_shot", "retrieval"],
        data=[str(folder / "actions"), str(folder / "msrvtt_test.json")],
        output_dir=tmp_path / "results",
        encoding=quiet(),
        resamples=0,
    )
    classified, _ = run_suite(tmp_path / "model", options, report=lambda text: None)
    assert classified.image_options == {"num_frames": 4, "num_views": 1}


def test_the_command(folder, tiny_processor, tmp_path, capsys, undrawn_plots):
    checkpoints.save(make_tiny_model("vit"), tiny_processor, tmp_path / "model")
    command = ["evaluate", str(tmp_path / "model"), "--resamples", "0", "--output-dir", str(tmp_path / "results")]
    assert main([*command, "--data", str(folder / "actions")]) != 0
    assert "--num-frames 8" in capsys.readouterr().err
    asked = ["--tasks", "zero_shot", "retrieval", "--data", str(folder / "actions"), str(folder / "msrvtt_test.json")]
    assert main([*command, *asked, "--num-frames", "2", "--num-views", "3", "--aggregate", "probabilities"]) == 0
    shown = capsys.readouterr().out
    assert "num_frames 2, num_views 3" in shown and "text_to_image_median_rank" in shown
    assert main([*command, *asked, "--num-frames", "0"]) != 0
    assert "`num_frames` is 0" in capsys.readouterr().err
