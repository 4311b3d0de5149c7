# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf explain`."""

import argparse

from .evaluate import INFERENCE_DTYPES, add_image_arguments


# tests/cli/test_explain_command.py holds that these are what `clip_hf.explain` has.
METHODS = ("chefer", "grad_cam", "rollout", "occlusion")
_EPILOG = """\
examples:
  clip-hf explain cat.jpg "a cat" "a dog" --model openai/clip-vit-base-patch32 --output map.png
  clip-hf explain cat.jpg "a cat" --model RN50.pt --method occlusion --arrays maps.npz
  clip-hf explain cat.jpg "a cat on a red mat" --model my_model --words
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Show where in a picture a CLIP looks for each of your texts, and which words of a text speak for it.\n"
        "Without --output or --arrays, only each text's cosine and strongest point are printed."
    )
    parser.epilog = _EPILOG
    parser.add_argument("image", metavar="IMAGE", help="image file or URL")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="texts to look for, taken as they are")
    parser.add_argument("--model", required=True, help="folder, file or hub name of a CLIP of any format")
    parser.add_argument("--output", metavar="FILE", help="draw the maps over the picture: .png, .jpg or .webp")
    parser.add_argument("--arrays", metavar="FILE", help="write the maps as arrays, in the picture's pixels: .npz")
    parser.add_argument("--json", action="store_true", help="write one JSON object")
    parser.add_argument("--words", action="store_true", help="show each word's relevance too")
    maps = parser.add_argument_group("maps")
    maps.add_argument("--method", choices=METHODS, help="how (default: chefer for a ViT, grad_cam for a ResNet)")
    maps.add_argument(
        "--layers",
        type=parse_layers,
        default="all",
        metavar="all|last|N",
        help="attention layers that count in chefer, rollout and --words: the last N (default: %(default)s)",
    )
    maps.add_argument("--window", type=int, metavar="PIXELS", help="occlusion: edge of the square that covers")
    maps.add_argument("--stride", type=int, metavar="PIXELS", help="occlusion: step of the square")
    maps.add_argument("--template", nargs="+", help="templates with {} for the text, a prompt set or a file")
    add_image_arguments(parser)
    work = parser.add_argument_group("computing")
    work.add_argument("--device", help="such as cuda or cpu (default: cpu)")
    work.add_argument("--dtype", choices=INFERENCE_DTYPES, help="what to compute in (default: as stored)")


def parse_layers(text: str) -> str | int:
    """`"all"`, `"last"`, or a number of layers, at least 1."""
    if text in ("all", "last"):
        return text
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be all, last, or a whole number of layers, at least 1")
    return int(text)
