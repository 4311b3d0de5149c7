# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""`convert`: from a checkpoint of any format to one of any format, checked before it is put in its place."""

import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import transformers as hf
from tqdm.auto import tqdm

from ..model.configuration_clip_hf import ClipHFConfig
from ..model_card.card import ModelCardDetails, write_model_card
from .checkpoint import Checkpoint, SourceOptions
from .format_table import FORMAT_TABLE
from .openai_format import published_name
from .openai_names import BATCH_NORM_STATISTICS
from .reading import read_checkpoint
from .stored_tensor import StoredTensor
from .transformers_format import TOWERS
from .weight_files import open_weights
from .writing import (
    check_destination,
    check_format_holds,
    notes_on_format,
    size_in_bytes,
    with_dtype,
    write_checkpoint,
)


# Largest relative difference of features that rounding explains. In float32 it is some 1e-6; weights that are
# rounded to half precision move features by up to some percent.
TOLERANCE = 1e-4
TOLERANCE_OF_ROUNDED_WEIGHTS = 0.1
_NUM_IMAGES, _NUM_TEXTS = 2, 3


@dataclass
class ConversionReport:
    """What a conversion did, and how exact it is. `str(report)` is what the command prints.

    Args:
        source, destination (`str`): the two paths.
        source_format, format (`str`): their formats.
        num_weights (`int`): weights of the source, each of which was used once.
        num_parameters (`int`): numbers in the weights that are trained.
        dtypes (`dict[str, int]`): how many weights were written in which dtype.
        differences (`dict[str, float]`): for `"image"` and `"text"`, the largest difference of features of fixed
            inputs between the arithmetic of the source and of the destination, relative to the largest feature, in
            float32.
        tolerance (`float`): what the differences are held against.
        notes (`list[str]`): what was assumed and what was left out.
        seconds (`float`): how long it took.
    """

    source: str
    source_format: str
    destination: str
    format: str
    num_weights: int
    num_parameters: int
    dtypes: dict[str, int]
    differences: dict[str, float]
    tolerance: float
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        dtypes = ", ".join(f"{count} in {dtype}" for dtype, count in self.dtypes.items())
        differences = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        lines = [
            f"{self.source} ({self.source_format}) -> {self.destination} ({self.format})",
            f"weights:  {self.num_weights} of {self.num_weights} used once, none missing, none left over, all shapes "
            f"fit ({self.num_parameters / 1e6:.2f}M parameters)",
            f"dtypes:   {dtypes}",
            f"features: largest relative difference {differences} (float32, tolerance {self.tolerance:.0e})",
            *(f"note:     {note}" for note in self.notes),
            f"time:     {self.seconds:.1f} s",
        ]
        return "\n".join(lines)


