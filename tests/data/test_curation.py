# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Balancing by query and dropping near-duplicates, against plain references, by hand, and bad input."""

import random
import re
import sys

import numpy as np
import pytest
import torch

from clip_hf.data import curation
from clip_hf.data.curation import balance_by_query, deduplicate, queries_from_captions


CAPTIONS = ["a cat on a mat", "Category A", ["two dogs", "a CAT and a dog"], "", "a hotdog", []]


def plain_balance(captions, queries, max_per_query, seed, whole_words):
    """The same without an automaton: each query is looked for in each caption, and all its matches are kept first."""
    draw = np.random.default_rng(seed).random
    matches = {query: [] for query in queries}  # (number, row)
    for row, texts in enumerate(captions):
        texts = [texts] if isinstance(texts, str) else texts
        for query in queries:
            pattern = re.escape(query)
            if whole_words:
                before = r"(?<![^\W_])" if query[0].isalnum() else ""
                after = r"(?![^\W_])" if query[-1].isalnum() else ""
                pattern = before + pattern + after
            if any(re.search(pattern, text.casefold()) for text in texts):
                matches[query].append((int(draw() * 2**40), row))
    samples = {query: [row for _, row in sorted(numbered)[:max_per_query]] for query, numbered in matches.items()}
    return samples, {query: len(numbered) for query, numbered in matches.items()}


def random_captions(generator: random.Random, count: int) -> list[str | list[str]]:
    def text() -> str:
        return "".join(generator.choices("aabbcé ß-_A", k=generator.randint(0, 12)))

    return [
        text() if generator.random() < 0.7 else [text() for _ in range(generator.randint(0, 3))] for _ in range(count)
    ]


@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("max_per_query", [1, 3, 1000])
def test_balance_agrees_with_the_plain_reference(max_per_query, whole_words):
    generator = random.Random(max_per_query)
    captions = random_captions(generator, 300)
    queries = ["a", "ab", "b", "bab", "aa", "é", "ss", "-a", "b b", "_", "c-", "not there"]
    samples, matches = plain_balance(captions, queries, max_per_query, 7, whole_words)
    found = balance_by_query(iter(captions), queries, max_per_query, seed=7, whole_words=whole_words)
    assert found.queries == queries
    assert found.matches.tolist() == list(matches.values())
    assert found.kept.tolist() == [len(sample) for sample in samples.values()]
    assert found.rows.tolist() == sorted({row for sample in samples.values() for row in sample})
    everything = plain_balance(captions, queries, len(captions), 0, whole_words)[0]
    assert found.unmatched.tolist() == sorted(set(range(300)) - {row for rows in everything.values() for row in rows})
    assert 0 < len(found.unmatched) < 300


@pytest.mark.parametrize(
    ("options", "matches", "unmatched"),
    [
        ({}, [2, 1], [1, 3, 4, 5]),
        ({"whole_words": False}, [3, 2], [3, 5]),  # "cat" also in "category"; "dog" in "dogs" and "hotdog"
        ({"match_case": True}, [1, 1], [1, 3, 4, 5]),
        ({"match_case": True, "whole_words": False}, [1, 2], [1, 3, 5]),
    ],
)
def test_what_matches(options, matches, unmatched):
    found = balance_by_query(CAPTIONS, ["cat", "dog"], **options)
    assert found.matches.tolist() == found.kept.tolist() == matches
    assert found.unmatched.tolist() == unmatched
    assert sorted([*found.rows, *found.unmatched]) == list(range(len(CAPTIONS)))


