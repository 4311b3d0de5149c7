# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Queries: texts and pictures, added and subtracted with weights."""

import itertools
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.texts import escaped, is_utf8
from ..embedding.dual_encoder import DualEncoder
from ..model.checks_clip_hf import near_names
from ..model.image_reading_clip_hf import IMAGE_ENDINGS


# The signs; dashes and the minus of typography are what a text editor makes of `-`.
_SIGNS = "+\\-\u2013\u2014\u2212"
# A sign stands alone, before a blank, or before a weight: `-`, `- people`, `-0.5*people`.
_SIGN = re.compile(rf"([{_SIGNS}])(?:\s+|$|(?=[\d.][^\s*]*\*))")
_SIGN_BETWEEN = re.compile(rf"\s+(?=[{_SIGNS}](?:\s|$))")
_SIGN_AT_WORD = re.compile(rf"([{_SIGNS}])[^\s\d]")
_WEIGHT = re.compile(r"\s*([^\s*]+)\s*\*\s*(.*)", re.DOTALL)
_LIKE_A_NUMBER = re.compile(r"[\d.,/%]*\d[\d.,/%]*")
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://|\bdata:\w+/", re.IGNORECASE)
_PATH = re.compile(r"\.{0,2}/|~[^\s/]*/")
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
            raise ValueError(f"The weight {self.weight:g} of a query's term must be a finite number other than 0.")


def parse_query(tokens: Sequence[str], source: str | os.PathLike | None = None) -> list[QueryTerm]:
    """Read a query as a shell passes it: `"a beach" + dog.jpg - "0.5*people"`.

    - `+` and `-` (or a dash) join terms. They stand between blanks, in quotes or not, or begin a token before a blank
      or a weight; words without a sign between them are one text, so `a dog on a beach` needs no quotes.
    - A number and `*` at the beginning of a term are its weight, 1 by default.
    - A term is a picture if it begins with `./`, `../`, `/` or `~/`, or is one word with the ending of a picture, and
      there must be such a file then; all others are texts.

    Args:
        tokens (`Sequence[str]`): The arguments.
        source (`str` or `os.PathLike`, *optional*): A folder whose files are proposed if a picture is missing.

    Returns:
        `list[QueryTerm]`: the terms in their order.

    Raises:
        ValueError: if there is no term, a sign has no term, a text is blank, a weight is no finite number or 0, all
            terms have a minus, a term is a URL, or a picture stands beside words without a sign.
        FileNotFoundError: if there is no such picture.
    """
    groups: list[tuple[float, list[str]]] = []
    pending: str | None = None
    for token in itertools.chain.from_iterable(map(_split_at_signs, tokens)):
        match = _SIGN.match(token)
        if match is not None:
            if pending is not None:
                raise ValueError(f"The query has '{pending}' right before '{match[1]}': a term is missing there.")
            pending, token = "+" if match[1] == "+" else "-", token[match.end() :]
            if not token:
                continue
        elif pending is None and _SIGN_AT_WORD.match(token):
            raise ValueError(f"{escaped(token)!r:.80} begins with a sign: put a blank behind it, '{token[0]} ...'.")
        if pending is not None or not groups:
            groups.append((-1.0 if pending == "-" else 1.0, []))
            pending = None
        groups[-1][1].append(token)
    if pending is not None:
        raise ValueError(f"The query ends with '{pending}': put a text or an image behind it.")
    if not groups:
        raise ValueError("The query is empty: give a text or the path of an image.")
    terms = [_parse_term(sign, words, source) for sign, words in groups]
    check_terms(terms)
    return terms


def _split_at_signs(token: str) -> list[str]:
    """The terms in a quoted token `a beach - people`, each with its sign; a path is kept whole."""
    path = _SIGN.sub("", token, count=1)
    return [token] if _PATH.match(path) or os.path.isfile(path) else _SIGN_BETWEEN.split(token)


def check_terms(terms: Sequence[QueryTerm]) -> None:
    """Raise a `ValueError` for a query without terms, or with only negative ones."""
    if not terms:
        raise ValueError("The query has no terms.")
    if all(term.weight < 0 for term in terms):
        raise ValueError(
            "The query has only terms with a minus: everything is unlike something. Say what to look for, such as "
            "`a beach - people`."
        )


