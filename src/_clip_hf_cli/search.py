# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf search`."""

import argparse
import math
import os
import re
import time
from collections.abc import Sequence

from .classify import parse_count
from .embed import add_column_arguments
from .evaluate import INFERENCE_DTYPES, add_image_arguments, add_runtime_argument, add_skip_argument
from .server_arguments import add_server_arguments


def _process_start() -> float:
    """When this process started, on the clock of `time.perf_counter`; now, where the system does not tell."""
    now = time.perf_counter()
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])  # after boot
        return now - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return now


STARTED = _process_start()
"""When `clip-hf` started, before anything was imported."""
# tests/cli/test_commands.py holds that these are what `clip_hf.search` has.
MODALITIES = ("images", "texts", "moments")
APPROXIMATE_KINDS = ("hnsw", "ivfpq")
NO_MATCH_SHARE = 0.05
DUPLICATE_COSINE = 0.95
TOP_K = 10
DEFAULT_MODEL = "openai/clip-vit-base-patch32"
_EPILOG = """\
examples:
  clip-hf search photos a dog on a beach
  clip-hf search photos "a beach" + dog.jpg - "0.5*people" --top-k 20 --html hits.html
  clip-hf search photos "a receipt" --no-match --filter "width>=800" --json
  clip-hf search captions.csv ./cat.jpg --over texts --model my_model
  clip-hf search films "a bicycle passes" --cut clips    moments of films, each as a film of its own
  clip-hf search photos                                  only bring the index up to date
  clip-hf search photos --duplicates 0.97 --html duplicates.html
  clip-hf search --server http://127.0.0.1:8000 "a beach" + dog.jpg              the index of a server, no SOURCE
"""
# What was meant for a number, unlike the whole numbers of `101 dalmatians`.
_NEAR_NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?%?", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Find pictures, moments of films, or texts, by a text, by a picture, or by several of both. The index of\n"
        "SOURCE is built beside it the first time, and brought up to date by what has changed since."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of pictures or films, a film, a table, Parquet or tars of pictures, output of `clip-hf embed`, "
        "or an index; not with --server",
    )
    parser.add_argument(
        "query",
        nargs="*",
        metavar="QUERY",
        help="texts and paths of pictures, joined by + and -, each with a weight if you like: 0.5*people",
    )
    hits = parser.add_argument_group("hits")
    hits.add_argument("--top-k", type=parse_count, help=f"the most hits (default: {TOP_K})")
    hits.add_argument("--threshold", type=float, metavar="COSINE", help="leave out hits with a lower score")
    hits.add_argument(
        "--no-match",
        type=parse_no_match,
        nargs="?",
        const=NO_MATCH_SHARE,
        metavar="SHARE",
        help="leave out hits that fit no better than made-up captions do, and say so if nothing fits; SHARE of such "
        "captions get an answer, and more of real queries that are near (default without a number: %(const)s)",
    )
    hits.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="EXPR",
        help='rows to search, such as "width>=800" or "name~holiday/*.jpg"; several must all hold',
    )
    hits.add_argument(
        "--over",
        choices=MODALITIES,
        help="what to find (default: what the index of SOURCE has; where there is none, moments of a film or of a "
        "folder of films, else images; needed for a folder of pictures and films)",
    )
    _add_output_arguments(parser)


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="write JSON, one object a line for each hit")
    output.add_argument("--html", metavar="FILE", help="write the hits with thumbnails to an HTML file, too")
    output.add_argument(
        "--thumbnails",
        action=argparse.BooleanOptionalAction,
        help="show the pictures in the terminal (default: where it has colours)",
    )
    output.add_argument(
        "--cut", metavar="FOLDER", help="write each moment as a film of its own there, without encoding it again"
    )
    add_server_arguments(parser)
    index = add_source_arguments(parser)
    index.add_argument(
        "--approximate", choices=APPROXIMATE_KINDS, help="search an approximate index, whose recall is measured"
    )
    index.add_argument("--store", metavar="URL", help="search a database, which gets the rows first: postgresql://...")
    index.add_argument(
        "--frames-per-second",
        type=parse_rate,
        metavar="RATE",
        help="how often to look at films (default: that of the index, else 1)",
    )
    duplicates = parser.add_argument_group("near-duplicates, instead of a query")
    duplicates.add_argument(
        "--duplicates",
        type=parse_duplicate_cosine,
        nargs="?",
        const=DUPLICATE_COSINE,
        metavar="COSINE",
        help="group pictures whose cosine is at least this, and say which of each group to keep (default without a "
        "number: %(const)s)",
    )
    duplicates.add_argument("--move-duplicates", metavar="FOLDER", help="move the others there; nothing is deleted")


