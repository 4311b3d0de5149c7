# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf serve`: a model over HTTP."""

import argparse
import logging
import os
from functools import partial
from pathlib import Path

from _clip_hf_cli.search import STARTED
from _clip_hf_cli.serve import KEY_VARIABLE, LIMITS

from ..embedding.load_encoder import check_encoder_options
from ..serving import BatchingOptions, LoadedModel, ServerOptions, ServingLimits, serve
from ..serving.server_middleware import is_loopback
from ..serving.server_options import ANY_HOST
from .api_keys import read_api_key
from .indexed_sources import find_index, load_index_encoder, open_index


_BUILDING = {"batch_size": 64, "num_threads": None}


def run(options: argparse.Namespace) -> int:
    """Serve until a signal; the exit status is 0."""
    if not 0 <= options.port <= 65535:
        raise ValueError(f"--port is {options.port}; a port is 0 to 65535.")
    if not options.drain_seconds >= 0:
        raise ValueError(f"--drain-seconds is {options.drain_seconds}; it must be 0 or more.")
    served = server_options(options)
    if options.rebuild and options.index is None:
        raise ValueError("--rebuild builds the index of --index anew: name its source, or leave it out.")
    device = check_encoder_options(options.runtime, options.dtype, options.device)
    # As `clip-hf search` has it: there SOURCE may have its index elsewhere.
    source = argparse.Namespace(**{**vars(options), **_BUILDING, "source": options.index, "index": None})
    folder, index = (None, None) if options.index is None else find_index(source)

    def load() -> LoadedModel:
        encoder = load_index_encoder(source, index, device)
        return LoadedModel(encoder, None if options.index is None else open_index(source, encoder, folder))

    _log_to_stderr()
    report = partial(print, flush=True)
    network = {"drain_seconds": options.drain_seconds, "report": report, "started": STARTED}
    return serve(load, served, options.host, options.port, **network)


def server_options(options: argparse.Namespace) -> ServerOptions:
    """The arguments as the server takes them.

    Raises:
        OSError, ValueError: if one is wrong, or anyone could use the server without a key.
    """
    limits = {f"max_{name}": getattr(options, f"max_{name}") for name in LIMITS}
    is_local = is_loopback(options.host)
    key = None if options.no_api_key else read_api_key(options.api_key_file)
    if not is_local and key is None and not options.no_api_key:
        raise ValueError(
            f"--host {options.host} lets other machines in: give --api-key-file or set {KEY_VARIABLE}; "
            "--no-api-key lets everyone use the model."
        )
    return ServerOptions(
        name=default_name(options.model) if options.name is None else options.name,
        api_key=key,
        allowed_hosts=tuple(options.allowed_hosts) or (() if is_local else (ANY_HOST,)),
        allow_image_hosts=tuple(options.allow_image_hosts),
        limits=ServingLimits(max_image_pixels=options.max_image_pixels, **limits),
        batching=BatchingOptions(options.max_batch_images, options.max_batch_texts, options.max_wait_ms),
    )


def default_name(model: str) -> str:
    """The name on the hub, or the last part of a path."""
    if os.path.exists(model):
        return Path(model).resolve().name
    return Path(model).name if ":" in model else model


def _log_to_stderr() -> None:
    """Requests, and what goes wrong, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("clip_hf.serving", logging.INFO), ("uvicorn", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.handlers, logger.propagate = [handler], False
