# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The arguments of `clip-hf evaluate`."""

import argparse


# tests/cli/test_commands.py holds that these are what `clip_hf.evaluation` and `clip_hf.ImageLimits` have.
TASKS = (
    "zero_shot",
    "retrieval",
    "linear_probe",
    "few_shot",
    "adapters",
    "robustness",
    "moments",
    "explanation",
    "segmentation",
)
AGGREGATES = ("embeddings", "probabilities")
METRICS = ("map_11point", "mean_per_class", "roc_auc", "top1", "top1_top5_mean", "top5")
IMAGE_LIMITS = {"pixels": (int, None), "bytes": (int, 512 * 2**20), "seconds": (float, 60.0)}  # type and default
HIGH_BIT_DEPTH = ("error", "clip", "scale")
MAX_SKIPPED_SHARE = 0.05
DTYPES = ("float32", "float16", "bfloat16")
RUNTIMES = ("torch", "onnx", "openvino")
INFERENCE_DTYPES = ("auto", *DTYPES)  # auto: what suits the device, see `clip-hf env`
_EPILOG = """\
examples:
  clip-hf evaluate openai/clip-vit-base-patch32 --data cifar10
  clip-hf evaluate my_model --tasks zero_shot linear_probe --data food101=path/to/food101
  clip-hf evaluate my_model --data my_photos --templates "a photo of a {}, a type of shoe."
  clip-hf evaluate outputs/demo/vit/last --tasks zero_shot retrieval linear_probe few_shot \\
      --data openmoji openmoji_skin_tones                      offline, what `make demo` trained
  clip-hf evaluate my_model --data cifar10 --runtime openvino --dtype auto
  clip-hf evaluate open_clip:ViT-B-32/laion2b_s34b_b79k --data cifar100
  clip-hf evaluate my_model --data films --num-frames 8 --templates actionclip          class folders of films
  clip-hf evaluate my_model --tasks moments --data highlight_val_release.jsonl --image-root films
  clip-hf evaluate outputs/demo/vit/last --tasks explanation --data openmoji_scenes --split pairs    are maps faithful?
  clip-hf evaluate outputs/demo/resnet/last --tasks segmentation --data openmoji_scenes --segmentation-size 128
  torchrun --nproc_per_node 2 -m clip_hf evaluate my_model --data cifar10
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `clip-hf evaluate` to its parser."""
    parser.description = (
        "Evaluate a CLIP of ours, transformers', open_clip's or sentence-transformers'. Each task runs on\n"
        "all data that fit it. Features are kept, so an interrupted run goes on where it stopped."
    )
    parser.epilog = _EPILOG
    add_evaluation_arguments(parser)
    parser.add_argument(
        "model", help="folder, file or hub name; open_clip:ARCH/PRETRAINED, sentence_transformers:NAME"
    )
    parser.add_argument(
        "--output-dir", help="folder for the results (default: evaluation/MODEL, with --runtime and --dtype if given)"
    )
    parser.add_argument("--update-card", action="store_true", help="put the figures into the model card of MODEL")


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `evaluate` and `compare` share: all but the model and the folder for results."""
    parser.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=["zero_shot"], metavar="TASK", help=", ".join(TASKS)
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        help="registry names, NAME=PATH for a registry dataset on this machine, folders, files, hub names",
    )
    data = parser.add_argument_group("data", "instead of what the registry or the data say")
    data.add_argument("--split", help="the part to evaluate on (default: test)")
    data.add_argument("--image-column", help="column of the images or films")
    data.add_argument("--label-column", help="column of the classes")
    data.add_argument("--caption-column", help="column of the captions, for retrieval, or queries, for moments")
    data.add_argument("--class-names", help="file .txt or .json with the classes' names, or clip_benchmark:KEY")
    data.add_argument("--templates", nargs="+", help="prompt set, file, clip_benchmark:KEY, or templates with {}")
    data.add_argument("--metric", choices=METRICS, help="headline metric of classification")
    data.add_argument("--limit", type=int, help="use only this many rows, to try things out")
    films = add_film_arguments(parser)
    films.add_argument(
        "--fps", type=float, default=1.0, help="moments: frames a second that are searched (default: %(default)s)"
    )
    pictures = add_image_arguments(parser)
    add_skip_argument(pictures)
    pictures.add_argument(
        "--min-image-size", type=int, metavar="PIXELS", help="leave out images whose shorter edge has fewer pixels"
    )
    pictures.add_argument(
        "--image-root",
        metavar="FOLDER",
        help="folder that paths of images and films in tables and Parquet may lead to, besides their own (/: any)",
    )
    work = parser.add_argument_group("encoding")
    work.add_argument("--cache-dir", help="folder of features (default: features in the output folder)")
    work.add_argument("--batch-size", type=int, default=64, help="images at once (default: %(default)s)")
    work.add_argument("--device", help="such as cuda or cpu (default: an accelerator, if there is one)")
    add_runtime_argument(work)
    work.add_argument(
        "--dtype",
        choices=INFERENCE_DTYPES,
        help="what to compute in; auto: what is fast here (default: float32, or as it was exported)",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default: %(default)s)")
    how.add_argument("--seed", type=int, default=0, help="seed of bootstrap and draws (default: %(default)s)")
    how.add_argument(
        "--aggregate",
        choices=AGGREGATES,
        default=AGGREGATES[0],
        help="zero_shot: what is averaged over prompts (default: %(default)s)",
    )
    how.add_argument(
        "--segmentation-size", type=int, metavar="N", help="its images' shorter edge (default: as trained)"
    )
    shots = [1, 2, 4, 8, 16]
    how.add_argument("--shots", type=int, nargs="+", default=shots, help="few_shot and adapters: examples a class")
    how.add_argument(
        "--few-shot-seeds", type=int, default=3, help="few_shot and adapters: draws of each (default: %(default)s)"
    )


def add_film_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the arguments that say that films are embedded and how, and return their group."""
    films = parser.add_argument_group("films", "the data are films, where one of the first two is given")
    films.add_argument(
        "--num-frames",
        type=int,
        metavar="N",
        help="frames to take of each film (default: a video model's own, else 8)",
    )
    films.add_argument(
        "--num-views", type=int, metavar="N", help="times to take them, at shifted places, to average (default: 1)"
    )
    return films


