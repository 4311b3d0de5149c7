# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf export`: a model for ONNX Runtime or OpenVINO."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..data import SkippedRow
from ..data.decoding import ImageReader
from ..data.image_folders import images_in
from ..data.openmoji import load_openmoji
from ..export import ParityReport, export_model
from ..export.exporting import check_destination
from ..export.tower_inputs import NamedItems
from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..utils.extras import MissingExtra
from ..utils.terminal_tables import draw_table
from ..utils.wording import counted, listed
from .classify import read_labels


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for; the exit status."""
    logging.disable_progress_bar()
    check_destination(options.destination)
    if os.path.exists(options.destination) and not options.overwrite:
        raise FileExistsError(f"{options.destination} exists. Name another folder, or replace it with --overwrite.")
    images, texts = _data(options)
    report = export_model(
        options.model,
        options.destination,
        options.runtime,
        options.precision,
        images=images,
        texts=texts,
        allow_loss=options.allow_loss,
    )
    print(json.dumps(report.to_dict()) if options.json else _describe(report, Path(options.destination)))
    return 0


def _data(options: argparse.Namespace) -> tuple[Sequence[Any] | None, Sequence[str] | None]:
    """The images and texts to compare on."""
    labels = None if options.labels is None else read_labels(options.labels)
    if options.images is not None:
        folder = Path(options.images)
        if not folder.is_dir():
            raise NotADirectoryError(f"--images {folder}: there is no such folder.")
        paths = [Path(path) for path in images_in(folder)[0]]
        if not paths:
            raise ValueError(f"--images {folder}: there is no image in this folder.")
        return _readable(_spread(paths, options.max_images), folder), labels
    try:
        drawings = load_openmoji()["train"]
    except MissingExtra as error:
        print(f"clip-hf export: no images to compare on ({error}) Give some with --images FOLDER.", file=sys.stderr)
        return None, labels
    rows = drawings.select(_spread(range(len(drawings)), options.max_images))
    names = NamedItems(dict.fromkeys(rows["caption"][:]), "of their names")
    return NamedItems(rows["image"][:], "drawings of OpenMoji"), labels or names


def _readable(paths: Sequence[Path], folder: Path) -> list[Path]:
    """The images that can be read, as jobs and evaluations read them; the others are named on standard error."""
    reader = ImageReader(ClipHFImageProcessor())
    readable, left_out = [], []
    for place, path in enumerate(paths):
        pixels = reader.read(path, f"image {place}", None)
        if isinstance(pixels, SkippedRow):
            left_out.append(f"{path.relative_to(folder.absolute())} ({pixels.kind})")
        else:
            readable.append(path)
    if not readable:
        raise ValueError(f"--images {folder}: no image can be read: {listed(left_out)}.")
    if left_out:
        verb = "is" if len(left_out) == 1 else "are"
        count = f"{counted(len(left_out), 'image')} cannot be read and {verb} left out"
        print(f"clip-hf export: {count}: {listed(left_out)}.", file=sys.stderr)
    return readable


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many items, evenly spread."""
    count = min(len(items), most)
    return [items[place * len(items) // count] for place in range(count)]


def _describe(report: ParityReport, folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.iterdir())
    title = f"{folder}: {report.runtime}, {report.precision}, {size / 1e6:,.0f} MB, against PyTorch in float32"
    columns = ("", "images", "texts")
    return "\n".join([draw_table(title, columns, report.rows()), f"Compared on {report.data}.", *report.notes()])
