# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The probability that a text does not describe an image: the worked example, the definition, a model."""

import math

import numpy as np
import pytest
import torch
from known_encoder import KnownEncoder

from clip_hf.embedding import load_dual_encoder
from clip_hf.search import contradiction_score, contradiction_scores, load_background_texts
from tiny_models import CAPTIONS, make_tiny_model


X, Y = np.eye(2)
ENCODER = KnownEncoder({"a dog": X, "a cat": Y, "a wolf": X + Y}, math.log(3))


def test_the_worked_example():
    assert contradiction_score(ENCODER, X, "a dog", alternatives=["a cat"]) == pytest.approx(0.25)
    assert contradiction_score(ENCODER, X, "a cat", alternatives=["a dog"]) == pytest.approx(0.75)


def test_alternatives_count_once_and_the_text_is_none():
    once = contradiction_score(ENCODER, X, "a dog", alternatives=["a cat", "a wolf"])
    assert once == pytest.approx(1 - 3 / (3 + 1 + 3 ** (1 / math.sqrt(2))))
    assert contradiction_score(
        ENCODER, X, "a dog", alternatives=["a wolf", "a cat", "a dog", "a cat"]
    ) == pytest.approx(once)
    with pytest.raises(ValueError, match="The only alternative to 'a dog' is the text itself"):
        contradiction_score(ENCODER, X, "a dog", alternatives=["a dog", "a dog"])
    with pytest.raises(ValueError, match="no texts"):
        contradiction_score(ENCODER, X, "a dog", alternatives=[])
    with pytest.raises(TypeError, match="must be a list of strings"):
        contradiction_score(ENCODER, X, "a dog", alternatives="a cat")
    with pytest.raises(TypeError, match="Text 0 is 3"):
        contradiction_score(ENCODER, X, 3)


def test_many_are_as_each_alone():
    images, texts = [X, Y, X + Y, -X], ["a dog", "a dog", "a wolf", "a cat"]
    scores = contradiction_scores(ENCODER, images, texts, alternatives=texts)
    assert scores.shape == (4,) and scores.dtype == np.float64
    others = ["a dog", "a cat", "a wolf"]
    alone = [contradiction_score(ENCODER, *pair, alternatives=others) for pair in zip(images, texts)]
    np.testing.assert_allclose(scores, alone, rtol=1e-6)
    embeds = ENCODER.encode_images(images).numpy()
    np.testing.assert_allclose(contradiction_scores(ENCODER, embeds, texts, alternatives=texts), scores, rtol=1e-6)
    with pytest.raises(ValueError, match="4 images and 1 texts"):
        contradiction_scores(ENCODER, images, ["a dog"])


def test_many_pairs_are_scored_in_parts_of_all_lengths(monkeypatch):
    images, texts = np.tile(np.array([X, Y, -X]), (3, 1)), ["a dog", "a wolf", "a cat"] * 3
    whole = contradiction_scores(ENCODER, images, texts, alternatives=texts)
    for cosines in (1, 6, 12):  # 1, 2 and 4 pairs at once
        monkeypatch.setattr("clip_hf.search.contradiction._COSINES", cosines)
        assert contradiction_scores(ENCODER, images, texts, alternatives=texts).tolist() == whole.tolist()


@pytest.mark.parametrize(
    "embeds, message",
    [
        (np.ones((2, 3)), r"the shape \(2, 3\); this model's have \(n, 2\)"),
        (np.ones(2), r"the shape \(2,\); this model's"),
        (np.array([X, [0, np.nan]]), "picture 1 holds NaN or an infinite number"),
        (np.array([[np.inf, 0], X]), "picture 0 holds NaN"),
    ],
)
def test_embeddings_that_are_not_the_models(embeds, message):
    with pytest.raises(ValueError, match=message):
        contradiction_scores(ENCODER, embeds, ["a dog"] * len(embeds), alternatives=["a cat"])


def test_a_model_against_its_own_softmax(tiny_processor, images):
    model = make_tiny_model("vit")
    encoder = load_dual_encoder(model, processor=tiny_processor)
    scores = contradiction_scores(model, images, CAPTIONS, processor=tiny_processor)
    embeds = encoder.encode_images(images)
    for row, text in enumerate(CAPTIONS):
        texts = encoder.encode_texts([text, *load_background_texts()])
        expected = 1 - (encoder.logit_scale * embeds[row] @ texts.T).softmax(dim=-1)[0]
        torch.testing.assert_close(torch.tensor(scores[row]), expected.double(), rtol=1e-5, atol=1e-7)
    assert len(np.unique(scores)) == len(CAPTIONS)
    one = contradiction_score(model, images[1], CAPTIONS[1], processor=tiny_processor)
    assert one == pytest.approx(scores[1], rel=1e-4)
