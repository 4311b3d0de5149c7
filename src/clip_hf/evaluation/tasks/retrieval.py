# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Retrieval of texts by images and of images by texts (Radford et al. 2021, appendix E.1, table 13).

Shapes: n images, m captions. Captions that are equal are one candidate; see `caption_ids`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...embedding.bulk_encoding import encode_readable_images, encode_text_list
from ...embedding.dual_encoder import DualEncoder
from ...embedding.load_encoder import load_dual_encoder
from ...utils.figures import COLOURS, new_figure
from ...utils.wording import HUB_TASKS, counted, quoted
from ..numerics.bootstrap import percentile_interval
from ..numerics.metrics import median_rank, recall_at_k
from ..numerics.ranking import RetrievalRanks, caption_ids, retrieval_ranks
from ..numerics.statistics import median_of_rows
from ..registry.evaluation_data import CaptionedDataOptions, ImageDataOptions, RetrievalData, load_retrieval
from .evaluation_result import MeasuredResult
from .evaluation_task import EvaluationOptions, EvaluationTask, TaskSettings


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Largest k of the plot.
_CURVE = 50
_MARKED = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class RetrievalOptions(EvaluationOptions):
    """How to evaluate retrieval.

    Args:
        template (`str`, *optional*, defaults to `"{}"`): What the captions are put into. The paper's results on
            Flickr30k and MSCOCO are with `"a photo of {}"`, which it found to gain 1 to 2 points of R@1 (appendix
            E.1).
        ks (`tuple[int, ...]`, *optional*, defaults to `(1, 5, 10)`): The k of R@k.
        block_shape (`tuple[int, int]`, *optional*): See [`retrieval_ranks`].
        resamples, confidence, seed, encoding: As in [`ZeroShotOptions`].

    Raises:
        ValueError: if a value is not as above.
    """

    template: str = "{}"
    ks: tuple[int, ...] = (1, 5, 10)
    block_shape: tuple[int, int] | None = None

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.template, str) or self.template.count("{}") != 1:
            raise ValueError(
                f"`template` is {self.template!r}; it must hold {{}} once, for the caption, as in 'a photo of {{}}'."
            )
        if not self.ks or any(not isinstance(k, int) or k < 1 for k in self.ks):
            raise ValueError(f"`ks` is {self.ks!r}; it must hold whole numbers above 0.")