def add_source_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Give the parser of a command that reads an index its source's arguments; returns the group of the index."""
    parser.add_argument(
        "--model", help=f"any CLIP, as for `clip-hf embed` (default: that of the index, else {DEFAULT_MODEL})"
    )
    index = parser.add_argument_group("index")
    index.add_argument(
        "--index",
        metavar="FOLDER",
        help="where it lies (default: SOURCE.clip-index; of films SOURCE.moments.clip-index)",
    )
    index.add_argument("--rebuild", action="store_true", help="build it anew, for example with another model")
    add_column_arguments(index)
    work = parser.add_argument_group("encoding")
    work.add_argument("--batch-size", type=parse_count, default=64, help="images at once (default: %(default)s)")
    work.add_argument(
        "--num-threads", type=parse_count, metavar="N", help="threads that prepare images (default: the cores)"
    )
    work.add_argument("--device", help="such as cuda or cpu (default: an accelerator, if there is one)")
    add_runtime_argument(work)
    work.add_argument(
        "--dtype", choices=INFERENCE_DTYPES, help="what to compute in (default: that of the index, else float32)"
    )
    add_skip_argument(add_image_arguments(parser))
    return index


def parse_no_match(text: str) -> float:
    """The number in an argument that must be a share for `--no-match`."""
    value = _parse_float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a share, more than 0 and less than 1, such as 0.05")
    return value


def parse_rate(text: str) -> float:
    """The number in an argument that must be a rate."""
    value = _parse_float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be more than 0, such as 0.5")
    return value


def parse_duplicate_cosine(text: str) -> float:
    """The number in an argument that must be a cosine for `--duplicates`."""
    value = _parse_float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a cosine above 0, 1 at most, such as 0.95")
    return value


def _parse_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def arrange_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Put options first and SOURCE and QUERY behind `--`, so that options may stand anywhere among the words.

    argparse would take `-` and `- people` for options, and ends the list of words at the first option. With `--server`
    all words are the query, and SOURCE is the server.
    """
    options, words, servers = [], [], []
    given = list(arguments)
    while given:
        argument = given.pop(0)
        if argument == "--":
            words += given
            break
        action = _find_option(parser, argument)
        if action is None:
            if re.match(r"-[^\s\d.]", argument) and not argument.startswith("--"):
                parser.error(f"unknown option {argument}. For what is unlike a text, write - {argument[1:]!r}")
            (options if argument.startswith("--") else words).append(argument)
            continue
        takes_next = action.nargs is None or (action.nargs == "?" and _is_value(parser, action, argument, given))
        if takes_next and given and "=" not in argument and not given[0].startswith("--"):
            argument = f"{argument}={given.pop(0)}"
        options.append(argument)
        if action.dest == "server":
            servers = [argument.partition("=")[2]]
    return [*options, "--", *servers, *words]


def _is_value(parser: argparse.ArgumentParser, action: argparse.Action, name: str, given: Sequence[str]) -> bool:
    """Whether the next argument is the value of an option that may have none; an error if it was meant as one."""
    if not given or "=" in name:
        return False
    try:
        action.type(given[0])
    except argparse.ArgumentTypeError as error:
        is_word = given[0].isdecimal() and int(given[0]) > 0
        if is_word or not _NEAR_NUMBER.fullmatch(given[0]):
            return False
        parser.error(f"argument {name}: {error}. Words of the query may stand before {name}.")
    return True


def _find_option(parser: argparse.ArgumentParser, argument: str) -> argparse.Action | None:
    """The action of an option, which may be shortened; None for other arguments."""
    known, name = parser._option_string_actions, argument.partition("=")[0].replace("_", "-")
    if name in known:
        return known[name]
    return next((known[option] for option in known if name.startswith("--") and option.startswith(name)), None)
