# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Captioned images prepared for training: what is drawn, the pixels, the batches, and bad data."""

import re

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.testing_utils import CaptureLogger

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.data import ImageTextCollator, ImageTextDataset, PairOptions, image_text, read_captions
from clip_hf.data.texts import stable_id
from pair_data import bad_files, encoded, image_of


@pytest.fixture(scope="module")
def image_processor() -> ClipHFImageProcessor:
    return ClipHFImageProcessor(size={"shortest_edge": 12}, crop_size={"height": 8, "width": 8})


@pytest.fixture(scope="module")
def processor(image_processor, tiny_tokenizer) -> ClipHFProcessor:
    return ClipHFProcessor(image_processor, tiny_tokenizer)


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    generator = np.random.default_rng(0)
    sizes = [(12, 12), (30, 20), (16, 40)]
    images = [Image.fromarray(generator.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": images, "caption": ["cat", "dog", "Cat "]}, features=features)


def columns(**changed) -> datasets.Dataset:
    values = {"image": [Image.new("RGB", (12, 12))] * 2, "caption": ["cat", "dog"]} | changed
    return datasets.Dataset.from_dict(values).cast_column("image", datasets.Image())


def draws(pairs: ImageTextDataset, epoch: int) -> list[tuple[str, bytes]]:
    return [(pairs[epoch, row]["text"], pairs[epoch, row]["pixel_values"].tobytes()) for row in range(len(pairs))]


# --------------------------------------------------------------------------------------------------------------- items


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
        ImageTextDataset(rows, image_processor, PairOptions(templates=templates, seed=seed)) for seed in (1, 1, 2)
    )
    assert draws(pairs, 3) == draws(same, 3)
    assert pairs[3, 1]["text"] == same[3, 1]["text"]
    assert draws(pairs, 3) != draws(pairs, 4)
    assert draws(pairs, 3) != draws(other, 3)
    same.set_epoch(3)
    assert [(same[row]["text"], same[row]["pixel_values"].tobytes()) for row in range(3)] == draws(pairs, 3)


def test_every_template_and_caption_is_drawn(image_processor):
    pairs = ImageTextDataset(
        columns(caption=[["cat", "kitten"], ["dog"]]), image_processor, PairOptions(templates=["{}", "a {caption}."])
    )
    texts = {draws(pairs, epoch)[0][0] for epoch in range(50)}
    assert texts == {"cat", "kitten", "a cat.", "a kitten."}


def test_templates_name_columns(image_processor):
    data = columns(caption=["{title}", None], title=["Dawn", "Night"], artist=["Ada", None], year=[1899, 1900])
    options = PairOptions(templates=["{title}, {artist}", "{title} ({year})"])
    pairs = ImageTextDataset(data, image_processor, options)
    texts = [{draws(pairs, epoch)[row][0] for epoch in range(30)} for row in range(2)]
    # Without an artist, the template that names one is not drawn. No caption is needed.
    assert texts == [{"Dawn, Ada", "Dawn (1899)"}, {"Night (1900)"}]
    pairs = ImageTextDataset(data.select([0]), image_processor, PairOptions(templates=["{} by {artist}"]))
    assert pairs[0]["text"] == "{title} by Ada"
    with pytest.raises(ValueError, match="no column 'name'; it has 'image', 'caption', 'title', 'artist', 'year'"):
        ImageTextDataset(data, image_processor, PairOptions(templates=["{name}"]))
    with pytest.raises(ValueError, match="1 column blank. Row 1 has the artist None; it must be a string"):
        ImageTextDataset(data, image_processor, PairOptions(templates=["{artist}"]))


def test_cached_images_are_the_same_and_read_once(rows, image_processor):
    pairs, cached = (
        ImageTextDataset(rows, image_processor, PairOptions(cache_images=cache)) for cache in (False, True)
    )
    assert draws(pairs, 0) == draws(cached, 0)
    cached.images = None
    assert draws(pairs, 1) == draws(cached, 1)


def test_images_as_bytes_and_as_paths(tmp_path, image_processor):
    data = [encoded(image_of(n)) for n in range(2)]
    paths = [str(tmp_path / f"{n}.png") for n in range(2)]
    for path, content in zip(paths, data):
        (tmp_path / path).write_bytes(content)
    results = []
    for values in (data, paths, [{"bytes": content, "path": None} for content in data]):
        table = datasets.Dataset.from_dict({"image": values, "caption": ["cat", "dog"]})
        results.append(draws(ImageTextDataset(table, image_processor), 0))
    assert results[0] == results[1] == results[2]


# ------------------------------------------------------------------------------------------------------------- batches


def test_batch_is_what_the_processor_makes_of_the_crops(rows, processor):
    pairs = ImageTextDataset(rows, processor.image_processor, PairOptions(templates=["a {}"]))
    items = [pairs[row] for row in range(3)]
    batch = ImageTextCollator(processor)(items)
    crops = [Image.fromarray(item["pixel_values"].transpose(1, 2, 0)) for item in items]
    expected = processor(
        text=["a cat", "a dog", "a Cat "], images=crops, padding=True, return_tensors="pt", do_resize=False
    )
    assert batch["pixel_values"].dtype == torch.float32
    for name in ("pixel_values", "input_ids", "attention_mask"):
        assert torch.equal(batch[name], expected[name])
    assert batch["skipped"] == []
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask", "text_ids", "skipped", "noticed"}


@pytest.mark.parametrize(
    "options", [{"do_normalize": False}, {"do_rescale": False}, {"image_mean": 0.5, "image_std": 2}]
)
def test_pixels_with_other_options_of_the_processor(rows, tiny_tokenizer, options):
    processor = ClipHFProcessor(ClipHFImageProcessor(size=12, crop_size=8, **options), tiny_tokenizer)
    item = ImageTextDataset(rows, processor.image_processor)[0]
    crop = Image.fromarray(item["pixel_values"].transpose(1, 2, 0))
    expected = processor.image_processor(crop, do_resize=False, return_tensors="pt")["pixel_values"]
    assert torch.equal(ImageTextCollator(processor)([item])["pixel_values"], expected.float())


def test_padding_to_the_context_length(rows, processor):
    items = [ImageTextDataset(rows, processor.image_processor)[row] for row in range(3)]
    batch = ImageTextCollator(processor, padding="max_length")(items)
    shorter = ImageTextCollator(processor)(items)
    length = shorter["input_ids"].shape[1]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, processor.tokenizer.model_max_length)
    assert torch.equal(batch["input_ids"][:, :length], shorter["input_ids"])
    assert batch["attention_mask"].sum() == shorter["attention_mask"].sum()


