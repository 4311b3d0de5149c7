# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How evaluations read image files: backgrounds, orientation, sizes, limits; ours and other libraries' models."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor

from _clip_hf_cli import Parser
from _clip_hf_cli.evaluate import add_evaluation_arguments
from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.cli.evaluate import suite_options
from clip_hf.embedding.load_encoder import load_dual_encoder
from clip_hf.embedding.transformers_encoder import ClipHFEncoder
from clip_hf.evaluation.registry.evaluation_data import (
    CaptionedDataOptions,
    ClassificationOptions,
    load_classification,
    load_retrieval,
)
from clip_hf.model.image_processing_clip_hf import opens_files
from clip_hf.model.image_reading_clip_hf import ImageLimits
from clip_hf.model.image_transform_clip_hf import parse_color
from test_same_pixels import exif
from tiny_models import IMAGE_SIZE, as_transformers_clip, make_tiny_model


def drawing(number: int) -> Image.Image:
    """A square on transparency whose hidden colour is another one."""
    array = np.random.default_rng(number).integers(0, 256, (40, 40, 4), dtype=np.uint8)
    array[..., 3] = 0
    array[8:30, 4:20, 3] = 255
    return Image.fromarray(array)


def on_navy(image: Image.Image) -> Image.Image:  # transformers' own processor puts drawings on white
    return Image.alpha_composite(Image.new("RGBA", image.size, "navy"), image).convert("RGB")


@pytest.fixture(scope="module", params=["ours", "ours, saved processor", "transformers"])
def encoder(request, tiny_tokenizer):
    model = make_tiny_model("vit")
    size = {"size": IMAGE_SIZE, "crop_size": IMAGE_SIZE}
    if request.param == "transformers":
        return load_dual_encoder(as_transformers_clip(model), processor=(CLIPImageProcessor(**size), tiny_tokenizer))
    image_processor = ClipHFImageProcessor(**size)
    if request.param == "ours":
        return load_dual_encoder(model, processor=(image_processor, tiny_tokenizer))
    return load_dual_encoder(model, processor=ClipHFProcessor(image_processor, tiny_tokenizer))


def test_a_background_is_put_behind_drawings(encoder, monkeypatch):
    drawings = [drawing(number) for number in range(3)]
    right = encoder.encode_images([on_navy(image) for image in drawings])
    before, fingerprint = encoder.encode_images(drawings), encoder.fingerprint
    assert not torch.allclose(before, right, atol=1e-3)
    own = encoder.processor
    for color in ("navy", "#000080", "0, 0, 128", [0, 0, 128]):
        encoder.set_image_options(background_color=color)
        torch.testing.assert_close(encoder.encode_images(drawings), right)
    assert encoder.fingerprint != fingerprint  # features that were kept are of another background
    image_processor = own[0] if isinstance(own, tuple) else own.image_processor
    assert getattr(image_processor, "background_color", None) is None  # the caller's is as it was
    with pytest.raises(ValueError, match="'sky' is not a colour; it must be a name"):
        encoder.set_image_options(background_color="sky")


def test_changed_options_are_told(encoder):
    """Only what differs from the image processor's own; the options are set one after the other, as by a user."""
    own = encoder.image_options
    encoder.set_image_options(background_color="white", apply_exif_orientation=False)
    assert encoder.image_options == {**own, "background_color": [255, 255, 255], "apply_exif_orientation": False}
    before = encoder.image_options
    encoder.set_image_options(apply_exif_orientation=True, high_bit_depth="scale", draft=True)
    assert encoder.image_options == {"background_color": [255, 255, 255], "high_bit_depth": "scale", "draft": True}
    encoder.set_image_options(high_bit_depth="clip", draft=False)
    # What Pillow does is the default of other libraries' models, and ours refuse.
    ours = isinstance(encoder, ClipHFEncoder) and opens_files(encoder.image_processor)
    assert encoder.image_options.get("high_bit_depth") == ("clip" if ours else None)
    assert "draft" not in encoder.image_options and before["apply_exif_orientation"] is False


