# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Streams: every row once in a pass, corrupt rows counted, mixtures, order, and what stops them."""

from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from transformers.testing_utils import CaptureLogger

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.data import MixedStream, PairLoader, PairOptions, load_pairs, streaming
from clip_hf.data.texts import stable_id
from pair_data import (
    bad_rows,
    bad_samples,
    caption_of,
    dataset_of,
    flat,
    rows_of,
    samples_of,
    write_parquet,
    write_tar,
)


@pytest.fixture(scope="module")
def processor(tiny_tokenizer) -> ClipHFProcessor:
    return ClipHFProcessor(ClipHFImageProcessor(size=10, crop_size=8), tiny_tokenizer)


def stream_of(numbers, num_shards: int = 1) -> datasets.IterableDataset:
    return dataset_of(rows_of(numbers)).to_iterable_dataset(num_shards)


def numbers_of(batches: list[dict], limit: int = 1000) -> list[int]:
    """Which rows the batches hold."""
    known = {stable_id(caption_of(number)): number for number in range(limit)}
    return [known[text_id] for batch in batches for text_id in batch["text_ids"].tolist()]


def batches_of(data, processor, options: PairOptions | None = None, **arguments) -> list[dict]:
    arguments = {"batch_size": 6, "num_steps": 8, **arguments}
    return list(PairLoader(data, processor, options or PairOptions(shuffle_buffer=4), **arguments))


# --------------------------------------------------------------------------------------------------------------- order


