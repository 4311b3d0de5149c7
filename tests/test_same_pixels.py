# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The same pictures, four ways: pipeline from a path, pipeline from an object, evaluation, training's loader."""

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import CLIPImageProcessorPil

from clip_hf import ClipHFImageProcessor, ClipHFProcessor, ClipHFZeroShotImageClassificationPipeline
from clip_hf.data import PairLoader, PairOptions
from clip_hf.embedding.bulk_encoding import encode_image_column
from clip_hf.embedding.load_encoder import load_dual_encoder
from tiny_models import IMAGE_SIZE, make_tiny_model


EDGE = 2 * IMAGE_SIZE + 7
OPTIONS = [{}, {"background_color": [255, 255, 255]}, {"apply_exif_orientation": False}, {"do_convert_rgb": True}]


def colours() -> Image.Image:
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (EDGE, EDGE, 3), dtype=np.uint8))


def with_alpha() -> Image.Image:
    image = colours()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def exif(orientation: int) -> Image.Exif:
    result = Image.Exif()
    result[0x0112] = orientation
    return result


def save_pictures(folder) -> dict[str, str]:
    """Square pictures, so that training's random crop has one place; paths by kind."""
    image = colours()
    palette = image.quantize(17)
    deep = np.random.default_rng(6).integers(0, 65536, (EDGE, EDGE)).astype(np.uint16)
    pictures = {
        "opaque.png": (image, {}),
        "jpeg.jpg": (image, {}),
        "transparent.png": (with_alpha(), {}),
        "grey with alpha.png": (with_alpha().convert("LA"), {}),
        "palette with transparency.png": (palette, {"transparency": 3}),
        "palette with several.png": (palette, {"transparency": bytes(range(0, 255, 15))}),
        "gif.gif": (palette, {"transparency": 3}),
        "one bit.png": (image.convert("1"), {}),
        "16 bits.png": (Image.fromarray(deep), {}),
        "16 bits, dark.png": (Image.fromarray(deep // 300), {}),
        "floats.tiff": (Image.fromarray((deep / 65535).astype(np.float32)), {}),
        "cmyk.jpg": (image.convert("CMYK"), {}),
        "ycbcr.tiff": (image.convert("YCbCr"), {}),
        "animated.gif": (palette, {"save_all": True, "append_images": [palette.rotate(90)]}),
        "animated.webp": (with_alpha(), {"save_all": True, "append_images": [with_alpha()], "lossless": True}),
        "pixmap.ppm": (image, {}),
        **{f"exif {n}.jpg": (image, {"exif": exif(n)}) for n in range(1, 9)},
        **{f"exif {n}.png": (with_alpha(), {"exif": exif(n)}) for n in (3, 6)},
    }
    for name, (picture, options) in pictures.items():
        picture.save(folder / name, **options)
    return {name: str(folder / name) for name in pictures}


def preprocess_object(pipe, path: str) -> torch.Tensor:
    with Image.open(path) as image:
        return pipe.preprocess(image)["pixel_values"]


@pytest.fixture(scope="module")
def model():
    return make_tiny_model("vit")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_pixels_are_the_same(options, model, tiny_processor, tmp_path, monkeypatch):
    paths = save_pictures(tmp_path)
    image_processor = ClipHFImageProcessor(
        size=IMAGE_SIZE, crop_size=IMAGE_SIZE, **{"high_bit_depth": "scale", **options}
    )
    processor = ClipHFProcessor(image_processor, tiny_processor.tokenizer)
    pipe = ClipHFZeroShotImageClassificationPipeline(
        model=model, tokenizer=processor.tokenizer, image_processor=image_processor, device="cpu"
    )
    expected = image_processor(list(paths.values()), return_tensors="pt").pixel_values
    ways = {
        "pipeline from path": torch.cat([pipe.preprocess(path)["pixel_values"] for path in paths.values()]),
        "pipeline from object": torch.cat([preprocess_object(pipe, path) for path in paths.values()]),
    }
    rows = datasets.Dataset.from_dict({"image": list(paths.values()), "caption": list(paths)})

    encoder, seen = load_dual_encoder(model, processor=processor), []
    encode = encoder._image_features
    monkeypatch.setattr(
        encoder, "_image_features", lambda inputs, p: seen.append(inputs["pixel_values"]) or encode(inputs, p)
    )
    encode_image_column(encoder, rows.cast_column("image", datasets.Image()))
    ways["evaluation"] = torch.cat(seen)

    loader = PairLoader(rows, processor, PairOptions(), batch_size=len(rows), num_steps=1)
    (batch,) = loader
    order = loader.order.epoch_rows(0)[0]
    ways["training"] = batch["pixel_values"][np.argsort(order)]
    assert batch["skipped"] == []

    for way, pixels in ways.items():
        for name, found, right in zip(paths, pixels, expected, strict=True):
            assert torch.equal(found, right), (way, name)
    # The pictures and the options make a difference, or equal pixels would show nothing.
    by_name = dict(zip(paths, expected))
    assert torch.equal(by_name["exif 1.jpg"], by_name["exif 6.jpg"]) != (options.get("apply_exif_orientation", True))
    assert len({pixels.numpy().tobytes() for pixels in expected}) >= 10


def test_the_background_is_the_processors(model, tiny_processor, tmp_path):
    paths = save_pictures(tmp_path)
    makers = {"size": IMAGE_SIZE, "crop_size": IMAGE_SIZE}
    pixels = {
        color: ClipHFImageProcessor(**makers, background_color=color)(paths["transparent.png"]).pixel_values[0]
        for color in (None, (255, 255, 255), (0, 0, 0))
    }
    assert len({array.tobytes() for array in pixels.values()}) == 3
    pipe = ClipHFZeroShotImageClassificationPipeline(
        model=model,
        tokenizer=tiny_processor.tokenizer,
        image_processor=ClipHFImageProcessor(**makers),
        device="cpu",
    )
    pixels["white"] = pixels["#ffffff"] = pixels[(255, 255, 255)]
    assert ClipHFImageProcessor(background_color="white").to_dict()["background_color"] == [255, 255, 255]
    for color, expected in pixels.items():
        found = pipe.preprocess(paths["transparent.png"], background_color=color)["pixel_values"]
        np.testing.assert_array_equal(found[0], expected)


def test_options_of_the_image_processor_are_the_pipelines(model, tiny_processor, tmp_path):
    paths = save_pictures(tmp_path)
    components = {"tokenizer": tiny_processor.tokenizer, "image_processor": tiny_processor.image_processor}
    pipe = ClipHFZeroShotImageClassificationPipeline(model=model, device="cpu", **components)
    labels = ["cat", "dog playing in the snow"]
    with pytest.raises(ValueError, match="high_bit_depth='scale'"):
        pipe(paths["16 bits.png"], labels)
    scaled = pipe(paths["16 bits.png"], labels, high_bit_depth="scale")
    assert scaled != pipe(paths["16 bits.png"], labels, high_bit_depth="clip")
    made = ClipHFZeroShotImageClassificationPipeline(
        model=model, device="cpu", high_bit_depth="scale", background_color=(255, 255, 255), **components
    )
    assert made(paths["16 bits.png"], labels) == scaled
    assert made(paths["transparent.png"], labels) == pipe(
        paths["transparent.png"], labels, background_color=(255, 255, 255)
    )
    with pytest.raises(ValueError, match="high_bit_depth='half' must be one of error, clip, scale"):
        pipe(paths["opaque.png"], labels, high_bit_depth="half")
    with pytest.raises(TypeError, match="no option 'background_colour'. Did you mean 'background_color'"):
        pipe(paths["opaque.png"], labels, background_colour=(0, 0, 0))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, "torch", bool])
