# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf classify`: which of some labels fits each image."""

import argparse
import codecs
import io
import os
import re
import select
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from _clip_hf_cli.server_arguments import check_key_file

from ..data.image_folders import images_in
from ..data.media import IMAGES, VIDEOS, Media
from ..evaluation import load_class_names, load_templates
from ..model.checks_clip_hf import did_you_mean
from ..model.pipeline_clip_hf import ClipHFZeroShotImageClassificationPipeline
from ..model.processing_clip_hf import is_video_processor
from ..model.video_opening_clip_hf import is_video
from ..model.zero_shot_clip_hf import check_labels, prompts_for
from ..utils.devices import parse_device
from ..utils.processor import count_threads
from ..utils.terminal_tables import draw_table
from ..utils.wording import quoted
from ..zero_shot_pipeline import pipeline
from .image_options import image_options
from .terminal_text import encodable, json_line, printable


# One `--labels` like this is a source of labels, not a label, and so is a file.
_LABEL_SOURCE = re.compile(r".*\.(txt|json)|.*\.json#.*|clip_benchmark:.*", re.IGNORECASE | re.DOTALL)
IMAGES_AND_FILMS = replace(IMAGES, endings=IMAGES.endings | VIDEOS.endings)
"""What counts in a folder for a video model."""
_BAR_WIDTH = 20
_PAUSE = 0.1  # seconds without a line on standard input

