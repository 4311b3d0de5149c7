# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf compare`."""

import argparse

from .evaluate import add_evaluation_arguments


_EPILOG = """\
examples:
  clip-hf compare results/resnet results/vit
  clip-hf compare outputs/demo/resnet/last outputs/demo/vit/last --data openmoji --names ResNet ViT
  clip-hf compare rn50 rn101 rn50x4 --compute 18.2 25.5 51.8 --scaling-metric top1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Put the results of evaluated models side by side, with differences to the first and their intervals.\n"
        "A model that is not evaluated yet (no folder of results) is evaluated first, as `clip-hf evaluate` does."
    )
    parser.epilog = _EPILOG
    parser.add_argument("models", nargs="+", help="two or more folders of results, or models")
    parser.add_argument("--names", nargs="+", help="what to call them")
    parser.add_argument("--output-dir", default="comparison", help="folder to write to (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace the results that are in the output folder")
    parser.add_argument(
        "--compute", type=float, nargs="+", help="each model's compute: fits error against it (3 or more)"
    )
    parser.add_argument("--scaling-metric", default="top1", help="metric whose error is fitted (default: %(default)s)")
    add_evaluation_arguments(parser)
