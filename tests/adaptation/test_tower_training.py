# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A training's size follows from its examples, and the examples are written as a dataset that training reads."""

import io

import pytest
from PIL import Image
from test_adapt_data import captioned, labelled

from clip_hf.adaptation import AdaptOptions, size_training
from clip_hf.adaptation.adapt_data import Draw
from clip_hf.adaptation.tower_training import training_options, write_examples
from clip_hf.data import load_pairs
from clip_hf.evaluation import load_classification, load_retrieval
from clip_hf.model.image_reading_clip_hf import ImageLimits


@pytest.mark.parametrize(
    ("examples", "steps", "batch_size", "ema"),
    [(5, 400, 5, None), (160, 400, 32, None), (2000, 1250, 32, 1 - 10 / 1250), (100_000, 7813, 256, 1 - 10 / 7813)],
)
def test_the_size_follows_from_the_examples(examples, steps, batch_size, ema):
    size = size_training("full", examples, 768)
    assert (size.steps, size.batch_size, size.ema_decay) == (steps, batch_size, ema)
    assert size.warmup_steps == steps // 10


def test_what_is_given_replaces_the_size():
    given = {"steps": 7, "batch_size": 3, "learning_rate": 0.5}
    size = size_training("lora", 50, 128, given)
    assert (size.steps, size.batch_size, size.learning_rate, size.warmup_steps) == (7, 3, 0.5, 0)
    assert size_training("lora", 2, 128, given).batch_size == 2
    assert size_training("lora", 50, 128).learning_rate == 6 * size_training("lora", 50, 768).learning_rate


def test_the_examples_are_a_dataset_of_the_pictures_and_their_texts(tmp_path):
    data = load_classification(labelled(2))
    write_examples(data, tmp_path / "labels")
    pairs = load_pairs([str(tmp_path / "labels")])
    assert list(pairs["caption"]) == ["red", "red", "green", "green", "blue", "blue"]
    for row, original in zip(pairs, labelled(2)):
        picture = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert picture.tobytes() == original["image"].tobytes()
    data.templates = {name: (f"a {name} one", f"the {name} one") for name in data.class_names}
    write_examples(data, tmp_path / "prompts")
    assert load_pairs([str(tmp_path / "prompts")])["caption"][0] == ["a red one", "the red one"]
    write_examples(load_retrieval(captioned(4)), tmp_path / "captions")
    assert load_pairs([str(tmp_path / "captions")])["caption"][1] == "red bar"


def test_pictures_of_files_are_copied(tmp_path):
    for name in ("red", "green"):
        (tmp_path / "data" / name).mkdir(parents=True)
        labelled(1)[0]["image"].save(tmp_path / "data" / name / "one.png")
    write_examples(load_classification(str(tmp_path / "data")), tmp_path / "out")
    row = load_pairs([str(tmp_path / "out")])[0]
    assert row["image"]["bytes"] == (tmp_path / "data" / row["caption"] / "one.png").read_bytes()


def test_the_options_of_the_training(tmp_path):
    data = load_classification(labelled(4))
    data.templates = ("a {}.", "the {}.")
    options = AdaptOptions(
        model="m",
        data=None,
        output_dir="o",
        method="flyp",
        image_options={
            "background_color": (255, 0, 7),
            "high_bit_depth": "scale",
            "apply_exif_orientation": False,
            "draft": None,
            "image_limits": ImageLimits(max_pixels=99, max_bytes=98, max_seconds=97.0),
        },
    )
    size = size_training("flyp", 12, 128)
    made = training_options(options, Draw(3, data, None, ""), size, tmp_path)
    assert (made.templates, made.loss, made.seed, made.max_steps) == (["a {}.", "the {}."], "softmax", 3, 400)
    assert (made.batch_size, made.weight_decay) == (12, 0.1)
    assert made.image_options == {
        "background_color": [255, 0, 7],
        "high_bit_depth": "scale",
        "apply_exif_orientation": False,
    }
    assert made.pair_options.image_limits == ImageLimits(max_pixels=99, max_bytes=98, max_seconds=97.0)


def test_a_training_decodes_no_drafts():
    with pytest.raises(ValueError, match="`draft` decodes JPEG files at a part of their size, which the training of"):
        AdaptOptions(model="m", data=None, output_dir="o", method="lora", image_options={"draft": True})
    AdaptOptions(model="m", data=None, output_dir="o", method="tip", image_options={"draft": True})
