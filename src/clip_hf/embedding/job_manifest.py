# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The manifest of an embedding job, which says what the folder holds, and the folder's claim to be the job's."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock

from ..data.row_shards import LIST_ENDING, ShardedRows, read_list
from ..model.image_reading_clip_hf import URL_SCHEMES
from ..utils.atomic import replaced_file
from .dual_encoder import DualEncoder
from .part_files import FORMAT_NAME, FORMAT_VERSION, MANIFEST, read_manifest


LOCKS = "locks"
"""The folder of locks in a destination."""
_LIST = f"source{LIST_ENDING}"
# They may differ between runs of one job: data and model may have been moved.
_PLACES = ("name", "location")


def check_destination(folder: Path, source: Any) -> None:
    """ValueError or NotADirectoryError if a job must not write to a folder; its manifest is not looked at."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; the destination must be a folder.")
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        if os.path.join(os.path.realpath(folder), "").startswith(os.path.join(os.path.realpath(source), "")):
            raise ValueError(
                f"The destination {folder} lies in the source {source}, whose files it would become; give a folder "
                "outside."
            )
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = [name for name in there - {_LIST, LOCKS} if not name.startswith(".")]
    if others and MANIFEST not in there:
        raise ValueError(
            f"The destination {folder} is not empty and holds no {MANIFEST}: give a new folder, or that of a job to "
            "go on with."
        )


def write_list(folder: Path, source: Any) -> Any:
    """Write a source that is a list of paths to the destination, where other processes and later runs find it.

    Returns:
        The file, or `source` itself if it is no list.
    """
    if isinstance(source, str | os.PathLike | datasets.Dataset) or not isinstance(source, Sequence):
        return source
    path, lines = folder / _LIST, []
    for place in map(os.fspath, source):
        is_url = place.partition(":")[0].lower() in URL_SCHEMES
        lines.append(place if is_url else os.path.abspath(place))
        if "\n" in place or place.endswith("\r") or not place.strip():
            raise ValueError(
                f"{place!r} is no path that a list can hold: lines end in it, or it is blank. Leave it out, or rename "
                "the file."
            )
    if path.is_file():
        if lines and read_list(path) != lines:
            raise ValueError(f"{path} lists other images than those that were given; give another destination.")
    elif not lines:
        raise ValueError("The list of images is empty.")
    else:
        with replaced_file(path) as temporary:
            text = "".join(f"{line}\n" for line in lines)
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
    return path


def absolute_source(source: Any, kind: str) -> Any:
    """A source as a process that started in another folder finds it."""
    if not isinstance(source, str | os.PathLike):
        return source
    text = os.path.expanduser(os.fspath(source))
    if "://" in text or (kind in ("dataset", "stream") and not os.path.exists(text)):
        return text
    return os.path.abspath(text) if os.path.exists(text) else "::".join(map(os.path.abspath, text.split("::")))


def describe_job(encoder: DualEncoder, source: ShardedRows, options: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a job: all that decides what it writes. `options` are its values under that name."""
    rows = [shard.num_rows for shard in source.shards]
    return {
        "format": FORMAT_NAME,
        "version": FORMAT_VERSION,
        "model": {
            "name": encoder.name,
            "fingerprint": encoder.fingerprint,
            "projection_dim": encoder.projection_dim,
        },
        "source": {
            "location": source.location,
            "kind": source.kind,
            "fingerprint": source.fingerprint,
            "shards": len(rows),
            "rows": None if None in rows else sum(rows),
        },
        "options": options,
    }


def claim_folder(folder: Path, expected: dict[str, Any]) -> None:
    """Write the manifest, or compare the one that is there: ValueError if it is of another job."""
    path = folder / MANIFEST
    (folder / LOCKS).mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCKS / "manifest.lock"):
        if not path.is_file():
            with replaced_file(path) as temporary:
                temporary.write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
    found = read_manifest(folder)
    differing = []
    for section, content in expected.items():
        for name, value in content.items() if isinstance(content, dict) else ():
            there = found.get(section, {}).get(name)
            if name not in _PLACES and there != value:
                differing.append(f"{section} {name} is {there!r} there and {value!r} now")
    if differing:
        raise ValueError(
            f"{folder} holds embeddings of another job, by {found['model'].get('name')} of "
            f"{found['source'].get('location')}: {'; '.join(differing)}. Give another destination, or the model, "
            "source and options of that job."
        )
