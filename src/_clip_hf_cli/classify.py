# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf classify`."""

import argparse

from .evaluate import INFERENCE_DTYPES, add_image_arguments, add_runtime_argument
from .server_arguments import add_server_arguments


_EPILOG = """\
examples:
  clip-hf classify cat.jpg --model openai/clip-vit-base-patch32 --labels cat dog bird
  clip-hf classify photos --model my_model --labels names.txt --template openai_imagenet --top-k 1
  find . -name "*.jpg" | clip-hf classify - --model RN50.pt --labels indoors outdoors --json > labels.jsonl
  clip-hf classify photos --model my_model --labels indoors outdoors --runtime openvino --dtype auto
  clip-hf classify photos --model my_model --labels beach sunset people --multi-label --threshold 0.9
  clip-hf classify photos --server http://127.0.0.1:8000 --labels cat dog       without a model of its own
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Say which of your labels fits each image, with any CLIP. An image that cannot be read is named on\n"
        "stderr and skipped; the exit status is then 1."
    )
    parser.epilog = _EPILOG
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files, folders, URLs; with a video model films, too; - for paths on stdin",
    )
    parser.add_argument("--model", help="folder, file or hub name of a CLIP of any format; needed without --server")
    parser.add_argument(
        "--labels", required=True, nargs="+", metavar="LABEL", help="the labels, or one file with a label a line"
    )
    parser.add_argument("--json", action="store_true", help="write JSON, one object a line for each image")
    scores = parser.add_argument_group("scores")
    scores.add_argument(
        "--template",
        nargs="+",
        default=["This is a photo of {}."],
        help="templates with {} for the label, a prompt set or a file (default: This is a photo of {}.)",
    )
    scores.add_argument("--top-k", type=parse_count, default=5, help="labels for each image (default: %(default)s)")
    scores.add_argument(
        "--threshold", type=parse_share, metavar="SCORE", help="leave out labels that score less, 0 to 1"
    )
    scores.add_argument(
        "--multi-label", action="store_true", help="score each label by itself: several may fit an image, or none"
    )
    add_server_arguments(parser)
    add_image_arguments(parser)
    work = parser.add_argument_group("encoding")
    work.add_argument("--batch-size", type=parse_count, default=32, help="images at once (default: %(default)s)")
    work.add_argument("--device", help="such as cuda or cpu (default: the best there is)")
    add_runtime_argument(work)
    work.add_argument(
        "--dtype", choices=INFERENCE_DTYPES, help="what to compute in; auto: what is fast here (default: as stored)"
    )


def parse_count(text: str) -> int:
    """The number in an argument that must be a whole one, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1")
    return int(text)


def parse_share(text: str) -> float:
    """The number in an argument that must be a share, 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 0 to 1")
    return value
