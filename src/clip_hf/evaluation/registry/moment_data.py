# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Films, queries and the windows of time that answer them: the data of moment retrieval."""

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ...data.data_sources import Rows, find_source
from ...data.image_text import check_column
from ...data.locations import ImagePlaces, stored_image, undecoded
from ...data.media import VIDEOS
from ...data.tables import raw_table_rows, table_columns
from ...model.image_reading_clip_hf import REFUSED
from ...model.video_opening_clip_hf import VIDEO_ENDINGS
from .evaluation_data import CaptionedDataOptions
from .evaluation_source import EvaluationSource


# What each column may be called; the second names are QVHighlights'.
_FILMS = ("video", "vid", "file_name")
_QUERIES = ("query", "caption")
_WINDOWS = ("windows", "relevant_windows")


@dataclass
class MomentData:
    """Queries, each with its film and the windows that answer it.

    Args:
        name (`str`): The dataset's name.
        data (`datasets.Dataset`): A row for each query: `video` (undecoded), `query`, and `windows`, a list of
            (start, end) in seconds.
        split (`str`): The split of the dataset.
        source (`str`): Where it was.
    """

    name: str
    data: datasets.Dataset
    split: str = "test"
    source: str = ""

    def __len__(self) -> int:
        return len(self.data)

    @functools.cached_property
    def queries(self) -> list[str]:
        """The text of each query."""
        return list(self.data["query"])

    @functools.cached_property
    def windows(self) -> list[np.ndarray]:
        """The windows of each query, float64 (g, 2), seconds."""
        return [np.array(windows, np.float64).reshape(-1, 2) for windows in self.data["windows"]]

    @functools.cached_property
    def film_of_query(self) -> np.ndarray:
        """The place of each query's film among `films`, int64 (queries,)."""
        places: dict[Any, int] = {}
        keys = [_film_key(film) for film in self.data["video"]]
        return np.array([places.setdefault(key, len(places)) for key in keys], np.int64)

    @property
    def films(self) -> datasets.Dataset:
        """The different films, in the column `video`."""
        return self.data.select_columns(["video"]).select(np.unique(self.film_of_query, return_index=True)[1])


def _film_key(film: Any) -> Any:
    return film["path"] if film is None or film.get("bytes") is None else film["bytes"]


