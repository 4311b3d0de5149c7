# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Batches of a training: their order, exact resume, any number of processes and workers, and bad arguments."""

import multiprocessing
import os
import pickle
import signal

import datasets
import numpy as np
import pytest
import torch

from clip_hf import ClipHFImageProcessor, ClipHFProcessor
from clip_hf.data import Augmentation, MixedStream, PairLoader, PairOptions, iter_texts, load_pairs
from clip_hf.data.sampling import StepOrder
from pair_data import bad_rows, caption_of, dataset_of, flat, rows_of, write_parquet


NUM_ROWS = 22
EVERYTHING = PairOptions(
    seed=3,
    templates=("{}", "a {}", "{}, drawn"),
    augmentation=Augmentation(color_jitter=(0.4, 0.4, 0.4, 0.1), blur=0.5, horizontal_flip=0.5),
    token_dropout=0.2,
    max_skipped_share=0.2,
    shuffle_buffer=6,
)


@pytest.fixture(scope="module")
def processor(tiny_tokenizer) -> ClipHFProcessor:
    return ClipHFProcessor(ClipHFImageProcessor(size=10, crop_size=8), tiny_tokenizer)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> str:
    """Four files with 22 rows that are good and 2 that are not."""
    rows = rows_of(range(NUM_ROWS))
    for place, kind in ((5, "file truncated"), (15, "caption missing")):
        rows.insert(place, bad_rows()[kind])
    return write_parquet(tmp_path_factory.mktemp("parquet") / "rows", rows, 4)


def loader_of(data, processor, options=EVERYTHING, **arguments) -> PairLoader:
    return PairLoader(data, processor, options, **{"batch_size": 4, "num_steps": 14, **arguments})


def assert_equal(batches: list[dict], expected: list[dict]) -> None:
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected):
        assert batch.keys() == other.keys()
        for name, value in batch.items():
            assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]


@pytest.mark.slow_but_for("False-1-0", "False-2-0", "True-1-0", "True-2-2")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("streaming", [False, True])
def test_resume_gives_the_same_batches(streaming, world_size, num_workers, parquet, processor):
    data = load_pairs(parquet, streaming=streaming)
    where = {"rank": world_size - 1, "world_size": world_size, "num_workers": num_workers}
    batches, states = [], []
    loader = loader_of(data, processor, **where)
    for batch in loader:
        batches.append(batch)
        states.append(pickle.dumps(loader.state_dict()))
    assert len(batches) == 14
    assert any(batch["skipped"] for batch in batches)
    for stop in (1, 7) if num_workers else (1, 4, 7, 10, 14):
        resumed = loader_of(data, processor, **where)
        resumed.load_state_dict(pickle.loads(states[stop - 1]))
        assert_equal(list(resumed), batches[stop:])


def test_stopping_half_way_and_going_on_with_the_same_loader(parquet, processor):
    for streaming in (False, True):
        data = load_pairs(parquet, streaming=streaming)
        loader, batches = loader_of(data, processor), []
        for batch in loader:
            batches.append(batch)
            if len(batches) == 5:
                break
        assert len(loader) == 9
        assert_equal([*batches, *loader], list(loader_of(data, processor)))


@pytest.mark.parametrize("options", [EVERYTHING, PairOptions(bucket_batches=3, max_skipped_share=0.2)])
def test_the_pairs_of_a_step_do_not_depend_on_processes_or_workers(options, parquet, processor):
    data = load_pairs(parquet)
    alone = list(loader_of(data, processor, options))
    state = loader_of(data, processor, options).state_dict() | {"step": 5}
    for world_size, num_workers in ((2, 0), (4, 0), (2, 2)):
        shares = []
        for rank in range(world_size):
            loader = loader_of(data, processor, options, rank=rank, world_size=world_size, num_workers=num_workers)
            loader.load_state_dict(state)  # of one process
            shares.append(list(loader))
        for step, parts in enumerate(zip(*shares), 5):
            for name in ("pixel_values", "text_ids"):
                assert torch.equal(torch.cat([part[name] for part in parts]), alone[step][name])
            assert flat(part["skipped"] for part in parts) == alone[step]["skipped"]


