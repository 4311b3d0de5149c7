# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Train the towers on the examples of an adaptation, by the one training loop, sized to the examples."""

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from pyarrow import parquet
from safetensors import safe_open
from torch import nn

from _clip_hf_cli.evaluate import IMAGE_LIMITS

from ..evaluation import ClassificationData
from ..model.zero_shot_clip_hf import prompts_for
from ..training import TrainingOptions, planning, train
from ..training.trained_models import ADAPTER_FOLDER
from ..utils.atomic import replaced_folder
from .adapt_data import Data, Draw
from .adapt_options import AdaptOptions


EXAMPLES_FOLDER = "examples"
TRAINING_FOLDER = "training"
# Learning rates are those of the papers for ViT-B, whose towers are so wide; a narrower tower has larger weights,
# which need larger steps, see `size_training`.
_WIDTH = 768
_RATES = {"lora": 2e-4, "flyp": 1e-5, "full": 1e-5}
_WEIGHT_DECAY = {"lora": 0.01, "flyp": 0.1, "full": 0.1}
LORA_RANK = 2
_EVALUATED_BY = "none in the training itself; the adaptation measures the model"
_ROWS_PER_GROUP = 256
_PASSES, _LEAST_STEPS = 20, 400
_BATCH_SIZE = 32
_LARGE_BATCH = 256  # from so many examples a hundred times over, see `size_training`


@dataclass(frozen=True)
class TrainingSize:
    """How long and how strongly the towers are trained.

    Args:
        steps, batch_size, warmup_steps (`int`): Updates, images of each, and updates in which the rate rises.
        learning_rate, weight_decay (`float`): Of AdamW.
        ema_decay (`float`, *optional*): Decay of the weights' average; None for none.
    """

    steps: int
    batch_size: int
    warmup_steps: int
    learning_rate: float
    weight_decay: float
    ema_decay: float | None


def size_training(method: str, examples: int, width: int, given: Mapping[str, Any] | None = None) -> TrainingSize:
    """Size a training to its examples.

    - *Steps*: 20 passes, but at least 400 and at most 20,000 updates. CLIP-LoRA's 500 for each shot are for a GPU;
      with 100 the validation rows of scikit-learn's digits gained little.
    - *Batch*: 32, as CLIP-LoRA; 256 where 20 passes are more than 10,000 updates of 32.
    - *Learning rate*: the papers' for a ViT-B (2e-4 for LoRA, Zanella and Ben Ayed 2024; 1e-5 for all weights, Goyal
      et al. 2023), times 768 / width, because a narrower tower has larger weights.
    - *Warm-up*: a tenth of the steps.
    - *Average*: from 500 steps on, over about the last tenth; with fewer it would hold too much of the beginning.

    Args:
        method (`str`): `"lora"`, `"flyp"` or `"full"`.
        examples (`int`): Number of examples.
        width (`int`): Width of the image tower.
        given (`Mapping`, *optional*): `steps`, `batch_size`, `learning_rate` that replace these; None counts as not
            given.

    Example:

    ```python
    >>> size_training("lora", 160, 768).steps
    400
    ```
    """
    given = {name: value for name, value in (given or {}).items() if value is not None}
    batch_size = given.get("batch_size")
    if batch_size is None:
        batch_size = _LARGE_BATCH if _PASSES * examples > 10_000 * _BATCH_SIZE else _BATCH_SIZE
    batch_size = min(batch_size, examples)
    passes = math.ceil(_PASSES * examples / batch_size)
    steps = given.get("steps") or min(max(_LEAST_STEPS, passes), 20_000)
    return TrainingSize(
        steps=steps,
        batch_size=batch_size,
        warmup_steps=min(steps // 10, steps - 1),
        learning_rate=given.get("learning_rate") or _RATES[method] * _WIDTH / width,
        weight_decay=_WEIGHT_DECAY[method],
        ema_decay=1 - 10 / steps if method != "lora" and steps >= 500 else None,
    )


def texts_of(data: Data) -> list[list[str]]:
    """The texts of each picture: its captions; of a labelled one its class's name, or the class's own prompts."""
    if not isinstance(data, ClassificationData):
        return data.captions
    if isinstance(data.templates, Mapping):
        prompts = prompts_for(data.class_names, data.templates)
        return [prompts[target] for target in data.targets]
    return [[data.class_names[target]] for target in data.targets]


def write_examples(data: Data, folder: Path) -> None:
    """Write the examples as a dataset that [`load_pairs`] reads: the image files themselves, and their texts."""
    texts = texts_of(data)
    one_each = all(len(own_texts) == 1 for own_texts in texts)
    text = datasets.Value("string")
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "caption": text if one_each else datasets.List(text)}
    )
    images = data.data.select_columns([data.image_column])  # undecoded
    with (
        replaced_folder(folder) as temporary,
        parquet.ParquetWriter(temporary / "train.parquet", features.arrow_schema) as writer,
    ):
        for start in range(0, len(images), _ROWS_PER_GROUP):
            sources = images[start : start + _ROWS_PER_GROUP][data.image_column]
            own_texts = texts[start : start + _ROWS_PER_GROUP]
            rows = {
                "image": [_with_bytes(source) for source in sources],
                "caption": [one[0] for one in own_texts] if one_each else own_texts,
            }
            writer.write_table(pa.Table.from_pydict(rows, features.arrow_schema))


