# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The processor: what it loads from which files, what it makes of images and texts, and what it refuses."""

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    CLIPProcessor,
    CLIPTokenizer,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from clip_hf import ClipHFImageProcessor, ClipHFProcessor, ClipHFTokenizer


OLD_CONFIGURATION = {
    "crop_size": 16, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 16,
    "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


@pytest.fixture
def transformers_warnings():
    """The warnings that transformers logs, as a list."""
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.fixture
def stock_tokenizer(tiny_tokenizer) -> CLIPTokenizer:
    """transformers' tokenizer with the vocabulary of ours."""
    model = json.loads(tiny_tokenizer.backend_tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=24)


@pytest.fixture(params=["new", "new, separate files", "old"])
def stock_repo(request, stock_tokenizer, tmp_path) -> Path:
    """A folder of a CLIP's processor as transformers wrote it at different times."""
    image_processor = CLIPImageProcessorPil(**{k: v for k, v in OLD_CONFIGURATION.items() if "type" not in k})
    if request.param == "new":
        CLIPProcessor(image_processor, stock_tokenizer).save_pretrained(tmp_path)
    elif request.param == "new, separate files":
        image_processor.save_pretrained(tmp_path)
        stock_tokenizer.save_pretrained(tmp_path)
    else:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(OLD_CONFIGURATION))
        model = json.loads(stock_tokenizer.backend_tokenizer.to_str())["model"]
        (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
        (tmp_path / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 24, "do_lower_case": True})
        )
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    return tmp_path


# ------------------------------------------------------------------------------------------------- loading and saving


def test_any_clip_repo_gives_our_classes(stock_repo, tiny_tokenizer, images, transformers_warnings, recwarn):
    processor = ClipHFProcessor.from_pretrained(stock_repo)
    assert type(processor) is ClipHFProcessor
    assert type(processor.image_processor) is ClipHFImageProcessor
    assert type(processor.tokenizer) is ClipHFTokenizer
    assert not transformers_warnings
    assert not recwarn.list

    expected = ClipHFImageProcessor(size=16, crop_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)(images)
    inputs = processor(images=images, text=["a cat", "dogs &amp; snow"], return_tensors="np")
    np.testing.assert_array_equal(inputs.pixel_values, np.stack(expected.pixel_values))
    assert inputs.input_ids.tolist() == tiny_tokenizer(["a cat", "dogs &amp; snow"], padding=True).input_ids


def test_stock_classes_stay_stock(stock_repo):
    processor = CLIPProcessor.from_pretrained(stock_repo)
    assert type(processor.image_processor) is CLIPImageProcessorPil
    assert type(processor.tokenizer) is CLIPTokenizer


def test_save_and_load(tiny_processor, tmp_path, images, transformers_warnings):
    tiny_processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["processor_class"] == "ClipHFProcessor"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip_hf"}))
    texts = ["two dogs", "a map of the world, folded"]
    expected = tiny_processor(images, texts, return_tensors="pt")
    for load in (ClipHFProcessor.from_pretrained, AutoProcessor.from_pretrained):
        again = load(tmp_path)
        assert [type(part) for part in (again, again.image_processor, again.tokenizer)] == [
            ClipHFProcessor, ClipHFImageProcessor, ClipHFTokenizer,
        ]  # fmt: skip
        inputs = again(images, texts, return_tensors="pt")
        assert inputs.keys() == expected.keys()
        assert all((inputs[name] == expected[name]).all() for name in inputs)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is ClipHFImageProcessor
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is ClipHFTokenizer
    assert type(ClipHFImageProcessor.from_pretrained(tmp_path)) is ClipHFImageProcessor
    assert not transformers_warnings


def test_options_reach_their_part(tiny_processor, tmp_path):
    tiny_processor.save_pretrained(tmp_path)
    processor = ClipHFProcessor.from_pretrained(tmp_path, size=9, do_normalize=False, model_max_length=5)
    assert dict(processor.image_processor.size) == {"shortest_edge": 9}
    assert processor.image_processor.do_normalize is False
    assert processor.tokenizer.model_max_length == 5
    assert not {"size", "do_normalize"} & processor.tokenizer.init_kwargs.keys()
    with pytest.raises(TypeError, match="`do_normalise` of .*. Did you mean `do_normalize`"):
        ClipHFProcessor.from_pretrained(tmp_path, do_normalise=False)


