# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf convert`."""

import argparse

from .evaluate import DTYPES


# tests/cli/test_commands.py holds that these are what `clip_hf.checkpoints` knows.
FORMATS = ("clip_hf", "openai", "open_clip", "transformers")
TOWERS = ("text", "text_with_projection", "vision", "vision_with_projection")
_EPILOG = """\
examples:
  clip-hf convert RN50.pt rn50                               OpenAI's archive, to a repo of ours
  clip-hf convert open_clip_folder vit-h --license mit       a download of open_clip's
  clip-hf convert epoch_32.pt mine --config ViT-B-32.json --preprocess openai
  clip-hf convert rn50 rn50-open_clip --to open_clip         and back
  clip-hf convert clip-vit-large-patch14 text_encoder --to transformers --tower text
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Convert a CLIP checkpoint, offline, and show that it computes the same. The destination appears when\n"
        "everything has been written and checked."
    )
    parser.epilog = _EPILOG
    parser.add_argument("source", help="a file or folder; its format is recognised")
    parser.add_argument("destination", help="what to write: a file for openai, else a folder")
    parser.add_argument("--to", choices=FORMATS, default="clip_hf", help="format to write (default: %(default)s)")
    parser.add_argument("--tower", choices=TOWERS, help="with --to transformers: write this tower only")
    parser.add_argument("--dtype", choices=DTYPES, help="convert the weights; by default each keeps its dtype")
    parser.add_argument("--overwrite", action="store_true", help="replace what is at the destination")
    source = parser.add_argument_group("what the source may leave open")
    source.add_argument("--config", help="open_clip's JSON of the model, where none lies beside the weights")
    source.add_argument("--hidden-act", help="activation: quick_gelu or gelu")
    source.add_argument("--text-heads", type=int, help="attention heads of the text tower")
    source.add_argument("--vision-heads", type=int, help="attention heads of the vision tower")
    source.add_argument("--preprocess", help="'openai', or a JSON file with open_clip's preprocess_cfg")
    source.add_argument("--merges", help="byte-pair merges in OpenAI's format, or a folder with a tokenizer")
    card = parser.add_argument_group("model card (--to clip_hf)")
    card.add_argument("--license", help="licence of the weights, an identifier of the hub such as mit")
    card.add_argument("--base-model", help="repo on the hub that the weights were made from")
    card.add_argument("--datasets", nargs="+", default=[], help="datasets that the model was trained on")
    hub = parser.add_argument_group("hub")
    hub.add_argument("--push-to-hub", metavar="REPO_ID", help="upload the result to this repo of the hub as well")
    hub.add_argument("--private", action="store_true", help="make the repo a private one, should it be new")