def test_a_model_with_a_background_of_its_own_has_no_changed_options(tiny_tokenizer):
    image_processor = ClipHFImageProcessor(size=IMAGE_SIZE, crop_size=IMAGE_SIZE, background_color=[255, 255, 255])
    encoder = load_dual_encoder(make_tiny_model("vit"), processor=ClipHFProcessor(image_processor, tiny_tokenizer))
    encoder.set_image_options(background_color="white", high_bit_depth="error")
    assert encoder.image_options == {}
    encoder.set_image_options(background_color="navy")
    encoder.set_image_options(background_color="red")
    assert encoder.image_options == {"background_color": [255, 0, 0]}
    encoder.set_image_options(background_color="white")
    assert encoder.image_options == {} and pickle.loads(pickle.dumps(encoder)).image_options == {}


def test_large_files_are_drafted(encoder, tmp_path):
    x, y = np.meshgrid(np.arange(1001), np.arange(750))
    photo = Image.fromarray(np.stack([x % 256, y % 200, (x + y) % 256], axis=-1).astype(np.uint8))
    photo.save(tmp_path / "photo.jpg")
    files = [tmp_path / "photo.jpg", (tmp_path / "photo.jpg").read_bytes()]
    exact, fingerprint = encoder.encode_images(files), encoder.fingerprint
    encoder.set_image_options(draft=True)
    drafts = encoder.encode_images(files)
    assert encoder.fingerprint != fingerprint
    assert (drafts != exact).any() and (drafts * exact).sum(dim=-1).min() > 0.99
    opened = [Image.open(files[0]) for _ in files]
    torch.testing.assert_close(encoder.encode_images(opened), exact)  # what the caller opened stays exact
    encoder.set_image_options(draft=False)
    assert encoder.fingerprint == fingerprint and torch.equal(encoder.encode_images(files), exact)
    with pytest.raises(ValueError, match="`draft` is 'yes'; it must be True or False"):
        encoder.set_image_options(draft="yes")


def test_images_prepared_in_threads_are_the_same(encoder, monkeypatch):
    images = [drawing(number) for number in range(5)]
    expected = encoder.prepare(images)["pixel_values"]
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(encoder.prepare, images).result()["pixel_values"], expected)
        with pytest.raises(ValueError, match="no file nothing.png"):
            pool.submit(encoder.prepare, [*images, Path("nothing.png")]).result()
        if isinstance(encoder, ClipHFEncoder):
            monkeypatch.setattr(
                encoder,
                "image_processor",
                ClipHFImageProcessor(size=40, crop_size=32, do_pad=True, pad_size={"height": 50, "width": 50}),
            )
            padded = pool.submit(encoder.prepare, images).result()["pixel_values"]
            assert padded.shape == (5, 3, 50, 50) and torch.equal(padded, encoder.prepare(images)["pixel_values"])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(encoder, orientation, tmp_path):
    image = on_navy(drawing(5))
    image.save(tmp_path / "a.png", exif=exif(orientation))
    stored = encoder.encode_images([image])
    found = encoder.encode_images([str(tmp_path / "a.png")])
    assert torch.allclose(found, stored, atol=1e-4) == (orientation == 1)
    encoder.set_image_options(apply_exif_orientation=False)
    torch.testing.assert_close(encoder.encode_images([str(tmp_path / "a.png")]), stored)
    encoder.set_image_options(apply_exif_orientation=True)