def test_a_processor_may_be_in_a_subfolder(tiny_processor, tmp_path):
    tiny_processor.save_pretrained(tmp_path / "inner")
    processor = ClipHFProcessor.from_pretrained(tmp_path, subfolder="inner")
    assert processor.tokenizer.get_vocab() == tiny_processor.tokenizer.get_vocab()
    assert processor.image_processor.size == tiny_processor.image_processor.size
    with pytest.raises(OSError, match="no image processor"):
        ClipHFProcessor.from_pretrained(tmp_path)


def test_saving_changes_nothing(tiny_processor, tmp_path):
    before = [dict(vars(part)) for part in (tiny_processor, tiny_processor.image_processor, tiny_processor.tokenizer)]
    tiny_processor.save_pretrained(tmp_path)
    tiny_processor.image_processor.save_pretrained(tmp_path)
    after = [dict(vars(part)) for part in (tiny_processor, tiny_processor.image_processor, tiny_processor.tokenizer)]
    assert after == before


def test_a_name_that_is_neither_a_folder_nor_a_repo_is_said_to_be_neither():
    with pytest.raises(OSError, match="neither a folder no-such-model nor a repository of this name"):
        ClipHFProcessor.from_pretrained("no-such-model")


def test_missing_image_processor(tiny_processor, tmp_path):
    tiny_processor.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        OSError, match=r"no image processor: it has neither preprocessor_config.json .*save_pretrained"
    ):
        ClipHFProcessor.from_pretrained(tmp_path)
    given = ClipHFImageProcessor(size=9, crop_size=9)
    processor = ClipHFProcessor.from_pretrained(tmp_path, image_processor=given)
    assert processor.image_processor is given
    assert type(processor.tokenizer) is ClipHFTokenizer


@pytest.mark.parametrize("leftover", [(), ("tokenizer_config.json",), ("tokenizer_config.json", "vocab.json")])
def test_missing_tokenizer(tiny_processor, tmp_path, leftover):
    tiny_processor.image_processor.save_pretrained(tmp_path)
    for name in leftover:
        (tmp_path / name).write_text("{}")
    with pytest.raises(
        OSError, match=r"no tokenizer: it has neither tokenizer.json nor both vocab.json and merges.txt"
    ):
        ClipHFProcessor.from_pretrained(tmp_path)
    processor = ClipHFProcessor.from_pretrained(tmp_path, tokenizer=tiny_processor.tokenizer)
    assert processor.tokenizer is tiny_processor.tokenizer


def test_missing_repo(tmp_path):
    with pytest.raises(OSError, match="There is no file or folder .*nowhere"):
        ClipHFProcessor.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(OSError, match="no image processor"):
        ClipHFProcessor.from_pretrained(tmp_path)


def test_parts_are_checked(tiny_processor):
    image_processor, tokenizer = tiny_processor.image_processor, tiny_processor.tokenizer
    with pytest.raises(ValueError, match="needs an image processor and a tokenizer; tokenizer is missing"):
        ClipHFProcessor(image_processor)
    with pytest.raises(ValueError, match="image_processor is missing"):
        ClipHFProcessor(tokenizer=tokenizer)
    with pytest.raises(TypeError, match="for argument image_processor"):
        ClipHFProcessor(tokenizer, image_processor)
    with pytest.raises(TypeError, match="colour"):
        ClipHFProcessor(image_processor, tokenizer, colour=1)


def test_other_parts_will_do(stock_tokenizer, images):
    processor = ClipHFProcessor(CLIPImageProcessorPil(size=16, crop_size=16), stock_tokenizer)
    inputs = processor(images=images, text=["a cat", "two dogs in the snow"], return_tensors="pt")
    assert inputs.pixel_values.shape == (5, 3, 16, 16)
    assert len(inputs.input_ids) == 2


# --------------------------------------------------------------------------------------------------------------- calls