@dataclass(kw_only=True, repr=False)
class RetrievalResult(MeasuredResult):
    """Figures of retrieval in both directions.

    Args:
        values (`dict[str, float]`): `image_to_text_R@k`, `text_to_image_R@k`: share of the queries with a right
            candidate among the first k, 0 to 1. `image_to_text_median_rank`, `text_to_image_median_rank`: median rank
            of the best right one; 1 is the first.
        value_intervals (`dict[str, tuple[float, float]]`): Bootstrap intervals of the figures, over images; an image's
            texts go with it, and for the texts' figures the images that share a text with it.
        num_images, num_texts, num_different_texts (`int`): Images, captions, and different captions.
        template (`str`): What the captions were put into.
        image_to_text_ranks (`np.ndarray` of shape (n,), int64): Rank of the best of each image's captions among the
            different captions; 0 is the first.
        text_to_image_ranks (`np.ndarray` of shape (m,), int64): Rank of the best of each caption's images among all
            images; 0 is the first.
        image_of_text (`np.ndarray` of shape (m,), int64): Row of the image that each caption came with.
        text_ids (`np.ndarray` of shape (m,), int64): Number of each caption among the different ones; equal captions
            have the same.
    """

    task = "retrieval"
    task_type = HUB_TASKS["retrieval"]

    num_images: int
    num_texts: int
    num_different_texts: int
    template: str
    image_to_text_ranks: np.ndarray
    text_to_image_ranks: np.ndarray
    image_of_text: np.ndarray
    text_ids: np.ndarray

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The ranks, which image each caption came with, and which captions are equal."""
        names = ("image_to_text_ranks", "text_to_image_ranks", "image_of_text", "text_ids")
        return {name: getattr(self, name) for name in names}

    def details(self) -> str:
        """How many images and captions there were, and the prompt."""
        repeated = self.num_texts - self.num_different_texts
        sizes = f"{counted(self.num_images, 'image')}, {counted(self.num_texts, 'caption')}"
        parts = [f"{sizes}, prompt `{self.template}`."]
        if repeated:
            verb = "repeats" if repeated == 1 else "repeat"
            parts.append(
                f"{counted(repeated, 'caption')} {verb} an earlier one: equal captions are one candidate, right for "
                "every image that has one of them."
            )
        return " ".join(parts)

    def figure(self) -> "Figure":
        """Recall against k in both directions, beside that of a random order."""
        with new_figure(self.plot_title(), 4.6) as figure:
            axes = figure.subplots()
            ranks = {"image_to_text": self.image_to_text_ranks, "text_to_image": self.text_to_image_ranks}
            counts = _right_counts(self.image_of_text, self.text_ids)
            chance = {name: 100 * random_order_recalls(*counts[name], _CURVE) for name in ranks}
            same_chance = all(np.array_equal(curve, chance["image_to_text"]) for curve in chance.values())
            for name, style in (("image_to_text", "o-"), ("text_to_image", "s--")):
                label, size = name.replace("_", " "), len(chance[name])
                recalls = 100 * np.bincount(ranks[name], minlength=size)[:size].cumsum() / len(ranks[name])
                marked = [k - 1 for k in _MARKED if k <= size]
                axes.plot(np.arange(1, size + 1), recalls, style, markevery=marked, label=label)
            # With one caption an image a random order is equally good in both directions.
            shown = {"random order": chance["text_to_image"]} if same_chance else chance
            for (name, curve), colour in zip(shown.items(), COLOURS):
                label = name if same_chance else f"{name.replace('_', ' ')}, random order"
                colour = COLOURS[-1] if same_chance else colour
                axes.plot(np.arange(1, len(curve) + 1), curve, linestyle=":", color=colour, label=label)
            axes.set(xscale="log", xlabel="k, number of candidates returned", ylabel="recall at k (%)", ylim=(0, 102))
            ticks = [k for k in _MARKED if k <= max(self.num_images, self.num_texts)]
            axes.set_xticks(ticks, map(str, ticks))
            axes.set_xticks([], minor=True)
            sizes = f"{counted(self.num_images, 'image')}, {counted(self.num_texts, 'text')}"
            axes.set_title(f"Queries with a right candidate among the first k; {sizes}")
            axes.legend(loc="center right")
        return figure


def evaluate_retrieval(
    model: Any, data: Any, options: RetrievalOptions | None = None, *, processor: Any = None
) -> RetrievalResult:
    """Evaluate retrieval of texts by images and of images by texts (Radford et al. 2021, appendix E.1).

    - R@k of images to texts is the share of images with one of their captions among the k of the largest cosine.
    - R@k of texts to images is the share of captions with an image of theirs among the k of the largest cosine.
    - Captions that are equal but for case and white space at the ends are one candidate, right for every image that
      has one of them. As queries all of them count.
    - The ranks are exact. Among equal cosines the earlier candidate comes first; see [`retrieval_ranks`].

    Args:
        model ([`DualEncoder`], `nn.Module`, `str` or path): The model; see [`load_dual_encoder`].
        data ([`RetrievalData`], or what [`load_retrieval`] takes): Images and their captions, one or several each. To
            choose columns and the like, load it first.
        options ([`RetrievalOptions`], *optional*): Prompt, bootstrap and encoding.
        processor (*optional*): The model's processor, where the model is a `nn.Module`.

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
    options = options or RetrievalOptions()
    encoder = load_dual_encoder(model, processor=processor)
    if not isinstance(data, RetrievalData):
        data = load_retrieval(data, CaptionedDataOptions(media=encoder.media))
    bare = [row for row, captions in enumerate(data.captions) if not captions]
    if bare:
        raise ValueError(f"Images of {data.name} have no caption, in rows {quoted(bare)}; remove them.")
    name = f"{data.name} ({data.split})"
    images = encode_readable_images(encoder, data.data, data.image_column, options=options.encoding, name=name)
    if images.skipped is not None:  # the captions of an image that cannot be read are no candidates either
        data = replace(data, data=data.data.select(images.rows), captions=[data.captions[row] for row in images.rows])
    captions = [caption for captions in data.captions for caption in captions]
    image_of_text = np.repeat(np.arange(len(data.captions)), [len(captions) for captions in data.captions])
    text_ids = caption_ids(captions)
    different = [captions[row] for row in np.unique(text_ids, return_index=True)[1]]
    texts = [options.template.replace("{}", caption) for caption in different]
    text_embeds = encode_text_list(encoder, texts, options=options.encoding)[text_ids]
    ranks = retrieval_ranks(
        images.features,
        text_embeds,
        image_of_text,
        text_ids=text_ids,
        block_shape=options.block_shape,
        device=encoder.device,
    )
    result = RetrievalResult(
        model=encoder.name,
        data=data.name,
        split=data.split,
        values=_values(ranks, options.ks),
        value_intervals=_intervals(ranks, image_of_text, text_ids, options),
        chance=_chance(options.ks, image_of_text, text_ids),
        skipped={} if images.skipped is None else {data.split: images.skipped},
        num_images=len(images.rows),
        num_texts=len(captions),
        num_different_texts=len(texts),
        template=options.template,
        image_to_text_ranks=ranks.image_to_text,
        text_to_image_ranks=ranks.text_to_image,
        image_of_text=image_of_text,
        text_ids=text_ids,
    )
    result.record_encoder(encoder)
    return result


class RetrievalTask(EvaluationTask):
    """Retrieval among the images and captions of the test split."""

    result = RetrievalResult

    def load(self, sources: Sequence[str], settings: TaskSettings) -> dict[str, RetrievalData]:
        """Load captioned images."""
        shared = {one.name: getattr(settings.data_options, one.name) for one in fields(ImageDataOptions)}
        options = CaptionedDataOptions(caption_column=settings.caption_column, **shared)
        return {"test": load_retrieval(sources[0], options)}

    def run(self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings) -> RetrievalResult:
        """Rank them."""
        options = RetrievalOptions(resamples=settings.resamples, seed=settings.seed, encoding=settings.encoding)
        return evaluate_retrieval(encoder, parts["test"], options)


