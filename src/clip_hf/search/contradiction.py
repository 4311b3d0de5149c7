# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Does a text describe a picture? The probability that it does not, against other texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..embedding import DualEncoder, load_dual_encoder
from ..embedding.dual_encoder import check_texts
from ..utils.wording import quoted
from .background_texts import load_background_texts
from .tagging import check_image_embeds, score_against


# As many pairs at once as have few enough cosines with the alternatives for memory.
_COSINES = 2**20


def contradiction_score(
    model: Any, image: Any, text: str, *, alternatives: Sequence[str] | None = None, processor: Any = None
) -> float:
    """The probability that a text does not describe an image, against alternatives.

    It is 1 minus the softmax probability of the text among itself and the alternatives. With a scale of ln 3, a text
    of cosine 1 and one alternative of cosine 0, that is `1 - 3 / (3 + 1) = 0.25`.

    What it says depends on the alternatives. Against the everyday captions of the default, it tells whether the text
    fits at all; for "a red car" on a picture of a blue car, give the alternatives that it must beat: `["a blue car",
    "a green car"]`. The probability is the model's, and calibrated on no data.

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path): The model; see [`load_dual_encoder`].
        image: An image, or what `open_image` takes: a path, URL, or the bytes of a file.
        text (`str`): The text.
        alternatives (`Sequence[str]`, *optional*): The other texts; those equal to `text` do not count. By default
            [`load_background_texts`].
        processor (*optional*): The model's processor, where the model is a `nn.Module`.

    Returns:
        `float` from 0 (it describes the image) to 1.

    Raises:
        TypeError: if a text is no string.
        ValueError: if the image cannot be read, or there is no alternative that differs from the text.

    Example:

    ```python
    >>> from clip_hf.search import contradiction_score

    >>> score = contradiction_score("openai/clip-vit-base-patch32", "cat.jpg", "a dog on a beach")
    ```
    """
    scores = contradiction_scores(model, [image], [text], alternatives=alternatives, processor=processor)
    return float(scores[0])


def contradiction_scores(
    model: Any,
    images: Sequence[Any] | np.ndarray,
    texts: Sequence[str],
    *,
    alternatives: Sequence[str] | None = None,
    processor: Any = None,
) -> np.ndarray:
    """[`contradiction_score`] of many images, each with its text.

    Args:
        model, processor: As in [`contradiction_score`].
        images (`Sequence` or `np.ndarray` of shape (n, dim)): The images, or their L2-normalised embeddings.
        texts (`Sequence[str]`): A text for each image.
        alternatives (`Sequence[str]`, *optional*): The other texts, the same for all images; those equal to an image's
            text do not count for it. To draw them from the captions at hand, give `texts` again.

    Returns:
        `np.ndarray` of shape (n,), float64, 0 to 1.

    Raises:
        TypeError, ValueError: as in [`contradiction_score`]; if there are not as many texts as images; or if
            embeddings are of another width than the model's, or hold NaN or an infinite number.
    """
    encoder: DualEncoder = load_dual_encoder(model, processor=processor)
    texts = check_texts(texts)
    if len(texts) != len(images):
        raise ValueError(f"There are {len(images):,} images and {len(texts):,} texts; each image has one text.")
    others = list(dict.fromkeys(check_texts(load_background_texts() if alternatives is None else alternatives)))
    alone = [text for text in dict.fromkeys(texts) if others == [text]]
    if alone:
        raise ValueError(f"The only alternative to {quoted(alone)} is the text itself; give another one.")
    embeds = images if isinstance(images, np.ndarray) else encoder.encode_images(images).numpy()
    place = {text: index for index, text in enumerate(dict.fromkeys([*texts, *others]))}
    text_embeds = encoder.encode_texts(list(place)).numpy()  # each different text is encoded once
    embeds = check_image_embeds(embeds, text_embeds.shape[1])
    own = np.array([place[text] for text in texts])  # (n,)
    other = np.array([place[text] for text in others])  # (B,)
    counts = np.ones((1, len(others)), bool)
    scores = np.empty(len(texts))
    step = max(1, _COSINES // len(others))
    for rows in (slice(first, first + step) for first in range(0, len(texts), step)):
        cosines = np.einsum("nd,nd->n", embeds[rows], text_embeds[own[rows]])
        background = embeds[rows] @ text_embeds[other].T
        background[own[rows, None] == other] = -np.inf  # a text is no alternative to itself
        scores[rows] = 1 - score_against(cosines[:, None], background, counts, encoder.logit_scale)[:, 0]
    return scores
