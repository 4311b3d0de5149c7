# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Answers to queries: hits with their metadata and pictures, and whether they fit at all."""

import datetime
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow.compute as pc

from ..data.texts import escaped
from ..embedding.dual_encoder import DualEncoder
from .embedding_index import EmbeddingIndex
from .no_match import NoMatch, check_share
from .queries import QueryTerm, encode_query


FindRows = Callable[[np.ndarray, int, pc.Expression | None], tuple[np.ndarray, np.ndarray]]
"""Finds the rows nearest to a vector (dim,): takes the vector, how many, and a filter; gives scores and ids (m,)."""


class Source(Protocol):
    """An index and the pictures of its rows; a [`SourceIndex`] is one."""

    index: EmbeddingIndex

    def picture(self, id: int | str) -> Any:
        """What [`open_image`] takes for a row; None for a row without a picture."""


@dataclass(frozen=True)
class SearchHit:
    """One row that answers a query.

    Args:
        rank (`int`): 1 for the best.
        score (`float`): Cosine with the query, -1 to 1.
        id (`int` or `str`): The row's id in the index.
        metadata (`dict`): The row's other columns by name; bytes as text, with escapes for what is not UTF-8.
        picture (*optional*): What [`open_image`] takes; None for a row without a picture.
    """

    rank: int
    score: float
    id: int | str
    metadata: dict[str, Any]
    picture: Any = None


@dataclass(frozen=True)
class SearchResults:
    """The answer to a query.

    Args:
        hits (`list[SearchHit]`): The hits, best first; none if nothing fits.
        best_score (`float`, *optional*): The best score of all rows that were searched, whether it fits or not; None
            if no row was.
        lowest_score (`float`, *optional*): The score that a hit must exceed to fit; None if that was not asked.
        seconds (`dict[str, float]`): How long each step took: `"encode"`, `"no match"`, `"search"`.
    """

    hits: list[SearchHit]
    best_score: float | None
    lowest_score: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Searcher:
    """Answers queries from an index, with the model that made it.

    Args:
        encoder ([`DualEncoder`]): The model of the index.
        source ([`SourceIndex`]): The index, and the pictures of its rows.
        find (`Callable`, *optional*): What finds the rows instead of the index itself, which is exact: an approximate
            index or a database. It is called as `find(vector, k, where)` and returns scores and ids (m,), best first.

    Example:

    ```python
    >>> from clip_hf.embedding import load_dual_encoder
    >>> from clip_hf.search import Searcher, open_source_index, parse_query

    >>> encoder = load_dual_encoder("openai/clip-vit-base-patch32")
    >>> source = open_source_index("my_photos", encoder)
    >>> results = Searcher(encoder, source).search(parse_query(["a", "beach"]), k=3)
    >>> best = [(hit.score, hit.id) for hit in results.hits]
    ```
    """

    def __init__(self, encoder: DualEncoder, source: Source, *, find: FindRows | None = None):
        self.encoder, self.source, self.index = encoder, source, source.index
        self._find = find or self._find_exactly

    @cached_property
    def no_match(self) -> NoMatch:
        """What measures which score a hit must exceed."""
        return NoMatch(self.encoder, self.index)

    def search(
        self,
        terms: Sequence[QueryTerm],
        k: int = 10,
        *,
        threshold: float | None = None,
        where: pc.Expression | None = None,
        no_match: float | None = None,
        rows: np.ndarray | None = None,
    ) -> SearchResults:
        """Find the rows that answer a query.

        Args:
            terms (`Sequence[QueryTerm]`): The query, see [`parse_query`].
            k (`int`, *optional*, defaults to 10): The most hits.
            threshold (`float`, *optional*): Leave out hits with a lower cosine.
            where (`pyarrow.compute.Expression`, *optional*): Which rows count, see [`parse_filters`].
            no_match (`float`, *optional*): Leave out hits that fit no better than chance: of queries for things that
                are not there, about this share get an answer all the same. See [`NoMatch`] for how it is measured.
            rows (`np.ndarray` of shape (terms, dim), *optional*): The terms' embeddings, if they are there already.

        Returns:
            [`SearchResults`]

        Raises:
            ValueError: if the query cannot be encoded (see [`encode_query`]), `k` is below 1, or a number is no cosine
                or share.
        """
        check_limits(threshold, no_match)
        seconds = {}
        started = time.perf_counter()
        vector = encode_query(self.encoder, terms, rows)
        seconds["encode"] = time.perf_counter() - started
        lowest = None
        if no_match is not None:
            started = time.perf_counter()
            lowest = self.no_match.lowest_score(terms, no_match, where)
            seconds["no match"] = time.perf_counter() - started
        started = time.perf_counter()
        scores, ids = self._find(vector, k, where)
        best = float(scores[0]) if len(scores) else None
        kept = np.ones(len(scores), bool) if threshold is None else scores >= threshold
        kept &= scores > (-math.inf if lowest is None else lowest)
        hits = self._hits(scores[kept], ids[kept])
        seconds["search"] = time.perf_counter() - started
        return SearchResults(hits, best, lowest, seconds)

    def _find_exactly(self, vector: np.ndarray, k: int, where: pc.Expression | None) -> tuple[np.ndarray, np.ndarray]:
        return self.index.search(vector, k, where=where)

    def _hits(self, scores: np.ndarray, ids: np.ndarray) -> list[SearchHit]:
        if not len(ids):
            return []
        rows = self.index.metadata(ids).to_pylist() if len(self.index.columns) else [{} for _ in ids]
        return [
            SearchHit(rank, float(score), id_, {name: plain_value(value) for name, value in row.items()}, picture)
            for rank, (score, id_, row, picture) in enumerate(
                zip(scores, ids.tolist(), rows, map(self.source.picture, ids.tolist()), strict=True), 1
            )
        ]


def check_limits(threshold: float | None, no_match: float | None) -> None:
    """ValueError if a threshold is no cosine, or a share for `no_match` no share."""
    if threshold is not None and not -1 <= threshold <= 1:
        raise ValueError(f"The threshold is {threshold}; it must be a cosine, -1 to 1.")
    if no_match is not None:
        check_share(no_match)


def plain_value(value: Any) -> Any:
    """A value as JSON has it: bytes and dates as text, and None for numbers that are not finite."""
    if isinstance(value, bytes):
        return escaped(os.fsdecode(value))
    if isinstance(value, list | tuple):  # a map's entries are pairs
        return [plain_value(each) for each in value]
    if isinstance(value, dict):
        return {name: plain_value(each) for name, each in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | str) else str(value)
