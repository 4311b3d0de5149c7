# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Moments in an index: exactly those of scoring and merging all rows, and what a searcher makes of them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from known_encoder import KnownEncoder

from clip_hf.model.video_opening_clip_hf import UnreadableVideo
from clip_hf.search import (
    EmbeddingIndex,
    FilmFrame,
    Moment,
    MomentSearcher,
    QueryTerm,
    SourceIndex,
    find_moments,
    merge_moments,
)
from clip_hf.search.film_index import FILM_SCHEMA
from drawings import draw
from films import write_film


DIM = 8


def build(folder, rng, films: int, rows: int, levels: int | None = None) -> EmbeddingIndex:
    """Films of random frames; with `levels`, of so few different ones that scores are equal."""
    table, vectors, ids = [], [], []
    for film in range(films):
        count = int(rng.integers(1, rows))
        ends = np.cumsum(rng.uniform(0.5, 3.0, count))
        walk = rng.normal(size=DIM) + np.cumsum(rng.normal(0, 0.4, (count, DIM)), axis=0)
        if levels:
            walk = np.eye(DIM)[rng.integers(0, levels, count)]
        for row, (end, vector) in enumerate(zip(ends, walk, strict=True)):
            start = 0.0 if row == 0 else float(ends[row - 1])
            name = f"film{film}.mp4"
            described = dict.fromkeys(FILM_SCHEMA.names) | {"start": start, "end": float(end), "time": start}
            table.append(described | {"name": name, "path": name.encode(), "is_last": row == count - 1})
            vectors.append(vector)
            ids.append(f"{name}#{row}")
    order = rng.permutation(len(ids))  # rows need not be in order
    return EmbeddingIndex.build(
        folder,
        np.array(vectors, np.float32)[order],
        [ids[place] for place in order],
        pa.Table.from_pylist([table[place] for place in order], FILM_SCHEMA),
        description={"over": "moments"},
    )


def plainly(index: EmbeddingIndex, query: np.ndarray, k: int, where=None) -> list[tuple]:
    """All rows scored, each film merged, and then the best of all."""
    scores, ids = index.search(query, len(index), where=where)
    score_of = dict(zip(ids.tolist(), scores.tolist(), strict=True))
    places = {id_: place for place, id_ in enumerate(index.ids().tolist())}
    rows = dict(zip(index.ids().tolist(), index.metadata().to_pylist(), strict=True))
    found = []
    for name in sorted({rows[id_]["name"] for id_ in score_of}):
        mine = sorted((id_ for id_ in score_of if rows[id_]["name"] == name), key=lambda id_: rows[id_]["start"])
        columns = ([rows[id_][column] for id_ in mine] for column in ("start", "end"))
        times = [rows[id_]["time"] for id_ in mine]
        for start, end, peak, score in merge_moments(*columns, [score_of[id_] for id_ in mine], times=times):
            found.append((-score, places[mine[times.index(peak)]], name, start, end, peak))
    return [(name, start, end, peak, -score) for score, _, name, start, end, peak in sorted(found)[:k]]


def found_by(index: EmbeddingIndex, query: np.ndarray, k: int, where=None) -> list[tuple]:
    moments = find_moments(index, query, k, where=where)
    return [(each.id.partition("#")[0], each.start, each.end, each.peak, each.score) for each in moments]


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize(("films", "rows"), [(1, 80), (30, 12), (4, 60)])
def test_moments_are_those_of_all_rows_whatever_k(tmp_path, rng, films, rows, levels):
    index = build(tmp_path / "index", rng, films, rows, levels)
    for _ in range(4):
        query = rng.normal(size=DIM).astype(np.float32)
        for k in (1, 3, 10, 1000):
            assert found_by(index, query, k) == plainly(index, query, k)
        where = (pc.field("start") >= 2.0) & (pc.field("name") != "film0.mp4")
        assert found_by(index, query, 5, where) == plainly(index, query, 5, where)


def test_one_moment_that_holds_all_the_best_rows_hides_no_other(tmp_path, rng):
    """400 rows of the best score are one moment; the second one is found behind them."""
    vectors = np.zeros((402, DIM), np.float32)
    vectors[:400, 0], vectors[400, 1], vectors[401, :2] = 1, 1, (0.5, 1)
    names = ["a.mp4"] * 401 + ["b.mp4"]
    rows = [
        dict.fromkeys(FILM_SCHEMA.names) | {"name": name, "start": float(n), "end": n + 1.0, "time": float(n)}
        for n, name in enumerate(names)
    ]
    ids = [f"{name}#{n}" for n, name in enumerate(names)]
    index = EmbeddingIndex.build(tmp_path / "i", vectors, ids, pa.Table.from_pylist(rows, FILM_SCHEMA))
    moments = find_moments(index, np.eye(DIM, dtype=np.float32)[0], 2)
    assert [(each.id, each.start, each.end) for each in moments] == [("a.mp4#0", 0, 400), ("b.mp4#401", 401, 402)]


def test_no_rows_are_no_moments_and_other_indexes_are_refused(tmp_path, rng):
    index = build(tmp_path / "index", rng, 2, 5)
    assert find_moments(index, np.ones(DIM, np.float32), where=pc.field("start") > 1e9) == []
    other = EmbeddingIndex.build(tmp_path / "other", rng.normal(size=(3, DIM)).astype(np.float32))
    with pytest.raises(ValueError, match="no index of films: it has no column name, start, end, time"):
        find_moments(other, np.ones(DIM, np.float32))


def test_the_searcher_counts_moments_and_keeps_the_limits(tmp_path, rng):
    index = build(tmp_path / "index", rng, 6, 30)
    encoder = KnownEncoder({"a bicycle": np.eye(DIM)[0], "a photo of a cat": np.eye(DIM)[1]}, 100.0)
    searcher = MomentSearcher(encoder, SourceIndex(index, folder=tmp_path))
    results = searcher.search([QueryTerm(1.0, text="a bicycle")], 4)
    query = np.eye(DIM, dtype=np.float32)[0]
    expected = plainly(index, query, 4)
    assert [(hit.file, hit.start, hit.end, hit.peak, hit.score) for hit in results.hits] == expected
    assert [hit.rank for hit in results.hits] == [1, 2, 3, 4] and results.best_score == expected[0][4]
    assert all(isinstance(hit, Moment) and hit.metadata["name"] == hit.file for hit in results.hits)
    assert all(hit.picture is None for hit in results.hits)  # there are no such films
    above = searcher.search([QueryTerm(1.0, text="a bicycle")], 4, threshold=expected[1][4])
    assert len(above.hits) == 2 and above.best_score == expected[0][4]


def test_a_frame_of_a_film_is_the_one_at_its_time(tmp_path):
    pictures = [draw("red", "square"), draw("green", "bar"), draw("blue", "cross")]
    film = write_film(tmp_path / "a.mp4", [np.asarray(each.resize((64, 64))) for each in pictures], rate=1)
    colour = np.asarray(FilmFrame(film, 1.0).image().resize((1, 1)), float)[0, 0]
    assert colour.argmax() == 1  # mostly white, with green
    write_film(film, [np.asarray(pictures[0].resize((64, 64)))], rate=1)
    with pytest.raises(UnreadableVideo, match="no frame at 2 s any more"):
        FilmFrame(film, 2.0).read()
    film.unlink()
    with pytest.raises(UnreadableVideo):
        FilmFrame(film, 0.0).image()