Predictions = list[dict[str, Any]]


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; the exit status is 1 where an image could not be classified."""
    labels, templates = read_inputs(options)
    device = parse_device(options.device)
    reading = {name: value for name, value in image_options(options).items() if value is not None}
    logging.disable_progress_bar()
    classifier = pipeline(
        options.model,
        runtime=options.runtime,
        dtype=options.dtype,
        device=device,
        candidate_labels=labels,
        hypothesis_template=templates,
        multi_label=options.multi_label,
        **reading,
    )
    scoring = {"labels": labels, "templates": templates, "multi_label": options.multi_label}
    shaping = {"labels": labels, "top_k": options.top_k, "threshold": options.threshold}
    media = IMAGES_AND_FILMS if is_video_processor(classifier.image_processor) else IMAGES
    paths = image_paths(options.images, media)
    return show_answers(options, classify_images(classifier, paths, scoring, shaping, options.batch_size, reading))


def show_answers(options: argparse.Namespace, answers: Iterable[tuple[str, Predictions | Exception]]) -> int:
    """Print the answer for each path as it comes, errors on standard error; the exit status is 1 if there was one.

    Raises:
        ValueError: if there is none.
    """
    num_images = num_failed = 0
    for path, outcome in answers:
        num_images += 1
        if isinstance(outcome, Exception):
            num_failed += 1
            message = str(outcome).removeprefix(f"{path}: ")  # films name themselves
            print(f"clip-hf classify: {printable(path)}: {message}", file=sys.stderr, flush=True)
        elif options.json:
            print(json_line({"image": path, "predictions": outcome}), flush=True)
        elif text := _as_text(path, outcome):
            print(text, flush=True)
    if not num_images:
        raise ValueError("No image was named.")
    return 1 if num_failed else 0


def read_inputs(options: argparse.Namespace) -> tuple[list[str], Any]:
    """The labels and templates, checked; standard input too, if paths are to come from it."""
    check_key_file(options)
    labels = check_labels(read_labels(options.labels))
    templates = load_templates(options.template)
    prompts_for(labels, templates)
    if "-" in options.images and sys.stdin is None:
        raise ValueError("Standard input is closed, so no paths can be read from it.")
    return labels, templates


def read_labels(values: list[str]) -> list[str]:
    """The labels of `--labels`: the values themselves, or what is in the one file that they name.

    Raises:
        OSError: if that file is not there.
        ValueError: if a file is named among other values.
    """
    sources = [value for value in values if _LABEL_SOURCE.fullmatch(value)]
    if len(values) > 1 and sources:
        raise ValueError(
            f"Give labels, or one file of labels alone; among the {len(values)} values given {quoted(sources)} "
            f"{'is a file' if len(sources) == 1 else 'are files'}. Put all labels into one file."
        )
    if len(values) != 1 or not (sources or os.path.isfile(values[0])):
        return values
    path = Path(values[0])
    if path.suffix.lower() in (".txt", ".json") and not path.exists():
        folder = path.parent
        files = [file.name for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
        raise FileNotFoundError(f"The file of labels {values[0]} is not there.{did_you_mean(path.name, files)}")
    return load_class_names(values[0])


def image_paths(arguments: Iterable[str | None], media: Media = IMAGES) -> Iterator[str | None]:
    """The images that the arguments name, in their order.

    Files and URLs stand for themselves; folders for the files of `media` below them; `-` for one such path a line of
    standard input, read as the result is. `None`, which stands for a pause, stays `None`.
    """
    for argument in arguments:
        if argument is None:
            yield None
        elif argument == "-":
            lines = (line if line is None else _as_path(line) for line in _lines_of_stdin())
            named = (line for line in lines if line is None or (line.strip() and line != "-"))
            yield from image_paths(named, media)
        elif os.path.isdir(argument):
            root = Path(argument)
            images = images_in(root, media=media)[0]
            yield from (str(root / Path(image).relative_to(root.absolute())) for image in images or [root.absolute()])
        else:
            yield argument


def _as_path(line: bytes) -> str:
    path = os.fsdecode(line.removeprefix(codecs.BOM_UTF8)).removesuffix("\n")
    # A file's name may end in what else ends a line.
    return path if path.endswith("\r") and os.path.lexists(path) else path.rstrip("\r")


def _lines_of_stdin() -> Iterator[bytes | None]:
    """The lines of standard input, and `None` whenever whoever writes them pauses."""
    try:
        descriptor = sys.stdin.fileno()
    except io.UnsupportedOperation:
        descriptor = None
    if descriptor is None or os.name != "posix":  # elsewhere, `select` takes no pipes
        yield from sys.stdin.buffer
        return
    rest = b""
    while True:
        if not select.select([descriptor], [], [], _PAUSE)[0]:
            yield None
        chunk = os.read(descriptor, 2**16)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    yield rest


def _batches(paths: Iterable[str | None], size: int) -> Iterator[list[str]]:
    """The paths in lists of this length; at a pause, the list so far, and an empty one before more is waited for."""
    batch: list[str] = []
    for path in paths:
        if path is None:
            yield batch
            batch = []
            yield batch
        else:
            batch.append(path)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


def classify_images(
    classifier: ClipHFZeroShotImageClassificationPipeline,
    paths: Iterable[str | None],
    scoring: dict[str, Any],
    shaping: dict[str, Any],
    batch_size: int,
    reading: dict[str, Any] | None = None,
) -> Iterator[tuple[str, Predictions | Exception]]:
    """Yield each path with the pipeline's result for it, or with what went wrong, also for images that cannot be read.

    The pipeline ends with the first image that cannot be read; this goes on. Threads read one batch while the model
    runs on the one before. So the pipeline's three steps are called one by one.

    Args:
        classifier ([`ClipHFZeroShotImageClassificationPipeline`]): The pipeline.
        paths (`Iterable[str]`): Paths and URLs; `None` where no more will come for a while, so that the answers to
            those before it are given at once.
        scoring (`dict[str, Any]`): Arguments of its second step: labels, templates, ...
        shaping (`dict[str, Any]`): Arguments of its last step: labels, `top_k`, `threshold`.
        batch_size (`int`): Images per pass of the image tower.
        reading (`dict[str, Any]`, *optional*): Arguments of its first step: `high_bit_depth`, ...
    """

    takes_films = is_video_processor(classifier.image_processor)

    def read(path: str) -> torch.Tensor | Exception:
        if os.path.isdir(path):
            return empty_folder(takes_films)
        if is_video(path) and not takes_films:
            return ValueError(
                "this is a film, and the model takes pictures. `clip_hf.pipeline(model, "
                "task='zero-shot-video-classification')` classifies films; `clip-hf evaluate` and `embed` have "
                "--num-frames."
            )
        try:
            return classifier.preprocess(image_source(path), **reading or {})["pixel_values"]
        except (ValueError, OSError) as error:
            return plain_error(error)

    def answers(batch: list[tuple[str, Any]]) -> Iterator[tuple[str, Predictions | Exception]]:
        pixels = [future.result() for _, future in batch]
        results = _score([image for image in pixels if not isinstance(image, Exception)], classifier, scoring)
        for (path, _), image in zip(batch, pixels):
            if isinstance(image, Exception):
                yield path, image
            else:
                yield path, _predictions(classifier, next(results), shaping)

    with ThreadPoolExecutor(count_threads(), thread_name_prefix="read") as pool:
        batch: list[tuple[str, Any]] = []
        for next_paths in _batches(paths, batch_size):
            next_batch = [(path, pool.submit(read, path)) for path in next_paths]
            yield from answers(batch)
            batch = next_batch
        yield from answers(batch)


def empty_folder(takes_films: bool = False) -> ValueError:
    """The error for a folder in which [`image_paths`] found nothing."""
    return ValueError(f"there is no image{' and no film' if takes_films else ''} in this folder.")


def image_source(path: str) -> str | Path:
    """What is opened for a path or URL: a `Path` is never taken for base64 text; that of "" is the working folder."""
    return path if "://" in path or not path else Path(path)


def plain_error(error: Exception) -> Exception:
    """What is wrong with an image, without its place among others."""
    cause = error.__cause__
    error = cause if isinstance(cause, ValueError) else error
    return ValueError("there is no such file.") if getattr(error, "kind", None) == "file missing" else error


def _score(
    pixels: list[torch.Tensor], classifier: ClipHFZeroShotImageClassificationPipeline, scoring: dict[str, Any]
) -> Iterator[torch.Tensor]:
    """The scores (1, labels) of each image; images of different sizes, which form no batch, one by one."""
    same_size = len({image.shape for image in pixels}) == 1
    for batch in [torch.cat(pixels)] if same_size else pixels:
        yield from classifier.forward({"pixel_values": batch}, **scoring)["scores"].split(1)


def _predictions(
    classifier: ClipHFZeroShotImageClassificationPipeline, scores: torch.Tensor, shaping: dict[str, Any]
) -> Predictions | Exception:
    if not scores.isfinite().all():
        return ValueError("the model's scores are not finite; try --dtype float32.")
    return classifier.postprocess({"scores": scores}, **shaping)


def _as_text(path: str, predictions: Predictions) -> str:
    """A table for a terminal; for a pipe one line a label: path, label and score, with tabs between and none inside.

    For an image of which no label reaches the threshold, a pipe gets the empty string.
    """
    path, shown = printable(path), [(printable(entry["label"]), entry["score"]) for entry in predictions]
    if not sys.stdout.isatty():
        return "\n".join(f"{path}\t{label}\t{score:.6f}" for label, score in shown)
    cells = [(label, f"{score:.1%}", "█" * round(score * _BAR_WIDTH)) for label, score in shown]
    table = draw_table(path, ("label", "score", ""), cells or [("no label reaches the threshold", "", "")])
    return encodable(table)
