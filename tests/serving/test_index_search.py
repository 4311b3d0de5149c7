# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Searches of the engine, and the thumbnails of what they find."""

import asyncio
import io
import threading

import numpy as np
import pytest
from engine_runs import photos, refused, run
from PIL import Image

from clip_hf.embedding import load_dual_encoder
from clip_hf.search import (
    EmbeddingIndex,
    Searcher,
    SourceIndex,
    load_background_texts,
    open_source_index,
    parse_filter,
    parse_query,
)
from clip_hf.search.index_segments import MANIFEST
from clip_hf.serving import inference_engine
from clip_hf.serving.index_search import RowItem, SearchOptions
from clip_hf.serving.label_options import ClassifyOptions
from clip_hf.serving.request_errors import RequestError
from clip_hf.serving.request_inputs import ImageItem, TextItem
from encoding_inputs import image, quiet
from films import numbered_frames, read_number, write_film
from tiny_models import make_tiny_model


LABELS = ["a cat", "a dog", "the beach"]


# ------------------------------------------------------------------------------------------------------------ search


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    """A folder of pictures and its index."""
    folder = tmp_path_factory.mktemp("engine") / "photos"
    folder.mkdir()
    for number in range(8):
        image(number).save(folder / f"{number}.png")
    open_source_index(folder, shared, encoding=quiet())
    return folder


def open_index(encoder, folder):
    return open_source_index(folder, encoder, encoding=quiet())


def test_hits_are_the_searchers(shared, folder):
    source = open_index(shared, folder)
    searcher = Searcher(shared, source)
    where = parse_filter("width>=65", source.index.filter_columns)
    for tokens, options, same in (
        (["a cat"], {}, {}),
        (["a cat", "+", "0.5*the beach", "-", str(folder / "3.png")], {"top_k": 3}, {"k": 3}),
        (["a cat"], {"filters": ["width>=65"]}, {"where": where}),
        (["a cat"], {"threshold": 0.1}, {"threshold": 0.1}),
        (["a cat"], {"no_match": 0.3}, {"no_match": 0.3}),
    ):
        terms = parse_query(tokens)
        items = [
            (term.weight, TextItem(term.text, "") if term.text else ImageItem(term.image.read_bytes(), ""))
            for term in terms
        ]
        found = run(shared, lambda e, i=items, o=options: e.search(i, SearchOptions(**o)), source=source)
        expected = searcher.search(terms, **same)
        assert [hit.id for hit in found.hits] == [hit.id for hit in expected.hits]
        np.testing.assert_allclose(*([hit.score for hit in each.hits] for each in (found, expected)), atol=1e-6)
        assert [hit.metadata for hit in found.hits] == [hit.metadata for hit in expected.hits]
        assert found.best_score == pytest.approx(expected.best_score, abs=1e-6)
        assert found.lowest_score == pytest.approx(expected.lowest_score, abs=1e-6)


def test_the_model_runs_in_its_own_thread_only(tiny_processor, folder, monkeypatch):
    encoder = load_dual_encoder(make_tiny_model("vit", seed=1), processor=tiny_processor)
    ran_in = []
    forward = type(encoder)._text_batches
    monkeypatch.setattr(
        type(encoder),
        "_text_batches",
        lambda self, texts: ran_in.append((threading.current_thread().name, len(texts))) or forward(self, texts),
    )
    computed_in = set()
    for name in ("score_labels", "ensemble_prompts"):
        compute = getattr(inference_engine, name)
        note = lambda *args, _compute=compute: (computed_in.add(threading.current_thread().name), _compute(*args))[1]  # noqa: E731
        monkeypatch.setattr(inference_engine, name, note)
    source = open_source_index(folder, encoder, index_folder=folder.parent / "other", encoding=quiet())

    async def use(engine):
        query = [(1.0, TextItem("a cat", "query"))]
        await asyncio.gather(*(engine.search(query, SearchOptions(no_match=0.1)) for _ in range(2)))
        await engine.classify(photos(0), ClassifyOptions(LABELS))

    run(encoder, use, source=source)
    assert {name for name, _ in ran_in} == computed_in == {"model"}
    # Those that `no_match` compares with are encoded once, in batches as all others.
    assert 2 * len(load_background_texts()) <= sum(count for _, count in ran_in) < 3 * len(load_background_texts())
    assert max(count for _, count in ran_in) <= 256


