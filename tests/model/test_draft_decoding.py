# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`draft=True`: JPEG files decoded at a part of their size, against the exact pixels."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image, ImageCms

import clip_hf
from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.model.image_reading_clip_hf import UnreadableImage, open_image
from test_same_pixels import exif
from tiny_models import make_tiny_model


EDGE = 32  # of the pixels in these tests
# A wave is 12 pixels long after resizing, so that half a pixel in a wrong place changes values by up to 20 of 255.
TOLERANCE, MEAN_TOLERANCE = 5, 0.4


def waves(width: int, height: int) -> Image.Image:
    """Smooth waves along both axes, a different number in each colour, as fine as a tenth of the shorter edge."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    step = 2 * np.pi * EDGE / 12 / min(width, height)
    bands = [127 + 60 * np.sin(step * x * (1 + c / 4)) + 60 * np.cos(step * y * (1 - c / 4)) for c in range(3)]
    return Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8))


def jpeg(image: Image.Image, **options) -> bytes:
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=95, **options)
        return file.getvalue()


def processor_of(**options) -> ClipHFImageProcessor:
    return ClipHFImageProcessor(**{"size": EDGE, "crop_size": EDGE, "do_normalize": False, **options})


def compare(data: bytes, **options) -> np.ndarray:
    """Differences of the values, 0 to 255, between draft and exact pixels."""
    processor = processor_of(**options)
    exact, draft = (processor(data, return_tensors="np", draft=on).pixel_values[0] for on in (False, True))
    assert exact.shape == draft.shape
    return np.abs(exact - draft) * 255


def assert_close(differences: np.ndarray) -> None:
    assert 0 < differences.max() < TOLERANCE and differences.mean() < MEAN_TOLERANCE


@pytest.mark.parametrize(
    ("edge", "size", "part"),
    [
        (100, (126, 100), (0, 0, 125.125, 100)),
        (101, (251, 200), (0, 0, 250.25, 200)),
        (201, (501, 400), (0, 0, 500.5, 400)),
        (400, (501, 400), (0, 0, 500.5, 400)),
        (1, (126, 100), (0, 0, 125.125, 100)),
    ],
)
def test_a_draft_is_the_smallest_with_enough_pixels(edge, size, part):
    image = open_image(jpeg(waves(1001, 800)), draft_edge=edge)
    assert image.size == size and image.drafted == ((1001, 800), part)


@pytest.mark.parametrize("edge", [401, 800, 10_000])
def test_a_file_with_too_few_pixels_is_decoded_whole(edge):
    image = open_image(jpeg(waves(1001, 800)), draft_edge=edge)
    assert image.size == (1001, 800) and not hasattr(image, "drafted")


@pytest.mark.parametrize("size", [(513, 777), (800, 513), (519, 519), (257, 263)])
@pytest.mark.parametrize("kind", ["plain", "progressive", "grey", "CMYK", "4:4:4"])
def test_drafts_are_near_the_exact_pixels(size, kind):
    image = waves(*size)
    image = image.convert({"grey": "L", "CMYK": "CMYK"}.get(kind, "RGB"))
    data = jpeg(image, progressive=kind == "progressive", subsampling=0 if kind == "4:4:4" else 2)
    assert_close(compare(data))


def test_files_of_phones_and_editors_are_drafted():
    image = waves(901, 700)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with io.BytesIO() as file:
        image.save(file, "MPO", save_all=True, append_images=[image.rotate(180)], quality=95)
        several = file.getvalue()
    for data in (several, jpeg(image, icc_profile=profile), jpeg(image) + b"more" * 1000):
        assert_close(compare(data))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1001, 777), (521, 520)])
def test_drafts_are_turned_upright(orientation, size):
    data = jpeg(waves(*size), exif=exif(orientation))
    assert_close(compare(data))
    assert_close(compare(data, apply_exif_orientation=False))


@pytest.mark.parametrize(
    "options",
    [
        {"do_center_crop": False},
        {"crop_size": {"height": 20, "width": 50}},
        {"crop_size": {"height": 90, "width": 80}},  # padded
        {"size": {"height": EDGE, "width": 2 * EDGE}},
        {"size": {"shortest_edge": EDGE, "longest_edge": 40}},
        {"size": {"max_height": EDGE, "max_width": 50}, "do_center_crop": False},
        {"resample": Image.Resampling.BILINEAR},
    ],
)
def test_drafts_follow_every_rule_of_sizes(options):
    assert_close(compare(jpeg(waves(1301, 777)), **options))


def test_what_cannot_be_a_draft_is_exact():
    big, small = waves(700, 600), jpeg(waves(127, 140))
    for source in (big, np.asarray(big), small, jpeg(waves(1, 1)), jpeg(waves(3, 2))):
        assert compare(source).max() == 0
    for name in ("PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000"):
        with io.BytesIO() as file:
            big.save(file, name)
            assert compare(file.getvalue()).max() == 0
    assert compare(jpeg(big), do_resize=False).max() == 0


def test_an_image_of_the_caller_stays_as_it_is():
    image = Image.open(io.BytesIO(jpeg(waves(700, 600))))  # not yet decoded
    assert compare(image).max() == 0 and image.size == (700, 600)


def test_every_way_to_a_file_drafts(tmp_path):
    data = jpeg(waves(700, 600))
    (tmp_path / "a.jpg").write_bytes(data)
    text = base64.b64encode(data).decode()
    expected = processor_of()(data, draft=True, return_tensors="np").pixel_values
    for source in (
        tmp_path / "a.jpg",
        str(tmp_path / "a.jpg"),
        text,
        f"data:image/jpeg;base64,{text}",
        {"bytes": data},
    ):
        found = processor_of(draft=True)(source, return_tensors="np").pixel_values
        np.testing.assert_array_equal(found, expected)
    with open(tmp_path / "a.jpg", "rb") as file:
        np.testing.assert_array_equal(processor_of(draft=True)(file, return_tensors="np").pixel_values, expected)


def test_damaged_files_are_errors_in_drafts_too():
    data = jpeg(waves(700, 600))
    for end, kind in ((len(data) // 2, "file truncated"), (20, "file damaged"), (len(data) - 2, "file truncated")):
        kinds = []
        for draft in (False, True):
            try:
                processor_of()(data[:end], draft=draft)
                kinds.append("none")
            except UnreadableImage as error:
                kinds.append(error.kind)
        assert kinds[0] == kinds[1]
        assert end == len(data) - 2 or kinds[0] == kind
    with pytest.raises(ValueError, match="more than the 419,999 that `max_pixels` allows"):
        processor_of()(data, draft=True, image_limits=clip_hf.ImageLimits(max_pixels=419_999))


def test_drafts_are_never_saved(tmp_path, tiny_tokenizer):
    processor = processor_of(draft=True)
    assert processor.draft and "draft" not in processor.to_dict()
    processor.save_pretrained(tmp_path)
    assert not ClipHFImageProcessor.from_pretrained(tmp_path).draft
    assert ClipHFImageProcessor.from_pretrained(tmp_path, draft=True).draft
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "draft": True}))
    assert not ClipHFImageProcessor.from_pretrained(tmp_path).draft
    data = jpeg(waves(700, 600))
    both = ClipHFProcessor(processor_of(), tiny_tokenizer)
    found = both(images=data, draft=True, return_tensors="np").pixel_values
    np.testing.assert_array_equal(found, processor(data, return_tensors="np").pixel_values)
    for value in ("yes", 2, 0.5):
        with pytest.raises(ValueError, match=f"draft={value!r} must be True or False"):
            processor_of(draft=value)


def test_the_pipeline_drafts(tiny_processor, tmp_path):
    data = jpeg(waves(700, 600))
    (tmp_path / "a.jpg").write_bytes(data)
    pipe = clip_hf.ClipHFZeroShotImageClassificationPipeline(
        model=make_tiny_model("vit"),
        image_processor=tiny_processor.image_processor,
        tokenizer=tiny_processor.tokenizer,
        device="cpu",
    )
    pixels = pipe.preprocess(str(tmp_path / "a.jpg"), draft=True)["pixel_values"]
    expected = tiny_processor.image_processor(data, draft=True, return_tensors="pt").pixel_values
    np.testing.assert_array_equal(pixels.numpy(), expected.numpy())
    assert (pixels != pipe.preprocess(data)["pixel_values"]).any()
    labels = ["a cat", "a dog"]
    assert pipe(data, labels, draft=True) != pipe(data, labels)
    with pytest.raises(ValueError, match="draft='no' must be True or False"):
        pipe(data, labels, draft="no")
