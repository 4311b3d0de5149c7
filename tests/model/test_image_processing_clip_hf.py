# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The image processor against OpenAI's transform, written out plainly, and against all that users put into it."""

import base64
import copy
import http.server
import io
import json
import logging
import multiprocessing
import pickle
import threading
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clip_hf import ClipHFImageProcessor
from clip_hf.model import image_resizing_clip_hf
from clip_hf.model.image_reading_clip_hf import open_image
from odd_images import MODES_8_BITS, MODES_MORE_BITS, make_image


MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
SIZES = (
    (1, 1),
    (1, 40),
    (40, 1),
    (9, 7),
    (7, 9),
    (33, 32),
    (32, 32),
    (35, 90),
    (90, 35),
    (96, 64),
    (200, 11),
    (11, 200),
)


def plain_pixels(image: Image.Image, n_px: int) -> np.ndarray:
    """OpenAI's `_transform` step by step: torchvision's Resize, CenterCrop, RGB, ToTensor and Normalize."""
    width, height = image.size
    size = (n_px, int(n_px * height / width)) if width <= height else (int(n_px * width / height), n_px)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - n_px) / 2), round((size[1] - n_px) / 2)
    image = image.crop((left, top, left + n_px, top + n_px)).convert("RGB")
    values = np.asarray(image).astype(np.float32) / np.float32(255)
    return ((values - MEAN) / STD).transpose(2, 0, 1)


def processor_of(n_px: int, **kwargs) -> ClipHFImageProcessor:
    return ClipHFImageProcessor(size=n_px, crop_size=n_px, **kwargs)


def pixels_of(processor: ClipHFImageProcessor, image, **kwargs) -> np.ndarray:
    return processor(image, return_tensors="np", **kwargs).pixel_values[0]


@pytest.fixture
def picture() -> Image.Image:
    return make_image("RGB", (60, 44))


@pytest.fixture
def transformers_warnings():
    """The warnings that transformers logs, as a list."""
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    loggers = [logging.getLogger("transformers"), logging.getLogger("clip_hf")]
    for logger in loggers:
        logger.addHandler(handler)
    yield records
    for logger in loggers:
        logger.removeHandler(handler)


# -------------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize("mode", MODES_8_BITS + MODES_MORE_BITS)
def test_equals_plain_reference_in_every_mode(mode):
    processor = processor_of(32)
    for size in SIZES:
        image = make_image(mode, size)
        np.testing.assert_array_equal(pixels_of(processor, image), plain_pixels(image, 32), err_msg=f"{mode} {size}")


@pytest.mark.parametrize("n_px", [1, 5, 31, 224])
def test_equals_plain_reference_at_other_resolutions(n_px):
    processor = processor_of(n_px)
    for size in [(3, 2), (64, 41), (41, 64), (90, 60), (60, 90), (225, 223), (449, 300)]:
        image = make_image("RGB", size)
        np.testing.assert_array_equal(pixels_of(processor, image), plain_pixels(image, n_px), err_msg=str(size))


def test_the_default_is_openai_for_224_pixels(picture):
    np.testing.assert_array_equal(pixels_of(ClipHFImageProcessor(), picture), plain_pixels(picture, 224))


def test_mode_la_premultiplied_is_read_as_la():
    image = make_image("LA", (30, 40))
    np.testing.assert_array_equal(pixels_of(processor_of(24), image.convert("La")), plain_pixels(image, 24))


def test_transparency_of_palettes_is_dropped_without_a_warning(recwarn):
    for size in ((30, 40), (24, 24)):  # the latter is not resized
        image = make_image("P", size)
        expected = plain_pixels(image, 24)
        for transparency in (3, bytes(range(256))):
            image.info["transparency"] = transparency
            np.testing.assert_array_equal(pixels_of(processor_of(24), image), expected)
            assert image.info["transparency"] == transparency
    assert not recwarn.list


def test_features_of_the_pixels():
    pixels = pixels_of(processor_of(8), make_image("RGB", (30, 40)))
    assert pixels.dtype == np.float32
    assert pixels.shape == (3, 8, 8)
    white = pixels_of(processor_of(8), Image.new("RGB", (9, 9), "white"))
    np.testing.assert_allclose(white[:, 0, 0], (1 - MEAN) / STD, rtol=1e-6)


