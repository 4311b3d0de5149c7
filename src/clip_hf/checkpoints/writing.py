# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Write a checkpoint in a format, as a whole or not at all."""

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError

from ..utils.atomic import clear_leftovers, replaced_file, replaced_folder
from . import open_clip_format as open_clip
from . import openai_format as openai
from . import transformers_format as transformers
from .checkpoint import Checkpoint
from .openai_names import is_float32_in_mixed_precision, weight_table
from .reading import FORMATS
from .stored_tensor import StoredTensor
from .tokenizer_formats import OPENAI_VOCAB_SIZE, is_openais


HALF = (torch.float16, torch.bfloat16)


def check_destination(path: Path, format: str, tower: str | None, overwrite: bool) -> None:
    """
    Check what can be checked before any work.

    Raises:
        FileExistsError: if something is at `path` and `overwrite` is off.
        ValueError: if the format is not known, has no single towers, or has files of another name.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r} is none of {', '.join(FORMATS)}.")
    if tower is not None and format != "transformers":
        raise ValueError(f"tower={tower!r}: single towers are written with format='transformers' only.")
    if tower is not None and tower not in transformers.TOWERS:
        raise ValueError(f"tower={tower!r} is none of {', '.join(transformers.TOWERS)}.")
    if format == "openai" and path.suffix in (".bin", ".safetensors"):
        raise ValueError(f"{path}: OpenAI's format is a TorchScript archive; give a path that ends in .pt.")
    clear_leftovers(path)
    if os.path.lexists(path):
        _check_what_is_there(path, format, overwrite)


def _check_what_is_there(path: Path, format: str, overwrite: bool) -> None:
    wrong_kind = path.is_dir() if format == "openai" else not path.is_dir()
    if wrong_kind:
        kind = "a file" if format == "openai" else "a folder"
        raise FileExistsError(f"{path} exists and is not {kind}, which the format {format} is; give another path.")
    entries = [path] if format == "openai" else list(path.iterdir())
    if entries and not overwrite:
        raise FileExistsError(f"{path} exists; give another path, or overwrite=True (--overwrite) to replace it.")
    if entries and format != "openai":
        # The whole folder is replaced, so it must hold a checkpoint, and nothing that a checkpoint does not hold.
        folders = sorted(entry.name for entry in entries if entry.is_dir())
        is_checkpoint = any((path / name).is_file() for name in ("config.json", open_clip.CONFIG_NAME))
        if folders or not is_checkpoint:
            why = f"it holds the folder {folders[0]}" if folders else "there is no checkpoint in it"
            raise FileExistsError(f"{path} would be replaced as a whole, and {why}; empty it, or give another path.")


def check_format_holds(checkpoint: Checkpoint, format: str, tower: str | None) -> None:
    """
    Check that a format can hold a model, before any work.

    Raises:
        ValueError: if it has no counterpart to an option of the model; the message says which formats have.
    """
    refusal = _refusal(checkpoint, format, tower)
    if refusal is None:
        return
    others = {other: _refusal(checkpoint, other, None) for other in FORMATS if other != format}
    can, cannot = (", ".join(o for o in others if (others[o] is None) == holds) for holds in (True, False))
    raise ValueError(f"{refusal} What can hold it: {can or 'no other format'}{f' (but not {cannot})' * bool(cannot)}.")


def _refusal(checkpoint: Checkpoint, format: str, tower: str | None) -> str | None:
    """Why a format cannot hold a model; `None` where it can."""
    if format != "clip_hf" and tower is None and checkpoint.config.logit_bias_init_value is not None:
        return f"The model has a logit bias, of the sigmoid loss, for which the format {format} has no place."
    try:
        if format == "openai":
            openai.check_expressible(checkpoint)
        elif format == "open_clip":
            open_clip.config_of(checkpoint)
        elif format == "transformers" and not (tower or "").startswith("text"):
            transformers.config_to_transformers(checkpoint)
    except ValueError as error:
        return str(error)
    return None


def notes_on_format(checkpoint: Checkpoint, format: str) -> list[str]:
    """What a format does otherwise than the model and its processor do; sentences for the user."""
    notes = _notes_on_images(checkpoint, format)
    if format != "openai":
        return notes
    text, tokenizer = checkpoint.config.text_config, checkpoint.tokenizer
    if text.vocab_size != OPENAI_VOCAB_SIZE if tokenizer is None else not is_openais(tokenizer):
        notes.append(
            f"The format openai has no place for a vocabulary, and `clip.tokenize` makes ids of OpenAI's, which mean "
            f"other words to this model of {text.vocab_size} ids: keep its own tokenizer, and make ids with that."
        )
    if text.max_position_embeddings != openai.CONTEXT_LENGTH:
        notes.append(f"Call `clip.tokenize(texts, context_length={text.max_position_embeddings})` for this model.")
    return notes


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
    """
    The same checkpoint with its floating weights in another dtype.

    Half precision is what the code of the format does with it: OpenAI's and open_clip's keep norms and embeddings in
    float32, ours keeps BatchNorm.

    Args:
        dtype (`torch.dtype`, *optional*): `None` leaves every weight as it is.

    Raises:
        ValueError: if a value is too large for the dtype.
    """
    if dtype is None:
        return checkpoint
    dtypes = {name: dtype_in_model(name, dtype) for name in checkpoint.tensors}
    if dtype in HALF and format in ("openai", "open_clip"):
        kept = [
            weight.ours for weight in weight_table(checkpoint.config) if is_float32_in_mixed_precision(weight.source)
        ]
        dtypes |= {name: torch.float32 for names in kept for name in names}
    tensors = {
        name: converted(name, tensor, dtypes[name]) if tensor.dtype.is_floating_point else tensor
        for name, tensor in checkpoint.tensors.items()
    }
    return replace(checkpoint, tensors=tensors)


def dtype_in_model(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype that a weight has in a model of ours of some dtype."""
    return torch.float32 if dtype in HALF and transformers.is_batch_norm(name) else dtype


