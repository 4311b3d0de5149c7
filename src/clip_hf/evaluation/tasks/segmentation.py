# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Zero-shot segmentation by a model's dense features, by method, as mean intersection over union.

Shapes: n images, c classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...embedding.dual_encoder import DualEncoder
from ...embedding.encoding_options import EncodingOptions
from ...embedding.load_encoder import load_dual_encoder
from ...explain.dense_features import DENSE_METHODS
from ...explain.image_explanation import SeenPicture
from ...explain.image_segmentation import best_classes, check_size, place_scores, read_sized
from ...model.modeling_clip_hf import ClipHFModel
from ...model.zero_shot_clip_hf import evaluated
from ...utils.figures import COLOURS, new_figure
from ...utils.wording import HUB_TASKS, counted
from ..numerics.bootstrap import bootstrap_mean_interval
from ..numerics.region_overlap import mean_iou, mean_iou_interval, overlap_counts
from ..registry.dataset_registry import templates_for
from ..registry.located_data import LocatedData, load_located
from .evaluation_result import MeasuredResult
from .evaluation_task import EvaluationOptions, TaskSettings
from .explanation import ExplanationTask, explained_model
from .zero_shot import class_embeddings


if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHOLE = "whole"
"""The method that gives all of an image the class of the image: what dense features must be better than."""
SEGMENTATION_METHODS = (*DENSE_METHODS, WHOLE)


@dataclass(frozen=True)
class SegmentationOptions(EvaluationOptions):
    """How to evaluate segmentation.

    Args:
        methods (`Sequence[str]`, *optional*): Some of `DENSE_METHODS` and `"whole"`, the baseline that gives all of an
            image the class that zero-shot classification gives the image; by default all.
        templates (*optional*): Prompts: whatever [`load_templates`] takes. By default those that have the dataset's
            name, or `"simple"`.
        size (`int`, *optional*): Shorter edge of the images in pixels; by default the tower's own. Choose it on other
            images than those that you report.
        window (`int`, *optional*): As in [`dense_features`], of the method `"windows"`.
        resamples, confidence, seed, encoding: As in [`ZeroShotOptions`].

    Raises:
        ValueError: if a value is not as above.
    """

    methods: Sequence[str] = SEGMENTATION_METHODS
    templates: Any = None
    size: int | None = None
    window: int | None = None

    def __post_init__(self):
        super().__post_init__()
        unknown = [method for method in self.methods if method not in SEGMENTATION_METHODS]
        if isinstance(self.methods, str) or unknown or not self.methods:
            raise ValueError(
                f"`methods` is {self.methods!r}; it must be a list of one or more of "
                f"{', '.join(SEGMENTATION_METHODS)}."
            )
        if self.window is not None and "windows" not in self.methods:
            raise ValueError(f"`window` is {self.window}, but windows is not among `methods`.")


