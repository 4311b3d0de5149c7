# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The output folder of an adaptation: what may be written there, and what is put back if it fails."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..utils.atomic import clear_leftovers, remove_folder, replaced_file, set_aside


MODEL_FOLDER = "model"
RUNS_FOLDER = "runs"
RESULTS = "results"
MARK = "adaptation.json"
"""File that says that the folder is an adaptation's, and what was asked for."""


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise a `ValueError` if an adaptation may not write into a folder; call it before anything else."""
    if not folder.exists():
        clear_leftovers(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise ValueError(f"`output_dir` {folder} is a file; name a folder.")
    if not overwrite:
        raise ValueError(
            f"`output_dir` {folder} is not empty; choose another, or pass --overwrite to replace the adaptation in it."
        )
    if not (folder / MARK).is_file():
        raise ValueError(f"`output_dir` {folder} holds no adaptation, so it is not replaced; choose another.")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(f"`output_dir` {folder} would be replaced, but is the current folder; start from another.")


@contextmanager
def prepared_folder(folder: Path, asked: dict) -> Iterator[Path]:
    """Set an adaptation that is replaced aside, and write down what was asked for.

    If the block raises, what was replaced is put back. Without anything to put back, the trainings that were begun
    stay, so that `clip-hf train RECIPE --resume latest` can go on with them; there is no model and no report then.
    """
    folder = Path(os.path.abspath(folder))
    aside = set_aside(folder) if folder.exists() else None
    try:
        with replaced_file(folder / MARK) as path:
            path.write_text(json.dumps(asked, indent=1, default=str) + "\n", encoding="utf-8")
        yield folder
    except BaseException:
        if aside is not None or not (folder / RUNS_FOLDER).is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        if aside is not None:
            os.rename(aside, folder)
        raise
    if aside is not None:
        remove_folder(aside, folder)