@pytest.mark.slow
def test_long_images_take_little_memory(monkeypatch):
    """OpenAI's transform would make two gigabytes of each."""
    resize = Image.Image.resize

    def bounded(self, size, *args, **kwargs):
        assert size[0] * size[1] <= 2**25
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", bounded)
    processor = ClipHFImageProcessor()
    for mode in ("RGB", "RGBA", "L", "P", "1"):
        for size in ((1, 10_000), (10_000, 1)):
            image = make_image(mode, size)
            # A pixel of the source fills 224 of the result, so the middle twenty are more than the crop shows.
            middle = image.crop((0, 4990, 1, 5010) if size[0] == 1 else (4990, 0, 5010, 1))
            np.testing.assert_array_equal(pixels_of(processor, image), plain_pixels(middle, 224))
    for mode in ("I;16", "LAB"):
        assert pixels_of(processor_of(32), make_image(mode, (2, 3_000))).shape == (3, 32, 32)


def test_another_pillow_resizes_whole_images(monkeypatch):
    monkeypatch.setattr(image_resizing_clip_hf, "_pass_order", lambda: None)
    for size in SIZES:
        image = make_image("RGB", size)
        np.testing.assert_array_equal(pixels_of(processor_of(32), image), plain_pixels(image, 32))


def test_center_crop_of_arrays():
    array = np.arange(3 * 5 * 7).reshape(3, 5, 7)
    found = ClipHFImageProcessor().center_crop(array, {"height": 2, "width": 9})
    np.testing.assert_array_equal(found[:, :, 1:-1], array[:, 2:4])
    assert not found[:, :, [0, -1]].any()
    found = ClipHFImageProcessor().center_crop(array, {"height": 5, "width": 10})
    np.testing.assert_array_equal(found[:, :, 1:8], array)
    assert not found[:, :, [0, 8, 9]].any()


# -------------------------------------------------------------------------------------------------------------- inputs


