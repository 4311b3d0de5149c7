# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tables as they are found: quotes, ragged lines, line ends, encodings, JSON of every kind; no row is lost unsaid."""

import csv
import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clip_hf.data import PairOptions, load_pairs
from clip_hf.data.decoding import check_not_missing
from clip_hf.data.tables import raw_table_rows
from clip_hf.data.texts import find_caption_problem
from clip_hf.model.image_reading_clip_hf import UnreadableImage, open_image


ODD_CAPTIONS = [
    'a "big" cat',
    '"quoted"',
    "one line\nanother, longer\nand a third",
    "a tab\there",
    'a 5" pipe',
    '"Hello," she\nsaid',
    '"',
    "naïve 猫",
]


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    logged: list[str] = []
    monkeypatch.setattr("clip_hf.data.tables.logger", SimpleNamespace(warning_once=logged.append))
    return logged


def captions_of(path, **options) -> list:
    return [row["caption"] for row in load_pairs(path, **options)]


def both_ways(path) -> list:
    """The captions, which are the same map-style and as a stream."""
    captions = captions_of(path)
    assert captions_of(path, streaming=True) == captions
    return captions


def with_open_quote(first: int, last: int, after: str, delimiter: str) -> str:
    """Ten rows; the caption of one begins with a quote that the caption of another ends."""
    captions = [f"cat {number}" for number in range(10)]
    captions[first] = '"' + captions[first]
    captions[last] += after
    lines = [f"i{number}.png{delimiter}{caption}\n" for number, caption in enumerate(captions)]
    return "".join([f"image{delimiter}caption\n", *lines])


@pytest.mark.parametrize(("last", "after"), [(7, '" x'), (7, '"'), (3, "")])
def test_an_open_quote_in_a_tsv_is_a_character(last, after, tmp_path):
    path = tmp_path / "q.tsv"
    path.write_text(with_open_quote(3, last, after, "\t"))
    captions = [f"cat {number}" for number in range(10)]
    captions[3] = '"cat 3'
    captions[last] += after
    assert both_ways(path) == captions


@pytest.mark.parametrize(
    ("last", "after", "message"),
    [
        (7, '" x', r"Line 5 of .*q.csv cannot be read: ',' expected after '\"'. A text that begins with a quote must"),
        (7, '"', "Line 5 of .*q.csv begins a text with a quote that swallows the row 'i4.png,cat 4'"),
        (3, "", "Line 5 of .*q.csv cannot be read: unexpected end of data"),
    ],
)
def test_an_open_quote_in_a_csv_is_an_error_that_names_the_line(last, after, message, tmp_path):
    path = tmp_path / "q.csv"
    path.write_text(with_open_quote(3, last, after, ","))
    with pytest.raises(ValueError, match=message):
        load_pairs(path)


def test_errors_name_the_line_wherever_it_is(tmp_path):
    good = "".join(f"i{number}.png,cat {number}\n" for number in range(300))
    (tmp_path / "q.csv").write_text(f'image,caption\n{good}a.png,"a cat" x\n')
    with pytest.raises(ValueError, match="Line 302 of .*q.csv cannot be read"):
        load_pairs(tmp_path / "q.csv")
    lines = "\n".join(["a line without commas"] * 300)
    (tmp_path / "q.csv").write_text(f'image,caption\n{good}a.png,"{lines}"\n')
    with pytest.raises(ValueError, match="Line 302 of .*q.csv begins a text with a quote that ends 299 lines later"):
        load_pairs(tmp_path / "q.csv")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_what_csv_writers_write_is_read(ending, delimiter, line_end, tmp_path):
    path = tmp_path / f"odd.{ending}"
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end)
        writer.writerow(["image", "caption"])
        writer.writerows([f"{number}.png", caption] for number, caption in enumerate(ODD_CAPTIONS))
    assert both_ways(path) == ODD_CAPTIONS


def test_old_line_ends_null_bytes_and_blank_lines(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"image\tcaption\ra.png\ta cat\r\rb.png\ta d\0g\r")
    assert both_ways(tmp_path / "a.tsv") == ["a cat", "a d\0g"]


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_ragged_lines_are_named(ending, delimiter, tmp_path, warnings):
    lines = ["image,caption", "a.png,a cat, black", "b.png", "c.png,a dog,", "d.png,a cow"]
    path = tmp_path / f"ragged.{ending}"
    path.write_text("\n".join(lines).replace(",", delimiter))
    assert both_ways(path) == [None, None, "a dog", "a cow"]  # not "a cat"
    assert "Line 2 of" in warnings[0] and "has 3 fields, more than the 2 columns" in warnings[0]
    path.write_text("\n".join([lines[0], *lines[3:], lines[2]]).replace(",", delimiter))
    assert both_ways(path) == ["a dog", "a cow", None]
    assert "Line 4 of" in warnings[-1] and "has 1 fields for 2 columns" in warnings[-1]


