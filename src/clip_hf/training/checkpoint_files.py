# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The files of a training's checkpoint, and the checks before one of them is read.

A manifest with the right SHA-256 proves that a checkpoint is complete, not who wrote it. So only files that we write
are read, and nothing in them that Python would execute. Accelerate reads most of its files with
`torch.load(weights_only=True)`. DeepSpeed's files and FSDP's shards are pickles that can run programs: they are
written, and read only if the user trusts the checkpoint. Registered objects (`custom_checkpoint_*.pkl`) are pickles of
that kind, too. They are always refused, because no training of ours needs them.
"""

import hashlib
import json
import os
import random
import re
import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import load
from torch.distributed.fsdp import StateDictType

from ..model.checks_clip_hf import type_of
from ..utils.atomic import sync
from ..utils.saved_states import check_kinds


MANIFEST = "manifest.json"
ACCELERATE = "accelerate"
SHARED = "shared.pt"

_FILES = re.compile(
    rf"{re.escape(SHARED)}|process_\d{{5}}\.pt|{ACCELERATE}/(model(_\d+)?\.safetensors|pytorch_model_fsdp(_\d+)?\.bin"
    r"|(optimizer|scheduler)(_\d+)?\.bin|scaler\.pt|random_states_\d+\.pkl)"
)
# Pickles that can run programs, and what DeepSpeed writes next to its own.
_PICKLES = re.compile(
    rf"{ACCELERATE}/(pytorch_model(_\d+)?/[\w.-]+\.pt|latest|zero_to_fp32\.py"
    r"|(pytorch_model_fsdp|optimizer)_\d+/(\.metadata|__\d+_\d+\.distcp)|pytorch_model_fsdp(_\d+)?_rank\d+\.bin)"
)
_RANDOM_STATES = re.compile(rf"{ACCELERATE}/random_states_\d+\.pkl")
_MANIFEST_KINDS = {
    **dict.fromkeys(("step", "number", "num_processes"), int),
    "files": {str: {"size": int, "sha256": str}},
    "sha256": str,
}
_MAX_MANIFEST = 16 * 2**20
_MAX_PROCESSES = 100_000  # of `process_00000.pt`
_TRUST = "To resume from one that you wrote, pass --trust_checkpoint."


class ForeignCheckpoint(Exception):
    """A checkpoint has content that we do not write. That is no accidental damage, so it is not passed over."""


def process_file(rank: int) -> str:
    """Name of the file with a process's own state."""
    return f"process_{rank:05d}.pt"


def check_can_be_resumed(accelerator: Accelerator, trusted: bool) -> None:
    """Raise ValueError, before a training starts, if its checkpoints hold pickles and are not trusted."""
    kind = accelerator.distributed_type
    sharded = kind == DistributedType.FSDP and (
        accelerator.state.fsdp_plugin.state_dict_type != StateDictType.FULL_STATE_DICT
    )
    if (sharded or kind == DistributedType.DEEPSPEED) and not trusted:
        cure = " Or set `fsdp_state_dict_type: FULL_STATE_DICT`, which writes none." if sharded else ""
        raise ValueError(f"Checkpoints of {kind.value} hold pickles, which can run programs. {_TRUST}{cure}")


def names_in(folder: Path) -> list[str]:
    """All files in a folder and its subfolders, except its manifest; links are not followed."""
    names = []
    for parent, folders, files in os.walk(folder):
        paths = [Path(parent, name) for name in files]
        paths += [path for path in (Path(parent, name) for name in folders) if path.is_symlink()]
        names += [path.relative_to(folder).as_posix() for path in paths]
    return sorted(name for name in names if name != MANIFEST)


def foreign_names(names: list[str]) -> list[str]:
    """The names that no checkpoint of ours has."""
    return [name for name in names if not _FILES.fullmatch(name) and not _PICKLES.fullmatch(name)]


def pickles_among(names: list[str]) -> list[str]:
    """The names of files that can run programs when they are read."""
    return [name for name in names if _PICKLES.fullmatch(name)]


def check_checkpoint(path: Path, trusted: bool) -> None:
    """Check a checkpoint before it is read; OSError or ValueError if it is damaged, else as [`check_names`]."""
    check_names(path, trusted)
    _check_whole(path)
    _check_no_code(path)


