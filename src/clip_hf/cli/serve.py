# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf serve`: a model over HTTP."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _clip_hf_cli.search import STARTED
from _clip_hf_cli.serve import INDEX_OPTIONS, KEY_VARIABLE, LIMITS

from ..checkpoints.paths import check_exists
from ..embedding.load_encoder import check_encoder_options
from ..model.image_transform_clip_hf import parse_color
from ..serving import BatchingOptions, LoadedModel, ServerOptions, ServingLimits, serve
from ..serving.http_server import resolve_host
from ..serving.line_writer import LineHandler, LineWriter
from ..serving.server_middleware import is_loopback
from ..serving.server_options import ANY_HOST
from .api_keys import read_api_key
from .image_options import image_options
from .indexed_sources import find_index, load_index_encoder, open_index


_BUILDING = {"batch_size": 64, "num_threads": None}


def run(options: argparse.Namespace) -> int:
    """Serve until a signal; the exit status is 0."""
    with _logging_to_stderr():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    _check_index_options(options)
    if not 0 <= options.port <= 65535:
        raise ValueError(f"--port is {options.port}; a port is 0 to 65535.")
    if not options.drain_seconds >= 0:
        raise ValueError(f"--drain-seconds is {options.drain_seconds}; it must be 0 or more.")
    if ":" not in options.model:  # where another library looks it up
        check_exists(options.model)
    host = resolve_host(options.host)
    served = server_options(options, is_loopback(host))
    with _naming_options("image_"):
        image_options(options)
    if options.background_color is not None:
        parse_color(options.background_color)
    device = check_encoder_options(options.runtime, options.dtype, options.device)
    # As `clip-hf search` has it: there SOURCE may have its index elsewhere.
    source = argparse.Namespace(**{**vars(options), **_BUILDING, "source": options.index, "index": None})
    folder, index = (None, None) if options.index is None else find_index(source)

    def load() -> LoadedModel:
        encoder = load_index_encoder(source, index, device)
        return LoadedModel(encoder, None if options.index is None else open_index(source, encoder, folder))

    output = LineWriter(sys.stdout.fileno())
    network = {"drain_seconds": options.drain_seconds, "report": output.write, "started": STARTED}
    try:
        return serve(load, served, host, options.port, **network)
    finally:
        output.finish()


def _check_index_options(options: argparse.Namespace) -> None:
    """Raise a `ValueError` for options of an index that is not there."""
    given = [name for name, default in INDEX_OPTIONS.items() if getattr(options, name) != default]
    if options.index is None and given:
        names = ", ".join(_option(name) for name in given)
        raise ValueError(f"{names}: what belongs to an index goes with --index only.")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@contextmanager
def _naming_options(prefix: str = "") -> Iterator[None]:
    """Let errors that name a limit, such as `max_items`, name its option, with a prefix behind `max_`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub("`max_(\\w+)`", lambda name: _option(f"max_{prefix}{name[1]}"), str(error))) from error


def server_options(options: argparse.Namespace, is_local: bool) -> ServerOptions:
    """The arguments as the server takes them; `is_local` says whether only this machine can reach it.

    Raises:
        OSError, ValueError: if one is wrong, or anyone could use the server without a key.
    """
    limits = {f"max_{name}": getattr(options, f"max_{name}") for name in LIMITS}
    key = None if options.no_api_key else read_api_key(options.api_key_file)
    if not is_local and key is None and not options.no_api_key:
        raise ValueError(
            f"--host {options.host} lets other machines in: give --api-key-file or set {KEY_VARIABLE}; "
            "--no-api-key lets everyone use the model."
        )
    with _naming_options():
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


@contextmanager
def _logging_to_stderr() -> Iterator[None]:
    """Write requests, and what goes wrong, one line each; never wait for who reads them."""
    output = LineWriter(sys.stderr.fileno())
    handler, root = LineHandler(output), logging.getLogger()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    levels = {"clip_hf.serving": logging.INFO, "uvicorn": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        output.finish()
