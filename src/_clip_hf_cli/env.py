# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf env`."""

import argparse


_EPILOG = """\
examples:
  clip-hf env
  clip-hf env --json > machine.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Print what decides speed here: the processor and its features, memory, accelerators, threads, versions,\n"
        "which runtimes are installed, and what --dtype auto picks. Nothing about you or your files is printed."
    )
    parser.epilog = _EPILOG
    parser.add_argument("--json", action="store_true", help="write JSON")
