# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Where labelled images are read from: files and folders, the hub, and data that are made on this machine."""

import difflib
import functools
import io
import itertools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from PIL import Image

from ...data.file_patterns import TABLES, data_files, ending_of, files_of, table_parts, without_metadata
from ...data.file_readers import images_in, is_hidden, table_rows
from ...data.labelled_tars import read_tars
from ...data.locations import (
    load_saved,
    located_from_hub,
    located_in_files,
    located_in_saved,
    undecoded,
    with_locations,
)
from ...data.openmoji import load_openmoji
from ...data.parts import SPLIT_NAMES, files_by_part, no_such_part
from ...data.tables import raw_table_rows
from ...utils.extras import require_extra
from .dataset_registry import RegistryEntry, class_folders, dataset_names, get_dataset, registry_name


WHOLE = "all"
"""Name of the only part of data that have no parts."""

_PACKAGED = {".parquet": "parquet", ".tar": "webdataset"}
_PEEKED_ROWS = 100
_SKIN_TONES = tuple(f"{tone} skin tone" for tone in ("light", "medium-light", "medium", "medium-dark", "dark"))
_DIGIT_PIXELS = 64


@dataclass(frozen=True)
class DataSource:
    """
    Data as they were found, before a part is loaded.

    Args:
        name (`str`):
            The data set's name, for results.
        location (`str`):
            Where it is, for results and errors.
        splits (`dict[str, Callable[[], datasets.Dataset]]`):
            Loads each part.
        entry ([`RegistryEntry`], *optional*):
            What the registry says about it.
        class_names (`tuple[str, ...]`, *optional*):
            Names that come with the data otherwise than in its features.
        locate (`Callable[[datasets.Dataset, str, str], datasets.Dataset]`, *optional*):
            Gives the rows of a part (its name is the second argument) with the paths in a column of images (the third)
            made absolute; paths that lead out of the data are refused there.
    """

    name: str
    location: str
    splits: Mapping[str, Callable[[], datasets.Dataset]]
    entry: RegistryEntry | None = None
    class_names: tuple[str, ...] | None = None
    locate: Callable[[datasets.Dataset, str, str], datasets.Dataset] | None = None

    def resolve(self, split: str | None) -> str:
        """The part that is meant by `split`; by default the one on which figures are published, or the only one."""
        if split is None:
            # A data set may come without the part that its figures are of, so what is there decides.
            for wanted in ("test", "validation"):
                for name in self._names_of(wanted):
                    if name in self.splits:
                        return name
            if len(self.splits) == 1:
                return next(iter(self.splits))
            raise ValueError(
                f"The data set {self.location} has the splits {', '.join(self.splits)}; say with `split` which one "
                "to use."
            )
        for name in self._names_of(split):
            if name in self.splits:
                return name
        raise no_such_part(self.location, split, [name for name in self.splits if name != WHOLE])

    def _names_of(self, split: str) -> list[str]:
        """What `split` may be called in this data, likeliest first."""
        names = [split, *SPLIT_NAMES.get(split, ())]
        if self.entry is not None and split in self.entry.splits:
            hub_name = self.entry.splits[split]
            names = [hub_name, *SPLIT_NAMES.get(hub_name, ()), *names]
        return names

    def load(self, split: str) -> datasets.Dataset:
        """The rows of a part, at least one."""
        data = undecoded(self.splits[split]())
        if len(data) == 0:
            raise ValueError(f"The split `{split}` of the data set {self.location} has no rows.")
        return data

    def parts(self) -> dict[str, str]:
        """The names here of `"train"`, `"validation"` and `"test"`, where there are such; else all names there are."""
        found: dict[str, str] = {}
        # What the registry calls test comes first, for it may be `val` here.
        for wanted in ("test", "train", "validation"):
            names = [name for name in self._names_of(wanted) if name in self.splits and name not in found.values()]
            if names:
                found[wanted] = names[0]
        ordered = {wanted: found[wanted] for wanted in SPLIT_NAMES if wanted in found}
        return ordered or {name: name for name in self.splits}


