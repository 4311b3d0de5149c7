# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embedding jobs on a Ray cluster: the same parts by the same worker, scheduled by Ray Data."""

import os
from dataclasses import replace
from typing import Any

from ..utils.extras import require_extra
from .dual_encoder import DualEncoder
from .embedding_job import EmbeddingJob
from .encoding_options import EncodingOptions
from .job_options import EmbeddingOptions
from .job_summary import EmbeddingSummary
from .load_encoder import load_dual_encoder


# Tasks in one call of a worker, which reads ahead over their ends.
_MOST_TASKS_PER_CALL = 8
_CALLS_PER_WORKER = 8  # at least, so that workers end at about the same time


def embed(
    model: Any,
    source: Any,
    destination: str | os.PathLike,
    *,
    num_workers: int,
    options: EmbeddingOptions | None = None,
    encoding: EncodingOptions | None = None,
    resources: dict[str, Any] | None = None,
    loading: dict[str, Any] | None = None,
) -> EmbeddingSummary:
    """Embed as [`clip_hf.embedding.embed`] does, with workers on a Ray cluster.

    - Each worker is an actor that loads the model once. Ray replaces a worker that died, and its parts are done again.
    - What is done is what lies in the destination, not what Ray knows: a job can be interrupted, and gone on with by
      any number of workers or without Ray. All machines must see model, source and destination under the same names.
    - A cluster that is connected (`ray.init`) or named by `RAY_ADDRESS` is used; otherwise one is started here.

    Args:
        model, source, destination, options, encoding: As in [`clip_hf.embedding.embed`].
        num_workers (`int`): Workers.
        resources (`dict`, *optional*): What each worker asks Ray for, such as `{"num_gpus": 1}` or `{"num_cpus": 4}`;
            by default one processor.
        loading (`dict`, *optional*): Further arguments of [`load_dual_encoder`], such as `{"dtype": "float16"}`; under
            `"image_options"` those of [`DualEncoder.set_image_options`].

    Returns:
        [`EmbeddingSummary`]: without timing.

    Raises:
        ValueError, OSError: as in [`clip_hf.embedding.embed`].
        MissingExtra: if Ray is not installed.
    """
    require_extra("cluster", "clip_hf.embedding.ray", "ray")
    import ray

    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
        raise ValueError(f"`num_workers` is {num_workers!r}; it must be an integer of at least 1.")
    job = EmbeddingJob(_load_encoder(model, loading), source, destination, options, encoding)
    index, count = job.options.shard
    missing = set(job.missing(job.tasks()[index::count]))
    places = [place for place, task in enumerate(job.tasks()) if task in missing]
    if places:
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
        # Workers keep `retry_bad`: they embed the parts with bad rows that they are given again.
        quiet = replace(job.encoding, progress=False, accelerator=None)
        # Workers may start in another folder.
        model = os.path.abspath(model) if isinstance(model, str | os.PathLike) and os.path.exists(model) else model
        arguments = (model, loading, job.given, str(job.folder), job.options, quiet)
        _run_workers(places, num_workers, arguments, resources)
    return job.finish()


def _load_encoder(model: Any, loading: dict[str, Any] | None) -> DualEncoder:
    loading = dict(loading or {})
    image_options = loading.pop("image_options", {})
    encoder = load_dual_encoder(model, **loading)
    encoder.set_image_options(**image_options)
    return encoder


def _run_workers(
    places: list[int], num_workers: int, arguments: tuple[Any, ...], resources: dict[str, Any] | None
) -> None:
    import ray

    context = ray.data.DataContext.get_current()
    was_shown, context.enable_progress_bars = context.enable_progress_bars, False
    per_call = max(1, min(_MOST_TASKS_PER_CALL, len(places) // (num_workers * _CALLS_PER_WORKER)))
    items = [{"tasks": places[start : start + per_call]} for start in range(0, len(places), per_call)]
    try:
        rows = ray.data.from_items(items, override_num_blocks=len(items)).map(
            _Worker,
            fn_constructor_args=arguments,
            compute=ray.data.ActorPoolStrategy(size=num_workers, max_tasks_in_flight_per_actor=1),
            **(resources or {"num_cpus": 1}),
        )
        for _ in rows.iter_rows():
            pass
    except ray.exceptions.RayTaskError as error:
        raise _cause_of(error) from error
    finally:
        context.enable_progress_bars = was_shown


def _cause_of(error: BaseException) -> BaseException:
    """What a worker raised, below what Ray and Ray Data made of it."""
    while True:
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, Exception):
            return error
        error = inner


class _Worker:
    """An actor with the model, which does the tasks at some places of the job's list."""

    def __init__(
        self,
        model: Any,
        loading: dict[str, Any] | None,
        source: Any,
        destination: str,
        options: EmbeddingOptions,
        encoding: EncodingOptions,
    ):
        self.job = EmbeddingJob(_load_encoder(model, loading), source, destination, options, encoding)

    def __call__(self, item: dict[str, Any]) -> dict[str, int]:
        tasks = self.job.tasks()
        self.job.do([tasks[place] for place in item["tasks"]])
        return {"done": len(item["tasks"])}
