# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Write a checkpoint in a format, as a whole or not at all."""

import errno
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..model.checks_clip_hf import no_such
from ..utils.atomic import clear_leftovers, replaced_file, replaced_folder
from ..utils.output_folders import check_writable
from .checkpoint import Checkpoint
from .format_table import FORMAT_TABLE, FORMATS
from .openai_names import is_float32_in_mixed_precision, weight_table
from .stored_tensor import StoredTensor
from .transformers_format import TOWERS, is_batch_norm


HALF = (torch.float16, torch.bfloat16)


def check_destination(path: Path, format: str, tower: str | None, overwrite: bool) -> None:
    """Check what can be checked before any work.

    Raises:
        FileExistsError: if something is at `path` and `overwrite` is off.
        OSError: if it cannot be written.
        ValueError: if the format is not known, has no single towers, or has files of another name.
    """
    if format not in FORMATS:
        raise ValueError(no_such("format", format, FORMATS))
    if tower is not None and not FORMAT_TABLE[format].has_towers:
        able = " or ".join(repr(name) for name, other in FORMAT_TABLE.items() if other.has_towers)
        raise ValueError(f"tower={tower!r}: single towers are written with format={able} only.")
    if tower is not None and tower not in TOWERS:
        raise ValueError(no_such("tower", tower, TOWERS))
    if FORMAT_TABLE[format].config_name is None and path.suffix in (".bin", ".safetensors"):
        raise ValueError(f"{path}: OpenAI's format is a TorchScript archive; give a path that ends in .pt.")
    check_writable(path, path.parent)
    clear_leftovers(path)
    if os.path.lexists(path):
        _check_what_is_there(path, format, overwrite)


def _check_what_is_there(path: Path, format: str, overwrite: bool) -> None:
    is_file = FORMAT_TABLE[format].config_name is None
    if path.is_dir() == is_file:
        kind = "a file" if is_file else "a folder"
        raise FileExistsError(f"{path} exists and is not {kind}, which the format {format} is; give another path.")
    entries = [path] if is_file else list(path.iterdir())
    if entries and not overwrite:
        raise FileExistsError(f"{path} exists; give another path, or overwrite=True (--overwrite) to replace it.")
    if entries and not is_file:
        # The whole folder is replaced, so it must hold a checkpoint, and nothing that a checkpoint does not hold.
        folders = sorted(entry.name for entry in entries if entry.is_dir())
        is_checkpoint = any(
            (path / other.config_name).is_file() for other in FORMAT_TABLE.values() if other.config_name
        )
        if folders or not is_checkpoint:
            why = f"it holds the folder {folders[0]}" if folders else "there is no checkpoint in it"
            raise FileExistsError(f"{path} would be replaced as a whole, and {why}; empty it, or give another path.")


def check_format_holds(checkpoint: Checkpoint, format: str, tower: str | None) -> None:
    """Check that a format can hold a model, before any work; else a `ValueError` says which formats can."""
    refusal = _refusal(checkpoint, format, tower)
    if refusal is None:
        return
    others = {other: _refusal(checkpoint, other, None) for other in FORMATS if other != format}
    can, cannot = (", ".join(o for o in others if (others[o] is None) == holds) for holds in (True, False))
    raise ValueError(f"{refusal} What can hold it: {can or 'no other format'}{f' (but not {cannot})' * bool(cannot)}.")


def _refusal(checkpoint: Checkpoint, format: str, tower: str | None) -> str | None:
    """Why a format cannot hold a model; `None` where it can."""
    try:
        FORMAT_TABLE[format].check_holds(checkpoint, tower)
    except ValueError as error:
        return str(error)
    return None


def notes_on_format(checkpoint: Checkpoint, format: str) -> list[str]:
    """Sentences for the user: where a format differs from the model and its processor."""
    return _notes_on_images(checkpoint, format) + FORMAT_TABLE[format].notes(checkpoint)


def _notes_on_images(checkpoint: Checkpoint, format: str) -> list[str]:
    image_processor = checkpoint.image_processor
    if format == "clip_hf" or image_processor is None:
        return []
    changed = {
        name: getattr(image_processor, name)
        for name in ("apply_exif_orientation", "background_color", "high_bit_depth")
        if getattr(image_processor, name) != getattr(type(image_processor), name)
    }
    if not changed:
        return []
    options = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    return [f"The format {format} has no place for {options} of the image processor: prepare images so yourself."]


def with_dtype(checkpoint: Checkpoint, dtype: torch.dtype | None, format: str) -> Checkpoint:
    """The same checkpoint with its floating weights in another dtype; `None` leaves them as they are.

    Half precision is what the code of the format does with it: OpenAI's and open_clip's keep norms and embeddings in
    float32, ours keeps BatchNorm. A value that is too large for the dtype is a `ValueError` when it is read.
    """
    if dtype is None:
        return checkpoint
    dtypes = {name: dtype_in_model(name, dtype) for name in checkpoint.tensors}
    if dtype in HALF and FORMAT_TABLE[format].keeps_norms_in_float32:
        kept = [
            weight.ours for weight in weight_table(checkpoint.config) if is_float32_in_mixed_precision(weight.source)
        ]
        dtypes |= {name: torch.float32 for names in kept for name in names}
    tensors = {
        name: convert_tensor(name, tensor, dtypes[name]) if tensor.dtype.is_floating_point else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    return replace(checkpoint, tensors=tensors)


def dtype_in_model(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a weight in a model of dtype `dtype`: BatchNorm stays in float32."""
    return torch.float32 if dtype in HALF and is_batch_norm(name) else dtype


def convert_tensor(name: str, tensor: StoredTensor, dtype: torch.dtype) -> StoredTensor:
    """A stored tensor in another dtype."""

    def read() -> torch.Tensor:
        values = tensor.read()
        result = values.to(dtype)
        if not bool(torch.isfinite(result).all()) and bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} has values up to {values.abs().max():.3g}, which {dtype} cannot hold.")
        return result

    return tensor if tensor.dtype == dtype else StoredTensor(tensor.shape, dtype, read)


def size_in_bytes(tensors: Mapping[str, StoredTensor]) -> int:
    """The size of some tensors in a file."""
    return sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors.values())


@contextmanager
def write_checkpoint(checkpoint: Checkpoint, path: Path, format: str, tower: str | None = None) -> Iterator[Path]:
    """Write a checkpoint; on entering it lies under a temporary name, and takes its place when the block ends well.

    Returns:
        `Path` (on entering): the temporary file or folder.

    Raises:
        OSError: if there is not enough room, or writing fails; nothing is left behind.
        ValueError: if the format cannot hold the model.
    """
    path = Path(os.path.abspath(path))
    _check_room(path, size_in_bytes(checkpoint.tensors))
    writer = FORMAT_TABLE[format]
    replaced = replaced_file if writer.config_name is None else replaced_folder
    with replaced(path) as temporary:
        try:
            writer.write(checkpoint, temporary, tower)
        except SafetensorError as error:  # what safetensors makes of every error of the system
            raise OSError(f"Writing {path} failed ({error}); is the disk full? Nothing was left behind.") from error
        yield temporary


def _check_room(path: Path, size: int) -> None:
    parent = next(parent for parent in path.parents if parent.exists())
    free = shutil.disk_usage(parent).free
    if free < size:
        sizes = f"its weights take {size / 2**20:.0f} MiB, {free / 2**20:.0f} are free"
        raise OSError(errno.ENOSPC, f"There is not enough room for {path}: {sizes}. Nothing was written")
