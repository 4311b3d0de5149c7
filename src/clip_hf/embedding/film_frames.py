# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Features of the frames of films, each film once, kept on disk as those of pictures are.

Shapes: k frames of a film, of `dim` features.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch

from ..data.decoding import check_not_missing, skipped_image
from ..data.media import VIDEOS
from ..data.skips import SkipCounter, SkippedRow
from ..model.video_reading_clip_hf import describe_video, end_of_frames, frame_times, read_frames
from ..utils.processes import SharedOutcome
from .bulk_encoding import EncodingRun, images_fingerprint
from .dual_encoder import DualEncoder, NotFiniteError
from .encoding_ahead import check_skips, run_ahead
from .encoding_options import EncodingOptions
from .feature_store import FeatureIdentity


@dataclass(frozen=True)
class FilmFrames:
    """The frames of a film that stand for it, one after another.

    Args:
        times (`np.ndarray` of shape (k,), float64): Seconds at which each is on the screen.
        starts (`np.ndarray` of shape (k,), float64): Where the interval begins that each stands for: half-way between
            the frame before and its own, as in the index of `clip-hf search`.
        end (`float`): Where the film ends.
        features (`np.ndarray` of shape (k, dim), float32): Their features, L2-normalised; without columns until they
            are encoded.
    """

    times: np.ndarray
    starts: np.ndarray
    end: float
    features: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        """Where the intervals end, float64 (k,)."""
        return np.append(self.starts[1:], self.end)


def plan_frames(films: Sequence[Any], fps: float) -> list[FilmFrames | SkippedRow]:
    """The frames at a rate that stand for each film; nothing is decoded where the packets tell the frames' times.

    Args:
        films (`Sequence`): What `read_frames` takes.
        fps (`float`): Frames a second. A frame that stays on the screen for several of these times counts once.

    Returns:
        For each film its [`FilmFrames`] without features, or why it cannot be read.
    """
    if not 0 < fps < np.inf:
        raise ValueError(f"`fps` is {fps!r}; it must be a number of frames a second, above 0.")
    plans: list[FilmFrames | SkippedRow] = []
    for row, film in enumerate(films):
        try:
            check_not_missing(film, VIDEOS.noun)
            plans.append(_plan(film, fps))
        except Exception as error:  # a damaged film makes libraries raise whatever they like
            plans.append(skipped_image(error, film, f"place {row}", VIDEOS.noun))
    return plans


def _plan(film: Any, fps: float) -> FilmFrames:
    shown = frame_times(film)
    end = end_of_frames(shown, describe_video(film).duration, 1 / fps)
    times = np.arange(0, end, 1 / fps)
    frames = np.clip(np.searchsorted(shown, times, side="right") - 1, 0, None)
    times = times[np.append(True, frames[1:] != frames[:-1])]
    starts = np.append(0.0, (times[1:] + times[:-1]) / 2)
    return FilmFrames(times, starts, end, np.empty((len(times), 0), np.float32))