def test_what_is_not_utf_8_is_named(tmp_path, warnings):
    table = "image,caption,title\na.png,a café,x\nb.png,a cat,é\né.png,a cow,y\n"
    (tmp_path / "latin.csv").write_bytes(table.encode("latin-1"))
    captions = ("a cat", ["half a \ud83d"], "a dog")
    rows = [{"image": "a.png", "caption": text, "title": text[0], "\ud83d": 1} for text in captions]
    (tmp_path / "half.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = PairOptions(templates=["{} {title}"])
    for streaming in (False, True):
        first, second, third = load_pairs(tmp_path / "latin.csv", streaming=streaming, options=options)
        assert find_caption_problem(first["caption"], "row 0").kind == "caption not UTF-8"
        assert (first["image"]["path"], first["title"]) == (f"{tmp_path}/a.png", "x")
        assert (second["caption"], second["title"]) == ("a cat", None)
        with pytest.raises(UnreadableImage, match="is not UTF-8; rename the file"):
            open_image(third["image"])
        assert third["caption"] == "a cow"
        kinds = [
            find_caption_problem(row["caption"], "")
            for row in load_pairs(tmp_path / "half.jsonl", streaming=streaming)
        ]
        assert [kind and kind.kind for kind in kinds] == [None, "caption not UTF-8", None]
    assert {text.partition(" of ")[0] for text in warnings} == {"Line 1", "Line 2"}
    assert all("is not UTF-8" in text for text in warnings)
    (tmp_path / "utf16.csv").write_bytes(table.encode("utf-16"))
    with pytest.raises(ValueError, match="utf16.csv is not UTF-8; save it as UTF-8"):
        load_pairs(tmp_path / "utf16.csv")


def test_a_table_is_named_alike_however_it_is_given(tmp_path, warnings, monkeypatch):
    """So that `warning_once` says it once."""
    (tmp_path / "a.csv").write_bytes("image,caption\na.png,a café\nb.png,a\n".encode("latin-1"))
    monkeypatch.chdir(tmp_path)
    for path in ("a.csv", tmp_path / "a.csv"):
        list(raw_table_rows(str(path)))
    assert warnings[0] == warnings[1] and f"Line 2 of {tmp_path}/a.csv is not UTF-8" in warnings[0]


# ---------------------------------------------------------------------------------------------------------------- JSON


def test_a_json_file_is_a_list_of_rows_or_has_one_on_each_line(tmp_path):
    rows = [{"image": f"{number}.png", "caption": f"cat {number}"} for number in range(3)]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=2))
    (tmp_path / "b.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "c.jsonl").write_text("\ufeff \n" + json.dumps(rows), encoding="utf-8")
    for name in ("a.json", "b.json", "c.jsonl"):
        assert both_ways(tmp_path / name) == ["cat 0", "cat 1", "cat 2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "is nested too deeply"),
        ('[{"image": ' + "[" * 100_000, "is nested too deeply"),
        ('{"image": ' * 100_000, "Line 1 of .* is nested too deeply. A table in JSON is a list of objects"),
        ('[{"image": "a.png"', "begins as a list of rows, but is no JSON"),
        ('{\n"data": []\n}', "Line 1 of .* is no JSON"),
        ('{"data": []}', "no column 'image'; it has 'data'"),
        ("[]", "is empty"),
        ("", "is empty"),
    ],
)
def test_other_json_is_a_clear_error(content, message, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_pairs(tmp_path / "a.json")


def test_lines_and_items_that_are_no_rows_are_rows_without_values(tmp_path, warnings):
    row = json.dumps({"image": "a.png", "caption": "a cat"})
    (tmp_path / "a.jsonl").write_text(f"[1, 2\n{row}\nnull\n" + "[" * 100_000 + f"\n{row[:-5]}\n{row}\n")
    with pytest.raises(ValueError, match="begins as a list of rows"):
        list(raw_table_rows(str(tmp_path / "a.jsonl")))
    (tmp_path / "a.jsonl").write_text(f"7\n{row}\nnull\n" + "[" * 100_000 + f"\n{row[:-5]}\n{row}\n")
    assert both_ways(tmp_path / "a.jsonl") == [None, "a cat", None, None, None, "a cat"]
    assert "Line 1 of" in warnings[0] and "is no object" in warnings[0]
    (tmp_path / "b.json").write_text(f"[{row}, 5, {row}]")
    assert both_ways(tmp_path / "b.json") == ["a cat", None, "a cat"]
    assert "Row 1 of" in warnings[-1]


# ----------------------------------------------------------------------------------------------------- types of values


def test_captions_are_the_same_map_style_and_as_a_stream(tmp_path):
    values = [f"cat {number}" for number in range(130)]
    values[110:117] = [["a", "b"], ["c"], [], [["d"]], 5, None, ["e", None]]
    rows = [{"image": f"{number}.png", "caption": value} for number, value in enumerate(values)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load_pairs(tmp_path / "a.jsonl")
    assert data["caption"][109:113] == [["cat 109"], ["a", "b"], ["c"], []]
    assert data["caption"][113:118] == [
        *(["refused:caption of a wrong type\n" + text] for text in ("[['d']]", "5")),
        None,
        None,
        ["cat 117"],
    ]
    assert captions_of(tmp_path / "a.jsonl", streaming=True) == values
    assert [row["caption"] for row in load_pairs(tmp_path / "a.jsonl")] == data["caption"][:]  # from the cache


def test_other_columns_are_the_same_map_style_and_as_a_stream(tmp_path):
    titles = ["a", 5, 2.5, True, None, ["b"], {"c": 1}, " "]
    ids = ["x", 7, "7", None, [7], {"y": 1}, 2.0, False]
    rows = [
        {"image": "a.png", "caption": "a cat", "title": title, "id": image_id} for title, image_id in zip(titles, ids)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = PairOptions(templates=["{title}"], image_id_column="id")
    data = load_pairs(tmp_path / "a.jsonl", options=options)
    # What a stream could not put into a template, a table does not make a text of either.
    assert data["title"][:] == ["a", "5", "2.5", "True", None, None, None, " "]
    assert data["id"][:] == [None if value is None else str(value) for value in ids]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "image,caption,caption\na.png,a,b\n", "has more than one column 'caption'"),
        ("a.tsv", "image\tcaption\timage\na.png\ta\tb.png\n", "has more than one column 'image'"),
        ("a.csv", "image;caption\na.png;a cat, asleep\n", r"has one column, 'image;caption': .* divided by ';'\."),
        ("a.csv", "image\tcaption\na.png\ta cat, asleep\n", r"divided by '\\t'\. Save it as \.csv with commas"),
        ("a.tsv", "image,caption\na.png,a cat\n", "divided by ','"),
        ("a.json", '[{"image": "a.png", "caption": "a", "caption": "b"}]', "the key 'caption' more than once"),
    ],
)
def test_a_header_that_can_be_misread_is_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} {'begins' if name == 'a.json' else ''}.*{message}"):
        load_pairs(tmp_path / name)


