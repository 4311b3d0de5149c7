# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the tests of checkpoints share: the models, made once, and a folder with their tokenizer."""

import copy

import pytest
from openai_like import make_model


@pytest.fixture(scope="session")
def source_models():
    """A tiny model with each vision tower; not to be changed."""
    return {tower: make_model(tower) for tower in ("vit", "resnet")}


@pytest.fixture
def source_model(tower, source_models):
    """A copy of the tiny model with the vision tower of the fixture `tower`."""
    return copy.deepcopy(source_models[tower])


@pytest.fixture(scope="session")
def merges(tiny_tokenizer, tmp_path_factory):
    """A folder with the tokenizer of the tiny models."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer.save_pretrained(folder)
    return folder
