# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Find moments of films: frames of an index that answer a query, merged with their neighbours before they count."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..embedding.dual_encoder import DualEncoder
from ..model.video_opening_clip_hf import UnreadableVideo
from ..model.video_reading_clip_hf import read_frames
from ..utils.moment_merging import EXTENT_SHARE, find_spans
from .embedding_index import EmbeddingIndex
from .search_results import Searcher, SearchHit, Source, plain_value


_ROWS_PER_MOMENT = 8
"""Best rows that are looked at for each moment that is asked for; more follow where these are too few."""


@dataclass(frozen=True)
class FilmFrame:
    """The frame of a film at a time, as [`open_image`] takes it: it is read when it is needed.

    Args:
        film (`Path`): The film.
        time (`float`): Seconds.
    """

    film: Path
    time: float

    def image(self) -> Image.Image:
        """The frame, in RGB.

        Raises:
            UnreadableVideo: if the film cannot be read any more.
        """
        try:
            _, image = next(iter(read_frames(self.film, times=[self.time])))
        except (OSError, UnreadableVideo) as error:
            raise (
                error if isinstance(error, UnreadableVideo) else UnreadableVideo("file missing", str(error))
            ) from error
        except ValueError as error:  # the film is shorter than it was
            raise UnreadableVideo("file changed", f"the film has no frame at {self.time:g} s any more.") from error
        return image

    def read(self, size: int = -1) -> bytes:
        """The frame as an image file, from its beginning each time; `size` is that of binary files and not used."""
        buffer = io.BytesIO()
        self.image().save(buffer, "BMP")
        return buffer.getvalue()


@dataclass(frozen=True)
class Moment(SearchHit):
    """A part of a film that answers a query; `id`, `score` and `picture` are those of its best frame.

    Args:
        file (`str`, *optional*): The film's path, relative to the folder that was searched.
        start (`float`, *optional*): Where it begins, in seconds.
        end (`float`, *optional*): Where it ends.
        peak (`float`, *optional*): When its best frame is shown.
        first (`float`, *optional*): When its first frame is shown that was looked at; `start` is half-way to the look
            before, and may still show what was there before.
    """

    file: str = ""
    start: float = 0.0
    end: float = 0.0
    peak: float = 0.0
    first: float = 0.0


@dataclass(frozen=True)
class FoundMoment:
    """A moment in an index.

    Args:
        score (`float`): Cosine of its best frame with the query.
        id (`str`): The id of this frame's row.
        start, end, peak, first (`float`): Seconds, as of a [`Moment`].
    """

    score: float
    id: str
    start: float
    end: float
    peak: float
    first: float


def find_moments(
    index: EmbeddingIndex,
    vector: np.ndarray,
    k: int = 10,
    *,
    where: pc.Expression | None = None,
    share: float = EXTENT_SHARE,
) -> list[FoundMoment]:
    """The best moments of all films, exactly those that come from scoring and merging all rows.

    Args:
        index (`EmbeddingIndex`): What [`refresh_film_index`] made.
        vector (`np.ndarray` of shape (dim,)): The query.
        k (`int`, *optional*, defaults to 10): The most moments.
        where (`pyarrow.compute.Expression`, *optional*): Which rows count, see [`parse_filters`]. Moments end at rows
            that do not.
        share (`float`, *optional*): How far scores may fall in a moment, see [`merge_moments`].

    Returns:
        `list[FoundMoment]`: The moments, best first, of equal ones the one whose row was added first. They do not
        overlap.

    Raises:
        TypeError, ValueError: as [`EmbeddingIndex.search`] does; or if this is no index of films.
    """
    check_film_index(index)
    # A moment's score is that of its best row. So all moments that are better than the worst of the best rows are in
    # films of these rows. Of each such film all rows are scored, because its typical score needs them.
    count = _ROWS_PER_MOMENT * k
    found: list[FoundMoment] = []
    films: set[str] = set()
    while True:
        scores, ids = index.search(vector, count, where=where)
        new = set(index.metadata(ids)["name"].to_pylist()) - films
        films |= new
        found += _moments_of(index, new, vector, where, share)
        is_all = len(scores) < count
        certain = [moment for moment in found if is_all or moment.score > scores[-1]]
        if is_all or len(certain) >= k:
            return _best(index, certain, k)
        count *= 4