def open_source(source: Any, image_root: str | None = None, image_column: str | None = None) -> DataSource:
    """
    Find data: see [`load_classification`] for what a source may be.

    Args:
        source:
            The data.
        image_root (`str`, *optional*):
            Another folder than the data's below which paths of images may lead.
        image_column (`str`, *optional*):
            The column of a table that has the paths of the images; by default one that is called like it.

    Raises:
        ValueError: if there are none; the message says what to do.
        TypeError: if `source` is nothing that can hold data.
    """
    if isinstance(source, datasets.IterableDataset | datasets.IterableDatasetDict):
        raise TypeError(
            "The data are a stream; evaluation needs a `datasets.Dataset`: load it with `streaming=False`."
        )
    if isinstance(source, datasets.Dataset):
        name = source.info.dataset_name or "data"
        return DataSource(name, "given", {str(source.split or WHOLE): lambda: source})
    if isinstance(source, Mapping):
        wrong = [name for name, part in source.items() if not isinstance(part, datasets.Dataset)]
        if wrong or not source:
            raise TypeError(f"A mapping of splits must hold `datasets.Dataset`s; {wrong or 'it is empty'} does not.")
        name = next(iter(source.values())).info.dataset_name or "data"
        return DataSource(name, "given", _parts(source))
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"The data are of type {type(source).__name__}; give a name, a path or a `datasets.Dataset`.")
    if not str(source).strip():
        raise ValueError("The data are an empty text; give a name, a path or a `datasets.Dataset`.")
    return _open_named(str(source), image_root, image_column)


def _open_named(source: str, root: str | None, column: str | None) -> DataSource:
    name, equals, path = source.partition("=")
    if equals and not os.path.exists(source) and re.fullmatch(r"[\w-]+", name):
        entry = get_dataset(name)
        return (
            _open_path(path, entry, root, column)
            if _is_path(path) or not _is_hub_id(path)
            else _open_hub(path, entry, root)
        )
    if registry_name(source) is not None:
        entry = get_dataset(source)
        return _BUILDERS[entry.builder](entry) if entry.builder else _open_hub_entry(entry, root)
    if _is_path(source):
        return _open_path(source, None, root, column)
    if _is_hub_id(source):
        return _open_hub(source, None, root)
    raise nothing_there(source)


def nothing_there(source: str, task: str = "classification", cause: Exception | None = None) -> ValueError:
    """The error for a source that is not there: what was looked for, near names, and what data may be."""
    folder, name = os.path.split(source.rstrip(os.sep))
    beside = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = [os.path.join(folder, each) for each in difflib.get_close_matches(name, beside, cutoff=0.6)]
    near += difflib.get_close_matches(source.lower(), dataset_names(), cutoff=0.6)
    hint = f" Did you mean {' or '.join(map(repr, near[:3]))}?" if near else ""
    hub = "" if cause is None else f", and it cannot be loaded from the hub: {str(cause).rstrip('.')}"
    own = "class folders" if task == "classification" else "images with captions"
    return ValueError(
        f"There is no file or folder {source!r} ({os.path.abspath(source)}), nor a data set of this name{hub}.{hint} "
        f"Data may be a folder of {own} or one that `datasets` saved, a file or pattern "
        f"({', '.join((*_PACKAGED, *TABLES))}), OWNER/NAME on the hub, a `datasets.Dataset`, or of the registry NAME "
        f"or NAME=PATH: {', '.join(dataset_names(task))}."
    )


def _is_path(source: str) -> bool:
    looks_like_path = source.startswith((".", "~", os.sep)) or source.endswith((*TABLES, *_PACKAGED))
    return looks_like_path or os.path.exists(source) or bool(files_of(source))


