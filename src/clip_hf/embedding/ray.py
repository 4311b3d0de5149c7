# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Embedding jobs on a Ray cluster: the same parts by the same worker, by Ray Data's actors."""

import math
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ..export.runtime_sessions import RUNTIMES
from ..utils.dtypes import AUTO, parse_inference_dtype
from ..utils.extras import require_extra
from ..utils.processor import count_threads
from ..utils.wording import counted
from .dual_encoder import DualEncoder
from .embedding_job import EmbeddingJob
from .encoding_options import EncodingOptions
from .exported_encoder import ExportedEncoder
from .job_manifest import settle_dtype
from .job_options import EmbeddingOptions
from .job_summary import EmbeddingSummary
from .ray_workers import WorkerSetup, last_line, load_encoder, run_workers


_CONNECTION_TIMEOUT = 10.0  # seconds


def embed(
    model: Any,
    source: Any,
    destination: str | os.PathLike,
    *,
    num_workers: int,
    num_cpus: float = 1,
    num_gpus: float = 0,
    options: EmbeddingOptions | None = None,
    encoding: EncodingOptions | None = None,
    **loading: Any,
) -> EmbeddingSummary:
    """Embed as [`clip_hf.embedding.embed`] does, with workers on a Ray cluster.

    - Each worker is an actor that loads the model once. One that dies is replaced, and its parts are done again.
    - What is done is what lies in the destination, not what Ray knows: a job can be interrupted, and gone on with by
      any number of workers or without Ray. All machines must see model, source and destination under the same names.
    - A cluster that is connected (`ray.init`) or named by `RAY_ADDRESS` is used; otherwise one is started here, and
      ended with the job.

    Args:
        model, source, destination, options: As in [`clip_hf.embedding.embed`].
        num_workers (`int`): Workers. The cluster must have room for all of them.
        num_cpus (`float`, *optional*, defaults to 1): Processors that each worker asks Ray for. PyTorch, ONNX Runtime
            and OpenVINO use as many threads, at least one.
        num_gpus (`float`, *optional*, defaults to 0): GPUs that each worker asks Ray for, at most one; 0.5 puts two
            workers on a GPU. The model runs there, without a GPU on the processor.
        encoding ([`EncodingOptions`], *optional*): As in [`clip_hf.embedding.embed`]; by default as many threads read
            and prepare images as a worker has processors, 8 at most.
        **loading: As in [`clip_hf.embedding.embed`], but without `device`; `image_options` is a dict with arguments of
            [`DualEncoder.set_image_options`].

    Returns:
        [`EmbeddingSummary`]: its timing is that of all workers together, without those that died.

    Raises:
        ValueError, OSError, ImportError: as in [`clip_hf.embedding.embed`], on any machine of the cluster.
        ValueError: if a number is not allowed, the cluster has no room for the workers, or the model cannot run on
            what they ask for.
        ConnectionError: if the cluster of `RAY_ADDRESS` cannot be reached.
        RuntimeError: if three workers died over one part, which is named, or while they loaded the model.
        MissingExtra: if Ray is not installed.
    """
    require_extra("cluster", "clip_hf.embedding.ray", "ray")
    import ray

    _check_numbers(num_workers, num_cpus, num_gpus)
    loading = _settle_loading(model, loading, num_gpus, destination)
    is_named = isinstance(model, str | os.PathLike)
    encoder = load_encoder(model, {**loading, "device": "cpu"} if is_named else loading)
    if num_gpus and isinstance(encoder, ExportedEncoder):
        raise ValueError(f"{encoder.name} runs on the processor only: leave out `num_gpus` (--ray-gpus).")
    if loading.get("dtype") == AUTO and encoder.dtype.is_floating_point:
        loading["dtype"] = encoder.dtype  # workers on other processors might pick another
    encoding = encoding or EncodingOptions(num_threads=count_threads(num_cpus))
    job = EmbeddingJob(encoder, source, destination, options, encoding)
    missing = set(job.missing(job.share()))
    tasks, timing = {place: task for place, task in enumerate(job.tasks()) if task in missing}, None
    if tasks:
        setup = WorkerSetup(
            folder=os.getcwd(),
            model=os.path.abspath(model) if is_named and os.path.exists(model) else model,
            loading=loading,
            num_threads=max(1, int(num_cpus)),
            has_gpu=num_gpus > 0,
            source=job.given,
            destination=str(job.folder),
            options=job.options,  # with `retry_bad`: the parts that are given to it are embedded again
            encoding=replace(job.encoding, progress=False, accelerator=None),
        )
        with _connected(), job.encoding.progress_bar(encoder.name, "parts", len(tasks)) as bar:
            check_room(ray.nodes(), num_workers, num_cpus, num_gpus)
            room = {"num_workers": num_workers, "num_cpus": num_cpus, "num_gpus": num_gpus}
            timing = run_workers(job, tasks, _store(setup), bar, **room)
    return job.finish(timing)


