# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Metrics on held-out pairs: worked examples, a plain computation, what is left out, and two processes."""

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.data import ImageTextDataset, PairOptions
from clip_hf.model.image_reading_clip_hf import ImageLimits
from clip_hf.training import HeldOutPairs, held_out
from several_processes import run_processes
from tiny_models import CAPTIONS, IMAGE_SIZE, make_tiny_model


def pairs_of(captions: list, ids: list | None = None) -> datasets.Dataset:
    """Images that are all different, with these captions."""
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (70, 80, 3), dtype=np.uint8)) for _ in captions]
    columns = {"image": images, "caption": captions}
    data = datasets.Dataset.from_dict(columns | ({"id": ids} if ids else {}))
    return data.cast_column("image", datasets.Image())


class Table(torch.nn.Module):
    """Gives each image, in the order of the data, a row of a table."""

    def __init__(self, rows: list):
        super().__init__()
        self.rows = torch.tensor(rows)

    def encode_image(self, pixel_values):
        return self.rows


def metrics_of(data, images, texts, processor, monkeypatch, options=None, **kwargs) -> dict[str, float]:
    """Metrics where the images and texts have given embeddings; those of the texts by text."""
    monkeypatch.setattr(
        held_out,
        "build_text_classifier",
        lambda model, processor, labels, templates: torch.tensor([texts[t] for t in labels]),
    )
    pairs = HeldOutPairs(data, processor, options or PairOptions(), **kwargs)
    return pairs.evaluate(Accelerator(cpu=True), Table(images))


def test_metrics_by_hand(tiny_processor, monkeypatch):
    # The first image is nearest to its own caption; the second to "b" too, though it is of "c"; the third to "a".
    images = [[1.0, 0.0], [0.6, 0.8], [0.9, 0.4]]
    texts = {"a": [1.0, 0.0], "b": [0.5, 0.9], "c": [0.0, 1.0]}
    data = pairs_of(["a", "c", "b"])
    metrics = metrics_of(data, images, texts, tiny_processor, monkeypatch)
    # Cosines: [1, 0.5, 0], [0.6, 1.02, 0.8], [0.9, 0.81, 0.4] with a, b, c.
    assert metrics["zero_shot_top1"] == metrics["image_to_text_R@1"] == pytest.approx(1 / 3)
    assert metrics["zero_shot_top5"] == metrics["image_to_text_R@5"] == 1
    # a is nearest to its image; c to its image; b to that of c.
    assert metrics["text_to_image_R@1"] == pytest.approx(2 / 3)


def test_an_image_with_several_captions_is_found_by_one_of_them(tiny_processor, monkeypatch):
    images = [[1.0, 0.0], [0.0, 1.0]]
    texts = {"a": [0.0, 0.9], "a too": [0.9, 0.0], "b": [0.1, 0.5]}
    data = pairs_of([["a", "a too"], ["b"]])
    metrics = metrics_of(data, images, texts, tiny_processor, monkeypatch)
    # Image 0: a too 0.9, b 0.1, a 0; image 1: a 0.9, b 0.5, a too 0.
    assert metrics["image_to_text_R@1"] == 1 / 2
    # "a" finds image 1, "a too" image 0, "b" image 1.
    assert metrics["text_to_image_R@1"] == pytest.approx(2 / 3)
    # Classes are the first captions, a and b: image 0 is taken for b, and image 1 for a.
    assert metrics["zero_shot_top1"] == 0


def test_equal_captions_are_one_and_so_are_rows_of_the_same_image(tiny_processor, monkeypatch):
    images = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]
    texts = {"a": [1.0, 0.2], "b": [0.0, 1.0]}
    metrics = metrics_of(pairs_of(["a", "A ", "b"]), images, texts, tiny_processor, monkeypatch)
    # Image 1, nearest to b, is of the same class as image 0.
    assert metrics["zero_shot_top1"] == metrics["image_to_text_R@1"] == pytest.approx(2 / 3)
    assert metrics["text_to_image_R@1"] == 1
    # The first two rows show the same image, which has two captions.
    options = PairOptions(image_id_column="id")
    data = pairs_of(["a", "b", "c"], ids=["x", "x", "y"])
    texts = {"a": [0.0, 1.0], "b": [1.0, 0.0], "c": [0.0, 0.9]}
    metrics = metrics_of(data, [[1.0, 0.0], [0.0, 1.0]], texts, tiny_processor, monkeypatch, options)
    assert metrics["image_to_text_R@1"] == 1 / 2 and metrics["text_to_image_R@1"] == pytest.approx(2 / 3)


