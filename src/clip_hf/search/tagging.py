# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Tags: which labels fit a picture, each by itself against a background of everyday captions.

Shapes: n pictures, L labels, B background texts, `dim` the width of the shared embedding space.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..embedding import DualEncoder
from ..model.zero_shot_clip_hf import check_labels, ensemble_prompts, prompts_for
from ..utils.json_files import read_json
from ..utils.wording import quoted
from .background_texts import load_background_texts


MODERATION = "moderation"
"""The name of the label set that comes with clip_hf."""
TAG_TEMPLATE = "This is a photo of {}."
"""The prompt around a label, unless told otherwise; that of `clip-hf classify`."""
TAG_THRESHOLD = 0.5
"""The score from which on a picture gets a label, unless a threshold was fitted: the label's prompts fit the picture
better than all captions of the background together."""

_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class PictureTags:
    """The labels of a picture.

    Args:
        id (`int` or `str`): The picture's id in its index.
        labels (`tuple[str, ...]`): Labels whose score reaches their threshold, the highest score first.
        scores (`tuple[float, ...]`): Their scores, 0 to 1.
    """

    id: int | str
    labels: tuple[str, ...]
    scores: tuple[float, ...]


class LabelScorer:
    """Scores labels on embeddings of pictures: each label's probability against the background.

    - The score of a label is the share of its softmax term among itself and the background's:
      `exp(s * c) / (exp(s * c) + sum(exp(s * b) for b in background))`, with the cosine `c` of picture and label, the
      cosines `b` of picture and background texts, and the model's `logit_scale` `s`. So 0.5 says that the label fits
      better than all of the background together.
    - Labels do not compete: what else is among them changes no score. A picture may have several labels or none.
    - A background text that has all words of a label is no alternative to it, and is left out for it: "a cat curled up
      on a windowsill" for the label "cat".
    - Labels under several templates are ensembled as in [`build_text_classifier`].

    Args:
        encoder ([`DualEncoder`]): The model.
        labels (`Sequence[str]`): The labels, all different.
        templates (`str`, `Sequence[str]` or `Mapping`, *optional*): Prompt templates, a prompt set, or each label's
            own prompts; see [`build_text_classifier`].
        background (`Sequence[str]`, *optional*): Texts that the labels are measured against; by default those of
            [`load_background_texts`].

    Raises:
        TypeError: if labels or templates are of the wrong type.
        ValueError: if there are no labels, one is blank or occurs twice, templates cannot be used, or all of the
            background has a label's words.

    Example:

    ```python
    >>> from clip_hf.embedding import load_dual_encoder
    >>> from clip_hf.search import LabelScorer

    >>> encoder = load_dual_encoder("openai/clip-vit-base-patch32")
    >>> scorer = LabelScorer(encoder, ["dog", "beach"])
    >>> scores = scorer.score(encoder.encode_images(["cat.jpg"]).numpy())  # (1, 2)
    ```
    """

    def __init__(
        self,
        encoder: DualEncoder,
        labels: Sequence[str],
        templates: str | Sequence[str] | Mapping[str, Any] = TAG_TEMPLATE,
        background: Sequence[str] | None = None,
    ):
        self.encoder = encoder
        self.labels = tuple(map(str, check_labels(labels)))
        self.prompts = tuple(map(tuple, prompts_for(self.labels, templates)))
        self.background = tuple(dict.fromkeys(load_background_texts() if background is None else background))
        self._rivals = find_rivals(self.labels, self.background)  # (L, B)
        self._label_embeds = ensemble_prompts(self.prompts, encoder.text_batches).numpy()  # (L, dim)
        self._background_embeds = encoder.encode_texts(self.background).numpy()  # (B, dim)
        self._scale = encoder.logit_scale

    @cached_property
    def model(self) -> dict[str, str]:
        """The model's `"name"` and `"fingerprint"`."""
        return {"name": self.encoder.name, "fingerprint": self.encoder.fingerprint}

    def score(self, image_embeds: np.ndarray) -> np.ndarray:
        """Score the labels on pictures.

        Args:
            image_embeds (`np.ndarray` of shape (n, dim)): L2-normalised embeddings of the pictures.

        Returns:
            `np.ndarray` of shape (n, L), float64, 0 to 1.

        Raises:
            ValueError: if the embeddings are of another shape, or hold NaN or an infinite number.
        """
        image_embeds = check_image_embeds(image_embeds, self._label_embeds.shape[1])
        cosines, background = image_embeds @ self._label_embeds.T, image_embeds @ self._background_embeds.T
        return score_against(cosines, background, self._rivals, self._scale)


def check_image_embeds(image_embeds: np.ndarray, dim: int) -> np.ndarray:
    """The embeddings in float64; a ValueError if they are not of shape (n, dim), or not finite."""
    image_embeds = np.asarray(image_embeds, np.float64)
    if image_embeds.ndim != 2 or image_embeds.shape[1] != dim:
        raise ValueError(
            f"The embeddings of pictures have the shape {image_embeds.shape}; this model's have (n, {dim})."
        )
    finite = np.isfinite(image_embeds).all(axis=1)
    if not finite.all():
        raise ValueError(f"The embedding of picture {finite.argmin()} holds NaN or an infinite number.")
    return image_embeds


