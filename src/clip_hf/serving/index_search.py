# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Searches of an index for a server: in a thread, with vectors that the model's queue encoded."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..embedding.dual_encoder import DualEncoder
from ..search.embedding_index import EmbeddingIndex
from ..search.index_places import differences_of
from ..search.index_segments import MANIFEST
from ..search.index_sources import SourceIndex
from ..search.queries import QueryTerm
from ..search.row_filters import parse_filters
from ..search.search_results import Searcher, SearchResults, check_limits
from .label_options import name_option
from .request_errors import RequestError
from .request_inputs import ImageItem, Item, TextItem
from .worker_threads import WorkerThreads


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowItem:
    """A row of the index as a term of a query.

    Args:
        id (`int` or `str`): Its id.
        where (`str`): Its place in the request, such as `"query[1]"`.
    """

    id: int | str
    where: str


@dataclass(frozen=True)
class SearchOptions:
    """Which rows of an index answer, as [`Searcher.search`] has it.

    Args:
        top_k (`int`, *optional*, defaults to 10): The most hits.
        threshold (`float`, *optional*): Leaves out hits with a lower cosine.
        filters (`Sequence[str]`, *optional*): Conditions on columns, such as `"width>=800"`; all must hold.
        no_match (`float`, *optional*): Leaves out hits that fit no better than chance.
        truncate (`bool`, *optional*, defaults to `False`): Whether to cut texts that are too long for the model.
    """

    top_k: int = 10
    threshold: float | None = None
    filters: Sequence[str] = ()
    no_match: float | None = None
    truncate: bool = False


class IndexSearch:
    """Searches an index, and opens it again when it has changed on disk.

    Args:
        encoder ([`DualEncoder`]): The model of the index.
        source ([`SourceIndex`]): The index, opened with it.
        embed_texts (`Callable`): Encodes texts in the model's queue: (n, dim).
    """

    def __init__(
        self,
        encoder: DualEncoder,
        source: SourceIndex,
        embed_texts: Callable[[Sequence[str]], Awaitable[np.ndarray]],
    ):
        self._encoder, self._embed_texts = encoder, embed_texts
        self._searcher, self._stamp = Searcher(encoder, source), self._read_stamp(source)
        # One thread: what measures `no_match` is not for several, and a scan uses all cores by itself.
        self._thread = WorkerThreads(1, "search")
        self._measuring = asyncio.Lock()

    @property
    def source(self) -> SourceIndex:
        """The index as it was searched last."""
        return self._searcher.source

    def close(self) -> None:
        """End the thread."""
        self._thread.close()

    async def find(
        self, terms: Sequence[tuple[float, Item | RowItem, np.ndarray | None]], options: SearchOptions
    ) -> SearchResults:
        """Search for terms: weights, what they are, and their embeddings (dim,), None for rows of the index."""
        with name_option("threshold" if options.threshold is not None else "no_match"):
            check_limits(options.threshold, options.no_match)
        searcher = await self._thread.run(self._current)
        if options.no_match is not None:
            await self._prepare_no_match(searcher)
        return await self._thread.run(lambda: self._find(searcher, terms, options))

    async def picture(self, id_: int | str) -> Any:
        """The picture of a row, as `open_image` takes it; RequestError 404 if there is none."""

        def find() -> Any:
            source = self._current().source
            return source.picture(_known_id(source.index, id_, "id"), follow_links=False)

        picture = await self._thread.run(find)
        if picture is None:
            raise RequestError(404, "The picture of this row is not at hand.", code="no_picture", param="id")
        return picture

    async def _prepare_no_match(self, searcher: Searcher) -> None:
        """Encode what [`NoMatch`] compares with in the model's queue, once."""
        async with self._measuring:
            texts = await self._thread.run(lambda: searcher.no_match.missing_texts())
            if texts:
                searcher.no_match.set_features(await self._embed_texts(texts))

    # ---------------------------------------------------------------------------------------------- in the thread

    def _current(self) -> Searcher:
        """What searches the index as it is on disk now."""
        source = self._searcher.source
        stamp = self._read_stamp(source)
        if stamp == self._stamp or stamp is None:
            return self._searcher
        self._stamp = stamp  # a state that cannot be searched is tried, and reported, once
        try:
            index = EmbeddingIndex.open(source.index.folder)
        except (OSError, ValueError) as error:
            logger.error(
                f"{source.index.folder} has changed and cannot be opened, so the old state is searched: {error}"
            )
            return self._searcher
        differing = differences_of(index.description, source.index.description)
        if differing or index.dim != source.index.dim:
            logger.error(f"{source.index.folder} is now another index ({differing}); the old state is searched.")
            return self._searcher
        self._searcher = Searcher(self._encoder, replace(source, index=index))
        return self._searcher

    @staticmethod
    def _read_stamp(source: SourceIndex) -> tuple[int, ...] | None:
        """What tells one state of the index on disk from another; None while it is out of reach."""
        try:
            status = os.stat(source.index.folder / MANIFEST)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _find(
        self, searcher: Searcher, terms: Sequence[tuple[float, Item | RowItem, np.ndarray | None]], options
    ) -> SearchResults:
        index = searcher.index
        query, rows = [], []
        for weight, item, row in terms:
            with name_option(item.where):
                query.append(_query_term(weight, item, index))
            if isinstance(item, RowItem):
                row = index.vectors([_known_id(index, item.id, item.where)])[0]
            rows.append(row)
        with name_option("filters"):
            where = parse_filters(options.filters, index.filter_columns)
        with name_option(None):
            return searcher.search(
                query,
                options.top_k,
                threshold=options.threshold,
                where=where,
                no_match=options.no_match,
                rows=np.array(rows),
            )


def _query_term(weight: float, item: Item | RowItem, index: EmbeddingIndex) -> QueryTerm:
    """A term as [`Searcher`] takes it; a row stands for what the index has rows of."""
    if isinstance(item, TextItem):
        return QueryTerm(weight, text=item.text)
    if isinstance(item, ImageItem):
        return QueryTerm(weight, image=item.data)
    if index.description.get("over") == "texts":
        return QueryTerm(weight, text=f"row {item.id}")
    return QueryTerm(weight, image=f"row {item.id}")


def _known_id(index: EmbeddingIndex, id_: int | str, where: str) -> int | str:
    """An id of the index's own type; RequestError 404 if there is no such row."""
    try:
        known = index.id_type(id_)
        if str(known) != str(id_):  # such as 1.5, which is no id
            raise ValueError(id_)
        index.metadata([known])
    except (TypeError, ValueError, OverflowError) as error:
        raise RequestError(404, f"The index has no row {str(id_)!r:.80}.", code="no_such_row", param=where) from error
    return known
