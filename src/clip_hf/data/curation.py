# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Which pairs to train on: balanced over queries, as CLIP's own data were, and without near-duplicates."""

import functools
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise

import numpy as np
import torch

from ..model.checks_clip_hf import type_of
from ..utils.extras import require_extra


# Scripts that put no space between words: Thai, Lao, Tibetan, Burmese, Khmer, other Brahmic ones, Chinese, Japanese.
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\u3005-\u3007\u3040-\u312f\u31a0-\u31bf"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua980-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
# Samples are cut when this many matches have come in beyond twice their size.
_SPARE_MATCHES = 1_000_000
# Bits of the random number of a match; the query takes the other bits of an int64.
_NUMBER_BITS = 40
_MAX_QUERIES = 1 << (63 - _NUMBER_BITS)


@dataclass(frozen=True)
class QueryBalance:
    """What [`balance_by_query`] kept.

    Args:
        rows (`np.ndarray` of shape `(num_kept,)`, int64): The kept rows in their order, for `dataset.select`.
        queries (`list[str]`): The queries, each once; case-folded unless case counts.
        matches (`np.ndarray` of shape `(len(queries),)`, int64): How many rows each query matches.
        kept (`np.ndarray` of shape `(len(queries),)`, int64): How many of them it keeps, at most `max_per_query`.
            `rows` can hold more of its matches, because another query keeps them.
        unmatched (`np.ndarray`, int64): The rows that no query matches, in their order; they are not kept.
    """

    rows: np.ndarray
    queries: list[str]
    matches: np.ndarray
    kept: np.ndarray
    unmatched: np.ndarray


@dataclass(frozen=True)
class Duplicates:
    """What [`deduplicate`] kept and dropped.

    Args:
        kept (`np.ndarray`, int64): The kept rows in their order, for `dataset.select`.
        dropped (`np.ndarray` of shape `(num_dropped,)`, int64): The others in their order.
        duplicate_of (`np.ndarray` of shape `(num_dropped,)`, int64): For each dropped row, the first kept row that it
            is too near to.
        cosines (`np.ndarray` of shape `(num_dropped,)`, float64): The cosine of the two.
    """

    kept: np.ndarray
    dropped: np.ndarray
    duplicate_of: np.ndarray
    cosines: np.ndarray


# ------------------------------------------------------------------------------------------------------------ balance


def _read_texts(captions: Iterable[str | list[str]]) -> Iterator[list[str]]:
    """Each row's captions as a list, checked."""
    if isinstance(captions, str):
        raise TypeError(f"`captions` is the string {captions!r:.80}; it must be the captions of all rows.")
    for row, value in enumerate(captions):
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"Row {row} has the caption {value!r:.80}; it must be a string or a list of strings. Filter such rows "
                "out first."
            )
        yield list(texts)


def _check_queries(queries: Iterable[str], match_case: bool) -> list[str]:
    """The queries to search for, each once."""
    if isinstance(queries, str):
        raise TypeError(f"`queries` is the string {queries!r:.80}; it must be a list of queries.")
    queries = list(queries)
    if not queries:
        raise ValueError("There are no queries; give at least one.")
    for place, query in enumerate(queries):
        if not isinstance(query, str) or not query.strip():
            raise ValueError(f"Query {place} is {query!r}; it must be a string that is not blank.")
    queries = list(dict.fromkeys(query if match_case else query.casefold() for query in queries))
    if len(queries) > _MAX_QUERIES:
        raise ValueError(f"There are {len(queries)} queries; at most {_MAX_QUERIES} can be searched for at once.")
    return queries


def _matcher(queries: list[str]) -> Callable[[str], list[tuple[int, int, int]]]:
    """A function that finds all (query, start, end) in a text, overlapping ones too."""
    require_extra("train", "`balance_by_query`", "ahocorasick_rs")
    import ahocorasick_rs

    # For 500,000 queries the contiguous NFA takes 99 MiB (pyahocorasick: 169 MiB) and finds the same overlapping
    # matches 1.0 to 1.4 times as fast as pyahocorasick. The DFA takes 5 times the memory and is slower.
    automaton = ahocorasick_rs.AhoCorasick(
        queries, store_patterns=False, implementation=ahocorasick_rs.Implementation.ContiguousNFA
    )
    return lambda text: automaton.find_matches_as_indexes(text, overlapping=True)


