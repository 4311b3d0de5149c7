# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Images of training pairs: the pixels of inference, and a name for everything that can be wrong."""

import errno
import os
import pickle
import random
import re
import warnings

import numpy as np
import pytest
from PIL import Image

from clip_hf import ClipHFImageProcessor
from clip_hf.data import Augmentation, SkippedRow
from clip_hf.data.decoding import ImageReader
from pair_data import bad_files, encoded, image_of


def processor_of(size: int = 12, crop: int = 8, **options) -> ClipHFImageProcessor:
    return ClipHFImageProcessor(size=size, crop_size=crop, **options)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    return encoded(image_of(1).resize((40, 30)), "JPEG", exif=exif)


def stored_images() -> dict[str, bytes]:
    image = image_of(1).resize((40, 30))
    alpha = image.copy()
    alpha.putalpha(Image.linear_gradient("L").resize((40, 30)))
    return {
        "cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "alpha": encoded(alpha),
        "palette": encoded(image.quantize(17)),
        "palette with a transparent colour": encoded(image.quantize(17), "GIF", transparency=3),
        "grey with alpha": encoded(alpha.convert("LA")),
        "16 bits that fit 8": encoded(Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) % 200)),
        "one bit": encoded(image.convert("1")),
        "exif": turned(),
    }


@pytest.mark.parametrize("kind", stored_images())
@pytest.mark.parametrize("options", [{}, {"apply_exif_orientation": True, "background_color": (255, 0, 128)}])
def test_pixels_are_those_of_inference(kind, options):
    data = stored_images()[kind]
    # A crop as large as a square image leaves no choice of the place.
    processor = processor_of(size={"height": 16, "width": 16}, crop=16, **options)
    pixels = ImageReader(processor).read(data, "row 0", random.Random(0))
    expected = processor(data, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, expected)


def test_a_crop_is_a_part_of_the_image_that_inference_resizes():
    processor = processor_of()
    data = encoded(image_of(2).resize((50, 31)))
    whole = processor(data, do_center_crop=False, do_rescale=False, do_normalize=False, return_tensors="np")
    whole = whole["pixel_values"][0]
    places = {whole[:, y : y + 8, x : x + 8].tobytes() for y in range(5) for x in range(whole.shape[2] - 7)}
    reader, generator = ImageReader(processor), random.Random(0)
    crops = {reader.read(data, "row 0", generator).tobytes() for _ in range(40)}
    assert len(crops) > 10 and crops <= places


def test_sources_of_every_kind_give_the_same(tmp_path):
    data = encoded(image_of(3))
    path = tmp_path / "a.png"
    path.write_bytes(data)
    sources = [data, str(path), path, {"bytes": data, "path": "x.png"}, {"bytes": None, "path": str(path)}]
    sources += [image_of(3)]
    reader = ImageReader(processor_of())
    pixels = [reader.read(source, "row 0", random.Random(5)) for source in sources]
    assert all(np.array_equal(array, pixels[0]) for array in pixels)


@pytest.mark.parametrize("kind", bad_files())
def test_damaged_images_are_named_and_raise_nothing(kind, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = ImageReader(processor_of(), min_image_size=2).read(bad_files()[kind], "row 7", random.Random(0))
    assert isinstance(result, SkippedRow)
    assert (result.kind, result.where) == (kind, "row 7")
    assert result.message.startswith("The image of row 7 cannot be used: ")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (None, "image missing", "there is no image"),
        ({"bytes": None, "path": None}, "image missing", "there is no image"),
        (" ", "image missing", "path is blank"),
        (
            "/nowhere/cat.jpg",
            "file missing",
            r"\(/nowhere/cat.jpg\) cannot be used: there is no file /nowhere/cat.jpg",
        ),
        ("zip://cat.jpg::/nowhere/cats.zip", "location refused", "chains with `::`"),
        ("/", "not a regular file", "is a folder"),
        (3.5, "not an image", "got float"),
    ],
)
def test_missing_images_are_named(source, kind, message):
    result = ImageReader(processor_of()).read(source, "row 7", random.Random(0))
    assert result.kind == kind
    assert re.search(message, result.message), result.message