def check_names(path: Path, trusted: bool) -> None:
    """Raise ForeignCheckpoint if a file is not ours, is a link or a pipe, or is a pickle and not trusted."""
    names = names_in(path)
    foreign = foreign_names(names)
    if foreign:
        raise ForeignCheckpoint(
            f"{path} holds {', '.join(foreign[:3])}, which no checkpoint of this training has. If you know where it "
            "comes from, remove it."
        )
    for name in [MANIFEST, *names]:
        file = path / name
        if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
            raise ForeignCheckpoint(f"{path} holds {name}, which is no regular file; links and pipes are not read.")
    pickles = pickles_among(names)
    if pickles and not trusted:
        raise ForeignCheckpoint(f"{path} holds {', '.join(pickles[:3])}: pickles, which can run programs. {_TRUST}")


def _check_no_code(path: Path) -> None:
    """Raise ForeignCheckpoint if a file of a complete checkpoint holds more than tensors, numbers and texts."""
    for name in names_in(path):
        if name.endswith(".safetensors") or _PICKLES.fullmatch(name):
            continue
        try:
            _check_not_compressed(path / name)
            # Mapped, so that tensors are not read. `load` is what Accelerate reads its files with.
            content = load(path / name, map_location="cpu", weights_only=True, mmap=True)
            if not isinstance(content, dict):
                raise TypeError(f"it holds {type_of(content)} instead of a dict")
            if _RANDOM_STATES.fullmatch(name):
                _check_random_states(content)
        except Exception as error:  # a pickle may fail in any way
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ForeignCheckpoint(
                f"{path} holds {name}, which this training did not write: it is not a dict of tensors, numbers and "
                f"texts that `torch.load(weights_only=True)` reads, or lacks what it must have ({reason}). It was not "
                "executed."
            ) from error


def _check_not_compressed(file: Path) -> None:
    # torch never compresses, and a small compressed file could fill the memory.
    with zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > file.stat().st_size:
            raise TypeError("it is compressed")


def _check_random_states(states: dict[str, Any]) -> None:
    # Accelerate silently skips the states that it cannot use.
    if type(states["step"]) is not int:
        raise TypeError("its `step` is no number")
    random.Random().setstate(states["random_state"])
    np.random.RandomState(0).set_state(states["numpy_random_seed"])
    torch.Generator().set_state(states["torch_manual_seed"])


def describe_files(folder: Path, names: list[str], on_disk: bool = False) -> dict[str, dict]:
    """Size and SHA-256 of files; with `on_disk`, after they were synced to the disk."""

    def describe(name: str) -> dict:
        if on_disk:
            sync(folder / name)
        with open(folder / name, "rb") as file:
            return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}

    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing leaves Python's lock
        return dict(zip(names, pool.map(describe, names), strict=True))


def read_manifest(path: Path) -> dict:
    """The manifest of a checkpoint; OSError if it is not there, ValueError if it is not one that we write."""
    file = path / MANIFEST
    try:
        status = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{MANIFEST if path.is_dir() else 'the folder'} is missing") from None
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_MANIFEST:
        raise ValueError(f"{MANIFEST} is no regular file of up to {_MAX_MANIFEST // 2**20} MiB")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        _check_manifest(manifest)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} cannot be used ({error})") from None
    return manifest


def _check_manifest(manifest: Any) -> None:
    check_kinds(manifest, _MANIFEST_KINDS, "the manifest")
    files, processes = manifest["files"], manifest["num_processes"]
    if min(manifest["step"], manifest["number"]) < 0 or not 1 <= processes <= _MAX_PROCESSES:
        raise ValueError("a number in it is out of its range")
    foreign = foreign_names(list(files))
    if foreign:
        raise ValueError(f"it lists {foreign[0][:80]!r}, which no checkpoint has")
    missing = [name for name in (SHARED, *map(process_file, range(processes))) if name not in files]
    if missing:
        raise ValueError(f"it does not list {missing[0]}")
    # Like the SHA-256 of the files, this detects accidents only, such as a wrong digit in `step`.
    if manifest["sha256"] != sha256_of_manifest(manifest):
        raise ValueError("its own SHA-256 differs")


def sha256_of_manifest(manifest: dict) -> str:
    """SHA-256 of all that a manifest holds, except its own SHA-256."""
    content = json.dumps({key: value for key, value in manifest.items() if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _check_whole(path: Path) -> None:
    """Raise OSError or ValueError unless exactly the listed files are there, with the content that was written."""
    files = read_manifest(path)["files"]
    more = sorted(set(names_in(path)) - set(files))
    if more:
        raise ValueError(f"{MANIFEST} does not list {more[0]}")
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise FileNotFoundError(f"{name} is missing")
        size = file.stat().st_size
        if size != expected["size"]:
            raise ValueError(f"{name} has {size:,} bytes instead of {expected['size']:,}")
    for name, described in describe_files(path, list(files)).items():
        if described["sha256"] != files[name]["sha256"]:
            raise ValueError(f"{name} is not what was written: its SHA-256 differs")
