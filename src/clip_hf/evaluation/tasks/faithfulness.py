# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Whether a relevance map says what the model uses: deletion, insertion, the pointing game, random weights.

Shapes: n images with one map each, m texts, maps (n, rows, columns) of any grid, k steps of a curve.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from scipy.stats import rankdata
from torch import nn

from ...explain.attention_twin import check_explainable
from ...explain.image_maps import is_vit
from ...model.checks_clip_hf import check_whole, type_of
from ..numerics.bootstrap import bootstrap_mean_interval


Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What pictures (b, 3, height, width) score; the second tensor (b,) says of which image each was made."""
Maps = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""A function like [`image_maps`]: of a model, `pixel_values` and `text_embeds`, (n, m, rows, columns)."""

# A map that two calls of one model give must be the same, but for the rounding of parallel sums.
_REPEATED = 0.9


@dataclass(frozen=True)
class MapMeasure:
    """One figure for each map.

    Args:
        values (`np.ndarray` of shape `(n,)`, float64): The figure of each map.
        interval (`tuple[float, float]`, *optional*): 95% bootstrap interval of the mean, over images.
        chance (`float`, *optional*): What guessing gives, where it is known.
        best (`float`, *optional*): What the best map of the same grid gives, where it is known.
    """

    values: np.ndarray
    interval: tuple[float, float] | None
    chance: float | None = None
    best: float | None = None

    @property
    def mean(self) -> float:
        """Mean over the maps."""
        return float(self.values.mean())


@dataclass(frozen=True)
class MapCurve(MapMeasure):
    """Scores while pixels are replaced in the order of a map; `values` are the areas under the curves.

    Args:
        shares (`np.ndarray` of shape `(k + 1,)`): Share of the pixels that were replaced, 0 to 1.
        scores (`np.ndarray` of shape `(n, k + 1)`): Score of each image at each share.
    """

    shares: np.ndarray = None
    scores: np.ndarray = None


@dataclass(frozen=True)
class RandomWeightsCheck:
    """Rank correlations of a model's maps with those of the model with ever more random weights.

    Args:
        stages (`tuple[str, ...]`): What became random last, from the top of the tower down.
        correlations (`np.ndarray` of shape `(stages, n)`): Spearman's correlation of each image's maps, mean over
            texts.
        intervals (`list[tuple[float, float]]`): 95% bootstrap interval of each stage's mean over images.
        repeated (`float`): Mean correlation of the maps of two calls of the model as it is: 1, unless they are random.
        problem (`str`): Why the maps cannot explain this model; empty if nothing was noticed.
    """

    stages: tuple[str, ...]
    correlations: np.ndarray
    intervals: list[tuple[float, float]]
    repeated: float
    problem: str

    @property
    def means(self) -> np.ndarray:
        """Mean correlation of each stage, (stages,)."""
        return self.correlations.mean(axis=1)


# ------------------------------------------------------------------------------------------------------------ curves