def test_a_large_image_is_read_without_a_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # warns from here on, and refuses from twice as many
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ImageReader(processor_of()).read(encoded(image_of(0)), "row 0", random.Random(0)).shape == (3, 8, 8)


def test_copies_of_a_reader_start_with_an_empty_cache():
    reader = ImageReader(processor_of(), cache_images=True)
    reader.read(encoded(image_of(0)), "row 0", random.Random(0), cache_key=0)
    assert reader.cached(0) is not None
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.cached(0) is None and copy.cache == {}


@pytest.mark.parametrize("cached", [False, True])
def test_a_reader_knows_whether_the_last_picture_lost_its_transparency(cached):
    opaque, drawing = encoded(image_of(0)), encoded(Image.new("RGBA", (20, 20), (0, 0, 0, 0)))
    for background, lost in ((None, True), ("white", False)):
        reader = ImageReader(processor_of(background_color=background), cache_images=cached)
        for _ in range(2):
            for row, (picture, expected) in enumerate(((opaque, False), (drawing, lost))):
                reader.read(picture, "row", random.Random(0), row)
                assert reader.lost_alpha is expected
        assert pickle.loads(pickle.dumps(reader)).lost_alpha is False


def test_a_strip_costs_no_gigabytes():
    # Resized as a whole it would be 12 x 360,000 pixels, and kept in the cache.
    data = encoded(Image.new("L", (1, 30_000), 7))
    reader = ImageReader(processor_of(), cache_images=True)
    assert np.all(reader.read(data, "row 0", random.Random(0), 0) == 7)
    assert reader.cached(0) is None


def test_an_image_that_the_crop_does_not_fit():
    result = ImageReader(processor_of(do_resize=False, crop=11)).read(encoded(image_of(0)), "row 3", random.Random(0))
    assert result.kind == "image too small"
    assert "11 x 11 pixels does not fit into an image of 10 x 12" in result.message


def test_augmentation_needs_rgb():
    with pytest.raises(ValueError, match="do_convert_rgb=True"):
        ImageReader(processor_of(do_convert_rgb=False), Augmentation(blur=0.5))


def test_the_path_of_a_pipe_is_named_once(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    problem = ImageReader(processor_of()).read(str(tmp_path / "a.png"), "row 7", random.Random(0))
    assert problem.message.endswith(f"row 7 ({tmp_path}/a.png) cannot be used: it is a pipe or device, not a file.")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EMFILE, "Raise the limit (`ulimit -n`)"),
        (errno.ENOMEM, "Use fewer threads"),
        (errno.EIO, "Check the disk"),
        (errno.ESTALE, "Mount the network drive anew"),
        (errno.ENOSPC, "Make room on the disk, and run again"),
        (errno.EDQUOT, "Make room on the disk"),
    ],
)
def test_a_shortage_of_the_machine_is_no_fault_of_the_image(number, advice, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(image_of(0)))

    def short(*arguments, **keywords):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", short)
    message = (
        f"{os.strerror(number)}: the image of row 7 could not be read, which says nothing about the data. {advice}"
    )
    with pytest.raises(OSError, match=re.escape(message)) as caught:
        ImageReader(processor_of()).read(str(tmp_path / "a.png"), "row 7", random.Random(0))
    assert caught.value.errno == number


def test_an_error_of_a_server_is_no_fault_of_the_machine(monkeypatch):
    """`s3fs` and others give all errors of their servers a number of this machine's."""

    def fail(*arguments, **keywords):
        raise OSError(errno.EIO, "SlowDown") from RuntimeError("SlowDown")

    monkeypatch.setattr("fsspec.open", fail)
    assert ImageReader(processor_of()).read("s3://bucket/a.png", "row 7", None).kind == "file cannot be read"
