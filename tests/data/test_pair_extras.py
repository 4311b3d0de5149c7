# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Labels, hard negatives and short captions: from every kind of data, without changing a draw, and what is wrong."""

import json

import datasets
import numpy as np
import pytest
import torch

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.data import ImageTextCollator, ImageTextDataset, PairLoader, PairOptions, SkippedRow, load_pairs
from clip_hf.data.pair_extras import PairExtras
from clip_hf.data.texts import DrawnText, stable_id
from pair_data import caption_of, encoded, flat, image_of, rows_of


COLUMNS = {"label_column": "labels", "negative_column": "wrong", "short_caption_column": "short"}
LABELS = [[1.0, 0.0, 1.0], [0.0, 3.0, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
WRONG = [["no drawing", "a photo"], [], None, ["Drawing number 3 ", "a cat"]]
SHORT = [["zero", "nought"], ["one"], ["two"], ["three"]]


@pytest.fixture(scope="module")
def processor(tiny_tokenizer) -> ClipHFProcessor:
    return ClipHFProcessor(ClipHFImageProcessor(size=10, crop_size=8), tiny_tokenizer)


def rows_with_extras() -> list[dict]:
    more = zip(LABELS, WRONG, SHORT, strict=True)
    return [
        {**row, "labels": labels, "wrong": wrong, "short": short}
        for row, (labels, wrong, short) in zip(rows_of(range(4)), more, strict=True)
    ]


def data_of(rows: list[dict]) -> datasets.Dataset:
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


def as_stream(rows: list[dict]) -> datasets.IterableDataset:
    return data_of(rows).to_iterable_dataset(1)


def as_csv(rows: list[dict], folder) -> str:
    """A table has no lists: vectors and negatives are JSON."""
    return as_table(rows, folder, lambda table: datasets.Dataset.from_list(table).to_csv(folder / "rows.csv"), "csv")


def as_table(rows: list[dict], folder, write, ending: str) -> str:
    table = []
    for number, row in enumerate(rows):
        (folder / f"{number}.png").write_bytes(encoded(image_of(number)))
        values = {name: value for name, value in row.items() if name != "image"}
        if ending == "csv":
            values |= {"labels": json.dumps(row["labels"]), "wrong": json.dumps(row["wrong"]) if row["wrong"] else ""}
            values["short"] = row["short"][0]
        table.append({"image": f"{number}.png", **values})
    write(table)
    return str(folder / f"rows.{ending}")


def as_json(rows: list[dict], folder) -> str:
    return as_table(rows, folder, lambda table: (folder / "rows.json").write_text(json.dumps(table)), "json")


def batches_of(data, processor, num_steps: int = 1, **options) -> list[dict]:
    loader = PairLoader(data, processor, PairOptions(shuffle_buffer=0, **options), batch_size=4, num_steps=num_steps)
    return list(loader)


@pytest.mark.parametrize("kind", ["map", "stream", "csv", "csv stream", "json", "json stream"])
def test_a_batch_has_them_from_every_kind_of_data(kind, processor, tmp_path):
    rows, options = rows_with_extras(), PairOptions(**COLUMNS)
    if kind in ("map", "stream"):
        data = data_of(rows) if kind == "map" else as_stream(rows)
    else:
        path = (as_csv if kind.startswith("csv") else as_json)(rows, tmp_path)
        data = load_pairs(path, options=options, streaming=kind.endswith("stream"))
    (batch,) = batches_of(data, processor, **COLUMNS)
    places = [batch["text_ids"].tolist().index(stable_id(caption_of(number))) for number in range(4)]
    vectors = np.array(LABELS) / np.linalg.norm(LABELS, axis=1, keepdims=True)
    assert (
        np.allclose(batch["label_vectors"][places].numpy(), vectors) and batch["label_vectors"].dtype == torch.float32
    )
    # The last row's first negative is its own caption.
    expected = [[text for text in wrong or [] if text != "Drawing number 3 "] for wrong in WRONG]
    ids = [[stable_id(text) for text in texts] + [-1] * (2 - len(texts)) for texts in expected]
    assert batch["negative_ids"][places].tolist() == ids
    shorts = [{stable_id(text) for text in texts} for texts in SHORT]
    assert all(found in known for found, known in zip(batch["short_ids"][places].tolist(), shorts, strict=True))
    # The tokens are those of the caption, the short caption and the negatives.
    decode = processor.tokenizer.batch_decode
    assert batch["input_ids"].shape[:2] == batch["attention_mask"].shape[:2] == (4, 4)
    for number, place in enumerate(places):
        texts = decode(batch["input_ids"][place], skip_special_tokens=True)
        assert texts[0].strip() == caption_of(number) and texts[1].strip() in SHORT[number]
        assert [text.strip() for text in texts[2:]] == expected[number] + [""] * (2 - len(expected[number]))
        present = batch["attention_mask"][place].any(dim=1)
        assert present.tolist() == [True, True, *(each != -1 for each in ids[number])]


def test_a_batch_may_have_no_negatives_at_all(processor):
    (batch,) = batches_of(data_of([row | {"wrong": []} for row in rows_with_extras()]), processor, **COLUMNS)
    assert batch["negative_ids"].shape == (4, 0)
    assert batch["input_ids"].shape[:2] == (4, 2)  # caption and short caption


@pytest.mark.parametrize("streaming", [False, True])
def test_no_other_draw_changes(streaming, processor):
    """Crops, captions, templates and dropped tokens are those without the columns."""
    options = {"templates": ("{}", "a {}", "{}, drawn"), "token_dropout": 0.3, "seed": 5}
    data = (as_stream if streaming else data_of)(rows_with_extras())
    plain, full = (batches_of(data, processor, 5, **options, **more) for more in ({}, COLUMNS))
    for batch, other in zip(plain, full, strict=True):
        for name in ("pixel_values", "text_ids"):
            assert torch.equal(batch[name], other[name])
        first, length = other["input_ids"][:, 0], batch["input_ids"].shape[1]
        assert torch.equal(first[:, :length], batch["input_ids"])
        assert not other["attention_mask"][:, 0, length:].any()
    again = batches_of(data, processor, 5, **options, **COLUMNS)
    assert all(torch.equal(one["input_ids"], two["input_ids"]) for one, two in zip(full, again, strict=True))
    assert len({tuple(batch["short_ids"].sort().values.tolist()) for batch in full}) == 2  # both of the first row


def test_the_template_is_the_captions(processor):
    options = {"templates": ("a {}", "my {}"), "negative_column": "wrong", "short_caption_column": "short"}
    for batch in batches_of(data_of(rows_with_extras()), processor, 3, **options):
        for row in batch["input_ids"]:
            texts = [text for text in processor.tokenizer.batch_decode(row, skip_special_tokens=True) if text.strip()]
            assert len({text.split()[0] for text in texts}) == 1 and len(texts) > 1


CLASSES = datasets.ClassLabel(names=["cat", "dog"])


@pytest.mark.parametrize(
    ("values", "feature", "expected"),
    [
        (["cat", "dog", "cat", "dog"], None, ["cat", "dog", "cat", "dog"]),
        ([7, 8, 7, 8], None, ["7", "8", "7", "8"]),
        ([0, 1, 0, 1], CLASSES, ["cat", "dog", "cat", "dog"]),
        ([[0, 1], [1], [0], [1]], datasets.List(CLASSES), [["cat", "dog"], "dog", "cat", "dog"]),
        ([["cat", "dog"], ["dog"], ["cat"], ["dog", "dog"]], None, [["cat", "dog"], "dog", "cat", "dog"]),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_labels_may_be_classes(values, feature, expected, streaming, processor):
    data = data_of([{**row, "labels": value} for row, value in zip(rows_of(range(4)), values, strict=True)])
    data = data if feature is None else data.cast_column("labels", feature)
    data = data.to_iterable_dataset(1) if streaming else data
    (batch,) = batches_of(data, processor, label_column="labels")
    for number, names in enumerate(expected):
        place = batch["text_ids"].tolist().index(stable_id(caption_of(number)))
        ids = {stable_id("class", name) for name in ([names] if isinstance(names, str) else names)}
        assert set(batch["label_ids"][place].tolist()) - {-1} == ids


@pytest.mark.parametrize(
    ("column", "value", "kind", "message"),
    [
        ("labels", None, "label missing", "Row 1 has the labels None; they must be a list of finite numbers"),
        ("labels", [], "label missing", "has the labels"),
        ("labels", [0.0, 0.0, 0.0], "label unusable", "that are not all 0"),
        ("labels", [float("nan"), 0.0, 0.0], "label unusable", "finite numbers"),
        ("labels", [1.0, 0.0], "label of another kind", "a vector of 2 numbers, and the first row has a vector of 3"),
        ("wrong", [" "], "negative blank", "has the negative ' '.*Leave it out: a row may have no negatives"),
        ("wrong", ["a cat", None], "negative missing", "has the negative None"),
        ("short", [], "short caption missing", "has no short caption"),
        ("short", None, "short caption missing", "has no short caption"),
        ("short", [""], "short caption blank", "has the short caption ''"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_rows_that_cannot_be_used_are_skipped_with_their_reason(column, value, kind, message, streaming, processor):
    rows = rows_with_extras()
    rows[1][column] = value
    options = {**COLUMNS, "max_skipped_share": 0.3}
    batches = batches_of((as_stream if streaming else data_of)(rows), processor, 3, **options)
    skipped = flat([batch["skipped"] for batch in batches])
    assert skipped and {row.kind for row in skipped} == {kind}
    if not streaming:  # of a stream only the first rows are known before, of which half may be bad
        with pytest.raises(ValueError, match=message):
            batches_of(data_of(rows), processor, **COLUMNS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negative_column": "caption"}, "`negative_column` is 'caption', the column of the texts"),
        ({"short_caption_column": "image"}, "`short_caption_column` is 'image', the column of the images"),
        (
            {"negative_column": "a", "short_caption_column": "a"},
            "`short_caption_column` is 'a', the column of the other",
        ),
        ({"label_column": "image"}, "`label_column` is 'image', the column of the images"),
        ({"templates": ("{title}",), "negative_column": "a"}, "template '{title}' has no caption"),
    ],
)
def test_options_that_exclude_each_other(options, message):
    with pytest.raises(ValueError, match=message):
        PairOptions(**options)


@pytest.mark.parametrize("option", list(COLUMNS))
@pytest.mark.parametrize("streaming", [False, True])
def test_a_missing_column_is_named_with_its_option(option, streaming, processor):
    data = (as_stream if streaming else data_of)(rows_with_extras())
    with pytest.raises(ValueError, match=f"no column 'nothing'.*`{option}`"):
        batches_of(data, processor, **{option: "nothing"})


def test_sources_with_other_labels_are_refused(tmp_path):
    rows = rows_with_extras()
    classes = [{**row, "labels": "cat"} for row in rows]
    for name, each in (("one", rows), ("two", classes)):
        data_of(each).to_parquet(tmp_path / f"{name}.parquet")
    options = PairOptions(**COLUMNS)
    paths = [str(tmp_path / f"{name}.parquet") for name in ("one", "two")]
    with pytest.raises(ValueError, match="columns 'labels' .* are of different types"):
        load_pairs(paths, options=options)
    assert len(load_pairs([paths[0]] * 2, options=options)) == 8


def test_a_class_whose_name_begins_as_a_list_is_a_class():
    extras = PairExtras(PairOptions(label_column="labels"))
    assert extras.find_problem({"labels": "[red] cat"}, "row 0") is None
    problem = extras.find_problem({"labels": "[1, 0]"}, "row 1")
    assert (
        isinstance(problem, SkippedRow) and "a vector of 2 numbers, and the first row has classes" in problem.message
    )


def test_texts_are_kept_if_asked_for(processor):
    (batch,) = batches_of(data_of(rows_with_extras()), processor, keep_texts=True)
    assert sorted(batch["texts"]) == [caption_of(number) for number in range(4)]


def test_a_trainer_of_transformers_is_told_that_it_takes_no_such_batch(processor):
    pairs = ImageTextDataset(data_of(rows_with_extras()), processor.image_processor, PairOptions(**COLUMNS))
    with pytest.raises(ValueError, match="`return_loss` is for `transformers.Trainer`"):
        ImageTextCollator(processor, return_loss=True)([pairs[0], pairs[1]])


def test_whole_floats_are_classes_because_pandas_makes_them_of_numbers_with_gaps():
    extras = PairExtras(PairOptions(label_column="labels"))
    drawn = DrawnText("{}", {}, ())
    ids = [
        extras.read({"labels": value}, "row 1", drawn, 0)["label_ids"] for value in (1.0, 1, [1.0, "2"], ["1", "2"])
    ]
    assert ids[0] == ids[1] == [stable_id("class", "1")] and ids[2] == ids[3]
    problem = extras.find_problem({"labels": 1.5}, "row 1")
    assert problem.kind == "label unusable" and "has the labels 1.5; they must be" in problem.message
    assert "or a class (a text or a whole number)" in problem.message
    assert extras.find_problem({"labels": float("nan")}, "row 1").kind == "label missing"
