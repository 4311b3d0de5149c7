# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The output folder of an adaptation: what may be written there, and what is put back if it fails."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..utils.atomic import replaced_file
from ..utils.output_folders import check_output_folder, replacing_folder


MODEL_FOLDER = "model"
RUNS_FOLDER = "runs"
RESULTS = "results"
MARK = "adaptation.json"
"""File that says that the folder is an adaptation's, and what was asked for."""


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise a `ValueError` if an adaptation may not write into a folder; call it before anything else."""
    ways = "or pass --overwrite to replace the adaptation in it"
    check_output_folder(folder, overwrite, "adaptation", lambda place: (place / MARK).is_file(), ways)


@contextmanager
def prepared_folder(folder: Path, asked: dict) -> Iterator[Path]:
    """Set an adaptation that is replaced aside, and write down what was asked for.

    If the block raises, what was replaced is put back, see [`replacing_folder`]. Without anything to put back, the
    trainings that were begun stay, so that `clip-hf train RECIPE --resume latest` can go on with them; there is no
    model and no report then.
    """
    folder = Path(os.path.abspath(folder))
    with replacing_folder(folder, replace=True):
        try:
            with replaced_file(folder / MARK) as path:
                path.write_text(json.dumps(asked, indent=1, default=str) + "\n", encoding="utf-8")
            yield folder
        except BaseException:
            if not (folder / RUNS_FOLDER).is_dir():
                shutil.rmtree(folder, ignore_errors=True)
            raise
