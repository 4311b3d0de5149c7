# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Answers of a searcher: which hits, in which order, with what, and none where nothing fits."""

import datetime
import decimal
import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from clip_hf.embedding import load_dual_encoder
from clip_hf.search import EmbeddingIndex, NoMatch, QueryTerm, Searcher, encode_query, parse_filter
from encoding_inputs import image
from tiny_models import make_tiny_model


COUNT = 12
TERMS = [QueryTerm(1.0, text="a small red dog")]


@pytest.fixture(scope="module")
def encoder(tiny_processor):
    return load_dual_encoder(make_tiny_model("vit"), processor=tiny_processor)


@pytest.fixture(scope="module")
def searcher(encoder, tmp_path_factory) -> Searcher:
    """Over the images 0 to 11, whose ids are letters."""
    metadata = pa.table(
        {
            "path": pa.array([f"{number}.png".encode() + b"\xff" for number in range(COUNT)]),
            "width": list(range(COUNT)),
        }
    )
    index = EmbeddingIndex.build(
        tmp_path_factory.mktemp("search") / "index",
        encoder.encode_images([image(number) for number in range(COUNT)]).numpy(),
        list("abcdefghijkl"),
        metadata,
        dtype="float32",
    )
    return Searcher(encoder, SimpleNamespace(index=index, picture=lambda id_: f"picture of {id_}"))


def cosines(searcher: Searcher) -> np.ndarray:
    vectors = searcher.index.vectors(searcher.index.ids())
    return vectors.astype(np.float64) @ encode_query(searcher.encoder, TERMS).astype(np.float64)


def test_hits_are_the_best_rows_with_all_that_belongs_to_them(searcher):
    expected, results = cosines(searcher), searcher.search(TERMS, 5)
    order = np.argsort(-expected)[:5]
    assert [hit.id for hit in results.hits] == ["abcdefghijkl"[place] for place in order]
    np.testing.assert_allclose([hit.score for hit in results.hits], expected[order], atol=1e-6)
    assert [hit.rank for hit in results.hits] == [1, 2, 3, 4, 5]
    assert [hit.metadata for hit in results.hits] == [
        {"path": f"{place}.png\\udcff", "width": place} for place in order
    ]
    assert [hit.picture for hit in results.hits] == [f"picture of {hit.id}" for hit in results.hits]
    assert results.best_score == results.hits[0].score
    assert results.lowest_score is None
    assert set(results.seconds) == {"encode", "search"}


def test_an_image_finds_itself(searcher):
    hit = searcher.search([QueryTerm(1.0, image=image(3))], 1).hits[0]
    assert (hit.id, pytest.approx(1, abs=1e-5)) == ("d", hit.score)


def test_a_threshold_is_the_lowest_score(searcher):
    third = np.sort(cosines(searcher))[-3]
    results = searcher.search(TERMS, threshold=third - 1e-7)
    assert len(results.hits) == 3
    assert not searcher.search(TERMS, threshold=results.best_score + 1e-7).hits


def test_only_rows_that_pass_the_filter(searcher):
    where = parse_filter("width>=9", searcher.index.filter_columns)
    assert sorted(hit.id for hit in searcher.search(TERMS, where=where).hits) == ["j", "k", "l"]


def test_no_row_passes_the_filter(searcher):
    results = searcher.search(TERMS, where=parse_filter("width>99", searcher.index.filter_columns))
    assert (results.hits, results.best_score) == ([], None)


def test_no_match_leaves_out_what_is_not_above_the_lowest_score(searcher, monkeypatch):
    scores = np.sort(cosines(searcher))[::-1]
    for count, lowest in ((2, (scores[1] + scores[2]) / 2), (0, scores[0] + 1e-6)):
        monkeypatch.setattr(NoMatch, "lowest_score", lambda self, terms, share, where, lowest=lowest: lowest)
        results = searcher.search(TERMS, no_match=0.05)
        assert (len(results.hits), results.lowest_score) == (count, lowest)
        assert results.best_score == pytest.approx(scores[0], abs=1e-6)


def test_no_match_is_asked_for_this_query_share_and_filter(searcher):
    where = parse_filter("width<6", searcher.index.filter_columns)
    results = searcher.search(TERMS, no_match=0.3, where=where)
    expected = NoMatch(searcher.encoder, searcher.index).lowest_score(TERMS, 0.3, where)
    assert results.lowest_score == expected
    assert all(hit.score > expected for hit in results.hits)
    assert set(results.seconds) == {"encode", "no match", "search"}


@pytest.mark.parametrize(
    ("limits", "message"), [({"threshold": 1.5}, "a cosine"), ({"no_match": 0}, "less than 1"), ({"k": 0}, "`k` is 0")]
)
def test_wrong_limits(limits, message, searcher):
    with pytest.raises(ValueError, match=message):
        searcher.search(TERMS, **limits)


def test_another_finder_takes_the_place_of_the_index(searcher):
    asked = []

    def find(vector, k, where):
        asked.append((vector.shape, k, where))
        return np.array([0.5]), np.array(["c"], dtype=object)

    other = Searcher(searcher.encoder, searcher.source, find=find)
    assert [(hit.id, hit.score, hit.metadata["width"]) for hit in other.search(TERMS, 7).hits] == [("c", 0.5, 2)]
    assert asked == [((16,), 7, None)]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), None),
        ([float("inf"), 0.5], [None, 0.5]),
        (datetime.datetime(2026, 1, 2, 3), "2026-01-02T03:00:00"),
        ([datetime.date(2026, 1, 2)], ["2026-01-02"]),
        ({"a": datetime.time(1, 2), "b": [b"x\xff"]}, {"a": "01:02:00", "b": ["x\\udcff"]}),
        (decimal.Decimal("1.50"), "1.50"),
        (True, True),
    ],
)
def test_metadata_is_what_json_has(value, shown, encoder, tmp_path):
    rows, table = np.eye(1, 16, dtype=np.float32), pa.table({"c": pa.array([value])})
    index = EmbeddingIndex.build(tmp_path / "index", rows, metadata=table)
    searcher = Searcher(encoder, SimpleNamespace(index=index, picture=lambda id_: None))
    metadata = searcher.search(TERMS).hits[0].metadata
    assert metadata == {"c": shown}
    json.dumps(metadata, allow_nan=False)


def test_rows_without_metadata(encoder, tmp_path):
    index = EmbeddingIndex.build(tmp_path / "index", np.eye(3, 16, dtype=np.float32))
    searcher = Searcher(encoder, SimpleNamespace(index=index, picture=lambda id_: None))
    hits = searcher.search(TERMS).hits
    assert sorted(hit.id for hit in hits) == [0, 1, 2]
    assert all((hit.metadata, hit.picture) == ({}, None) for hit in hits)
