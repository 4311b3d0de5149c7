# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""An approximate index that knows its recall, for text and for image queries apart.

Graphs and quantisers are built from image rows, and text queries of CLIP lie elsewhere: their recall is lower, and the
recall of image queries says nothing about it. So both are measured against the exact search when the index is built.
"""

import hashlib
import importlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..utils.atomic import replaced_folder
from ..utils.extras import require_extra
from ..utils.intervals import wilson_interval
from ..utils.json_files import read_json
from .embedding_index import EmbeddingIndex
from .exact_scan import score_rows
from .index_segments import digest_file
from .near_duplicates import StoredRows
from .row_codes import normalise_rows


logger = logging.get_logger(__name__)

KINDS = ("hnsw", "ivfpq")
MEASURED_K = 10
"""Recall is measured for so many results."""
_FORMAT, _MANIFEST, _FILE = "clip_hf approximate index 1", "approximate.json", "index.faiss"
# A smaller index is searched exactly in a millisecond or two, and has too few rows to train a quantiser.
_LEAST_ROWS = 1000
_MOST_QUERIES, _TIMED_QUERIES = 500, 20
_READ_ROWS, _PROBED_ROWS = 16384, 1024
_HNSW_LINKS, _HNSW_CONSTRUCTION = 32, 100
_MOST_EF, _MOST_CANDIDATES = 4096, 160  # candidates: for each result
# faiss's own 256 rows a centre and 25 rounds take ten times as long to train; candidates are scored exactly anyway.
_TRAIN_ROWS_PER_CENTRE, _MOST_TRAIN_ROWS = 64, 200_000


@dataclass(frozen=True)
class Recall:
    """Share of the exact results that an approximate index finds.

    A found row counts if it scores at least as high as the last exact one, so of rows with equal scores any counts.

    Args:
        queries (`int`): How many were measured.
        recall (`float`): Mean recall@10, 0 to 1.
        interval_95 (`tuple[float, float]`): Wilson's interval of a share with that many trials. The recall of a query
            varies less than a yes or no, so it is a little too wide.
    """

    queries: int
    recall: float
    interval_95: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.interval_95
        return f"{self.recall:.4f} (95% interval {low:.4f} to {high:.4f}, {self.queries:,} queries)"


@dataclass(frozen=True)
class Effort:
    """How hard a search tries.

    Args:
        breadth (`int`): `efSearch` of HNSW, `nprobe` of IVF-PQ.
        candidates (`int`): Rows to score exactly for each result.
    """

    breadth: int
    candidates: int


class ApproximateIndex:
    """An approximate faiss index over an [`EmbeddingIndex`], with exact scores.

    - Candidates are scored in float64 from the stored rows, so scores are those of the exact search, and results are
      never padded: a query with too few candidates is searched exactly.
    - Its effort was raised until recall@10 reached `min_recall` for text and for image queries, half of those there
      are. The recall that it says was measured with the other half, which the effort suits no better than new queries.
    - It belongs to one generation of one index, and is refused for another.

    Use [`ApproximateIndex.build`] or [`ApproximateIndex.open`].

    Attributes:
        kind (`str`): `"hnsw"` (fast; all rows in memory, as float16, and their links) or `"ivfpq"` (a quarter of `dim`
            bytes a row in memory).
        effort ([`Effort`]): What was needed.
        text_recall, image_recall ([`Recall`]): recall@10 against the exact search.
        speedup (`float`): Median time of an exact search of one query divided by that of an approximate one.
    """

    def __init__(self, index: EmbeddingIndex, kind: str, faiss_index: Any):
        self.index, self.kind = index, kind
        self._version = index.identity, index.generation
        self._faiss, self._index = importlib.import_module("faiss"), faiss_index
        self._rows, self._ids = StoredRows(index), index.ids()
        self.effort = Effort(0, 0)
        self.text_recall = self.image_recall = Recall(0, 0.0, (0.0, 1.0))
        self.speedup = 0.0

    @classmethod
    def build(
        cls,
        index: EmbeddingIndex,
        text_queries: np.ndarray,
        *,
        kind: str = "hnsw",
        min_recall: float = 0.95,
        folder: str | os.PathLike | None = None,
        seed: int = 0,
    ) -> "ApproximateIndex":
        """Build it, measure its recall, and write it; an older one in the folder is replaced.

        Args:
            index ([`EmbeddingIndex`]): The rows.
            text_queries (`np.ndarray`): Texts (q, dim) as users search for, encoded by the model of the rows; some
                hundreds. The effort is found with the first, third, ..., the recall is measured with the others. Image
                queries are rows of the index, which do not find themselves.
            kind (`str`, *optional*, defaults to `"hnsw"`): `"hnsw"` or `"ivfpq"`.
            min_recall (`float`, *optional*, defaults to 0.95): Least recall@10 of both, in the queries with which the
                effort is found, 0 to 1.
            folder (`str` or `os.PathLike`, *optional*): Where to write it; by default beside the index.
            seed (`int`, *optional*, defaults to 0): Seed of the sampled image queries and training rows.

        Raises:
            FileExistsError: if the folder holds anything but an approximate index.
            ImportError: if faiss is not installed.
            ValueError: if the recall does not reach `min_recall` with any effort (nothing is written then), the index
                has fewer than 1,000 rows, or an argument is wrong.
        """
        faiss = _import_faiss()
        _check_kind(kind)
        if not 0.0 <= min_recall <= 1.0:
            raise ValueError(f"`min_recall` is {min_recall}; it must be 0 to 1.")
        if len(index) < _LEAST_ROWS:
            raise ValueError(
                f"The index has {len(index):,} rows; an approximate one needs {_LEAST_ROWS:,}. Use its exact search."
            )
        texts = np.asarray(text_queries)
        if texts.ndim != 2 or texts.shape[1] != index.dim or len(texts) < 2:
            raise ValueError(
                f"`text_queries` has the shape {texts.shape}; it must be (queries, {index.dim}), with 2 or more."
            )
        normalise_rows(texts, what="text query")
        generator = np.random.default_rng(seed)
        place = _place(index, kind, folder)
        _check_replaceable(place)
        built = cls(index, kind, _build_faiss(faiss, kind, StoredRows(index), generator))
        built._measure(texts[:_MOST_QUERIES], generator, min_recall)
        built._write(place)
        return built

    @classmethod
    def open(
        cls, index: EmbeddingIndex, kind: str = "hnsw", *, folder: str | os.PathLike | None = None
    ) -> "ApproximateIndex":
        """Open what [`ApproximateIndex.build`] wrote.

        Its file is read only if it has the digest that was noted when it was written. That finds damage, not malice:
        open indexes only of people whom you trust.

        Args:
            index ([`EmbeddingIndex`]): The rows.
            kind (`str`, *optional*, defaults to `"hnsw"`): `"hnsw"` or `"ivfpq"`.
            folder (`str` or `os.PathLike`, *optional*): Where it lies; by default beside the index.

        Raises:
            FileNotFoundError: if there is none.
            ImportError: if faiss is not installed.
            ValueError: if it is damaged, or the index changed since it was built.
        """
        faiss = _import_faiss()
        _check_kind(kind)
        place = _place(index, kind, folder)
        manifest = read_json(place / _MANIFEST, dict)
        if manifest.get("format") != _FORMAT or manifest.get("kind") != kind:
            raise ValueError(f"{place} holds no approximate index of the kind {kind!r}. Build it again.")
        if manifest["rows"] != _identify(index):
            raise ValueError(
                f"{place} was built for generation {manifest['rows']['generation']} of an index; "
                f"{index.folder} is at generation {index.generation} with other rows. Build it again."
            )
        if digest_file(place / _FILE) != manifest["digest"]:
            raise ValueError(f"{place / _FILE} is damaged: its digest is not the one noted. Build it again.")
        opened = cls(index, kind, faiss.read_index(str(place / _FILE)))
        opened.effort = Effort(**manifest["effort"])
        opened.text_recall, opened.image_recall = (
            Recall(value["queries"], value["recall"], tuple(value["interval_95"]))
            for value in (manifest["text_recall"], manifest["image_recall"])
        )
        opened.speedup = manifest["speedup"]
        return opened

    def search(self, vectors: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The rows with probably the highest cosines.

        Args:
            vectors (`np.ndarray`): Queries (q, dim), or one (dim,).
            k (`int`, *optional*, defaults to 10): How many rows to find. Recall was measured for 10.

        Returns:
            `tuple[np.ndarray, np.ndarray]`: float64 cosines (q, m) and ids (q, m), as of [`EmbeddingIndex.search`],
            with the same m.

        Raises:
            TypeError, ValueError: as [`EmbeddingIndex.search`] does.
            ValueError: if the index has changed since.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise ValueError(f"`k` is {k!r}; it must be a whole number of at least 1.")
        queries = np.asarray(vectors)
        if queries.ndim not in (1, 2) or queries.shape[-1] != self.index.dim:
            dim = self.index.dim
            raise ValueError(f"The queries have the shape {queries.shape}; this index takes (q, {dim}) or ({dim},).")
        if self._version != (self.index.identity, self.index.generation):
            raise ValueError(
                f"{self.index.folder} has changed since this approximate index was built. Build it again."
            )
        scores, ids = self._search(np.atleast_2d(queries), int(k), self.effort)
        return (scores[0], ids[0]) if queries.ndim == 1 else (scores, ids)

    def __str__(self) -> str:
        breadth = "efSearch" if self.kind == "hnsw" else "nprobe"
        return (
            f"Approximate index {self.kind}, {breadth} {self.effort.breadth}, {self.effort.candidates} candidates a "
            f"result: recall@{MEASURED_K} of text queries {self.text_recall}, of image queries {self.image_recall}; "
            f"{self.speedup:.1f} times as fast as the exact search of one query."
        )

    # -------------------------------------------------------------------------------------------------------- private

    def _search(self, queries: np.ndarray, k: int, effort: Effort) -> tuple[np.ndarray, np.ndarray]:
        units = normalise_rows(queries, what="query")
        k = min(k, len(self._rows))
        wanted = min(effort.candidates * k, len(self._rows))
        if self.kind == "hnsw":
            parameters = self._faiss.SearchParametersHNSW(efSearch=max(effort.breadth, wanted))
        else:
            parameters = self._faiss.SearchParametersIVF(nprobe=effort.breadth)
        _, found = self._index.search(units.astype(np.float32), wanted, params=parameters)
        scores, ids = np.empty((len(units), k)), np.empty((len(units), k), self._ids.dtype)
        for place, (unit, numbers) in enumerate(zip(units, found)):
            numbers = np.unique(numbers[numbers >= 0])  # faiss pads short results with -1
            if len(numbers) < k:
                scores[place], ids[place] = self.index.search(queries[place], k)
                continue
            exact = score_rows(self._rows.read(numbers), unit)
            best = np.lexsort((numbers, -exact))[:k]
            scores[place], ids[place] = exact[best], self._ids[numbers[best]]
        return scores, ids

    def _measure(self, texts: np.ndarray, generator: np.random.Generator, min_recall: float) -> None:
        """Raise the effort until both recalls of every other query reach `min_recall`; measure the rest, and the time.

        The queries with which the effort is found are no measure of it: it is the first that suits them.
        """
        own = np.sort(generator.choice(len(self._rows), min(_MOST_QUERIES, len(self._rows)), replace=False))
        images = next(self._rows.read_units(own))
        exact_texts, _ = self.index.search(texts, MEASURED_K)
        exact_images, _ = _without(*self.index.search(images, MEASURED_K + 1), self._ids[own])

        def recalls(part: slice) -> tuple[Recall, Recall]:
            scores, _ = self._search(texts[part], MEASURED_K, self.effort)
            others, _ = _without(*self._search(images[part], MEASURED_K + 1, self.effort), self._ids[own[part]])
            return _recall(scores, exact_texts[part]), _recall(others, exact_images[part])

        for effort in _efforts(self.kind, len(self._rows), getattr(self._index, "nlist", 0)):
            self.effort = effort
            reached = min(found.recall for found in recalls(slice(0, None, 2)))
            if reached >= min_recall:
                break
        self.text_recall, self.image_recall = recalls(slice(1, None, 2))
        times = []
        for search in (self.index.search, self.search):
            times.append(np.median([_seconds(search, query) for query in texts[:_TIMED_QUERIES]]))
        self.speedup = float(times[0] / times[1])
        logger.warning(str(self))
        if reached < min_recall:
            other = next(kind for kind in KINDS if kind != self.kind)
            raise ValueError(
                f"{self} That is the most effort there is; where it was chosen, recall was {reached:.4f}, less than "
                f"min_recall={min_recall:g}. Use the exact search or the kind {other!r}, or pass a lower `min_recall` "
                "to accept it."
            )

    def _write(self, place: Path) -> None:
        with replaced_folder(place, check=_check_replaceable) as temporary:
            self._faiss.write_index(self._index, str(temporary / _FILE))
            manifest = {
                "format": _FORMAT,
                "kind": self.kind,
                "rows": _identify(self.index),
                "digest": digest_file(temporary / _FILE),
                "effort": asdict(self.effort),
                "text_recall": asdict(self.text_recall),
                "image_recall": asdict(self.image_recall),
                "speedup": self.speedup,
                "faiss": self._faiss.__version__,
            }
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _import_faiss() -> Any:
    require_extra("search", "An approximate index", "faiss")
    return importlib.import_module("faiss")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"`kind` is {kind!r}; it must be {' or '.join(map(repr, KINDS))}.")


def _place(index: EmbeddingIndex, kind: str, folder: str | os.PathLike | None) -> Path:
    return index.folder.with_name(f"{index.folder.name}.{kind}") if folder is None else Path(folder)


def _check_replaceable(place: Path) -> None:
    """FileExistsError if a folder holds anything but an approximate index."""
    names = set(os.listdir(place)) if place.is_dir() else set()
    is_own = names <= {_MANIFEST, _FILE} and _MANIFEST in names
    if names and not (is_own and str(read_json(place / _MANIFEST, dict).get("format")).startswith(_FORMAT[:-1])):
        raise FileExistsError(
            f"{place} is not empty and no approximate index; nothing is written there. Name another."
        )


def _build_faiss(faiss: Any, kind: str, rows: StoredRows, generator: np.random.Generator) -> Any:
    """A faiss index of all rows, by number."""
    if kind == "hnsw":
        built = faiss.IndexHNSWSQ(rows.dim, faiss.ScalarQuantizer.QT_fp16, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        built.hnsw.efConstruction = _HNSW_CONSTRUCTION
    else:
        lists = max(1, min(round(4 * len(rows) ** 0.5), len(rows) // 39))
        parts = next(count for count in range(max(1, rows.dim // 4), 0, -1) if rows.dim % count == 0)
        built = faiss.index_factory(rows.dim, f"IVF{lists},PQ{parts}x8", faiss.METRIC_INNER_PRODUCT)
        for clustering in (built.cp, built.pq.cp):
            clustering.min_points_per_centroid = 1  # else it warns
            clustering.max_points_per_centroid, clustering.niter = _TRAIN_ROWS_PER_CENTRE, 10
    sample = generator.choice(len(rows), min(_MOST_TRAIN_ROWS, len(rows)), replace=False)
    built.train(np.concatenate([part.astype(np.float32) for part in rows.read_units(np.sort(sample))]))
    for part in rows.read_units(np.arange(len(rows))):
        built.add(part.astype(np.float32))
    return built


def _efforts(kind: str, count: int, lists: int) -> Iterator[Effort]:
    """Efforts to try, each about twice the one before."""
    breadth, candidates = (32, 2) if kind == "hnsw" else (1, 10)
    most = min(_MOST_EF, count) if kind == "hnsw" else lists
    yield Effort(min(breadth, most), candidates)
    while breadth < most:
        breadth = min(2 * breadth, most)
        yield Effort(breadth, candidates)
    while kind == "ivfpq" and candidates < _MOST_CANDIDATES:
        candidates *= 2
        yield Effort(breadth, candidates)


def _without(scores: np.ndarray, ids: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Results without each query's own row; if it was not found, without the last."""
    is_other = ids != own[:, None]
    is_other[is_other.all(axis=1), -1] = False
    shape = (len(ids), ids.shape[1] - 1)
    return scores[is_other].reshape(shape), ids[is_other].reshape(shape)


def _recall(scores: np.ndarray, exact: np.ndarray) -> Recall:
    mean = float((scores >= exact[:, -1:]).mean())
    low, high = wilson_interval(mean, len(scores))
    return Recall(len(scores), mean, (float(low), float(high)))


def _seconds(search: Any, query: np.ndarray) -> float:
    start = time.perf_counter()
    search(query, MEASURED_K)
    return time.perf_counter() - start


def _identify(index: EmbeddingIndex) -> dict[str, Any]:
    """What tells an index and its state from another: its version, number of rows, and a digest of some of them."""
    rows, ids = StoredRows(index), index.ids()
    probed = np.unique(np.linspace(0, max(0, len(rows) - 1), min(_PROBED_ROWS, len(rows))).astype(np.int64))
    digest = hashlib.blake2b(rows.read(probed).tobytes(), digest_size=16)
    digest.update(repr(ids[probed].tolist()).encode("utf-8", "surrogatepass"))
    return {
        "identity": index.identity,
        "generation": index.generation,
        "count": len(rows),
        "probe": digest.hexdigest(),
    }