@pytest.mark.parametrize(
    ("query", "caption", "matches"),
    [
        ("cat", "concatenate", False),
        ("cat", "a cat.", True),
        ("cat", "my cat's bed", True),
        ("cat", "cat_2", True),
        ("cat", "cat2", False),
        ("hot dog", "a hot dog", True),
        ("hot dog", "a shot dog", False),
        ("cafe", "cafe\u0301", False),  # é in two characters
        ("cafe\u0301", "the cafe\u0301 there", True),
        ("cafe\u0301", "cafe\u0301s", False),
        ("कम", "कमी", False),  # "less" in "lack", which has a vowel sign more
        ("कमी", "पानी की कमी है", True),
        ("кот", "который", False),
        ("猫", "黒猫が好き", True),  # Chinese and Japanese put no spaces
        ("好き", "黒猫が好きcat", True),
        ("cat", "猫cat猫", True),
        ("cat", "猫cats", False),
        ("แมว", "แมวดำ", True),
        ("고양이", "고양이가", False),  # Korean has spaces; a particle belongs to the word
        ("고양이", "검은 고양이 한 마리", True),
    ],
)
def test_what_a_whole_word_is(query, caption, matches):
    assert balance_by_query([caption], [query]).matches.tolist() == [matches]
    assert balance_by_query([caption], [query], whole_words=False).matches.tolist() == [1]


def test_queries_that_are_equal_count_once():
    assert balance_by_query(CAPTIONS, ["Cat", "dog", "CAT"]).queries == ["cat", "dog"]
    assert balance_by_query(CAPTIONS, ["Cat", "dog", "CAT"], match_case=True).queries == ["Cat", "dog", "CAT"]
    assert balance_by_query(["in der Straße"], ["STRASSE"]).rows.tolist() == [0]


def test_a_query_keeps_a_uniform_sample():
    counts = np.zeros(20)
    for seed in range(2000):
        found = balance_by_query(["x"] * 20, ["x"], 5, seed=seed)
        assert (found.matches.tolist(), found.kept.tolist(), len(found.rows)) == ([20], [5], 5)
        counts[found.rows] += 1
    # 500 each, with a standard deviation of 19.
    assert abs(counts - 500).max() < 5 * 19
    again = balance_by_query(["x"] * 20, ["x"], 5, seed=3).rows.tolist()
    assert again == balance_by_query(["x"] * 20, ["x"], 5, seed=3).rows.tolist()


def test_samples_do_not_depend_on_when_they_are_cut(monkeypatch):
    captions = random_captions(random.Random(0), 20_000)
    samples = plain_balance(captions, ["a", "b", "ab"], 100, 0, False)[0]
    expected = sorted({row for sample in samples.values() for row in sample})
    options = {"max_per_query": 100, "whole_words": False}
    assert balance_by_query(captions, ["a", "b", "ab"], **options).rows.tolist() == expected
    monkeypatch.setattr(curation, "_SPARE_MATCHES", 100)
    assert balance_by_query(captions, ["a", "b", "ab"], **options).rows.tolist() == expected


def test_a_row_that_another_query_keeps_stays():
    captions = ["cat"] * 50 + ["cat and rare dog"]
    for seed in range(5):
        found = balance_by_query(captions, ["cat", "dog"], 2, seed=seed)
        assert 50 in found.rows
        assert found.kept.tolist() == [2, 1]


def test_nothing_matches():
    found = balance_by_query(["a"], ["b"])
    assert found.rows.tolist() == [] and found.rows.dtype == np.int64
    assert found.unmatched.tolist() == [0]


@pytest.mark.parametrize(
    ("captions", "queries", "options", "error", "message"),
    [
        (["a"], [], {}, ValueError, "There are no queries"),
        (["a"], ["b", " \n"], {}, ValueError, "Query 1 is ' \\\\n'"),
        (["a"], ["b", None], {}, ValueError, "Query 1 is None"),
        (["a"], "cat", {}, TypeError, "`queries` is the string 'cat'"),
        ("a cat", ["cat"], {}, TypeError, "`captions` is the string 'a cat'"),
        (["a", None], ["cat"], {}, ValueError, "Row 1 has the caption None"),
        (["a", ["b", None]], ["cat"], {}, ValueError, "Row 1 has the caption \\['b', None\\]"),
        ([3.5], ["cat"], {}, ValueError, "Row 0 has the caption 3.5"),
        (["a"], ["b"], {"max_per_query": 0}, ValueError, "`max_per_query` is 0; it must be at least 1"),
    ],
)
def test_bad_captions_and_queries_are_named(captions, queries, options, error, message):
    with pytest.raises(error, match=message):
        balance_by_query(captions, queries, **options)


