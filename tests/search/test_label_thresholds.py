# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Thresholds from labelled samples: the rule, what they find on new pictures, their file, and the samples."""

import json
import math
import os
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest
from known_encoder import KnownEncoder

from clip_hf.search import LabelScorer, LabelThreshold, LabelThresholds, fit_threshold, read_labelled_sample
from clip_hf.search.label_thresholds import fewest_examples, wilson_lower_bound
from pair_data import image_of


TABLE = {"dog": [1, 0, 0], "cat": [0, 1, 0], "a road": [0, 0, 1]}


def scorer(labels=("dog", "cat"), background=("a road",), fingerprint="1" * 32, templates="{}") -> LabelScorer:
    table = {**TABLE, **{template.format(label): TABLE[label] for template in [templates] for label in labels}}
    return LabelScorer(KnownEncoder(table, 5.0, fingerprint), labels, templates, background)


def draw_pictures(count: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings, and which of the two labels each has: none, one or both."""
    generator = np.random.default_rng(seed)
    has_label = generator.random((count, 2)) < 0.3
    vectors = np.concatenate([has_label, np.full((count, 1), 0.5)], axis=1) + noise * generator.normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), has_label


# ------------------------------------------------------------------------------------------------------------ the rule


def test_the_bound_is_wilsons():
    assert wilson_lower_bound(15, 15) == pytest.approx(15 / (15 + 1.2815516**2))
    z = 1.6448536  # of 0.95, by hand for 20 of 25
    by_hand = (0.8 + z**2 / 50 - z * math.sqrt(0.16 / 25 + z**2 / 2500)) / (1 + z**2 / 25)
    assert wilson_lower_bound(20, 25, 0.95) == pytest.approx(by_hand, abs=1e-6)
    assert wilson_lower_bound(0, 10) == pytest.approx(0, abs=1e-12)


def test_the_threshold_is_the_lowest_before_the_first_failure():
    scores = np.arange(100, 0, -1) / 100
    has_label = np.ones(100, bool)
    has_label[[2, 60, 61, 62, 63, 64, 65]] = False
    threshold = fit_threshold(scores, has_label)
    bounds = {cut: wilson_lower_bound(has_label[scores >= cut].sum(), (scores >= cut).sum()) for cut in scores}
    assert threshold == 0.39 and bounds[0.39] >= 0.9 > bounds[0.38]
    # The scores above the first that reaches it do not count as failures.
    first = max(cut for cut, bound in bounds.items() if bound >= 0.9)
    assert first < 0.8 and all(bounds[cut] >= 0.9 for cut in scores if 0.39 <= cut <= first)
    # The lowest score reaches the target again, but not all above it.
    again = np.append(has_label, np.ones(100, bool))
    assert wilson_lower_bound(again.sum(), 200) >= 0.9
    assert fit_threshold(np.append(scores, scores / 1000), again) == 0.39
    assert fit_threshold(scores, has_label, 0.99) is None
    assert fit_threshold(scores, has_label, 0.8) == 0.01
    order = np.random.default_rng(0).permutation(100)
    assert fit_threshold(scores[order], has_label[order]) == threshold
    # More confidence takes more margin.
    assert fit_threshold(scores, has_label, 0.9, 0.92) > threshold
    assert fit_threshold(scores, has_label, 0.9, 0.99) is None


def test_pictures_of_one_score_are_tagged_together():
    scores = np.array([0.9] * 20 + [0.5] * 40)
    has_label = np.array([True] * 20 + [True] * 20 + [False] * 20)  # the first of 0.5 have it, by chance
    assert fit_threshold(scores, has_label) == 0.9
    assert fit_threshold(np.full(60, 0.5), has_label) is None


def test_the_fewest_examples_are_those_that_can_reach_the_target():
    assert fewest_examples() == 19
    for precision, confidence in [(0.9, 0.9), (0.8, 0.9), (0.95, 0.8), (0.5, 0.6)]:
        enough = fewest_examples(precision, confidence)
        in_a_fit = enough - math.ceil(enough / 5)  # the largest fold is left out
        assert wilson_lower_bound(in_a_fit, in_a_fit, confidence) >= precision - 1e-12
        fewer = enough - 1 - math.ceil((enough - 1) / 5)
        assert fewer == 0 or wilson_lower_bound(fewer, fewer, confidence) < precision


# ------------------------------------------------------------------------------------------------------------ promises


def test_labels_are_fitted_fall_back_or_are_never_given():
    embeds, has_label = draw_pictures(400, 0.1)
    has_label = np.stack([has_label[:, 0], np.arange(400) < 18], axis=1)
    fitted = LabelThresholds.fit(scorer(), embeds, has_label, fallback=0.7)
    dog, cat = fitted.labels["dog"], fitted.labels["cat"]
    assert (dog.kind, cat.kind) == ("fitted", "too few examples")
    assert cat == LabelThreshold(0.7, "too few examples", 18) and cat.precision is None and cat.recall is None
    assert dog.examples == has_label[:, 0].sum() and dog.tagged >= dog.right
    assert dog.precision == dog.right / dog.tagged and dog.recall == dog.right / dog.examples
    scores = scorer().score(embeds)[:, 0]
    assert dog.threshold == fit_threshold(scores, has_label[:, 0])
    assert fitted.of(scorer()) == [dog.threshold, 0.7]
    # Labels that have nothing to do with the scores.
    noise = np.random.default_rng(1).random((400, 2)) < 0.3
    never = LabelThresholds.fit(scorer(), embeds, noise).labels["dog"]
    assert never == LabelThreshold(math.inf, "target not reached", int(noise[:, 0].sum()))
    assert never.recall is None


def fit_many(scores: np.ndarray, has_label: np.ndarray) -> list[LabelThreshold]:
    """Thresholds of labels with these scores, both (n, L)."""
    labels = [str(number) for number in range(scores.shape[1])]
    own = SimpleNamespace(labels=labels, score=lambda _: scores, prompts=[()] * len(labels), background=(), model={})
    return list(LabelThresholds.fit(own, np.empty((len(scores), 1)), has_label).labels.values())


@pytest.mark.parametrize("pictures, share, shift", [(200, 0.2, 2), (200, 0.5, 1.5), (1000, 0.5, 1.2), (1000, 0.3, 1)])
def test_few_of_all_labels_get_a_threshold_below_the_target(pictures, share, shift):
    """Scores are normal, with the label around `shift` and without it around 0."""
    generator = np.random.default_rng(0)
    has_label = generator.random((pictures, 500)) < share
    fitted = fit_many(generator.normal(size=(pictures, 500)) + shift * has_label, has_label)
    cuts = [each.threshold for each in fitted if each.kind == "fitted"]
    right = [share * NormalDist(shift).cdf(2 * shift - cut) for cut in cuts]
    wrong = [(1 - share) * NormalDist().cdf(-cut) for cut in cuts]
    below = sum(true / (true + false) < 0.9 for true, false in zip(right, wrong))
    assert len(cuts) > 0 and below / 500 <= 0.1


@pytest.mark.parametrize("pictures", [100, 1000])
def test_few_labels_that_never_reach_the_target_get_a_threshold(pictures):
    """At all scores 0.85 of the pictures have the label."""
    generator = np.random.default_rng(0)
    fitted = fit_many(generator.random((pictures, 200)), generator.random((pictures, 200)) < 0.85)
    assert 0 < sum(each.kind == "fitted" for each in fitted) / 200 <= 0.1


@pytest.mark.parametrize("precision", [0.7, 0.9])
def test_new_pictures_are_as_cross_validated(precision):
    """Over 40 samples: precision at least the target nearly always, and what was estimated on average."""
    own, kept, validated, found = scorer(), [], [], []
    for seed in range(40):
        sample, has_label = draw_pictures(300, 0.2, seed)
        fitted = LabelThresholds.fit(own, sample, has_label, precision=precision)
        pictures, truth = draw_pictures(3000, 0.2, 1000 + seed)
        tagged = own.score(pictures) >= fitted.of(own)
        for place, threshold in enumerate(fitted.labels.values()):
            if threshold.kind == "fitted":
                right = (tagged & truth)[:, place].sum()
                kept.append(right / tagged[:, place].sum() >= precision)
                found.append((right / tagged[:, place].sum(), right / truth[:, place].sum()))
                validated.append((threshold.precision, threshold.recall))
    assert len(kept) > 60
    assert np.mean(kept) >= 0.85  # nearly all of these labels get a threshold, and few of all are below the target
    np.testing.assert_allclose(np.mean(validated, axis=0), np.mean(found, axis=0), atol=0.08)


def test_figures_are_those_of_pictures_that_the_threshold_did_not_see():
    """Scores that are all different and random: on what it saw, a threshold may look good by chance."""
    generator = np.random.default_rng(0)
    embeds = generator.normal(size=(200, 3))
    embeds /= np.linalg.norm(embeds, axis=1, keepdims=True)
    scores = scorer().score(embeds)
    # The best 20 have the label, and then every other one.
    ranks = (-scores[:, 0]).argsort().argsort()
    has_label = np.stack([(ranks < 20) | (ranks % 2 == 0), np.zeros(200, bool)], axis=1)
    dog = LabelThresholds.fit(scorer(), embeds, has_label).labels["dog"]
    on_sample = scores[:, 0] >= dog.threshold
    assert dog.kind == "fitted"
    assert (dog.tagged, dog.right) != (on_sample.sum(), (on_sample & has_label[:, 0]).sum())
    again = LabelThresholds.fit(scorer(), embeds, has_label).labels["dog"]
    assert again == dog


@pytest.mark.parametrize(
    "options, message",
    [
        ({"precision": 1.0}, "`precision` is 1.0"),
        ({"precision": 0}, "`precision` is 0"),
        ({"confidence": 0.5}, "`confidence` is 0.5; it must be a share above 0.5 and below 1"),
        ({"precision": math.nan}, "`precision` is nan"),
    ],
)
def test_bad_targets(options, message):
    with pytest.raises(ValueError, match=message):
        LabelThresholds.fit(scorer(), *draw_pictures(30, 0.1), **options)


def test_a_matrix_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"shape \(30, 3\); for 30 pictures and 2 labels it must be \(30, 2\)"):
        LabelThresholds.fit(scorer(), draw_pictures(30, 0.1)[0], np.ones((30, 3), bool))


# ------------------------------------------------------------------------------------------------------------ the file


@pytest.fixture
def saved(tmp_path):
    embeds, has_label = draw_pictures(400, 0.1)
    has_label = np.stack([has_label[:, 0], np.random.default_rng(1).random(400) < 0.3], axis=1)
    fitted = LabelThresholds.fit(scorer(), embeds, has_label)
    assert fitted.labels["cat"].threshold == math.inf
    fitted.save(tmp_path / "thresholds.json")
    return fitted, tmp_path / "thresholds.json"


def test_thresholds_come_back_as_they_were(saved):
    fitted, path = saved
    loaded = LabelThresholds.load(path)
    assert loaded == fitted
    assert loaded.of(scorer()) == fitted.of(scorer())
    assert loaded.of(scorer(labels=("cat",))) == [math.inf]
    assert json.loads(path.read_text())["labels"]["cat"]["threshold"] is None


@pytest.mark.parametrize(
    "other, message",
    [
        (
            {"fingerprint": "2" * 32},
            r"for 'known' \(fingerprint '111111111111'\); this is 'known' \(fingerprint '2222",
        ),
        ({"background": ("a road", "cat")}, "other background texts"),
        ({"templates": "a {}"}, "The thresholds of 'dog', 'cat' were fitted for other prompts, such as 'dog'"),
    ],
)
def test_thresholds_of_something_else_are_refused(other, message, saved):
    with pytest.raises(ValueError, match=message):
        LabelThresholds.load(saved[1]).of(scorer(**other))


def test_labels_without_a_threshold_are_named(saved):
    table = {**TABLE, "bird": [1, 1, 0]}
    own = LabelScorer(KnownEncoder(table, 5.0), ["dog", "bird"], "{}", ["a road"])
    with pytest.raises(ValueError, match="no thresholds for the labels 'bird', but for 'dog', 'cat'"):
        saved[0].of(own)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(format="other"),
        lambda content: content.update(version=2),
        lambda content: content.pop("labels"),
        lambda content: content.update(labels={}),
        lambda content: content.update(labels=[]),
        lambda content: content["labels"].update(dog={"threshold": 0.5}),
        lambda content: content["labels"]["dog"].update(kind="other"),
        lambda content: content["labels"]["dog"].update(threshold="high"),
        lambda content: content["labels"]["dog"].update(more=1),
        lambda content: content["labels"]["dog"].update(threshold=-5),
        lambda content: content["labels"]["dog"].update(threshold=10**400),
        lambda content: content["labels"]["dog"].update(threshold=True),
        lambda content: content["labels"]["dog"].update(threshold=math.nan),
        lambda content: content["labels"]["dog"].update(threshold=math.inf),
        lambda content: content["labels"]["dog"].update(threshold=None),
        lambda content: content["labels"]["cat"].update(threshold=0.5),
        lambda content: content["labels"]["dog"].update(examples="x"),
        lambda content: content["labels"]["dog"].update(tagged=None),
        lambda content: content["labels"]["dog"].update(right=10**6),
        lambda content: content["labels"]["dog"].update(examples=-1),
        lambda content: content.update(pictures=1.5),
        lambda content: content.update(precision=2),
        lambda content: content.update(confidence=10**400),
        lambda content: content["prompts"].pop("dog"),
        lambda content: content["prompts"].update(bird=["bird"]),
        lambda content: content.update(background=3),
        lambda content: content["model"].pop("fingerprint"),
        lambda content: content.update(precision=None),
        lambda content: content.update(more=1),
    ],
)
def test_a_damaged_file_is_refused(change, saved):
    _, path = saved
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="holds no thresholds that `clip-hf tag --calibrate` wrote"):
        LabelThresholds.load(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.json is not there"):
        LabelThresholds.load(tmp_path / "none.json")


# ------------------------------------------------------------------------------------------------------------- samples


def test_a_folder_for_each_label(tmp_path):
    for place, name in enumerate(["cat/a.png", "cat/sub/b.png", "big dog/a.png", ".hidden/a.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image_of(place).save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    sample = read_labelled_sample(tmp_path)
    names = [os.path.relpath(path, tmp_path) for path in sample.pictures]
    assert names == ["big dog/a.png", "cat/a.png", "cat/sub/b.png"]
    assert sample.labels == (("big dog",), ("cat",), ("cat",))
    assert sample.matrix(["cat", "other", "big dog"]).tolist() == [[0, 0, 1], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    "name, content",
    [
        ("s.csv", "image,labels,more\na.png,dog; cat ,1\n/b/c.png,,2\na.png,bird;dog,3\n"),
        ("s.tsv", "labels\timage\ndog;cat\ta.png\n\t/b/c.png\nbird\ta.png\n"),
        (
            "s.jsonl",
            '{"image": "a.png", "labels": ["dog", "cat", "bird"], "x": 1}\n\n{"image": "/b/c.png", "labels": []}',
        ),
        ("s.JSON", '[{"file_name": "a.png", "labels": "dog;cat;;bird"}, {"file_name": "/b/c.png", "labels": null}]'),
    ],
)
def test_tables(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    sample = read_labelled_sample(tmp_path / name)
    assert sample.pictures == (str(tmp_path / "a.png"), "/b/c.png")
    assert sample.labels == (("dog", "cat", "bird"), ())
    assert sample.matrix(["bird", "cat", "dog"]).tolist() == [[True] * 3, [False] * 3]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("s.csv", "image,labels\na.png,\nb.png,\n", "No picture of the labelled sample .* has a label"),
        ("s.csv", "image,label\na.png,dog\n", "Row 1 of .* needs the columns image and labels; it has image, label"),
        ("s.csv", "picture,labels\na.png,dog\n", "it has picture, labels"),
        ("s.jsonl", '{"image": "a.png", "labels": ["a"]}\nno json\n', "Row 2 of .* it has none"),
        ("s.jsonl", '{"image": "a.png", "labels": [1]}\n', "Row 1 of .* has the labels \\[1\\]; they must be texts"),
        ("s.jsonl", '{"image": "a.png", "labels": {"a": 1}}\n', "they must be texts, in a list or with ';' between"),
        ("s.csv", "", "No picture|no rows|empty|has no"),
        ("s.txt", "a.png", "must be a folder with a subfolder for each label, or a table"),
    ],
)
def test_bad_tables(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_labelled_sample(tmp_path / name)


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match="No picture of the labelled sample"):
        read_labelled_sample(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_labelled_sample(tmp_path / "none.csv")


def test_unknown_labels_are_named(tmp_path):
    (tmp_path / "s.csv").write_text("image,labels\na.png,dgo;cat\nb.png,dgo;x\n")
    with pytest.raises(ValueError, match="has 2 labels that --labels lacks: 'dgo', 'x'. Did you mean 'dog'\\?"):
        read_labelled_sample(tmp_path / "s.csv").matrix(["dog", "cat"])
