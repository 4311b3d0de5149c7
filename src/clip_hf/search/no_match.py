# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""When nothing fits a query: its hits are compared with what queries for nothing get from the same index.

A search always has a best hit, and its cosine says little: the level differs from model to model and from collection
to collection, and the best of more pictures is higher. So the score that counts as fitting is measured on the index
itself with *stand-ins*: queries made like the user's, with the same signs and weights, which nothing there answers.

- A text's stand-ins are mixed captions, the beginning of one and the end of another ("a volcano with the rain"). Whole
  captions would not do: a collection of photos holds many of the things that everyday captions describe.
- A picture's stand-ins are pictures of the index, which must find others than themselves and their near-copies.
"""

import hashlib
import json
import math
import random
from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
from transformers.utils import logging

from ..embedding.dual_encoder import DualEncoder
from ..utils.atomic import replaced_file
from .background_texts import load_background_texts
from .embedding_index import EmbeddingIndex
from .index_places import NO_MATCH
from .queries import QueryTerm, combine_terms


logger = logging.get_logger(__name__)

DEFAULT_SHARE = 0.05
"""The share of queries for things that are not there that may get an answer."""
NEAR_COPY = 0.98
"""Pictures with at least this cosine are copies of each other here."""
_ROUNDS = 2  # mixed captions for each caption
_NEIGHBOURS = 8  # rows looked at, to find one that is no near-copy
_NO_STAND_INS = (
    "--no-match compares a query's picture with pictures of the index, which has texts, or fewer than two different "
    "pictures. Leave it out, or use --threshold."
)


def mix_captions(captions: Sequence[str], rounds: int = _ROUNDS) -> list[str]:
    """Captions of nothing: the beginning of each and the end of another, a half or more; always the same ones.

    Args:
        captions (`Sequence[str]`): At least two captions.
        rounds (`int`, *optional*, defaults to 2): How many other captions each one is mixed with.

    Returns:
        `list[str]`: `rounds` mixed captions for each one.
    """
    generator, mixed = random.Random(0), []
    for _ in range(rounds):
        order = generator.sample(captions, len(captions))
        for first, second in zip(order, [*order[1:], order[0]]):
            begin, end = first.split(), second.split()
            mixed.append(" ".join([*begin[: len(begin) // 2 + 1], *end[len(end) // 2 :]]))
    return mixed


class NoMatch:
    """Measures which score a hit must exceed to fit a query.

    The embeddings of mixed captions and their best scores are kept in the folder of the index; the scores until it
    changes. Other queries than single texts are measured when they are asked.

    Args:
        encoder ([`DualEncoder`]): The model of the index.
        index ([`EmbeddingIndex`]): The index.
    """

    def __init__(self, encoder: DualEncoder, index: EmbeddingIndex):
        self.encoder, self.index = encoder, index
        texts = mix_captions(load_background_texts())
        described = json.dumps([encoder.fingerprint, texts, index.identity])
        self._key = hashlib.blake2b(described.encode(), digest_size=16).hexdigest()
        self._texts, self._features, self._best = texts, None, {}

    def lowest_score(
        self, terms: Sequence[QueryTerm], share: float = DEFAULT_SHARE, where: pc.Expression | None = None
    ) -> float:
        """The score that a hit must exceed: of stand-ins for the query, at most `share` have one that does.

        Args:
            terms (`Sequence[QueryTerm]`): The query.
            share (`float`, *optional*, defaults to 0.05): More than 0 and less than 1.
            where (`pyarrow.compute.Expression`, *optional*): The rows that are searched; all by default.

        Raises:
            ValueError: if `share` is no such number, or the query has a picture and the index none, or only one.
        """
        check_share(share)
        if all(term.text is not None for term in terms) and len(terms) == 1:
            best = self._best_of_texts(where)
        else:
            best = self._best_of_mixtures(terms, where)
        if not len(best):  # no row to search
            return math.inf
        ordered = np.sort(best)[::-1]
        return float(ordered[math.floor(share * len(ordered))])

    def missing_texts(self) -> list[str]:
        """The texts whose embeddings are needed, and not kept from an earlier run; empty if they are."""
        if self._features is None:
            self._load()
        return self._texts if self._features is None else []

    def set_features(self, features: np.ndarray) -> None:
        """Set the embeddings of [`~NoMatch.missing_texts`], (n, dim), where others encode them."""
        self._features = features

    def _text_features(self) -> np.ndarray:
        if missing := self.missing_texts():
            self._features = self.encoder.encode_texts(missing).numpy()
        return self._features

    def _best_of_texts(self, where: pc.Expression | None) -> np.ndarray:
        """The best score of each mixed caption."""
        features = self._text_features()
        if where is not None:
            return _best_scores(self.index, features, where)
        if self.index.generation not in self._best:
            self._best = {self.index.generation: _best_scores(self.index, features, None)}
            self._save()
        return self._best[self.index.generation]

    def _best_of_mixtures(self, terms: Sequence[QueryTerm], where: pc.Expression | None) -> np.ndarray:
        """The best score of each stand-in of a query with pictures or several terms, near-copies aside."""
        has_images = any(term.image is not None for term in terms)
        if has_images and (self.index.description.get("over") == "texts" or len(self.index) < 2):
            raise ValueError(_NO_STAND_INS)
        texts = self._text_features() if any(term.text is not None for term in terms) else None
        count = min(len(self.index), len(self._texts)) if has_images else len(self._texts)
        images = self._own_rows(count) if has_images else None
        # Each term has its own order, so that two texts are not one.
        rows = np.stack(
            [
                np.roll(images, place, axis=0) if term.text is None else np.roll(texts, place, axis=0)[:count]
                for place, term in enumerate(terms)
            ]
        )
        queries = combine_terms([term.weight for term in terms], rows)
        is_left = ~np.isnan(queries).any(1)  # copies of a picture cancel each other
        if not is_left.any():
            raise ValueError(_NO_STAND_INS)
        rows, queries = rows[:, is_left], queries[is_left]
        if images is None:
            return _best_scores(self.index, queries, where)
        used = rows[[place for place, term in enumerate(terms) if term.image is not None]]
        scores, ids = self.index.search(queries, _NEIGHBOURS, where=where)
        if not scores.size:
            return np.empty(0)
        found = self.index.vectors(ids.ravel()).reshape(*ids.shape, -1)
        is_copy = (np.einsum("qkd,iqd->iqk", found, used) >= NEAR_COPY).any(0)
        is_copy[:, -1] = False  # where all are copies, the last one counts
        return np.take_along_axis(scores, is_copy.argmin(1)[:, None], 1)[:, 0]

    def _own_rows(self, count: int) -> np.ndarray:
        """Rows of the index, evenly over it: (count, dim)."""
        ids = self.index.ids()
        return self.index.vectors(ids[np.linspace(0, len(ids) - 1, count).astype(int)])

    def _load(self) -> None:
        """Take what an earlier run kept, if it is of this model and these captions."""
        try:
            with open(self.index.folder / NO_MATCH, "rb") as file, np.load(file, allow_pickle=False) as kept:
                if str(kept["key"]) == self._key and kept["features"].shape == (len(self._texts), self.index.dim):
                    self._features = kept["features"]
                    self._best = {int(kept["generation"]): kept["best"]}
        except FileNotFoundError:
            pass
        except Exception as error:  # numpy and zipfile raise many kinds for damaged files
            logger.warning(f"{self.index.folder / NO_MATCH} cannot be read ({error}); it is written anew.")

    def _save(self) -> None:
        generation, best = next(iter(self._best.items()))
        try:
            with replaced_file(self.index.folder / NO_MATCH) as temporary, open(temporary, "wb") as file:
                np.savez(file, key=self._key, features=self._features, generation=generation, best=best)
        except OSError as error:
            logger.warning(f"{self.index.folder / NO_MATCH} cannot be written ({error}); it is computed each time.")


def check_share(share: float) -> None:
    """ValueError if `share` is not more than 0 and less than 1."""
    if not 0 < share < 1:
        raise ValueError(f"The share of --no-match is {share}; it must be more than 0 and less than 1, such as 0.05.")


def _best_scores(index: EmbeddingIndex, queries: np.ndarray, where: pc.Expression | None) -> np.ndarray:
    scores, _ = index.search(queries, 1, where=where)
    return scores[:, 0] if scores.shape[1] else np.empty(0)
