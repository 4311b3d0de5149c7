# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Indexes of films: a row for each frame that shows something new, with the interval that it stands for.

Frames are looked at once a second, or at another rate. One whose pixels are nearly those of the row before belongs to
that row and does not pass the model; one whose embedding is nearly the same belongs to it, too. A row begins half-way
between the frame looked at before it and its own, and ends where the next one begins, the last one with the film.

As for pictures (`folder_index.py`), a film whose name, size and time are those of its rows is not opened, one whose
digest is known gets the rows that are there, and there is a commit every 1,024 frames or 20 seconds, also within a
film: the rows of a film are whole when one of them is marked as its last. A run that goes on after a crash decodes the
beginning of the film again, and embeds only what came after its rows.
"""

import itertools
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from transformers.utils import logging

from ..data.decoding import skipped_image
from ..data.media import VIDEOS
from ..data.skips import SkippedRow
from ..data.texts import escaped
from ..embedding.dual_encoder import DualEncoder, NotFiniteError
from ..embedding.encoding_ahead import run_ahead
from ..embedding.encoding_options import EncodingOptions
from ..model.video_opening_clip_hf import UnreadableVideo, VideoLimits
from ..model.video_reading_clip_hf import film_end, read_frames
from ..utils.fingerprints import package_version
from ..utils.wording import counted
from .embedding_index import EmbeddingIndex
from .folder_refresh import FolderKind, FolderRefresh, rebuild_index, refresh_index
from .folder_work import FolderWork, check_there, is_unchanged
from .index_places import is_index, naming_index, real_index, real_source, section_of
from .index_segments import digest_file
from .unreadable_files import FileState


logger = logging.get_logger(__name__)

FILM_SCHEMA = pa.schema(
    [
        ("name", pa.string()),  # of the film, relative to the folder; bytes that are not UTF-8 are escaped
        ("path", pa.binary()),  # the same as the file system has it
        ("digest", pa.string()),  # BLAKE2b of the film's bytes, 32 hexadecimal digits
        ("bytes", pa.int64()),
        ("modified", pa.int64()),  # nanoseconds
        ("read", pa.int64()),  # nanoseconds
        ("start", pa.float64()),  # seconds: where the interval begins that the frame stands for
        ("end", pa.float64()),
        ("time", pa.float64()),  # seconds: when the frame is shown
        ("is_last", pa.bool_()),  # whether it is the film's last row, so that there are all
    ]
)
FRAMES_PER_SECOND = 1.0
SAME_PIXELS = 12.0
"""Levels, of 255: a frame belongs to the row before if no block of a 32x32 thumbnail differs by more."""
SAME_COSINE = 0.99
"""A frame belongs to the row before if the cosine of their embeddings is at least this.

