# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a suite needs to know of an evaluation: how to load its data, how to run it, and what it returns."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...embedding.bulk_encoding import encode_readable_images
from ...embedding.dual_encoder import DualEncoder
from ...embedding.encoding_options import EncodingOptions
from ..registry.evaluation_data import ClassificationOptions
from .evaluation_result import EvaluationResult


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Bootstrap and encoding, which the options of several evaluations have in common; see [`ZeroShotOptions`]."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    encoding: EncodingOptions = field(default_factory=EncodingOptions)

    def __post_init__(self):
        if self.resamples < 0 or not 0 < self.confidence < 1:
            raise ValueError(
                f"`resamples` is {self.resamples} and `confidence` {self.confidence}; they must be 0 or more, and "
                "between 0 and 1."
            )

    @property
    def bootstrap(self) -> dict[str, Any]:
        """Arguments of [`bootstrap_interval`] and the like."""
        return {"resamples": self.resamples, "confidence": self.confidence, "seed": self.seed}


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What a suite asks of its tasks; each task takes what concerns it.

    Args:
        data_options ([`ClassificationOptions`], *optional*): Columns, class names, prompts and the like, for all data.
        caption_column (`str`, *optional*): Column of the captions, for retrieval.
        encoding ([`EncodingOptions`], *optional*): How images are encoded and where features are kept.
        resamples (`int`, *optional*, defaults to 1000): Bootstrap resamples for intervals.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap, of the draws of few-shot examples, and of what
            is split off for validation.
        shots (`Sequence[int]`, *optional*, defaults to `(1, 2, 4, 8, 16)`): Few-shot and adapters: examples of each
            class.
        few_shot_seeds (`int`, *optional*, defaults to 3): Few-shot and adapters: number of draws for each
            number of examples.
        fps (`float`, *optional*, defaults to 1.0): Moments: frames a second.
        segmentation_size (`int`, *optional*): Segmentation: shorter edge of the images in pixels; by default the
            tower's own.
        aggregate (`str`, *optional*, defaults to `"embeddings"`): Zero-shot: what is averaged over prompts, see
            [`ZeroShotOptions`].

    Raises:
        ValueError: if the seed or `resamples` is below 0, or there are no shots or draws.
    """

    data_options: ClassificationOptions = field(default_factory=ClassificationOptions)
    caption_column: str | None = None
    encoding: EncodingOptions = field(default_factory=EncodingOptions)
    resamples: int = 1000
    seed: int = 0
    shots: Sequence[int] = (1, 2, 4, 8, 16)
    few_shot_seeds: int = 3
    fps: float = 1.0
    segmentation_size: int | None = None
    aggregate: str = "embeddings"

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError(f"`seed` is {self.seed}; it must be 0 or more.")
        if self.resamples < 0:
            raise ValueError(f"`resamples` is {self.resamples}; it must be 0 or more.")
        if not self.shots or min(self.shots) < 1 or self.few_shot_seeds < 1:
            raise ValueError(
                f"`shots` are {list(self.shots)} and `few_shot_seeds` {self.few_shot_seeds}; give at least one of "
                "each, shots from 1."
            )


class EvaluationTask(ABC):
    """One evaluation of a suite. A new one is a file with a subclass, and a line in `TASKS` of `suite.py`."""

    result: ClassVar[type[EvaluationResult]]
    """Class of its results, whose `task` is the task's name."""
    projected: ClassVar[bool] = True
    """Whether it needs features in the space shared with texts, or those before the projection."""

    @property
    def name(self) -> str:
        """The task's name, as `clip-hf evaluate --tasks` takes it."""
        return self.result.task

    def group_sources(self, sources: Sequence[str]) -> list[tuple[str, ...]]:
        """Say which sources give a result together: each alone, unless a task says otherwise."""
        return [(source,) for source in sources]

    @abstractmethod
    def load(self, sources: Sequence[str], settings: TaskSettings) -> dict[str, Any]:
        """Load and check the data of one result, before anything is encoded.

        Args:
            sources (`Sequence[str]`): One of the groups of `group_sources`.
            settings ([`TaskSettings`]): Columns and the like.

        Returns:
            `dict[str, ClassificationData | RetrievalData]`: the data by split, such as `"train"` and `"test"`. Tasks
            that inherit the same `load` share what it returns.

        Raises:
            ValueError: if the data do not fit the task; the message says why.
        """

    def check(self, parts: dict[str, Any], settings: TaskSettings) -> None:  # noqa: B027 (most check nothing more)
        """Raise a `ValueError` if data that were loaded do not fit the settings."""

    def encode(
        self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings, encoding: EncodingOptions
    ) -> None:
        """Embed what the task needs, so that [`run`] finds it in the cache; processes share the work.

        Args:
            encoder ([`DualEncoder`]): The model.
            parts (`dict[str, Any]`): What [`load`] returned.
            settings ([`TaskSettings`]): As for [`run`].
            encoding ([`EncodingOptions`]): Cache and processes.
        """
        for part in parts.values():
            name = f"{part.name} ({part.split})"
            encode_readable_images(
                encoder, part.data, part.image_column, projected=self.projected, options=encoding, name=name
            )

    @abstractmethod
    def run(self, encoder: DualEncoder, parts: dict[str, Any], settings: TaskSettings) -> EvaluationResult:
        """Evaluate a model.

        Args:
            encoder ([`DualEncoder`]): The model.
            parts (`dict[str, ClassificationData | RetrievalData]`): What `load` returned.
            settings ([`TaskSettings`]): Bootstrap, encoding and the like.

        Returns:
            [`EvaluationResult`]: with what [`EvaluationResult.record_encoder`] takes over.
        """
