# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Features of streams: in order, in bounded memory, with what cannot be read left out, shared by processes."""

import itertools
import threading
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch

from clip_hf.embedding import encode_image_stream, encode_text_stream
from encoding_inputs import image, make_data, png, quiet
from tiny_models import CAPTIONS


def joined(batches) -> tuple[list[int], np.ndarray]:
    """The places and the features of all batches."""
    batches = list(batches)
    return (
        [int(place) for batch in batches for place in batch.places],
        np.concatenate([batch.features for batch in batches]),
    )


def process(index: int, processes: int):
    return SimpleNamespace(process_index=index, num_processes=processes)


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize(("batch_size", "num_threads"), [(1, 1), (7, 3), (64, 2)])
def test_a_stream_gives_the_features_of_its_items_in_order(encoder, batch_size, num_threads, projected, tmp_path):
    """Paths, images and bytes, from a generator without a length."""
    image(0).save(tmp_path / "0.png")
    items = [str(tmp_path / "0.png"), *(image(index) if index % 2 else png(index) for index in range(1, 20))]
    options = quiet(batch_size=batch_size, num_threads=num_threads)
    batches = list(encode_image_stream(encoder, iter(items), projected=projected, options=options))
    assert encoder.counted == [len(items[start : start + batch_size]) for start in range(0, 20, batch_size)]
    places, features = joined(batches)
    assert places == list(range(20)) and features.dtype == np.float32
    assert [item for batch in batches for item in batch.items] == items
    expected = encoder.encode_images(items, projected=projected).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert np.abs(expected[:-1] - expected[1:]).max(axis=1).min() > 1e-3, "neighbours that are alike show no order"


def test_memory_is_bounded_and_nothing_is_read_after_the_caller_stops(encoder):
    read = []

    def endless() -> Iterator[bytes]:
        for index in itertools.count():
            read.append(index)
            yield png(index % 5)

    stream = encode_image_stream(encoder, endless(), options=quiet(batch_size=4, num_threads=2))
    assert read == []  # nothing before the first batch is asked for
    for number in range(1, 4):
        next(stream)
        assert len(read) <= 4 * (number + 2)  # the batches that were given, and two ahead
    stream.close()
    assert len(read) <= 4 * 5
    for thread in threading.enumerate():
        if thread.name.startswith("images"):
            thread.join(timeout=60)
            assert not thread.is_alive()


@pytest.mark.parametrize("num_threads", [1, 5])
@pytest.mark.parametrize("process_index", [None, 0, 1])
def test_an_error_of_the_stream_comes_after_the_items_before_it(encoder, num_threads, process_index):
    def items() -> Iterator[bytes]:
        yield from (png(index) for index in range(14))
        raise KeyError("mine")

    accelerator = None if process_index is None else process(process_index, 2)
    options = quiet(batch_size=4, num_threads=num_threads, accelerator=accelerator)
    expected = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13]]
    expected = expected if process_index is None else expected[process_index::2]
    found = []
    with pytest.raises(KeyError, match="mine"):
        for batch in encode_image_stream(encoder, items(), options=options):
            found.append(batch.places.tolist())
            np.testing.assert_allclose(
                batch.features, encoder.encode_images([png(place) for place in batch.places]).numpy(), atol=1e-5
            )
    assert found == expected


def test_an_error_of_a_stream_of_texts_comes_after_the_texts_before_it(encoder):
    def texts() -> Iterator[str]:
        yield from CAPTIONS[:3]
        raise KeyError("mine")

    stream = encode_text_stream(encoder, texts(), options=quiet())
    assert next(stream).items == CAPTIONS[:3]
    with pytest.raises(KeyError, match="mine"):
        next(stream)


