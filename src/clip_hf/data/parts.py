# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The parts of data (train, validation, test): their usual names, and the files or folders that belong to each."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets


SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""The usual names of the parts of a dataset, in files and folders."""

_KNOWN = frozenset(name for names in SPLIT_NAMES.values() for name in names)
_PIECE = re.compile(r"([^\[\]+]+)(\[[^\[\]]*\])?")
# The hub's own form, in which a part may have any name.
_NUMBER = re.compile(r"[-_]\d+(-of-\d+)?$")
_SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}\b")


def find_part(split: str, there: Sequence[str]) -> str | None:
    """The part that is meant by a name, or by another usual name of it: `"validation"` is also `val`."""
    names = [split, *SPLIT_NAMES.get(split, ())]
    return next((name for name in names if name in there), None)


def part_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """The subfolders with the usual name of a part.

    They count as parts if one of them is the training part or there are no other subfolders, because a topic or class
    may be called "test", too.
    """
    parts = {path.name: path for path in folders if path.name in _KNOWN}
    has_train = find_part("train", list(parts)) is not None
    return parts if has_train or len(parts) == len(folders) else {}


def files_by_part(files: Sequence[str], source: Path | None = None) -> dict[str, list[str]]:
    """Files by the part whose name begins their own or is that of their folder (but not of `source`), as on the hub.

    Raises:
        ValueError: if some belong to a part and others to none.
    """
    parts: dict[str | None, list[str]] = {}
    for file in files:
        parts.setdefault(_part_of(Path(file), source), []).append(file)
    rest = parts.pop(None, [])
    if parts and rest:
        raise ValueError(
            f"Of the files, {rest[0]} belongs to no split, but others do; name them train-*, validation-*, test-*, or "
            "give only the files that are meant."
        )
    return parts


def _part_of(path: Path, source: Path | None) -> str | None:
    shard = _SHARD.match(path.name)
    names = [re.split(r"[-_.]", path.name)[0], *([] if path.parent == source else [path.parent.name])]
    words = ([shard[1]] if shard else []) + [word for word in names if word in _KNOWN]
    return next(iter(words), None)


def table_part(name: str) -> str | None:
    """The part that a table holds, by its name without the ending: `train`, `test_0`, `val-00000-of-00002`."""
    part = _NUMBER.sub("", name)
    return part if part in _KNOWN else None


def is_part_of_its_own(folder: Path, parts: Sequence[str]) -> bool:
    """Whether a folder has the name of its only part, as `val` with `validation-0.tar`: all its files are meant."""
    return len(parts) == 1 and any({folder.absolute().name, *parts} <= set(names) for names in SPLIT_NAMES.values())


def no_such_part(source: str, split: str, there: Sequence[str]) -> ValueError:
    """The error for a part that is not there."""
    if there:
        return ValueError(f"The dataset {source} has no split `{split}`; it has {', '.join(there)}.")
    return ValueError(
        f"The dataset {source} has no splits, so there is no `{split}`. Leave `split` out, or put the parts into "
        "subfolders such as train and test."
    )


def parts_in(split: str, source: str, there: Sequence[str]) -> str:
    """`split` with the names that the parts have here: `"validation[:10%]"` becomes `"val[:10%]"`.

    Data without parts count as the part "train", as in `datasets`.

    Raises:
        ValueError: if a part is not there, or `split` is no name, slice or sum of them.
    """
    pieces = []
    for piece in split.split("+"):
        match = _PIECE.fullmatch(piece.strip())
        if match is None:
            raise ValueError(f"`split` is {split!r}; it must be a part's name, or a slice such as 'train[:10%]'.")
        part = find_part(match[1], there or ("train",))
        if part is None:
            raise no_such_part(source, match[1], there)
        pieces.append(part + (match[2] or ""))
    return "+".join(pieces)


def read_parts(split: str, load: Callable[[str], datasets.Dataset]) -> datasets.Dataset:
    """The rows that `split` names, one part or slices of several; `load` gives the rows of a part."""
    names = dict.fromkeys(_PIECE.fullmatch(piece)[1] for piece in split.split("+"))
    if split in names:
        return load(split)
    loaded = {name: load(name) for name in names}
    lengths = {name: len(data) for name, data in loaded.items()}
    pieces = datasets.ReadInstruction.from_spec(split).to_absolute(lengths)
    rows = [
        loaded[piece.splitname].select(range(lengths[piece.splitname])[piece.from_ : piece.to]) for piece in pieces
    ]
    return rows[0] if len(rows) == 1 else datasets.concatenate_datasets(rows)
