# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a source of data is, and which parts it has: the one place that tells files, folders and names apart.

A source is a folder of images, tables, Parquet files, tars, a dataset saved by `datasets`, a built-in dataset, a name
on the hub, or data in memory. `find_source` finds it without reading rows. `captioned_images` reads its rows as
captioned images, `labelled_images` as labelled ones.
"""

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import datasets
from transformers.utils import logging

from ..model.checks_clip_hf import near_names
from ..model.image_reading_clip_hf import check_scheme
from ..utils.hub import check_hub
from ..utils.wording import listed
from .built_in_datasets import BUILT_IN_DATASETS
from .file_patterns import SHARDS, TABLES, data_files, ending_of, files_of, table_parts, without_metadata
from .image_folders import has_images, is_hidden
from .locations import load_parquet, load_saved, located_from_hub, located_in_saved
from .media import IMAGES, Media
from .parts import files_by_part, is_part_of_its_own, part_folders, parts_in
from .texts import escaped, is_utf8


logger = logging.get_logger(__name__)

KNOWN_ENDINGS = (*SHARDS, *TABLES)
"""Endings of the files that hold data."""

Data = datasets.Dataset | datasets.IterableDataset
Locate = Callable[[Data, str, str | None], Data]
"""Makes the image paths of a dataset absolute: `locate(data, image_column, image_root)`."""


def _no_such_source(
    source: str, labelled: bool, names: Sequence[str], media: Media, cause: Exception | None = None
) -> ValueError:
    """The error for a source that is not there: what was looked for, near names, and what data may be."""
    folder, name = os.path.split(source.rstrip(os.sep))
    neighbours = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = [os.path.join(folder, each) for each in near_names(name, neighbours, count=3)]
    near += near_names(source, names, count=3)
    hint = f" Did you mean {' or '.join(map(repr, near[:3]))}?" if near else ""
    hub = "" if cause is None else f", and it cannot be loaded from the hub: {str(cause).rstrip('.')}"
    kind = "class folders" if labelled else f"{media.noun}s with captions"
    return ValueError(
        f"There is no file or folder {source!r} ({os.path.abspath(source)}), nor a dataset of this name{hub}.{hint} "
        f"Data may be a folder of {kind} or one that `datasets` saved, a file or pattern "
        f"({', '.join(KNOWN_ENDINGS)}), OWNER/NAME on the hub, or one of these names: {', '.join(names)}."
    )


@dataclass(frozen=True)
class Rows:
    """Rows that were found and not read yet: all of a source, or of one part, in `files`, a `folder`, or by `load`."""

    files: Sequence[str] = ()  # Parquet files, tars or tables
    folder: Path | None = None  # of images
    classes: Sequence[str] = ()  # the subfolders of `folder` that are classes, those of the other parts included
    load: Callable[[bool], Data] | None = None  # the argument says whether as a stream
    locate: Locate | None = None  # for what `load` gives

    def __post_init__(self):
        for name in (*self.files, *self.classes):
            _check_name(os.path.join(self.folder or "", name))

    @property
    def kind(self) -> str:
        """`"dataset"`, `"folder"`, `"parquet"`, `"tar"` or `"table"`.

        Raises:
            ValueError: if the files are of several kinds, or of none that can be read.
        """
        if self.load is not None:
            return "dataset"
        if self.folder is not None:
            return "folder"
        endings = sorted({ending_of(file) for file in self.files})
        if len(endings) > 1:
            raise ValueError(f"The files are of different kinds, {', '.join(endings)}; name each kind on its own.")
        (ending,) = endings
        if ending not in KNOWN_ENDINGS:
            kinds = ", ".join(KNOWN_ENDINGS)
            raise ValueError(f"{self.files[0]} is no kind of file that can be read; there are {kinds}.")
        return "table" if ending in TABLES else ending.removeprefix(".")

    def read_dataset(
        self, image_column_of: Callable[[Data], str] | None, image_root: str | None = None, streaming: bool = False
    ) -> Data:
        """Read rows of the kind `"dataset"` or `"parquet"`, which say themselves which columns they have.

        `image_column_of` chooses the column of the images, whose paths are made absolute; without it, they stay as
        they are. `image_root` is another folder than the data's below which they may lead.
        """
        if self.load is None:
            return load_parquet(self.files, image_column_of, image_root, streaming)
        data = self.load(streaming)
        if self.locate is None or image_column_of is None:
            return data
        return self.locate(data, image_column_of(data), image_root)


@dataclass(frozen=True)
class DataSource:
    """A source as it was found, before rows are read; `name` and `location` are for results and messages."""

    name: str
    location: str
    parts: Mapping[str, Rows | Path] = field(default_factory=dict)  # a folder is searched when it is read
    whole: Rows | None = None  # all rows, where naming no part means all of them

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the parts; none where the data have no parts."""
        return tuple(self.parts)

    def rows(self, part: str | None) -> Rows:
        """The rows of a part; data without parts count as the part "train"."""
        rows = self.parts.get(part, self.whole)
        return _find_in_part(rows) if isinstance(rows, Path) else rows