def _cuts_word(text: str, edge: int) -> bool:
    """Whether the characters before and after `edge` belong to one word."""
    if not 0 < edge < len(text):
        return False
    before, after = text[edge - 1], text[edge]
    if before.isascii() and after.isascii():
        return before.isalnum() and after.isalnum()
    # Accents and vowel signs belong to the letter before them, which has the script.
    base = edge - 1
    while base > 0 and _is_mark(text[base]):
        base -= 1
    before = text[base]
    if _is_mark(after):
        return before.isalnum()
    return before.isalnum() and after.isalnum() and not (_UNSPACED.match(before) or _UNSPACED.match(after))


def _is_mark(char: str) -> bool:
    return unicodedata.category(char)[0] == "M"


@functools.cache
def _word() -> re.Pattern[str]:
    """A word: letters, digits and marks, with apostrophes and hyphens inside ("don't", "x-ray")."""
    marks = "".join(char for char in map(chr, range(0x300, 0x10000)) if _is_mark(char))
    more = f"(?:[^\\W_]|[{marks}])*"
    return re.compile(f"[^\\W_]{more}(?:['’-][^\\W_]{more})*")


class _Samples:
    """A uniform sample of at most `size` rows for each query, while matches come in.

    Each match draws a number, and a query keeps the matches with its smallest numbers. Once it has `size` of them, a
    further match must draw less than the largest; so the samples stay small, and are cut to size only now and then.
    """

    def __init__(self, num_queries: int, size: int, seed: int):
        self.size, self.draw = size, np.random.default_rng(seed).random
        self.matches = np.zeros(num_queries, dtype=np.int64)
        self.limits = np.full(num_queries, 1 << _NUMBER_BITS)
        # A key is a query and a number in one, which sorts much faster than two.
        self.keys, self.rows = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        self.num_pooled, self.cut_at = 0, _SPARE_MATCHES

    def add(self, queries: np.ndarray, rows: np.ndarray) -> None:
        """Add matches: the queries and rows of each, int64 `(matches,)`, every one of them for the first time."""
        self.matches += np.bincount(queries, minlength=len(self.matches))
        numbers = (self.draw(len(queries)) * (1 << _NUMBER_BITS)).astype(np.int64)
        is_small = numbers < self.limits[queries]
        self.keys.append((queries[is_small] << _NUMBER_BITS) + numbers[is_small])
        self.rows.append(rows[is_small])
        self.num_pooled += len(self.rows[-1])
        if self.num_pooled > self.cut_at:
            self.cut()
            self.cut_at = 2 * self.num_pooled + _SPARE_MATCHES

    def cut(self) -> tuple[np.ndarray, np.ndarray]:
        """The samples as they are now: queries and rows, int64 `(kept,)`, sorted by query."""
        keys, rows = np.concatenate(self.keys), np.concatenate(self.rows)
        order = np.argsort(keys)
        keys, rows = keys[order], rows[order]
        queries = keys >> _NUMBER_BITS
        place = np.arange(len(keys)) - np.searchsorted(queries, queries)  # among the same query's
        last = place == self.size - 1
        self.limits[queries[last]] = keys[last] & ((1 << _NUMBER_BITS) - 1)
        kept = place < self.size
        self.keys, self.rows, self.num_pooled = [keys[kept]], [rows[kept]], int(kept.sum())
        return queries[kept], rows[kept]


