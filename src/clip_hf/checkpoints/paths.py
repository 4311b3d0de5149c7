# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Paths that do not exist: which can only be paths, and what the user may have meant."""

import os
from contextlib import suppress

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..model.checks_clip_hf import near_names
from ..utils.wording import listed


WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
_HUB = ("https://huggingface.co/", "http://huggingface.co/", "https://hf.co/", "huggingface.co/")


def check_exists(path: str | os.PathLike) -> None:
    """Raise a `FileNotFoundError` for a path that does not exist, unless it may be the name of a repo on the hub.

    A name with more than two parts, unusual characters, or the ending of a file of weights can be none.
    """
    if os.path.exists(path):
        return
    name = os.fspath(path)
    if not name.endswith((*WEIGHT_SUFFIXES, ".ckpt", ".json")):
        with suppress(HFValidationError):
            validate_repo_id(name)
            return
    raise FileNotFoundError(describe_missing(path))


def describe_missing(path: str | os.PathLike) -> str:
    """A message on a path that does not exist: its first missing part, what exists there, and what to give instead."""
    name = os.fspath(path)
    hints = [f"There is no file or folder {name or repr(name)}."]
    repo_id = next((name.removeprefix(hub) for hub in _HUB if name.startswith(hub)), None)
    expanded = os.path.expanduser(name)
    if repo_id:
        hints.append(f"It is an address of the hub, where the repo is named {'/'.join(repo_id.split('/')[:2])}.")
    elif expanded != name and os.path.exists(expanded):
        hints.append(f"Did you mean {expanded}?")
    elif name:
        hints += _hints_on_neighbours(name)
    hints.append(
        f"Give a file of weights ({', '.join(WEIGHT_SUFFIXES)}) or a folder with a checkpoint. from_pretrained also "
        "takes the name of a repo on the hub, OWNER/NAME; `hf download OWNER/NAME --local-dir FOLDER` makes a folder "
        "of one."
    )
    return " ".join(hints)


def describe_not_found(name: str | os.PathLike, error: Exception) -> str:
    """What is wrong with a name that is no path on this machine and that the hub answered with this error."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return (
        f"There is no file or folder '{name}' here, and the hub could not be asked or has no such model ({reason}). "
        f"Check the name. On a machine without a network, download it elsewhere with "
        f"`hf download {name} --local-dir FOLDER` and give the folder."
    )


def _hints_on_neighbours(name: str) -> list[str]:
    """What the last folder of a path that exists holds, and the likely path."""
    parent, rest = os.path.normpath(name), []
    while not os.path.exists(parent or os.curdir):
        parent, last = os.path.split(parent)
        rest.insert(0, last)
    folder = parent or os.curdir
    if not os.path.isdir(folder):
        return [f"{folder} is a file."]
    try:
        names = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
    except PermissionError:
        return [f"The folder {folder} cannot be read."]
    likely = [name for name in names if name.endswith(WEIGHT_SUFFIXES) or os.path.isdir(os.path.join(folder, name))]
    close = near_names(rest[0], likely)
    if close:
        whole = os.path.join(parent, close[0], *rest[1:])
        return [f"Did you mean {whole if os.path.exists(whole) else os.path.join(parent, close[0])}?"]
    if not parent:  # of the working folder, whose content says little
        return []
    return [f"{folder} exists, and holds {listed(names, 6) or 'nothing'}."]
