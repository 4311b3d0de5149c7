# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""
Retrieval of texts by images and of images by texts (Radford et al. 2021, appendix E.1, table 13).

Shapes: n images, m texts, d the width of their shared space. `retrieval_ranks` is exact and never holds all n x m
scores: blocks of them are computed in float32, and one that float32 leaves in doubt is computed again in float64.
"""

import math
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...embedding.bulk_encoding import encode_readable_images, encode_text_list
from ...embedding.feature_stream import EncodingOptions
from ...embedding.load_encoder import load_dual_encoder
from ...utils.wording import counted
from ..numerics.metrics import median_rank, recall_at_k
from ..numerics.statistics import median_of_rows
from ..registry.evaluation_data import RetrievalData, RetrievalOptions, load_retrieval
from .evaluation_result import EvaluationResult, new_figure


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Images and texts of a block: on a CPU few enough that counting finds the scores in its cache.
_CPU_BLOCK = (1024, 1984)
_ACCELERATOR_BLOCK = (8192, 8192)
# What a thread counts at once. No more than 255 rows and 255 words of 8: their counts are added up in bytes.
_TILE = (128, 1984)
# Above this share of scores in doubt it is faster to compute all of a tile in float64 than those one by one.
_DOUBTFUL_SHARE = 1 / 64
# Rows that are gathered or converted at once.
_ROWS_AT_ONCE = 2048
# Half the distance from 1 to the next number.
_UNIT = {np.dtype(np.float32): 2.0**-24, np.dtype(np.float64): 2.0**-53}
_SHOWN = 5
# Largest k of the plot.
_CURVE = 50


# --------------------------------------------------------------------------------------------------------------- ranks


@dataclass(frozen=True)
class RetrievalRanks:
    """
    For each query, how many wrong candidates come before its best right one.

    Args:
        image_to_text (`np.ndarray` of shape (n,), int64):
            Place of the best of each image's own texts among all texts; 0 is the first.
        text_to_image (`np.ndarray` of shape (m,), int64):
            Place of each text's own image among all images; 0 is the first.
        recomputed (`int`):
            Scores that were computed in float64 one by one, because float32 left their order in doubt.
    """

    image_to_text: np.ndarray
    text_to_image: np.ndarray
    recomputed: int = 0


def retrieval_ranks(
    image_embeds: Any,
    text_embeds: Any,
    image_of_text: Any,
    *,
    block_shape: tuple[int, int] | None = None,
    device: str | torch.device | None = None,
) -> RetrievalRanks:
    r"""
    Rank all texts for each image and all images for each text, exactly, without the whole matrix of scores.

    The score of a pair is the dot product of its embeddings, added up in float64 in an order that is the same for all
    pairs; so equal embeddings have equal scores. Among equal scores the lower index comes first.

    How it is done: blocks of scores are computed in float32. The error of such a dot product of x and y is at most
    `(d + 2) u / (1 - (d + 2) u) |x| |y|` with `u = 2**-24`, in whatever order it is added up, fused or not (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1; the 2 is for the rounding of float64 embeddings). A
    score farther than that from the query's best right score is counted as it is; the others are computed in float64.
    With d = 512 the bound is 3.1e-5 |x| |y|, within which are less than 0.1% of the scores of random embeddings. Where
    more are, as between embeddings that are nearly all the same, the block is computed in float64.

    Args:
        image_embeds (`np.ndarray` or `torch.Tensor` of shape (n, d), floating):
            Embeddings of images. Normalise them if the score is to be the cosine.
        text_embeds (`np.ndarray` or `torch.Tensor` of shape (m, d), floating):
            Embeddings of texts.
        image_of_text (`np.ndarray`, `torch.Tensor` or `Sequence[int]` of shape (m,), integer):
            Row of the image that each text belongs to; each image has one text or more.
        block_shape (`tuple[int, int]`, *optional*):
            Images and texts of a block of scores, by default 1024 x 1984 on a CPU and 8192 x 8192 elsewhere.
        device (`str` or `torch.device`, *optional*):
            Where scores are computed; by default where the images' embeddings are. Apple's GPUs have no float64; for
            `"mps"` it is the CPU.

    Returns:
        [`RetrievalRanks`]

    Raises:
        ValueError: if a value is NaN or infinite, a row is all zeros, shapes disagree, a text has no image or an image
            no text. The message names the first rows.
        RuntimeError: if matrix products on the device are less exact than float32 is.

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
            f"`image_embeds` have {images.shape[1]} columns, `text_embeds` {texts.shape[1]}; they must be as many."
        )
    owners = _checked_owners(image_of_text, len(images), len(texts))
    shape = block_shape or (_CPU_BLOCK if device.type == "cpu" else _ACCELERATOR_BLOCK)
    if len(shape) != 2 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(f"`block_shape` is {block_shape!r}; it must be numbers of images and of texts, both above 0.")
    ranking = _Ranking(images, texts, owners)
    ranking.run(shape, device)
    return RetrievalRanks(ranking.images.ranks, ranking.texts.ranks, ranking.recomputed)