def _distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values, sorted, of values from 0 up; for many values several times faster than `np.unique`."""
    values = np.sort(values)
    return values[np.diff(values, prepend=-1) > 0]


def balance_by_query(
    captions: Iterable[str | list[str]],
    queries: Iterable[str],
    max_per_query: int = 20_000,
    *,
    seed: int = 0,
    whole_words: bool = True,
    match_case: bool = False,
) -> QueryBalance:
    """Keep at most `max_per_query` pairs for each query, as in CLIP's dataset WIT (Radford et al. 2021, section 2.2).

    The paper searched for pairs whose text includes one of 500,000 queries, and took up to 20,000 pairs a query. Here
    a row belongs to every query that one of its captions includes. Each query keeps a uniform sample of its rows, and
    the result is the union of the samples. The search passes over the captions once, and holds the queries and the
    numbers of the kept rows in memory, not the captions.

    Args:
        captions (`Iterable[str | list[str]]`): The caption of each row, or its captions: a column of a dataset, or a
            generator.
        queries (`Iterable[str]`): What to search for, such as [`queries_from_captions`] gives; equal queries count
            once.
        max_per_query (`int`, *optional*, defaults to 20000): The largest number of rows that a query keeps.
        seed (`int`, *optional*, defaults to 0): Seed of the samples.
        whole_words (`bool`, *optional*, defaults to `True`): Whether a match must not begin or end inside a word:
            "cat" is not in "concatenate". A word is a run of letters, digits and the marks on them. MetaCLIP, which
            rebuilt the paper's search, also wants a space on either side of a query. In scripts that put no space
            between words (Chinese, Japanese, Thai, ...) any character may begin or end one: "猫" is in "黒猫". Korean
            has spaces, and its particles belong to the word.
        match_case (`bool`, *optional*, defaults to `False`): Whether case counts. Otherwise the case of queries and
            captions is folded (`str.casefold`), so "STRASSE" is in "Straße". White space, accents and punctuation
            always count.

    Raises:
        TypeError: if `captions` or `queries` is a single string.
        ValueError: if there are no queries or one is blank, `max_per_query` is less than 1, or a caption is missing or
            not a string; the message says in which row.
        ImportError: if ahocorasick_rs is not installed.
    """
    if max_per_query < 1:
        raise ValueError(f"`max_per_query` is {max_per_query}; it must be at least 1.")
    queries = _check_queries(queries, match_case)
    find = _matcher(queries)
    samples, unmatched = _Samples(len(queries), max_per_query, seed), []
    rows = enumerate(_read_texts(captions))
    while chunk := list(islice(rows, 4096)):
        matched: list[int] = []
        counts = np.zeros(len(chunk), dtype=np.int64)
        for place, (_, texts) in enumerate(chunk):
            before = len(matched)
            for text in texts if match_case else map(str.casefold, texts):
                spans = find(text)
                if whole_words:
                    spans = [span for span in spans if not (_cuts_word(text, span[1]) or _cuts_word(text, span[2]))]
                matched.extend([span[0] for span in spans])
            counts[place] = len(matched) - before
        numbers = chunk[0][0] + np.arange(len(chunk))
        unmatched.append(numbers[counts == 0])
        # A query may be in a row more than once.
        pairs = _distinct(np.repeat(numbers, counts) * len(queries) + np.array(matched, dtype=np.int64))
        samples.add(pairs % len(queries), pairs // len(queries))
    kept_by, kept = samples.cut()
    return QueryBalance(
        rows=_distinct(kept),
        queries=queries,
        matches=samples.matches,
        kept=np.bincount(kept_by, minlength=len(queries)),
        unmatched=np.concatenate([np.empty(0, dtype=np.int64), *unmatched]),
    )


def queries_from_captions(
    captions: Iterable[str | list[str]], min_count: int = 100, *, min_bigram_pmi: float | None = None
) -> list[str]:
    """Queries for [`balance_by_query`]: the words that occur often enough.

    The paper's queries are the words that occur at least 100 times in the English Wikipedia, with bigrams of high
    pointwise mutual information, titles of articles and WordNet's synonym sets (section 2.2, footnote). This function
    takes words and bigrams from any texts: those of an encyclopedia, or the captions themselves.

    Args:
        captions (`Iterable[str | list[str]]`): Texts, or lists of them.
        min_count (`int`, *optional*, defaults to 100): How often a word or bigram must occur.
        min_bigram_pmi (`float`, *optional*): Also take the bigrams (two neighbouring words of a text) with at least
            this many bits of pointwise mutual information, log2 p(a b) / (p(a) p(b)); 0 is chance.

    Returns:
        `list[str]`: words, then bigrams, each by falling count and then by the alphabet, with their case folded.

    Raises:
        TypeError: if `captions` is a single string.
        ValueError: if `min_count` is less than 1, or a caption is missing or not a string.
    """
    if min_count < 1:
        raise ValueError(f"`min_count` is {min_count}; it must be at least 1.")
    words: Counter[str] = Counter()
    bigrams: Counter[tuple[str, str]] = Counter()
    for texts in _read_texts(captions):
        for text in texts:
            words_of_text = _word().findall(text.casefold())
            words.update(words_of_text)
            if min_bigram_pmi is not None:
                bigrams.update(pairwise(words_of_text))
    num_words, num_bigrams = words.total(), bigrams.total()

    def is_informative(first: str, second: str) -> bool:
        chance = (words[first] / num_words) * (words[second] / num_words)
        return math.log2(bigrams[first, second] / num_bigrams / chance) >= min_bigram_pmi

    frequent = [(-count, word) for word, count in words.items() if count >= min_count]
    frequent_bigrams = [
        (-count, " ".join(bigram))
        for bigram, count in bigrams.items()
        if count >= min_count and is_informative(*bigram)
    ]
    return [query for _, query in [*sorted(frequent), *sorted(frequent_bigrams)]]


# -------------------------------------------------------------------------------------------------------- deduplicate


def _unit_rows(embeddings: np.ndarray | torch.Tensor, index: slice | np.ndarray) -> torch.Tensor:
    """Rows scaled to length 1, float64 `(rows, dim)`."""
    rows = embeddings[index]
    # A copy of numpy's rows, which may lie in a file that cannot be written.
    rows = rows.detach().double() if isinstance(rows, torch.Tensor) else torch.from_numpy(np.array(rows, np.float64))
    return rows / rows.norm(dim=1, keepdim=True)


def _rounding(dim: int, dtype: torch.dtype) -> float:
    """By how much a cosine that is computed in `dtype` can be wrong."""
    return (dim + 8) * torch.finfo(dtype).eps


def _check_embeddings(embeddings: np.ndarray | torch.Tensor, threshold: float, chunk_size: int) -> None:
    if not isinstance(embeddings, np.ndarray | torch.Tensor):
        raise TypeError(f"`embeddings` is {type_of(embeddings)}; it must be an array or a tensor.")
    if embeddings.ndim != 2:
        raise ValueError(f"`embeddings` has the shape {tuple(embeddings.shape)}; it must be (rows, dim).")
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"`threshold` is {threshold}; it must be a cosine greater than 0 and at most 1.")
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` is {chunk_size}; it must be at least 1.")
    for start in range(0, len(embeddings), chunk_size):
        # A row of zeros, or with a value that is not finite, has no direction.
        wrong = (~_unit_rows(embeddings, slice(start, start + chunk_size)).isfinite().all(dim=1)).nonzero()
        if len(wrong):
            row = start + int(wrong[0])
            raise ValueError(
                f"Row {row} of `embeddings` is all zeros or has NaN or infinite values; it has no cosine."
            )


@dataclass
class _Deduplication:
    """The rows kept so far, scaled to length 1, in blocks of one size, and the dropped rows."""

    embeddings: np.ndarray | torch.Tensor
    threshold: float
    chunk_size: int
    numbers: list[np.ndarray] = field(default_factory=list)  # each int64 (chunk_size,); the last may be shorter
    blocks: list[torch.Tensor] = field(default_factory=list)  # each (chunk_size, dim), the rows of `numbers`
    dropped: dict[int, tuple[int, float]] = field(default_factory=dict)  # row -> (kept row, cosine)

    def __post_init__(self):
        # Where products of float32 are rounded to fewer digits, the bound on their rounding would not hold.
        device = self.embeddings.device.type if isinstance(self.embeddings, torch.Tensor) else "cpu"
        lossy = torch.get_float32_matmul_precision() != "highest" or torch.is_autocast_enabled(device)
        self.dtype = torch.float64 if lossy else torch.float32

    def take(self, start: int) -> None:
        """Keep or drop each row of the chunk that begins at row `start`."""
        rows = np.arange(start, min(start + self.chunk_size, len(self.embeddings)))
        unit_rows = _unit_rows(self.embeddings, slice(start, start + self.chunk_size)).to(self.dtype)  # (rows, dim)
        # Blocks are in the order of the rows, so the first near row that is found is the first one in the data.
        for numbers, block in zip(self.numbers, self.blocks):
            is_near = self._drop(rows, unit_rows @ block.T, numbers)
            rows, unit_rows = rows[~is_near], unit_rows[torch.from_numpy(~is_near).to(unit_rows.device)]
        is_kept = self._drop_within(rows, unit_rows)
        if is_kept.any():
            self._keep(rows[is_kept], unit_rows[torch.from_numpy(is_kept).to(unit_rows.device)])

    def _candidates(self, cosines: torch.Tensor) -> torch.Tensor:
        """Which cosines may reach the threshold without rounding, bool of the same shape."""
        return cosines >= self.threshold - _rounding(self.embeddings.shape[1], self.dtype)

    def _drop(self, rows: np.ndarray, cosines: torch.Tensor, kept: np.ndarray) -> np.ndarray:
        """Drop rows too near to one of the rows `kept`; `cosines` `(rows, kept)`. Returns which, bool `(rows,)`.

        float64 decides, so that the result does not depend on the size of the blocks.
        """
        is_dropped = np.zeros(len(rows), dtype=bool)
        candidates = self._candidates(cosines)
        for place in candidates.any(dim=1).nonzero().flatten().tolist():
            near = kept[candidates[place].cpu().numpy()]
            unit_row = _unit_rows(self.embeddings, rows[place : place + 1])[0]
            exact = _unit_rows(self.embeddings, near) @ unit_row
            # A row and its copy may have a cosine of 1 - 1e-16.
            reached = (exact >= self.threshold - _rounding(len(unit_row), torch.float64)).nonzero()
            if len(reached):
                first = int(reached[0])
                self.dropped[int(rows[place])] = (int(near[first]), min(float(exact[first]), 1.0))
                is_dropped[place] = True
        return is_dropped

    def _drop_within(self, rows: np.ndarray, unit_rows: torch.Tensor) -> np.ndarray:
        """Drop rows of a chunk that are too near to an earlier one of it. Returns which are left, bool `(rows,)`."""
        is_kept = np.ones(len(rows), dtype=bool)
        cosines = (unit_rows @ unit_rows.T).tril(diagonal=-1)  # (rows, rows); 0 for those that come later
        # One by one, because an earlier row counts only if it was kept itself.
        for place in self._candidates(cosines).any(dim=1).nonzero().flatten().tolist():
            before = is_kept[:place]
            to_earlier = cosines[place : place + 1, :place][:, torch.from_numpy(before).to(cosines.device)]
            is_kept[place] = not self._drop(rows[place : place + 1], to_earlier, rows[:place][before])[0]
        return is_kept

    def _keep(self, rows: np.ndarray, unit_rows: torch.Tensor) -> None:
        if self.blocks and len(self.blocks[-1]) < self.chunk_size:
            rows = np.concatenate([self.numbers.pop(), rows])
            unit_rows = torch.cat([self.blocks.pop(), unit_rows])
        for start in range(0, len(rows), self.chunk_size):
            self.numbers.append(rows[start : start + self.chunk_size])
            self.blocks.append(unit_rows[start : start + self.chunk_size].clone())


@torch.no_grad()
def deduplicate(
    embeddings: np.ndarray | torch.Tensor, threshold: float = 0.95, *, chunk_size: int = 1024
) -> Duplicates:
    """Drop rows whose embedding nearly equals that of an earlier row.

    Rows are taken in order. A row is dropped if its cosine with an earlier kept row is at least `threshold`; so no two
    kept rows are that near, and each dropped row is near to a kept one. Rows are compared in blocks: the time grows
    with rows times kept rows, the memory with the kept rows and `chunk_size` squared. The result is that of float64
    and does not depend on `chunk_size`. `clip_hf.search.find_near_duplicates` groups instead: rows that a chain of
    near-duplicates connects belong together, however far its ends are apart.

    Args:
        embeddings (`np.ndarray` or `torch.Tensor` of shape `(rows, dim)`): Embeddings of any length and floating type;
            an array may be mapped from a file. A tensor is compared on its own device.
        threshold (`float`, *optional*, defaults to 0.95): The smallest cosine of two duplicates, greater than 0 and at
            most 1. How near duplicates are depends on the model: look at some pairs.
        chunk_size (`int`, *optional*, defaults to 1024): Rows compared at a time.

    Raises:
        TypeError: if the embeddings are neither an array nor a tensor.
        ValueError: if their shape is wrong, a row is all zeros or has values that are no finite numbers, or
            `threshold` or `chunk_size` is out of range.
    """
    _check_embeddings(embeddings, threshold, chunk_size)
    work = _Deduplication(embeddings, threshold, chunk_size)
    for start in range(0, len(embeddings), chunk_size):
        work.take(start)
    order = sorted(work.dropped)
    return Duplicates(
        kept=np.concatenate([np.empty(0, np.int64), *work.numbers]),
        dropped=np.array(order, dtype=np.int64),
        duplicate_of=np.array([work.dropped[row][0] for row in order], dtype=np.int64),
        cosines=np.array([work.dropped[row][1] for row in order], dtype=np.float64),
    )
