# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The command `clip-hf`: its parser, and one module with the arguments of each subcommand.

It lies beside the package, because importing `clip_hf` imports torch and transformers, which takes seconds. Here only
the standard library is imported, so that help and mistakes in the command line answer at once and without any extra.
A subcommand's work is `run` in the module of its name in `clip_hf.cli`, or in `on_server` where a server does it.
"""

import argparse
import atexit
import difflib
import gc
import importlib
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NoReturn

from . import (
    adapt,
    classify,
    compare,
    convert,
    embed,
    env,
    evaluate,
    explain,
    export,
    interpolate,
    search,
    serve,
    soup,
    stretch,
    tag,
    train,
)
from .control_characters import escape_controls
from .server_arguments import check_server_arguments


VERSION = "0.1.0"  # `clip_hf.__version__` again, which could only be read by importing clip_hf

_COMMANDS = {
    "classify": (classify, "say which of some labels fits each image"),
    "convert": (convert, "convert a checkpoint of OpenAI's, open_clip's, transformers' or ours into another format"),
    "train": (train, "train a model on image-text pairs: from scratch, or fine-tune"),
    "adapt": (
        adapt,
        "adapt a model to a few examples or to all: low rank, all weights, or a head on its features",
    ),
    "evaluate": (evaluate, "evaluate a model: zero-shot, retrieval, linear probe, few-shot, robustness"),
    "compare": (compare, "compare evaluated models side by side"),
    "interpolate": (interpolate, "find the best model between a CLIP and its fine-tuning (WiSE-FT)"),
    "soup": (soup, "average several fine-tunings of a CLIP (model soups)"),
    "stretch": (stretch, "give a CLIP positions for longer texts (Long-CLIP)"),
    "embed": (embed, "embed any number of images and captions into a folder, and go on after any interruption"),
    "search": (search, "find pictures or texts by text and by picture, and near-duplicates"),
    "serve": (serve, "serve a model over HTTP: embeddings, classification, ranking, search, and a page"),
    "explain": (explain, "show where in a picture a model looks for a text, and which words speak for it"),
    "tag": (tag, "tag pictures with the labels that fit, into a table, JSON or XMP sidecars"),
    "export": (export, "export a model for ONNX Runtime or OpenVINO, in float32, bfloat16 or int8"),
    "env": (env, "print the machine, the versions, and what --dtype auto picks"),
}

_NEGATIVE_NUMBERS = re.compile(r"-\.?\d[\d.,:eE+-]*")


class Parser(argparse.ArgumentParser):
    """argparse's, but an error names what was probably meant, and `--batch_size` and `--batch-size` are one option."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """As argparse's, with each option in the spelling that the parser knows."""
        self._arguments = self._spell_options(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._arguments, namespace)

    def _spell_options(self, arguments: Sequence[str]) -> list[str]:
        """The arguments, with hyphens and underscores in the names of options as the parser has them, and an option
        joined with negative numbers such as `-0.5,1`, which argparse would take for another option.
        """
        end = list(arguments).index("--") if "--" in arguments else len(arguments)
        spelled: list[str] = []
        for argument in map(self._spell_option, arguments[:end]):
            action = self._option_string_actions.get(spelled[-1]) if spelled else None
            if action is not None and action.nargs is None and _NEGATIVE_NUMBERS.fullmatch(argument):
                spelled[-1] += f"={argument}" if spelled[-1].startswith("--") else argument
            else:
                spelled.append(argument)
        return [*spelled, *arguments[end:]]

    def _spell_option(self, argument: str) -> str:
        name, equals, value = argument.partition("=")
        if not name.startswith("--"):
            return argument
        hyphens = name.replace("_", "-")
        known = (option for option in self._option_string_actions if option.replace("_", "-").startswith(hyphens))
        option = next(known, name)  # its beginning, where the name was shortened
        return f"{option[: len(name)]}{equals}{value}"

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice is not None:
            message += _did_you_mean(choice[1], re.findall(r"[\w-]+", choice[2]))
        if message.startswith("the following arguments are required"):
            message += self._hint_on_lists()
        super().error(message)

    def _hint_on_lists(self) -> str:
        """Where to put positional arguments, if an option that takes a list may have swallowed them."""
        actions = {option: self._option_string_actions.get(option) for option in self._arguments}
        lists = [option for option, action in actions.items() if action is not None and action.nargs in ("+", "*")]
        positional = next((action for action in self._actions if not action.option_strings), None)
        if not lists or positional is None:
            return ""
        name = positional.metavar or positional.dest
        return f". {lists[-1]} takes all that follows it: put {name} before the options, or after `--`"

    def check_options(self, arguments: Sequence[str]) -> None:
        """Refuse unknown options before argparse misses an argument that one of them may have swallowed."""
        known = list(self._option_string_actions)
        for argument in self._spell_options(arguments):
            name = argument.partition("=")[0]
            if name == "--":
                return
            if name.startswith("--") and not any(option.startswith(name) for option in known):
                self.error(f"unknown option {name}{_did_you_mean(name, known)}")


def _did_you_mean(given: str, known: Sequence[str]) -> str:
    # Without the dashes, which would make all options alike.
    near = difflib.get_close_matches(given.strip("-"), [name.strip("-") for name in known], n=1)
    meant = next((name for name in known if name.strip("-") in near), None)
    return f". Did you mean {meant}?" if meant else ""


@contextmanager
def plain_warnings(command: str) -> Iterator[None]:
    """Print what users are warned of as errors are printed, without file, line and source of the library."""
    before = warnings.formatwarning

    def shown(message: Warning | str, category: type[Warning], *where: object) -> str:
        if issubclass(category, UserWarning):
            return escape_controls(f"clip-hf {command}: {message}") + "\n"
        return before(message, category, *where)

    warnings.formatwarning = shown
    try:
        yield
    finally:
        warnings.formatwarning = before


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `clip-hf`.

    Args:
        arguments (`Sequence[str]`, *optional*): what stands after the command's name; by default the program's own.

    Returns:
        `int`: the exit status: 0, 1 where the work could not be done, 130 after Ctrl-C. A wrong command line exits
            with status 2.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if sys.stderr is None:  # closed, as cron and daemons may have it; `print` would write errors to standard output
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:
        print("clip-hf: standard output is closed; lead it somewhere, such as to /dev/null.", file=sys.stderr)
        return 1
    # At its end, Python looks for cycles among all objects of PyTorch, which takes a second or more.
    atexit.register(gc.freeze)
    parser = Parser(prog="clip-hf", description="CLIP as the paper describes it, as a Hugging Face library.")
    parser.add_argument("--version", action="version", version=f"clip_hf {VERSION}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    parsers = {}
    for name, (module, purpose) in _COMMANDS.items():
        parsers[name] = commands.add_parser(name, help=purpose, formatter_class=argparse.RawDescriptionHelpFormatter)
        if [name] == arguments[:1]:  # the options of the others would take longer than all else here
            special = name == "embed" and embed.is_for_training(arguments)
            (embed.add_training_arguments if special else module.add_arguments)(parsers[name])
    if not arguments:
        parser.print_help()
        return 0
    parsers.get(arguments[0], parser).check_options(arguments)
    if arguments[0] == "search":
        arguments = ["search", *search.arrange_arguments(parsers["search"], arguments[1:])]
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.error("name a command")
    module = options.command
    if "server" in options:
        check_server_arguments(parsers[options.command], options)
        module = options.command if options.server is None else "on_server"
    try:
        signals = serve.ended_by_signals() if options.command == "serve" else nullcontext()
        with plain_warnings(options.command), signals:
            return importlib.import_module(f"clip_hf.cli.{module}").run(options)
    except BrokenPipeError:
        # Whoever reads the output has enough, as `head` has; Python would complain when it closes the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print(f"clip-hf {options.command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (FloatingPointError, ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] in ("clip_hf", "_clip_hf_cli"):
            raise  # a fault of the code, not a package that is not installed
        # What a user can do something about; a trace would bury it.
        print(escape_controls(f"clip-hf {options.command}: {error}"), file=sys.stderr)
        return 1


__all__ = ["VERSION", "Parser", "main", "plain_warnings"]