def add_skip_argument(group: argparse._ArgumentGroup) -> None:
    """Add the argument that says how many rows may be left out."""
    group.add_argument(
        "--max-skipped-share",
        type=float,
        default=MAX_SKIPPED_SHARE,
        metavar="SHARE",
        help="rows that cannot be used are left out; more than one, and more than this share, is an error; with 0 one "
        "is (default: %(default)s)",
    )


def add_runtime_argument(group: argparse._ArgumentGroup) -> None:
    """Add the argument that says what runs the model."""
    group.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="what runs the model; it is exported once for onnx and openvino (default: torch, or as it was exported)",
    )


def add_image_arguments(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the arguments on how image files are read, and return their group."""
    pictures = parser.add_argument_group("image files", "instead of what the model's image processor says")
    pictures.add_argument(
        "--background-color", metavar="COLOR", help="background for transparent images: white, #ffffff or 255,255,255"
    )
    pictures.add_argument(
        "--apply-exif-orientation",
        action=argparse.BooleanOptionalAction,
        help="turn images upright, by the orientation in their Exif data (default: yes)",
    )
    pictures.add_argument(
        "--high-bit-depth",
        choices=HIGH_BIT_DEPTH,
        help="what to do with images of more than 8 bits (default: as the model's image processor says)",
    )
    pictures.add_argument(
        "--draft",
        action="store_true",
        default=None,
        help="decode large JPEG files at a part of their size: several times as fast, slightly different pixels",
    )
    for name, (kind, default) in IMAGE_LIMITS.items():
        pictures.add_argument(
            f"--max-image-{name}",
            type=kind,
            default=default,
            metavar="N",
            help=f"{name} that one image may take (default: {'as Pillow' if default is None else f'{default:,}'})",
        )
    return pictures
