# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command `clip-hf`: one module for each of its subcommands."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version


# Subcommand -> what it does. Its module is imported when it is asked for: each needs other optional packages.
_COMMANDS = {
    "convert": "convert a checkpoint of OpenAI's, open_clip's, transformers' or ours into another format",
    "evaluate": "evaluate a model: zero-shot, retrieval, linear probe, few-shot, robustness",
    "compare": "compare evaluated models side by side",
}
_EXTRAS = {"evaluate": "eval", "compare": "eval"}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command `clip-hf`.

    Args:
        arguments (`Sequence[str]`, *optional*): what stands after the command's name; by default the program's own.

    Returns:
        `int`: the exit status: 0, 1 where the work could not be done, 2 where the command line is wrong.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(
        prog="clip-hf", description="CLIP as the paper describes it, as a Hugging Face library."
    )
    parser.add_argument("--version", action="version", version=f"clip_hf {version('clip_hf')}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    asked = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, purpose in _COMMANDS.items():
        own = commands.add_parser(
            name, help=purpose, add_help=name == asked, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == asked:
            try:
                importlib.import_module(f".{name}", __package__).add_arguments(own)
            except ModuleNotFoundError as error:
                extra = _EXTRAS.get(name)
                if extra is None or (error.name or "").startswith("clip_hf"):
                    raise
                print(
                    f"clip-hf {name}: the package {error.name} is not installed; `pip install 'clip_hf[{extra}]'` "
                    "installs all that this command needs.",
                    file=sys.stderr,
                )
                return 1
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        # What a user can do something about; a trace would bury it.
        print(f"clip-hf {options.command}: {error}", file=sys.stderr)
        return 1


__all__ = ["main"]