def test_floats_stand_for_0_to_1_without_rescaling(dtype):
    processor = ClipHFImageProcessor(size=IMAGE_SIZE, crop_size=IMAGE_SIZE)
    mask = np.asarray(colours()) > 128
    pictures = [mask, np.zeros_like(mask), np.ones_like(mask)]
    for picture in pictures:
        expected = processor((picture * 255).astype(np.uint8), return_tensors="np").pixel_values
        given = torch.from_numpy(picture.astype(np.float32)) if dtype == "torch" else picture.astype(dtype)
        options = {} if dtype is bool else {"do_rescale": False}
        np.testing.assert_array_equal(processor(given, return_tensors="np", **options).pixel_values, expected)


def test_floats_stand_for_0_to_255_with_rescaling():
    processor = ClipHFImageProcessor(size=IMAGE_SIZE, crop_size=IMAGE_SIZE)
    picture = np.asarray(colours())
    expected = processor(picture, return_tensors="np").pixel_values
    for dtype in (np.float32, np.float64, np.int64, np.uint16):
        np.testing.assert_array_equal(processor(picture.astype(dtype), return_tensors="np").pixel_values, expected)
    with pytest.raises(ValueError, match="floats from 0 to 1 already"):
        processor((picture > 128).astype(np.float32))
    with pytest.raises(ValueError, match="with do_rescale=False resizing takes floats from 0 to 1"):
        processor(picture.astype(np.float32), do_rescale=False)


def test_a_saved_background_is_switched_off_by_none(model, tiny_processor, tmp_path):
    paths = save_pictures(tmp_path)
    image_processor = ClipHFImageProcessor(size=IMAGE_SIZE, crop_size=IMAGE_SIZE, background_color="white")
    pipe = ClipHFZeroShotImageClassificationPipeline(
        model=model, tokenizer=tiny_processor.tokenizer, image_processor=image_processor, device="cpu"
    )
    labels, picture = ["cat", "dog playing in the snow"], paths["transparent.png"]
    without = ClipHFZeroShotImageClassificationPipeline(
        model=model,
        tokenizer=tiny_processor.tokenizer,
        image_processor=ClipHFImageProcessor(size=IMAGE_SIZE, crop_size=IMAGE_SIZE),
        device="cpu",
    )
    assert pipe(picture, labels, background_color=None) == without(picture, labels) != pipe(picture, labels)


def test_open_files_and_buffers_are_images(model, tiny_processor, tmp_path):
    path = save_pictures(tmp_path)["opaque.png"]
    pipe = ClipHFZeroShotImageClassificationPipeline(
        model=model, tokenizer=tiny_processor.tokenizer, image_processor=tiny_processor.image_processor, device="cpu"
    )
    labels = ["cat", "dog playing in the snow"]
    expected, data = pipe(path, labels), Path(path).read_bytes()
    for source in (io.BytesIO(data), bytearray(data), memoryview(data)):
        assert pipe(source, labels) == expected
    with open(path, "rb") as file:
        assert pipe(file, labels) == expected
    with pytest.raises(TypeError, match="not int"):
        pipe(3, labels)


def test_images_for_others_processors_are_upright_in_rgb(model, tiny_processor, tmp_path):
    paths = save_pictures(tmp_path)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    stock = CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIZE}, crop_size=size, do_convert_rgb=False)
    pipe = ClipHFZeroShotImageClassificationPipeline(
        model=model, tokenizer=tiny_processor.tokenizer, image_processor=stock, device="cpu"
    )
    for name in ("exif 6.jpg", "exif 6.png"):
        with Image.open(paths[name]) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        expected = stock(upright, return_tensors="pt")["pixel_values"]
        assert torch.equal(pipe.preprocess(paths[name])["pixel_values"], expected)
