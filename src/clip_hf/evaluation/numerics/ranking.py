# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Exact ranks for retrieval in both directions: the one place that decides what R@k counts.

- A candidate with a larger score comes first. Among equal scores the lower index comes first.
- Equal captions are one candidate, and each of them is right for every image that has one of them.

Shapes: n images, m texts, d the width of their shared space. `retrieval_ranks` never holds all n x m scores: it
computes them in float32, block by block, and computes again in float64 what float32 leaves in doubt.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from .metric_inputs import as_array, check_matrix, list_rows


# Images and texts of a block: on a CPU few enough that counting finds the scores in its cache.
_CPU_BLOCK = (1024, 1984)
_ACCELERATOR_BLOCK = (8192, 8192)
# What a thread counts at once. At most 255 rows, and 255 words of 8 columns: their counts are added up in bytes.
_TILE = (128, 1984)
# Above this share of scores in doubt it is faster to compute all of a tile in float64 than those one by one.
_DOUBTFUL_SHARE = 1 / 64
# Rows that are gathered or converted at once.
_ROWS_AT_ONCE = 2048
# Half the distance from 1 to the next number.
_UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}


@dataclass(frozen=True)
class RetrievalRanks:
    """For each query, how many wrong candidates come before its best right one.

    Args:
        image_to_text (`np.ndarray` of shape (n,), int64): Rank of the best of each image's texts among all different
            texts; 0 is the first.
        text_to_image (`np.ndarray` of shape (m,), int64): Rank of the best of each text's images among all images; 0
            is the first.
        recomputed (`int`): Scores that were computed in float64 one by one, because float32 left their order in doubt.
    """

    image_to_text: np.ndarray
    text_to_image: np.ndarray
    recomputed: int = 0


def caption_ids(captions: Sequence[str]) -> np.ndarray:
    """Number captions so that equal ones have the same number; case and white space at the ends do not count.

    `["a dog", "a cat", "A dog "]` gives `[0, 1, 0]`.

    Args:
        captions (`Sequence[str]` of length m): The captions.

    Returns:
        `np.ndarray` of shape (m,), int64: numbers from 0, in the order in which captions first occur.
    """
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(folded_caption(caption), len(numbers)) for caption in captions], np.int64)


def folded_caption(caption: str) -> str:
    """The form in which captions are compared: lower case, without white space at the ends."""
    return caption.strip().lower()