@dataclass(eq=False)
class HubSource:
    """A dataset on the hub, with the attributes of [`DataSource`] but `parts`.

    Unless its `splits` are given, the hub is asked for them where they are needed, because that takes a download.
    """

    location: str  # `owner/name` or `owner/name:config`
    splits: Sequence[str] = ()
    advice: str = "If it was meant as a path, there is nothing there; give a local copy by its path."
    no_such: Callable[[Exception], Exception] | None = None  # without `splits`: the error if it is not there
    whole: ClassVar[None] = None

    def __post_init__(self):
        self.hub_id, _, config = self.location.partition(":")
        self.config = config or None
        self.name = self.hub_id.rpartition("/")[2]

    @functools.cached_property
    def part_names(self) -> tuple[str, ...]:
        """The names of the parts."""
        if self.splits:
            return tuple(self.splits)
        try:
            self._check_hub()
            return tuple(datasets.get_dataset_split_names(self.hub_id, self.config))
        except Exception as error:  # hub, network and dataset errors have many types
            raise self.no_such(error) from error

    def rows(self, part: str) -> Rows:
        """The rows of a part, or of a slice that the hub cuts."""
        return Rows(load=functools.partial(self._load, part), locate=located_from_hub)

    def _check_hub(self) -> None:
        if not Path(datasets.config.HF_DATASETS_CACHE, self.hub_id.replace("/", "___")).exists():
            check_hub(self.hub_id, "dataset")

    def _load(self, split: str, streaming: bool) -> Data:
        try:
            self._check_hub()
            return datasets.load_dataset(self.hub_id, self.config, split=split, streaming=streaming)
        except Exception as error:
            known = split if self.splits else parts_in(split, self.location, self.part_names)
            if known == split:
                raise ValueError(
                    f"The split `{split}` of {self.hub_id} cannot be loaded from the hub (is there a network, and is "
                    f"HF_HUB_OFFLINE unset?): {error}. {self.advice}"
                ) from error
        return self._load(known, streaming)


def find_source(
    source: Any,
    *,
    labelled: bool,
    class_folders: set[str] | None = None,
    names: Sequence[str] = tuple(BUILT_IN_DATASETS),
    media: Media = IMAGES,
) -> DataSource | HubSource:
    """Find out what a source is, see [`load_pairs`] and [`load_classification`].

    Args:
        source (`str`, `os.PathLike`, `datasets.Dataset` or mapping of these): The source.
        labelled (`bool`): Whether images or films have labels (a folder has a subfolder for each class) or captions.
        class_folders (`set[str]`, *optional*): The class folders that count; all by default.
        names (`Sequence[str]`, *optional*): The datasets that the error for a missing source mentions.
        media ([`Media`], *optional*): What folders are searched for: images, by default, or films.

    Raises:
        ValueError: if there is no such source; the message says what a source may be.
        TypeError: if `source` is nothing that can hold data.
    """
    if not isinstance(source, str | os.PathLike):
        return _find_in_memory(source)
    location = os.path.expanduser(str(source))
    if not location.strip():
        raise ValueError("The data are an empty text; give a name, a path or a `datasets.Dataset`.")
    if location in BUILT_IN_DATASETS:
        return _with_parts(location, location, BUILT_IN_DATASETS[location].load())
    _check_name(os.path.abspath(location))
    path = Path(location)
    if path.is_dir():
        return replace(_find_in_folder(path, labelled, class_folders, media), location=location)
    files = without_metadata(files_of(location))
    if files:
        name = path.stem if path.suffix.lower() in KNOWN_ENDINGS else path.name or location
        return _source_of_files(name, location, files_by_part(files), files)
    check_scheme(location)
    no_such = functools.partial(_no_such_source, location, labelled, names, media)
    looks_like_path = location.startswith((".", os.sep)) or location.partition(":")[0].endswith(KNOWN_ENDINGS)
    if looks_like_path or not re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", location):
        raise no_such()
    return HubSource(location, no_such=no_such)


def _check_name(path: str) -> None:
    """Raise a `ValueError` for data of a name that rows cannot hold."""
    if not is_utf8(path):
        raise ValueError(f"The name of {escaped(path)} is not UTF-8; rename it.")


# ----------------------------------------------------------------------------------------------------------- in memory


def _find_in_memory(source: Any) -> DataSource:
    if isinstance(source, datasets.IterableDataset | datasets.IterableDatasetDict):
        raise TypeError("The data are a stream; evaluation needs a `datasets.Dataset`: set `streaming=False`.")
    if isinstance(source, datasets.Dataset):
        name = source.info.dataset_name or "data"
        return _with_parts(name, "given", {str(source.split): source} if source.split else source)
    if not isinstance(source, Mapping):
        raise TypeError(f"The data are of type {type(source).__name__}; give a name, a path or a `datasets.Dataset`.")
    wrong = [name for name, part in source.items() if not isinstance(part, datasets.Dataset)]
    if wrong or not source:
        raise TypeError(f"A mapping of splits must hold `datasets.Dataset`s; {wrong or 'it is empty'} does not.")
    return _with_parts(next(iter(source.values())).info.dataset_name or "data", "given", source)


