# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Features on disk: a folder for each pair of model and data, with parts that are written one by one."""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..utils.atomic import replaced_file, usual_mode
from ..utils.json_files import read_json


_FORMAT = 1
_MANIFEST = "manifest.json"
# A part has at most 2,048 rows; small data make about 16 parts, so that processes can share them.
_MAX_PART_ROWS, _LEAST_PARTS, _MIN_PART_ROWS = 2048, 16, 32


def part_ranges(rows: int) -> list[range]:
    """The rows of each part. They depend only on the number of rows, so that any number of processes can resume."""
    size = max(_MIN_PART_ROWS, min(_MAX_PART_ROWS, -(-rows // _LEAST_PARTS)))
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


@dataclass(frozen=True)
class FeatureIdentity:
    """All that decides features."""

    encoder: str  # fingerprint of the model
    data: str  # fingerprint of the data
    kind: str  # "image", "image before projection" or "text"
    rows: int

    @property
    def key(self) -> str:
        """Hexadecimal digest of all of them."""
        text = json.dumps([_FORMAT, self.encoder, self.data, self.kind, self.rows])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class FeatureFolder:
    """The features of one [`FeatureIdentity`] on disk: `cache_dir/KEY/manifest.json` and files of parts beside it.

    A manifest that names another model or other data, or cannot be read, is a ValueError. `model` is the model's name,
    which the manifest shows to its readers; `dtype` is that of the files.
    """

    def __init__(self, cache_dir: str | os.PathLike, identity: FeatureIdentity, model: str, dtype: Any = np.float32):
        self.identity, self.model, self.dtype = identity, model, np.dtype(dtype)
        self.path = Path(cache_dir) / identity.key
        self.ranges = part_ranges(identity.rows)
        self._check_manifest()

    def _check_manifest(self) -> None:
        path = self.path / _MANIFEST
        if not path.is_file():
            if any(self.path.glob("part-*")):
                raise ValueError(
                    f"{self.path} holds features but no {_MANIFEST} that says of what: remove the folder."
                )
            return
        try:
            content = read_json(path, dict)
            manifest = {name: content[name] for name in self._manifest()}
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ValueError(f"{path} cannot be read as a manifest of features: remove {self.path}.") from error
        expected = self._manifest()
        differing = [name for name in expected if name != "model" and manifest[name] != expected[name]]
        if differing:
            listed = "; ".join(f"{name} is {manifest[name]!r}, not {expected[name]!r}" for name in differing)
            raise ValueError(
                f"{self.path} is a cache of another model or other data ({manifest['model']}): {listed}. It was moved "
                "or changed by hand; remove it, or give another cache folder."
            )

    def create(self) -> None:
        """Write the manifest, unless it is there."""
        if not (self.path / _MANIFEST).is_file():
            with replaced_file(self.path / _MANIFEST) as temporary:
                temporary.write_text(json.dumps(self._manifest(), indent=1) + "\n", encoding="utf-8")

    def _manifest(self) -> dict[str, Any]:
        return {"format": _FORMAT, "model": self.model, **asdict(self.identity)}

    def file(self, part: int) -> Path:
        """The file of a part, whether it is there or not."""
        return self.path / f"part-{part:05d}.safetensors"

    def write(self, part: int, features: np.ndarray, **more: np.ndarray) -> None:
        """Write a part (rows, dim), and more arrays of its rows by name. The file appears when it is complete."""
        arrays = {"features": np.ascontiguousarray(features, dtype=self.dtype), **more}
        metadata = {"key": self.identity.key, "part": str(part), "digest": _digest(arrays)}
        with replaced_file(self.file(part)) as temporary:
            with usual_mode(temporary):
                save_file(arrays, temporary, metadata=metadata)

    def read(self, part: int) -> np.ndarray | None:
        """A part (rows, dim); None if it is not there, or damaged, with a warning."""
        if not self.file(part).is_file():
            return None
        try:
            return self.read_checked(part)
        except ValueError as error:
            warnings.warn(f"{self.file(part)} is encoded again: {error}.", stacklevel=2)
            return None

    def read_checked(self, part: int) -> np.ndarray:
        """A part (rows, dim); ValueError with the reason if its file is damaged, or of another folder or part."""
        try:
            with safe_open(self.file(part), framework="numpy") as file:
                metadata, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
            features = arrays["features"]
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ValueError(f"it cannot be read: {error}") from error
        rows = len(self.ranges[part])
        if features.ndim != 2 or len(features) != rows or features.dtype != self.dtype:
            raise ValueError(f"it has shape {features.shape} and dtype {features.dtype}, not {rows} rows")
        if metadata.get("key") != self.identity.key or metadata.get("part") != str(part):
            raise ValueError("it is of another cache, or another part of this one")
        if metadata.get("digest") != _digest(arrays):
            raise ValueError("its content has changed")
        return features


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays, key=lambda name: (name != "features", name)):
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.hexdigest()