def _is_hub_id(source: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", source) is not None


def _parts(parts: Mapping[Any, datasets.Dataset]) -> dict[str, Callable[[], datasets.Dataset]]:
    return {str(split): functools.partial(parts.__getitem__, split) for split in parts}


# --------------------------------------------------------------------------------------------------- files and folders


def _open_path(source: str, entry: RegistryEntry | None, root: str | None, column: str | None) -> DataSource:
    source = os.path.expanduser(source)
    read_tables = functools.partial(_read_tables, root=root, image_column=column)
    path = Path(source)
    name = entry.name if entry else path.stem if path.suffix in (*TABLES, *_PACKAGED) else path.name or source
    is_dict = (path / "dataset_dict.json").exists()
    if path.is_dir() and (is_dict or (path / "state.json").exists()):
        load = _parts(load_saved(source)) if is_dict else {WHOLE: lambda: load_saved(source)}
        return DataSource(name, source, load, entry, locate=functools.partial(_in_saved, source, root))
    if path.is_dir():
        if files := data_files(path, _PACKAGED):
            return _packaged(name, source, files, entry, root)
        if tables := table_parts(path) or _other_tables(path):
            load = {part or WHOLE: functools.partial(read_tables, own) for part, own in tables.items()}
            return DataSource(name, source, load, entry, locate=functools.partial(_in_folder, source, root))
        return _open_class_folders(path, name, entry)
    files = without_metadata(files_of(source))
    if not files:
        raise nothing_there(source)
    endings = {ending_of(file) for file in files}
    if len(endings) == 1 and endings.pop() in _PACKAGED:
        return _packaged(name, source, files, entry, root)
    if len(files) == 1 and Path(files[0]).suffix.lower() in TABLES:
        load = {WHOLE: functools.partial(read_tables, files)}
        locate = functools.partial(_in_folder, os.path.dirname(os.path.abspath(files[0])), root)
        return DataSource(name, source, load, entry, locate=locate)
    raise ValueError(
        f"{source} is no data that can be read. There are: a folder of class folders, a folder saved by `datasets`, "
        f"{', '.join((*_PACKAGED, *TABLES))}; give several tables as a folder."
    )


def _in_folder(folder: str, root: str | None, data: datasets.Dataset, split: str, column: str) -> datasets.Dataset:
    # Whichever column is taken for the images: a text in it is a path like any other.
    return with_locations(data, column, folder, root)


def _in_saved(folder: str, root: str | None, data: datasets.Dataset, split: str, column: str) -> datasets.Dataset:
    return located_in_saved(data, column, folder, root)


def _other_tables(folder: Path) -> dict[str, list[str]]:
    """Tables that are called like no part, each of which is one; no JSON, for folders have that of other kinds."""
    for ending in TABLES[:-1]:
        tables = sorted(path for path in folder.glob(f"*{ending}") if path.is_file() and not is_hidden(path.name))
        if tables:
            return {path.stem: [str(path)] for path in tables}
    return {}


def _packaged(name: str, source: str, files: list[str], entry: RegistryEntry | None, root: str | None) -> DataSource:
    parts = files_by_part(files, Path(source)) or {WHOLE: files}
    ending = ending_of(files[0])
    load = {split: functools.partial(_load_files, _PACKAGED[ending], own) for split, own in parts.items()}
    folder = os.path.dirname(files[0] if "://" in files[0] else os.path.abspath(files[0]))
    in_tars = functools.partial(_in_folder, folder, root)
    locate = functools.partial(_in_parquet, parts, root) if ending == ".parquet" else in_tars
    return DataSource(name, source, load, entry, locate=locate)


def _in_parquet(
    parts: Mapping[str, list[str]], root: str | None, data: datasets.Dataset, split: str, column: str
) -> datasets.Dataset:
    return located_in_files(data, column, parts[split], root)


def _load_files(loader: str, files: list[str]) -> datasets.Dataset:
    if loader == "webdataset":
        return read_tars(files)
    return datasets.load_dataset(loader, data_files={"part": files}, split="part")


def _read_tables(tables: list[str], root: str | None = None, image_column: str | None = None) -> datasets.Dataset:
    """Tables with the paths of images, relative to their folder, in `image_column` or one that is called like it."""
    first = (row for table in tables for row in itertools.islice(raw_table_rows(table), _PEEKED_ROWS))
    names, table = list(dict.fromkeys(name for row in first for name in row)), ", ".join(tables)
    if not names:
        raise ValueError(f"The table {table} has no rows.")
    usual = ("image", "file_name", "path", "file", "image_path")
    paths = next(
        (name for name in (usual if image_column in (None, "image") else (image_column,)) if name in names), None
    )
    if paths is None:
        given = f"`image_column` is {image_column!r}. C" if image_column else "c"
        raise ValueError(
            f"The table {table} has the columns {', '.join(map(repr, names))}; {given}all that of the images' paths "
            "'file_name' or 'image', or name it with `image_column` (--image-column)."
        )
    # Where it is not asked for by its name, `file_name` stands for the image, as in a folder's metadata.
    key = "image" if paths == "file_name" != image_column else paths
    roles = {key: "image", **{name: "text" for name in names if name not in (paths, key)}}
    rows = list(table_rows(tables, roles, root=root))
    columns = {name: _of_one_kind([row[name] for row in rows], name, table) for name in roles if roles[name] == "text"}
    images = [row[key] for row in rows]
    name = image_column or "image"
    return datasets.Dataset.from_dict({name: images, **columns}).cast_column(name, datasets.Image(decode=False))


def _of_one_kind(values: list[Any], column: str, table: str) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(
            f"The column {column!r} of {table} has values of different kinds: {str(error).rstrip('.')}. Write all of "
            "them alike, as numbers or in quotes."
        ) from error


def _open_class_folders(folder: Path, name: str, entry: RegistryEntry | None) -> DataSource:
    known = {split for names in SPLIT_NAMES.values() for split in names}
    subfolders = _subfolders(folder)
    # A class may be called "train"; then it stands beside classes that are called otherwise.
    split_folders = {path.name: path for path in subfolders} if all(path.name in known for path in subfolders) else {}
    parts = split_folders or {WHOLE: folder}
    classes = sorted({path.name for part in parts.values() for path in _subfolders(part)})
    counted = class_folders(entry) if entry is not None else None
    if counted is not None:
        classes = [each for each in classes if each in counted]
    if not classes:
        raise ValueError(
            f"The folder {folder} has no class folders. Labelled images are folders named as the classes, "
            f"{folder}/CLASS/*.jpg, or {folder}/test/CLASS/*.jpg; `load_classification` names the other kinds of data."
        )
    load = {split: functools.partial(_read_class_folders, part, classes) for split, part in parts.items()}
    return DataSource(name, str(folder), load, entry, tuple(readable_name(each) for each in classes))


def readable_name(name: str) -> str:
    """A class's name as text: underscores become spaces."""
    return " ".join(name.replace("_", " ").split()) or name


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def _read_class_folders(folder: Path, classes: list[str]) -> datasets.Dataset:
    images, labels = [], []
    for label, found in enumerate(images_in(*(folder / name for name in classes), beside=folder)):
        images += [{"bytes": None, "path": path} for path in found]
        labels += [label] * len(found)
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=list(classes))}
    )
    return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)