def png_bytes(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_every_form_of_an_image_gives_the_same_pixels(picture, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(png_bytes(picture))
    text = base64.b64encode(path.read_bytes()).decode()
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy())
    forms = [
        picture, Image.open(path), str(path), path, path.read_bytes(), bytearray(path.read_bytes()),
        {"bytes": path.read_bytes(), "path": "not/here.png"}, {"bytes": None, "path": str(path)},
        text, f"data:image/png;base64,{text}", text[:50] + "\n" + text[50:],
        array, array.transpose(2, 0, 1), array.astype(np.int64), array.astype(np.float32), array.astype(">f8"),
        tensor, tensor.permute(2, 0, 1), tensor.float(), tensor.half(), torch.nn.Parameter(tensor.float()),
    ]  # fmt: skip
    processor = processor_of(16)
    expected = plain_pixels(picture, 16)
    for number, form in enumerate(forms):
        np.testing.assert_array_equal(pixels_of(processor, form), expected, err_msg=str(number))
    # An alpha channel takes part in resizing, then is dropped.
    rgba = np.dstack([array, array[..., :1]])
    np.testing.assert_array_equal(pixels_of(processor, rgba), plain_pixels(Image.fromarray(rgba), 16))
    mixed = processor([forms[0], [forms[2], (forms[11], [forms[16]])]], return_tensors="pt").pixel_values
    assert mixed.shape == (4, 3, 16, 16)
    assert (mixed == torch.from_numpy(expected)).all()


def test_columns_of_datasets(picture, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(png_bytes(picture))
    rows = datasets.Dataset.from_dict({"image": [str(path), str(path)]}).cast_column("image", datasets.Image())
    encoded = rows.cast_column("image", datasets.Image(decode=False))
    expected = np.stack([plain_pixels(picture, 16)] * 2)
    for column in (rows["image"], encoded["image"], rows[:]["image"]):
        np.testing.assert_array_equal(processor_of(16)(column, return_tensors="np").pixel_values, expected)


def test_batched_arrays(picture):
    array = np.stack([np.asarray(picture), 255 - np.asarray(picture)])
    processor = processor_of(16)
    expected = np.stack([plain_pixels(Image.fromarray(item), 16) for item in array])
    for batch in (array, array.transpose(0, 3, 1, 2), torch.from_numpy(array), list(array), [array[:1], array[1:]]):
        np.testing.assert_array_equal(processor(batch, return_tensors="np").pixel_values, expected)


def test_grey_and_boolean_arrays():
    grey = np.asarray(make_image("L", (20, 30)))
    expected = plain_pixels(Image.fromarray(grey), 16)
    for array in (grey, grey[..., None], grey[None]):
        np.testing.assert_array_equal(pixels_of(processor_of(16), array), expected)
    black_and_white = grey > 99
    expected = plain_pixels(Image.fromarray(black_and_white.astype(np.uint8) * 255), 16)
    np.testing.assert_array_equal(pixels_of(processor_of(16), black_and_white), expected)


def test_input_data_format_decides_what_shapes_do_not():
    array = np.asarray(make_image("RGB", (3, 3))).reshape(3, 3, 3)
    processor = processor_of(8)
    last = pixels_of(processor, array, input_data_format="channels_last")
    first = pixels_of(processor, array, input_data_format="channels_first")
    np.testing.assert_array_equal(last, plain_pixels(Image.fromarray(array), 8))
    np.testing.assert_array_equal(first, plain_pixels(Image.fromarray(array.transpose(1, 2, 0).copy()), 8))
    with pytest.raises(ValueError, match=r"Image 0: in an array of shape \(3, 3, 3\) the first or the last axis"):
        processor(array)


def test_floats_from_0_to_1_are_not_divided_again(picture):
    array = np.asarray(picture).astype(np.float32) / 255
    processor = processor_of(16)
    np.testing.assert_array_equal(pixels_of(processor, array, do_rescale=False), plain_pixels(picture, 16))
    np.testing.assert_array_equal(
        pixels_of(processor, torch.from_numpy(array), do_rescale=False), plain_pixels(picture, 16)
    )
    near = np.clip(array - 0.4 / 255, 0, 1)  # to the nearest of 8 bits
    np.testing.assert_array_equal(pixels_of(processor, near, do_rescale=False), plain_pixels(picture, 16))
    with pytest.raises(ValueError, match=r"Image 0: the values are floats from 0 to 1 already.*do_rescale=False"):
        processor(array)


def test_floats_that_are_not_resized_keep_their_values():
    array = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    kwargs = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    pixels = pixels_of(ClipHFImageProcessor(), array, do_center_crop=False, **kwargs)
    np.testing.assert_array_equal(pixels, array.transpose(2, 0, 1))
    cropped = pixels_of(ClipHFImageProcessor(), array, crop_size={"height": 4, "width": 7}, **kwargs)
    np.testing.assert_array_equal(cropped[:, :, 1:6], array.transpose(2, 0, 1)[:, 1:5])
    assert not cropped[:, :, [0, 6]].any()
    normalised = pixels_of(ClipHFImageProcessor(), array, do_center_crop=False, do_resize=False, do_rescale=False)
    np.testing.assert_array_equal(normalised, ((array - MEAN) / STD).transpose(2, 0, 1))


def test_urls(picture, tmp_path, monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path == "/picture.png"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(png_bytes(picture) if found else b"not here")

        def log_message(self, *args):
            pass

    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        np.testing.assert_array_equal(pixels_of(processor_of(16), f"{url}picture.png"), plain_pixels(picture, 16))
        with pytest.raises(
            ValueError, match=r"Image 1 \(http://127.0.0.1:\d+/other.png\): the download failed: .*404"
        ):
            processor_of(16)([picture, f"{url}other.png"])
        server.shutdown()


def test_fetch_images_opens_files_and_leaves_images(picture, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(png_bytes(picture))
    array = np.zeros((4, 4, 3), np.uint8)
    opened, (same, arrays) = ClipHFImageProcessor().fetch_images([str(path), [picture, array]])
    assert opened.tobytes() == picture.tobytes()
    assert same is picture
    assert arrays is array
    assert open_image(path).mode == "RGB"


def test_batches_are_the_same_with_threads(monkeypatch):
    images = [make_image("RGB", (50 + number, 40), number) for number in range(9)]
    expected = np.stack([plain_pixels(image, 32) for image in images])
    for threads in (1, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        np.testing.assert_array_equal(processor_of(32)(images, return_tensors="np").pixel_values, expected)
    # One object twice: two threads must not decode it at once.
    lazy = Image.open(io.BytesIO(png_bytes(images[0])))
    np.testing.assert_array_equal(
        processor_of(32)([lazy] * 5, return_tensors="np").pixel_values, expected[:1].repeat(5, 0)
    )


def test_worker_processes_use_one_thread(monkeypatch, picture):
    used = []
    mapped = image_resizing_clip_hf.map_in_threads
    module = __import__("clip_hf.model.image_processing_clip_hf", fromlist=["map_in_threads"])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(module, "map_in_threads", lambda f, i, threads: used.append(threads) or mapped(f, i, threads))
    images = [picture, picture.copy(), picture.copy()]
    processor_of(8)(images)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    processor_of(8)(images)
    assert used == [3, 1]


# ------------------------------------------------------------------------------------------------------------- options


def test_options_agree_with_transformers(picture):
    """On RGB images and crops that both place alike, transformers' processor differs by rounding only."""
    for kwargs in (
        {},
        {"size": {"height": 20, "width": 30}, "crop_size": {"height": 10, "width": 12}},
        {"size": {"shortest_edge": 20, "longest_edge": 24}, "do_center_crop": False},
        {"size": {"max_height": 20, "max_width": 24}, "do_center_crop": False},
        {"resample": Image.Resampling.BILINEAR},
        {"resample": 0},
        {"do_resize": False, "crop_size": 20},
        {"do_center_crop": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False, "do_normalize": False},
        {"image_mean": 0.5, "image_std": [0.5, 0.25, 2.0]},
        {"do_resize": False, "do_pad": True, "pad_size": {"height": 70, "width": 90}, "do_center_crop": False},
    ):
        options = {"size": 22, "crop_size": 22, **kwargs}
        if np.isscalar(options.get("image_mean")):  # transformers takes one value for all channels from lists only
            stock = CLIPImageProcessorPil(**{**options, "image_mean": [0.5] * 3})
        else:
            stock = CLIPImageProcessorPil(**options)
        expected = stock(picture, return_tensors="np").pixel_values
        for found in (ClipHFImageProcessor(**options)(picture), ClipHFImageProcessor()(picture, **options)):
            assert found.pixel_values[0].dtype == expected.dtype
            np.testing.assert_allclose(found.pixel_values[0], expected[0], rtol=1e-5, atol=1e-6, err_msg=str(kwargs))


def test_images_without_rgb_conversion():
    kwargs = {"do_convert_rgb": False, "size": 9, "crop_size": 9, "do_normalize": False, "do_rescale": False}
    for mode, channels in (("L", 1), ("RGBA", 4), ("CMYK", 4), ("P", 1), ("1", 1), ("F", 1)):
        image = make_image(mode, (9, 9))
        expected = np.asarray(image).reshape(9, 9, channels).transpose(2, 0, 1)
        expected = expected * np.uint8(255) if mode == "1" else expected
        np.testing.assert_array_equal(pixels_of(ClipHFImageProcessor(**kwargs), image), expected)
        if mode != "F":
            rescaled = pixels_of(ClipHFImageProcessor(**{**kwargs, "do_rescale": True}), image)
            np.testing.assert_array_equal(rescaled, expected / np.float32(255))
    with pytest.raises(ValueError, match=r"Image 0: the image has 4 channels, image_mean 3 and image_std 3 values"):
        ClipHFImageProcessor(do_convert_rgb=False)(make_image("RGBA", (9, 9)))


def test_exif_orientation_is_an_option(tmp_path):
    image = make_image("RGB", (30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    opened, path = Image.open(tmp_path / "turned.png"), str(tmp_path / "turned.png")
    upright = image.transpose(Image.Transpose.ROTATE_270)
    for source in (opened, path):
        np.testing.assert_array_equal(pixels_of(processor_of(16), source), plain_pixels(upright, 16))
        as_stored = pixels_of(processor_of(16, apply_exif_orientation=False), source)
        np.testing.assert_array_equal(as_stored, plain_pixels(image, 16))
    np.testing.assert_array_equal(pixels_of(processor_of(16), image), plain_pixels(image, 16))
    assert processor_of(16).to_dict()["apply_exif_orientation"] is True


def test_background_color_is_what_transformers_does_with_white():
    kwargs = {"size": 20, "crop_size": 20}
    with_alpha = [make_image(mode, (20, 20)) for mode in ("RGBA", "LA", "PA")] + [make_image("P", (20, 20))]
    with_alpha[-1].info["transparency"] = bytes(range(256))
    for image in with_alpha:
        expected = CLIPImageProcessorPil(**kwargs)(image, return_tensors="np").pixel_values[0]
        found = pixels_of(ClipHFImageProcessor(background_color=(255, 255, 255), **kwargs), image)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=image.mode)
        assert np.abs(pixels_of(ClipHFImageProcessor(**kwargs), image) - expected).max() > 0.5
    red = pixels_of(ClipHFImageProcessor(background_color=[255, 0, 0], **kwargs), Image.new("La", (20, 20)))
    np.testing.assert_allclose(red[:, 5, 5], (np.array([1, 0, 0]) - MEAN) / STD, rtol=1e-5)
    plain = make_image("RGB", (20, 20))
    np.testing.assert_array_equal(
        pixels_of(ClipHFImageProcessor(background_color=(1, 2, 3), **kwargs), plain), plain_pixels(plain, 20)
    )


@pytest.mark.parametrize("mode", MODES_MORE_BITS)
def test_16_bits_are_refused_clipped_or_scaled(mode):
    values = np.random.default_rng(0).integers(0, 65536, (30, 24))
    dtype = {"I": "<i4", "F": "<f4", "I;16B": ">u2"}.get(mode, "<u2")
    image = Image.frombytes(mode, (24, 30), values.astype(dtype).tobytes())
    processor = processor_of(16)
    cure = r"`high_bit_depth='scale'` \(--high-bit-depth scale\)"
    with pytest.raises(ValueError, match=f"Image 1: the values go from .* do not fit 8 bits.*{cure}"):
        processor([make_image("RGB", (9, 9)), image])
    np.testing.assert_array_equal(pixels_of(processor, image, high_bit_depth="clip"), plain_pixels(image, 16))
    if mode == "F":  # floats stand for 0 to 1, whatever their values
        with pytest.raises(ValueError, match="'scale' takes integers of 0 to 65535, or floats of 0 to 1"):
            processor(image, high_bit_depth="scale")
        return
    for divisor in (1, 300):  # dark pictures are scaled as well, although their values fit 8 bits
        image = Image.frombytes(mode, (24, 30), (values // divisor).astype(dtype).tobytes())
        scaled = Image.fromarray(np.rint(values // divisor / 257).astype(np.uint8))
        np.testing.assert_array_equal(pixels_of(processor, image, high_bit_depth="scale"), plain_pixels(scaled, 16))


def test_arrays_of_more_than_8_bits():
    values = np.random.default_rng(0).integers(0, 65536, (30, 24, 3)).astype(np.uint16)
    processor = processor_of(16)
    with pytest.raises(ValueError, match="do not fit 8 bits"):
        processor(values)
    for policy, expected in (("scale", np.rint(values / 257)), ("clip", np.minimum(values, 255))):
        expected = plain_pixels(Image.fromarray(expected.astype(np.uint8)), 16)
        np.testing.assert_array_equal(pixels_of(processor, values, high_bit_depth=policy), expected)
    unit = Image.fromarray((values[..., 0] / 65535).astype(np.float32))
    with pytest.raises(ValueError, match="turning most of the image black"):
        processor(unit)
    expected = plain_pixels(Image.fromarray(np.rint(np.asarray(unit) * 255).astype(np.uint8)), 16)
    np.testing.assert_array_equal(pixels_of(processor, unit, high_bit_depth="scale"), expected)
    with pytest.raises(ValueError, match="'scale' takes integers of 0 to 65535"):
        processor(values.astype(np.int64) * 2, high_bit_depth="scale")


@pytest.mark.parametrize(
    ("low", "high", "effect"),
    [(-300, -46, "black"), (-9, 255, "black"), (0, 256, "white"), (-9, 999, "black or white")],
)
def test_what_clipping_would_make_of_an_image_is_said(low, high, effect):
    values = np.linspace(low, high, 75).astype(np.int16).reshape(5, 5, 3)
    with pytest.raises(ValueError, match=f"turning most of the image {effect}\\."):
        processor_of(4)(values)


def test_the_ends_of_the_ranges_belong_to_them():
    processor = processor_of(4)
    black, white = (plain_pixels(Image.new("RGB", (5, 5), color), 4) for color in ("black", "white"))
    for dtype, high, options in (
        (np.uint16, 65535, {"high_bit_depth": "scale"}),
        (np.int64, 255, {}),
        (np.float32, 255, {}),
        (np.float32, 1, {"do_rescale": False}),
    ):
        for value, expected in ((0, black), (high, white)):
            array = np.full((5, 5, 3), value, dtype)
            np.testing.assert_array_equal(pixels_of(processor, array, **options), expected)
    for value, expected in ((0, black), (255, white)):
        image = Image.new("F", (5, 5), value)
        np.testing.assert_array_equal(pixels_of(processor, image), expected)
    unit = Image.new("F", (5, 5), 1)
    np.testing.assert_array_equal(pixels_of(processor, unit, high_bit_depth="scale"), white)
    with pytest.raises(ValueError, match="turning most of the image black"):
        processor(unit)


def test_forms_of_the_result(picture):
    processor = processor_of(16)
    expected = plain_pixels(picture, 16)
    as_list = processor([picture, picture]).pixel_values
    assert isinstance(as_list, list)
    np.testing.assert_array_equal(as_list[1], expected)
    tensor = processor(picture, return_tensors="pt").pixel_values
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), expected[None])
    last = processor(picture, return_tensors="np", data_format="channels_last").pixel_values
    np.testing.assert_array_equal(last[0], expected.transpose(1, 2, 0))
    assert processor(picture, return_tensors="pt", device="meta").pixel_values.device.type == "meta"
    with pytest.raises(ValueError, match="device='cuda' needs return_tensors='pt'"):
        processor(picture, return_tensors="np", device="cuda")
    with pytest.raises(ValueError, match="return_tensors='tf' must be 'pt', 'np' or None"):
        processor(picture, return_tensors="tf")
    with pytest.raises(ValueError, match=r"different shapes, \[\(3, 16, 21\), \(3, 16, 32\)\]"):
        processor([picture, make_image("RGB", (20, 10))], do_center_crop=False, return_tensors="pt")


BAD_OPTIONS = [
    ({"size": 0}, ValueError, r"size=\{'shortest_edge': 0\}.*at least 1"),
    ({"size": -224}, ValueError, r"-224.*at least 1"),
    ({"size": True}, ValueError, "at least 1"),
    ({"size": "224"}, ValueError, r"size='224' must be an integer"),
    ({"size": 22.4}, ValueError, r"size=22.4 must be an integer"),
    ({"size": {"height": 3, "width": 0}}, ValueError, "'width' must be an integer of at least 1"),
    ({"size": {"shortest_egde": 3}}, ValueError, r"size must have .*shortest_egde"),
    (
        {"size": {"longest_edge": 3}},
        ValueError,
        r"size=\{'longest_edge': 3\} must have the keys \['shortest_edge'\]",
    ),
    ({"crop_size": 0}, ValueError, "crop_size=.*at least 1"),
    ({"crop_size": {"shortest_edge": 3}}, ValueError, r"crop_size=.* must have the keys \['height', 'width'\]"),
    ({"image_mean": [0.5, 0.5]}, ValueError, r"image_mean=\(0.5, 0.5\) must have three values"),
    ({"image_mean": []}, ValueError, "image_mean=.*finite numbers"),
    ({"image_mean": ["a", "b", "c"]}, ValueError, "image_mean=.*finite numbers"),
    ({"image_std": [0.5, 0.0, 0.5]}, ValueError, r"image_std=\(0.5, 0.0, 0.5\) must not hold 0"),
    ({"image_std": [0.5, float("nan"), 0.5]}, ValueError, "image_std=.*finite numbers"),
    ({"rescale_factor": 0}, ValueError, "rescale_factor=0 must be a finite number other than 0"),
    ({"rescale_factor": "1/255"}, ValueError, "rescale_factor='1/255'"),
    ({"resample": 9}, ValueError, "resample=9 must be one of"),
    ({"do_resize": "yes"}, ValueError, "do_resize='yes' must be True or False"),
    ({"background_color": [255, 255]}, ValueError, r"background_color=\[255, 255\] must be three integers"),
    ({"background_color": 255}, ValueError, "background_color=255 must be three integers"),
    ({"background_color": (0, 0, 256)}, ValueError, "background_color=.*from 0 to 255"),
    ({"high_bit_depth": "round"}, ValueError, "high_bit_depth='round' must be one of error, clip, scale"),
    ({"do_resizee": True}, TypeError, "Unknown option `do_resizee` of ClipHFImageProcessor. Did you mean `do_resize`"),
    ({"colour": 1}, TypeError, "Unknown option `colour` of ClipHFImageProcessor. Available: apply_exif_orientation,"),
]


@pytest.mark.parametrize(("kwargs", "error", "message"), BAD_OPTIONS, ids=lambda value: str(value)[:40])
def test_bad_options_are_named(kwargs, error, message, picture):
    with pytest.raises(error, match=message):
        ClipHFImageProcessor(**kwargs)
    with pytest.raises(error, match=message):
        ClipHFImageProcessor()(picture, **kwargs)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff", "webp"])
def test_truncated_files_are_named(suffix, tmp_path, picture):
    good, bad = tmp_path / f"good.{suffix}", tmp_path / f"bad.{suffix}"
    picture.save(good)
    for share in (0.1, 0.5, 0.9):
        bad.write_bytes(good.read_bytes()[: int(share * good.stat().st_size)])
        message = rf"Image 1 \({bad}\): (the \w+ data cannot be decoded|this is not an image that Pillow can read)"
        with pytest.raises(ValueError, match=message):
            processor_of(8)([good, bad, good])


def test_unreadable_files_are_named(tmp_path, picture):
    empty, text = tmp_path / "empty.png", tmp_path / "text.png"
    empty.write_bytes(b"")
    text.write_text("This is not an image.")
    for source, message in (
        (empty, rf"Image 1 \({empty}\): the file is empty"),
        (text, rf"Image 1 \({text}\): this is not an image that Pillow can read"),
        (str(tmp_path / "none.png"), r"Image 1 \(.*none.png\): there is no file .*none.png, and"),
        (tmp_path / "none.png", r"Image 1 \(.*none.png\): there is no file .*none.png"),
        (tmp_path, r"is a folder, not a file"),
        (b"junk", "Image 1: this is not an image that Pillow can read"),
        ({"bytes": b"", "path": "row 7"}, r"Image 1 \(row 7\): the file is empty"),
        ("data:image/png;base64,!!", "Image 1 .*: the data URL does not hold"),
    ):
        with pytest.raises(ValueError, match=message):
            processor_of(8)([picture, source])


def test_images_that_fail_late_are_named(tmp_path, picture):
    data = png_bytes(picture)
    lazy = Image.open(io.BytesIO(data[: len(data) // 2]))
    with pytest.raises(ValueError, match="Image 2: the PNG data cannot be decoded"):
        processor_of(8)([picture, picture, lazy])


def test_decompression_bombs_are_refused(tmp_path, monkeypatch, picture):
    path = tmp_path / "bomb.png"
    picture.save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    message = r"Image 0 .*bomb.png\): Image size \(2640 pixels\) exceeds limit of 2000 pixels.*MAX_IMAGE_PIXELS"
    with pytest.raises(ValueError, match=message):
        processor_of(8)(path)


def test_results_beyond_pillows_limit_are_refused():
    with pytest.raises(ValueError, match="Image 0: resized from 1x9000 the image has 224x2016000 pixels"):
        ClipHFImageProcessor(do_center_crop=False)(Image.new("L", (1, 9000)))


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (None, TypeError, "Image 0: expected a PIL image, .* got NoneType"),
        (7, TypeError, "got int"),
        ({}, TypeError, "got dict"),
        ([], ValueError, "There are no images"),
        ([[], ()], ValueError, "There are no images"),
        (Image.new("RGB", (0, 4)), ValueError, "no pixels: its size is 0x4"),
        (np.zeros((0, 4, 3), np.uint8), ValueError, r"shape \(0, 4, 3\) has no pixels"),
        (np.zeros((5, 4, 2), np.uint8), ValueError, r"shape \(5, 4, 2\) has no axis of 1, 3 or 4 channels"),
        (np.zeros(5, np.uint8), ValueError, r"shape \(5,\) is not an image"),
        (np.zeros((1, 1, 5, 5, 3), np.uint8), ValueError, r"shape \(1, 1, 5, 5, 3\) is not an image"),
        (np.full((5, 5, 3), np.nan), ValueError, "NaN or infinite"),
        (np.full((5, 5, 3), -1), ValueError, "from -1 to -1, which do not fit 8 bits"),
        (np.full((5, 5, 3), 255.5), ValueError, "do_rescale=True resizing takes whole numbers from 0 to 255"),
        (np.full((5, 5, 3), 1j), TypeError, "dtype complex128 holds no pixels"),
        (np.full((5, 5), "a"), TypeError, "holds no pixels"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_image_is_named(image, error, message):
    with pytest.raises(error, match=message):
        ClipHFImageProcessor()(image)


# ----------------------------------------------------------------------------------------------------- configurations


OPENAI_ENTRIES = {
    "crop_size": 288, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 288,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


@pytest.mark.parametrize(
    "entries",
    [
        {"feature_extractor_type": "CLIPFeatureExtractor"},
        {"image_processor_type": "CLIPFeatureExtractor", "do_convert_rgb": True, "processor_class": "CLIPProcessor"},
        {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 288}, "use_fast": False},
        {"image_processor_type": "CLIPImageProcessorFast", "crop_size": {"height": 288, "width": 288}, "device": None},
        {"image_processor_type": "CLIPImageProcessor", "_valid_processor_keys": ["images", "do_resize"]},
        {},
    ],
    ids=["old", "old type", "new", "fast", "keys", "bare"],
)
def test_configurations_of_transformers_load(entries, tmp_path, transformers_warnings, recwarn):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**OPENAI_ENTRIES, **entries}))
    processor = ClipHFImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is ClipHFImageProcessor
    assert dict(processor.size) == {"shortest_edge": 288}
    assert dict(processor.crop_size) == {"height": 288, "width": 288}
    image = make_image("RGB", (30, 20))
    np.testing.assert_array_equal(pixels_of(processor, image), plain_pixels(image, 288))
    assert not transformers_warnings
    assert not recwarn.list


def test_a_saved_stock_processor_loads(tmp_path, transformers_warnings):
    CLIPImageProcessorPil(size=32, crop_size=32).save_pretrained(tmp_path)
    processor = ClipHFImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is ClipHFImageProcessor
    assert processor.to_json_string() == processor_of(32).to_json_string()
    assert not transformers_warnings


def test_save_and_load(tmp_path, transformers_warnings):
    first = processor_of(
        40, background_color=(9, 8, 7), high_bit_depth="scale", apply_exif_orientation=True, image_mean=0.5
    )
    first.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "ClipHFImageProcessor"
    second = ClipHFImageProcessor.from_pretrained(tmp_path)
    image = make_image("RGBA", (30, 20))
    for again in (second, copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert json.loads(again.to_json_string()) == json.loads(first.to_json_string())
        np.testing.assert_array_equal(pixels_of(again, image), pixels_of(first, image))
    assert ClipHFImageProcessor.from_json_file(tmp_path / "preprocessor_config.json").size == first.size
    changed, unused = ClipHFImageProcessor.from_pretrained(tmp_path, size=9, other=3, return_unused_kwargs=True)
    assert dict(changed.size) == {"shortest_edge": 9}
    assert unused["other"] == 3
    with pytest.raises(TypeError, match="`do_rescalee` of ClipHFImageProcessor. Did you mean `do_rescale`"):
        ClipHFImageProcessor.from_pretrained(tmp_path, do_rescalee=False)
    assert not transformers_warnings


def test_unknown_entries_of_a_configuration_are_named_and_kept(tmp_path, transformers_warnings):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**OPENAI_ENTRIES, "crop_pct": 0.9}))
    processor = ClipHFImageProcessor.from_pretrained(tmp_path)
    assert processor.crop_pct == 0.9
    assert transformers_warnings == [
        "The image processor's configuration has 'crop_pct', which ClipHFImageProcessor does not use."
    ]


def test_missing_configuration(tmp_path):
    with pytest.raises(OSError, match="preprocessor_config.json"):
        ClipHFImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(OSError):
        ClipHFImageProcessor.from_pretrained(Path(tmp_path) / "none")