def test_items_of_any_kind(encoder):
    """Frames with their seconds, rows by a column's name, and a function that runs in the threads."""
    expected = encoder.encode_images([image(index) for index in range(6)]).numpy()
    frames = [(index / 10, image(index)) for index in range(6)]
    batches = list(encode_image_stream(encoder, iter(frames), 1, options=quiet(batch_size=4)))
    assert [item[0] for batch in batches for item in batch.items] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    np.testing.assert_allclose(joined(batches)[1], expected, atol=2e-6)
    threads = set()

    def number_to_image(number: int):
        threads.add(threading.current_thread().name)
        return image(number)

    np.testing.assert_allclose(
        joined(encode_image_stream(encoder, range(6), number_to_image, options=quiet()))[1], expected, atol=2e-6
    )
    assert all(name.startswith("images") for name in threads)
    for data in (make_data(6), make_data(6).to_iterable_dataset()):
        batches = list(encode_image_stream(encoder, data, "image", options=quiet()))
        np.testing.assert_allclose(joined(batches)[1], expected, atol=2e-6)
        assert batches[0].items[3]["label"] == 0 and batches[0].items[3]["image"]["bytes"] == png(3)


def test_what_cannot_be_read_is_left_out_and_named(encoder):
    """Rows of a dataset too, which `datasets` would end with at the first broken image."""
    broken = {0: b"x", 1: b"", 2: b"x", 3: b"x", 9: png(9)[:200]}
    kept = [place for place in range(40) if place not in broken]
    expected = encoder.encode_images([image(place) for place in kept]).numpy()
    options = quiet(batch_size=4, max_skipped_share=0.2)
    for items, get_image in (
        ([broken.get(place, png(place)) for place in range(40)], None),
        (make_data(40, broken), "image"),
    ):
        with pytest.warns(UserWarning, match=r"Images of cats that cannot be read: 5 of 40 rows .* row 0 cannot be"):
            batches = list(encode_image_stream(encoder, items, get_image, options=options, name="cats"))
        places, features = joined(batches)
        assert places == kept
        np.testing.assert_allclose(features, expected, atol=2e-6)
        # The first batch has no image at all: what was skipped comes with the next one.
        assert [[row.where for row in batch.skipped] for batch in batches[:3]] == [
            ["row 0", "row 1", "row 2", "row 3"],
            ["row 9"],
            [],
        ]


def broken_at(*places: int, rows: int) -> list[bytes]:
    return [b"x" if place in places else png(place % 5) for place in range(rows)]


@pytest.mark.parametrize("with_length", [True, False])
@pytest.mark.parametrize(
    ("places", "share", "fails"),
    [((3,), 0.05, False), ((3, 5), 0.05, True), ((3,), 0.0, True), ((3, 5), 0.2, False), ((0, 1, 2), 1.0, False)],
)
def test_the_limit_is_that_of_columns(encoder, with_length, places, share, fails):
    items = broken_at(*places, rows=10)
    stream = encode_image_stream(
        encoder, items if with_length else iter(items), options=quiet(batch_size=3, max_skipped_share=share)
    )
    if fails:
        with pytest.raises(ValueError, match=r"more than max_skipped_share=.*row 3 cannot be used"):
            list(stream)
    else:
        with pytest.warns(UserWarning, match=f"{len(places)} of 10 rows"):
            assert len(joined(stream)[0]) == 10 - len(places)


def test_a_stream_of_unknown_length_stops_when_too_many_are_skipped(encoder):
    """After a thousand items, of which the share says something, not at the end; with a length at once."""
    broken = itertools.chain((b"x" for _ in range(60)), itertools.repeat(png(0), 1500))
    options = quiet(batch_size=20, max_skipped_share=0.05)
    with pytest.raises(ValueError, match="60 of 60 rows"):
        list(encode_image_stream(encoder, broken, options=options))
    with pytest.raises(ValueError, match="20 of 20 rows"):
        list(encode_image_stream(encoder, [b"x"] * 60 + [png(0)], options=options))
    with pytest.raises(ValueError, match="No image of frames can be read: The image of row 0"):
        list(encode_image_stream(encoder, [b"x"], options=quiet(max_skipped_share=1.0), name="frames"))
    assert encoder.counted == []


