# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Which places of a picture speak for a label: what a client asks, and how it is computed in the model's thread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..embedding.dual_encoder import DualEncoder
from ..embedding.transformers_encoder import ClipHFEncoder
from ..explain.attention_twin import check_explainable
from ..explain.image_explanation import read_picture
from ..explain.image_maps import cell_size, image_maps
from ..model.image_processing_clip_hf import opens_files
from ..model.label_scores_clip_hf import DEFAULT_TEMPLATE
from .label_options import ClassifyOptions, check_classify
from .request_errors import RequestError
from .serving_limits import ServingLimits


MAX_LABELS = 32  # of a request; each takes a backward pass
LABELS_AT_ONCE = 4  # after which the passes of other requests have their turn
EXPLAINED_AT_ONCE = 8  # pictures, which have their passes in turn


@dataclass(frozen=True)
class ExplainOptions:
    """What to explain.

    Args:
        labels (`Sequence[str]`): The labels, all different, at most 32.
        templates (`str`, `Sequence[str]` or `Mapping`, *optional*): Prompts, as [`ClassifyOptions`] has them.
        method (`str`, *optional*): One of [`image_maps`]; by default the model's own.
        truncate (`bool`, *optional*, defaults to `False`): Whether to cut prompts that are too long for the model.
    """

    labels: Sequence[str]
    templates: str | Sequence[str] | Mapping[str, str | Sequence[str]] = DEFAULT_TEMPLATE
    method: str | None = None
    truncate: bool = False


@dataclass(frozen=True)
class Explanations:
    """Where a model looks in a picture.

    Args:
        method (`str`): How the maps were made.
        seen_box (`list[float]`): The part of the upright picture that the model sees, which the maps' cells fill:
            left, top, right and bottom in fractions of its width and height. It exceeds 0 to 1 where a crop is larger.
        cosines (`np.ndarray`): `(labels,)`, float32: of the picture with each label, as `/v1/classify` has them.
        maps (`np.ndarray`): `(labels, rows, columns)`, float32, in the method's own unit; none is negative.
    """

    method: str
    seen_box: list[float]
    cosines: np.ndarray
    maps: np.ndarray

    def rows(self, labels: Sequence[str]) -> list[dict[str, Any]]:
        """What a client gets for each label: its map in parts of the largest value, and that value."""
        rows = []
        for index, (label, cosine, relevance) in enumerate(zip(labels, self.cosines, self.maps, strict=True)):
            largest = float(relevance.max())
            scaled = relevance / largest if largest > 0 else np.zeros_like(relevance)
            row = {"index": index, "label": label, "cosine": float(cosine), "largest": largest}
            rows.append({**row, "relevance": scaled})
        return rows


def can_explain(encoder: DualEncoder) -> bool:
    """Whether a served model can be looked into: a [`ClipHFModel`] in PyTorch, whose pictures are cropped our way."""
    if not isinstance(encoder, ClipHFEncoder) or encoder.runtime != "torch":
        return False
    processor = encoder.image_processor
    if not opens_files(processor) or processor.do_pad:
        return False
    try:
        check_explainable(encoder.model)
    except (TypeError, ValueError):  # a repo's own code, say, or offloaded weights
        return False
    return True


def check_explain(options: ExplainOptions, encoder: DualEncoder, limits: ServingLimits) -> tuple[list, Any]:
    """Check options, and return labels and templates of the classifier.

    Raises:
        RequestError: 400, which names the option, or says that the model cannot be looked into.
    """
    if not can_explain(encoder):
        raise RequestError(
            400,
            "This server's model cannot be explained: that takes a ClipHFModel that PyTorch runs, with its own image "
            "processor. Where it can, the `facts` of `/v1/models` have `explains: true`.",
            code="not_explainable",
        )
    if len(options.labels) > MAX_LABELS:
        raise RequestError(
            400,
            f"`labels` has {len(options.labels):,} labels; at most {MAX_LABELS} are explained at a time. Send them in "
            "several requests.",
            code="too_many_labels",
            param="labels",
        )
    classify = ClassifyOptions(options.labels, options.templates, truncate=options.truncate)
    return check_classify(classify, 1, limits, has_bias=True)[0]


def prepare_explained(encoder: ClipHFEncoder, data: bytes) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The model's inputs for an image file, and where a map's first cell begins and ends along x and y, `(2, 2)`, in
    fractions of the picture.
    """
    picture = read_picture(encoder.image_processor, data, encoder.image_limits)
    cell = cell_size(encoder.model)
    first = [picture.cell_edges(axis, 1, cell) / picture.image.size[axis] for axis in (0, 1)]
    return {"pixel_values": picture.pixel_values}, np.array(first)


def covered_box(first_cell: np.ndarray, maps: np.ndarray) -> list[float]:
    """The part of the picture that the cells of maps `(labels, rows, columns)` fill, see [`Explanations`]: without
    what a ViT leaves out because it fills no patch.
    """
    starts, ends = first_cell.T
    ends = starts + (ends - starts) * maps.shape[:0:-1]
    return [*starts.tolist(), *ends.tolist()]


def compute_maps(
    encoder: ClipHFEncoder, inputs: dict[str, torch.Tensor], text_embeds: np.ndarray, method: str | None
) -> np.ndarray:
    """Relevance of a picture's places for texts, to be run in the model's thread.

    Args:
        encoder ([`ClipHFEncoder`]): The model.
        inputs (`dict`): What [`prepare_explained`] returned, of one picture.
        text_embeds (`np.ndarray`): `(texts, dim)`, L2-normalised.
        method (`str`, *optional*): By default the model's own.

    Returns:
        `np.ndarray`: (texts, rows, columns), float32.

    Raises:
        FloatingPointError: if values are not finite.
    """
    return image_maps(encoder.model, inputs["pixel_values"], torch.from_numpy(text_embeds), method)[0].cpu().numpy()
