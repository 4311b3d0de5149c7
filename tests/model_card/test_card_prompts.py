# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Model cards of trained models: their code has the templates of the training; films have a task that works."""

import re

import pytest

from clip_hf.model.configuration_clip_hf_video import ClipHFVideoConfig
from clip_hf.model_card import ModelCardDetails, create_model_card, update_model_card
from tiny_models import tiny_config


def video_config() -> ClipHFVideoConfig:
    config = tiny_config("vit").to_dict()
    return ClipHFVideoConfig(**{key: value for key, value in config.items() if key != "model_type"})


@pytest.mark.parametrize("is_video", [False, True])
@pytest.mark.parametrize(
    ("templates", "prompts"),
    [
        (["{}"], '"{}"'),
        (["{} on video.", "{title}: {}"], '"{} on video."'),
        (["video_actions"], '"video_actions"'),
        (["simple", "a {}"], '["a photo of a {}.", "a {}"]'),
        (["actionclip"], '"actionclip"'),
        (["{title}"], None),
        (None, None),
    ],
)
def test_the_code_classifies_with_the_templates_of_the_training(is_video, templates, prompts):
    config = video_config() if is_video else tiny_config("vit")
    details = ModelCardDetails(training={} if templates is None else {"templates": templates})
    usage = create_model_card(config, "me/tiny", details).text
    default = '"actionclip"' if is_video else '"a photo of a {}."'
    given = re.findall("hypothesis_template=(.*),", usage)
    assert given == [prompts or default] * 2 if not is_video or prompts not in (None, default) else given == []
    assert f"build_text_classifier(model, processor, labels, {prompts or default})  # (labels, " in usage


def test_templates_stay_in_the_code_when_results_are_added():
    config, details = tiny_config("vit"), ModelCardDetails(training={"templates": ["{}"]})
    before = str(create_model_card(config, None, details, num_parameters=7))
    after = str(update_model_card(before, create_model_card(config, None, num_parameters=7)))
    assert 'hypothesis_template="{}"' in after


def test_films_have_no_task_of_the_hub_that_makes_a_random_classifier():
    data = create_model_card(video_config(), "me/tiny").data
    assert data.pipeline_tag == "feature-extraction"
    assert data.tags[-3:] == ["video", "video-classification", "zero-shot-video-classification"]
