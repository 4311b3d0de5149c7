# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Moments of films found by a sentence (Lei et al. 2021, QVHighlights): how well our search within a film does.

Shapes: q queries, k frames of a film, t thresholds of intersection over union.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ...embedding.bulk_encoding import encode_text_list
from ...embedding.dual_encoder import DualEncoder
from ...embedding.encoding_ahead import finish_skips, skip_examples
from ...embedding.encoding_options import EncodingOptions
from ...embedding.film_frames import FilmFrames, encode_film_frames, plan_frames
from ...embedding.load_encoder import load_dual_encoder
from ...utils.figures import COLOURS, new_figure
from ...utils.moment_merging import merge_moments
from ...utils.wording import HUB_TASKS, counted
from ..numerics.bootstrap import bootstrap_mean_interval
from ..numerics.moment_metrics import IOU_THRESHOLDS, first_moment_iou, moment_average_precisions, moment_row_values
from ..registry.evaluation_data import CaptionedDataOptions, ImageDataOptions
from ..registry.moment_data import MomentData, load_moments
from .evaluation_result import MeasuredResult
from .evaluation_task import EvaluationOptions, EvaluationTask, TaskSettings


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METRICS = ("R1@0.5", "R1@0.7", "mAP@0.5", "mAP@0.7", "mAP@0.75", "mAP", "mean_iou")
# How far a window may reach beyond its film: annotators count whole seconds, QVHighlights clips of two.
_SLACK = 2.0


@dataclass(frozen=True)
class MomentOptions(EvaluationOptions):
    """How to evaluate moment retrieval.

    Args:
        fps (`float`, *optional*, defaults to 1.0): Frames a second that are embedded.
        template (`str`, *optional*, defaults to `"{}"`): What the queries are put into.
        max_moments (`int`, *optional*, defaults to 10): The moments of a query that count, the best ones;
            QVHighlights' own evaluation takes ten.
        resamples, confidence, seed, encoding: As in [`ZeroShotOptions`].

    Raises:
        ValueError: if a value is not as above.
    """

    fps: float = 1.0
    template: str = "{}"
    max_moments: int = 10

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.fps, bool) or not 0 < self.fps < np.inf:
            raise ValueError(f"`fps` is {self.fps!r}; it must be a number of frames a second, above 0.")
        if not isinstance(self.template, str) or self.template.count("{}") != 1:
            raise ValueError(f"`template` is {self.template!r}; it must hold {{}} once, for the query.")
        if isinstance(self.max_moments, bool) or not isinstance(self.max_moments, int) or self.max_moments < 1:
            raise ValueError(f"`max_moments` is {self.max_moments!r}; it must be a whole number of at least 1.")


