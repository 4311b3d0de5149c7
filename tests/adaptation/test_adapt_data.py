# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Which rows an adaptation trains on, chooses on and is tested on, and what is refused before anything is encoded."""

import json

import datasets
import numpy as np
import pytest

from clip_hf.adaptation import AdaptOptions
from clip_hf.adaptation.adapt_data import draw_examples, load_adaptation_data, load_retained
from clip_hf.evaluation import ClassificationOptions
from drawings import COLOURS, PATTERNS, draw


def labelled(per_class: int, names: tuple[str, ...] = ("red", "green", "blue")) -> datasets.Dataset:
    """Drawings whose class is their colour, with a number that tells rows apart."""
    rows = [
        {"image": draw(colour, PATTERNS[place % 5]), "label": number, "row": place * len(names) + number}
        for number, colour in enumerate(names)
        for place in range(per_class)
    ]
    label = datasets.ClassLabel(names=list(names))
    features = datasets.Features({"image": datasets.Image(), "label": label, "row": datasets.Value("int64")})
    return datasets.Dataset.from_list(rows, features=features)


def captioned(count: int) -> datasets.Dataset:
    names = [(colour, pattern) for colour in COLOURS for pattern in PATTERNS][:count]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = [{"image": draw(*name), "caption": " ".join(name)} for name in names]
    return datasets.Dataset.from_list(rows, features=features)


def asked(data, **options) -> AdaptOptions:
    return AdaptOptions(**{"model": "m", "data": data, "output_dir": "o", **options})


def numbers(part) -> set[int]:
    return set(part.data["row"])


def test_data_with_all_parts_keep_them():
    parts = {"train": labelled(6), "validation": labelled(3), "test": labelled(2)}
    options = asked(parts, shots=2)
    data = load_adaptation_data(options)
    assert (len(data.train), len(data.validation), len(data.test), data.notes) == (18, 9, 6, [])
    first = draw_examples(data, options, 0)
    assert first.train.class_counts.tolist() == first.validation.class_counts.tolist() == [2, 2, 2]
    assert first.validation_from == "2 rows of each class from the validation part"
    assert numbers(first.train) != numbers(draw_examples(data, options, 1).train)
    assert numbers(first.train) == numbers(draw_examples(data, options, 0).train)


def test_what_is_missing_is_held_out_and_said():
    options = asked(labelled(10), shots=4)
    data = load_adaptation_data(options)
    assert data.test.class_counts.tolist() == [2, 2, 2] and data.train.class_counts.tolist() == [8, 8, 8]
    assert data.notes[0].endswith(
        "has no test part: 6 of its 30 rows are held out for the test, the same ones each time."
    )
    drawn = draw_examples(data, options, 0)
    assert drawn.validation_from == "4 rows of each class from training rows that were not drawn"
    parts = [numbers(drawn.train), numbers(drawn.validation), numbers(data.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 30
    other = load_adaptation_data(asked(labelled(10), seed=5))
    assert numbers(other.test) == numbers(data.test)


def test_all_rows_give_a_fifth_to_choose_on_and_no_row_is_lost():
    data = load_adaptation_data(asked({"train": labelled(10), "test": labelled(2)}))
    drawn = draw_examples(data, asked(None), 0)
    assert (len(drawn.train), len(drawn.validation)) == (24, 6)
    assert numbers(drawn.train) | numbers(drawn.validation) == set(range(30))


def test_without_rows_that_are_left_nothing_is_chosen_on_others():
    options = asked({"train": labelled(3), "test": labelled(2)}, shots=3)
    drawn = draw_examples(load_adaptation_data(options), options, 0)
    assert drawn.validation is None and drawn.validation_from.startswith("none: no row of some class is left")


def test_captions_are_taken_where_there_are_no_labels_and_it_is_said():
    options = asked(captioned(20), method="flyp")
    data = load_adaptation_data(options)
    assert not data.has_labels and "no column of labels, so the captions are what is learned" in data.notes[0]
    assert (len(data.train), len(data.test)) == (16, 4)
    drawn = draw_examples(data, options, 0)
    assert (len(drawn.train), len(drawn.validation)) == (14, 2)
    named = load_adaptation_data(asked(captioned(20), method="lora", caption_column="caption"))
    assert len(named.notes) == 1 and "has no test part" in named.notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "tip"}, "tip fits a classifier, which needs labelled images, and the data are captioned pictures"),
        ({"method": "full", "shots": 4}, "`shots` are examples of each class, and the data are captioned pictures"),
    ],
)
def test_methods_that_do_not_fit_captions(options, message):
    with pytest.raises(ValueError, match=message):
        load_adaptation_data(asked(captioned(20), **options))


