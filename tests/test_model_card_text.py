# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a model card says of what is known: names without paths, the steps of preprocessing, tables of results."""

import pytest
from huggingface_hub import EvalResult, ModelCard
from PIL import Image

from clip_hf import ClipHFImageProcessor
from clip_hf.model_card import ModelCardDetails, create_model_card
from clip_hf.model_card_text import image_steps, public_name
from tiny_models import tiny_config


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"),
        ("openmoji", "openmoji"),
        ("/home/alice/photos", "photos"),
        ("/home/alice/photos/", "photos"),
        ("~/photos", "photos"),
        ("../alice/photos", "photos"),
        ("./photos", "photos"),
        ("alice/pairs.csv", "pairs.csv"),
        ("/home/alice/shards/{00000..00999}.tar", "{00000..00999}.tar"),
        ("C:\\Users\\alice\\photos", "photos"),
        ("file:///home/alice/pairs.parquet", "pairs.parquet"),
        ("https://alice:secret@host.org/pairs.tar?X-Amz-Signature=1", "https://host.org/pairs.tar"),
        ("s3://bucket/pairs.tar", "s3://bucket/pairs.tar"),
        ("here/photos", "photos"),
        ("here/run/last", "run"),
    ],
)
def test_names_without_paths_of_this_machine(name, public, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "photos").mkdir(parents=True)
    (tmp_path / "here" / "run" / "last").mkdir(parents=True)
    (tmp_path / "here" / "run" / "recipe.yaml").touch()
    assert public_name(name) == public


def test_a_card_holds_no_path_wherever_it_was_given():
    result = EvalResult(
        task_type="zero-shot-image-classification",
        dataset_type="/home/alice/photos",
        dataset_name="/home/alice/photos",
        metric_type="top1",
        metric_value=50.0,
    )
    details = ModelCardDetails(
        base_model="/home/alice/first", datasets=["/home/alice/pairs.csv", "me/pairs"], eval_results=[result]
    )
    card = create_model_card(tiny_config("vit"), "/home/alice/second", details)
    assert "alice" not in str(card)
    assert card.data.datasets == ["me/pairs"] and card.data.get("base_model") is None
    assert card.data.model_name == "second" and "\n# second\n" in str(card)
    assert card.data.eval_results[0].dataset_type == "photos"


def test_the_steps_of_preprocessing():
    processor = ClipHFImageProcessor(
        size={"shortest_edge": 66}, crop_size=64, background_color="white", resample=Image.Resampling.BILINEAR
    )
    assert image_steps(processor) == [
        "turn the image upright by its EXIF orientation",
        "put a transparent image on the background (255, 255, 255)",
        "resize the shorter side to 66 pixels with a bilinear filter",
        "crop the centre of 64 x 64 pixels",
        "convert to RGB",
        "scale to 0 to 1",
        "subtract the mean (0.48145466, 0.4578275, 0.40821073) and divide by the standard deviation (0.26862954, "
        "0.26130258, 0.27577711)",
    ]
    processor = ClipHFImageProcessor(
        size={"height": 8, "width": 9},
        do_center_crop=False,
        apply_exif_orientation=False,
        rescale_factor=1 / 127.5,
        do_normalize=False,
    )
    assert image_steps(processor) == [
        "drop transparency: transparent places show the colours that are stored in them",
        "resize to 8 x 9 pixels, whatever the aspect ratio, with a bicubic filter",
        "convert to RGB",
        "multiply by 0.00784314",
    ]


def test_intervals_are_in_the_table_and_survive_the_metadata():
    def result(name: str, args: dict | None) -> EvalResult:
        return EvalResult(
            task_type="zero-shot-image-retrieval",
            dataset_type="photos",
            dataset_name="photos",
            metric_type=name,
            metric_value=50.0,
            metric_args=args,
        )

    results = [result("a", {"interval_95": [40.5, 60.25]}), result("b", None), result("c", {"max_order": 4})]
    card = create_model_card(tiny_config("vit"), "me/x", ModelCardDetails(eval_results=results))
    assert "| Dataset | Split | Task | Metric | Value | 95% interval |" in card.text
    assert "| a | 50 | 40.5 to 60.25 |" in card.text and "| b | 50 |  |" in card.text and "| c | 50 |  |" in card.text
    read = ModelCard(str(card)).data.eval_results
    assert [one.metric_args for one in read] == [{"interval_95": [40.5, 60.25]}, None, {"max_order": 4}]
    plain = create_model_card(tiny_config("vit"), "me/x", ModelCardDetails(eval_results=results[1:]))
    assert "interval" not in plain.text.partition("## Limitations")[0]
