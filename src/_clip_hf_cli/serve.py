# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf serve`."""

import argparse
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .classify import parse_count
from .embed import add_column_arguments
from .evaluate import INFERENCE_DTYPES, MAX_SKIPPED_SHARE, add_image_arguments, add_runtime_argument, add_skip_argument


# tests/cli/test_serve_command.py holds that these are what `clip_hf.serving` has. Defaults, and what they bound.
HOST, PORT = "127.0.0.1", 8000
KEY_VARIABLE = "CLIP_HF_API_KEY"
DRAIN_SECONDS = 30.0
MAX_BATCH_IMAGES, MAX_BATCH_TEXTS, MAX_WAIT_MS = 32, 256, 5.0
MAX_IMAGE_PIXELS = 64_000_000
LIMITS = {
    "body_bytes": (32 * 2**20, "bytes of a request's body"),
    "items": (2048, "texts and images in a request"),
    "prompts": (20_000, "labels times templates of a request"),
    "prompt_characters": (4_000_000, "characters of all these prompts"),
    "text_characters": (8192, "characters of a text, label or template"),
    "seconds": (60.0, "time of a request, from its first byte to its answer"),
    "header_seconds": (10.0, "time in which a request's headers must arrive"),
    "body_seconds": (30.0, "time in which a request's body must arrive"),
    "pending_requests": (1024, "requests that are being answered; more get 429"),
    "pending_items": (32_768, "texts and images of these"),
    "pending_bytes": (2**29, "bytes of their bodies"),
    "connections": (4096, "open connections; for more, idle ones are closed"),
}
# What goes with --index only, and its default.
INDEX_OPTIONS = {
    "rebuild": False,
    "split": None,
    "image_column": None,
    "caption_column": "caption",
    "image_root": None,
    "max_skipped_share": MAX_SKIPPED_SHARE,
}
_EPILOG = """\
examples:
  clip-hf serve outputs/demo/vit/last                              then open http://127.0.0.1:8000
  clip-hf serve my_model --index my_photos --port 8080
  clip-hf serve my_model --host 0.0.0.0 --api-key-file /run/secrets/key --allowed-hosts clip.example.com
  clip-hf serve my_model --runtime openvino --max-batch-images 64
"""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End the process with status 0 at a signal, until the server, which drains, takes its signals over.

    Importing takes seconds, and to the first process of a container the kernel gives no signal without a handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
    before = {each: signal.getsignal(each) for each in (getattr(signal, name) for name in names)}
    before = {each: handler for each, handler in before.items() if handler is not signal.SIG_IGN}  # by `nohup`
    for each in before:
        signal.signal(each, lambda *_: os._exit(0))
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Serve a model over HTTP: OpenAI's embeddings, zero-shot classification, ranking, search, and a page to\n"
        "try it. By default it listens on this machine only."
    )
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="what `clip-hf embed` takes")
    parser.add_argument("--name", help="the model's name to clients (default: the folder's, or the name on the hub)")
    _add_network_arguments(parser)
    index = parser.add_argument_group("index")
    index.add_argument("--index", metavar="SOURCE", help="what to search: an index, or what `clip-hf search` takes")
    index.add_argument("--rebuild", action="store_true", help="build it anew, for example with another model")
    add_column_arguments(index)
    work = parser.add_argument_group("model")
    work.add_argument("--device", help="such as cuda or cpu (default: an accelerator, if there is one)")
    add_runtime_argument(work)
    work.add_argument(
        "--dtype", choices=INFERENCE_DTYPES, help="what to compute in (default: float32, or as it was exported)"
    )
    _add_batch_arguments(work)
    limits = parser.add_argument_group("limits", "of requests; what exceeds them is refused")
    for name, (default, help_text) in LIMITS.items():
        limits.add_argument(
            f"--max-{name.replace('_', '-')}",
            type=type(default),
            default=default,
            metavar="N",
            help=f"{help_text} (default: {default:,})",
        )
    pictures = add_image_arguments(parser)
    add_skip_argument(pictures)
    pixels = next(action for action in pictures._group_actions if action.dest == "max_image_pixels")
    pixels.default, pixels.help = MAX_IMAGE_PIXELS, f"pixels that one image may have (default: {MAX_IMAGE_PIXELS:,})"


def _add_network_arguments(parser: argparse.ArgumentParser) -> None:
    network = parser.add_argument_group("network")
    network.add_argument("--host", default=HOST, help="the address to listen on (default: %(default)s)")
    network.add_argument("--port", type=int, default=PORT, help="0 for a free one (default: %(default)s)")
    key = network.add_mutually_exclusive_group()
    key.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="file with the key that clients must send, 16 characters or more; or set "
        f"{KEY_VARIABLE} (default: no key on this machine)",
    )
    key.add_argument("--no-api-key", action="store_true", help="let everyone who can reach --host use the model")
    network.add_argument(
        "--allowed-hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names by which clients may call this server (default: with a loopback --host localhost, else all)",
    )
    network.add_argument(
        "--allow-image-hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="hosts from which images are fetched by URL (default: none)",
    )
    network.add_argument(
        "--drain-seconds",
        type=float,
        default=DRAIN_SECONDS,
        metavar="N",
        help="time for the last answers after SIGTERM (default: %(default)s)",
    )


def _add_batch_arguments(work: argparse._ArgumentGroup) -> None:
    work.add_argument(
        "--max-batch-images", type=parse_count, default=MAX_BATCH_IMAGES, metavar="N", help="(default: %(default)s)"
    )
    work.add_argument(
        "--max-batch-texts", type=parse_count, default=MAX_BATCH_TEXTS, metavar="N", help="(default: %(default)s)"
    )
    work.add_argument(
        "--max-wait-ms",
        type=float,
        default=MAX_WAIT_MS,
        metavar="MS",
        help="the longest that a text or image waits for others of its batch (default: %(default)s)",
    )
