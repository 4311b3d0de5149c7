# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Heads on frozen features against plain numpy, how hyper-parameters are chosen, missing classes and bad input."""

import math

import numpy as np
import pytest
import torch

from clip_hf.evaluation import HEAD_METHODS, fit_head
from clip_hf.evaluation.numerics.cache_adapter import FIXED, train_keys
from clip_hf.evaluation.numerics.head_fitting import checked_support, choose
from clip_hf.evaluation.numerics.text_prototypes import FIXED_STRENGTH, class_multipliers, train_prototypes


CLASSES, WIDTH, SCALE = 4, 12, 20.0


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def directions() -> np.ndarray:
    return unit(np.random.default_rng(9).normal(size=(CLASSES, WIDTH)))


def draw(per_class: int, seed: int, noise: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """L2-normalised "image embeddings" around a direction of each class, and their labels."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(CLASSES), per_class))
    return unit(directions()[labels] + noise * generator.normal(size=(len(labels), WIDTH))), labels


def texts(error: float) -> np.ndarray:
    return unit(directions() + error * unit(np.random.default_rng(8).normal(size=(CLASSES, WIDTH))))


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == labels).mean())


TEST = draw(100, 99)


@pytest.mark.slow_but_for("1", "8-tip_f", "8-probe")
@pytest.mark.parametrize("method", HEAD_METHODS)
@pytest.mark.parametrize("shots", [1, 8])
def test_heads_learn_and_repeat(method, shots):
    text, (features, labels) = texts(2.0), draw(shots, 0)
    head = fit_head(method, features, labels, text, logit_scale=SCALE, seed=3)
    again = fit_head(method, torch.from_numpy(features).float(), labels, text, logit_scale=SCALE, seed=3)
    np.testing.assert_allclose(head.scores(TEST[0]), again.scores(TEST[0]), rtol=0, atol=1e-3)
    zero_shot = accuracy(TEST[0] @ text.T, TEST[1])
    reached = accuracy(head.scores(TEST[0]), TEST[1])
    if shots == 8:
        assert reached > zero_shot + 0.1 and "folds" in head.chosen_on
    elif method != "probe":
        assert reached >= zero_shot - 0.02
    if shots == 1:
        assert "fixed" in head.chosen_on


@pytest.mark.parametrize("method", [method for method in HEAD_METHODS if method != "probe"])
def test_zero_shot_is_chosen_where_examples_mislead(method):
    features, labels = draw(8, 0)
    # Every example is called what it is most easily taken for.
    labels = (directions() @ directions().T - 2 * np.eye(CLASSES)).argmax(axis=1)[labels]
    text, validation = texts(0.1), draw(20, 1, noise=0.1)
    head = fit_head(method, features, labels, text, validation, logit_scale=SCALE)
    np.testing.assert_allclose(head.scores(TEST[0]), SCALE * TEST[0] @ text.T, rtol=0, atol=1e-9)
    assert head.chosen_on == "80 validation rows"


def test_scores_are_the_papers_formula():
    features, labels = draw(4, 0)
    text = texts(2.0)
    head = fit_head("tip", features, labels, text, draw(20, 1), logit_scale=SCALE)
    assert head.alpha > 0
    cache = np.exp(-head.beta * (1 - TEST[0] @ features.T)) @ np.eye(CLASSES)[labels]
    np.testing.assert_allclose(head.scores(TEST[0]), SCALE * TEST[0] @ text.T + head.alpha * cache, atol=1e-12)
    one = fit_head("tip", *draw(1, 0), text, logit_scale=SCALE)
    assert (one.alpha, one.beta) == FIXED


def test_held_out_shots_are_masked_keys():
    """A fold leaves out one example of each class: the same as masking its keys for these rows."""
    features, labels = draw(3, 0)
    support = checked_support(features, labels, texts(1.0), SCALE, 0)
    folds = support.folds(16).numpy()
    assert [sorted(labels[folds == fold]) for fold in range(3)] == [[0, 1, 2, 3]] * 3
    affinities = np.exp(-4 * (1 - features @ features.T)) * (folds[:, None] != folds)
    expected = SCALE * features @ texts(1.0).T + 8 * affinities @ np.eye(CLASSES)[labels]
    seen = {}

    def predict(part, rows):
        values = np.eye(CLASSES)[part.labels]
        cache = np.exp(-4 * (1 - rows.numpy() @ part.features.numpy().T)) @ values
        seen.update(
            {tuple(row): line for row, line in zip(rows.numpy(), SCALE * rows.numpy() @ texts(1.0).T + 8 * cache)}
        )
        yield part.zero_shot(rows)

    assert choose(support, None, predict, most_folds=16).place == 0
    np.testing.assert_allclose(np.array([seen[tuple(row)] for row in features]), expected, atol=1e-12)


def test_trained_keys_follow_the_gradient():
    """The first step of AdamW in plain numpy, with finite differences of the masked loss."""
    features, labels = draw(3, 0)
    support = checked_support(features, labels, texts(1.0), SCALE, 0)
    one_hot = np.eye(CLASSES)[labels]

    def loss(keys: np.ndarray) -> float:
        cache = (np.exp(-4 * (1 - features @ keys.T)) * (1 - np.eye(len(keys)))) @ one_hot
        shares = softmax(SCALE * features @ texts(1.0).T + 2 * cache)
        return -np.log(shares[np.arange(len(labels)), labels]).mean()

    gradient = np.zeros_like(features)
    for place in np.ndindex(features.shape):
        shift = np.zeros_like(features)
        shift[place] = 1e-5
        gradient[place] = (loss(features + shift) - loss(features - shift)) / 2e-5
    expected = features * (1 - 1e-3 * 0.01) - 1e-3 * gradient / (np.abs(gradient) + 1e-4)
    np.testing.assert_allclose(train_keys(support, 2.0, 4.0, epochs=1).numpy(), expected, atol=1e-7)
    assert loss(train_keys(support, 2.0, 4.0).numpy()) < loss(features)


def test_prototypes_are_plain_descent_with_a_pull_for_each_class():
    """CLAP in plain numpy: multipliers, both gradients, momentum and decay."""
    features, labels = draw(5, 0)
    text = texts(1.0)
    support = checked_support(features, labels, text, SCALE, 0)
    shares = softmax(SCALE * features @ text.T)[np.arange(len(labels)), labels]
    multipliers = np.array([shares[labels == label].mean() for label in range(CLASSES)])
    np.testing.assert_allclose(class_multipliers(support), multipliers, atol=1e-12)
    strength, rate = 16.0, 0.1 / 64 * 100**2 / SCALE**2
    rate = min(rate, 1 / (2 * strength * multipliers.max() / CLASSES))

    def objective(prototypes: np.ndarray) -> float:
        logits = SCALE * features @ unit(prototypes).T
        entropy = -np.log(softmax(logits)[np.arange(len(labels)), labels]).mean()
        return entropy + strength * (multipliers * ((prototypes - text) ** 2).sum(axis=1)).mean()

    prototypes, velocity = text.copy(), np.zeros_like(text)
    for epoch in range(3):
        gradient = np.zeros_like(text)
        for place in np.ndindex(text.shape):
            shift = np.zeros_like(text)
            shift[place] = 1e-6
            gradient[place] = (objective(prototypes + shift) - objective(prototypes - shift)) / 2e-6
        velocity = 0.9 * velocity + gradient
        prototypes = prototypes - rate * (1 + math.cos(math.pi * epoch / 3)) / 2 * velocity
    ours = train_prototypes(support, (64.0, strength), epochs=3)
    np.testing.assert_allclose(ours[1], unit(prototypes), atol=1e-7)
    assert not np.allclose(ours[0], ours[1], atol=1e-3)
    assert objective(train_prototypes(support, (strength,))[0].numpy()) < objective(text)
    assert fit_head("clap", *draw(1, 0), text, logit_scale=SCALE).chosen == {"strength": FIXED_STRENGTH}


@pytest.mark.parametrize("method", ["tip", "tip_f", "clap", "text_linear"])
def test_a_class_without_examples_keeps_its_text(method):
    features, labels = draw(6, 0)
    seen = labels != 2
    text = texts(1.5)
    head = fit_head(method, features[seen], labels[seen], text, logit_scale=SCALE)
    np.testing.assert_allclose(head.scores(TEST[0])[:, 2], SCALE * TEST[0] @ text[2], rtol=0, atol=1e-9)
    assert head.scores(TEST[0]).shape == (400, 4)
    with pytest.raises(ValueError, match="no row of 1 of 4 classes: 2"):
        fit_head("probe", features[seen], labels[seen], text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "lora"}, "'lora'; it must be one of tip, tip_f, clap"),
        ({"features": lambda rows: 3 * rows}, "train_features are not L2-normalised: row 0 has the norm 3"),
        ({"features": lambda rows: rows[:, 1:]}, "11 columns where others have 12"),
        ({"features": lambda rows: rows * np.nan}, "NaN"),
        ({"labels": lambda labels: labels + 1}, "allowed are 0 to 3"),
        ({"labels": lambda labels: labels[1:]}, "give one for each of the 16 rows"),
        ({"labels": lambda labels: np.eye(CLASSES, dtype=bool)[labels]}, "one class an image"),
        ({"text": lambda text: text[:1]}, "one row; a classifier needs two"),
        ({"text": lambda text: 2 * text}, "text_classifier are not L2-normalised"),
        ({"scale": -1.0}, "`logit_scale` is -1.0; it must be a positive number"),
        ({"validation": (np.ones((2, 3)), [0, 1])}, "validation_features have 3 columns"),
    ],
)
def test_bad_input(change, message):
    features, labels = draw(4, 0)
    same = lambda values: values  # noqa: E731
    features, labels = change.get("features", same)(features), change.get("labels", same)(labels)
    text, scale = change.get("text", same)(texts(1.0)), change.get("scale", SCALE)
    with pytest.raises(ValueError, match=message):
        fit_head(change.get("method", "tip"), features, labels, text, change.get("validation"), logit_scale=scale)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": "a"}, "`seed` is 'a'; it must be an integer"),
        ({"seed": 1.5}, "`seed` is 1.5; it must be an integer"),
        ({"logit_scale": "100"}, "`logit_scale` is '100'; it must be a number"),
        ({"logit_scale": None}, "`logit_scale` is None; it must be a number"),
        ({"validation": (*draw(2, 1), np.ones(8))}, "`validation` must be a pair: features and labels"),
    ],
)
def test_arguments_of_other_types_are_refused(options, message):
    with pytest.raises(TypeError, match=message):
        fit_head("tip", *draw(2, 0), texts(1.0), **options)


@pytest.mark.parametrize("method", HEAD_METHODS)
@pytest.mark.parametrize("as_given", [np.array, torch.tensor])
def test_a_head_does_not_change_with_the_arrays_it_was_fitted_to(method, as_given):
    given = [as_given(each) for each in (*draw(1, 0), texts(1.0))]  # a cache of a fixed weight
    head = fit_head(method, *given, logit_scale=SCALE)
    before = head.scores(TEST[0])
    for each in given:
        each[:] = 0
    np.testing.assert_array_equal(head.scores(TEST[0]), before)


def test_scores_refuse_other_features():
    head = fit_head("clap", *draw(2, 0), texts(1.0), logit_scale=SCALE)
    with pytest.raises(ValueError, match="not L2-normalised"):
        head.scores(2 * TEST[0])
    with pytest.raises(ValueError, match="columns"):
        head.scores(TEST[0][:, 1:])