def load_moments(
    source: str | os.PathLike | datasets.Dataset, options: CaptionedDataOptions | None = None
) -> MomentData:
    """Load queries with the windows of a film that answer them.

    A source is a table (`.jsonl`, `.json`, `.csv`, `.tsv`), a folder with a table for each split, Parquet files, or a
    `datasets.Dataset`, with the columns

    - `video`: the film's path, below the table's folder or `options.image_root`. QVHighlights' `vid`, which has no
      ending, names the film with any ending of films.
    - `query`: the sentence, or `caption`.
    - `windows`: a list of [start, end] in seconds, or QVHighlights' `relevant_windows`; in CSV written as JSON,
      `"[[0, 16]]"`.

    Args:
        source (`str`, `os.PathLike` or `datasets.Dataset`): Which data.
        options ([`CaptionedDataOptions`], *optional*): `image_column` names the column of the films, `caption_column`
            that of the queries; `split`, `limit` and `image_root`.

    Returns:
        [`MomentData`].

    Raises:
        ValueError: if there are no such data, split or column, no rows, a query is blank, or a window is no pair of
            seconds in order.
        TypeError: if `source` is nothing that can hold data.
    """
    options = options or CaptionedDataOptions()
    opened = EvaluationSource(find_source(source, labelled=False, media=VIDEOS))
    split = opened.resolve(options.split)
    data = opened.load(split, lambda rows: _typed(_read(rows, options)))
    if options.limit is not None and len(data) > options.limit:
        data = data.select(np.arange(options.limit) * len(data) // options.limit)
    return MomentData(opened.name, data, split, opened.location)


def _read(rows: Rows, options: CaptionedDataOptions) -> Iterator[dict[str, Any]]:
    """Checked rows with `video`, `query` and `windows`."""
    if rows.kind in ("dataset", "parquet"):
        data = rows.read_dataset(lambda data: _columns(data.column_names, options)[0], options.image_root)
        names = _columns(data.column_names, options)
        for number, row in enumerate(undecoded(data.select_columns(list(names)))):
            film = row[names[0]]
            film = stored_image(film) if isinstance(film, str) else film
            yield _checked(film, row[names[1]], row[names[2]], f"Row {number}")
        return
    if rows.kind != "table":
        raise ValueError(
            "Moments are read from a table (.jsonl, .json, .csv, .tsv) or Parquet with the columns 'video', 'query' "
            f"and 'windows'; this is a {rows.kind}."
        )
    for table in rows.files:
        names = _columns(table_columns([table]), options)
        locate = _film_finder(os.path.dirname(os.path.abspath(table)), options.image_root)
        for number, row in enumerate(raw_table_rows(table)):
            film, query, windows = (row.get(name) for name in names)
            location = locate(film)
            yield _checked(location and stored_image(location), query, windows, f"Row {number} of {table}")


def _columns(names: Sequence[str], options: CaptionedDataOptions) -> tuple[str, str, str]:
    """The columns of films, queries and windows."""
    found = []
    for usual, chosen, content, option in (
        (_FILMS, options.image_column, "films", "image_column"),
        (_QUERIES, options.caption_column, "queries", "caption_column"),
        (_WINDOWS, None, "windows", None),
    ):
        name = chosen or next((name for name in usual if name in names), usual[0])
        if option is None and name not in names:
            raise ValueError(
                f"The dataset has no column 'windows' or 'relevant_windows' with the true moments, a list of [start, "
                f"end] in seconds; it has {', '.join(map(repr, names))}."
            )
        if option is not None:
            check_column(names, name, content, option)
        found.append(name)
    return tuple(found)


def _film_finder(folder: str, root: str | None) -> Callable[[Any], str | None]:
    """A function of the name in a row: where its film is, below `folder` or `root`; see [`ImagePlaces`]."""
    folders = [folder] if root is None else [folder, os.path.abspath(root)]
    places = [ImagePlaces(each, root) for each in folders]

    @functools.cache
    def find(name: str) -> str | None:
        locations = [place(name) for place in places]
        for location in locations:
            if location is None or location.startswith(REFUSED):
                continue
            for path in (location, *(f"{location}.{ending}" for ending in sorted(VIDEO_ENDINGS))):
                if os.path.isfile(path):
                    return path
        return locations[0]  # reading it says that it is missing

    return lambda name: find(name) if isinstance(name, str) else places[0](name)


def _checked(film: Any, query: Any, windows: Any, where: str) -> dict[str, Any]:
    if not isinstance(query, str) or not query.strip():
        raise ValueError(f"{where} has no query: it is {query!r:.80}; it must be a sentence.")
    return {"video": film, "query": query, "windows": _read_windows(windows, where)}


def _read_windows(value: Any, where: str) -> list[list[float]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{where}: its windows are {value!r:.80}, which is no JSON such as [[0, 16]].") from error
    if not isinstance(value, list | tuple) or len(value) == 0:
        raise ValueError(f"{where}: its windows are {value!r:.80}; they must be a list of [start, end], at least one.")
    windows = []
    for window in value:
        is_pair = isinstance(window, list | tuple) and len(window) == 2
        if not is_pair or not all(type(end) in (int, float) and math.isfinite(end) for end in window):
            raise ValueError(f"{where}: its window {window!r:.80} is not [start, end], two numbers of seconds.")
        start, end = map(float, window)
        if start < 0 or end <= start:
            raise ValueError(
                f"{where}: its window {start:g} to {end:g} s must begin at 0 or later, and end after it begins."
            )
        windows.append([start, end])
    return windows


def _typed(rows: Iterator[dict[str, Any]]) -> datasets.Dataset:
    pair = datasets.List(datasets.Value("float64"))
    features = {"video": VIDEOS.feature, "query": datasets.Value("string"), "windows": datasets.List(pair)}
    return datasets.Dataset.from_list(list(rows), features=datasets.Features(features))
