# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Films embedded by any CLIP: against the plain mean of frames, in bulk, in the cache, and in embedding jobs."""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from clip_hf import ClipHFVideoModel
from clip_hf.cli import main
from clip_hf.embedding import (
    VideoEncoder,
    embed,
    encode_image_column,
    encode_readable_images,
    load_dual_encoder,
    read_embeddings,
)
from clip_hf.embedding.load_encoder import sampling_of
from clip_hf.model.image_reading_clip_hf import UnreadableImage
from clip_hf.model.video_reading_clip_hf import ClipSampling, read_clip
from encoding_inputs import count_images, quiet
from films import write_film
from tiny_models import as_transformers_clip, make_tiny_model


def frames_of(number: int, count: int = 12) -> list[np.ndarray]:
    """Frames that fade from one coarse pattern to another, different for each number."""
    generator = np.random.default_rng(number)
    first, last = (
        np.asarray(Image.fromarray(generator.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((64, 64)), np.float64)
        for _ in range(2)
    )
    shares = np.linspace(0, 1, count)
    return [(first * (1 - share) + last * share).astype(np.uint8) for share in shares]


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[Path]:
    """Five films of 12 frames, and one of 3."""
    folder = tmp_path_factory.mktemp("films")
    paths = [write_film(folder / f"{number}.mp4", frames_of(number)) for number in range(5)]
    return [*paths, write_film(folder / "short.webm", frames_of(5, 3), codec="libvpx")]


@pytest.fixture
def inner(tiny_processor):
    return load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)


@pytest.fixture
def films_encoder(inner) -> VideoEncoder:
    return VideoEncoder(inner, ClipSampling(num_frames=4))


def unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features, dim=-1)


def plain_features(inner, film, num_frames: int, num_views: int = 1, projected: bool = True) -> torch.Tensor:
    """The features of one film, view by view and frame by frame."""
    views = []
    for view in range(num_views):
        frames = read_clip(film, ClipSampling(num_frames, num_views), view=view)
        features = torch.cat([inner.encode_images([frame], projected=projected) for frame in frames])
        views.append(unit(features.mean(dim=0)) if projected else features.mean(dim=0))
    mean = torch.stack(views).mean(dim=0)
    return unit(mean) if projected else mean


@pytest.mark.slow_but_for("4", "1", "3")
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize(("num_frames", "num_views"), [(4, 1), (1, 1), (3, 2), (17, 5)])
def test_features_are_the_mean_of_frames_and_views(inner, films, num_frames, num_views, projected):
    encoder = VideoEncoder(inner, ClipSampling(num_frames, num_views))
    found = encoder.encode_images(films, projected=projected)
    right = torch.stack([plain_features(inner, film, num_frames, num_views, projected) for film in films])
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    assert torch.pdist(found).min() > 1e-3  # films differ


def test_films_come_as_files_bytes_rows_and_frames(films_encoder, films):
    right = films_encoder.encode_images(films[:1])
    frames = read_clip(films[0], ClipSampling(12))
    for film in (films[0].read_bytes(), {"path": str(films[0]), "bytes": None}, frames, np.stack(frames)):
        torch.testing.assert_close(films_encoder.encode_images([film]), right, rtol=1e-4, atol=1e-5)


def test_a_picture_is_a_film_of_one_frame(inner, films_encoder, tmp_path):
    picture = Image.fromarray(frames_of(9)[0])
    picture.save(tmp_path / "picture.png")
    right = inner.encode_images([picture])
    for given in (picture, tmp_path / "picture.png", [picture]):
        torch.testing.assert_close(films_encoder.encode_images([given]), right, rtol=1e-4, atol=1e-5)
    assert len(films_encoder.inner.prepare([picture])["pixel_values"]) == 1