def test_processes_share_a_stream(encoder):
    items = [png(index) for index in range(11)]
    expected = encoder.encode_images(items).numpy()
    places, features = [], {}
    for rank in range(3):
        options = quiet(batch_size=2, accelerator=process(rank, 3))
        for batch in encode_image_stream(encoder, iter(items), options=options):
            places.append(batch.places.tolist())
            features.update(zip(batch.places.tolist(), batch.features))
    assert places == [[0, 1], [6, 7], [2, 3], [8, 9], [4, 5], [10]]
    np.testing.assert_allclose(np.stack([features[place] for place in range(11)]), expected, atol=2e-6)


def test_an_error_that_is_no_unreadable_image_ends_the_stream(encoder, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        list(encode_image_stream(encoder, range(4), lambda number: 1 / 0, options=quiet()))
    with pytest.raises(KeyError, match="picture"):
        list(encode_image_stream(encoder, [{"image": png(0)}], "picture", options=quiet()))
    with torch.no_grad():
        encoder.model.visual_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="image of row 0 hold NaN"):
        list(encode_image_stream(encoder, [png(0)], options=quiet()))


def test_texts_of_a_stream(encoder, monkeypatch):
    monkeypatch.setattr("clip_hf.embedding.feature_stream._TEXTS_PER_READ", 4)
    texts = [f"{caption} {number}" for number in range(3) for caption in CAPTIONS[:3]]
    expected = encoder.encode_texts(texts).numpy()
    for items, get_text in ((iter(texts), None), ([{"text": text} for text in texts], "text")):
        batches = list(encode_text_stream(encoder, items, get_text, options=quiet()))
        assert [len(batch.items) for batch in batches] == [4, 4, 1]
        places, features = joined(batches)
        assert places == list(range(9))
        np.testing.assert_allclose(features, expected, atol=2e-6)
    second = list(encode_text_stream(encoder, texts, options=quiet(accelerator=process(1, 2))))
    assert [batch.places.tolist() for batch in second] == [[4, 5, 6, 7]]
    with pytest.raises(TypeError, match="Text 5 is 3, of type int"):
        list(encode_text_stream(encoder, [*texts[:5], 3], options=quiet()))


def test_arguments_that_make_no_stream(encoder, tmp_path):
    for images, kind in ((str(tmp_path), "str"), (b"bytes", "bytes"), (image(0), "Image")):
        with pytest.raises(TypeError, match=f"`images` must be an iterable of images; given .*{kind}"):
            encode_image_stream(encoder, images)
    with pytest.raises(TypeError, match="`texts` must be an iterable of texts; given 'a cat', a str"):
        encode_text_stream(encoder, "a cat")
    with pytest.raises(ValueError, match="A stream has no cache, but `cache_dir` is"):
        encode_image_stream(encoder, [image(0)], options=quiet(cache_dir=tmp_path))
    with pytest.raises(TypeError, match='name the column of images, as in `get_image="image"`'):
        encode_image_stream(encoder, make_data(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(encode_image_stream(encoder, [], options=quiet())) == []
        assert list(encode_text_stream(encoder, [], options=quiet())) == []


def test_streamed_datasets_are_not_decoded_before_the_threads(encoder, monkeypatch):
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *_, **__: pytest.fail("decoded by `datasets`"))
    assert len(joined(encode_image_stream(encoder, make_data(3), "image", options=quiet()))[0]) == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_no_column_of_a_dataset_is_decoded(encoder, streaming, tmp_path, monkeypatch):
    """A file declares its column types: a second column of images could make `datasets` open any path."""
    rows = [
        {"image": png(index), "other": {"path": str(tmp_path / "secret.png"), "bytes": None}} for index in range(3)
    ]
    features = datasets.Features({"image": datasets.Image(), "other": datasets.Image()})
    data = datasets.Dataset.from_list(rows, features=features)
    data = data.to_iterable_dataset() if streaming else data
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *args, **kwargs: pytest.fail("decoded"))
    (batch,) = encode_image_stream(encoder, data, "image", options=quiet())
    assert len(batch.features) == 3 and not batch.skipped