@dataclass(kw_only=True, repr=False)
class SegmentationResult(MeasuredResult):
    """How well each method tells what the pixels of images show.

    Args:
        values (`dict[str, float]`): For each method, over the pixels that have a label. `METHOD_miou`: mean over the
            classes of the intersections of all images by their unions. `METHOD_pixel_accuracy`: mean over the images
            of the share of pixels that got their class.
        value_intervals (`dict[str, tuple[float, float]]`): Bootstrap intervals over images.
        num_images, num_classes (`int`): Images, and labels that a pixel may get.
        methods (`list[str]`): The methods.
        class_names (`list[str]`): The labels.
        templates (`list[str]` or `dict[str, list[str]]`): The prompts.
        size (`int`): Shorter edge of the images that dense features were made of.
        window (`int`, *optional*): Edge of the squares of `"windows"`; by default half of `size`.
        grids (`dict[str, list[int]]`): Rows and columns of the first image's places, by method.
        class_ious (`dict[str, list[float | None]]`): By method, intersection by union of each class; None where it is
            nowhere.
        row_values (`dict[str, np.ndarray]`): Pixel accuracy of each image, float64 (n,), by the names of `values`;
            `METHOD_intersections` and `METHOD_unions`, pixels, float64 (n, c).
    """

    task = "segmentation"
    task_type = HUB_TASKS["segmentation"]
    not_saved = ("row_values",)

    num_images: int
    num_classes: int
    methods: list[str]
    class_names: list[str]
    templates: list[str] | dict[str, list[str]]
    size: int
    window: int | None
    grids: dict[str, list[int]]
    class_ious: dict[str, list[float | None]]
    row_values: dict[str, np.ndarray]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The `row_values`."""
        return self.row_values

    def details(self) -> str:
        """What was measured, and what a figure is not."""
        grids = ", ".join(f"{method} {rows} x {columns}" for method, (rows, columns) in self.grids.items())
        classes = counted(self.num_classes, "class", "classes")
        return (
            f"{counted(self.num_images, 'image')} at {self.size} pixels, {classes} to choose from for every pixel. "
            f"Places of the first image: {grids}. Pixels without a label do not count, so nothing is said about "
            "telling things from what is around them. Chance: a random class for each pixel; `whole`: the class of "
            "the image for all of its pixels."
        )

    def figure(self) -> "Figure":
        """Mean intersection over union of each method with its interval, against chance."""
        with new_figure(self.plot_title(), 4.0) as figure:
            axes = figure.subplots()
            names = [f"{method}_miou" for method in self.methods]
            values = np.array([self.values[name] for name in names])
            ends = np.array([self.value_intervals.get(name, (self.values[name],) * 2) for name in names])
            places = np.arange(len(names))
            margins = 100 * np.abs(ends.T - values)
            axes.bar(places, 100 * values, yerr=margins, capsize=4, color=COLOURS[: len(names)])
            axes.axhline(100 * self.chance[names[0]], color="black", linestyle="--", label="chance")
            axes.set_xticks(places, self.methods)
            axes.set(ylabel="mean intersection over union (%)", ylim=(0, None), xlabel="method")
            axes.legend()
        return figure


def evaluate_segmentation(
    model: Any, data: Any, options: SegmentationOptions | None = None, *, processor: Any = None
) -> SegmentationResult:
    """Evaluate zero-shot segmentation: every pixel that has a label gets one of all labels of the data.

    The whole image is shown to the model, at its aspect to the nearest multiple of a place. Cosines are interpolated
    to the image's own pixels. What has no label is left out, as for VOC20 in Zhou et al. 2022 and later work.

    Args:
        model ([`ClipHFModel`], [`DualEncoder`], `str` or path): The model; see [`load_dual_encoder`].
        data ([`LocatedData`], or what [`load_located`] takes): Images with masks of what is in them.
        options ([`SegmentationOptions`], *optional*): Methods, prompts, size, bootstrap.
        processor (*optional*): The model's processor, where the model is a `nn.Module`.

    Returns:
        [`SegmentationResult`]

    Raises:
        ValueError: if the model is no [`ClipHFModel`] in PyTorch, the data have boxes instead of masks, the size does
            not fit the tower, or an image or mask cannot be read.

    Example:

    ```python
    >>> from clip_hf.data import load_composed_scenes
    >>> from clip_hf.evaluation import evaluate_segmentation

    >>> result = evaluate_segmentation("my_model", load_composed_scenes()["test"].select(range(8)))
    >>> print(result.values["maskclip_miou"], result.values["whole_miou"])
    ```
    """
    options = options or SegmentationOptions()
    if not isinstance(data, LocatedData):
        data = load_located(data)
    _check_masks(data)
    encoder = load_dual_encoder(model, processor=processor).of_pictures
    twin = evaluated(explained_model(encoder, "segmentation", "Dense features come from"))
    check_size(twin, options.size)
    templates = templates_for(data.name, options.templates)
    embeds = torch.from_numpy(class_embeddings(encoder, data.names, templates, options.encoding)).to(encoder.device)
    measured = _Measured(options.methods, len(data.names))
    for row, picture, truth in _read_scenes(twin, encoder, data, options.size):
        measured.truths.append(np.bincount(truth[truth >= 0], minlength=len(data.names)))
        for method in options.methods:
            if method == WHOLE:
                grid_scores = _image_scores(twin, encoder, data.data["image"][row], embeds)
            else:
                window = options.window if method == "windows" else None
                grid_scores = place_scores(twin, picture, embeds, method, window)
            predicted = best_classes(picture.spread(scores[None])[0] for scores in grid_scores)
            measured.add(method, overlap_counts(predicted, truth, len(data.names)), grid_scores.shape[1:])
    measured.check(data)
    rows = {f"{method}_pixel_accuracy": measured.accuracies(method) for method in options.methods}
    areas = {method: measured.areas(method) for method in options.methods}
    values = {f"{method}_miou": mean_iou(*areas[method]) for method in areas}
    values |= {name: float(each.mean()) for name, each in rows.items()}
    intervals = {}
    if options.resamples:
        intervals = {f"{method}_miou": mean_iou_interval(*areas[method], **options.bootstrap) for method in areas}
        intervals |= {name: bootstrap_mean_interval(each, **options.bootstrap) for name, each in rows.items()}
    for method, (common, either) in areas.items():
        rows |= {f"{method}_intersections": common, f"{method}_unions": either}
    result = SegmentationResult(
        model=encoder.name,
        data=data.name,
        split=data.split,
        chance=measured.chance(),
        notes=measured.notes(len(data)),
        values=values,
        value_intervals=intervals,
        num_images=len(measured.truths),
        num_classes=len(data.names),
        methods=list(options.methods),
        class_names=data.names,
        templates=dict(templates) if isinstance(templates, dict) else list(templates),
        size=options.size or twin.config.vision_config.image_size,
        window=options.window,
        grids=measured.grids,
        class_ious={method: measured.class_ious(method) for method in options.methods},
        row_values=rows,
    )
    result.record_encoder(encoder)
    return result


class _Measured:
    """Pixels of each image by class: true ones, and those of each method in intersection and union."""

    def __init__(self, methods: Sequence[str], num_classes: int):
        self.num_classes = num_classes
        self.truths: list[np.ndarray] = []
        self.counts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {method: [] for method in methods}
        self.grids: dict[str, list[int]] = {}

    def add(self, method: str, counts: tuple[np.ndarray, np.ndarray], grid: Sequence[int]) -> None:
        """Take over what a method makes of one more image."""
        self.counts[method].append(counts)
        self.grids.setdefault(method, list(grid))

    def check(self, data: LocatedData) -> None:
        """Raise a `ValueError` if no image has a pixel with a label."""
        if not self.truths:
            raise ValueError(f"No pixel of {data.name} ({data.split}) has a label: all masks are 0.")

    def notes(self, rows: int) -> list[str]:
        """How many images were left out."""
        left_out = rows - len(self.truths)
        return [f"{counted(left_out, 'image')} without a labelled pixel were left out."] if left_out else []

    def areas(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Intersections and unions, (n, c) each."""
        common, either = zip(*self.counts[method], strict=True)
        return np.stack(common), np.stack(either)

    def accuracies(self, method: str) -> np.ndarray:
        """Share of each image's labelled pixels that got their class, (n,)."""
        return self.areas(method)[0].sum(axis=1) / np.stack(self.truths).sum(axis=1)

    def class_ious(self, method: str) -> list[float | None]:
        """Intersection by union of each class."""
        common, either = (each.sum(axis=0) for each in self.areas(method))
        return [float(one / all_) if all_ else None for one, all_ in zip(common, either, strict=True)]

    def chance(self) -> dict[str, float]:
        """What a random class for each pixel gives: the expected intersections by the expected unions."""
        true = np.sum(self.truths, axis=0)
        guessed = true / self.num_classes
        miou = float((guessed / (true + true.sum() / self.num_classes - guessed)).mean())
        given = {"miou": miou, "pixel_accuracy": 1 / self.num_classes}
        return {f"{method}_{name}": value for name, value in given.items() for method in self.counts}


