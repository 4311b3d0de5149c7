# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Pictures with their labels, to fit thresholds on: a folder for each label, or a table."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.image_folders import images_in, is_hidden
from ..data.locations import ImagePlaces
from ..data.tables import FILE_NAME, raw_table_rows
from ..utils.wording import counted, quoted


_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
_SEPARATOR = ";"


@dataclass(frozen=True)
class LabelledSample:
    """Pictures and their labels.

    Args:
        name (`str`): Where they come from.
        pictures (`tuple[str, ...]`): Absolute paths, or URLs.
        labels (`tuple[tuple[str, ...], ...]`): The labels of each picture; none for a picture that shows nothing of
            interest.
    """

    name: str
    pictures: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]

    def matrix(self, labels: Sequence[str]) -> np.ndarray:
        """Which picture has which of these labels, bool (pictures, labels).

        Raises:
            ValueError: if a picture has a label that is none of them.
        """
        place = {label: index for index, label in enumerate(labels)}
        unknown = list(dict.fromkeys(label for own in self.labels for label in own if label not in place))
        if unknown:
            near = difflib.get_close_matches(unknown[0], list(place), n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"The labelled sample {self.name} has {counted(len(unknown), 'label')} that --labels lacks: "
                f"{quoted(unknown)}.{meant} Add what is missing to --labels, or take it out of the sample."
            )
        matrix = np.zeros((len(self.labels), len(labels)), bool)
        for row, own in enumerate(self.labels):
            matrix[row, [place[label] for label in own]] = True
        return matrix


def read_labelled_sample(source: str | os.PathLike) -> LabelledSample:
    """Read which pictures have which labels; pictures are not opened.

    Args:
        source (`str` or `os.PathLike`): A folder with a subfolder of pictures for each label; or a table (`.csv`,
            `.tsv`, `.json`, `.jsonl`) with the columns `image` (a path; relative ones start at the table's folder) and
            `labels` (a list in JSON; else a text with `;` between labels, empty for none). The rows of one picture are
            put together. What `clip-hf tag --jsonl` writes is such a table.

    Returns:
        [`LabelledSample`]

    Raises:
        OSError: if there is no such file or folder.
        ValueError: if it is no such sample; the message names the row.
    """
    path = Path(source)
    if path.is_dir():
        pairs = _read_folders(path)
    elif path.suffix.lower() not in _TABLES:
        raise ValueError(
            f"The labelled sample {os.fspath(source)!r} must be a folder with a subfolder for each label, or a table "
            f"({', '.join(_TABLES)}) with the columns image and labels."
        )
    else:
        pairs = _read_table(path)
    labels: dict[str, dict[str, None]] = {}
    for picture, own in pairs:
        labels.setdefault(picture, {}).update(dict.fromkeys(own))
    if not any(labels.values()):
        raise ValueError(f"No picture of the labelled sample {os.fspath(source)!r} has a label.")
    return LabelledSample(os.fspath(source), tuple(labels), tuple(map(tuple, labels.values())))


def _read_folders(folder: Path) -> list[tuple[str, Sequence[str]]]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    pictures = images_in(*(folder / name for name in names), beside=folder)
    return [(picture, [name]) for name, own in zip(names, pictures) for picture in own]


def _read_table(table: Path) -> list[tuple[str, Sequence[str]]]:
    locate = ImagePlaces(table.absolute().parent, root="/")
    pairs = []
    for number, row in enumerate(raw_table_rows(os.fspath(table)), 1):
        picture = locate(row.get("image", row.get(FILE_NAME)))
        if picture is None or "labels" not in row:
            raise ValueError(
                f"Row {number} of {table} needs the columns image and labels; it has {', '.join(row) or 'none'}."
            )
        pairs.append((picture, _split_labels(row["labels"], f"Row {number} of {table}")))
    return pairs


def _split_labels(value: Any, where: str) -> list[str]:
    if value is None:
        return []
    labels = value.split(_SEPARATOR) if isinstance(value, str) else value
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(
            f"{where} has the labels {value!r:.80}; they must be texts, in a list or with {_SEPARATOR!r} between."
        )
    return [label.strip() for label in labels if label.strip()]