def test_a_model_that_tells_nothing_apart_is_as_good_as_chance(tiny_processor, monkeypatch):
    names = [f"name {number}" for number in range(20)]
    images, texts = [[1.0, 1.0]] * 20, {name: [1.0, 1.0] for name in names}
    metrics = metrics_of(pairs_of(names), images, texts, tiny_processor, monkeypatch)
    assert metrics["zero_shot_top1"] == metrics["text_to_image_R@1"] == 1 / 20
    assert metrics["zero_shot_top5"] == metrics["image_to_text_R@5"] == 5 / 20
    assert metrics["image_to_text_R@10"] == metrics["text_to_image_R@10"] == 10 / 20


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["images", "texts"])
def test_embeddings_that_are_none_score_0(value, side, tiny_processor, monkeypatch):
    images, texts = [[1.0, 0.0], [0.0, 1.0]], {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    assert set(metrics_of(pairs_of(["a", "b"]), images, texts, tiny_processor, monkeypatch).values()) == {1.0}
    if side == "images":
        images[0] = [value, value]
    else:
        texts["b"] = [value, value]
    metrics = metrics_of(pairs_of(["a", "b"]), images, texts, tiny_processor, monkeypatch)
    assert len(metrics) == 8 and set(metrics.values()) == {0.0}


def test_further_labels_make_it_harder(tiny_processor, monkeypatch):
    texts = {"a": [0.9, 0.0], "b": [0.0, 0.9], "c": [1.0, 0.0]}
    images = [[1.0, 0.0], [0.0, 1.0]]
    plain = metrics_of(pairs_of(["a", "b"]), images, texts, tiny_processor, monkeypatch)
    more = metrics_of(pairs_of(["a", "b"]), images, texts, tiny_processor, monkeypatch, more_labels=["C", "b"])
    assert plain["zero_shot_top1"] == 1 and more["zero_shot_top1"] == 1 / 2
    assert more["image_to_text_R@1"] == 1  # retrieval is among the captions of these rows


def numbers_by_plain_means(model, processor, data, template: str) -> dict[str, float]:
    """The same with the model's own forward pass, row by row and without batches."""
    with torch.no_grad():
        images = [
            model.encode_image(processor(images=row["image"], return_tensors="pt")["pixel_values"])[0] for row in data
        ]
        texts = {}
        for caption in {caption for row in data for caption in row["caption"]}:
            inputs = processor(text=[template.format(caption)], return_tensors="pt")
            texts[caption] = model.encode_text(**inputs)[0]
    found = {"zero_shot_top1": 0, "image_to_text_R@1": 0, "text_to_image_R@1": 0}
    classes = {row["caption"][0] for row in data}
    for row, image in zip(data, images):
        found["zero_shot_top1"] += max(classes, key=lambda name: texts[name] @ image) == row["caption"][0]
        found["image_to_text_R@1"] += max(texts, key=lambda name: texts[name] @ image) in row["caption"]
    for caption, text in texts.items():
        best = max(range(len(images)), key=lambda row: images[row] @ text)
        found["text_to_image_R@1"] += caption in data[best]["caption"]
    counts = {"zero_shot_top1": len(images), "image_to_text_R@1": len(images), "text_to_image_R@1": len(texts)}
    return {name: found[name] / count for name, count in counts.items()}


def captioned(rows: int = 23) -> datasets.Dataset:
    words = [word for caption in CAPTIONS for word in caption.split()]
    words = list(dict.fromkeys(words))[:rows]
    return pairs_of([[f"{word} {index}", f"the {word} of {index}"] for index, word in enumerate(words)])


@pytest.mark.slow_but_for("vit")
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_metrics_are_those_of_a_plain_computation(tower, tiny_processor, monkeypatch):
    model, data = make_tiny_model(tower).train(), captioned()
    options = PairOptions(templates=("{} by {artist}", "a {}."))
    pairs = HeldOutPairs(data, tiny_processor, options)
    metrics = pairs.evaluate(Accelerator(cpu=True), model)
    assert model.training
    expected = numbers_by_plain_means(model.eval(), tiny_processor, data, "a {}.")
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert len(set(metrics.values())) > 3
    monkeypatch.setattr(held_out, "_BATCH_SIZE", 5)
    assert pairs.evaluate(Accelerator(cpu=True), model) == metrics


def _evaluate(rank: int, processor) -> dict[str, float]:
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(make_tiny_model("vit"))
    return HeldOutPairs(captioned(), processor, PairOptions()).evaluate(accelerator, model)


@pytest.mark.slow
def test_two_processes_agree_with_one(tiny_processor, tmp_path):
    two = run_processes(_evaluate, 2, tmp_path / "two", tiny_processor)
    assert two[0] == two[1] == _evaluate(0, tiny_processor)


def test_images_that_cannot_be_read_are_left_out(tiny_processor):
    data = captioned(6).cast_column("image", datasets.Image(decode=False))
    rows = list(data)
    rows[2]["image"] = {"bytes": b"<html>404</html>", "path": None}
    rows[4]["image"] = {"bytes": None, "path": "/nowhere/cat.jpg"}
    damaged = datasets.Dataset.from_list(rows, features=data.features)
    options = PairOptions()
    without = datasets.Dataset.from_list([rows[place] for place in (0, 1, 3, 5)], features=data.features)
    accelerator, model = Accelerator(cpu=True), make_tiny_model("vit")
    pairs = HeldOutPairs(damaged, tiny_processor, options)
    assert len(pairs.captions) == 4
    metrics = pairs.evaluate(accelerator, model)
    assert metrics == HeldOutPairs(without, tiny_processor, options).evaluate(accelerator, model)
    only_bad = datasets.Dataset.from_list([rows[2], rows[4]], features=data.features)
    with pytest.raises(ValueError, match="None of the 2 held-out images can be read"):
        HeldOutPairs(only_bad, tiny_processor, options)


def test_images_are_read_as_in_training(tiny_tokenizer, tmp_path, caplog):
    size = {"size": IMAGE_SIZE, "crop_size": IMAGE_SIZE}
    processor = ClipHFProcessor(ClipHFImageProcessor(**size, background_color=[0, 0, 128]), tiny_tokenizer)
    plain = np.random.default_rng(0).integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 4), dtype=np.uint8)
    plain[..., 3] = 0
    plain[8:30, 4:20, 3] = 255
    drawing = Image.fromarray(plain)
    tag = Image.Exif()
    tag[0x0112] = 6
    drawing.save(tmp_path / "drawing.png")
    drawing.save(tmp_path / "turned.png", exif=tag)
    drawing.resize((200, 100)).save(tmp_path / "large.png")
    drawing.resize((20, 10)).save(tmp_path / "small.png")
    names = ["drawing", "turned", "large", "small"]
    table = {"image": [str(tmp_path / f"{name}.png") for name in names], "caption": names}
    options = PairOptions(min_image_size=11, image_limits=ImageLimits(max_pixels=10_000))
    pairs = HeldOutPairs(datasets.Dataset.from_dict(table), processor, options)
    assert pairs.captions == [["drawing"], ["turned"]]
    first = f"The image of row 2 ({tmp_path / 'large.png'}) cannot be used: it has 200x100 pixels"
    assert f"2 of 4 held-out images cannot be used and are left out. {first}" in caplog.text
    # What training reads: the crop is the whole picture here.
    dataset = ImageTextDataset(datasets.Dataset.from_dict(table).select([0, 1]), processor.image_processor, options)
    for row, pixels in enumerate(pairs.pixels):
        assert np.array_equal(pixels, dataset[row]["pixel_values"])
        assert pixels.dtype == np.uint8 and pixels[:, 0, 0].tolist() == [0, 0, 128]
    assert not np.array_equal(*pairs.pixels)


def test_a_limit_and_bad_columns(tiny_processor):
    data = captioned(6)
    assert (
        HeldOutPairs(data, tiny_processor, PairOptions(), max_rows=4).texts
        == HeldOutPairs(data.select(range(4)), tiny_processor, PairOptions()).texts
    )
    with pytest.raises(ValueError, match="no column 'text'; it has 'image', 'caption'"):
        HeldOutPairs(data, tiny_processor, PairOptions(caption_column="text"))
    with pytest.raises(ValueError, match="Row 1 has no caption"):
        HeldOutPairs(pairs_of(["a", None]), tiny_processor, PairOptions())
