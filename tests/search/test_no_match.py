# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""When nothing fits: the score that a hit must exceed, against plain recomputations of it."""

import logging
import math
import zlib

import numpy as np
import pyarrow as pa
import pytest
import torch

from clip_hf.search import EmbeddingIndex, NoMatch, QueryTerm, load_background_texts, parse_filter
from clip_hf.search.no_match import mix_captions


DIM = 16


class TextVectors:
    """In the place of an encoder: each text has a random vector of its own, always the same."""

    def __init__(self, fingerprint: str = "a"):
        self.fingerprint, self.projection_dim, self.encoded = fingerprint, DIM, 0

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        self.encoded += len(texts)
        return torch.from_numpy(np.stack([unit(zlib.crc32(text.encode())) for text in texts]))


def unit(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def make_index(folder, rows: np.ndarray, **description) -> EmbeddingIndex:
    width = pa.table({"width": np.arange(len(rows))})
    return EmbeddingIndex.build(folder, rows, metadata=width, dtype="float32", description=description)


@pytest.fixture
def index(tmp_path) -> EmbeddingIndex:
    """An index of 60 random rows, whose column `width` is their number."""
    return make_index(tmp_path / "index", np.stack([unit(seed) for seed in range(60)]), over="images")


def text(words: str, weight: float = 1.0) -> QueryTerm:
    return QueryTerm(weight, text=words)


def stand_ins() -> np.ndarray:
    return TextVectors().encode_texts(mix_captions(load_background_texts())).numpy()


# ------------------------------------------------------------------------------------------------------ mixed captions


def test_a_mixed_caption_is_the_beginning_of_one_and_the_end_of_another():
    assert set(mix_captions(["a b c", "D E F G"], rounds=1)) == {"a b F G", "D E F b c"}


def test_mixed_captions_are_none_of_the_captions():
    captions = load_background_texts()
    mixed = mix_captions(captions)
    assert len(mixed) == 2 * len(captions) and len(set(mixed)) > 0.99 * len(mixed)
    assert not set(mixed) & set(captions)
    assert mixed == mix_captions(captions)


def test_the_background_is_many_different_short_captions():
    captions = load_background_texts()
    assert len(captions) == len(set(captions)) == 370
    assert all(2 <= len(caption.split()) <= 10 for caption in captions)
    words = [frozenset(caption.split()) - {"a", "an", "the", "of", "in", "on", "with"} for caption in captions]
    assert len(set(words)) == len(words)


# ---------------------------------------------------------------------------------------------------- the lowest score


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_at_most_the_share_of_stand_ins_get_an_answer(share, index):
    lowest = NoMatch(TextVectors(), index).lowest_score([text("a dog")], share)
    best = (stand_ins() @ index.vectors(index.ids()).T).max(1)
    allowed = math.floor(share * len(best))
    assert (best > lowest + 1e-6).sum() <= allowed < (best > lowest - 1e-6).sum()


def test_a_filter_leaves_fewer_rows_for_the_stand_ins_too(index):
    where = parse_filter("width<10", index.filter_columns)
    lowest = NoMatch(TextVectors(), index).lowest_score([text("a dog")], where=where)
    best = np.sort((stand_ins() @ index.vectors(range(10)).T).max(1))[::-1]
    assert lowest == pytest.approx(best[37], abs=1e-6)  # 5% of 740


def test_a_filter_that_no_row_passes(index):
    where = parse_filter("width<0", index.filter_columns)
    no_match = NoMatch(TextVectors(), index)
    assert no_match.lowest_score([text("a dog")], where=where) == math.inf
    assert no_match.lowest_score([QueryTerm(1, image="a.png")], where=where) == math.inf


def test_several_texts_have_stand_ins_of_several_texts(index):
    lowest = NoMatch(TextVectors(), index).lowest_score([text("a"), text("b", -0.5)])
    first, second = stand_ins(), np.roll(stand_ins(), 1, axis=0)
    queries = first - 0.5 * second
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    best = np.sort((queries @ index.vectors(index.ids()).T).max(1))[::-1]
    assert lowest == pytest.approx(best[37], abs=1e-6)


def test_pictures_of_the_index_must_find_others_than_copies(tmp_path):
    rows = np.stack([unit(seed) for seed in range(30)])
    copies = rows[:10] + 1e-3
    index = make_index(tmp_path / "index", np.concatenate([rows, copies]), over="images")
    lowest = NoMatch(TextVectors(), index).lowest_score([QueryTerm(1, image="a.png")], 0.1)
    stored = index.vectors(index.ids())
    cosines = stored @ stored.T
    best = np.sort(np.where(cosines >= 0.98, -1, cosines).max(1))[::-1]
    assert lowest == pytest.approx(best[4], abs=1e-6)
    assert lowest < 0.98


def test_a_picture_with_a_text_excludes_the_picture_itself(index):
    lowest = NoMatch(TextVectors(), index).lowest_score([QueryTerm(1, image="a.png"), text("a", 0.1)], 0.1)
    stored, texts = index.vectors(index.ids()), np.roll(stand_ins(), 1, axis=0)[:60]
    queries = stored + 0.1 * texts
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scores = queries @ stored.T
    np.fill_diagonal(scores, -1)
    assert lowest == pytest.approx(np.sort(scores.max(1))[::-1][6], abs=1e-6)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, math.nan])