@pytest.mark.slow_but_for("0", "2-2-2")
@pytest.mark.parametrize("num_shards", [1, 2, 4])
@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (2, 0), (4, 0), (1, 2), (2, 2)])
def test_each_row_comes_once_in_a_pass_over_all_processes_and_workers(num_shards, world_size, num_workers, processor):
    data = stream_of(range(24), num_shards)
    # Each worker's part of a pass fills whole batches.
    steps = {"batch_size": 3 * world_size, "num_steps": 16 // world_size, "num_workers": num_workers}
    ranks = [batches_of(data, processor, rank=rank, world_size=world_size, **steps) for rank in range(world_size)]
    passes = []
    for start in (0, 8 // world_size):
        numbers = [numbers_of(batches[start : start + 8 // world_size]) for batches in ranks]
        assert sorted(flat(numbers)) == list(range(24))
        passes.append(numbers)
    assert passes[0] != passes[1]


def test_three_processes_share_two_shards_evenly(processor):
    # Three is no multiple of two, so each process reads every third row of both.
    data = stream_of(range(24), 2)
    ranks = [
        numbers_of(batches_of(data, processor, rank=rank, world_size=3, batch_size=12, num_steps=2))
        for rank in range(3)
    ]
    assert [len(numbers) for numbers in ranks] == [8, 8, 8]
    assert sorted(flat(ranks)) == list(range(24))


def test_workers_shuffle_each_in_an_order_of_its_own(processor):
    # Two processes with rows 0, 2, 4, ... and 1, 3, 5, ... of the same shard.
    orders = [
        [
            number // 2
            for number in numbers_of(
                batches_of(
                    stream_of(range(24)),
                    processor,
                    PairOptions(shuffle_buffer=12),
                    rank=rank,
                    world_size=2,
                    batch_size=12,
                    num_steps=2,
                )
            )
        ]
        for rank in range(2)
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(12))
    assert orders[0] != orders[1]


def test_unequal_shards_let_no_process_wait(processor):
    # Two processes share three shards: 12 + 4 rows and 8.
    shards = [stream_of(range(12)), stream_of(range(12, 20)), stream_of(range(20, 24))]
    data = MixedStream(shards)
    ranks = [
        numbers_of(batches_of(data, processor, rank=rank, world_size=2, batch_size=4, num_steps=40))
        for rank in range(2)
    ]
    assert set(ranks[0]) | set(ranks[1]) == set(range(24))
    counts = Counter(ranks[0] + ranks[1])
    assert max(counts.values()) <= 3 * min(counts.values())


def test_rows_left_over_come_with_the_next_pass(processor):
    numbers = numbers_of(batches_of(stream_of(range(10)), processor, batch_size=4, num_steps=5))
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))


def test_without_a_buffer_a_shard_s_order_stays_and_with_one_it_does_not(processor):
    options = [PairOptions(shuffle_buffer=size) for size in (0, 1, 24)]
    orders = [numbers_of(batches_of(stream_of(range(24)), processor, option, num_steps=4)) for option in options]
    assert orders[0] == orders[1] == list(range(24))
    assert orders[2] != orders[0] and sorted(orders[2]) == orders[0]


def test_shards_come_in_another_order_in_each_pass(processor):
    options = PairOptions(shuffle_buffer=0)
    numbers = numbers_of(batches_of(stream_of(range(24), 6), processor, options, batch_size=4, num_steps=18))
    orders = [tuple(numbers[start : start + 24 : 4]) for start in (0, 24, 48)]
    assert len(set(orders)) == 3


def test_draws_do_not_depend_on_processes(processor):
    options = PairOptions(shuffle_buffer=4, templates=["{}", "a {}", "the {}", "one {}"])
    one = batches_of(stream_of(range(24), 2), processor, options, batch_size=24, num_steps=1)
    two = [
        batches_of(stream_of(range(24), 2), processor, options, batch_size=24, num_steps=1, rank=rank, world_size=2)
        for rank in range(2)
    ]
    crops = [
        {text: pixels.numpy().tobytes() for text, pixels in zip(numbers_of(batches), batches[0]["pixel_values"])}
        for batches in (one, *two)
    ]
    assert crops[0] == crops[1] | crops[2]


def test_buckets_hold_texts_of_about_the_same_length(processor):
    rows = [{**row, "caption": "a" + " cat" * (number % 16)} for number, row in enumerate(rows_of(range(64)))]
    data = dataset_of(rows).to_iterable_dataset()
    padding = []
    for count in (0, 8):
        batches = batches_of(data, processor, PairOptions(shuffle_buffer=64, bucket_batches=count), batch_size=8)
        padding.append(sum((batch["attention_mask"] == 0).sum().item() for batch in batches))
        lengths = [batch["attention_mask"].sum(dim=1).float().mean() for batch in batches]
        assert lengths != sorted(lengths)
    assert padding[1] < 0.4 * padding[0]


# ------------------------------------------------------------------------------------------------------------- mixture


def test_weights_decide_the_share_of_each_source(processor):
    sources = [stream_of(range(20), 2), stream_of(range(100, 107))]
    options = PairOptions(shuffle_buffer=8)
    first, again, other = (
        numbers_of(batches_of(MixedStream(sources, (1, 3)), processor, option, batch_size=10, num_steps=20))
        for option in (options, options, PairOptions(shuffle_buffer=8, seed=1))
    )
    assert first == again != other
    assert 130 < sum(number >= 100 for number in first) < 170
    assert set(first) == {*range(20), *range(100, 107)}
    # Each source is passed over on its own.
    counts = Counter(number for number in first if number >= 100)
    assert max(counts.values()) - min(counts.values()) <= 2


def test_a_mixture_is_resumed_exactly(processor):
    data = MixedStream([stream_of(range(20), 2), stream_of(range(100, 107))], (1, 1))
    arguments = {"batch_size": 4, "num_steps": 20}
    loader = PairLoader(data, processor, PairOptions(shuffle_buffer=5), **arguments)
    whole, states = [], []
    for batch in loader:
        whole.append(batch)
        states.append(loader.state_dict())
    for stop in (3, 11):
        resumed = PairLoader(data, processor, PairOptions(shuffle_buffer=5), **arguments)
        resumed.load_state_dict(states[stop - 1])
        rest = list(resumed)
        assert numbers_of(rest) == numbers_of(whole[stop:])
        assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(rest, whole[stop:]))


# -------------------------------------------------------------------------------------------------------- corrupt rows


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_one_percent_of_corrupt_rows_is_skipped_and_counted(kind, tmp_path, processor):
    good, generator = 1000, np.random.default_rng(0)
    bad = bad_rows() if kind == "parquet" else bad_samples()
    assert len(bad) >= 10
    rows = rows_of(range(good)) if kind == "parquet" else samples_of(range(good))
    for row in bad.values():
        rows.insert(int(generator.integers(len(rows))), row)
    if kind == "parquet":
        source = write_parquet(tmp_path / "rows", rows, 4)
    else:
        quarter = len(rows) // 4 + 1
        for shard in range(4):
            write_tar(tmp_path / f"{shard:02d}.tar", rows[shard * quarter : (shard + 1) * quarter])
        source = str(tmp_path / "{00..03}.tar")
    data = load_pairs(source, streaming=True)
    options = PairOptions(shuffle_buffer=100, min_image_size=2)
    # The last batch may begin with rows that a pass ends with.
    batches = batches_of(data, processor, options, batch_size=100, num_steps=11)
    assert sorted(numbers_of(batches)[:good]) == list(range(good))
    skipped = [row for batch in batches for row in batch["skipped"]][: len(bad)]
    assert Counter(row.kind for row in skipped) == Counter(bad.keys())


def test_corrupt_rows_are_counted_once_over_processes_and_workers(tmp_path, processor):
    rows = rows_of(range(40))
    for row in bad_rows().values():
        rows.insert(11, row)
    data = load_pairs(write_parquet(tmp_path / "rows", rows, 4), streaming=True)
    options = PairOptions(shuffle_buffer=8, min_image_size=2)
    found = set()
    for rank in range(2):
        steps = {"batch_size": 4, "num_steps": 30, "num_workers": 2, "rank": rank, "world_size": 2}
        for batch in batches_of(data, processor, options, **steps):
            assert len(batch["text_ids"]) == 2
            found |= {(row.kind, row.where) for row in batch["skipped"]}
    assert Counter(kind for kind, _ in found) == Counter(bad_rows().keys())


def test_a_damaged_shard_is_reported_and_the_others_go_on(tmp_path, processor):
    for shard in range(3):
        write_tar(tmp_path / f"{shard}.tar", samples_of(range(shard * 8, shard * 8 + 8)))
    whole = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[:5000])
    data = load_pairs(str(tmp_path / "*.tar"), streaming=True)
    with CaptureLogger(streaming.logger) as logged:
        batches = batches_of(data, processor, batch_size=4, num_steps=20)
    kinds = {row.kind for batch in batches for row in batch["skipped"]}
    assert kinds == {"shard damaged"}
    assert "Shard 1 of the stream cannot be read further" in logged.out and "1.tar is damaged" in logged.out
    numbers = set(numbers_of(batches))
    assert numbers > {*range(8), *range(16, 24)} and 15 not in numbers


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("parquet", {"image_column": "photo"}, "no column 'photo'; it has 'image', 'caption'.*holds the images"),
        (
            "parquet",
            {"templates": ("{title}",)},
            "no column 'title'; it has 'image', 'caption'.*text of the templates",
        ),
        ("tar", {"image_column": "photo"}, "no column 'photo'; it has 'image', 'caption'.*holds the images"),
        (
            "parquet",
            {"min_image_size": 50},
            "16 of the first 16 rows of the stream cannot be used. The image of row 0",
        ),
        ("tar", {"min_image_size": 50}, "16 of the first 16 rows of the stream cannot be used. The image of row 0"),
    ],
)
def test_bad_streams_are_found_before_the_first_batch(source, options, message, tmp_path, processor):
    if source == "parquet":
        data = load_pairs(write_parquet(tmp_path / "rows", rows_of(range(20))), streaming=True)
    else:
        data = load_pairs(write_tar(tmp_path / "a.tar", samples_of(range(20))), streaming=True)
    with pytest.raises(ValueError, match=message):
        PairLoader(data, processor, PairOptions(**options), batch_size=4, num_steps=1)


