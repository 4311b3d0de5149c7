# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Workers of an embedding job on a Ray cluster: Ray Data's actors, which hold the model."""

import logging
import os
import pickle
import platform
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from .dual_encoder import DualEncoder
from .embedding_job import EmbeddingJob, JobTask
from .encoding_options import EncodingOptions
from .job_manifest import LOCKS
from .job_options import EmbeddingOptions
from .job_progress import JobTiming, combine_timings
from .load_encoder import load_dual_encoder


# Tasks in one call of a worker, which reads ahead over their ends.
_MOST_TASKS_PER_CALL = 8
_CALLS_PER_WORKER = 8  # at least, so that workers end at about the same time
_MOST_DEATHS = 3  # of workers, over one call
# What a user may be able to do something about, the more special kinds first.
_USER_ERRORS = (OSError, ImportError, ValueError, TypeError, RuntimeError)


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to take part in a job.

    Args:
        folder (`str`): The folder where the job was started. The worker goes there, because its paths are found there.
        model: What [`load_dual_encoder`] takes.
        loading (`dict`): Its other arguments, without the device.
        num_threads (`int`): Threads of PyTorch and of the runtimes.
        has_gpu (`bool`): Whether the model goes to the GPU that Ray gives the worker.
        source, destination, options, encoding: As in [`EmbeddingJob`], in a form that other machines understand.
    """

    folder: str
    model: Any
    loading: dict[str, Any]
    num_threads: int
    has_gpu: bool
    source: Any
    destination: str
    options: EmbeddingOptions
    encoding: EncodingOptions

    def job(self) -> EmbeddingJob:
        """The job, with a model of the worker's own."""
        torch.set_num_threads(self.num_threads)
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        loading = dict(self.loading)
        if self.has_gpu:
            if not torch.accelerator.is_available():
                raise OSError(
                    f"Ray gave this worker a GPU, but PyTorch {torch.__version__} finds none: install a PyTorch for "
                    "it there, or leave out `num_gpus` (--ray-gpus)."
                )
            loading["device"] = torch.accelerator.current_accelerator()  # of all GPUs it sees only its own
        elif not isinstance(self.model, nn.Module | DualEncoder):
            loading["device"] = "cpu"
        encoder = load_encoder(self.model, loading)
        return EmbeddingJob(encoder, self.source, self.destination, self.options, self.encoding)


def load_encoder(model: Any, loading: dict[str, Any]) -> DualEncoder:
    """As [`load_dual_encoder`], with the arguments of [`DualEncoder.set_image_options`] under `"image_options"`."""
    loading = dict(loading)
    image_options = loading.pop("image_options", {})
    encoder = load_dual_encoder(model, **loading)
    encoder.set_image_options(**image_options)
    return encoder


@dataclass(frozen=True)
class WorkerFailure:
    """An error of a worker in a form that any machine can read: its class may be unknown on another."""

    kind: type[Exception]
    arguments: tuple[Any, ...]
    host: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> "WorkerFailure":
        """The failure that an error is. One that no user can do anything about keeps its trace in the message."""
        trace = "".join(traceback.format_exception(error))
        kind = next((kind for kind in _USER_ERRORS if isinstance(error, kind)), None)
        if kind is None:
            return cls(RuntimeError, (f"A worker failed.\n{trace}",), platform.node(), trace)
        is_numbered = kind is OSError and error.errno is not None and error.strerror is not None
        arguments = (error.errno, error.strerror, error.filename) if is_numbered else (str(error),)
        return cls(kind, arguments, platform.node(), trace)

    def error(self) -> Exception:
        """The error to raise on this machine. Its message names the machine that it comes from, if that is another."""
        arguments = list(self.arguments)
        if self.host != platform.node():
            place = min(1, len(arguments) - 1)
            arguments[place] = f"On {self.host}: {arguments[place]}"
        error = self.kind(*arguments)
        error.__cause__ = RuntimeError(f"In a worker on {self.host}:\n{self.trace}")
        return error