def test_a_share_is_between_0_and_1(share, index):
    with pytest.raises(ValueError, match="more than 0 and less than 1"):
        NoMatch(TextVectors(), index).lowest_score([text("a")], share)


@pytest.mark.parametrize(("count", "over"), [(1, "images"), (5, "texts")])
def test_a_picture_needs_pictures_to_compare_with(count, over, tmp_path):
    index = make_index(tmp_path / "index", np.stack([unit(seed) for seed in range(count)]), over=over)
    with pytest.raises(ValueError, match="fewer than two different pictures"):
        NoMatch(TextVectors(), index).lowest_score([QueryTerm(1, image="a.png")])


def test_stand_ins_that_cancel_are_left_out(tmp_path):
    rows = np.stack([unit(seed) for seed in range(6)])
    index = make_index(tmp_path / "index", rows[[0, 1, 1, 2, 3, 4, 5]], over="images")  # two copies in a row
    terms = [QueryTerm(1, image="a.png"), QueryTerm(-1, image="b.png")]
    lowest = NoMatch(TextVectors(), index).lowest_score(terms, 0.4)
    stored = index.vectors(index.ids())
    best = []
    for first, second in zip(stored, np.roll(stored, 1, axis=0)):
        if not np.array_equal(first, second):
            scores = stored @ ((first - second) / np.linalg.norm(first - second))
            best.append(
                np.delete(scores, [n for n, row in enumerate(stored) if max(row @ first, row @ second) > 0.98]).max()
            )
    assert len(best) == 6 and lowest == pytest.approx(sorted(best)[-3], abs=1e-6)

    copies = make_index(tmp_path / "copies", rows[[0, 0, 0]], over="images")
    with pytest.raises(ValueError, match="fewer than two different pictures"):
        NoMatch(TextVectors(), copies).lowest_score(terms)


# ------------------------------------------------------------------------------------------------ what is kept on disk


def lowest_score(index: EmbeddingIndex, encoder: TextVectors) -> float:
    return NoMatch(encoder, EmbeddingIndex.open(index.folder)).lowest_score([text("a dog")])


def test_texts_are_encoded_once_for_an_index(index):
    first, second = TextVectors(), TextVectors()
    assert lowest_score(index, first) == lowest_score(index, second)
    assert (first.encoded, second.encoded) == (740, 0)


def test_scores_are_those_of_the_rows_that_there_are_now(index, tmp_path):
    lowest_score(index, TextVectors())
    more = np.stack([unit(seed) for seed in range(100, 400)])
    index.add(more, metadata=pa.table({"width": np.arange(len(more))}))
    encoder = TextVectors()
    assert lowest_score(index, encoder) == lowest_score(
        make_index(tmp_path / "fresh", np.concatenate([index.vectors(range(60)), more])), TextVectors()
    )
    assert encoder.encoded == 0


def test_another_model_has_other_stand_ins(index):
    lowest_score(index, TextVectors())
    other = TextVectors("b")
    lowest_score(index, other)
    assert other.encoded == 740


def test_a_damaged_file_is_written_anew(index, caplog):
    expected = lowest_score(index, TextVectors())
    (index.folder / "no_match.npz").write_bytes(b"PK\x03\x04 damaged")
    with caplog.at_level(logging.WARNING):
        assert lowest_score(index, TextVectors()) == expected
    again = TextVectors()
    lowest_score(index, again)
    assert again.encoded == 0


# ------------------------------------------------------------------------------------------------------ what it is for


def test_a_text_that_is_there_fits_and_others_do_not(tmp_path):
    encoder = TextVectors()
    there = [f"thing {number}" for number in range(200)]
    index = make_index(tmp_path / "index", encoder.encode_texts(there).numpy() + 0.05)
    no_match = NoMatch(encoder, index)
    lowest = no_match.lowest_score([text("any")])
    best = [index.search(vector, 1)[0][0] for vector in encoder.encode_texts(there).numpy()]
    others = [index.search(unit(seed), 1)[0][0] for seed in range(10**6, 10**6 + 400)]
    assert min(best) > lowest
    assert np.mean(np.array(others) > lowest) < 0.1  # 5% and what chance adds
