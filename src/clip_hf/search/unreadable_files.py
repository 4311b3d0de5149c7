# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Files of an indexed folder that cannot be read: remembered beside its index, and tried again when they change."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.skips import SkipCounter, SkippedRow
from ..data.texts import escaped
from ..embedding.dual_encoder import DualEncoder
from ..embedding.encoding_ahead import check_skips
from ..model.image_reading_clip_hf import IMAGE_FORMATS
from ..utils.atomic import replaced_file
from ..utils.fingerprints import package_version
from ..utils.json_files import read_json
from .index_places import UNREADABLE


@dataclass(frozen=True)
class FileState:
    """What the file system says of a file.

    Args:
        name (`str`): Its path, relative to the indexed folder, as `os` gives it.
        bytes (`int`): Its size.
        modified (`int`): When it was changed, in nanoseconds.
    """

    name: str
    bytes: int
    modified: int

    @classmethod
    def of(cls, path: str | os.PathLike, name: str) -> "FileState":
        """Ask the file system; OSError if there is no such file."""
        status = os.stat(path)
        return cls(name, status.st_size, status.st_mtime_ns)

    def columns(self, id_: str) -> dict[str, Any]:
        """Its values for a row of the index."""
        return {"name": id_, "path": os.fsencode(self.name), "bytes": self.bytes, "modified": self.modified}


def describe_image_reader(encoder: DualEncoder) -> dict[str, Any]:
    """What reads the pictures of an encoder, for [`UnreadableFiles`]."""
    return {
        "pillow": package_version("pillow"),
        "formats": sorted(name for name in IMAGE_FORMATS if name in Image.OPEN),
        "limits": asdict(encoder.image_limits),
    }


class UnreadableFiles:
    """The files whose content no picture, or film, can be made of, with the reasons.

    They are forgotten when other programs or limits read files, because these may read them.

    Args:
        folder (`Path`): The index.
        reader (`Mapping`): What reads the files, of JSON values.
        noun (`str`, *optional*, defaults to `"picture"`): What a file is called in messages.
    """

    def __init__(self, folder: Path, reader: Mapping[str, Any], noun: str = "picture"):
        self.path, self.reader, self.noun = folder / UNREADABLE, dict(reader), noun
        self.files: dict[str, list[Any]] = {}  # bytes, modified, kind, message by id
        try:
            content = read_json(self.path, dict)
            if content["reader"] == self.reader:
                self.files = {
                    id_: [int(size), int(time), str(a), str(b)] for id_, size, time, a, b in content["files"]
                }
        except FileNotFoundError:
            pass
        except (
            KeyError,
            OverflowError,
            TypeError,
            ValueError,
        ):  # damaged: the files are tried again
            pass
        self._written = dict(self.files)

    def is_known(self, id_: str, state: FileState) -> bool:
        """Whether a file was unreadable in this state."""
        return self.files.get(id_, ())[:2] == [state.bytes, state.modified]

    def add(self, id_: str, state: FileState, problem: SkippedRow) -> None:
        """Remember a file."""
        self.files[id_] = [state.bytes, state.modified, problem.kind, escaped(problem.message)]

    def forget(self, id_: str) -> None:
        """A file can be read now."""
        self.files.pop(id_, None)

    def remembered(self, files: Mapping[str, FileState]) -> list[SkippedRow]:
        """Those among the files of the folder that are unreadable."""
        return [
            SkippedRow(kind, self.noun, message, id_)
            for id_, (*_, kind, message) in self.files.items()
            if id_ in files
        ]

    def check_share(self, files: Mapping[str, FileState], others: Sequence[SkippedRow], largest: float) -> None:
        """ValueError if more than one of the folder's files, and more than the share `largest`, have no row: those
        that are remembered, also from runs before, and `others`.
        """
        left_out = [*others, *self.remembered(files)]
        skips = SkipCounter(largest, min_rows=1, noun=self.noun)
        skips.add(left_out, len(files) - len(left_out))
        check_skips(skips, len(files))

    def write(self, files: Mapping[str, FileState]) -> None:
        """Write what has changed, without files that are gone."""
        self.files = {id_: known for id_, known in self.files.items() if id_ in files}
        if self.files == self._written:
            return
        content = {"reader": self.reader, "files": [[id_, *known] for id_, known in self.files.items()]}
        with replaced_file(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        self._written = dict(self.files)