def find_rivals(labels: Sequence[str], background: Sequence[str]) -> np.ndarray:
    """Which background texts are alternatives to which label, bool (L, B): those that lack one of its words.

    Raises:
        ValueError: if a label has no alternative.
    """
    places: dict[str, set[int]] = {}
    for place, text in enumerate(background):
        for word in _words(text):
            places.setdefault(word, set()).add(place)
    rivals = np.ones((len(labels), len(background)), bool)
    for row, label in zip(rivals, labels):
        row[list(set.intersection(*(places.get(word, set()) for word in _words(label))))] = False
    alone = [label for label, row in zip(labels, rivals) if not row.any()]
    if alone:
        raise ValueError(
            f"No text of the background is an alternative to {quoted(alone)}: each has all words of the label. Give a "
            "background of other texts."
        )
    return rivals


def _words(text: str) -> frozenset[str]:
    # A text without any, such as an emoji, is a word of its own.
    return frozenset(_WORDS.findall(text.casefold())) or frozenset([text])


def score_against(cosines: np.ndarray, background: np.ndarray, rivals: np.ndarray, logit_scale: float) -> np.ndarray:
    """Probability of each text against its alternatives.

    With a scale of ln 3, a cosine of 1 and two alternatives of cosine 0: 3 / (3 + 1 + 1) = 0.6.

    Args:
        cosines (`np.ndarray` of shape (n, L)): Cosines of pictures and texts.
        background (`np.ndarray` of shape (n, B)): Cosines of pictures and alternatives.
        rivals (`np.ndarray` of shape (L, B), bool): Which alternatives count for which text; at least one for each.
        logit_scale (`float`): The model's factor of cosines.

    Returns:
        `np.ndarray` of shape (n, L), float64, 0 to 1.
    """
    largest = background.max(axis=1, keepdims=True)  # (n, 1)
    sums = np.exp(logit_scale * (background - largest)) @ rivals.T.astype(np.float64)  # (n, L)
    with np.errstate(divide="ignore"):  # alternatives so far below the largest that nothing is left of them
        logits = logit_scale * (cosines - largest) - np.log(sums)
    return np.exp(-np.logaddexp(0, -logits))


def tag_rows(
    scorer: LabelScorer, thresholds: Sequence[float], rows: Iterable[tuple[Sequence[Any], np.ndarray]]
) -> Iterator[PictureTags]:
    """Tag pictures, batch by batch.

    Args:
        scorer ([`LabelScorer`]): The labels.
        thresholds (`Sequence[float]`): The score of each label from which on a picture gets it; infinite for a label
            that none gets.
        rows (`Iterable[tuple[Sequence, np.ndarray]]`): Ids and L2-normalised embeddings (n, dim) of pictures, such as
            [`EmbeddingIndex.scan`] gives them.

    Yields:
        [`PictureTags`] of each picture, in their order.
    """
    limits = np.asarray(thresholds, np.float64)
    for ids, embeds in rows:
        for key, scores in zip(ids, scorer.score(embeds), strict=True):
            best = [place for place in np.argsort(-scores, kind="stable") if scores[place] >= limits[place]]
            key = key.item() if isinstance(key, np.generic) else key
            yield PictureTags(key, tuple(scorer.labels[place] for place in best), tuple(scores[best].tolist()))


# ---------------------------------------------------------------------------------------------------------- moderation


@dataclass(frozen=True)
class ModerationLabels:
    """A set of labels for a first look through pictures, with what it must not be used for.

    Args:
        labels (`tuple[str, ...]`): The labels.
        categories (`dict[str, str]`): The category of each label.
        prompts (`dict[str, tuple[str, ...]]`): The captions of each label.
        counterparts (`tuple[str, ...]`): Captions of harmless pictures that are near to the labels, to be added to the
            background.
        limits (`tuple[str, ...]`): What the set cannot do, in sentences.
    """

    labels: tuple[str, ...]
    categories: dict[str, str]
    prompts: dict[str, tuple[str, ...]]
    counterparts: tuple[str, ...]
    limits: tuple[str, ...]


def load_moderation_labels() -> ModerationLabels:
    """The label set that comes with clip_hf for moderation: `clip-hf tag --labels moderation`.

    Nobody measured its accuracy, for any model. CLIP's judgements of people are biased (Radford et al. 2021, section
    7.1). It orders pictures for a person who decides; see `limits` of what this returns.

    Returns:
        [`ModerationLabels`]

    Example:

    ```python
    >>> from clip_hf.search import load_moderation_labels

    >>> load_moderation_labels().categories["weapon"]
    'weapons'
    ```
    """
    content = read_json(Path(__file__).with_name("moderation_labels.json"), dict)
    entries = content["labels"]
    return ModerationLabels(
        labels=tuple(entry["label"] for entry in entries),
        categories={entry["label"]: entry["category"] for entry in entries},
        prompts={entry["label"]: tuple(entry["captions"]) for entry in entries},
        counterparts=tuple(dict.fromkeys(text for entry in entries for text in entry["counterparts"])),
        limits=tuple(content["limits"]),
    )