def _with_bytes(source: Any) -> dict[str, Any]:
    """An undecoded image with its file's bytes; what cannot be read stays as it is."""
    if isinstance(source, str | os.PathLike):
        source = {"path": str(source), "bytes": None}
    if source["bytes"] is None and os.path.isfile(source["path"]):
        return {"path": os.path.basename(source["path"]), "bytes": Path(source["path"]).read_bytes()}
    return {"path": source["path"], "bytes": source["bytes"]}


class _Listener(logging.Handler):
    """Keeps what is said, besides that it is shown."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def train_towers(options: AdaptOptions, draw: Draw, width: int, folder: Path) -> tuple[Path, TrainingSize, list[str]]:
    """Train the towers on a draw of examples; returns the folder of the model, the training's size, and what its plan
    was warned of.

    The examples are in `folder/examples`, the training, with a recipe that repeats it, in `folder/training`.
    """
    write_examples(draw.train, folder / EXAMPLES_FOLDER)
    given = {name: getattr(options, name) for name in ("steps", "batch_size", "learning_rate")}
    size = size_training(options.method, len(draw.train), width, given)
    listener = _Listener()
    planning.logger.addHandler(listener)
    try:
        train(training_options(options, draw, size, folder), evaluated_by=_EVALUATED_BY)
    finally:
        planning.logger.removeHandler(listener)
    warnings = [message.replace("`max_steps`", "`steps`") for message in listener.messages]
    return folder / TRAINING_FOLDER / "last", size, warnings


def training_options(options: AdaptOptions, draw: Draw, size: TrainingSize, folder: Path) -> TrainingOptions:
    """The options of that training."""
    values: dict[str, Any] = {
        "model": str(options.model),
        "dataset": [str(folder / EXAMPLES_FOLDER)],
        "output_dir": str(folder / TRAINING_FOLDER),
        "image_column": "image",
        "caption_column": "caption",
        "seed": draw.seed,
        "max_steps": size.steps,
        "batch_size": size.batch_size,
        "learning_rate": size.learning_rate,
        "weight_decay": size.weight_decay,
        "warmup_steps": size.warmup_steps,
        "ema_decay": size.ema_decay,
        "max_skipped_share": options.encoding.max_skipped_share,
        "horizontal_flip": options.horizontal_flip,
        "cpu": options.device == "cpu",
    }
    values |= _image_settings(options.image_options)
    if isinstance(draw.train, ClassificationData):
        if not isinstance(draw.train.templates, Mapping):
            values["templates"] = list(draw.train.templates)
        if options.method != "flyp":
            values["loss"] = "classes"
    if options.method == "lora":
        values["lora_rank"] = LORA_RANK
    if options.crop_scale is not None:
        values["crop_scale"] = list(options.crop_scale)
    return TrainingOptions(**values)


def _image_settings(image_options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of [`DualEncoder.set_image_options`] as the options of a training; `draft` is none of them."""
    names = ("background_color", "apply_exif_orientation", "high_bit_depth")
    values = {name: image_options[name] for name in names if image_options.get(name) is not None}
    if not isinstance(values.get("background_color", ""), str):
        values["background_color"] = ",".join(map(str, values["background_color"]))
    limits = image_options.get("image_limits")
    if limits is not None:
        values |= {f"max_image_{name}": getattr(limits, f"max_{name}") for name in IMAGE_LIMITS}
    return values


def count_trained(folder: Path, model: nn.Module) -> int:
    """Number of parameters that a training in this folder trained: those of the adapter, or all of the model."""
    weights = folder / TRAINING_FOLDER / "last" / ADAPTER_FOLDER / "adapter_model.safetensors"
    if not weights.is_file():
        return sum(parameter.numel() for parameter in model.parameters())
    with safe_open(weights, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())