# ----------------------------------------------------------------------------------------------------------- the hub


def _open_hub_entry(entry: RegistryEntry, root: str | None) -> DataSource:
    if entry.hub_id is None:
        raise ValueError(
            f"{entry.title} is not on the hub in a form that can be loaded. {entry.notes or ''} {_how_to_give(entry)}"
        )
    load = {
        name: functools.partial(_load_hub, entry.hub_id, entry.hub_config, name, _how_to_give(entry))
        for name in entry.splits.values()
    }
    location = entry.hub_id if entry.hub_config is None else f"{entry.hub_id}:{entry.hub_config}"
    return DataSource(entry.name, location, load, entry, locate=functools.partial(_in_hub, root))


def _how_to_give(entry: RegistryEntry) -> str:
    classes = f", {entry.num_classes} classes" if entry.num_classes else ""
    kinds = "a folder of class folders, Parquet files, or a folder saved by `datasets`"
    if "classification" not in entry.tasks:
        kinds = "a table or folder of images with captions, Parquet files, or a folder saved by `datasets`"
    where = f" ({entry.homepage})" if entry.homepage else ""
    return (
        f"Give a local copy as '{entry.name}=PATH': {kinds}, with the part `{entry.splits.get('test', 'test')}`"
        f"{classes}{where}."
    )