@pytest.mark.parametrize("head", ["Transf", "LSTM"])
def test_a_temporal_head_sees_a_picture_once(head, tiny_processor, films):
    model = ClipHFVideoModel.from_clip(make_tiny_model("vit"), head, num_frames=4, temporal_num_layers=1)
    with torch.no_grad():
        for weight in model.temporal_parameters():
            weight.normal_(std=0.2)
    encoder = load_dual_encoder(model, processor=tiny_processor)
    picture = Image.fromarray(frames_of(9)[0])
    pixels = encoder.of_pictures.prepare([picture])["pixel_values"]
    right = torch.cat([encoder.encode_images(films[:1]), model.encode_image(pixels).detach()])
    torch.testing.assert_close(encoder.of_pictures.encode_images([picture]), right[1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.encode_images([films[0], picture]), right, rtol=1e-4, atol=1e-5)
    repeated = encoder.encode_images([[picture] * 4])
    assert (repeated - right[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["transformers", "resnet", pytest.param("onnx", marks=pytest.mark.slow)])
def test_any_encoder_can_be_inside(kind, films, tiny_processor, request):
    if kind == "transformers":
        inner = load_dual_encoder(as_transformers_clip(make_tiny_model("vit")), processor=tiny_processor)
    elif kind == "resnet":
        inner = load_dual_encoder(make_tiny_model("resnet"), processor=tiny_processor)
    else:
        inner = load_dual_encoder(request.getfixturevalue("exported_folder")("vit", "onnx"))
    encoder = VideoEncoder(inner, ClipSampling(3))
    right = torch.stack([plain_features(inner, film, 3) for film in films[:2]])
    torch.testing.assert_close(encoder.encode_images(films[:2]), right, rtol=1e-3, atol=1e-4)
    assert torch.equal(encoder.encode_texts(["a photo of a cat"]), inner.encode_texts(["a photo of a cat"]))
    for name in (
        "name",
        "runtime",
        "dtype",
        "device",
        "projection_dim",
        "logit_scale",
        "logit_bias",
        "context_length",
    ):
        assert getattr(encoder, name) == getattr(inner, name)
    assert encoder.token_ids(["two dogs"]) == inner.token_ids(["two dogs"])
    assert encoder.count_tokens(["two dogs"]) == inner.count_tokens(["two dogs"])


def test_as_many_frames_pass_at_once_as_images(inner, films):
    passes = count_images(inner.model)
    encoder = VideoEncoder(inner, ClipSampling(8))
    data = datasets.Dataset.from_dict({"video": [str(film) for film in films]})
    encode_image_column(encoder, data, options=quiet(batch_size=16))
    assert passes == [16, 16, 16]  # two films of eight frames each
    passes.clear()
    encode_image_column(encoder, data, options=quiet(batch_size=4))
    assert passes == [8] * 6  # a film is not divided


def test_the_fingerprint_says_how_frames_are_taken(inner, tiny_processor):
    encoders = [VideoEncoder(inner, ClipSampling(*numbers)) for numbers in ((8, 1), (4, 1), (8, 2))]
    assert len({inner.fingerprint, *(encoder.fingerprint for encoder in encoders)}) == 4
    again = VideoEncoder(load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor), ClipSampling(8))
    assert again.fingerprint == encoders[0].fingerprint == pickle.loads(pickle.dumps(again)).fingerprint
    other = load_dual_encoder(make_tiny_model("resnet"), processor=tiny_processor, clip=ClipSampling(8))
    assert other.fingerprint != again.fingerprint


def test_features_are_kept_and_not_mixed(inner, films, tmp_path):
    passes = count_images(inner.model)
    data = datasets.Dataset.from_dict({"video": [str(film) for film in films]})
    encoder, options = VideoEncoder(inner, ClipSampling(4)), quiet(cache_dir=tmp_path)
    first = encode_image_column(encoder, data, options=options)
    assert sum(passes) == 24
    assert np.array_equal(encode_image_column(encoder, data, options=options), first)
    assert sum(passes) == 24
    other = encode_image_column(VideoEncoder(inner, ClipSampling(2)), data, options=options)
    assert sum(passes) == 36
    assert not np.allclose(first, other, atol=1e-4)


def test_unreadable_films_are_skipped_and_counted(films_encoder, films, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no film")
    paths = [str(films[0]), str(tmp_path / "empty.mp4"), str(tmp_path / "text.mp4"), *map(str, films[1:])]
    data = datasets.Dataset.from_dict({"video": paths})
    with pytest.warns(UserWarning, match="Films of clips that cannot be read"):
        read = encode_readable_images(films_encoder, data, options=quiet(max_skipped_share=0.5), name="clips")
    assert read.rows.tolist() == [0, 3, 4, 5, 6, 7]
    assert read.skipped["kinds"] == {"file empty": 1, "not a video": 1}
    assert "The film of row 1" in read.skipped["examples"][0]
    with pytest.raises(ValueError, match=r"The film of row 1 \(.*empty.mp4\) cannot be used"):
        encode_image_column(films_encoder, data, options=quiet())
    with pytest.raises(UnreadableImage, match="list of frames is empty"):
        films_encoder.encode_images([[]])


def test_options_of_pictures_reach_the_encoder_inside(inner, films_encoder):
    drawing = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    films_encoder.set_image_options(background_color="navy")
    assert inner.image_options == {"background_color": [0, 0, 128]}
    assert films_encoder.image_options == {"background_color": [0, 0, 128], "num_frames": 4, "num_views": 1}
    right = inner.encode_images([Image.new("RGB", (64, 64), "navy")])
    torch.testing.assert_close(films_encoder.encode_images([drawing]), right, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_is_refused(inner, films_encoder, films):
    with pytest.raises(TypeError, match="encoder of pictures"):
        VideoEncoder(films_encoder)
    with pytest.raises(TypeError, match="ClipSampling"):
        VideoEncoder(inner, 8)
    with pytest.raises(ValueError, match="already"):
        load_dual_encoder(films_encoder, clip=ClipSampling(8))
    assert load_dual_encoder(films_encoder) is films_encoder
    assert load_dual_encoder(inner) is inner
    data = datasets.Dataset.from_dict({"video": [str(films[0])]}).cast_column("video", datasets.Video(decode=False))
    with pytest.raises(ValueError, match="--num-frames 8"):
        encode_image_column(inner, data, "video", options=quiet())


def test_the_frames_are_known_before_the_model_is_loaded(inner, films_encoder, tmp_path):
    assert sampling_of(inner) is None
    assert sampling_of(inner, ClipSampling(3)) == ClipSampling(3)
    assert sampling_of(films_encoder) == ClipSampling(4)
    assert sampling_of("someone/model") is None
    (tmp_path / "config.json").write_text('{"model_type": "clip_hf_video", "num_frames": 16}')
    assert sampling_of(tmp_path) == ClipSampling(16)
    (tmp_path / "config.json").write_text('{"model_type": "clip_hf"}')
    assert sampling_of(tmp_path) is None


def test_an_embedding_job_of_films(films_encoder, films, tmp_path):
    (tmp_path / "films").mkdir()
    for number, film in enumerate(films[:3]):
        (tmp_path / "films" / film.name).write_bytes(film.read_bytes())
        (tmp_path / "films" / f"{film.stem}.txt").write_text(f"the number {number}")
    (tmp_path / "films" / "9.mp4").write_bytes(films[0].read_bytes()[:200])
    options = quiet(max_skipped_share=0.5)
    summary = embed(films_encoder, tmp_path / "films", tmp_path / "out", encoding=options)
    assert (summary.rows, summary.texts, sum(summary.bad.values())) == (3, 3, 1)
    (part,) = read_embeddings(tmp_path / "out")
    right = films_encoder.encode_images(films[:3]).numpy()
    np.testing.assert_allclose(part.images, right, atol=2e-3)


def test_embed_by_command(tiny_processor, films, tmp_path, capsys):
    make_tiny_model("vit").save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    (tmp_path / "films").mkdir()
    for film in films[:2]:
        (tmp_path / "films" / film.name).write_bytes(film.read_bytes())
    command = ["embed", str(tmp_path / "model"), str(tmp_path / "films")]
    assert main([*command, str(tmp_path / "out"), "--num-frames", "2"]) == 0
    assert "2 rows in 1 part" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "out"), "--num-frames", "4"]) != 0
    assert "num_frames (--num-frames) is 2 there and 4 now" in capsys.readouterr().err
