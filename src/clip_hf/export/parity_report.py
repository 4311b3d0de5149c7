# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""How exported towers compare with PyTorch in float32: features, answers and speed."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ..utils.processor import read_processor
from .exported_model import ClipHFExportedModel
from .tower_inputs import Samples
from .towers import ImageTower, TextTower


MIN_COSINE = {"float32": 0.99999, "bfloat16": 0.999, "int8": 0.99}
"""The least cosine of an image's or text's features with those of PyTorch that an export may have, by precision."""
_BATCH = 16
_SPEED_BATCHES = (1, 16)
# At less than this share of another side's speed a tower is called slower; noise must not.
_CLEARLY_SLOWER = 0.95
# Timings are no measurement if their median is longer than the shortest by more than this share.
_MAX_SPREAD = 0.25
_ROUNDS = 5
_PAUSE = 0.1
_MAX_SECONDS = 20.0


@dataclass(frozen=True)
class FeatureParity:
    """Cosines of exported features with PyTorch's.

    Args:
        count (`int`): Number of images or texts.
        cosine_min (`float`): The least cosine.
        cosine_mean (`float`): Their mean.
    """

    count: int
    cosine_min: float
    cosine_mean: float


@dataclass(frozen=True)
class TowerSpeed:
    """Speed of a tower here, at a batch size: that of the fastest of several rounds.

    Args:
        tower (`str`): `"image"` or `"text"`.
        batch_size (`int`): Images or texts at once.
        torch_per_second (`float`, *optional*): Images or texts a second in PyTorch, float32; None if its timings
            scatter too much to say.
        exported_per_second (`float`, *optional*): The same in the runtime.
        float32_per_second (`float`, *optional*): The same of float32 towers in the runtime; None, too, where the
            export is in float32 itself.
    """

    tower: str
    batch_size: int
    torch_per_second: float | None
    exported_per_second: float | None
    float32_per_second: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as PyTorch the export is; None where a speed is missing."""
        if self.exported_per_second is None or self.torch_per_second is None:
            return None
        return self.exported_per_second / self.torch_per_second


@dataclass(frozen=True)
class ParityReport:
    """How an export compares with the model in PyTorch, float32.

    Args:
        runtime (`str`): The runtime.
        precision (`str`): The precision.
        images (`FeatureParity`): Of the images' features.
        texts (`FeatureParity`): Of the texts' features.
        top1_agreement (`float`): Share of the images whose nearest text is the same one.
        data (`str`): What was compared, in words.
        speed (`tuple[TowerSpeed]`): Speeds; empty if no images were given.
        processor (`str`): The processor on which they were measured.
        threads (`int`): Threads of each side.
    """

    runtime: str
    precision: str
    images: FeatureParity
    texts: FeatureParity
    top1_agreement: float
    data: str
    speed: tuple[TowerSpeed, ...]
    processor: str
    threads: int

    def check(self) -> None:
        """
        Raises:
            ValueError: if a cosine is less than [`MIN_COSINE`] allows.
        """
        lowest, allowed = min(self.images.cosine_min, self.texts.cosine_min), MIN_COSINE[self.precision]
        if not lowest >= allowed:  # NaN, too
            raise ValueError(
                f"The {self.precision} towers differ from PyTorch: the least cosine is {self.images.cosine_min:.6f} "
                f"of {self.images.count} images and {self.texts.cosine_min:.6f} of {self.texts.count} texts, where "
                f"{allowed} is asked for (mean {self.images.cosine_mean:.6f} and {self.texts.cosine_mean:.6f}, "
                f"{self.top1_agreement:.1%} the same answers). Nothing was written. {self._cures()} or accept it with "
                "`allow_loss=True` (`--allow-loss`)."
            )

    def _cures(self) -> str:
        if self.precision == "float32":
            return "Export for another runtime,"
        return "Use float32," if self.precision == "bfloat16" else "Use float32, calibrate a ResNet on more images,"

    def notes(self) -> list[str]:
        """What a user should know besides the figures, in sentences."""
        notes, scattered = [], False
        for each in self.speed:
            rates = {"PyTorch": each.torch_per_second}
            if self.precision != "float32":
                rates[f"this runtime ({self.runtime})"] = each.float32_per_second
            own, tower = each.exported_per_second, f"{each.tower} tower at batch {each.batch_size}"
            notes += [
                f"The {tower} is SLOWER than float32 in {side} on this processor ({own / rate:.2f} times its speed)."
                for side, rate in rates.items()
                if own is not None and rate is not None and own < _CLEARLY_SLOWER * rate
            ]
            scattered |= None in (own, *rates.values())
        if scattered:
            notes.append(
                f"Speeds whose timings scattered by more than {_MAX_SPREAD:.0%} are left out; export on an idle "
                "machine to have them."
            )
        if not self.speed:
            notes.append("No images were given: random ones were compared, and speed was not measured.")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        speed = [{**asdict(each), "ratio": each.ratio} for each in self.speed]
        return {**asdict(self), "speed": speed, "notes": self.notes()}

    def rows(self) -> list[tuple[str, str, str]]:
        """The report as rows of a table: what, images, texts."""
        both = (self.images, self.texts)
        rows = [
            ("compared", *(f"{each.count:,}" for each in both)),
            ("least cosine", *(f"{each.cosine_min:.6f}" for each in both)),
            ("mean cosine", *(f"{each.cosine_mean:.6f}" for each in both)),
            ("same nearest text", f"{self.top1_agreement:.2%}", ""),
        ]
        for batch_size in dict.fromkeys(each.batch_size for each in self.speed):
            speeds = {each.tower: each for each in self.speed if each.batch_size == batch_size}
            sides = [speeds.get(tower) for tower in ("image", "text")]
            rates = [each.exported_per_second if each else None for each in sides]
            ratios = [each.ratio if each else None for each in sides]
            for name, values, digits in (("a second", rates, 1), ("times PyTorch", ratios, 2)):
                cells = ("" if value is None else f"{value:.{digits}f}" for value in values)
                if any(value is not None for value in values):
                    rows.append((f"{name}, batch {batch_size}", *cells))
        return rows


@torch.no_grad()
def compare_with_torch(
    model: PreTrainedModel,
    exported: ClipHFExportedModel,
    samples: Samples,
    in_float32: ClipHFExportedModel | None = None,
) -> ParityReport:
    """Compare an export with the model that it was made from, on the CPU.

    `in_float32` is the export before it was rounded, for its speed.
    """
    image_tower, text_tower = ImageTower(model), TextTower(model)
    images, texts = samples.pixel_values, samples.input_ids
    sides: dict[str, list[Callable]] = {
        "image": [lambda pixels: image_tower(pixels)["image_embeds"], exported.encode_image],
        "text": [lambda ids: text_tower(ids)["text_embeds"], exported.encode_text],
    }
    inputs = {"image": images, "text": texts}
    features = {name: [_in_batches(side, inputs[name]) for side in sides[name]] for name in sides}
    parity = {name: measure_parity(*both) for name, both in features.items()}
    nearest = [(features["image"][side] @ features["text"][side].T).argmax(dim=-1) for side in range(2)]
    if in_float32 is not None:
        sides["image"].append(in_float32.encode_image)
        sides["text"].append(in_float32.encode_text)
    timed = [(name, size) for name in sides for size in _SPEED_BATCHES] if samples.given else []
    return ParityReport(
        runtime=exported.runtime,
        precision=exported.precision,
        images=parity["image"],
        texts=parity["text"],
        top1_agreement=(nearest[0] == nearest[1]).float().mean().item(),
        data=samples.in_words(),
        speed=tuple(TowerSpeed(name, size, *measure_speeds(sides[name], inputs[name], size)) for name, size in timed),
        processor=read_processor().name,
        threads=torch.get_num_threads(),
    )


def _in_batches(run: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    return torch.cat([run(batch) for batch in inputs.split(_BATCH)])


def measure_parity(reference: torch.Tensor, features: torch.Tensor) -> FeatureParity:
    """Compare features (n, dim) with those of the reference, row by row."""
    cosines = (reference.double() * features.double()).sum(dim=-1)
    cosines /= reference.double().norm(dim=-1) * features.double().norm(dim=-1)
    return FeatureParity(len(cosines), cosines.min().item(), cosines.mean().item())


def measure_speeds(sides: list[Callable], inputs: torch.Tensor, batch_size: int) -> list[float | None]:
    """Inputs a second of each side, by the fastest of several rounds in which the sides take turns.

    Other programs only lengthen a pass, so the fastest is the nearest to an idle machine's; None for a side whose
    other timings do not confirm it. Before each turn there is a pause and an untimed pass, because threads of the
    side before may still wait for work.
    """
    batch = inputs.repeat(-(-batch_size // len(inputs)), *[1] * (inputs.ndim - 1))[:batch_size]
    seconds: list[list[float]] = [[] for _ in sides]
    begun = time.perf_counter()
    for _ in range(_ROUNDS):
        for run, times in zip(sides, seconds):
            time.sleep(_PAUSE)
            run(batch)
            start = time.perf_counter()
            run(batch)
            times.append(time.perf_counter() - start)
        if time.perf_counter() - begun > _MAX_SECONDS:
            break
    return [None if _scatters(times) else batch_size / min(times) for times in seconds]


def _scatters(seconds: list[float]) -> bool:
    """Whether timings differ too much for the shortest to say anything. A single one, of a slow tower, is taken."""
    return statistics.median(seconds) > (1 + _MAX_SPREAD) * min(seconds)
