# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The registry of datasets for evaluation: place, metric, prompts and class names of each."""

import functools
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data.built_in_datasets import BUILT_IN_DATASETS
from ...model.checks_clip_hf import did_you_mean
from ...model.zero_shot_clip_hf import check_templates, load_prompt_set
from ...utils.json_files import read_json, read_text


# Prefix of prompts and class names that are read from an installed clip-benchmark.
CLIP_BENCHMARK = "clip_benchmark:"
_FOLDER = Path(__file__).parent
_CLASS_NAMES = "class_names.json#"
_SUBSETS = "imagenet_subsets.json#"
_LIST_FILES = (".txt", ".json")  # of prompts or class names


@dataclass(frozen=True, kw_only=True)
class RegistryEntry:
    """One dataset of the registry.

    Args:
        name (`str`): Its name here, such as `"food101"`.
        title (`str`): Its name in papers.
        metric (`str`): What it is scored by, a key of `CLASSIFICATION_METRICS`; `"recall"` for image-text retrieval.
        hub_id (`str`, *optional*): The repository on the hub; `None` if there is none that could be verified, and the
            data must be local.
        splits (`dict[str, str]`): The splits among `"train"`, `"validation"` and `"test"`, each with its name on the
            hub. `"test"` is the one on which figures are published, which for ImageNet is the hub's `validation`.
        image_column, label_column, caption_column (`str`, *optional*): Columns on the hub. Label columns are those of
            classification, caption columns of retrieval.
        captions_per_image (`int`, *optional*): How many captions of an image count, where a convention says so.
        prompts (`str`, *optional*): The prompt set, see [`load_prompt_set`].
        class_names (`str`, *optional*): `"features"` if they are the names of the column's `ClassLabel`,
            `"class_names.json#key"` for those that come with clip_hf.
        num_classes (`int`, *optional*): How many there are.
        train_size, test_size (`int`, *optional*): Rows that the paper used (table 9), where it names them.
        class_folders (`str`, *optional*): `"imagenet_subsets.json#key"` where a local copy has more class folders than
            the dataset has classes.
        border (`int`, *optional*, defaults to 0): Pixels to cut off each side of an image.
        suite (`str`): `"paper"` for the paper's 27, `"shift"` for ImageNet's variants, `"extra"`, `"retrieval"`, or
            `"local"` for those that need no hub.
        homepage, licence, notes (`str`, *optional*): Further facts about the data.
    """

    name: str
    title: str
    metric: str
    suite: str
    hub_id: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)
    image_column: str | None = None
    label_column: str | None = None
    caption_column: str | None = None
    captions_per_image: int | None = None
    prompts: str | None = None
    class_names: str | None = None
    num_classes: int | None = None
    train_size: int | None = None
    test_size: int | None = None
    class_folders: str | None = None
    border: int = 0
    homepage: str | None = None
    licence: str | None = None
    notes: str | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """`"classification"`, `"retrieval"`, or both."""
        columns = {"classification": self.label_column, "retrieval": self.caption_column}
        return tuple(task for task, column in columns.items() if column is not None)


@functools.cache
def _read_data(file: str) -> Any:
    return read_json(_FOLDER / file)


@functools.cache
def _entries() -> dict[str, RegistryEntry]:
    return {name: RegistryEntry(name=name, **fields) for name, fields in _read_data("registry.json").items()}


def dataset_names(task: str | None = None, suite: str | None = None) -> list[str]:
    """Names of the datasets that evaluations know, sorted.

    Args:
        task (`str`, *optional*): Only those for `"classification"` or `"retrieval"`.
        suite (`str`, *optional*): Only those of a suite, such as `"paper"`.

    Returns:
        `list[str]`: what [`get_dataset`] and [`load_classification`] accept.

    Raises:
        ValueError: if there is no such task or suite.
    """
    tasks, suites = ("classification", "retrieval"), sorted({entry.suite for entry in _entries().values()})
    for what, value, allowed in (("task", task, tasks), ("suite", suite, suites)):
        if value is not None and value not in allowed:
            raise ValueError(f"`{what}` is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")
    return sorted(
        name
        for name, entry in _entries().items()
        if (task is None or task in entry.tasks) and (suite is None or suite == entry.suite)
    )


def registry_name(name: str) -> str | None:
    """The registry's spelling of a name, `"imagenet_a"` for `"ImageNet-A"`; None if it has none."""
    name = name.lower().replace("-", "_")
    return name if name in _entries() else None


def get_dataset(name: str) -> RegistryEntry:
    """What the registry holds on a dataset.

    Args:
        name (`str`): One of [`dataset_names`]; capitals and hyphens for underscores do not matter.

    Raises:
        ValueError: if there is no such name; the message names near ones.
    """
    entries, known = _entries(), registry_name(str(name))
    if known is None:
        hint = did_you_mean(str(name).lower(), entries, cutoff=0.5, count=3)
        raise ValueError(f"There is no dataset {name!r} in the registry.{hint} It has {', '.join(sorted(entries))}.")
    return entries[known]


