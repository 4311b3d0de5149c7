# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Teachers' features of exactly the crops and texts of a training, computed once and read with each item.

A folder holds `manifest.json`, which says of which items and teachers the features are, and the parts of a
[`FeatureFolder`]. Row `draw * rows + row` of them is the item of `row` in that draw, an epoch of the training.
"""

import functools
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.utils.data import DataLoader

from ..data import ImageTextDataset
from ..data.collator import ImageTextCollator
from ..embedding.encoding_options import EncodingOptions
from ..embedding.feature_store import FeatureFolder, FeatureIdentity
from ..model.checks_clip_hf import check_whole
from ..model.image_processing_clip_hf import ClipHFImageProcessor
from ..model.processing_clip_hf import ClipHFProcessor
from ..utils.atomic import replaced_file
from ..utils.json_files import read_json
from ..utils.processes import SharedOutcome
from .teachers import TeacherRecord, Teachers


MANIFEST = "manifest.json"
DTYPES = ("float16", "float32")
_FORMAT, _VERSION = "clip_hf teacher features", 1
_KIND = "crops and texts of a training"
_BATCH_SIZE = 64
# What decides an item besides the rows themselves; the others of `PairOptions` change only the batches.
_PAIR_OPTIONS = (
    "image_column",
    "caption_column",
    "templates",
    "seed",
    "augmentation",
    "min_image_size",
    "image_limits",
)
_IMAGE_OPTIONS = (
    "do_resize",
    "size",
    "crop_size",
    "resample",
    "apply_exif_orientation",
    "background_color",
    "high_bit_depth",
)
_EMBED = "`clip-hf embed --for-training` with the options of this training"


def describe_items(pairs: ImageTextDataset, image_processor: ClipHFImageProcessor) -> dict[str, Any]:
    """All that decides the crops and texts of a training, as JSON holds it.

    Images are not read: their crops are compared one by one, when they are used.

    Args:
        pairs ([`ImageTextDataset`]): The training's pairs.
        image_processor ([`ClipHFImageProcessor`]): The student's.
    """
    options = asdict(pairs.options)
    described = {name: options[name] for name in _PAIR_OPTIONS}
    settings = image_processor.to_dict()
    described |= {name: settings.get(name) for name in _IMAGE_OPTIONS}
    described |= {"rows": len(pairs), "texts": pairs.texts_fingerprint()}
    return json.loads(json.dumps(described))


def _manifest(items: dict, records: Sequence[TeacherRecord], draws: int, dtype: str) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "items": items,
        "draws": draws,
        "dtype": dtype,
        "teachers": [asdict(record) for record in records],
    }


def _parts(folder: Path, manifest: Mapping[str, Any]) -> FeatureFolder:
    """The parts of the features that a manifest describes."""
    teachers, items = manifest["teachers"], manifest["items"]
    described = [json.dumps(each, sort_keys=True) for each in ([record["fingerprint"] for record in teachers], items)]
    encoder, data = (hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in described)
    identity = FeatureIdentity(encoder, data, _KIND, manifest["draws"] * items["rows"])
    return FeatureFolder(folder, identity, ", ".join(record["name"] for record in teachers), manifest["dtype"])


def _checksum(item: Mapping[str, Any]) -> int:
    """A number that changes when an item's crop or text does."""
    return zlib.crc32(
        item["text"].encode(errors="surrogatepass"), zlib.crc32(np.ascontiguousarray(item["pixel_values"]))
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} holds no teacher features (no {MANIFEST}): compute them by {_EMBED}.")
    manifest = read_json(path, dict)
    kinds = {"items": dict, "draws": int, "dtype": str, "teachers": list}
    if (manifest.get("format"), manifest.get("version")) != (_FORMAT, _VERSION) or any(
        not isinstance(manifest.get(name), kind) for name, kind in kinds.items()
    ):
        raise ValueError(f"{path} is no manifest of teacher features (version {_VERSION}): give another folder.")
    return manifest


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """What differs between two values of JSON, in words."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*wanted, *found]):
            yield from _differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif found != wanted:
        yield f"`{name}` is {found!r:.80}, not {wanted!r:.80}"


class StoredFeatures:
    """Teachers' features on disk, of the items of one training; an [`ItemFeatures`].

    All parts are checked first, by their digests; then they are mapped into memory, and only the rows that are needed
    are read. Each is checked by the checksum of the crop and text that it is of.

    Args:
        folder (`str` or `os.PathLike`): What [`store_features`] wrote.
        pairs ([`ImageTextDataset`]): The pairs of the training that reads them.
        image_processor ([`ClipHFImageProcessor`]): The student's.
        records (`Sequence[TeacherRecord]`, *optional*): The teachers that are wanted; by default those of the folder.

    Raises:
        ValueError: if there are no features, they are of other items or teachers, or some are missing or damaged.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        pairs: ImageTextDataset,
        image_processor: ClipHFImageProcessor,
        records: Sequence[TeacherRecord] | None = None,
    ):
        self.folder = Path(folder)
        manifest = _read_manifest(self.folder)
        wanted = {"items": describe_items(pairs, image_processor)}
        if records is not None:
            wanted["teachers"] = [record.fingerprint for record in records]
        found = {**manifest, "teachers": [record["fingerprint"] for record in manifest["teachers"]]}
        differing = list(_differences({name: found[name] for name in wanted}, wanted))
        if differing:
            raise ValueError(
                f"The teacher features in {self.folder} are not those of this training: {'; '.join(differing)}. Use "
                f"the options and data that they were computed with, or compute them anew by {_EMBED}."
            )
        self.draws, self.rows = manifest["draws"], len(pairs)
        self.records = tuple(TeacherRecord(**record) for record in manifest["teachers"])
        self.width = 2 * sum(record.dim for record in self.records)
        self._parts = _parts(self.folder, manifest)
        missing = [number for number in range(len(self._parts.ranges)) if not self._parts.file(number).is_file()]
        if missing:
            raise ValueError(
                f"{len(missing):,} of {len(self._parts.ranges):,} parts of the teacher features in {self.folder} are "
                f"missing: go on with {_EMBED}, which computes only these."
            )
        for number in range(len(self._parts.ranges)):
            try:
                self._parts.read_checked(number)
            except ValueError as error:
                raise self._damaged(number, error) from error
        self._files: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": {}}  # a worker maps the files itself

    def read(self, draw: int, row: int, item: Mapping[str, Any]) -> np.ndarray:
        """The features of an item, (width,), in the dtype of the file.

        Raises:
            ValueError: if a file is damaged, or its features are of another crop or text.
        """
        place = draw * self.rows + row
        size = len(self._parts.ranges[0])
        number, start = divmod(place, size)
        try:
            if number not in self._files:
                self._files[number] = safe_open(self._parts.file(number), framework="numpy")
            file = self._files[number]
            features = file.get_slice("features")[start : start + 1]
            checksum = int(file.get_slice("checksums")[start : start + 1][0])
        except (SafetensorError, OSError, KeyError, IndexError) as error:
            raise self._damaged(number, error) from error
        if checksum != _checksum(item):
            raise ValueError(
                f"The teacher features of row {row} (draw {draw}) in {self.folder} are of another crop or text: the "
                f"images have changed, or another version of Pillow reads them. Compute the features anew by {_EMBED}."
            )
        return features[0]

    def _damaged(self, number: int, reason: Exception) -> ValueError:
        return ValueError(
            f"{self._parts.file(number)} is damaged: {reason}. Go on with {_EMBED}, which computes only "
            "what is missing or damaged."
        )


