# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The text of a pair: captions, templates, and their possible faults."""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets

from .skips import SkippedRow


MOST_TEXT_BYTES = 2**24
"""The most bytes that a text beside an image may have, and all texts of a sample of a tar together."""
_WRONG_TYPE, _NOT_UTF8, _UNREADABLE = "caption of a wrong type", "caption not UTF-8", "caption cannot be read"
# Stand in data for captions that a column of texts cannot hold.
_MARKS = {kind: f"refused:{kind}\n" for kind in (_WRONG_TYPE, _NOT_UTF8, _UNREADABLE)}
_FIELD = re.compile(r"\{([^{}]*)\}")


def stable_id(*values: str) -> int:
    """A number that only equal strings share, the same in every process; 63 bits, for a tensor's int64."""
    digest = hashlib.blake2b("\x1f".join(values).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def is_utf8(text: str) -> bool:
    """Whether a text can be stored: not if its bytes were not UTF-8, or half a character was escaped."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def decode_text(data: bytes) -> str | bytes:
    """UTF-8 text, stripped (of a byte order mark, too); other bytes as they are: `caption not UTF-8`."""
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return data


def unreadable_caption(what: str) -> str:
    """What stands for a caption that cannot be read: [`find_caption_problem`] says that the row has the caption
    `what`.
    """
    return f"{_MARKS[_UNREADABLE]}{escaped(what)}"


def escaped(text: str) -> str:
    """The text with an escape for each byte that was not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def readable_name(name: str) -> str:
    """A class's name as text: underscores become spaces."""
    return " ".join(name.replace("_", " ").split()) or name


def label_feature(feature: Any) -> Any:
    """The type of a column's labels: the column's, or that of the items of its lists."""
    if isinstance(feature, datasets.List | datasets.LargeList):
        return feature.feature
    return feature[0] if isinstance(feature, list) else feature


def class_label(feature: Any) -> datasets.ClassLabel | None:
    """The `ClassLabel` of a column, or of the items of its lists."""
    label = label_feature(feature)
    return label if isinstance(label, datasets.ClassLabel) else None


def class_texts(value: Any, label: datasets.ClassLabel) -> Any:
    """The name of a class for its number, or for each of a list; None for a number that is no class's, such as -1."""
    if isinstance(value, list):
        return [class_texts(number, label) for number in value]
    if not isinstance(value, int):
        return value
    return readable_name(label.names[value]) if 0 <= value < label.num_classes else None


def with_class_names(data: Any, columns: Sequence[str]) -> Any:
    """The data with names for numbers in those `columns` that are a `ClassLabel`; works for streams too.

    Images of map-style data are not copied, unless rows were selected: then leave out their column before.
    """
    for column in columns:
        feature = (data.features or {}).get(column)
        label = class_label(feature)
        if label is None:
            continue
        text = datasets.Value("string") if label is feature else datasets.List(datasets.Value("string"))
        if not isinstance(data, datasets.Dataset):
            features = datasets.Features({**data.features, column: text})
            data = data.map(_with_class_texts, fn_kwargs={"column": column, "label": label}, features=features)
            continue
        names, stored = data.column_names, data.flatten_indices() if data._indices is not None else data
        texts = [class_texts(value, label) for value in stored.data.column(column).to_pylist()]
        added = datasets.Dataset.from_dict({column: texts}, features=datasets.Features({column: text}))
        others = stored.remove_columns(column)
        together = datasets.concatenate_datasets([others, added], axis=1) if others.column_names else added
        data = together.select_columns(names)
    return data


def _with_class_texts(row: dict[str, Any], column: str, label: datasets.ClassLabel) -> dict[str, Any]:
    return {column: class_texts(row[column], label)}


def stored_captions(value: Any) -> list[str] | None:
    """A row's captions as a column of texts takes them; [`find_caption_problem`] finds the same problem."""
    captions = [value] if isinstance(value, str) else value
    if isinstance(captions, list) and all(isinstance(text, str) and is_utf8(text) for text in captions):
        return captions
    kind = find_caption_problem(value, "").kind
    return None if kind == "caption missing" else [f"{_MARKS.get(kind, _MARKS[_WRONG_TYPE])}{value!r:.80}"]


def template_columns(template: str) -> tuple[str, ...]:
    """The columns that a template names, each once, in their order; `""` is the caption (`{}`).

    Raises:
        ValueError: if it names none, or the caption more than once.
    """
    if not isinstance(template, str):
        raise ValueError(f"The template {template!r} must be a string.")
    names = _FIELD.findall(template)
    if not names or names.count("") > 1:
        raise ValueError(
            f"The template {template!r} must have {{}} once, where the caption goes, or name columns in braces, such "
            "as {title}."
        )
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class DrawnText:
    """A text as [`TextReader.draw`] drew it, which other captions of the row can be put into.

    Args:
        template (`str`): The template.
        values (`dict[str, str]`): What goes into its fields.
        caption_names (`tuple[str, ...]`): The names of the fields that are the caption.
    """

    template: str
    values: dict[str, str]
    caption_names: tuple[str, ...]

    @property
    def text(self) -> str:
        """The text."""
        return _fill(self.template, self.values)

    @property
    def text_id(self) -> int:
        """A number that only texts of equal captions and columns share, whatever the template."""
        return stable_id(*(value.strip().lower() for value in self.values.values()))

    def with_caption(self, caption: str) -> tuple[str, int]:
        """Text and id with another caption in the same template."""
        values = {name: caption if name in self.caption_names else value for name, value in self.values.items()}
        other = replace(self, values=values)
        return other.text, other.text_id


class TextReader:
    """Makes the text of a pair from a row, by templates with `{}` for the caption and `{name}` for a column."""

    def __init__(self, templates: Sequence[str], caption_column: str):
        self.caption_column = caption_column
        self.templates = [(template, template_columns(template)) for template in templates]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, without repetition."""
        names = [name or self.caption_column for _, columns in self.templates for name in columns]
        return tuple(dict.fromkeys(names))

    def read(self, row: dict[str, Any], where: str, generator: random.Random) -> tuple[str, int] | SkippedRow:
        """Draw a caption, then a template, for the values of `columns` in a row that messages call `where`.

        Returns:
            `tuple[str, int]`: the text, and a number that only texts of equal captions and columns share, whatever the
            template; or the problem, as a [`SkippedRow`].
        """
        drawn = self.draw(row, where, generator)
        return drawn if isinstance(drawn, SkippedRow) else (drawn.text, drawn.text_id)

    def draw(self, row: dict[str, Any], where: str, generator: random.Random) -> DrawnText | SkippedRow:
        """Draw as `read` does, and say what was drawn."""
        problem = self.find_problem(row, where)
        if problem:
            return problem
        caption = ""
        if self.caption_column in row:
            value = row[self.caption_column]
            caption = generator.choice([value] if isinstance(value, str) else value)
        template, columns = generator.choice(self._filled(row))
        return DrawnText(template, self._values(columns, row, caption), ("", self.caption_column))

    def read_all(self, row: dict[str, Any]) -> list[str]:
        """Every text that `read` may give for a row; none for a row that cannot be used."""
        if self.find_problem(row, ""):
            return []
        value = row.get(self.caption_column, "")
        captions = [value] if isinstance(value, str) else value
        filled = self._filled(row)
        texts = (_fill(text, self._values(columns, row, caption)) for caption in captions for text, columns in filled)
        return list(dict.fromkeys(texts))

    def find_problem(self, row: dict[str, Any], where: str) -> SkippedRow | None:
        """Why a row has no text, whatever is drawn; None if it has one."""
        if self.caption_column in row:
            problem = find_caption_problem(row[self.caption_column], where)
            if problem:
                return problem
        if self._filled(row):
            return None
        names = dict.fromkeys(name for _, columns in self.templates for name in columns)
        blank = next(name for name in names if not self._is_caption(name) and not _is_text(row[name]))
        message = f"{where.capitalize()} has the {blank} {row[blank]!r}; it must be a string that is not blank."
        return SkippedRow("column blank", where, message)

    def _values(self, columns: tuple[str, ...], row: dict[str, Any], caption: str) -> dict[str, str]:
        return {name: caption if self._is_caption(name) else str(row[name]) for name in columns}

    def _is_caption(self, name: str) -> bool:
        return name in ("", self.caption_column)

    def _filled(self, row: dict[str, Any]) -> list[tuple[str, tuple[str, ...]]]:
        """The templates whose columns all have a text in this row."""
        return [
            (template, columns)
            for template, columns in self.templates
            if all(self._is_caption(name) or _is_text(row[name]) for name in columns)
        ]


def _fill(template: str, values: dict[str, str]) -> str:
    return _FIELD.sub(lambda match: values[match[1]], template)


def _is_text(value: Any) -> bool:
    # Numbers are welcome in a template: "{title}, {year}".
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, int | float)


def find_caption_problem(value: Any, where: str) -> SkippedRow | None:
    """What is wrong with a caption or a list of captions; None if nothing."""
    captions = [value] if isinstance(value, str | bytes) else value
    row = where.capitalize()
    if not isinstance(captions, Sequence) or len(captions) == 0:
        kind = "caption missing" if value is None or value == [] else _WRONG_TYPE
        message = f"{row} has no caption but {str(value)[:80]}; it needs a string, or a list of at least one."
        return SkippedRow(kind, where, message)
    for caption in captions:
        kind, shown = _fault_of(caption)
        if kind:
            needed = {_NOT_UTF8: "UTF-8", _UNREADABLE: "a file that can be read"}.get(
                kind, "a string that is not blank"
            )
            return SkippedRow(kind, where, f"{row} has the caption {shown}; it must be {needed}.")
    return None


def _fault_of(caption: Any) -> tuple[str, str]:
    """In few words what is wrong with one caption, empty if nothing, and how messages show it."""
    if isinstance(caption, str):
        for kind, mark in _MARKS.items():
            if caption.startswith(mark):
                return kind, caption.removeprefix(mark)
        kind = "" if is_utf8(caption) else _NOT_UTF8
        return kind if caption.strip() else "caption blank", repr(caption)
    is_other_encoding = isinstance(caption, bytes) and isinstance(decode_text(caption), bytes)
    kind = "caption missing" if caption is None else _NOT_UTF8 if is_other_encoding else _WRONG_TYPE
    return kind, f"{caption!r:.80}"