def test_a_batch_for_the_trainer_has_what_the_model_takes(rows, processor):
    pairs = ImageTextDataset(rows, processor.image_processor, PairOptions(image_id_column="caption"))
    batch = ImageTextCollator(processor, return_loss=True)([pairs[0], pairs[1]])
    inputs = {"pixel_values", "input_ids", "attention_mask", "image_ids", "text_ids"}
    assert set(batch) == {*inputs, "return_loss", "return_logits"}
    assert batch["return_loss"] is True and batch["return_logits"] is False


@pytest.mark.parametrize("token_dropout", [0.0, 0.3])
@pytest.mark.parametrize("padding", ["longest", "max_length"])
def test_captions_that_are_cut_and_crops_of_one_colour_are_noticed(token_dropout, padding, processor):
    limit = processor.tokenizer.model_max_length
    # A letter is a token: the context takes its length less two, for the start and the end of the text.
    texts = [" ".join("q" * count) for count in (1, limit - 3, limit - 2, limit - 1, 3 * limit)]
    assert [len(ids) for ids in processor.tokenizer(texts, truncation=False)["input_ids"][1:4]] == [
        limit - 1,
        limit,
        limit + 1,
    ]
    plain = np.repeat(np.array([[[9]], [[0]], [[255]]], np.uint8), 64, axis=1).repeat(64, axis=2)
    one_pixel = plain.copy()
    one_pixel[2, 63, 62] = 254
    pictures = [plain, one_pixel, plain[:, :5, :3], np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)]
    items = [
        {"pixel_values": pixels, "text": text, "text_id": 0, "token_seed": row}
        for row, (pixels, text) in enumerate(zip([*pictures, plain], texts))
    ]
    items[2]["pixel_values"] = plain
    for item in items[:4]:
        item["lost_alpha"] = True
    collator = ImageTextCollator(processor, padding, token_dropout)
    assert collator(items)["noticed"] == {"captions_cut": 2, "plain_images": 2}
    assert collator(items[1:2])["noticed"] == {"captions_cut": 0, "plain_images": 0}


def test_text_ids_are_shared_by_equal_captions_whatever_the_template(rows, processor):
    pairs = ImageTextDataset(rows, processor.image_processor, PairOptions(templates=["{}", "a {}", "the {}"]))
    batch = ImageTextCollator(processor)([pairs[row] for row in range(3)])
    cat, dog, same_cat = batch["text_ids"].tolist()
    assert cat == same_cat != dog
    # Another process must come to the same number.
    assert cat == 1843079001574132759


