# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a server tells of its model: from the model itself, and from the `README.md` that lies beside it."""

import re
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from ..embedding.dual_encoder import DualEncoder
from ..model.prompts_clip_hf import prompt_set_names
from ..search.index_sources import SourceIndex
from .image_explanations import can_explain


_MAX_SUMMARY_CHARACTERS = 1000
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)(.*)", re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
# Lines that begin headings, tables, code, pictures, lists and HTML.
_NO_PROSE = ("#", "|", "```", "![", "[!", "<", "- ", "* ", ">")
# What else is known of data sets is a path where it has one of these.
_PATH_MARKS = ("/", "\\", "~", ".")


def model_facts(encoder: DualEncoder, source: SourceIndex | None) -> dict[str, Any]:
    """Facts of a model for its users, as JSON has them: None where something is not known, and never a path.

    Args:
        encoder ([`DualEncoder`]): The model. If its name is that of a folder, the `README.md` in there is read.
        source ([`SourceIndex`], *optional*): The index that is served with it.
    """
    config = getattr(encoder.model, "config", None)
    parameters = sum(each.numel() for each in encoder.model.parameters()) if encoder.runtime == "torch" else None
    return {
        "architecture": getattr(config, "model_type", None) or type(encoder.model).__name__,
        "image_encoder": getattr(getattr(config, "vision_config", None), "model_type", None),
        "parameters": parameters,  # of exports, another runtime has them
        "image_size": _image_size(encoder),
        "context_length": encoder.context_length,
        "projection_dim": encoder.projection_dim,
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "runtime": encoder.runtime,
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "device": encoder.device.type,
        "explains": can_explain(encoder),
        "prompt_sets": prompt_set_names(),
        "index_rows": None if source is None else len(source.index),
        **card_facts(Path(encoder.given_name) / "README.md"),
    }


def _image_size(encoder: DualEncoder) -> int | list[int] | None:
    """The edge of the squares that the model gets, or height and width; None if that depends on the image."""
    shapes = []
    for size in ((64, 48), (96, 160)):
        pixels = encoder.prepare([Image.new("RGB", size)]).get("pixel_values")
        shapes.append(list(pixels.shape[2:]) if pixels is not None and pixels.ndim == 4 else None)
    if shapes[0] is None or shapes[0] != shapes[1]:
        return None
    height, width = shapes[0]
    return height if height == width else [height, width]


def card_facts(card: Path) -> dict[str, Any]:
    """Licence, data sets and summary from a model card; None where it does not say, or there is none."""
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    match = _FRONT_MATTER.match(text)
    front, body = (match[1], match[2]) if match else ("", text)
    try:
        metadata = yaml.safe_load(front)
    except yaml.YAMLError:
        metadata = None  # a card is for readers; a fault in it is no reason not to serve
    metadata = metadata if isinstance(metadata, dict) else {}
    datasets = metadata.get("datasets")
    datasets = [datasets] if isinstance(datasets, str) else datasets if isinstance(datasets, list) else []
    names = [name for name in datasets if isinstance(name, str) and not name.startswith(_PATH_MARKS)]
    licence = metadata.get("license")
    return {
        "license": licence if isinstance(licence, str) else None,
        "datasets": names or None,
        "summary": _first_paragraph(body),
    }


def _first_paragraph(markdown: str) -> str | None:
    for paragraph in re.split(r"\n\s*\n", _COMMENT.sub("", markdown)):
        lines = [line.strip() for line in paragraph.strip().splitlines() if not line.lstrip().startswith("#")]
        text = " ".join(filter(None, lines))
        if text and not text.startswith(_NO_PROSE):
            text = _LINK.sub(r"\1", text)
            return text if len(text) <= _MAX_SUMMARY_CHARACTERS else f"{text[:_MAX_SUMMARY_CHARACTERS].rstrip()}..."
    return None
