# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf tag`."""

import argparse

from .classify import parse_share
from .search import add_source_arguments


# tests/cli/test_tag_command.py holds that these are what `clip_hf.search` has.
XMP_STYLES = {"append": "photo.jpg.xmp", "replace": "photo.xmp"}
PRECISION = 0.9
_EPILOG = """\
examples:
  clip-hf tag photos --model openai/clip-vit-base-patch32 --labels dog beach "birthday cake"
  clip-hf tag photos --labels labels.txt --jsonl tags.jsonl --xmp
  clip-hf tag photos --labels labels.txt --calibrate sample.csv --thresholds thresholds.json
  clip-hf tag photos --thresholds thresholds.json --xmp
  clip-hf tag uploads --model my_model --labels moderation --jsonl to_look_at.jsonl
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Tag pictures with those of your labels that fit, each by itself: one picture may get several, or none.\n"
        "A folder is embedded once: its index, which `clip-hf search` uses too, lies beside it. Pictures are read,\n"
        "never written."
    )
    parser.epilog = _EPILOG
    parser.add_argument("source", metavar="SOURCE", help="folder, table, Parquet, tars, output of embed, or an index")
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="labels, or one file with a label a line, or moderation: a set that comes with clip_hf; read its limits",
    )
    parser.add_argument("--template", nargs="+", help="as in classify (default: This is a photo of {}.)")
    _add_threshold_arguments(parser)
    _add_output_arguments(parser)
    add_source_arguments(parser)


def _add_threshold_arguments(parser: argparse.ArgumentParser) -> None:
    thresholds = parser.add_argument_group(
        "thresholds",
        "a label's score is its probability against captions of everyday pictures; a picture gets a label from a "
        "threshold on",
    )
    thresholds.add_argument(
        "--threshold",
        type=parse_share,
        metavar="SCORE",
        help="that of all labels, or of those that --calibrate has too few examples of (default: 0.5, where a label "
        "fits better than all of these captions together)",
    )
    thresholds.add_argument(
        "--calibrate",
        metavar="SAMPLE",
        help="fit each label's threshold on pictures with labels: a folder for each label, or a table with the "
        "columns image and labels (; between labels), such as what --jsonl writes",
    )
    thresholds.add_argument(
        "--precision",
        type=parse_share,
        metavar="SHARE",
        help=f"share of right ones among the pictures of a label that --calibrate aims at (default: {PRECISION})",
    )
    thresholds.add_argument(
        "--thresholds", metavar="FILE", help="JSON file of thresholds: written after --calibrate, else read"
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("output", "besides the tables on standard output")
    output.add_argument("--jsonl", metavar="FILE", help="write a JSON object a line for each picture")
    output.add_argument(
        "--xmp",
        action="store_true",
        help="write the labels into XMP sidecars beside the pictures, as keywords",
    )
    output.add_argument(
        "--xmp-style",
        choices=XMP_STYLES,
        default="append",
        help="name of a sidecar: append: photo.jpg.xmp (darktable, digiKam, Immich); replace: photo.xmp (Lightroom) "
        "(default: append)",
    )