def convert(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    to: str = "clip_hf",
    *,
    tower: str | None = None,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    options: SourceOptions | None = None,
    card: ModelCardDetails | None = None,
) -> ConversionReport:
    """Convert a checkpoint to another format, offline, and show that it computes the same.

    The weights are never in memory twice. The destination appears when everything has been written and checked.

    Args:
        source (`str` or `os.PathLike`): a file or folder of any format.
        destination (`str` or `os.PathLike`): a file (`to="openai"`) or a folder.
        to (`str`, *optional*, defaults to `"clip_hf"`): one of `FORMATS`.
        tower (`str`, *optional*): with `to="transformers"`, one of `TOWERS`.
        dtype (`torch.dtype`, *optional*): what floating weights are converted to; by default each keeps its own.
        overwrite (`bool`, *optional*, defaults to `False`): whether what is at `destination` is replaced.
        options (`SourceOptions`, *optional*): what the source leaves open.
        card (`ModelCardDetails`, *optional*): what the model card (`to="clip_hf"`) says beyond the configuration.

    Returns:
        [`ConversionReport`]

    Raises:
        FileExistsError: if something is at `destination` and `overwrite` is off.
        FileNotFoundError: if there is no `source`.
        OSError: if there is not enough room, or writing fails; nothing is left behind.
        ValueError: if the source cannot be read exactly, or the format cannot hold the model; the message says what
            to do.
        RuntimeError: if the result does not compute the same; nothing is left behind.
    """
    start = time.perf_counter()
    destination = Path(destination)
    check_destination(destination, to, tower, overwrite)
    checkpoint, source = read_checkpoint(source, options), Path(source)
    _check_processor(checkpoint, to, tower)
    check_format_holds(checkpoint, to, tower)
    result = with_dtype(checkpoint, dtype, to)
    report = _report_before(checkpoint, result, destination, to, tower)
    published = published_name(source) if checkpoint.format == "openai" else None
    if published is not None:
        report.notes.insert(0, f"The file is OpenAI's published {published}, by its checksum.")
        card = replace(card or ModelCardDetails(), openai_weights=True)
    inputs = fixed_inputs(checkpoint.config)
    with tqdm(total=size_in_bytes(result.tensors), unit="B", unit_scale=True, leave=False) as progress:
        progress.set_description("Features of the source")
        expected = _source_features(checkpoint, source, inputs)
        progress.set_description(f"Writing {destination.name}")
        with write_checkpoint(_counted(result, progress), destination, to, tower) as temporary:
            progress.set_description("Features of the result")
            actual, written_tensors = _written_features(temporary, result, to, tower, inputs)
            dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in written_tensors.values())
            report.dtypes = dict(dtypes.most_common())
            report.differences = {name: _relative_difference(actual[name], expected[name]) for name in actual}
            _check_differences(report)
            if to == "clip_hf":
                _write_card(temporary, destination, checkpoint, report, card)
    report.seconds = time.perf_counter() - start
    return report


def _report_before(
    checkpoint: Checkpoint, result: Checkpoint, destination: Path, to: str, tower: str | None
) -> ConversionReport:
    """What can be reported before anything is written."""
    dtypes = {(tensor.dtype, result.tensors[name].dtype) for name, tensor in checkpoint.tensors.items()}
    rounded = any(torch.promote_types(old, new) != new for old, new in dtypes)
    return ConversionReport(
        source=checkpoint.source,
        source_format=checkpoint.format,
        destination=str(destination),
        format=to if tower is None else f"{to}, {TOWERS[tower]}",
        num_weights=len(checkpoint.source_tensors),
        num_parameters=_num_parameters(checkpoint.tensors),
        dtypes={},
        differences={},
        tolerance=TOLERANCE_OF_ROUNDED_WEIGHTS if rounded else TOLERANCE,
        notes=[*checkpoint.notes, *notes_on_format(checkpoint, to)],
    )


def _check_processor(checkpoint: Checkpoint, to: str, tower: str | None) -> None:
    """Raise a ValueError if a whole repo would lack part of its processor."""
    if FORMAT_TABLE[to].config_name is None or tower is not None:
        return
    if checkpoint.tokenizer is None:
        raise ValueError(
            f"{checkpoint.source} has no vocabulary, and its size of {checkpoint.config.text_config.vocab_size} is "
            "not that of OpenAI's: give the merges that the model was trained with, or a folder with its tokenizer, "
            "as `merges` (--merges)."
        )
    if checkpoint.image_processor is None:
        raise ValueError(
            f"{checkpoint.source} does not say how images are prepared: there is no preprocessor_config.json. Give "
            "`preprocess` (--preprocess): 'openai' for OpenAI's transform, or open_clip's preprocess_cfg."
        )