def test_too_many_queries_are_refused(monkeypatch):
    monkeypatch.setattr(curation, "_MAX_QUERIES", 2)
    with pytest.raises(ValueError, match="There are 3 queries; at most 2"):
        balance_by_query(["a"], ["a", "b", "c"])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ahocorasick_rs", None)
    with pytest.raises(ImportError, match=r"ahocorasick_rs is not installed.*pip install -e '.*\[train\]'"):
        balance_by_query(["a"], ["a"])


def test_queries_from_captions_by_hand():
    captions = ["The red cat", ["the red dog's x-ray", "New York"], "new york; the the"]
    # the 4, red 2, new 2, york 2, and four words that occur once
    assert queries_from_captions(captions, 2) == ["the", "new", "red", "york"]
    assert "dog's" in queries_from_captions(captions, 1) and "x-ray" in queries_from_captions(captions, 1)
    # 13 words, 9 bigrams. "the red": log2(2/9 / (4/13 * 2/13)) = 2.23 bits; "new york": log2(2/9 / (2/13)^2) = 3.23.
    assert queries_from_captions(captions, 2, min_bigram_pmi=2.2)[4:] == ["new york", "the red"]
    assert queries_from_captions(captions, 2, min_bigram_pmi=2.3)[4:] == ["new york"]
    assert queries_from_captions([], 1, min_bigram_pmi=0.0) == []
    # Marks belong to the letters before them.
    assert queries_from_captions(["cafe\u0301 कमी", "\u0301 x"], 1) == ["cafe\u0301", "x", "कमी"]


def test_bad_counts_are_named():
    with pytest.raises(ValueError, match="`min_count` is 0"):
        queries_from_captions(["a"], 0)
    with pytest.raises(ValueError, match="Row 0 has the caption None"):
        queries_from_captions([None], 1)


# -------------------------------------------------------------------------------------------------------- deduplicate


def plain_deduplicate(embeddings: np.ndarray, threshold: float) -> tuple[list[int], dict[int, tuple[int, float]]]:
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    kept, dropped = [], {}
    for row in range(len(unit)):
        for other in kept:
            cosine = float(unit[other] @ unit[row])
            if cosine >= threshold - 1e-13:
                dropped[row] = (other, cosine)
                break
        else:
            kept.append(row)
    return kept, dropped