`benchmarks/check_moments.py` measures both."""
_BLOCKS = (32, 32)
_TIME_SLACK = 1e-6  # seconds
_NO_NUMBERS = "the model gives no numbers for one of its frames (NaN, infinite values or zeros)."


@dataclass(frozen=True)
class FilmRefresh(FolderRefresh):
    """What bringing an index of films up to date did.

    Args:
        added, renamed, edited, removed, unchanged, read (`int`): Films, as for a [`FolderRefresh`].
        embedded (`int`): Frames that passed the model.
        films (`int`): Films with rows in the index.
        sampled (`int`): Frames that were looked at.
    """

    films: int = 0
    sampled: int = 0

    def _describe_rows(self) -> str:
        return f"{counted(len(self.index), 'frame')} of {counted(self.films, 'film')}"


def refresh_film_index(
    encoder: DualEncoder,
    films: str | os.PathLike,
    index_folder: str | os.PathLike,
    *,
    frames_per_second: float | None = None,
    encoding: EncodingOptions | None = None,
    rebuild: bool = False,
) -> FilmRefresh:
    """Build the index of a film or of a folder of films, or bring it up to date, as [`refresh_folder_index`] does.

    Args:
        encoder (`DualEncoder`): The model.
        films (`str` or `os.PathLike`): A film, or a folder of films in any depth.
        index_folder (`str` or `os.PathLike`): The index, one row a frame that is kept. Its id is the film's path
            relative to `films`, `#`, and the frame's number among those kept.
        frames_per_second (`float`, *optional*): How often to look; by default as the index says, else once.
        encoding (`EncodingOptions`, *optional*): Batches, threads, progress, and the share of unreadable films that is
            an error, if it is more than one.
        rebuild (`bool`, *optional*, defaults to `False`): Whether to build the index anew, beside the old one.

    Returns:
        [`FilmRefresh`]: the index, and what was done.

    Raises:
        ImportError: if PyAV is not installed (extra `video`).
        OSError: if the films cannot be read, are gone, or there are none though the index has rows, or there is no
            index and none can be written. The index stays as it is.
        ValueError: if there is no film, none can be read, or too many cannot; or if the index is of another model,
            rate, or folder.
    """
    place = real_index(index_folder)
    rate = _check_rate(frames_per_second)
    if rate is None and is_index(place) and not rebuild:
        rate = rate_of(EmbeddingIndex.open(place).description)
    kind = replace(FILMS, sampling={"frames_per_second": float(rate or FRAMES_PER_SECOND)})
    bring_up_to_date = rebuild_index if rebuild else refresh_index
    refresh = bring_up_to_date(kind, encoder, real_source(films), place, encoding)
    return replace(refresh, films=_count_films(refresh.index))


def rate_of(description: dict[str, Any]) -> float | None:
    """How often the films of an index were looked at, in frames a second; None if it does not say."""
    rate = section_of(description, "sampling").get("frames_per_second")
    return float(rate) if isinstance(rate, int | float) and 0 < rate < math.inf else None


def _check_rate(rate: float | None) -> float | None:
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf):
        raise ValueError(
            f"`frames_per_second` (--frames-per-second) is {rate!r}; it must be more than 0, such as 0.5."
        )
    return rate


def _count_films(index: EmbeddingIndex) -> int:
    return len(index.metadata()["name"].unique())


@dataclass
class _Film:
    """A film on its way into the index."""

    id: str
    state: FileState
    digest: str = ""
    read: int = 0  # when, in nanoseconds
    num_rows: int = 0  # in the index or ready for it
    until: float = 0.0  # the end of these rows, in seconds
    replaced: list[str] = field(default_factory=list)  # ids of rows that go when its first row comes
    start: float = 0.0  # of the row that has no end yet
    time: float = 0.0
    vector: np.ndarray | None = None
    is_left_out: bool = False


@dataclass
class _Frame:
    """A frame that differs from the one before; the picture goes when it is prepared for the model."""

    film: _Film
    start: float
    time: float
    image: Image.Image | None
    inputs: dict[str, torch.Tensor] | None = None


@dataclass
class _End:
    """What is known of a film when nothing more of it comes."""

    film: _Film
    end: float = 0.0
    is_known: bool = False  # its digest is in the index, or that of a film before it
    problem: SkippedRow | None = None
    is_content: bool = False  # whether the film itself is to blame


@dataclass
class _Known:
    """The rows of a film in the index."""

    state: tuple[bytes, int, int, int]  # path, bytes, modified, read
    digest: str
    ids: list[str] = field(default_factory=list)
    until: float = 0.0
    is_whole: bool = False


class _FilmWork(FolderWork):
    """Brings an index up to date. `_look` runs in one thread, `_prepare` in some, all else in the caller's."""

    noun, row_noun = "film", "frame"

    def __init__(
        self,
        encoder: DualEncoder,
        folder: Path,
        files: dict[str, FileState],
        index: EmbeddingIndex,
        encoding: EncodingOptions,
    ):
        self.rate = rate_of(index.description) or FRAMES_PER_SECOND
        self.limits = VideoLimits()
        self.rows = _read_rows(index)
        before = {id_: known.digest for id_, known in self.rows.items()}
        reader = {"av": package_version("av"), "limits": asdict(self.limits)}
        super().__init__(encoder, folder, files, index, encoding, before=before, reader=reader)
        # The ids of all rows of a digest, where they are whole; and vectors of those that are gone since.
        self.whole = {known.digest: known.ids for known in self.rows.values() if known.is_whole}
        self.known_digests = frozenset(self.whole)
        self.held: dict[str, tuple[np.ndarray, list[dict[str, Any]]]] = {}
        self.failed: dict[str, SkippedRow] = {}  # by digest
        self.replacing: list[_Film] = []
        self.sampled = 0

    def counts(self) -> dict[str, Any]:
        """The numbers of a [`FilmRefresh`]."""
        return {**super().counts(), "sampled": self.sampled}

    def _count_files(self) -> int:
        return _count_films(self.index)

    def _work(self, todo: Sequence[tuple[str, FileState]]) -> None:
        for batch in _ahead(self._batches([_Film(id_, state) for id_, state in todo])):
            self._take(batch)

    def _is_new(self, id_: str, state: FileState) -> bool:
        known = self.rows.get(id_)
        if known is None:
            return not self.unreadable.is_known(id_, state)
        return not (known.is_whole and is_unchanged(known.state, state))

    # --------------------------------------------------------------------------------------------------------- reading

    def _batches(self, todo: list[_Film]) -> Iterator[list[_Frame | _End]]:
        """What is known of the films in order, in lists with a batch of frames for the model."""
        events, frames = [], 0
        looked = ((event,) for event in self._look(todo))
        with closing(run_ahead(self._prepare, looked, self.encoding.num_threads)) as prepared:
            for event in prepared:
                events.append(event)
                frames += isinstance(event, _Frame)
                if frames == self.encoding.batch_size:
                    yield events
                    events, frames = [], 0
        yield events

    def _prepare(self, event: _Frame | _End) -> _Frame | _End:
        if isinstance(event, _Frame):
            event.inputs, event.image = self.encoder.prepare([event.image]), None
        return event

    def _look(self, todo: list[_Film]) -> Iterator[_Frame | _End]:
        """The frames of films that differ from those before them, and an end for each film."""
        seen: set[str] = set(self.whole)
        for film in todo:
            if self.is_stopped:
                return
            path = Path(self.folder, film.state.name)
            self.read += 1
            film.read = time.time_ns()
            try:
                film.state = FileState.of(path, film.state.name)
                film.digest = digest_file(path)
                if film.digest in seen:
                    yield _End(film, is_known=True)
                    continue
                seen.add(film.digest)
                self._go_on(film)
                yield from self._look_at(film, path)
                if FileState.of(path, film.state.name) != film.state:
                    raise UnreadableVideo("file changed", "it changed while it was read; the next run reads it.")
                yield _End(film, film_end(path, slack=1 / self.rate, limits=self.limits))
            except (OSError, UnreadableVideo) as error:
                yield self._failure(film, error)

    def _go_on(self, film: _Film) -> None:
        """Take over the rows that a killed run wrote of this film; others go when the first new row comes."""
        known = self.rows.get(film.id)
        if known is not None and known.digest == film.digest and not known.is_whole:
            film.num_rows, film.until = len(known.ids), known.until
        elif known is not None:
            film.replaced = known.ids

    def _look_at(self, film: _Film, path: Path) -> Iterator[_Frame]:
        """The frames with something new."""
        reference, before = None, None
        for seconds, image in read_frames(path, fps=self.rate, limits=self.limits):
            if self.is_stopped:
                raise UnreadableVideo("stopped", "the run was stopped.")
            self.sampled += 1
            start = 0.0
            if before is not None:  # the frame before it was still there the last time that was looked
                looked = max(before, (math.ceil(seconds * self.rate - _TIME_SLACK) - 1) / self.rate)
                start = (looked + seconds) / 2
            before = seconds
            if start < film.until - _TIME_SLACK:
                continue
            blocks = np.asarray(image.resize(_BLOCKS, Image.Resampling.BOX), np.float32)
            if reference is None or np.abs(blocks - reference).max() > SAME_PIXELS:
                reference = blocks
                yield _Frame(film, start, seconds, image)

    def _failure(self, film: _Film, error: Exception) -> _End:
        """Why a film is left out. `file changed` and what the system says are no fault of its content."""
        if isinstance(error, FileNotFoundError):
            check_there(self.folder, self.files)
            error = UnreadableVideo("file missing", "it is gone.")
        is_content = isinstance(error, UnreadableVideo) and error.kind not in ("file missing", "file changed")
        problem = skipped_image(error, film.id, "it")
        reason = str(error).removeprefix(f"{Path(self.folder, film.state.name)}: ")
        message = f"{escaped(film.id)} cannot be used: {reason}"
        return _End(film, problem=SkippedRow(problem.kind, "film", message, film.id), is_content=is_content)

    # -------------------------------------------------------------------------------------------------------- settling

    def _take(self, events: list[_Frame | _End]) -> None:
        """Settle what is known of films, whose new frames pass the model together."""
        frames = [event for event in events if isinstance(event, _Frame)]
        vectors = iter(self._encode(frames))
        for event in events:
            if isinstance(event, _Frame):
                self._add_frame(event, next(vectors))
            elif event.problem is not None:
                self._leave_out(event.film, event.problem, event.is_content)
            elif event.is_known:
                self._copy(event.film)
            else:
                self._finish(event.film, event.end)
            self._commit_if_due()

    def _encode(self, frames: list[_Frame]) -> np.ndarray:
        if not frames:
            return np.empty((0, self.index.dim), np.float32)
        inputs = {name: torch.cat([frame.inputs[name] for frame in frames]) for name in frames[0].inputs}
        try:
            features = self.encoder.encode_images(inputs).numpy()
        except NotFiniteError as error:
            features = error.features.numpy()
        if not np.isfinite(features).all(1).any() and not (len(self.index) or self.ready):
            raise NotFiniteError(0, f"the frame of {frames[0].film.id} at {frames[0].time:g} s and all others so far")
        self.embedded += len(frames)
        self.bar.update(len(frames))
        return features

    def _add_frame(self, frame: _Frame, vector: np.ndarray) -> None:
        film = frame.film
        if film.is_left_out:
            return
        if not (np.isfinite(vector).all() and vector.any()):
            message = f"{escaped(film.id)} cannot be used: {_NO_NUMBERS}"
            self._leave_out(film, SkippedRow("no numbers", "film", message, film.id), is_content=True)
            return
        if film.vector is not None:
            if float(film.vector @ vector) >= SAME_COSINE:
                return
            self._close_row(film, frame.start)
        film.start, film.time, film.vector = frame.start, frame.time, vector

    def _close_row(self, film: _Film, end: float, is_last: bool = False) -> None:
        row = {"start": film.start, "end": max(end, film.start), "time": film.time, "is_last": is_last}
        self._add_row(film, film.vector, row)
        film.vector = None

    def _add_row(self, film: _Film, vector: np.ndarray, row: dict[str, Any]) -> None:
        state = {**film.state.columns(film.id), "digest": film.digest, "read": film.read}
        self.ready.append((f"{film.id}#{film.num_rows}", vector, {**row, **state}))
        film.num_rows += 1
        if film.replaced and film not in self.replacing:
            self.replacing.append(film)

    def _finish(self, film: _Film, end: float) -> None:
        """All of a film has been seen."""
        if film.is_left_out:
            return
        if film.vector is None:  # what a killed run left ends where the film does
            problem = SkippedRow("file changed", "film", f"{escaped(film.id)} has fewer frames than before.", film.id)
            self._leave_out(film, problem, is_content=False)
            return
        self._close_row(film, end, is_last=True)
        self._settle(film)
        self.whole[film.digest] = [f"{film.id}#{number}" for number in range(film.num_rows)]

    def _copy(self, film: _Film) -> None:
        """Give a film the rows of another one with the same content, or its own ones with another time of change."""
        if film.digest in self.failed:
            self._leave_out(film, replace(self.failed[film.digest], name=film.id), is_content=True)
            return
        self._commit()  # the other one may have come just now
        if film.digest in self.held:
            vectors, rows = self.held[film.digest]
        elif film.digest in self.whole:
            ids = self.whole[film.digest]
            vectors, rows = self.index.vectors(ids), self.index.metadata(ids).to_pylist()
        else:  # the other one was left out for a reason of its own, such as that it changed
            problem = SkippedRow("file changed", "film", f"{escaped(film.id)}: the next run reads it.", film.id)
            self._leave_out(film, problem, is_content=False)
            return
        film.replaced = self.rows[film.id].ids if film.id in self.rows else []
        for vector, row in zip(vectors, rows, strict=True):
            self._add_row(film, vector, {name: row[name] for name in ("start", "end", "time", "is_last")})
        self._settle(film)

    def _settle(self, film: _Film) -> None:
        """All rows of a film are ready."""
        self.skips.add([], num_used=1)
        self._count(film.id, film.digest)

    def _leave_out(self, film: _Film, problem: SkippedRow, is_content: bool) -> None:
        """A film that cannot be read. What is wrong with its content is remembered until it changes."""
        if film.is_left_out:
            return
        film.is_left_out, film.vector = True, None
        self.ready = [(id_, vector, row) for id_, vector, row in self.ready if row["name"] != film.id]
        self.replacing = [each for each in self.replacing if each is not film]
        self.skips.add([problem], num_used=0)
        if not is_content:
            self.skipped.append(problem)
            return
        self.failed[film.digest] = problem
        self.unreadable.add(film.id, film.state, problem)
        if film.id in self.rows or film.num_rows:
            self.broken.append(film.id)

    # ------------------------------------------------------------------------------------------------------ committing

    def _write(self, ready: list[tuple[str, np.ndarray, dict[str, Any]]], last: bool) -> None:
        replacing, self.replacing = self.replacing, []
        removed = list(itertools.chain.from_iterable(film.replaced for film in replacing))
        for film in replacing:
            known = self.rows[film.id]
            if known.is_whole and self.whole.get(known.digest) == known.ids:
                self.held[known.digest] = (
                    self.index.vectors(known.ids),
                    self.index.metadata(known.ids).to_pylist(),
                )
            film.replaced = []
        if last and (self.gone or self.broken):
            names, away = self.index.metadata()["name"].to_pylist(), {*self.gone, *self.broken}
            already = set(removed)
            ids = self.index.ids().tolist()
            removed += [id_ for id_, name in zip(ids, names, strict=True) if name in away and id_ not in already]
        if ready or removed:
            add = None
            if ready:
                vectors = np.array([vector for _, vector, _ in ready], np.float16)
                add = (vectors, [id_ for id_, *_ in ready], pa.Table.from_pylist([r for *_, r in ready], FILM_SCHEMA))
            with naming_index(self.index.folder):
                self.index.change(add=add, remove=removed)


def _ahead(batches: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """The lists of an iterator, of which a thread makes the next one meanwhile."""
    with closing(run_ahead(lambda: next(batches, None), itertools.repeat(()), 1)) as taken:
        yield from iter(lambda: next(taken), None)


def _read_rows(index: EmbeddingIndex) -> dict[str, _Known]:
    """What the index knows of each film, by its name."""
    found: dict[str, _Known] = {}
    table = index.metadata()
    columns = ("name", "path", "bytes", "modified", "read", "digest", "end", "is_last")
    values = zip(index.ids().tolist(), *(table[column].to_pylist() for column in columns), strict=True)
    for id_, name, path, size, modified, read, digest, end, is_last in values:
        known = found.setdefault(name, _Known((path, size, modified, read), digest))
        known.ids.append(id_)
        known.until, known.is_whole = max(known.until, end), known.is_whole or is_last
    return found


FILMS = FolderKind("films", "moments", "film", VIDEOS, FILM_SCHEMA, _FilmWork, FilmRefresh)
"""Films, looked at once a second."""