def _parse_term(sign: float, words: list[str], source: str | os.PathLike | None) -> QueryTerm:
    weight, words[0] = _split_weight(words[0], " ".join(words))
    words = [word for word in words if word] or [""]
    if match := _URL.search(" ".join(words)):
        raise ValueError(f"The query has the URL {match[0]}...; it fetches nothing. Download the picture first.")
    if len(words) == 1 and (path := _image_path(words[0], source)) is not None:
        return QueryTerm(sign * weight, image=path)
    for word in words:
        if _PATH.match(word) or (_has_image_ending(word) and os.path.isfile(word)):
            raise ValueError(f"The image {escaped(word)} stands beside words: put + or - between them.")
    return QueryTerm(sign * weight, text=" ".join(words).strip())


def _split_weight(word: str, term: str) -> tuple[float, str]:
    """The weight at the beginning of a term, and the rest of its first word."""
    match = _WEIGHT.fullmatch(word)
    if match is None:
        if (spread := _WEIGHT.fullmatch(term)) and _LIKE_A_NUMBER.fullmatch(spread[1]):
            raise ValueError(f"The weight in {escaped(term)!r:.80} needs quotes around its term: '{spread[1]}*...'.")
        return 1.0, word
    try:
        weight = float(match[1])
    except ValueError:
        if _LIKE_A_NUMBER.fullmatch(match[1]):
            raise ValueError(f"The weight {match[1]} is no number: write it as in 0.5*people.") from None
        return 1.0, word
    if not math.isfinite(weight) or weight == 0:
        raise ValueError(f"The weight {match[1]:.80} must be a finite number other than 0.")
    return weight, match[2]


def _image_path(word: str, source: str | os.PathLike | None) -> Path | None:
    """The picture that a word names, which must be there; None for a text."""
    if not _PATH.match(word) and (not _has_image_ending(word) or (" " in word and not os.path.isfile(word))):
        return None
    path = Path(os.path.expanduser(word))
    if path.is_file():
        return path
    what = "is a folder, not a picture" if path.is_dir() else "is not there"
    known = [str(file) for folder in (source, path.parent) if folder is not None for file in _files_in(Path(folder))]
    by_name = {os.path.basename(file): file for file in known}
    nearest = [by_name[name] for name in near_names(path.name, by_name)]
    meant = f" Did you mean {escaped(nearest[0])}?" if nearest else ""
    raise FileNotFoundError(f"The query's image {escaped(word)} {what}.{meant}")


def _has_image_ending(word: str) -> bool:
    return os.path.splitext(word)[1].lower().lstrip(".") in IMAGE_ENDINGS


def _files_in(folder: Path) -> list[Path]:
    try:
        return [file for file in folder.iterdir() if _has_image_ending(file.name)]
    except OSError:
        return []


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
        `np.ndarray` of shape (..., dim), float32; not a number where the terms cancel, so that nothing is left.
    """
    weights = np.asarray(weights, np.float64)
    weights = weights / np.abs(weights).max()  # the largest numbers would overflow
    total = np.tensordot(weights, rows.astype(np.float64), axes=1)
    norms = np.linalg.norm(total, axis=-1, keepdims=True)
    return (total / np.where(norms < _SHORTEST * np.abs(weights).sum(), np.nan, norms)).astype(np.float32)


def encode_query(encoder: DualEncoder, terms: Sequence[QueryTerm], rows: np.ndarray | None = None) -> np.ndarray:
    """The embedding to search with: the weighted sum of the terms' embeddings, scaled to length 1.

    Args:
        encoder ([`DualEncoder`]): The model of the index.
        terms (`Sequence[QueryTerm]`): The terms; texts longer than the model's context are cut, as elsewhere.
        rows (`np.ndarray` of shape (terms, dim), *optional*): Their embeddings, if they are there already.

    Returns:
        `np.ndarray` of shape (dim,), float32.

    Raises:
        ValueError: if there are no terms or only negative ones, an image cannot be read, or the terms cancel.
    """
    check_terms(terms)
    rows = encode_terms(encoder, terms) if rows is None else rows
    query = combine_terms([term.weight for term in terms], rows)
    if np.isnan(query).any():
        raise ValueError("The terms of the query cancel: nothing is left to look for. Change a weight or a term.")
    return query
