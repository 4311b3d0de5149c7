# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`clip-hf explain`: where in a picture a model looks for each text, and which words speak for it."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from transformers.utils import logging

from ..evaluation import load_templates
from ..explain import ImageExplanation, WordExplanation, explain_image, explain_words
from ..explain.image_maps import check_method
from ..model.modeling_clip_hf import ClipHFModel
from ..model.processing_clip_hf import ClipHFProcessor
from ..model.zero_shot_clip_hf import check_labels
from ..utils.atomic import replaced_file
from ..utils.devices import parse_device
from ..utils.dtypes import parse_inference_dtype
from ..utils.extras import require_extra
from ..utils.output_folders import check_writable
from ..utils.terminal_tables import draw_table
from .classify import image_source, plain_error
from .image_options import image_options
from .terminal_text import encodable, json_line, printable


_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def run(options: argparse.Namespace) -> int:
    """Do what the arguments ask for."""
    _check_options(options)
    templates = None if options.template is None else load_templates(options.template)
    device, reading = parse_device(options.device), image_options(options)
    reading = {name: value for name, value in reading.items() if value is not None}
    logging.disable_progress_bar()
    dtype = parse_inference_dtype(options.dtype, device)
    model = ClipHFModel.from_pretrained(options.model, **({} if dtype is None else {"dtype": dtype}))
    model = model if device is None else model.to(device)
    processor, image = ClipHFProcessor.from_pretrained(options.model), image_source(options.image)
    method = check_method(options.method, model)
    squares = {"window": options.window, "stride": options.stride}
    # A map without a choice of layers is as good beside words that have it.
    layers = options.layers if method in ("chefer", "rollout") or not options.words else "all"
    try:
        explanation = explain_image(
            *(model, processor, image, options.texts),
            method=method,
            layers=layers,
            templates=templates,
            **squares,
            **reading,
        )
        words = None
        if options.words:
            words = explain_words(model, processor, image, options.texts, layers=options.layers, **reading)
    except OSError as error:
        raise plain_error(error) from error
    if options.output:
        drawing, ending = explanation.draw(), Path(options.output).suffix.lower()
        with replaced_file(options.output) as temporary:
            drawing.save(temporary, format=_FORMATS[ending])
    if options.arrays:
        explanation.save_arrays(options.arrays)
    print(json_line(as_json(options.image, explanation, words)) if options.json else _as_text(explanation, options))
    if words and not options.json:
        _print_words(words)
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what would fail only after the work."""
    check_labels(options.texts)
    for path, endings in ((options.output, tuple(_FORMATS)), (options.arrays, (".npz",))):
        if path is None:
            continue
        if Path(path).suffix.lower() not in endings:
            raise ValueError(f"{path} must end in {', '.join(endings)}.")
        if os.path.isdir(path):
            raise IsADirectoryError(f"{path} is a folder; name a file.")
        check_writable(path, Path(path).absolute().parent)
    if options.output:
        require_extra("explain", "--output", "matplotlib")
    if options.method not in (None, "occlusion") and not (options.window is options.stride is None):
        raise ValueError(f"--window and --stride belong to --method occlusion, not {options.method}.")
    if os.path.isdir(options.image):
        raise IsADirectoryError(f"{options.image} is a folder; name one picture.")
    if "://" not in options.image and not os.path.exists(options.image):
        raise FileNotFoundError(f"There is no picture {options.image}: check the path.")


def as_json(image: str, explanation: ImageExplanation, words: list[WordExplanation] | None) -> dict[str, Any]:
    """What `--json` writes."""
    entries = []
    for index, point in enumerate(explanation.top_points()):
        entry: dict[str, Any] = {
            "text": explanation.texts[index],
            "cosine": round(float(explanation.cosines[index]), 6),
            "top_point": None,
        }
        if point is not None:
            x, y = point
            entry["top_point"] = {"x": x, "y": y, "value": float(explanation.maps[index, y, x])}
        if words:
            pairs = zip(words[index].words, words[index].relevance.tolist(), strict=True)
            entry["words"] = [{"word": word, "relevance": value} for word, value in pairs]
        entries.append(entry)
    left, top, right, bottom = explanation.seen_box
    return {
        "image": image,
        "width": explanation.image.width,
        "height": explanation.image.height,
        "seen_box": {"left": left, "top": top, "right": right, "bottom": bottom},
        "method": explanation.method,
        "texts": entries,
    }


def _as_text(explanation: ImageExplanation, options: argparse.Namespace) -> str:
    size: Image.Image = explanation.image
    title = f"{printable(options.image)}, {size.width} x {size.height} pixels: relevance by {explanation.method}"
    points = zip(explanation.texts, explanation.cosines, explanation.top_points(), strict=True)
    rows = [(printable(text), f"{cosine:.3f}", *map(str, point or "--")) for text, cosine, point in points]
    return encodable(draw_table(title, ("text", "cosine", "strongest at x", "y"), rows))


def _print_words(words: list[WordExplanation]) -> None:
    """Coloured words for a terminal; for a pipe, a line a word: text, word and relevance, with tabs between."""
    if sys.stdout.isatty():
        print()
        for each in words:
            Console(highlight=False).print(each.rich_text())
        return
    for each in words:
        for word, value in zip(each.words, each.relevance, strict=True):
            print(f"{printable(each.text)}\t{printable(word)}\t{value:.6g}")
