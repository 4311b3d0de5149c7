# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Scores of labels against a background, on known cosines; and the label set of moderation."""

import math

import numpy as np
import pytest
import torch
from known_encoder import KnownEncoder

from clip_hf import build_text_classifier
from clip_hf.embedding import load_dual_encoder
from clip_hf.search import LabelScorer, PictureTags, load_background_texts, load_moderation_labels, tag_rows
from clip_hf.search.tagging import TAG_THRESHOLD, find_rivals, score_against
from tiny_models import make_tiny_model


X, Y, Z = np.eye(3)
LN3 = math.log(3)
# The prompts of the labels, and the background.
TABLE = {
    "dog": X,
    "cat": Y,
    "dog?": X + Y,
    "a tree": Z,
    "a dog in the grass": X,
    "waves on a beach": Z - X,
    "a road": Y,
}


def scorer(labels, background, logit_scale=LN3, templates="{}", table=TABLE) -> LabelScorer:
    return LabelScorer(KnownEncoder(table, logit_scale), labels, templates, background)


def plain_score(cosine: float, background: list[float], scale: float) -> float:
    """The definition, term by term."""
    return math.exp(scale * cosine) / (math.exp(scale * cosine) + sum(math.exp(scale * each) for each in background))


def test_the_worked_example():
    score = score_against(np.array([[1.0]]), np.array([[0.0, 0.0]]), np.ones((1, 2), bool), math.log(3))
    assert score == pytest.approx(0.6)
    assert score.shape == (1, 1) and score.dtype == np.float64


def test_scores_are_those_of_the_definition():
    generator = np.random.default_rng(0)
    cosines, background = generator.uniform(-1, 1, (5, 4)), generator.uniform(-1, 1, (5, 7))
    rivals = generator.random((4, 7)) < 0.6
    rivals[:, 0] = True
    for scale in (1.0, 14.3, 100.0):
        scores = score_against(cosines, background, rivals, scale)
        expected = [
            [plain_score(cosines[n, label], background[n][rivals[label]], scale) for label in range(4)]
            for n in range(5)
        ]
        np.testing.assert_allclose(scores, expected, rtol=1e-12)


def test_scores_are_finite_at_any_scale():
    cosines, background = np.array([[1.0, -1.0, 0.3]]), np.array([[-1.0, 1.0]])
    rivals = np.array([[True, False], [False, True], [True, True]])
    scores = score_against(cosines, background, rivals, 1e4)
    assert scores.tolist() == [[1.0, 0.0, 0.0]]


def test_half_says_that_a_label_equals_the_whole_background():
    """The meaning of the default threshold."""
    assert TAG_THRESHOLD == 0.5
    even = math.log(3 * math.exp(20 * 0.2)) / 20  # as much as three captions of cosine 0.2
    cosines, background = np.array([[even, even + 1e-9, even - 1e-9]]), np.full((1, 3), 0.2)
    scores = score_against(cosines, background, np.ones((3, 3), bool), 20)
    assert scores[0, 0] == pytest.approx(0.5, abs=1e-12)
    assert scores[0, 1] > 0.5 > scores[0, 2]


def test_labels_do_not_compete():
    together = scorer(["dog", "cat", "dog?"], ["a tree", "a road"])
    picture = np.array([X, (X + Y) / math.sqrt(2)])
    scores = together.score(picture)
    for place, label in enumerate(["dog", "cat", "dog?"]):
        assert scorer([label], ["a tree", "a road"]).score(picture)[:, 0].tolist() == scores[:, place].tolist()
    assert scores[0, 0] == pytest.approx(3 / (3 + 1 + 1))
    # Of a picture of both, either label has its full score.
    assert scores[1, 0] == pytest.approx(plain_score(1 / math.sqrt(2), [0, 1 / math.sqrt(2)], math.log(3)))


def words_of(text: str) -> set[str]:
    return set("".join(char if char.isalnum() else " " for char in text.casefold()).split()) or {text}


def test_a_caption_with_the_words_of_a_label_is_no_alternative_to_it():
    background = ["a tree", "a dog in the grass"]
    assert find_rivals(["dog", "DOG in a", "grass dog", "do", "tree grass", "!"], background).tolist() == [
        [True, False],
        [True, False],
        [True, False],
        [True, True],
        [True, True],
        [True, True],
    ]
    # As the definition says, for texts of all kinds.
    words, generator = ["a", "b", "C", "!", "d-e", "?"], np.random.default_rng(0)
    texts = [" ".join(generator.choice(words, size)) for size in generator.integers(1, 4, 60)]
    labels, others = texts[:20], [*texts[20:], "z"]
    expected = [[not words_of(label) <= words_of(text) for text in others] for label in labels]
    assert find_rivals(labels, others).tolist() == expected
    scores = scorer(["dog", "cat"], background).score(X[None])
    assert scores[0, 0] == pytest.approx(3 / (3 + 1))
    assert scores[0, 1] == pytest.approx(1 / (1 + 1 + 3))
    assert scorer(["cat"], ["a tree", "a tree"]).score(Y[None])[0, 0] == pytest.approx(3 / (3 + 1))  # each counts once
    with pytest.raises(ValueError, match="No text of the background is an alternative to 'dog': each has all words"):
        scorer(["cat", "dog"], ["a dog in the grass"])


