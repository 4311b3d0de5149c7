# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Captioned images prepared for training: what is drawn, the pixels, the batches, and bad data."""

import io
import random

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.data import ImageTextCollator, ImageTextDataset, random_square_crop, read_captions


@pytest.fixture(scope="module")
def image_processor() -> ClipHFImageProcessor:
    return ClipHFImageProcessor(size={"shortest_edge": 12}, crop_size={"height": 8, "width": 8})


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    generator = np.random.default_rng(0)
    sizes = [(12, 12), (30, 20), (16, 40)]
    images = [Image.fromarray(generator.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": images, "caption": ["cat", "dog", "Cat "]}, features=features)


def draws(pairs: ImageTextDataset, epoch: int) -> list[tuple[str, bytes]]:
    pairs.set_epoch(epoch)
    return [(pairs[row]["text"], pairs[row]["pixel_values"].tobytes()) for row in range(len(pairs))]


def test_crop_reaches_every_place_and_only_cuts():
    image = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    generator = random.Random(0)
    crops = {random_square_crop(image, 3, generator).tobytes() for _ in range(200)}
    places = {image[:, y : y + 3, x : x + 3].tobytes() for y in range(2) for x in range(3)}
    assert crops == places


def test_crop_of_the_whole_and_of_too_much():
    image = np.zeros((3, 4, 5))
    assert random_square_crop(image, 4, random.Random(0)).shape == (3, 4, 4)
    with pytest.raises(ValueError, match="5 x 5 pixels does not fit into an image of 4 x 5"):
        random_square_crop(image, 5, random.Random(0))


def test_items_are_crops_of_the_resized_image(rows, image_processor):
    item = ImageTextDataset(rows, image_processor)[1]
    assert item["pixel_values"].dtype == np.uint8
    assert item["pixel_values"].shape == (3, 8, 8)
    resized = np.asarray(rows[1]["image"].resize((18, 12), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    places = {resized[:, y : y + 8, x : x + 8].tobytes() for y in range(5) for x in range(11)}
    assert item["pixel_values"].tobytes() in places


def test_draws_depend_on_seed_epoch_and_row_only(rows, image_processor):
    templates = ["{}", "a {}", "the {}", "one {}"]
    pairs, same, other = (
        ImageTextDataset(rows, image_processor, templates=templates, seed=seed) for seed in (1, 1, 2)
    )
    assert draws(pairs, 3) == draws(same, 3)
    assert pairs[1]["text"] == same[1]["text"]
    assert draws(pairs, 3) != draws(pairs, 4)
    assert draws(pairs, 3) != draws(other, 3)


def test_every_template_and_caption_is_drawn(image_processor):
    image = Image.new("RGB", (12, 12))
    rows = datasets.Dataset.from_dict({"image": [image], "caption": [["cat", "kitten"]]}).cast_column(
        "image", datasets.Image()
    )
    pairs = ImageTextDataset(rows, image_processor, templates=["{}", "a {}."])
    texts = {draws(pairs, epoch)[0][0] for epoch in range(50)}
    assert texts == {"cat", "kitten", "a cat.", "a kitten."}


def test_cached_images_are_the_same_and_read_once(rows, image_processor):
    pairs, cached = (ImageTextDataset(rows, image_processor, cache_images=cache) for cache in (False, True))
    assert draws(pairs, 0) == draws(cached, 0)
    cached.images = None
    assert draws(pairs, 1) == draws(cached, 1)


def test_batch_is_what_the_processor_makes_of_the_crops(rows, image_processor, tiny_tokenizer):
    processor = ClipHFProcessor(image_processor, tiny_tokenizer)
    pairs = ImageTextDataset(rows, image_processor, templates=["a {}"])
    items = [pairs[row] for row in range(3)]
    batch = ImageTextCollator(processor)(items)
    crops = [Image.fromarray(item["pixel_values"].transpose(1, 2, 0)) for item in items]
    expected = processor(
        text=["a cat", "a dog", "a Cat "],
        images=crops,
        padding=True,
        return_tensors="pt",
        do_resize=False,
    )
    assert batch["pixel_values"].dtype == torch.float32
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"], rtol=0, atol=1e-5)
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])


def test_text_ids_are_shared_by_equal_captions_whatever_the_template(rows, image_processor, tiny_tokenizer):
    pairs = ImageTextDataset(rows, image_processor, templates=["{}", "a {}", "the {}"])
    batch = ImageTextCollator(ClipHFProcessor(image_processor, tiny_tokenizer))([pairs[row] for row in range(3)])
    cat, dog, same_cat = batch["text_ids"].tolist()
    assert cat == same_cat != dog
    # Another process must come to the same number.
    assert cat == 1843079001574132759


def columns(**changed) -> datasets.Dataset:
    values = {"image": [Image.new("RGB", (12, 12))] * 2, "caption": ["cat", "dog"]} | changed
    return datasets.Dataset.from_dict(values).cast_column("image", datasets.Image())


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (columns(), {"image_column": "img"}, "no column 'img'; it has 'image', 'caption'.*holds the images"),
        (columns(), {"caption_column": "text"}, "no column 'text'; it has 'image', 'caption'.*holds the captions"),
        (columns().select([]), {}, "data set is empty"),
        (columns(caption=["cat", None]), {}, "Row 1 has no caption but None"),
        (columns(caption=["cat", "  "]), {}, "Row 1 has the caption '  '"),
        (columns(caption=[["cat"], []]), {}, r"Row 1 has no caption but \[\]"),
        (columns(caption=[["cat"], ["dog", None]]), {}, "Row 1 has the caption None"),
        (columns(caption=[3, 4]), {}, "Row 0 has no caption but 3"),
        (columns(), {"templates": ["a photo"]}, "template 'a photo' must have {} once"),
        (columns(), {"templates": ["{} {}"]}, "template '{} {}' must have {} once"),
        (columns(), {"templates": []}, "no templates"),
    ],
)
def test_bad_data_is_found_before_the_first_item(dataset, options, message, image_processor):
    with pytest.raises(ValueError, match=message):
        ImageTextDataset(dataset, image_processor, **options)


def test_an_unreadable_image_is_named_by_its_row(image_processor):
    buffer = io.BytesIO()
    Image.new("RGB", (12, 12)).save(buffer, "PNG")
    images = [{"bytes": buffer.getvalue(), "path": None}, {"bytes": b"no image", "path": None}]
    pairs = ImageTextDataset(columns(image=images), image_processor)
    assert pairs[0]["pixel_values"].shape == (3, 8, 8)
    with pytest.raises(ValueError, match="image of row 1 cannot be read"):
        pairs[1]


def test_read_captions_gives_a_list_for_each_row():
    assert read_captions(columns()) == [["cat"], ["dog"]]
    assert read_captions(columns(caption=[["cat", "kitten"], ["dog"]])) == [["cat", "kitten"], ["dog"]]