def _checked_embeds(embeds: Any, name: str) -> np.ndarray:
    """`embeds` as float32 or float64, finite and of a size whose products neither overflow nor vanish."""
    if isinstance(embeds, torch.Tensor):
        embeds = embeds.detach().cpu()
        embeds = (embeds if embeds.dtype == torch.float64 else embeds.float()).numpy()
    array = np.asarray(embeds)
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise ValueError(
            f"`{name}` is an array of {array.dtype} of shape {array.shape}; it must hold real numbers, a row for each."
        )
    if array.dtype != np.float64:
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.float64, copy=False)
    # torch warns of an array that it may not write to, such as a file of features mapped into memory.
    array = np.require(array, requirements=["C", "W"])
    largest = max(array.max(), -array.min())
    if not np.isfinite(largest):
        row = np.flatnonzero(~np.isfinite(array).all(axis=1))[0]
        raise ValueError(f"`{name}` has NaN or infinite values, first in row {row}; remove or encode it again.")
    zero = np.flatnonzero(~array.any(axis=1))
    if len(zero):
        raise ValueError(f"`{name}` is all zeros in {_rows(zero)}, which is no embedding; was it encoded at all?")
    exponent = math.frexp(largest)[1]
    # A power of two changes no order of scores.
    return array if abs(exponent) <= 30 else np.ldexp(array.astype(np.float64), -exponent)


def _checked_owners(image_of_text: Any, num_images: int, num_texts: int) -> np.ndarray:
    if isinstance(image_of_text, torch.Tensor):
        image_of_text = image_of_text.cpu()
    owners = np.asarray(image_of_text)
    if owners.dtype.kind not in "iu" or owners.shape != (num_texts,):
        raise ValueError(
            f"`image_of_text` is an array of {owners.dtype} of shape {owners.shape}; it must hold an image's row for "
            f"each of the {num_texts} texts."
        )
    owners = owners.astype(np.int64)
    lost = np.flatnonzero((owners < 0) | (owners >= num_images))
    if len(lost):
        raise ValueError(
            f"`image_of_text` gives no image for the texts in {_rows(lost)}: {owners[lost[0]]} is not from 0 to "
            f"{num_images - 1}."
        )
    bare = np.flatnonzero(np.bincount(owners, minlength=num_images) == 0)
    if len(bare):
        raise ValueError(f"The images in {_rows(bare)} have no text; remove them, or the right text is never found.")
    return owners


def _rows(indices: np.ndarray) -> str:
    shown = ", ".join(map(str, indices[:_SHOWN]))
    return f"row {shown}" if len(indices) == 1 else f"rows {shown}{', ...' if len(indices) > _SHOWN else ''}"