def test_a_row_finds_itself_and_its_like(shared, folder):
    source = open_index(shared, folder)
    id_ = source.index.ids().tolist()[2]
    for given in (id_, str(id_)):
        query = [(1.0, RowItem(given, "query"))]
        found = run(shared, lambda engine, q=query: engine.search(q, SearchOptions()), source=source)
        assert found.hits[0].id == id_
        assert found.hits[0].score == pytest.approx(1, abs=1e-6)
        assert len(found.hits) == 8


def test_an_id_is_taken_as_it_is_written(shared, tmp_path):
    features = shared.encode_images([image(number) for number in range(3)]).numpy()
    source = SourceIndex(EmbeddingIndex.build(tmp_path / "index", features))  # whose ids are numbers
    for given, is_there in ((1, True), ("1", True), (1.5, False), (" 1", False), ("01", False), (True, False)):
        query = [(1.0, RowItem(given, "query"))]
        use = lambda engine, q=query: engine.search(q, SearchOptions(top_k=1))  # noqa: E731
        if is_there:
            assert run(shared, use, source=source).hits[0].id == 1
        else:
            assert refused(shared, use, source=source).code == "no_such_row"


@pytest.mark.parametrize(
    ("terms", "options", "status", "param", "message"),
    [
        ([(1.0, RowItem(99, "query.id"))], {}, 404, "query.id", "The index has no row '99'"),
        ([(1.0, RowItem("x", "query.id"))], {}, 404, "query.id", "no row 'x'"),
        ([(1.0, RowItem(1.5, "query.id"))], {}, 404, "query.id", "no row '1.5'"),
        ([(1.0, RowItem(10**30, "query.id"))], {}, 404, "query.id", "no row"),
        ([(-1.0, TextItem("a cat", "query"))], {}, 400, None, "only terms with a minus"),
        ([(0.0, TextItem("a cat", "query"))], {}, 400, "query", "finite number other than 0"),
        ([(1.0, TextItem(" ", "query"))], {}, 400, "query", "blank"),
        ([], {}, 400, None, "no terms"),
        ([(1.0, TextItem("a cat", "query"))], {"filters": ["colour=red"]}, 400, "filters", "which is not there"),
        ([(1.0, TextItem("a cat", "query"))], {"filters": ["width>=x"]}, 400, "filters", "no value of 'width'"),
        ([(1.0, TextItem("a cat", "query"))], {"threshold": 3}, 400, "threshold", "must be a cosine"),
        ([(1.0, TextItem("a cat", "query"))], {"no_match": 1}, 400, "no_match", "more than 0 and less than 1"),
        ([(1.0, TextItem("a cat", "query"))], {"top_k": 0}, 400, None, "at least 1"),
        ([(1.0, TextItem("a cat " * 50, "query"))], {}, 400, "query", "tokens"),
    ],
)
def test_bad_searches(terms, options, status, param, message, shared, folder):
    source = open_index(shared, folder)
    error = refused(shared, lambda engine: engine.search(terms, SearchOptions(**options)), source=source)
    assert (error.status, error.param) == (status, param)
    with pytest.raises(RequestError, match=message):
        raise error


def test_without_an_index_there_is_no_search(shared):
    for use in (
        lambda engine: engine.search([(1.0, TextItem("a cat", ""))], SearchOptions()),
        lambda engine: engine.thumbnail(1, 64),
    ):
        error = refused(shared, use)
        assert (error.status, error.code) == (404, "no_index")


