# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What a mutation is, and how it gets into a copy of the library."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


TESTS = Path(__file__).resolve().parents[1]
SOURCE = TESTS.parent / "src" / "clip_hf"


@dataclass(frozen=True)
class Mutation:
    """
    A fault of a line or two.

    Args:
        name (`str`):
            What is wrong then.
        file (`str`):
            The file that has it, relative to `src/clip_hf`.
        old (`str`):
            The text that it replaces.
        new (`str`):
            What stands there instead.
        tests (`str`):
            What must notice it: arguments for pytest, relative to `tests`.
        more (`Mapping[str, str]`, *optional*):
            Further replacements in the same file, where one alone would change nothing; each text stands there once.
        times (`int`, *optional*, defaults to 1):
            How often `old` stands in the file; all are replaced.
        survives (`str`, *optional*):
            Why no test can notice it: the reason, judged by a person. Empty for all that must be noticed.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    more: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    survives: str = ""

    def mutate(self, content: str) -> str:
        """
        The file's content with the fault.

        Raises:
            ValueError: if a text does not stand in it as often as the table says: bring the table up to date.
        """
        for old, new, times in [(self.old, self.new, self.times), *((old, new, 1) for old, new in self.more.items())]:
            if content.count(old) != times:
                raise ValueError(
                    f"{self.name}: {self.file} has {content.count(old)} times {old!r}; it must be {times}."
                )
            content = content.replace(old, new)
        return content


def copy_library(folder: Path, mutation: Mutation | None = None) -> None:
    """Copy the library into a folder, with a mutation or as it is."""
    shutil.copytree(SOURCE, folder / "clip_hf", ignore=shutil.ignore_patterns("__pycache__"))
    if mutation is not None:
        path = folder / "clip_hf" / mutation.file
        path.write_text(mutation.mutate(path.read_text(encoding="utf-8")), encoding="utf-8")


__all__ = ["SOURCE", "TESTS", "Mutation", "copy_library"]