def test_image_ids_are_shared_by_rows_with_the_same_id(processor):
    data = datasets.concatenate_datasets([columns(photo=[7, 8]), columns(photo=[7, None]), columns(photo=[None, 8])])
    pairs = ImageTextDataset(data, processor.image_processor, PairOptions(image_id_column="photo"))
    ids = ImageTextCollator(processor)([pairs[row] for row in range(6)])["image_ids"]
    assert ids.dtype == torch.int64
    assert ids[0] == ids[2] and ids[1] == ids[5]
    assert len(set(ids.tolist())) == 4  # rows without an id have one of their own
    with pytest.raises(ValueError, match="no column 'id'.*ids of the images"):
        ImageTextDataset(data, processor.image_processor, PairOptions(image_id_column="id"))


def test_token_dropout_leaves_out_tokens_by_row_and_epoch(processor):
    text = "two dogs playing in the snow"
    data, options = columns(caption=[text, text]), PairOptions(token_dropout=0.4)
    pairs = ImageTextDataset(data, processor.image_processor, options)
    collator = ImageTextCollator(processor, token_dropout=0.4)
    (whole,) = processor.tokenizer([text])["input_ids"]
    lengths = set()
    for epoch in range(30):
        batch, again = (collator([pairs[epoch, row] for row in range(2)]) for _ in range(2))
        assert torch.equal(batch["input_ids"], again["input_ids"])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"]):
            kept = ids[: mask.sum()].tolist()
            lengths.add(len(kept))
            assert (kept[0], kept[-1]) == (whole[0], whole[-1]) and len(kept) > 2
            left = iter(whole)
            assert all(token in left for token in kept)  # in their order
    assert len(lengths) > 3 and max(lengths) <= len(whole)
    assert pairs[0]["text"] == text


@pytest.mark.parametrize("token_dropout", [0.1, 0.9])
def test_the_share_of_tokens_that_is_left_out(token_dropout, processor):
    text = "two dogs playing in the snow"
    inner = len(processor.tokenizer([text])["input_ids"][0]) - 2
    pixels = np.zeros((3, 8, 8), np.uint8)
    items = [{"text": text, "token_seed": seed, "text_id": 0, "pixel_values": pixels} for seed in range(500)]
    batch = ImageTextCollator(processor, token_dropout=token_dropout)(items)
    kept = batch["attention_mask"].sum(dim=1) - 2
    # One token stays where all would go, which adds a share of (dropout ** inner).
    expected = 1 - token_dropout + token_dropout**inner / inner
    assert kept.double().mean().item() / inner == pytest.approx(expected, abs=0.03)


def test_images_of_different_shapes_form_no_batch(rows, tiny_tokenizer):
    processor = ClipHFProcessor(ClipHFImageProcessor(size=12, do_center_crop=False), tiny_tokenizer)
    pairs = ImageTextDataset(rows, processor.image_processor)
    with pytest.raises(ValueError, match="different shapes.*do_center_crop=True"):
        ImageTextCollator(processor)([pairs[0], pairs[1]])