def _pair_scores(left: np.ndarray, right: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Dot products of rows of `left` with rows of `right`, float64; each is added up in the same order."""
    scores = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        products = left[rows[part]].astype(np.float64)
        products *= right[others[part]]
        scores[part] = products.sum(axis=1)
    return scores


def _identities(embeds: np.ndarray) -> np.ndarray:
    """A number for each row; rows with the same number are equal. Equal rows nearly always have the same one."""
    bits = embeds.view(np.uint32 if embeds.dtype == np.float32 else np.uint64)
    factors = np.random.default_rng(0).integers(2**63, size=embeds.shape[1], dtype=np.uint64) * 2 + 1
    hashes = np.empty(len(embeds), np.uint64)
    for start in range(0, len(embeds), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        hashes[part] = (bits[part] * factors).sum(axis=1)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    identities = first[inverse.reshape(-1)]
    again = np.flatnonzero(identities != np.arange(len(embeds)))
    for start in range(0, len(again), _ROWS_AT_ONCE):
        part = again[start : start + _ROWS_AT_ONCE]
        other = part[(embeds[part] != embeds[identities[part]]).any(axis=1)]
        identities[other] = other
    return identities


class _Side:
    """The images, or the texts: as queries with a best right candidate each, and as candidates."""

    def __init__(self, embeds: np.ndarray):
        self.embeds = embeds
        self.identities = _identities(embeds)
        self.norms = np.empty(len(embeds))
        for start in range(0, len(embeds), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            # A little more than the norm, for the rounding of this sum itself.
            self.norms[part] = np.linalg.norm(embeds[part].astype(np.float64), axis=1) * (1 + 1e-9)
        self.ranks = np.zeros(len(embeds), np.int64)
        self.right: np.ndarray
        self.right_scores: np.ndarray

    def bounds(self, part: slice, largest: float, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Computed scores below the first come after a query's best right one, those above the second before it."""
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

    def __init__(self, images: np.ndarray, texts: np.ndarray, owners: np.ndarray):
        self.images, self.texts = _Side(images), _Side(texts)
        scores = _pair_scores(images, texts, owners, np.arange(len(texts)))
        self.texts.right, self.texts.right_scores = owners, scores
        # Sorted by image, then from the highest score, then, lexsort being stable, from the lowest index.
        order = np.lexsort((-scores, owners))
        best = order[np.flatnonzero(np.diff(owners[order], prepend=-1))]
        self.images.right, self.images.right_scores = best, scores[best]
        self.recomputed = 0

    @torch.no_grad()
    def run(self, shape: tuple[int, int], device: torch.device) -> None:
        image_embeds = torch.from_numpy(self.images.embeds).to(device, torch.float32)
        text_embeds = torch.from_numpy(self.texts.embeds).to(device, torch.float32)
        with torch.autocast(device.type, enabled=False), ThreadPoolExecutor(torch.get_num_threads()) as threads:
            for left in range(0, len(text_embeds), shape[1]):
                columns = slice(left, min(left + shape[1], len(text_embeds)))
                for top in range(0, len(image_embeds), shape[0]):
                    rows = slice(top, min(top + shape[0], len(image_embeds)))
                    scores = image_embeds[rows] @ text_embeds[columns].T
                    self._check_precision(scores, rows, columns)
                    if device.type == "cpu":
                        self._count_in_tiles(scores.numpy(), rows, columns, threads)
                    else:
                        self._add(self._count(scores, rows, columns), rows, columns)

    def _check_precision(self, scores: torch.Tensor, rows: slice, columns: slice) -> None:
        # TF32 and the like are settings that several functions of torch change: the known scores show what is on.
        owners = self.texts.right[columns]
        inside = np.flatnonzero((owners >= rows.start) & (owners < rows.stop))
        if not len(inside):
            return
        low, high = self.texts.bounds(columns, self.images.norms[rows].max(), np.dtype(np.float32))
        found = scores[torch.from_numpy(owners[inside] - rows.start), torch.from_numpy(inside)].cpu().numpy()
        if not ((found >= low[inside]) & (found <= high[inside])).all():
            raise RuntimeError(
                f"Matrix products on {scores.device} are less exact than float32, so that ranks would be wrong. "
                "Switch TF32 and the like off: `torch.set_float32_matmul_precision('highest')`."
            )

    def _count_in_tiles(self, scores: np.ndarray, rows: slice, columns: slice, threads: Executor) -> None:
        tiles = [
            (slice(top, min(top + _TILE[0], rows.stop)), slice(left, min(left + _TILE[1], columns.stop)))
            for top in range(rows.start, rows.stop, _TILE[0])
            for left in range(columns.start, columns.stop, _TILE[1])
        ]

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
        """For a tile of computed scores: candidates to count for each image and each text, and scores recomputed."""
        is_tensor = isinstance(scores, torch.Tensor)
        compare = _compare_tensor if is_tensor else _compare_array
        dtype = np.dtype(str(scores.dtype).removeprefix("torch."))
        largest_allowed = math.inf if dtype == np.float64 else _DOUBTFUL_SHARE * math.prod(scores.shape)
        found = []
        for axis, queries, candidates, part, others in (
            (0, self.images, self.texts, rows, columns),
            (1, self.texts, self.images, columns, rows),
        ):
            low, high = queries.bounds(part, candidates.norms[others].max(), dtype)
            counts, doubtful = compare(scores, low, high, axis)
            if len(doubtful[0]) > largest_allowed:
                return self._count(self._in_float64(rows, columns, scores), rows, columns)
            found.append((counts, doubtful))
        recomputed = 0
        for axis, (counts, doubtful) in enumerate(found):
            sides = ((self.images, rows), (self.texts, columns))
            recomputed += self._resolve(counts, doubtful[axis], doubtful[1 - axis], *sides[axis], *sides[1 - axis])
        return found[0][0], found[1][0], recomputed

    def _in_float64(self, rows: slice, columns: slice, like: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        left, right = (
            torch.from_numpy(side.embeds[part]).to(getattr(like, "device", "cpu"), torch.float64)
            for side, part in ((self.images, rows), (self.texts, columns))
        )
        # `no_grad` and `autocast` hold for the thread that they were called in, which may be another one.
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
        rows, found = places + part.start, other_places + others.start
        right = queries.right[rows]
        before = found < right
        unlike = np.flatnonzero(candidates.identities[found] != candidates.identities[right])
        scores = _pair_scores(queries.embeds, candidates.embeds, rows[unlike], found[unlike])
        target = queries.right_scores[rows[unlike]]
        before[unlike] = (scores > target) | ((scores == target) & before[unlike])
        counts += np.bincount(places[before], minlength=len(counts))
        return len(unlike)


def _shifted(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def _compare_array(
    scores: np.ndarray, low: np.ndarray, high: np.ndarray, axis: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """
    Numbers of scores above `high` for each query, which are the rows (`axis` 0) or the columns (1), and the places,
    rows and columns, of those from `low` to `high`.
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
    places, found = np.divmod(8 * words[places] + lanes, doubtful.shape[1])
    return counts.astype(np.int64), (some[places], found)


def _compare_tensor(
    scores: torch.Tensor, low: np.ndarray, high: np.ndarray, axis: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """As `_compare_array`, on the device of the scores."""
    low, high = (torch.from_numpy(bound).to(scores.device).unsqueeze(1 - axis) for bound in (low, high))
    above = scores > high
    places = ((scores >= low) ^ above).nonzero(as_tuple=True)
    return above.sum(dim=1 - axis).cpu().numpy(), tuple(place.cpu().numpy() for place in places)


# ---------------------------------------------------------------------------------------------------------- evaluation


@dataclass(frozen=True)
class RetrievalEvaluationOptions:
    """
    How to evaluate retrieval.

    Args:
        template (`str`, *optional*, defaults to `"{}"`):
            What the captions are put into. The paper's results on Flickr30k and MSCOCO are with `"a photo of {}"`,
            which it found to gain 1 to 2 points of R@1 (appendix E.1).
        ks (`tuple[int, ...]`, *optional*, defaults to `(1, 5, 10)`):
            Numbers of first candidates for which the recall is given.
        resamples (`int`, *optional*, defaults to 1000):
            Bootstrap resamples for the intervals; 0 for none.
        confidence (`float`, *optional*, defaults to 0.95):
            Share of the resamples that an interval covers.
        seed (`int`, *optional*, defaults to 0):
            Of the bootstrap.
        block_shape (`tuple[int, int]`, *optional*):
            See [`retrieval_ranks`].
        encoding ([`EncodingOptions`], *optional*):
            How images are encoded and where features are kept, of images and texts.

    Raises:
        ValueError: if a value is not as above.
    """

    template: str = "{}"
    ks: tuple[int, ...] = (1, 5, 10)
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    block_shape: tuple[int, int] | None = None
    encoding: EncodingOptions = field(default_factory=EncodingOptions)

    def __post_init__(self):
        if not isinstance(self.template, str) or self.template.count("{}") != 1:
            raise ValueError(
                f"`template` is {self.template!r}; it must hold {{}} once, for the caption, as in 'a photo of {{}}'."
            )
        if not self.ks or any(not isinstance(k, int) or k < 1 for k in self.ks):
            raise ValueError(f"`ks` is {self.ks!r}; it must hold whole numbers above 0.")
        if self.resamples < 0 or not 0 < self.confidence < 1:
            raise ValueError(
                f"`resamples` is {self.resamples} and `confidence` {self.confidence}; they must be 0 or more, and "
                "between 0 and 1."
            )


@dataclass(kw_only=True)
class RetrievalResult(EvaluationResult):
    """
    Figures of retrieval in both directions.

    Args:
        values (`dict[str, float]`):
            `image_to_text_R@k`, `text_to_image_R@k`: share of the queries with a right candidate among the first k, 0
            to 1. `image_to_text_median_rank`, `text_to_image_median_rank`: median place of the best right one; 1 is
            the first.
        value_intervals (`dict[str, tuple[float, float]]`):
            Bootstrap intervals of the figures, over images; an image's texts go with it.
        num_images, num_texts, num_different_texts (`int`):
            Images, texts, and texts that are not the same.
        template (`str`):
            What the captions were put into.
        image_to_text_ranks (`np.ndarray` of shape (n,), int64):
            Place of the best of each image's texts among all; 0 is the first.
        text_to_image_ranks (`np.ndarray` of shape (m,), int64):
            Place of each text's image among all; 0 is the first.
        image_of_text (`np.ndarray` of shape (m,), int64):
            Row of each text's image.
    """

    task = "retrieval"
    task_type = "zero-shot-image-retrieval"

    values: dict[str, float]
    value_intervals: dict[str, tuple[float, float]]
    num_images: int
    num_texts: int
    num_different_texts: int
    template: str
    image_to_text_ranks: np.ndarray
    text_to_image_ranks: np.ndarray
    image_of_text: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Recalls, 0 to 1, and median ranks, from 1, by name."""
        return self.values

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Bootstrap intervals by name."""
        return self.value_intervals

    def arrays(self) -> dict[str, np.ndarray]:
        """The ranks, and which image each text belongs to."""
        return {name: getattr(self, name) for name in ("image_to_text_ranks", "text_to_image_ranks", "image_of_text")}

    def details(self) -> str:
        """How many images and texts there were, and the prompt."""
        same = self.num_texts - self.num_different_texts
        sizes = f"{counted(self.num_images, 'image')}, {counted(self.num_texts, 'text')}"
        parts = [f"{sizes}, prompt `{self.template}`."]
        if same:
            verb, them = ("is", "it") if same == 1 else ("are", "them")
            parts.append(
                f"{counted(same, 'text')} {verb} the same as an earlier one, which counts as found before {them}."
            )
        return " ".join(parts)

    def figure(self) -> "Figure":
        """Recall against k in both directions, beside that of a random order."""
        figure = new_figure(7, 5)
        axes = figure.subplots()
        for name, label, ranks, candidates, colour in (
            ("image_to_text", "image to text", self.image_to_text_ranks, self.num_texts, "tab:blue"),
            ("text_to_image", "text to image", self.text_to_image_ranks, self.num_images, "tab:orange"),
        ):
            ks = np.arange(1, min(_CURVE, candidates) + 1)  # from 1 on, as `_chance_of_images` takes them
            recalls = np.bincount(ranks, minlength=len(ks))[: len(ks)].cumsum() / len(ranks)
            axes.plot(ks, 100 * recalls, marker=".", color=colour, label=label)
            chance = _chance_of_images(ks, self.image_of_text) if name == "image_to_text" else ks / candidates
            axes.plot(ks, 100 * chance, linestyle=":", color=colour, label=f"{label}, random order")
        axes.set(xscale="log", xlabel="k", ylabel="a right one among the first k (%)", ylim=(0, 102))
        ticks = [k for k in (1, 2, 5, 10, 20, 50) if k <= max(self.num_images, self.num_texts)]
        axes.set_xticks(ticks, map(str, ticks))
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
        axes.set_title(f"{self.model} on {self.data} ({self.split})", fontsize=9)
        axes.legend(fontsize=8)
        return figure


def evaluate_retrieval(
    model: Any,
    data: Any,
    *,
    processor: Any = None,
    data_options: RetrievalOptions | None = None,
    options: RetrievalEvaluationOptions | None = None,
) -> RetrievalResult:
    """
    Evaluate retrieval of texts by images and of images by texts (Radford et al. 2021, appendix E.1).

    R@k of images to texts is the share of images with any of their captions among the k texts of the largest cosine;
    R@k of texts to images is the share of captions, over all of them, whose image is among the first k.
    CLIP_benchmark's figures are so defined, too. The ranks are exact; see [`retrieval_ranks`].

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path):
            The model; see [`load_dual_encoder`].
        data ([`RetrievalData`], `datasets.Dataset`, `str` or path):
            Images and their captions, one or several each; see [`load_retrieval`].
        processor (*optional*):
            Of the model, where it is a `nn.Module`.
        data_options ([`RetrievalOptions`], *optional*):
            Columns, part and number of captions, where `data` is still to be loaded.
        options ([`RetrievalEvaluationOptions`], *optional*):
            Prompt, bootstrap and encoding.

    Returns:
        [`RetrievalResult`]

    Raises:
        ValueError: if model or data cannot be used as asked, an image has no caption, or more cannot be read than
            `options.encoding.max_skipped_share` allows; the others are skipped with their captions, and counted.

    Example:

    ```python
    >>> from clip_hf.evaluation import evaluate_retrieval

    >>> result = evaluate_retrieval("openai/clip-vit-base-patch32", "path/to/pairs")
    >>> print(result.table())
    ```
    """
    options = options or RetrievalEvaluationOptions()
    if not isinstance(data, RetrievalData):
        data = load_retrieval(data, data_options)
    bare = [row for row, captions in enumerate(data.captions) if not captions]
    if bare:
        raise ValueError(f"The images in {_rows(np.array(bare))} of {data.name} have no caption; remove them.")
    encoder = load_dual_encoder(model, processor=processor)
    name = f"{data.name} ({data.split})"
    found = encode_readable_images(encoder, data.data, data.image_column, options=options.encoding, name=name)
    if found.skipped is not None:  # the captions of an image that cannot be read are no candidates either
        data = replace(data, data=data.data.select(found.rows), captions=[data.captions[row] for row in found.rows])
    image_of_text = np.repeat(np.arange(len(data.captions)), [len(captions) for captions in data.captions])
    texts = [options.template.replace("{}", caption) for captions in data.captions for caption in captions]
    # Each text is encoded once: equal texts have equal embeddings to the last bit.
    text_embeds = encode_text_list(encoder, texts, options=options.encoding)
    ranks = retrieval_ranks(
        found.features, text_embeds, image_of_text, block_shape=options.block_shape, device=encoder.device
    )
    return RetrievalResult(
        model=encoder.name,
        data=data.name,
        split=data.split,
        values=_values(ranks, options.ks),
        value_intervals=_intervals(ranks, image_of_text, options),
        chance=_chance(options.ks, image_of_text),
        skipped={} if found.skipped is None else {data.split: found.skipped},
        num_images=len(found.rows),
        num_texts=len(texts),
        num_different_texts=len(set(texts)),
        template=options.template,
        image_to_text_ranks=ranks.image_to_text,
        text_to_image_ranks=ranks.text_to_image,
        image_of_text=image_of_text,
    )


def _chance_of_images(ks: np.ndarray, image_of_text: np.ndarray) -> np.ndarray:
    """Share of images with a text of theirs among the first k of a random order; `ks` are 1, 2, and so on."""
    own = np.bincount(image_of_text)[:, None]
    # None of the first k is right: the product over places of the share of wrong ones among those left.
    left = len(image_of_text) - ks + 1
    missed = np.cumprod(np.clip(1 - own / left, 0, 1), axis=1)
    return 1 - missed.mean(axis=0)


def _chance(ks: Sequence[int], image_of_text: np.ndarray) -> dict[str, float]:
    """R@k of a random order, in both directions."""
    num_texts, num_images = len(image_of_text), int(image_of_text.max()) + 1
    curve = _chance_of_images(np.arange(1, min(max(ks), num_texts) + 1), image_of_text)
    found = {f"image_to_text_R@{k}": float(curve[min(k, len(curve)) - 1]) for k in ks}
    return found | {f"text_to_image_R@{k}": min(k, num_images) / num_images for k in ks}


def _values(ranks: RetrievalRanks, ks: Sequence[int]) -> dict[str, float]:
    directions = {"image_to_text": ranks.image_to_text, "text_to_image": ranks.text_to_image}
    values = {f"{name}_R@{k}": recall_at_k(own, k) for name, own in directions.items() for k in ks}
    return values | {f"{name}_median_rank": median_rank(own) for name, own in directions.items()}


def _intervals(
    ranks: RetrievalRanks, image_of_text: np.ndarray, options: RetrievalEvaluationOptions
) -> dict[str, tuple[float, float]]:
    """Percentile intervals over resamples of the images, each with all of its texts."""
    if not options.resamples:
        return {}
    num_images = len(ranks.image_to_text)
    ones = np.ones(num_images, np.int64)
    directions = (
        ("image_to_text", ranks.image_to_text, np.arange(num_images), ones),
        ("text_to_image", ranks.text_to_image, image_of_text, np.bincount(image_of_text, minlength=num_images)),
    )
    generator = np.random.default_rng(options.seed)
    hits = {
        (name, k): np.bincount(owners[own < k], minlength=num_images)
        for name, own, owners, _ in directions
        for k in options.ks
    }
    medians = {name: median_of_rows(own) for name, own, _, _ in directions}
    drawn: dict[str, list[float]] = {}
    for _ in range(options.resamples):
        weights = np.bincount(generator.integers(num_images, size=num_images), minlength=num_images)
        for name, _, owners, sizes in directions:
            total = int(weights @ sizes)
            for k in options.ks:
                drawn.setdefault(f"{name}_R@{k}", []).append(int(weights @ hits[name, k]) / total)
            drawn.setdefault(f"{name}_median_rank", []).append(medians[name](weights[owners][None])[0] + 1)
    tails = (1 - options.confidence) / 2
    return {name: tuple(map(float, np.quantile(values, [tails, 1 - tails]))) for name, values in drawn.items()}


__all__ = [
    "RetrievalEvaluationOptions",
    "RetrievalRanks",
    "RetrievalResult",
    "evaluate_retrieval",
    "retrieval_ranks",
]