def test_images_of_16_bits(encoder, tmp_path):
    values = np.random.default_rng(0).integers(9000, 65536, (40, 40), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    encoder.set_image_options(high_bit_depth="error")
    path, before = str(tmp_path / "a.png"), encoder.fingerprint
    eight = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    white = Image.fromarray(np.full((40, 40), 255, np.uint8))
    for policy, expected in (("scale", eight), ("clip", white)):  # all values are above 255
        encoder.set_image_options(high_bit_depth=policy)
        torch.testing.assert_close(encoder.encode_images([path]), encoder.encode_images([expected]))
        assert encoder.fingerprint != before  # features that were kept are of other pixels
    assert torch.dist(encoder.encode_images([eight]), encoder.encode_images([white])) > 0.02
    encoder.set_image_options(high_bit_depth="error")
    with pytest.raises(ValueError, match="which do not fit 8 bits"):
        encoder.encode_images([path])
    with pytest.raises(ValueError, match="`high_bit_depth` is 'white'; it must be one of error, clip, scale"):
        encoder.set_image_options(high_bit_depth="white")


def test_limits_hold(encoder):
    encoder.set_image_options(image_limits=ImageLimits(max_pixels=1599))
    with pytest.raises(ValueError, match="40x40 pixels, more than the 1,599"):
        encoder.encode_images([drawing(0)])
    encoder.set_image_options(image_limits=ImageLimits())
    assert encoder.encode_images([drawing(0)]).shape[0] == 1


@pytest.mark.parametrize(
    ("text", "color"),
    [("white", [255, 255, 255]), ("#010203", [1, 2, 3]), ("1,2,3", [1, 2, 3]), ((4, 5, 6), [4, 5, 6])],
)
def test_colours(text, color):
    assert parse_color(text) == color


@pytest.mark.parametrize("text", ["", "1,2", "1,2,300", "a,b,c", [], [1.5, None, 2], "#12", "1,2,3,4"])
def test_what_is_no_colour(text):
    with pytest.raises(ValueError, match="is not a colour"):
        parse_color(text)


@pytest.mark.parametrize("task", ["classification", "retrieval"])
def test_small_images_are_left_out(task, tmp_path, caplog):
    (tmp_path / "cat").mkdir()
    for number, size in enumerate([(40, 40), (40, 9), (10, 40), (9, 9)]):
        drawing(number).resize(size).save(tmp_path / "cat" / f"{number}.png")
        (tmp_path / "cat" / f"{number}.txt").write_text(f"drawing {number}")
    (tmp_path / "cat" / "unreadable.png").write_bytes(b"no image")
    (tmp_path / "cat" / "unreadable.txt").write_text("no image")
    if task == "classification":
        data = load_classification(str(tmp_path), ClassificationOptions(min_image_size=10))
    else:
        data = load_retrieval(str(tmp_path), CaptionedDataOptions(min_image_size=10))
        assert data.captions == [["drawing 0"], ["drawing 2"], ["no image"]]
    assert len(data) == 3
    assert "2 of 5 images are smaller than 10 pixels" in caplog.text
    with pytest.raises(ValueError, match="`min_image_size` is 0"):
        ClassificationOptions(min_image_size=0)


def test_the_command_has_these_options():
    parser = Parser()
    add_evaluation_arguments(parser)
    line = (
        "--data x --background_color white --apply_exif_orientation --min_image_size 8 --max_image_pixels 99".split()
    )
    options = suite_options(parser.parse_args(line), "out")
    assert options.image_options["background_color"] == "white"
    assert options.image_options["apply_exif_orientation"] is True
    assert options.image_options["draft"] is None
    assert options.image_options["image_limits"] == ImageLimits(max_pixels=99)
    assert options.data_options.min_image_size == 8
    line = "--data x --no-apply-exif-orientation --background-color #000 --max-image-seconds 2.5 --draft".split()
    options = suite_options(parser.parse_args(line), "out")
    assert options.image_options["apply_exif_orientation"] is False
    assert options.image_options["draft"] is True
    assert options.image_options["image_limits"].max_seconds == 2.5
    assert suite_options(parser.parse_args(["--data", "x"]), "out").image_options["apply_exif_orientation"] is None
