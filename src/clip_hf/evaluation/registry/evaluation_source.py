# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A source of data with what the registry says about it: its name, its splits and the one that figures are of."""

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from ...data.built_in_datasets import BUILT_IN_DATASETS
from ...data.data_sources import DataSource, HubSource, Rows, find_source
from ...data.file_patterns import data_files
from ...data.image_folders import has_images
from ...data.media import IMAGES, VIDEOS, Media
from ...data.parts import SPLIT_NAMES, find_part, no_such_part, parts_in, read_parts
from ...model.checks_clip_hf import did_you_mean
from .dataset_registry import RegistryEntry, class_folders, dataset_names, get_dataset, registry_name


WHOLE = "all"
"""Name of the only split of data that have none."""

# What the registry says about data that it does not have.
_UNREGISTERED = RegistryEntry(name="", title="", metric="", suite="")
_TASKS = {"classification": "captions and no classes", "retrieval": "classes and no captions"}


@dataclass(frozen=True)
class EvaluationSource:
    """Data that were found, before a split is read, and what the registry says about them."""

    data_source: DataSource | HubSource
    entry: RegistryEntry = _UNREGISTERED

    @property
    def name(self) -> str:
        """The dataset's name, for results."""
        return self.entry.name or self.data_source.name

    @property
    def location(self) -> str:
        """Where the data are, for results and messages."""
        return self.data_source.location

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits; `"all"` for data without splits."""
        return self.data_source.part_names or (WHOLE,)

    def resolve(self, split: str | None) -> str:
        """The split that is meant by `split`; by default the one on which figures are published, or the only one.

        Raises:
            ValueError: if there is no such split, or several and none of these.
        """
        if split is None:
            # A dataset may lack the split that its figures are about, so the existing splits decide.
            default = self._find("test") or self._find("validation")
            if default is None and len(self.splits) > 1:
                raise ValueError(
                    f"The dataset {self.location} has the splits {', '.join(self.splits)}; say with `split` which "
                    "one to use."
                )
            return default or self.splits[0]
        part = self._find(split)
        if part is None and split.endswith("]"):
            return parts_in(split, self.location, self.data_source.part_names)
        if part is None:
            raise no_such_part(self.location, split, self.data_source.part_names)
        return part

    def _find(self, split: str, taken: Collection[str] = ()) -> str | None:
        """What `split` is called in these data: as on the hub if the registry knows that, or by a usual name."""
        there = [name for name in self.splits if name not in taken]
        on_hub = self.entry.splits.get(split)
        return (on_hub and find_part(on_hub, there)) or find_part(split, there)

    def load(self, split: str, read: Callable[[Rows], datasets.Dataset]) -> datasets.Dataset:
        """The rows of a split, or of a slice of one, as `read` makes them of the rows that were found.

        Raises:
            ValueError: if there are none.
        """
        data = read_parts(split, lambda part: read(self.data_source.rows(part)))
        if len(data) == 0:
            raise ValueError(f"The split `{split}` of the dataset {self.location} has no rows.")
        return data

    def parts(self) -> dict[str, str]:
        """The data's names of `"train"`, `"validation"` and `"test"`, if it has such splits; else all names."""
        parts: dict[str, str] = {}
        # What the registry calls test comes first, because it may be `val` here.
        for wanted in ("test", "train", "validation"):
            name = self._find(wanted, taken=parts.values())
            if name is not None:
                parts[wanted] = name
        return {name: parts[name] for name in SPLIT_NAMES if name in parts} or {name: name for name in self.splits}


def wrong_media(where: str, media: Media) -> str:
    """A message: data hold films where images (the `media`) are meant, or the reverse."""
    if media is IMAGES:
        return (
            f"{where} holds films, and the model is to embed images. Say how many frames to take of each film, as in "
            "`--num-frames 8`; in Python load the model with `clip=ClipSampling(num_frames=8)` and the data with "
            '`media="videos"`.'
        )
    return (
        f"{where} holds images, and the model is to embed films. Leave out --num-frames, or name films; in Python "
        'load the model without `clip` and the data without `media="videos"`.'
    )


def _check_folder(source: Any, media: Media) -> None:
    """Refuse a folder of films where images are meant, and the reverse."""
    if not isinstance(source, str | os.PathLike) or not os.path.isdir(source):
        return
    folder, other = Path(source), VIDEOS if media is IMAGES else IMAGES
    if has_images(folder, other) and not has_images(folder, media) and not data_files(folder):
        raise ValueError(wrong_media(f"The folder {source}", media))


def open_source(source: Any, task: str, media: Media = IMAGES) -> EvaluationSource:
    """Find data for `"classification"` or `"retrieval"`; see [`load_classification`] and [`load_retrieval`]."""
    entry, place, is_published = _UNREGISTERED, source, False
    if isinstance(source, str | os.PathLike):
        name, equals, path = str(source).partition("=")
        if equals and not os.path.exists(source) and re.fullmatch(r"[\w-]+", name):
            if registry_name(name) is None:
                hint = did_you_mean(name.lower(), dataset_names())
                raise ValueError(
                    f"NAME in NAME=PATH must be a dataset of the registry, and {name!r} is none.{hint} "
                    f"A folder or file of your own is given by its path alone: {path}."
                )
            entry, place = get_dataset(name), path
        elif registry_name(str(source)) is not None:
            entry = get_dataset(str(source))
            is_published = True
    if entry is not _UNREGISTERED and task not in entry.tasks:
        other = "retrieval" if task == "classification" else "classification"
        raise ValueError(f"{entry.name} has {_TASKS[task]}; it is for {other}.")
    if is_published:
        return EvaluationSource(_published_source(entry), entry)
    _check_folder(place, media)
    labelled, folders = task == "classification", class_folders(entry)
    data_source = find_source(place, labelled=labelled, class_folders=folders, names=dataset_names(task), media=media)
    data_source.part_names  # noqa: B018  (asks the hub now whether there is such a dataset)
    return EvaluationSource(data_source, entry)


def _published_source(entry: RegistryEntry) -> DataSource | HubSource:
    """Where an entry's data are by themselves: on this machine, or on the hub."""
    if entry.name in BUILT_IN_DATASETS:
        return find_source(entry.name, labelled=True)
    if entry.hub_id is None:
        raise ValueError(
            f"{entry.title} is not on the hub in a form that can be loaded. {entry.notes or ''} {_how_to_give(entry)}"
        )
    return HubSource(entry.hub_id, splits=tuple(entry.splits.values()), advice=_how_to_give(entry))


def _how_to_give(entry: RegistryEntry) -> str:
    classes = f", {entry.num_classes} classes" if entry.num_classes else ""
    kinds = "a folder of class folders, Parquet files, or a folder saved by `datasets`"
    if "classification" not in entry.tasks:
        kinds = "a table or folder of images with captions, Parquet files, or a folder saved by `datasets`"
    where = f" ({entry.homepage})" if entry.homepage else ""
    return (
        f"Give a local copy as '{entry.name}=PATH': {kinds}, with the split `{entry.splits.get('test', 'test')}`"
        f"{classes}{where}."
    )