# ------------------------------------------------------------------------------------------------- before the workers


def _check_numbers(num_workers: int, num_cpus: float, num_gpus: float) -> None:
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
        raise ValueError(f"`num_workers` (--ray) is {num_workers!r}; it must be an integer of at least 1.")
    if not 0 < num_cpus < math.inf or (num_cpus > 1 and num_cpus != int(num_cpus)):
        raise ValueError(
            f"`num_cpus` (--ray-cpus) is {num_cpus!r}; it must be more than 0, and above 1 a whole number."
        )
    if not 0 <= num_gpus <= 1:
        raise ValueError(
            f"`num_gpus` (--ray-gpus) is {num_gpus!r}; it must be from 0 to 1, because a worker uses one GPU or a "
            "share of it. For more GPUs start more workers."
        )


def _settle_loading(
    model: Any, loading: dict[str, Any], num_gpus: float, destination: str | os.PathLike
) -> dict[str, Any]:
    """The arguments of [`load_dual_encoder`], without what is None; the errors are those of `embed`."""
    loading = {name: value for name, value in loading.items() if value is not None}
    if loading.get("dtype") == AUTO:
        loading["dtype"] = settle_dtype(AUTO, destination)
    if "device" in loading:
        raise ValueError(
            f"`device` (--device) is {str(loading['device'])!r}, but a worker's device is what it asks Ray for: pass "
            "`num_gpus=1` (--ray-gpus 1) for a GPU, or nothing for the processor."
        )
    if num_gpus and loading.get("runtime") in RUNTIMES:
        raise ValueError(
            f"`runtime` is {loading['runtime']!r}, which runs on the processor: leave out `num_gpus` (--ray-gpus)."
        )
    if num_gpus and isinstance(model, DualEncoder):
        raise ValueError(
            "A DualEncoder stays on its device: give the model by its name, path or `nn.Module`, or leave out "
            "`num_gpus`."
        )
    if num_gpus and loading.get("dtype") == AUTO:
        if not torch.accelerator.is_available():
            raise ValueError(
                '`dtype` is "auto", which the GPU decides, but this machine has none to ask: say "float16", '
                '"bfloat16" or "float32".'
            )
        loading["dtype"] = parse_inference_dtype(AUTO)
    return loading


@contextmanager
def _connected() -> Iterator[None]:
    """A connection to a cluster. One that was there before stays."""
    import ray

    was_connected = ray.is_initialized()
    if not was_connected:
        address = os.environ.get("RAY_ADDRESS", "")
        _check_reachable(address)
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            there = f"the Ray cluster {address} (RAY_ADDRESS)" if address else "a Ray cluster"
            raise ConnectionError(f"No connection to {there}: {last_line(error)}") from error
    try:
        yield
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"Ray failed: {last_line(error)} What is embedded stays: run this again.") from error
    finally:
        if not was_connected:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """ConnectionError if nobody listens at `host:port`, which Ray would try for minutes before it ends the program."""
    host, _, port = address.partition("://")[2 if "://" in address else 0].rpartition(":")
    if not host or not port.isdigit():
        return  # none, or one of Ray's own words
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECTION_TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"The Ray cluster {address} (RAY_ADDRESS) cannot be reached: {error}. Start it (`ray start --head`), "
            "correct the address, or unset RAY_ADDRESS to run on this machine."
        ) from error


def check_room(nodes: Sequence[dict[str, Any]], num_workers: int, num_cpus: float, num_gpus: float) -> None:
    """ValueError if the machines of a cluster, as `ray.nodes()` gives them, can never hold all workers at once."""
    there = [node["Resources"] for node in nodes if node["Alive"]]
    asked = {name: amount for name, amount in (("CPU", num_cpus), ("GPU", num_gpus)) if amount}
    # Ray counts in units of 0.0001.
    room = sum(min(int(node.get(name, 0) / amount + 1e-4) for name, amount in asked.items()) for node in there)
    if room < num_workers:
        each = " and ".join(f"{amount:g} {name}" for name, amount in asked.items())
        total = " and ".join(f"{sum(node.get(name, 0) for node in there):g} {name}" for name in ("CPU", "GPU"))
        raise ValueError(
            f"The Ray cluster has room for {counted(room, 'worker')} of {each} each, not for {num_workers}: it has "
            f"{total} on {counted(len(there), 'machine')}. Ask for fewer workers (--ray), or for less for each "
            "(--ray-cpus, --ray-gpus)."
        )


def _store(setup: WorkerSetup) -> Any:
    """Put what each worker needs where all of them find it."""
    import ray

    try:
        return ray.put(setup)
    except (TypeError, pickle.PicklingError) as error:
        raise TypeError(
            f"Model and source are sent to the workers, but one of them cannot be: {last_line(error)} Give them by "
            "name or path."
        ) from error
