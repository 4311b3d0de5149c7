# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Relevance of words: against a plain computation for each text alone, and which tokens make a word."""

import numpy as np
import pytest
import torch

from clip_hf import UnreadableImage
from clip_hf.explain import explain_words
from tiny_models import make_tiny_model


TEXTS = ["a photo of a  cat on a red mat", "two dogs &amp; a CAFÉ", "snow"]


def plain_words(model, processor, image, text: str) -> list[float]:
    """The words' relevance of one text alone, in float64."""
    model = model.double()
    model.set_attn_implementation("eager")
    pixel_values = processor(images=image, return_tensors="pt").pixel_values.double()
    target = model.encode_image(pixel_values)[0].detach()
    inputs = processor.tokenizer([text], return_tensors="pt")
    output = model.get_text_features(**inputs, output_attentions=True)
    logit = model.logit_scale.exp() * (output.pooler_output[0] / output.pooler_output[0].norm()) @ target
    result = torch.eye(inputs["input_ids"].shape[1], dtype=torch.float64)
    for weights, slopes in zip(output.attentions, torch.autograd.grad(logit, output.attentions), strict=True):
        result = result + sum((slopes[0, h] * weights[0, h]).clamp(min=0) for h in range(4)) / 4 @ result
    row = result[-1, 1:-1].tolist()
    words = []
    for word in processor.tokenizer.clean(text).split():
        count = len(processor.tokenizer(word, add_special_tokens=False)["input_ids"])
        words.append(sum(row[:count]))
        row = row[count:]
    assert not row
    return words


def test_words_of_texts_are_those_of_each_alone(tower, tiny_processor, images):
    model = make_tiny_model(tower)
    results = explain_words(model, tiny_processor, images[0], TEXTS)
    assert [result.words for result in results] == [
        ["a", "photo", "of", "a", "cat", "on", "a", "red", "mat"],
        ["two", "dogs", "&", "a", "CAFÉ"],
        ["snow"],
    ]
    for text, result in zip(TEXTS, results, strict=True):
        expected = plain_words(make_tiny_model(tower), tiny_processor, images[0], text)
        np.testing.assert_allclose(result.relevance, expected, rtol=1e-3, atol=1e-6)
        inputs = tiny_processor(text=[text], images=images[0], return_tensors="pt")
        assert result.cosine == pytest.approx(
            (model(**inputs).logits_per_image[0, 0] / model.logit_scale.exp()).item(), abs=1e-5
        )
    assert max(result.relevance.max() for result in results) > 0


def test_the_callers_model_is_untouched(tiny_model, tiny_processor, images):
    tiny_model.train().requires_grad_(False)
    before = [(module.training, len(module._forward_hooks)) for module in tiny_model.modules()]
    with torch.inference_mode():
        frozen = explain_words(tiny_model, tiny_processor, images[0], TEXTS[:1])[0]
    assert [(module.training, len(module._forward_hooks)) for module in tiny_model.modules()] == before
    assert tiny_model.config.text_config._attn_implementation == "sdpa"
    free = explain_words(tiny_model.requires_grad_(True), tiny_processor, images[0], TEXTS[:1])[0]
    np.testing.assert_array_equal(frozen.relevance, free.relevance)
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_html_and_terminal_colours(tiny_processor, images):
    (result,) = explain_words(make_tiny_model("vit"), tiny_processor, images[0], ["<b> & cat"])
    assert result.html().count("<span") == 3 and "&lt;b&gt;" in result.html() and "<b>" not in result.html()
    assert ", 1.00)" in result.html() and result.shares().max() == 1
    assert result.rich_text().plain == "<b> & cat" and len(result.rich_text().spans) == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"texts": []}, ValueError, "There are no labels"),
        ({"texts": ["cat " * 40]}, ValueError, "has 42 tokens and the model takes 24"),
        ({"layers": 4}, ValueError, "`layers` is 4; .* 1 to 3"),
        ({"model": torch.nn.Linear(1, 1)}, TypeError, "`model` is a Linear"),
        ({"processor": object()}, TypeError, "`processor` is an object; words need a ClipHFProcessor"),
        ({"image": b"no picture"}, UnreadableImage, None),
    ],
)
def test_bad_input(change, error, message, tiny_processor, images):
    given = {"model": make_tiny_model("vit"), "processor": tiny_processor, "image": images[0], "texts": TEXTS}
    with pytest.raises(error, match=message):
        explain_words(**given | change)
