# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Workers of an embedding job on a Ray cluster: actors that hold the model, and the pool that replaces dead ones."""

import os
import platform
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..utils.wording import counted
from .dual_encoder import DualEncoder
from .embedding_job import EmbeddingJob, JobTask
from .encoding_options import EncodingOptions
from .job_options import EmbeddingOptions
from .load_encoder import load_dual_encoder


# Tasks in one call of a worker, which reads ahead over their ends.
_MOST_TASKS_PER_CALL = 8
_CALLS_PER_WORKER = 8  # at least, so that workers end at about the same time
_MOST_DEATHS = 3  # of workers, over one task or while they load the model
_START_TIMEOUT = 60.0  # seconds without any answer until a line says that workers have not started
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
    """An actor: it loads the model, and does the tasks at some places of the job's list."""

    def __init__(self, setup: WorkerSetup):
        # The model is loaded later, because of an actor that fails here Ray tells no more than a text.
        self.setup = setup

    def load(self) -> WorkerFailure | None:
        """Load the model; returns what went wrong."""
        try:
            self.job = self.setup.job()
        except Exception as error:
            return WorkerFailure.of(error)
        return None

    def do(self, places: list[int]) -> WorkerFailure | None:
        """Do the tasks at these places; returns what went wrong."""
        try:
            tasks = self.job.tasks()
            self.job.do([tasks[place] for place in places])
        except Exception as error:
            return WorkerFailure.of(error)
        return None


class WorkerPool:
    """Workers that share the tasks of a job.

    - A worker that dies is replaced. What was missing of its call is done again, each task by itself.
    - Three workers that die over the same task, or in a row while they load the model, are an error.
    - In the end, and after any error or interruption, all workers are ended.

    Args:
        job ([`EmbeddingJob`]): The job.
        tasks (`dict[int, JobTask]`): What is missing, by its place among all tasks.
        start (`Callable`): Starts a [`Worker`] as an actor.
        bar (`tqdm`): Counts the tasks.
    """

    def __init__(self, job: EmbeddingJob, tasks: dict[int, JobTask], start: Callable[[], Any], bar: tqdm):
        self.job, self.tasks, self.start, self.bar = job, tasks, start, bar
        self._waiting: deque[list[int]] = deque()
        # By the reference of a call: the actor, and the places of the call, None while it loads the model.
        self._running: dict[Any, tuple[Any, list[int] | None]] = {}
        self._idle: list[Any] = []
        self._deaths: Counter[int] = Counter()
        self._failed_starts = 0

    def run(self, num_workers: int) -> None:
        """Do all tasks; the errors are those of [`clip_hf.embedding.ray.embed`]."""
        import ray

        places = list(self.tasks)
        size = max(1, min(_MOST_TASKS_PER_CALL, len(places) // (num_workers * _CALLS_PER_WORKER)))
        self._waiting.extend(places[start : start + size] for start in range(0, len(places), size))
        timeout: float | None = _START_TIMEOUT
        try:
            for _ in range(min(num_workers, len(self._waiting))):
                self._start_worker()
            while self._running:
                ended, _ = ray.wait(list(self._running), timeout=timeout)
                if not ended:
                    timeout = None
                    self._say_who_is_missing()
                for reference in ended:
                    self._take(reference)
                while self._idle and self._waiting:
                    worker, places = self._idle.pop(), self._waiting.popleft()
                    self._running[worker.do.remote(places)] = (worker, places)
        finally:
            for worker in [*self._idle, *(worker for worker, _ in self._running.values())]:
                ray.kill(worker)

    def _start_worker(self) -> None:
        worker = self.start()
        self._running[worker.load.remote()] = (worker, None)

    def _take(self, reference: Any) -> None:
        """Take the result of a call; its errors are raised."""
        import ray

        worker, places = self._running.pop(reference)
        try:
            failure = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            ray.kill(worker)  # it may only be out of reach
            self._note_death(places, last_line(error))
            if len(self._waiting) > len(self._idle):
                self._start_worker()
            return
        self._idle.append(worker)
        if failure is not None:
            raise failure.error()
        if places is None:
            self._failed_starts = 0
        else:
            self.bar.update(len(places))

    def _note_death(self, places: list[int] | None, reason: str) -> None:
        """Put back what a worker left undone; RuntimeError if it is the third to die over that."""
        if places is None:
            self._failed_starts += 1
            if self._failed_starts == _MOST_DEATHS:
                raise RuntimeError(
                    f"{_MOST_DEATHS} workers in a row died before they had the model. {reason} Do all machines have "
                    "clip_hf and enough memory?"
                )
            return
        left = [place for place in places if self.job.missing([self.tasks[place]])]
        self.bar.update(len(places) - len(left))
        if len(places) == 1 and left:
            (place,) = left
            self._deaths[place] += 1
            if self._deaths[place] == _MOST_DEATHS:
                raise RuntimeError(
                    f"{_MOST_DEATHS} workers died over {self._described(self.tasks[place])}. {reason} What is "
                    "embedded stays. If memory ran out, use a smaller `batch_size`, fewer threads or fewer workers, "
                    "and run this again."
                )
        self._waiting.extendleft([place] for place in reversed(left))

    def _described(self, task: JobTask) -> str:
        shard, size = self.job.source.shards[task.shard], self.job.options.rows_per_part
        if task.part is None:
            return f"{task}, {shard.name}"
        start = task.part * size
        return f"{task}, rows {start} to {min(start + size, shard.num_rows) - 1} of {shard.name}"

    def _say_who_is_missing(self) -> None:
        count = sum(places is None for _, places in self._running.values())
        if count and self.job.encoding.progress and sys.stderr is not None:
            are = "is" if count == 1 else "are"
            tqdm.write(
                f"embed: {counted(count, 'worker')} {are} not ready after {_START_TIMEOUT:.0f} seconds; other jobs of "
                "the cluster may hold what they ask for",
                file=sys.stderr,
            )


def last_line(error: BaseException) -> str:
    """What an error of Ray comes down to: the sentence after its traces and before its advice for administrators."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = lines[-1].partition(" Some common causes include")[0].partition(" There are some potential")[0]
    return text if text.endswith((".", "!", "?")) else f"{text}."
