# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The card of a classifier is the card of a CLIP without what only a CLIP can do."""

import re

from huggingface_hub import EvalResult, ModelCard

from clip_hf import ClipHFVideoModel
from clip_hf.model_card import ModelCardDetails, create_model_card, write_model_card
from clip_hf.model_card.section_comments import find_sections
from tiny_models import make_tiny_model, tiny_config


def test_a_classifiers_card_names_its_classes_and_compares_no_texts():
    config = tiny_config("vit", architectures=["ClipHFForImageClassification"], id2label={0: "cat", 1: "a | b"})
    card = create_model_card(config, None, ModelCardDetails(title="Cats", license="mit"), 1234)
    sections = {one.name: one.body for one in find_sections(card.text)}
    other = create_model_card(tiny_config("vit"), None, ModelCardDetails(title="Cats"))
    assert list(sections) == [one.name for one in find_sections(other.text)]
    assert card.data.pipeline_tag == "image-classification" and "zero-shot" not in card.data.tags
    assert "with a fixed set of 2 classes: cat, a | b. Its image encoder is" in sections["overview"]
    assert not any(word in str(card) for word in ("ext encoder", "input_ids", "candidate_labels"))
    assert "1,234 parameters" in sections["overview"] and "`mit`" in sections["licence"]
    blocks = re.findall(r"```python\n(.*?)```", sections["usage"], re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "card", "exec")
        assert '"image-classification"' in block and 'scores = classify("photo.jpg")\n' in block
    config.num_cache_keys = 44
    assert "it has a cache of 44 examples" in str(create_model_card(config, "x"))


def test_a_video_classifiers_card_is_of_films():
    config = ClipHFVideoModel.from_clip(make_tiny_model("vit"), num_frames=2).config
    config.architectures = ["ClipHFForVideoClassification"]
    card = create_model_card(config, "x")
    assert card.data.pipeline_tag == "video-classification"
    assert "A classifier of films" in card.text and 'scores = classify("film.mp4")' in card.text


def test_the_title_names_a_model_without_another_name(tmp_path):
    figure = EvalResult(task_type="t", dataset_type="d", dataset_name="d", metric_type="m", metric_value=1.0)
    details = ModelCardDetails(title="owner/model adapted to photos by lora", eval_results=[figure])
    path = write_model_card(tmp_path, tiny_config("vit"), details=details)
    assert ModelCard.load(path).data.model_name == details.title and tmp_path.name not in path.read_text()