def probability_score(model: nn.Module, text_embeds: torch.Tensor, targets: torch.Tensor) -> Score:
    """Return a score for curves: the zero-shot probability of each image's text among all texts.

    Args:
        model ([`ClipHFModel`]): The model, in evaluation mode.
        text_embeds (`torch.Tensor` of shape `(m, dim)`): L2-normalised embeddings of the texts.
        targets (`torch.Tensor` of shape `(n,)`, int64): The text of each image.

    Returns:
        `Score`: a function of pictures and the numbers of their images; from 0 to 1.
    """

    @torch.no_grad()
    def score(pictures: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        cosines = model.encode_image(pictures.to(model.device)) @ text_embeds.to(model.device).T
        probabilities = (model.logit_scale.exp() * cosines).softmax(dim=-1)
        return probabilities.gather(1, targets.to(model.device)[rows.to(model.device), None])[:, 0]

    return score


def deletion_curve(
    score: Score,
    pixel_values: torch.Tensor,
    maps: torch.Tensor,
    *,
    steps: int = 16,
    base: torch.Tensor | None = None,
    batch_size: int = 64,
    resamples: int = 1000,
    seed: int = 0,
) -> MapCurve:
    """Measure how fast a score falls while the most relevant pixels are removed first (Petsiuk et al. 2018, RISE).

    A low area is good: what the map calls relevant is what the score needs. Maps are resized bilinearly to the
    images; equal pixels are removed in random order. Compare areas of one score only, with that of a random map: how
    low they can get depends on the images, and pictures with holes are none that the model was trained on.

    Args:
        score (`Score`): What is explained, such as [`probability_score`].
        pixel_values (`torch.Tensor` of shape `(n, 3, height, width)`): Images as the processor makes them.
        maps (`torch.Tensor` of shape `(n, rows, columns)`): A map for each image.
        steps (`int`, *optional*, defaults to 16): Into how many steps the removal is divided.
        base (`torch.Tensor`, *optional*): What pixels become, broadcast to `pixel_values`; by default 0, the mean
            colour of the processor.
        batch_size (`int`, *optional*, defaults to 64): Pictures scored at once.
        resamples (`int`, *optional*, defaults to 1000): Bootstrap resamples; 0 for no interval.
        seed (`int`, *optional*, defaults to 0): Of the bootstrap, and of the order of equal pixels.

    Returns:
        [`MapCurve`]: scores at shares 0, 1/steps ... 1, and the areas by the trapezoidal rule.

    Raises:
        ValueError: if shapes do not fit, a map or score is not finite, or a number is out of range.
    """
    base = torch.zeros_like(pixel_values) if base is None else base
    settings = (maps, steps, batch_size, resamples, seed)
    return _curve(score, pixel_values, _like(base, pixel_values), settings)


def insertion_curve(
    score: Score,
    pixel_values: torch.Tensor,
    maps: torch.Tensor,
    *,
    steps: int = 16,
    base: torch.Tensor | None = None,
    batch_size: int = 64,
    resamples: int = 1000,
    seed: int = 0,
) -> MapCurve:
    """Measure how fast a score rises while the most relevant pixels are put in first (Petsiuk et al. 2018, RISE).

    A high area is good. `base` is what one starts from: by default the image, blurred beyond recognition, because
    sharp edges of what is put into an even colour would be shapes of their own.

    Args:
        score, pixel_values, maps, steps, base, batch_size, resamples, seed: As in [`deletion_curve`].

    Returns:
        [`MapCurve`]

    Raises:
        ValueError: as [`deletion_curve`].
    """
    base = blurred(pixel_values) if base is None else base
    settings = (maps, steps, batch_size, resamples, seed)
    return _curve(score, _like(base, pixel_values), pixel_values, settings)


def blurred(pixel_values: torch.Tensor) -> torch.Tensor:
    """Images after a Gaussian blur with a deviation of a sixteenth of their longer side, the edges mirrored."""
    deviation = max(pixel_values.shape[2:]) / 16
    radius = min(math.ceil(3 * deviation), *(side - 1 for side in pixel_values.shape[2:]))
    places = torch.arange(-radius, radius + 1, dtype=pixel_values.dtype, device=pixel_values.device)
    kernel = torch.softmax(-((places / deviation) ** 2) / 2, dim=0)
    channels = pixel_values.shape[1]
    padded = nn.functional.pad(pixel_values, (radius,) * 4, mode="reflect")
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        weight = kernel.view(shape).expand(channels, *[-1] * 3)
        padded = nn.functional.conv2d(padded, weight, groups=channels)
    return padded


def _like(base: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
    try:
        return base.to(pixel_values).expand_as(pixel_values)
    except RuntimeError as error:
        raise ValueError(
            f"`base` has the shape {tuple(base.shape)}, which does not broadcast to the images', "
            f"{tuple(pixel_values.shape)}. Give a picture, or a colour (3, 1, 1)."
        ) from error


def _curve(score: Score, start: torch.Tensor, end: torch.Tensor, settings: tuple) -> MapCurve:
    """Scores while pixels of `start` become those of `end`, in the order of the maps."""
    maps, steps, batch_size, resamples, seed = settings
    check_whole("steps", steps, 1)
    check_whole("batch_size", batch_size, 1)
    _check_maps(maps, len(start), finite=True)
    ranks = torch.from_numpy(_pixel_ranks(maps, tuple(start.shape[2:]), seed)).to(start.device)
    shares = np.arange(steps + 1) / steps
    limits = torch.from_numpy(np.round(shares * ranks[0].numel())).to(start.device)
    scores = []
    with torch.no_grad():
        for batch in torch.arange(len(start) * (steps + 1)).split(batch_size):
            rows, places = batch // (steps + 1), batch % (steps + 1)
            replaced = ranks[rows] < limits[places][:, None, None]  # (b, height, width)
            pictures = torch.where(replaced[:, None], end[rows], start[rows])
            scored = score(pictures, rows)
            if not isinstance(scored, torch.Tensor) or scored.shape != (len(rows),) or not scored.isfinite().all():
                shown = tuple(scored.shape) if isinstance(scored, torch.Tensor) else type_of(scored)
                raise ValueError(
                    f"`score` returned {shown} for {len(rows)} pictures; it must be a tensor with a finite number for "
                    "each of them."
                )
            scores.append(scored.double().cpu().numpy())
    scores = np.concatenate(scores).reshape(len(start), steps + 1)
    areas = (scores[:, 1:] + scores[:, :-1]).mean(axis=1) / 2
    return MapCurve(areas, _interval(areas, resamples, seed), shares=shares, scores=scores)


def _pixel_ranks(maps: torch.Tensor, size: tuple[int, int], seed: int) -> np.ndarray:
    """Place of each pixel in its image's order, int64 (n, height, width); 0 is the most relevant, ties are drawn."""
    resized = nn.functional.interpolate(maps.detach().double()[:, None], size=size, mode="bilinear")[:, 0]
    generator = np.random.default_rng(seed)
    ranks = np.empty((len(maps), size[0] * size[1]), np.int64)
    for row, values in zip(ranks, resized.flatten(1).cpu().numpy()):
        row[np.lexsort((generator.random(len(values)), -values))] = np.arange(len(values))
    return ranks.reshape(len(maps), *size)


# ------------------------------------------------------------------------------------------------------ pointing game


def pointing_game(
    maps: torch.Tensor, masks: Any, *, tolerance: int = 0, resamples: int = 1000, seed: int = 0
) -> MapMeasure:
    """Measure how often a map's highest place lies on what the text names (Zhang et al. 2018).

    The point is a random pixel of the highest place, so that a value is the share of the place that the mask covers:
    the centre of a place of a coarse grid is the chance of where the grid's lines lie. Of a map as fine as the mask
    this is the paper's game. Places that are equally high count in part. So a map that is the same everywhere, and on
    average a random one, gets `chance`, the mean share of the masks. NaN, where the model did not look, is never
    highest. `best` is what the grid allows: the value of its best place.

    Args:
        maps (`torch.Tensor` of shape `(n, rows, columns)`): A map for each image, of any grid over the same frame.
        masks (array of shape `(n, height, width)`, bool): Where the named thing is in each image.
        tolerance (`int`, *optional*, defaults to 0): Pixels by which a point may miss, in both directions; the paper
            takes 15, of photos of some 500. Chance has the same tolerance.
        resamples (`int`, *optional*, defaults to 1000): Bootstrap resamples; 0 for no interval.
        seed (`int`, *optional*, defaults to 0): Of the bootstrap.

    Returns:
        [`MapMeasure`]: `values` from 0 to 1.

    Raises:
        ValueError: if shapes do not fit, a map is NaN everywhere, a mask is empty, or a number is out of range.
        TypeError: if masks are not boolean.

    Example, of a map of 2 x 2 places on a mask of 4 x 4 pixels whose last three columns are true:

    ```python
    >>> import torch
    >>> from clip_hf.evaluation import pointing_game

    >>> right = torch.tensor([[[0, 1, 1, 1]]]).expand(1, 4, 4) == 1
    >>> pointing_game(torch.tensor([[[0.9, 0.1], [0.2, 0.3]]]), right).mean  # half of the upper left place
    0.5
    >>> pointing_game(torch.tensor([[[0.1, 0.9], [0.2, 0.3]]]), right).mean
    1.0

    ```
    """
    _check_maps(maps, len(masks), finite=False)
    check_whole("tolerance", tolerance, 0)
    masks = _checked_masks(masks)
    if tolerance:
        near = np.ones((1, 2 * tolerance + 1, 2 * tolerance + 1), bool)
        masks = binary_dilation(masks, near)
    hits, best = np.empty(len(maps)), np.empty(len(maps))
    for number, (values, mask) in enumerate(zip(maps.detach().double().cpu().numpy(), masks)):
        if np.isnan(values).all():
            raise ValueError(f"Map {number} is NaN everywhere; the model saw nothing of the image.")
        covered = _covered_shares(mask, values.shape)
        hits[number] = covered[values == np.nanmax(values)].mean()
        best[number] = covered.max()
    return MapMeasure(hits, _interval(hits, resamples, seed), float(masks.mean()), float(best.mean()))


def choice_game(maps: torch.Tensor, masks: Any, image_of: Any, *, resamples: int = 1000, seed: int = 0) -> MapMeasure:
    """Measure how often a map is higher on what its text names than on the other things in the same image.

    Compared are the map's means over each thing's mask, so that a coarse grid can win too. A map that does not depend
    on the text prefers one thing whichever is asked for, and gets `chance`: 1 in 2 with two things.

    Args:
        maps (`torch.Tensor` of shape `(q, rows, columns)`): The map of each thing that is asked for.
        masks (array of shape `(q, height, width)`, bool): Where it is.
        image_of (array of shape `(q,)`, integer): The image that each is in.
        resamples, seed (*optional*): As in [`pointing_game`].

    Returns:
        [`MapMeasure`]: `values` are 1, 0, or in part for things on which the map is equally high.

    Raises:
        ValueError: if shapes do not fit, a map is not finite, or a mask is empty.
        TypeError: if masks are not boolean.
    """
    _check_maps(maps, len(masks), finite=True)
    masks, image_of = _checked_masks(masks), np.asarray(image_of)
    if image_of.shape != (len(masks),):
        raise ValueError(f"`image_of` has the shape {image_of.shape}; it must name an image for each of {len(masks)}.")
    chosen, guessed = np.empty(len(maps)), np.empty(len(maps))
    for number, values in enumerate(maps.detach().double().cpu().numpy()):
        rivals = np.flatnonzero(image_of == image_of[number])
        # The mean over a mask is that of the places, each as often as the mask covers it.
        weights = np.stack([_covered_shares(masks[rival], values.shape) for rival in rivals])
        means = (weights * values).sum(axis=(1, 2)) / weights.sum(axis=(1, 2))
        is_best = np.isclose(means, means.max(), rtol=1e-6, atol=1e-12)
        chosen[number] = is_best[rivals == number][0] / is_best.sum()
        guessed[number] = 1 / len(rivals)
    return MapMeasure(chosen, _interval(chosen, resamples, seed), float(guessed.mean()))


def _covered_shares(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each place of a grid that a mask (height, width) covers, (rows, columns)."""
    edges = [np.linspace(0, length, count + 1) for length, count in zip(mask.shape, grid)]
    for axis, places in enumerate(edges):
        # Integrals up to each pixel's end; within a pixel they grow evenly.
        length = mask.shape[axis]
        sums = np.cumsum(mask, axis=axis, dtype=np.float64)
        sums = np.concatenate([np.zeros_like(np.take(sums, [0], axis)), sums], axis=axis)
        low = np.minimum(places.astype(np.int64), length - 1)
        part = np.expand_dims(places - low, 1 - axis)
        ends = np.take(sums, low, axis) * (1 - part) + np.take(sums, low + 1, axis) * part
        mask = np.diff(ends, axis=axis) * grid[axis] / length
    return mask


def _checked_masks(masks: Any) -> np.ndarray:
    masks = masks.cpu().numpy() if isinstance(masks, torch.Tensor) else np.asarray(masks)
    if masks.dtype != bool:
        raise TypeError(f"`masks` are of {masks.dtype}; they must be bool, true on what the text names: masks > 0.")
    if masks.ndim != 3:
        raise ValueError(f"`masks` have the shape {masks.shape}; it must be (images, height, width).")
    empty = np.flatnonzero(~masks.any(axis=(1, 2)))
    if len(empty):
        raise ValueError(f"Mask {empty[0]} is empty: what the text names is not in the image. Leave such images out.")
    return masks


# ----------------------------------------------------------------------------------------------------- random weights


def random_weights_check(
    make_maps: Maps,
    model: nn.Module,
    pixel_values: torch.Tensor,
    text_embeds: torch.Tensor,
    *,
    limit: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> RandomWeightsCheck:
    """Check that maps change when what the model learnt is destroyed (Adebayo et al. 2018), from the top down.

    Part by part, from the projection to the first layer, the image tower's weights are put in random order within
    each tensor: their sizes stay, what was learnt goes. Maps that stay as they were show the picture, not what the
    model makes of it. `problem` says so if, with all weights random, even the low end of the interval of the rank
    correlation is above `limit`; and if two calls with the model as it is do not give the same maps.

    The check finds maps that cannot be explanations. It does not find that a map is one: see [`deletion_curve`] and
    [`pointing_game`].

    Args:
        make_maps (`Maps`): What makes the maps, such as [`image_maps`].
        model ([`ClipHFModel`]): The model; it is copied and left as it is.
        pixel_values (`torch.Tensor` of shape `(n, 3, height, width)`): Images.
        text_embeds (`torch.Tensor` of shape `(m, dim)`): L2-normalised embeddings of texts.
        limit (`float`, *optional*, defaults to 0.5): Rank correlation above which maps count as unchanged.
        resamples (`int`, *optional*, defaults to 1000): Bootstrap resamples, at least 1.
        seed (`int`, *optional*, defaults to 0): Of the weights' order and of the bootstrap.

    Returns:
        [`RandomWeightsCheck`]

    Raises:
        TypeError: if the model is no [`ClipHFModel`].
        ValueError: if `make_maps` returns another shape or NaN, or a number is out of range.
    """
    if not 0 < limit < 1:
        raise ValueError(f"`limit` is {limit}; it must be between 0 and 1.")
    check_whole("resamples", resamples, 1)
    destroyed = copy.deepcopy(check_explainable(model)).eval()
    expected = _made(make_maps, model, pixel_values, text_embeds)
    repeated = _rank_correlations(expected, _made(make_maps, model, pixel_values, text_embeds))
    stages, correlations = [], []
    for stage in _destroy_downwards(destroyed, seed):
        found = _rank_correlations(expected, _made(make_maps, destroyed, pixel_values, text_embeds))
        stages.append(stage)
        correlations.append(found)
    intervals = [_interval(found, resamples, seed) for found in correlations]
    problem = ""
    if repeated.mean() < _REPEATED:
        found = f"{repeated.mean():.2f}"
        problem = f"Two calls with the same model give maps whose rank correlation is {found}: they are random."
    elif intervals[-1][0] > limit:
        problem = (
            f"With random weights the maps stay what they were (rank correlation {correlations[-1].mean():.2f}): they "
            "do not show what this model learnt."
        )
    return RandomWeightsCheck(tuple(stages), np.stack(correlations), intervals, float(repeated.mean()), problem)


def _destroy_downwards(model: nn.Module, seed: int) -> Iterator[str]:
    """Put the weights of the image tower's parts in random order, from the top; yield the name of each part."""
    generator = torch.Generator().manual_seed(seed)
    for name, modules in _stages(model):
        for tensor in [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]:
            if tensor.is_floating_point():
                order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
                tensor.data = tensor.data.flatten()[order].view(tensor.shape)
        yield name


def _stages(model: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    tower = model.vision_model
    if is_vit(model):
        layers = [(f"layer {number}", [layer]) for number, layer in enumerate(tower.encoder.layers)]
        top = ("projection", [model.visual_projection, tower.post_layernorm])
        return [top, *reversed(layers), ("embeddings", [tower.pre_layrnorm, tower.embeddings])]
    stages = [(f"stage {number}", [stage]) for number, stage in enumerate(tower.encoder.stages)]
    top = [("projection", [model.visual_projection]), ("attention pool", [tower.attention_pool])]
    return [*top, *reversed(stages), ("stem", [tower.stem])]


def _made(make_maps: Maps, model: nn.Module, pixel_values: torch.Tensor, text_embeds: torch.Tensor) -> np.ndarray:
    """Maps (n, m, places), checked."""
    maps = make_maps(model, pixel_values, text_embeds)
    wanted = (len(pixel_values), len(text_embeds))
    if not isinstance(maps, torch.Tensor) or maps.ndim != 4 or tuple(maps.shape[:2]) != wanted or maps.isnan().any():
        shown = tuple(maps.shape) if isinstance(maps, torch.Tensor) else type_of(maps)
        raise ValueError(
            f"`make_maps` returned {shown}; it must be a tensor (images, texts, rows, columns) without NaN, here "
            f"{(*wanted, 'rows', 'columns')}."
        )
    return maps.detach().double().cpu().numpy().reshape(*wanted, -1)


def _rank_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's correlation of maps (n, m, places), mean over texts, (n,).

    Two maps that are both the same everywhere are equal (1); if only one is, they have nothing in common (0).
    """
    one, other = (rankdata(maps, axis=-1) for maps in (first, second))
    one, other = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (one, other))
    sizes = [(ranks**2).sum(axis=-1) for ranks in (one, other)]
    product = np.sqrt(sizes[0] * sizes[1])
    both_even = (sizes[0] == 0) & (sizes[1] == 0)
    correlations = np.divide((one * other).sum(axis=-1), product, out=both_even.astype(float), where=product > 0)
    return correlations.mean(axis=1)


# ------------------------------------------------------------------------------------------------- meaningless maps


def random_maps(model: nn.Module, pixel_values: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Noise, other in each call, (n, m, 16, 16): what measures must not mistake for a map."""
    return torch.rand(len(pixel_values), len(text_embeds), 16, 16)


def centre_maps(model: nn.Module, pixel_values: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """A Gaussian in the middle of every image, (n, m, 16, 16)."""
    places = (torch.arange(16) - 7.5) / 4
    bell = torch.exp(-(places**2) / 2)
    return (bell[:, None] * bell).expand(len(pixel_values), len(text_embeds), 16, 16).contiguous()


def edge_maps(model: nn.Module, pixel_values: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """How much neighbouring pixels differ, (n, m, height, width): the picture's edges, whatever the model."""
    grey = pixel_values.detach().float().mean(dim=1).cpu()
    down = nn.functional.pad(grey.diff(dim=1).abs(), (0, 0, 0, 1))
    across = nn.functional.pad(grey.diff(dim=2).abs(), (0, 1))
    return (down + across)[:, None].repeat(1, len(text_embeds), 1, 1)


MEANINGLESS_MAPS: dict[str, Maps] = {"random": random_maps, "centre": centre_maps, "edges": edge_maps}
"""Maps that know nothing of the model, by name: whatever a measure gives them, a real map must beat."""


# ------------------------------------------------------------------------------------------------------------- checks


def _check_maps(maps: Any, count: int, finite: bool) -> None:
    if not isinstance(maps, torch.Tensor):
        raise TypeError(f"`maps` is {type_of(maps)}; it must be a tensor (images, rows, columns).")
    if maps.ndim != 3 or len(maps) != count or maps.numel() == 0:
        raise ValueError(
            f"`maps` has the shape {tuple(maps.shape)}; for {count} images it must be ({count}, rows, columns), and "
            "not empty. Of `image_maps`, take the map of one text an image."
        )
    if maps.isinf().any() or (finite and maps.isnan().any()):
        raise ValueError("`maps` has NaN or infinity; give the maps of the grid, which cover the whole input.")


def _interval(values: np.ndarray, resamples: int, seed: int) -> tuple[float, float] | None:
    return bootstrap_mean_interval(values, resamples=resamples, seed=seed) if resamples else None
