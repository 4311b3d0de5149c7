# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Folders of generated data in a cache: made once from a recipe, checked each time, and made again if damaged."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock
from transformers.utils import logging

from ..utils.atomic import clear_leftovers, replaced_folder


logger = logging.get_logger(__name__)

_MANIFEST = "clip_hf_manifest.json"


def _file_hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _MANIFEST)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _damage(folder: Path) -> str | None:
    """The damage to a cached dataset, in words; None if it is unchanged."""
    try:
        expected = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
        hashes = _file_hashes(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its {_MANIFEST} cannot be read ({error})"
    changed = [name for name in expected if hashes.get(name) != expected[name]]
    if not changed:
        return None
    more = f" and {len(changed) - 3:,} more files" if len(changed) > 3 else ""
    return f"{', '.join(changed[:3])}{more} changed or went missing"


def cached_folder(
    name: str, recipe: dict[str, Any], write: Callable[[Path], None], cache_dir: str | os.PathLike | None = None
) -> Path:
    """The folder of a recipe in the cache; `write` fills an empty folder if it is missing or damaged.

    Of several processes that need it at once, one writes it.

    Args:
        name (`str`): Name of the dataset, such as `"openmoji"`.
        recipe (`dict[str, Any]`): All that the data depend on, its `image_size` among it. Equal recipes give equal
            data.
        write (`Callable`): Writes the files into the folder that it is given.
        cache_dir (`str` or `os.PathLike`, *optional*): Where the folder lies; by default in the cache of `datasets`.
    """
    fingerprint = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]
    if cache_dir is None:
        cache_dir = Path(datasets.config.HF_DATASETS_CACHE) / f"clip_hf_{name}"
    folder = Path(os.path.abspath(cache_dir)) / f"{name}-{recipe['image_size']}px-{fingerprint}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        clear_leftovers(folder)
        damage = _damage(folder) if folder.exists() else "it is not there yet"
        if damage is not None:
            if folder.exists():
                logger.warning(f"The cached dataset {name} in {folder} is damaged: {damage}. It is made again.")
            with replaced_folder(folder) as temporary:
                write(temporary)
                manifest = {"recipe": recipe, "files": _file_hashes(temporary)}
                (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return folder
