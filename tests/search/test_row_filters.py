# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Filters on columns."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from clip_hf.search import parse_filter, parse_filters
from clip_hf.search.row_filters import MAX_FILTER_CHARACTERS, MAX_FILTERS, rows_that_match, split_filter


TABLE = pa.table(
    {
        "id": pa.array([0, 1, 2, 3, 4]),
        "name": ["a/one.jpg", "a/two.JPG", "b/[x].jpg", "a\nb.png", None],
        "width": pa.array([10, 800, 801, None, -5]),
        "score": pa.array([0.5, 1.5, float("nan"), -1.0, None]),
        "good": [True, False, None, True, False],
        "label": pa.array(["cat", "dog", "cat", None, "a = b"]).dictionary_encode(),
        "day": pa.array([datetime.date(2026, 11, day) for day in (1, 2, 3, 4, 5)]),
        "captions": [["a dog", "a cat"], ["a dog on grass"], [], None, ["", "DOG"]],
        "sizes": [[1], [2], [], None, [3]],
    }
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("width>=800", [1, 2]),
        ("width > 800", [2]),
        ("width<=10", [0, 4]),
        ("width<-4", [4]),
        ("width=801", [2]),
        ("width==801", [2]),
        ("name == a/one.jpg", [0]),
        ("width!=801", [0, 1, 4]),
        ("id=3", [3]),
        ("score>0", [0, 1]),
        ("good=true", [0, 3]),
        ("day>=2026-11-04", [3, 4]),
        ("name=a/one.jpg", [0]),
        (" name = a/one.jpg ", [0]),
        ("name~a/*.jpg", [0]),
        ("name~*.[jJ][pP][gG]", [0, 1, 2]),
        ("name~?/[!o]*", [1, 2]),
        ("name~b/[[]x].jpg", [2]),
        ("name~a?b.png", [3]),
        ("name~a", []),
        ("name>a/t", [1, 2]),
        ("label=cat", [0, 2]),
        ("label!=cat", [1, 4]),
        ("label~*o*", [1]),
        ("label=a = b", [4]),
        ("captions=a dog", [0]),
        ("captions~a dog*", [0, 1]),
        ("captions~dog", []),
        ("captions~*cat", [0]),
        ("captions~*", [0, 1, 4]),
        ("captions~a dog*cat", []),  # not from one text into the next
        ("captions~a dog[!x]a cat", []),
        ("captions=", [4]),
        ("captions!=a dog", [1, 2, 4]),
    ],
)
def test_a_filter_keeps_the_rows_that_it_says(text, kept):
    assert np.flatnonzero(rows_that_match(TABLE, parse_filter(text, TABLE.schema))).tolist() == kept


def test_several_filters_must_all_hold():
    both = parse_filters(["width>=10", "name~a/*"], TABLE.schema)
    assert np.flatnonzero(rows_that_match(TABLE, both)).tolist() == [0, 1]
    assert parse_filters([], TABLE.schema) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width", "'width' is no filter"),
        (">=3", "is no filter"),
        ("", "is no filter"),
        ("widht=3", "'widht', which is not there. The columns are id, name, .* Did you mean 'width'"),
        ("width=wide", "'wide' is no value of 'width', which holds int64"),
        ("width=1.5", "'1.5' is no value"),
        ("width=99999999999999999999", "is no value"),
        ("good=maybe", "holds bool"),
        ("day>=tomorrow", "holds date32"),
        ("width>2026-01-02", "In nanoseconds since 1970 .UTC., as times of files are, that is 1767312000000000000"),
        ("width~8*", "~ is for texts, and 'width' holds int64.*Texts are: name"),
        ("captions>a", "Lists of texts have = != ~"),
        ("sizes=1", "holds lists"),
    ],
)
def test_a_text_that_is_no_filter_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_filter(text, TABLE.schema)


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("width>3", TypeError, "see parse_filter"),
        (pc.field("height") > 3, ValueError, "the columns, which are id .int64., name"),
        (pc.field("name") > 3, ValueError, "does not fit"),
        (pc.field("width") + 1, TypeError, "true or false"),
    ],
)
def test_an_expression_that_does_not_fit_is_refused(where, error, message):
    with pytest.raises(error, match=message):
        rows_that_match(TABLE, where)


def test_rows_of_many_batches_stay_in_order():
    numbers = np.random.default_rng(0).integers(0, 100, 300_000)
    batches = [pa.table({"n": part}) for part in np.array_split(numbers, 37)]
    assert np.array_equal(rows_that_match(pa.concat_tables(batches), pc.field("n") < 30), numbers < 30)
    assert rows_that_match(TABLE.slice(0, 0), pc.field("width") > 3).tolist() == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("x~[z-a]", pa.string()),
        ("x~[z-a]", pa.list_(pa.string())),
        ("x=a", pa.large_list(pa.large_string())),
        ("x>0.5", pa.float16()),
        ("x=10:00:00", pa.time32("s")),
        ("x=3", pa.duration("s")),
    ],
)
def test_a_filter_that_cannot_be_applied_is_refused_when_it_is_parsed(text, kind):
    with pytest.raises(ValueError, match="The filter 'x"):
        parse_filter(text, pa.schema([("x", kind)]))


def test_a_filter_is_bounded_and_read_in_time_in_proportion_to_it():
    blanks = " " * (MAX_FILTER_CHARACTERS - 8)
    assert split_filter(f"width {blanks}=") == ("width", "=", "")
    with pytest.raises(ValueError, match="is no filter") as caught:
        parse_filter(blanks, TABLE.schema)
    assert len(str(caught.value)) < 250
    with pytest.raises(ValueError, match="has 1,001 characters; at most 1,000 are taken") as caught:
        parse_filter("width=" + "1" * 995, TABLE.schema)
    assert len(str(caught.value)) < 250
    for text in ("x" * 900 + "=1", "width=" + "x" * 900, "name~[" + "x" * 900, "width~" + "x" * 900):
        try:
            parse_filter(text, TABLE.schema)
        except ValueError as error:
            assert len(str(error)) < 500 and "x" * 101 not in str(error)


def test_many_filters_are_refused_and_as_many_as_are_taken_hold():
    most = ["width>=10"] * MAX_FILTERS
    assert np.flatnonzero(rows_that_match(TABLE, parse_filters(most, TABLE.schema))).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="There are 101 filters; at most 100"):
        parse_filters([*most, "width>=10"], TABLE.schema)


def test_a_pattern_of_many_stars_is_matched_in_time_in_proportion_to_the_text():
    table = pa.table({"name": ["x" * 500]})
    assert not rows_that_match(table, parse_filter("name~" + "x*" * 490 + "y", table.schema)).any()