def store_features(
    folder: str | os.PathLike,
    pairs: ImageTextDataset,
    processor: ClipHFProcessor,
    teachers: Teachers,
    *,
    draws: int = 1,
    dtype: str = DTYPES[0],
    num_workers: int = 0,
    encoding: EncodingOptions | None = None,
) -> int:
    """Compute the features of all items of a training in its first `draws` epochs, part by part.

    A part appears when it is complete; parts that are there are kept, so that an interrupted run goes on. Several
    processes share the parts.

    Args:
        folder (`str` or `os.PathLike`): The folder to write: a new one, or one of the same features.
        pairs ([`ImageTextDataset`]): The pairs of the training.
        processor ([`ClipHFProcessor`]): The student's.
        teachers ([`Teachers`]): The teachers.
        draws (`int`, *optional*, defaults to 1): Epochs whose crops and texts differ. A training reads epoch
            `e % draws`.
        dtype (`str`, *optional*, defaults to `"float16"`): Of the files: `"float16"` or `"float32"`.
        num_workers (`int`, *optional*, defaults to 0): Processes that prepare items.
        encoding ([`EncodingOptions`], *optional*): Processes that share the work, and the progress bar.

    Returns:
        `int`: the number of parts that were computed by all processes.

    Raises:
        ValueError: if an option is wrong, or the folder holds other features.
        OSError: if it cannot be written.
    """
    draws = check_whole("draws", draws, 1)
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; it must be one of {', '.join(DTYPES)}.")
    folder, encoding = Path(folder), encoding or EncodingOptions()
    manifest = _manifest(describe_items(pairs, processor.image_processor), teachers.records, draws, dtype)
    with SharedOutcome(encoding.processes) as shared:
        if encoding.process == 0:
            _claim(folder, manifest)
    shared.gather()  # the others look when it is there
    with SharedOutcome(encoding.processes) as shared:
        parts = _claim(folder, manifest)
        # The files are read whole, because a damaged one is computed again.
        missing = [number for number in range(len(parts.ranges)) if parts.read(number) is None]
    missing = shared.gather(missing if shared.error is None else None)[0]
    with SharedOutcome(encoding.processes) as shared:
        own = missing[encoding.process :: encoding.processes]
        total = sum(len(parts.ranges[number]) for number in own)
        with encoding.progress_bar(parts.model, "pairs", total) as bar:
            _write_parts(parts, own, _batches(pairs, processor, parts, own, num_workers), teachers, bar.update)
    shared.gather()
    return len(missing)