def clustered(seed: int = 0, rows: int = 300, dim: int = 16) -> np.ndarray:
    """Rows around some centres, so that chains of near neighbours reach across chunks."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(25, dim))
    noise = generator.uniform(0.02, 0.6, size=(rows, 1)) * generator.normal(size=(rows, dim))
    lengths = generator.uniform(0.1, 10, size=(rows, 1))
    return ((centres[generator.integers(0, 25, rows)] + noise) * lengths).astype(np.float32)


@pytest.mark.slow_but_for("1-0.5", "7", "64")
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
def test_deduplicate_agrees_with_the_plain_reference(threshold, chunk_size):
    embeddings = clustered()
    kept, dropped = plain_deduplicate(embeddings, threshold)
    assert 20 < len(kept) < 280
    found = deduplicate(embeddings, threshold, chunk_size=chunk_size)
    assert found.kept.tolist() == kept
    assert found.dropped.tolist() == list(dropped)
    assert found.duplicate_of.tolist() == [other for other, _ in dropped.values()]
    assert found.cosines == pytest.approx([cosine for _, cosine in dropped.values()], rel=1e-12)


@pytest.mark.parametrize("chunk_size", [2, 5, 100])
def test_cosines_at_the_threshold_are_decided_without_rounding(chunk_size):
    # Steps of 1e-9 around the threshold, which float32 cannot tell apart.
    cosines = 0.95 + 1e-9 * np.arange(-20, 20)
    first = np.array([[1.0, 0.0]])
    others = np.stack([cosines, -np.sqrt(1 - cosines**2)], axis=1)
    embeddings = np.concatenate([first, others])
    kept = plain_deduplicate(embeddings, 0.95)[0]
    found = deduplicate(embeddings, 0.95, chunk_size=chunk_size)
    assert found.kept.tolist() == kept == [0, 1]
    # All others are copies of row 1 or reach the threshold with row 0.
    assert set(found.duplicate_of[-20:].tolist()) == {0}
    assert set(found.duplicate_of[:19].tolist()) == {1}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_copies_are_found_at_a_threshold_of_one(dtype):
    embeddings = torch.from_numpy(clustered(rows=50, dim=33)).to(dtype)
    doubled = torch.cat([embeddings, 2 * embeddings])
    found = deduplicate(doubled, 1.0, chunk_size=16)
    assert found.kept.tolist() == list(range(50))
    assert found.duplicate_of.tolist() == list(range(50))
    assert found.cosines == pytest.approx(1.0) and found.cosines.max() <= 1.0


def test_a_row_is_compared_with_kept_rows_only():
    angles = np.deg2rad([0, 10, 20, 30])  # each is near to the next: 1 goes with 0, then 2 is kept, and 3 goes with 2
    found = deduplicate(np.stack([np.cos(angles), np.sin(angles)], axis=1), np.cos(np.deg2rad(15)), chunk_size=2)
    assert found.kept.tolist() == [0, 2]
    assert found.duplicate_of.tolist() == [0, 2]
    assert found.cosines == pytest.approx([np.cos(np.deg2rad(10))] * 2)


@pytest.mark.parametrize("why", ["precision", "autocast"])
def test_lossy_products_change_nothing(why):
    """Cosines so little above the threshold that bfloat16, in which autocast multiplies, loses hundreds of them."""
    generator = np.random.default_rng(0)
    first = generator.normal(size=(300, 64))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    across = generator.normal(size=(300, 64))
    across -= (across * first).sum(axis=1, keepdims=True) * first
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    cosine = 0.9004 + 5e-5
    pairs = np.concatenate([first, cosine * first + np.sqrt(1 - cosine**2) * across]).astype(np.float32)
    precision = torch.get_float32_matmul_precision()
    try:
        if why == "precision":
            torch.set_float32_matmul_precision("medium")
            # Only processors that multiply so show it in the result.
            assert curation._Deduplication(pairs, 0.9004, 64).dtype == torch.float64
            found = deduplicate(pairs, 0.9004)
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                lossy = torch.from_numpy(pairs[:300]) @ torch.from_numpy(pairs[300:]).T
                assert (lossy.diagonal().float() < 0.9).sum() > 50  # what the protection is against
                found = deduplicate(pairs, 0.9004)
    finally:
        torch.set_float32_matmul_precision(precision)
    assert found.kept.tolist() == list(range(300))
    assert found.duplicate_of.tolist() == list(range(300))


def test_an_array_that_is_mapped_from_a_file(tmp_path):
    np.save(tmp_path / "embeddings.npy", clustered())
    found = deduplicate(np.load(tmp_path / "embeddings.npy", mmap_mode="r"), 0.9)
    assert found.kept.tolist() == deduplicate(clustered(), 0.9).kept.tolist()


def test_no_rows():
    found = deduplicate(np.empty((0, 8), dtype=np.float32))
    assert [len(values) for values in (found.kept, found.dropped, found.duplicate_of, found.cosines)] == [0] * 4


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_rows_without_a_direction_are_named(value):
    embeddings = clustered()
    embeddings[211] = value
    with pytest.raises(ValueError, match="Row 211 of `embeddings` is all zeros or has NaN or infinite values"):
        deduplicate(embeddings, chunk_size=100)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([[1.0]],), {}, TypeError, "`embeddings` is a list"),
        ((np.ones(3),), {}, ValueError, "has the shape \\(3,\\); it must be \\(rows, dim\\)"),
        ((np.ones((3, 2)), 1.5), {}, ValueError, "`threshold` is 1.5"),
        ((np.ones((3, 2)), 0.0), {}, ValueError, "`threshold` is 0.0"),
        ((np.ones((3, 2)),), {"chunk_size": 0}, ValueError, "`chunk_size` is 0"),
    ],
)
def test_bad_arguments_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        deduplicate(*arguments, **options)
