# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""CLIPScore and RefCLIPScore (Hessel et al. 2021): how well texts fit images, on embeddings."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .metric_inputs import as_numbers, check_matrix


def clip_score(image_embeds: Any, text_embeds: Any, weight: float = 2.5) -> np.ndarray:
    """CLIPScore of each image with its text: weight * max(cosine, 0) (Hessel et al. 2021).

    For embeddings `[3, 4]` and `[4, 3]` the cosine is 24/25 and the score 2.4.

    Args:
        image_embeds (array of shape `(n, dim)`): Projected embeddings of the images; need not be normalised.
        text_embeds (array of shape `(n, dim)`): Those of the texts, each in the row of its image.
        weight (`float`, *optional*, defaults to 2.5): Stretches the scores to about 0 to 1; CLIP's cosines are
            seldom above 0.4.

    Returns:
        `np.ndarray` of shape `(n,)`, float64: scores from 0 to `weight`.

    Raises:
        ValueError: if shapes differ, an embedding is NaN, infinite or zero, or `weight` is not above 0.
        TypeError: if something is no number.
    """
    if not 0 < weight < np.inf:
        raise ValueError(f"weight must be a number above 0, got {weight}.")
    images, texts = _unit(image_embeds, "image_embeds"), _unit(text_embeds, "text_embeds")
    if images.shape != texts.shape:
        raise ValueError(f"image_embeds has the shape {images.shape}, text_embeds {texts.shape}; make them the same.")
    return weight * np.maximum(np.einsum("nd,nd->n", images, texts), 0)


def ref_clip_score(
    image_embeds: Any, text_embeds: Any, reference_embeds: Sequence[Any], weight: float = 2.5
) -> np.ndarray:
    """RefCLIPScore: harmonic mean of CLIPScore and the text's largest cosine with a reference (Hessel et al. 2021).

    With a score of 2.4 and references at cosines 0.6 and 0.2, it is 2 * 2.4 * 0.6 / (2.4 + 0.6) = 0.96.

    Args:
        image_embeds (array of shape `(n, dim)`): Projected embeddings of the images.
        text_embeds (array of shape `(n, dim)`): Those of the texts that are judged.
        reference_embeds (sequence of n arrays of shape `(references, dim)`): Those of texts written for each image, at
            least one.
        weight (`float`, *optional*, defaults to 2.5): As in `clip_score`.

    Returns:
        `np.ndarray` of shape `(n,)`, float64.

    Raises:
        ValueError: as `clip_score`; if there is not one array of references for each row.
        TypeError: if something is no number.
    """
    scores, texts = clip_score(image_embeds, text_embeds, weight), _unit(text_embeds, "text_embeds")
    if len(reference_embeds) != len(texts):
        raise ValueError(f"reference_embeds has {len(reference_embeds)} rows, text_embeds {len(texts)}.")
    references = [_unit(rows, f"reference_embeds[{i}]") for i, rows in enumerate(reference_embeds)]
    for i, rows in enumerate(references):
        if rows.shape[1] != texts.shape[1]:
            raise ValueError(f"reference_embeds[{i}] has the width {rows.shape[1]}, text_embeds {texts.shape[1]}.")
    nearest = np.maximum([(rows @ text).max() for rows, text in zip(references, texts, strict=True)], 0)
    total = scores + nearest
    return np.divide(2 * scores * nearest, total, out=np.zeros_like(total), where=total > 0)


def _unit(embeds: Any, name: str) -> np.ndarray:
    embeds = as_numbers(embeds, name, 2).astype(np.float64)
    check_matrix(embeds, name, directions=True)
    largest = np.abs(embeds).max(axis=1, keepdims=True)  # divided first, so that squares do not overflow or vanish
    embeds = embeds / largest
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
