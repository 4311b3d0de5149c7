# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf interpolate`."""

import argparse


# tests/cli/test_commands.py holds that these are what `clip_hf.adaptation` has.
BATCH_NORM = ("interpolate", "reestimate")
PICKS = ("both", "task")
_EPILOG = """\
examples:
  clip-hf interpolate openai/clip-vit-base-patch32 finetuned --data my_photos --shift pets=path/to/pets -o best
  clip-hf interpolate outputs/demo/vit/last finetuned --data openmoji_lines --shift openmoji     offline
  clip-hf interpolate rn50 finetuned --data my_photos --shift pets=path/to/pets --batch-norm reestimate
  clip-hf interpolate openai/clip-vit-base-patch32 finetuned --alpha 0.5 -o half                  without measuring
"""


def parse_alphas(text: str) -> list[float]:
    """`"0:1:0.1"` (first, last, step), or numbers with commas between them.

    Raises:
        ValueError: if it is neither.
    """
    parts = text.split(":")
    try:
        if len(parts) != 3:
            return [float(part) for part in text.split(",")]
        first, last, step = map(float, parts)
        count = round((last - first) / step)
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(
            f"--alpha {text}: give numbers, such as 0.5 or 0,0.5,1, or FIRST:LAST:STEP, such as 0:1:0.1."
        ) from error
    if not 0 <= count <= 1000 or abs(first + count * step - last) > 1e-6:
        raise ValueError(f"--alpha {text}: from {first:g} to {last:g} there is no whole number of steps of {step:g}.")
    return [round(first + place * step, 10) for place in range(count + 1)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Find the best model between a CLIP and its fine-tuning: (1 - alpha) A + alpha B (WiSE-FT). Each alpha is\n"
        "measured on the task and on what A could do before. The best one on validation rows is saved, with the curve."
    )
    parser.epilog = _EPILOG
    parser.add_argument("zero_shot", metavar="A", help="the model before it was fine-tuned: folder, file or hub name")
    parser.add_argument("fine_tuned", metavar="B", help="the model after it")
    parser.add_argument(
        "--alpha",
        default="0:1:0.1",
        metavar="ALPHAS",
        help="FIRST:LAST:STEP, or numbers with commas (default: %(default)s)",
    )
    parser.add_argument("--data", help="the task of B: labelled images, as `clip-hf evaluate --data` takes them")
    parser.add_argument("--shift", help="labelled images of what the model should still be able to do")
    parser.add_argument("-o", "--output-dir", help="folder for the model and the curve (default: interpolation/A-B)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the output folder")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--pick",
        choices=PICKS,
        default=PICKS[0],
        help="what alpha is chosen by: accuracy on both, or on the task (default: %(default)s)",
    )
    how.add_argument(
        "--batch-norm",
        choices=BATCH_NORM,
        default=BATCH_NORM[0],
        help="a ResNet's statistics: those of the models, or measured on training images (default: %(default)s)",
    )
    add_choice_arguments(how)


def add_choice_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the arguments on data and rows that commands share which choose on validation rows."""
    group.add_argument("--templates", nargs="+", help="prompts for all data: prompt set, file, or templates with {}")
    group.add_argument("--limit", type=int, help="use only this many rows of each part, to try things out")
    group.add_argument(
        "--validation-share",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the training rows to choose on, where there is no validation part (default: %(default)s)",
    )
    group.add_argument("--batch-size", type=int, default=64, help="images at once (default: %(default)s)")
    group.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    group.add_argument("--seed", type=int, default=0, help="seed of bootstrap and choices (default: %(default)s)")