def test_a_stream_without_rows(processor):
    data = stream_of(range(4)).take(0)
    with pytest.raises(ValueError, match="The dataset is empty"):
        PairLoader(data, processor, PairOptions(), batch_size=4, num_steps=1)


def test_a_stream_of_damaged_shards_only(tmp_path, processor):
    write_tar(tmp_path / "a.tar", samples_of(range(4)))
    (tmp_path / "a.tar").write_bytes(b"no tar")
    with pytest.raises(
        ValueError, match="dataset is empty; .* Shard 0 of the stream cannot be read .*a.tar is damaged"
    ):
        batches_of(load_pairs(str(tmp_path / "a.tar"), streaming=True), processor)


def test_a_stream_that_turns_bad_stops(processor, monkeypatch):
    monkeypatch.setattr(streaming, "_MAX_BAD_IN_SEQUENCE", 30)
    rows = rows_of(range(20)) + [bad_rows()["not an image"]] * 40
    with pytest.raises(ValueError, match="30 rows in sequence cannot be used. The last: The image of row"):
        batches_of(dataset_of(rows).to_iterable_dataset(), processor, PairOptions(shuffle_buffer=0), num_steps=5)


def test_bad_rows_between_good_ones_do_not_stop_a_stream_and_are_said_once(processor, monkeypatch):
    monkeypatch.setattr(streaming, "_MAX_BAD_IN_SEQUENCE", 3)
    bad = bad_rows()["not an image"]
    rows = [row for good in rows_of(range(24)) for row in (good, bad)]
    data = dataset_of(rows).to_iterable_dataset()
    batches = batches_of(data, processor, PairOptions(shuffle_buffer=0), num_steps=4)
    assert numbers_of(batches) == list(range(24))
    assert [len(batch["skipped"]) for batch in batches] == [5, 6, 6, 6]  # the last one comes with the next pass


def test_more_workers_than_rows(processor):
    with pytest.raises(ValueError, match="gave a worker no row; use fewer workers or processes"):
        batches_of(stream_of(range(2)), processor, rank=2, world_size=3, batch_size=3)