def test_images_and_texts(tiny_processor, images):
    texts = ["a cat", "two dogs playing in the snow"]
    inputs = tiny_processor(images=images, text=texts, return_tensors="pt")
    assert isinstance(inputs, BatchFeature)
    assert set(inputs) == set(tiny_processor.model_input_names) == {"input_ids", "attention_mask", "pixel_values"}
    assert inputs.pixel_values.shape == (5, 3, 64, 64)
    assert inputs.pixel_values.dtype == torch.float32
    assert inputs.input_ids.shape == inputs.attention_mask.shape
    assert inputs.attention_mask.sum(dim=1).tolist() == [len(ids) for ids in tiny_processor.tokenizer(texts).input_ids]
    assert (inputs.pixel_values == tiny_processor.image_processor(images, return_tensors="pt").pixel_values).all()
    positional = tiny_processor(images, texts, return_tensors="pt")
    assert all((positional[name] == inputs[name]).all() for name in inputs)


def test_one_of_the_two(tiny_processor, images):
    assert set(tiny_processor(text="a cat")) == {"input_ids", "attention_mask"}
    assert set(tiny_processor(images=images[0])) == {"pixel_values"}
    one = tiny_processor(text="a cat", images=images[0], return_tensors="pt")
    assert one.input_ids.shape[0] == one.pixel_values.shape[0] == 1
    assert tiny_processor(text=("a cat", "dogs")).input_ids == tiny_processor(text=["a cat", "dogs"]).input_ids


def test_padding_and_length_can_be_chosen(tiny_processor):
    texts = ["a", "two dogs playing in the snow"]
    assert len({len(ids) for ids in tiny_processor(text=texts).input_ids}) == 1
    assert len({len(ids) for ids in tiny_processor(text=texts, padding=False).input_ids}) == 2
    assert tiny_processor(text=texts, padding="max_length", return_tensors="pt").input_ids.shape == (2, 24)
    cut = tiny_processor(text=texts, max_length=6, truncation=True, return_tensors="pt").input_ids
    assert cut.shape == (2, 6)
    assert (cut[:, -1] == tiny_processor.tokenizer.eos_token_id).all()


def test_long_texts_fit_the_context_and_keep_the_end(tiny_processor):
    ids = tiny_processor(text=["dogs " * 99, "a cat"], return_tensors="pt").input_ids
    assert ids.shape == (2, 24)
    assert ids[0, -1] == tiny_processor.tokenizer.eos_token_id


def test_options_go_to_the_part_that_has_them(tiny_processor, images):
    flat = tiny_processor(images=images, text="a cat", size=8, crop_size=8, padding="max_length", return_tensors="pt")
    nested = tiny_processor(
        images=images,
        text="a cat",
        images_kwargs={"size": 8, "crop_size": 8},
        text_kwargs={"padding": "max_length"},
        return_tensors="pt",
    )
    for inputs in (flat, nested):
        assert inputs.pixel_values.shape == (5, 3, 8, 8)
        assert inputs.input_ids.shape == (1, 24)
    red = Image.new("RGBA", (20, 20))
    inputs = tiny_processor(images=red, background_color=[255, 0, 0], do_normalize=False, return_tensors="pt")
    assert inputs.pixel_values[0, :, 3, 3].tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="padding"):
        tiny_processor(text="a cat", padding=True, text_kwargs={"padding": False})


def test_images_may_be_paths(tiny_processor, images, tmp_path):
    images[0].save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:300])
    found = tiny_processor(images=str(tmp_path / "0.png"), return_tensors="pt").pixel_values
    assert (found == tiny_processor(images=images[0], return_tensors="pt").pixel_values).all()
    with pytest.raises(ValueError, match=r"Image 1 \(.*1.png\): "):
        tiny_processor(images=[tmp_path / "0.png", tmp_path / "1.png"])