def fixed_inputs(config: ClipHFConfig) -> dict[str, torch.Tensor]:
    """The inputs that features are compared on: random, and the same for all models of a size.

    Returns:
        `pixel_values` (2, channels, height, width), float32, and `input_ids` (3, context length): texts of three
        lengths, padded with id 0.
    """
    generator = torch.Generator().manual_seed(0)
    text, vision = config.text_config, config.vision_config
    shape = (_NUM_IMAGES, vision.num_channels, vision.image_size, vision.image_size)
    # A colour cast of its own for each image: noise alone looks the same to a network as other noise.
    pixel_values = torch.randn(shape, generator=generator) + 2 * torch.randn((*shape[:2], 1, 1), generator=generator)
    length = text.max_position_embeddings
    input_ids = torch.zeros(_NUM_TEXTS, length, dtype=torch.int64)
    for row in range(_NUM_TEXTS):
        end = max(1, (length - 1) * (row + 1) // _NUM_TEXTS)
        input_ids[row, :end] = torch.randint(1, min(text.bos_token_id, text.eos_token_id), (end,), generator=generator)
        input_ids[row, 0], input_ids[row, end] = text.bos_token_id, text.eos_token_id
    return {"pixel_values": pixel_values, "input_ids": input_ids}


def _source_features(
    checkpoint: Checkpoint, path: Path, inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Features of the arithmetic of a checkpoint's format, in float32."""
    source_format = FORMAT_TABLE[checkpoint.format]
    config = source_format.source_config(checkpoint, path)
    return source_format.features(checkpoint.source_tensors, config, inputs, torch.float32)


def _written_features(
    path: Path, written: Checkpoint, to: str, tower: str | None, inputs: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, StoredTensor]]:
    """Read what was written and compute its features; from a tower only its own."""
    if tower is not None:
        return _tower_features(path, written, tower, inputs), open_weights(path / "model.safetensors").tensors
    # As `to`, whatever the name of the temporary file would suggest.
    checkpoint = FORMAT_TABLE[to].read_path(path, SourceOptions())
    return _source_features(checkpoint, path, inputs), checkpoint.source_tensors


def _tower_features(
    path: Path, written: Checkpoint, tower: str, inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    model = getattr(hf, TOWERS[tower]).from_pretrained(path, dtype=torch.float32).eval()
    is_text = tower.startswith("text")
    with torch.no_grad():
        output = model(inputs["input_ids"] if is_text else inputs["pixel_values"])
        if tower.endswith("_with_projection"):
            embeds = output.text_embeds if is_text else output.image_embeds
        else:
            projection = written.tensors["text_projection.weight" if is_text else "visual_projection.weight"]
            embeds = output.pooler_output @ projection.read().float().T
    return {"text" if is_text else "image": embeds}


def _counted(checkpoint: Checkpoint, progress: tqdm) -> Checkpoint:
    """The same checkpoint, whose weights tell a progress bar when they are read."""

    def counted(tensor: StoredTensor) -> StoredTensor:
        def read() -> torch.Tensor:
            progress.update(math.prod(tensor.shape) * tensor.dtype.itemsize)
            return tensor.read()

        return replace(tensor, read=read)

    return replace(checkpoint, tensors={name: counted(tensor) for name, tensor in checkpoint.tensors.items()})


def _relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def _check_differences(report: ConversionReport) -> None:
    # Written so that a NaN fails.
    if not all(value <= report.tolerance for value in report.differences.values()):
        raise RuntimeError(
            f"The features of {report.destination} would differ from those of {report.source} by "
            f"{report.differences} (relative; tolerance {report.tolerance:.0e}), so it was not written. Should the "
            "weights of the source be finite, please report this."
        )


def _num_parameters(tensors: Mapping[str, StoredTensor]) -> int:
    trained = (tensor for name, tensor in tensors.items() if not name.endswith(BATCH_NORM_STATISTICS))
    return sum(math.prod(tensor.shape) for tensor in trained)


def _write_card(
    temporary: Path, destination: Path, checkpoint: Checkpoint, report: ConversionReport, card: ModelCardDetails | None
) -> None:
    card = card or ModelCardDetails()
    if card.source is None:
        name = Path(checkpoint.source).name
        card = replace(card, source=f"Converted with clip_hf from {name} ({checkpoint.format} format).")
    if (destination / "README.md").is_file():  # whose hand edits are kept
        shutil.copyfile(destination / "README.md", temporary / "README.md")
    write_model_card(temporary, checkpoint.config, destination.name, card, report.num_parameters)