def test_too_few_examples_name_the_classes():
    train = datasets.concatenate_datasets([labelled(5), labelled(3).filter(lambda row: row["label"] == 1)])
    with pytest.raises(ValueError, match=r"2 of 3 classes .* fewer training rows: 'red' \(5\), 'blue' \(5\)"):
        load_adaptation_data(asked({"train": train, "test": labelled(2)}, shots=8))


def test_a_class_without_examples_is_named():
    train = labelled(4).filter(lambda row: row["label"] != 2)
    with pytest.raises(ValueError, match="1 of 3 classes has no image to train on, such as 'blue'"):
        load_adaptation_data(asked({"train": train, "test": labelled(2)}))


def test_missing_labels_are_named(tmp_path):
    for name in ("red", "green"):
        draw(name, "bar").save(tmp_path / f"{name}.png")
    (tmp_path / "table.csv").write_text("image,label\nred.png,red\ngreen.png,\n")
    with pytest.raises(ValueError, match="label"):
        load_adaptation_data(asked(str(tmp_path / "table.csv")))
    (tmp_path / "bare.csv").write_text("image,size\nred.png,1\ngreen.png,2\n")
    with pytest.raises(ValueError, match="Which column holds the labels cannot be told"):
        load_adaptation_data(asked(str(tmp_path / "bare.csv")))


def test_several_labels_and_parts_without_train_are_refused():
    rows = [{"image": draw("red", "bar"), "label": [0, 1]}, {"image": draw("blue", "bar"), "label": [1]}]
    both = datasets.Dataset.from_list(
        rows,
        features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.List(datasets.ClassLabel(names=["a", "b"]))}
        ),
    )
    with pytest.raises(ValueError, match="may have several classes; adapting is for one class an image"):
        load_adaptation_data(asked(both))
    with pytest.raises(ValueError, match="need the splits train and test"):
        load_adaptation_data(asked({"test": labelled(2)}))
    with pytest.raises(ValueError, match="has the parts one, two, and none of them is train"):
        load_adaptation_data(asked({"one": labelled(2), "two": labelled(2)}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lorra"}, r"There is no method 'lorra'\. Did you mean 'lora'\? There are lora, flyp"),
        ({"shots": 0}, "`shots` is 0; it must be a whole number of at least 1"),
        ({"seed": -1}, "`seed` is -1"),
        ({"learning_rate": 0.0}, "`learning_rate` is 0.0; it must be greater than 0"),
        ({"wise": 1.5}, "`wise` is 1.5; it must be a share from 0 to 1, or 'auto'"),
        ({"wise": "best"}, "`wise` is 'best'"),
        ({"crop_scale": (0.5,)}, "`crop_scale` is 0.5; it must be two shares"),
        ({"crop_scale": (0.9, 0.5)}, "`crop_scale` is 0.9 0.5"),
        ({"horizontal_flip": 2.0}, "`horizontal_flip` is 2.0"),
        (
            {"method": "clap", "wise": 0.5},
            "`wise` belongs to lora, flyp, full, which train the towers; the method clap",
        ),
        ({"method": "tip", "steps": 5}, "`steps` belongs to lora"),
        (
            {"method": "probe", "caption_column": "text"},
            "needs labelled images, and the data are the column 'text' of",
        ),
        (
            {"caption_column": "text", "data_options": ClassificationOptions(label_column="label")},
            "Give `label_column` or `caption_column`, not both",
        ),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        asked(None, **options)


def test_numbers_are_numbers():
    options = asked(None, shots=np.int64(4), learning_rate=np.float32(0.5), wise=np.float32(0.5))
    assert json.dumps([options.shots, options.learning_rate, options.wise]) == "[4, 0.5, 0.5]"
    for name in ("learning_rate", "horizontal_flip"):
        with pytest.raises(TypeError, match=f"`{name}` is '0.1', a str; it must be a number"):
            asked(None, **{name: "0.1"})


def test_what_is_retained_may_have_labels_or_captions():
    assert load_retained(labelled(2)).class_names == ["red", "green", "blue"]
    assert len(load_retained(captioned(5)).captions) == 5
    with pytest.raises(ValueError, match="`retain` .* has no rows"):
        load_retained(labelled(2).select([]))
    with pytest.raises(
        ValueError, match="`retain` .* cannot be read: .* Give other labelled or captioned pictures, or"
    ):
        load_retained(datasets.Dataset.from_dict({"number": np.arange(3)}))
