# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf stretch`."""

import argparse


_EPILOG = """\
examples:
  clip-hf stretch openai/clip-vit-base-patch32 -o long                   248 tokens, as Long-CLIP
  clip-hf stretch my_model --context 154 --keep 30 -o longer
  clip-hf train examples/recipes/finetune.yaml --model long --dataset long_captions.csv      what comes after it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Give a CLIP positions for longer texts: the first ones are kept, the others stretched (Long-CLIP). Short\n"
        "texts keep their features. Long ones are worth little before a training on long captions."
    )
    parser.epilog = _EPILOG
    parser.add_argument("model", help="folder, file or hub name of a CLIP")
    parser.add_argument("--context", type=int, default=248, help="tokens of the longest text (default: %(default)s)")
    parser.add_argument("--keep", type=int, default=20, help="first positions to keep (default: %(default)s)")
    parser.add_argument("-o", "--output-dir", required=True, help="folder for the new model")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the output folder")