def _check_masks(data: LocatedData) -> None:
    if "mask" not in data.data.column_names:
        raise ValueError(
            f"{data.name} has boxes; segmentation needs a column 'mask' with a value for each pixel: 0 for nothing, "
            "k + 1 for the k-th label."
        )


def _read_scenes(
    model: ClipHFModel, encoder: DualEncoder, data: LocatedData, size: int | None
) -> Iterator[tuple[int, SeenPicture, np.ndarray]]:
    """Row, image and the class of each of its pixels, -1 for none; images without any class are left out."""
    place = {name: number for number, name in enumerate(data.names)}
    for row, stored in enumerate(data.data["image"]):
        try:
            source = stored["path"] if stored["bytes"] is None else stored["bytes"]
            picture = read_sized(model, encoder.image_processor, source, size=size, whole=True)
        except ValueError as error:
            raise ValueError(f"The image of row {row} of {data.name} cannot be read: {error}") from error
        masks = data.masks(row, picture.image.size)
        truth = np.full(masks.shape[1:], -1)
        for name, mask in zip(data.labels[row], masks, strict=True):
            truth[mask] = place[name]
        if masks.any():
            yield row, picture, truth


@torch.no_grad()
def _image_scores(
    model: ClipHFModel, encoder: DualEncoder, stored: dict[str, Any], embeds: torch.Tensor
) -> np.ndarray:
    """Cosines of an image as a whole, as zero-shot classification has them: a grid of one place, (c, 1, 1)."""
    source = stored["path"] if stored["bytes"] is None else stored["bytes"]
    pixel_values = encoder.prepare([source])["pixel_values"].to(model.device, model.dtype)
    scores = model.encode_image(pixel_values).float() @ embeds.float().T
    return scores[0, :, None, None].cpu().numpy()


class SegmentationTask(ExplanationTask):
    """Segmentation by labels, by method; the data are those of the task explanation, with masks."""

    result = SegmentationResult

    def check(self, parts: dict[str, Any], settings: TaskSettings) -> None:
        """Raise a `ValueError` if the data have boxes instead of masks, or there are no such prompts."""
        _check_masks(parts["test"])
        templates_for(parts["test"].name, settings.data_options.templates)

    def encode(
        self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings, encoding: EncodingOptions
    ) -> None:
        """Embed the prompts; dense features are made by the first process alone."""
        data = parts["test"]
        templates = templates_for(data.name, settings.data_options.templates)
        class_embeddings(encoder.of_pictures, data.names, templates, encoding)

    def run(self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings) -> SegmentationResult:
        """Segment and measure."""
        options = SegmentationOptions(
            templates=settings.data_options.templates,
            size=settings.segmentation_size,
            resamples=settings.resamples,
            seed=settings.seed,
            encoding=settings.encoding,
        )
        return evaluate_segmentation(encoder, parts["test"], options)
