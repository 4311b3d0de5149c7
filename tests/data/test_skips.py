# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Counting the rows that were skipped, and stopping when they are too many."""

import json

import pytest

from clip_hf.data import SkipCounter, SkippedRow


def rows(kind: str, count: int) -> list[SkippedRow]:
    return [SkippedRow(kind, f"row {number}", f"Row {number} is a {kind}.") for number in range(count)]


def test_kinds_and_shares_are_counted():
    counter = SkipCounter()
    assert counter.summary() == "No row of 0 was skipped." and counter.share == 0
    counter.add([], 900)
    counter.add(rows("file truncated", 7) + rows("caption blank", 3), 90)
    assert (counter.num_used, counter.num_skipped) == (990, 10)
    assert counter.kinds == {"file truncated": 7, "caption blank": 3}
    assert counter.share == pytest.approx(0.01)
    assert counter.summary() == "10 of 1,000 rows (1.00%) were skipped: 7 file truncated, 3 caption blank."
    assert counter.examples["file truncated"][:2] == ["Row 0 is a file truncated.", "Row 1 is a file truncated."]
    counter.check()


def test_too_many_stop_the_training_once_enough_rows_were_read():
    counter = SkipCounter(max_skipped_share=0.1, min_rows=100)
    counter.add(rows("not an image", 20), 70)
    counter.check()
    counter.add(rows("file empty", 1), 9)
    with pytest.raises(ValueError) as error:
        counter.check()
    assert str(error.value) == (
        "21 of 100 rows (21.00%) were skipped: 20 not an image, 1 file empty. That is more than max_skipped_share=0.1 "
        "allows. Row 0 is a not an image. Row 0 is a file empty. Repair the data, or raise `max_skipped_share` "
        "(--max-skipped-share) to go on with the rest."
    )
    counter.add([], 200)
    counter.check()


def test_as_many_as_the_limit_are_allowed():
    counter = SkipCounter(max_skipped_share=0.25, min_rows=8)
    counter.add(rows("file empty", 2), 6)
    counter.check()


def test_what_was_noticed_of_the_pairs_that_were_used():
    counter, other = SkipCounter(), SkipCounter()
    assert counter.remarks(77) == ""
    counter.add([], 400, {"captions_cut": 100, "plain_images": 0})
    assert counter.remarks(77) == "100 of 400 (25.00%) captions were cut at 77 tokens."
    other.load_state_dict(json.loads(json.dumps(counter.state_dict())))
    other.add(rows("file empty", 1), 235, {"captions_cut": 39, "plain_images": 45})
    assert other.remarks(40) == (
        "139 of 635 (21.89%) captions were cut at 40 tokens. 45 of 635 (7.09%) pictures are of one colour without "
        "their transparency: give a `background_color`."
    )
    # As over processes.
    counter.merge(other.state_dict())
    assert counter.noticed == {"captions_cut": 239, "plain_images": 45} and counter.num_used == 1035
    assert counter.counts == {"skipped": 1, "captions_cut": 239, "plain_images": 45}
    assert SkipCounter().counts == {"skipped": 0, "captions_cut": 0, "plain_images": 0}


def test_one_row_is_singular():
    counter = SkipCounter()
    counter.add([SkippedRow("file truncated", "row 7", "Row 7 is damaged.", "7.png")], 0)
    assert counter.places_text() == "file truncated: 1 different row, 1 time: row 7 (7.png)"
    assert counter.summary() == "1 of 1 row (100.00%) was skipped: 1 file truncated."


def test_rows_are_told_apart_and_named():
    """A row comes again in each epoch, and is counted each time; its file is named once."""
    counter = SkipCounter()
    assert counter.places_text() == ""
    damaged = [SkippedRow("file truncated", f"row {n}", f"Row {n} is damaged.", f"images/{n}.png") for n in (7, 31)]
    for _ in range(7):
        counter.add(damaged, 10)
    counter.add(rows("caption blank", 5), 10)
    expected = (
        "file truncated: 2 different rows, 14 times: row 7 (images/7.png), row 31 (images/31.png)\n"
        "caption blank: 5 different rows, 5 times: row 0, row 1, row 2, ..."
    )
    assert counter.places_text() == expected
    assert counter.examples["file truncated"] == ["Row 7 is damaged.", "Row 31 is damaged."]
    # Another process, and a training that goes on, count the same row as the same.
    other = SkipCounter()
    other.load_state_dict(json.loads(json.dumps(counter.state_dict())))
    assert other.places_text() == expected
    other.merge(counter.state_dict())
    assert other.places_text().startswith("file truncated: 2 different rows, 28 times: row 7 (images/7.png), row 31")


def test_counting_goes_on_from_a_saved_state():
    counter, resumed = SkipCounter(), SkipCounter()
    counter.add(rows("file empty", 5), 10)
    resumed.load_state_dict(json.loads(json.dumps(counter.state_dict())))
    for each in (counter, resumed):
        each.add(rows("file empty", 2) + rows("caption blank", 1), 10)
    assert resumed.state_dict() == counter.state_dict()
    assert resumed.summary() == counter.summary()
    assert len(resumed.examples["file empty"]) == 3