class Worker:
    """An actor of Ray Data: it loads the model once, and does the tasks at some places of the job's list."""

    def __init__(self, stored: Any):
        # The model is loaded in the first call, which is counted: Ray Data replaces dead workers for ever.
        self.stored, self.job = stored, None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Do the tasks at `item["places"]`, unless too many workers died over them.

        Returns:
            `dict`: these places; `worker`, a name of this process; `deaths`, how many workers died over them;
            `timing`, where the time went, and `failure`, what went wrong, both pickled.
        """
        import ray

        with open(item["tries"], "a") as file:
            file.write("+")
        deaths, failure, timing = os.path.getsize(item["tries"]) - 1, b"", None
        if deaths < _MOST_DEATHS:
            try:
                if self.job is None:
                    self.job = ray.get(self.stored).job()
                tasks = self.job.tasks()
                timing = self.job.do([tasks[place] for place in item["places"]])
            except Exception as error:
                failure = pickle.dumps(WorkerFailure.of(error))
        worker = f"{platform.node()} {os.getpid()}"
        return {
            "places": item["places"],
            "worker": worker,
            "deaths": deaths,
            "timing": pickle.dumps(timing),
            "failure": failure,
        }


def run_workers(
    job: EmbeddingJob,
    tasks: dict[int, JobTask],
    stored: Any,
    bar: tqdm,
    *,
    num_workers: int,
    num_cpus: float,
    num_gpus: float,
) -> JobTiming | None:
    """Do tasks, given by their places, in workers of Ray Data; `stored` is Ray's reference of their [`WorkerSetup`].

    A worker that dies is replaced, and what it was doing is done again, until three workers died over it.

    Returns:
        [`JobTiming`] of all workers, without what those that died did; None if they embedded nothing.
    """
    import ray

    runs: dict[str, list[JobTiming]] = {}
    (job.folder / LOCKS).mkdir(parents=True, exist_ok=True)
    places = list(tasks)
    size = max(1, min(_MOST_TASKS_PER_CALL, len(places) // (num_workers * _CALLS_PER_WORKER)))
    with tempfile.TemporaryDirectory(prefix="ray-", dir=job.folder / LOCKS) as tries, _quiet_ray_data():
        calls = [
            {"places": places[start : start + size], "tries": f"{tries}/{start}"}
            for start in range(0, len(places), size)
        ]
        results = ray.data.from_items(calls, override_num_blocks=len(calls)).map(
            Worker,
            fn_constructor_args=(stored,),
            compute=ray.data.ActorPoolStrategy(size=min(num_workers, len(calls)), max_tasks_in_flight_per_actor=1),
            num_cpus=num_cpus,
            num_gpus=num_gpus or None,
        )
        for result in results.iter_rows():
            if result["failure"]:
                raise pickle.loads(result["failure"]).error()
            if result["deaths"] >= _MOST_DEATHS:
                raise RuntimeError(_say_deaths(job, [tasks[place] for place in result["places"]]))
            if (timing := pickle.loads(result["timing"])) is not None:
                runs.setdefault(result["worker"], []).append(timing)
            bar.update(len(result["places"]))
    return combine_timings(runs)


def _say_deaths(job: EmbeddingJob, tasks: list[JobTask]) -> str:
    task = next((task for task in tasks if job.missing([task])), tasks[0])
    shard, rows = job.source.shards[task.shard], ""
    if task.part is not None:
        start = task.part * job.options.rows_per_part
        rows = f"rows {start} to {min(start + job.options.rows_per_part, shard.num_rows) - 1} of "
    return (
        f"{_MOST_DEATHS} workers died over {task}, {rows}{shard.name}, or while they loaded the model. What is "
        "embedded stays. If memory ran out, use a smaller `batch_size`, fewer threads or fewer workers, and run this "
        "again."
    )


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """No bars and no lines of Ray Data's own: the job's bar counts parts, and errors are raised."""
    import ray

    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    shown, level = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = shown
        logger.setLevel(level)


def last_line(error: BaseException) -> str:
    """What an error of Ray comes down to: the sentence after its traces and before its advice for administrators."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[-1].partition(" Some common causes include")[0].partition(" There are some potential")[0]
    return text if text.endswith((".", "!", "?")) else f"{text}."