def encode_film_frames(
    encoder: DualEncoder,
    films: datasets.Dataset,
    plans: Sequence[FilmFrames | SkippedRow],
    options: EncodingOptions | None = None,
) -> tuple[list[FilmFrames | None], SkipCounter]:
    """Embed the frames of films, with cache, threads and processes as in [`encode_image_column`].

    Args:
        encoder ([`DualEncoder`]): Embeds the frames as pictures.
        films (`datasets.Dataset`): The films in the column `video`, undecoded.
        plans (`Sequence`): What [`plan_frames`] says of each.
        options ([`EncodingOptions`], *optional*): Batches, threads, cache, processes.

    Returns:
        The [`FilmFrames`] of each film, None for one that cannot be read; and the count of those.

    Raises:
        ValueError: if more films than `options.max_skipped_share` cannot be read, or all, or features are not finite.
        RuntimeError: if another process failed, with its error.
    """
    options = options or EncodingOptions()
    skips = SkipCounter(options.max_skipped_share, min_rows=1)
    skips.add([plan for plan in plans if isinstance(plan, SkippedRow)], num_used=0)
    check_skips(skips, len(films))
    known = [film for film, plan in enumerate(plans) if isinstance(plan, FilmFrames)]
    if not known:
        raise ValueError(f"No film can be read: {' '.join(skips.examples[next(iter(skips.kinds))])}")
    sizes = [len(plans[film].times) for film in known]
    film_of_row = np.repeat(known, sizes)
    times = np.concatenate([plans[film].times for film in known])
    bad: dict[int, SkippedRow] = {}
    identity = None
    with SharedOutcome(options.processes) as shared:
        if options.cache_dir is not None:
            text = f"{images_fingerprint(films, 'video')} {times.tobytes().hex()}"
            digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
            identity = FeatureIdentity(encoder.fingerprint, digest, "frames of films", len(times))
    shared.gather()

    def encode(parts: list[Sequence[int]], done: Callable[[int], None]) -> Iterator[np.ndarray]:
        return _encode_rows(encoder, films, film_of_row, times, parts, done, options, bad)

    features = EncodingRun(encoder.name, len(times), identity, options).features(encode, "frames")
    for others in SharedOutcome(options.processes).gather(bad):
        bad.update(others)
    skips.add(bad.values(), num_used=len(known) - len(bad))
    check_skips(skips, len(films))
    rows = dict(zip(known, np.split(features, np.cumsum(sizes)[:-1])))
    encoded = [
        None if film not in rows or film in bad else FilmFrames(plan.times, plan.starts, plan.end, rows[film])
        for film, plan in enumerate(plans)
    ]
    return encoded, skips


def _encode_rows(
    encoder: DualEncoder,
    films: datasets.Dataset,
    film_of_row: np.ndarray,
    times: np.ndarray,
    parts: list[Sequence[int]],
    done: Callable[[int], None],
    options: EncodingOptions,
    bad: dict[int, SkippedRow],
) -> Iterator[np.ndarray]:
    """The features of the frames in each part, (rows, dim); NaN for films that cannot be read, which go to `bad`."""

    def batches() -> Iterator[tuple[int, Any, np.ndarray]]:
        for part in parts:
            rows = np.asarray(part)
            of_films = np.split(rows, np.flatnonzero(np.diff(film_of_row[rows])) + 1)
            for own in of_films:
                film = int(film_of_row[own[0]])
                source = films[film]["video"]
                for start in range(0, len(own), options.batch_size):
                    yield film, source, times[own[start : start + options.batch_size]]

    def prepare(film: int, source: Any, wanted: np.ndarray) -> tuple[int, np.ndarray, Any]:
        try:
            frames = [image for _, image in read_frames(source, times=wanted.tolist())]
            return film, wanted, encoder.prepare(frames)
        except Exception as error:  # a damaged film makes libraries raise whatever they like
            return film, wanted, skipped_image(error, source, f"place {film}", VIDEOS.noun)

    with closing(run_ahead(prepare, batches(), options.num_threads)) as prepared:
        for part in parts:
            features = np.full((len(part), encoder.projection_dim), np.nan, np.float32)
            count = 0
            while count < len(part):
                film, wanted, inputs = next(prepared)
                if isinstance(inputs, SkippedRow):
                    bad.setdefault(film, inputs)
                else:
                    features[count : count + len(wanted)] = _encode(encoder, inputs, film, wanted).numpy()
                count += len(wanted)
                done(len(wanted))
            yield features


def _encode(encoder: DualEncoder, inputs: dict[str, torch.Tensor], film: int, times: np.ndarray) -> torch.Tensor:
    try:
        return encoder.encode_images(inputs)
    except NotFiniteError as error:
        row = error.row
        raise NotFiniteError(row, f"the frame at {times[row]:.3f} s of film {film}") from error
