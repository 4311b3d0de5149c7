# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf classify` and `clip-hf search` with `--server`: a running server does the work."""

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from _clip_hf_cli.search import STARTED, TOP_K
from _clip_hf_cli.serve import KEY_VARIABLE

from ..model.image_reading_clip_hf import open_image
from ..serving.client_items import PAUSE, ItemError
from ..serving.client_protocol import ServerError
from ..serving.serving_client import Client
from .api_keys import read_api_key
from .classify import (
    Predictions,
    empty_folder,
    image_paths,
    image_source,
    plain_error,
    read_inputs,
    show_answers,
)
from .image_options import image_options
from .search import check_images, read_query, show_results
from .terminal_text import printable


_PICTURE_EDGE = 256  # pixels


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; the exit status is that of the command without a server."""
    return {"classify": _classify, "search": _search}[options.command](options)


def _open_client(options: argparse.Namespace) -> Client:
    """A client of the server, which answers; an error at once if it does not."""
    key = read_api_key(options.api_key_file)
    try:
        with Client(options.server, key, max_retries=0) as client:
            client.models()
        return Client(options.server, key)
    except ServerError as error:
        if error.status != 401:
            raise
        raise ValueError(f"{error}. The key comes from --api-key-file FILE or ${KEY_VARIABLE}.") from error
    except ValueError as error:
        if "API key" not in str(error):
            raise
        raise ValueError(f"{error} The key comes from --api-key-file FILE or ${KEY_VARIABLE}.") from error


def _classify(options: argparse.Namespace) -> int:
    labels, templates = read_inputs(options)
    scoring = {
        "templates": templates,
        "top_k": options.top_k,
        "threshold": options.threshold,
        "multi_label": options.multi_label,
    }
    with _open_client(options) as client:
        return show_answers(options, _answers(client, options, labels, scoring))


def _answers(
    client: Client, options: argparse.Namespace, labels: list[str], scoring: dict[str, Any]
) -> Iterator[tuple[str, Predictions | Exception]]:
    """Each path with the server's answer for it, or with what is wrong."""
    sent: deque[str] = deque()

    def images() -> Iterator[Any]:
        for path in image_paths(options.images):
            if path is None:
                yield PAUSE
            else:
                sent.append(path)
                yield empty_folder() if os.path.isdir(path) else image_source(path)

    for outcome in client.classify_stream(
        images(), labels, batch_size=options.batch_size, on_error="yield", **scoring
    ):
        path = sent.popleft()
        if not isinstance(outcome, ItemError):
            yield path, outcome
        elif os.path.isdir(path):
            yield path, empty_folder()
        elif isinstance(outcome.__cause__, ServerError):
            yield path, _explain(path, outcome)
        else:  # it was not sent
            yield path, plain_error(outcome)


def _explain(path: str, refused: ItemError) -> Exception:
    """What is wrong with a file that the server refused: in the words of the command without a server, if it is
    refused here too."""
    try:
        if "://" not in path:
            open_image(image_source(path))
    except (ValueError, OSError) as error:
        return plain_error(error)
    return ValueError(refused.message)


def _search(options: argparse.Namespace) -> int:
    if os.path.isdir(options.query[0]):
        folder = printable(options.query[0])
        print(f"clip-hf search: with --server all words are the query, also {folder}, a folder here.", file=sys.stderr)
    terms = read_query(options)
    check_images(terms, image_options(options)["image_limits"])
    wants_pictures = sys.stdout.isatty() if options.thumbnails is None else options.thumbnails
    with _open_client(options) as client:
        started = time.perf_counter()
        results = client.search(
            terms,
            picture_edge=_PICTURE_EDGE if options.html is not None or wants_pictures else None,
            top_k=options.top_k or TOP_K,
            threshold=options.threshold,
            filters=options.filter,
            no_match=options.no_match,
        )
    seconds = {"start": started - STARTED, "server": time.perf_counter() - started}
    show_results(results, options, terms, seconds)
    return 0
