# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The log of a training: a line of JSON for each step and each evaluation."""

import json
import os
from pathlib import Path
from typing import Any

from ..utils.atomic import replaced_file


class TrainingLog:
    """A file with one entry a line; a resumed training continues it.

    The entry of a training step has its number, from 0, in `step`, and its `loss`. The entry of an evaluation has the
    number of steps that were done in `step`, and no `loss`. The incomplete line of a process that died is left out. Of
    several processes, only the one that is `active` writes.
    """

    def __init__(self, path: str | os.PathLike, active: bool = True):
        self.path = Path(path)
        self.active = active

    def start(self, step: int) -> None:
        """Remove the entries from `step` on, the first step to do: those steps will be done again."""
        if not self.active:
            return
        kept = [entry for entry in self.entries() if entry["step"] < step + ("loss" not in entry)] if step else []
        with replaced_file(self.path) as path:
            path.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")

    def add(self, entry: dict[str, Any]) -> None:
        """Write an entry at the end of the file."""
        if self.active:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """All entries; none where there is no file yet. ValueError if a complete line is no entry."""
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