def test_templates_are_ensembled_and_not_part_of_the_words():
    table = {**TABLE, "the dog": Y, "a dog": X}
    own = scorer(["dog"], ["a road"], templates=["the {}", "a {}"], table=table)
    assert own.prompts == (("the dog", "a dog"),)
    assert own.score(X[None])[0, 0] == pytest.approx(plain_score(1 / math.sqrt(2), [0], math.log(3)))
    mapped = scorer(["dog"], ["a road"], templates={"dog": ["cat", "a tree"], "other": ["dog"]})
    assert mapped.prompts == (("cat", "a tree"),)


@pytest.mark.parametrize(
    "labels, templates, error, message",
    [
        ([], "{}", ValueError, "There are no labels"),
        (["dog", "dog"], "{}", ValueError, "occur more than once: ['dog']"),
        (["dog", "  "], "{}", ValueError, "Label 1 is blank"),
        ("dog", "{}", TypeError, "must be a list of strings"),
        (["dog"], "a photo", ValueError, "does not say where the label goes"),
        (["dog"], {"cat": ["cat"]}, ValueError, "no prompts for 1 of the labels"),
    ],
)
def test_bad_labels_and_templates(labels, templates, error, message):
    with pytest.raises(error) as raised:
        scorer(labels, ["a road"], templates=templates)
    assert message in str(raised.value)


def test_embeddings_that_are_not_the_models():
    own = scorer(["dog"], ["a road"])
    with pytest.raises(ValueError, match=r"the shape \(1, 2\); this model's have \(n, 3\)"):
        own.score(np.ones((1, 2)))
    with pytest.raises(ValueError, match="picture 1 holds NaN"):
        own.score(np.array([X, X * np.nan]))


def test_one_label_and_whole_numbers():
    table = {**TABLE, "7": X}
    assert scorer(["dog"], ["a road"]).score(np.array([X, Y])).shape == (2, 1)
    assert scorer([7], ["a road"], table=table).labels == ("7",)


def test_a_picture_gets_the_labels_that_reach_their_threshold():
    own = scorer(["cat", "dog", "dog?"], ["a tree"])
    scores = own.score(np.array([X, Z]))
    assert scores[0].argsort()[::-1].tolist() == [1, 2, 0]
    rows = [(np.array([7]), X[None]), (np.array(["z"], object), Z[None])]
    # A score that equals its threshold reaches it.
    first, second = tag_rows(own, [0.9, scores[0, 1], scores[0, 2]], rows)
    assert first == PictureTags(7, ("dog", "dog?"), (scores[0, 1], scores[0, 2]))
    assert type(first.id) is int and second == PictureTags("z", (), ())
    (picture,) = tag_rows(own, [0, math.inf, np.nextafter(scores[0, 2], 1)], rows[:1])
    assert picture.labels == ("cat",)


def test_a_model_scores_as_its_own_classifier_says(tiny_processor, images):
    """All of it against the model's softmax over label and background, with the default background."""
    model = make_tiny_model("vit")
    encoder = load_dual_encoder(model, processor=tiny_processor)
    labels, templates = ["cat", "yellow bird"], ["a photo of a {}.", "a drawing of {}"]
    own = LabelScorer(encoder, labels, templates)
    embeds = encoder.encode_images(images)
    scores = own.score(embeds.numpy())
    classifier = build_text_classifier(model, tiny_processor, labels, templates)
    for place, label in enumerate(labels):
        others = [text for text in load_background_texts() if not set(label.split()) <= set(text.split())]
        texts = torch.cat([classifier[place : place + 1], encoder.encode_texts(others)])
        expected = (encoder.logit_scale * embeds @ texts.T).softmax(dim=-1)[:, 0]
        torch.testing.assert_close(torch.tensor(scores[:, place]), expected.double(), rtol=1e-4, atol=1e-7)
    assert len(np.unique(scores.round(6))) == scores.size


def test_the_moderation_set_is_sound():
    """Labels that differ, captions for each, a harmless counterpart that stays an alternative, and its limits."""
    moderation = load_moderation_labels()
    assert len(moderation.labels) == len(set(moderation.labels)) >= 15
    assert set(moderation.categories) == set(moderation.prompts) == set(moderation.labels)
    needed = {"violence", "weapons", "sexual content", "gore", "hate", "drugs", "alcohol and tobacco", "self-harm"}
    assert needed <= set(moderation.categories.values())
    captions = [caption for own in moderation.prompts.values() for caption in own]
    assert len(captions) == len(set(captions)) and not set(captions) & set(moderation.counterparts)
    background = (*load_background_texts(), *moderation.counterparts)
    assert find_rivals(moderation.labels, background)[:, -len(moderation.counterparts) :].all()
    text = " ".join(moderation.limits)
    assert "has not been measured" in text and "A person decides" in text and "section 7.1" in text
