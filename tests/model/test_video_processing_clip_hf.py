# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Films become clips whose frames have the image processor's pixels, in whichever form they come."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from clip_hf import ClipHFImageProcessor, ClipHFProcessor, ClipHFVideoProcessor, UnreadableImage
from clip_hf.model.video_opening_clip_hf import UnreadableVideo, VideoLimits
from clip_hf.model.video_reading_clip_hf import ClipSampling, read_clip
from films import animated_picture, numbered_frames, read_number, write_film
from tiny_models import IMAGE_SIZE


OPTIONS = {"size": {"shortest_edge": IMAGE_SIZE}, "crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return write_film(tmp_path_factory.mktemp("films") / "film.mp4", numbered_frames(20, width=96))


@pytest.fixture(scope="module")
def short_film(tmp_path_factory) -> Path:
    return write_film(tmp_path_factory.mktemp("films") / "short.mp4", numbered_frames(2, width=96, first=100))


@pytest.fixture
def video_processor() -> ClipHFVideoProcessor:
    return ClipHFVideoProcessor(num_frames=4, **OPTIONS)


def test_each_frame_has_the_image_processors_pixels(video_processor, film, short_film):
    image_processor = ClipHFImageProcessor(**OPTIONS)
    clips = video_processor([film, short_film], return_tensors="pt").pixel_values
    assert clips.shape == (2, 4, 3, IMAGE_SIZE, IMAGE_SIZE) and clips.dtype == torch.float32
    for clip, path, numbers in ((clips[0], film, [2, 7, 12, 17]), (clips[1], short_film, [100, 100, 101, 101])):
        frames = read_clip(path, ClipSampling(4))
        assert [read_number(frame) for frame in frames] == numbers
        assert torch.equal(clip, image_processor(frames, return_tensors="pt").pixel_values)


def test_films_in_every_form(video_processor, film):
    expected = video_processor(film, return_tensors="pt").pixel_values
    frames = read_clip(film, ClipSampling(20))
    array = np.stack([np.asarray(frame) for frame in frames])
    with open(film, "rb") as file:
        forms = [
            str(film),
            film.read_bytes(),
            {"path": str(film), "bytes": None},
            {"path": None, "bytes": film.read_bytes()},
            file,
            io.BytesIO(film.read_bytes()),
            frames,
            tuple(frames),
            list(array),
            array,
            torch.from_numpy(array),
            [film],
            [frames],
            array[None],
        ]
        for form in forms:
            assert torch.equal(video_processor(form, return_tensors="pt").pixel_values, expected)
    several = video_processor([frames, str(film), {"path": str(film)}], return_tensors="pt").pixel_values
    assert torch.equal(several, expected.expand(3, -1, -1, -1, -1))
    still = video_processor(frames[7], return_tensors="pt").pixel_values
    assert torch.equal(still, expected[:, 1:2])  # a picture is a clip of one frame


def forms_of(data, path):
    """Bytes as a path, as they are, in a mapping, and as open files."""
    path.write_bytes(data)
    forms = [path, str(path), data, bytearray(data), {"path": None, "bytes": data}, {"path": str(path)}]
    return [*forms, io.BytesIO(data)]


def test_an_animated_gif_is_a_film_and_a_still_one_a_picture(video_processor, tmp_path):
    data = animated_picture("GIF")
    for form in forms_of(data, tmp_path / "a.gif"):
        red, _, _, blue = video_processor(form, return_tensors="pt").pixel_values[0]
        assert red[0].mean() > 1 > 0 > red[2].mean() and blue[2].mean() > 1 > 0 > blue[0].mean()
    still = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(still, "GIF")
    for form in forms_of(still.getvalue(), tmp_path / "still.gif"):
        pixels = video_processor(form, num_views=2, return_tensors="pt").pixel_values
        assert pixels.shape[:2] == (2, 1) and torch.equal(pixels[0], pixels[1])


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_other_animated_pictures_are_refused(video_processor, tmp_path, kind):
    for form in forms_of(animated_picture(kind), tmp_path / f"a.{kind.lower()}"):
        with pytest.raises(UnreadableVideo, match=f"animated {kind} picture.*convert it to a film"):
            video_processor(form)


def test_options_of_a_call(video_processor, film):
    frames = read_clip(film, ClipSampling(20))
    views = video_processor([film, film], num_views=3, num_frames=2, return_tensors="np").pixel_values
    assert views.shape == (6, 2, 3, IMAGE_SIZE, IMAGE_SIZE)
    for view in range(3):
        chosen = read_clip(film, ClipSampling(2, 3), view=view)
        expected = video_processor(chosen, do_sample_frames=False, return_tensors="np").pixel_values[0]
        assert np.array_equal(views[view], expected) and np.array_equal(views[3 + view], expected)
    assert video_processor(frames[:5], do_sample_frames=False, return_tensors="pt").pixel_values.shape[:2] == (1, 5)
    listed = video_processor([film, film]).pixel_values
    assert [array.shape for array in listed] == [(4, 3, IMAGE_SIZE, IMAGE_SIZE)] * 2
    raw = video_processor(film, do_normalize=False, do_rescale=False, data_format="channels_last", return_tensors="pt")
    assert raw.pixel_values.dtype == torch.uint8 and raw.pixel_values.shape == (1, 4, IMAGE_SIZE, IMAGE_SIZE, 3)


def test_it_is_saved_and_loaded(video_processor, tiny_tokenizer, film, tmp_path):
    video_processor.save_pretrained(tmp_path / "alone")
    ClipHFProcessor(video_processor, tiny_tokenizer).save_pretrained(tmp_path / "processor")
    expected = video_processor(film, return_tensors="pt").pixel_values
    processor = AutoProcessor.from_pretrained(tmp_path / "processor")
    assert type(processor) is ClipHFProcessor
    loaded = [
        ClipHFVideoProcessor.from_pretrained(tmp_path / "alone"),
        *(auto.from_pretrained(tmp_path / "alone") for auto in (AutoImageProcessor, AutoVideoProcessor)),
        *(auto.from_pretrained(tmp_path / "processor") for auto in (AutoImageProcessor, AutoVideoProcessor)),
        processor.image_processor,
        ClipHFProcessor.from_pretrained(tmp_path / "processor").image_processor,
    ]
    for each in loaded:
        assert type(each) is ClipHFVideoProcessor and each.num_frames == 4
        assert torch.equal(each(film, return_tensors="pt").pixel_values, expected)


def test_one_of_an_image_models_files(tiny_processor, film, tmp_path):
    tiny_processor.save_pretrained(tmp_path)
    made = ClipHFVideoProcessor.from_pretrained(tmp_path, num_frames=3)
    assert made.num_frames == 3 and made.size == tiny_processor.image_processor.size
    assert made(film, return_tensors="pt").pixel_values.shape == (1, 3, 3, IMAGE_SIZE, IMAGE_SIZE)
    assert type(ClipHFProcessor.from_pretrained(tmp_path).image_processor) is ClipHFImageProcessor


def test_a_processor_takes_films_and_texts(video_processor, tiny_tokenizer, film):
    processor = ClipHFProcessor(video_processor, tiny_tokenizer)
    expected = video_processor([film, film], return_tensors="pt").pixel_values
    for name in ("videos", "images"):
        inputs = processor(**{name: [film, film]}, text=["a dog", "a photo of a cat"], return_tensors="pt")
        assert torch.equal(inputs["pixel_values"], expected) and len(inputs["input_ids"]) == 2
    assert processor(videos=film, num_frames=2, return_tensors="pt")["pixel_values"].shape[:2] == (1, 2)
    with pytest.raises(ValueError, match="give one of them"):
        processor(videos=film, images=film)
    with pytest.raises(ValueError, match="takes images and text, not videos"):
        ClipHFProcessor(ClipHFImageProcessor(**OPTIONS), tiny_tokenizer)(videos=[film])


def test_unusable_films_are_named(video_processor, film, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    for path in (tmp_path / "empty.mp4", tmp_path / "missing.mp4"):
        with pytest.raises(UnreadableVideo, match=rf"Film 1 \({path}\)") as info:
            video_processor([film, path])
        assert isinstance(info.value, UnreadableImage) and info.value.kind
    with pytest.raises(UnreadableVideo, match="The film: the list of frames is empty"):
        video_processor([[]])
    with pytest.raises(UnreadableVideo):
        video_processor(film, video_limits=VideoLimits(max_bytes=10))


@pytest.mark.parametrize(
    ("films", "options", "error", "message"),
    [
        ([], {}, ValueError, "There are no films"),
        ([Image.new("RGB", (9, 9)), "film.mp4"], {}, TypeError, "holds films and single frames"),
        (3, {}, TypeError, "expected the path, the bytes or the open file"),
        ("film.mp4", {"do_sample_frames": False}, TypeError, "takes films that are given as frames, not a str"),
        ([], {"num_frames": 0}, ValueError, "`num_frames` is 0"),
        ([], {"num_views": 0}, ValueError, "`num_views` is 0"),
        ([], {"num_frame": 3}, TypeError, "Unknown option `num_frame`.*Did you mean `num_frames`"),
    ],
)
def test_wrong_input(video_processor, films, options, error, message):
    with pytest.raises(error, match=message):
        video_processor(films, **options)


def test_wrong_options():
    with pytest.raises(ValueError, match="`num_frames` is -1; it must be an integer of at least 1"):
        ClipHFVideoProcessor(num_frames=-1)