def _claim(folder: Path, manifest: dict[str, Any]) -> FeatureFolder:
    """Write the manifest, or compare the one that is there; the folder of the parts."""
    if (folder / MANIFEST).exists():
        found = _read_manifest(folder)
        # A teacher may have been moved.
        found = {**found, "teachers": [{**record, "name": ""} for record in found["teachers"]]}
        wanted = {**manifest, "teachers": [{**record, "name": ""} for record in manifest["teachers"]]}
        differing = list(_differences(found, json.loads(json.dumps(wanted))))
        if differing:
            raise ValueError(
                f"{folder} holds other teacher features: {'; '.join(differing)}. Give another folder, or remove it."
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty and holds no teacher features; give a new folder.")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced_file(folder / MANIFEST) as path:
            path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    parts = _parts(folder, manifest)
    parts.create()
    return parts


def _batches(
    pairs: ImageTextDataset, processor: ClipHFProcessor, parts: FeatureFolder, numbers: Sequence[int], workers: int
) -> DataLoader:
    """The items of some parts in their order, in batches that end where a part does."""
    ranges = [parts.ranges[number] for number in numbers]
    starts = ((each, start) for each in ranges for start in range(each.start, each.stop, _BATCH_SIZE))
    places = [
        [divmod(place, len(pairs)) for place in range(start, min(start + _BATCH_SIZE, each.stop))]
        for each, start in starts
    ]
    collate = functools.partial(_sources_of, ImageTextCollator(processor, keep_texts=True, keep_crops=True))
    return DataLoader(pairs, batch_sampler=places, num_workers=workers, collate_fn=collate)


def _sources_of(collator: ImageTextCollator, items: list[dict]) -> dict[str, Any]:
    """Crops, texts and checksums of items."""
    batch = collator(items)
    return {"crops": batch["crops"], "texts": batch["texts"], "checksums": [_checksum(item) for item in items]}


def _write_parts(
    parts: FeatureFolder,
    numbers: Sequence[int],
    batches: DataLoader,
    teachers: Teachers,
    done: Callable[[int], Any],
) -> None:
    iterator = iter(batches)
    for number in numbers:
        features, checksums = [], []
        while len(checksums) < len(parts.ranges[number]):
            batch = next(iterator)
            features.append(teachers.features(batch["crops"], batch["texts"]))
            checksums += batch["checksums"]
            done(len(batch["checksums"]))
        parts.write(number, torch.cat(features).numpy(), checksums=np.array(checksums, np.uint32))
