# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The log of a training: a line of JSON for each step and each evaluation."""

import json
import os
from pathlib import Path
from typing import Any

from ..utils.atomic import replaced_file


class TrainingLog:
    """
    A file with an entry a line, which a training that is resumed goes on with.

    An entry of a step has its number, from 0, in `step`, and `loss`; one of an evaluation has in `step` the number of
    steps that were done, and no `loss`. A line that was cut off when a process died is left out.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        active (`bool`, *optional*, defaults to `True`):
            Whether this process writes it; with several, one does.
    """

    def __init__(self, path: str | os.PathLike, active: bool = True):
        self.path = Path(path)
        self.active = active

    def start(self, step: int) -> None:
        """Drop what is not before `step`, the first to be done: the entries of steps that will be done again."""
        if not self.active:
            return
        kept = [entry for entry in self.entries() if entry["step"] < step + ("loss" not in entry)] if step else []
        with replaced_file(self.path) as path:
            path.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")

    def add(self, entry: dict[str, Any]) -> None:
        """Write an entry."""
        if self.active:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """All entries; none where there is no file yet. ValueError if a line that is whole is no entry."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        return [self._entry(number, line) for number, line in enumerate(lines[:-1], 1)]

    def _entry(self, number: int, line: str) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or type(entry.get("step")) is not int:
            raise ValueError(f"{self.path}, line {number} is damaged: it is no entry of a training's log. Remove it.")
        return entry


__all__ = ["TrainingLog"]
