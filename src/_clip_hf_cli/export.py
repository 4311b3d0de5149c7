# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf export`."""

import argparse

from .classify import parse_count


# tests/cli/test_export_command.py holds that these are what `clip_hf.export` knows.
RUNTIMES = ("onnx", "openvino")
PRECISIONS = ("float32", "bfloat16", "int8")
_EPILOG = """\
examples:
  clip-hf export openai/clip-vit-base-patch32 vit-b-32-onnx
  clip-hf export RN50.pt rn50-int8 --precision int8 --images photos --labels names.txt
  clip-hf export my_model my_model-bf16 --runtime openvino --precision bfloat16
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Export a CLIP or SigLIP for ONNX Runtime or OpenVINO. The towers are compared with PyTorch in float32, and\n"
        "the destination appears if they agree."
    )
    parser.epilog = _EPILOG
    parser.add_argument("model", help="folder, file or hub name of a model")
    parser.add_argument("destination", help="folder to write")
    parser.add_argument("--runtime", choices=RUNTIMES, default="onnx", help="what will run it (default: %(default)s)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="what it computes in; bfloat16: openvino only (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an export at the destination")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    data = parser.add_argument_group("comparison and calibration")
    data.add_argument(
        "--images",
        metavar="FOLDER",
        help="images such as the model will see (default: OpenMoji's drawings, with the extra demo)",
    )
    data.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="texts to compare on: words, or one file with a label a line (default: prompts; of drawings their names)",
    )
    data.add_argument(
        "--max-images", type=parse_count, default=256, metavar="N", help="images to use, spread evenly (default: 256)"
    )
    data.add_argument("--allow-loss", action="store_true", help="write towers that differ more than is usual, too")