def load_class_names(source: str | os.PathLike) -> list[str]:
    """Class names from data that come with clip_hf, an installed clip-benchmark, or a file.

    Args:
        source (`str` or `os.PathLike`): `"class_names.json#pets"` for the names that come with clip_hf (a wrong key
            names them all), `"clip_benchmark:pets"` for those in an installed clip-benchmark, or a file: `.txt` with a
            name a line, `.json` with a list of names.

    Returns:
        `list[str]`: a name for each class, in the order of the label ids. A name may occur twice, as in ImageNet.

    Raises:
        ValueError: if there are no such names, or the file holds something else.

    Example:

    ```python
    >>> from clip_hf.evaluation import load_class_names

    >>> load_class_names("class_names.json#eurosat")[:2]
    ['annual crop land', 'forest']
    ```
    """
    text = str(source)
    if text.startswith(_CLASS_NAMES):
        return list(_by_key(_read_data("class_names.json"), text.removeprefix(_CLASS_NAMES), "class_names.json"))
    if text.startswith(_SUBSETS):
        names = _read_data("class_names.json")["imagenet"]
        return [names[index] for index in imagenet_subsets()[text.removeprefix(_SUBSETS)]]
    if text.startswith(CLIP_BENCHMARK):
        key = text.removeprefix(CLIP_BENCHMARK)
        names = _by_key(_clip_benchmark_data("en_classnames.json"), key, "clip-benchmark's class names")
        return check_class_names(names, text)
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix not in _LIST_FILES or not path.is_file():
        raise ValueError(
            f"The class names {text!r} are neither a file .txt or .json here, nor 'class_names.json#KEY', nor "
            f"'{CLIP_BENCHMARK}KEY'. A list of names can be given as it is."
        )
    names = read_json(path) if suffix == ".json" else [line for line in read_text(path).splitlines() if line]
    return check_class_names(names, text)


def imagenet_subsets() -> dict[str, Any]:
    """The content of imagenet_subsets.json."""
    return _read_data("imagenet_subsets.json")


def class_folders(entry: RegistryEntry) -> set[str] | None:
    """The class folders that count in a local copy; None where all do."""
    return None if entry.class_folders is None else set(imagenet_subsets()[entry.class_folders.removeprefix(_SUBSETS)])


def check_class_names(names: Any, where: str) -> list[str]:
    """Check that `names` is a list of strings that are not blank; `where` says in messages what is meant."""
    if isinstance(names, str) or not isinstance(names, list | tuple) or not names:
        raise ValueError(f"{where}: class names must be a list of at least one string; these are {names!r}.")
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{where}: the name of class {index} is {name!r}; it must be a string that is not blank.")
    return list(names)


def load_templates(source: Any) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """Prompt templates from wherever they are.

    Args:
        source (`str`, `Sequence[str]` or `Mapping[str, str | Sequence[str]]`): The name of a prompt set, or of a
            built-in dataset that has prompts (`"openmoji"`); a file, `.txt` or `.json` (see [`load_prompt_set`]);
            `"clip_benchmark:KEY"` for those in an installed clip-benchmark; a template; a list of them, or of one of
            the other names; or each class's own prompts.

    Returns:
        `tuple[str, ...]` of templates with `{}` where the class goes, or `dict` of complete prompts by class name.

    Raises:
        ValueError: if there are none, one has no placeholder, or a list holds a file or `"clip_benchmark:KEY"` beside
            others.
        TypeError: if it is none of these.
    """
    if isinstance(source, list | tuple) and all(isinstance(item, str) for item in source):
        if len(source) == 1 and "{" not in source[0]:
            return load_templates(source[0])
        for item in source:
            if "{" not in item and (item.endswith(_LIST_FILES) or item.startswith(CLIP_BENCHMARK)):
                raise ValueError(f"{item!r} holds prompts of its own and must stand alone: give it, or templates.")
    if isinstance(source, os.PathLike) or (isinstance(source, str) and source.endswith(_LIST_FILES)):
        source = load_prompt_set(source)
    elif isinstance(source, str) and source.startswith(CLIP_BENCHMARK):
        key = source.removeprefix(CLIP_BENCHMARK)
        prompts = _by_key(_clip_benchmark_data("en_zeroshot_classification_templates.json"), key, "clip-benchmark")
        source = _with_our_placeholder(prompts)
    elif isinstance(source, str) and source in BUILT_IN_DATASETS:
        source = BUILT_IN_DATASETS[source].templates or source
    return check_templates(source)


def templates_for(name: str, given: Any) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """The given prompts, or those that a built-in dataset has, or the simple ones; errors as [`load_templates`]."""
    if given is None:
        named = BUILT_IN_DATASETS.get(name)
        given = name if named is not None and named.templates else "simple"
    return load_templates(given)


def _with_our_placeholder(prompts: Any) -> Any:
    """clip-benchmark writes `{c}` where the class goes."""
    if isinstance(prompts, dict):
        return {name: _with_our_placeholder(texts) for name, texts in prompts.items()}
    return [prompt.replace("{c}", "{}") for prompt in prompts]


def _by_key(data: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in data:
        raise ValueError(f"{where} has no {key!r}.{did_you_mean(key, data)} There are {', '.join(sorted(data))}.")
    return data[key]


@functools.cache
def _clip_benchmark_data(file: str) -> dict[str, Any]:
    # Found, not imported: an import would load torchvision and open_clip.
    spec = importlib.util.find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"{CLIP_BENCHMARK}KEY is read from the files of clip-benchmark, which is not installed: "
            "`pip install clip-benchmark`, or give the names or prompts as a file .json."
        )
    path = Path(spec.submodule_search_locations[0]) / "datasets" / file
    if not path.is_file():
        raise ValueError(f"The installed clip-benchmark has no file {path}; version 1.6 has.")
    return read_json(path)