def check_film_index(index: EmbeddingIndex) -> None:
    """ValueError if the rows of an index are no frames of films."""
    missing = [name for name in ("name", "start", "end", "time") if name not in index.columns.names]
    if missing:
        raise ValueError(
            f"{index.folder} is no index of films: it has no column {', '.join(missing)}. Give one that "
            "`refresh_film_index` or `clip-hf search FILMS` made."
        )


def _moments_of(
    index: EmbeddingIndex, films: set[str], vector: np.ndarray, where: pc.Expression | None, share: float
) -> Iterator[FoundMoment]:
    """All moments of some films."""
    if not films:
        return
    is_meant = pc.field("name").isin(pa.array(sorted(films)))
    scores, ids = index.search(vector, len(index), where=is_meant if where is None else is_meant & where)
    table = index.metadata(ids)
    starts, ends, times = (table[name].to_numpy() for name in ("start", "end", "time"))
    _, owners = np.unique(np.array(table["name"].to_pylist(), object), return_inverse=True)
    order = np.lexsort((starts, owners))
    for rows in np.split(order, np.flatnonzero(np.diff(owners[order])) + 1):
        for first, last, best in find_spans(starts[rows], ends[rows], scores[rows], share=share):
            peak = rows[best]
            yield FoundMoment(
                float(scores[peak]),
                ids[peak],
                float(starts[rows[first]]),
                float(ends[rows[last]]),
                float(times[peak]),
                float(times[rows[first]]),
            )


def _best(index: EmbeddingIndex, moments: list[FoundMoment], k: int) -> list[FoundMoment]:
    moments = sorted(moments, key=lambda moment: -moment.score)
    if len({moment.score for moment in moments[: k + 1]}) < len(moments[: k + 1]):
        places = dict(zip(index.ids().tolist(), range(len(index)), strict=True))
        moments = sorted(moments, key=lambda moment: (-moment.score, places[moment.id]))
    return moments[:k]


class MomentSearcher(Searcher):
    """Answers queries with moments of films; `k` counts moments.

    Args:
        encoder ([`DualEncoder`]): The model of the index.
        source ([`SourceIndex`]): The index of films, and the films.
        share (`float`, *optional*): How far scores may fall in a moment, see [`merge_moments`].

    Example:

    ```python
    >>> from clip_hf.embedding import load_dual_encoder
    >>> from clip_hf.search import MomentSearcher, open_source_index, parse_query

    >>> encoder = load_dual_encoder("openai/clip-vit-base-patch32")
    >>> source = open_source_index("my_films", encoder, over="moments")
    >>> results = MomentSearcher(encoder, source).search(parse_query(["a", "bicycle", "passes"]), k=3)
    >>> best = [(hit.file, hit.start, hit.end, hit.score) for hit in results.hits]
    ```
    """

    def __init__(self, encoder: DualEncoder, source: Source, *, share: float = EXTENT_SHARE):
        super().__init__(encoder, source)
        self.share = share
        check_film_index(self.index)

    def _find_exactly(self, vector: np.ndarray, k: int, where: pc.Expression | None) -> tuple[np.ndarray, np.ndarray]:
        found = find_moments(self.index, vector, k, where=where, share=self.share)
        places = np.empty(len(found), object)
        places[:] = found
        return np.array([moment.score for moment in found]), places

    def _hits(self, scores: np.ndarray, ids: np.ndarray) -> list[SearchHit]:
        if not len(ids):
            return []
        rows = self.index.metadata([found.id for found in ids]).to_pylist()
        return [
            Moment(
                rank,
                found.score,
                found.id,
                {name: plain_value(value) for name, value in row.items()},
                self.source.picture(found.id),
                row["name"],
                found.start,
                found.end,
                found.peak,
                found.first,
            )
            for rank, (found, row) in enumerate(zip(ids, rows, strict=True), 1)
        ]