def converted(name: str, tensor: StoredTensor, dtype: torch.dtype) -> StoredTensor:
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
def written(checkpoint: Checkpoint, path: Path, format: str, tower: str | None = None) -> Iterator[Path]:
    """
    Write a checkpoint; on entering it lies under a temporary name, and takes its place when the block ends well.

    Returns:
        `Path` (on entering): the temporary file or folder.

    Raises:
        OSError: if there is not enough room, or writing fails; nothing is left behind.
        ValueError: if the format cannot hold the model.
    """
    path = Path(os.path.abspath(path))
    _check_room(path, size_in_bytes(checkpoint.tensors))
    if format == "openai":
        with replaced_file(path) as temporary:
            _write(lambda: openai.write(checkpoint, temporary), path)
            yield temporary
        return
    with replaced_folder(path) as temporary:
        if format == "open_clip":
            _write(lambda: open_clip.write(checkpoint, temporary), path)
        elif format == "transformers":
            _write(lambda: transformers.write(checkpoint, temporary, tower), path)
        else:
            _write(lambda: transformers.write_ours(checkpoint, temporary), path)
        # safetensors makes files that only their owner can read, whatever the umask.
        config = temporary / (open_clip.CONFIG_NAME if format == "open_clip" else "config.json")
        for weights in temporary.glob("*.safetensors"):
            shutil.copymode(config, weights)
        yield temporary


def _check_room(path: Path, size: int) -> None:
    parent = next(parent for parent in path.parents if parent.exists())
    free = shutil.disk_usage(parent).free
    if free < size:
        sizes = f"its weights take {size / 2**20:.0f} MiB, {free / 2**20:.0f} are free"
        raise OSError(errno.ENOSPC, f"There is not enough room for {path}: {sizes}. Nothing was written")


def _write(write: Callable[[], object], path: Path) -> None:
    try:
        write()
    except SafetensorError as error:  # what safetensors makes of every error of the system
        raise OSError(f"Writing {path} failed ({error}); is the disk full? Nothing was left behind.") from error
    except RuntimeError as error:  # torch.save's way to say the same
        if "PytorchStreamWriter" not in str(error) and "unexpected pos" not in str(error):
            raise
        raise OSError(f"Writing {path} failed ({error}); is the disk full? Nothing was left behind.") from error


__all__ = [
    "check_destination",
    "check_format_holds",
    "converted",
    "dtype_in_model",
    "notes_on_format",
    "size_in_bytes",
    "with_dtype",
    "written",
]
