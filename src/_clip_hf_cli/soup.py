# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf soup`."""

import argparse

from .interpolate import add_choice_arguments


METHODS = ("uniform", "greedy")
_EPILOG = """\
examples:
  clip-hf soup run1/last run2/last run3/last --data my_photos -o soup                    those that do no harm
  clip-hf soup run1/last run2/last run3/last --method uniform -o soup                    all of them, without measuring
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Average the weights of several fine-tunings of one CLIP (model soups). A greedy soup keeps those models\n"
        "that do not lower the accuracy on validation rows."
    )
    parser.epilog = _EPILOG
    parser.add_argument("models", nargs="+", help="two or more models: folders, files or hub names")
    parser.add_argument("--data", help="labelled images of the task, as `clip-hf evaluate --data` takes them")
    parser.add_argument("--method", choices=METHODS, default="greedy", help="which to average (default: %(default)s)")
    parser.add_argument("-o", "--output-dir", required=True, help="folder for the soup")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the output folder")
    add_choice_arguments(parser.add_argument_group("how"))