def retrieval_ranks(
    image_embeds: Any,
    text_embeds: Any,
    image_of_text: Any,
    *,
    text_ids: Any = None,
    block_shape: tuple[int, int] | None = None,
    device: str | torch.device | None = None,
) -> RetrievalRanks:
    r"""Rank all texts for each image and all images for each text, exactly, without the whole matrix of scores.

    The score of a pair is the dot product of its embeddings, added up in float64 in an order that is the same for all
    pairs, so equal embeddings have equal scores. Among equal scores the lower index comes first.

    The method: blocks of scores are computed in float32. The error of such a dot product of x and y is at most
    `(d + 2) u / (1 - (d + 2) u) |x| |y|` with `u = 2**-24`, in whatever order it is added up, fused or not (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1; the 2 is for the rounding of float64 embeddings). A
    score farther than that from the query's best right score is counted as it is; the others are computed in float64.
    With d = 512 the bound is 3.1e-5 |x| |y|, within which lie less than 0.1% of the scores of random embeddings. Where
    more do, as between embeddings that are nearly all the same, the block is computed in float64.

    Args:
        image_embeds (`np.ndarray` or `torch.Tensor` of shape (n, d), floating): Embeddings of images. Normalise them
            if the score should be the cosine.
        text_embeds (`np.ndarray` or `torch.Tensor` of shape (m, d), floating): Embeddings of texts.
        image_of_text (`np.ndarray`, `torch.Tensor` or `Sequence[int]` of shape (m,), integer): Row of the image that
            each text belongs to; each image has one text or more.
        text_ids (`np.ndarray`, `torch.Tensor` or `Sequence[int]` of shape (m,), integer, *optional*): Texts with the
            same id are one: they are one candidate, with the embedding of the first of them, and each image that has
            one of them is right for all of them. [`caption_ids`] makes ids from captions. By default all texts are
            different.
        block_shape (`tuple[int, int]`, *optional*): Images and texts of a block of scores, by default 1024 x 1984 on a
            CPU and 8192 x 8192 elsewhere.
        device (`str` or `torch.device`, *optional*): Where scores are computed; by default where the images'
            embeddings are. Apple's GPUs have no float64; for `"mps"` it is the CPU.

    Returns:
        [`RetrievalRanks`]

    Raises:
        ValueError: if a value is NaN or infinite, a row is all zeros, shapes disagree, a text has no image or an image
            no text. The message names the first rows.
        RuntimeError: if matrix products on the device are less exact than float32.

    Example:

    ```python
    >>> from clip_hf.evaluation import retrieval_ranks

    >>> # Two images; texts 0 and 1 are the first one's. The scores are [[0.8, 0.6, 0.9], [0.6, 0.8, 0.1]].
    >>> ranks = retrieval_ranks([[1.0, 0.0], [0.0, 1.0]], [[0.8, 0.6], [0.6, 0.8], [0.9, 0.1]], [0, 0, 1])
    >>> ranks.image_to_text  # 0.9, a wrong one, comes before 0.8; 0.8 and 0.6 before 0.1
    array([1, 2])
    >>> ranks.text_to_image
    array([0, 1, 1])
    ```
    """
    if device is None:
        device = image_embeds.device if isinstance(image_embeds, torch.Tensor) else "cpu"
    device = torch.device(device)
    device = torch.device("cpu") if device.type == "mps" else device
    images = _checked_embeds(image_embeds, "image_embeds")
    texts = _checked_embeds(text_embeds, "text_embeds")
    if images.shape[1] != texts.shape[1]:
        raise ValueError(
            f"`image_embeds` have {images.shape[1]} columns, `text_embeds` {texts.shape[1]}; make them equal."
        )
    owners = _checked_owners(image_of_text, len(images), len(texts))
    first_rows, candidate_of_text = _different_texts(text_ids, len(texts))
    shape = block_shape or (_CPU_BLOCK if device.type == "cpu" else _ACCELERATOR_BLOCK)
    if len(shape) != 2 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(f"`block_shape` is {block_shape!r}; it must be numbers of images and of texts, both above 0.")
    candidates = texts if len(first_rows) == len(texts) else texts[first_rows]
    ranking = _Ranking(images, candidates, owners, candidate_of_text)
    ranking.run(shape, device)
    return RetrievalRanks(ranking.images.ranks, ranking.texts.ranks[candidate_of_text], ranking.recomputed)


def _checked_embeds(embeds: Any, name: str) -> np.ndarray:
    """Return `embeds` as float32 or float64, finite, and scaled so that products cannot overflow or vanish."""
    array = as_array(embeds, f"`{name}`")
    check_matrix(array, f"`{name}`", directions=True)
    if array.dtype != np.float64:
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.float64, copy=False)
    # torch warns about a read-only array, such as a file of features mapped into memory.
    array = np.require(array, requirements=["C", "W"])
    largest = max(array.max(), -array.min())
    exponent = math.frexp(largest)[1]
    # Scaling by a power of two keeps the order of scores.
    return array if abs(exponent) <= 30 else np.ldexp(array.astype(np.float64), -exponent)


def _integer_for_each_text(values: Any, name: str, num_texts: int) -> np.ndarray:
    array = as_array(values, f"`{name}`")
    if array.dtype.kind not in "iu" or array.shape != (num_texts,):
        raise ValueError(
            f"`{name}` is an array of {array.dtype} of shape {array.shape}; it must hold an integer for each of the "
            f"{num_texts} texts."
        )
    return array.astype(np.int64)


