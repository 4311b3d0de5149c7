# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of commands that can ask a running server instead of loading a model."""

import argparse


# What a command takes besides with --server; the server decides all else, such as the model and how images are read.
_WITH_SERVER = {
    "classify": ("images", "labels", "json", "template", "top_k", "threshold", "multi_label", "batch_size"),
    "search": ("source", "query", "top_k", "threshold", "no_match", "filter", "json", "html", "thumbnails"),
}


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a server and its key."""
    server = parser.add_argument_group("a running server (`clip-hf serve`)")
    server.add_argument("--server", metavar="URL", help="ask this server, which has the model: http://127.0.0.1:8000")
    server.add_argument(
        "--api-key-file", metavar="FILE", help="file with the server's key (default: $CLIP_HF_API_KEY, if it is set)"
    )


def check_key_file(options: argparse.Namespace) -> None:
    """Raise a `ValueError` for the key of no server."""
    if options.api_key_file is not None and options.server is None:
        raise ValueError("--api-key-file holds the key of a server: name the server with --server, or leave it out.")


def check_server_arguments(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with an error for arguments that do not go with `--server`, or without it."""
    if options.server is None:
        if options.command == "classify" and options.model is None:
            parser.error("name a model with --model, or a server with --server")
        return
    allowed = {*_WITH_SERVER[options.command], "server", "api_key_file", "help"}
    others = [action for action in parser._actions if action.dest not in allowed]
    given = [action.option_strings[0] for action in others if getattr(options, action.dest) != action.default]
    if given:
        parser.error(f"--server decides what {', '.join(given)} would: leave out one or the other")
    if options.command == "search" and not options.query:
        parser.error("--server searches the server's index: give a query, and no SOURCE")