def test_decoding(tiny_processor):
    ids = tiny_processor(text=["a cat"]).input_ids
    assert tiny_processor.batch_decode(ids, skip_special_tokens=True) == ["a cat"]
    assert tiny_processor.decode(ids[0], skip_special_tokens=True) == "a cat"


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({}, ValueError, "needs images=..., text=..., or both"),
        ({"text": []}, ValueError, "`text` is an empty list"),
        ({"images": []}, ValueError, "There are no images"),
        ({"text": ["a", 3]}, TypeError, "Text 1 must be a string, not int: 3"),
        ({"text": ["a", None]}, TypeError, "Text 1 must be a string, not NoneType"),
        ({"text": 3}, TypeError, "`text` must be a string or a list of strings, not int"),
        ({"text": "a", "videos": [1]}, ValueError, "not videos or audio"),
        (
            {"text": "a", "pading": True},
            TypeError,
            "Unknown option `pading` of ClipHFProcessor. Did you mean `padding`",
        ),
        ({"text": "a", "colour": True}, TypeError, "Unknown option `colour` of ClipHFProcessor"),
        (
            {"text": "a", "text_kwargs": {"max_lenght": 3}},
            TypeError,
            "Unknown option `max_lenght` of text_kwargs. Did you",
        ),
        ({"text": "a", "images_kwargs": {"padding": 3}}, TypeError, "Unknown option `padding` of images_kwargs"),
        ({"images": Image.new("L", (9, 9)), "size": 0}, ValueError, "must be an integer of at least 1"),
        ({"images": Image.new("L", (0, 9))}, ValueError, "Image 0: the image has no pixels"),
        ({"images": Image.new("L", (9, 9)), "return_tensors": "tf"}, Exception, "tf"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_named(tiny_processor, inputs, error, message):
    with pytest.raises(error, match=message):
        tiny_processor(**inputs)


@pytest.mark.parametrize(
    "unset",
    [
        {"antialias": None},
        {"antialias": False},
        {"tokenizer_kwargs": None},
        {"return_metadata": False},
        {"images_kwargs": {"antialias": None}},
        {"text_kwargs": {"use_fast": False}},
        {"images_kwargs": None},
    ],
)
def test_options_that_there_are_not_may_be_unset(tiny_processor, images, unset):
    inputs = {"text": ["a cat", "two dogs playing"], "images": images, "return_tensors": "pt"}
    expected, given = tiny_processor(**inputs), tiny_processor(**inputs, **unset)
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in expected)
    if "antialias" in unset:
        pixels = tiny_processor.image_processor(images, return_tensors="pt", **unset).pixel_values
        assert torch.equal(pixels, expected["pixel_values"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"antialias": True}, "Unknown option `antialias`"),
        ({"return_metadata": True}, "Unknown option `return_metadata`"),
        ({"tokenizer_kwargs": {}}, "Unknown option `tokenizer_kwargs`"),
        # A slip, and False matters.
        ({"do_resise": False}, "Unknown option `do_resise` of .*. Did you mean `do_resize`"),
        ({"images_kwargs": {"do_center_corp": False}}, "Did you mean `do_center_crop`"),
        ({"text_kwargs": {"truncaton": False}}, "Did you mean `truncation`"),
        ({"image_limit": 3}, "Unknown option `image_limit`"),
    ],
)
def test_options_that_there_are_not_with_a_value(tiny_processor, images, options, message):
    with pytest.raises(TypeError, match=message):
        tiny_processor(text="a cat", images=images, **options)
    if not any(name.endswith("_kwargs") for name in options):
        with pytest.raises(TypeError, match=message):
            tiny_processor.image_processor(images, **options)
        with pytest.raises(TypeError, match=message):
            ClipHFImageProcessor(**options)


def test_a_cut_text_is_said_with_its_beginning(tiny_processor, caplog):
    tokenizer = copy.deepcopy(tiny_processor.tokenizer)
    tokenizer.deprecation_warnings.clear()
    processor = ClipHFProcessor(tiny_processor.image_processor, tokenizer)
    texts = ["a cat", "the number seven " * 20]
    processor(text=texts, truncation=True)
    assert not caplog.messages
    for _ in range(2):
        processor(text=texts)
    assert len(caplog.messages) == 1
    assert "Text 1 has 122 tokens, but at most 24 fit: 'the number seven the number seven" in caplog.text
    assert "Pass truncation=True to cut without this warning" in caplog.text
