# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The options of `adapt`, checked."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

from _clip_hf_cli.adapt import DEFAULT_RETAIN, METHODS, TOWER_METHODS

from ..embedding.encoding_options import EncodingOptions
from ..evaluation import ClassificationOptions
from ..model.checks_clip_hf import check_finite, check_whole, did_you_mean


@dataclass(frozen=True, kw_only=True)
class AdaptOptions:
    """What [`adapt`] does.

    Args:
        model (`str`): Folder or hub name of the model.
        data (`str`, `datasets.Dataset` or mapping): Labelled images, see [`load_splits`], or captioned pictures.
        method (`str`, *optional*, defaults to `"lora"`): `"lora"`, `"flyp"`, `"full"` (the towers are trained),
            `"probe"`, `"tip"`, `"tip_f"`, `"clap"` (heads on frozen features, for labelled images).
        output_dir (`str` or `os.PathLike`): Folder for the model and the report.
        overwrite (`bool`, *optional*, defaults to `False`): Replace the adaptation that is in `output_dir`.
        shots (`int`, *optional*): Examples of each class; by default all training rows.
        seeds (`int`, *optional*, defaults to 1): Number of draws and trainings; the seeds are `seed`, `seed` + 1, ...
        seed (`int`, *optional*, defaults to 0): The first one.
        retain (*optional*, defaults to `"openmoji"`): What is measured besides the task, before and after: labelled or
            captioned pictures; None for nothing.
        wise (`float` or `"auto"`, *optional*): For the methods that train towers: the share of the way from the old
            weights to the new ones (WiSE-FT, Wortsman et al. 2022); 1 is the model as it was trained. `"auto"`, the
            default where there are validation rows, chooses the smallest share that is within half a standard error
            of the best one on them; without such rows the default is 1.
        steps, batch_size (`int`, *optional*), learning_rate (`float`, *optional*): Of the training of the towers; by
            default they follow from the number of examples, see [`size_training`].
        crop_scale (`tuple[float, float]`, *optional*): Least and largest share of the picture that a random crop
            shows, in that training; by default the processor's crop.
        horizontal_flip (`float`, *optional*, defaults to 0): Probability of a flip, in that training.
        data_options ([`ClassificationOptions`], *optional*): Columns, class names and prompts of `data`.
        caption_column (`str`, *optional*): Column of the captions; `data` is then captioned pictures.
        image_options (`dict`, *optional*): How image files are read, see [`DualEncoder.set_image_options`].
        encoding ([`EncodingOptions`], *optional*): How images are embedded.
        device (`str`, *optional*): Where the model runs.
        resamples (`int`, *optional*, defaults to 1000): Resamples of the bootstrap.

    Raises:
        ValueError: if a value is out of its range, or an option does not belong to the method.
        TypeError: if a value is no number where it must be one.
    """

    model: str
    data: Any
    method: str = "lora"
    output_dir: str | os.PathLike
    overwrite: bool = False
    shots: int | None = None
    seeds: int = 1
    seed: int = 0
    retain: Any = DEFAULT_RETAIN
    wise: float | str | None = None
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    crop_scale: Sequence[float] | None = None
    horizontal_flip: float = 0.0
    data_options: ClassificationOptions = field(default_factory=ClassificationOptions)
    caption_column: str | None = None
    image_options: dict[str, Any] = field(default_factory=dict)
    encoding: EncodingOptions = field(default_factory=EncodingOptions)
    device: str | None = None
    resamples: int = 1000

    def __post_init__(self):
        if self.method not in METHODS:
            hint = did_you_mean(str(self.method), METHODS)
            raise ValueError(f"There is no method {self.method!r}.{hint} There are {', '.join(METHODS)}.")
        for name in ("shots", "seeds", "steps", "batch_size", "resamples"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_whole(name, getattr(self, name), 1))
        object.__setattr__(self, "seed", check_whole("seed", self.seed, 0))
        object.__setattr__(self, "horizontal_flip", check_finite("horizontal_flip", self.horizontal_flip))
        if self.learning_rate is not None:
            object.__setattr__(self, "learning_rate", check_finite("learning_rate", self.learning_rate))
            if self.learning_rate <= 0:
                raise ValueError(f"`learning_rate` is {self.learning_rate}; it must be greater than 0.")
        if self.crop_scale is not None:
            shares = tuple(check_finite("crop_scale", share) for share in self.crop_scale)
            object.__setattr__(self, "crop_scale", shares)
            if len(self.crop_scale) != 2 or not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
                shown = " ".join(map(str, self.crop_scale))
                raise ValueError(f"`crop_scale` is {shown}; it must be two shares from 0 to 1, the smaller one first.")
        if not 0 <= self.horizontal_flip <= 1:
            raise ValueError(f"`horizontal_flip` is {self.horizontal_flip}; it must be a probability from 0 to 1.")
        self._check_wise()
        self._check_method_fits()

    def _check_wise(self) -> None:
        if self.wise is None or self.wise == "auto":
            return
        is_number = isinstance(self.wise, Real) and not isinstance(self.wise, bool)
        if not is_number or not 0 <= self.wise <= 1:
            raise ValueError(f"`wise` is {self.wise!r}; it must be a share from 0 to 1, or 'auto'.")
        object.__setattr__(self, "wise", float(self.wise))

    def _check_method_fits(self) -> None:
        names = ("wise", "steps", "batch_size", "learning_rate", "crop_scale")
        given = [name for name in names if getattr(self, name) is not None]
        given += ["horizontal_flip"] if self.horizontal_flip else []
        if not self.trains_towers and given:
            raise ValueError(
                f"`{given[0]}` belongs to {', '.join(TOWER_METHODS)}, which train the towers; the method "
                f"{self.method} leaves them as they are: leave it out."
            )
        if self.trains_towers and self.image_options.get("draft"):
            raise ValueError(
                f"`draft` decodes JPEG files at a part of their size, which the training of {self.method} does not: "
                "the figures would be of other pixels than it learns from. Leave it out, or take a head (tip, clap)."
            )
        if self.caption_column is not None:
            self.check_captions_fit(f"the column {self.caption_column!r} of captions")
        if self.caption_column is not None and self.data_options.label_column is not None:
            raise ValueError("Give `label_column` or `caption_column`, not both: the data are one or the other.")

    def check_captions_fit(self, what: str) -> None:
        """Raise a `ValueError` if the method, or `shots`, needs classes and the data are captions."""
        if not self.trains_towers:
            raise ValueError(
                f"The method {self.method} fits a classifier, which needs labelled images, and the data are {what}. "
                f"Name the column of the classes as `label_column`, or take {', '.join(TOWER_METHODS)}."
            )
        if self.shots is not None:
            raise ValueError(f"`shots` are examples of each class, and the data are {what}: leave it out.")

    @property
    def trains_towers(self) -> bool:
        """Whether the method trains the towers, rather than a head on frozen features."""
        return self.method in TOWER_METHODS

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output_dir)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of the draws."""
        return list(range(self.seed, self.seed + self.seeds))