def test_a_change_of_the_index_is_seen_by_the_next_search(shared, folder, tmp_path, caplog):
    index = EmbeddingIndex.build(
        tmp_path / "index",
        shared.encode_images([image(n) for n in range(3)]).numpy(),
        description=open_index(shared, folder).index.description,
    )
    source = open_index(shared, index.folder)

    async def use(engine):
        query = [(1.0, TextItem("a cat", ""))]
        before = await engine.search(query, SearchOptions())
        EmbeddingIndex.open(index.folder).add(shared.encode_images([image(5)]).numpy())  # as another process does
        after = await engine.search(query, SearchOptions())
        other = {**index.description, "over": "texts"}
        EmbeddingIndex.open(index.folder).change(remove=[0], description=other)
        kept = await engine.search(query, SearchOptions())  # it is no index of images any more
        (index.folder / MANIFEST).write_text("{")
        found = [before, after, kept, *[await engine.search(query, SearchOptions()) for _ in range(2)]]
        return [len(each.hits) for each in found], len(engine.source.index)

    assert run(shared, use, source=source) == ([3, 4, 4, 4, 4], 4)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]  # each state once


# ---------------------------------------------------------------------------------------------------------- thumbnails


def test_a_thumbnail_is_a_small_jpeg_of_the_rows_picture(shared, folder):
    source = open_index(shared, folder)
    id_ = source.index.ids().tolist()[3]
    width, height = image(int(source.picture(id_).stem)).size
    data = run(shared, lambda engine: engine.thumbnail(str(id_), 32), source=source)
    small = Image.open(io.BytesIO(data))
    assert small.format == "JPEG" and max(small.size) == 32 and min(small.size) == 32 * height // width
    assert refused(shared, lambda engine: engine.thumbnail(99, 32), source=source).code == "no_such_row"


def test_the_thumbnail_of_a_film_is_its_middle_frame(shared, folder, tmp_path):
    film = write_film(tmp_path / "film.mp4", numbered_frames(9))
    source = open_index(shared, folder)
    object.__setattr__(source, "picture", lambda id_, follow_links: film)
    id_ = source.index.ids().tolist()[0]
    data = run(shared, lambda engine: engine.thumbnail(str(id_), 64), source=source)
    assert read_number(Image.open(io.BytesIO(data))) == 4


def test_pictures_that_are_gone_or_damaged_are_404(shared, tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(2):
        image(number).save(tmp_path / "photos" / f"{number}.png")
    source = open_index(shared, tmp_path / "photos")
    gone, damaged = source.index.ids().tolist()
    source.picture(gone).unlink()
    source.picture(damaged).write_bytes(b"nothing")
    for id_ in (gone, damaged):
        error = refused(shared, lambda engine, i=id_: engine.thumbnail(i, 32), source=source)
        assert (error.status, error.code) == (404, "no_picture")
        assert str(tmp_path) not in error.message


def test_pictures_that_lie_elsewhere_than_in_the_folder_are_404(shared, tmp_path):
    inside, outside = tmp_path / "photos", tmp_path / "elsewhere"
    for folder in (inside, outside, inside / "sub"):
        folder.mkdir()
    for number, path in enumerate([inside / "a.png", inside / "b.png", inside / "sub/c.png", outside / "d.png"]):
        image(number).save(path)
    (inside / "link.png").symlink_to(inside / "sub/c.png")
    (inside / "out.png").symlink_to(outside / "d.png")
    source = open_index(shared, inside)
    (inside / "b.png").unlink()
    (inside / "b.png").symlink_to(outside / "d.png")  # since it was indexed
    assert source.picture("out.png") == inside / "out.png"  # for those who search on this machine
    for name in ("a.png", "sub/c.png", "link.png"):
        assert run(shared, lambda engine, id_=name: engine.thumbnail(id_, 32), source=source)
    for name in ("b.png", "out.png"):
        error = refused(shared, lambda engine, id_=name: engine.thumbnail(id_, 32), source=source)
        assert (error.status, error.code) == (404, "no_picture")