def _open_hub(source: str, entry: RegistryEntry | None, root: str | None) -> DataSource:
    name, _, config = source.partition(":")
    advice = "If it was meant as a path, there is nothing there; give a local copy by its path."
    try:
        splits = datasets.get_dataset_split_names(name, config or None)
    except Exception as error:  # hub, network and data set errors have many types
        raise nothing_there(source, cause=error) from error
    load = {split: functools.partial(_load_hub, name, config or None, split, advice) for split in splits}
    name = entry.name if entry else name.split("/")[1]
    return DataSource(name, source, load, entry, locate=functools.partial(_in_hub, root))


def _in_hub(root: str | None, data: datasets.Dataset, split: str, column: str) -> datasets.Dataset:
    return located_from_hub(data, column, root)


def _load_hub(hub_id: str, config: str | None, split: str, advice: str) -> datasets.Dataset:
    try:
        return datasets.load_dataset(hub_id, config, split=split)
    except Exception as error:
        raise ValueError(
            f"The split `{split}` of {hub_id} cannot be loaded from the hub (is there a network, and is "
            f"HF_HUB_OFFLINE unset?): {error}. {advice}"
        ) from error


# ------------------------------------------------------------------------------------------- made on this machine


def _open_openmoji(entry: RegistryEntry) -> DataSource:
    data = load_openmoji()
    # As in the demo: the names of all drawings, not only of those that are held out.
    names = sorted({caption for part in data.values() for caption in part["caption"]})
    return DataSource(entry.name, "openmoji", _parts(data), entry, tuple(names))


def _open_skin_tones(entry: RegistryEntry) -> DataSource:
    parts = {}
    for split, part in load_openmoji().items():
        labels = np.array([_SKIN_TONES.index(own[0]) if len(own) == 1 else -1 for own in part["skin_tones"]])
        feature = datasets.ClassLabel(names=list(_SKIN_TONES))
        part = part.remove_columns("skin_tones").add_column("label", labels, feature=feature)
        parts[split] = part.select(np.nonzero(labels >= 0)[0])
    return DataSource(entry.name, "openmoji", _parts(parts), entry)


def _open_digits(entry: RegistryEntry) -> DataSource:
    require_extra("eval", "The dataset `digits`", "sklearn")
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Fixed parts with the classes in equal shares: of each run of five images of a digit, three, one and one.
    order = np.zeros(len(digits.target), np.int64)
    for digit in range(10):
        rows = np.nonzero(digits.target == digit)[0]
        order[rows] = np.arange(len(rows)) % 5
    shares = {"train": order < 3, "validation": order == 3, "test": order == 4}
    load = {
        split: functools.partial(_digit_images, digits.images[chosen], digits.target[chosen])
        for split, chosen in shares.items()
    }
    return DataSource(entry.name, "scikit-learn", load, entry)


def _digit_images(images: np.ndarray, targets: np.ndarray) -> datasets.Dataset:
    features = datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)]),
        }
    )
    pictures = [{"bytes": _digit_png(image), "path": None} for image in images]
    return datasets.Dataset.from_dict({"image": pictures, "label": targets.tolist()}, features=features)


def _digit_png(image: np.ndarray) -> bytes:
    """8 x 8 shades from 0 to 16 as a larger image, white on black."""
    shades = Image.fromarray(np.round(image * (255 / 16)).astype(np.uint8))
    with io.BytesIO() as buffer:
        shades.resize((_DIGIT_PIXELS, _DIGIT_PIXELS), Image.Resampling.BICUBIC).convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()


_BUILDERS = {"openmoji": _open_openmoji, "openmoji_skin_tones": _open_skin_tones, "digits": _open_digits}


__all__ = ["WHOLE", "DataSource", "nothing_there", "open_source", "readable_name"]
