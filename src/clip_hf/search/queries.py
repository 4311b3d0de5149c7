# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Queries: texts and pictures, added and subtracted with weights."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.texts import escaped, is_utf8
from ..embedding.dual_encoder import DualEncoder
from ..model.image_reading_clip_hf import IMAGE_ENDINGS


# A sign stands alone, before a blank, or before a weight: `-`, `- people`, `-0.5*people`.
_SIGN = re.compile(r"([+-])(?:\s+|$|(?=(?:\d+\.?\d*|\.\d+)\*))")
_WEIGHT = re.compile(r"(\d+\.?\d*|\.\d+)\*")
_URL = re.compile(r"https?://", re.IGNORECASE)
# A sum of unit vectors shorter than this share of its weights has no direction but rounding.
_SHORTEST = 1e-4


@dataclass(frozen=True)
class QueryTerm:
    """A text or a picture with its weight; just one of `text` and `image` is given.

    Args:
        weight (`float`): Factor of its embedding; negative where the query has a minus.
        text (`str`, *optional*): The text.
        image (*optional*): What [`open_image`] takes: a path or the bytes of a file.
    """

    weight: float
    text: str | None = None
    image: str | os.PathLike | bytes | None = None

    def __post_init__(self):
        if (self.text is None) == (self.image is None):
            raise ValueError("A term of a query is a text or an image: give one of the two.")
        if self.text is not None and not isinstance(self.text, str):
            raise TypeError(f"The text of a query is {self.text!r:.80}; it must be a string.")
        if self.text is not None and not (self.text.strip() and is_utf8(self.text)):
            raise ValueError(f"The text '{escaped(self.text):.80}' is blank or not UTF-8; a query needs words.")
        if not math.isfinite(self.weight) or self.weight == 0:
            raise ValueError(f"The weight {self.weight:g} of a query's term must be a number that is not 0.")


def parse_query(tokens: Sequence[str]) -> list[QueryTerm]:
    """Read a query as a shell passes it: `"a beach" + dog.jpg - "0.5*people"`.

    - `+` and `-` join terms. They stand alone, or begin a token before a blank or a weight; words without a sign
      between them are one text, so `a dog on a beach` needs no quotes.
    - A number and `*` at the beginning of a term are its weight, 1 by default.
    - A term is a picture if it has the ending of one and there is such a file, or if it also begins with `./`, `../`,
      `/` or `~`; all others are texts.

    Args:
        tokens (`Sequence[str]`): The arguments.

    Returns:
        `list[QueryTerm]`: the terms in their order.

    Raises:
        ValueError: if there is no term, a sign has no term, a text is blank, a weight is 0, all terms have a minus, or
            a picture stands beside words without a sign.
        FileNotFoundError: if there is no such picture.
    """
    groups: list[tuple[float, list[str]]] = []
    pending: str | None = None
    for token in tokens:
        match = _SIGN.match(token)
        if match is not None:
            if pending is not None:
                raise ValueError(f"The query has '{pending}' right before '{match[1]}': a term is missing there.")
            pending, token = match[1], token[match.end() :]
            if not token:
                continue
        if pending is not None or not groups:
            groups.append((-1.0 if pending == "-" else 1.0, []))
            pending = None
        groups[-1][1].append(token)
    if pending is not None:
        raise ValueError(f"The query ends with '{pending}': put a text or an image behind it.")
    if not groups:
        raise ValueError("The query is empty: give a text or the path of an image.")
    terms = [_parse_term(sign, words) for sign, words in groups]
    check_terms(terms)
    return terms


def check_terms(terms: Sequence[QueryTerm]) -> None:
    """Raise a `ValueError` for a query without terms, or with only negative ones."""
    if not terms:
        raise ValueError("The query has no terms.")
    if all(term.weight < 0 for term in terms):
        raise ValueError(
            "The query has only terms with a minus: everything is unlike something. Say what to look for, such as "
            "`a beach - people`."
        )


def _parse_term(sign: float, words: list[str]) -> QueryTerm:
    match = _WEIGHT.match(words[0])
    weight = float(match[1]) if match else 1.0
    words = [words[0][match.end() :] if match else words[0], *words[1:]]
    paths = [path for path in map(_image_path, words) if path is not None]
    if paths and len(words) > 1:
        raise ValueError(f"The image {escaped(str(paths[0]))} stands beside words: put + or - between them.")
    if paths:
        return QueryTerm(sign * weight, image=paths[0])
    if _URL.match(words[0]):
        raise ValueError(f"{escaped(words[0])} is a URL; a query fetches nothing. Download the picture first.")
    return QueryTerm(sign * weight, text=" ".join(words).strip())


def _image_path(word: str) -> Path | None:
    """The picture that a word names; None for a text."""
    if os.path.splitext(word)[1].lower().lstrip(".") not in IMAGE_ENDINGS:
        return None
    is_path = word.startswith(("./", "../", "/", "~"))
    path = Path(word).expanduser()
    if path.is_file():
        return path
    if is_path:
        raise FileNotFoundError(f"The query's image {escaped(word)} is not there, or is no file.")
    return None


def encode_terms(encoder: DualEncoder, terms: Sequence[QueryTerm]) -> np.ndarray:
    """The embedding of each term: (terms, dim), float32, each row of length 1. Texts and images pass the model once.

    Raises:
        ValueError: if an image cannot be read.
    """
    rows = np.empty((len(terms), encoder.projection_dim), np.float32)
    texts = [place for place, term in enumerate(terms) if term.text is not None]
    images = [place for place, term in enumerate(terms) if term.text is None]
    if texts:
        rows[texts] = encoder.encode_texts([terms[place].text for place in texts]).numpy()
    if images:
        rows[images] = encoder.encode_images([terms[place].image for place in images]).numpy()
    return rows


def combine_terms(weights: Sequence[float], rows: np.ndarray) -> np.ndarray:
    """The weighted sum of embeddings, scaled to length 1.

    Args:
        weights (`Sequence[float]`): A weight for each term.
        rows (`np.ndarray` of shape (terms, ..., dim)): Their embeddings, of length 1.

    Returns:
        `np.ndarray` of shape (..., dim), float32.

    Raises:
        ValueError: if the terms cancel, so that nothing is left.
    """
    total = np.tensordot(np.asarray(weights, np.float64), rows.astype(np.float64), axes=1)
    norms = np.linalg.norm(total, axis=-1, keepdims=True)
    if (norms < _SHORTEST * np.abs(weights).sum()).any():
        raise ValueError("The terms of the query cancel: nothing is left to look for. Change a weight or a term.")
    return (total / norms).astype(np.float32)


def encode_query(encoder: DualEncoder, terms: Sequence[QueryTerm]) -> np.ndarray:
    """The embedding to search with: the weighted sum of the terms' embeddings, scaled to length 1.

    Args:
        encoder ([`DualEncoder`]): The model of the index.
        terms (`Sequence[QueryTerm]`): The terms; texts longer than the model's context are cut, as elsewhere.

    Returns:
        `np.ndarray` of shape (dim,), float32.

    Raises:
        ValueError: if there are no terms or only negative ones, an image cannot be read, or the terms cancel.
    """
    check_terms(terms)
    return combine_terms([term.weight for term in terms], encode_terms(encoder, terms))