def _different_texts(text_ids: Any, num_texts: int) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each different text, in order, and which of the different texts each text is."""
    if text_ids is None:
        return np.arange(num_texts), np.arange(num_texts)
    ids = _integer_for_each_text(text_ids, "text_ids", num_texts)
    _, first_rows, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return np.sort(first_rows), first_rows.argsort().argsort()[inverse]


def _checked_owners(image_of_text: Any, num_images: int, num_texts: int) -> np.ndarray:
    owners = _integer_for_each_text(image_of_text, "image_of_text", num_texts)
    lost = np.flatnonzero((owners < 0) | (owners >= num_images))
    if len(lost):
        raise ValueError(
            f"`image_of_text` gives no image for the texts in {list_rows(lost)}: {owners[lost[0]]} is not from 0 to "
            f"{num_images - 1}."
        )
    bare = np.flatnonzero(np.bincount(owners, minlength=num_images) == 0)
    if len(bare):
        raise ValueError(f"The images in {list_rows(bare)} have no text, so nothing right can be found; remove them.")
    return owners


def _parts(stop: int, size: int = _ROWS_AT_ONCE, start: int = 0) -> list[slice]:
    """Slices of at most `size`, one after the other from `start` to `stop`."""
    return [slice(low, min(low + size, stop)) for low in range(start, stop, size)]


def _pair_scores(left: np.ndarray, right: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Dot products of rows of `left` with rows of `right`, float64, each added up in the same order."""
    scores = np.empty(len(rows))
    for part in _parts(len(rows)):
        products = left[rows[part]].astype(np.float64)
        products *= right[others[part]]
        scores[part] = products.sum(axis=1)
    return scores


def _identities(embeds: np.ndarray) -> np.ndarray:
    """A number for each row: rows with the same number are equal, and equal rows nearly always have the same."""
    bits = embeds.view(np.uint32 if embeds.dtype == np.float32 else np.uint64)
    factors = np.random.default_rng(0).integers(2**63, size=embeds.shape[1], dtype=np.uint64) * 2 + 1
    hashes = np.empty(len(embeds), np.uint64)
    for part in _parts(len(embeds)):
        hashes[part] = (bits[part] * factors).sum(axis=1)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    identities = first[inverse.reshape(-1)]
    repeated = np.flatnonzero(identities != np.arange(len(embeds)))
    for part in _parts(len(repeated)):
        rows = repeated[part]
        colliding = rows[(embeds[rows] != embeds[identities[rows]]).any(axis=1)]
        identities[colliding] = colliding
    return identities