def test_an_epoch_has_each_row_once_and_the_next_another_order(processor):
    data = dataset_of(rows_of(range(13)))
    loader = loader_of(data, processor, PairOptions(), num_steps=9)
    assert loader.steps_per_epoch == 3
    ids = [batch["text_ids"].tolist() for batch in loader]
    epochs = [flat(ids[start : start + 3]) for start in (0, 3, 6)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len(set(flat(epochs))) == 13  # the row that an epoch leaves out comes in another


def test_the_model_s_random_numbers_do_not_depend_on_the_loader(processor):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    next(iter(loader_of(dataset_of(rows_of(range(8))), processor, PairOptions())))
    assert torch.equal(torch.rand(3), expected)


def test_buckets_hold_texts_of_about_the_same_length():
    lengths = np.random.default_rng(0).integers(0, 1000, 103)
    plain, buckets = (StepOrder(103, 10, 1, count, lengths) for count in (0, 5))
    spread = [np.ptp(lengths[order.epoch_rows(2)], axis=1).mean() for order in (plain, buckets)]
    assert spread[1] < 0.5 * spread[0]
    rows = buckets.epoch_rows(2)
    assert len(set(rows.reshape(-1).tolist())) == 100
    means = lengths[rows[:5]].mean(axis=1)
    assert not np.all(np.diff(means) >= 0)  # the steps are shuffled
    assert not np.all(np.diff(lengths[rows], axis=1) >= 0)  # and so are the pairs of a step
    assert np.array_equal(rows, StepOrder(103, 10, 1, 5, lengths).epoch_rows(2))


def test_ranks_take_equal_slices_of_a_step():
    order = StepOrder(20, 6, 0)
    whole = list(order.batches(range(2, 8)))
    halves = [list(order.batches(range(2, 8), rank, 2)) for rank in range(2)]
    assert [first + second for first, second in zip(*halves)] == whole
    assert [batch[0][0] for batch in whole] == [0, 1, 1, 1, 2, 2]  # epochs


def test_workers_outlive_a_signal_to_all_processes(processor):
    loader = loader_of(dataset_of(rows_of(range(40))), processor, PairOptions(), num_workers=1, num_steps=60)
    batches = iter(loader)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGTERM)
    assert len(list(batches)) == 59
    worker.join(20)
    assert worker.exitcode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 23}, "22 pairs do not fill a step of 23; choose a smaller `batch_size`."),
        ({"batch_size": 5, "world_size": 2}, "`batch_size` is 5, .* must be a multiple of their number, 2"),
        ({"batch_size": 0}, "`batch_size` is 0; it must be at least 1"),
        ({"num_workers": -1}, "`num_workers` is -1"),
        ({"rank": 2, "world_size": 2}, "`rank` is 2; of 2 processes it must be 0 to 1"),
    ],
)
def test_bad_arguments(arguments, message, processor):
    with pytest.raises(ValueError, match=message):
        loader_of(dataset_of(rows_of(range(NUM_ROWS))), processor, **arguments)


@pytest.mark.parametrize(
    ("streaming", "change", "message"),
    [
        (False, {"batch_size": 6}, r"had batch_size 4 \(now 6\); resume it with the same data and options"),
        (False, {"options": PairOptions(seed=4)}, r"had seed 3 \(now 4\)"),
        (False, {"options": PairOptions(seed=3, bucket_batches=2)}, r"had bucket_batches 0 \(now 2\)"),
        (True, {"options": PairOptions(seed=3, bucket_batches=2)}, r"had bucket_batches 0 \(now 2\)"),
        (True, {"options": PairOptions(seed=3, shuffle_buffer=5)}, r"had shuffle_buffer 1000 \(now 5\)"),
        (True, {"world_size": 2}, r"had world_size 1 \(now 2\)"),
        (True, {"num_workers": 2}, r"had num_workers 1 \(now 2\)"),
    ],
)
def test_a_state_of_another_training_is_refused(streaming, change, message, parquet, processor):
    data = load_pairs(parquet, streaming=streaming)
    options = PairOptions(seed=3, max_skipped_share=0.2)
    state = loader_of(data, processor, options, num_workers=1).state_dict()
    loader = loader_of(data, processor, **{"options": change.pop("options", options), "num_workers": 1, **change})
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(state)


def test_a_dictionary_of_splits_is_refused(processor):
    data = datasets.DatasetDict(train=dataset_of(rows_of(range(4))))
    with pytest.raises(ValueError, match="dictionary of splits; choose one of 'train'"):
        loader_of(data, processor)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_data_set_s_format_does_not_matter(streaming, processor):
    data = dataset_of(rows_of(range(8)))
    plain, formatted = (d.to_iterable_dataset() if streaming else d for d in (data, data.with_format("torch")))
    formatted = formatted.with_format("torch")
    options = PairOptions()
    assert_equal(list(loader_of(formatted, processor, options)), list(loader_of(plain, processor, options)))


def test_a_state_of_other_data_is_refused(parquet, processor):
    state = loader_of(dataset_of(rows_of(range(9))), processor, PairOptions()).state_dict()
    with pytest.raises(ValueError, match=r"had rows 9 \(now 8\)"):
        loader_of(dataset_of(rows_of(range(8))), processor, PairOptions()).load_state_dict(state)
    stream = loader_of(load_pairs(parquet, streaming=True), processor, PairOptions())
    with pytest.raises(ValueError, match=r"had kind map-style \(now stream\)"):
        stream.load_state_dict(state)


@pytest.mark.parametrize("kind", ["map-style", "stream", "mixed"])
def test_all_texts_of_a_training(kind):
    rows = rows_of(range(3))
    rows.insert(1, bad_rows()["caption blank"])
    data = dataset_of(rows)
    stream = data.to_iterable_dataset()
    data = {"map-style": data, "stream": stream, "mixed": MixedStream([stream])}[kind]
    options = PairOptions(templates=["{}", "a {}."])
    expected = [text for n in range(3) for text in (caption_of(n), f"a {caption_of(n)}.")]
    assert list(iter_texts(data, options)) == expected
    assert list(iter_texts(data, options, num_rows=2)) == expected[:2]


def test_captions_reach_the_batch(processor):
    data = dataset_of(rows_of([7, 8]))
    (batch,) = loader_of(data, processor, PairOptions(), batch_size=2, num_steps=1)
    texts = {processor.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in batch["input_ids"]}
    assert texts == {caption_of(7), caption_of(8)}
