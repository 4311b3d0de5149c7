# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a model card says of what is known, without paths, and that a card which knows less takes nothing away."""

import pytest
from huggingface_hub import EvalResult, ModelCard
from PIL import Image
from test_model_card import SECTIONS, full_details, result, section, update

from clip_hf import ClipHFImageProcessor
from clip_hf.model_card import ModelCardDetails, create_model_card
from clip_hf.model_card.section_texts import image_steps, public_name
from tiny_models import IMAGE_SIZE, tiny_config


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
        ("https://alice:p@ss/w@host.org/a/pairs.tar", "https://host.org/a/pairs.tar"),
        ("https://alice:p?s#s@host.org/pairs.tar", "https://host.org/pairs.tar"),
        ("HTTPS://host.org/pairs.tar#token=1", "https://host.org/pairs.tar"),
        ("https://host.org/pairs.tar;token=1", "https://host.org/pairs.tar"),
        ("https://host.org/@alice/x@2.tar", "https://host.org/@alice/x@2.tar"),
        ("hf://datasets/alice/pairs@main/pairs.tar", "hf://datasets/alice/pairs@main/pairs.tar"),
        ("s3://bucket/alice/pairs.tar?X-Amz-Signature=a/b", "pairs.tar"),
        ("s3://key:sec/ret@bucket", "bucket"),
        ("FILE:///home/alice/x", "x"),
        ("sqlite:////home/alice/x.db", "x.db"),
        ("alice@host:data", "data"),
        ("alice@host:/home/alice/data", "data"),
        ("C:data", "data"),
        ("pipe:curl https://x/y.tar -H 'Authorization: Bearer secret'", "pipe"),
        ("food101=~/alice/x", "x"),
        ("//host/x?token=1", "x"),
        ("/data/alice/shard-?.tar", "shard-?.tar"),
        ("/home/alice", "home folder"),
        ("C:\\Users\\alice\\", "home folder"),
        ("file:///home/alice", "home folder"),
        ("~", "home folder"),
        ("~alice", "home folder"),
        ("OpenMoji (openmoji.org, CC BY-SA 4.0)", "OpenMoji (openmoji.org, CC BY-SA 4.0)"),
        ("files: pairs.csv", "files: pairs.csv"),
        ("MS COCO 2014/val", "MS COCO 2014/val"),
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
    measured = EvalResult(
        task_type="zero-shot-image-classification",
        dataset_type="/home/alice/photos",
        dataset_name="/home/alice/photos",
        metric_type="top1",
        metric_value=50.0,
    )
    details = ModelCardDetails(
        base_model="/home/alice/first", datasets=["/home/alice/pairs.csv", "me/pairs"], eval_results=[measured]
    )
    card = create_model_card(tiny_config("vit"), "/home/alice/second", details)
    assert "alice" not in str(card)
    assert card.data.datasets == ["me/pairs"] and card.data.get("base_model") is None
    assert card.data.model_name == "second" and "\n# second\n" in str(card)
    assert card.data.eval_results[0].dataset_type == "photos"


def test_a_card_holds_no_path_in_texts_settings_and_urls():
    measured = EvalResult(
        task_type="zero-shot-image-classification",
        dataset_type="photos",
        dataset_name="photos",
        dataset_config="/home/alice/first",
        dataset_split="/home/alice/test",
        dataset_args={"file": "/home/alice/args"},
        source_name="table of /home/alice/table.csv",
        source_url="https://alice:secret@host.org/board/x?token=secret",
        metric_type="top1",
        metric_value=50.0,
    )
    details = ModelCardDetails(
        source="Converted (from /home/alice/RN50.pt, see [there](https://host.org/a/b?token=secret)) and/or copied.",
        training={"templates": ["a {} photo", "~/alice/templates.txt"], "steps": 3, "log": "alice@host:log"},
        example_image="/home/alice/dog.jpg",
        eval_results=[measured],
    )
    card = create_model_card(tiny_config("vit"), "/home/alice", details)
    assert "alice" not in str(card) and "secret" not in str(card)
    assert "Converted (from RN50.pt, see [there](https://host.org/a/b)) and/or copied." in card.text
    assert "['a {} photo', 'templates.txt']" in card.text and '"dog.jpg"' in card.text
    (result,) = card.data.eval_results
    assert (result.dataset_config, result.dataset_split, result.dataset_args) == ("first", "test", {"file": "args"})
    assert (result.source_name, result.source_url) == ("table of table.csv", "https://host.org/board/x")
    assert card.data.model_name == "CLIP" and "\n# CLIP\n" in str(card)
    titled = create_model_card(tiny_config("vit"), None, ModelCardDetails(title="a CLIP with ViT/16, on birds"))
    assert "\n# a CLIP with ViT/16, on birds\n" in str(titled)


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
    def measured(name: str, args: dict | None) -> EvalResult:
        return EvalResult(
            task_type="zero-shot-image-retrieval",
            dataset_type="photos",
            dataset_name="photos",
            metric_type=name,
            metric_value=50.0,
            metric_args=args,
        )

    results = [measured("a", {"interval_95": [40.5, 60.25]}), measured("b", None), measured("c", {"max_order": 4})]
    card = create_model_card(tiny_config("vit"), "me/x", ModelCardDetails(eval_results=results))
    assert "| Dataset | Split | Task | Metric | Value | 95% interval |" in card.text
    assert "The intervals are for other images of the same kind" in card.text
    assert "| a | 50.00 | 40.50 to 60.25 |" in card.text and "| b | 50.00 |  |" in card.text
    assert "| c | 50.00 |  |" in card.text
    read = ModelCard(str(card)).data.eval_results
    assert [one.metric_args for one in read] == [{"interval_95": [40.5, 60.25]}, None, {"max_order": 4}]
    plain = create_model_card(tiny_config("vit"), "me/x", ModelCardDetails(eval_results=results[1:]))
    assert "interval" not in plain.text.partition("## Limitations")[0]


def test_what_a_new_card_does_not_know_stays():
    """As when an evaluation puts its figures into a card: the weights are the same."""
    config, processor = tiny_config("vit"), ClipHFImageProcessor(size=IMAGE_SIZE, crop_size=IMAGE_SIZE)
    details = full_details(title="Tiny", image_processor=processor, openai_weights=True)
    old = str(create_model_card(config, "me/tiny-clip", details, 99))
    new = create_model_card(config, "last", ModelCardDetails(eval_results=[result(0.75)]))
    merged = update(old, new)
    names = [name for name in SECTIONS if section(merged, name) != section(old, name)]
    assert names == ["evaluation"]
    assert ModelCard(merged).data.model_name == "me/tiny-clip"
    assert update(merged, new) == merged
    # Of another model all is told anew, but for the training that nothing else records.
    other = create_model_card(tiny_config("resnet"), "last", ModelCardDetails())
    merged = update(old, other)
    assert section(merged, "training") == section(old, "training")
    for name in ("title", "overview", "usage", "preprocessing"):
        assert section(merged, name) == section(str(other), name)


def test_what_was_never_known_is_renewed():
    config = tiny_config("vit")
    old = str(create_model_card(config, "me/old", ModelCardDetails()))
    new = create_model_card(config, "me/new", ModelCardDetails(openai_weights=True, source="RN50.pt"), 99)
    merged = update(old, new)
    assert all(section(merged, name) == section(str(new), name) for name in SECTIONS)