class _Side:
    """The images, or the texts: as candidates, and as queries that have a best right candidate each."""

    def __init__(self, embeds: np.ndarray):
        self.embeds = embeds
        self.identities = _identities(embeds)
        self.norms = np.empty(len(embeds))
        for part in _parts(len(embeds)):
            # A little more than the norm, for the rounding of this sum itself.
            self.norms[part] = np.linalg.norm(embeds[part].astype(np.float64), axis=1) * (1 + 1e-9)
        self.ranks = np.zeros(len(embeds), np.int64)
        self.right: np.ndarray
        self.right_scores: np.ndarray

    def set_best_right(self, queries: np.ndarray, candidates: np.ndarray, scores: np.ndarray) -> None:
        """Of all right pairs, keep each query's best: the highest score, then the lowest index."""
        order = np.lexsort((candidates, -scores, queries))
        best = order[np.flatnonzero(np.diff(queries[order], prepend=-1))]
        self.right, self.right_scores = candidates[best], scores[best]

    def bounds(self, part: slice, largest: float, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Computed scores below the first come after a query's best right one; those above the second, before it."""
        depth = self.embeds.shape[1]
        error = sum(
            (depth + 2) * unit / (1 - (depth + 2) * unit) for unit in (_UNIT[dtype], _UNIT[np.dtype(np.float64)])
        )
        # The last term is for products too small for float32, of factors up to 2**30.
        margin = error * self.norms[part] * largest + 4 * depth * 2.0**-96
        low, high = self.right_scores[part] - margin, self.right_scores[part] + margin
        return np.nextafter(low.astype(dtype), -np.inf), np.nextafter(high.astype(dtype), np.inf)


class _Ranking:
    """Counts, block by block, the candidates before each query's best right one, in both directions at once."""

    def __init__(self, images: np.ndarray, texts: np.ndarray, right_images: np.ndarray, right_texts: np.ndarray):
        """`right_images` and `right_texts` are the rows of the pairs that belong together, (pairs,) each."""
        self.images, self.texts = _Side(images), _Side(texts)
        scores = _pair_scores(images, texts, right_images, right_texts)
        # Other right candidates never come before the best one, so counting all before it counts wrong ones only.
        self.images.set_best_right(right_images, right_texts, scores)
        self.texts.set_best_right(right_texts, right_images, scores)
        self.recomputed = 0

    @torch.no_grad()
    def run(self, shape: tuple[int, int], device: torch.device) -> None:
        image_embeds = torch.from_numpy(self.images.embeds).to(device, torch.float32)
        text_embeds = torch.from_numpy(self.texts.embeds).to(device, torch.float32)
        with torch.autocast(device.type, enabled=False), ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for columns, rows in product(_parts(len(text_embeds), shape[1]), _parts(len(image_embeds), shape[0])):
                scores = image_embeds[rows] @ text_embeds[columns].T
                self._check_precision(scores, rows, columns)
                if device.type == "cpu":
                    self._count_in_tiles(scores.numpy(), rows, columns, threads)
                else:
                    self._add(self._count(scores, rows, columns), rows, columns)

    def _check_precision(self, scores: torch.Tensor, rows: slice, columns: slice) -> None:
        # Torch may compute in TF32 or the like. Scores that are known exactly show it.
        right_images = self.texts.right[columns]
        inside = np.flatnonzero((right_images >= rows.start) & (right_images < rows.stop))
        if not len(inside):
            return
        low, high = self.texts.bounds(columns, self.images.norms[rows].max(), np.dtype(np.float32))
        known = scores[torch.from_numpy(right_images[inside] - rows.start), torch.from_numpy(inside)].cpu().numpy()
        if not ((known >= low[inside]) & (known <= high[inside])).all():
            raise RuntimeError(
                f"Matrix products on {scores.device} are less exact than float32, so ranks would be wrong. Switch "
                "TF32 and the like off: `torch.set_float32_matmul_precision('highest')`."
            )

    def _count_in_tiles(self, scores: np.ndarray, rows: slice, columns: slice, threads: Executor) -> None:
        across = _parts(columns.stop, _TILE[1], columns.start)
        tiles = list(product(_parts(rows.stop, _TILE[0], rows.start), across))

        def count(tile: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray, int]:
            return self._count(scores[_shifted(tile[0], rows), _shifted(tile[1], columns)], *tile)

        for tile, counts in zip(tiles, threads.map(count, tiles), strict=True):
            self._add(counts, *tile)

    def _add(self, counts: tuple[np.ndarray, np.ndarray, int], rows: slice, columns: slice) -> None:
        self.images.ranks[rows] += counts[0]
        self.texts.ranks[columns] += counts[1]
        self.recomputed += counts[2]

    def _count(
        self, scores: np.ndarray | torch.Tensor, rows: slice, columns: slice
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """For a tile, count the candidates before each query's best right one.

        Returns the counts of the images and of the texts, and how many scores were recomputed.
        """
        is_tensor = isinstance(scores, torch.Tensor)
        compare = _compare_tensor if is_tensor else _compare_array
        dtype = np.dtype(str(scores.dtype).removeprefix("torch."))
        largest_allowed = math.inf if dtype == np.float64 else _DOUBTFUL_SHARE * math.prod(scores.shape)
        by_side = []
        for axis, queries, candidates, part, others in (
            (0, self.images, self.texts, rows, columns),
            (1, self.texts, self.images, columns, rows),
        ):
            low, high = queries.bounds(part, candidates.norms[others].max(), dtype)
            counts, doubtful = compare(scores, low, high, axis)
            if len(doubtful[0]) > largest_allowed:
                return self._count(self._in_float64(rows, columns, scores), rows, columns)
            by_side.append((counts, doubtful))
        recomputed = 0
        for axis, (counts, doubtful) in enumerate(by_side):
            sides = ((self.images, rows), (self.texts, columns))
            recomputed += self._resolve(counts, doubtful[axis], doubtful[1 - axis], *sides[axis], *sides[1 - axis])
        return by_side[0][0], by_side[1][0], recomputed

    def _in_float64(self, rows: slice, columns: slice, like: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        left, right = (
            torch.from_numpy(side.embeds[part]).to(getattr(like, "device", "cpu"), torch.float64)
            for side, part in ((self.images, rows), (self.texts, columns))
        )
        # This may run in another thread, and `no_grad` and `autocast` hold for one thread only.
        with torch.no_grad(), torch.autocast(left.device.type, enabled=False):
            scores = left @ right.T
        return scores if isinstance(like, torch.Tensor) else scores.numpy()

    def _resolve(
        self,
        counts: np.ndarray,
        places: np.ndarray,
        other_places: np.ndarray,
        queries: _Side,
        part: slice,
        candidates: _Side,
        others: slice,
    ) -> int:
        """Add to `counts` the doubtful candidates that come before the best right one; how many were recomputed."""
        rows, doubtful = places + part.start, other_places + others.start
        right = queries.right[rows]
        before = doubtful < right
        unlike = np.flatnonzero(candidates.identities[doubtful] != candidates.identities[right])
        scores = _pair_scores(queries.embeds, candidates.embeds, rows[unlike], doubtful[unlike])
        target = queries.right_scores[rows[unlike]]
        before[unlike] = (scores > target) | ((scores == target) & before[unlike])
        counts += np.bincount(places[before], minlength=len(counts))
        return len(unlike)


def _shifted(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def _compare_array(
    scores: np.ndarray, low: np.ndarray, high: np.ndarray, axis: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Count each query's scores above `high`, and list the rows and columns of those from `low` to `high`.

    Queries are the rows (`axis` 0) or the columns (`axis` 1).
    """
    low, high = (bound[:, None] if axis == 0 else bound[None] for bound in (low, high))
    rows, columns = scores.shape
    # Eight bytes of a mask, each 0 or 1, are added as one word.
    above = np.zeros((rows, -(-columns // 8) * 8), bool)
    doubtful = np.zeros_like(above)
    np.greater(scores, high, out=above[:, :columns])
    np.greater_equal(scores, low, out=doubtful[:, :columns])
    doubtful ^= above
    sums = above.view(np.uint64).sum(axis=1 - axis).view(np.uint8)
    counts = sums.reshape(rows, 8).sum(axis=1) if axis == 0 else sums[:columns]
    some = np.flatnonzero(np.bitwise_or.reduce(doubtful.view(np.uint64), axis=1))
    doubtful = doubtful[some]
    words = np.flatnonzero(doubtful.view(np.uint64))
    places, lanes = np.nonzero(doubtful.reshape(-1, 8)[words])
    places, other_places = np.divmod(8 * words[places] + lanes, doubtful.shape[1])
    return counts.astype(np.int64), (some[places], other_places)


def _compare_tensor(
    scores: torch.Tensor, low: np.ndarray, high: np.ndarray, axis: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Do what `_compare_array` does, on the device of the scores."""
    low, high = (torch.from_numpy(bound).to(scores.device).unsqueeze(1 - axis) for bound in (low, high))
    above = scores > high
    places = ((scores >= low) ^ above).nonzero(as_tuple=True)
    return above.sum(dim=1 - axis).cpu().numpy(), tuple(place.cpu().numpy() for place in places)
