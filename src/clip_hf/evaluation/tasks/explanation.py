# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How faithful a model's relevance maps are, by method: do they point at what is asked for, and what the model uses?

Shapes: n images; the figures of an image are means over its labels, so that intervals are over images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from ...embedding.bulk_encoding import encode_text_list
from ...embedding.dual_encoder import DualEncoder
from ...embedding.encoding_options import EncodingOptions
from ...embedding.load_encoder import load_dual_encoder
from ...explain.attention_twin import attention_twin, check_explainable
from ...explain.image_maps import METHODS, image_maps
from ...model.modeling_clip_hf import ClipHFModel
from ...utils.figures import COLOURS, new_figure
from ...utils.wording import HUB_TASKS, counted
from ..numerics.bootstrap import bootstrap_mean_interval
from ..registry.evaluation_data import ImageDataOptions
from ..registry.located_data import LocatedData, load_located
from .evaluation_result import MeasuredResult
from .evaluation_task import EvaluationOptions, EvaluationTask, TaskSettings
from .faithfulness import (
    MapMeasure,
    RandomWeightsCheck,
    choice_game,
    deletion_curve,
    insertion_curve,
    pointing_game,
    probability_score,
    random_weights_check,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEASURES = ("pointing", "choice", "deletion", "insertion")


@dataclass(frozen=True)
class ExplanationOptions(EvaluationOptions):
    """How to evaluate relevance maps.

    Args:
        methods (`Sequence[str]`, *optional*): Methods of [`image_maps`]; by default all.
        template (`str`, *optional*, defaults to `"{}"`): What the labels are put into.
        steps (`int`, *optional*, defaults to 16): Steps of deletion and insertion.
        checked_images (`int`, *optional*, defaults to 32): The first images, at most so many, are for the check with
            random weights, which makes their maps once for each layer.
        resamples, confidence, seed, encoding: As in [`ZeroShotOptions`].

    Raises:
        ValueError: if a value is not as above.
    """

    methods: Sequence[str] | None = None
    template: str = "{}"
    steps: int = 16
    checked_images: int = 32

    def __post_init__(self):
        super().__post_init__()
        methods = tuple(METHODS) if self.methods is None else self.methods
        object.__setattr__(self, "methods", methods)
        if isinstance(methods, str) or not methods or any(method not in METHODS for method in methods):
            raise ValueError(
                f"`methods` is {self.methods!r}; it must be a list of one or more of {', '.join(METHODS)}."
            )
        if self.template.count("{}") != 1:
            raise ValueError(f"`template` is {self.template!r}; it must have {{}} once, where the label goes.")
        if self.steps < 1 or self.checked_images < 1:
            raise ValueError(
                f"`steps` is {self.steps} and `checked_images` {self.checked_images}; both must be 1 or more."
            )


@dataclass(kw_only=True, repr=False)
class ExplanationResult(MeasuredResult):
    """How faithful maps of each method are.

    Args:
        values (`dict[str, float]`): For each method, means over images. `METHOD_pointing`: how often a
            label's map is highest on what it names. `METHOD_choice`: how often it is higher there than on the other
            things in the image. `METHOD_deletion` and `METHOD_insertion`: area under the probability of
            the label among all labels of the data, while the most relevant pixels are removed from the picture (low is
            good) or put into a blurred one (high is good). `METHOD_rank_correlation`: of the maps with those of the
            model with random weights (near 1 they do not show what it learnt).
        value_intervals (`dict[str, tuple[float, float]]`): Bootstrap intervals over images.
        num_images, num_labels (`int`): Images, and different labels in all of them.
        methods (`list[str]`): The methods.
        template (`str`): What the labels were put into.
        grids (`dict[str, list[int]]`): Rows and columns of each method's maps.
        best_pointing (`dict[str, float]`): What pointing at the best place of each method's grid would give.
        cascades (`dict[str, dict[str, float]]`): Rank correlation of each method's maps with those of the model whose
            weights are random from the top down to each part.
        row_values (`dict[str, np.ndarray]`): Pointing, deletion and insertion of each image, float64 (n,), by the
            names of `values`.
    """

    task = "explanation"
    task_type = HUB_TASKS["zero_shot"]
    not_saved = ("row_values",)

    num_images: int
    num_labels: int
    methods: list[str]
    template: str
    grids: dict[str, list[int]]
    best_pointing: dict[str, float]
    cascades: dict[str, dict[str, float]]
    row_values: dict[str, np.ndarray]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The `row_values`."""
        return self.row_values

    def details(self) -> str:
        """What was measured, and how to read it."""
        grids = ", ".join(
            f"{method} {rows} x {columns} (pointing at most {100 * self.best_pointing[method]:.1f}%)"
            for method, (rows, columns) in self.grids.items()
        )
        return (
            f"{counted(self.num_images, 'image')}, {counted(self.num_labels, 'different label')}, prompt "
            f"`{self.template}`. Places: {grids}. Chance of pointing: a random pixel; of choice: one of the things in "
            "the image; of deletion and insertion: a random map. Good are a low deletion, a high "
            "insertion and a rank correlation far below 1."
        )

    def figure(self) -> "Figure":
        """Pointing of each method with its interval, against chance; and how maps change with random weights."""
        with new_figure(self.plot_title(), 4.6) as figure:
            left, right = figure.subplots(1, 2)
            places = np.arange(len(self.methods))
            names = [f"{method}_pointing" for method in self.methods]
            values = np.array([self.values[name] for name in names])
            ends = np.array([self.value_intervals.get(name, (self.values[name],) * 2) for name in names])
            margins = np.abs(ends.T - values)
            left.bar(places, 100 * values, yerr=100 * margins, capsize=4, color=COLOURS[: len(names)])
            left.axhline(100 * self.chance[names[0]], color="black", linestyle="--", label="chance")
            left.set_xticks(places, self.methods)
            left.set(ylabel="labels pointed at (%)", ylim=(0, 102), title="Pointing game")
            left.legend(loc="upper right")
            for method, colour in zip(self.methods, COLOURS):
                stages = self.cascades[method]
                right.plot(list(stages), list(stages.values()), "o-", color=colour, label=method)
            right.set(ylabel="rank correlation of maps", ylim=(-1.05, 1.05), xlabel="random from the top down to")
            right.tick_params(axis="x", rotation=60)
            right.set_title("Random weights")
            right.legend(loc="lower left")
        return figure


def evaluate_explanation(
    model: Any, data: Any, options: ExplanationOptions | None = None, *, processor: Any = None
) -> ExplanationResult:
    """Evaluate the relevance maps of a model by pointing game, deletion, insertion and random weights.

    Maps and masks are compared in the frame that the processor's crop shows the model. A label that lies outside of
    it is left out.

    Args:
        model ([`ClipHFModel`], [`DualEncoder`], `str` or path): The model; see [`load_dual_encoder`].
        data ([`LocatedData`], or what [`load_located`] takes): Images with names and places of what is in them.
        options ([`ExplanationOptions`], *optional*): Methods, prompt, bootstrap.
        processor (*optional*): The model's processor, where the model is a `nn.Module`.

    Returns:
        [`ExplanationResult`]

    Raises:
        ValueError: if the model is no [`ClipHFModel`] in PyTorch, an image or mask cannot be read, or no label is
            within the crops.

    Example:

    ```python
    >>> from clip_hf.data import load_composed_scenes
    >>> from clip_hf.evaluation import evaluate_explanation

    >>> result = evaluate_explanation("my_model", load_composed_scenes()["pairs"].select(range(4)))
    >>> print(result.values["chefer_pointing"], result.chance["chefer_pointing"])
    ```
    """
    options = options or ExplanationOptions()
    if not isinstance(data, LocatedData):
        data = load_located(data)
    encoder = load_dual_encoder(model, processor=processor).of_pictures
    twin = attention_twin(explained_model(encoder, "explanation", "Explanations look into"))
    embeds = _text_embeds(encoder, data, options)
    asked = _Asked.read(encoder, data)
    noise = torch.rand(len(asked.targets), 16, 16, generator=torch.Generator().manual_seed(options.seed))
    guessed = asked.measure(noise, twin, embeds, options)
    found = {method: _Measured.of(method, twin, asked, embeds, options) for method in options.methods}
    rows = {f"{method}_{name}": found[method].rows[name] for name in _MEASURES for method in found}
    values = {name: float(each.mean()) for name, each in rows.items()}
    values |= {f"{method}_rank_correlation": float(each.check.means[-1]) for method, each in found.items()}
    intervals = {}
    if options.resamples:
        intervals = {name: bootstrap_mean_interval(each, **options.bootstrap) for name, each in rows.items()}
        intervals |= {f"{method}_rank_correlation": each.check.intervals[-1] for method, each in found.items()}
    guesses = {name: float(asked.by_image(each.values).mean()) for name, each in guessed.items()}
    guesses |= {"pointing": asked.mask_share, "choice": asked.choice_chance}
    result = ExplanationResult(
        model=encoder.name,
        data=data.name,
        split=data.split,
        chance={f"{method}_{name}": guesses[name] for name in _MEASURES for method in found},
        notes=asked.notes()
        + [f"{method}: {each.check.problem}" for method, each in found.items() if each.check.problem],
        values=values,
        value_intervals=intervals,
        num_images=len(asked.pixel_values),
        num_labels=len(data.names),
        methods=list(found),
        template=options.template,
        grids={method: each.grid for method, each in found.items()},
        best_pointing={method: each.best_pointing for method, each in found.items()},
        cascades={method: each.cascade for method, each in found.items()},
        row_values=rows,
    )
    result.record_encoder(encoder)
    return result


def explained_model(encoder: DualEncoder, task: str, reason: str) -> ClipHFModel:
    """The encoder's model, if the task can look into its layers.

    Args:
        encoder ([`DualEncoder`]): The encoder.
        task (`str`): The task's name.
        reason (`str`): How the message goes on before "the layers of a ClipHFModel": `"Explanations look into"`.
    """
    try:
        return check_explainable(encoder.model)
    except TypeError as error:
        raise ValueError(
            f"The task {task} cannot be run on {encoder.name}. {reason} the layers of a ClipHFModel in PyTorch; "
            "`clip-hf convert` makes one of every CLIP, and --runtime must be left out."
        ) from error


def _text_embeds(encoder: DualEncoder, data: LocatedData, options: ExplanationOptions) -> torch.Tensor:
    """Embeddings of all labels of the data, (labels, dim)."""
    texts = [options.template.replace("{}", name) for name in data.names]
    embeds = encode_text_list(encoder, texts, options=options.encoding)
    return torch.from_numpy(embeds).to(encoder.device, encoder.dtype)


@dataclass(frozen=True)
class _Asked:
    """Images (n, 3, height, width) in the frame that the model sees, and what is asked of them, q labels.

    `image_of` (q,) is the image of each, `targets` (q,) its place among the names, `masks` (q, height, width) where it
    is.
    """

    pixel_values: torch.Tensor
    image_of: torch.Tensor
    targets: torch.Tensor
    masks: np.ndarray
    num_outside: int

    @classmethod
    def read(cls, encoder: DualEncoder, data: LocatedData) -> "_Asked":
        """Read images and masks; labels outside of the crop are left out, and images without any."""
        transform = encoder.image_processor.transform()
        place = {name: number for number, name in enumerate(data.names)}
        pixels, image_of, targets, masks, outside = [], [], [], [], 0
        for row, stored in enumerate(data.data["image"]):
            try:
                source = stored["path"] if stored["bytes"] is None else stored["bytes"]
                image = transform.open(source)
                prepared = encoder.prepare([source])["pixel_values"][0]
            except ValueError as error:
                raise ValueError(f"The image of row {row} of {data.name} cannot be read: {error}") from error
            size = transform.resized_size(image)
            shown = [_cropped(mask, size, transform.crop_window(size)) for mask in data.masks(row, image.size)]
            seen = [number for number, mask in enumerate(shown) if mask.any()]
            outside += len(shown) - len(seen)
            masks += [shown[number] for number in seen]
            targets += [place[data.labels[row][number]] for number in seen]
            image_of += [len(pixels)] * len(seen)
            if seen:
                pixels.append(prepared)
        if not pixels:
            raise ValueError(f"No label of {data.name} lies within what the model's crop shows of the images.")
        values = torch.stack(pixels).to(encoder.device, encoder.dtype)
        return cls(values, torch.tensor(image_of), torch.tensor(targets), np.stack(masks), outside)

    @property
    def mask_share(self) -> float:
        """Mean share of the pixels that belong to what is asked for."""
        return float(self.by_image(self.masks.mean(axis=(1, 2))).mean())

    @property
    def choice_chance(self) -> float:
        """What guessing among the things of each image gives."""
        return float((1 / np.bincount(self.image_of)).mean())

    def notes(self) -> list[str]:
        """How many labels were left out."""
        if not self.num_outside:
            return []
        return [f"{counted(self.num_outside, 'label')} outside of what the model's crop shows were left out."]

    def by_image(self, values: np.ndarray) -> np.ndarray:
        """Means over the labels of each image, (q,) -> (n,)."""
        return np.bincount(self.image_of, values) / np.bincount(self.image_of)

    def maps(self, method: str, model: ClipHFModel, embeds: torch.Tensor) -> torch.Tensor:
        """Map of each label asked, (q, rows, columns)."""
        found = []
        for number in range(len(self.pixel_values)):
            texts = embeds[self.targets[self.image_of == number].to(embeds.device)]
            found.append(image_maps(model, self.pixel_values[number : number + 1], texts, method)[0].cpu())
        return torch.cat(found)

    def measure(
        self, maps: torch.Tensor, model: ClipHFModel, embeds: torch.Tensor, options: ExplanationOptions
    ) -> dict[str, MapMeasure]:
        """Pointing, choice, deletion and insertion of a map for each label asked."""
        score = probability_score(model, embeds, self.targets)
        pictures = self.pixel_values[self.image_of.to(self.pixel_values.device)]
        maps = maps.to(pictures.device)
        settings = {"steps": options.steps, "batch_size": options.encoding.batch_size, "seed": options.seed}
        measures = (
            pointing_game(maps, self.masks, resamples=0),
            choice_game(maps, self.masks, self.image_of, resamples=0),
            deletion_curve(score, pictures, maps, **settings, resamples=0),
            insertion_curve(score, pictures, maps, **settings, resamples=0),
        )
        return dict(zip(_MEASURES, measures, strict=True))


def _cropped(mask: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int]) -> np.ndarray:
    """A mask after the resizing and cropping of its image, by the nearest pixel."""
    image = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
    return np.asarray(image.crop(window))


@dataclass(frozen=True)
class _Measured:
    """One method's figures by image, grid, and check with random weights."""

    rows: dict[str, np.ndarray]
    grid: list[int]
    best_pointing: float
    check: RandomWeightsCheck

    @classmethod
    def of(
        cls, method: str, model: ClipHFModel, asked: _Asked, embeds: torch.Tensor, options: ExplanationOptions
    ) -> "_Measured":
        """Make and measure the maps."""
        maps = asked.maps(method, model, embeds)
        checked = min(options.checked_images, len(asked.pixel_values))
        first = [int((asked.image_of == number).nonzero()[0, 0]) for number in range(checked)]

        def make(model: ClipHFModel, pixel_values: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
            # Of each image the map of its own first label, not of every label of the data.
            texts = [text_embeds[target : target + 1] for target in asked.targets[first].tolist()]
            made = [image_maps(model, image[None], text, method) for image, text in zip(pixel_values, texts)]
            return torch.cat(made).expand(-1, len(text_embeds), -1, -1)

        resamples, seed = max(1, options.resamples), options.seed
        check = random_weights_check(make, model, asked.pixel_values[:checked], embeds, resamples=resamples, seed=seed)
        measures = asked.measure(maps, model, embeds, options)
        rows = {name: asked.by_image(each.values) for name, each in measures.items()}
        return cls(rows, list(maps.shape[1:]), measures["pointing"].best, check)

    @property
    def cascade(self) -> dict[str, float]:
        """Mean rank correlation, by what became random last."""
        return dict(zip(self.check.stages, self.check.means.tolist()))


class ExplanationTask(EvaluationTask):
    """Relevance maps of a model, by method."""

    result = ExplanationResult

    def load(self, sources: Sequence[str], settings: TaskSettings) -> dict[str, LocatedData]:
        """Load images with the names and places of what is in them."""
        shared = {one.name: getattr(settings.data_options, one.name) for one in fields(ImageDataOptions)}
        return {"test": load_located(sources[0], ImageDataOptions(**shared))}

    def encode(
        self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings, encoding: EncodingOptions
    ) -> None:
        """Embed the labels; maps are made by the first process alone."""
        _text_embeds(encoder.of_pictures, parts["test"], ExplanationOptions(encoding=encoding))

    def run(self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings) -> ExplanationResult:
        """Make the maps and measure them."""
        options = ExplanationOptions(resamples=settings.resamples, seed=settings.seed, encoding=settings.encoding)
        return evaluate_explanation(encoder, parts["test"], options)