# ------------------------------------------------------------------------------------------------------------ bad data


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (columns(), {"image_column": "img"}, "no column 'img'; it has 'image', 'caption'.*holds the images"),
        (columns(), {"caption_column": "text"}, "no column 'text'; it has 'image', 'caption'.*holds the captions"),
        (
            columns(title=["cat", "dog"]),
            {"image_column": "title"},
            "2 file missing. The image of row 0 is missing: there is no file cat",
        ),
        (columns(size=[3, 4]), {"image_column": "size"}, "column 'size' holds .*images are files' bytes, paths"),
        (columns().select([]), {}, "dataset is empty"),
        (columns(caption=["cat", None]), {}, "1 of 2 rows .* 1 caption missing. Row 1 has no caption but None"),
        (columns(caption=["cat", "  "]), {}, "1 caption blank. Row 1 has the caption '  '"),
        (columns(caption=[["cat"], []]), {}, r"Row 1 has no caption but \[\]"),
        (columns(caption=[["cat"], ["dog", None]]), {}, "Row 1 has the caption None"),
        (columns(caption=[3, 4]), {}, "2 caption of a wrong type. Row 0 has no caption but 3"),
        (columns(image=[Image.new("RGB", (9, 9)), None]), {}, "1 image missing. Row 1 has no image"),
        (columns(image=[{"bytes": b"", "path": None}] * 2), {"max_skipped_share": 1.0}, "2 file empty. The image of"),
        (
            columns(image=[{"bytes": None, "path": "/nowhere/1.png"}] * 2),
            {},
            r"2 of 2 rows \(100.00%\) cannot be used: 2 file missing. The image of row 0 is missing: there is no file "
            "/nowhere/1.png.* max_skipped_share=0.05 allows; repair or remove",
        ),
    ],
)
def test_bad_data_is_found_before_the_first_item(dataset, options, message, image_processor):
    with pytest.raises(ValueError, match=message):
        ImageTextDataset(dataset, image_processor, PairOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": ["a photo"]}, "template 'a photo' must have {} once"),
        ({"templates": ["{} {}"]}, "template '{} {}' must have {} once"),
        ({"templates": []}, "no templates"),
        ({"templates": "{}"}, "`templates` is the string"),
        ({"token_dropout": 1.0}, "`token_dropout` is 1.0"),
        ({"max_skipped_share": 5}, "`max_skipped_share` is 5"),
        ({"shuffle_buffer": -1}, "`shuffle_buffer` is -1"),
        ({"bucket_batches": 1.5}, "`bucket_batches` is 1.5; it must be a whole number"),
        ({"padding": "left"}, "`padding` is 'left'; it must be one of 'longest', 'max_length'"),
        ({"augmentation": {"blur": 1}}, "must be an `Augmentation`"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PairOptions(**options)


def test_few_bad_rows_are_warned_of_once_and_replaced(image_processor):
    good = [{"bytes": encoded(image_of(n)), "path": None} for n in range(20)]
    captions = [f"cat {n}" for n in range(20)]
    captions[4] = " "
    good[9] = {"bytes": bad_files()["file truncated"], "path": None}
    with CaptureLogger(image_text.logger) as logged:
        pairs = ImageTextDataset(columns(image=good, caption=captions), image_processor)
    # The truncated file cannot be known before it is decoded.
    assert logged.out.count("1 of 20 rows (5.00%) cannot be used: 1 caption blank. Row 4 has the caption ' '") == 1
    skipped = {row: pairs[0, row]["skipped"] for row in range(20) if pairs[0, row]["skipped"]}
    assert {row: (entry.kind, entry.where) for row, entry in skipped.items()} == {
        4: ("caption blank", "row 4"),
        9: ("file truncated", "row 9"),
    }
    texts = {pairs[epoch, 9]["text"] for epoch in range(20)}
    assert len(texts) > 5 and not texts & {"cat 4", "cat 9", " "}
    again = pairs[3, 9]
    assert again["text"] == pairs[3, 9]["text"]
    assert np.array_equal(again["pixel_values"], pairs[3, 9]["pixel_values"])


def test_rows_that_were_selected_are_checked_by_their_own_numbers(image_processor):
    images = [{"bytes": encoded(image_of(n)), "path": None} for n in range(20)]
    images[3], images[5] = {"bytes": b"", "path": None}, None
    data = columns(image=images, caption=[f"cat {n}" for n in range(20)])
    data = datasets.concatenate_datasets([data, data]).select([*range(19, -1, -1), *range(30, 40), 25])
    pairs = ImageTextDataset(data, image_processor, PairOptions(max_skipped_share=0.1))
    kinds = {row: problem.kind for row, problem in pairs.bad_rows.items()}
    assert kinds == {14: "image missing", 16: "file empty", 30: "image missing"}
    assert pairs[0]["text"] == "cat 19" and pairs[20]["text"] == "cat 10"


def test_only_bad_images_are_an_error(image_processor):
    pairs = ImageTextDataset(columns(image=[{"bytes": b"no image", "path": None}] * 2), image_processor)
    with pytest.raises(ValueError, match="200 rows in sequence cannot be used. The first: The image of row 1 cannot"):
        pairs[1]


def test_a_folder_that_is_listed_finds_what_is_missing(tmp_path, image_processor):
    paths = []
    for number in range(40):
        paths.append(str(tmp_path / f"{number}.png"))
        if number != 17:
            (tmp_path / f"{number}.png").write_bytes(encoded(image_of(number)))
    data = datasets.Dataset.from_dict({"image": paths, "caption": ["cat"] * 40})
    pairs = ImageTextDataset(data, image_processor)
    assert {row: problem.kind for row, problem in pairs.bad_rows.items()} == {17: "file missing"}


def test_read_captions_gives_a_list_for_each_row():
    assert read_captions(columns()) == [["cat"], ["dog"]]
    assert read_captions(columns(caption=[["cat", "kitten"], ["dog"]])) == [["cat", "kitten"], ["dog"]]
    with pytest.raises(ValueError, match="Row 1 has no caption but None"):
        read_captions(columns(caption=["cat", None]))


def test_ids_of_texts_keep_the_columns_apart():
    assert len({stable_id("ab", "c"), stable_id("a", "bc"), stable_id("abc"), stable_id("abc", "")}) == 4


def test_a_column_without_a_name_is_shown_as_one():
    with pytest.raises(
        ValueError, match=re.escape("it has '' (no name), 'image'. Name the one that holds the captions")
    ):
        image_text.check_column(["", "image"], "caption", "captions", "caption_column")


@pytest.mark.parametrize("options", [{"caption_column": "image"}, {"templates": ["{} of {image}"]}])
def test_one_column_is_not_both_images_and_text(options):
    with pytest.raises(ValueError, match="The column 'image' is both that of the images and a text"):
        PairOptions(**options)
