# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command `clip-hf`: one module for each of its subcommands."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from . import convert


_COMMANDS = (convert,)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command `clip-hf`.

    Args:
        arguments (`Sequence[str]`, *optional*): what stands after the command's name; by default the program's own.

    Returns:
        `int`: the exit status: 0, 1 where the work could not be done, 2 where the command line is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="clip-hf", description="CLIP as the paper describes it, as a Hugging Face library."
    )
    parser.add_argument("--version", action="version", version=f"clip_hf {version('clip_hf')}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        # What a user can do something about; a trace would bury it.
        print(f"clip-hf {options.command}: {error}", file=sys.stderr)
        return 1


__all__ = ["main"]