def _with_parts(
    name: str,
    location: str,
    data: datasets.Dataset | Mapping[Any, datasets.Dataset | Callable[[], datasets.Dataset]],
    locate: Locate | None = None,
) -> DataSource:
    """A source whose rows are there: a dataset, or for each part one or a function that makes it."""

    def rows(part: datasets.Dataset | Callable[[], datasets.Dataset]) -> Rows:
        return Rows(load=lambda streaming: part() if callable(part) else part, locate=locate)

    if isinstance(data, datasets.Dataset):
        return DataSource(name, location, whole=rows(data))
    return DataSource(name, location, {str(part): rows(data[part]) for part in data})


# --------------------------------------------------------------------------------------------------- files and folders


def _source_of_files(
    name: str, location: str, parts: Mapping[str, Sequence[str]], files: Sequence[str] | None
) -> DataSource:
    """A source of files. With fewer than two parts, naming no part means all files."""
    whole = Rows(files) if files and len(parts) < 2 else None
    return DataSource(name, location, {part: Rows(part_files) for part, part_files in parts.items()}, whole)


def _find_in_folder(folder: Path, labelled: bool, class_folders: set[str] | None, media: Media) -> DataSource:
    if any((folder / name).exists() for name in ("dataset_dict.json", "state.json")):
        location = str(folder)
        locate = functools.partial(located_in_saved, location)
        return _with_parts(folder.name or location, location, load_saved(location), locate)
    return _find_labelled(folder, class_folders, media) if labelled else _find_captioned(folder)


def _find_captioned(folder: Path) -> DataSource:
    """Parts are subfolders or files with a part's name. If tables have such names, the subfolders hold only images."""
    name, location = folder.name or str(folder), str(folder)
    tables = {part: files for part, files in table_parts(folder).items() if part is not None}
    if not tables and (parts := part_folders(_subfolders(folder))):
        return DataSource(name, location, parts)
    files = data_files(folder)
    if parts := files_by_part(files, folder) if files else tables:
        all_files = [file for part_files in parts.values() for file in part_files]
        return _source_of_files(name, location, parts, all_files if is_part_of_its_own(folder, list(parts)) else None)
    return DataSource(name, location, whole=_find_in_part(folder, files))


def _find_in_part(folder: Path, files: Sequence[str] | None = None) -> Rows:
    """The data files of a folder, or images with a table or with a text beside each."""
    files = data_files(folder) if files is None else files
    if files:
        return Rows(files)
    tables = table_parts(folder)
    if None in tables or is_part_of_its_own(folder, list(tables)):
        (files,) = tables.values()
        return Rows(files)
    return Rows(folder=folder)


def _find_labelled(folder: Path, class_folders: set[str] | None, media: Media) -> DataSource:
    """Files, tables, or a subfolder for each class; or for each part, with a subfolder for each class."""
    name, location = folder.name or str(folder), str(folder)
    if files := data_files(folder):
        return _source_of_files(name, location, files_by_part(files, folder), files)
    if tables := table_parts(folder) or _other_tables(folder):
        whole = tables.pop(None, None)
        return _source_of_files(name, location, tables, whole)
    subfolders = _subfolders(folder)
    parts = part_folders(subfolders)
    # A class may be called "train"; then other classes stand beside it.
    parts = parts if len(parts) == len(subfolders) else {}
    found = [path for part in (parts.values() if parts else [folder]) for path in _subfolders(part)]
    found = [path for path in found if class_folders is None or path.name in class_folders]
    classes = sorted({path.name for path in found if has_images(path, media)})
    empty = sorted({path.name for path in found} - set(classes))
    if empty:
        logger.warning(
            f"These folders of {folder} hold no {media.noun}s and are no classes: {escaped(listed(empty))}."
        )
    if not classes:
        files = "*.jpg" if media is IMAGES else "*.mp4"
        raise ValueError(
            f"The folder {folder} has no class folders with {media.noun}s. Labelled {media.noun}s are folders named "
            f"as the classes, {folder}/CLASS/{files}, or {folder}/test/CLASS/{files}; `load_classification` names the "
            "other kinds of data."
        )
    rows = {part: Rows(folder=path, classes=classes) for part, path in parts.items()}
    return DataSource(name, location, rows, None if parts else Rows(folder=folder, classes=classes))


def _other_tables(folder: Path) -> dict[str | None, list[str]]:
    """Tables without a part's name: each is a part. JSON is left out, because folders hold other JSON."""
    for ending in TABLES[:-1]:
        tables = sorted(path for path in folder.glob(f"*{ending}") if path.is_file() and not is_hidden(path.name))
        if tables:
            return {path.stem: [str(path)] for path in tables}
    return {}


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