def test_columns_without_names_may_be_several(tmp_path):
    (tmp_path / "a.csv").write_text("image,caption,,\na.png,a cat,,\n")
    assert load_pairs(tmp_path / "a.csv")["caption"][:] == ["a cat"]


def test_an_object_that_has_a_key_twice_is_no_row(tmp_path):
    rows = ['{"image": "a.png", "caption": "a", "caption": "b"}', '{"image": "a.png", "caption": "c"}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    assert load_pairs(tmp_path / "a.jsonl")["caption"][:] == [None, "c"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_parquet_file_that_has_a_column_twice_is_refused(streaming, tmp_path):
    table = pa.table([["a.png"], ["a"], ["b"]], names=["image", "caption", "caption"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet has more than one column 'caption'"):
        load_pairs(tmp_path / "a.parquet", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_values_of_a_wrong_type_are_called_so(streaming, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    wrong = [
        ("a.png", True),
        ("a.png", {"a": 1}),
        ("a.png", 3),
        ("a.png", None),
        ([1, 2], "x"),
        ({"path": "a.png"}, "x"),
    ]
    rows = [{"image": image, "caption": caption} for image, caption in [*wrong, (None, "x"), ("a.png", "right")]]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load_pairs(tmp_path / "a.jsonl", streaming=streaming)
    problems = []
    for row in data:
        problem = find_caption_problem(row["caption"], "row")
        try:
            problems.append(
                problem.kind if problem else check_not_missing(row["image"]) or open_image(row["image"]).size
            )
        except UnreadableImage as error:
            problems.append(error.kind)
    kinds = [*["caption of a wrong type"] * 3, "caption missing", "not an image", "not an image", "image missing"]
    assert problems == [*kinds, (8, 8)]
