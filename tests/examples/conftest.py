# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Makes the examples importable, and gives them a model of the smallest kind."""

import sys
from pathlib import Path

import pytest

from tiny_models import make_tiny_model


sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))


@pytest.fixture(scope="session")
def model_folder(tiny_processor, tmp_path_factory) -> Path:
    """A tiny model with its processor, saved."""
    folder = tmp_path_factory.mktemp("model")
    make_tiny_model("vit").save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder
