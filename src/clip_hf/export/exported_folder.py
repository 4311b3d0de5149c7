# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The files of an exported folder: their names, and the record in `export.json` that says what they must be."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME

from ..utils.atomic import replaced_file
from ..utils.json_files import read_json
from .runtimes import RUNTIMES


RECORD = "export.json"
"""The name of the record."""
FORMAT = 1
TOWERS = ("image_tower", "text_tower")
_DESCRIBED = (*TOWERS, CONFIG_NAME)


def tower_file(tower: str, runtime: str) -> str:
    """The name of a tower's graph; its weights lie beside it."""
    return f"{tower}{RUNTIMES[runtime].ending}"


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of each file of the towers, and of the configuration, by name."""
    names = sorted(path.name for path in folder.iterdir() if path.name.startswith(_DESCRIBED) and path.is_file())
    # hashlib releases the interpreter lock.
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(lambda name: _sha256(folder / name), names))
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": digest} for name, digest in zip(names, digests)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write `export.json` with the towers' files as they are now."""
    content = {"format": FORMAT, **record, "files": describe_files(folder)}
    with replaced_file(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """Read `export.json`, and check that the towers' files are those that it describes.

    Raises:
        ValueError: if there is no record, it cannot be read, or a file is missing or another one.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {RECORD}, which says what its towers must be: it is no whole export. Copy the whole "
            "folder, or export the model again with `clip-hf export`."
        )
    record = read_json(path, dict)
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{path} is of format {record.get('format')!r}; this version reads {FORMAT}. Export the model again with "
            "`clip-hf export`."
        )
    files = record.get("files")
    graphs = [[tower_file(tower, runtime) for tower in TOWERS] for runtime in RUNTIMES]
    if not isinstance(files, dict) or not any(files.keys() >= {*both, CONFIG_NAME} for both in graphs):
        has = sorted(files) if isinstance(files, dict) else files
        raise ValueError(
            f"`files` in {path} must describe both towers and {CONFIG_NAME}; it has {has!r:.200}. Export the model "
            "again with `clip-hf export`."
        )
    found = describe_files(folder)
    missing = sorted(set(files) - set(found))
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}. Copy or download the whole folder again.")
    differing = sorted(name for name in files if found[name] != files[name])
    if differing:
        raise ValueError(
            f"{', '.join(differing)} in {folder} differ from what {RECORD} describes: they are damaged, or of another "
            "export. Copy the folder again, or export the model again with `clip-hf export`."
        )
    return record
