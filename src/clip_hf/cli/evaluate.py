# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf evaluate`: the paper's evaluations of one model on any data."""

import argparse
from pathlib import Path

import torch
from transformers.utils import logging

from ..evaluation.data.loading import ClassificationOptions
from ..evaluation.data.registry import load_class_names, load_templates
from ..evaluation.features import EncodingOptions
from ..evaluation.results import EvaluationResult, safe_name
from ..evaluation.scores.metrics import CLASSIFICATION_METRICS
from ..evaluation.suite import TASKS, SuiteOptions, run_suite, start_processes, update_card
from ..image_reading_clip_hf import DEFAULT_LIMITS, ImageLimits
from ..image_transform_clip_hf import HIGH_BIT_DEPTH


_LIMITS = {"pixels": int, "bytes": int, "seconds": float}
DTYPES = ("float32", "float16", "bfloat16")
_EPILOG = """\
examples:
  clip-hf evaluate openai/clip-vit-base-patch32 --data cifar10
  clip-hf evaluate my_model --tasks zero_shot linear_probe --data food101=path/to/food101
  clip-hf evaluate my_model --data my_photos --templates "a photo of a {}, a type of shoe."
  clip-hf evaluate outputs/demo/vit/last --tasks zero_shot retrieval linear_probe few_shot \\
      --data openmoji openmoji_skin_tones                      offline, what `make demo` trained
  clip-hf evaluate open_clip:ViT-B-32/laion2b_s34b_b79k --data cifar100
  torchrun --nproc_per_node 2 -m clip_hf.cli evaluate my_model --data cifar10
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the subcommand's parser its arguments."""
    parser.description = (
        "Evaluate a CLIP of ours, transformers', open_clip's or sentence-transformers'. Each task runs on each\n"
        "of the data that fits it; features are kept, so that a run that was interrupted goes on."
    )
    parser.epilog = _EPILOG
    add_evaluation_arguments(parser)
    parser.add_argument(
        "model", help="folder, file or hub name; open_clip:ARCH/PRETRAINED, sentence_transformers:NAME"
    )
    parser.add_argument("--output-dir", help="folder for the results (default: evaluation/MODEL)")
    parser.add_argument("--update-card", action="store_true", help="put the figures into the model card of MODEL")
    parser.set_defaults(run=_run)


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of an evaluation besides the model and where its results go, which `compare` has as well."""
    parser.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=["zero_shot"], metavar="TASK", help=", ".join(TASKS)
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        help="registry names, NAME=PATH for a registry dataset on this machine, folders, files, hub names",
    )
    data = parser.add_argument_group("data", "where it says otherwise than the registry or the data")
    data.add_argument("--split", help="the part to evaluate on (default: test)")
    data.add_argument("--image-column", help="column of the images")
    data.add_argument("--label-column", help="column of the classes")
    data.add_argument("--caption-column", help="column of the captions, for retrieval")
    data.add_argument("--class-names", help="file .txt or .json with the classes' names, or clip_benchmark:KEY")
    data.add_argument("--templates", nargs="+", help="prompt set, file, clip_benchmark:KEY, or templates with {}")
    data.add_argument("--metric", choices=sorted(CLASSIFICATION_METRICS), help="headline metric of classification")
    data.add_argument("--limit", type=int, help="use so many rows only, to try things out")
    _add_image_arguments(parser)
    work = parser.add_argument_group("encoding")
    work.add_argument("--cache-dir", help="folder of features (default: features in the output folder)")
    work.add_argument("--batch-size", type=int, default=64, help="images at once (default: %(default)s)")
    work.add_argument("--device", help="such as cuda or cpu (default: the best there is)")
    work.add_argument("--dtype", choices=DTYPES, help="of the weights (default: as they are; float32 on a CPU)")
    how = parser.add_argument_group("how")
    how.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    how.add_argument("--seed", type=int, default=0, help="of bootstrap and draws (default: %(default)s)")
    how.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="few_shot: examples a class")
    how.add_argument("--few-shot-seeds", type=int, default=3, help="few_shot: draws of each (default: %(default)s)")
    how.add_argument(
        "--solver", choices=("torch", "scikit-learn"), default="torch", help="linear_probe (default: %(default)s)"
    )


def _add_image_arguments(parser: argparse.ArgumentParser) -> None:
    pictures = parser.add_argument_group("image files", "where it says otherwise than the model's image processor")
    pictures.add_argument(
        "--background-color",
        "--background_color",
        metavar="COLOR",
        help="what transparent images are put on: white, #ffffff or 255,255,255",
    )
    pictures.add_argument(
        "--apply-exif-orientation",
        "--apply_exif_orientation",
        action=argparse.BooleanOptionalAction,
        help="turn images as cameras say they were held (default: yes)",
    )
    pictures.add_argument(
        "--high-bit-depth",
        "--high_bit_depth",
        choices=HIGH_BIT_DEPTH,
        help="what is done with images of more than 8 bits (default: as the model's image processor says)",
    )
    pictures.add_argument(
        "--max-skipped-share",
        "--max_skipped_share",
        type=float,
        default=EncodingOptions.max_skipped_share,
        metavar="SHARE",
        help="images that cannot be read are skipped; more than this share, and than one, is an error "
        "(default: %(default)s)",
    )
    pictures.add_argument(
        "--min-image-size",
        "--min_image_size",
        type=int,
        metavar="PIXELS",
        help="leave out images whose shorter edge has fewer pixels",
    )
    pictures.add_argument(
        "--image-root",
        "--image_root",
        metavar="FOLDER",
        help="where paths of images in tables and Parquet may lead, besides below their own folder (/: anywhere)",
    )
    for name, kind in _LIMITS.items():
        default = getattr(DEFAULT_LIMITS, f"max_{name}")
        pictures.add_argument(
            f"--max-image-{name}",
            f"--max_image_{name}",
            type=kind,
            default=default,
            metavar="N",
            help=f"{name} that one image may take (default: {'as Pillow' if default is None else f'{default:,}'})",
        )


def suite_options(options: argparse.Namespace, output_dir: str | Path) -> SuiteOptions:
    """What the arguments of `add_evaluation_arguments` ask for."""
    if not options.data:
        raise ValueError("There is nothing to evaluate on: name it with --data, as in `--data openmoji`.")
    templates = options.templates
    if templates is not None:
        templates = load_templates(templates[0] if len(templates) == 1 else templates)
    limits = {f"max_{name}": getattr(options, f"max_image_{name}") for name in _LIMITS}
    return SuiteOptions(
        tasks=tuple(options.tasks),
        data=tuple(options.data),
        output_dir=Path(output_dir),
        cache_dir=Path(options.cache_dir) if options.cache_dir else None,
        data_options=ClassificationOptions(
            image_column=options.image_column,
            label_column=options.label_column,
            class_names=load_class_names(options.class_names) if options.class_names else None,
            templates=templates,
            metric=options.metric,
            split=options.split,
            limit=options.limit,
            min_image_size=options.min_image_size,
            image_root=options.image_root,
        ),
        caption_column=options.caption_column,
        image_options={
            "background_color": options.background_color,
            "apply_exif_orientation": options.apply_exif_orientation,
            "high_bit_depth": options.high_bit_depth,
            "image_limits": ImageLimits(**limits),
        },
        encoding=EncodingOptions(batch_size=options.batch_size, max_skipped_share=options.max_skipped_share),
        resamples=options.resamples,
        seed=options.seed,
        shots=tuple(options.shots),
        few_shot_seeds=options.few_shot_seeds,
        solver=options.solver,
    )


def evaluate(model: str, options: argparse.Namespace, output_dir: str | Path) -> list[EvaluationResult]:
    """Evaluate one model and print its figures; every process of a launch calls it, the results come on the first."""
    logging.disable_progress_bar()
    dtype = getattr(torch, options.dtype) if options.dtype else None
    asked = suite_options(options, output_dir)
    with start_processes(options.device) as accelerator:
        return run_suite(model, asked, device=options.device, dtype=dtype, accelerator=accelerator)


def _run(options: argparse.Namespace) -> int:
    # The whole of it, for several trainings may end in folders of one name.
    output_dir = options.output_dir or Path("evaluation") / safe_name(options.model)
    results = evaluate(options.model, options, output_dir)
    if results:
        print(f"\nThe results are in {Path(output_dir).resolve()}; `clip-hf compare` puts such folders side by side.")
        if options.update_card:
            print(f"Renewed {update_card(options.model, results)}.")
    return 0


__all__ = ["add_arguments", "add_evaluation_arguments", "evaluate", "suite_options"]
