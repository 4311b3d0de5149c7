# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The label-set experiment: shares, differences and accuracies by hand, their intervals and tests, bad input.

The labels are harmless ones: fruit and furniture, and groups by place and season.
"""

import json

import datasets
import numpy as np
import pytest
import torch

from clip_hf.evaluation.tasks.bias import LabelProbeOptions, compare_label_sets, evaluate_label_probe, label_probe
from clip_hf.model_card import ModelCardDetails
from tiny_models import make_tiny_model


CATEGORIES = {"fruit": ["apple", "pear"], "furniture": ["chair"]}
# Most probable first: pear, chair, apple, chair, apple, pear.
PROBABILITIES = np.array(
    [[0.3, 0.6, 0.1], [0.1, 0.1, 0.8], [0.5, 0.1, 0.4], [0.3, 0.2, 0.5], [0.9, 0.06, 0.04], [0.2, 0.45, 0.35]]
)
PLACES = ["in", "in", "in", "out", "out", "out"]
SEASONS = ["summer", "winter", "summer", "winter", "summer", None]


def probe(categories=None, attributes=None, probabilities=PROBABILITIES, **options):
    categories, attributes = categories or CATEGORIES, attributes or {"place": PLACES}
    options = LabelProbeOptions(**{"min_group_size": 2, "resamples": 50, **options})
    return label_probe(probabilities, categories, attributes, options=options, model="tiny", data="rooms")


def shares(result, attribute, value):
    return next(group.shares for group in result.groups if (group.attribute, group.value) == (attribute, value))


def test_worked_example_of_the_docstring():
    result = label_probe(
        [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]],
        {"animal": ["cat", "dog"], "thing": ["chair"]},
        {"place": ["indoors", "indoors", "outdoors", "outdoors"]},
        options=LabelProbeOptions(min_group_size=2),
    )
    assert result.groups[1].shares == {"animal": 0.5, "thing": 0.5}
    assert result.groups[0].shares == {"animal": 1.0, "thing": 0.0}


def test_top_labels_by_hand():
    result = probe()
    assert result.overall == pytest.approx({"fruit": 4 / 6, "furniture": 2 / 6})
    assert [(group.value, group.size) for group in result.groups] == [("in", 3), ("out", 3)]
    assert shares(result, "place", "in") == pytest.approx({"fruit": 2 / 3, "furniture": 1 / 3})
    fruit = [True, False, True, False, True, True]
    assert result.members.tolist() == [[each, not each] for each in fruit]


def test_threshold_and_several_labels():
    # Above 0.4: pear; chair; apple and chair; chair; apple; pear.
    result = probe(top_k=3, threshold=0.4)
    assert result.overall == pytest.approx({"fruit": 4 / 6, "furniture": 3 / 6, "none": 0})
    # One label each, if above one half: the sixth image's has 0.45, and the fourth's 0.5 just counts.
    result = probe(threshold=0.5)
    assert result.overall == pytest.approx({"fruit": 3 / 6, "furniture": 2 / 6, "none": 1 / 6})
    assert shares(result, "place", "out") == pytest.approx({"fruit": 1 / 3, "furniture": 1 / 3, "none": 1 / 3})
    # Two labels each: the second are apple, apple, chair, apple, pear, chair.
    assert probe(top_k=2).overall == pytest.approx({"fruit": 1, "furniture": 4 / 6})


def test_equal_probabilities_give_the_first_label():
    result = probe(
        probabilities=np.full((6, 3), 1 / 3), categories={"furniture": ["chair"], "fruit": ["apple", "pear"]}
    )
    assert result.overall["furniture"] == 1


def test_images_without_annotation_are_in_no_group():
    result = probe(attributes={"season": SEASONS})
    assert [(group.value, group.size) for group in result.groups] == [("summer", 3), ("winter", 2)]
    assert result.overall["fruit"] == pytest.approx(4 / 6)  # of all images


def test_crossings():
    result = probe(attributes={"place": PLACES, "season": SEASONS}, crossings=[("place", "season")], min_group_size=1)
    crossed = {group.value: group.size for group in result.groups if group.attribute == "place x season"}
    assert crossed == {"in x summer": 2, "in x winter": 1, "out x summer": 1, "out x winter": 1}


def test_largest_differences():
    result = probe(attributes={"place": PLACES, "season": SEASONS})
    first = result.disparities[0]
    # In summer all three images are fruit, in winter none of two.
    assert (first.attribute, first.difference) == ("season", 1.0)
    assert {(each.category, each.highest, each.lowest) for each in result.disparities if each.difference == 1} == {
        ("fruit", "summer", "winter"),
        ("furniture", "winter", "summer"),
    }
    assert result.metrics["season_fruit_difference"] == 1
    assert result.metrics["place_fruit_difference"] == pytest.approx(0)
    assert result.intervals["season_fruit_difference"] == (1, 1)


def test_p_values_by_counting():
    # Of the 10 ways to choose 2 of 5 images, one has the two pieces of furniture: a difference of 1.
    # Winter with one of them: 6 ways, |1/2 - 1/3| = 1/6. None: 3 ways, 2/3.
    result = probe(attributes={"season": SEASONS}, resamples=4000)
    p_values = {each.category: each.p_value for each in result.disparities}
    assert p_values["fruit"] == pytest.approx(0.1, abs=0.02)
    assert probe().disparities[0].p_value == 1  # both places have the same shares


@pytest.mark.parametrize(
    ("resamples", "shown"), [(999, "<= 0.001"), (1000, "<= 0.001"), (99, "<= 0.01"), (9999, "<= 0.0001")]
)
def test_the_smallest_p_value_says_that_it_is_a_bound(resamples, shown):
    """1 / (permutations + 1) is all that so many permutations can show."""
    sure = np.repeat([[0.9, 0.1, 0.0], [0.0, 0.1, 0.9]], 40, axis=0)
    result = probe(probabilities=sure, attributes={"place": ["in"] * 40 + ["out"] * 40}, resamples=resamples)
    assert result.disparities[0].p_value == 1 / (resamples + 1)
    assert f"| {shown} |" in result.details() and f"| {shown} |" in result.limitations_section()


def test_p_values_are_level_where_there_is_no_difference():
    generator = np.random.default_rng(0)
    p_values = []
    for seed in range(60):
        result = probe(
            probabilities=generator.random((200, 3)),
            attributes={"place": generator.choice(["a", "b", "c"], size=200)},
            resamples=99,
            seed=seed,
        )
        p_values.append(next(each.p_value for each in result.disparities if each.category == "fruit"))
    assert 0.35 < np.mean(p_values) < 0.65
    assert 0.05 < np.mean(np.array(p_values) < 0.2) < 0.4


def test_intervals_are_those_of_drawing_rows():
    generator = np.random.default_rng(0)
    result = probe(
        probabilities=generator.random((400, 3)), attributes={"place": ["a"] * 300 + ["b"] * 100}, resamples=4000
    )
    group = result.groups[0]
    share = group.shares["fruit"]
    error = 1.96 * np.sqrt(share * (1 - share) / 300)
    assert group.intervals["fruit"] == pytest.approx((share - error, share + error), abs=0.1 * error)
    disparity = next(each for each in result.disparities if each.category == "fruit")
    parts = [
        one * (1 - one) / size
        for one, size in ((shares(result, "place", name)["fruit"], size) for name, size in (("a", 300), ("b", 100)))
    ]
    error = 1.96 * np.sqrt(sum(parts))
    expected = (disparity.difference - error, disparity.difference + error)
    assert disparity.interval == pytest.approx(expected, abs=0.1 * error)


def test_small_groups_are_marked_and_not_compared():
    with pytest.warns(UserWarning, match=r"fewer than 3 images.*season: winter \(2\)"):
        result = probe(attributes={"season": SEASONS}, min_group_size=3)
    assert result.disparities == []
    assert "season: winter (n=2*)" in result.details()
    assert "season: summer (n=3)" in result.details()


def test_no_warning_for_large_groups(recwarn):
    probe()
    assert not recwarn.list


def test_accuracies_by_group():
    # Place is recognised by its labels: fruit is for in, furniture for out. Right: images 0, 2 and 3 of six.
    result = probe(
        attributes={"place": PLACES, "season": SEASONS},
        crossings=[("place", "season")],
        answers={"place": {"in": "fruit", "out": "furniture"}},
        min_group_size=1,
    )
    found = {(each.attribute, each.value): (each.accuracy, each.size) for each in result.accuracies}
    assert found["all", "all"] == (pytest.approx(0.5), 6)
    assert found["place", "in"] == (pytest.approx(2 / 3), 3)
    assert found["place", "out"] == (pytest.approx(1 / 3), 3)
    assert found["season", "summer"] == (pytest.approx(2 / 3), 3)
    assert found["place x season", "out x winter"] == (1, 1)
    assert result.metrics["place_accuracy"] == pytest.approx(0.5)
    assert "| place | place: in (n=3) | 66.67%" in result.details()


def test_accuracy_is_among_the_categories_of_the_answers():
    categories = {"fruit": ["apple"], "other": ["pear"], "furniture": ["chair"]}
    result = probe(categories, answers={"place": {"in": "fruit", "out": "furniture"}})
    # Without pear: apple, chair, apple, chair, apple, chair. Right: 0, 2, 3 and 5.
    assert result.metrics["place_accuracy"] == pytest.approx(4 / 6)
    # An image whose value has no answer does not count.
    result = probe(
        categories,
        {"place": ["in", "in", "in", "out", "out", "street"]},
        answers={"place": {"in": "fruit", "out": "furniture"}},
        min_group_size=1,
    )
    assert result.accuracies[0].size == 5
    assert result.accuracies[0].accuracy == pytest.approx(3 / 5)
    assert not any(each.value == "street" for each in result.accuracies)


def test_another_label_set():
    before = probe()
    # A fourth label takes the chair of image 1 and the pear of image 5.
    more = np.concatenate([PROBABILITIES, [[0], [0.9], [0], [0], [0], [0.5]]], axis=1)
    after = probe({**CATEGORIES, "plant": ["fern"]}, probabilities=more)
    comparison = compare_label_sets(before, after, resamples=500)
    changes = comparison.changes
    found = {(each.value, each.category): (each.before, each.after) for each in changes}
    assert found["in", "furniture"] == pytest.approx((1 / 3, 0))
    assert found["out", "fruit"] == pytest.approx((2 / 3, 1 / 3))
    assert found["in", "fruit"] == pytest.approx((2 / 3, 2 / 3))
    assert {each.category for each in changes} == {"fruit", "furniture"}
    by_name = {(each.value, each.category): each for each in changes}
    assert by_name["in", "fruit"].interval == (0, 0)  # no image changed
    low, high = by_name["in", "furniture"].interval
    assert low == -1 and high == 0
    assert "| place: in (n=3) | furniture | 33.33% | 0.00% | -33.33 points (-100.00 to 0.00) |" in comparison.table()


def test_label_sets_on_other_images_are_not_compared():
    with pytest.raises(ValueError, match="other images or annotations"):
        compare_label_sets(probe(), probe(attributes={"place": PLACES[::-1]}))
    with pytest.raises(ValueError, match="other images or annotations"):
        compare_label_sets(probe(), probe(attributes={"room": PLACES}))
    with pytest.raises(ValueError, match="No category is in both"):
        compare_label_sets(probe(), probe({"a": ["apple"], "b": ["pear", "chair"]}))


def test_text_for_a_model_card():
    result = probe(
        attributes={"place": PLACES, "season": SEASONS}, answers={"place": {"in": "fruit", "out": "furniture"}}
    )
    text = result.limitations_section()
    assert text.startswith("### Labels given to groups of images (rooms, test)")
    assert "6 images, 3 labels in 2 categories (labels of each): fruit (2), furniture (1)." in text
    assert "What these counts do not show" in text
    assert "| season | fruit | summer | winter | +100.00 points" in text
    assert not any(label in text for label in ("apple", "pear", "chair"))
    ModelCardDetails(limitations=text)


def test_results_are_written(tmp_path):
    paths = probe(attributes={"place": PLACES, "season|x": SEASONS}, top_k=2, threshold=0.3).save(tmp_path)
    assert [path.suffix for path in paths] == [".json", ".md", ".npz", ".png"]
    written = json.loads(paths[0].read_text())
    assert written["task"] == "label_probe"
    assert written["details"]["groups"][0]["shares"]["fruit"] == pytest.approx(2 / 3)
    assert "group_of" not in written["details"] and "members" not in written["details"]
    text = paths[1].read_text()
    assert "its 2 most probable labels if the probability is at least 30%" in text
    assert "season\\|x: summer" in text
    assert np.load(paths[2])["members"].shape == (6, 3)


def test_without_bootstrap():
    result = probe(resamples=0, answers={"place": {"in": "fruit", "out": "furniture"}})
    assert result.intervals == {}
    assert result.disparities[0].p_value is None
    assert "| place | fruit | in | in | 0.00 points |  |" in result.details()
    assert result.figure() is not None


def test_same_seed_same_result():
    attributes = {"season": SEASONS}
    assert probe(attributes=attributes).to_dict()["details"] == probe(attributes=attributes).to_dict()["details"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probabilities": PROBABILITIES[:, :2]}, "2 columns for 3 labels"),
        ({"probabilities": np.where(PROBABILITIES == 0.8, np.nan, PROBABILITIES)}, "NaN, first in row 1"),
        ({"probabilities": 10 * PROBABILITIES, "threshold": 0.5}, "not all from 0 to 1"),
        ({"categories": {"a": ["apple", "pear"], "b": ["apple"]}}, "more than once: 'apple'"),
        ({"categories": {"a": ["apple", "pear"], "b": []}}, "category 'b'"),
        ({"categories": {"a": "apple", "b": ["pear", "chair"]}}, "category 'a'"),
        ({"categories": {"a": ["apple", " "], "b": ["chair"]}}, "category 'a'"),
        ({"categories": {"none": ["apple", "pear"], "b": ["chair"]}}, "'none'.*rename"),
        ({"attributes": {"place": PLACES[:5]}}, "'place' has 5 values for 6 images"),
        ({"attributes": {"place": [None] * 6}}, "'place' has no value"),
        ({"attributes": {"all": PLACES}}, "'all'.*rename"),
        ({"crossings": [("place", "season")]}, "crossings.*place"),
        ({"crossings": [("place",)]}, "crossings"),
        ({"answers": {"season": {"summer": "fruit"}}}, "'season', which is no attribute"),
        ({"answers": {"place": {"in": "fruit", "out": "plant"}}}, "names .'plant'.*categories"),
        ({"answers": {"place": {"in": "fruit"}}}, "one category only"),
        ({"answers": {"place": {"street": "fruit", "lake": "furniture"}}}, "No image has one of the values"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        probe(**arguments)


@pytest.mark.parametrize(
    "options",
    [{"top_k": 0}, {"top_k": 1.5}, {"threshold": 1}, {"threshold": -0.1}, {"min_group_size": 0}, {"confidence": 95}],
)
def test_bad_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LabelProbeOptions(**options)


# ------------------------------------------------------------------------------------------------------------- a model


@pytest.fixture
def rows(images):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "place": datasets.ClassLabel(names=["in", "out"]),
            "season": datasets.Value("string"),
        }
    )
    columns = {"image": images, "place": [0, 1, 1, -1, 0], "season": SEASONS[1:]}
    return datasets.Dataset.from_dict(columns, features=features)


def test_tiny_model(rows, images, tiny_processor, tmp_path):
    model = make_tiny_model("vit")
    model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    options = LabelProbeOptions(min_group_size=1, threshold=0.3, top_k=3, resamples=20)
    result = evaluate_label_probe(str(tmp_path), rows, CATEGORIES, ["place", "season"], options=options)
    with torch.no_grad():
        image_embeds = model.encode_image(tiny_processor(images=images, return_tensors="pt")["pixel_values"])
        prompts = [f"a photo of a {label}." for label in ("apple", "pear", "chair")]
        inputs = tiny_processor(text=prompts, return_tensors="pt", padding=True)
        text_embeds = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        probabilities = (model.logit_scale.exp() * image_embeds @ text_embeds.T).softmax(dim=-1).numpy()
    columns = {"place": ["in", "out", "out", None, "in"], "season": SEASONS[1:]}
    expected = label_probe(probabilities, CATEGORIES, columns, options=options)
    assert result.groups == expected.groups
    assert [(group.value, group.size) for group in result.groups][:2] == [("in", 2), ("out", 2)]
    assert 0 < result.members[:, :2].mean() < 1


def test_columns_that_are_not_there_are_named_before_anything_is_loaded(rows):
    with pytest.raises(ValueError, match=r"no columns \['age'\].*'season'"):
        evaluate_label_probe("no-such-model", rows, CATEGORIES, ["place", "age"])
    with pytest.raises(ValueError, match="'mood' has 2 values for 5 images"):
        evaluate_label_probe("no-such-model", rows, CATEGORIES, {"mood": ["a", "b"]})
