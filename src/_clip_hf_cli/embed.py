# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf embed`."""

import argparse
from collections.abc import Sequence

from . import train
from .evaluate import (
    INFERENCE_DTYPES,
    add_film_arguments,
    add_image_arguments,
    add_runtime_argument,
    add_skip_argument,
)


# tests/cli/test_commands.py holds that these are what `clip_hf.embedding` has.
FILE_FORMATS = ("safetensors", "npy")
FILE_DTYPES = ("float16", "float32")
ROWS_PER_PART = 1024
_EPILOG = """\
examples:
  clip-hf embed openai/clip-vit-base-patch32 photos photos_embedded
  clip-hf embed my_model "shards/{00000..00127}.tar" embedded --images --file-dtype float32
  find /photos -name "*.jpg" | clip-hf embed my_model - embedded
  clip-hf embed my_model table.csv embedded --shard 3/16            the fourth of sixteen jobs
  clip-hf embed my_model films films_embedded --num-frames 8
  torchrun --nproc_per_node 8 -m clip_hf embed my_model data.parquet embedded
  clip-hf embed --for-training examples/recipes/distill.yaml --teachers my_teacher -o teacher_features --draws 4
"""
_FOR_TRAINING = "--for-training"
_EPILOG_FOR_TRAINING = """\
examples:
  clip-hf embed --for-training examples/recipes/distill.yaml --teachers my_teacher -o teacher_features --draws 4
  clip-hf train examples/recipes/distill.yaml --teacher_features teacher_features --output_dir outputs/student
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Embed any number of images and captions with any CLIP. Run the same command again after a crash,\n"
        "and only what is missing is embedded; start it several times, and the jobs share the work."
    )
    parser.epilog = _EPILOG
    parser.add_argument("model", help="what `clip-hf evaluate` takes, or a folder of `clip-hf export`")
    parser.add_argument(
        "source", help="folder, table, Parquet, tars, saved dataset, hub name; .txt or - (stdin) with a path a line"
    )
    parser.add_argument("destination", help="folder to write: a new one, or that of a job to go on with")
    what = parser.add_argument_group("what", "by default images, and captions where there are some")
    what.add_argument("--images", action="store_true", help="embed images")
    what.add_argument("--texts", action="store_true", help="embed captions")
    add_column_arguments(what)
    files = parser.add_argument_group("files")
    files.add_argument(
        "--file-format", choices=FILE_FORMATS, default=FILE_FORMATS[0], help="of embeddings (default: %(default)s)"
    )
    files.add_argument(
        "--file-dtype", choices=FILE_DTYPES, default=FILE_DTYPES[0], help="of embeddings (default: %(default)s)"
    )
    files.add_argument(
        "--rows-per-part", type=int, default=ROWS_PER_PART, metavar="N", help="rows in a file (default: %(default)s)"
    )
    work = parser.add_argument_group("work")
    work.add_argument("--shard", metavar="I/N", help="do the share I (from 0) of N jobs, for schedulers")
    work.add_argument("--retry-bad", action="store_true", help="embed parts with bad rows again")
    work.add_argument("--batch-size", type=int, default=64, help="images at once (default: %(default)s)")
    work.add_argument("--num-threads", type=int, metavar="N", help="threads that prepare images (default: the cores)")
    work.add_argument("--device", help="such as cuda or cpu (default: an accelerator, if there is one)")
    add_runtime_argument(work)
    work.add_argument(
        "--dtype", choices=INFERENCE_DTYPES, help="what to compute in (default: float32, or as it was exported)"
    )
    work.add_argument(
        "--ray", type=int, metavar="N", help="run N workers on a Ray cluster (RAY_ADDRESS; default: this machine)"
    )
    work.add_argument("--ray-cpus", type=float, metavar="N", help="processors of each of these workers (default: 1)")
    work.add_argument("--ray-gpus", type=float, metavar="N", help="GPUs of each, 0.5 for a half (default: 0)")
    add_film_arguments(parser)
    add_skip_argument(add_image_arguments(parser))


def is_for_training(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for the teachers' features of a training."""
    spelled = (argument.replace("_", "-") for argument in arguments)
    return arguments[:1] == ["embed"] and _FOR_TRAINING in spelled


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments with `--for-training`: those of `clip-hf train`, and a few more."""
    train.add_arguments(parser)
    parser.usage = (
        "clip-hf embed --for-training RECIPE --teachers TEACHER ... -o FOLDER [--draws K] [--option value ...]"
    )
    parser.description = (
        "Compute the teachers' features of exactly the crops and texts that a training will see, once. The options\n"
        "are those of `clip-hf train`, which then reads the features with --teacher_features FOLDER. Run the same\n"
        "command again after a crash, and only what is missing is computed."
    )
    parser.epilog = _EPILOG_FOR_TRAINING
    group = parser.add_argument_group("teacher features")
    group.add_argument(_FOR_TRAINING, action="store_true", required=True, help="for the training of these options")
    group.add_argument(
        "-o", dest="teacher_features", metavar="FOLDER", default=argparse.SUPPRESS, help="same as --teacher_features"
    )
    group.add_argument(
        "--draws", type=int, default=1, metavar="K", help="epochs that differ; the next ones repeat them (default: 1)"
    )
    group.add_argument(
        "--file-dtype", choices=FILE_DTYPES, default=FILE_DTYPES[0], help="of the features (default: %(default)s)"
    )


def add_column_arguments(group: argparse._ArgumentGroup) -> None:
    """Give a group the arguments that say which rows and columns of a table or dataset are read."""
    group.add_argument("--split", help="part of a table or dataset (default: all)")
    group.add_argument("--image-column", help="column of the images or films (default: image, of films video)")
    group.add_argument("--caption-column", default="caption", help="column of the captions (default: %(default)s)")
    group.add_argument("--image-root", metavar="FOLDER", help="folder that paths in data may lead to (/: any)")
