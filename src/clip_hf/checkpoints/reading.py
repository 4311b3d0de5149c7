# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Recognise the format of a file or folder, and read it."""

import os
from pathlib import Path

from . import open_clip_format as open_clip
from . import openai_format as openai
from . import transformers_format as transformers
from .checkpoint import Checkpoint, SourceOptions
from .openai_names import listed
from .paths import WEIGHT_SUFFIXES, describe_missing
from .weight_files import WeightFile, open_weights


FORMATS = ("clip_hf", "openai", "open_clip", "transformers")
"""The formats that can be read and written."""


def is_foreign(path: str | os.PathLike) -> bool:
    """
    Whether a path is a local checkpoint that transformers' `from_pretrained` cannot read: a single file, or a folder
    of open_clip's that is not one of transformers' as well.
    """
    if not isinstance(path, (str, os.PathLike)):
        return False
    path = Path(path)
    return path.is_file() or (_has_open_clip(path) and not _has_transformers(path))


def lacks_config(path: str | os.PathLike) -> bool:
    """Whether a path is a folder without a config.json; what else it holds is for [`read_checkpoint`] to say."""
    return os.path.isdir(path) and not os.path.isfile(os.path.join(path, "config.json"))


def _has_open_clip(folder: Path) -> bool:
    return _first(folder, (open_clip.CONFIG_NAME, *open_clip.WEIGHT_NAMES)) is not None


def _has_transformers(folder: Path) -> bool:
    # timm writes a config.json of another kind beside open_clip's files.
    is_clip = transformers.read_config_type(folder) in transformers.MODEL_TYPES
    return is_clip and _first(folder, transformers.WEIGHT_NAMES) is not None


def read_checkpoint(path: str | os.PathLike, options: SourceOptions | None = None) -> Checkpoint:
    """
    Read a checkpoint of any format; its weights stay in the file until they are used.

    Args:
        path (`str` or `os.PathLike`): a file or a folder.
        options (`SourceOptions`, *optional*): what the source leaves open.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        ValueError: if it is not recognised, damaged, not a CLIP, or cannot be read exactly; the message says what to
            do.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(describe_missing(path))
    path, options = Path(path), options or SourceOptions()
    if path.is_dir():
        return _read_folder(path, options)
    if path.name in (open_clip.CONFIG_NAME, "config.json"):
        return _read_folder(path.parent, options)
    file = open_weights(path)
    names = file.tensors.keys()
    if openai.is_openai_named({name.removeprefix("text.") for name in names}):
        return _read_openai_named(file, path, options)
    if "text_model.embeddings.token_embedding.weight" in names:
        if not (path.parent / "config.json").is_file():
            raise ValueError(
                f"{path} has the names of transformers' CLIP, but there is no config.json beside it, which says what "
                "its weights cannot (the activation, the heads, the end-of-text token). Put the two into one folder."
            )
        return transformers.read(file, str(path), path.parent, options)
    some = ", ".join(list(names)[:4])
    raise ValueError(
        f"{path} does not hold a CLIP of a format known here ({', '.join(FORMATS)}): it has {len(names)} tensors, "
        f"such as {some}."
    )


def _read_openai_named(file: WeightFile, path: Path, options: SourceOptions) -> Checkpoint:
    if file.kind == "torchscript":
        return openai.read(file.tensors, str(path), options)
    # What lies beside an optimizer, or is called as open_clip calls its files, is open_clip's, whose weights do not
    # say which activation they were trained with.
    by_open_clip = (
        file.is_training_checkpoint
        or file.kind == "safetensors"
        or path.suffix == ".bin"
        or path.name in open_clip.WEIGHT_NAMES
        or any(name.startswith("text.") for name in file.tensors)
        or options.config is not None
        or (path.parent / open_clip.CONFIG_NAME).is_file()
    )
    if by_open_clip:
        return open_clip.read(file, str(path), path.parent, options)
    return openai.read(file.tensors, str(path), options)


def _read_folder(folder: Path, options: SourceOptions) -> Checkpoint:
    has_open_clip = _first(folder, open_clip.WEIGHT_NAMES) is not None
    if (folder / "config.json").is_file() and (_has_transformers(folder) or not has_open_clip):
        weights = _first(folder, transformers.WEIGHT_NAMES)
        if weights is None:
            raise ValueError(
                f"{folder} has a config.json but no weights: none of {', '.join(transformers.WEIGHT_NAMES)}."
            )
        return transformers.read(open_weights(weights), str(folder), folder, options)
    weights = _first(folder, open_clip.WEIGHT_NAMES) or _first(folder, transformers.WEIGHT_NAMES)
    if weights is not None:
        return open_clip.read(open_weights(weights), str(folder), folder, options)
    files = sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in WEIGHT_SUFFIXES)
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    cure = f"Give one of its {'files' if files else 'folders'} instead: {listed(files or folders)}"
    if not files and not folders:
        cure = "There are no weights in it at all. Give the folder that a model was saved in"
    raise ValueError(
        f"{folder} is no checkpoint of a format known here: it has neither a config.json nor {open_clip.CONFIG_NAME}. "
        f"{cure}."
    )


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


__all__ = ["FORMATS", "is_foreign", "lacks_config", "read_checkpoint"]
