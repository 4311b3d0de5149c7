# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Recognise the format of a file or folder, and read it."""

import os
from pathlib import Path

from ..utils.wording import counted, listed
from .adapters import is_adapter_folder
from .checkpoint import Checkpoint, SourceOptions
from .format_table import FORMAT_TABLE, FORMATS
from .open_clip_format import CONFIG_NAME, WEIGHT_NAMES
from .paths import WEIGHT_SUFFIXES, describe_missing
from .transformers_format import holds_clip
from .weight_files import first_file, open_weights


def is_foreign(path: str | os.PathLike) -> bool:
    """Whether a path is a local checkpoint that transformers' `from_pretrained` cannot read: a single file, or a
    folder of open_clip's that is not one of transformers' as well.
    """
    if not isinstance(path, (str, os.PathLike)):
        return False
    path = Path(path)
    return path.is_file() or (first_file(path, (CONFIG_NAME, *WEIGHT_NAMES)) is not None and not holds_clip(path))


def lacks_config(path: str | os.PathLike) -> bool:
    """Whether a path is a folder without a config.json; what else it holds is for [`read_checkpoint`] to say."""
    return os.path.isdir(path) and not os.path.isfile(os.path.join(path, "config.json"))


def read_checkpoint(path: str | os.PathLike, options: SourceOptions | None = None) -> Checkpoint:
    """Read a checkpoint of any format; its weights stay in the file until they are used.

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
    if path.name in {checkpoint_format.config_name for checkpoint_format in FORMAT_TABLE.values()}:
        return _read_folder(path.parent, options)
    file = open_weights(path)
    for checkpoint_format in reversed(FORMAT_TABLE.values()):
        if checkpoint_format.reads_file(file, path, options):
            return checkpoint_format.read(file, path, options)
    raise ValueError(
        f"{path} does not hold a CLIP of a format known here ({', '.join(FORMATS)}): it has "
        f"{counted(len(file.tensors), 'tensor')}: {listed([*file.tensors], 4)}."
    )


def _read_folder(folder: Path, options: SourceOptions) -> Checkpoint:
    for checkpoint_format in reversed(FORMAT_TABLE.values()):
        if checkpoint_format.reads_folder(folder):
            return checkpoint_format.read_path(folder, options)
    if is_adapter_folder(folder):
        raise ValueError(
            f"{folder} holds a LoRA adapter and no model. `model, processor = clip_hf.checkpoints.load(folder)` "
            "merges it into its model, and `save` writes that."
        )
    files = sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix in WEIGHT_SUFFIXES)
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    cure = f"Give one of its {'files' if files else 'folders'} instead: {listed(files or folders)}"
    if not files and not folders:
        cure = "There are no weights in it at all. Give the folder that a model was saved in"
    raise ValueError(
        f"{folder} is no checkpoint of a format known here: it has neither a config.json nor {CONFIG_NAME}. {cure}."
    )