def random_order_recalls(num_right: np.ndarray, num_candidates: int, most: int) -> np.ndarray:
    """R@1, R@2, ... R@most of a random order, 0 to 1, as far as there are candidates.

    `num_right`, int64 (queries,), says how many candidates are right for each query. With 1 and 2 right ones of 3
    candidates, R@1 is (1/3 + 2/3) / 2 = 1/2 and R@2 is (2/3 + 1) / 2 = 5/6.
    """
    # None of the first k is right: the product over places of the share of wrong ones among those left.
    left = num_candidates - np.arange(min(most, num_candidates))
    missed = np.cumprod(np.clip(1 - num_right[:, None] / left, 0, 1), axis=1)
    return 1 - missed.mean(axis=0)


def _right_counts(image_of_text: np.ndarray, text_ids: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """For both directions, the number of right candidates of each query, and the number of candidates."""
    num_images, num_texts = int(image_of_text.max()) + 1, int(text_ids.max()) + 1
    pairs = np.unique(image_of_text * num_texts + text_ids)
    return {
        "image_to_text": (np.bincount(pairs // num_texts), num_texts),
        "text_to_image": (np.bincount(pairs % num_texts)[text_ids], num_images),
    }


def _chance(ks: Sequence[int], image_of_text: np.ndarray, text_ids: np.ndarray) -> dict[str, float]:
    """R@k of a random order, in both directions."""
    curves = {
        name: random_order_recalls(*counts, max(ks)) for name, counts in _right_counts(image_of_text, text_ids).items()
    }
    return {f"{name}_R@{k}": float(curve[min(k, len(curve)) - 1]) for name, curve in curves.items() for k in ks}


def _values(ranks: RetrievalRanks, ks: Sequence[int]) -> dict[str, float]:
    directions = {"image_to_text": ranks.image_to_text, "text_to_image": ranks.text_to_image}
    values = {f"{name}_R@{k}": recall_at_k(places, k) for name, places in directions.items() for k in ks}
    return values | {f"{name}_median_rank": median_rank(places) for name, places in directions.items()}


def _intervals(
    ranks: RetrievalRanks, image_of_text: np.ndarray, text_ids: np.ndarray, options: RetrievalOptions
) -> dict[str, tuple[float, float]]:
    """Percentile intervals over resamples of the images, each with all of its texts.

    For the texts' figures, images that share a text are drawn together, see [`images_sharing_texts`].
    """
    if not options.resamples:
        return {}
    num_images = len(ranks.image_to_text)
    ones = np.ones(num_images, np.int64)
    directions = (
        ("image_to_text", ranks.image_to_text, np.arange(num_images), ones),
        ("text_to_image", ranks.text_to_image, image_of_text, np.bincount(image_of_text, minlength=num_images)),
    )
    generator, clusters = np.random.default_rng(options.seed), images_sharing_texts(image_of_text, text_ids)
    hits = {
        (name, k): np.bincount(owners[places < k], minlength=num_images)
        for name, places, owners, _ in directions
        for k in options.ks
    }
    medians = {name: median_of_rows(places) for name, places, _, _ in directions}
    drawn: dict[str, list[float]] = {}
    for _ in range(options.resamples):
        weights_of = dict.fromkeys(("image_to_text", "text_to_image"), _draw(generator, num_images))
        if clusters is not None:
            weights_of["text_to_image"] = _draw(generator, int(clusters.max()) + 1)[clusters]
        for name, _, owners, sizes in directions:
            weights = weights_of[name]
            total = int(weights @ sizes)
            for k in options.ks:
                drawn.setdefault(f"{name}_R@{k}", []).append(int(weights @ hits[name, k]) / total)
            drawn.setdefault(f"{name}_median_rank", []).append(medians[name](weights[owners][None])[0] + 1)
    return {name: percentile_interval(values, options.confidence) for name, values in drawn.items()}


def _draw(generator: np.random.Generator, count: int) -> np.ndarray:
    """How often each of `count` is drawn in a resample (count,), int64."""
    return np.bincount(generator.integers(count, size=count), minlength=count)


def images_sharing_texts(owners: np.ndarray, text_ids: np.ndarray) -> np.ndarray | None:
    """The cluster of each image (n,), from 0 on: images with equal texts, directly or through others, are one.

    An equal text is one query, however many images it came with: where it is ranked higher, all of them are.

    Args:
        owners, text_ids (`np.ndarray` of shape (m,), int64): The image of each text, and which texts are equal.

    Returns:
        None where no two images share a text.
    """
    count = int(owners.max()) + 1
    clusters, before = np.arange(count), None
    while before is None or not np.array_equal(before, clusters):
        before = clusters.copy()
        lowest = np.full(int(text_ids.max()) + 1, count)
        np.minimum.at(lowest, text_ids, clusters[owners])
        np.minimum.at(clusters, owners, lowest[text_ids])
    names, numbers = np.unique(clusters, return_inverse=True)
    return None if len(names) == count else numbers