@dataclass(kw_only=True, repr=False)
class MomentResult(MeasuredResult):
    """Figures of moment retrieval.

    Args:
        values (`dict[str, float]`): `R1@0.5` and `R1@0.7`: share of the queries whose first moment has at least this
            intersection over union with a window. `mAP@0.5`, `mAP@0.7`, `mAP@0.75`: mean over queries of the average
            precision at this threshold; `mAP`: over 0.5, 0.55 ... 0.95. `mean_iou`: mean over queries of the first
            moment's intersection over union with the window it fits best.
        value_intervals (`dict[str, tuple[float, float]]`): Bootstrap intervals of the figures, over queries.
        num_queries, num_films (`int`): Queries and films, without those that were skipped.
        fps (`float`): Frames a second.
        template (`str`): What the queries were put into.
        first_ious (`np.ndarray` of shape (q,), float64): Intersection over union of each query's first moment.
        average_precisions (`np.ndarray` of shape (q, t), float64): Average precision of each query at each threshold.
        first_moments (`np.ndarray` of shape (q, 2), float64): Start and end of each query's first moment, seconds.
        film_of_query (`np.ndarray` of shape (q,), int64): The film of each query, by its place in the data.
    """

    task = "moments"
    task_type = HUB_TASKS["moments"]

    num_queries: int
    num_films: int
    fps: float
    template: str
    first_ious: np.ndarray
    average_precisions: np.ndarray
    first_moments: np.ndarray
    film_of_query: np.ndarray

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What was measured for each query, and its first moment."""
        names = ("first_ious", "average_precisions", "first_moments", "film_of_query")
        return {name: getattr(self, name) for name in names}

    def details(self) -> str:
        """How many queries and films there were, and how they were read."""
        sizes = f"{counted(self.num_queries, 'query', 'queries')}, {counted(self.num_films, 'film')}"
        return (
            f"{sizes}, {self.fps:g} frames a second, prompt `{self.template}`. Chance: the whole film as one moment."
        )

    def figure(self) -> "Figure":
        """R1 and mAP against the intersection over union that is asked for."""
        with new_figure(self.plot_title(), 4.6) as figure:
            axis = figure.subplots()
            asked = np.linspace(0.05, 1, 96)
            recalls = [100 * np.mean(self.first_ious >= each) for each in asked]
            axis.plot(asked, recalls, label="R1, first moment", color=COLOURS[0])
            precisions = 100 * self.average_precisions.mean(axis=0)
            axis.plot(IOU_THRESHOLDS, precisions, "s--", label="mAP, all moments", color=COLOURS[1])
            axis.set(xlabel="intersection over union asked for", ylabel="queries (%)", xlim=(0, 1), ylim=(0, 102))
            sizes = f"{counted(self.num_queries, 'query', 'queries')}, {counted(self.num_films, 'film')}"
            axis.set_title(f"Moments found; {sizes}")
            axis.legend(loc="upper right")
        return figure


def evaluate_moments(
    model: Any, data: Any, options: MomentOptions | None = None, *, processor: Any = None
) -> MomentResult:
    """Evaluate how well a model finds the moment of a film that a sentence describes (Lei et al. 2021).

    Frames are embedded as pictures, each film once for all its queries: a video model's temporal head joins no frames
    here. Neighbouring frames that answer a query are
    merged into moments as `clip-hf search` does it, and a film's moments are ranked by their best frame.

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path): The model; see [`load_dual_encoder`].
        data ([`MomentData`], or what [`load_moments`] takes): Queries with their films and windows.
        options ([`MomentOptions`], *optional*): Rate of frames, prompt, bootstrap and encoding.
        processor (*optional*): The model's processor, where the model is a `nn.Module`.

    Returns:
        [`MomentResult`]

    Raises:
        ValueError: if model or data cannot be used as asked, a window lies outside its film, or more films cannot be
            read than `options.encoding.max_skipped_share` allows; the others are skipped with their queries.

    Example:

    ```python
    >>> from clip_hf.evaluation import CaptionedDataOptions, evaluate_moments, load_moments

    >>> data = load_moments("highlight_val_release.jsonl", CaptionedDataOptions(image_root="videos"))
    >>> result = evaluate_moments("openai/clip-vit-base-patch32", data)
    >>> print(result.values["R1@0.5"], result.values["mAP"])
    ```
    """
    options = options or MomentOptions()
    if not isinstance(data, MomentData):
        data = load_moments(data)
    encoder = load_dual_encoder(model, processor=processor).of_pictures
    frames, skipped = _encode(encoder, data, options)
    kept = [row for row, film in enumerate(data.film_of_query) if frames[film] is not None]
    texts = [options.template.replace("{}", data.queries[row]) for row in kept]
    text_embeds = encode_text_list(encoder, texts, options=options.encoding)
    found, whole = [], []
    for row, embed in zip(kept, text_embeds):
        film = frames[data.film_of_query[row]]
        moments = merge_moments(film.starts, film.ends, film.features @ embed, times=film.times)
        found.append(np.array([moment[:2] for moment in moments[: options.max_moments]]).reshape(-1, 2))
        whole.append(np.array([[0.0, film.end]]))
    windows = [data.windows[row] for row in kept]
    rows, guessed = _measure(found, windows), _measure(whole, windows)
    intervals = {}
    if options.resamples:
        intervals = {
            name: bootstrap_mean_interval(moment_row_values(name, rows), **options.bootstrap) for name in _METRICS
        }
    result = MomentResult(
        model=encoder.name,
        data=data.name,
        split=data.split,
        chance={name: float(moment_row_values(name, guessed).mean()) for name in _METRICS},
        skipped=skipped,
        values={name: float(moment_row_values(name, rows).mean()) for name in _METRICS},
        value_intervals=intervals,
        num_queries=len(kept),
        num_films=sum(film is not None for film in frames),
        fps=float(options.fps),
        template=options.template,
        **rows,
        first_moments=np.array([moments[0] if len(moments) else (0.0, 0.0) for moments in found]),
        film_of_query=data.film_of_query[kept],
    )
    result.record_encoder(encoder)
    return result


def _encode(
    encoder: DualEncoder, data: MomentData, options: MomentOptions
) -> tuple[list[FilmFrames | None], dict[str, dict[str, Any]]]:
    """The frames of each film, None for one that cannot be read, and what results say of those."""
    films = data.films
    plans = plan_frames(films["video"], options.fps)
    _check_windows(data, plans)
    frames, skips = encode_film_frames(encoder, films, plans, options.encoding)
    finish_skips(skips, f"{data.name} ({data.split})", options.encoding.process == 0, "film")
    if not skips.num_skipped:
        return frames, {}
    numbers = {"images": skips.num_skipped, "of": len(films)}
    left_out = {**numbers, "kinds": dict(skips.kinds.most_common()), "examples": skip_examples(skips)}
    return frames, {data.split: left_out}


def _check_windows(data: MomentData, plans: Sequence[Any]) -> None:
    """Raise a `ValueError` if a window lies outside its film, before anything is encoded."""
    for row, (film, windows) in enumerate(zip(data.film_of_query, data.windows)):
        plan = plans[film]
        if not isinstance(plan, FilmFrames):
            continue  # a film that cannot be read
        outside = windows[(windows[:, 0] >= plan.end) | (windows[:, 1] > plan.end + _SLACK)]
        if len(outside):
            start, end = outside[0]
            raise ValueError(
                f"The window {start:g} to {end:g} s of query {row} of {data.name} ({data.queries[row]!r:.80}) lies "
                f"outside its film, which has {plan.end:.2f} s. Is it another cut of the film?"
            )


def _measure(found: Sequence[np.ndarray], windows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """What the metrics are means of, for each query."""
    return {
        "first_ious": np.array([first_moment_iou(*each) for each in zip(found, windows)]),
        "average_precisions": np.array([moment_average_precisions(*each) for each in zip(found, windows)]),
    }


class MomentTask(EvaluationTask):
    """Moments of films by sentences."""

    result = MomentResult

    def load(self, sources: Sequence[str], settings: TaskSettings) -> dict[str, MomentData]:
        """Load queries with their films and windows."""
        shared = {one.name: getattr(settings.data_options, one.name) for one in fields(ImageDataOptions)}
        options = CaptionedDataOptions(caption_column=settings.caption_column, **shared)
        return {"test": load_moments(sources[0], options)}

    def check(self, parts: dict[str, Any], settings: TaskSettings) -> None:
        """Refuse a rate of frames that is none."""
        self._options(settings)

    def encode(
        self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings, encoding: EncodingOptions
    ) -> None:
        """Embed the films' frames."""
        options = MomentOptions(fps=settings.fps, encoding=encoding)
        _encode(encoder.of_pictures, parts["test"], options)

    def run(self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings) -> MomentResult:
        """Find them."""
        return evaluate_moments(encoder, parts["test"], self._options(settings))

    @staticmethod
    def _options(settings: TaskSettings) -> MomentOptions:
        return MomentOptions(
            fps=settings.fps, resamples=settings.resamples, seed=settings.seed, encoding=settings.encoding
        )
